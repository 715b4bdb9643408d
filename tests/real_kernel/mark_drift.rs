//! Changes of our chains by others: the plan names them, and apply heals them.

use crate::{
    fixture::{A, B, Underlay},
    iptables::{Backend, IN, MARK, OUT},
};

#[test]
#[ignore = "needs a kernel with ESP: cargo xtask test"]
fn chains_and_jumps_that_were_changed_behind_our_back_are_put_right() {
    for (backend, underlay) in [(Backend::Nft, Underlay::V4), (Backend::Legacy, Underlay::V6)] {
        let lab = backend.lab(&[underlay; 2]);
        lab.apply_all();
        let host = lab.host(A);
        let capture = lab.capture();
        for (words, reason) in [
            (vec![format!("-F {OUT}")], "its rules are not those of the mesh"),
            (vec![format!("-I {IN} -j ACCEPT")], "its rules are not those of the mesh"),
            (
                vec![
                    format!("-t mangle -F {MARK}"),
                    format!("-t mangle -A {MARK} -p udp --dport 4789 -j MARK --set-mark 0x20000"),
                ],
                "its rules are not those of the mesh",
            ),
            (vec![format!("-D OUTPUT -j {OUT}")], "no rule leads to it"),
            (vec![format!("-D INPUT -j {IN}"), format!("-F {IN}"), format!("-X {IN}")], "missing"),
            (vec![format!("-A INPUT -j {IN}")], "several rules lead to it"),
            (
                vec![
                    format!("-t mangle -D OUTPUT -j {MARK}"),
                    format!("-t mangle -A OUTPUT -m comment --comment a -p udp -j {MARK}"),
                ],
                "the rule that leads to it has conditions",
            ),
            (
                vec![
                    "-N EARLY".into(),
                    "-N EARLIER".into(),
                    "-A EARLY -g EARLIER".into(),
                    "-A EARLIER -p tcp -j ACCEPT".into(),
                    "-I OUTPUT -j EARLY".into(),
                ],
                "a rule ahead of it accepts",
            ),
        ] {
            for words in &words {
                backend.tables(host, underlay, words);
            }
            let plan = lab.plan(A);
            let [change] = plan["changes"].as_array().expect("a list").as_slice() else {
                panic!("wanted one change, for {reason:?}: {plan:#}");
            };
            assert_eq!(
                (&change["reason"]["text"], &change["kind"]),
                (&reason.into(), &"chain".into())
            );
            lab.apply(A).says("Apply complete");
            lab.reaches(A, B);
        }
        capture.stop().is_closed();
        let saved = backend.saved(host);
        assert!(saved.contains("-A OUTPUT -j EARLY\n"), "what accepts is another's: {saved}");
    }
}
