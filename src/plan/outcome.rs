//! The fate of packets that leave, before a plan and after it, by the model of the kernel's
//! look-ups.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use super::{
    chain::ChainChange,
    change::{Change, Operation},
    fib::FibChange,
    flow::Flow,
    look_ups::{LookUps, far_host},
    policy::PolicyChange,
    sa::SaChange,
};
use crate::{
    desired::Desired,
    model::{
        Chain, Direction, FibEntry, Interface, Jump, PeerName, Policy, PolicyId, Prefix, Reqid, Sa,
        SaId, Selector, State,
    },
};

/// Addresses that no host has (RFC 1112 section 4, RFC 6666): packets to them stand for those to
/// everybody who is not in the file.
const NOBODY_IPV4: [u8; 4] = [240, 0, 0, 1];
const NOBODY_IPV6: [u16; 8] = [0x100, 0, 0, 0, 0, 0, 0, 1];

/// The far end of packets.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum FarEnd {
    /// A peer.
    Peer(PeerName),
    /// A host that was a peer, or whose pair goes.
    Former(IpAddr),
    /// Every other host.
    Others,
}

/// A fate, before and after.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Outcome {
    /// Before the plan is performed.
    pub before: Flow,
    /// After that.
    pub after: Flow,
}

/// The fate of the worst packets to each peer, to hosts that were peers, and to all others where
/// the mesh has a guard or had one; by the state before a plan and the one that its changes lead
/// to. Nothing is asked where nothing changes.
pub fn outcomes(
    desired: &Desired,
    reqid: Reqid,
    before: &State,
    changes: &[Change],
) -> BTreeMap<FarEnd, Outcome> {
    if changes.is_empty() {
        return BTreeMap::new();
    }
    let sides = [Objects::of(before), Objects::after(before, changes)];
    let mut packets = packets_of_peers(desired, before);
    packets.extend(packets_of_former(desired, reqid, before));
    let others = packets_of_others(desired, reqid, &sides);
    packets.extend((!others.is_empty()).then_some((FarEnd::Others, others)));
    let mut sides = sides.map(|objects| {
        let Objects { sas, policies, chains, interfaces, fib } = objects;
        LookUps::new(before, sas.into_values(), policies.into_values())
            .with_chains(chains)
            .with_routes(interfaces, fib.into_iter())
    });
    let touched = touched_by(changes);
    let outcome = |(far, packets): (FarEnd, Vec<Selector>)| {
        let before = worst(&mut sides[0], &packets);
        let is_touched = touched.as_ref().is_none_or(|touched| {
            packets.iter().any(|packet| !sides[0].ends(packet).is_disjoint(touched))
        });
        let after = if is_touched { worst(&mut sides[1], &packets) } else { before };
        (far, Outcome { before, after })
    };
    packets.into_iter().map(outcome).collect()
}

/// The worst fate of packets.
fn worst(side: &mut LookUps<'_>, packets: &[Selector]) -> Flow {
    packets.iter().map(|packet| side.flow(packet)).max().unwrap_or(Flow::Clear)
}

/// The hosts whose packets have another fate by these changes, if any have; `None` for all hosts.
fn touched_by(changes: &[Change]) -> Option<BTreeSet<IpAddr>> {
    let mut hosts = BTreeSet::new();
    for change in changes {
        match &change.operation {
            Operation::Sa(SaChange::Create(wanted)) => _ = hosts.insert(wanted.sa.id.dst),
            Operation::Sa(SaChange::Replace { wanted, twins, .. }) => {
                hosts.insert(wanted.sa.id.dst);
                hosts.extend(twins.iter().map(|twin| twin.id.dst));
            }
            Operation::Sa(SaChange::Delete { sa, .. }) => _ = hosts.insert(sa.id.dst),
            Operation::Policy(
                PolicyChange::Create(policy)
                | PolicyChange::Update { wanted: policy, .. }
                | PolicyChange::Delete(policy),
            ) => _ = hosts.insert(far_host(policy)?),
            Operation::Chain(_)
            | Operation::Interface(_)
            | Operation::Address(_)
            | Operation::Fib(_) => return None,
            Operation::Mtu(_) => {}
        }
    }
    Some(hosts)
}

/// The state that changes lead to, in no particular order.
pub fn after(state: &State, changes: &[Change]) -> State {
    let Objects { sas, policies, chains, interfaces, fib } = Objects::after(state, changes);
    let mut after = State {
        sas: sas.into_values().cloned().collect(),
        policies: policies.into_values().cloned().collect(),
        routes: state.routes.clone(),
        interfaces,
        fib: fib.into_iter().cloned().collect(),
        ..state.without_objects()
    };
    after.firewall.chains = chains;
    after
}

/// The objects that decide about packets: by far the most of a state.
struct Objects<'s> {
    sas: BTreeMap<SaId, &'s Sa>,
    policies: BTreeMap<PolicyId, &'s Policy>,
    chains: Vec<Chain>,
    interfaces: Vec<Interface>,
    fib: BTreeSet<&'s FibEntry>,
}

impl<'s> Objects<'s> {
    fn of(state: &'s State) -> Self {
        Self {
            sas: state.sas.iter().map(|sa| (sa.id, sa)).collect(),
            policies: state.policies.iter().map(|policy| (policy.id, policy)).collect(),
            chains: state.firewall.chains.clone(),
            interfaces: state.interfaces.clone(),
            fib: state.fib.iter().collect(),
        }
    }

    fn after(state: &'s State, changes: &'s [Change]) -> Self {
        let mut all = Self::of(state);
        changes.iter().for_each(|change| all.change(&change.operation));
        all
    }

    fn change(&mut self, operation: &'s Operation) {
        match operation {
            Operation::Sa(change) => self.change_sa(change),
            Operation::Policy(
                PolicyChange::Create(policy) | PolicyChange::Update { wanted: policy, .. },
            ) => _ = self.policies.insert(policy.id, policy),
            Operation::Policy(PolicyChange::Delete(policy)) => _ = self.policies.remove(&policy.id),
            Operation::Chain(change) => self.change_chain(change),
            Operation::Interface(change) => {
                let number = change.interface().if_id;
                self.interfaces.retain(|interface| interface.if_id != number);
                self.interfaces.extend(change.becomes().cloned());
            }
            Operation::Fib(FibChange::Create(entry)) => _ = self.fib.insert(entry),
            Operation::Fib(FibChange::Replace { live, wanted }) => {
                self.fib.remove(live);
                self.fib.insert(wanted);
            }
            Operation::Fib(FibChange::Delete(entry)) => _ = self.fib.remove(entry),
            Operation::Mtu(_) | Operation::Address(_) => {}
        }
    }

    fn change_sa(&mut self, change: &'s SaChange) {
        match change {
            SaChange::Create(wanted) => _ = self.sas.insert(wanted.sa.id, &wanted.sa),
            SaChange::Replace { wanted, twins, .. } => {
                twins.iter().for_each(|twin| _ = self.sas.remove(&twin.id));
                self.sas.insert(wanted.sa.id, &wanted.sa);
            }
            SaChange::Delete { sa, .. } => _ = self.sas.remove(&sa.id),
        }
    }

    fn change_chain(&mut self, change: &ChainChange) {
        match change {
            ChainChange::Set { id, rules, .. } => {
                let old = self.chains.iter().find(|chain| chain.id == *id);
                let references = old.map(|chain| chain.references.clone()).unwrap_or_default();
                self.chains.retain(|chain| chain.id != *id);
                let (id, rules, jumps) = (id.clone(), rules.clone(), vec![Jump::FIRST]);
                self.chains.push(Chain { id, rules, jumps, references });
            }
            ChainChange::Delete(gone) => self.chains.retain(|chain| chain.id != gone.id),
        }
    }
}

fn packets_of_peers(desired: &Desired, state: &State) -> BTreeMap<FarEnd, Vec<Selector>> {
    let Some((traffic, local)) = desired.traffic.zip(desired.local) else {
        return BTreeMap::new();
    };
    let mut packets: BTreeMap<FarEnd, Vec<Selector>> = BTreeMap::new();
    for (address, peer) in &desired.peers {
        let between = traffic.selectors(Prefix::host(local), Prefix::host(*address));
        packets.insert(FarEnd::Peer(peer.clone()), between);
    }
    for (network, peer) in &desired.networks {
        let selector = Selector::to_network(*network);
        let of_peer = packets.entry(FarEnd::Peer(peer.clone())).or_default();
        of_peer.extend(desired.is_sent(state, &selector).then_some(selector));
    }
    packets
}

/// Packets that policies of the mesh are for and that are of no peer of the file.
fn packets_of_former(
    desired: &Desired,
    reqid: Reqid,
    before: &State,
) -> BTreeMap<FarEnd, Vec<Selector>> {
    let mut packets: BTreeMap<FarEnd, Vec<Selector>> = BTreeMap::new();
    let out = before.policies.iter().filter(|policy| {
        policy.id.direction == Direction::Out
            && policy.belongs_to(reqid)
            && !policy.is_guard()
            && policy.passage().is_none()
            && !policy.is_for_icmp_errors()
    });
    for policy in out {
        let Selector { src, dst, .. } = policy.id.selector;
        if policy.id.if_id == reqid.0 {
            // Packets to a network of a host that was a peer.
            let outer = policy.templates.first().map(|template| template.dst);
            let is_gone = !desired.networks.contains_key(&dst);
            if let Some(outer) = outer.filter(|_| is_gone) {
                packets.entry(FarEnd::Former(outer)).or_default().push(policy.id.selector);
            }
            continue;
        }
        let is_of_two = src == Prefix::host(src.address) && dst == Prefix::host(dst.address);
        let far = match desired.peers.get(&dst.address) {
            // Its packets are those that the file names.
            Some(_) if desired.traffic.is_some() => continue,
            Some(peer) => FarEnd::Peer(peer.clone()),
            None => FarEnd::Former(dst.address),
        };
        if is_of_two {
            packets.entry(far).or_default().push(policy.id.selector);
        }
    }
    packets
}

/// Packets to a host that is in no file, where the mesh has a guard or had one: those of the file's
/// kind, or where all of the mesh goes, those of its guards.
fn packets_of_others(desired: &Desired, reqid: Reqid, sides: &[Objects<'_>; 2]) -> Vec<Selector> {
    let policies = sides.iter().flat_map(|objects| objects.policies.values());
    let guards: BTreeSet<Selector> = policies
        .filter(|policy| policy.id.direction == Direction::Out && policy.is_guard_of(reqid))
        // A guard of a network blocks no packets to other hosts.
        .filter(|policy| policy.id.selector.dst.length == 0)
        .map(|guard| guard.id.selector)
        .collect();
    // Where a mark selects, chains guard.
    let is_guarded = !guards.is_empty() || desired.marking.is_some();
    match desired.traffic.filter(|_| is_guarded) {
        Some(traffic) => {
            let hosts = [IpAddr::from(NOBODY_IPV4), IpAddr::from(NOBODY_IPV6)].map(Prefix::host);
            hosts.into_iter().flat_map(|host| traffic.selectors(host, host)).collect()
        }
        None => guards.into_iter().map(to_nobody).collect(),
    }
}

/// The same packets, between two hosts that nobody has heard of.
fn to_nobody(selector: Selector) -> Selector {
    let nobody = match selector.is_ipv4() {
        true => IpAddr::from(NOBODY_IPV4),
        false => IpAddr::from(NOBODY_IPV6),
    };
    Selector { src: Prefix::host(nobody), dst: Prefix::host(nobody), ..selector }
}
