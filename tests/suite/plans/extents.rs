//! Plans of which somebody wants to read a part.

use std::fmt::Write;

use super::*;
use meshsec::{
    model::PeerName,
    render::{Extent, Subject, View, plan_text},
};

fn text(config: &Config, kernel: &mut Memory, extent: &Extent) -> String {
    let now = kernel.now();
    let plan = crate::common::plan(config, kernel);
    let outcomes = &crate::common::outcomes(config, kernel, &plan);
    let view = View {
        subject: Subject::File { config, moment: config.rotation.at(now) },
        local: Some(&config.peers[0]),
        plan: &plan,
        warnings: &[],
        outcomes,
        file: "mesh.toml",
    };
    anstream::adapter::strip_str(&plan_text(&view, extent)).to_string()
}

/// A foreign policy in the way of one peer.
fn stopped() -> (Config, Memory) {
    let mut kernel = host(&lab());
    let [a, b] = [LAB[0], LAB[1]].map(|address| Prefix::host(address.parse().unwrap()));
    let vxlan = Selector::between(a, b).to_port(17, 4789);
    kernel.state_mut().policies.push(foreign_allow(Direction::Out, vxlan, 10));
    (lab(), kernel)
}

#[test]
fn parts_of_plans_tell_the_same_in_fewer_lines() {
    let mut alone = lab();
    alone.peers.retain(|peer| peer.name.as_str() != "c");
    let cases = [
        ("an empty host", (lab(), host(&lab()))),
        ("nothing differs", (lab(), applied_host(&lab()))),
        ("the generation is raised", (mesh(2, &LAB), applied_host(&lab()))),
        ("a peer is removed", (alone, applied_host(&lab()))),
        ("a foreign policy stops one peer", stopped()),
    ];
    let peers = [PeerName::new("c").unwrap()].into();
    let extents = [
        ("--quiet", Extent::OneLine),
        ("--summary", Extent::Summary),
        ("--peer c", Extent::Peers(peers)),
    ];
    let mut page = String::new();
    for (case, (config, mut kernel)) in cases {
        for (option, extent) in &extents {
            let text = text(&config, &mut kernel, extent);
            let _ = writeln!(page, "==== {case}, plan {option}\n{text}");
        }
    }
    crate::common::compare("tests/plan/parts-of-plans.txt", &page);
}
