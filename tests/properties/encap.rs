//! A mesh goes from plain ESP into UDP, and back, and loses no packet if every host takes the steps in
//! order; and in no order does anything leak.
//!
//! All worlds of two hosts are looked at: every kind, guard, selection and family, every step, and the
//! other host before or behind it.

use std::net::IpAddr;

use meshsec::{
    config::{Config, EncapWish, Guard, Rotation, Select, Traffic},
    kernel::{Kernel, memory::Memory},
    model::{Generation, State},
    plan::Plan,
};

use crate::{
    common::{REQID, applied_host, mesh, observe, wanted},
    packets::{
        Packet,
        delivery::{gets_through, packets},
        leaks,
    },
    stages::kinds,
};

/// The first generation in UDP, if there is one, and the generation of now.
type At = (Option<u64>, u64);

/// The steps of a mesh that goes into UDP with generation 12: the file first, on every host.
const STEPS: [At; 5] = [(None, 10), (Some(12), 10), (Some(12), 11), (Some(12), 12), (Some(12), 13)];

fn file(
    (traffic, select, guard): (Traffic, Select, Guard),
    addresses: [&str; 2],
    second: bool,
    (from, generation): At,
) -> Config {
    let mut config = Config { traffic, select, guard, ..mesh(1, &addresses) };
    let generation_of = |number| Generation::new(number).unwrap();
    config.rotation = Rotation::Generation(generation_of(generation));
    config.esp.encap =
        from.map(|from| EncapWish { port: 4500, from: generation_of(from), keepalive: None });
    if second {
        config.peers.reverse();
    }
    config
}

struct World {
    kind: (Traffic, Select, Guard),
    addresses: [&'static str; 2],
    from: At,
    to: At,
    other: At,
}

impl World {
    /// The packets that were lost at some moment, and whether one leaked.
    fn run(&self) -> (Vec<Packet>, bool) {
        let held = |second, at| applied_host(&file(self.kind, self.addresses, second, at));
        let (mut mover, other): (Memory, Memory) = (held(false, self.from), held(true, self.other));
        let [a, b]: [IpAddr; 2] = self.addresses.map(|address| address.parse().unwrap());
        let (desired, keyring) = wanted(&file(self.kind, self.addresses, false, self.to));
        let plan = Plan::new(&desired, &observe(&mut mover), REQID);
        assert!(plan.conflicts.is_empty());
        let (mut lost, mut leaked) = (Vec::new(), false);
        let mut look = |mover: &State| {
            let (there, back) = (packets(self.kind.0, a, b), packets(self.kind.0, b, a));
            leaked |= there.iter().any(|packet| leaks(mover, packet));
            lost.extend(
                there.into_iter().filter(|packet| !gets_through(mover, other.state(), packet)),
            );
            lost.extend(
                back.into_iter().filter(|packet| !gets_through(other.state(), mover, packet)),
            );
        };
        look(mover.state());
        for planned in &plan.steps {
            let step = planned.step.keyed(|id| keyring.get(id).ok_or(*id)).expect("its key");
            assert!(mover.perform(&[step]).expect("an answer")[0].is_ok());
            look(mover.state());
        }
        let again = Plan::new(&desired, &observe(&mut mover), REQID);
        assert!(again.is_empty(), "{:?}", again.changes);
        (lost, leaked)
    }
}

#[test]
fn a_mesh_goes_into_udp_and_back_without_a_lost_packet() {
    let (mut worlds, mut cuts) = (0, 0);
    for kind in kinds() {
        for addresses in [["192.0.2.1", "192.0.2.2"], ["2001:db8::1", "2001:db8::2"]] {
            for (number, from) in STEPS.into_iter().enumerate() {
                for (goal, to) in STEPS.into_iter().enumerate() {
                    for (place, other) in STEPS.into_iter().enumerate() {
                        let world = World { kind, addresses, from, to, other };
                        let (lost, leaked) = world.run();
                        worlds += 1;
                        assert!(!leaked, "{kind:?} {from:?} {to:?} {other:?}");
                        let least = number.min(goal).min(place);
                        let most = number.max(goal).max(place);
                        if most - least <= 1 {
                            assert!(
                                lost.is_empty(),
                                "{kind:?} {addresses:?} from {from:?} to {to:?}, the other at \
                                 {other:?}: {lost:?}"
                            );
                        }
                        cuts += usize::from(!lost.is_empty());
                    }
                }
            }
            // At once, on the same generation: a cut, and never a leak.
            let (plain, in_udp) = ((None, 12), (Some(0), 12));
            for (from, to, other) in [(plain, in_udp, plain), (in_udp, plain, in_udp)] {
                let (lost, leaked) = World { kind, addresses, from, to, other }.run();
                assert!(!lost.is_empty() && !leaked, "{kind:?} {from:?} {to:?}");
            }
        }
    }
    assert!(cuts > 100, "{cuts} of {worlds}: skipped steps are cuts");
}
