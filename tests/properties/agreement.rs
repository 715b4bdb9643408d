//! Two models of the kernel's look-ups agree: the program's own, which reports
//! follow, and that of the tests.

use meshsec::plan::{Flow, flow_out};
use proptest::prelude::*;

use crate::{
    cases,
    hosts::any_case,
    packets::{Fate, leaves},
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
}
