//! Lifetimes that differ, beside those that do not.

use super::*;

/// Rounding moves the end of an SA by a second or two.
#[test]
fn an_end_that_rounding_moved_is_not_told_beside_another_difference() {
    let names = |later| {
        let mut kernel = host_at_half_past(true);
        let sa = &mut kernel.state_mut().sas[0];
        sa.ends = sa.ends.map(|end| Time::from_seconds(end.seconds() + later));
        sa.replay.window = 32;
        let changes = crate::common::plan(&by_the_clock(), &mut kernel).changes;
        changes[0].fields().iter().map(|field| field.name).collect::<Vec<_>>()
    };
    assert_eq!(names(2), ["replay_window"]);
    assert_eq!(names(600), ["replay_window", "ends"]);
}
