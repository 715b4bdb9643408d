//! The chains of meshes in iptables, as packets between two hosts meet them.

use std::collections::BTreeSet;

use meshsec::model::{Chain, Direction, Family, Jump, Reqid, Rule, Sa, State};

use super::{Packet, UDP, is_in};

/// The chains of a table that packets of one direction can get to.
pub(super) fn chains<'s>(
    state: &'s State,
    table: &str,
    direction: Direction,
    family: Family,
) -> Vec<&'s Chain> {
    let is_in = direction == Direction::In;
    let chains = state.firewall.chains.iter().filter(|chain| {
        let id = &chain.id;
        id.family == family
            && id.table == table
            && id.name.ends_with("-IN") == is_in
            && !["-POST", "-FORWARD"].iter().any(|end| id.name.ends_with(end))
    });
    chains.filter(|chain| !chain.jumps.is_empty()).collect()
}

/// The chains that packets get to behind all others, as they leave by their device.
pub(super) fn chains_behind_the_route(state: &State, family: Family) -> Vec<&Chain> {
    let chains = state.firewall.chains.iter().filter(|chain| {
        let id = &chain.id;
        id.family == family && id.table == "mangle" && id.name.ends_with("-POST")
    });
    chains.filter(|chain| !chain.jumps.is_empty()).collect()
}

pub(super) fn is_certain(chain: &Chain) -> bool {
    chain.jumps.contains(&Jump { conditions: None, behind: None })
}

/// All marks that a packet may leave the mangle table with.
pub fn marks(state: &State, packet: &Packet) -> BTreeSet<u32> {
    let chains = chains(state, "mangle", Direction::Out, packet.family());
    let mut all = BTreeSet::new();
    // Nobody knows which backend is asked first.
    for order in [chains.clone(), chains.into_iter().rev().collect()] {
        let mut marks = BTreeSet::from([packet.mark]);
        for chain in order {
            let after: Vec<u32> =
                marks.iter().flat_map(|mark| remarked(chain, packet, *mark)).collect();
            if is_certain(chain) {
                marks.clear();
            }
            marks.extend(after);
        }
        all.extend(marks);
    }
    all
}

/// The marks that a chain may make of a mark.
pub(super) fn remarked(chain: &Chain, packet: &Packet, mark: u32) -> BTreeSet<u32> {
    let mut marks = BTreeSet::from([mark]);
    let mut certain = true;
    for rule in &chain.rules {
        match rule {
            Rule::Mark { port, mark } if (packet.proto, packet.dport) == (UDP, *port) => {
                let after: Vec<u32> =
                    marks.iter().map(|before| (before & !mark.mask) ^ mark.value).collect();
                if certain {
                    marks.clear();
                }
                marks.extend(after);
            }
            Rule::Other(_) => certain = false,
            _ => {}
        }
    }
    marks
}

/// The possible fates of a packet in a table.
pub(super) struct Verdict {
    pub(super) passes: bool,
    pub(super) drops: bool,
}

/// The reqids that chains ask about.
pub(super) fn reqids(sas: &[&Sa]) -> Vec<Reqid> {
    sas.iter().map(|sa| sa.reqid).collect()
}

/// Whether an incoming packet may pass the tables, under SAs of these reqids.
pub(super) fn passes_chains(state: &State, packet: &Packet, reqids: &[Reqid]) -> bool {
    let passes = |table| verdict(state, table, packet, Direction::In, reqids).passes;
    passes("mangle") && passes("filter")
}

/// All chains of a table have to let a packet pass, whichever is asked first.
pub(super) fn verdict(
    state: &State,
    table: &str,
    packet: &Packet,
    direction: Direction,
    reqids: &[Reqid],
) -> Verdict {
    let chains = chains(state, table, direction, packet.family());
    verdict_of(state, chains, packet, direction, reqids)
}

pub(super) fn verdict_of(
    state: &State,
    chains: Vec<&Chain>,
    packet: &Packet,
    direction: Direction,
    reqids: &[Reqid],
) -> Verdict {
    let verdicts: Vec<Verdict> = chains
        .into_iter()
        .map(|chain| {
            let reached = walk(state, chain, packet, direction, reqids);
            Verdict { passes: reached.passes || !is_certain(chain), ..reached }
        })
        .collect();
    Verdict {
        passes: verdicts.iter().all(|verdict| verdict.passes),
        drops: verdicts.iter().any(|verdict| verdict.drops),
    }
}

/// The fate of a packet that gets to a chain (`xt_policy`: of the SAs that it came by, or is to go
/// by, one is enough). A rule of somebody else may take it past the rest.
pub(super) fn walk(
    state: &State,
    chain: &Chain,
    packet: &Packet,
    direction: Direction,
    reqids: &[Reqid],
) -> Verdict {
    let is_to = |port: u16| (packet.proto, packet.dport) == (UDP, port);
    // Either end of a packet on the loopback device is the host itself.
    let is_on_lo = [packet.src, packet.dst]
        .iter()
        .all(|end| end.is_loopback() || state.addresses.iter().any(|local| local.address == *end));
    let mut may_pass = false;
    for rule in &chain.rules {
        let drops = match rule {
            Rule::Other(_) => {
                may_pass = true;
                false
            }
            Rule::Pass { port, direction: of, reqid } => {
                if *of == direction && is_to(*port) && !is_on_lo && reqids.contains(reqid) {
                    break;
                }
                false
            }
            Rule::Block { port, direction: of } => *of == direction && is_to(*port) && !is_on_lo,
            Rule::Drop { port, direction: of } => {
                *of == direction && is_to(*port) && reqids.is_empty()
            }
            Rule::Mark { .. } => false,
            // No packet of two hosts leaves by the interface of a mesh's networks.
            Rule::PassDevice { .. } => false,
            Rule::PassProtected { reqid } => {
                if reqids.contains(reqid) {
                    break;
                }
                false
            }
            Rule::PassOutside { network } => {
                if !is_in(*network, packet.dst) {
                    break;
                }
                false
            }
            Rule::BlockTo { network } => is_in(*network, packet.dst) && !is_on_lo,
        };
        if drops {
            return Verdict { passes: may_pass, drops: true };
        }
    }
    Verdict { passes: true, drops: false }
}
