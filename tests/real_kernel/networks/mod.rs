//! Networks behind hosts: what reaches them, what can be read on the underlay, and who may speak for
//! them.

mod crashes;
mod guard;
mod sites;

use std::process::Command;

use crate::{
    fixture::{A, B, C, Underlay},
    ping,
    random::Random,
    xfrm,
};
use sites::{FAMILIES, HOST, Sites, address, network};

/// The largest payloads of a ping that fit an underlay of 1500 bytes: IPv4, and IPv6 inside.
const LARGEST: [(Underlay, [usize; 2]); 2] =
    [(Underlay::V4, [1446 - 28, 1446 - 48]), (Underlay::V6, [1426 - 28, 1426 - 48])];

fn reach_each_other(underlay: Underlay) {
    let sites = Sites::over(underlay, 2);
    let lab = &sites.lab;
    let control = sites.capture();
    sites.answers(A, B);
    let control = control.stop();
    for family in ["ip", "ip6"] {
        assert!(!control.marked(family).is_empty(), "the underlay carries what leaks of {family}");
    }

    lab.apply_all();
    lab.places().for_each(|place| lab.has_converged(place));
    let capture = sites.capture();
    sites.reaches(A, B);
    sites.reaches(B, A);
    for family in FAMILIES {
        // The gateway's own programs have an address inside.
        let answers = ping::answers(lab.host(A), &address(family, B, HOST), 3);
        assert_eq!(answers, 3, "from the gateway itself");
    }
    capture.stop().has_only_esp(30);

    let (_, largest) = LARGEST.into_iter().find(|(of, _)| *of == underlay).unwrap();
    for (family, bytes) in FAMILIES.into_iter().zip(largest) {
        sites.ping_of(family, [A, B], bytes).exits(0);
        assert_ne!(sites.ping_of(family, [A, B], bytes + 1).status, 0, "{family:?} is too large");
    }
    lab.meshsec(A, &["status"]).exits(0).says("1 protected");
    let host = |family| format!("icmp 10.1.0.7 > {} type 8", address(family, B, HOST));
    lab.meshsec(A, &["explain", &host(Underlay::V4)]).exits(0).says("Verdict: encrypted");
    lab.meshsec(A, &["show"]).exits(0).says("interface dev mesh0").lacks("Of no peer");

    let off = "ipv4/ip_forward";
    lab.host(A).set_sysctl(off, "0");
    lab.meshsec(A, &["doctor"]).exits(2).says("net.ipv4.ip_forward is 0");
    lab.host(A).set_sysctl(off, "1");
    lab.meshsec(A, &["doctor"]).exits(0);

    lab.meshsec(A, &["destroy", "--auto-approve"]).exits(0);
    let left = lab.host(A).ip("route show proto 77") + &lab.host(A).ip("-6 route show proto 77");
    assert_eq!(left, "");
    assert_ne!(lab.host(A).try_ip("link show mesh0").status, 0);
}

#[test]
#[ignore = "needs a kernel with ESP: cargo xtask test"]
fn sites_reach_each_other_and_nothing_can_be_read_between_them() {
    reach_each_other(Underlay::V4);
}

#[test]
#[ignore = "needs a kernel with ESP: cargo xtask test"]
fn sites_reach_each_other_over_ipv6_and_nothing_can_be_read_between_them() {
    reach_each_other(Underlay::V6);
}

#[test]
#[ignore = "needs a kernel with ESP: cargo xtask test"]
fn whatever_is_taken_away_nothing_is_sent_in_the_clear_and_an_apply_repairs_it() {
    let sites = Sites::over(Underlay::V4, 2);
    let lab = &sites.lab;
    lab.apply_all();
    sites.reaches(A, B);
    let gateway = lab.host(A);
    for lines in [
        "link set mesh0 down\n",
        "link set mesh0 down\nlink set mesh0 up\n",
        "link del mesh0\n",
        "link set mesh0 down\nlink set mesh0 name other0\n",
        "route flush dev mesh0\n",
        "-6 route flush dev mesh0\n",
        "xfrm state flush\n",
        "xfrm policy flush\n",
        "xfrm state flush\nxfrm policy flush\nlink del mesh0\n",
    ] {
        let capture = sites.capture();
        for words in lines.lines() {
            gateway.ip(words);
        }
        sites.answers(A, B);
        sites.answers(B, A);
        capture.stop().is_closed();
        let status = lab.meshsec(A, &["status"]).exits(2);
        assert!(!status.stdout.contains("  b  in the clear"), "after {lines}: {status}");
        if lines.starts_with("-6") {
            status.says("only to fd00:2::/48");
        }
        lab.apply(A);
        lab.has_converged(A);
        sites.reaches(A, B);
    }
    gateway.set_sysctl("ipv4/conf/mesh0/disable_xfrm", "0");
    sites.is_closed(A, B);
    lab.apply(A);
    sites.reaches(A, B);
}

#[test]
#[ignore = "needs a kernel with ESP: cargo xtask test"]
fn a_peers_key_speaks_for_its_networks_alone() {
    let sites = Sites::over(Underlay::V4, 3);
    let lab = &sites.lab;
    lab.apply_all();
    sites.reaches(C, A);
    let (speaker, hearer) = (lab.host(C), lab.host(A));
    for (family, length) in FAMILIES.into_iter().zip(["32", "128 nodad"]) {
        let false_source = address(family, B, 99);
        speaker.ip(&format!("address add {false_source}/{length} dev lo"));
        for to in [HOST, 1] {
            let before = xfrm::counters(hearer);
            let mut ping = ping::command();
            ping.args(["-q", "-c", "3", "-i", "0.02", "-W", "1", "-I", &false_source]);
            ping.arg(address(family, A, to));
            let (inner, heard) = (sites.inner(A), |place: &str| sites.inner(A).received(place));
            let received = heard("eth0");
            speaker.run(&mut ping);
            let refused = xfrm::counters(hearer)["XfrmInTmplMismatch"];
            assert!(
                refused >= before["XfrmInTmplMismatch"] + 3,
                "{family:?} to {to}: {before:?} {refused}"
            );
            if to == HOST {
                assert!(inner.received("eth0") < received + 3, "the site's host got it");
            }
        }
    }
    sites.reaches(C, A);
}

#[test]
#[ignore = "needs a kernel with ESP: cargo xtask test"]
fn forged_clear_text_of_a_network_gets_neither_in_nor_through() {
    let sites = Sites::over(Underlay::V4, 2);
    let lab = &sites.lab;
    // Somebody on the underlay with an address of site b.
    let [v4, v6] = FAMILIES;
    lab.wire.ip_batch(&format!(
        "address add {}/32 dev br0\naddress add {}/128 dev br0 nodad\n\
         route add {} via {}\nroute add {} via 2001:db8::1\n",
        address(v4, B, 99),
        address(v6, B, 99),
        network(v4, A),
        lab.address(A),
        network(v6, A),
    ));
    let send = |family, to| {
        let mut ping = ping::command();
        let source = address(family, B, 99);
        ping.args(["-q", "-c", "3", "-i", "0.02", "-W", "1", "-I", &source]);
        ping.arg(address(family, A, to));
        let before = sites.inner(A).received("eth0");
        lab.wire.run(&mut ping);
        sites.inner(A).received("eth0") - before
    };
    for family in FAMILIES {
        assert!(send(family, HOST) >= 3, "{family:?} gets through before there is a mesh");
    }
    lab.apply_all();
    for family in FAMILIES {
        assert!(send(family, HOST) < 3, "{family:?} gets through");
        let before = xfrm::counters(lab.host(A));
        send(family, 1);
        let after = xfrm::counters(lab.host(A));
        assert!(after["XfrmInPolBlock"] >= before["XfrmInPolBlock"] + 3, "{family:?}: {after:?}");
    }
    sites.reaches(A, B);
}

#[test]
#[ignore = "needs a kernel with ESP: cargo xtask test"]
fn a_rotation_of_three_sites_loses_nothing() {
    let sites = Sites::over(Underlay::V4, 3);
    let lab = &sites.lab;
    let mut random = Random::new();
    lab.apply_all();
    let stream = |family, from: usize, to| {
        ping::Stream::from_to(sites.inner(from), &address(family, to, HOST), "0.02")
    };
    let streams =
        [stream(Underlay::V4, A, B), stream(Underlay::V6, B, C), stream(Underlay::V4, C, A)];
    for generation in 2..=4 {
        lab.write_all(&lab.mesh.of_generation(generation));
        sites.apply_at_random(&mut random);
        streams.iter().for_each(|stream| stream.wait_for_more(5));
    }
    for stream in streams {
        stream.lost_nothing();
    }
}

#[test]
#[ignore = "needs a kernel with ESP: cargo xtask test"]
fn sites_that_speak_in_the_clear_are_enrolled_by_stages_without_a_lost_packet() {
    let sites = Sites::over(Underlay::V4, 2);
    let lab = &sites.lab;
    let [v4, v6] = FAMILIES;
    for (place, other) in [(A, B), (B, A)] {
        lab.host(place).ip_batch(&format!(
            "route add {} via {} metric 100\nroute add {} via 2001:db8::{} metric 100\n",
            network(v4, other),
            lab.address(other),
            network(v6, other),
            other + 1
        ));
    }
    sites.reaches(A, B);
    let stream = |family, from: usize, to| {
        ping::Stream::from_to(sites.inner(from), &address(family, to, HOST), "0.02")
    };
    let streams = [stream(v4, A, B), stream(v6, B, A)];
    for stage in ["receive", "send", "enforce", "send", "receive"] {
        lab.write_all(&lab.mesh.at(stage));
        lab.apply_all();
        lab.places().for_each(|place| lab.has_converged(place));
        streams.iter().for_each(|stream| stream.wait_for_more(5));
        if stage == "enforce" {
            sites.is_closed(A, B);
        }
    }
    for place in lab.places() {
        lab.meshsec(place, &["destroy", "--auto-approve"]).exits(0);
    }
    for stream in streams {
        stream.lost_nothing();
    }
}

#[test]
#[ignore = "needs a kernel with ESP: cargo xtask test"]
fn a_gateway_that_masquerades_is_told_of_the_interface() {
    let sites = Sites::over(Underlay::V4, 2);
    let lab = &sites.lab;
    lab.apply_all();
    sites.reaches(A, B);
    let masquerade = |words: &str| {
        let mut iptables = Command::new("iptables");
        iptables.args(["-t", "nat"]).args(words.split(' ')).args(["-j", "MASQUERADE"]);
        lab.host(A).run(&mut iptables).exits(0);
    };
    // As on most gateways to the internet: not for packets that leave by the interface.
    masquerade("-A POSTROUTING -o eth0");
    lab.meshsec(A, &["plan"]).lacks("MASQUERADE");
    sites.reaches(A, B);
    masquerade("-A POSTROUTING -s 10.1.0.0/16 ! -d 10.1.0.0/16");
    lab.meshsec(A, &["plan"]).says("MASQUERADE").says("-I POSTROUTING -o mesh0 -j ACCEPT");
    let before = xfrm::counters(lab.host(B))["XfrmInNoPols"];
    assert_eq!(sites.answers(A, B)[0], 0, "the far end refuses the source");
    let refused = xfrm::counters(lab.host(B))["XfrmInNoPols"] - before;
    assert!(refused >= 3, "{refused}");
    lab.meshsec(B, &["status"]).says("XfrmInNoPols").says("masquerades");
    masquerade("-D POSTROUTING -s 10.1.0.0/16 ! -d 10.1.0.0/16");
    masquerade("-A POSTROUTING -s 10.1.0.0/16 ! -o mesh0");
    lab.meshsec(A, &["plan"]).lacks("MASQUERADE");
    sites.reaches(A, B);
}

#[test]
#[ignore = "needs a kernel with ESP: cargo xtask test"]
fn a_gateway_without_ipv6_reaches_networks_of_ipv4() {
    let sites = Sites::over(Underlay::V4, 2);
    let lab = &sites.lab;
    let gateway = lab.host(A);
    for of in ["default", "all"] {
        gateway.set_sysctl(&format!("ipv6/conf/{of}/disable_ipv6"), "1");
    }
    lab.meshsec(A, &["plan"]).says("IPv6 is off on mesh0");
    lab.apply_all();
    lab.places().for_each(|place| lab.has_converged(place));
    assert_eq!(sites.answers(A, B), [3, 0]);
    lab.meshsec(A, &["status"]).exits(0).says("1 protected");
    // On again, but the addresses of other devices are gone.
    for of in ["default", "all"] {
        gateway.set_sysctl(&format!("ipv6/conf/{of}/disable_ipv6"), "0");
    }
    lab.meshsec(A, &["plan"]).says("fd00:2::/48 dev mesh0");
    lab.apply(A);
    lab.has_converged(A);
    gateway
        .ip_batch(&format!("address replace {}/48 dev lan0 nodad\n", address(Underlay::V6, A, 1)));
    lab.apply(A);
    sites.reaches(A, B);
}

#[test]
#[ignore = "needs a kernel with ESP: cargo xtask test"]
fn foreign_routes_and_devices_in_the_way_are_named_and_left() {
    let sites = Sites::over(Underlay::V4, 3);
    let lab = &sites.lab;
    let gateway = lab.host(A);
    let plan = || lab.meshsec(A, &["plan"]);
    gateway.ip_batch("route add 10.2.3.0/24 via 192.0.2.254\n");
    plan().says("10.2.3.0/24").says("more specific");
    // The other peer is not stopped by it.
    lab.meshsec(A, &["apply", "--auto-approve"]).exits(3);
    lab.apply(C);
    sites.reaches(A, C);
    sites.is_closed(A, C);
    gateway.ip_batch("route del 10.2.3.0/24 via 192.0.2.254\n");
    lab.apply(A);
    lab.apply(B);
    sites.reaches(A, B);

    // A table that a rule asks first, and one that none asks.
    gateway.ip_batch("route add 10.0.0.0/8 via 192.0.2.254 table 100\n");
    lab.has_converged(A);
    gateway.ip_batch("rule add from all table 100 priority 500\n");
    plan().says("table 100").says("a rule may ask its table");
    gateway.ip_batch("rule del priority 500\n");
    lab.has_converged(A);
    // One that a rule asks where the main table's entries for such prefixes do not count.
    gateway.ip_batch(
        "rule add lookup main suppress_prefixlength 16 priority 10\n\
         rule add from all table 100 priority 20\n",
    );
    plan().says("table 100");
    gateway.ip_batch("rule del priority 10\nrule del priority 20\n");
    lab.has_converged(A);
    // One for packets of some sources, as babeld makes them.
    let by_source = "fd00:2::/48 from fd00:1::/48 via 2001:db8::fe dev eth0";
    gateway.ip(&format!("-6 route add {by_source}"));
    plan().says("fd00:2::/48 dev eth0").says("packets of some sources");
    lab.meshsec(A, &["status"]).exits(2);
    gateway.ip(&format!("-6 route del {by_source}"));
    lab.has_converged(A);
    // One in the very place of the mesh's.
    gateway.ip("route prepend 10.2.0.0/16 via 192.0.2.254 metric 1");
    plan().says("has the prefix and the metric");
    gateway.ip("route del 10.2.0.0/16 via 192.0.2.254 metric 1");
    lab.has_converged(A);

    lab.meshsec(A, &["destroy", "--auto-approve"]).exits(0);
    gateway.ip_batch("link add mesh0 type dummy\n");
    plan().says("dummy mesh0").says("has the name of the mesh's interface");
    lab.meshsec(A, &["apply", "--auto-approve"]).exits(1);
    gateway.ip("link show mesh0");
    gateway.ip_batch("link del mesh0\n");
    lab.apply(A);
    gateway.set_sysctl("ipv4/conf/mesh0/disable_policy", "1");
    plan().says("disable_policy");
}
