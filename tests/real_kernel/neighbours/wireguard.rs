//! WireGuard, the kernel's, between the mesh's hosts.

use std::process::Command;

use super::stays_through_a_mesh;
use crate::{
    fixture::{A, B, Lab, write_secret},
    namespace::Namespace,
    ping, shell,
    wait::wait_for,
};

fn wg(host: &Namespace, words: &str) -> String {
    host.run(Command::new("wg").args(words.split_whitespace())).exits(0).stdout
}

fn address(place: usize) -> String {
    format!("10.77.0.{}", place + 1)
}

/// A tunnel between hosts a and b, over the addresses of the mesh.
fn set_up(lab: &Lab) {
    let keys = [A, B].map(|_| shell::run(Command::new("wg").arg("genkey")).exits(0).stdout);
    let public = keys.each_ref().map(|key| {
        shell::run_with(Command::new("wg").arg("pubkey"), key).exits(0).stdout.trim().to_owned()
    });
    for place in [A, B] {
        let other = A + B - place;
        let file = lab.directory().join(format!("wg-{place}.key"));
        write_secret(&file, keys[place].trim());
        let (own, far) = (address(place), address(other));
        lab.host(place).ip_batch(&format!(
            "link add wg0 mtu 1300 type wireguard\nlink set wg0 addrgenmode none\n\
             address add {own}/32 dev wg0\nlink set wg0 up\n\
             route add {far}/32 dev wg0 proto static\n"
        ));
        let (file, key, at) = (file.display(), &public[other], lab.address(other));
        wg(
            lab.host(place),
            &format!(
                "set wg0 private-key {file} listen-port 51820 peer {key} \
                 endpoint {at}:51820 allowed-ips {far}/32"
            ),
        );
    }
}

/// The device, its peers and routes, without counters.
fn shown(host: &Namespace) -> String {
    let link = host.ip("link show wg0");
    let address = host.ip("address show wg0");
    let routes = host.ip("route show table all");
    wg(host, "showconf wg0") + &link + &address + &routes
}

/// Fails unless pings through the tunnel are answered, and none in the clear is on the wire.
#[track_caller]
fn their_ping_works(lab: &Lab) {
    let capture = lab.capture();
    wait_for("answers through WireGuard", || {
        (ping::answers(lab.host(A), &address(B), 3) == 3).then_some(())
    });
    let recording = capture.stop();
    recording.is_closed();
    assert!(recording.packets("udp port 51820").len() >= 6, "they went another way");
    let handshake = wg(lab.host(A), "show wg0 latest-handshakes");
    assert!(!handshake.trim_end().ends_with("\t0"), "{handshake}");
}

#[test]
#[ignore = "needs a kernel with ESP: cargo xtask test"]
fn wireguard_stays_and_works_through_all_of_a_meshs_life() {
    let lab = Lab::new(2);
    set_up(&lab);
    stays_through_a_mesh(&lab, shown, || their_ping_works(&lab));
}

/// WireGuard's own packets between two peers of a mesh of everything are encrypted once more.
#[test]
#[ignore = "needs a kernel with ESP: cargo xtask test"]
fn wireguard_between_peers_works_inside_a_mesh_of_all_traffic() {
    let mut lab = Lab::new(2);
    set_up(&lab);
    their_ping_works(&lab);
    lab.mesh.traffic = "kind = \"all\"";
    lab.mesh.guard = "false";
    lab.write_all(&lab.mesh);
    lab.apply_all();
    let capture = lab.capture();
    wait_for("answers through WireGuard", || {
        (ping::answers(lab.host(A), &address(B), 3) == 3).then_some(())
    });
    capture.stop().has_only_esp(6);
}
