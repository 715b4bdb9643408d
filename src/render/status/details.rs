//! All known facts about a peer, and SAs that the file does not want.

use std::{collections::BTreeMap, fmt::Write};

use super::{
    StatusView,
    text::{BOLD, count},
    wrap,
};
use crate::{
    model::{Direction, IPPROTO_ICMP, IPPROTO_ICMPV6, Selector},
    plan::Flow,
    verdict::{PeerState, Refused, SaEvidence, seconds_since},
};

pub(super) fn write_details(page: &mut String, view: &StatusView<'_>, peer: &PeerState) {
    let flow = match peer.flow {
        Flow::Protected(spi) => format!("encrypted under SPI {spi}"),
        Flow::Blocked => "blocked".into(),
        Flow::Clear => "in the clear".into(),
    };
    wrap::write_paragraph(page, 6, &format!("{}: packets to it are {flow}", peer.address));
    for sa in &peer.sas {
        write_sa(page, view, sa);
    }
}

fn write_sa(page: &mut String, view: &StatusView<'_>, sa: &SaEvidence) {
    let direction = sa.direction.map(|direction| direction.to_string()).unwrap_or_default();
    let mut line = format!("{direction:<3} generation {} SPI {}", sa.generation, sa.id.spi);
    if !sa.wanted {
        line.push_str(", not wanted by the file");
    }
    let usage = &sa.usage;
    let _ = write!(
        line,
        ": {}, {} bytes, sequence number {}",
        count(usage.packets as usize, "packet", "packets"),
        usage.bytes,
        sa.number()
    );
    if let Some(percent) = sa.used_percent().filter(|percent| *percent > 0) {
        let _ = write!(line, " ({percent} % of all)");
    }
    let _ = write!(line, ", {}", used(view, &[sa]));
    let refusals = Refused {
        too_old: usage.too_old.into(),
        replayed: usage.replayed.into(),
        forged: usage.forged.into(),
    };
    if refusals.total() > 0 {
        let _ = write!(line, ", {}", refused(refusals));
    }
    page.push_str("      ");
    wrap::write_wrapped(page, 6, 10, &line);
}

/// The numbers of refused packets, by reason.
pub(super) fn refused(refused: Refused) -> String {
    let causes = [
        (refused.forged, "under another key"),
        (refused.replayed, "replayed"),
        (refused.too_old, "too old"),
    ];
    let causes = causes.into_iter().filter(|(number, _)| *number > 0);
    let causes: Vec<String> = causes.map(|(number, cause)| format!("{number} {cause}")).collect();
    format!("refused {}", causes.join(", "))
}

/// The packets of a selector; without addresses, except one that is not the peer's. Those to a network
/// are named by it.
pub(super) fn kind_of_packets(view: &StatusView<'_>, selector: &Selector) -> String {
    if view.case.desired.networks.contains_key(&selector.dst) {
        return format!("to {}", selector.dst);
    }
    let text = selector.to_string();
    let kind = text.split_once(" proto ").map_or("all", |(_, kind)| kind);
    let kind = match selector.proto {
        IPPROTO_ICMP | IPPROTO_ICMPV6 => format!("ICMP errors ({kind})"),
        _ => kind.to_owned(),
    };
    let source = selector.src.address;
    if source == view.case.local.address { kind } else { format!("{kind} from {source}") }
}

/// SAs that the file does not want, by the far end.
pub(super) fn write_unwanted(page: &mut String, view: &StatusView<'_>) {
    let mut groups: BTreeMap<String, Vec<&SaEvidence>> = BTreeMap::new();
    for (peer, sa) in view.judged.sas().filter(|(_, sa)| !sa.wanted) {
        let whose = match peer {
            Some(peer) => peer.name.to_string(),
            None => far_end(sa),
        };
        groups.entry(whose).or_default().push(sa);
    }
    if groups.is_empty() {
        return;
    }
    let _ = writeln!(page, "\n{BOLD}SAs not wanted by the file{BOLD:#}");
    for (whose, sas) in groups {
        wrap::write_paragraph(page, 2, &format!("{whose}: {}", summary(view, &sas)));
        if view.details {
            sas.iter().for_each(|sa| write_sa(page, view, sa));
        }
    }
}

/// The host at the other end of an SA of no peer, according to its address and SPI.
fn far_end(sa: &SaEvidence) -> String {
    let (id, spi) = (sa.id, sa.id.spi);
    let (address, short_id) = match sa.direction {
        Some(Direction::In) => (sa.src, spi.from()),
        Some(Direction::Out | Direction::Fwd) | None => (id.dst, spi.to()),
    };
    format!("{address}, short_id {short_id}, of no peer of the file")
}

fn summary(view: &StatusView<'_>, sas: &[&SaEvidence]) -> String {
    let generations = sas.iter().map(|sa| sa.generation.get());
    let (first, last) = (generations.clone().min(), generations.max());
    let generations = match (first, last) {
        (Some(first), Some(last)) if first != last => format!("generations {first} to {last}"),
        (first, _) => format!("generation {}", first.unwrap_or(0)),
    };
    let used = used(view, sas);
    format!("{}, {generations}, {used}", count(sas.len(), "SA", "SAs"))
}

/// The time of the last use of SAs, which kernels before 6.2 do not tell.
fn used(view: &StatusView<'_>, sas: &[&SaEvidence]) -> String {
    match sas.iter().filter_map(|sa| sa.usage.last).max() {
        Some(last) => format!("used {} ago", wrap::duration(seconds_since(last, view.case.now))),
        None if sas.iter().any(|sa| sa.is_used()) => "used".into(),
        None => "not used".into(),
    }
}
