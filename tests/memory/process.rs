//! The memory of the program itself, read while it waits.
//!
//! Secrets that it still needs are there once, and nothing of how they came about.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{self, PipeReader, PipeWriter, Write},
    os::{
        linux::net::SocketAddrExt,
        unix::{
            fs::FileExt,
            net::{SocketAddr, UnixListener},
        },
    },
    path::Path,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use crate::{
    common::namespace::inside,
    mesh, secrets,
    secrets::{Wanted, marked},
    write,
};

/// How often each secret is in the memory of a process that is written to.
fn found_in(child: &Child, wanted: &Wanted) -> BTreeMap<String, usize> {
    let maps = fs::read_to_string(format!("/proc/{}/maps", child.id())).unwrap();
    let memory = File::open(format!("/proc/{}/mem", child.id())).unwrap();
    let mut found = BTreeMap::new();
    for line in maps.lines().filter(|line| line.split(' ').nth(1).unwrap().contains('w')) {
        let (from, to) = line.split(' ').next().unwrap().split_once('-').unwrap();
        let [from, to] = [from, to].map(|text| u64::from_str_radix(text, 16).unwrap());
        let mut bytes = vec![0; (to - from) as usize];
        memory.read_exact_at(&mut bytes, from).unwrap_or_else(|error| panic!("{line}: {error}"));
        for what in wanted.within(&bytes) {
            let region = line.split_whitespace().nth(5).unwrap_or("anonymous");
            *found.entry(format!("{what} in {region}")).or_default() += 1;
        }
    }
    for (name, text) in told_by_proc(child) {
        for what in wanted.within(&text) {
            *found.entry(format!("{what} in {name}")).or_default() += 1;
        }
    }
    found
}

/// The kernel's files on a process besides its memory.
fn told_by_proc(child: &Child) -> Vec<(&'static str, Vec<u8>)> {
    let at = |name: &str| format!("/proc/{}/{name}", child.id());
    let read = |name| (name, fs::read(at(name)).unwrap());
    let mut told: Vec<_> = ["cmdline", "environ", "maps", "status", "comm"].map(read).into();
    for entry in fs::read_dir(at("fd")).unwrap() {
        // One that was closed since tells nothing any more.
        let Ok(open) = fs::read_link(entry.unwrap().path()) else { continue };
        told.push(("fd", open.into_os_string().into_encoded_bytes()));
    }
    told
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

/// A mesh with a marked secret, and a command that is not started yet.
fn command(directory: &Path, keys: &str, words: &[&str]) -> Command {
    let file = mesh(directory, keys, ["", ""]);
    write(&directory.join("mesh.key"), &hex::encode(marked(10)));
    let mut command = Command::new(env!("CARGO_BIN_EXE_meshsec"));
    command.arg("-c").arg(&file).args(words).stdin(Stdio::null());
    command
}

/// The memory of a program once it waits.
fn found_once_it_waits(mut command: Command) -> BTreeMap<String, usize> {
    let wanted = Wanted::new(secrets::of_mesh_key(&marked(10), [1, 2], 5));
    let mut child = command.spawn().unwrap();
    wait_until_it_sleeps(&mut child);
    let found = found_in(&child, &wanted);
    child.kill().unwrap();
    child.wait().unwrap();
    found
}

/// A pipe that is full, so that a program that prints into it waits.
fn full_pipe() -> (PipeReader, PipeWriter) {
    let (reader, mut writer) = io::pipe().unwrap();
    writer.write_all(&[0; 64 << 10]).unwrap();
    (reader, writer)
}

const FILE: &str = "mesh_key = { file = \"mesh.key\" }";
const PLAN: [&str; 5] = ["plan", "--live", "empty", "--local", "a"];

/// Keys are looked for in parts of eight bytes, and each is there with its salt.
fn once(name: &str, keys: usize) -> (String, usize) {
    (format!("{name} (raw) in [heap]"), 4 * keys)
}

#[test]
fn a_plan_that_is_shown_has_each_key_in_memory_once_and_nothing_that_led_to_it() {
    if !inside(
        "process::a_plan_that_is_shown_has_each_key_in_memory_once_and_nothing_that_led_to_it",
    ) {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let (_reader, full) = full_pipe();
    let mut plan = command(directory.path(), FILE, &PLAN);
    plan.stdout(full);
    let four = [once("a key", 4), once("a key and its salt", 4), once("the mesh key", 1)];
    assert_eq!(found_once_it_waits(plan), four.into());
}

/// All lines are made before the first is printed: each key is there as the kernel's bytes, and in hex.
#[test]
fn an_export_that_prints_has_each_key_in_memory_and_in_its_line() {
    if !inside("process::an_export_that_prints_has_each_key_in_memory_and_in_its_line") {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let (_reader, full) = full_pipe();
    let words = ["export", "--as", "ip-batch", "--show-secrets", "--local", "a"];
    let mut export = command(directory.path(), FILE, &words);
    export.stdout(full);
    let in_hex = |name: &str| (format!("{name} (in hex) in [heap]"), 4 * 4);
    let raw = [once("a key", 4), once("a key and its salt", 4), once("the mesh key", 1)];
    let lines = [in_hex("a key"), in_hex("a key and its salt")];
    assert_eq!(found_once_it_waits(export), raw.into_iter().chain(lines).collect());
}

/// The lock is waited for with the secrets read and no key made.
#[test]
fn an_apply_that_waits_has_the_secret_in_memory_once_and_no_text_of_it() {
    if !inside("process::an_apply_that_waits_has_the_secret_in_memory_once_and_no_text_of_it") {
        return;
    }
    let _lock = hold_the_lock();
    let directory = tempfile::tempdir().unwrap();
    let apply = command(directory.path(), FILE, &["apply", "--auto-approve"]);
    assert_eq!(found_once_it_waits(apply), [once("the mesh key", 1)].into());
}

/// The kernel keeps the environment that a program begins with on its stack,
/// from where no safe code can wipe it.
#[test]
fn a_secret_of_the_environment_stays_there_and_nowhere_else() {
    if !inside("process::a_secret_of_the_environment_stays_there_and_nowhere_else") {
        return;
    }
    let _lock = hold_the_lock();
    let directory = tempfile::tempdir().unwrap();
    let keys = "mesh_key = { env = \"SECRET\" }";
    let mut apply = command(directory.path(), keys, &["apply", "--auto-approve"]);
    apply.env("SECRET", hex::encode(marked(10)));
    let texts =
        ["[stack]", "environ"].map(|place| (format!("the mesh key (in hex) in {place}"), 4));
    let [stack, environ] = texts;
    assert_eq!(found_once_it_waits(apply), [once("the mesh key", 1), stack, environ].into());
}

fn hold_the_lock() -> UnixListener {
    UnixListener::bind_addr(&SocketAddr::from_abstract_name("meshsec-lock").unwrap()).unwrap()
}
