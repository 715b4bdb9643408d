//! The words of `explain`: what a packet meets on its way, what it nearly meets, and why not that.

use std::{collections::BTreeMap, fmt::Write};

use meshsec::{
    config::{Config, Select},
    model::{
        Action, Algorithm, Bypass, Direction, KeyView, Mark, Mode, Policy, Prefix, Reqid, Sa,
        Selector, Spi, State,
    },
    plan::{Names, trace},
};

use crate::{
    common::{REQID, applied_host, compare, mesh},
    conflicts::foreign,
};

const LAB: [&str; 3] = ["192.0.2.1", "192.0.2.2", "192.0.2.3"];
const TO_B: &str = "udp 192.0.2.1:49152 > 192.0.2.2:4789";
const FROM_B: &str = "udp 192.0.2.2:49152 > 192.0.2.1:4789";

/// A line for each part, with what misses the packet below it, the verdict and each note.
fn told(config: &Config, state: &State, packet: &str, direction: Direction) -> String {
    let peers: BTreeMap<_, _> =
        config.peers[1..].iter().map(|peer| (peer.address, &peer.name)).collect();
    let names = Names {
        reqid: REQID,
        mesh: "lab".into(),
        local: Some(config.peers[0].address),
        peers,
        networks: Default::default(),
    };
    let mut text = String::new();
    let trace = trace(state, &packet.parse().unwrap(), direction, &names);
    for part in trace.parts {
        let _ = writeln!(text, "{}: {}", part.kind, part.found);
        for (object, why) in part.missed {
            let _ = writeln!(text, "  not {object}: {why}");
        }
        if part.more > 0 {
            let _ = writeln!(text, "  and {} more", part.more);
        }
    }
    for verdict in trace.verdicts {
        let spi = verdict.spi().map(|spi| format!(" {spi}")).unwrap_or_default();
        let _ = writeln!(text, "verdict: {}{spi}", verdict.word());
    }
    for note in trace.notes {
        let _ = writeln!(text, "note: {note}");
    }
    text
}

fn to_b() -> Selector {
    Selector::hosts(LAB[0].parse().unwrap(), LAB[1].parse().unwrap())
}

/// Compares with `tests/explained/<name>.txt`. `UPDATE_GOLDEN=1` writes it anew.
fn golden(name: &str, text: &str) {
    compare(&format!("tests/explained/{name}.txt"), text);
}

#[test]
fn the_objects_that_decide_are_named_with_their_owners() {
    let config = mesh(1, &LAB[..2]);
    let state = applied_host(&config).state().clone();
    golden("what-decides", &told(&config, &state, TO_B, Direction::Out));
}

#[test]
fn one_of_several_policies_of_a_priority_decides() {
    let config = mesh(1, &LAB[..2]);
    let mut state = applied_host(&config).state().clone();
    for proto in [0, 17] {
        let selector = Selector { proto, ..to_b() };
        state.policies.push(foreign(Direction::Out, selector, Action::Block, 5));
    }
    golden("several-of-a-priority", &told(&config, &state, TO_B, Direction::Out));
}

#[test]
fn policies_that_nearly_fit_say_why_not() {
    let config = mesh(1, &LAB[..2]);
    let mut state = applied_host(&config).state().clone();
    state.policies.retain(|policy| !policy.is_for_icmp_errors());
    let of = |edit: fn(&mut Policy)| {
        let mut policy = foreign(Direction::Out, to_b(), Action::Allow, 7);
        edit(&mut policy);
        policy
    };
    state.policies.extend([
        of(|policy| policy.id.if_id = 7),
        of(|policy| policy.id.mark = Mark { value: 1, mask: 1 }),
        of(|policy| policy.id.selector.proto = 6),
        of(|policy| policy.id.selector = to_b().to_port(17, 53)),
        of(|policy| policy.id.selector.src = Prefix::host([192, 0, 2, 9].into())),
    ]);
    golden("policies-that-nearly-fit", &told(&config, &state, TO_B, Direction::Out));
}

#[test]
fn sas_that_nearly_fit_say_why_not() {
    let config = mesh(1, &LAB[..2]);
    let mut state = applied_host(&config).state().clone();
    state.policies.retain(|policy| policy.id.selector == to_b().to_port(17, 4789));
    let wanted = state.sas.iter().find(|sa| sa.id.dst == config.peers[1].address).unwrap().clone();
    let edits: [fn(&mut Sa); 8] = [
        |sa| sa.id.spi = Spi::from_raw(1),
        |sa| sa.id.proto = 51,
        |sa| sa.reqid = Reqid(7),
        |sa| sa.mode = Mode::Tunnel,
        |sa| sa.id.mark = Mark { value: 1, mask: 1 },
        |sa| sa.if_id = 7,
        |sa| (sa.algorithm, sa.key) = (Algorithm::Larval, KeyView::Unknown),
        |sa| sa.selector = Some(to_b().to_port(17, 53)),
    ];
    let without_one = edits.map(|edit| {
        let mut sa = wanted.clone();
        edit(&mut sa);
        state.sas = vec![sa];
        told(&config, &state, TO_B, Direction::Out)
    });
    golden("sas-that-nearly-fit", &without_one.join("\n"));
}

#[test]
fn a_packet_that_a_chain_marks_is_looked_up_again() {
    let mark = Mark { value: 0x20000, mask: 0x20000 };
    let config = Config { select: Select::Mark(mark), ..mesh(1, &LAB[..2]) };
    let state = applied_host(&config).state().clone();
    let [marked, of_others] = ["0x20000", "0x1"].map(|mark| format!("{TO_B} mark {mark}"));
    let ways =
        [TO_B, &marked, &of_others].map(|packet| told(&config, &state, packet, Direction::Out));
    golden("a-mark", &ways.join("\n"));
}

#[test]
fn what_arrives_meets_its_sa_first() {
    let config = mesh(1, &LAB[..2]);
    let mut state = applied_host(&config).state().clone();
    let under = |spi: &str| format!("{FROM_B} under {spi}");
    let packets = [FROM_B.into(), under("0x84002001"), under("0x99")];
    let mut ways: Vec<String> = packets
        .iter()
        .map(|packet| told(&config, &state, packet, Direction::In))
        .chain([told(&config, &state, FROM_B, Direction::Fwd)])
        .collect();
    let name = "disable_policy".into();
    state.bypasses.push(Bypass { device: "all".into(), ipv6: false, name });
    ways.push(told(&config, &state, FROM_B, Direction::In));
    golden("what-arrives", &ways.join("\n"));
}

#[test]
fn a_port_that_is_not_given_is_noted_where_a_policy_asks_for_one() {
    let config = mesh(1, &LAB[..2]);
    let state = applied_host(&config).state().clone();
    // No policy of the mesh asks for the port of a sender, nor for one of TCP.
    let packets = ["udp 192.0.2.1:4789 > 192.0.2.2", TO_B, "tcp 192.0.2.1:4789 > 192.0.2.2"];
    let ways = packets.map(|packet| told(&config, &state, packet, Direction::Out));
    golden("ports-that-are-not-given", &ways.join("\n"));
}
