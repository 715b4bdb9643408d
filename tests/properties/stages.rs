//! Two hosts that are at most one stage apart lose no packet, at any moment of a move.
//!
//! The worlds are few, so all of them are looked at: every kind, guard, selection and family, every
//! pair of stages, and generations that are one apart.

use meshsec::{
    config::{Config, Guard, Ports, Protocol, Rotation, Select, Traffic},
    desired::{Desired, Keyring},
    kernel::{Kernel, memory::Memory},
    model::{Generation, Mark, Stage, State},
    plan::Plan,
};

use crate::{
    common::{REQID, applied_host, host, mesh, nothing, observe, wanted},
    packets::{
        Packet,
        delivery::{gets_through, packets},
    },
};

/// The stage of a host; `None` before the first.
type At = Option<Stage>;

const ALL: [At; 4] = [None, Some(Stage::Receive), Some(Stage::Send), Some(Stage::Enforce)];

/// The kinds of meshes.
pub fn kinds() -> Vec<(Traffic, Select, Guard)> {
    let mark = Select::Mark(Mark { value: 0x20000, mask: 0x20000 });
    let (vxlan, geneve) = (Traffic::Vxlan { port: 4789 }, Traffic::Geneve { port: 6081 });
    let port = |protocol| Traffic::Port { protocol, ports: Ports::one(443) };
    let two = Ports::new(&[443, 8443]).expect("two ports");
    vec![
        (vxlan, Select::Port, Guard::Both),
        (vxlan, Select::Port, Guard::Policies),
        (vxlan, Select::Port, Guard::Off),
        (vxlan, mark, Guard::Both),
        (geneve, Select::Port, Guard::Both),
        (Traffic::All, Select::Port, Guard::Off),
        (port(Protocol::Tcp), Select::Port, Guard::Off),
        (port(Protocol::Udp), Select::Port, Guard::Off),
        (Traffic::Port { protocol: Protocol::Tcp, ports: two }, Select::Port, Guard::Off),
    ]
}

/// The file of the first or the second host; its own peer comes first.
fn file(
    (traffic, select, guard): (Traffic, Select, Guard),
    addresses: [&str; 2],
    second: bool,
    stage: Stage,
    generation: u64,
) -> Config {
    let mut config = Config { traffic, select, guard, stage, ..mesh(1, &addresses) };
    config.rotation = Rotation::Generation(Generation::new(generation).unwrap());
    if second {
        config.peers.reverse();
    }
    config
}

/// One host that moves from stage to stage, or generation, and another that stays.
struct World {
    kind: (Traffic, Select, Guard),
    addresses: [&'static str; 2],
    from: (At, u64),
    to: (At, u64),
    other: (At, u64),
}

impl World {
    fn held(&self, second: bool, (stage, generation): (At, u64)) -> Memory {
        match stage {
            Some(stage) => {
                applied_host(&file(self.kind, self.addresses, second, stage, generation))
            }
            None => host(&file(self.kind, self.addresses, second, Stage::default(), generation)),
        }
    }

    fn goal(&self) -> (Desired, Keyring) {
        let (stage, generation) = self.to;
        match stage {
            Some(stage) => wanted(&file(self.kind, self.addresses, false, stage, generation)),
            None => {
                let file = file(self.kind, self.addresses, false, Stage::default(), generation);
                (nothing(&file), Keyring::default())
            }
        }
    }

    /// The first packet that is lost, after some steps of the move.
    fn lost(&self) -> Option<(Packet, usize)> {
        let mut mover = self.held(false, self.from);
        let other = self.held(true, self.other);
        let [a, b] = self.addresses.map(|address| address.parse().unwrap());
        let (desired, keyring) = self.goal();
        let plan = Plan::new(&desired, &observe(&mut mover), REQID);
        assert!(plan.conflicts.is_empty());
        let is_lost = |mover: &State| {
            let there = packets(self.kind.0, a, b);
            let lost = there.into_iter().find(|packet| !gets_through(mover, other.state(), packet));
            let back = || packets(self.kind.0, b, a);
            lost.or_else(|| {
                back().into_iter().find(|packet| !gets_through(other.state(), mover, packet))
            })
        };
        if let Some(packet) = is_lost(mover.state()) {
            return Some((packet, 0));
        }
        for (number, planned) in plan.steps.iter().enumerate() {
            let step = planned.step.keyed(|id| keyring.get(id).ok_or(*id)).expect("its key");
            assert!(mover.perform(&[step]).expect("an answer")[0].is_ok());
            if let Some(packet) = is_lost(mover.state()) {
                return Some((packet, number + 1));
            }
        }
        None
    }
}

/// The place of a stage in the order.
fn rank(at: At) -> usize {
    ALL.iter().position(|other| *other == at).unwrap()
}

#[test]
fn hosts_that_are_one_stage_apart_lose_no_packet() {
    let (mut worlds, mut lossy) = (0, 0);
    let pairs: Vec<(At, At)> =
        ALL.into_iter().flat_map(|one| ALL.into_iter().map(move |other| (one, other))).collect();
    for kind in kinds() {
        for addresses in [["192.0.2.1", "192.0.2.2"], ["2001:db8::1", "2001:db8::2"]] {
            for (from, to) in &pairs {
                for other in ALL {
                    // At the same generation, and at one that is next to it.
                    for (of_from, of_to, of_other) in [(5, 5, 5), (5, 5, 6), (5, 6, 5), (6, 5, 5)] {
                        let moves = rank(*from).abs_diff(rank(*to));
                        let apart = [from, to].map(|at| rank(*at).abs_diff(rank(other)));
                        let world = World {
                            kind,
                            addresses,
                            from: (*from, of_from),
                            to: (*to, of_to),
                            other: (other, of_other),
                        };
                        let lost = world.lost();
                        worlds += 1;
                        lossy += usize::from(lost.is_some());
                        if moves <= 1 && apart.iter().all(|stages| *stages <= 1) {
                            assert!(
                                lost.is_none(),
                                "{kind:?} {addresses:?} from {from:?} to {to:?}, the other at \
                                 {other:?}, generations {of_from}, {of_to} and {of_other}: {lost:?}"
                            );
                        }
                    }
                }
            }
        }
    }
    // Skipped stages do lose packets, or there would be no need of stages.
    assert!(lossy > 1000, "{lossy} of {worlds}");
}

/// The file of a host at a stage, for some ports.
fn of_ports(ports: &[u16], addresses: [&str; 2], second: bool, stage: Stage) -> Config {
    let ports = Ports::new(ports).expect("ports");
    let kind = (Traffic::Port { protocol: Protocol::Tcp, ports }, Select::Port, Guard::Off);
    file(kind, addresses, second, stage, 5)
}

/// Hosts that change from one list of ports to another one at a time: the step of the first at which
/// a packet of some port is lost.
fn lost_by_ports(before: &[u16], after: &[u16], stage: Stage, first: bool) -> Option<usize> {
    let addresses = ["192.0.2.1", "192.0.2.2"];
    let [a, b] = addresses.map(|address| address.parse().unwrap());
    let mut mover = applied_host(&of_ports(before, addresses, false, stage));
    let of_other = if first { before } else { after };
    let other = applied_host(&of_ports(of_other, addresses, true, stage));
    let (desired, keyring) = wanted(&of_ports(after, addresses, false, stage));
    let plan = Plan::new(&desired, &observe(&mut mover), REQID);
    let all: Vec<u16> = before.iter().chain(after).copied().collect();
    let is_lost = |mover: &State| {
        let both = |port| [(50_000, port), (port, 50_000)];
        let packet =
            |src, dst, (sport, dport)| Packet { src, dst, proto: 6, sport, dport, mark: 0 };
        all.iter().flat_map(|port| both(*port)).any(|ports| {
            !gets_through(mover, other.state(), &packet(a, b, ports))
                || !gets_through(other.state(), mover, &packet(b, a, ports))
        })
    };
    if is_lost(mover.state()) {
        return Some(0);
    }
    for (number, planned) in plan.steps.iter().enumerate() {
        let step = planned.step.keyed(|id| keyring.get(id).ok_or(*id)).expect("its key");
        assert!(mover.perform(&[step]).expect("an answer")[0].is_ok());
        if is_lost(mover.state()) {
            return Some(number + 1);
        }
    }
    None
}

/// As plans say: a port that comes or goes is a cut where clear text is refused, and none at stage
/// send.
#[test]
fn ports_come_and_go_without_a_lost_packet_at_stage_send() {
    for (before, after) in
        [(&[443][..], &[443, 8443][..]), (&[443, 8443], &[443]), (&[443, 80], &[443, 8443])]
    {
        for first in [true, false] {
            assert_eq!(lost_by_ports(before, after, Stage::Receive, first), None);
            assert_eq!(lost_by_ports(before, after, Stage::Send, first), None);
            assert!(lost_by_ports(before, after, Stage::Enforce, first).is_some());
        }
    }
}
