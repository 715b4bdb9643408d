//! Golden statuses: a host on which all is well, one on which much is not.
//!
//! `UPDATE_GOLDEN=1 cargo test --test status` writes the files anew; read the
//! difference before you commit it.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
};

use crate::common::{REQID, applied_host, compare, mesh, observe};
use meshsec::{
    config::{Config, EncapWish, Esp, Rotation, Select, Traffic},
    desired::desired,
    kernel::memory::Memory,
    model::{
        Action, Answers, Destination, EncapSocket, Generation, Mark, PeerName, Period, Replay,
        Time, Tunnel, TunnelKind, Usage,
    },
    plan::Plan,
    render::{Sample, StatusView, status_json, status_prometheus, status_text},
    verdict::{Case, Verdict, judge},
};

/// 2026-01-16 13:30 UTC.
const NOW: Time = Time(1_768_570_200_000_000_000);

fn ago(seconds: u64) -> Time {
    Time(NOW.0 - seconds * 1_000_000_000)
}

/// How a status is asked for.
#[derive(Default)]
struct Asked {
    peers: BTreeSet<PeerName>,
    verbose: bool,
    before: Option<(Vec<Usage>, BTreeMap<String, u64>)>,
}

fn golden(name: &str, config: &Config, kernel: &mut Memory, counters: &BTreeMap<String, u64>) {
    golden_of(name, config, kernel, counters, &Asked::default());
}

fn golden_of(
    name: &str,
    config: &Config,
    kernel: &mut Memory,
    counters: &BTreeMap<String, u64>,
    asked: &Asked,
) {
    let moment = config.rotation.at(NOW);
    let local = &config.peers[0];
    let (wanted, _) = desired(config, moment, local, None);
    let live = observe(kernel);
    let plan = Plan::new(&wanted, &live, REQID);
    let case = Case {
        config,
        moment,
        now: NOW,
        local,
        desired: &wanted,
        live: &live,
        plan: &plan,
        asked: &asked.peers,
        strict: false,
    };
    let mut earlier = live.clone();
    let before = asked.before.as_ref().map(|(usage, counters)| {
        earlier.0.usage.clone_from(usage);
        let case = Case { now: ago(2), live: &earlier, ..case };
        Sample::of(&view(case, &judge(&case), counters, asked, None))
    });
    let judged = judge(&case);
    let view = view(case, &judged, counters, asked, before.as_ref());
    let text = anstream::adapter::strip_str(&status_text(&view)).to_string();
    for line in text.lines() {
        assert!(line.chars().count() <= 80, "more than 80 columns: {line}");
    }
    crate::schema::assert_valid("status", &serde_json::to_value(status_json(&view)).unwrap());
    let json = serde_json::to_string_pretty(&status_json(&view)).unwrap() + "\n";
    for (extension, actual) in [("txt", text), ("json", json), ("prom", status_prometheus(&view))] {
        compare(&format!("tests/status/{name}.{extension}"), &actual);
    }
}

fn view<'a>(
    case: Case<'a>,
    judged: &'a meshsec::verdict::Judgement,
    counters: &'a BTreeMap<String, u64>,
    asked: &Asked,
    before: Option<&'a Sample>,
) -> StatusView<'a> {
    let details = asked.verbose || !asked.peers.is_empty();
    StatusView { case, judged, counters, warnings: &[], details, before }
}

/// Says of the SAs of a pair in one direction that they have carried packets.
fn carried(kernel: &mut Memory, (from, to): (&str, &str), generation: u8, last: Time) {
    let [from, to]: [std::net::IpAddr; 2] = [from, to].map(|address| address.parse().unwrap());
    let state = kernel.state_mut();
    let is_it = |sa: &&meshsec::model::Sa| {
        sa.src == from && sa.id.dst == to && sa.id.spi.generation_low() == generation
    };
    let id = state.sas.iter().find(is_it).expect("there is such an SA").id;
    let usage = state.usage.iter_mut().find(|usage| usage.id == id).unwrap();
    (usage.packets, usage.bytes, usage.last) = (12, 1_234, Some(last));
}

const LAB: [&str; 3] = ["192.0.2.1", "192.0.2.2", "192.0.2.3"];

#[test]
fn all_is_well_by_the_clock() {
    let replay = Replay { window: 1024, esn: true };
    let config = Config {
        esp: Esp { replay, ..mesh(1, &LAB).esp },
        rotation: Rotation::Period(Period::new(3600).unwrap()),
        ..mesh(1, &LAB)
    };
    let mut kernel = crate::common::host(&config);
    kernel.set_now(NOW);
    assert!(crate::common::applied(&config, &mut kernel).is_complete());
    for usage in &mut kernel.state_mut().usage {
        (usage.packets, usage.bytes) = (1_234, 987_654);
        usage.last = Some(Time(NOW.0 - 65_000_000_000));
    }
    golden("all-is-well-by-the-clock", &config, &mut kernel, &BTreeMap::new());
}

#[test]
fn much_is_wrong() {
    // Rules of iptables would block packets that leave in the clear here.
    let config = Config { guard: meshsec::config::Guard::Policies, ..mesh(1, &LAB) };
    let mut kernel = applied_host(&config);
    let state = kernel.state_mut();
    state.usage.sort_by_key(|usage| usage.id.dst != config.peers[0].address);
    for (usage, number) in state.usage.iter_mut().zip(0..) {
        usage.sent = (1 << 32) / 10 * number;
        (usage.too_old, usage.replayed, usage.forged) = (number as u32 % 2, 0, number as u32 % 3);
    }
    // The way to b has no SA any more, and that to c lets clear text pass.
    let gone = state.sas.iter().position(|sa| sa.src == config.peers[0].address).unwrap();
    let b = state.sas.remove(gone).id.dst;
    state
        .policies
        .retain(|policy| policy.action == Action::Allow && (policy.id.selector.dst.address == b));
    let counters = [("XfrmInNoStates", 3), ("XfrmOutNoStates", 1234), ("XfrmSomethingNew", 1)];
    let counters = counters.map(|(name, number)| (name.to_owned(), number)).into();
    golden("much-is-wrong", &config, &mut kernel, &counters);
}

#[test]
fn traffic_is_selected_by_mark() {
    let mark = Mark { value: 0x20000, mask: 0x20000 };
    let config = Config { select: Select::Mark(mark), ..mesh(1, &LAB) };
    let mut kernel = applied_host(&config);
    // The way to b has no SA any more; that to c is as it should be.
    let (a, b) = (config.peers[0].address, config.peers[1].address);
    kernel.state_mut().sas.retain(|sa| (sa.src, sa.id.dst) != (a, b));
    golden("selected-by-mark", &config, &mut kernel, &BTreeMap::new());
}

/// Peer b is at send and heard, and packets to c leave in the clear, which is as the file asks.
#[test]
fn stages_ask_for_clear_text() {
    let mut config = mesh(1, &LAB);
    config.stage = meshsec::model::Stage::Send;
    config.peers[2].stage = meshsec::model::Stage::Receive;
    let mut kernel = applied_host(&config);
    carried(&mut kernel, (LAB[0], LAB[1]), 1, NOW);
    carried(&mut kernel, (LAB[1], LAB[0]), 1, NOW);
    golden("stages", &config, &mut kernel, &BTreeMap::new());
}

/// Peers b to g, a verdict each: in the clear, blocked, never heard, silent, idle, protected.
#[test]
fn every_verdict() {
    const ALL: [&str; 8] = [
        "192.0.2.1",
        "192.0.2.2",
        "192.0.2.3",
        "192.0.2.4",
        "192.0.2.5",
        "192.0.2.6",
        "192.0.2.7",
        "192.0.2.8",
    ];
    let config = Config { guard: meshsec::config::Guard::Off, ..mesh(7, &ALL) };
    let mut kernel = applied_host(&config);
    let [a, b, c, d, e, _, g, h] = ALL;
    let address = |text: &str| text.parse::<std::net::IpAddr>().unwrap();
    let state = kernel.state_mut();
    state.policies.retain(|policy| policy.id.selector.dst.address != address(b));
    state.sas.retain(|sa| sa.id.dst != address(c));
    state.usage.iter_mut().for_each(|usage| usage.added = ago(3600));
    carried(&mut kernel, (a, d), 7, ago(2));
    carried(&mut kernel, (a, e), 7, ago(2));
    carried(&mut kernel, (e, a), 7, ago(600));
    carried(&mut kernel, (a, g), 7, ago(2));
    carried(&mut kernel, (g, a), 7, ago(1));
    // One that is a generation behind.
    carried(&mut kernel, (a, h), 7, ago(2));
    carried(&mut kernel, (h, a), 6, ago(1));
    golden("every-verdict", &config, &mut kernel, &BTreeMap::new());
}

/// The file was raised from 5 to 8 and c left it, and nothing was applied: the
/// SAs that carry the traffic are none that the file wants.
#[test]
fn the_file_is_ahead_of_the_kernel() {
    let mut kernel = applied_host(&mesh(5, &LAB));
    let [a, b, c] = LAB;
    for (pair, last) in [((a, b), 2), ((b, a), 1), ((a, c), 90), ((c, a), 80)] {
        carried(&mut kernel, pair, 5, ago(last));
    }
    let config = Config {
        rotation: Rotation::Generation(Generation::new(8).unwrap()),
        ..mesh(8, &LAB[..2])
    };
    golden("the-file-is-ahead", &config, &mut kernel, &BTreeMap::new());
}

/// Programs that choose no address send from one that no policy is for.
#[test]
fn packets_leave_from_another_address() {
    let config =
        Config { traffic: Traffic::All, guard: meshsec::config::Guard::Off, ..mesh(1, &LAB) };
    let mut kernel = applied_host(&config);
    for route in &mut kernel.state_mut().routes {
        route.source = Some("192.0.2.77".parse().unwrap());
    }
    assert!(!kernel.state_mut().routes.is_empty(), "the host has routes");
    golden("another-source", &config, &mut kernel, &BTreeMap::new());
}

/// Somebody has deleted the policies for ICMP errors to b, which quote decrypted packets.
#[test]
fn only_icmp_errors_are_in_the_clear() {
    let config = mesh(1, &LAB);
    let mut kernel = applied_host(&config);
    carried(&mut kernel, (LAB[0], LAB[1]), 1, ago(2));
    carried(&mut kernel, (LAB[1], LAB[0]), 1, ago(2));
    let b = config.peers[1].address;
    kernel
        .state_mut()
        .policies
        .retain(|policy| !(policy.is_for_icmp_errors() && policy.id.selector.dst.address == b));
    golden("icmp-errors", &config, &mut kernel, &BTreeMap::new());
}

#[test]
fn there_is_no_way_to_a_peer() {
    let config = mesh(1, &LAB);
    let mut kernel = applied_host(&config);
    let [b, c] = &mut kernel.state_mut().routes[..] else { panic!("two routes") };
    b.refused = Some("ENETUNREACH".into());
    c.no_carrier.clone_from(&c.devices);
    golden("no-way", &config, &mut kernel, &BTreeMap::new());
}

/// Over IPv6, by a VRF: packets come from b and c, and some have left for c alone.
#[test]
fn marked_packets_may_be_lost_in_a_vrf() {
    const V6: [&str; 3] = ["2001:db8::1", "2001:db8::2", "2001:db8::3"];
    let mark = Mark { value: 0x20000, mask: 0x20000 };
    let config = Config { select: Select::Mark(mark), ..mesh(1, &V6) };
    let mut kernel = applied_host(&config);
    for (from, to) in [(V6[1], V6[0]), (V6[2], V6[0]), (V6[0], V6[2])] {
        carried(&mut kernel, (from, to), 1, NOW);
    }
    for route in &mut kernel.state_mut().routes {
        route.vrfs = ["red".to_owned()].into();
    }
    golden("marked-packets-in-a-vrf", &config, &mut kernel, &BTreeMap::new());
}

#[test]
fn the_second_guard_is_missing() {
    let mut kernel = applied_host(&mesh(1, &LAB));
    let firewall = &mut kernel.state_mut().firewall;
    firewall.chains.clear();
    firewall.backends.clear();
    golden("the-second-guard-is-missing", &mesh(1, &LAB), &mut kernel, &BTreeMap::new());
}

#[test]
fn one_peer_is_asked_for() {
    let config = mesh(1, &LAB);
    let mut kernel = applied_host(&config);
    carried(&mut kernel, (LAB[0], LAB[1]), 1, ago(2));
    carried(&mut kernel, (LAB[1], LAB[0]), 1, ago(3));
    let peers = BTreeSet::from([config.peers[1].name.clone()]);
    let asked = Asked { peers, ..Asked::default() };
    golden_of("one-peer-is-asked-for", &config, &mut kernel, &BTreeMap::new(), &asked);
}

/// Old counters beside new ones: counters of healed faults move no more.
#[test]
fn a_fault_that_is_mended_moves_no_more() {
    let config = mesh(1, &LAB);
    let mut kernel = applied_host(&config);
    for pair in [(LAB[0], LAB[1]), (LAB[1], LAB[0]), (LAB[0], LAB[2]), (LAB[2], LAB[0])] {
        carried(&mut kernel, pair, 1, ago(1));
    }
    let state = kernel.state_mut();
    let from_b = |sa: &&meshsec::model::Sa| {
        sa.src == config.peers[1].address && sa.id.spi.generation_low() == 1
    };
    let id = state.sas.iter().find(from_b).unwrap().id;
    state.usage.iter_mut().find(|usage| usage.id == id).unwrap().forged = 4;
    let mut before = state.usage.clone();
    before.iter_mut().for_each(|usage| usage.packets = usage.packets.saturating_sub(2));
    let counters: BTreeMap<String, u64> = [("XfrmInStateProtoError".to_owned(), 4)].into();
    let asked = Asked { before: Some((before, counters.clone())), ..Asked::default() };
    golden_of("watched", &config, &mut kernel, &counters, &asked);
}

/// The looks for the socket are among the packets that were refused, and no peer is to blame.
#[test]
fn esp_in_udp_watched() {
    let mut config = mesh(1, &LAB);
    let from = Generation::new(0).unwrap();
    config.esp.encap = Some(EncapWish { port: 4500, from, keepalive: None });
    let mut kernel = applied_host(&config);
    let counters = |number| BTreeMap::from([("XfrmInNoStates".to_owned(), number)]);
    let look = EncapSocket::DATAGRAMS;
    for (answers, moved) in [(Answers::Yes, "0 in the last"), (Answers::No, "3 in the last")] {
        let socket = EncapSocket { port: 4500, answers, is_bound: true };
        kernel.state_mut().encap = Some(socket);
        let before = Some((kernel.state_mut().usage.clone(), counters(30)));
        let asked = Asked { before, ..Asked::default() };
        let name = format!("esp-in-udp-watched-{}", answers.word());
        golden_of(&name, &config, &mut kernel, &counters(30 + look), &asked);
        let text = fs::read_to_string(format!("tests/status/{name}.txt")).unwrap();
        assert!(text.contains(moved) && text.contains("each look of meshsec"), "{text}");
    }
}

/// Metrics with their type and labels, as golden statuses have them.
fn metrics_of_golden_statuses() -> BTreeSet<String> {
    let mut metrics = BTreeSet::new();
    let pages: Vec<String> = fs::read_dir("tests/status")
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "prom"))
        .map(|path| fs::read_to_string(path).unwrap())
        .collect();
    for page in &pages {
        for line in page.lines().filter_map(|line| line.strip_prefix("# TYPE ")) {
            let (name, kind) = line.split_once(' ').unwrap();
            let head = format!("\n{name}{{");
            let sample = pages.iter().find_map(|page| page.split_once(&head));
            let (_, labels) = sample.unwrap_or_else(|| panic!("no golden status has {name}"));
            let labels = labels.split_once('}').unwrap().0.split(',');
            let labels: Vec<&str> = labels.map(|label| label.split('=').next().unwrap()).collect();
            metrics.insert(format!("{name} {kind} {}", labels.join(", ")));
        }
    }
    metrics
}

#[test]
fn meshsec_json_7_has_every_metric_with_its_type_and_labels_and_no_other() {
    let page = fs::read_to_string("man/meshsec-json.7").unwrap();
    let section = page.split("\n.Sh METRICS\n").nth(1).unwrap().split("\n.Sh ").next().unwrap();
    let items = section.split("\n.It Va ").skip(1);
    let documented: BTreeSet<String> = items
        .map(|item| {
            let mut lines = item.lines();
            let name = lines.next().unwrap();
            let kind = lines.next().unwrap().strip_prefix(".Em ").unwrap().trim_end_matches(" ;");
            let labels = lines.next().unwrap().trim_end_matches('.');
            assert!(
                lines.next().is_some_and(|help| !help.starts_with('.')),
                "{name} is not explained"
            );
            format!("{name} {kind} {labels}")
        })
        .collect();
    let printed = metrics_of_golden_statuses();
    assert!(printed.len() > 15, "{printed:?}");
    assert_eq!(documented, printed, "metrics of meshsec-json(7), and those that status prints");
}

/// A tunnel device sends from its own address, which no policy is for, to its remote end and by its
/// forwarding entries.
#[test]
fn a_tunnel_device_sends_from_another_address() {
    let config = Config { guard: meshsec::config::Guard::Off, ..mesh(1, &LAB) };
    let address = |text: &str| -> std::net::IpAddr { text.parse().unwrap() };
    let to = |text: &str| Destination { address: address(text), port: None };
    let odd = Tunnel {
        device: "vxlan42".into(),
        kind: TunnelKind::Vxlan,
        port: 4789,
        local: Some(address("192.0.2.77")),
        remote: None,
        lower: None,
        master: None,
        external: false,
        other_names: BTreeSet::new(),
        entries: Some([to(LAB[1])].into()),
    };
    let remote = Tunnel { remote: Some(address(LAB[1])), entries: None, ..odd.clone() };
    let elsewhere = Tunnel { entries: Some([to("192.0.2.99")].into()), ..odd.clone() };
    let geneve = Tunnel { kind: TunnelKind::Geneve, ..odd.clone() };
    let right = Tunnel { local: Some(address(LAB[0])), ..odd.clone() };
    let of_ipv6 = Tunnel { local: Some(address("2001:db8::77")), ..odd.clone() };
    let unbound = Tunnel { local: None, ..odd.clone() };
    for (tunnel, verdict) in [
        (remote, Verdict::Clear),
        (Tunnel { port: 8472, ..odd.clone() }, Verdict::Idle),
        (odd, Verdict::Clear),
        (elsewhere, Verdict::Idle),
        (geneve, Verdict::Idle),
        (right, Verdict::Idle),
        (of_ipv6, Verdict::Idle),
        (unbound, Verdict::Idle),
    ] {
        let mut kernel = applied_host(&config);
        kernel.state_mut().tunnels = Some(vec![tunnel.clone()]);
        let verdicts = verdicts(&config, &mut kernel);
        assert_eq!(verdicts, [("b", verdict), ("c", Verdict::Idle)], "{tunnel:?}");
    }
}

/// The verdicts on all peers, by name.
fn verdicts(config: &Config, kernel: &mut Memory) -> Vec<(&'static str, Verdict)> {
    let (moment, local) = (config.rotation.at(NOW), &config.peers[0]);
    let (wanted, _) = desired(config, moment, local, None);
    let live = observe(kernel);
    let plan = Plan::new(&wanted, &live, REQID);
    let (desired, asked) = (&wanted, &BTreeSet::new());
    let live = &live;
    let plan = &plan;
    let case = Case { config, moment, now: NOW, local, desired, live, plan, asked, strict: false };
    let found = judge(&case).peers;
    let verdict = |name: &'static str| {
        let peer = found.iter().find(|peer| peer.name.as_str() == name);
        peer.map(|peer| (name, peer.verdict))
    };
    ["b", "c"].into_iter().filter_map(verdict).collect()
}

/// Errors about packets are judged where they may differ from other packets, and where the peer has
/// SAs whose content they would show.
#[test]
fn icmp_errors_are_judged_of_peers_that_are_heard() {
    let config = mesh(1, &LAB);
    let b = config.peers[1].address;
    let mut kernel = applied_host(&config);
    let state = kernel.state_mut();
    state.policies.retain(|policy| !policy.is_for_icmp_errors());
    let all = [("b", Verdict::Clear), ("c", Verdict::Clear)];
    assert_eq!(verdicts(&config, &mut kernel), all);
    kernel.state_mut().sas.retain(|sa| sa.src != b);
    assert_eq!(verdicts(&config, &mut kernel), [("b", Verdict::Idle), ("c", Verdict::Clear)]);
}

/// An SPI of its generation 4 is that of generation 1 today.
#[test]
fn sas_of_version_0_1() {
    let config = mesh(4, &["192.0.2.1", "192.0.2.2"]);
    let mut kernel = applied_host(&config);
    crate::common::as_version_0_1(kernel.state_mut(), &crate::common::wanted(&config).0);
    golden("sas-of-version-0-1", &config, &mut kernel, &BTreeMap::new());
}
