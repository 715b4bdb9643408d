//! `rotate`: one number of the file changes, whatever happens meanwhile.

use std::{
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt, symlink},
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    thread,
    time::Duration,
};

const PEER: &str = "[[peer]]\nname = \"a\"\nshort_id = 1\naddress = \"192.0.2.1\"\n";

/// A mesh.toml in a directory of its own; `rotation` is the lines of that table.
struct Mesh {
    directory: tempfile::TempDir,
}

impl Mesh {
    fn new(rotation: &str) -> Self {
        let mesh = Self { directory: tempfile::tempdir().unwrap() };
        fs::write(mesh.file(), text(rotation)).unwrap();
        mesh
    }

    fn file(&self) -> PathBuf {
        self.directory.path().join("mesh.toml")
    }

    fn read(&self) -> String {
        fs::read_to_string(self.file()).unwrap()
    }

    fn rotate(&self) -> Command {
        rotate(&self.file())
    }

    /// The names of all files beside mesh.toml.
    fn others(&self) -> Vec<String> {
        let entries = fs::read_dir(self.directory.path()).unwrap();
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names.filter(|name| name != "mesh.toml").collect()
    }
}

/// A whole file, with details that are easily lost: comments, blank lines, CRLF, no newline at its
/// end.
fn text(rotation: &str) -> String {
    format!(
        "# generation = 3\r\n\r\n[mesh]\nname = \"lab\"   # a comment\n\n\n{PEER}\
         [keys]\nmesh_key = {{ file = \"absent.key\" }}\n\n{rotation}\n# the end"
    )
}

fn rotate(file: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_meshsec"));
    command.arg("-c").arg(file).arg("rotate");
    command
}

fn succeeds(mut command: Command) -> String {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn refused(output: &Output) -> String {
    assert_eq!((output.status.code(), output.stdout.len()), (Some(1), 0));
    String::from_utf8(output.stderr.clone()).unwrap()
}

#[test]
fn one_number_changes_and_nothing_else() {
    for (before, after) in [
        ("[rotation]\ngeneration = 1 # now", "[rotation]\ngeneration = 2 # now"),
        ("[rotation]\r\n\tgeneration=0x0f", "[rotation]\r\n\tgeneration=0x10"),
        ("[rotation]\n'generation' = 9_999", "[rotation]\n'generation' = 10_000"),
    ] {
        let mesh = Mesh::new(before);
        succeeds(mesh.rotate());
        assert_eq!(mesh.read(), text(after));
        assert!(mesh.others().is_empty(), "{:?}", mesh.others());
    }
    for rotation in ["rotation = { generation = @ }\n", "rotation.generation = @\n"] {
        let mesh = Mesh::new("");
        let whole = |number| rotation.replace('@', number) + &text("");
        fs::write(mesh.file(), whole("41")).unwrap();
        succeeds(mesh.rotate());
        assert_eq!(mesh.read(), whole("42"));
    }
}

#[test]
fn it_says_which_generation_it_was_and_what_to_do_next() {
    let mesh = Mesh::new("[rotation]\ngeneration = 1");
    let said = succeeds(mesh.rotate());
    assert!(said.starts_with("mesh.toml: generation 1 is now 2.\n"), "{said}");
    assert!(said.contains("meshsec apply"), "{said}");
    let mut json = mesh.rotate();
    json.args(["--format", "json"]);
    let json: serde_json::Value = serde_json::from_str(&succeeds(json)).unwrap();
    let wanted = serde_json::json!({
        "format_version": "2.0", "mesh": "lab", "before": 2, "after": 3
    });
    assert_eq!(json, wanted);
}

#[test]
fn mode_and_owner_stay_and_a_link_stays_a_link() {
    let mesh = Mesh::new("[rotation]\ngeneration = 1");
    fs::set_permissions(mesh.file(), fs::Permissions::from_mode(0o640)).unwrap();
    // Only root may give a file away; anybody else finds out that his own stays his.
    let _ = std::os::unix::fs::chown(mesh.file(), Some(12), Some(34));
    let before = fs::metadata(mesh.file()).unwrap();
    let elsewhere = tempfile::tempdir().unwrap();
    let link = elsewhere.path().join("link.toml");
    symlink(mesh.file(), &link).unwrap();
    // As sudo does for the owner.
    let mut command = rotate(&link);
    command.env("SUDO_UID", before.uid().to_string());
    succeeds(command);
    assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
    assert_eq!(fs::read_dir(elsewhere.path()).unwrap().count(), 1);
    assert_eq!(mesh.read(), text("[rotation]\ngeneration = 2"));
    let after = fs::metadata(mesh.file()).unwrap();
    let known = |of: &fs::Metadata| (of.mode(), of.uid(), of.gid());
    assert_eq!(known(&after), known(&before));
}

#[test]
fn what_has_no_next_generation_is_refused_at_its_place() {
    for (rotation, said) in [
        ("[rotation]\nperiod = \"1h\"", "with period the clock raises the generation"),
        (
            "[rotation]\ngeneration = 9223372036854775806",
            "generation 9223372036854775806 is the last one",
        ),
        ("[rotation]\ngeneration = \"1\"", "generation must be an integer"),
        ("", "[rotation] is missing"),
    ] {
        let mesh = Mesh::new(rotation);
        let error = refused(&mesh.rotate().output().unwrap());
        assert!(error.contains(said) && error.contains("mesh.toml:"), "{error}");
        assert_eq!(mesh.read(), text(rotation));
        assert!(mesh.others().is_empty());
    }
    let mesh = Mesh::new("");
    let error = refused(&rotate(&mesh.directory.path().join("none.toml")).output().unwrap());
    assert!(error.contains("cannot read ") && error.contains("none.toml"), "{error}");
}

#[test]
fn runs_at_once_lose_no_raise() {
    let mesh = Mesh::new("[rotation]\ngeneration = 100");
    let runs: Vec<_> =
        (0..16).map(|_| mesh.rotate().stdout(Stdio::null()).spawn().unwrap()).collect();
    for mut run in runs {
        assert!(run.wait().unwrap().success());
    }
    assert_eq!(mesh.read(), text("[rotation]\ngeneration = 116"));
    assert!(mesh.others().is_empty());
}

#[test]
fn a_run_that_is_killed_leaves_a_whole_file_that_the_next_one_raises() {
    let mesh = Mesh::new("[rotation]\ngeneration = 1000");
    let mut whole = 1000;
    for microseconds in (0..4000).step_by(100) {
        let mut run = mesh.rotate().stdout(Stdio::null()).spawn().unwrap();
        thread::sleep(Duration::from_micros(microseconds));
        run.kill().unwrap();
        run.wait().unwrap();
        let now = (whole..=whole + 1)
            .find(|number| mesh.read() == text(&format!("[rotation]\ngeneration = {number}")));
        whole = now.expect("the file is the one before or the one after");
    }
    succeeds(mesh.rotate());
    assert_eq!(mesh.read(), text(&format!("[rotation]\ngeneration = {}", whole + 1)));
    assert!(mesh.others().is_empty(), "{:?}", mesh.others());
}

#[test]
fn a_disk_without_room_leaves_the_file_as_it_was() {
    let mesh = Mesh::new("[rotation]\ngeneration = 1");
    let mut command = Command::new("sh");
    // No file may grow; without the signal that would end the program, a write fails.
    let script = "trap '' XFSZ; ulimit -f 0; exec \"$0\" -c \"$1\" rotate";
    command.args(["-c", script, env!("CARGO_BIN_EXE_meshsec")]).arg(mesh.file());
    let error = refused(&command.output().unwrap());
    assert!(error.contains("cannot replace ") && error.contains("nothing was changed"), "{error}");
    assert_eq!(mesh.read(), text("[rotation]\ngeneration = 1"));
    assert!(mesh.others().is_empty(), "{:?}", mesh.others());
}

#[test]
fn a_link_in_place_of_the_draft_leads_nowhere() {
    let mesh = Mesh::new("[rotation]\ngeneration = 1");
    let victim = mesh.directory.path().join("victim");
    fs::write(&victim, "untouched").unwrap();
    symlink(&victim, mesh.directory.path().join(".mesh.toml.meshsec")).unwrap();
    succeeds(mesh.rotate());
    assert_eq!(fs::read_to_string(&victim).unwrap(), "untouched");
    assert_eq!(mesh.read(), text("[rotation]\ngeneration = 2"));
    assert!(!fs::symlink_metadata(mesh.file()).unwrap().is_symlink());
}
