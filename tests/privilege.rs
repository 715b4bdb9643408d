//! Privileges of the program while it runs, and those of the programs that it runs.

#[path = "common/mod.rs"]
mod common;

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{self, Write},
    os::{
        linux::net::SocketAddrExt,
        unix::{
            fs::PermissionsExt,
            net::{SocketAddr, UnixListener},
        },
    },
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use common::namespace::{inside, ip};
use meshsec::{
    keys::Ratchet,
    model::{Generation, Key, MeshName},
};

/// Bits of capabilities (linux/capability.h).
const CHOWN: u64 = 1;
const DAC_OVERRIDE: u64 = 1 << 1;
const DAC_READ_SEARCH: u64 = 1 << 2;
const FOWNER: u64 = 1 << 3;
const NET_ADMIN: u64 = 1 << 12;
const NET_RAW: u64 = 1 << 13;
const SYS_MODULE: u64 = 1 << 16;
const REPLACING: u64 = CHOWN | DAC_OVERRIDE | DAC_READ_SEARCH | FOWNER;

/// A mesh of two and its secret, in a directory.
fn mesh(directory: &Path, traffic: &str, keys: &str) -> PathBuf {
    let file = directory.join("mesh.toml");
    let text = format!(
        "[mesh]\nname = \"lab\"\n[traffic]\n{traffic}\n[keys]\n{keys}\n[rotation]\ngeneration = 5\n\
         [[peer]]\nname = \"a\"\nshort_id = 1\naddress = \"192.0.2.1\"\n\
         [[peer]]\nname = \"b\"\nshort_id = 2\naddress = \"192.0.2.2\"\n"
    );
    fs::write(&file, text).unwrap();
    write_secret(&directory.join("mesh.key"), &"5f".repeat(32));
    let begin = Ratchet::begin(&Key::new(Box::new([7; 32])), &MeshName::new("lab").unwrap());
    let ratchet = begin.at(Generation::new(4).unwrap()).unwrap();
    write_secret(&directory.join("ratchet"), &ratchet.text());
    file
}

fn write_secret(path: &Path, text: &str) {
    fs::write(path, text).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
}

/// Waits until a program waits itself.
fn wait_until_it_sleeps(child: &mut Child) {
    let begin = Instant::now();
    let mut calm = 0;
    while calm < 5 {
        assert!(begin.elapsed() < Duration::from_secs(60), "it never waits");
        assert!(child.try_wait().unwrap().is_none(), "it has ended");
        thread::sleep(Duration::from_millis(30));
        let stat = fs::read_to_string(format!("/proc/{}/stat", child.id())).unwrap();
        calm = if stat.rsplit(')').next().unwrap().starts_with(" S") { calm + 1 } else { 0 };
    }
}

/// The privileges of a program once it waits: the sets of capabilities by their names.
fn may(mut command: Command) -> BTreeMap<String, u64> {
    let mut child = command.stdin(Stdio::null()).spawn().unwrap();
    wait_until_it_sleeps(&mut child);
    let status = fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap();
    let core = fs::read_to_string(format!("/proc/{}/limits", child.id())).unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
    let core = core.lines().find(|line| line.starts_with("Max core file size")).unwrap();
    let limits: Vec<&str> = core.split_whitespace().skip(4).take(2).collect();
    assert_eq!(limits, ["0", "0"], "{core}");
    let line = |line: &str| {
        let (name, value) = line.split_once(":\t")?;
        let known = name.starts_with("Cap") || name == "NoNewPrivs";
        known.then(|| (name.to_owned(), u64::from_str_radix(value.trim(), 16).unwrap()))
    };
    status.lines().filter_map(line).collect()
}

/// Those that are permitted, those in effect, and those of programs; bounded by others.
fn sets(permitted: u64, effective: u64, programs: u64, bounding: u64) -> BTreeMap<String, u64> {
    [
        ("CapPrm", permitted),
        ("CapEff", effective),
        ("CapInh", programs),
        ("CapAmb", programs),
        ("CapBnd", bounding),
        ("NoNewPrivs", 1),
    ]
    .map(|(name, set)| (name.to_owned(), set))
    .into()
}

fn meshsec(file: &Path, words: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_meshsec"));
    command.arg("-c").arg(file).args(words);
    command
}

const MESH_KEY: &str = "mesh_key = { file = \"mesh.key\" }";
const RATCHET: &str = "ratchet = { file = \"ratchet\" }";
const BY_PORT: &str = "select = \"port\"\nguard = \"xfrm\"";
const BY_PORT_WITH_RULES: &str = "select = \"port\"\nguard = true";
const BY_MARK: &str = "select = \"mark\"";
const APPLY: [&str; 2] = ["apply", "--auto-approve"];

/// At the lock: the file and its secrets are read, and nothing was done yet.
#[test]
fn an_apply_of_root_keeps_what_it_needs_and_drops_the_rest() {
    if !inside("an_apply_of_root_keeps_what_it_needs_and_drops_the_rest") {
        return;
    }
    let name = SocketAddr::from_abstract_name("meshsec-lock").unwrap();
    let _lock = UnixListener::bind_addr(&name).unwrap();
    let directory = tempfile::tempdir().unwrap();
    let (network, bounding) = (NET_ADMIN | NET_RAW, NET_ADMIN | NET_RAW | SYS_MODULE);
    let file = mesh(directory.path(), BY_PORT, MESH_KEY);
    assert_eq!(may(meshsec(&file, &APPLY)), sets(network, NET_ADMIN, network, bounding));
    // iptables-legacy may have to load its module.
    for traffic in [BY_MARK, BY_PORT_WITH_RULES] {
        let file = mesh(directory.path(), traffic, MESH_KEY);
        assert_eq!(may(meshsec(&file, &APPLY)), sets(bounding, NET_ADMIN, bounding, bounding));
    }
    // A ratchet of another user is replaced once all is in place.
    let file = mesh(directory.path(), BY_PORT, RATCHET);
    let with_files = sets(network | REPLACING, NET_ADMIN | REPLACING, network, bounding);
    assert_eq!(may(meshsec(&file, &APPLY)), with_files);
    let destroy = meshsec(&file, &["destroy", "--auto-approve"]);
    assert_eq!(may(destroy), sets(network, NET_ADMIN, network, bounding));
    // Without a file there is none to be read, and no module to be loaded for chains to come.
    let mut named = Command::new(env!("CARGO_BIN_EXE_meshsec"));
    named.args(["destroy", "--mesh", "lab", "--auto-approve"]);
    assert_eq!(may(named), sets(network, NET_ADMIN, network, network));
}

/// A namespace is entered with a capability that is given up at once.
#[test]
fn with_netns_nothing_is_kept_that_enters_another_one() {
    if !inside("with_netns_nothing_is_kept_that_enters_another_one") {
        return;
    }
    let name = SocketAddr::from_abstract_name("meshsec-lock").unwrap();
    let _lock = UnixListener::bind_addr(&name).unwrap();
    let directory = tempfile::tempdir().unwrap();
    let file = mesh(directory.path(), BY_PORT, MESH_KEY);
    // This very namespace under a name, so that it waits for the lock above.
    let own = format!("meshsec-test-{}", std::process::id());
    ip(&format!("netns attach {own} {}", std::process::id()));
    let sets_of = |words: &[&str]| may(meshsec(&file, &[&["--netns", &own], words].concat()));
    let (apply, destroy) = (sets_of(&APPLY), sets_of(&["destroy", "--auto-approve"]));
    ip(&format!("netns delete {own}"));
    let (network, bounding) = (NET_ADMIN | NET_RAW, NET_ADMIN | NET_RAW | SYS_MODULE);
    assert_eq!(apply, sets(network, NET_ADMIN, network, bounding));
    assert_eq!(destroy, sets(network, NET_ADMIN, network, bounding));
}

/// The file is not read yet, and it may say anything.
#[test]
fn a_namespace_is_entered_once_and_before_any_file_is_read() {
    if !inside("a_namespace_is_entered_once_and_before_any_file_is_read") {
        return;
    }
    let own = format!("meshsec-test-early-{}", std::process::id());
    ip(&format!("netns attach {own} {}", std::process::id()));
    let (_reader, mut full) = io::pipe().unwrap();
    full.write_all(&[0; 64 << 10]).unwrap();
    // It waits as it says that there is no such file.
    let sets_of = |words: &[&str]| {
        let mut command = meshsec(Path::new("/none/mesh.toml"), words);
        command.stderr(full.try_clone().unwrap());
        may(command)
    };
    let without = sets_of(&APPLY);
    let with = sets_of(&[&["--netns", &own], &APPLY[..]].concat());
    ip(&format!("netns delete {own}"));
    let (network, programs) = (NET_ADMIN | REPLACING, NET_ADMIN | NET_RAW | SYS_MODULE);
    assert_eq!(without, sets(programs | REPLACING, network, programs, programs));
    assert_eq!(with, without);
}

#[test]
fn commands_that_look_at_no_kernel_have_no_power_over_it() {
    if !inside("commands_that_look_at_no_kernel_have_no_power_over_it") {
        return;
    }
    ip("link set lo up");
    let directory = tempfile::tempdir().unwrap();
    let file = mesh(directory.path(), BY_PORT, MESH_KEY);
    let (_reader, mut full) = io::pipe().unwrap();
    full.write_all(&[0; 64 << 10]).unwrap();
    let snapshot = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/snapshots/every-name.json");
    for (words, set) in [
        (&["genkey"][..], 0),
        (&["genpsk"], 0),
        (&["spi", "0x84001002"], 0),
        (&["validate"], 0),
        (&["validate", "--without-secrets"], 0),
        (&["mtu", "--underlay-mtu=1500"], 0),
        (&["plan", "--live=empty", "--local=a"], 0),
        (&["plan", "--all"], 0),
        (&["explain", "udp 192.0.2.1 > 192.0.2.2:4789", "--live=empty", "--local=a"], 0),
        (&["settled", "--seen", snapshot], 0),
    ] {
        let mut command = meshsec(&file, words);
        command.stdout(full.try_clone().unwrap());
        assert_eq!(may(command), sets(set, set, 0, 0), "{words:?}");
    }
    let evidence = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/evidence/a.json");
    let mut compare = meshsec(&file, &["prove", "--compare", evidence, evidence]);
    compare.stdout(full.try_clone().unwrap());
    assert_eq!(may(compare), sets(0, 0, 0, 0));
    // It waits for the draft before it reads the file.
    let draft = directory.path().join(".mesh.toml.meshsec");
    write_secret(&draft, "");
    let locked = File::open(&draft).unwrap();
    locked.lock().unwrap();
    for words in [&["rotate"][..], &["rotate", "--seen", snapshot]] {
        assert_eq!(may(meshsec(&file, words)), sets(REPLACING, REPLACING, 0, 0));
    }
    // One that looks at the kernel keeps that right, and no other.
    let programs = NET_ADMIN | NET_RAW | SYS_MODULE;
    let here = sets(programs | REPLACING, NET_ADMIN | REPLACING, programs, programs);
    assert_eq!(may(meshsec(&file, &["rotate", "--here"])), here);
}

/// While it captures packets of anybody. Its sockets are open, and nothing else is left.
#[test]
fn nothing_is_left_while_packets_are_captured() {
    if !inside("nothing_is_left_while_packets_are_captured") {
        return;
    }
    ip("link set lo up");
    ip("address add 192.0.2.1/32 dev lo");
    ip("address add 192.0.2.2/32 dev lo");
    let directory = tempfile::tempdir().unwrap();
    let file = mesh(directory.path(), BY_PORT, MESH_KEY);
    let bounding = NET_ADMIN | NET_RAW | SYS_MODULE;
    let prove = meshsec(&file, &["prove", "--local=a", "--wait=60s"]);
    assert_eq!(may(prove), sets(0, 0, 0, bounding));
    // Root without the capability to capture is told so, and no packet leaves.
    let mut poor = Command::new("setpriv");
    poor.args(["--inh-caps=-net_raw", "--ambient-caps=-net_raw", "--bounding-set=-net_raw", "--"]);
    poor.arg(env!("CARGO_BIN_EXE_meshsec")).arg("-c").arg(&file);
    let output = poor.args(["prove", "--local=a"]).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("EPERM: prove needs CAP_NET_RAW beside CAP_NET_ADMIN"), "{said}");
}

/// The right to send pings is in effect only while their socket is opened.
#[test]
fn doctor_keeps_what_status_keeps() {
    if !inside("doctor_keeps_what_status_keeps") {
        return;
    }
    ip("link set lo up");
    ip("address add 192.0.2.1/32 dev lo");
    let directory = tempfile::tempdir().unwrap();
    let file = mesh(directory.path(), BY_PORT, MESH_KEY);
    let (network, bounding) = (NET_ADMIN | NET_RAW, NET_ADMIN | NET_RAW | SYS_MODULE);
    for words in [&["doctor", "--for=1h"][..], &["doctor", "--for=1h", "--probe"]] {
        let mut command = meshsec(&file, words);
        command.stdout(Stdio::null());
        assert_eq!(may(command), sets(network, NET_ADMIN, network, bounding), "{words:?}");
    }
}

/// Whether a process without capabilities may look into another of its user.
fn may_be_looked_into(child: &Child) -> bool {
    let mut look = without_capabilities();
    look.args(["cat", &format!("/proc/{}/environ", child.id())]);
    look.stdout(Stdio::null()).stderr(Stdio::null()).status().unwrap().success()
}

fn without_capabilities() -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--inh-caps=-all", "--ambient-caps=-all", "--bounding-set=-all", "--"]);
    command
}

#[test]
fn another_process_of_the_same_user_can_not_look_into_the_program() {
    if !inside("another_process_of_the_same_user_can_not_look_into_the_program") {
        return;
    }
    let (_reader, mut full) = io::pipe().unwrap();
    full.write_all(&[0; 64 << 10]).unwrap();
    for (program, may) in [("cat", true), (env!("CARGO_BIN_EXE_meshsec"), false)] {
        let mut command = without_capabilities();
        let words = if may { ["/dev/zero"] } else { ["genkey"] };
        command.arg(program).args(words).stdout(full.try_clone().unwrap());
        let mut child = command.spawn().unwrap();
        wait_until_it_sleeps(&mut child);
        assert_eq!(may_be_looked_into(&child), may, "{program}");
        child.kill().unwrap();
        child.wait().unwrap();
    }
}

/// The capabilities, environment and directory of a program in iptables' place.
#[test]
fn programs_of_iptables_get_three_capabilities_and_nothing_of_the_callers() {
    if !inside("programs_of_iptables_get_three_capabilities_and_nothing_of_the_callers") {
        return;
    }
    ip("link set lo up");
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name);
    let record = at("record");
    let script = |path: &Path, text: &str| {
        fs::write(path, format!("#!/bin/sh\n{text}\n")).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
    };
    // The first of the directories in which programs are looked for.
    fs::create_dir(at("programs")).unwrap();
    let honest = format!(
        "{{ cat /proc/self/status; echo \"directory $(pwd)\"; cat /proc/self/environ | tr '\\0' \
         '\\n'; ls -l /proc/self/fd/; }} >>{}; exit 1",
        record.display()
    );
    script(&at("programs/iptables"), &honest);
    // A program that the caller would have run instead.
    let evil = at("evil");
    fs::create_dir(&evil).unwrap();
    let trap = format!("touch {}", at("trapped").display());
    for name in ["iptables", "iptables-save", "iptables-nft-save", "ip6tables", "modprobe"] {
        script(&evil.join(name), &trap);
    }
    let keys = "mesh_key = { env = \"SECRET\" }";
    let file = mesh(directory.path(), BY_MARK, keys);
    let mut plan = Command::new("sh");
    plan.args(["-c", "mount --bind \"$0\" /usr/local/sbin && exec \"$@\""]);
    plan.arg(at("programs")).arg(env!("CARGO_BIN_EXE_meshsec")).arg("-c").arg(&file);
    let output = plan
        .args(["--local=a", "plan"])
        .current_dir(&evil)
        .env("PATH", format!("{}:/usr/bin:/bin:/usr/sbin", evil.display()))
        .env("SECRET", "5f".repeat(32))
        .envs([
            ("XTABLES_LIBDIR", &evil),
            ("IPTABLES_LIB_DIR", &evil),
            ("XTABLES_LOCKFILE", &evil),
            ("MODPROBE_OPTIONS", &evil),
            ("HOME", &evil),
        ])
        .envs([("IFS", "/"), ("ENV", "./iptables"), ("LD_DEBUG_OUTPUT", "x")])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    let seen = fs::read_to_string(&record).unwrap_or_else(|error| {
        panic!("{error}: {said}{}", String::from_utf8_lossy(&output.stderr))
    });
    assert!(!at("trapped").exists(), "a program of the caller's was run");
    let three = format!("{:016x}", NET_ADMIN | NET_RAW | SYS_MODULE);
    for set in ["CapPrm", "CapEff", "CapInh", "CapAmb", "CapBnd"] {
        assert!(seen.contains(&format!("{set}:\t{three}")), "{seen}");
    }
    assert!(seen.contains("NoNewPrivs:\t1") && seen.contains("directory /\n"), "{seen}");
    for foreign in ["5f5f", "evil", "XTABLES", "MODPROBE", "HOME", "IFS=", "ENV=", "LD_"] {
        assert!(!seen.contains(foreign), "{foreign} in {seen}");
    }
    // Files that are open when a program begins: its pipes, and no socket of the caller's.
    assert!(seen.contains("0 -> pipe:"), "{seen}");
    assert!(!seen.contains("socket:") && !seen.contains("mesh.key"), "{seen}");
}
