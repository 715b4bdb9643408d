//! Overlays of others, with the devices that their programs make: VXLAN zones of Proxmox VE, flannel,
//! and OVN. The commands are those by which these programs, or people in their place, make them.

use crate::{
    fixture::{A, B, Lab, VXLAN, inner_mac, underlay_mac},
    link, ping,
    wait::wait_for,
};

/// Two hosts without the device that all labs have, and the mesh of an overlay.
fn lab(traffic: &'static str, device: &'static str) -> Lab {
    let mut lab = Lab::new(2);
    lab.mesh.traffic = traffic;
    lab.mesh.link = device;
    lab.write_all(&lab.mesh);
    lab.places().for_each(|place| drop(lab.host(place).ip(&format!("link del {VXLAN}"))));
    lab
}

/// The overlay works in the clear, and its packets leave encrypted after an apply on both hosts.
/// Nothing of it is in the clear from the first apply on, and no warning speaks of its devices.
fn is_protected(lab: &Lab, to: &str, port: u16) {
    let ping = |count| ping::answers(lab.host(A), to, count);
    // A bridge takes a moment until it forwards.
    let works = || wait_for("the overlay to work", || (ping(1) == 1).then_some(()));
    works();
    let before = lab.capture();
    assert_eq!(ping(3), 3, "it works without meshsec");
    assert!(before.stop().marked(&format!("udp port {port}")).len() >= 6, "it would be seen");
    let capture = lab.capture();
    lab.apply(A);
    assert_eq!(ping(2), 0, "host b has no SA yet");
    lab.apply(B);
    works();
    // Before its apply a host says other things in the clear, such as that it joins a group.
    assert!(capture.stop().marked(&format!("udp port {port}")).is_empty());
    let capture = lab.capture();
    assert_eq!(ping(3), 3);
    let recording = capture.stop();
    recording.has_none(&format!("udp port {port}"));
    recording.has_only_esp(6);
    for place in lab.places() {
        lab.has_converged(place);
        lab.meshsec(place, &["plan"]).exits(0).lacks("Warning");
    }
    lab.meshsec(A, &["doctor"]).exits(0);
}

/// `vnet1` of a VXLAN zone with tag 100000, as ifupdown2 makes it of /etc/network/interfaces.d/sdn:
/// entries of broadcast for the zone's peers, and a bridge to which virtual machines are connected.
#[test]
#[ignore = "needs a kernel with ESP: cargo xtask test"]
fn a_vxlan_zone_of_proxmox_ve() {
    let lab = lab("kind = \"vxlan\"", "device = \"vxlan_vnet1\"\nmtu = \"auto\"");
    for (place, other) in [(A, B), (B, A)] {
        let host = lab.host(place);
        // Neighbours are known, as host b may ask for one in the clear until it has the mesh too.
        host.ip_batch(&format!(
            "link add vxlan_vnet1 mtu 1450 type vxlan id 100000 dstport 4789 ttl 64\n\
             link add vnet1 address {} mtu 1450 type bridge stp_state 0 forward_delay 0\n\
             link set vxlan_vnet1 master vnet1\n\
             link set vxlan_vnet1 addrgenmode none\nlink set vnet1 addrgenmode none\n\
             link set vxlan_vnet1 up\nlink set vnet1 up\n\
             address add 10.50.0.{}/24 dev vnet1\n\
             neigh add 10.50.0.{} lladdr {} dev vnet1\n",
            inner_mac(place),
            place + 1,
            other + 1,
            inner_mac(other),
        ));
        let remote = lab.address(other);
        let everybody = "00:00:00:00:00:00";
        host.batch(
            "bridge",
            &format!("fdb append {everybody} dev vxlan_vnet1 dst {remote} self\n"),
        );
    }
    // The bridge keeps the MTU that ifupdown2 gives it; the zone's has to be lowered.
    lab.meshsec(A, &["plan"]).exits(0).says("vnet1");
    lab.places().for_each(|place| drop(lab.host(place).ip("link set vnet1 mtu 1400")));
    is_protected(&lab, "10.50.0.2", 4789);
    assert_eq!(link::mtu(&lab, A, "vxlan_vnet1"), "1416");
}

/// The device of flannel's VXLAN backend, and the route, the neighbour and the entry that flanneld
/// adds for each other node (pkg/backend/vxlan), with a bridge of pods behind it.
#[test]
#[ignore = "needs a kernel with ESP: cargo xtask test"]
fn the_vxlan_of_flannel() {
    let traffic = "kind = \"vxlan\"\nport = 8472";
    let lab = lab(traffic, "device = \"flannel.1\"\nmtu = \"auto\"");
    let mac = |place: usize| format!("02:f1:00:00:00:{:02x}", place + 1);
    for (place, other) in [(A, B), (B, A)] {
        let (local, remote) = (lab.address(place), lab.address(other));
        let host = lab.host(place);
        host.ip_batch(&format!(
            "link add flannel.1 address {} mtu 1450 type vxlan id 1 dev eth0 local {local} \
             dstport 8472 nolearning\n\
             link set flannel.1 addrgenmode none\n\
             link set flannel.1 up\n\
             address add 10.244.{place}.0/32 dev flannel.1\n\
             link add cni0 mtu 1400 type bridge forward_delay 0\n\
             link set cni0 addrgenmode none\nlink set cni0 up\n\
             address add 10.244.{place}.1/24 dev cni0\n\
             neigh add 10.244.{other}.0 lladdr {} dev flannel.1 nud permanent\n\
             route add 10.244.{other}.0/24 via 10.244.{other}.0 dev flannel.1 onlink\n",
            mac(place),
            mac(other),
        ));
        let entry = format!("fdb add {} dev flannel.1 dst {remote} self permanent\n", mac(other));
        host.batch("bridge", &entry);
    }
    is_protected(&lab, "10.244.1.1", 8472);
    assert_eq!(link::mtu(&lab, A, "flannel.1"), "1416");
}

/// The one device of Open vSwitch for all tunnels, which takes the ends of each packet from its
/// metadata. Here a route gives them, as a flow of OVN does.
#[test]
#[ignore = "needs a kernel with ESP: cargo xtask test"]
fn the_geneve_of_ovn() {
    let lab = lab("kind = \"geneve\"", "");
    for (place, other) in [(A, B), (B, A)] {
        let (local, remote) = (lab.address(place), lab.address(other));
        lab.host(place).ip_batch(&format!(
            "link add genev_sys_6081 address {} mtu 65000 type geneve dstport 6081 external\n\
             link set genev_sys_6081 addrgenmode none\n\
             link set genev_sys_6081 up\n\
             address add 10.60.0.{}/32 dev genev_sys_6081\n\
             neigh add 10.60.0.{} lladdr {} dev genev_sys_6081\n\
             route add 10.60.0.{}/32 encap ip id 7 src {local} dst {remote} ttl 64 \
             dev genev_sys_6081 mtu 1400\n",
            geneve_mac(place),
            place + 1,
            other + 1,
            geneve_mac(other),
            other + 1,
        ));
    }
    is_protected(&lab, "10.60.0.2", 6081);
}

fn geneve_mac(place: usize) -> String {
    underlay_mac(place).replacen("02:", "06:", 1)
}
