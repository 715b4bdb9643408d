//! Outages as operators meet them: the output of `status` on the host where they sit.
//!
//! Host a sends to host b and gets no answer. On a, where somebody pings, status is
//! never green; where the cause is on b, it says to look there, and b tells it.

use std::{fs, process::Command, thread, time::Duration};

use crate::{
    clock::{Clock, clock_at_the_beginning, clock_before_the_release},
    fixture::{A, B, C, Lab, Underlay, VXLAN, inner, spi, write_secret},
    iptables::Backend,
    ping::{self, Stream},
    shell::Ran,
    wait::wait_for,
    xfrm,
};

/// Another secret than that of the mesh.
const OTHER_KEY: &str = "e5f4030201f0e9d8c7b6a5948372615041302f1e0d0c0b0a0987a6b5c4d3e2f1";

/// The output of status, in one line, so that no text is parted by the end of one.
fn says(ran: &Ran) -> String {
    ran.stdout.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[track_caller]
fn has(ran: &Ran, texts: &[&str]) {
    let said = says(ran);
    for text in texts {
        assert!(said.contains(text), "wanted {text:?} from {ran}");
    }
}

/// Status on a while it sends to b, which answers nothing: exit status 2, and these texts.
#[track_caller]
fn is_told_on_a(lab: &Lab, texts: &[&str]) -> Ran {
    let _traffic = Stream::start_unanswered(lab, A, B);
    assert_eq!(ping::answers(lab.host(A), &inner(B), 5), 0, "b answers");
    let ran = lab.meshsec(A, &["status"]).exits(2);
    has(&ran, texts);
    let last = ran.stdout.lines().last().unwrap_or_default();
    assert!(!last.contains("matches") && last.contains("peer"), "the last line: {ran}");
    ran
}

/// The cause is not on a: b was never heard, and that is where to look.
#[track_caller]
fn is_told_to_look_at_b(lab: &Lab) {
    let next = "Nothing comes in from b: does a firewall drop ESP (IP protocol 50)";
    let ran = is_told_on_a(lab, &["b never heard", next, "Run meshsec status on b"]);
    assert!(!says(&ran).contains("protected"), "{ran}");
}

/// The output of status on b, with any exit status.
#[track_caller]
fn is_told_on_b(lab: &Lab, texts: &[&str]) {
    has(&lab.meshsec(B, &["status"]), texts);
}

#[test]
#[ignore = "needs a kernel with ESP: cargo xtask test"]
fn the_secret_differs_on_the_other_host() {
    let lab = Lab::new(2);
    let key = lab.file(B).with_file_name("mesh.key");
    fs::remove_file(&key).expect("it was written");
    write_secret(&key, OTHER_KEY);
    lab.apply_all();
    is_told_to_look_at_b(&lab);
    is_told_on_b(&lab, &["under another key", "are secret, cipher and generation the same"]);
}

#[test]
#[ignore = "needs a kernel with ESP: cargo xtask test"]
fn the_cipher_differs_on_the_other_host() {
    let mut lab = Lab::new(2);
    lab.mesh.esp = "cipher = \"aes128-gcm\"";
    lab.write(B, &lab.mesh);
    lab.apply_all();
    is_told_to_look_at_b(&lab);
    is_told_on_b(&lab, &["under another key"]);
}

#[test]
#[ignore = "needs a kernel with ESP: cargo xtask test"]
fn the_other_host_has_not_applied() {
    let lab = Lab::new(2);
    lab.apply(A);
    is_told_to_look_at_b(&lab);
    let ran = lab.meshsec(B, &["status"]).exits(2);
    has(&ran, &["a in the clear", "this host has no SA: run meshsec apply here"]);
}

#[test]
#[ignore = "needs a kernel with ESP: cargo xtask test"]
fn the_other_host_is_one_generation_behind() {
    let lab = Lab::new(2);
    lab.apply_all();
    lab.write(A, &lab.mesh.of_generation(2));
    lab.apply(A);
    let _traffic = Stream::start(&lab, A, B);
    // Times are whole seconds: the SAs have to be older than the last packet.
    thread::sleep(Duration::from_secs(2));
    let ran = lab.meshsec(A, &["status"]).exits(0);
    has(&ran, &["b protected", "still sends under generation 1 (one behind)"]);
    let ran = lab.meshsec(B, &["status"]).exits(0);
    has(&ran, &["a protected", "sends under generation 2 already (one ahead)"]);
}

#[test]
#[ignore = "needs a kernel with ESP: cargo xtask test"]
fn the_other_host_is_two_generations_behind() {
    let lab = Lab::new(2);
    lab.apply_all();
    for generation in [2, 3] {
        lab.write(A, &lab.mesh.of_generation(generation));
        lab.apply(A);
    }
    is_told_to_look_at_b(&lab);
    is_told_on_b(&lab, &["the sender has another generation, short_id or peer list"]);
}

#[test]
#[ignore = "needs a kernel with ESP: cargo xtask test"]
fn a_firewall_drops_esp() {
    let lab = Lab::new(2);
    lab.apply_all();
    let firewall = |place: usize, rule: &str| {
        let mut iptables = Command::new("iptables-nft");
        lab.host(place).run(iptables.args(rule.split(' '))).exits(0);
    };
    firewall(B, "-A INPUT -p esp -j DROP");
    is_told_to_look_at_b(&lab);
    firewall(B, "-F INPUT");
    firewall(A, "-A OUTPUT -p esp -j DROP");
    is_told_to_look_at_b(&lab);
}

/// Tunnels flood to peers that have nothing to answer: there a silent peer is shown,
/// and is an alarm if it was asked for.
#[test]
#[ignore = "needs a kernel with ESP: cargo xtask test"]
fn a_peer_falls_silent() {
    let lab = Lab::new(2);
    lab.apply_all();
    lab.reaches(A, B);
    has(&lab.meshsec(A, &["status"]).exits(0), &["1 peer: 1 protected."]);
    let mut iptables = Command::new("iptables-nft");
    lab.host(B).run(iptables.args(["-A", "INPUT", "-p", "esp", "-j", "DROP"])).exits(0);
    let _traffic = Stream::start_unanswered(&lab, A, B);
    thread::sleep(Duration::from_secs(33));
    let next = "Nothing comes in from b";
    let ran = lab.meshsec(A, &["status"]).exits(0);
    has(&ran, &["b silent", next, "1 peer: 1 silent."]);
    lab.meshsec(A, &["status", "--strict"]).exits(2);
    lab.meshsec(A, &["status", "--wait-heard", "1s"]).exits(2);
    let mut iptables = Command::new("iptables-nft");
    lab.host(B).run(iptables.args(["-F", "INPUT"])).exits(0);
    lab.reaches(A, B);
    let ran = lab.meshsec(A, &["status", "--wait-heard", "20s"]).exits(0);
    has(&ran, &["1 peer: 1 protected."]);
}

/// The clock of b is three generations ahead when it applies, and is put right.
#[test]
#[ignore = "needs a kernel with ESP: cargo xtask test"]
fn the_clock_of_the_other_host_was_ahead() {
    let mut clock: Clock = clock_at_the_beginning();
    let mut lab = Lab::new(2);
    lab.mesh.period = Some("10m");
    lab.write_all(&lab.mesh);
    lab.apply(A);
    // The kernel looks at the end of an SA a second after it was added (`xfrm_init_state`'s timer),
    // and nothing shows that it has: a clock that is ahead by then would end it.
    std::thread::sleep(std::time::Duration::from_secs(2));
    clock.jump(1800);
    lab.apply(B);
    clock.jump(-1800);
    is_told_to_look_at_b(&lab);
    let ran = lab.meshsec(B, &["status"]).exits(2);
    has(&ran, &["Generation: clock", "SAs not wanted by the file a: 4 SAs, generations"]);
}

#[test]
#[ignore = "needs a kernel with ESP: cargo xtask test"]
fn the_tunnel_has_another_address() {
    let lab = Lab::new(2);
    lab.apply_all();
    let host = lab.host(A);
    host.ip("address add 192.0.2.101/24 dev eth0");
    host.ip(&format!("link set {VXLAN} down"));
    host.ip(&format!("link set {VXLAN} type vxlan local 192.0.2.101"));
    host.ip(&format!("link set {VXLAN} up"));
    host.ip(&format!("neigh replace {} lladdr 02:42:00:00:00:02 dev {VXLAN}", inner(B)));
    let look = "not a peer's address; look at ip -d link show type vxlan";
    is_told_on_a(&lab, &["b blocked", "udp dport 4789 from 192.0.2.101", look]);
}

#[test]
#[ignore = "needs a kernel with ESP: cargo xtask test"]
fn the_underlay_is_down() {
    let lab = Lab::new(2);
    lab.apply_all();
    // At the other host: nobody can tell that here.
    lab.wire.ip("link set port1 down");
    is_told_to_look_at_b(&lab);
    lab.wire.ip("link set port0 down");
    // The kernel takes up to a second to see that a carrier is gone.
    wait_for("the carrier to be gone", || {
        let ran = lab.meshsec(A, &["status"]).exits(2);
        says(&ran).contains("b blocked eth0 has no carrier").then_some(())
    });
    lab.host(A).ip("link set eth0 down");
    has(&lab.meshsec(A, &["status"]).exits(2), &["b blocked there is no route to 192.0.2.2"]);
}

#[test]
#[ignore = "needs a kernel with ESP: cargo xtask test"]
fn a_short_id_differs_on_the_other_host() {
    let mut lab = Lab::new(2);
    lab.mesh.peers[A].short_id = 9;
    lab.write(B, &lab.mesh);
    lab.apply_all();
    is_told_to_look_at_b(&lab);
    is_told_on_b(&lab, &["XfrmInNoStates", "another generation, short_id or peer list"]);
}

#[test]
#[ignore = "needs a kernel with ESP: cargo xtask test"]
fn an_address_is_wrong_on_the_other_host() {
    let mut lab = Lab::new(2);
    lab.mesh.peers[A].address = "192.0.2.77".into();
    lab.write(B, &lab.mesh);
    lab.apply_all();
    is_told_to_look_at_b(&lab);
    is_told_on_b(&lab, &["XfrmInStateMismatch", "a peer's key with another's address"]);
}

#[test]
#[ignore = "needs a kernel with ESP: cargo xtask test"]
fn somebody_has_flushed_the_tables() {
    let lab = Lab::new(2);
    lab.apply_all();
    lab.host(A).ip("xfrm state flush");
    is_told_on_a(&lab, &["b blocked", "`ip xfrm state flush`", "1 peer: 1 blocked."]);
    lab.apply(A);
    lab.host(A).ip("xfrm policy flush");
    let ran = lab.meshsec(A, &["status"]).exits(2);
    has(&ran, &["`ip xfrm policy flush`"]);
    assert!(!says(&ran).contains("protected"), "{ran}");
}

/// The host can't tell that somebody should be its peer, and says whom it blocks.
#[test]
#[ignore = "needs a kernel with ESP: cargo xtask test"]
fn the_other_host_is_missing_in_the_file() {
    let lab = Lab::new(3);
    lab.write(A, &lab.mesh.of_peers(&[A, C]));
    lab.apply_all();
    assert_eq!(ping::answers(lab.host(A), &inner(B), 5), 0, "b answers");
    let ran = lab.meshsec(A, &["status"]).exits(0);
    has(&ran, &["the source or destination is not a peer's address", "1 peer: 1 idle."]);
    let ran = lab.meshsec(A, &["status", "b"]).exits(1);
    ran.says("the file has no peer b");
}

/// Whether a packet of this length, in the tunnel, is answered.
fn passes(lab: &Lab, length: usize) -> bool {
    let mut ping = ping::command();
    let payload = (length - 28).to_string();
    ping.args(["-q", "-c", "2", "-i", "0.1", "-W", "1", "-M", "do", "-s", &payload, &inner(B)]);
    lab.host(A).run(&mut ping).status == 0
}

/// Small packets pass, so that the peer is protected: `status` says what large ones meet.
#[test]
#[ignore = "needs a kernel with ESP: cargo xtask test"]
fn the_tunnel_takes_larger_packets_than_the_underlay() {
    let lab = Lab::new(2);
    for place in [A, B] {
        lab.host(place).ip(&format!("link set {VXLAN} type vxlan id 42 df set"));
        lab.host(place).ip(&format!("link set {VXLAN} mtu 1450"));
    }
    lab.apply_all();
    assert!(passes(&lab, 1416) && !passes(&lab, 1450), "1416 bytes fit");
    let fits = "vxlan42 (port 4789) has MTU 1450, and encrypted packets fit the 1500 of eth0 up to \
                1416: larger ones are lost";
    has(&lab.meshsec(A, &["status"]).exits(0), &["1 protected", fits]);
    lab.meshsec(A, &["plan"]).says(fits);
}

/// Large packets are lost where the other host's link begins, without a word to a: only b knows.
#[test]
#[ignore = "needs a kernel with ESP: cargo xtask test"]
fn the_underlay_of_the_other_host_takes_smaller_packets() {
    let mut lab = Lab::new(2);
    lab.mesh.link = "device = \"vxlan42\"\nmtu = \"auto\"";
    lab.write_all(&lab.mesh);
    lab.apply_all();
    assert!(passes(&lab, 1416), "the underlay takes it");
    lab.host(B).ip("link set eth0 mtu 1300");
    assert!(passes(&lab, 1200) && !passes(&lab, 1416), "1200 bytes fit");
    has(&lab.meshsec(A, &["status"]).exits(0), &["1 protected", "Nothing differs"]);
    has(&lab.meshsec(B, &["status"]).exits(2), &["1 change is due (link): run meshsec plan."]);
    let plan = lab.meshsec(B, &["plan"]).exits(0);
    plan.says("mtu: 1416 -> 1216").says("the largest that fits the 1300 of eth0");
}

#[test]
#[ignore = "needs a kernel with ESP: cargo xtask test"]
fn the_clock_is_before_the_release() {
    let mut lab = Lab::new(2);
    lab.mesh.period = Some("10m");
    lab.write_all(&lab.mesh);
    lab.apply_all();
    let _clock = clock_before_the_release();
    for command in ["status", "plan"] {
        let ran = lab.meshsec(A, &[command]).exits(1);
        let said = "the clock shows 2000-01-01";
        assert!(ran.stderr.contains(said), "{ran}");
        assert!(ran.stderr.contains("before this program's release"), "{ran}");
    }
}

/// The second guard is gone, and packets leave encrypted as before.
#[test]
#[ignore = "needs a kernel with ESP: cargo xtask test"]
fn somebody_has_flushed_iptables() {
    let lab = Lab::new(2);
    lab.apply_all();
    lab.reaches(A, B);
    // The mesh has no chain in the filter table.
    for words in ["-F", "-X"] {
        Backend::Nft.tables(lab.host(A), Underlay::V4, words);
    }
    has(&lab.meshsec(A, &["status"]).exits(0), &["1 protected", "Nothing differs"]);
    Backend::Nft.tables(lab.host(A), Underlay::V4, "-t mangle -F");
    let flush = "something has flushed the table, as `iptables -t mangle -F` does";
    let ran = lab.meshsec(A, &["status"]).exits(2);
    has(&ran, &["1 protected", flush, "2 changes are due (chain)"]);
    lab.apply(A);
    lab.has_converged(A);
}

#[test]
#[ignore = "needs a kernel with ESP: cargo xtask test"]
fn somebody_has_flushed_iptables_where_a_mark_selects() {
    let lab = Backend::Nft.lab(&[Underlay::V4; 2]);
    lab.apply_all();
    lab.reaches(A, B);
    Backend::Nft.tables(lab.host(A), Underlay::V4, "-F");
    let ran = lab.meshsec(A, &["status"]).exits(2);
    has(&ran, &["1 protected", "something has flushed the table, as `iptables -F` does"]);
    lab.apply(A);
    Backend::Nft.tables(lab.host(A), Underlay::V4, "-t mangle -F");
    let flush = "something has flushed the table, as `iptables -t mangle -F` does";
    is_told_on_a(&lab, &["b blocked", flush, "packets to b are blocked until meshsec apply runs"]);
    lab.apply(A);
    lab.reaches(A, B);
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
    lab.meshsec(A, &["apply", "--auto-approve"]).exits(3).says("traffic to b: blocked");
    lab.apply(B);
    let object = format!("1 conflict (sa dst {b} proto esp spi {spi:#x} reqid 0x4d)");
    is_told_on_a(&lab, &["b blocked", &object, "run meshsec plan"]);
    let plan = lab.meshsec(A, &["plan"]).exits(1);
    plan.says("a foreign SA has the destination and SPI of an SA of the mesh; delete it, or");
}

/// The SAs that carry the traffic stay in sight when the file is ahead of them, and
/// when it no longer has the peer.
#[test]
#[ignore = "needs a kernel with ESP: cargo xtask test"]
fn sas_that_the_file_does_not_want_are_shown() {
    let lab = Lab::new(3);
    lab.apply_all();
    lab.reaches(A, B);
    lab.reaches(A, C);
    lab.write(A, &lab.mesh.of_generation(4).of_peers(&[A, B]));
    let ran = lab.meshsec(A, &["status"]).exits(2);
    has(&ran, &["Generation: file 4, kernel 1", "b: 4 SAs, generations 0 to 2, used"]);
    has(&ran, &["192.0.2.3, short_id 3, of no peer of the file: 4 SAs"]);
    let metrics = lab.meshsec(A, &["status", "--format", "prometheus"]).exits(2);
    metrics
        .says("peer=\"b\",direction=\"out\",dst=\"192.0.2.2\",spi=\"0x84001002\",wanted=\"false\"");
}

/// It shows counters move, and stops with the verdict when it is interrupted.
#[test]
#[ignore = "needs a kernel with ESP: cargo xtask test"]
fn a_watch_shows_what_moves_and_ends_well() {
    let lab = Lab::new(2);
    lab.apply_all();
    let traffic = Stream::start(&lab, A, B);
    let script = "\"$@\" & sleep 4; kill -INT $!; wait $!";
    let watch = |words: &[&str]| {
        let words = [&["status", "-v", "--watch", "1s"][..], words].concat();
        let meshsec = lab.command(A, &words);
        let mut sh = Command::new("bash");
        // Jobs of their own have SIGINT ignored unless there is job control.
        sh.args(["-m", "-c", script, "bash"]).arg(meshsec.get_program()).args(meshsec.get_args());
        crate::shell::run(&mut sh)
    };
    let ran = watch(&[]).exits(0);
    has(&ran, &["in the last 1s:", "heard, 0 refused"]);
    assert!(!ran.stdout.contains('\u{1b}'), "a pipe gets no escapes: {ran}");
    let ran = watch(&["--format", "json"]).exits(0);
    assert!(ran.stdout.lines().count() >= 2, "{ran}");
    for line in ran.stdout.lines() {
        let look: serde_json::Value = serde_json::from_str(line).expect("a line is JSON");
        assert_eq!(look["exit"]["status"], 0, "{line}");
    }
    drop(traffic);
    // A reader that closes the pipe ends it.
    let meshsec = lab.command(A, &["status", "--watch", "1s"]);
    let mut sh = Command::new("bash");
    sh.args(["-c", "\"$@\" | head -n 1; echo ${PIPESTATUS[0]}", "bash"]);
    let ran = crate::shell::run(sh.arg(meshsec.get_program()).args(meshsec.get_args()));
    assert_eq!(ran.stdout.lines().last(), Some("0"), "{ran}");
    lab.meshsec(A, &["--format", "prometheus", "status", "--watch"]).exits(1);
}
