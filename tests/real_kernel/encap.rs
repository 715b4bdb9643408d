//! ESP in UDP: on the wire, from plain ESP and back, through port forwards, and with the socket that
//! takes it in.

use std::{
    io::{BufRead, BufReader},
    net::UdpSocket,
    process::{Child, Command, Stdio},
    time::Duration,
};

use crate::{
    capture::{MARKER, Recording},
    fixture::{A, B, C, Lab, Underlay, VXLAN, inner},
    link,
    namespace::Namespace,
    ping::{self, Stream},
    random::Random,
    shell,
    traffic::Tcp,
    xfrm,
};

const PORT: u16 = 4500;

/// In place of systemd: opens a socket as descriptor 3, runs a program that finds it there, and holds
/// it. The words are the family, the address, the port and the program.
const HOLD: &str = "
import os, socket, sys, time
family, address, port, program = sys.argv[1:]
family = socket.AF_INET6 if family == '6' else socket.AF_INET
held = socket.socket(family, socket.SOCK_DGRAM)
if family == socket.AF_INET6:
    held.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
held.bind((address, int(port)))
os.dup2(held.fileno(), 3) if held.fileno() != 3 else os.set_inheritable(3, True)
child = os.fork()
if child == 0:
    os.environ['LISTEN_PID'], os.environ['LISTEN_FDS'] = str(os.getpid()), '1'
    os.execv(program, [program, 'encap-socket'])
assert os.waitpid(child, 0)[1] == 0
print('ready', flush=True)
time.sleep(3600)
";

/// A socket that takes ESP out of UDP, as long as this lives.
pub struct Holder(Child);

impl Holder {
    pub fn start(host: &Namespace, underlay: Underlay, port: u16) -> Self {
        let (family, any) = match underlay {
            Underlay::V4 => ("4", "0.0.0.0"),
            Underlay::V6 => ("6", "::"),
        };
        let mut command = Command::new("python3");
        command.args(["-c", HOLD, family, any, &port.to_string()]);
        command.arg(env!("CARGO_BIN_EXE_meshsec")).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = host.spawn(&mut command);
        let mut said = String::new();
        let output = child.stdout.take().expect("it is piped");
        BufReader::new(output).read_line(&mut said).expect("it speaks UTF-8");
        assert_eq!(said, "ready\n", "the socket is set up");
        Self(child)
    }

    fn on_all(lab: &Lab, underlay: Underlay) -> Vec<Self> {
        lab.places().map(|place| Self::start(lab.host(place), underlay, PORT)).collect()
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn lab(underlay: Underlay) -> Lab {
    let mut lab = Lab::over(&[underlay, underlay]);
    lab.mesh.esp = "encap = 4500";
    lab.mesh.link = "device = \"vxlan42\"\nmtu = \"auto\"";
    lab.write_all(&lab.mesh);
    lab
}

/// Whether two hosts' traffic is in UDP alone, and cannot be read.
fn is_in_udp(lab: &Lab) {
    let capture = lab.capture();
    lab.reaches(A, B);
    lab.reaches(B, A);
    let recording = capture.stop();
    recording.is_closed();
    recording.has_none("esp");
    let datagrams = recording.packets(&format!("udp port {PORT}")).len();
    assert!(datagrams >= 12, "{datagrams} datagrams");
}

fn traffic_is_in_udp(underlay: Underlay, largest: usize) {
    let lab = lab(underlay);
    for place in lab.places() {
        lab.host(place).ip(&format!("link set {VXLAN} type vxlan id 42 df set"));
        lab.apply(place).says("in UDP port 4500").says(
            "ESP that peers send to UDP port 4500 is lost, as no socket of this host takes it",
        );
    }
    lab.does_not_reach(A, B);
    let status = lab.meshsec(A, &["status", "--format", "json"]).exits(2).json();
    assert_eq!(status["encap"]["answers"], "no");
    assert_eq!(status["encap"]["bound"], false);
    assert_eq!(status["exit"]["reasons"][0]["code"], "never_heard");
    lab.meshsec(A, &["status"]).exits(2).says("ESP in UDP port 4500: no socket takes it");

    let _holders = Holder::on_all(&lab, underlay);
    is_in_udp(&lab);
    for place in lab.places() {
        let plan = lab.meshsec(place, &["plan", "--detailed-exitcode"]).exits(0);
        plan.says("No changes.").lacks("socket");
        let status = lab.meshsec(place, &["status", "--format", "json"]).exits(0).json();
        assert_eq!(status["encap"]["answers"], "yes");
    }
    // To the byte.
    assert_eq!(link::mtu(&lab, A, VXLAN), largest.to_string());
    for (length, passes) in [(largest, true), (largest + 1, false)] {
        for place in lab.places() {
            lab.host(place).ip(&format!("link set {VXLAN} mtu 1430"));
        }
        assert_eq!(link::ping(&lab, length), passes, "{length} bytes");
    }
    // A snapshot tells of the socket elsewhere.
    let file = lab.directory().join("a.json");
    std::fs::write(&file, lab.meshsec(A, &["snapshot"]).exits(0).stdout).expect("it is written");
    let plan = ["plan", "--live", file.to_str().expect("a path")];
    lab.meshsec(B, &plan).exits(0).lacks("socket");
    for place in lab.places() {
        lab.meshsec(place, &["destroy", "--auto-approve"]).exits(0);
        assert_eq!(xfrm::databases(lab.host(place)), "");
    }
}

#[test]
#[ignore = "needs a kernel with ESP: cargo xtask test"]
fn over_ipv4_traffic_is_in_udp_and_is_lost_without_a_socket() {
    traffic_is_in_udp(Underlay::V4, 1408);
}

#[test]
#[ignore = "needs a kernel with ESP: cargo xtask test"]
fn over_ipv6_traffic_is_in_udp_and_is_lost_without_a_socket() {
    traffic_is_in_udp(Underlay::V6, 1388);
}

#[test]
#[ignore = "needs a kernel with ESP: cargo xtask test"]
fn a_running_mesh_goes_into_udp_and_loses_nothing() {
    let mut lab = Lab::new(3);
    lab.mesh.link = "device = \"vxlan42\"";
    lab.mesh.generation = 10;
    lab.write_all(&lab.mesh);
    lab.apply_all();
    let pairs = [(A, B), (B, C), (C, A)];
    pairs.iter().for_each(|&(from, to)| lab.reaches(from, to));
    let before: Vec<_> = lab.places().map(|place| xfrm::counters(lab.host(place))).collect();
    let capture = lab.capture();
    let floods = pairs.map(|(from, to)| Stream::flood(&lab, from, to));
    let tcp = Tcp::start(&lab, A, B);
    let mut random = Random::new();
    lab.mesh.esp = "encap = { port = 4500, from = 12 }";
    let _holders = Holder::on_all(&lab, Underlay::V4);
    for generation in [10, 11, 12, 13] {
        lab.write_all(&lab.mesh.of_generation(generation));
        if generation == 10 {
            lab.meshsec(A, &["plan"]).exits(0).says("in UDP port 4500 from generation 12");
        }
        lab.all_at_random(&mut random, &["apply", "--auto-approve"]);
        tcp.wait_for_more();
        lab.places().for_each(|place| lab.has_converged(place));
    }
    tcp.all_arrived();
    floods.into_iter().for_each(Stream::lost_nothing);
    let recording = capture.stop();
    recording.is_closed();
    for form in ["esp", "udp port 4500"] {
        assert!(recording.packets(form).len() > 200, "both forms were in use");
    }
    for (before, place) in before.iter().zip(lab.places()) {
        let mut moved = xfrm::moved(before, &xfrm::counters(lab.host(place)));
        // The looks for a socket.
        moved.remove("XfrmInNoStates");
        // A packet on a cached route that a policy change has just dropped.
        moved.remove("XfrmInError");
        assert!(moved.is_empty(), "{moved:?}");
    }
    // Without the key it is a cut, which the plan announces.
    lab.mesh.esp = "";
    lab.write_all(&lab.mesh.of_generation(13));
    lab.meshsec(A, &["plan"]).exits(0).says("until both ends agree on ESP in UDP, by this file");
    lab.apply_all();
    lab.reaches(A, B);
    assert_eq!(link::mtu(&lab, A, VXLAN), "1416");
}

fn everything_is_in_udp(underlay: Underlay) {
    let mut lab = lab(underlay);
    lab.mesh.traffic = "kind = \"all\"";
    lab.mesh.guard = "false";
    lab.mesh.link = "";
    lab.write_all(&lab.mesh);
    let _holders = Holder::on_all(&lab, underlay);
    lab.apply_all();
    lab.places().for_each(|place| lab.has_converged(place));
    let capture = lab.capture();
    let to_b = lab.address(B);
    assert_eq!(ping::answers(lab.host(A), &to_b, 5), 5);
    assert_eq!(ping::answers(lab.host(B), &lab.address(A), 5), 5);
    let recording = capture.stop();
    recording.is_closed();
    recording.has_none("esp or icmp");
    // Clear datagrams of a peer come in at that port alone, and nobody gets them.
    let status = lab.meshsec(B, &["show"]).exits(0);
    status.says("ESP in UDP").says("proto udp dport 4500 dir in");
    lab.host(A).ip("xfrm policy flush");
    let listen = |port: u16| {
        let socket = lab.host(B).inside(|| UdpSocket::bind((to_b.as_str(), port)));
        let socket = socket.expect("the port is free");
        socket.set_read_timeout(Some(Duration::from_millis(300))).expect("a timeout can be set");
        socket
    };
    let other = listen(4501);
    let from_a = lab.host(A).inside(|| UdpSocket::bind((lab.address(A), 4500)));
    assert!(from_a.is_err(), "the socket that takes ESP has the port");
    let from_a = lab.host(A).inside(|| UdpSocket::bind((lab.address(A), 0))).expect("a port");
    for port in [4500, 4501] {
        from_a.send_to(MARKER, (to_b.as_str(), port)).expect("it is sent");
    }
    assert!(other.recv(&mut [0; 64]).is_err(), "clear text of the peer is refused");
    lab.apply(A);
    assert_eq!(ping::answers(lab.host(A), &to_b, 3), 3);
    for place in lab.places() {
        lab.meshsec(place, &["destroy", "--auto-approve"]).exits(0);
        assert_eq!(xfrm::databases(lab.host(place)), "");
    }
}

#[test]
#[ignore = "needs a kernel with ESP: cargo xtask test"]
fn all_traffic_over_ipv4_is_in_udp() {
    everything_is_in_udp(Underlay::V4);
}

#[test]
#[ignore = "needs a kernel with ESP: cargo xtask test"]
fn all_traffic_over_ipv6_is_in_udp() {
    everything_is_in_udp(Underlay::V6);
}

/// The keepalives of a host that sends nothing else. The policies of kind "all" are for them too, so
/// that they are in ESP, which is in UDP.
fn keepalives(recording: &Recording, from: &str, is_encrypted: bool) -> usize {
    let length = if is_encrypted { 52 } else { 9 };
    recording.packets(&format!("src host {from} and udp port {PORT} and udp[4:2] = {length}")).len()
}

/// Whether this kernel sends keepalives, by its counters of directions.
fn sends_keepalives() -> bool {
    let counters = std::fs::read_to_string("/proc/net/xfrm_stat").expect("it counts");
    counters.contains("XfrmOutStateDirError")
}

fn a_silent_host_sends_keepalives(traffic: &'static str) {
    let mut lab = lab(Underlay::V4);
    lab.mesh.traffic = traffic;
    let is_all = traffic.contains("all");
    if is_all {
        lab.mesh.guard = "false";
    }
    lab.mesh.link = "";
    lab.mesh.esp = "encap = { port = 4500, keepalive = \"1s\" }\nesn = true\nreplay_window = 64";
    lab.write_all(&lab.mesh);
    let _holders = Holder::on_all(&lab, Underlay::V4);
    lab.apply_all();
    lab.places().for_each(|place| lab.has_converged(place));
    let to_b = lab.address(B);
    let reached = |lab: &Lab| match is_all {
        true => assert_eq!(ping::answers(lab.host(A), &to_b, 2), 2),
        false => lab.reaches(A, B),
    };
    reached(&lab);
    let capture = lab.capture();
    std::thread::sleep(Duration::from_secs(4));
    let recording = capture.stop();
    recording.is_closed();
    let plan = lab.meshsec(A, &["plan", "--detailed-exitcode"]).exits(0);
    if !sends_keepalives() {
        plan.says("this kernel sends no NAT keepalives (Linux 6.11 and later do)");
        assert_eq!(keepalives(&recording, &lab.address(A), is_all), 0);
        return;
    }
    plan.lacks("no NAT keepalives").lacks("not known");
    for place in lab.places() {
        let sent = keepalives(&recording, &lab.address(place), is_all);
        assert!((2..=5).contains(&sent), "{sent} in four seconds");
    }
    lab.meshsec(A, &["show"]).exits(0).says("keepalive 1s");
    // They go with the file, and come back, and the numbers go on: the peer has a replay window.
    let with = lab.mesh.clone();
    lab.mesh.esp = "encap = 4500\nesn = true\nreplay_window = 64";
    for mesh in [lab.mesh.clone(), with] {
        lab.write_all(&mesh);
        lab.meshsec(A, &["plan"]).exits(0).says("its NAT keepalives differ");
        lab.apply_all();
        lab.places().for_each(|place| lab.has_converged(place));
        reached(&lab);
    }
    lab.meshsec(A, &["destroy", "--auto-approve"]).exits(0);
    assert_eq!(xfrm::databases(lab.host(A)), "");
}

#[test]
#[ignore = "needs a kernel with ESP: cargo xtask test"]
fn a_silent_host_of_a_tunnel_sends_keepalives() {
    a_silent_host_sends_keepalives("kind = \"vxlan\"");
}

#[test]
#[ignore = "needs a kernel with ESP: cargo xtask test"]
fn a_silent_host_of_kind_all_sends_keepalives() {
    a_silent_host_sends_keepalives("kind = \"all\"");
}

/// A router on the switch, before a host. It forwards a port of its own to the host's port 4500.
struct Router(Namespace);

impl Router {
    /// Takes the host off the switch and gives it the inner address 10.0.N.2.
    fn before(lab: &Lab, place: usize, outer: &str, port: u16) -> Self {
        let number = place + 1;
        let (host, router) = (lab.host(place), Namespace(format!("{}r", lab.host(place).0)));
        shell::ip(&format!("netns add {}", router.0));
        shell::ip(&format!(
            "link add eth0 netns {} type veth peer name nat{number} netns {}",
            router.0, lab.wire.0
        ));
        lab.wire.ip(&format!("link set nat{number} master br0 up"));
        host.ip("link set eth0 down");
        host.ip(&format!("link add eth1 type veth peer name eth1 netns {}", router.0));
        router.ip_batch(&format!(
            "link set lo up\nlink set eth0 up\naddress add {outer}/24 dev eth0\n\
             link set eth1 up\naddress add 10.0.{number}.1/24 dev eth1\n"
        ));
        host.ip_batch(&format!(
            "link set eth1 up\naddress add 10.0.{number}.2/24 dev eth1\n\
             route add default via 10.0.{number}.1\n"
        ));
        router.set_sysctl("ipv4/ip_forward", "1");
        for rule in [
            format!("PREROUTING -i eth0 -p udp --dport {port} -j DNAT --to 10.0.{number}.2:4500"),
            format!("POSTROUTING -o eth0 -p udp --sport 4500 -j SNAT --to {outer}:{port}"),
        ] {
            let mut command = Command::new("iptables-nft");
            command.args(["-w", "-t", "nat", "-A"]).args(rule.split(' '));
            router.run(&mut command).exits(0);
        }
        Self(router)
    }
}

impl Drop for Router {
    fn drop(&mut self) {
        let _ = shell::run(Command::new("ip").args(["netns", "delete", &self.0.0]));
    }
}

/// Points a host's VXLAN device at another's address.
fn send_to(lab: &Lab, place: usize, local: Option<&str>, other: usize, remote: &str) {
    let host = lab.host(place);
    if let Some(local) = local {
        host.ip(&format!("link delete {VXLAN}"));
        host.ip_batch(&format!(
            "link add {VXLAN} address {} mtu 1400 type vxlan id 42 dstport 4789 local {local} \
             nolearning\nlink set {VXLAN} up\naddress add {}/24 dev {VXLAN}\n\
             neigh add {} lladdr {} dev {VXLAN}\n",
            crate::fixture::inner_mac(place),
            inner(place),
            inner(other),
            crate::fixture::inner_mac(other),
        ));
    } else {
        let mac = crate::fixture::inner_mac(other);
        host.batch("bridge", &format!("fdb delete {mac} dev {VXLAN}\n"));
    }
    let mac = crate::fixture::inner_mac(other);
    host.batch("bridge", &format!("fdb add {mac} dev {VXLAN} dst {remote}\n"));
}

#[test]
#[ignore = "needs a kernel with ESP: cargo xtask test"]
fn a_host_behind_a_port_forward_is_a_peer() {
    let mut lab = lab(Underlay::V4);
    let _router = Router::before(&lab, B, "192.0.2.50", 4777);
    lab.mesh.peers[B].address = "10.0.2.2".into();
    lab.mesh.peers[B].outside = Some("192.0.2.50:4777");
    lab.write_all(&lab.mesh);
    send_to(&lab, A, None, B, "192.0.2.50");
    send_to(&lab, B, Some("10.0.2.2"), A, "192.0.2.1");
    let _holders = Holder::on_all(&lab, Underlay::V4);
    lab.apply(A).lacks("has no address").lacks("no peer has");
    lab.apply(B);
    let capture = lab.capture();
    // The host behind the router speaks first, and the other one.
    lab.reaches(B, A);
    lab.reaches(A, B);
    let tcp = Tcp::start(&lab, A, B);
    tcp.wait_for_more();
    tcp.all_arrived();
    let recording = capture.stop();
    recording.is_closed();
    recording.has_none("esp");
    for place in lab.places() {
        lab.has_converged(place);
        lab.meshsec(place, &["status"]).exits(0).says("1 protected");
    }
    // A new generation, while packets flow.
    let stream = Stream::start(&lab, A, B);
    lab.write_all(&lab.mesh.of_generation(2));
    lab.apply(B);
    stream.wait_for_more(5);
    lab.apply(A);
    stream.wait_for_more(5);
    stream.lost_nothing();
}

#[test]
#[ignore = "needs a kernel with ESP: cargo xtask test"]
fn both_hosts_may_be_behind_port_forwards() {
    let mut lab = lab(Underlay::V4);
    let outer = [("192.0.2.50", 4500, "192.0.2.50:4500"), ("192.0.2.51", 4777, "192.0.2.51:4777")];
    let _routers: Vec<Router> = lab
        .places()
        .zip(outer)
        .map(|(place, (address, port, _))| Router::before(&lab, place, address, port))
        .collect();
    for place in lab.places() {
        lab.mesh.peers[place].address = format!("10.0.{}.2", place + 1);
        lab.mesh.peers[place].outside = Some(outer[place].2);
    }
    lab.write_all(&lab.mesh);
    send_to(&lab, A, Some("10.0.1.2"), B, "192.0.2.51");
    send_to(&lab, B, Some("10.0.2.2"), A, "192.0.2.50");
    let _holders = Holder::on_all(&lab, Underlay::V4);
    lab.apply_all();
    lab.reaches(A, B);
    lab.reaches(B, A);
    lab.places().for_each(|place| lab.has_converged(place));
}

#[test]
#[ignore = "needs a kernel with ESP: cargo xtask test"]
fn a_socket_of_another_program_is_told_from_one_that_takes_esp() {
    let lab = lab(Underlay::V4);
    lab.apply_all();
    let taken = lab.host(A).inside(|| UdpSocket::bind(("0.0.0.0", PORT)).expect("it is free"));
    lab.meshsec(A, &["plan"]).exits(0).says("a socket has that port, but ESP does not get from it");
    let status = lab.meshsec(A, &["status", "--format", "json"]).exits(2).json();
    assert_eq!(
        (&status["encap"]["answers"], &status["encap"]["bound"]),
        (&"no".into(), &true.into())
    );
    drop(taken);
    let _holder = Holder::start(lab.host(B), Underlay::V4, PORT);
    lab.meshsec(B, &["plan"]).exits(0).lacks("socket");
}

/// Packets that come by a VRF get to sockets of that VRF, unless a sysctl says otherwise.
#[test]
#[ignore = "needs a kernel with ESP: cargo xtask test"]
fn a_socket_outside_of_the_vrf_of_the_address_takes_no_esp() {
    for underlay in [Underlay::V4, Underlay::V6] {
        let lab = lab(underlay);
        lab.host(B).ip_batch(
            "link add red type vrf table 10\nlink set red up\nlink set eth0 master red\n\
             address replace 2001:db8::2/64 dev eth0 nodad\n",
        );
        let _holders = Holder::on_all(&lab, underlay);
        lab.apply(B);
        let status = || lab.meshsec(B, &["status", "--format", "json"]).json();
        assert_eq!(status()["encap"]["answers"], "no", "{underlay:?}");
        lab.host(B).set_sysctl("ipv4/udp_l3mdev_accept", "1");
        assert_eq!(status()["encap"]["answers"], "yes", "{underlay:?}");
    }
}
