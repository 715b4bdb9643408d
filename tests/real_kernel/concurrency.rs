//! Many applies at once, and several meshes on one host.

use std::{fs, path::PathBuf, process::Command, thread};

use crate::{
    fixture::{A, B, Lab, write_secret},
    mesh_file::{MESH_KEY, MeshFile},
    shell::{self, Ran},
    xfrm,
};

const APPLIES: usize = 20;

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
    let text = second(&lab).text().replace("name = \"lab\"", "name = \"other\"");
    let other = write_other(&lab, "other", &text);
    meshsec(&lab, &other, &["apply", "--auto-approve"]).exits(0);
    lab.has_converged(A);
    meshsec(&lab, &other, &["plan", "--detailed-exitcode"]).exits(0).says("No changes.");
    meshsec(&lab, &other, &["destroy", "--auto-approve"]).exits(0);
    assert_eq!(xfrm::databases(lab.host(A)), first, "nothing of the first mesh was touched");
    lab.reaches(A, B);
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
