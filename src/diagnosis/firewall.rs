//! Rules of firewalls on this host that drop packets of the mesh.

use super::{Facts, Finding, Outcome, list};
use crate::{
    model::{CheckCode, Direction, DropRule, ForeignChain, PacketKind, PeerName},
    verdict::Came,
};

const CODE: CheckCode = CheckCode::Firewall;

pub(super) fn findings(facts: &Facts<'_>) -> Vec<Finding> {
    let filters = &facts.examination.filters;
    let mut found: Vec<Finding> =
        filters.drops.iter().filter_map(|drop| dropped(facts, drop)).collect();
    if facts.local.is_none() || facts.mesh.is_none() {
        found.push(Finding::unknown(CODE, "the rules of firewalls were not looked at"));
        return found;
    }
    found.extend(filters.unread.iter().map(|why| {
        Finding::unknown(CODE, format!("a part of the firewall can't be read: {why}"))
            .remedy("run as root (sudo), or look with iptables-save and nft list ruleset")
    }));
    found.extend(foreign(&filters.foreign));
    found.push(Finding::ok(CODE, "no rule of iptables drops packets of the mesh"));
    found
}

/// A rule that only may drop them, or lets answers pass, counts where a peer is not heard.
fn dropped(facts: &Facts<'_>, drop: &DropRule) -> Option<Finding> {
    let names = drop.peers.iter().filter_map(|address| facts.name_of(*address));
    let names: Vec<PeerName> = names.cloned().collect();
    let mut concerned =
        facts.peers().iter().filter(|peer| names.is_empty() || names.contains(&peer.name));
    let is_told = match (drop.is_certain, drop.spares_answers) {
        (true, false) => true,
        (true, true) => concerned.any(|peer| peer.came != Came::Heard),
        (false, _) => concerned.any(|peer| matches!(peer.came, Came::Never | Came::Silent)),
    };
    if !is_told {
        return None;
    }
    let drops = if drop.is_certain { "drops" } else { "may drop" };
    let answers = match drop.spares_answers {
        true => ", unless they answer packets of this host",
        false => "",
    };
    let whose = match (names.as_slice(), drop.direction) {
        ([], _) => String::new(),
        (names, Direction::Out) => format!(" to {}", list(names)),
        (names, Direction::In | Direction::Fwd) => format!(" from {}", list(names)),
    };
    let text = format!("`{}` {drops} {}{whose}{answers}", drop.rule, packets(facts, drop));
    let remedy = format!("accept them ahead of it, such as by {}", accept(facts, drop));
    let finding = Finding::attention(CODE, text).remedy(remedy).about(names);
    Some(if drop.is_certain { finding.cause() } else { finding })
}

fn packets(facts: &Facts<'_>, drop: &DropRule) -> String {
    let goes = match drop.direction {
        Direction::Out => "leave",
        Direction::In | Direction::Fwd => "come in",
    };
    match (drop.kind, drop.direction) {
        (PacketKind::Esp, _) => format!("packets of ESP (IP protocol 50) that {goes}"),
        (PacketKind::EspInUdp, _) => format!("UDP datagrams with ESP that {goes}"),
        (PacketKind::Inside, Direction::Out) => {
            format!("packets of {} before they are encrypted", traffic(facts))
        }
        (PacketKind::Inside, Direction::In | Direction::Fwd) => {
            format!("packets of {} after they were decrypted", traffic(facts))
        }
    }
}

fn traffic(facts: &Facts<'_>) -> String {
    match facts.config.traffic.device() {
        Some((kind, port)) => format!("{} (UDP port {port})", kind.word()),
        None => "the mesh".into(),
    }
}

/// The rule that would let them pass.
fn accept(facts: &Facts<'_>, drop: &DropRule) -> String {
    let chain = if drop.direction == Direction::Out { "OUTPUT" } else { "INPUT" };
    let is_ipv4 = facts.local.is_none_or(|local| local.address.is_ipv4());
    let program = if is_ipv4 { "iptables" } else { "ip6tables" };
    let packets = match (drop.kind, facts.config.traffic.device()) {
        (PacketKind::Esp, _) => "-p esp".into(),
        (PacketKind::EspInUdp, _) => {
            let port = facts.config.esp.encap.map_or(4500, |encap| encap.port);
            format!("-p udp --dport {port}")
        }
        (PacketKind::Inside, Some((_, port))) => {
            let direction = if drop.direction == Direction::Out { "out" } else { "in" };
            format!("-p udp --dport {port} -m policy --dir {direction} --pol ipsec")
        }
        (PacketKind::Inside, None) => "-m policy --dir in --pol ipsec".into(),
    };
    format!("{program} -I {chain} {packets} -j ACCEPT")
}

/// Chains with rules that nobody here reads.
fn foreign(chains: &[ForeignChain]) -> Option<Finding> {
    let first = chains.first()?;
    let shown = list(chains.iter().map(|chain| {
        let drops = if chain.drops { " (policy drop)" } else { "" };
        format!("{} {}{drops}", chain.table, chain.chain)
    }));
    let text = format!(
        "rules of nf_tables that are not iptables' are not read, and may drop ESP (IP protocol 50) or \
         the packets in it: {shown}"
    );
    let remedy = format!("read them with nft list chain {} {}", first.table, first.chain);
    Some(Finding::new(CODE, Outcome::Unknown, text).remedy(remedy))
}
