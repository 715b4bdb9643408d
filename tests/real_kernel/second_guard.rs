//! The second guard: rules that drop all packets that the mesh's own SAs have not protected, and
//! that outlive the policies. Each test sees first that the policies alone let the packets through.

use std::process::Command;

use crate::{
    capture::MARKER,
    fixture::{A, B, D, Lab, Underlay},
    inject,
    iptables::Backend,
    namespace::Namespace,
    shell::Ran,
    xfrm,
};

/// `guard` in mesh.toml: the policies alone, or the rules too.
const POLICIES: &str = "\"xfrm\"";
const BOTH: &str = "true";

/// A mesh of hosts a and b, with this guard, and with host d as a stranger on the same switch.
fn lab(underlay: Underlay, backend: Backend, guard: &'static str) -> Lab {
    let mut lab = Lab::over(&[underlay; 4]);
    backend.is_the_systems(&mut lab);
    lab.mesh = lab.mesh.of_peers(&[A, B]);
    lab.mesh.guard = guard;
    for place in [A, B] {
        lab.write(place, &lab.mesh);
        lab.apply(place);
        lab.has_converged(place);
    }
    lab.reaches(A, B);
    lab
}

#[test]
#[ignore = "needs a kernel with ESP: cargo xtask test"]
fn a_flush_of_all_policies_opens_nothing() {
    for (underlay, backend) in [
        (Underlay::V4, Backend::Nft),
        (Underlay::V6, Backend::Nft),
        (Underlay::V4, Backend::Legacy),
        (Underlay::V6, Backend::Legacy),
    ] {
        let lab = lab(underlay, backend, BOTH);
        for place in [A, B] {
            lab.host(place).ip("xfrm policy flush");
        }
        let capture = lab.capture();
        lab.does_not_reach(A, B);
        lab.does_not_reach(B, A);
        lab.does_not_reach(A, D);
        capture.stop().is_closed();
        lab.meshsec(A, &["plan"])
            .exits(0)
            .says("packets to b are blocked until meshsec apply runs");
        lab.apply(A);
        lab.apply(B);
        lab.reaches(A, B);
    }
}

#[test]
#[ignore = "needs a kernel with ESP: cargo xtask test"]
fn without_the_rules_a_flush_of_all_policies_sends_everything_in_the_clear() {
    let lab = lab(Underlay::V4, Backend::Nft, POLICIES);
    for place in [A, B] {
        lab.host(place).ip("xfrm policy flush");
    }
    let capture = lab.capture();
    lab.reaches(A, B);
    capture.stop().has_clear(6);
    lab.meshsec(A, &["plan"])
        .exits(0)
        .says("packets to b leave in the clear until meshsec apply runs");
}

/// Sends one datagram to the tunnel's port from a raw socket, which names no port to policies.
fn send_raw(host: &Namespace, to: &str) -> Ran {
    let marker: String = MARKER.iter().map(|byte| format!("{byte:02x}")).collect();
    let script = format!(
        "import socket, struct\n\
         marker = bytes.fromhex('{marker}')\n\
         family = socket.AF_INET6 if ':' in '{to}' else socket.AF_INET\n\
         raw = socket.socket(family, socket.SOCK_RAW, socket.IPPROTO_UDP)\n\
         header = struct.pack('!HHHH', 49152, 4789, 8 + len(marker), 0)\n\
         raw.sendto(header + marker, ('{to}', 0))\n"
    );
    host.run(Command::new("python3").args(["-c", &script]))
}

#[test]
#[ignore = "needs a kernel with ESP: cargo xtask test"]
fn a_raw_socket_sends_nothing_to_a_peer_or_a_stranger() {
    for underlay in [Underlay::V4, Underlay::V6] {
        let lab = lab(underlay, Backend::Nft, BOTH);
        let capture = lab.capture();
        for to in [B, D] {
            let ran = send_raw(lab.host(A), &lab.address(to));
            assert!(ran.stderr.contains("Operation not permitted"), "{ran}");
        }
        capture.stop().is_closed();
    }
}

/// Rules that were saved with another's ahead of the mesh's, and came back when the other backend
/// had become the system's.
#[test]
#[ignore = "needs a kernel with ESP: cargo xtask test"]
fn a_raw_socket_sends_nothing_where_a_rule_accepts_in_the_systems_backend_alone() {
    for system in Backend::BOTH {
        let mut lab = lab(Underlay::V4, system, BOTH);
        let saved = system.saved(lab.host(A));
        system.other().is_the_systems(&mut lab);
        lab.apply(A);
        system.restore(lab.host(A), Underlay::V4, mangle(&saved));
        system.tables(lab.host(A), Underlay::V4, "-t mangle -I OUTPUT -p udp -j ACCEPT");
        system.is_the_systems(&mut lab);
        let kept = format!("Until then chain iptables-{} -t mangle", system.other().suffix());
        lab.meshsec(A, &["plan"]).exits(0).says(&kept);
        lab.apply(A);
        lab.has_converged(A);
        let capture = lab.capture();
        let ran = send_raw(lab.host(A), &lab.address(D));
        assert!(ran.stderr.contains("Operation not permitted"), "{ran}");
        capture.stop().is_closed();
        // Without that rule one backend is enough.
        system.tables(lab.host(A), Underlay::V4, "-t mangle -D OUTPUT -p udp -j ACCEPT");
        lab.apply(A);
        assert!(!system.other().saved(lab.host(A)).contains("MESHSEC-"));
        lab.has_converged(A);
    }
}

/// The table mangle of IPv4, of what `Backend::saved` returns: that of IPv6 comes behind it.
fn mangle(saved: &str) -> &str {
    let start = saved.find("*mangle").expect("the table");
    let end = saved[start..].find("COMMIT\n").expect("its end") + "COMMIT\n".len();
    &saved[start..start + end]
}

#[test]
#[ignore = "needs a kernel with ESP: cargo xtask test"]
fn without_the_rules_a_raw_socket_sends_in_the_clear() {
    let lab = lab(Underlay::V4, Backend::Nft, POLICIES);
    let capture = lab.capture();
    send_raw(lab.host(A), &lab.address(D)).exits(0);
    capture.stop().has_clear(1);
}

/// The address of host d inside its VPN.
const INSIDE: &str = "10.99.0.4";

/// Makes host d a client of a VPN on host b, which decrypts by an XFRM interface.
fn connect_the_vpn(lab: &Lab) {
    let (client, server) = (lab.address(D), lab.address(B));
    let sa = format!(
        "xfrm state add src {client} dst {server} proto esp spi 0x9001 reqid 5 mode tunnel {}",
        xfrm::AEAD
    );
    let policy = format!("xfrm policy add src {INSIDE}/32 dst {server}/32");
    let template = format!("tmpl src {client} dst {server} proto esp reqid 5 mode tunnel");
    let d = lab.host(D);
    d.ip(&format!("address add {INSIDE}/32 dev lo"));
    d.ip(&sa);
    d.ip(&format!("{policy} dir out {template}"));
    let b = lab.host(B);
    b.ip("link add xf0 type xfrm dev eth0 if_id 42");
    b.ip("link set xf0 up");
    b.ip(&format!("route add {INSIDE}/32 dev xf0"));
    b.ip(&format!("{sa} if_id 42"));
    b.ip(&format!("{policy} dir in if_id 42 {template}"));
}

#[test]
#[ignore = "needs a kernel with ESP: cargo xtask test"]
fn what_another_programs_sas_decrypt_does_not_get_into_the_tunnel() {
    for backend in Backend::BOTH {
        let lab = lab(Underlay::V4, backend, BOTH);
        connect_the_vpn(&lab);
        inject::is_dropped(&lab, lab.host(D), INSIDE, B, "XfrmInPolBlock");
        lab.reaches(A, B);
    }
}

#[test]
#[ignore = "needs a kernel with ESP: cargo xtask test"]
fn without_the_rules_what_another_programs_sas_decrypt_gets_into_the_tunnel() {
    let lab = lab(Underlay::V4, Backend::Nft, POLICIES);
    connect_the_vpn(&lab);
    inject::gets_in(&lab, lab.host(D), INSIDE, B);
}

/// Runs `meshsec` on host a and fails unless text and JSON say this of the second guard.
#[track_caller]
fn is_missing(lab: &Lab, conclusion: &str, unseen: bool) {
    lab.meshsec(A, &["plan", "--detailed-exitcode"]).exits(0).says(conclusion);
    lab.meshsec(A, &["status"]).says(conclusion);
    for words in [&["plan"][..], &["status"], &["apply", "--auto-approve"]] {
        let json = lab.meshsec(A, &[words, &["--format", "json"]].concat()).exits(0).json();
        let missing = json["second_guard_missing"].as_array().expect("a list");
        let families: Vec<_> = missing.iter().map(|lack| lack["family"].clone()).collect();
        assert_eq!(families, ["ipv4", "ipv6"], "{words:?}: {json:#}");
        assert!(missing.iter().all(|lack| lack["unseen"] == unseen), "{words:?}: {json:#}");
    }
}

#[test]
#[ignore = "needs a kernel with ESP: cargo xtask test"]
fn without_iptables_nothing_says_that_the_kernel_matches() {
    let mut lab = Lab::new(2);
    let empty = lab.directory().join("empty");
    std::fs::create_dir(&empty).expect("a directory can be made");
    lab.hidden = vec![(empty, "/usr/sbin")];
    let missing = "but the second guard of IPv4 and IPv6 is missing";
    lab.meshsec(A, &["apply", "--auto-approve"]).exits(0).says(missing);
    lab.apply(B);
    lab.reaches(A, B);
    is_missing(&lab, missing, false);
    // What can't be seen either is not taken for absent.
    let hidden = std::mem::take(&mut lab.hidden);
    lab.apply(A);
    lab.hidden = hidden;
    is_missing(&lab, "a part of the firewall", false);
    let destroy = lab.meshsec(A, &["destroy", "--auto-approve"]).exits(0);
    destroy.says("chains of the mesh may stay");
}

/// Runs the command in its arguments and refuses it sockets of NETLINK_NETFILTER with an errno.
const REFUSE_NETFILTER: &str = "
import ctypes, os, struct, sys
# struct seccomp_data: nr, arch, instruction_pointer, args.
LOAD, EQUAL, RETURN, ALLOW, ERRNO = 0x20, 0x15, 0x06, 0x7fff0000, 0x00050000
socket = {'x86_64': 41, 'aarch64': 198}[os.uname().machine]
filters = [(LOAD, 0, 0, 0), (EQUAL, 0, 5, socket), (LOAD, 0, 0, 16), (EQUAL, 0, 3, 16),
    (LOAD, 0, 0, 32), (EQUAL, 0, 1, 12), (RETURN, 0, 0, ERRNO | int(sys.argv[1])),
    (RETURN, 0, 0, ALLOW)]
program = ctypes.create_string_buffer(b''.join(struct.pack('HBBI', *it) for it in filters))
fprog = ctypes.create_string_buffer(
    struct.pack('HxxxxxxQ', len(filters), ctypes.addressof(program)))
libc = ctypes.CDLL(None, use_errno=True)
assert libc.prctl(38, 1, 0, 0, 0) == 0 and libc.prctl(22, 2, fprog) == 0, ctypes.get_errno()
os.execvp(sys.argv[2], sys.argv[2:])
";

/// The program that could list the rules is gone, and the kernel does not tell of them.
#[test]
#[ignore = "needs a kernel with ESP: cargo xtask test"]
fn only_a_kernel_that_lacks_nf_tables_has_no_rules_for_certain() {
    let mut lab = Lab::new(2);
    let empty = lab.directory().join("empty");
    std::fs::create_dir(&empty).expect("a directory can be made");
    lab.hidden = vec![(empty, "/usr/sbin")];
    // EMFILE: the process has too many files.
    for (errno, unseen) in [("24", true), ("93", false)] {
        let meshsec = lab.command(A, &["plan", "--format", "json"]);
        let mut python = Command::new("python3");
        python.args(["-c", REFUSE_NETFILTER, errno]).arg(meshsec.get_program());
        let plan = crate::shell::run(python.args(meshsec.get_args())).exits(0).json();
        let warnings = plan["warnings"].to_string();
        let told = warnings.contains("cannot open a NETLINK_NETFILTER socket");
        assert_eq!(told, unseen, "{errno}: {warnings}");
        assert_eq!(warnings.contains("translations-hidden"), unseen, "{errno}: {warnings}");
    }
}

#[test]
#[ignore = "needs a kernel with ESP: cargo xtask test"]
fn what_the_kernel_refuses_of_the_second_guard_is_said_at_the_end() {
    for backend in Backend::BOTH {
        let mut lab = Lab::new(2);
        crate::iptables::failing_restore(&mut lab, backend, "--pol ipsec", "no such match", 1);
        let missing = "but the second guard of IPv4 and IPv6 is missing";
        let apply = lab.meshsec(A, &["apply", "--auto-approve"]).exits(0);
        apply.says(missing).says("left out: chain ip6tables");
        let apply =
            lab.meshsec(A, &["apply", "--auto-approve", "--format", "json"]).exits(0).json();
        let missing = apply["second_guard_missing"].as_array().expect("a list");
        assert_eq!((missing.len(), &apply["complete"]), (4, &true.into()), "{apply:#}");
        assert!(missing.iter().all(|lack| lack["chain"].is_string()), "{apply:#}");
        assert!(!backend.saved(lab.host(A)).contains("MESHSEC-"), "a chain is left");
    }
}

/// What another program protects to a host that is not a peer passes the policies that guard.
#[test]
#[ignore = "needs a kernel with ESP: cargo xtask test"]
fn what_a_foreign_policy_protects_is_dropped_and_the_plan_says_so() {
    for (guard, passes) in [(BOTH, 0), (POLICIES, inject::PACKETS)] {
        let lab = lab(Underlay::V4, Backend::Nft, guard);
        let (a, d) = (lab.address(A), lab.address(D));
        let host = lab.host(A);
        host.ip(&format!(
            "xfrm state add src {a} dst {d} proto esp spi 0x9002 reqid 9 mode transport {}",
            xfrm::AEAD
        ));
        host.ip(&format!(
            "xfrm policy add src {a}/32 dst {d}/32 proto udp dport 4789 dir out priority 7 \
             tmpl src {a} dst {d} proto esp reqid 9 mode transport"
        ));
        let capture = lab.capture();
        assert_eq!(inject::try_send(&lab, host, &a, D), passes, "{guard}");
        let recording = capture.stop();
        recording.is_closed();
        let esp = recording.packets(&format!("esp and dst host {d}")).len();
        assert_eq!(esp as u64, passes, "{guard}");
        let codes = lab.plan(A)["warnings"].to_string();
        assert_eq!(codes.contains("second-guard-drops"), passes == 0, "{codes}");
        lab.reaches(A, B);
    }
}

#[test]
#[ignore = "needs a kernel with ESP: cargo xtask test"]
fn what_a_host_sends_to_itself_is_let_through() {
    let lab = lab(Underlay::V4, Backend::Nft, BOTH);
    for to in ["127.0.0.1:4789", "192.0.2.1:4789"] {
        lab.host(A).inside(|| {
            let socket = std::net::UdpSocket::bind("0.0.0.0:0").expect("a socket can be bound");
            let sent = socket.send_to(MARKER, to).expect("lo takes it");
            assert_eq!(sent, MARKER.len());
        });
    }
}

#[test]
#[ignore = "needs a kernel with ESP: cargo xtask test"]
fn destroy_leaves_no_rule() {
    let lab = lab(Underlay::V4, Backend::Nft, BOTH);
    lab.meshsec(A, &["destroy", "--auto-approve"]).exits(0);
    for program in ["iptables-nft-save", "ip6tables-nft-save", "iptables-legacy-save"] {
        let saved = lab.host(A).run(&mut Command::new(program)).exits(0).stdout;
        assert!(!saved.contains("MESHSEC-"), "{saved}");
    }
}
