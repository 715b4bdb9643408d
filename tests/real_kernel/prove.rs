//! Evidence on the wire: proven where all is well, and seen to fail where protection is off.

use std::{
    fs,
    net::UdpSocket,
    process::{Child, Command, Stdio},
};

use serde_json::Value;

use crate::{
    encap::Holder,
    fixture::{A, B, Lab, Underlay, spi, write_secret},
    shell::{self, Ran},
};

/// One probe, and a short look.
const SHORT: [&str; 3] = ["prove", "--count=1", "--wait=300ms"];

fn lab(underlay: Underlay, traffic: &'static str, guard: &'static str) -> Lab {
    let mut lab = Lab::over(&[underlay, underlay]);
    (lab.mesh.traffic, lab.mesh.guard) = (traffic, guard);
    lab.write_all(&lab.mesh);
    lab
}

fn prove(lab: &Lab, place: usize) -> Ran {
    lab.meshsec(place, &SHORT)
}

#[track_caller]
fn document(lab: &Lab, place: usize, status: i32) -> Value {
    let words = [&SHORT[..], &["--format", "json"]].concat();
    lab.meshsec(place, &words).exits(status).json()
}

/// Fails unless host a proves its packets to b, and tcpdump on the switch has seen the packets that the
/// document names.
#[track_caller]
fn is_proven(lab: &Lab, esp: &str) -> Value {
    is_proven_from(lab, [A, B], esp)
}

/// The same of two other hosts.
#[track_caller]
fn is_proven_from(lab: &Lab, [from, to]: [usize; 2], esp: &str) -> Value {
    let capture = lab.capture();
    let document = document(lab, from, 0);
    let recording = capture.stop();
    let peer = &document["peers"][0];
    assert_eq!((&peer["verdict"], &document["proven"]), (&"encrypted".into(), &true.into()));
    let wanted = format!("{:#010x}", spi(1, from, to));
    assert_eq!(peer["out"]["spi"], wanted.as_str());
    let seen = recording.packets(esp);
    for header in peer["out"]["headers"].as_array().expect("a list") {
        let header = header.as_str().expect("a text");
        let number = u32::from_str_radix(&header[8..], 16).expect("a sequence number");
        assert_eq!(&header[..8], &wanted[2..]);
        let text = format!("spi={wanted},seq={number:#x}");
        assert!(seen.iter().any(|line| line.contains(&text)), "{text}: {seen:#?}");
    }
    document
}

#[test]
#[ignore = "needs a kernel with ESP: cargo xtask test"]
fn a_healthy_tunnel_and_its_guard_are_proven() {
    let lab = lab(Underlay::V4, "kind = \"vxlan\"", "true");
    lab.apply_all();
    let document = is_proven(&lab, "esp");
    assert_eq!(document["guard"]["verdict"], "blocked");
    assert_eq!(document["peers"][0]["control"], true);
    lab.meshsec(B, &SHORT).exits(0).says("Proven: packets to the peer left encrypted.");
}

#[test]
#[ignore = "needs a kernel with ESP: cargo xtask test"]
fn geneve_over_ipv6_and_a_mark_are_proven() {
    let of_geneve = lab(Underlay::V6, "kind = \"geneve\"", "\"xfrm\"");
    of_geneve.apply_all();
    let document = is_proven(&of_geneve, "esp");
    assert_eq!(document["guard"]["verdict"], "blocked");
    let by_mark = lab(Underlay::V4, "kind = \"vxlan\"\nselect = \"mark\"", "true");
    by_mark.apply_all();
    assert_eq!(is_proven(&by_mark, "esp")["guard"]["verdict"], "blocked");
}

#[test]
#[ignore = "needs a kernel with ESP: cargo xtask test"]
fn ports_of_tcp_and_udp_are_proven() {
    for (underlay, traffic) in [
        (Underlay::V4, "kind = { protocol = \"tcp\", port = 443 }"),
        (Underlay::V6, "kind = { protocol = \"udp\", port = 5000 }"),
    ] {
        let lab = lab(underlay, traffic, "false");
        prove(&lab, A).exits(2).says("in the clear");
        lab.apply_all();
        assert_eq!(is_proven(&lab, "esp")["guard"], Value::Null);
    }
}

#[test]
#[ignore = "needs a kernel with ESP: cargo xtask test"]
fn all_traffic_is_proven_beside_its_exceptions_and_in_udp() {
    let mut lab = lab(Underlay::V6, "kind = \"all\"", "false");
    lab.mesh.tail = "\n[[except]]\nprotocol = \"tcp\"\nport = 22\nserves = [\"*\"]\n";
    lab.write_all(&lab.mesh);
    lab.apply_all();
    let document = is_proven(&lab, "esp");
    assert_eq!(document["excepted"], serde_json::json!(["tcp port 22"]));
    lab.mesh.tail = "";
    lab.mesh.esp = "encap = 4500";
    lab.write_all(&lab.mesh);
    let _holders = [A, B].map(|place| Holder::start(lab.host(place), Underlay::V6, 4500));
    lab.apply_all();
    let document = is_proven(&lab, "udp port 4500");
    assert_eq!(document["peers"][0]["out"]["encap"], 4500);
}

/// With the policies alone as a guard.
#[test]
#[ignore = "needs a kernel with ESP: cargo xtask test"]
fn a_flush_a_foreign_policy_and_a_sysctl_are_seen_in_the_clear() {
    let lab = lab(Underlay::V4, "kind = \"vxlan\"", "\"xfrm\"");
    lab.apply_all();
    lab.host(A).ip("xfrm policy flush");
    prove(&lab, A).exits(2).says("in the clear").says("guard did not refuse");
    lab.apply(A);
    let foreign = "src 192.0.2.0/24 dst 192.0.2.0/24 proto udp dport 4789 dir out";
    lab.host(A).ip(&format!("xfrm policy add {foreign} priority 1"));
    prove(&lab, A).exits(2).says("the probe could be read in 1 packet that left by eth0");
    lab.host(A).ip(&format!("xfrm policy delete {foreign}"));
    prove(&lab, A).exits(0);
    lab.host(A).set_sysctl("ipv4/conf/eth0/disable_xfrm", "1");
    prove(&lab, A).exits(2).says("in the clear");
}

#[test]
#[ignore = "needs a kernel with ESP: cargo xtask test"]
fn what_is_blocked_is_not_proven() {
    let lab = lab(Underlay::V4, "kind = \"vxlan\"", "true");
    lab.apply_all();
    // The second guard refuses what the policies do not protect any more.
    lab.host(A).ip("xfrm policy flush");
    prove(&lab, A).exits(2).says("blocked").says("(EPERM)").lacks("in the clear");
    lab.apply(A);
    lab.host(A).ip("xfrm state flush");
    prove(&lab, A).exits(2).says("blocked").says("the host dropped the probes");
    lab.apply(A);
    // The other host does not matter for what leaves.
    lab.host(B).ip("xfrm state flush");
    prove(&lab, A).exits(0);
}

#[test]
#[ignore = "needs a kernel with ESP: cargo xtask test"]
fn a_guard_that_is_gone_is_not_proven_though_peers_are() {
    let lab = lab(Underlay::V4, "kind = \"vxlan\"", "\"xfrm\"");
    lab.apply_all();
    for any in ["0.0.0.0/0", "::/0"] {
        lab.host(A)
            .ip(&format!("xfrm policy delete src {any} dst {any} proto udp dport 4789 dir out"));
    }
    let document = document(&lab, A, 2);
    assert_eq!(document["peers"][0]["verdict"], "encrypted");
    assert_ne!(document["guard"]["verdict"], "blocked");
}

#[test]
#[ignore = "needs a kernel with ESP: cargo xtask test"]
fn another_generation_and_another_mesh_prove_nothing_of_this_one() {
    let lab = lab(Underlay::V4, "kind = { protocol = \"udp\", port = 5000 }", "false");
    lab.apply_all();
    // The file asks for the next one, and the kernel has this one.
    lab.write(A, &lab.mesh.of_generation(2));
    prove(&lab, A).exits(2).says("ESP left under SPI 0x84001002");
    // The SAs of another mesh of the same hosts.
    let mut other = lab.mesh.renamed("other", 10);
    other.traffic = "kind = { protocol = \"udp\", port = 6000 }";
    lab.write_all(&other);
    lab.apply_all();
    prove(&lab, A).exits(0).says("0x8400b00c");
    lab.write_all(&lab.mesh);
    prove(&lab, A).exits(0).says("0x84001002");
    let own = format!("dst 192.0.2.2 proto esp spi {:#x}", spi(1, A, B));
    lab.host(A).ip(&format!("xfrm state delete src 192.0.2.1 {own}"));
    prove(&lab, A).exits(2).says("blocked");
}

#[test]
#[ignore = "needs a kernel with ESP: cargo xtask test"]
fn stages_are_told_and_before_send_nothing_is_proven() {
    let lab = lab(Underlay::V4, "kind = { protocol = \"udp\", port = 5000 }", "false");
    lab.write_all(&lab.mesh.at("receive"));
    lab.apply_all();
    prove(&lab, A).exits(2).says("clear as asked").lacks("in the clear, ");
    lab.write_all(&lab.mesh.at("send"));
    lab.apply_all();
    prove(&lab, A).exits(0).says("packets in the clear are still taken in from b");
}

#[test]
#[ignore = "needs a kernel with ESP: cargo xtask test"]
fn both_directions_are_proven_by_the_documents_of_two_hosts() {
    let lab = lab(Underlay::V4, "kind = \"vxlan\"", "true");
    lab.apply_all();
    let path = |name: &str| lab.directory().join(name);
    let mut files = Vec::new();
    for place in [A, B] {
        let file = path(&format!("{place}.json"));
        fs::write(&file, document(&lab, place, 0).to_string()).expect("it can be written");
        files.push(file);
    }
    let compare = || {
        let mut command = Command::new(env!("CARGO_BIN_EXE_meshsec"));
        shell::run(command.args(["prove", "--compare"]).args(&files))
    };
    let ran = compare().exits(0).says("Proven in both directions.");
    ran.says("a to b: encrypted, SPI 0x84001002").says("the same key");
    // b gets other keys. Packets of both hosts leave encrypted as before.
    write_secret(&lab.file(B).with_file_name("mesh.key"), &"77".repeat(32));
    lab.apply(B);
    fs::write(&files[1], document(&lab, B, 0).to_string()).expect("it can be written");
    compare().exits(2).says("the hosts have different keys").says("Not proven.");
}

/// In place of prove's own time: the process stands still while others flood the host.
fn stopped_while<T>(lab: &Lab, work: impl FnOnce() -> T + Send) -> Ran
where
    T: Send,
{
    let mut command = lab.command(A, &["prove", "--count=1", "--wait=4s"]);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let child = command.spawn().expect("it runs");
    let capturing = || {
        let sockets = lab.host(A).proc_net("packet");
        (sockets.lines().count() > 1).then_some(())
    };
    crate::wait::wait_for("a packet socket", capturing);
    std::thread::sleep(std::time::Duration::from_millis(500));
    signal(&child, "STOP");
    work();
    signal(&child, "CONT");
    Ran::of(&command, child.wait_with_output().expect("it ends"))
}

fn signal(child: &Child, name: &str) {
    shell::run(Command::new("kill").args([&format!("-{name}"), &child.id().to_string()])).exits(0);
}

#[test]
#[ignore = "needs a kernel with ESP: cargo xtask test"]
fn a_capture_that_was_flooded_proves_nothing() {
    let lab = lab(Underlay::V4, "kind = \"vxlan\"", "true");
    lab.apply_all();
    let flood = || {
        lab.host(A).inside(|| {
            let socket = UdpSocket::bind("127.0.0.1:0").expect("lo is up");
            for _ in 0..1500 {
                let _ = socket.send_to(&[0; 60_000], "127.0.0.1:9");
            }
        });
    };
    let ran = stopped_while(&lab, flood);
    ran.exits(2).says("not seen").says("the capture lost");
}

#[test]
#[ignore = "needs a kernel with ESP: cargo xtask test"]
fn a_device_that_is_down_or_has_no_carrier_proves_nothing() {
    let lab = lab(Underlay::V4, "kind = \"vxlan\"", "true");
    lab.apply_all();
    lab.wire.ip("link set port0 down");
    // The kernel takes some time to see that (`linkwatch_event`), and gives packets to the driver
    // until then.
    crate::wait::wait_for("the device to be without a carrier", || {
        (!lab.host(A).ip("-o link show eth0").contains("state UP")).then_some(())
    });
    document(&lab, A, 2);
    lab.wire.ip("link set port0 up");
    lab.host(A).ip("link set eth0 down");
    prove(&lab, A).exits(2).says("there is no route");
    lab.host(A).ip("link set eth0 up");
    // While it runs: what was seen before stays seen.
    let ran = stopped_while(&lab, || lab.host(A).ip("link set eth0 down"));
    assert!(ran.status == 0 || ran.status == 2, "{ran}");
}

/// The uplink is in a VRF, by which packets leave.
#[test]
#[ignore = "needs a kernel with ESP: cargo xtask test"]
fn packets_that_leave_by_a_vrf_are_proven() {
    for traffic in ["kind = \"vxlan\"", "kind = \"all\""] {
        let guard = if traffic.contains("vxlan") { "true" } else { "false" };
        let lab = lab(Underlay::V4, traffic, guard);
        lab.host(B).ip_batch(
            "link add red type vrf table 10\nlink set red up\nlink set vxlan42 down\n\
             link set eth0 master red\nlink set vxlan42 up\n\
             neigh replace 192.0.2.1 lladdr 02:00:5e:00:00:01 dev eth0\n",
        );
        lab.apply_all();
        let document = is_proven_from(&lab, [B, A], "esp");
        assert_eq!(document["capture"]["devices"], serde_json::json!(["eth0"]));
    }
}
