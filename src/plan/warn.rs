//! Warnings for the operator before a plan is applied.

use std::{collections::BTreeSet, net::IpAddr};

use super::{
    bypass, chain,
    change::{Change, Operation},
    encap, exception,
    firewall::{self, Lack},
    flush, layout, link, nat, networks,
    policy::PolicyChange,
    ports,
    reach::Reach,
    route,
    sa::SaChange,
    stage, tunnel, uncovered,
};
use crate::{
    desired::Desired,
    model::{
        Action, Direction, Family, IPPROTO_TCP, Live, PEER_PRIORITY, Passage, PeerName, Policy,
        PolicyId, PortMatch, ReasonCode, Reqid, Rule, Selector, Spi, Usage, Warning, WarningCode,
    },
};

/// The port of sshd, unless the operator says otherwise.
const SSH_PORT: u16 = 22;
/// The number of names that a line lists before it counts the rest.
const NAMES_SHOWN: usize = 8;
/// A step back by one generation, as SPIs tell it.
const LAST_OF_CYCLE: u8 = Spi::CYCLE - 1;

/// One line for each fact, however many peers it is true of.
pub(super) fn warnings(
    desired: &Desired,
    live: &Live,
    reqid: Reqid,
    changes: &[Change],
    lacks: &[Lack],
    unseen: Vec<Warning>,
) -> Vec<Warning> {
    let mut lines = Vec::new();
    lines.extend(flush::warnings(desired, live, reqid));
    lines.extend(keys_hidden(super::hidden_keys(desired, live)));
    lines.extend(unpaired(desired));
    lines.extend(not_paired(desired));
    let other_layout = layout::cut(live, reqid, changes);
    lines.extend(large_step(changes, &other_layout));
    lines.extend(other_short_ids(changes));
    lines.extend(layout_changes(&other_layout));
    lines.extend(behind_the_window(desired, changes, &other_layout));
    lines.extend(replaced(changes, &other_layout));
    lines.extend(closed(desired, changes));
    lines.extend(uncovered::left_in_clear(desired, changes));
    lines.extend(ports::removed(desired, changes));
    lines.extend(stage::warnings(desired, live, reqid));
    lines.extend(exception::warnings(desired, changes));
    lines.extend(other_addresses(desired, live));
    lines.extend(outranked(desired, live, reqid));
    lines.extend(dropped(desired, live, reqid));
    lines.extend(bypass::warnings(desired, live));
    lines.extend(route::warnings(desired, live));
    lines.extend(ahead_of_the_clock(desired, live));
    lines.extend(nearly_spent(desired, live));
    lines.extend(encap::warnings(desired, live, reqid));
    lines.extend(link::warnings(desired, live));
    lines.extend(networks::warnings(desired, live, reqid));
    lines.extend(tunnel::warnings(desired, live));
    lines.extend(nat::warnings(desired, live));
    lines.extend(no_such_offload(desired, live));
    lines.extend(firewall::blocked_on_the_way(changes));
    lines.extend(firewall::mark_users(desired, live, reqid));
    lines.extend(firewall::both_backends(desired, live));
    lines.extend(firewall::missing(lacks, desired, live));
    lines.extend(firewall::behind(desired, live, reqid));
    lines.extend(unseen);
    lines
}

/// In lockdown=confidentiality the kernel shows zeros in place of keys.
fn keys_hidden(keys: usize) -> Option<Warning> {
    (keys > 0).then(|| {
        let text = format!(
            "the kernel hides the keys of SAs (lockdown), and {keys} could not be compared: if the \
             secret was replaced, the old keys stay in use, and raising the generation by one cuts \
             the mesh; after a secret is replaced, raise the generation by two on all hosts, or run \
             destroy and apply on all"
        );
        Warning::new(WarningCode::KeysHidden, text)
    })
}

/// The fate of traffic with hosts that are not pairs.
fn fate_without_a_pair(desired: &Desired) -> &'static str {
    match desired.is_guarded() {
        false => "is not protected",
        true => "is blocked by the guard",
    }
}

/// Peers that `pairs` leaves out.
fn not_paired(desired: &Desired) -> Option<Warning> {
    let peers: BTreeSet<&PeerName> = desired.not_paired.values().collect();
    (!peers.is_empty()).then(|| {
        let (names, fate) = (names(&peers), fate_without_a_pair(desired));
        let text =
            format!("pairs in [mesh] gives this host no pair with {names}: their traffic {fate}");
        Warning::new(WarningCode::NotPaired, text)
    })
}

fn unpaired(desired: &Desired) -> Option<Warning> {
    let peers: BTreeSet<&PeerName> = desired.unpaired.iter().collect();
    (!peers.is_empty()).then(|| {
        let fate = fate_without_a_pair(desired);
        let text = format!(
            "no pair with {}: the address is of the other family, IPv4 or IPv6, so traffic with it \
             {fate}; hosts that need both families need two files: see DUAL STACK in meshsec-traffic(7)",
            names(&peers)
        );
        Warning::new(WarningCode::NoPair, text)
    })
}

/// A raise by more than one: the peer has no SA of the new generation yet. SPIs of another layout
/// tell no step.
fn large_step(changes: &[Change], other_layout: &BTreeSet<&PeerName>) -> Option<Warning> {
    let mut steps = BTreeSet::new();
    let mut peers = BTreeSet::new();
    let switched = changes.iter().filter_map(switched);
    for (old, new, peer) in switched.filter(|(_, _, peer)| !other_layout.contains(peer)) {
        if !matches!(steps_ahead(old, new), 0 | 1 | LAST_OF_CYCLE) {
            steps.insert((old.generation_low(), new.generation_low()));
            peers.insert(peer);
        }
    }
    (!peers.is_empty()).then(|| {
        let (old, new) = steps.first().expect("there is a step for every peer");
        let text = format!(
            "the generation moves by more than one (from {old} to {new} modulo 32): traffic with \
             {} is cut until they have applied it too; only g to g+1 or g-1 is lossless",
            names(&peers)
        );
        Warning::new(WarningCode::GenerationJump, text)
    })
}

/// The number of generations from one SPI to another, modulo 32.
fn steps_ahead(old: Spi, new: Spi) -> u8 {
    (Spi::CYCLE + new.generation_low() - old.generation_low()) % Spi::CYCLE
}

/// A policy that is to ask for an SPI other than now, and both SPIs.
fn switched(change: &Change) -> Option<(Spi, Spi, &PeerName)> {
    let spi = |policy: &Policy| policy.templates.first().map(|template| template.spi);
    let Operation::Policy(PolicyChange::Update { live, wanted }) = &change.operation else {
        return None;
    };
    let (old, new) = (spi(live)?, spi(wanted)?);
    (old.raw() != 0 && new.raw() != 0 && old != new).then_some((old, new, change.peer.as_ref()?))
}

/// An SPI with other ShortIDs: the peer has no SA of it yet.
fn other_short_ids(changes: &[Change]) -> Option<Warning> {
    let peers: BTreeSet<&PeerName> = changes
        .iter()
        .filter_map(switched)
        .filter(|(old, new, _)| (old.from(), old.to()) != (new.from(), new.to()))
        .map(|(_, _, peer)| peer)
        .collect();
    (!peers.is_empty()).then(|| {
        let text = format!(
            "a ShortID changes: traffic with {} is cut until they have applied it too",
            names(&peers)
        );
        Warning::new(WarningCode::ShortIdChanges, text)
    })
}

/// SAs of version 0.1: the peer has no SA under the new SPI yet.
fn layout_changes(peers: &BTreeSet<&PeerName>) -> Option<Warning> {
    (!peers.is_empty()).then(|| {
        let text = format!(
            "SPIs of version 0.1 get the layout of today: traffic between this host and {} is \
             blocked, and not in the clear, from the first apply of the two to the second",
            names(peers)
        );
        Warning::new(WarningCode::SpiLayoutChanges, text)
    })
}

/// Without a clock a new outbound SA begins at 0. If its generation was in use before, the peer's
/// window stands at the end of that SA.
fn behind_the_window(
    desired: &Desired,
    changes: &[Change],
    other_layout: &BTreeSet<&PeerName>,
) -> Option<Warning> {
    let has_window =
        desired.clock.is_none() && desired.sas.values().any(|sa| sa.sa.replay.window > 0);
    let goes_back = |(old, new, peer): &(Spi, Spi, &PeerName)| {
        steps_ahead(*old, *new) == LAST_OF_CYCLE && !other_layout.contains(peer)
    };
    let peers: BTreeSet<&PeerName> = changes
        .iter()
        .filter_map(switched)
        .filter(|switch| has_window && goes_back(switch))
        .map(|(_, _, peer)| peer)
        .collect();
    (!peers.is_empty()).then(|| {
        let text = format!(
            "the generation goes back, and with a replay window packets to {} are refused as old \
             if it was in use before; raise it by two instead, on all hosts",
            names(&peers)
        );
        Warning::new(WarningCode::GenerationGoesBack, text)
    })
}

/// SAs that are replaced where they stand: the other end must follow. Where a layout changes, another
/// warning says so.
fn replaced(changes: &[Change], other_layout: &BTreeSet<&PeerName>) -> Option<Warning> {
    let peers: BTreeSet<&PeerName> = changes
        .iter()
        .filter(|change| {
            matches!(&change.operation, Operation::Sa(SaChange::Replace { live: Some(sa), .. }) if !sa.is_larval())
        })
        .filter_map(|change| change.peer.as_ref())
        .filter(|peer| !other_layout.contains(peer))
        .collect();
    (!peers.is_empty()).then(|| {
        let moves = changes.iter().any(|change| change.reason.code == ReasonCode::Encap);
        let until = match moves {
            true => "agree on ESP in UDP, by this file",
            false => "hold the same keys",
        };
        let text = format!(
            "SAs with {} are deleted and made anew under the same SPI: packets are dropped, never \
             sent in the clear, until both ends {until}",
            names(&peers)
        );
        Warning::new(WarningCode::SasReplaced, text)
    })
}

/// The policy that closes traffic, if a change makes one.
fn closes(change: &Change) -> Option<&Policy> {
    let PolicyChange::Create(policy) = change.of_policy()? else { return None };
    let stops_traffic = policy.id.direction != Direction::Fwd && !policy.is_for_icmp_errors();
    stops_traffic.then_some(policy)
}

/// Traffic that was in the clear until now, and waits for the other end. Policies for forwarded
/// packets or for ICMP errors stop no traffic that flows already.
fn closed(desired: &Desired, changes: &[Change]) -> Option<Warning> {
    let closing = changes.iter().filter_map(|change| {
        let peer = change.peer.as_ref().filter(|peer| desired.stage(peer).enforces())?;
        Some((peer, closes(change)?))
    });
    let (peers, policies): (BTreeSet<&PeerName>, Vec<&Policy>) = closing.unzip();
    (desired.guards.is_empty() && !peers.is_empty()).then(|| {
        let names = names(&peers);
        let is_excepted = desired.passages.values().any(excepts_ssh);
        let has_ssh = !is_excepted && policies.iter().any(|policy| covers_ssh(&policy.id.selector));
        let ports = ports::named(desired, policies.into_iter());
        let by_stages = ports.as_ref().map(|_| format!("; {}", stage::BY_STAGES));
        let stops = match (ports, has_ssh) {
            (Some(ports), false) => format!("traffic of {ports}"),
            (Some(ports), true) => format!("traffic of {ports} (ssh too)"),
            (None, _) if !desired.exceptions.is_empty() => {
                let ssh = if has_ssh { " (ssh too)" } else { "" };
                format!("all traffic but the exceptions{ssh}")
            }
            (None, false) => "traffic".into(),
            (None, true) => "all traffic (ssh too)".into(),
        };
        let by_stages = by_stages.unwrap_or_default();
        let advice = if has_ssh {
            "An ssh between two hosts of the mesh hangs from the first apply to the second, and \
             goes on: apply on all others first, and last on the host from which you reach them"
        } else {
            "Where your own ssh is a part of it, apply on the far host first, then here"
        };
        let text = format!(
            "{stops} with {names} that flowed in the clear stops here, and flows again, encrypted, \
             when they have applied too; open connections survive that. {advice}{by_stages}"
        );
        Warning::new(WarningCode::ClearTextStops, text)
    })
}

/// Other addresses of this host, where policies are for one address and nothing guards the rest. A
/// program chooses its address by bind, or a route does.
fn other_addresses(desired: &Desired, live: &Live) -> Option<Warning> {
    let local = desired.local?;
    let is_any = desired.protects_any_source();
    if is_any || desired.is_guarded() || desired.policies.is_empty() || desired.goal.is_before() {
        return None;
    }
    let stays_here = |address: IpAddr| match address {
        IpAddr::V4(address) => address.is_loopback() || address.is_link_local(),
        IpAddr::V6(address) => address.is_loopback() || address.is_unicast_link_local(),
    };
    let addresses = live.0.addresses.iter().map(|at| at.address);
    let others: BTreeSet<IpAddr> = addresses
        .filter(|address| address.is_ipv4() == local.is_ipv4())
        .filter(|address| *address != local && !stays_here(*address))
        .collect();
    let shown: Vec<String> = others.iter().map(ToString::to_string).collect();
    (!others.is_empty()).then(|| {
        let text = format!(
            "packets to a peer from another address than {local} are not protected, and this host \
             also has {}: bind programs to {local}, or give the routes to peers src {local}",
            list(&shown)
        );
        Warning::new(WarningCode::OtherAddresses, text)
    })
}

/// A device of `[esp] offload` that isn't there: no SA can be added.
fn no_such_offload(desired: &Desired, live: &Live) -> Option<Warning> {
    let mut offloads = desired.sas.values().filter_map(|wanted| wanted.sa.offload.as_ref());
    let device = &offloads.next()?.device;
    (!live.0.links.is_empty() && live.0.link(device).is_none()).then(|| {
        let text = format!(
            "this host has no device {device}, which [esp] offload names, so no SA can be added: \
             name another device, or leave offload out"
        );
        Warning::new(WarningCode::OffloadDeviceMissing, text)
    })
}

/// Whether ssh between two peers is a part of the packets that a selector is for.
fn covers_ssh(selector: &Selector) -> bool {
    let hosts = Selector::between(selector.src, selector.dst);
    selector.covers(&hosts.to_port(IPPROTO_TCP, SSH_PORT))
}

/// Whether a policy lets packets of ssh pass, of the server or of the client.
fn excepts_ssh(policy: &Policy) -> bool {
    let Selector { proto, sport, dport, .. } = policy.id.selector;
    let ssh = PortMatch::exactly(SSH_PORT);
    policy.passage() == Some(Passage::Exception)
        && proto == IPPROTO_TCP
        && (sport == ssh || dport == ssh)
}

/// The distance above its seed from which an SA sends so fast that its host would begin below its
/// own numbers if it restarted now.
const AHEAD: u64 = 1 << 20;

/// Without ESN the kernel stops an SA at 2^32 (`xfrm_replay_overflow`).
fn nearly_spent(desired: &Desired, live: &Live) -> Option<Warning> {
    let percent = |usage: &Usage| usage.sent.saturating_mul(100) >> 32;
    let mut peers = BTreeSet::new();
    let mut most = 0;
    for usage in &live.0.usage {
        let Some(wanted) = desired.sas.get(&usage.id) else { continue };
        let counts = wanted.direction == Direction::Out && !wanted.sa.replay.esn;
        if counts && percent(usage) >= 50 {
            peers.insert(&wanted.peer);
            most = most.max(percent(usage));
        }
    }
    (!peers.is_empty()).then(|| {
        let how_soon = if most >= 75 { "now" } else { "soon" };
        let text = format!(
            "{most} % of the sequence numbers to {} are used; at 100 % traffic is blocked: raise \
             the generation {how_soon} (meshsec rotate)",
            names(&peers)
        );
        Warning::new(WarningCode::NumbersNearlySpent, text)
    })
}

fn ahead_of_the_clock(desired: &Desired, live: &Live) -> Option<Warning> {
    let clock = desired.clock?;
    let ahead = |usage: &&Usage| {
        let wanted = desired.sas.get(&usage.id).filter(|sa| sa.direction == Direction::Out);
        let seed = wanted.and_then(|wanted| clock.period.seed(wanted.generation, clock.now));
        seed.is_some_and(|seed| usage.sent > seed + AHEAD)
    };
    let peers: BTreeSet<&PeerName> = live
        .0
        .usage
        .iter()
        .filter(ahead)
        .filter_map(|usage| desired.sas.get(&usage.id).map(|wanted| &wanted.peer))
        .collect();
    (!peers.is_empty()).then(|| {
        let text = format!(
            "more packets go to {} than the {} per second that a period of {} allows: if this \
             host restarted now, the others would refuse its packets as old; choose a shorter period",
            names(&peers),
            (1u64 << 31) / clock.period.seconds(),
            clock.period,
        );
        Warning::new(WarningCode::TooManyPackets, text)
    })
}

/// Whether rules of iptables drop packets that a foreign policy protects: they let those pass that
/// SAs of the mesh protect, and no others.
fn is_dropped(desired: &Desired, live: &Live, policy: &Policy) -> bool {
    let PolicyId { direction, selector, .. } = &policy.id;
    let family = Family::of(selector);
    let guarding = desired
        .chains
        .iter()
        .filter(|((of, role), _)| *of == family && role.guards() == Some(*direction));
    let ports = guarding.clone().flat_map(|(_, rules)| rules.iter().filter_map(Rule::guarded));
    let drops = || {
        let to_ports = chain::to_ports(family, ports.map(|(port, _)| port));
        let networks = guarding.clone().flat_map(|(_, rules)| chain::guarded_networks(rules));
        to_ports
            .into_iter()
            .chain(networks.map(Selector::to_network))
            .any(|all| all.overlaps(selector))
    };
    policy.action == Action::Allow
        && firewall::are_wanted(desired, &live.0.firewall, family, *direction)
        && drops()
}

/// The rules that drop it, and how to have both.
fn remedy_of_dropping_rules(desired: &Desired) -> &'static str {
    match desired.marking {
        None if !desired.networks.is_empty() => {
            "the rules of the second guard drop what it protects to networks of peers: leave these \
             networks out of one of the two"
        }
        None => {
            "the rules of the second guard drop what it protects: give one of the two another \
             port, or write guard = \"xfrm\" in [traffic], which is without these rules"
        }
        Some(_) => {
            "the chains of the mesh drop what it protects, as no SA of the mesh does: give one of \
             the two another port"
        }
    }
}

/// Foreign policies for hosts that are not peers, such as those of another mesh on the same port:
/// they come before the policies that guard, and packets that they protect would pass, if rules of
/// iptables did not drop them.
fn dropped(desired: &Desired, live: &Live, reqid: Reqid) -> Vec<Warning> {
    let reach = Reach::without_icmp_errors(desired);
    let is_told =
        |policy: &Policy| policy.priority <= PEER_PRIORITY && !reach.met_by(&policy.id).is_empty();
    let foreign = live.0.policies.iter().filter(|policy| {
        !policy.belongs_to(reqid)
            && policy.priority <= reqid.0
            && policy.id.if_id == 0
            && !policy.lets_clear_text_pass()
            && is_dropped(desired, live, policy)
            && !desired.policies.contains_key(&policy.id)
            && !is_told(policy)
    });
    let lines = foreign.map(|policy| {
        let Policy { id, priority, .. } = policy;
        let text = format!(
            "the foreign policy {id} priority {priority} protects traffic of the mesh's kind; {}",
            remedy_of_dropping_rules(desired)
        );
        Warning::new(WarningCode::SecondGuardDrops, text)
    });
    capped(lines.collect(), WarningCode::SecondGuardDrops)
}

/// Foreign policies that come before ours without letting clear text pass.
fn outranked(desired: &Desired, live: &Live, reqid: Reqid) -> Vec<Warning> {
    let foreign = live.0.policies.iter().filter(|policy| {
        !policy.belongs_to(reqid)
            && policy.priority <= PEER_PRIORITY
            && policy.id.if_id == 0
            && !policy.lets_clear_text_pass()
    });
    let reach = Reach::without_icmp_errors(desired);
    let mut lines = Vec::new();
    let mut more = 0;
    // A policy with the identity of one of ours is a conflict.
    for policy in foreign.filter(|policy| !desired.policies.contains_key(&policy.id)) {
        let peers = reach.met_by(&policy.id);
        if lines.len() >= NAMES_SHOWN {
            more += usize::from(!peers.is_empty());
        } else if !peers.is_empty() {
            let does = match policy.action {
                Action::Block => "blocks",
                Action::Allow => "transforms in its own way",
            };
            let marked = match policy.id.mark.is_none() {
                true => String::new(),
                false => format!(", of packets with mark {} alone", policy.id.mark),
            };
            let text = format!(
                "the foreign policy {} priority {} outranks those of the mesh and {does} traffic with \
                 {}{marked}{}; unless that is meant, delete it or raise its priority number above \
                 {PEER_PRIORITY}",
                policy.id,
                policy.priority,
                peers.listed(),
                match is_dropped(desired, live, policy) {
                    true => format!("; {}", remedy_of_dropping_rules(desired)),
                    false => String::new(),
                }
            );
            lines.push(Warning::new(WarningCode::Outranked, text));
        }
    }
    if more > 0 {
        let text = format!(
            "{more} more foreign policies outrank those of the mesh and block or transform traffic: meshsec \
             show --all lists them"
        );
        lines.push(Warning::new(WarningCode::Outranked, text));
    }
    lines
}

/// A list of peers.
pub(super) fn names(peers: &BTreeSet<&PeerName>) -> String {
    list(&peers.iter().map(ToString::to_string).collect::<Vec<_>>())
}

/// The first lines, and how many more there are.
pub(super) fn capped(mut lines: Vec<Warning>, code: WarningCode) -> Vec<Warning> {
    let more = lines.len().saturating_sub(NAMES_SHOWN);
    if more > 1 {
        lines.truncate(NAMES_SHOWN);
        lines.push(Warning::new(code, format!("the same is true of {more} more")));
    }
    lines
}

/// The first of several, and how many more there are.
pub fn list(items: &[String]) -> String {
    let shown = items.iter().take(NAMES_SHOWN).cloned().collect::<Vec<_>>().join(", ");
    match items.len().saturating_sub(NAMES_SHOWN) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}
