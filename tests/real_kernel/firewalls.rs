//! FIREWALLS in meshsec-neighbours(7) and DUAL STACK in meshsec-traffic(7), as packets see them.

use std::{fs, process::Command};

use crate::{
    fixture::{A, B, Lab, inner_mac, underlay_mac, write_secret},
    mesh_file::{MESH_KEY, Peer},
    ping, shell,
};

const ESP: &[&str] = &["-A", "INPUT", "-p", "esp", "-j", "ACCEPT"];
const TUNNEL: &[&str] = &[
    "-A", "INPUT", "-p", "udp", "--dport", "4789", "-m", "policy", "--dir", "in", "--pol", "ipsec",
    "-j", "ACCEPT",
];

/// The rules of FIREWALLS in meshsec-neighbours(7), by which a host that drops everything is reached.
#[test]
#[ignore = "needs a kernel with ESP: cargo xtask test"]
fn a_host_that_drops_everything_else_needs_both_rules_of_the_manual() {
    let lab = Lab::new(2);
    lab.apply_all();
    lab.reaches(A, B);
    let iptables = |words: &[&str]| {
        lab.host(B).run(Command::new("iptables").args(words)).exits(0);
    };
    for (rules, reaches) in [(&[ESP][..], false), (&[TUNNEL], false), (&[ESP, TUNNEL], true)] {
        iptables(&["-F", "INPUT"]);
        iptables(&["-A", "INPUT", "-i", "vxlan42", "-j", "ACCEPT"]);
        rules.iter().for_each(|rule| iptables(rule));
        iptables(&["-P", "INPUT", "DROP"]);
        if reaches { lab.reaches(A, B) } else { lab.does_not_reach(A, B) }
    }
}

/// DUAL STACK in meshsec-traffic(7): two files, with the guards "xfrm" and false.
#[test]
#[ignore = "needs a kernel with ESP: cargo xtask test"]
fn two_files_protect_hosts_over_both_families() {
    let lab = Lab::new(2);
    let second = |place: usize| lab.directory().join(format!("second-{place}"));
    let mut mesh = lab.mesh.clone();
    mesh.guard = "false";
    let peer =
        |(place, peer): (usize, Peer)| Peer { address: format!("2001:db8::{}", place + 1), ..peer };
    mesh.peers = mesh.peers.into_iter().enumerate().map(peer).collect();
    let text = mesh.text().replace("name = \"lab\"", "name = \"lab6\"");
    let meshsec = |place: usize, words: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_meshsec"));
        command.args(["--netns", &lab.host(place).0, "-c"]).arg(second(place).join("mesh.toml"));
        shell::run(command.args(words))
    };
    for (place, other) in [(A, B), (B, A)] {
        let [mine, theirs] = [place, other].map(|place| format!("2001:db8::{}", place + 1));
        let macs = (inner_mac(place + 10), inner_mac(other + 10), underlay_mac(other));
        lab.host(place).ip_batch(&format!(
            "link add vxlan6 address {} mtu 1380 type vxlan id 6 dstport 4789 local {mine} \
             remote {theirs} dev eth0 nolearning\n\
             link set vxlan6 addrgenmode none\nlink set vxlan6 up\n\
             address add 10.6.0.{}/24 dev vxlan6\n\
             neigh add 10.6.0.{} lladdr {} dev vxlan6\n\
             neigh replace {theirs} lladdr {} dev eth0\n",
            macs.0,
            place + 1,
            other + 1,
            macs.1,
            macs.2,
        ));
        fs::create_dir_all(second(place)).expect("a directory can be made");
        fs::write(second(place).join("mesh.toml"), &text).expect("it can be written");
        write_secret(&second(place).join("mesh.key"), MESH_KEY);
    }
    let first = |guard: &str| {
        let text = lab.mesh.text().replace("guard = true", guard);
        for place in lab.places() {
            fs::write(lab.file(place), &text).expect("mesh.toml can be written");
            lab.apply(place);
        }
    };
    first("guard = \"xfrm\"");
    for place in lab.places() {
        meshsec(place, &["apply", "--auto-approve"]).exits(0);
    }
    let capture = lab.capture();
    lab.reaches(A, B);
    assert_eq!(ping::answers(lab.host(A), "10.6.0.2", 3), 3);
    capture.stop().has_only_esp(12);
    for place in lab.places() {
        lab.has_converged(place);
        meshsec(place, &["plan", "--detailed-exitcode"]).exits(0).says("No changes.");
    }
    // The rules of the whole guard know one mesh.
    first("guard = true");
    lab.reaches(A, B);
    assert_eq!(ping::answers(lab.host(A), "10.6.0.2", 3), 0);
}
