//! The ratchet's file: made, turned, torn, lost, and its traces.

use std::{
    fs,
    io::Write,
    os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt},
    path::PathBuf,
    process::{Command, Output, Stdio},
    thread,
    time::Duration,
};

use meshsec::{
    keys::Ratchet,
    model::{Generation, Key, MeshName},
};

const MESH_KEY: [u8; 32] = [7; 32];

/// A mesh of two with a ratchet, in a directory of its own.
struct Mesh(tempfile::TempDir);

impl Mesh {
    fn new(rotation: &str) -> Self {
        let mesh = Self(tempfile::tempdir().unwrap());
        mesh.write(rotation);
        mesh
    }

    fn write(&self, rotation: &str) {
        let text = format!(
            "[mesh]\nname = \"lab\"\n[keys]\nratchet = {{ file = \"ratchet\" }}\n\
             [rotation]\n{rotation}\n\
             [[peer]]\nname = \"a\"\nshort_id = 1\naddress = \"198.51.100.1\"\n\
             [[peer]]\nname = \"b\"\nshort_id = 2\naddress = \"198.51.100.2\"\n"
        );
        fs::write(self.0.path().join("mesh.toml"), text).unwrap();
    }

    fn file(&self) -> PathBuf {
        self.0.path().join("ratchet")
    }

    fn write_ratchet(&self, text: &str) {
        let mut options = fs::OpenOptions::new();
        let options = options.write(true).create(true).truncate(true).mode(0o600);
        options.open(self.file()).unwrap().write_all(text.as_bytes()).unwrap();
    }

    /// With a ratchet at this generation.
    fn at(generation: u64, rotation: &str) -> Self {
        let mesh = Self::new(rotation);
        mesh.write_ratchet(&text(generation));
        mesh
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_meshsec"));
        command.arg("-c").arg(self.0.path().join("mesh.toml")).args(words);
        command
    }

    fn run(&self, words: &[&str]) -> Output {
        self.command(words).output().unwrap()
    }

    fn printed(&self, words: &[&str]) -> String {
        let output = self.run(words);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    fn refused(&self, words: &[&str]) -> String {
        let output = self.run(words);
        assert_eq!((output.status.code(), output.stdout.len()), (Some(1), 0), "{words:?}");
        let error = String::from_utf8(output.stderr).unwrap();
        for generation in 0..50 {
            assert!(!error.contains(&chain(generation)[..8]), "a chain key is in {error}");
        }
        error
    }

    fn init(&self) -> Output {
        let mut child = self
            .command(&["ratchet", "init"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let key = hex::encode(MESH_KEY) + "\n";
        child.stdin.take().unwrap().write_all(key.as_bytes()).unwrap();
        child.wait_with_output().unwrap()
    }

    fn ratchet(&self) -> String {
        fs::read_to_string(self.file()).unwrap()
    }

    /// All files but the two that belong there.
    fn others(&self) -> Vec<String> {
        let entries = fs::read_dir(self.0.path()).unwrap();
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names.filter(|name| name != "mesh.toml" && name != "ratchet").collect()
    }
}

/// The file's text at a generation.
fn text(generation: u64) -> String {
    let begin = Ratchet::begin(&Key::new(Box::new(MESH_KEY)), &MeshName::new("lab").unwrap());
    begin.at(Generation::new(generation).unwrap()).unwrap().text().to_string()
}

fn chain(generation: u64) -> String {
    let text = text(generation);
    text.lines().find_map(|line| line.strip_prefix("chain ")).unwrap().to_owned()
}

const PLAN: [&str; 6] = ["plan", "--live", "empty", "--local", "a", "--format=json"];

/// Fingerprints of a plan, by SPI.
fn fingerprints(mesh: &Mesh) -> Vec<(String, String)> {
    let plan: serde_json::Value = serde_json::from_str(&mesh.printed(&PLAN)).unwrap();
    let changes = plan["changes"].as_array().unwrap().iter();
    let sas = changes.filter(|change| change["kind"] == "sa").map(|change| {
        let mut fields = change["fields"].as_array().unwrap().iter();
        let key = fields.find(|field| field["name"] == "key").unwrap();
        let spi = change["id"].as_str().unwrap().split(' ').next_back().unwrap();
        (spi.to_owned(), key["after"].as_str().unwrap().to_owned())
    });
    sas.collect()
}

#[test]
fn init_makes_the_file_where_the_mesh_is_and_says_what_to_destroy() {
    for (generation, start) in [(0, 0), (1, 0), (42, 41)] {
        let mesh = Mesh::new(&format!("generation = {generation}"));
        let output = mesh.init();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        assert!(String::from_utf8(output.stdout).unwrap().contains("destroy the mesh key"));
        assert_eq!(mesh.ratchet(), text(start));
        assert_eq!(fs::metadata(mesh.file()).unwrap().mode() & 0o7777, 0o600);
        assert!(mesh.others().is_empty(), "{:?}", mesh.others());
        mesh.printed(&["validate"]);
    }
}

#[test]
fn init_never_takes_the_place_of_a_file_and_wants_a_key() {
    let mesh = Mesh::at(3, "generation = 9");
    let output = mesh.init();
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8(output.stderr).unwrap().contains("cannot make "));
    assert_eq!(mesh.ratchet(), text(3));
    assert!(mesh.others().is_empty(), "{:?}", mesh.others());
    let error = Mesh::new("generation = 9").refused(&["ratchet", "init"]);
    assert!(error.contains("standard input is no mesh key: it is empty"), "{error}");
}

#[test]
fn hosts_whose_ratchets_stand_elsewhere_have_the_same_keys() {
    let (old, new) = (Mesh::at(0, "generation = 42"), Mesh::at(41, "generation = 42"));
    let keys = fingerprints(&old);
    assert_eq!(keys.len(), 4);
    assert_eq!(keys, fingerprints(&new));
    // Without the key of the generation before there is no SA for it.
    let late = fingerprints(&Mesh::at(42, "generation = 42"));
    assert_eq!(late.len(), 3);
    assert!(late.iter().all(|key| keys.contains(key)));
}

#[test]
fn a_generation_before_the_ratchet_s_is_gone_for_good() {
    let mesh = Mesh::at(41, "generation = 40");
    for words in [&PLAN[..], &["validate"]] {
        let error = mesh.refused(words);
        let place = match words.iter().any(|word| word.contains("json")) {
            true => "\"line\": 4,\n      \"column\": 11",
            false => "mesh.toml:4:11",
        };
        assert!(error.contains(place), "{error}");
        assert!(error.contains("the ratchet is at generation 41"), "{error}");
        assert!(error.contains("keys of generation 40 are destroyed"), "{error}");
    }
    let error = Mesh::at(41, "generation = 9223372036854775806").refused(&PLAN);
    assert!(error.contains("too far behind"), "{error}");
}

#[test]
fn a_lost_torn_or_open_file_is_an_error_that_says_what_to_do() {
    let mesh = Mesh::at(41, "generation = 42");
    let whole = mesh.ratchet();
    mesh.write_ratchet(&whole.replace("41", "40"));
    let error = mesh.refused(&PLAN);
    assert!(error.contains("its checksum does not match"), "{error}");
    assert!(error.contains("put a copy of another host's there"), "{error}");
    mesh.write_ratchet(&whole[..60]);
    assert!(mesh.refused(&PLAN).contains(" is damaged: "));
    mesh.write_ratchet("");
    assert!(mesh.refused(&PLAN).contains("is no ratchet"));
    mesh.write_ratchet(&whole.replace("mesh lab", "mesh lab-2"));
    assert!(mesh.refused(&PLAN).contains("is damaged"));
    mesh.write_ratchet(&whole);
    fs::set_permissions(mesh.file(), fs::Permissions::from_mode(0o640)).unwrap();
    assert!(mesh.refused(&PLAN).contains("group or others may use it"));
    fs::remove_file(mesh.file()).unwrap();
    let error = mesh.refused(&["validate"]);
    assert!(error.contains("no such file"), "{error}");
    assert!(error.contains("put a copy of another host's there"), "{error}");
    // Where secrets may be absent, this one may too.
    assert!(mesh.printed(&PLAN).contains("not checked"));
}

#[test]
fn advance_turns_forwards_and_never_past_what_is_needed() {
    let mesh = Mesh::at(3, "generation = 42");
    let advance = |to: &str| ["ratchet", "advance", "--to", to].map(String::from);
    let words = |to: &str| advance(to).to_vec();
    let run = |to: &str| {
        let words = words(to);
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        mesh.run(&words)
    };
    for (to, said) in [
        ("42", "--to 42 would destroy them"),
        ("9223372036854775807", "would destroy them"),
        ("2", "turns forwards only"),
    ] {
        let output = run(to);
        let error = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.code() == Some(1) && error.contains(said), "{error}");
        assert_eq!(mesh.ratchet(), text(3));
    }
    assert!(run("41").status.success());
    assert_eq!(mesh.ratchet(), text(41));
    assert_eq!(fs::metadata(mesh.file()).unwrap().mode() & 0o7777, 0o600);
    assert!(mesh.others().is_empty(), "{:?}", mesh.others());
    let again = String::from_utf8(run("41").stdout).unwrap();
    assert_eq!(again, "The ratchet is at generation 41 already.\n");
}

#[test]
fn the_old_content_is_overwritten() {
    let mesh = Mesh::at(3, "generation = 42");
    // A file opened before still shows the old file's blocks.
    let mut old = fs::File::open(mesh.file()).unwrap();
    mesh.printed(&["ratchet", "advance", "--to", "41"]);
    let mut left = Vec::new();
    std::io::Read::read_to_end(&mut old, &mut left).unwrap();
    assert_eq!(left.len(), text(3).len());
    assert!(left.iter().all(|&byte| byte == 0), "{}", String::from_utf8_lossy(&left));
}

#[test]
fn old_content_that_may_be_left_is_told() {
    let mesh = Mesh::at(3, "generation = 42");
    let copy = mesh.0.path().join("copy");
    fs::hard_link(mesh.file(), &copy).unwrap();
    let advance = ["ratchet", "advance", "--to", "40", "--format", "json"];
    let output = mesh.run(&advance);
    assert_eq!(output.status.code(), Some(3));
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&json["before"], &json["after"]), (&3.into(), &40.into()));
    assert!(json["error"].as_str().unwrap().contains("hard links"), "{json}");
    assert_eq!((mesh.ratchet(), fs::read_to_string(&copy).unwrap()), (text(40), text(3)));

    fs::hard_link(mesh.file(), mesh.0.path().join("copy of 40")).unwrap();
    let output = mesh.run(&["ratchet", "advance", "--to", "41"]);
    assert_eq!(output.status.code(), Some(3));
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(said.starts_with("The ratchet is at generation 41 now, but keys"), "{said}");

    // A file that a killed run left, with a name that nobody knows of; then it is gone.
    fs::hard_link(&copy, mesh.0.path().join(".ratchet.meshsec")).unwrap();
    let output = mesh.run(&["ratchet", "advance", "--to", "41"]);
    assert_eq!(output.status.code(), Some(3));
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(said.starts_with("The ratchet stays at generation 41"), "{said}");
    assert!(mesh.run(&["ratchet", "advance", "--to", "41"]).status.success());
}

#[test]
fn a_run_that_is_killed_leaves_a_whole_ratchet() {
    let mesh = Mesh::at(0, "generation = 1000");
    let mut at = 0;
    for run in 1..=40 {
        let to = run.to_string();
        let mut child = mesh
            .command(&["ratchet", "advance", "--to", &to])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        thread::sleep(Duration::from_micros(run * 100));
        child.kill().unwrap();
        child.wait().unwrap();
        let now = Ratchet::parse(mesh.ratchet().as_bytes()).expect("it is whole");
        assert!(now.generation().get() == at || now.generation().get() == run);
        at = now.generation().get();
    }
    mesh.printed(&["ratchet", "advance", "--to", "999"]);
    assert_eq!(mesh.ratchet(), text(999));
    assert!(mesh.others().is_empty(), "{:?}", mesh.others());
}

#[test]
fn a_disk_without_room_leaves_the_ratchet_as_it_was() {
    let mesh = Mesh::at(3, "generation = 42");
    let mut command = Command::new("sh");
    let script = "trap '' XFSZ; ulimit -f 0; exec \"$0\" -c \"$1\" ratchet advance --to 5";
    command.args(["-c", script, env!("CARGO_BIN_EXE_meshsec")]);
    let output = command.arg(mesh.0.path().join("mesh.toml")).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8(output.stderr).unwrap().contains("cannot replace "));
    assert_eq!(mesh.ratchet(), text(3));
    assert!(mesh.others().is_empty(), "{:?}", mesh.others());
}

#[test]
fn without_a_ratchet_in_the_file_there_is_none_to_make() {
    let mesh = Mesh::new("generation = 1");
    let file = mesh.0.path().join("mesh.toml");
    let text = fs::read_to_string(&file).unwrap();
    fs::write(&file, text.replace("ratchet = { file", "mesh_key = { file")).unwrap();
    assert!(mesh.refused(&["ratchet", "init"]).contains("has no ratchet in [keys]"));
}
