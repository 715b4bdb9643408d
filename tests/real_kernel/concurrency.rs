//! Many applies at once, and several meshes on one host.
//!
//! `MESHSEC_ROUNDS=100` says how long those go on that go on for a while.

use std::{
    fs,
    path::PathBuf,
    process::{Command, Stdio},
    sync::atomic::{AtomicBool, Ordering},
    thread,
};

use crate::{
    fixture::{A, B, Lab, write_secret},
    mesh_file::{MESH_KEY, MeshFile},
    ping::Stream,
    random::how_often,
    shell::{self, Ran},
    xfrm,
};

const APPLIES: usize = 20;
const ROUNDS: u32 = 6;

/// Writes another mesh.toml for host a, with its secret beside it.
fn write_other(lab: &Lab, name: &str, text: &str) -> PathBuf {
    let directory = lab.directory().join(name);
    fs::create_dir_all(&directory).expect("a directory can be made");
    fs::write(directory.join("mesh.toml"), text).expect("mesh.toml can be written");
    write_secret(&directory.join("mesh.key"), MESH_KEY);
    directory.join("mesh.toml")
}

fn meshsec(lab: &Lab, file: &PathBuf, words: &[&str]) -> Ran {
    let mut command = Command::new(env!("CARGO_BIN_EXE_meshsec"));
    command.args(["--netns", &lab.host(A).0]).arg("-c").arg(file).args(words);
    shell::run(&mut command)
}

#[test]
#[ignore = "needs a kernel with ESP: cargo xtask test"]
fn twenty_applies_of_two_files_at_once_end_at_one_of_them() {
    let lab = Lab::new(2);
    lab.apply_all();
    let files = [1, 2].map(|generation| {
        write_other(&lab, &format!("g{generation}"), &lab.mesh.of_generation(generation).text())
    });
    let capture = lab.capture();
    thread::scope(|scope| {
        for number in 0..APPLIES {
            let file = &files[number % 2];
            let lab = &lab;
            scope.spawn(move || {
                let words = ["apply", "--auto-approve", "--lock-timeout", "10m"];
                meshsec(lab, file, &words).exits(0);
            });
        }
    });
    let empty = |file| meshsec(&lab, file, &["plan", "--detailed-exitcode"]).status == 0;
    assert!(empty(&files[0]) != empty(&files[1]), "one of the files is what the host holds");
    // Generations 1 and 2 are one apart, so that either way b is reached.
    lab.reaches(A, B);
    capture.stop().has_only_esp(6);
}

/// A second mesh between the same hosts, for another tunnel.
fn second(lab: &Lab) -> MeshFile {
    let mut mesh = lab.mesh.clone();
    mesh.traffic = "kind = \"geneve\"";
    for peer in &mut mesh.peers {
        peer.short_id += 100;
    }
    mesh
}

#[test]
#[ignore = "needs a kernel with ESP: cargo xtask test"]
fn two_meshes_in_one_namespace_leave_each_other_alone() {
    let lab = Lab::new(2);
    lab.apply_all();
    let first = xfrm::databases(lab.host(A));
    let other = write_second(&lab, 1);
    meshsec(&lab, &other, &["apply", "--auto-approve"]).exits(0);
    lab.has_converged(A);
    meshsec(&lab, &other, &["plan", "--detailed-exitcode"]).exits(0).says("No changes.");
    meshsec(&lab, &other, &["destroy", "--auto-approve"]).exits(0);
    assert_eq!(xfrm::databases(lab.host(A)), first, "nothing of the first mesh was touched");
    lab.reaches(A, B);
}

/// The files of two meshes of host a, with its own in the first place: they share neither kind,
/// reqid nor ShortIDs.
fn write_second(lab: &Lab, generation: u64) -> PathBuf {
    let text = second(lab).of_generation(generation).text();
    write_other(lab, "other", &text.replace("name = \"lab\"", "name = \"other\""))
}

/// The objects of one mesh, by the end of its first line and all below it.
fn of_reqid(lab: &Lab, reqid: u32) -> Vec<String> {
    let text = xfrm::databases(lab.host(A));
    let mut objects: Vec<String> = Vec::new();
    for line in text.lines() {
        match objects.last_mut() {
            Some(object) if line.starts_with(char::is_whitespace) => {
                object.push('\n');
                object.push_str(line);
            }
            _ => objects.push(line.into()),
        }
    }
    let [templates, guards] = [format!("reqid {reqid} "), format!("priority {reqid} ")];
    objects.retain(|object| {
        let lines = || object.lines().map(|line| format!("{line} "));
        lines().any(|line| line.contains(&templates) || line.contains(&guards))
    });
    objects.sort();
    objects
}

/// The reqid of a mesh.toml's objects, by its name.
const LAB_REQID: u32 = 0x4d53_a511;

#[test]
#[ignore = "needs a kernel with ESP: cargo xtask test"]
fn a_mesh_that_comes_turns_and_goes_in_a_loop_touches_nothing_of_another_that_does_too() {
    let lab = Lab::new(2);
    lab.apply_all();
    let capture = lab.capture();
    let stream = Stream::start(&lab, A, B);
    let other = write_second(&lab, 1);
    let rounds = how_often("MESHSEC_ROUNDS", ROUNDS);
    thread::scope(|scope| {
        let (lab, other) = (&lab, &other);
        scope.spawn(move || {
            for _ in 0..rounds {
                for words in [["apply", "--auto-approve"], ["destroy", "--auto-approve"]] {
                    meshsec(lab, other, &words).exits(0);
                }
            }
            meshsec(lab, other, &["apply", "--auto-approve"]).exits(0);
        });
        for round in 1..=rounds {
            let generation = lab.mesh.generation + u64::from(round);
            lab.write_all(&lab.mesh.of_generation(generation));
            lab.apply_all();
        }
    });
    lab.has_converged(A);
    meshsec(&lab, &other, &["plan", "--detailed-exitcode"]).exits(0).says("No changes.");
    stream.lost_nothing();
    capture.stop().has_only_esp(10);
    let before = of_reqid(&lab, LAB_REQID);
    assert!(before.len() >= 10, "{before:#?}");
    meshsec(&lab, &other, &["destroy", "--auto-approve"]).exits(0);
    assert_eq!(of_reqid(&lab, LAB_REQID), before, "the other mesh's destroy touched this one");
    lab.meshsec(A, &["destroy", "--auto-approve"]).exits(0);
    assert_eq!(xfrm::databases(lab.host(A)), "");
}

#[test]
#[ignore = "needs a kernel with ESP: cargo xtask test"]
fn twenty_applies_and_destroys_at_once_end_at_what_the_last_of_them_wanted() {
    let lab = Lab::new(2);
    lab.apply_all();
    let files = [1, 2].map(|generation| {
        write_other(&lab, &format!("g{generation}"), &lab.mesh.of_generation(generation).text())
    });
    thread::scope(|scope| {
        for number in 0..APPLIES {
            let (lab, file) = (&lab, &files[number % 2]);
            let verb = if number % 5 == 4 { "destroy" } else { "apply" };
            scope.spawn(move || {
                let words = [verb, "--auto-approve", "--lock-timeout", "10m"];
                meshsec(lab, file, &words).exits(0);
            });
        }
    });
    let empty = |file| meshsec(&lab, file, &["plan", "--detailed-exitcode"]).status == 0;
    let gone = xfrm::databases(lab.host(A)).is_empty();
    let wanted = [empty(&files[0]), empty(&files[1]), gone];
    assert_eq!(wanted.iter().filter(|is| **is).count(), 1, "half of something: {wanted:?}");
}

/// Stops a process that runs beside a test, however that ends.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Adds and deletes SAs and policies of somebody else, by the hundred, until it is stopped.
fn churn(lab: &Lab, stop: &AtomicBool) -> u32 {
    let mut rounds = 0;
    let lines = |verb: &str| -> String {
        let tail = |text: &'static str| if verb == "add" { text } else { "" };
        let sa = tail(
            " reqid 77 mode transport aead rfc4106(gcm(aes)) \
                       0x000102030405060708090a0b0c0d0e0f10111213 128",
        );
        let policy = tail(" priority 5 action block");
        let both = |number: u32| {
            format!(
                "xfrm state {verb} src 198.51.100.1 dst 198.51.100.2 proto esp spi {}{sa}\n\
                 xfrm policy {verb} src 198.51.100.{} dst 203.0.113.1 dir out{policy}\n",
                0x5000 + number,
                number % 250 + 1
            )
        };
        (0..250).map(both).collect()
    };
    let [add, delete] = ["add", "delete"].map(lines);
    while !stop.load(Ordering::Relaxed) {
        lab.host(A).ip_batch(&add);
        lab.host(A).ip_batch(&delete);
        rounds += 1;
    }
    rounds
}

#[test]
#[ignore = "needs a kernel with ESP: cargo xtask test"]
fn another_program_that_changes_sas_during_a_dump_makes_nothing_of_ours_seem_missing() {
    let lab = Lab::new(2);
    lab.apply_all();
    let capture = lab.capture();
    let stream = Stream::start(&lab, A, B);
    // A key manager that listens, for which the kernel makes larval SAs.
    let mut monitor = Command::new("ip");
    monitor.args(["xfrm", "monitor"]).stdout(Stdio::null());
    let mut monitor = lab.host(A).spawn(&mut monitor);
    let stop = AtomicBool::new(false);
    let mut generation = lab.mesh.generation;
    let rounds = thread::scope(|scope| {
        let churn = scope.spawn(|| churn(&lab, &stop));
        let stop = Stop(&stop);
        for _ in 0..how_often("MESHSEC_ROUNDS", ROUNDS).div_ceil(2) {
            lab.meshsec(A, &["plan", "--detailed-exitcode"]).exits(0).says("No changes.");
            lab.apply(A);
            lab.meshsec(A, &["snapshot"]).exits(0);
            generation += 1;
            lab.write_all(&lab.mesh.of_generation(generation));
            lab.apply_all();
        }
        drop(stop);
        churn.join().expect("another program's objects come and go")
    });
    let _ = monitor.kill();
    let _ = monitor.wait();
    println!("{rounds} rounds of 500 foreign objects");
    assert!(rounds >= 2, "{rounds} rounds of the other program");
    stream.lost_nothing();
    capture.stop().has_only_esp(10);
    lab.has_converged(A);
}

#[test]
#[ignore = "needs a kernel with ESP: cargo xtask test"]
fn a_mesh_with_the_port_or_the_short_ids_of_another_is_a_conflict() {
    let lab = Lab::new(2);
    lab.apply_all();
    let before = xfrm::databases(lab.host(A));
    let renamed = |mesh: &MeshFile| mesh.text().replace("name = \"lab\"", "name = \"other\"");
    let mut same_port = second(&lab);
    same_port.traffic = lab.mesh.traffic;
    let mut same_ids = second(&lab);
    same_ids.peers = lab.mesh.peers.clone();
    for (name, mesh) in [("port", &same_port), ("ids", &same_ids)] {
        let file = write_other(&lab, name, &renamed(mesh));
        let plan = meshsec(&lab, &file, &["plan"]).exits(1);
        plan.says("it belongs to another mesh");
        let status = meshsec(&lab, &file, &["apply", "--auto-approve"]).status;
        assert!(status == 1 || status == 3, "{name}: status {status}");
        lab.has_converged(A);
        meshsec(&lab, &file, &["destroy", "--auto-approve"]).exits(0);
    }
    assert_eq!(xfrm::databases(lab.host(A)), before, "nothing of the first mesh was touched");
    lab.reaches(A, B);
}

#[test]
#[ignore = "needs a kernel with ESP: cargo xtask test"]
fn a_file_that_gives_the_reqid_of_another_mesh_is_a_conflict_and_deletes_nothing_of_it() {
    let lab = Lab::new(2);
    lab.apply_all();
    let before = xfrm::databases(lab.host(A));
    let names = format!("name = \"other\"\nreqid = {LAB_REQID:#x}");
    let mut same_ids = second(&lab);
    same_ids.peers = lab.mesh.peers.clone();
    for (directory, mesh) in [("ids", &same_ids), ("reqid", &second(&lab))] {
        let text = mesh.text().replace("name = \"lab\"", &names);
        let file = write_other(&lab, directory, &text);
        meshsec(&lab, &file, &["plan"]).exits(1).says("it has this mesh's reqid");
        meshsec(&lab, &file, &["apply", "--auto-approve"]).exits(1);
    }
    assert_eq!(xfrm::databases(lab.host(A)), before, "something of the first mesh was touched");
    lab.reaches(A, B);
}
