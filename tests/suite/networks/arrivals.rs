//! Which packets from networks are taken, by the interface out of which they come.

use meshsec::{
    model::{Direction, Sa, Selector, State},
    plan::{Arrival, arrivals},
};

use super::applied;
use crate::common::REQID;

/// The fates of a packet from the network of b, under an SA of the mesh or in the clear.
fn fates(edit: fn(&mut State), is_encrypted: bool) -> Vec<Arrival> {
    let mut kernel = applied();
    edit(kernel.state_mut());
    let packet = Selector::hosts([10, 2, 0, 7].into(), [10, 9, 0, 1].into());
    let from_b = |sa: &&Sa| sa.src == std::net::IpAddr::from([192, 0, 2, 2]);
    let state = kernel.state();
    let under = state.sas.iter().find(from_b).filter(|_| is_encrypted);
    arrivals(state, &packet.to_port(6, 443), 0, Direction::In, under).into_iter().collect()
}

/// What the SA's interface gives is asked by its policies. Without it the guard refuses the packet.
#[test]
fn packets_under_an_sa_come_by_the_interface_of_its_number() {
    assert_eq!(fates(|_| (), true), [Arrival::Accepted]);
    assert_eq!(fates(|_| (), false), [Arrival::Refused]);
    let down = |state: &mut State| {
        let ours = state.interfaces.iter_mut().find(|interface| interface.if_id == REQID.0);
        ours.unwrap().up = false;
    };
    assert_eq!(fates(down, true), [Arrival::Refused]);
    let unnumbered = |state: &mut State| state.sas.iter_mut().for_each(|sa| sa.if_id = 0);
    assert_eq!(fates(unnumbered, true), [Arrival::Refused]);
}
