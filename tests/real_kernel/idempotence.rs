//! A second apply does nothing, and exit statuses tell of pending changes.

use crate::{
    fixture::{A, B, Lab},
    ping::Stream,
    xfrm,
};

#[test]
#[ignore = "needs a kernel with ESP: cargo xtask test"]
fn a_second_apply_changes_nothing_and_counters_go_on() {
    let lab = Lab::new(3);
    lab.apply_all();
    let stream = Stream::start(&lab, A, B);
    let before = xfrm::sas(lab.host(A));
    let databases = xfrm::databases(lab.host(A)).lines().count();

    let again = lab.apply(A);
    assert!(
        again.stdout.ends_with("No changes. The kernel matches mesh.toml.\n"),
        "the last line is another: {again}"
    );

    stream.wait_for_more(5);
    stream.lost_nothing();
    let after = xfrm::sas(lab.host(A));
    assert_eq!(before.len(), after.len());
    assert_eq!(databases, xfrm::databases(lab.host(A)).lines().count());
    for (spi, sa) in &before {
        let now = &after[spi];
        assert_eq!(sa.added, now.added, "SA {spi:#x} was made anew");
        assert_eq!(sa.key, now.key, "SA {spi:#x} has another key");
        assert!(now.packets >= sa.packets, "SA {spi:#x} counts from the start again");
    }
    let used = |spi: u32| after[&spi].packets > before[&spi].packets;
    assert!(used(crate::fixture::spi(1, A, B)), "the outbound SA is not the one in use");
    assert!(used(crate::fixture::spi(1, B, A)), "the inbound SA is not the one in use");
}

#[test]
#[ignore = "needs a kernel with ESP: cargo xtask test"]
fn the_exit_status_tells_pending_changes_from_none_and_from_conflicts() {
    let lab = Lab::new(2);
    lab.meshsec(A, &["plan"]).exits(0);
    lab.meshsec(A, &["plan", "--detailed-exitcode"]).exits(2);
    lab.apply(A);
    lab.meshsec(A, &["plan", "--detailed-exitcode"]).exits(0);
    lab.meshsec(A, &["plan"]).exits(0);
    let b = lab.address(B);
    lab.host(A).ip(&format!("xfrm policy add dst {b} dir out action allow priority 10"));
    lab.meshsec(A, &["plan", "--detailed-exitcode"]).exits(1);
    lab.meshsec(A, &["plan"]).exits(1);
}
