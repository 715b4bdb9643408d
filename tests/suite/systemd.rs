//! The example units, as systemd's own tools judge them.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

const UNITS: [&str; 2] = ["meshsec.service", "meshsec.timer"];
/// The units for ESP in UDP, the service first.
const ENCAP: [&str; 3] =
    ["meshsec-encap@.service", "meshsec-encap@.socket", "meshsec-encap6@.socket"];

/// A directory with these units, which name the program just built.
fn units(names: &[&str]) -> (tempfile::TempDir, Vec<PathBuf>) {
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/systemd");
    let directory = tempfile::tempdir().unwrap();
    let write = |name: &&str| {
        let text = fs::read_to_string(examples.join(name)).unwrap();
        let program = env!("CARGO_BIN_EXE_meshsec");
        let unit = directory.path().join(name.replace("@.", "@4500."));
        fs::write(&unit, text.replace("ExecStart=meshsec", &format!("ExecStart={program}")))
            .unwrap();
        unit
    };
    let units = names.iter().map(write).collect();
    (directory, units)
}

fn systemd_analyze(words: &[&str], units: &[PathBuf]) -> Output {
    let mut command = Command::new("systemd-analyze");
    command.args(words).args(units).env("SYSTEMD_COLORS", "0");
    command.output().unwrap_or_else(|error| {
        panic!("systemd-analyze is needed (apt-get install systemd): {error}")
    })
}

#[test]
fn systemd_finds_nothing_wrong_with_the_units() {
    for names in [&UNITS[..], &ENCAP] {
        let (_directory, units) = units(names);
        let output = systemd_analyze(&["verify", "--man=no"], &units);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && said.is_empty(), "{said}");
    }
}

/// The scale begins at 0, which nothing reaches that has to change the host's network. The raw
/// socket that iptables-legacy needs for the second guard is 0.4 of it.
#[test]
fn the_service_has_little_that_it_does_not_need() {
    for (names, most) in [(&UNITS[..], 2.4), (&ENCAP, 0.6)] {
        let (_directory, units) = units(names);
        let words = ["security", "--offline=true", "--no-pager"];
        let output = systemd_analyze(&words, &units[..1]);
        let table = String::from_utf8_lossy(&output.stdout);
        let level = table.split("Overall exposure level for ").nth(1);
        let level = level.and_then(|line| line.split_once(": ")?.1.split(' ').next()?.parse().ok());
        let level: f64 = level.unwrap_or_else(|| panic!("no level in {table}"));
        assert!(level <= most, "{table}");
    }
}
