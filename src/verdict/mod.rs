//! Whether the traffic with a peer is protected, by evidence.
//!
//! Packets that leave are judged by the live policies and SAs ([`packets_out`]), those that come in
//! by the last use of the peer's SAs. Nothing is protected because the file says so. Pure.
#![forbid(unsafe_code)]

mod attention;
mod evidence;
mod meaning;
pub mod proof;
mod settled;
mod sightings;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use crate::{
    config::{Config, Moment, Peer, Traffic},
    desired::{Desired, EncapPort, WantedPolicy},
    model::{
        Direction, EncapSocket, Generation, Live, PeerName, Prefix, Selector, Spi, Stage, State,
        Time, Tunnel, TunnelKind,
    },
    plan::{Flow, Plan, encap_socket, flow_out, packets_out},
};

pub use attention::{Reason, answers};
pub use evidence::{Came, Refused, SaEvidence, seconds_since};
pub use meaning::counter_meaning;
pub use settled::{
    Doubt, DoubtKind, EvidenceOfHost, Known, NotCounted, OLDEST_EVIDENCE, Question, Settlement,
    Sighted, settle,
};
pub use sightings::{LastUse, Sightings};

/// The facts to be judged.
#[derive(Clone, Copy)]
pub struct Case<'a> {
    /// The file.
    pub config: &'a Config,
    /// The generation of now.
    pub moment: Moment,
    /// The time by the clock.
    pub now: Time,
    /// The local peer.
    pub local: &'a Peer,
    /// The wanted state.
    pub desired: &'a Desired,
    /// The state of the host.
    pub live: &'a Live,
    /// The differences.
    pub plan: &'a Plan,
    /// The peers that the operator named; none means all.
    pub asked: &'a BTreeSet<PeerName>,
    /// Whether every silent peer is an alarm.
    pub strict: bool,
}

impl Case<'_> {
    /// How the host takes ESP out of UDP, where the file asks for that.
    pub fn encap(&self) -> Option<EncapState> {
        let EncapPort { port, from, is_used, without_keepalives: _ } = self.desired.encap?;
        let socket = encap_socket(self.desired.encap?, self.live);
        Some(EncapState { port, from, is_used, socket })
    }
}

/// ESP in UDP, as a host takes it in.
#[derive(Debug, Clone, Copy)]
pub struct EncapState {
    /// The port.
    pub port: u16,
    /// The first generation in UDP.
    pub from: Generation,
    /// Whether SAs of now, or of the next generation, are in UDP.
    pub is_used: bool,
    /// The socket.
    pub socket: EncapSocket,
}

/// The findings about all peers.
pub struct Judgement {
    /// The peers that the operator named, the worst first.
    pub peers: Vec<PeerState>,
    /// SAs of the mesh that the file does not want and that are of no peer of it.
    pub others: Vec<SaEvidence>,
    /// Why somebody should look; empty where all is well.
    pub reasons: Vec<Reason>,
}

/// The state of the traffic with a peer, the worst first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verdict {
    /// It leaves unencrypted.
    Clear,
    /// It does not leave.
    Blocked,
    /// Packets leave encrypted, and none has ever come.
    NeverHeard,
    /// Packets leave encrypted, and the last that came is older by far.
    Silent,
    /// It would leave encrypted, and there is none.
    Idle,
    /// It leaves encrypted, and the peer was heard.
    Protected,
}

impl Verdict {
    /// All of them, the worst first.
    pub const ALL: [Self; 6] =
        [Self::Clear, Self::Blocked, Self::NeverHeard, Self::Silent, Self::Idle, Self::Protected];

    /// Its name in JSON and metrics.
    pub fn word(self) -> &'static str {
        match self {
            Self::Clear => "clear",
            Self::Blocked => "blocked",
            Self::NeverHeard => "never_heard",
            Self::Silent => "silent",
            Self::Idle => "idle",
            Self::Protected => "protected",
        }
    }

    /// Its name for people.
    pub fn text(self) -> &'static str {
        match self {
            Self::Clear => "in the clear",
            Self::Blocked => "blocked",
            Self::NeverHeard => "never heard",
            Self::Silent => "silent",
            Self::Idle => "idle",
            Self::Protected => "protected",
        }
    }

    fn of(flow: Flow, has_way: bool, came: Came) -> Self {
        match (flow, came) {
            (Flow::Clear, _) => Self::Clear,
            (Flow::Blocked, _) => Self::Blocked,
            (Flow::Protected(_), _) if !has_way => Self::Blocked,
            (Flow::Protected(_), Came::Never) => Self::NeverHeard,
            (Flow::Protected(_), Came::Silent) => Self::Silent,
            (Flow::Protected(_), Came::Idle) => Self::Idle,
            (Flow::Protected(_), Came::Heard) => Self::Protected,
        }
    }
}

/// The findings about one peer.
pub struct PeerState {
    /// Its name.
    pub name: PeerName,
    /// Its address.
    pub address: IpAddr,
    /// The stage that the file wants for the pair.
    pub stage: Stage,
    /// The verdict on its traffic.
    pub verdict: Verdict,
    /// The fate of packets to it, of several kinds the worst.
    pub flow: Flow,
    /// Why packets to it go nowhere, even if policies let them pass.
    pub no_way: Option<String>,
    /// The packets with the fate of `flow`, where that of others is better.
    pub only: Vec<Selector>,
    /// The fate of all other packets, of several kinds the worst, where some fare better.
    pub rest: Option<Flow>,
    /// Whether packets come from it.
    pub came: Came,
    /// When a packet last left for it.
    pub sent: Option<Time>,
    /// When a packet last came from it.
    pub heard: Option<Time>,
    /// The time since which no packet has come from it, where `heard` does not tell: SAs that might
    /// have received some were deleted by rotations.
    pub unheard_since: Option<Time>,
    /// The generation under which packets leave.
    pub sends: Option<Generation>,
    /// The generation under which it sends, where it has since packets leave under `sends`.
    pub hears: Option<Generation>,
    /// The packets that its SAs refused.
    pub refused: Refused,
    /// All SAs of the pair, outbound ones first.
    pub sas: Vec<SaEvidence>,
    /// The number of changes of a plan that concern it.
    pub changes: usize,
}

/// Judges the peers that the operator named.
pub fn judge(case: &Case<'_>) -> Judgement {
    let (mut sas, others) = evidence::by_peer(case);
    let mut packets = packets_out(&case.live.0, case.desired, |name| is_asked(case, name));
    let changes = changes(case.plan);
    let mut errors = errors_out(case, &sas, &changes);
    let mut peers: Vec<PeerState> = case
        .desired
        .peers
        .iter()
        .filter(|(_, name)| is_asked(case, name))
        .map(|(address, name)| {
            let sas = sas.remove(name).unwrap_or_default();
            let mut packets = packets.remove(name).unwrap_or_default();
            packets.extend(from_elsewhere(case, *address, &packets));
            packets.extend(errors.remove(name).unwrap_or_default());
            let changes = changes.get(name).copied().unwrap_or(0);
            peer_state(case, (*address, name), sas, packets, changes)
        })
        .collect();
    peers.sort_by(|a, b| (a.verdict, &a.name).cmp(&(b.verdict, &b.name)));
    let reasons = attention::reasons(case, &peers);
    Judgement { peers, others, reasons }
}

fn is_asked(case: &Case<'_>, name: &PeerName) -> bool {
    case.asked.is_empty() || case.asked.contains(name)
}

fn peer_state(
    case: &Case<'_>,
    (address, name): (IpAddr, &PeerName),
    sas: Vec<SaEvidence>,
    packets: Vec<(Selector, Flow)>,
    changes: usize,
) -> PeerState {
    // A host without IPv6 sends none to a peer with networks of IPv6 alone.
    let none = if case.live.0.ipv6_off { Flow::Blocked } else { Flow::Clear };
    let flow = packets.iter().map(|(_, flow)| *flow).max().unwrap_or(none);
    let fares_so = |other: &Flow| other.word() == flow.word();
    let mixed = !packets.iter().all(|(_, other)| fares_so(other));
    let only = packets.iter().filter(|(_, other)| mixed && fares_so(other));
    let sends = sends(&sas, &packets);
    let no_way = no_way(case, address).or_else(|| lost_mark(case, address, &sas));
    let found = evidence::came(&sas, sends.unwrap_or(case.moment.generation), case.now);
    PeerState {
        name: name.clone(),
        address,
        stage: case.desired.stage(name),
        verdict: Verdict::of(flow, no_way.is_none(), found.came),
        flow,
        no_way,
        only: only.map(|(selector, _)| *selector).collect(),
        rest: packets.iter().map(|(_, other)| *other).filter(|other| !fares_so(other)).max(),
        came: found.came,
        sent: found.sent,
        heard: found.heard,
        unheard_since: found.unheard_since,
        sends,
        hears: found.under,
        refused: evidence::refused(&sas),
        sas,
        changes,
    }
}

/// The fate of ICMP errors, which quote decrypted packets: of peers with SAs that decrypt, and only
/// where something differs. Otherwise it is that of all other packets.
fn errors_out(
    case: &Case<'_>,
    sas: &BTreeMap<PeerName, Vec<SaEvidence>>,
    changes: &BTreeMap<&PeerName, usize>,
) -> BTreeMap<PeerName, Vec<(Selector, Flow)>> {
    let decrypts = |name: &PeerName| {
        let mut sas = sas.get(name).into_iter().flatten();
        sas.any(|sa| sa.direction == Some(Direction::In))
    };
    let differs = |name| !case.plan.conflicts.is_empty() || changes.contains_key(name);
    let mut errors = BTreeMap::<PeerName, Vec<_>>::new();
    for WantedPolicy { policy, peer } in case.desired.policies.values() {
        let is_out = policy.id.direction == Direction::Out && policy.is_for_icmp_errors();
        if is_out && is_asked(case, peer) && decrypts(peer) && differs(peer) {
            let packet = policy.id.selector;
            let flow = flow_out(&case.live.0, &packet);
            errors.entry(peer.clone()).or_default().push((packet, flow));
        }
    }
    errors
}

/// The same packets from addresses that are not the local peer's. ICMP errors are not among them:
/// they are about packets to its own address, and leave from there.
fn from_elsewhere(
    case: &Case<'_>,
    peer: IpAddr,
    packets: &[(Selector, Flow)],
) -> Vec<(Selector, Flow)> {
    let from = |source: IpAddr| {
        packets.iter().map(move |(packet, _)| {
            let packet = Selector { src: Prefix::host(source), ..*packet };
            (packet, flow_out(&case.live.0, &packet))
        })
    };
    other_sources(case, peer).into_iter().flat_map(from).collect()
}

/// Addresses that are not the local peer's, from which packets leave for a peer: that of a tunnel
/// device which sends to it, and the one that the kernel picks where a program picks none.
fn other_sources(case: &Case<'_>, peer: IpAddr) -> BTreeSet<IpAddr> {
    let (state, local) = (&case.live.0, case.local.address);
    let picked = state.route(local, peer).and_then(|route| route.source);
    let mut sources: BTreeSet<IpAddr> = match case.config.traffic {
        Traffic::Vxlan { port } => tunnels_to(state, TunnelKind::Vxlan, port, peer)
            .filter_map(|tunnel| tunnel.local.or(picked))
            .collect(),
        Traffic::Geneve { port } => tunnels_to(state, TunnelKind::Geneve, port, peer)
            .filter_map(|tunnel| tunnel.local.or(picked))
            .collect(),
        Traffic::All | Traffic::Port { .. } => picked.into_iter().collect(),
        // Its policies are for every source.
        Traffic::Networks => BTreeSet::new(),
    };
    sources.retain(|source| *source != local && source.is_ipv4() == peer.is_ipv4());
    sources
}

/// Tunnel devices that are known to send to a peer.
fn tunnels_to(
    state: &State,
    kind: TunnelKind,
    port: u16,
    peer: IpAddr,
) -> impl Iterator<Item = &Tunnel> {
    let is_to = move |tunnel: &&Tunnel| {
        let mut entries = tunnel.entries.iter().flatten();
        tunnel.remote == Some(peer) || entries.any(|entry| entry.address == peer)
    };
    let tunnels = state.tunnels.iter().flatten();
    tunnels.filter(move |tunnel| tunnel.kind == kind && tunnel.port == port).filter(is_to)
}

/// Why packets to an address go nowhere, as far as routes tell.
fn no_way(case: &Case<'_>, peer: IpAddr) -> Option<String> {
    let route = case.live.0.route(case.local.address, peer)?;
    if let Some(refused) = &route.refused {
        return Some(format!("there is no route to {peer}: {refused}"));
    }
    let stands_still = !route.devices.is_empty() && route.devices == route.no_carrier;
    let devices: Vec<&str> = route.devices.iter().map(String::as_str).collect();
    stands_still.then(|| format!("{} has no carrier", devices.join(", ")))
}

/// The generation under which packets leave: that of their SA.
fn sends(sas: &[SaEvidence], packets: &[(Selector, Flow)]) -> Option<Generation> {
    let of = |spi: Spi| sas.iter().find(|sa| sa.is_outbound(spi)).map(|sa| sa.generation);
    packets.iter().find_map(|(_, flow)| match flow {
        Flow::Protected(spi) => of(*spi),
        Flow::Blocked | Flow::Clear => None,
    })
}

/// Why all packets may be dropped: over IPv6 some kernels lose the look-up by the mark in a VRF. One
/// packet that has left shows that this kernel does not, and a host that was never heard may never
/// have been sent one.
fn lost_mark(case: &Case<'_>, peer: IpAddr, sas: &[SaEvidence]) -> Option<String> {
    let route = case.live.0.route(case.local.address, peer)?;
    let used = |direction| {
        let mut sas = sas.iter().filter(|sa| sa.direction == Some(direction));
        sas.any(SaEvidence::is_used)
    };
    let is_lost = case.desired.marking.is_some()
        && peer.is_ipv6()
        && !route.vrfs.is_empty()
        && used(Direction::In)
        && !used(Direction::Out);
    let vrfs: Vec<&str> = route.vrfs.iter().map(String::as_str).collect();
    is_lost.then(|| {
        format!(
            "none has left by {}, where this kernel may drop packets that a mark selects",
            vrfs.join(", ")
        )
    })
}

fn changes(plan: &Plan) -> BTreeMap<&PeerName, usize> {
    let mut changes = BTreeMap::new();
    for peer in plan.changes.iter().filter_map(|change| change.peer.as_ref()) {
        *changes.entry(peer).or_insert(0) += 1;
    }
    changes
}

impl Judgement {
    /// The number of peers with this verdict.
    pub fn count(&self, verdict: Verdict) -> usize {
        self.peers.iter().filter(|peer| peer.verdict == verdict).count()
    }

    /// The generations under which packets leave.
    pub fn generations(&self) -> BTreeSet<Generation> {
        self.peers.iter().filter_map(|peer| peer.sends).collect()
    }

    /// All SAs of the mesh that were looked at, with their peers.
    pub fn sas(&self) -> impl Iterator<Item = (Option<&PeerState>, &SaEvidence)> {
        let theirs =
            self.peers.iter().flat_map(|peer| peer.sas.iter().map(move |s| (Some(peer), s)));
        theirs.chain(self.others.iter().map(|sa| (None, sa)))
    }

    /// The number of SAs of the mesh that the file does not want.
    pub fn unwanted(&self) -> usize {
        self.sas().filter(|(_, sa)| !sa.wanted).count()
    }

    /// The number of peers that were not heard, or not lately.
    pub fn unheard(&self) -> usize {
        self.peers.iter().filter(|peer| peer.came != Came::Heard).count()
    }

    /// The number of peers that were last heard at an unknown time.
    pub fn unseen(&self) -> usize {
        self.peers.iter().filter(|peer| peer.heard.is_none()).count()
    }

    /// The number of peers to which packets were seen to leave, while none came from them since.
    pub fn unanswered(&self) -> usize {
        self.peers.iter().filter(|peer| peer.came == Came::Silent && peer.heard.is_none()).count()
    }
}
