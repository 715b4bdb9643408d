//! Outages as operators meet them: the last sentence of `doctor` on the host where they sit.
//!
//! Host a sends to host b and gets no answer. On a the sentence names the cause, or says to look on
//! b and for what; on b it names the cause. Several outages share a laboratory: each is mended
//! before the next.

use std::{fs, process::Command, thread, time::Duration};

use serde_json::Value;

use crate::{
    clock::{Clock, clock_at_the_beginning, clock_before_the_release},
    fixture::{A, B, C, Lab, Underlay, VXLAN, inner, spi, write_secret},
    mesh_file::{MESH_KEY, MeshFile},
    ping::{self, Stream},
    wait::wait_for,
    xfrm,
};

/// Another secret than that of the mesh.
const OTHER_KEY: &str = "e5f4030201f0e9d8c7b6a5948372615041302f1e0d0c0b0a0987a6b5c4d3e2f1";
/// The sentence of a host that finds nothing at fault on itself.
const LOOK_ON_B: &str = "Look on b: packets leave here encrypted and nothing encrypted comes back: \
                         run meshsec doctor on b, which tells whether it has not applied, or has \
                         another secret, cipher, generation, clock, short_id or address";

/// The document of doctor on a host.
#[track_caller]
fn doctor(lab: &Lab, place: usize, words: &[&str], status: i32) -> Value {
    let words = [&["doctor", "--for", "1s", "--format", "json"], words].concat();
    let document = lab.meshsec(place, &words).exits(status).json();
    assert_eq!(document["status"], status, "{document:#}");
    document
}

fn conclusion(document: &Value) -> &str {
    document["conclusion"].as_str().expect("a sentence")
}

/// Doctor ends with a sentence that names this check as the cause and has these texts.
#[track_caller]
fn blames(lab: &Lab, place: usize, words: &[&str], code: &str, texts: &[&str]) -> Value {
    let document = doctor(lab, place, words, 2);
    let begins = format!("On this host, {code}");
    assert!(conclusion(&document).starts_with(&begins), "wanted {code} from {document:#}");
    for text in texts {
        assert!(conclusion(&document).contains(text), "wanted {text:?} from {document:#}");
    }
    let mut findings = document["findings"].as_array().expect("a list").iter();
    let has = findings.any(|it| it["code"] == code && it["verdict"] == "attention");
    assert!(has, "no finding {code}: {document:#}");
    document
}

/// The verdict of the only finding of a check.
#[track_caller]
fn verdict<'d>(document: &'d Value, code: &str) -> &'d str {
    let findings = document["findings"].as_array().expect("a list").iter();
    let found: Vec<&Value> = findings.filter(|it| it["code"] == code).collect();
    assert_eq!(found.len(), 1, "{code}: {document:#}");
    found[0]["verdict"].as_str().expect("a word")
}

/// While a sends to b, and gets no answer, doctor on a says to look on b.
#[track_caller]
fn says_to_look_on_b(lab: &Lab) {
    let document = doctor(lab, A, &[], 2);
    assert!(conclusion(&document).starts_with(LOOK_ON_B), "{document:#}");
    assert!(conclusion(&document).contains("drops ESP (IP protocol 50)"), "{document:#}");
    let b = &document["peers"][0];
    assert!(b["sent"].as_u64() > Some(0) && b["heard"] == 0, "{document:#}");
}

fn write_key(lab: &Lab, place: usize, key: &str) {
    let path = lab.file(place).with_file_name("mesh.key");
    fs::remove_file(&path).expect("it was written");
    write_secret(&path, key);
}

/// Applies another file on b, and looks on a.
#[track_caller]
fn applies_another(lab: &Lab, file: &MeshFile, key: &str) {
    lab.write(B, file);
    write_key(lab, B, key);
    lab.meshsec(B, &["destroy", "--auto-approve"]).exits(0);
    lab.apply(B);
    says_to_look_on_b(lab);
}

/// Applies another file on b, and looks on both hosts.
#[track_caller]
fn differs(lab: &Lab, file: &MeshFile, key: &str, texts: &[&str]) {
    applies_another(lab, file, key);
    blames(lab, B, &[], "refused", texts);
}

#[track_caller]
fn iptables(lab: &Lab, place: usize, rule: &str) {
    let mut iptables = Command::new("iptables-nft");
    lab.host(place).run(iptables.args(rule.split(' '))).exits(0);
}

#[test]
#[ignore = "needs a kernel with ESP: cargo xtask test"]
fn the_other_host_has_not_applied_or_has_another_key() {
    let lab = Lab::new(2);
    lab.apply(A);
    let _traffic = Stream::start_unanswered(&lab, A, B);
    says_to_look_on_b(&lab);
    blames(&lab, B, &[], "applied", &["nothing of the mesh is here", "meshsec apply"]);
    let other_key = ["packets came under another key", "compare secret, cipher and generation"];
    differs(&lab, &lab.mesh, OTHER_KEY, &other_key);
    let other_cipher = MeshFile { esp: "cipher = \"aes128-gcm\"", ..lab.mesh.clone() };
    differs(&lab, &other_cipher, MESH_KEY, &other_key);
}

#[test]
#[ignore = "needs a kernel with ESP: cargo xtask test"]
fn the_other_host_has_another_short_id_address_or_generation() {
    let lab = Lab::new(2);
    lab.apply(A);
    let _traffic = Stream::start_unanswered(&lab, A, B);
    let unknown = ["XfrmInNoStates", "another generation, short_id or peer list"];
    let mut other = lab.mesh.clone();
    other.peers[A].short_id = 9;
    differs(&lab, &other, MESH_KEY, &unknown);
    let mut other = lab.mesh.clone();
    other.peers[A].address = "192.0.2.77".into();
    // The tunnel of b sends to the right address, which no peer of its file has.
    applies_another(&lab, &other, MESH_KEY);
    let stranger = ["vxlan42 to 192.0.2.1 are blocked by the guard", "no pair has these addresses"];
    let document = blames(&lab, B, &[], "tunnel", &stranger);
    assert!(document["counters"]["XfrmInStateMismatch"].as_u64() > Some(0), "{document:#}");
    for generation in [2, 3] {
        lab.write(A, &lab.mesh.of_generation(generation));
        lab.apply(A);
    }
    differs(&lab, &lab.mesh, MESH_KEY, &unknown);
    // One behind is no outage, and is said all the same.
    lab.write(B, &lab.mesh.of_generation(2));
    lab.apply(B);
    lab.reaches(A, B);
    thread::sleep(Duration::from_secs(2));
    blames(&lab, A, &[], "generation", &["still sends under generation 2", "one behind"]);
}

#[test]
#[ignore = "needs a kernel with ESP: cargo xtask test"]
fn a_firewall_drops_esp() {
    let lab = Lab::new(2);
    lab.apply_all();
    // As many a host has it: answers pass, and ESP of a peer that sends first does not.
    iptables(&lab, B, "-A INPUT -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT");
    iptables(&lab, B, "-P INPUT DROP");
    let first = [
        "`iptables-nft -P INPUT DROP` drops packets of ESP (IP protocol 50)",
        "unless they answer",
    ];
    blames(&lab, B, &[], "firewall", &first);
    iptables(&lab, B, "-P INPUT ACCEPT");
    iptables(&lab, B, "-F INPUT");
    assert_eq!(verdict(&doctor(&lab, A, &[], 0), "heard"), "unknown");
    let _traffic = Stream::start(&lab, A, B);
    assert_eq!(verdict(&doctor(&lab, A, &[], 0), "path-mtu"), "unknown");
    let well = doctor(&lab, A, &["--probe"], 0);
    for code in ["heard", "path-mtu", "mtu", "nat", "route", "source", "bypass", "device"] {
        assert_eq!(verdict(&well, code), "ok", "{code}: {well:#}");
    }
    assert!(conclusion(&well).starts_with("Nothing was found on this host"), "{well:#}");
    assert_eq!(well["probes"][0]["answers"], true, "{well:#}");
    assert_eq!(well["probes"][0]["passed"], 1500, "{well:#}");
    for (at, rule) in [(A, "OUTPUT -p esp -j DROP"), (B, "INPUT -p esp -j DROP")] {
        iptables(&lab, at, &format!("-A {rule}"));
        let text = format!("`iptables-nft -A {rule}` drops packets of ESP (IP protocol 50)");
        blames(&lab, at, &[], "firewall", &[&text, "-p esp -j ACCEPT"]);
        if at == B {
            let answers = "Look on b: pings are answered, and nothing encrypted comes";
            let document = doctor(&lab, A, &["--probe"], 2);
            assert!(conclusion(&document).starts_with(answers), "{document:#}");
        }
        iptables(&lab, at, &format!("-D {rule}"));
    }
    // After decryption a packet meets the rules once more.
    iptables(&lab, A, "-A INPUT -p udp --dport 4789 -j DROP");
    blames(&lab, A, &[], "firewall", &["vxlan (UDP port 4789) after they were decrypted"]);
    iptables(&lab, A, "-F INPUT");
    iptables(&lab, A, "-P INPUT DROP");
    blames(&lab, A, &[], "firewall", &["`iptables-nft -P INPUT DROP`"]);
}

#[test]
#[ignore = "needs a kernel with ESP: cargo xtask test"]
fn pings_go_over_ipv6_too() {
    let lab = Lab::over(&[Underlay::V6; 2]);
    lab.apply_all();
    lab.reaches(A, B);
    let well = doctor(&lab, A, &["--probe", "b"], 0);
    assert_eq!(well["probes"][0]["passed"], 1500, "{well:#}");
    let mut iptables = Command::new("ip6tables-nft");
    lab.host(B).run(iptables.args(["-A", "INPUT", "-p", "esp", "-j", "DROP"])).exits(0);
    blames(&lab, B, &[], "firewall", &["`ip6tables-nft -A INPUT -p esp -j DROP`"]);
}

#[test]
#[ignore = "needs a kernel with ESP: cargo xtask test"]
fn the_underlay_is_down() {
    let lab = Lab::new(2);
    lab.apply_all();
    let _traffic = Stream::start_unanswered(&lab, A, B);
    lab.wire.ip("link set port1 down");
    let document = doctor(&lab, A, &["--probe"], 2);
    let network = "Look at the network between this host and b: no ping is answered";
    assert!(conclusion(&document).starts_with(network), "{document:#}");
    lab.wire.ip("link set port0 down");
    // The kernel takes up to a second to see that a carrier is gone.
    wait_for("the carrier to be gone", || {
        let document = doctor(&lab, A, &[], 2);
        conclusion(&document)
            .contains("eth0, by which packets to peers leave, has no carrier")
            .then_some(())
    });
    lab.host(A).ip("link set eth0 down");
    blames(&lab, A, &[], "device", &["eth0", "is down", "ip link set eth0 up"]);
    lab.host(A).ip("link set eth0 up");
    lab.host(A).ip("address delete 192.0.2.1/24 dev eth0");
    let gone = ["this host has no peer's address", "give the host its address"];
    blames(&lab, A, &[], "own-address", &gone);
    let named = blames(&lab, A, &["--local", "a"], "own-address", &["does not have 192.0.2.1"]);
    assert_eq!(named["local"], "a");
}

#[test]
#[ignore = "needs a kernel with ESP: cargo xtask test"]
fn a_tunnel_sends_too_much_or_from_another_address() {
    let lab = Lab::new(2);
    for place in [A, B] {
        lab.host(place).ip(&format!("link set {VXLAN} type vxlan id 42 df set"));
    }
    lab.apply_all();
    let host = lab.host(A);
    host.ip(&format!("link set {VXLAN} mtu 1450"));
    blames(&lab, A, &[], "mtu", &["vxlan42 (port 4789) has MTU 1450", "up to 1416"]);
    host.ip(&format!("link set {VXLAN} mtu 1416"));
    // Large packets are lost where the other host's link begins, without a word to a. A veth takes
    // four bytes more than its MTU, the room of a VLAN tag.
    lab.host(B).ip("link set eth0 mtu 1300");
    let lost = ["(b): large packets are lost on the way", "of 1304 bytes are answered", "is 1220"];
    blames(&lab, A, &["--probe"], "path-mtu", &lost);
    blames(&lab, B, &[], "mtu", &["up to 1216"]);
    lab.host(B).ip("link set eth0 mtu 1500");
    host.ip("address add 192.0.2.101/24 dev eth0");
    host.ip(&format!("link set {VXLAN} down"));
    host.ip(&format!("link set {VXLAN} type vxlan local 192.0.2.101"));
    host.ip(&format!("link set {VXLAN} up"));
    host.ip(&format!("neigh replace {} lladdr 02:42:00:00:00:02 dev {VXLAN}", inner(B)));
    let _traffic = Stream::start_unanswered(&lab, A, B);
    let source = ["vxlan42 come from 192.0.2.101", "the policies are for 192.0.2.1"];
    blames(&lab, A, &[], "tunnel", &source);
}

#[test]
#[ignore = "needs a kernel with ESP: cargo xtask test"]
fn the_other_host_is_missing_in_the_file() {
    let lab = Lab::new(3);
    lab.write(A, &lab.mesh.of_peers(&[A, C]));
    lab.apply_all();
    let _traffic = Stream::start_unanswered(&lab, A, B);
    let stranger = ["192.0.2.2 are blocked by the guard", "no pair has these addresses"];
    let document = blames(&lab, A, &[], "tunnel", &stranger);
    assert!(document["counters"]["XfrmOutPolBlock"].as_u64() > Some(0), "{document:#}");
    lab.meshsec(A, &["doctor", "b"]).exits(1).says("the file has no peer b");
}

#[test]
#[ignore = "needs a kernel with ESP: cargo xtask test"]
fn somebody_has_flushed_the_tables_or_outranks_the_mesh() {
    let lab = Lab::new(2);
    lab.apply_all();
    lab.host(A).ip("xfrm state flush");
    let flush = "something has deleted all SAs, as `ip xfrm state flush` does";
    blames(&lab, A, &[], "applied", &[flush]);
    lab.apply(A);
    lab.host(A).ip("xfrm policy flush");
    blames(&lab, A, &[], "applied", &["`ip xfrm policy flush`"]);
    lab.apply(A);
    let foreign = format!("src {}/32 dst {}/32 dir out", lab.address(A), lab.address(B));
    lab.host(A).ip(&format!("xfrm policy add {foreign} action allow priority 10"));
    blames(&lab, A, &[], "conflict", &["(b)", "outranks that of the mesh", "in the clear"]);
    lab.host(A).ip(&format!("xfrm policy delete {foreign}"));
    iptables(&lab, A, "-t mangle -F");
    blames(&lab, A, &[], "applied", &["`iptables -t mangle -F`"]);
}

#[test]
#[ignore = "needs a kernel with ESP: cargo xtask test"]
fn another_program_has_an_spi_of_the_mesh() {
    let lab = Lab::new(2);
    let (a, b, spi) = (lab.address(A), lab.address(B), spi(1, A, B));
    lab.host(A).ip(&format!(
        "xfrm state add src {a} dst {b} proto esp spi {spi:#x} reqid 77 mode transport {}",
        xfrm::AEAD
    ));
    lab.meshsec(A, &["apply", "--auto-approve"]).exits(3);
    blames(&lab, A, &[], "conflict", &["(b)", &format!("spi {spi:#x}"), "a foreign SA has"]);
    // The text for people ends with the same sentence.
    let ran = lab.meshsec(A, &["doctor", "--for", "1s"]).exits(2);
    let last = ran.stdout.lines().last().expect("there are lines");
    assert!(last.starts_with("On this host, conflict (b): sa dst "), "{ran}");
    ran.says("\nLook at\n").says("\nWell\n");
}

/// The clock of b is three generations ahead when it applies, and is put right.
#[test]
#[ignore = "needs a kernel with ESP: cargo xtask test"]
fn a_clock_is_wrong_or_was() {
    let mut clock: Clock = clock_at_the_beginning();
    let mut lab = Lab::new(2);
    lab.mesh.period = Some("10m");
    lab.write_all(&lab.mesh);
    lab.apply(A);
    // The kernel looks at the end of an SA a second after it was added.
    thread::sleep(Duration::from_secs(2));
    clock.jump(1800);
    lab.apply(B);
    clock.jump(-1800);
    assert_eq!(ping::answers(lab.host(A), &inner(B), 2), 0, "b answers");
    let _traffic = Stream::start_unanswered(&lab, A, B);
    says_to_look_on_b(&lab);
    blames(&lab, B, &[], "applied", &["changes are due (a)", "meshsec apply"]);
    drop(clock);
    let _clock = clock_before_the_release();
    blames(&lab, A, &[], "clock", &["the clock shows 2000-01-01", "set it"]);
}
