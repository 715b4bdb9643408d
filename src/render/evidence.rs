//! Evidence on the wire, for people: a row for each peer, and a paragraph for each reason.

use std::{collections::BTreeSet, fmt::Write, path::Path};

use anstyle::Style;

use super::{
    Plain, generation,
    status::wrap::write_paragraph,
    text::{YELLOW, traffic},
};
use crate::{
    config::{Config, Moment, Peer},
    model::Time,
    verdict::proof::{
        Account, Finding, GuardProof, PeerProof, Proof,
        compare::{Comparison, DirectionProof},
    },
};

const BOLD: Style = Style::new().bold();
/// The number of peers that a reason names before it counts the rest.
const NAMES_SHOWN: usize = 8;

/// Facts of the host that are no part of the mesh.
#[derive(Debug, Clone)]
pub struct HostFacts {
    /// Its name.
    pub name: String,
    /// The kernel's release.
    pub kernel: String,
    /// SHA-256 of mesh.toml.
    pub file: String,
    /// The files that it includes, and their SHA-256.
    pub included: Vec<(String, String)>,
}

/// The evidence with its context.
pub struct EvidenceView<'a> {
    /// The host.
    pub host: HostFacts,
    /// The file.
    pub config: &'a Config,
    /// The generation.
    pub moment: Moment,
    /// The local peer.
    pub local: &'a Peer,
    /// When it was taken.
    pub taken: Time,
    /// The capture.
    pub account: Account,
    /// The devices that packets to peers leave by.
    pub devices: BTreeSet<String>,
    /// The peers, by name.
    pub peers: Vec<PeerProof<'a>>,
    /// The packet that has to be blocked, if there was one.
    pub guard: Option<&'a GuardProof>,
    /// Whether the file wants a guard on this host.
    pub wants_guard: bool,
    /// The packets that the file lets pass, in words.
    pub exceptions: Vec<String>,
}

impl EvidenceView<'_> {
    /// Whether all of it is proven: there is a peer, and no verdict that is not the wanted one.
    pub fn is_proven(&self) -> bool {
        !self.peers.is_empty()
            && self.peers.iter().all(|peer| peer.proof == Proof::Encrypted)
            && self.guard.is_none_or(GuardProof::is_proven)
    }

    fn count(&self, proof: Proof) -> usize {
        self.peers.iter().filter(|peer| peer.proof == proof).count()
    }
}

/// The whole page.
pub fn evidence_text(view: &EvidenceView<'_>) -> String {
    let mut page = headline(view);
    page.push_str(&table(view));
    for (reason, peers) in reasons(view) {
        let shown: Vec<&str> = peers.iter().take(NAMES_SHOWN).copied().collect();
        let names = match peers.len().saturating_sub(NAMES_SHOWN) {
            0 => shown.join(", "),
            more => format!("{} and {more} more", shown.join(", ")),
        };
        write_paragraph(&mut page, 0, &Plain(format!("{names}: {reason}")).to_string());
    }
    page.push('\n');
    for note in notes(view) {
        write_paragraph(&mut page, 0, &Plain(note).to_string());
    }
    write_paragraph(&mut page, 0, &last_line(view));
    page
}

/// The reasons why peers are not proven, each with its peers.
fn reasons<'a>(view: &'a EvidenceView<'_>) -> Vec<(String, Vec<&'a str>)> {
    let mut reasons = Vec::<(String, Vec<&str>)>::new();
    for peer in &view.peers {
        for finding in &peer.findings {
            let (reason, name) = (of_finding(finding), peer.pair.name.as_str());
            match reasons.iter_mut().find(|(known, _)| *known == reason) {
                Some((_, peers)) => peers.push(name),
                None => reasons.push((reason, vec![name])),
            }
        }
    }
    reasons
}

fn headline(view: &EvidenceView<'_>) -> String {
    let EvidenceView { host, config, moment, local, taken, account, .. } = view;
    let mut page = format!("{BOLD}Mesh {}, host {}{BOLD:#}\n", config.mesh, local.name);
    let devices: Vec<&str> = view.devices.iter().map(String::as_str).collect();
    let devices = if devices.is_empty() { "no device".into() } else { devices.join(", ") };
    let facts = [
        format!("{}, {}, {} UTC", traffic(config), generation(*moment), taken.utc()),
        format!("file SHA-256 {}", host.file),
        format!("{}, Linux {}, meshsec {}", host.name, host.kernel, env!("CARGO_PKG_VERSION")),
        format!(
            "packets to peers leave by {devices}; captured {}, lost {}",
            number(account.packets),
            account.lost
        ),
    ];
    for fact in facts {
        write_paragraph(&mut page, 0, &Plain(fact).to_string());
    }
    page.push('\n');
    page
}

const TITLES: [&str; 7] = ["PEER", "VERDICT", "SPI", "PROBES", "SEQUENCE", "CLEAR", "IN"];

fn table(view: &EvidenceView<'_>) -> String {
    let rows: Vec<[String; 7]> = view.peers.iter().map(row).collect();
    let titles = TITLES.map(String::from);
    let all = || std::iter::once(&titles).chain(&rows);
    let widths: Vec<usize> = (0..TITLES.len())
        .map(|column| all().map(|row| row[column].len()).max().unwrap_or_default())
        .collect();
    let mut page = String::new();
    for (number, row) in all().enumerate() {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}"));
        let line = cells.collect::<Vec<_>>().join("  ");
        let line = line.trim_end();
        let proof = number.checked_sub(1).and_then(|peer| view.peers.get(peer));
        let _ = match proof.map(|peer| peer.proof) {
            None => writeln!(page, "{BOLD}{line}{BOLD:#}"),
            Some(Proof::Encrypted) => writeln!(page, "{line}"),
            Some(_) => writeln!(page, "{YELLOW}{line}{YELLOW:#}"),
        };
    }
    page
}

fn row(peer: &PeerProof<'_>) -> [String; 7] {
    let PeerProof { pair, sent, seen, .. } = peer;
    let refused: u32 = sent.refused.values().sum();
    let sequence = match (seen.headers.first(), seen.last) {
        (Some(first), Some(last)) if seen.esp > 1 => {
            format!("{}-{}", first.sequence, last.sequence)
        }
        (Some(first), _) => first.sequence.to_string(),
        (None, _) => "-".into(),
    };
    let clear = match seen.marked + seen.clear {
        0 => "none".into(),
        packets => number(packets),
    };
    [
        pair.name.to_string(),
        peer.proof.text().into(),
        pair.out.as_ref().map_or("-".into(), |out| out.spi.to_string()),
        format!("{} of {} seen", peer.matched, sent.taken + refused),
        sequence,
        clear,
        seen.came.to_string(),
    ]
}

fn number(packets: u64) -> String {
    if packets == 1 { "1 packet".into() } else { format!("{packets} packets") }
}

/// The words for a reason, behind the name of its peer.
pub(super) fn of_finding(finding: &Finding) -> String {
    match finding {
        Finding::MarkerRead { packets, devices } => {
            let devices: Vec<&str> = devices.iter().map(String::as_str).collect();
            let packets = number(*packets);
            format!("the probe could be read in {packets} that left by {}", devices.join(", "))
        }
        Finding::KindRead { packets, first } => {
            let packets = number(*packets);
            format!("{packets} of the kind left unencrypted beside the probes, the first: {first}")
        }
        Finding::Refused(errors) => {
            let errors: Vec<&str> = errors.keys().map(String::as_str).collect();
            format!("the kernel refused to send ({}): meshsec status tells why", errors.join(", "))
        }
        Finding::NoRoute(errno) => format!("there is no route: {errno}"),
        Finding::NoDevice => "the device that packets leave by is not known".into(),
        Finding::Dropped => "the host dropped the probes, and another packet to the peer left: \
                             meshsec status tells why"
            .into(),
        Finding::Lost(packets) => format!(
            "the capture lost {}, so packets that were not seen may have left: run it again with less \
             traffic",
            number(*packets)
        ),
        Finding::Stray(packets) => {
            format!("a part of a probe could be read in {}, to some peer", number(*packets))
        }
        Finding::OtherSpi(spis) => {
            let spis: Vec<String> = spis.iter().take(4).map(ToString::to_string).collect();
            format!(
                "ESP left under SPI {}, which the file does not want: run meshsec plan",
                spis.join(", ")
            )
        }
        Finding::OtherForm => {
            "ESP left in another form or from another address than the file wants: \
                               plain in place of UDP, or the reverse"
                .into()
        }
        Finding::OtherSize => {
            "ESP left, and none of it has the size of a probe: it is other traffic".into()
        }
        Finding::Offloaded => "the device encrypts, behind the place of the capture: look at the \
                               wire from another host"
            .into(),
        Finding::Few { seen, sent } => format!("{seen} of {sent} probes were seen to leave"),
        Finding::Nothing => "nothing was seen to leave for it: is its address answered for on the \
                             link? run it again, with a longer --wait"
            .into(),
    }
}

/// The code of a reason in JSON.
pub(super) fn code(finding: &Finding) -> &'static str {
    match finding {
        Finding::MarkerRead { .. } => "marker_read",
        Finding::KindRead { .. } => "kind_read",
        Finding::Refused(_) => "refused",
        Finding::NoRoute(_) => "no_route",
        Finding::NoDevice => "no_device",
        Finding::Dropped => "dropped",
        Finding::Lost(_) => "lost",
        Finding::Stray(_) => "stray",
        Finding::OtherSpi(_) => "other_spi",
        Finding::OtherForm => "other_form",
        Finding::OtherSize => "other_size",
        Finding::Offloaded => "offloaded",
        Finding::Few { .. } => "few",
        Finding::Nothing => "nothing",
    }
}

/// Lines about everything but single peers.
fn notes(view: &EvidenceView<'_>) -> Vec<String> {
    let mut notes = Vec::new();
    match view.guard {
        Some(guard) => notes.push(of_guard(guard)),
        None if view.wants_guard => notes.push(
            "Guard: not tested, as no address for documentation has a route by these devices."
                .into(),
        ),
        None => {}
    }
    let takes_clear = view.peers.iter().filter(|peer| !peer.pair.stage.enforces());
    let names: Vec<&str> =
        takes_clear.take(NAMES_SHOWN).map(|peer| peer.pair.name.as_str()).collect();
    if !names.is_empty() {
        notes.push(format!(
            "Stage: packets in the clear are still taken in from {}, as the file asks.",
            names.join(", ")
        ));
    }
    if !view.exceptions.is_empty() {
        notes.push(format!(
            "Excepted: {} stays in the clear, as the file asks.",
            view.exceptions.join(", ")
        ));
    }
    notes
}

fn of_guard(guard: &GuardProof) -> String {
    let GuardProof { address, proof, refused } = guard;
    let what = format!("Guard: a packet of the kind to {address}, which is no peer's address,");
    match (proof, refused) {
        (Proof::Blocked, Some(errno)) => format!("{what} was refused ({errno})."),
        (Proof::Clear, _) => format!("{what} left in the clear."),
        (_, Some(errno)) => format!("{what} could not be sent ({errno}), which proves nothing."),
        (_, None) => {
            format!("{what} was not refused. It was not seen to leave, which proves nothing.")
        }
    }
}

fn last_line(view: &EvidenceView<'_>) -> String {
    let (proven, all) = (view.count(Proof::Encrypted), view.peers.len());
    if view.is_proven() {
        let peers = if all == 1 { "the peer".into() } else { format!("all {all} peers") };
        return format!("Proven: packets to {peers} left encrypted.");
    }
    let mut line = format!("Not proven: packets to {proven} of {all} peers left encrypted");
    for proof in Proof::ALL.into_iter().filter(|proof| *proof != Proof::Encrypted) {
        if let count @ 1.. = view.count(proof) {
            let _ = write!(line, ", {count} {}", proof.text());
        }
    }
    if view.guard.is_some_and(|guard| !guard.is_proven()) {
        line.push_str(", and the guard did not refuse");
    }
    line + "."
}

/// A document that is compared.
pub struct ComparedHost<'a> {
    /// Its path.
    pub path: &'a Path,
    /// When it was taken.
    pub taken: Time,
    /// The host.
    pub host: &'a str,
}

/// Two documents and the findings about them.
pub struct ComparisonView<'a> {
    /// The mesh of the first.
    pub mesh: &'a str,
    /// The documents.
    pub documents: [ComparedHost<'a>; 2],
    /// The findings.
    pub comparison: &'a Comparison,
}

/// The comparison, for people.
pub fn comparison_text(view: &ComparisonView<'_>) -> String {
    let mut page = format!("{BOLD}Mesh {}{BOLD:#}\n", Plain(view.mesh));
    for ComparedHost { path, taken, host } in &view.documents {
        let line = format!("{host}: {}, taken {} UTC", path.display(), taken.utc());
        write_paragraph(&mut page, 0, &Plain(line).to_string());
    }
    page.push('\n');
    for objection in &view.comparison.objections {
        write_paragraph(&mut page, 0, &Plain(objection).to_string());
    }
    for direction in &view.comparison.directions {
        write_paragraph(&mut page, 0, &Plain(of_direction(direction)).to_string());
        for objection in &direction.objections {
            write_paragraph(&mut page, 2, &Plain(objection).to_string());
        }
    }
    page.push_str(match view.comparison.is_proven() {
        true => "Proven in both directions.\n",
        false => "Not proven.\n",
    });
    page
}

fn of_direction(direction: &DirectionProof) -> String {
    let DirectionProof { from, to, spi, packets, came, same_key, objections } = direction;
    let spi = spi.map_or("no SPI".into(), |spi| format!("SPI {spi}"));
    let verdict = if objections.is_empty() { "encrypted" } else { "not proven" };
    let key = match same_key {
        Some(true) => "the same key on both",
        Some(false) => "different keys",
        None => "keys not compared",
    };
    format!("{from} to {to}: {verdict}, {spi}, {} left, {came} came, {key}", number(*packets))
}
