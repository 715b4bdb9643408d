//! docs/guide.md, command by command, on three hosts.
//!
//! Each block of commands says in its fence on which host it is run: `a`, `b`, `c` or `every`. A
//! block of `toml` becomes that host's mesh.toml. `scp` and `systemctl` are small stand-ins.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
};

use crate::{
    fixture::{A, B, C, Lab, VXLAN},
    shell::Ran,
    xfrm,
};

const GUIDE: &str = include_str!("../../docs/guide.md");
/// In place of the guide's directory, so that each host has one of its own.
const HOME: &str = "/etc/meshsec";

/// Copies to the directory of the host in `root@HOST:`.
const SCP: &str = "#!/bin/sh -e\n\
    for last; do :; done\n\
    host=${last#root@}; host=${host%%:*}\n\
    while [ $# -gt 1 ]; do [ \"$1\" = -p ] || cp -p \"$1\" \"$HOSTS/$host/\"; shift; done\n";

/// Fails for a unit that the project does not have.
const SYSTEMCTL: &str = "#!/bin/sh -e\n\
    for last; do :; done\n\
    [ \"$1\" = enable ] && test -f \"$UNITS/$last\"\n";

struct Block {
    language: String,
    host: String,
    text: String,
}

/// The blocks of the guide, in order.
fn blocks() -> Vec<Block> {
    let mut parts = GUIDE.split("\n```");
    let mut blocks = Vec::new();
    parts.next();
    while let (Some(block), Some(_)) = (parts.next(), parts.next()) {
        let (fence, text) = block.split_once('\n').expect("a fence ends");
        let (language, host) = fence.split_once(' ').expect("a fence names a host");
        blocks.push(Block { language: language.into(), host: host.into(), text: text.into() });
    }
    blocks
}

/// The hosts' directories, and the programs that they use.
struct Hosts<'a> {
    lab: &'a Lab,
    root: PathBuf,
}

impl<'a> Hosts<'a> {
    fn new(lab: &'a Lab) -> Self {
        let hosts = Self { lab, root: lab.directory().join("guide") };
        for name in ["a", "b", "c", "bin"] {
            fs::create_dir_all(hosts.root.join(name)).expect("a directory can be made");
        }
        for (name, script) in [("scp", SCP), ("systemctl", SYSTEMCTL)] {
            let path = hosts.root.join("bin").join(name);
            fs::write(&path, script).expect("a script can be written");
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("its mode");
        }
        let program = Path::new(env!("CARGO_BIN_EXE_meshsec"));
        std::os::unix::fs::symlink(program, hosts.root.join("bin/meshsec")).expect("a link");
        fs::create_dir_all(HOME).expect("root may make this directory");
        hosts
    }

    fn run(&self, place: usize, text: &str) -> Ran {
        let directory = self.root.join(["a", "b", "c"][place]);
        let path = std::env::var("PATH").expect("there is a path");
        let mount = format!("mount --bind {} {HOME}; ", directory.display());
        let mut command = Command::new("unshare");
        command.args(["-m", "sh", "-euc", &(mount + "umask 077; cd /; eval \"$0\""), text]);
        command.env("PATH", format!("{}:{path}", self.root.join("bin").display()));
        command.env("HOSTS", &self.root);
        command.env("UNITS", concat!(env!("CARGO_MANIFEST_DIR"), "/examples/systemd"));
        self.lab.host(place).run(&mut command)
    }
}

#[test]
#[ignore = "needs a kernel with ESP: cargo xtask test"]
fn every_command_of_the_guide_works() {
    let lab = Lab::new(3);
    for place in lab.places() {
        lab.host(place).ip(&format!("link delete {VXLAN}"));
    }
    let hosts = Hosts::new(&lab);
    let mut runs = 0;
    let mut clear = Some(lab.capture());
    for Block { language, host, text } in blocks() {
        let places: &[usize] = match host.as_str() {
            "a" => &[A],
            "b" => &[B],
            "c" => &[C],
            // Hosts are there from their first file on.
            "every" => &[A, B, C],
            other => panic!("the guide knows no host {other}"),
        };
        for &place in places {
            let directory = hosts.root.join(["a", "b", "c"][place]);
            if language == "toml" {
                fs::write(directory.join("mesh.toml"), &text).expect("a file can be written");
            } else if host != "every" || directory.join("mesh.toml").exists() {
                hosts.run(place, &text).exits(0);
                runs += 1;
            }
        }
        // What comes before the first apply is in the clear, as the guide says.
        if text.contains("meshsec apply") {
            clear.take().into_iter().for_each(|capture| {
                let seen = capture.stop();
                assert!(!seen.packets("udp port 4789").is_empty(), "the overlay is in use");
            });
        }
    }
    assert!(runs >= 30, "{runs} runs");
    for place in lab.places() {
        assert_eq!(xfrm::databases(lab.host(place)), "", "all of it is gone");
    }
    let _ = fs::remove_dir(HOME);
}
