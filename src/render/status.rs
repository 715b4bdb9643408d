//! How a mesh fares: peer by peer, what its SAs have carried and refused.

use std::{collections::BTreeMap, fmt::Write, net::IpAddr};

use anstyle::{AnsiColor, Style};
use serde::Serialize;

use super::{
    Plain,
    json::{FORMAT_VERSION, JsonClock},
    text::{self, YELLOW},
};
use crate::{
    config::{Config, Moment, Peer},
    desired::{Desired, WantedSa},
    model::{Direction, Live, PeerName, Time, Usage},
    plan::{Flow, Plan, Warning, flows_out},
};

const BOLD: Style = Style::new().bold();
const RED: Style = AnsiColor::Red.on_default();

/// What a status is made of.
pub struct StatusView<'a> {
    /// The file.
    pub config: &'a Config,
    /// Which generation it is.
    pub moment: Moment,
    /// What the clock shows.
    pub now: Time,
    /// The local peer.
    pub local: &'a Peer,
    /// What the host should hold.
    pub desired: &'a Desired,
    /// What it holds.
    pub live: &'a Live,
    /// What differs.
    pub plan: &'a Plan,
    /// `/proc/net/xfrm_stat`, the counters that are not 0.
    pub counters: &'a BTreeMap<String, u64>,
    /// Warnings that aren't the plan's own.
    pub warnings: &'a [Warning],
}

/// `status --format json`.
#[derive(Serialize)]
struct JsonStatus<'a> {
    format_version: &'static str,
    mesh: &'a str,
    local: &'a PeerName,
    generation: u64,
    clock: Option<JsonClock>,
    peers: Vec<PeerStatus>,
    counters: &'a BTreeMap<String, u64>,
    changes: usize,
    conflicts: usize,
    warnings: Vec<&'a Warning>,
}

#[derive(Serialize)]
pub(super) struct PeerStatus {
    pub name: PeerName,
    pub address: IpAddr,
    /// `protected`, `blocked` or `clear`.
    pub traffic: &'static str,
    #[serde(skip)]
    pub flow: Flow,
    pub sas: Vec<SaStatus>,
}

/// An SA that should be there and is.
#[derive(Serialize)]
pub(super) struct SaStatus {
    pub spi: String,
    pub direction: String,
    pub generation: u64,
    pub packets: u64,
    pub bytes: u64,
    /// The sequence number sent or received last.
    pub number: u64,
    /// How much of its 2^32 numbers an SA without ESN has used.
    pub used_percent: Option<u64>,
    pub added: String,
    pub first_used: Option<String>,
    pub last_used: Option<String>,
    #[serde(skip)]
    pub ago: Option<u64>,
    pub too_old: u32,
    pub replayed: u32,
    pub forged: u32,
}

impl StatusView<'_> {
    pub(super) fn peers(&self) -> Vec<PeerStatus> {
        let mut sas: BTreeMap<&PeerName, Vec<SaStatus>> = BTreeMap::new();
        for usage in &self.live.0.usage {
            if let Some(wanted) = self.desired.sas.get(&usage.id) {
                sas.entry(&wanted.peer).or_default().push(sa_status(wanted, usage, self.now));
            }
        }
        let flows = flows_out(&self.live.0, self.desired, |_| true);
        let peer = |(address, name): (&IpAddr, &PeerName)| {
            let flow = flows.get(name).copied().unwrap_or(Flow::Clear);
            let mut sas = sas.remove(name).unwrap_or_default();
            sas.sort_by_key(|sa| (sa.direction != "out", sa.generation));
            PeerStatus { name: name.clone(), address: *address, traffic: flow.word(), flow, sas }
        };
        self.desired.peers.iter().map(peer).collect()
    }

    fn all_warnings(&self) -> Vec<&Warning> {
        self.warnings.iter().chain(&self.plan.warnings).collect()
    }
}

fn sa_status(wanted: &WantedSa, usage: &Usage, now: Time) -> SaStatus {
    let out = wanted.direction == Direction::Out;
    let number = if out { usage.sent } else { usage.received };
    let last = usage.last.or(usage.used);
    SaStatus {
        spi: usage.id.spi.to_string(),
        direction: wanted.direction.to_string(),
        generation: wanted.generation.get(),
        packets: usage.packets,
        bytes: usage.bytes,
        number,
        used_percent: (!wanted.sa.replay.esn).then_some((number * 100) >> 32),
        added: usage.added.rfc3339(),
        first_used: usage.used.map(Time::rfc3339),
        last_used: last.map(Time::rfc3339),
        ago: last.map(|last| now.seconds().saturating_sub(last.seconds())),
        too_old: usage.too_old,
        replayed: usage.replayed,
        forged: usage.forged,
    }
}

/// The shape of `status --format json`.
pub fn status_json(view: &StatusView<'_>) -> impl Serialize {
    JsonStatus {
        format_version: FORMAT_VERSION,
        mesh: view.config.mesh.as_str(),
        local: &view.local.name,
        generation: view.moment.generation.get(),
        clock: JsonClock::of(view.moment),
        peers: view.peers(),
        counters: view.counters,
        changes: view.plan.changes.len(),
        conflicts: view.plan.conflicts.len(),
        warnings: view.all_warnings(),
    }
}

/// Peers with their SAs, the kernel's error counters, warnings.
pub fn status_text(view: &StatusView<'_>) -> String {
    let mut text = format!(
        "{BOLD}Mesh {}, peer {} ({}), {}{BOLD:#}\n",
        view.config.mesh,
        view.local.name,
        view.local.address,
        text::generation(view.moment)
    );
    for peer in view.peers() {
        write_peer(&mut text, &peer);
    }
    if !view.counters.is_empty() {
        let _ = writeln!(text, "\n{BOLD}Errors of this network namespace since it began{BOLD:#}");
    }
    for (name, number) in view.counters {
        let line = format!("  {name:<24} {number:>8}  {}", meaning(name));
        let _ = writeln!(text, "{}", line.trim_end());
    }
    let mut gap = "\n";
    for warning in view.all_warnings() {
        let _ = writeln!(text, "{gap}{YELLOW}Warning:{YELLOW:#} {}", Plain(warning));
        gap = "";
    }
    let (changes, conflicts) = (view.plan.changes.len(), view.plan.conflicts.len());
    let _ = match (changes, conflicts) {
        (0, 0) => writeln!(text, "\nThe kernel matches the file; keys were not compared."),
        _ => {
            writeln!(text, "\n{changes} changes are due, {conflicts} conflicts: run meshsec plan.")
        }
    };
    text
}

fn write_peer(text: &mut String, peer: &PeerStatus) {
    let style = match peer.flow {
        Flow::Protected(_) => AnsiColor::Green.on_default(),
        Flow::Blocked => YELLOW,
        Flow::Clear => RED,
    };
    let (name, address, flow) = (&peer.name, peer.address, peer.flow);
    let _ = writeln!(text, "\n{BOLD}Peer {name} ({address}){BOLD:#}: {style}{flow}{style:#}");
    for sa in &peer.sas {
        write_sa(text, sa);
    }
}

fn write_sa(text: &mut String, sa: &SaStatus) {
    let _ = write!(
        text,
        "  {:<3} generation {} spi {}: {} packets, {} bytes, at sequence number {}",
        sa.direction, sa.generation, sa.spi, sa.packets, sa.bytes, sa.number
    );
    if let Some(percent) = sa.used_percent.filter(|percent| *percent > 0) {
        let _ = write!(text, " ({percent} % of all)");
    }
    let _ = match sa.ago {
        Some(seconds) => write!(
            text,
            ", last used {} ago",
            humantime::format_duration(std::time::Duration::from_secs(seconds))
        ),
        None => write!(text, ", not used"),
    };
    for (number, what) in
        [(sa.too_old, "too old"), (sa.replayed, "replayed"), (sa.forged, "under another key")]
    {
        if number > 0 {
            let _ = write!(text, ", {RED}{number} refused, {what}{RED:#}");
        }
    }
    text.push('\n');
}

/// What a counter of `/proc/net/xfrm_stat` says (Documentation/networking/xfrm_proc.rst).
fn meaning(name: &str) -> &'static str {
    match name {
        "XfrmOutPolBlock" => "blocked by a guard: no policy of a peer covers the destination",
        "XfrmInPolBlock" => "blocked by a guard: came in clear",
        "XfrmInTmplMismatch" => "came in clear from a peer, and was dropped",
        "XfrmOutNoStates" => "the outbound SA is missing",
        "XfrmInError" => "arrived just as a policy changed, and lost its route",
        "XfrmInNoStates" => "under an SPI that is not here: a generation too far away",
        "XfrmInStateProtoError" => "the key differs, or a replay from before the window",
        "XfrmInStateSeqError" => "outside the replay window: a replay, or a restarted sender",
        "XfrmInStateMismatch" => "a peer's key with another's address",
        "XfrmOutStateSeqError" => "the sequence numbers have ended; raise the generation",
        "XfrmInStateExpired" | "XfrmOutStateExpired" => "the SA's lifetime has ended",
        "XfrmInStateInvalid" | "XfrmOutStateInvalid" => "the SA was just being deleted",
        _ => "",
    }
}
