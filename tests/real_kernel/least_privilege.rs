//! CAP_NET_ADMIN is enough, for any user.

use std::{fs, os::unix::fs::chown, process::Command};

use crate::{
    fixture::{A, B, Lab, Underlay},
    iptables::{BY_MARK, Backend},
    shell::{self, Ran},
    xfrm,
};

/// A user with nothing else on this machine.
const NOBODY: u32 = 65534;

/// Whom meshsec is run by, and with which capabilities.
#[derive(Debug, Clone, Copy)]
struct User {
    id: u32,
    capabilities: &'static str,
}

const ORDINARY: User = User { id: NOBODY, capabilities: "-all,+net_admin" };
/// As the unit in examples/systemd runs it, with its lines for iptables-legacy.
const ROOT_OF_LITTLE: User = User { id: 0, capabilities: "-all,+net_admin,+net_raw" };

impl User {
    /// meshsec on a host, in its network namespace from the beginning.
    #[track_caller]
    fn runs(self, lab: &Lab, place: usize, words: &[&str]) -> Ran {
        let mut script = String::from("exec \"$@\"");
        for (directory, over) in &lab.hidden {
            script = format!("mount --bind {} {over} && {script}", directory.display());
        }
        let mut command = Command::new("unshare");
        command.args(["--mount", "sh", "-c", &script, "sh", "setpriv"]);
        let (id, capabilities) = (self.id, self.capabilities);
        command.args([format!("--reuid={id}"), format!("--regid={id}"), "--clear-groups".into()]);
        command.args(
            ["inh-caps", "ambient-caps", "bounding-set"]
                .map(|set| format!("--{set}={capabilities}")),
        );
        command.arg(env!("CARGO_BIN_EXE_meshsec")).arg("-c").arg(lab.file(place)).args(words);
        lab.host(place).inside(|| shell::run(&mut command))
    }

    /// Has a host's files, and the directory that they are in.
    fn owns(self, lab: &Lab, place: usize) {
        let directory = lab.file(place).with_file_name("");
        let files = fs::read_dir(&directory).expect("it is there");
        let files = files.map(|entry| entry.expect("it can be read").path());
        for path in files.chain([directory.clone()]) {
            chown(&path, Some(self.id), Some(self.id)).expect("root may");
        }
    }

    /// Every command that looks at the kernel or changes it.
    fn does_everything(self, lab: &Lab) {
        self.owns(lab, A);
        lab.apply(B);
        let runs = |words: &[&str]| self.runs(lab, A, words).exits(0);
        let saved = lab.file(A).with_file_name("saved").display().to_string();
        runs(&["validate"]);
        runs(&["plan"]).says("to create");
        runs(&["apply", "--auto-approve"]).says("Apply complete");
        runs(&["plan", "--detailed-exitcode"]).says("No changes.");
        lab.reaches(A, B);
        runs(&["show", "--all"]).says("sha256:");
        runs(&["status"]).says("protected");
        runs(&["snapshot"]).says("sha256:");
        runs(&["rotate"]).says("generation 1 is now 2");
        runs(&["plan", "--out", &saved]).says("to create");
        runs(&["apply", &saved]).says("Apply complete");
        lab.reaches(A, B);
        runs(&["destroy", "--auto-approve"]).says("Destroy complete");
        assert!(xfrm::sas(lab.host(A)).is_empty(), "an SA is left");
    }
}

#[test]
#[ignore = "needs a kernel with ESP: cargo xtask test"]
fn an_ordinary_user_with_cap_net_admin_does_everything() {
    ORDINARY.does_everything(&Lab::new(2));
}

/// Although the rules of the other backend are only root's to read.
#[test]
#[ignore = "needs a kernel with ESP: cargo xtask test"]
fn an_ordinary_user_with_cap_net_admin_does_everything_by_mark_in_nf_tables() {
    shell::run(Command::new("modprobe").args(["-a", "iptable_filter", "ip6table_filter"])).exits(0);
    ORDINARY.does_everything(&Backend::Nft.lab(&[Underlay::V4; 2]));
}

/// As the unit in examples/systemd runs it: both guards are put up, and rules of others that change
/// addresses are seen.
#[test]
#[ignore = "needs a kernel with ESP: cargo xtask test"]
fn as_the_unit_runs_it_both_guards_are_had_and_address_translation_is_seen() {
    let tables = ["iptable_mangle", "ip6table_mangle", "iptable_nat"];
    shell::run(Command::new("modprobe").arg("-a").args(tables)).exits(0);
    for backend in Backend::BOTH {
        let mut lab = Lab::new(2);
        backend.is_the_systems(&mut lab);
        let rule = "-t nat -A POSTROUTING -m mark --mark 0x7777 -j SNAT --to-source 198.51.100.9";
        backend.tables(lab.host(A), Underlay::V4, rule);
        ROOT_OF_LITTLE.owns(&lab, A);
        lab.apply(B);
        ROOT_OF_LITTLE
            .runs(&lab, A, &["apply", "--auto-approve"])
            .exits(0)
            .says("matches mesh.toml");
        let saved = backend.saved(lab.host(A));
        for hook in ["-A OUTPUT -j MESHSEC-", "-A INPUT -j MESHSEC-"] {
            assert_eq!(saved.matches(hook).count(), 2, "{backend:?}: {saved}");
        }
        let plan = ROOT_OF_LITTLE.runs(&lab, A, &["plan", "--format", "json"]).exits(0).json();
        assert_eq!(plan["second_guard_missing"], serde_json::json!([]), "{plan:#}");
        let warnings = plan["warnings"].as_array().expect("a list");
        let codes: Vec<_> = warnings.iter().map(|warning| warning["code"].clone()).collect();
        assert_eq!(codes, ["translated"], "{backend:?}: {plan:#}");
        lab.host(A).ip("xfrm policy flush");
        let capture = lab.capture();
        lab.does_not_reach(A, B);
        capture.stop().is_closed();
        ROOT_OF_LITTLE.runs(&lab, A, &["apply", "--auto-approve"]).exits(0);
        lab.reaches(A, B);
        ROOT_OF_LITTLE.runs(&lab, A, &["destroy", "--auto-approve"]).exits(0);
        assert!(!backend.saved(lab.host(A)).contains("MESHSEC-"), "{backend:?}: a rule is left");
    }
}

/// Who can't look at iptables-legacy is told what the policies guard alone.
#[test]
#[ignore = "needs a kernel with ESP: cargo xtask test"]
fn with_iptables_legacy_an_ordinary_user_has_policies_alone_and_is_told() {
    let tables = ["iptable_mangle", "ip6table_mangle", "iptable_nat"];
    shell::run(Command::new("modprobe").arg("-a").args(tables)).exits(0);
    let mut lab = Lab::new(2);
    Backend::Legacy.is_the_systems(&mut lab);
    ORDINARY.owns(&lab, A);
    lab.apply(B);
    let applied = ORDINARY.runs(&lab, A, &["apply", "--auto-approve"]).exits(0);
    applied.says("but the second guard of IPv4 and IPv6 can't be seen");
    lab.reaches(A, B);
    let plan = ORDINARY.runs(&lab, A, &["plan", "--format", "json"]).exits(0).json();
    assert_eq!(plan["second_guard_missing"][0]["unseen"], true, "{plan:#}");
    assert!(plan["warnings"].to_string().contains("translations-hidden"), "{plan:#}");
}

/// iptables-legacy wants a raw socket, and files of root.
#[test]
#[ignore = "needs a kernel with ESP: cargo xtask test"]
fn with_iptables_legacy_an_ordinary_user_is_told_what_is_missing_and_root_does_with_two() {
    shell::run(Command::new("modprobe").args(["-a", "iptable_filter", "ip6table_filter"])).exits(0);
    let lab = Backend::Legacy.lab(&[Underlay::V4; 2]);
    ORDINARY.owns(&lab, A);
    let before = xfrm::databases(lab.host(A));
    let said = ORDINARY.runs(&lab, A, &["apply", "--auto-approve"]).exits(1).to_string();
    assert!(said.contains("ermission denied"), "{said}");
    assert_eq!(xfrm::databases(lab.host(A)), before, "something was changed: {said}");
    ROOT_OF_LITTLE.does_everything(&lab);
}

/// Modules that are not loaded yet are loaded for root, as before it gave up the rest.
#[test]
#[ignore = "needs a kernel with ESP: cargo xtask test"]
fn root_has_the_modules_of_iptables_legacy_loaded() {
    let modules = ["iptable_mangle", "ip6table_mangle", "iptable_filter", "ip6table_filter"];
    let tables = ["ip_tables", "ip6_tables"];
    for module in modules.iter().chain(&tables) {
        let _ = shell::run(Command::new("rmmod").arg(module));
    }
    let mut lab = Lab::new(2);
    lab.mesh.traffic = BY_MARK;
    lab.write_all(&lab.mesh);
    Backend::Legacy.is_the_systems(&mut lab);
    lab.apply_all();
    lab.reaches(A, B);
}
