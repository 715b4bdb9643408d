//! From port to mark and back, from one mark to another, from one backend to the other.

use std::fs;

use crate::{
    fixture::{A, B, Underlay},
    iptables::{self, BY_MARK, Backend, OUT},
    marks::chains,
    ping::Stream,
};

const BY_PORT: &str = "kind = \"vxlan\"";
const OTHER_MARK: &str = "kind = \"vxlan\"\nselect = \"mark\"\nmark = \"0x1/0x3\"";

#[test]
#[ignore = "needs a kernel with ESP: cargo xtask test"]
fn changes_of_the_selection_lose_no_packet_and_send_none_in_clear() {
    for (backend, underlay) in [(Backend::Nft, Underlay::V4), (Backend::Legacy, Underlay::V6)] {
        let mut lab = backend.lab(&[underlay; 2]);
        lab.mesh.traffic = BY_PORT;
        lab.write_all(&lab.mesh);
        lab.apply_all();
        let capture = lab.capture();
        let stream = Stream::start(&lab, A, B);
        for traffic in [BY_MARK, OTHER_MARK, BY_MARK, BY_PORT] {
            lab.mesh.traffic = traffic;
            lab.write_all(&lab.mesh);
            for place in [A, B] {
                lab.apply(place);
                lab.has_converged(place);
                stream.wait_for_more(5);
            }
        }
        stream.lost_nothing();
        capture.stop().has_only_esp(50);
        // Those of the second guard, in and out, of both families.
        assert_eq!(chains(&lab, backend, A), 4);
    }
}

#[test]
#[ignore = "needs a kernel with ESP: cargo xtask test"]
fn with_a_guard_of_policies_alone_no_program_runs_unless_chains_were_left() {
    let mut lab = Backend::Nft.lab(&[Underlay::V4; 2]);
    let record = iptables::recorded(&mut lab, Backend::Nft);
    // Whether any has run since this was last asked.
    let has_run = || fs::remove_file(&record).is_ok();
    Backend::Nft.tables(lab.host(A), Underlay::V4, "-A FORWARD -j ACCEPT");
    for (traffic, runs) in [(BY_PORT, false), (BY_MARK, true), (BY_PORT, true), (BY_PORT, false)] {
        lab.mesh.traffic = traffic;
        lab.mesh.guard = if traffic == BY_PORT { "\"xfrm\"" } else { "true" };
        lab.write(A, &lab.mesh);
        lab.apply(A);
        assert_eq!(has_run(), runs, "{traffic}");
    }
    lab.has_converged(A);
    lab.meshsec(A, &["status"]).exits(0);
    lab.meshsec(A, &["show"]).exits(0);
    assert!(!has_run(), "once there are no more chains");
    // A chain of any mesh, in either family and backend, is a reason to look.
    for (backend, underlay) in [(Backend::Nft, Underlay::V6), (Backend::Legacy, Underlay::V4)] {
        backend.tables(lab.host(A), underlay, &format!("-N {OUT}"));
        lab.meshsec(A, &["plan"]).exits(0).says(OUT);
        assert!(has_run(), "{backend:?}");
        backend.tables(lab.host(A), underlay, &format!("-X {OUT}"));
    }
}

#[test]
#[ignore = "needs a kernel with ESP: cargo xtask test"]
fn chains_move_to_the_other_backend_when_the_system_does() {
    let mut lab = Backend::Legacy.lab(&[Underlay::V4; 2]);
    lab.apply_all();
    assert_eq!(chains(&lab, Backend::Legacy, A), 6);
    let capture = lab.capture();
    let stream = Stream::start(&lab, A, B);
    Backend::Nft.is_the_systems(&mut lab);
    lab.meshsec(A, &["plan"]).exits(0).says("left in the backend that is not the system's");
    lab.apply(A);
    lab.has_converged(A);
    assert_eq!((chains(&lab, Backend::Legacy, A), chains(&lab, Backend::Nft, A)), (0, 6));
    stream.lost_nothing();
    capture.stop().has_only_esp(10);
    // Rules of others in both: that is said, and no more.
    Backend::Legacy.tables(lab.host(A), Underlay::V4, "-A FORWARD -j ACCEPT");
    Backend::Nft.tables(lab.host(A), Underlay::V4, "-A FORWARD -j ACCEPT");
    lab.meshsec(A, &["plan"])
        .exits(0)
        .says("iptables has rules in both backends")
        .says("No changes");
}
