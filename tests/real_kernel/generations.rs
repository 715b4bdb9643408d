//! New keys, host by host, under traffic.

use std::collections::BTreeMap;

use crate::{
    fixture::{A, B, C, Lab, spi},
    ping::Stream,
    xfrm,
};

const ORDERS: [[usize; 3]; 6] = [[A, B, C], [A, C, B], [B, A, C], [B, C, A], [C, A, B], [C, B, A]];

fn counters(lab: &Lab) -> Vec<BTreeMap<String, u64>> {
    lab.places().map(|place| xfrm::counters(lab.host(place))).collect()
}

/// Fails if a counter moved that says of a packet that it met no SA, no policy or the wrong one.
///
/// XfrmInError is left out: it counts a packet that arrived in the very moment
/// in which some policy changed, when the kernel dropped the cached route that
/// the packet was on (`skb_dst_force` in `xfrm_input`). No order avoids that.
fn nothing_went_wrong(before: &[BTreeMap<String, u64>], after: &[BTreeMap<String, u64>]) {
    for (place, (before, after)) in before.iter().zip(after).enumerate() {
        let mut moved = xfrm::moved(before, after);
        moved.remove("XfrmInError");
        assert!(moved.is_empty(), "counters of host {place} moved: {moved:?}");
    }
}

#[test]
#[ignore = "needs a kernel with ESP: cargo xtask test"]
fn hosts_take_a_new_generation_in_any_order_without_a_lost_packet() {
    let lab = Lab::new(3);
    lab.apply_all();
    let pairs = [(A, B), (B, C), (C, A)];
    for (from, to) in pairs {
        lab.reaches(from, to);
    }
    let before = counters(&lab);
    let capture = lab.capture();
    let streams = pairs.map(|(from, to)| Stream::start(&lab, from, to));
    let mut generation = lab.mesh.generation;
    for order in ORDERS {
        generation += 1;
        for place in order {
            lab.write(place, &lab.mesh.of_generation(generation));
            lab.apply(place);
            // Traffic between hosts of two generations, in both directions.
            streams.iter().for_each(|stream| stream.wait_for_more(5));
        }
        let sas = xfrm::sas(lab.host(A));
        let in_use = spi(generation as u32, A, B);
        assert!(sas[&in_use].packets > 0, "nothing is sent under {in_use:#x}");
    }
    streams.into_iter().for_each(Stream::lost_nothing);
    nothing_went_wrong(&before, &counters(&lab));
    capture.stop().has_only_esp(500);
}

#[test]
#[ignore = "needs a kernel with ESP: cargo xtask test"]
fn going_back_by_one_generation_loses_nothing_either() {
    let lab = Lab::new(2);
    lab.write_all(&lab.mesh.of_generation(7));
    lab.apply_all();
    let stream = Stream::start(&lab, A, B);
    for (place, generation) in [(A, 6), (B, 6), (B, 5), (A, 5), (A, 6), (B, 6)] {
        lab.write(place, &lab.mesh.of_generation(generation));
        lab.apply(place);
        stream.wait_for_more(5);
    }
    stream.lost_nothing();
}

#[test]
#[ignore = "needs a kernel with ESP: cargo xtask test"]
fn a_step_by_two_is_announced_and_cuts_traffic_until_both_have_made_it() {
    let lab = Lab::new(2);
    lab.apply_all();
    let two_on = lab.mesh.of_generation(3);
    lab.write(A, &two_on);
    lab.meshsec(A, &["plan"]).exits(0).says("the generation moves by more than one");
    lab.apply(A);
    let capture = lab.capture();
    lab.does_not_reach(A, B);
    lab.write(B, &two_on);
    lab.apply(B);
    lab.reaches(A, B);
    capture.stop().has_only_esp(6);
}
