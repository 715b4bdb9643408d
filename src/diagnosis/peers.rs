//! The peers: whether packets leave encrypted, whether any come, and the path.

use std::collections::BTreeMap;

use super::{Facts, Finding, MeshFacts, list, plural};
use crate::{
    model::{CheckCode, Direction, PeerName, Probe, Usage},
    mtu::{Headers, fit},
    plan::Flow,
    verdict::{Came, PeerState, Verdict, answers},
};

/// So many packets without an answer are remarkable, even from a peer that was heard lately.
const MANY: u64 = 5;

/// The packets of a peer's SAs between two looks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Moved {
    /// Those that left.
    pub sent: u64,
    /// Those that came.
    pub heard: u64,
    /// Those that came and were refused.
    pub refused: u64,
}

impl Moved {
    fn plus(self, more: Self) -> Self {
        Self {
            sent: self.sent + more.sent,
            heard: self.heard + more.heard,
            refused: self.refused + more.refused,
        }
    }
}

/// The packets of a peer. An SA that was not there before, or was made anew since, began at 0.
pub(super) fn moved(mesh: &MeshFacts<'_>, peer: &PeerState) -> Moved {
    let refused = |usage: &Usage| -> u64 {
        [usage.too_old, usage.replayed, usage.forged].into_iter().map(u64::from).sum()
    };
    let of = |sa: &crate::verdict::SaEvidence| {
        // Both lists have the order of the kernel's state: that of identities.
        let at = mesh.before.binary_search_by_key(&sa.id, |usage| usage.id).ok();
        let before = at.map(|at| &mesh.before[at]).filter(|before| before.added == sa.usage.added);
        let packets = sa.usage.packets.saturating_sub(before.map_or(0, |usage| usage.packets));
        let refused = refused(&sa.usage).saturating_sub(before.map_or(0, refused));
        match sa.direction {
            Some(Direction::Out) => Moved { sent: packets, heard: 0, refused },
            Some(Direction::In | Direction::Fwd) | None => {
                Moved { sent: 0, heard: packets, refused }
            }
        }
    };
    peer.sas.iter().map(of).fold(Moved::default(), Moved::plus)
}

pub(super) fn findings(facts: &Facts<'_>) -> Vec<Finding> {
    let Some(mesh) = &facts.mesh else { return Vec::new() };
    let mut found = sent(mesh);
    found.extend(heard(facts, mesh));
    found.extend(generations(mesh));
    found.extend(pings(facts));
    found.extend(paths(facts));
    found
}

/// Peers with the same text, and the sum of their packets.
type Groups = BTreeMap<(Kind, String), (Vec<PeerName>, Moved)>;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Attention,
    /// Nothing was seen by which it could be judged.
    Unknown,
    Ok,
}

fn add(groups: &mut Groups, kind: Kind, text: String, peer: &PeerState, moved: Moved) {
    let (names, sum) = groups.entry((kind, text)).or_default();
    names.push(peer.name.clone());
    *sum = sum.plus(moved);
}

fn finding(code: CheckCode, kind: Kind, text: String, names: Vec<PeerName>) -> Finding {
    let finding = match kind {
        Kind::Attention => Finding::attention(code, text),
        Kind::Unknown => Finding::unknown(code, text),
        Kind::Ok => Finding::ok(code, text),
    };
    finding.about(names)
}

fn sent(mesh: &MeshFacts<'_>) -> Vec<Finding> {
    let mut groups = Groups::new();
    for peer in &mesh.judged.peers {
        let (kind, text) = match peer.flow {
            Flow::Clear if !peer.stage.sends() => {
                (Kind::Ok, "packets leave in the clear, as the stage asks".into())
            }
            Flow::Clear => (Kind::Attention, format!("packets leave in the clear{}", only(peer))),
            Flow::Blocked => (Kind::Attention, format!("packets are blocked here{}", only(peer))),
            Flow::Protected(_) => match &peer.no_way {
                Some(why) => (Kind::Attention, format!("packets go nowhere: {why}")),
                None => (Kind::Ok, "packets leave encrypted".into()),
            },
        };
        add(&mut groups, kind, text, peer, Moved::default());
    }
    let finding = |((kind, text), (names, _))| finding(CheckCode::Sent, kind, text, names);
    groups.into_iter().map(finding).collect()
}

/// The packets that it is true of, where others fare better.
fn only(peer: &PeerState) -> String {
    match peer.only.first() {
        None => String::new(),
        Some(first) => format!(", of these alone: {first}"),
    }
}

fn heard(facts: &Facts<'_>, mesh: &MeshFacts<'_>) -> Vec<Finding> {
    let mut groups = Groups::new();
    for peer in &mesh.judged.peers {
        let moved = moved(mesh, peer);
        let (kind, text) = came(mesh, peer, moved);
        add(&mut groups, kind, text.into(), peer, moved);
    }
    let finding = |((kind, text), (names, moved)): (_, (Vec<PeerName>, Moved))| {
        let Moved { sent, heard, refused } = moved;
        let seconds = facts.seconds;
        let text = format!("{text}: in {seconds} s sent {sent}, heard {heard}, refused {refused}");
        let first = names.first().map(ToString::to_string).unwrap_or_default();
        let finding = finding(CheckCode::Heard, kind, text, names);
        match kind {
            Kind::Attention => finding.remedy(format!("run meshsec doctor on {first}")),
            Kind::Unknown | Kind::Ok => finding,
        }
    };
    groups.into_iter().map(finding).collect()
}

fn came(mesh: &MeshFacts<'_>, peer: &PeerState, moved: Moved) -> (Kind, &'static str) {
    // No answer can be expected while packets do not leave, and it was not seen whether the peer sends.
    if !matches!(peer.flow, Flow::Protected(_)) || peer.no_way.is_some() {
        return (Kind::Unknown, "not judged, as nothing leaves encrypted");
    }
    let is_unanswered = moved.sent > 0 && moved.heard == 0;
    let is_asked = mesh.case.asked.contains(&peer.name);
    match peer.verdict {
        Verdict::NeverHeard => {
            (Kind::Attention, "packets leave encrypted, and none has ever come from it")
        }
        Verdict::Silent if is_unanswered || is_asked || answers(mesh.case.config.traffic) => {
            (Kind::Attention, "packets leave encrypted, and none comes from it any more")
        }
        Verdict::Silent => {
            (Kind::Unknown, "none came lately, and nothing is sent that asks for answers")
        }
        Verdict::Idle => (Kind::Unknown, "nothing was sent, and nothing came"),
        Verdict::Clear | Verdict::Blocked | Verdict::Protected => match is_unanswered {
            true if moved.sent >= MANY => {
                (Kind::Attention, "packets leave encrypted, and none comes from it now")
            }
            true | false => (Kind::Ok, "encrypted packets come"),
        },
    }
}

/// Peers that send under another generation than this host. Where the clock sets it, hosts change
/// within a quarter of a period of each other.
fn generations(mesh: &MeshFacts<'_>) -> Vec<Finding> {
    let follows_clock = mesh.case.moment.clock.is_some();
    let mut groups = Groups::new();
    for peer in mesh.judged.peers.iter().filter(|peer| peer.came == Came::Heard) {
        let (Some(sends), Some(hears)) = (peer.sends, peer.hears) else { continue };
        let far = sends.get().abs_diff(hears.get());
        let text = match (hears < sends, far) {
            (_, 0) => continue,
            (true, 1) => format!("it still sends under generation {hears}, one behind this host"),
            (true, far) => format!("it sends under generation {hears}, {far} behind this host"),
            (false, far) => format!("it sends under generation {hears}, {far} ahead of this host"),
        };
        let kind = if follows_clock && far == 1 { Kind::Ok } else { Kind::Attention };
        add(&mut groups, kind, text, peer, Moved::default());
    }
    let finding = |((kind, text), (names, _)): (_, (Vec<PeerName>, Moved))| {
        let first = names.first().map(ToString::to_string).unwrap_or_default();
        let remedy = format!("apply the same file on {first} before the next rotation");
        finding(CheckCode::Generation, kind, text, names).remedy(remedy)
    };
    groups.into_iter().map(finding).collect()
}

/// The probes, each with its peer.
fn probes<'a>(facts: &'a Facts<'_>) -> impl Iterator<Item = (&'a PeerName, &'a Probe)> {
    let all = facts.examination.probes.iter();
    all.filter_map(|(address, probe)| Some((facts.name_of(*address)?, probe)))
}

fn pings(facts: &Facts<'_>) -> Vec<Finding> {
    let covered = match facts.config.traffic {
        crate::config::Traffic::All => "encrypted",
        crate::config::Traffic::Vxlan { .. }
        | crate::config::Traffic::Geneve { .. }
        | crate::config::Traffic::Port { .. }
        | crate::config::Traffic::Networks => "in the clear",
    };
    let mut groups = BTreeMap::<(Option<bool>, String), Vec<PeerName>>::new();
    for (name, probe) in probes(facts) {
        let text = match (&probe.failure, probe.answers) {
            (Some(why), _) => format!("no ping could be sent: {why}"),
            (None, Some(true)) => format!("pings ({covered}) are answered"),
            (None, _) => format!("no ping ({covered}) is answered, or pings are filtered"),
        };
        let answers = probe.answers.filter(|_| probe.failure.is_none());
        groups.entry((answers, text)).or_default().push(name.clone());
    }
    let finding = |((answers, text), names)| {
        let finding = match answers {
            Some(true) => Finding::ok(CheckCode::Ping, text),
            Some(false) => Finding::attention(CheckCode::Ping, text)
                .remedy("is the peer up, and does the underlay reach it?"),
            None => Finding::unknown(CheckCode::Ping, text),
        };
        finding.about(names)
    };
    groups.into_iter().map(finding).collect()
}

/// The path to each peer: what the kernel has learned, and what pings have found.
fn paths(facts: &Facts<'_>) -> Vec<Finding> {
    let code = CheckCode::PathMtu;
    let Some(learned) = &facts.examination.path_mtus else {
        return vec![Finding::unknown(code, "the path MTUs that the kernel knows can't be read")];
    };
    let mut groups = BTreeMap::<String, Vec<PeerName>>::new();
    for (address, mtu) in learned {
        let Some(name) = facts.name_of(*address) else { continue };
        if facts.link_mtu(*address).is_some_and(|device| *mtu < device) {
            let text = format!(
                "the kernel has learned that the path takes packets of {mtu} bytes{}",
                facts.fitting(*mtu)
            );
            groups.entry(text).or_default().push(name.clone());
        }
    }
    for (name, probe) in probes(facts) {
        if let (Some(passed), Some(lost)) = (probe.passed, probe.lost) {
            let text = format!(
                "large packets are lost on the way: of {passed} bytes are answered, of {lost} not{}",
                facts.fitting(passed)
            );
            groups.entry(text).or_default().push(name.clone());
        }
    }
    if groups.is_empty() {
        return vec![unremarkable(facts)];
    }
    let finding = |(text, names): (String, Vec<PeerName>)| {
        let remedy = format!(
            "look at the MTU of the underlay on {} and on the way, or lower that of the tunnel device on \
             both hosts",
            list(&names)
        );
        Finding::attention(code, text).remedy(remedy).about(names)
    };
    groups.into_iter().map(finding).collect()
}

/// Only a packet of the device's MTU that was answered shows that the path takes it.
fn unremarkable(facts: &Facts<'_>) -> Finding {
    let code = CheckCode::PathMtu;
    let probed = facts.examination.probes.len();
    let passed = facts.examination.probes.values().filter(|probe| probe.passed.is_some()).count();
    let answered = || {
        let peers = plural(passed as u64, "peer", "peers");
        format!("packets of the device's MTU are answered by {peers}")
    };
    match (probed, passed) {
        (0, _) => Finding::unknown(
            code,
            "no large packet was sent to peers, and the kernel has learned of no smaller path",
        )
        .remedy("--probe sends some"),
        (_, 0) => Finding::unknown(code, "no large packet was answered, nor a small one"),
        (probed, passed) if passed < probed => {
            Finding::unknown(code, format!("{}, and not known of the others", answered()))
        }
        (_, _) => Finding::ok(code, answered()),
    }
}

impl Facts<'_> {
    /// The smallest MTU of the devices that packets to an address leave by.
    fn link_mtu(&self, to: std::net::IpAddr) -> Option<u32> {
        let route = self.state.route(self.local?.address, to)?;
        let links = route.devices.iter().filter_map(|device| self.state.link(device));
        links.map(|link| link.mtu).min()
    }

    /// The MTU of a tunnel device that fits a path, as a part of a sentence.
    fn fitting(&self, path: u32) -> String {
        let (Some(local), Some(tunnel)) = (self.local, self.config.traffic.tunnel()) else {
            return String::new();
        };
        let encap = self.config.esp.encap.is_some();
        let headers = Headers { address: local.address, encap, tunnel };
        match fit(path, &headers).inner {
            Some(inner) => format!("; the tunnel's MTU that fits is {inner}"),
            None => String::new(),
        }
    }
}
