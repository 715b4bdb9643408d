//! Packets that a rule of destination NAT sends on to a container: the kernel asks policies fwd.

use std::{net::UdpSocket, process::Command, thread, time::Duration};

use crate::{
    capture::MARKER,
    fixture::{A, B, D, Lab, Underlay},
    icmp_errors,
    namespace::Namespace,
    shell,
    wait::wait_for,
    xfrm,
};

/// The port that host a publishes, and the container's own.
const PORT: u16 = 9999;
/// How many datagrams are sent at a time.
const DATAGRAMS: usize = 3;
const PATIENCE: Duration = Duration::from_secs(60);

/// A container behind host a, with a service that host a publishes.
struct Container {
    namespace: Namespace,
    service: UdpSocket,
}

impl Container {
    fn start(lab: &Lab, underlay: Underlay) -> Self {
        let host = lab.host(A);
        let namespace = Namespace(format!("{}-container", host.0));
        let name = &namespace.0;
        let (gateway, address, length, program, own) = match underlay {
            Underlay::V4 => ("172.17.0.1", "172.17.0.2", 16, "iptables-nft", "172.17.0.2:9999"),
            Underlay::V6 => ("fd00:17::1", "fd00:17::2", 64, "ip6tables-nft", "[fd00:17::2]:9999"),
        };
        shell::ip(&format!("netns add {name}"));
        host.ip_batch(&format!(
            "link add docker0 type veth peer name eth0 netns {name}\n\
             link set docker0 up\naddress add {gateway}/{length} dev docker0 nodad\n"
        ));
        namespace.ip_batch(&format!(
            "link set lo up\nlink set eth0 addrgenmode none\nlink set eth0 up\naddress add {address}/{length} dev eth0 nodad\n\
             route add default via {gateway}\n"
        ));
        host.set_sysctl("ipv4/ip_forward", "1");
        host.set_sysctl("ipv6/conf/all/forwarding", "1");
        let words = format!("-t nat -A PREROUTING -p udp --dport {PORT} -j DNAT --to {own}");
        host.run(Command::new(program).args(words.split(' '))).exits(0);
        let service = namespace.inside(|| UdpSocket::bind(own)).expect("the port is free");
        service.set_read_timeout(Some(PATIENCE)).expect("a timeout can be set");
        Self { namespace, service }
    }

    /// Fails unless datagrams arrive. It answers the last of them.
    #[track_caller]
    fn receives(&self, what: &str) {
        let mut bytes = [0; 100];
        let mut sender = None;
        for _ in 0..DATAGRAMS {
            let (length, from) = self.service.recv_from(&mut bytes).expect(what);
            assert_eq!(&bytes[..length], MARKER);
            sender = Some(from);
        }
        self.service.send_to(MARKER, sender.expect("one was received")).expect("it can be sent");
    }

    /// How many have arrived and were not received yet.
    fn received(&self) -> usize {
        self.service.set_nonblocking(true).expect("a socket can be so");
        let received = (0..).take_while(|_| self.service.recv(&mut [0; 100]).is_ok()).count();
        self.service.set_nonblocking(false).expect("a socket can be so");
        received
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        let words = ["netns", "delete", &self.namespace.0];
        let _ = shell::run(Command::new("ip").args(words));
    }
}

/// Sends datagrams to the port that host a publishes, under an address of the sender.
fn send(lab: &Lab, sender: usize, source: &str) -> UdpSocket {
    let socket = lab
        .host(sender)
        .inside(|| UdpSocket::bind((source.parse::<std::net::IpAddr>().expect("an address"), 0)));
    let socket = socket.expect("the sender has the address");
    socket.set_read_timeout(Some(PATIENCE)).expect("a timeout can be set");
    for _ in 0..DATAGRAMS {
        socket.send_to(MARKER, (lab.address(A).as_str(), PORT)).expect("it can be sent");
    }
    socket
}

/// Fails unless explain tells on host a what becomes of a datagram of a host that is sent on.
#[track_caller]
fn is_told(lab: &Lab, source: &str, under: &str, wanted: &str) {
    let bracketed = |address: &str| match address.contains(':') {
        true => format!("[{address}]"),
        false => address.to_owned(),
    };
    let to = bracketed(&lab.address(A));
    let packet = format!("udp {}:40001 > {to}:{PORT}{under}", bracketed(source));
    let words = ["explain", &packet, "--direction", "fwd", "--format", "json"];
    let document = lab.meshsec(A, &words).exits(0).json();
    assert_eq!(document["verdicts"][0]["verdict"], wanted, "{packet}: {document:#}");
}

/// Host d is not a member, and sends under the address of b.
fn forged_clear_text_is_not_forwarded(underlay: Underlay, traffic: &'static str) {
    let mut lab = Lab::over(&[underlay; 4]);
    lab.mesh.traffic = traffic;
    lab.mesh.guard = "false";
    lab.write_all(&lab.mesh.of_peers(&[A, B]));
    let container = Container::start(&lab, underlay);
    let (peer, length) = (lab.address(B), if underlay == Underlay::V4 { 32 } else { 128 });
    lab.host(D).ip(&format!("address add {peer}/{length} dev eth0 nodad"));
    // Packets sent before all links are up are lost.
    wait_for("datagrams to be forwarded without meshsec", || {
        send(&lab, D, &peer);
        thread::sleep(Duration::from_millis(200));
        (container.received() == DATAGRAMS).then_some(())
    });

    lab.apply(A);
    let mismatches = || xfrm::counters(lab.host(A))["XfrmInTmplMismatch"];
    let before = mismatches();
    send(&lab, D, &peer);
    wait_for("the kernel to refuse clear text under the address of b", || {
        assert_eq!(container.received(), 0, "clear text was forwarded");
        (mismatches() >= before + DATAGRAMS as u64).then_some(())
    });
    assert_eq!(container.received(), 0, "clear text was forwarded");
    is_told(&lab, &peer, "", "refused");
    // A host that is not a peer is served as before.
    is_told(&lab, &lab.address(D), "", "accepted");
    send(&lab, D, &lab.address(D));
    container.receives("from a stranger under its own address");

    lab.host(D).ip(&format!("address delete {peer}/{length} dev eth0"));
    lab.apply(B);
    let capture = lab.capture();
    is_told(&lab, &peer, " under 0x84002001", "accepted");
    let socket = send(&lab, B, &peer);
    container.receives("from b, encrypted");
    let mut bytes = [0; 100];
    let length = socket.recv(&mut bytes).expect("the answer comes back");
    assert_eq!(&bytes[..length], MARKER);
    capture.stop().has_only_esp(DATAGRAMS + 1);
    lab.has_converged(A);
}

#[test]
#[ignore = "needs a kernel with ESP: cargo xtask test"]
fn clear_text_under_a_peers_address_is_not_sent_on_to_a_container() {
    forged_clear_text_is_not_forwarded(Underlay::V4, "kind = \"all\"");
    forged_clear_text_is_not_forwarded(Underlay::V4, "kind = { protocol = \"udp\", port = 9999 }");
}

#[test]
#[ignore = "needs a kernel with ESP: cargo xtask test"]
fn clear_text_over_ipv6_under_a_peers_address_is_not_sent_on_to_a_container() {
    forged_clear_text_is_not_forwarded(Underlay::V6, "kind = \"all\"");
}

/// A packet from b that host a answers by an error, in words for Python; and the error's counter.
type Refused = (&'static str, &'static str);

/// What can't be sent on, and what nobody takes: beyond its last hop, longer than the way to the
/// container takes, or of a protocol that host a has not.
const REFUSED: [(Underlay, [Refused; 3]); 2] = [
    (
        Underlay::V4,
        [
            ("s.setsockopt(0, socket.IP_TTL, 1)", "InTimeExcds"),
            ("s.setsockopt(0, 10, 2); marker *= 80", "InDestUnreachs"),
            ("s = socket.socket(family, socket.SOCK_RAW, 200); port = 0", "InDestUnreachs"),
        ],
    ),
    (
        Underlay::V6,
        [
            ("s.setsockopt(41, socket.IPV6_UNICAST_HOPS, 1)", "InTimeExcds"),
            ("s.setsockopt(41, 23, 2); marker *= 85", "InPktTooBigs"),
            ("s = socket.socket(family, socket.SOCK_RAW, 200); port = 0", "InParmProblems"),
        ],
    ),
];

/// Sends such a packet until its error has arrived.
fn is_refused(lab: &Lab, underlay: Underlay, (how, name): Refused) {
    let errors = || icmp_errors::received(lab.host(B), underlay, name);
    let (before, to) = (errors(), lab.address(A));
    let marker: String = MARKER.iter().map(|byte| format!("{byte:02x}")).collect();
    let script = format!(
        "import socket\n\
         marker, port = bytes.fromhex('{marker}'), {PORT}\n\
         family = socket.AF_INET6 if ':' in '{to}' else socket.AF_INET\n\
         s = socket.socket(family, socket.SOCK_DGRAM)\n\
         {how}\n\
         s.sendto(marker, ('{to}', port))\n"
    );
    wait_for(&format!("{name} over {underlay:?} for {how}"), || {
        // It says so itself once it has heard that the way is narrow.
        lab.host(B).run(Command::new("python3").args(["-c", &script]));
        (errors() > before).then_some(())
    });
}

#[test]
#[ignore = "needs a kernel with ESP: cargo xtask test"]
fn errors_of_every_type_about_what_is_sent_on_show_nothing() {
    for (underlay, refused) in REFUSED {
        let mut lab = Lab::over(&[underlay; 2]);
        lab.mesh.traffic = "kind = \"all\"";
        lab.mesh.guard = "false";
        lab.write_all(&lab.mesh);
        let _container = Container::start(&lab, underlay);
        lab.host(A).ip("link set docker0 mtu 1280");
        let from_a = format!("src host {} and (icmp or icmp6)", lab.address(A));
        for refused in refused {
            let capture = lab.capture();
            is_refused(&lab, underlay, refused);
            assert!(!capture.stop().marked(&from_a).is_empty(), "{refused:?} would be seen");
            lab.apply_all();
            // What b has learned of the way before.
            lab.host(B).ip("route flush cache");
            lab.host(B).ip("-6 route flush cache");
            let capture = lab.capture();
            is_refused(&lab, underlay, refused);
            capture.stop().has_only_esp(2);
            for place in lab.places() {
                lab.meshsec(place, &["destroy", "--auto-approve"]).exits(0);
            }
        }
    }
}
