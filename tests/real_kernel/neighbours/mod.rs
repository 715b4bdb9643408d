//! Other programs that use XFRM, tunnels and iptables on the mesh's hosts.
//!
//! The daemons are the real ones: strongSwan's charon, and WireGuard of the
//! kernel. Rules of docker and kube-proxy are look-alikes, in their words and
//! order, since neither can run here.

mod flush;
mod forwarding;
mod hand_made;
mod strongswan;
mod wireguard;

use crate::{
    fixture::{A, B, Lab},
    iptables::Backend,
    namespace::Namespace,
    xfrm,
};

/// The reqid of the lab's mesh, which follows from its name.
const REQID: u32 = 0x4d53_a511;

/// The usual backend of iptables, or both where MESHSEC_NEIGHBOURS is set.
fn backends(usual: Backend) -> impl Iterator<Item = Backend> {
    let all = std::env::var_os("MESHSEC_NEIGHBOURS").is_some();
    Backend::BOTH.into_iter().filter(move |backend| all || *backend == usual)
}

/// The objects of others in a host's SAD and SPD, without counters.
fn foreign(host: &Namespace) -> String {
    let moves = ["anti-replay", "seq", "bitmap", "replay_window", "lastused"];
    let ours = REQID.to_string();
    let mut blocks: Vec<String> = Vec::new();
    for line in xfrm::databases(host).lines() {
        match blocks.last_mut() {
            Some(_) if moves.iter().any(|word| line.trim().starts_with(word)) => {}
            Some(block) if line.starts_with(char::is_whitespace) => {
                block.push_str(line);
                block.push('\n');
            }
            _ => blocks.push(format!("{line}\n")),
        }
    }
    // The reqid of an SA and of a template, and the priority of a guard.
    blocks.retain(|block| !block.split([' ', '\n']).any(|word| word == ours));
    blocks.concat()
}

/// Plans, applies, rotates and destroys the mesh of hosts a and b. The output of `theirs` for a
/// host stays as it is, and the traffic that `work` tries goes on.
fn stays_through_a_mesh(lab: &Lab, theirs: impl Fn(&Namespace) -> String, work: impl Fn()) {
    let shown = || [A, B].map(|place| theirs(lab.host(place)));
    let before = shown();
    assert!(before.iter().all(|text| !text.is_empty()), "nothing is theirs");
    let stays = |after: &str| {
        let now = shown();
        let same = now == before;
        assert!(same, "{after} changed what is theirs from\n{before:#?}\nto\n{now:#?}");
        work();
    };
    work();
    for place in [A, B] {
        lab.meshsec(place, &["plan"]).exits(0);
    }
    stays("plan");
    lab.apply_all();
    lab.reaches(A, B);
    stays("apply");
    for place in [A, B] {
        lab.write(place, &lab.mesh.of_generation(lab.mesh.generation + 1));
        lab.apply(place);
        lab.has_converged(place);
    }
    lab.reaches(A, B);
    stays("a rotation");
    for place in [A, B] {
        lab.meshsec(place, &["destroy", "--auto-approve"]).exits(0);
    }
    stays("destroy");
}
