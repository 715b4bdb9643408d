//! Whether objects with our reqid are another file's, which gives the same reqid.
//!
//! An object is ours by its reqid alone. A second file with another name and the same explicit
//! reqid would take all objects of the first for its own, and delete its guards: packets that they
//! blocked would leave in the clear. A name is nowhere in the kernel, but it is in the keys. So
//! live objects for other traffic than this file's are left alone if not one of their SAs is as
//! this file wants it: a file with an edited port still has its SAs. Keys of another generation
//! can't be compared, and an SA between the same peers under the same ShortIDs is taken for this
//! mesh's, as no other may have one.

use std::collections::BTreeSet;

use super::{
    conflict::{Conflict, describe},
    stops::Stops,
};
use crate::{
    desired::{Desired, Goal},
    model::{ConflictCode, Live, Policy, PortMatch, Reqid, Sa, Selector},
};

/// The part of a selector besides the addresses.
type ProtocolAndPorts = (u8, PortMatch, PortMatch);

fn kind(selector: &Selector) -> ProtocolAndPorts {
    (selector.proto, selector.sport, selector.dport)
}

/// Reports the first such object, once. It stops everything.
pub(super) fn conflict(desired: &Desired, live: &Live, reqid: Reqid) -> Option<Conflict> {
    if desired.goal == Goal::Nothing || may_be_ours(desired, live, reqid) {
        return None;
    }
    let guards = desired.guards.keys().map(|id| kind(&id.selector));
    // Meshes of any kind have policies for ICMP errors.
    let policies = desired.policies.values().filter(|wanted| !wanted.policy.is_for_icmp_errors());
    let policies = policies.map(|wanted| kind(&desired.packets(wanted)));
    let wanted: BTreeSet<ProtocolAndPorts> = guards.chain(policies).collect();
    // A policy that a mark selects does not show its port.
    let told = |policy: &&Policy| {
        policy.belongs_to(reqid)
            && policy.id.mark.is_none()
            && policy.passage_in(reqid).is_none()
            && !policy.is_for_icmp_errors()
    };
    let ours: Vec<&Policy> = live.0.policies.iter().filter(told).collect();
    if ours.iter().any(|policy| wanted.contains(&kind(&policy.id.selector))) {
        return None;
    }
    let other = ours.first()?;
    Some(Conflict {
        code: ConflictCode::SameReqid,
        stops: Stops::All,
        object: describe(other),
        text: "it has this mesh's reqid, for other traffic, and no SA is there that mesh.toml \
                 asks for: if another mesh has set it up, give one of the two another reqid; if \
                 this one has, under older settings, run destroy with the old file first"
            .into(),
    })
}

/// Whether an SA is there that this file wants, under its key as far as that is known, or wanted in
/// another generation. Also true without any SA, which tells nothing.
fn may_be_ours(desired: &Desired, live: &Live, reqid: Reqid) -> bool {
    let ends = |sa: &Sa| (sa.src, sa.id.dst, sa.id.spi.from(), sa.id.spi.to());
    let pairs: BTreeSet<_> = desired.sas.values().map(|wanted| ends(&wanted.sa)).collect();
    // Nor is the trial of a run that was killed, an SA of a peer to itself.
    let is_trial = |sa: &Sa| sa.id.spi.from() == sa.id.spi.to();
    let ours = |sa: &&Sa| sa.reqid == reqid && !sa.is_larval() && !is_trial(sa);
    let sas: Vec<&Sa> = live.0.sas.iter().filter(ours).collect();
    sas.is_empty()
        || sas.into_iter().any(|sa| match desired.sas.get(&sa.id) {
            Some(wanted) => !wanted.sa.key.differs(sa.key),
            None => pairs.contains(&ends(sa)),
        })
}
