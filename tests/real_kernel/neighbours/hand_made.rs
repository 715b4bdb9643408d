//! Objects that somebody has made with `ip xfrm`: of every kind that ours are not.

use super::{foreign, stays_through_a_mesh};
use crate::{
    fixture::{A, B, Lab},
    ping,
    wait::wait_for,
    xfrm::{self, AEAD},
};

/// Objects on a host that nothing uses, each unlike ours in another way.
fn idle(lab: &Lab, place: usize) -> String {
    let (own, far) = (lab.address(place), lab.address(A + B - place));
    let sa = |rest: &str| format!("xfrm state add src {far} dst {own} proto esp {rest} {AEAD}\n");
    let policy = |rest: &str| format!("xfrm policy add {rest}\n");
    [
        sa("spi 0x84003001 reqid 7 mode transport"),
        sa("spi 0x5001 reqid 7 mode tunnel mark 0x7 mask 0xff"),
        sa("spi 0x5002 reqid 8 mode tunnel if_id 9"),
        sa("spi 0x5003 reqid 8 mode beet sel src 10.1.0.0/16 dst 10.2.0.0/16"),
        format!(
            "xfrm state add src {far} dst {own} proto comp spi 0x53 mode tunnel comp deflate\n"
        ),
        policy("src 10.1.0.0/16 dst 10.2.0.0/16 dir fwd priority 3 tmpl proto esp mode tunnel"),
        policy(
            "src 10.1.0.0/16 dst 10.2.0.0/16 dir out priority 3 mark 0x7 mask 0xff \
             tmpl proto esp reqid 7 mode tunnel",
        ),
        policy(&format!(
            "src {own}/32 dst {far}/32 dir out priority 1 if_id 9 \
             tmpl src {own} dst {far} proto esp reqid 8 mode tunnel"
        )),
        policy("src 10.3.0.0/16 dst 10.4.0.0/16 dir out ptype sub action block"),
        policy("src 2001:db8:7::/48 dst ::/0 dir out action block priority 0"),
        policy("dst 10.9.0.0/16 dir in action allow priority 4294967295"),
    ]
    .concat()
}

/// A tunnel between addresses of its own that works, in both directions.
fn tunnel(lab: &Lab) {
    for place in [A, B] {
        let other = A + B - place;
        let (own, far) = (lab.address(place), lab.address(other));
        let (from, to) = (format!("10.88.{place}.1"), format!("10.88.{other}.1"));
        // The SPI of a direction is the same on both hosts.
        let (out, into) = (0x6000 + place, 0x6000 + other);
        lab.host(place).ip_batch(&format!(
            "address add {from}/32 dev lo\n\
             route add {to}/32 dev eth0 src {from}\n\
             xfrm state add src {own} dst {far} proto esp spi {out} reqid 21 mode tunnel {AEAD}\n\
             xfrm state add src {far} dst {own} proto esp spi {into} reqid 21 mode tunnel {AEAD}\n\
             xfrm policy add src {from}/32 dst {to}/32 dir out priority 9 \
             tmpl src {own} dst {far} proto esp reqid 21 mode tunnel\n\
             xfrm policy add src {to}/32 dst {from}/32 dir in priority 9 \
             tmpl src {far} dst {own} proto esp reqid 21 mode tunnel\n"
        ));
    }
}

/// Fails unless pings through the tunnel are answered, encrypted.
#[track_caller]
fn their_ping_works(lab: &Lab) {
    let carried = || xfrm::sas(lab.host(A))[&0x6000].packets;
    let before = carried();
    let capture = lab.capture();
    wait_for("answers through the tunnel", || {
        (ping::answers(lab.host(A), "10.88.1.1", 3) == 3).then_some(())
    });
    capture.stop().is_closed();
    assert!(carried() >= before + 3, "the tunnel carries nothing");
}

#[test]
#[ignore = "needs a kernel with ESP: cargo xtask test"]
fn what_was_made_by_hand_stays_and_works_through_all_of_a_meshs_life() {
    let lab = Lab::new(2);
    for place in [A, B] {
        lab.host(place).ip_batch(&idle(&lab, place));
    }
    tunnel(&lab);
    stays_through_a_mesh(&lab, foreign, || their_ping_works(&lab));
    // Nothing of it is left out of the comparison.
    let text = foreign(lab.host(A));
    for word in ["mark 0x7/0xff", "if_id 0x9", "ptype sub", "mode beet", "proto comp"] {
        assert!(text.contains(word), "no {word} in\n{text}");
    }
}
