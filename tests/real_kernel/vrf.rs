//! Host b's uplink is in a VRF.

use std::process::Command;

use crate::{
    capture::Recording,
    fixture::{A, B, Lab, Underlay, VXLAN, inner, inner_mac, underlay_mac},
    iptables::{BY_MARK, Backend, OUT},
    ping,
};

/// Two hosts with this guard: the second one looks at no sysctl.
fn lab(underlay: Underlay, guard: &'static str) -> Lab {
    lab_of(underlay, guard, "kind = \"vxlan\"")
}

fn lab_of(underlay: Underlay, guard: &'static str, traffic: &'static str) -> Lab {
    let mut lab = Lab::over(&[underlay; 2]);
    (lab.mesh.guard, lab.mesh.traffic) = (guard, traffic);
    lab.write_all(&lab.mesh);
    // The VXLAN's socket is bound to the VRF as the device comes up.
    lab.host(B).ip_batch(&format!(
        "link add red type vrf table 10\nlink set red up\nlink set {VXLAN} down\n\
         link set eth0 master red\n"
    ));
    set_addresses(&lab);
    let (address, mac) = (inner(A), inner_mac(A));
    lab.host(B).ip_batch(&format!(
        "link set {VXLAN} up\nneigh replace {address} lladdr {mac} dev {VXLAN}\n"
    ));
    lab
}

/// Gives b its address anew, as `disable_policy` is read then over IPv6.
fn set_addresses(lab: &Lab) {
    let mac = underlay_mac(A);
    lab.host(B).try_ip("address del 2001:db8::2/64 dev eth0");
    lab.host(B).ip_batch(&format!(
        "address replace 2001:db8::2/64 dev eth0 nodad\n\
         neigh replace 192.0.2.1 lladdr {mac} dev eth0\n\
         neigh replace 2001:db8::1 lladdr {mac} dev eth0\n"
    ));
}

/// How many of host a's clear packets host b takes.
fn taken_in_the_clear(lab: &Lab) -> u64 {
    let before = lab.host(B).received(VXLAN);
    ping::answers(lab.host(A), &inner(B), 3);
    lab.host(B).received(VXLAN) - before
}

/// What passes the switch while b sends to a.
fn sent(lab: &Lab) -> Recording {
    let capture = lab.capture();
    ping::answers(lab.host(B), &inner(A), 3);
    capture.stop()
}

#[test]
#[ignore = "needs a kernel with ESP: cargo xtask test"]
fn the_sysctls_of_the_device_in_it_count_and_not_its_own() {
    for (underlay, family) in [(Underlay::V4, "ipv4"), (Underlay::V6, "ipv6")] {
        let lab = lab(underlay, "false");
        let set = |device: &str, name: &str, value: &str| {
            lab.host(B).set_sysctl(&format!("{family}/conf/{device}/{name}"), value);
        };
        lab.apply(B);
        assert_eq!(taken_in_the_clear(&lab), 0);
        for (device, counts) in [("red", false), ("eth0", true)] {
            set(device, "disable_policy", "1");
            set_addresses(&lab);
            assert_eq!(taken_in_the_clear(&lab) > 0, counts, "{family} {device}");
            let plan = lab.meshsec(B, &["plan"]).exits(i32::from(counts));
            plan.says(&format!("{family}/conf/{device}/disable_policy"));
            set(device, "disable_policy", "0");
            set_addresses(&lab);
        }
        lab.apply(A);
        lab.reaches(B, A);
        sent(&lab).has_only_esp(6);
        // IPv6 has no disable_xfrm.
        let devices: &[(&str, i32)] =
            if underlay == Underlay::V4 { &[("red", 0), ("eth0", 1)] } else { &[] };
        for &(device, status) in devices {
            set(device, "disable_xfrm", "1");
            let leaked = !sent(&lab).marked("src host 192.0.2.2").is_empty();
            assert_eq!(leaked, status == 1, "{device}");
            lab.meshsec(B, &["plan"]).exits(status);
            set(device, "disable_xfrm", "0");
        }
    }
}

fn tc(lab: &Lab, words: &str) {
    lab.host(B).run(Command::new("tc").args(words.split(' '))).exits(0);
}

/// Whether an ICMP error of b shows the ping that it is about.
fn shows_a_ping_in_an_error(lab: &Lab, underlay: Underlay) -> bool {
    for words in ["-I INPUT -p udp -j REJECT", "-I INPUT -p esp -j ACCEPT"] {
        Backend::Nft.tables(lab.host(B), underlay, words);
    }
    let capture = lab.capture();
    assert_eq!(ping::answers(lab.host(A), &inner(B), 3), 0, "b answers");
    let recording = capture.stop();
    for rule in ["INPUT -p udp -j REJECT", "INPUT -p esp -j ACCEPT"] {
        Backend::Nft.tables(lab.host(B), underlay, &format!("-D {rule}"));
    }
    let errors = match underlay {
        Underlay::V4 => "icmp",
        Underlay::V6 => "icmp6",
    };
    !recording.marked(errors).is_empty()
}

/// The mark is given behind the look-up that has no ports, and leads to one that has all.
#[test]
#[ignore = "needs a kernel with ESP: cargo xtask test"]
fn packets_that_wait_in_a_vrf_get_their_mark_and_icmp_errors_have_none() {
    for underlay in [Underlay::V4, Underlay::V6] {
        let lab = lab_of(underlay, "true", BY_MARK);
        lab.apply_all();
        // Over IPv6 the guard of 6.12 drops these packets without a queue: the plan warns.
        if underlay == Underlay::V4 {
            lab.reaches(B, A);
        }
        let warned = lab.plan(B)["warnings"].to_string();
        assert!(warned.contains("mark-in-a-vrf"), "{warned}");
        assert!(!shows_a_ping_in_an_error(&lab, underlay), "without a queue");
        lab.has_converged(B);
        tc(&lab, "qdisc add dev red root pfifo");
        sent(&lab).has_only_esp(3);
        lab.reaches(B, A);
        assert!(shows_a_ping_in_an_error(&lab, underlay), "with a queue");
        let plan = lab.meshsec(B, &["plan"]).exits(1);
        plan.says("VRF red with qdisc pfifo").says("without the type of ICMP errors, and these");
        let status = lab.meshsec(B, &["status"]).exits(2).stdout;
        let status = status.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(status.contains("a in the clear only ICMP errors"), "{status}");
        assert!(status.contains("all else encrypted"), "{status}");
        // Over IPv4 a packet loses the mark that it had before: the chain that guards drops it.
        let marked = || {
            let capture = lab.capture();
            let mut ping = ping::command();
            ping.args(["-q", "-m", "131072", "-i", "0.05", "-W", "1", "-c", "5", &inner(A)]);
            lab.host(B).run(&mut ping);
            capture.stop()
        };
        marked().is_closed();
        Backend::Nft.tables(lab.host(B), underlay, &format!("-F {OUT}"));
        match underlay {
            Underlay::V4 => marked().has_clear(1),
            Underlay::V6 => marked().is_closed(),
        }
    }
}

#[test]
#[ignore = "needs a kernel with ESP: cargo xtask test"]
fn packets_that_wait_in_a_vrf_are_a_conflict() {
    for underlay in [Underlay::V4, Underlay::V6] {
        for guard in ["\"xfrm\"", "true"] {
            let lab = lab(underlay, guard);
            lab.apply_all();
            lab.reaches(B, A);
            lab.has_converged(B);
            tc(&lab, "qdisc add dev red root pfifo");
            let recording = sent(&lab);
            match guard {
                "true" => recording.is_closed(),
                _ => recording.has_clear(1),
            }
            let plan = lab.meshsec(B, &["plan"]).exits(1);
            let plan = plan.says("VRF red with qdisc pfifo").says("tc qdisc del dev red root");
            let status = lab.meshsec(B, &["status"]).exits(2).stdout;
            let status = status.split_whitespace().collect::<Vec<_>>().join(" ");
            assert!(status.contains("a in the clear"), "{status}");
            let only_errors = guard == "true";
            assert_eq!(status.contains("only ICMP errors"), only_errors, "{status}");
            assert_eq!(status.contains("all else blocked"), only_errors, "{status}");
            assert_eq!(plan.stdout.contains("the second guard drops them"), only_errors, "{plan}");
            tc(&lab, "qdisc del dev red root");
            lab.has_converged(B);
            lab.reaches(B, A);
            sent(&lab).has_only_esp(6);
        }
    }
}
