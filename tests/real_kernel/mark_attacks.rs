//! Chains of ours among thousands of rules of others, and obstacles to them.

use crate::{
    fixture::{A, B, Underlay},
    iptables::{self, Backend, MARK, OUT, failing_restore},
    marks::chains,
};

#[test]
#[ignore = "needs a kernel with ESP: cargo xtask test"]
fn rules_of_others_are_the_same_to_the_byte_before_and_after() {
    for backend in Backend::BOTH {
        let lab = backend.lab(&[Underlay::V4; 2]);
        let host = lab.host(A);
        backend.restore(host, Underlay::V4, &iptables::rules_of_others(5000));
        // An empty table says nothing, and stays where there was none.
        let others = "*mangle\n:MESHSEC-00000007-MARK - [0:0]\n-A OUTPUT -j MESHSEC-00000007-MARK\n\
                      -A MESHSEC-00000007-MARK -p udp --dport 7 -j MARK --set-xmark 0x70/0x70\n\
                      COMMIT\n";
        backend.restore(host, Underlay::V4, others);
        for table in ["filter", "mangle"] {
            backend.tables(host, Underlay::V6, &format!("-t {table} -A FORWARD -j DROP"));
        }
        let before = backend.saved(host);
        assert!(before.matches("-A ").count() > 5000, "{}", before.len());

        let said = lab.apply(A);
        assert!(!said.stdout.contains("shares bits"), "{said}");
        lab.apply(B);
        let capture = lab.capture();
        lab.reaches(A, B);
        lab.has_converged(A);
        capture.stop().has_only_esp(6);
        let applied = backend.saved(host);
        let foreign = |text: &str| {
            let lines = text.lines().filter(|line| !line.contains("MESHSEC-4d53a511"));
            lines.collect::<Vec<_>>().join("\n")
        };
        assert_eq!(foreign(&applied), before.trim_end(), "with {backend:?}");
        lab.meshsec(A, &["destroy", "--auto-approve"]).exits(0);
        assert!(backend.saved(host) == before, "destroy left something with {backend:?}");
    }
}

#[test]
#[ignore = "needs a kernel with ESP: cargo xtask test"]
fn a_rule_of_others_that_leads_to_our_chain_keeps_it_and_is_told() {
    for backend in Backend::BOTH {
        let lab = backend.lab(&[Underlay::V4; 2]);
        lab.apply_all();
        let host = lab.host(A);
        backend.tables(host, Underlay::V4, "-N THEIRS");
        backend.tables(host, Underlay::V4, &format!("-A THEIRS -p tcp -j {OUT}"));
        lab.has_converged(A);
        let said = lab.meshsec(A, &["destroy", "--auto-approve"]).exits(3);
        said.says(&format!("the foreign rule `-A THEIRS -p tcp -j {OUT}` leads to it"));
        assert_eq!(chains(&lab, backend, A), 1);
        backend.tables(host, Underlay::V4, &format!("-D THEIRS -p tcp -j {OUT}"));
        lab.meshsec(A, &["destroy", "--auto-approve"]).exits(0);
        assert_eq!(chains(&lab, backend, A), 0);
        // A chain of ours by its name, in a table where none belongs.
        lab.apply(A);
        backend.tables(host, Underlay::V4, &format!("-t nat -N {MARK}"));
        lab.meshsec(A, &["plan"]).exits(0).says("nothing in mesh.toml asks for this chain");
        lab.apply(A);
        lab.has_converged(A);
        lab.reaches(A, B);
    }
}

#[test]
#[ignore = "needs a kernel with ESP: cargo xtask test"]
fn a_failing_iptables_changes_nothing_and_lets_nothing_out() {
    for (backend, word, says, status) in [
        (Backend::Nft, "*mangle", "Could not fetch rule set generation id", 4),
        (Backend::Legacy, "*mangle", "can't initialize iptables table", 3),
        (Backend::Legacy, "*filter", "Another app is currently holding the xtables lock.", 4),
    ] {
        let mut lab = backend.lab(&[Underlay::V4; 2]);
        let said = says.replace('\'', "");
        failing_restore(&mut lab, backend, word, &said, status);
        let says = format!("exit status {status}: {}", said.split('\'').next().unwrap_or(&said));
        lab.meshsec(A, &["apply", "--auto-approve"]).exits(1).says(&says);
        assert_eq!(crate::xfrm::databases(lab.host(A)), "", "something was changed");
        assert_eq!(chains(&lab, backend, A), 0);

        // A mesh that is up: changes that the broken program can't make stay undone, and traffic
        // closed.
        backend.is_the_systems(&mut lab);
        lab.apply_all();
        backend.tables(lab.host(A), Underlay::V4, &format!("-t mangle -F {MARK}"));
        failing_restore(&mut lab, backend, word, &said, status);
        let capture = lab.capture();
        if word == "*mangle" {
            lab.meshsec(A, &["apply", "--auto-approve"]).exits(1).says(&says).says("blocked");
        }
        lab.does_not_reach(A, B);
        capture.stop().is_closed();
    }
}
