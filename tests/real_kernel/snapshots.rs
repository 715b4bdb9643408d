//! A snapshot gives the same plan elsewhere, to anybody, without secrets.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::Value;

use crate::{
    fixture::{A, B, Lab, spi},
    secrecy,
    shell::{self, Ran},
};

/// Somebody with no rights, with the program, mesh.toml and snapshots, and without the secret.
struct Reviewer {
    program: PathBuf,
    file: PathBuf,
}

impl Reviewer {
    fn new(lab: &Lab) -> Self {
        let directory = lab.directory().join("review");
        fs::create_dir(&directory).expect("a directory can be made");
        // A copy, since the program may lie where only root gets.
        let program = directory.join("meshsec");
        fs::copy(env!("CARGO_BIN_EXE_meshsec"), &program).expect("the program can be copied");
        let file = directory.join("mesh.toml");
        fs::write(&file, lab.mesh.text()).expect("mesh.toml can be written");
        Self { program, file }
    }

    fn run(&self, words: &[&str]) -> Ran {
        let mut command = Command::new("setpriv");
        command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]);
        command.arg(&self.program).arg("-c").arg(&self.file).args(words);
        shell::run(&mut command)
    }

    fn plan(&self, snapshot: &Path, format: &str) -> Ran {
        let snapshot = snapshot.to_str().expect("the path is UTF-8");
        self.run(&["plan", "--live", snapshot, "--format", format])
    }
}

/// A plan without the parts that secrets add to it.
fn without_keys(mut plan: Value) -> Value {
    plan.as_object_mut().expect("a plan is an object").remove("warnings");
    for change in plan["changes"].as_array_mut().expect("changes are a list") {
        let fields = change["fields"].as_array_mut().expect("fields are a list");
        fields.retain(|field| field["name"] != "key");
    }
    plan
}

/// Fails unless the reviewer sees the host's own plan; returns that.
fn agree(lab: &Lab, reviewer: &Reviewer, name: &str) -> Value {
    let snapshot = lab.meshsec(A, &["snapshot"]).exits(0);
    secrecy::holds_no_secret(&snapshot, &secrecy::keys_of_sas(lab));
    let file = lab.directory().join(name);
    fs::write(&file, &snapshot.stdout).expect("a snapshot can be written");
    let theirs = reviewer.plan(&file, "json").exits(0);
    let ours = without_keys(lab.plan(A));
    assert_eq!(without_keys(theirs.json()), ours, "the reviewer sees another plan: {theirs}");
    ours
}

#[test]
#[ignore = "needs a kernel with ESP: cargo xtask test"]
fn a_snapshot_gives_somebody_without_rights_and_secrets_the_hosts_own_plan() {
    let lab = Lab::new(3);
    let reviewer = Reviewer::new(&lab);
    reviewer.run(&["plan", "--live", "kernel"]).exits(1);

    let all = agree(&lab, &reviewer, "empty.json");
    // For each of two peers three SAs in, one out and six policies; four guards and four chains.
    assert_eq!(all["summary"]["create"], 2 * 10 + 4 + 4, "{all:#}");

    lab.apply_all();
    let nothing = agree(&lab, &reviewer, "applied.json");
    assert_eq!(nothing["changes"].as_array().map(Vec::len), Some(0), "{nothing:#}");
    let snapshot = lab.directory().join("applied.json");
    reviewer.plan(&snapshot, "text").exits(0).says("No changes.").says("not checked");

    let host = lab.host(A);
    host.ip("xfrm policy delete src 192.0.2.1 dst 192.0.2.2 proto udp dport 4789 dir out");
    let spi = spi(1, B, A);
    host.ip(&format!("xfrm state delete src 192.0.2.2 dst 192.0.2.1 proto esp spi {spi:#x}"));
    let two = agree(&lab, &reviewer, "damaged.json");
    assert_eq!(two["summary"]["create"], 2, "{two:#}");
}
