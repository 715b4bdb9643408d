//! The state of a host before a plan, as one that can be wanted again; pure.
//!
//! Desired state comes from mesh.toml, with this one exception: an apply that waits for a
//! confirmation has to be able to bring back the state that it found, from any maker and any file.
//! So this is made before the first step, from the live state and the keys that the kernel shows,
//! and reverting an apply is a plan like any other, in the same order. Afterwards the host is
//! compared with the state that it had.
#![forbid(unsafe_code)]

use std::{
    collections::{BTreeMap, BTreeSet},
    mem::take,
    net::IpAddr,
};

use crate::{
    desired::{
        Desired, FibKey, Goal, Keyring, Marking, WantedEntry, WantedLink, WantedPolicy, WantedSa,
    },
    model::{
        Chain, ChainId, Direction, FibEntry, Generation, KeyView, Live, Mark, Mtu, OldPairs,
        PeerName, Policy, PolicyId, PolicyRole, Reqid, Rule, Sa, SaId, Selector, Start, State,
        Time,
    },
    plan::{Change, MtuChange, Operation, Plan, differences_of_networks},
};

/// Packets that may still be sent under an SA between the look at it and its end, some seconds
/// later; the SA in its place begins beyond them.
const MEANWHILE: u64 = 1 << 23;

/// The objects in `live` of the mesh with this reqid, and the keys for them, so that `plan`, which
/// leads to `wanted`, can be reverted.
///
/// # Errors
///
/// Each object that the plan would change and nobody could make again.
pub fn restore(
    live: &Live,
    keys: Keyring,
    plan: &Plan,
    wanted: &Desired,
    reqid: Reqid,
) -> Result<(Desired, Keyring), Vec<String>> {
    let problems: Vec<String> =
        plan.changes.iter().flat_map(|change| change.irreversible(&live.0, &keys)).collect();
    if !problems.is_empty() {
        return Err(problems);
    }
    let held = Observed { state: &live.0, wanted, reqid };
    let mut before = Desired {
        local: wanted.local,
        peers: wanted.peers.clone(),
        sas: held.sas().map(|sa| (sa.sa.id, sa)).collect(),
        kept: held.marked().collect(),
        link: plan.changes.iter().find_map(|change| link(&change.operation, wanted)),
        ..Desired::default()
    };
    held.add_policies(&mut before);
    held.add_networks(&mut before);
    let kept_chains = held.add_chains(&mut before);
    let of_chain = |change: &Change| matches!(change.operation, Operation::Chain(_));
    let needs_chains = !before.chains.is_empty() || plan.changes.iter().any(of_chain);
    before.goal = Goal::Before { kept_chains, needs_chains };
    Ok((before, keys))
}

/// The objects of the mesh that are not as they were held, in words; empty if all are.
///
/// Counters are not compared, nor placeholders that the kernel makes.
pub fn unlike(before: &Desired, live: &Live, reqid: Reqid) -> Vec<String> {
    // All fields by name, so that a new kind of object has to be compared, or left out, here.
    let Desired {
        sas: _,
        kept: _,
        policies: _,
        guards: _,
        passages: _,
        chains: _,
        link: _,
        interface: _,
        inside: _,
        fib: _,
        // These are not objects.
        tunnel: _,
        networks: _,
        encap: _,
        exceptions: _,
        marking: _,
        traffic: _,
        local: _,
        peers: _,
        goal: _,
        clock: _,
        unpaired: _,
        not_paired: _,
        stages: _,
    } = before;
    let now = Comparison { before, state: &live.0, reqid };
    let mut unlike = now.unlike_sas();
    unlike.extend(now.unlike_policies());
    unlike.extend(now.unlike_chains());
    unlike.extend(now.unlike_link());
    unlike.extend(now.unlike_networks());
    unlike
}

/// The state after a revert, beside the one that should be there.
struct Comparison<'a> {
    before: &'a Desired,
    state: &'a State,
    reqid: Reqid,
}

impl Comparison<'_> {
    fn unlike_sas(&self) -> Vec<String> {
        let whole = |sa: &&Sa| !sa.is_larval();
        let sas: BTreeMap<SaId, &Sa> =
            self.state.sas_of(self.reqid).filter(whole).map(|sa| (sa.id, sa)).collect();
        let same = |held: &Sa, now: &Sa| {
            now.expires_like(held) && Sa { ends: held.ends, ..now.clone() } == *held
        };
        let held = self.before.sas.values().filter_map(|wanted| match sas.get(&wanted.sa.id) {
            None => Some(format!("SA {} is missing", wanted.sa.id)),
            Some(now) if !same(&wanted.sa, now) => Some(format!("SA {} differs", wanted.sa.id)),
            Some(_) => None,
        });
        let expected =
            |id: &&SaId| self.before.sas.contains_key(id) || self.before.kept.contains(id);
        let new = sas.keys().filter(|id| !expected(id));
        held.chain(new.map(|id| format!("SA {id} was not there"))).collect()
    }

    fn unlike_policies(&self) -> Vec<String> {
        let Desired { policies, guards, passages, .. } = self.before;
        let policies = policies.values().map(|wanted| &wanted.policy);
        let expected: BTreeMap<PolicyId, &Policy> = policies
            .chain(guards.values())
            .chain(passages.values())
            .map(|policy| (policy.id, policy))
            .collect();
        let found: BTreeMap<PolicyId, &Policy> =
            self.state.policies_of(self.reqid).map(|policy| (policy.id, policy)).collect();
        let held = expected.iter().filter_map(|(id, wanted)| match found.get(id) {
            None => Some(format!("policy {id} is missing")),
            Some(policy) if !policy.same_as(wanted) => Some(format!("policy {id} differs")),
            Some(_) => None,
        });
        let new = found.keys().filter(|id| !expected.contains_key(id));
        held.chain(new.map(|id| format!("policy {id} was not there"))).collect()
    }

    fn unlike_chains(&self) -> Vec<String> {
        let firewall = &self.state.firewall;
        let chains: BTreeMap<&ChainId, &Chain> =
            firewall.chains_of(self.reqid).map(|chain| (&chain.id, chain)).collect();
        let mut unlike = Vec::new();
        let mut expected = BTreeSet::new();
        for ((family, role), rules) in &self.before.chains {
            let Some(backend) = firewall.backends.get(family) else {
                if !firewall.absent.contains(family) && firewall.unseen_of(*family).is_none() {
                    let program = family.program();
                    unlike.push(format!(
                        "chain {} can't be looked at: there is no {program}",
                        role.name(self.reqid)
                    ));
                }
                continue;
            };
            let id = ChainId::new(*backend, *family, *role, self.reqid);
            match chains.get(&id) {
                None => unlike.push(format!("chain {id} is missing")),
                // Rules ahead of an optional chain are somebody else's.
                Some(chain)
                    if chain.rules != *rules
                        || !(chain.is_reached()
                            || role.is_optional() && !chain.jumps.is_empty()) =>
                {
                    unlike.push(format!("chain {id} differs"));
                }
                Some(_) => {}
            }
            expected.insert(id);
        }
        let new =
            chains.keys().filter(|id| !expected.contains(**id) && !self.before.goal.keeps(id));
        unlike.extend(new.map(|id| format!("chain {id} was not there")));
        if self.before.needs_chains() {
            let system = firewall.unseen.iter().filter(|unseen| unseen.system);
            unlike.extend(system.map(|unseen| {
                format!("chains can't be looked at: {}: {}", unseen.what, unseen.reason)
            }));
        }
        unlike
    }

    /// The interface, its addresses and routes. A plan that finds no difference is the comparison.
    fn unlike_networks(&self) -> Vec<String> {
        let changes = differences_of_networks(self.before, self.state, self.reqid);
        changes.iter().map(|change| format!("{} {} differs", change.kind(), change.id())).collect()
    }

    fn unlike_link(&self) -> Option<String> {
        let WantedLink { device, mtu: Mtu::Exactly(mtu), .. } = self.before.link.as_ref()? else {
            return None;
        };
        match self.state.link(device) {
            None => Some(format!("device {device} is missing")),
            Some(link) if link.mtu != *mtu => {
                Some(format!("device {device} has an MTU of {}, not {mtu}", link.mtu))
            }
            Some(_) => None,
        }
    }
}

/// Leaves out the SAs that have come to their end by now.
pub fn forget_ended(before: &mut Desired, now: Time) {
    before.sas.retain(|_, wanted| wanted.sa.ends.is_none_or(|end| end > now));
}

/// Moves the held SAs on to the generation of now, where generations follow the clock and one has
/// ended since: peers would no longer take packets under them.
///
/// Only the file's secrets can make the keys of another generation. So this is for peers with an SA
/// that was held under their keys of `then`, when the apply began; `now` is the desired state of
/// the same file at this moment, at the last stage. SAs that were held under other keys stay as they
/// were, and a peer that nothing was sent to under an SA gets none to send under.
pub fn follow_the_clock(
    before: &mut Desired,
    keyring: &mut Keyring,
    then: &Desired,
    now: &(Desired, Keyring),
) {
    let (now, keys) = now;
    if then.sas.keys().eq(now.sas.keys()) {
        return;
    }
    let held = then.sas.values().filter(|wanted| is_held(before, wanted));
    let peers: BTreeSet<PeerName> = held.map(|wanted| wanted.peer.clone()).collect();
    let sends = senders(before);
    let (mut held, others): (BTreeMap<_, _>, _) =
        take(&mut before.sas).into_iter().partition(|(_, wanted)| peers.contains(&wanted.peer));
    before.sas = others;
    let mut spis = BTreeMap::new();
    let moved = |wanted: &&WantedSa| {
        peers.contains(&wanted.peer)
            && (wanted.direction != Direction::Out || sends.contains(&wanted.peer))
    };
    for wanted in now.sas.values().filter(moved) {
        let id = wanted.sa.id;
        if wanted.direction == Direction::Out {
            spis.insert(&wanted.peer, id.spi);
        }
        // An SA that was held goes on from its numbers.
        let wanted = held.remove(&id).unwrap_or_else(|| wanted.clone());
        keyring.adopt(keys, &id);
        before.sas.insert(id, wanted);
    }
    for wanted in before.policies.values_mut() {
        let templates = wanted.policy.templates.iter_mut();
        for template in templates.filter(|template| template.spi.raw() != 0) {
            template.spi = spis.get(&wanted.peer).copied().unwrap_or(template.spi);
        }
    }
    before.kept.extend(&now.kept);
}

/// The peers to which packets were sent encrypted.
fn senders(before: &Desired) -> BTreeSet<PeerName> {
    let out = |id: &PolicyId| id.direction == Direction::Out;
    let policies = before.policies.values().filter(|wanted| out(&wanted.policy.id));
    let sas = before.sas.values().filter(|wanted| wanted.direction == Direction::Out);
    let sas = sas.map(|wanted| wanted.peer.clone());
    policies.map(|wanted| wanted.peer.clone()).chain(sas).collect()
}

/// Whether an SA was held as it is wanted, under the very key.
fn is_held(before: &Desired, wanted: &WantedSa) -> bool {
    let same = |held: &WantedSa| {
        held.sa.expires_like(&wanted.sa)
            && Sa { ends: wanted.sa.ends, ..held.sa.clone() } == wanted.sa
    };
    matches!(wanted.sa.key, KeyView::Known(_)) && before.sas.get(&wanted.sa.id).is_some_and(same)
}

fn link(operation: &Operation, wanted: &Desired) -> Option<WantedLink> {
    let Operation::Mtu(MtuChange { device, before, .. }) = operation else { return None };
    let link = wanted.link.as_ref()?;
    Some(WantedLink { device: device.clone(), mtu: Mtu::Exactly(*before), ..link.clone() })
}

/// The live objects.
struct Observed<'a> {
    state: &'a State,
    wanted: &'a Desired,
    reqid: Reqid,
}

impl Observed<'_> {
    fn sas(&self) -> impl Iterator<Item = WantedSa> {
        let usage: BTreeMap<_, _> =
            self.state.usage.iter().map(|usage| (usage.id, usage)).collect();
        let old = OldPairs::of(self.state, self.reqid);
        let ours = |sa: &&Sa| sa.reqid == self.reqid && !sa.is_larval() && sa.id.mark == Mark::NONE;
        self.state.sas.iter().filter(ours).map(move |sa| {
            let inbound = self.state.has_address(sa.id.dst);
            let start = usage.get(&sa.id).map_or(Start::Fresh, |usage| Start::Resume {
                sent: if usage.sent == 0 { 0 } else { usage.sent.saturating_add(MEANWHILE) },
                received: usage.received,
            });
            WantedSa {
                sa: sa.clone(),
                peer: self.peer(sa.src, sa.id.dst),
                direction: if inbound { Direction::In } else { Direction::Out },
                generation: old.generation(sa, Generation::default()),
                start,
            }
        })
    }

    /// SAs with a mark, which nobody could make again: the plan leaves them alone.
    fn marked(&self) -> impl Iterator<Item = SaId> {
        let marked = |sa: &&Sa| sa.reqid == self.reqid && sa.id.mark != Mark::NONE;
        self.state.sas.iter().filter(marked).map(|sa| sa.id)
    }

    /// The peer with a network at the far end of a policy, or else the peer at the far end.
    fn peer_of(&self, id: &PolicyId) -> PeerName {
        let Selector { src, dst, .. } = id.selector;
        let known = self.wanted.networks.get(&id.far_end()).cloned();
        known.unwrap_or_else(|| self.peer(src.address, dst.address))
    }

    /// The peer at the far end. One that the file doesn't know is called by its address.
    fn peer(&self, src: IpAddr, dst: IpAddr) -> PeerName {
        let far = if self.state.has_address(src) { dst } else { src };
        let known = self.wanted.peers.get(&far).cloned();
        let named = || PeerName::new(&far.to_string().replace(':', "-"));
        known.or_else(named).expect("an address without colons is a name")
    }

    fn add_policies(&self, before: &mut Desired) {
        for policy in self.state.policies_of(self.reqid).cloned() {
            let id = policy.id;
            match policy.role() {
                PolicyRole::Guard => _ = before.guards.insert(id, policy),
                PolicyRole::Passage(_) => _ = before.passages.insert(id, policy),
                PolicyRole::Peer => {
                    let peer = self.peer_of(&id);
                    before.policies.insert(id, WantedPolicy { policy, peer });
                }
            }
        }
    }

    fn add_networks(&self, before: &mut Desired) {
        before.interface = self.state.interface_of(self.reqid).cloned();
        before.inside = self.state.addresses_of(self.reqid).cloned().collect();
        before.fib = self.entries();
    }

    /// Entries of routing tables, each of the peer that the file has its network of, or of one called
    /// by the network.
    fn entries(&self) -> BTreeMap<FibKey, WantedEntry> {
        let entry = |entry: &FibEntry| {
            let key = FibKey::of(entry);
            let known = self.wanted.networks.get(&entry.to).cloned();
            let text = entry.to.address.to_string().replace(':', "-");
            let named = || PeerName::new(&text);
            let peer = known.or_else(named).expect("an address without colons is a name");
            (key, WantedEntry { entry: entry.clone(), peer })
        };
        self.state.fib_of(self.reqid).map(entry).collect()
    }

    /// Chains go back into the system's backend, with a rule that leads to each. Returns those
    /// that stay as they are.
    fn add_chains(&self, before: &mut Desired) -> BTreeSet<ChainId> {
        let mut kept = BTreeSet::new();
        for chain in self.state.firewall.chains_of(self.reqid) {
            let Some(role) = chain.id.role() else {
                kept.insert(chain.id.clone());
                continue;
            };
            if self.state.firewall.backends.get(&chain.id.family) == Some(&chain.id.backend) {
                before.chains.insert((chain.id.family, role), chain.rules.clone());
            } else {
                kept.insert(chain.id.clone());
            }
            let mark = |rule: &Rule| match rule {
                Rule::Mark { port, mark } => Some(Marking { mark: *mark, port: *port }),
                Rule::Pass { .. }
                | Rule::Block { .. }
                | Rule::Drop { .. }
                | Rule::PassDevice { .. }
                | Rule::PassProtected { .. }
                | Rule::PassOutside { .. }
                | Rule::BlockTo { .. }
                | Rule::Other(_) => None,
            };
            before.marking = before.marking.or_else(|| chain.rules.iter().find_map(mark));
        }
        kept
    }
}
