//! Two models of the kernel's look-ups agree: the program's own, which reports
//! follow, and that of the tests. And the two ends of pairs agree.

use meshsec::{
    agreement::{Ends, Row},
    config::{Config, Moment},
    desired::{Desired, HasPairs, desired, of_host, of_pair},
    model::{Direction, Prefix, Time},
    plan::{Arrival, FarEnd, Flow, LookUps, Outcome, Plan, after, arrivals, flow_out, outcomes},
};
use proptest::prelude::*;

use crate::{
    cases,
    common::{REQID, observe, wanted_at},
    hosts::{NOW, any_case, config},
    packets::{Fate, arrives_in_clear, arrives_under, is_forwarded_in_clear, leaves},
    prefixes::packets,
};

fn as_flow(fate: Fate) -> Flow {
    match fate {
        Fate::Protected(spi) => Flow::Protected(spi),
        Fate::Dropped => Flow::Blocked,
        Fate::Leaks => Flow::Clear,
    }
}

/// The objects of a host, collected pair by pair.
fn collected(config: &Config, moment: Moment, place: usize) -> Desired {
    let local = &config.peers[place];
    let partners = config.pairs.partners(local);
    let pairs = config.peers.iter().filter(|peer| {
        peer.name != local.name
            && partners.have(peer)
            && peer.address.is_ipv4() == local.address.is_ipv4()
    });
    let (mut all, mut has) = (Desired::default(), HasPairs::default());
    for peer in pairs {
        let pair = of_pair(config, moment, local, peer);
        has.any = true;
        has.sends |= pair.stage(&peer.name).sends();
        all.sas.extend(pair.sas);
        all.policies.extend(pair.policies);
        all.passages.extend(pair.passages);
    }
    let own = of_host(config, moment, local, has);
    all.passages.extend(own.passages.clone());
    Desired { sas: all.sas, policies: all.policies, passages: all.passages, ..own }
}

proptest! {
    #![proptest_config(cases(2_000))]

    /// What `plan --all` compares and counts pair by pair is what each host's plan wants, and both
    /// ends of all pairs agree.
    #[test]
    fn hosts_want_what_their_pairs_want_together(
        ipv6 in any::<bool>(),
        n in any::<[u8; 10]>()
    ) {
        let config = config(ipv6, n);
        let moment = config.rotation.at(Time::default());
        let mut ends = Ends::new(config.peers.len());
        (0..config.peers.len()).for_each(|place| ends.add(Row::of(&config, moment, place)));
        prop_assert_eq!(ends.unfit, 0, "{:?}", ends.first);
        for (place, local) in config.peers.iter().enumerate() {
            let (whole, _) = desired(&config, moment, local, None);
            let Desired { sas, policies, passages, guards, chains, link, .. } =
                collected(&config, moment, place);
            prop_assert_eq!(&sas, &whole.sas);
            let names = |all: &Desired| all.policies.keys().copied().collect::<Vec<_>>();
            prop_assert_eq!(policies.keys().copied().collect::<Vec<_>>(), names(&whole));
            prop_assert_eq!(&passages, &whole.passages);
            prop_assert_eq!(&guards, &whole.guards);
            prop_assert_eq!(&chains, &whole.chains);
            prop_assert_eq!(link.is_some(), whole.link.is_some());
            let all = sas.len() + policies.len() + passages.len() + guards.len() + chains.len();
            prop_assert_eq!(ends.objects(&config, moment, place), all);
        }
    }
}

proptest! {
    #![proptest_config(cases(20_000))]

    /// The fate that the program tells of a packet is possible, and nothing worse is.
    #[test]
    fn what_reports_say_of_a_packet_is_the_worst_that_can_become_of_it(
        case in any_case(8)
    ) {
        let ((before, after), kernel) = (case.meshes(), case.kernel());
        for packet in packets(&before, &after).iter().filter(|packet| packet.mark == 0) {
            let fates = leaves(kernel.state(), packet);
            let worst = as_flow(*fates.last().unwrap());
            let told = flow_out(kernel.state(), &packet.selector());
            let right = match (told, worst) {
                (Flow::Protected(_), Flow::Protected(_)) => {
                    fates.iter().any(|fate| as_flow(*fate) == told)
                }
                _ => told == worst,
            };
            prop_assert!(right, "{packet:?}: {told}, but {fates:?}");
        }
    }

    /// Objects that are looked up by far ends, as for the pairs of a large mesh, are those that a look
    /// at all objects finds.
    #[test]
    fn look_ups_by_far_ends_find_the_same(case in any_case(8)) {
        let ((before, after), kernel) = (case.meshes(), case.kernel());
        let state = kernel.state().clone().sorted();
        let mut look_ups = LookUps::of(&state);
        for packet in packets(&before, &after).iter().filter(|packet| packet.mark == 0) {
            let sent = packet.selector();
            prop_assert_eq!(look_ups.flow(&sent), flow_out(&state, &sent), "{:?}", packet);
            let taken = packet.answer().selector();
            for under in [None].into_iter().chain(state.sas.iter().map(Some)) {
                let by_all = arrivals(&state, &taken, 0, Direction::In, under);
                prop_assert_eq!(look_ups.arrivals(&taken, under), by_all, "{:?}", packet);
            }
        }
        for wanted in &state.sas {
            let mut sas = state.sas.iter().filter(|sa| !sa.is_larval());
            let first = sas.find(|sa| {
                (sa.id.dst, sa.id.proto, sa.id.spi) == (wanted.id.dst, 50, wanted.id.spi)
            });
            prop_assert_eq!(look_ups.sa(wanted.id.dst, wanted.id.spi), first);
        }
    }

    /// The effect that a plan tells is that of a look at all objects, before it and after it.
    #[test]
    fn effects_of_plans_are_those_of_whole_states(case in any_case(8), part in any::<[bool; 32]>()) {
        let ((_, config), mut kernel) = (case.meshes(), case.kernel());
        let (live, desired) = (observe(&mut kernel), wanted_at(&config, NOW).0);
        let mut changes = Plan::new(&desired, &live, REQID).changes;
        // Plans of few changes, which leave most packets as they are.
        let mut number = 0;
        changes.retain(|_| {
            number += 1;
            part[number % part.len()]
        });
        let sides = [live.0.clone(), after(&live.0, &changes)];
        let (traffic, local) = desired.traffic.zip(desired.local).unwrap();
        let told = outcomes(&desired, REQID, &live.0, &changes);
        prop_assert!(told.is_empty() || !changes.is_empty());
        for (address, peer) in desired.peers.iter().filter(|_| !changes.is_empty()) {
            let sent = traffic.selectors(Prefix::host(local), Prefix::host(*address));
            let [before, after] =
                [0, 1].map(|at| sent.iter().map(|packet| flow_out(&sides[at], packet)).max().unwrap());
            prop_assert_eq!(told[&FarEnd::Peer(peer.clone())], Outcome { before, after });
        }
    }

    /// What explain and compare say of a packet that arrives, in the clear or under any SA, is
    /// accepted where it may be and nowhere else.
    #[test]
    fn what_is_said_of_packets_that_arrive_is_what_can_become_of_them(case in any_case(8)) {
        let ((before, after), kernel) = (case.meshes(), case.kernel());
        let state = kernel.state();
        for packet in packets(&before, &after).iter().filter(|packet| packet.mark == 0) {
            let packet = packet.answer();
            let accepted = |direction, under| {
                let fates = arrivals(state, &packet.selector(), 0, direction, under);
                fates.contains(&Arrival::Accepted)
            };
            prop_assert_eq!(accepted(Direction::In, None), arrives_in_clear(state, &packet));
            prop_assert_eq!(accepted(Direction::Fwd, None), is_forwarded_in_clear(state, &packet));
            for sa in state.sas.iter().filter(|sa| !sa.is_larval() && sa.id.proto == 50) {
                let same = state.sas.iter().filter(|other| {
                    (other.id.dst, other.id.proto, other.id.spi) == (sa.id.dst, 50, sa.id.spi)
                });
                let alone = same.count() == 1 && sa.id.mark.is_none() && sa.encap.is_none();
                if alone && sa.id.dst == packet.dst {
                    let taken = accepted(Direction::In, Some(sa));
                    prop_assert_eq!(taken, arrives_under(state, &packet, sa.id.spi));
                }
            }
        }
    }
}
