//! SAs of others that a look leaves out change no plan.

use std::net::IpAddr;

use meshsec::{
    desired::neighbourhood,
    model::{Live, Mark, Sa, SaId, Spi},
    plan::{Plan, outcomes},
};
use proptest::prelude::*;

use crate::{
    cases,
    common::{REQID, observe, wanted_at},
    hosts::{NOW, THEIRS, any_case},
};

/// SAs between hosts that have nothing to do with the mesh, or that come to this one, made from
/// those that are here.
fn strangers(live: &Live) -> Vec<Sa> {
    let foreign = |(number, sa): (u32, &Sa)| Sa {
        id: SaId {
            dst: [203, 0, 113, 7].into(),
            spi: Spi::from_raw(0x1000 + number),
            mark: Mark::NONE,
            ..sa.id
        },
        src: [203, 0, 113, 9].into(),
        reqid: THEIRS,
        selector: None,
        ..sa.clone()
    };
    (0..).zip(&live.0.sas).map(foreign).collect()
}

proptest! {
    #![proptest_config(cases(5_000))]

    #[test]
    fn sas_that_are_left_out_change_no_plan(case in any_case(8)) {
        let ((_, config), mut kernel) = (case.meshes(), case.kernel());
        let mut live = observe(&mut kernel);
        live.0.sas.extend(strangers(&live));
        live = Live(live.0.sorted());
        let (mesh, desired) = (neighbourhood(&config), wanted_at(&config, NOW).0);
        let further = mesh.further_ends(&live.0.policies);
        let local = Some(config.peers[0].address);
        let mut part = live.clone();
        part.0.sas.retain(|sa| mesh.holds(sa, local, &further));
        let stranger = IpAddr::from([203, 0, 113, 7]);
        prop_assert!(part.0.sas.iter().all(|sa| sa.id.dst != stranger));
        let [whole, part] = [&live, &part].map(|live| {
            let plan = Plan::new(&desired, live, REQID);
            let fates = outcomes(&desired, REQID, &live.0, &plan.changes);
            (plan.changes, plan.conflicts, plan.held, plan.warnings, fates)
        });
        prop_assert_eq!(&whole.0, &part.0);
        prop_assert_eq!(&whole.1, &part.1);
        prop_assert_eq!(&whole.2, &part.2);
        prop_assert_eq!(&whole.3, &part.3);
        prop_assert_eq!(&whole.4, &part.4);
    }
}
