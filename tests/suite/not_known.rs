//! Checks of `doctor` that could not be judged: not known, neither well nor a fault.

use std::collections::BTreeSet;

use crate::common::{REQID, VXLAN, applied_host, mesh, observe};
use meshsec::{
    config::{Config, Guard},
    desired::desired,
    diagnosis::{Diagnosis, Facts, MeshFacts, Outcome, diagnose},
    model::{
        CheckCode, Counters, DeviceState, Examination, ForeignChain, Live, Probe, Time, Timer,
        Tunnel, TunnelKind, Usage,
    },
    plan::Plan,
    verdict::{Case, judge},
};

const NOW: Time = Time(1_768_570_200_000_000_000);
const LAB: [&str; 2] = ["192.0.2.1", "192.0.2.2"];

/// A host, and all that is known of it.
struct Host {
    config: Config,
    live: Live,
    /// The use of its SAs two seconds before.
    before: Vec<Usage>,
    counters: Counters,
    examination: Examination,
}

/// A host that hears its peer, and of which everything is known.
fn known() -> Host {
    let config = Config { guard: Guard::Policies, ..mesh(1, &LAB) };
    let mut kernel = applied_host(&config);
    let mut live = observe(&mut kernel);
    live.0.tunnels = Some(vec![Tunnel {
        device: VXLAN.into(),
        kind: TunnelKind::Vxlan,
        port: 4789,
        local: Some(config.peers[0].address),
        remote: Some(config.peers[1].address),
        lower: None,
        master: None,
        external: false,
        other_names: BTreeSet::new(),
        entries: Some(BTreeSet::new()),
    }]);
    live.0.links.iter_mut().find(|link| link.name == VXLAN).unwrap().mtu = 1416;
    let before = live.0.usage.clone();
    let of_now = |usage: &&mut Usage| usage.id.spi.generation_low() == 1;
    for usage in live.0.usage.iter_mut().filter(of_now) {
        (usage.packets, usage.last) = (9, Some(NOW));
    }
    let device = |name: &str| DeviceState {
        name: name.into(),
        is_up: true,
        has_carrier: true,
        lost_in: 0,
        lost_out: 0,
    };
    let counters = Counters {
        refused: Some(Default::default()),
        reverse_path: Some(0),
        devices: Some(vec![device("eth0"), device(VXLAN)]),
    };
    let probe = Probe { answers: Some(true), passed: Some(1500), ..Probe::default() };
    let mut examination = Examination {
        timer: Timer::None,
        path_mtus: Some(Default::default()),
        probes: [(config.peers[1].address, probe)].into(),
        ..Examination::default()
    };
    examination.kernel.release = "7.1.0".into();
    Host { config, live, before, counters, examination }
}

impl Host {
    fn diagnosis(&self) -> Diagnosis {
        let (config, live) = (&self.config, &self.live);
        let (moment, local) = (config.rotation.at(NOW), &config.peers[0]);
        let (desired, _) = desired(config, moment, local, None);
        let plan = Plan::new(&desired, live, REQID);
        let (asked, strict) = (&BTreeSet::new(), false);
        let case = Case {
            config,
            moment,
            now: NOW,
            local,
            desired: &desired,
            live,
            plan: &plan,
            asked,
            strict,
        };
        let judged = judge(&case);
        diagnose(&Facts {
            config,
            local: Some(local),
            now: NOW,
            seconds: 2,
            state: &live.0,
            mesh: Some(MeshFacts { case, judged: &judged, before: &self.before }),
            stop: None,
            warnings: &plan.warnings,
            counters: [&self.counters, &self.counters],
            examination: &self.examination,
        })
    }
}

fn outcomes(diagnosis: &Diagnosis, code: CheckCode) -> BTreeSet<Outcome> {
    let of_it = diagnosis.findings.iter().filter(|finding| finding.code == code);
    of_it.map(|finding| finding.outcome).collect()
}

/// Without a piece of knowledge these checks are not known, and that alone needs no attention.
#[track_caller]
fn not_known(codes: &[CheckCode], forget: impl FnOnce(&mut Host)) {
    let mut host = known();
    forget(&mut host);
    let diagnosis = host.diagnosis();
    for code in codes {
        let found = outcomes(&diagnosis, *code);
        assert_eq!(found, [Outcome::Unknown].into(), "{code:?}: {:#?}", diagnosis.findings);
        assert!(diagnosis.conclusion.contains(code.word()), "{}", diagnosis.conclusion);
    }
    assert!(!diagnosis.needs_attention, "{:#?}", diagnosis.findings);
}

#[test]
fn all_is_well_where_all_is_known() {
    let diagnosis = known().diagnosis();
    let is_well = |finding: &&meshsec::diagnosis::Finding| finding.outcome != Outcome::Ok;
    let others: Vec<_> = diagnosis.findings.iter().filter(is_well).collect();
    assert!(others.is_empty(), "{others:#?}");
    assert!(!diagnosis.conclusion.contains("not known"), "{}", diagnosis.conclusion);
}

#[test]
fn a_peer_that_nothing_leaves_to_is_not_judged() {
    not_known(&[CheckCode::Heard], |host| {
        host.live.0.usage.iter_mut().for_each(|usage| (usage.packets, usage.last) = (0, None));
    });
    let mut blocked = known();
    blocked.live.0.sas.retain(|sa| sa.src != blocked.config.peers[0].address);
    assert_eq!(outcomes(&blocked.diagnosis(), CheckCode::Heard), [Outcome::Unknown].into());
}

#[test]
fn a_path_that_no_large_packet_took_is_not_known() {
    not_known(&[CheckCode::PathMtu], |host| host.examination.probes.clear());
    not_known(&[CheckCode::PathMtu], |host| {
        host.examination.probes.values_mut().for_each(|probe| probe.passed = None);
    });
    not_known(&[CheckCode::PathMtu], |host| host.examination.path_mtus = None);
}

#[test]
fn a_device_that_is_not_read_is_not_well() {
    let both = [CheckCode::Device, CheckCode::DeviceDrops];
    not_known(&both, |host| host.counters.devices = None);
    not_known(&both, |host| host.counters.devices = Some(Vec::new()));
}

#[test]
fn checks_by_routes_are_not_known_without_routes() {
    let by_routes = [CheckCode::Route, CheckCode::Source, CheckCode::Bypass];
    not_known(&by_routes, |host| host.live.0.routes.clear());
}

#[test]
fn the_mtu_of_no_device_is_not_known_to_fit() {
    not_known(&[CheckCode::Mtu, CheckCode::Tunnel], |host| host.live.0.tunnels = None);
    not_known(&[CheckCode::Mtu, CheckCode::Tunnel], |host| {
        host.live.0.tunnels = Some(Vec::new());
    });
    not_known(&[CheckCode::Mtu], |host| host.live.0.links.retain(|link| link.name != VXLAN));
    not_known(&[CheckCode::Mtu], |host| {
        host.live.0.tunnels.iter_mut().flatten().for_each(|tunnel| tunnel.external = true);
    });
}

#[test]
fn rules_that_are_not_read_may_change_addresses() {
    let chain = ForeignChain { table: "inet f".into(), chain: "post".into(), drops: false };
    not_known(&[CheckCode::Nat], |host| host.examination.filters.translating.push(chain));
    not_known(&[CheckCode::Nat, CheckCode::Firewall], |host| {
        host.examination.filters.unread.push("no right".into());
    });
}

#[test]
fn a_host_without_sas_shows_no_keys() {
    let mut host = known();
    host.live.0.sas.clear();
    assert_eq!(outcomes(&host.diagnosis(), CheckCode::Keys), [Outcome::Unknown].into());
}
