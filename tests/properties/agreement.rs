//! Two models of the kernel's look-ups agree: the program's own, which reports
//! follow, and that of the tests.

use meshsec::{
    model::Direction,
    plan::{Arrival, Flow, arrivals, flow_out},
};
use proptest::prelude::*;

use crate::{
    cases,
    hosts::any_case,
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
