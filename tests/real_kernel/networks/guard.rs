//! Packets that the routes to the interface are not asked about, or that lose them: the second guard
//! drops what would leave without the mesh.

use std::process::Command;

use super::sites::{FAMILIES, HOST, Sites, address};
use crate::{
    fixture::{A, B, Underlay},
    namespace::Namespace,
    ping,
};

/// A mesh of two sites that has been applied.
fn applied() -> Sites {
    let sites = Sites::over(Underlay::V4, 2);
    sites.lab.apply_all();
    sites.reaches(A, B);
    sites
}

/// The marked packets on the underlay while something is done.
fn in_the_clear(sites: &Sites, act: impl FnOnce()) -> usize {
    let capture = sites.capture();
    act();
    capture.stop().marked("greater 1").len()
}

/// Takes the rules that lead to the second guard.
fn flush(host: &Namespace, program: &str) {
    for chain in ["POSTROUTING", "FORWARD"] {
        host.run(Command::new(program).args(["-t", "mangle", "-F", chain])).exits(0);
    }
}

/// Pings from a gateway's own program that asks for the underlay's device.
fn bound(sites: &Sites, family: Underlay) {
    let mut ping = ping::command();
    ping.args(["-q", "-c", "3", "-i", "0.02", "-W", "1", "-I", "eth0"]);
    ping.arg(address(family, B, HOST));
    sites.lab.host(A).run(&mut ping);
}

#[test]
#[ignore = "needs a kernel with ESP: cargo xtask test"]
fn a_program_that_binds_to_a_device_sends_nothing_in_the_clear() {
    let sites = applied();
    let lab = &sites.lab;
    let gateway = lab.host(A);
    for family in FAMILIES {
        assert_eq!(in_the_clear(&sites, || bound(&sites, family)), 0, "{family:?}");
    }
    // Somebody else flushes the policies: the chain alone is left.
    gateway.ip("xfrm policy flush");
    for family in FAMILIES {
        assert_eq!(in_the_clear(&sites, || bound(&sites, family)), 0, "{family:?}, no policies");
    }
    // And the table: the test would see a leak, and the report tells it.
    flush(gateway, "iptables");
    flush(gateway, "ip6tables");
    assert!(in_the_clear(&sites, || bound(&sites, Underlay::V6)) > 0, "the test sees leaks");
    lab.meshsec(A, &["plan"]).says("iptables-nft -t mangle MESHSEC-").says("POST");
    lab.apply(A);
    lab.has_converged(A);
    assert_eq!(in_the_clear(&sites, || bound(&sites, Underlay::V6)), 0);
    sites.reaches(A, B);
    lab.meshsec(A, &["destroy", "--auto-approve"]).exits(0);
    for save in ["iptables-save", "ip6tables-save"] {
        gateway.run(&mut Command::new(save)).exits(0).lacks("MESHSEC");
    }
}

#[test]
#[ignore = "needs a kernel with ESP: cargo xtask test"]
fn devices_in_a_vrf_with_routes_of_its_own_send_nothing_in_the_clear() {
    let sites = applied();
    let lab = &sites.lab;
    let gateway = lab.host(A);
    gateway.ip_batch("link add red type vrf table 77\nlink set red up\nlink set lan0 master red\n");
    gateway.ip_batch(&format!(
        "route add default via 192.0.2.254 dev eth0 table 77\n\
         address replace {}/48 dev lan0 nodad\n\
         route add default via 2001:db8::fe dev eth0 table 77\n",
        address(Underlay::V6, A, 1)
    ));
    let from_a = || _ = sites.answers(A, B);
    assert_eq!(in_the_clear(&sites, from_a), 0);
    flush(gateway, "ip6tables");
    assert!(in_the_clear(&sites, from_a) > 0, "the test sees leaks");
    lab.apply(A);
    assert_eq!(in_the_clear(&sites, from_a), 0);
    // What comes from the other site follows the routes of the interface, and none of these leads there.
    lab.meshsec(A, &["plan"]).says("no route of this host is for its own 10.1.0.0/16, fd00:1::/48");
    assert!(in_the_clear(&sites, || _ = sites.answers(B, A)) > 0);
    gateway.ip_batch("route add blackhole 10.1.0.0/16\nroute add blackhole fd00:1::/48\n");
    sites.is_closed(A, B);
    lab.meshsec(A, &["plan"]).lacks("no route of this host");
}

#[test]
#[ignore = "needs a kernel with ESP: cargo xtask test"]
fn routes_that_went_or_came_open_nothing() {
    let sites = applied();
    let lab = &sites.lab;
    let gateway = lab.host(A);
    // As a router advertisement brings one.
    gateway.ip("-6 route add fd00:2::/64 via 2001:db8::fe dev eth0 proto ra");
    sites.is_closed(A, B);
    lab.meshsec(A, &["plan"]).says("fd00:2::/64").says("more specific");
    gateway.ip("-6 route del fd00:2::/64 via 2001:db8::fe dev eth0 proto ra");
    // Both take the blackholes of IPv6 too.
    let again = format!(
        "address replace {}/48 dev lan0 nodad\naddress replace 2001:db8::1/64 dev eth0 nodad\n\
         route replace default via 2001:db8::fe\n",
        address(Underlay::V6, A, 1)
    );
    gateway.ip_batch("link set lo down\nlink set lo up\n");
    gateway.ip_batch(&again);
    sites.is_closed(A, B);
    lab.apply(A);
    sites.reaches(A, B);
    gateway.set_sysctl("ipv6/conf/all/disable_ipv6", "1");
    gateway.set_sysctl("ipv6/conf/all/disable_ipv6", "0");
    gateway.ip_batch(&again);
    sites.is_closed(A, B);
    lab.apply(A);
    lab.has_converged(A);
    sites.reaches(A, B);
}
