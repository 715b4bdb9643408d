//! Golden plans of a network that is enrolled stage by stage, and left again.

use super::*;
use meshsec::{
    config::Select,
    model::{Bypass, PeerName, Stage, Translation, WarningCode},
    plan::{Flow, flows_out},
};

use super::tunnels::vxlan;

/// The lab at a stage.
fn at(stage: Stage) -> Config {
    Config { stage, ..lab() }
}

/// Everything between two hosts.
fn all_at(stage: Stage) -> Config {
    Config { traffic: Traffic::All, guard: Guard::Off, stage, ..mesh(1, &LAB[..2]) }
}

fn by_mark_at(stage: Stage) -> Config {
    let mark = Mark { value: 0x20000, mask: 0x20000 };
    Config { select: Select::Mark(mark), stage, ..mesh(1, &LAB[..2]) }
}

/// The lab with peer c at a stage of its own.
fn with_c_at(stage: Stage) -> Config {
    let mut config = lab();
    config.peers[2].stage = stage;
    config
}

/// A host that goes from stage to stage, with the golden plan of each move and none behind it.
fn goes_through(kernel: &mut Memory, at: fn(Stage) -> Config, moves: &[(&str, Stage)]) {
    for (name, stage) in moves {
        golden(name, &at(*stage), kernel);
        assert!(applied(&at(*stage), kernel).is_complete());
        assert!(crate::common::plan(&at(*stage), kernel).is_empty(), "{name}");
    }
}

/// The first plan is that of a host on which the overlay runs.
#[test]
fn a_running_overlay_is_enrolled_and_left_stage_by_stage() {
    let mut kernel = host(&lab());
    kernel.state_mut().tunnels = Some(vec![vxlan("vxlan42", 4789)]);
    let moves = [
        ("stages-1-receive", Stage::Receive),
        ("stages-2-send", Stage::Send),
        ("stages-3-enforce", Stage::Enforce),
        ("stages-4-send-again", Stage::Send),
        ("stages-5-receive-again", Stage::Receive),
    ];
    goes_through(&mut kernel, at, &moves);
}

#[test]
fn all_traffic_is_enrolled_stage_by_stage() {
    let moves = [
        ("stages-of-all-traffic-1-receive", Stage::Receive),
        ("stages-of-all-traffic-2-send", Stage::Send),
        ("stages-of-all-traffic-3-enforce", Stage::Enforce),
    ];
    goes_through(&mut host(&all_at(Stage::Enforce)), all_at, &moves);
}

#[test]
fn marked_traffic_is_enrolled_stage_by_stage() {
    let moves = [
        ("stages-by-mark-1-receive", Stage::Receive),
        ("stages-by-mark-2-send", Stage::Send),
        ("stages-by-mark-3-enforce", Stage::Enforce),
        ("stages-by-mark-4-receive-again", Stage::Receive),
    ];
    goes_through(&mut host(&by_mark_at(Stage::Enforce)), by_mark_at, &moves);
}

/// A host with a guard refuses clear text in any case, so it sends encrypted to a new host of any
/// stage.
#[test]
fn a_host_with_a_guard_enforces_with_every_peer() {
    let (enforcing, _) = crate::common::wanted(&lab());
    for stage in Stage::ALL {
        let (wanted, _) = crate::common::wanted(&with_c_at(stage));
        assert!(wanted.stages.is_empty());
        assert_eq!(wanted.sas, enforcing.sas, "{stage}");
    }
    let open = Config { guard: Guard::Off, ..with_c_at(Stage::Receive) };
    let mut kernel = applied_host(&Config { peers: open.peers[..2].to_vec(), ..open.clone() });
    golden("stages-of-a-new-host", &open, &mut kernel);
}

/// The codes of warnings of a plan about stages, for a host that is at a stage.
fn told(from: Option<Stage>, to: Stage, config: fn(Stage) -> Config) -> Vec<WarningCode> {
    let mut kernel = host(&config(to));
    kernel.state_mut().tunnels = Some(vec![vxlan("vxlan42", 4789)]);
    if let Some(from) = from {
        assert!(applied(&config(from), &mut kernel).is_complete());
    }
    let plan = crate::common::plan(&config(to), &mut kernel);
    let about = [
        WarningCode::StageSkipped,
        WarningCode::ClearTextAccepted,
        WarningCode::ClearTextStops,
        WarningCode::NotHeardYet,
        WarningCode::LeftInTheClear,
    ];
    plan.warnings.iter().map(|line| line.code).filter(|code| about.contains(code)).collect()
}

#[test]
fn plans_say_what_a_skipped_stage_costs_and_that_clear_text_passes() {
    use Stage::{Enforce, Receive, Send};
    use WarningCode::{
        ClearTextAccepted, ClearTextStops, LeftInTheClear, NotHeardYet, StageSkipped,
    };
    for (from, to, codes) in [
        (None, Receive, vec![ClearTextAccepted]),
        (None, Send, vec![ClearTextAccepted, StageSkipped]),
        (None, Enforce, vec![StageSkipped]),
        (Some(Receive), Send, vec![ClearTextAccepted]),
        (Some(Receive), Enforce, vec![StageSkipped, NotHeardYet]),
        (Some(Send), Enforce, vec![NotHeardYet]),
        (Some(Enforce), Send, vec![LeftInTheClear, ClearTextAccepted]),
        (Some(Enforce), Receive, vec![LeftInTheClear, ClearTextAccepted, StageSkipped]),
        (Some(Send), Receive, vec![LeftInTheClear, ClearTextAccepted]),
        (Some(Enforce), Enforce, vec![]),
    ] {
        assert_eq!(told(from, to, at), codes, "{from:?} to {to}");
    }
    for (from, to, codes) in [
        (None, Enforce, vec![ClearTextStops]),
        (Some(Send), Enforce, vec![NotHeardYet]),
        (Some(Enforce), Send, vec![ClearTextAccepted]),
    ] {
        assert_eq!(told(from, to, all_at), codes, "all traffic, {from:?} to {to}");
    }
}

/// Peers that were heard under an SA have come to stage send.
#[test]
fn peers_that_send_encrypted_need_no_warning() {
    let mut kernel = host(&at(Stage::Send));
    assert!(applied(&at(Stage::Send), &mut kernel).is_complete());
    let b: std::net::IpAddr = LAB[1].parse().unwrap();
    let state = kernel.state_mut();
    let from_b: Vec<SaId> = state.sas.iter().filter(|sa| sa.src == b).map(|sa| sa.id).collect();
    let usage = state.usage.iter_mut().find(|usage| from_b.contains(&usage.id)).unwrap();
    usage.packets = 1;
    let plan = crate::common::plan(&at(Stage::Enforce), &mut kernel);
    let unheard = plan.warnings.iter().find(|line| line.code == WarningCode::NotHeardYet).unwrap();
    assert!(unheard.text.contains("has come from c yet"), "{}", unheard.text);
}

/// Kinds without a guard: with one, a host at the last stage refuses clear text of all.
#[test]
fn a_pair_has_the_lowest_of_three_stages() {
    let stages = |mesh, a, c| {
        let mut config = Config { stage: mesh, guard: Guard::Off, ..lab() };
        (config.peers[0].stage, config.peers[2].stage) = (a, c);
        let (wanted, _) = crate::common::wanted(&config);
        ["b", "c"].map(|name| wanted.stage(&PeerName::new(name).unwrap()))
    };
    use Stage::{Enforce, Receive, Send};
    assert_eq!(stages(Enforce, Enforce, Enforce), [Enforce, Enforce]);
    assert_eq!(stages(Send, Enforce, Receive), [Send, Receive]);
    assert_eq!(stages(Enforce, Receive, Enforce), [Receive, Receive]);
    assert_eq!(stages(Enforce, Enforce, Send), [Enforce, Send]);
}

/// The other end refuses all clear text, so that a host sends it none.
#[test]
fn packets_to_a_host_with_a_guard_leave_encrypted_at_any_stage() {
    for config in [lab(), by_mark_at(Stage::Enforce)] {
        let mut config = config;
        config.peers[0].stage = Stage::Receive;
        let (wanted, _) = crate::common::wanted(&config);
        assert!(wanted.peers.values().all(|peer| wanted.stage(peer) == Stage::Send));
        assert!(!wanted.is_guarded());
        let mut kernel = applied_host(&config);
        let plan = crate::common::plan(&config, &mut kernel);
        assert!(plan.is_empty());
        let flows = flows_out(&crate::common::observe(&mut kernel).0, &wanted, |_| true);
        assert!(flows.values().all(|flow| matches!(flow, Flow::Protected(_))), "{flows:?}");
    }
}

/// Nothing stops packets to strangers before the last stage, where a chain only marks.
#[test]
fn no_plan_says_that_a_chain_that_marks_blocks() {
    let config = by_mark_at(Stage::Send);
    let mut kernel = applied_host(&config);
    let mut tunnel = vxlan("vxlan42", 4789);
    tunnel.local = Some("198.51.100.7".parse().unwrap());
    let state = kernel.state_mut();
    state.tunnels = Some(vec![tunnel]);
    state.addresses.push(crate::common::address("198.51.100.7".parse().unwrap()));
    let plan = crate::common::plan(&config, &mut kernel);
    let texts: Vec<&str> = plan.warnings.iter().map(|line| line.text.as_ref()).collect();
    assert!(texts.iter().all(|text| !text.contains("blocked")), "{texts:#?}");
    let codes: Vec<WarningCode> = plan.warnings.iter().map(|line| line.code).collect();
    assert!(codes.contains(&WarningCode::OtherAddresses), "{codes:?}");
}

/// Packets of a time before this host began to send encrypted tell nothing.
#[test]
fn old_packets_do_not_show_that_a_peer_sends_encrypted() {
    let config = at(Stage::Send);
    let mut kernel = host(&config);
    kernel.set_now(Time::from_seconds(100_000));
    assert!(applied(&config, &mut kernel).is_complete());
    for (last, unheard) in [(99_999, true), (100_000, false)] {
        for usage in &mut kernel.state_mut().usage {
            (usage.packets, usage.last) = (1, Some(Time::from_seconds(last)));
            usage.added = Time::from_seconds(100_000);
        }
        let plan = crate::common::plan(&at(Stage::Enforce), &mut kernel);
        let told = plan.warnings.iter().any(|line| line.code == WarningCode::NotHeardYet);
        assert_eq!(told, unheard, "{last}");
    }
}

/// A rule or sysctl that takes packets past policies is in nobody's way where they leave in the clear.
#[test]
fn nothing_that_lets_packets_out_in_the_clear_stops_stage_receive() {
    let rule = "iptables-nft -t nat -A POSTROUTING -j MASQUERADE".into();
    let translation = Translation { rule, chain: "POSTROUTING".into(), certain: true, esp: false };
    let bypass = Bypass { device: "all".into(), ipv6: false, name: "disable_xfrm".into() };
    for stage in Stage::ALL {
        let mut kernel = host(&all_at(stage));
        kernel.state_mut().translations = vec![translation.clone()];
        let conflicts = |kernel: &mut Memory| {
            let plan = crate::common::plan(&all_at(stage), kernel);
            let told = plan.warnings.iter().any(|line| line.code == WarningCode::Translated);
            (plan.conflicts.len(), told)
        };
        let found = if stage.sends() { (1, false) } else { (0, true) };
        assert_eq!(conflicts(&mut kernel), found, "{stage}");
        let state = kernel.state_mut();
        state.translations.clear();
        state.bypasses = vec![bypass.clone()];
        assert_eq!(conflicts(&mut kernel).0, usize::from(stage.sends()), "{stage}");
    }
}

/// Policies out that stay ask for SAs that go two generations later.
#[test]
fn a_conflict_keeps_no_policy_out_from_going_at_stage_receive() {
    let file = |generation| Config {
        rotation: mesh(generation, &["192.0.2.1"]).rotation,
        ..all_at(Stage::Receive)
    };
    let mut kernel = applied_host(&all_at(Stage::Enforce));
    let bypass = Bypass { device: "all".into(), ipv6: false, name: "disable_policy".into() };
    kernel.state_mut().bypasses = vec![bypass];
    for generation in 1..4 {
        let report = applied(&file(generation), &mut kernel);
        assert!(report.failed.is_empty());
        let mut out =
            kernel.state().policies.iter().filter(|policy| {
                policy.id.direction == Direction::Out && !policy.templates.is_empty()
            });
        assert!(out.next().is_none(), "{generation}");
    }
}

/// A host that sends in the clear is understood after a destroy as before.
#[test]
fn a_destroy_skips_stages_of_a_host_that_encrypts_alone() {
    let warns = |stage| {
        let mut kernel = applied_host(&at(stage));
        let live = crate::common::observe(&mut kernel);
        let nothing = crate::common::nothing(&at(stage));
        let plan = meshsec::plan::Plan::new(&nothing, &live, crate::common::REQID);
        plan.warnings.iter().any(|line| line.code == WarningCode::StageSkipped)
    };
    assert_eq!([Stage::Receive, Stage::Send, Stage::Enforce].map(warns), [false, true, true]);
}

/// Without a guard packets go on in the clear for a moment, and a device of the kind is cut by nothing.
#[test]
fn an_overlay_that_runs_without_a_guard_skips_no_stage() {
    let open = |stage| Config { guard: Guard::Off, ..at(stage) };
    assert_eq!(told(None, Stage::Enforce, open), [WarningCode::ClearTextStops]);
}
