//! Secrets, and keys that follow from them, are in nothing that the program prints or writes, in
//! any use.
//!
//! Native: tests that need SAs of ESP in the kernel are in `tests/real_kernel`.

#[path = "common/mod.rs"]
mod common;
#[path = "memory/secrets.rs"]
mod secrets;

use std::{
    collections::BTreeSet,
    fs,
    io::Write,
    os::unix::fs::{MetadataExt, PermissionsExt, symlink},
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use base64ct::{Base64, Encoding};
use clap::CommandFactory;
use meshsec::{
    cli::Cli,
    keys::Ratchet,
    model::{Generation, Key, MeshName, PrivateKey},
};

use common::namespace::{inside, ip};
use secrets::{Wanted, forms, marked};

/// Where the secrets of a mesh come from.
struct Source {
    keys: &'static str,
    /// Names of files, and their content.
    files: Vec<(&'static str, String)>,
    env: Option<String>,
    public: [String; 2],
    /// Bytes that must not turn up anywhere.
    secret: Wanted,
}

/// Every place and writing of every kind of secret.
fn sources() -> Vec<Source> {
    let plain = |keys, files, env| Source {
        keys,
        files,
        env,
        public: [String::new(), String::new()],
        secret: Wanted::new(secrets::of_mesh_key(&marked(20), [1, 2], 5)),
    };
    let (hex, base64) = (hex::encode(marked(20)), Base64::encode_string(&marked(20)));
    let file = "mesh_key = { file = \"secret\" }";
    vec![
        plain(file, vec![("secret", hex.clone())], None),
        plain(file, vec![("secret", base64.clone())], None),
        plain("mesh_key = { credential = \"secret\" }", vec![("secret", base64)], None),
        plain("mesh_key = { env = \"SECRET\" }", vec![], Some(hex)),
        of_private_key(),
        of_ratchet(),
    ]
}

fn of_private_key() -> Source {
    let (own, psk) = (marked(21), marked(22));
    let public = [own, marked(23)].map(|key| PrivateKey::new(&key).public_key());
    let agreed = PrivateKey::new(&own).agree(&public[1]).unwrap();
    let mesh = <sha2::Sha256 as sha2::Digest>::digest("lab");
    let info = [&b"meshsec/v1 x25519"[..], &mesh, public[0].bytes(), public[1].bytes()];
    let mut secret = secrets::derived(&[&agreed[..], &psk].concat(), &info, [1, 2], 5);
    secret.extend(forms("the private key", &own));
    secret.extend(forms("the psk", &psk));
    secret.extend(forms("what the two agree on", &agreed[..]));
    Source {
        keys: "private_key = { file = \"secret\" }\npsk = { file = \"psk\" }",
        files: vec![("secret", Base64::encode_string(&own)), ("psk", hex::encode(psk))],
        env: None,
        public: public.map(|key| format!("public_key = \"{key}\"")),
        secret: Wanted::new(secret),
    }
}

fn of_ratchet() -> Source {
    let begin = Ratchet::begin(&Key::new(Box::new(marked(24))), &MeshName::new("lab").unwrap());
    let text =
        |generation| begin.at(Generation::new(generation).unwrap()).unwrap().text().to_string();
    let mut secret = Vec::new();
    for generation in 3..=6 {
        let text = text(generation);
        let chain = text.lines().find_map(|line| line.strip_prefix("chain ")).unwrap();
        secret.extend(secrets::of_chain(&hex::decode(chain).unwrap(), [1, 2], generation));
    }
    let files = vec![("secret", text(3))];
    let public = [String::new(), String::new()];
    let secret = Wanted::new(secret);
    Source { keys: "ratchet = { file = \"secret\" }", files, env: None, public, secret }
}

/// A host with a mesh's file, in a directory that is its home, too.
struct Host {
    directory: tempfile::TempDir,
    source: Source,
}

impl Host {
    fn new(source: Source) -> Self {
        let host = Self { directory: tempfile::tempdir().unwrap(), source };
        host.write(host.source.keys);
        host
    }

    fn at(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Writes mesh.toml with these lines of `[keys]`, and the secrets.
    fn write(&self, keys: &str) {
        let [a, b] = &self.source.public;
        let text = format!(
            "[mesh]\nname = \"lab\"\n[keys]\n{keys}\n[rotation]\ngeneration = 5\n\
             [[peer]]\nname = \"a\"\nshort_id = 1\naddress = \"192.0.2.1\"\n{a}\n\
             [[peer]]\nname = \"b\"\nshort_id = 2\naddress = \"192.0.2.2\"\n{b}\n"
        );
        fs::write(self.at("mesh.toml"), text).unwrap();
        for (name, text) in &self.source.files {
            self.write_secret(name, text);
        }
    }

    fn write_secret(&self, name: &str, text: &str) {
        fs::write(self.at(name), text).unwrap();
        fs::set_permissions(self.at(name), fs::Permissions::from_mode(0o600)).unwrap();
    }

    /// Runs a command with all output for debugging, and looks at that.
    #[track_caller]
    fn run(&self, words: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_meshsec"));
        command.args(["-c", "mesh.toml"]).args(words).current_dir(self.directory.path());
        command.envs([("RUST_LOG", "trace"), ("RUST_BACKTRACE", "full"), ("CLICOLOR_FORCE", "1")]);
        for name in ["HOME", "TMPDIR", "XDG_STATE_HOME", "CREDENTIALS_DIRECTORY"] {
            command.env(name, self.directory.path());
        }
        command.envs(self.source.env.iter().map(|text| ("SECRET", text)));
        command.stdin(Stdio::null());
        let output = command.output().unwrap();
        let status = output.status.code();
        assert!(status.is_some_and(|status| status < 4), "{words:?}: {:?}", output.status);
        self.is_silent(&output.stdout, &format!("standard output of {words:?}"));
        self.is_silent(&output.stderr, &format!("standard error of {words:?}"));
        output
    }

    /// Fails if some bytes hold a secret, or a key that follows from one.
    #[track_caller]
    fn is_silent(&self, bytes: &[u8], place: &str) {
        let found = self.source.secret.within(bytes);
        assert!(found.is_empty(), "{found:?} in {place}: {}", String::from_utf8_lossy(bytes));
    }

    /// Fails if a file holds one that is not where the secrets are kept.
    #[track_caller]
    fn has_written_no_secret(&self) {
        for entry in fs::read_dir(self.directory.path()).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap();
            let own =
                name == "mesh.toml" || self.source.files.iter().any(|(secret, _)| *secret == name);
            if path.is_file() && !own {
                self.is_silent(&fs::read(&path).unwrap(), &path.display().to_string());
            }
        }
    }
}

/// Every command, with everything that changes its output.
const COMMANDS: [&[&str]; 61] = [
    &["validate"],
    &["validate", "--format=json"],
    &["validate", "--without-secrets"],
    &["plan"],
    &["plan", "--format=json"],
    &["plan", "--detailed-exitcode", "--out=saved"],
    &["plan", "--live=empty"],
    &["plan", "--live=empty", "--format=json"],
    &["plan", "--live=snapshot"],
    &["plan", "--live=secret"],
    &["plan", "--all"],
    &["plan", "--all", "--format=json"],
    &["compare", "snapshot"],
    &["compare", "--all=."],
    &["compare", "secret", "--live=snapshot", "--format=json"],
    &["explain", "udp 192.0.2.1 > 192.0.2.2:4789"],
    &["explain", "udp 192.0.2.1 > 192.0.2.2:4789", "--live=empty", "--after-plan"],
    &["explain", "udp 192.0.2.1 > 192.0.2.2:4789", "--live=snapshot", "--format=json"],
    &["plan", "--local=b"],
    &["plan", "--local=c"],
    &["plan", "--netns=none"],
    &["apply"],
    &["apply", "--format=json"],
    &["apply", "saved"],
    &["apply", "secret"],
    &["apply", "--auto-approve"],
    &["apply", "--auto-approve", "--format=json"],
    &["apply", "--auto-approve", "--confirm-within=1s"],
    &["apply", "--auto-approve", "--confirm-within=1s", "--format=json"],
    &["confirm"],
    &["show"],
    &["show", "--all"],
    &["show", "--all", "--format=json"],
    &["status"],
    &["status", "--verbose"],
    &["status", "--format=json"],
    &["status", "--format=prometheus"],
    &["prove", "--wait=100ms", "--count=1"],
    &["prove", "--wait=100ms", "--count=1", "--format=json"],
    &["prove", "--compare", "secret", "mesh.toml"],
    &["doctor", "--for=1s", "--verbose"],
    &["doctor", "--for=1s", "--probe", "--format=json"],
    &["snapshot"],
    &["mtu"],
    &["mtu", "--format=json"],
    &["destroy", "--auto-approve"],
    &["destroy", "--auto-approve", "--format=json"],
    &["ratchet", "init"],
    &["ratchet", "advance", "--to=4", "--format=json"],
    &["ratchet", "advance", "--to=5"],
    &["settled"],
    &["settled", "--format=json"],
    &["rotate", "--here"],
    &["rotate"],
    &["rotate", "--format=json"],
    &["pubkey"],
    &["spi", "0x84001002"],
    &["export", "--as=ip-batch"],
    &["completions", "bash"],
    &["encap-socket"],
    &["help"],
];

/// Those that print a secret because that is their purpose.
const PRINT_A_SECRET: [&str; 2] = ["genkey", "genpsk"];

#[test]
fn no_command_is_left_out_here() {
    let here: BTreeSet<&str> =
        COMMANDS.iter().map(|words| words[0]).chain(PRINT_A_SECRET).collect();
    let all = Cli::command();
    for command in all.get_subcommands() {
        assert!(here.contains(command.get_name()), "{}", command.get_name());
    }
}

#[test]
fn no_command_prints_or_writes_a_secret_or_a_key() {
    if !inside("no_command_prints_or_writes_a_secret_or_a_key") {
        return;
    }
    ip("link set lo up");
    ip("address add 192.0.2.1/32 dev lo");
    for source in sources() {
        let host = Host::new(source);
        let snapshot = host.run(&["snapshot"]);
        fs::write(host.at("snapshot"), snapshot.stdout).unwrap();
        for words in COMMANDS {
            host.run(words);
        }
        host.has_written_no_secret();
    }
}

/// Mistakes of an operator about a secret; each is an error that says something of it.
#[test]
fn no_error_about_a_secret_shows_it() {
    if !inside("no_error_about_a_secret_shows_it") {
        return;
    }
    ip("link set lo up");
    ip("address add 192.0.2.1/32 dev lo");
    for source in sources().into_iter().filter(|source| !source.files.is_empty()) {
        let host = Host::new(source);
        let text = host.source.files[0].1.clone();
        for damaged in [
            text[..text.len() - 3].to_owned(),
            format!("{text}\n{text}"),
            format!("key = \"{text}\""),
            text.replace(|c: char| c == text.chars().nth(9).unwrap(), "?"),
            format!("{text}{}", "#".repeat(5000)),
            format!("{text}\0"),
        ] {
            host.write(host.source.keys);
            host.write_secret("secret", &damaged);
            host.is_refused();
        }
        for mode in [0o640, 0o604, 0o777] {
            host.write(host.source.keys);
            fs::set_permissions(host.at("secret"), fs::Permissions::from_mode(mode)).unwrap();
            let refused = host.run(&["validate"]).status.code();
            assert!(refused == Some(1) || host.source.keys.contains("credential"), "{mode:o}");
        }
        fs::remove_file(host.at("secret")).unwrap();
        fs::create_dir(host.at("secret")).unwrap();
        host.is_refused();
        fs::remove_dir(host.at("secret")).unwrap();
        symlink("/proc/self/environ", host.at("secret")).unwrap();
        host.is_refused();
        fs::remove_file(host.at("secret")).unwrap();
        host.is_refused();
    }
}

/// Text in mesh.toml that belongs elsewhere, beside other mistakes.
#[test]
fn no_error_shows_a_secret_that_is_in_mesh_toml_itself() {
    if !inside("no_error_shows_a_secret_that_is_in_mesh_toml_itself") {
        return;
    }
    for source in sources().into_iter().filter(|source| !source.files.is_empty()) {
        let host = Host::new(source);
        let text = host.source.files[0]
            .1
            .lines()
            .find_map(|line| line.strip_prefix("chain ").or((!line.contains(' ')).then_some(line)));
        let text = text.unwrap().to_owned();
        for keys in [
            format!("mesh_key = \"{text}\""),
            format!("mesh_key = '{text}"),
            format!("mesh_key = {text}"),
            format!("mesh_key = {{ file = \"{text}\" }}"),
            format!("mesh_key = {{ env = \"{text}\" }}"),
            format!("mesh_key = {{ credential = \"{text}\", file = \"{text}\" }}"),
            format!("mesh_key = {{ hex = \"{text}\" }}"),
            format!("private_key = \"{text}\"\npsk = [\"{text}\"]"),
            format!("ratchet = \"{text}\""),
            format!("mesh_key = {{ file = \"secret\" }}\nmesh_kye = \"{text}\""),
            format!("mesh_key = {{ file = \"secret\" }} \"{text}\""),
            format!("mesh_key = \"\"\"\n{text}\n\"\"\""),
            format!("[{text}]\nmesh_key = 1"),
            format!("{text} = \"mesh_key\""),
            text.clone(),
        ] {
            host.write(&keys);
            host.is_refused();
        }
    }
}

impl Host {
    #[track_caller]
    fn is_refused(&self) {
        for words in [&["validate"][..], &["plan", "--format=json"], &["apply", "--auto-approve"]] {
            assert_eq!(self.run(words).status.code(), Some(1), "{words:?}");
        }
        for words in [&["show"][..], &["rotate"], &["ratchet", "advance", "--to=4"], &["mtu"]] {
            self.run(words);
        }
        self.has_written_no_secret();
    }
}

/// Set where this program is a child that panics.
const PANIC: &str = "MESHSEC_TEST_PANIC";

#[test]
fn a_panic_tells_its_place_and_nothing_of_what_was_in_memory() {
    if std::env::var_os(PANIC).is_some() {
        meshsec::error::quiet_panics();
        let text = hex::encode(marked(25));
        text.parse::<u64>().map_err(|_| text).unwrap();
    }
    let test = "a_panic_tells_its_place_and_nothing_of_what_was_in_memory";
    let mut child = Command::new(std::env::current_exe().unwrap());
    child.args(["--exact", test, "--nocapture"]);
    let output = child.env(PANIC, "1").env("RUST_BACKTRACE", "full").output().unwrap();
    let said = [&output.stdout[..], &output.stderr].map(String::from_utf8_lossy).concat();
    assert!(said.contains("internal error at tests/secrecy.rs:"), "{said}");
    assert!(!said.contains(&hex::encode(&marked(25)[..8])), "{said}");
    assert!(
        include_str!("../src/main.rs")
            .contains("fn main() -> ExitCode {\n    error::quiet_panics();")
    );
}

/// A full disk behind standard error neither ends a run nor changes its status.
#[test]
fn a_standard_error_that_takes_nothing_is_no_panic() {
    let full = fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_meshsec"));
    command.args(["-c", "/nonexistent", "validate"]).stderr(full);
    assert_eq!(command.status().unwrap().code(), Some(1));
}

/// Every file in a directory, as seen by somebody who looks all the time.
fn watched(directory: &Path, check: impl Fn(&Path, u32) + Send + Sync, work: impl FnOnce()) {
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                for entry in fs::read_dir(directory).unwrap() {
                    let path = entry.unwrap().path();
                    // A draft may be gone by now.
                    if let Ok(data) = fs::symlink_metadata(&path) {
                        check(&path, data.mode() & 0o7777);
                    }
                }
            }
        });
        work();
        done.store(true, Ordering::Relaxed);
    });
}

/// Runs a command under a umask that takes nothing away; it may be killed.
fn with_umask_0(host: &Host, words: &[&str], killed_after: Option<Duration>) {
    let mut command = Command::new("sh");
    command.args(["-c", "umask 0; exec \"$0\" -c mesh.toml \"$@\""]);
    command.arg(env!("CARGO_BIN_EXE_meshsec")).args(words).current_dir(host.directory.path());
    command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut child = command.spawn().unwrap();
    let _ = child.stdin.take().unwrap().write_all(hex::encode(marked(24)).as_bytes());
    if let Some(duration) = killed_after {
        thread::sleep(duration);
        let _ = child.kill();
    }
    child.wait().unwrap();
}

#[test]
fn files_are_for_their_owner_alone_from_the_first_moment_and_whole_at_any() {
    if !inside("files_are_for_their_owner_alone_from_the_first_moment_and_whole_at_any") {
        return;
    }
    ip("link set lo up");
    ip("address add 192.0.2.1/32 dev lo");
    let host = Host::new(of_ratchet());
    let check = |path: &Path, mode: u32| {
        let name = path.file_name().unwrap().to_str().unwrap();
        assert!(name == "mesh.toml" || mode & 0o077 == 0, "{name} has mode {mode:o}");
        let Ok(text) = fs::read(path) else { return };
        match name {
            "saved" => assert!(serde_json::from_slice::<serde_json::Value>(&text).is_ok()),
            "secret" => assert!(Ratchet::parse(&text).is_ok(), "half a ratchet"),
            _ => {}
        }
    };
    let every_command = |killed: Option<Duration>| {
        with_umask_0(&host, &["plan", "--out=saved"], killed);
        with_umask_0(&host, &["ratchet", "advance", "--to=4"], killed);
        with_umask_0(&host, &["rotate"], killed);
        let _ = fs::remove_file(host.at("secret"));
        with_umask_0(&host, &["ratchet", "init"], killed);
    };
    fs::set_permissions(host.at("mesh.toml"), fs::Permissions::from_mode(0o600)).unwrap();
    watched(host.directory.path(), check, || {
        for millisecond in 0..20 {
            every_command(Some(Duration::from_millis(millisecond)));
        }
        // The ratchet may be missing at first.
        every_command(None);
        every_command(None);
    });
    for name in ["saved", "secret"] {
        assert_eq!(fs::metadata(host.at(name)).unwrap().mode() & 0o7777, 0o600, "{name}");
    }
}

#[test]
fn a_file_that_is_replaced_keeps_its_mode() {
    if !inside("a_file_that_is_replaced_keeps_its_mode") {
        return;
    }
    ip("link set lo up");
    ip("address add 192.0.2.1/32 dev lo");
    let host = Host::new(sources().swap_remove(0));
    with_umask_0(&host, &["plan", "--out=saved"], None);
    for name in ["saved", "mesh.toml"] {
        fs::set_permissions(host.at(name), fs::Permissions::from_mode(0o640)).unwrap();
    }
    let old = fs::metadata(host.at("saved")).unwrap().ino();
    with_umask_0(&host, &["rotate"], None);
    with_umask_0(&host, &["plan", "--out=saved"], None);
    assert_ne!(fs::metadata(host.at("saved")).unwrap().ino(), old, "it was not replaced");
    for name in ["saved", "mesh.toml"] {
        assert_eq!(fs::metadata(host.at(name)).unwrap().mode() & 0o7777, 0o640, "{name}");
    }
}
