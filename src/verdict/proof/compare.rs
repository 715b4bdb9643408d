//! Comparing the documents of two hosts: whether both directions between them are proven.
//!
//! Documents have no signature. Whoever can write one can write a false one; a document that
//! contradicts itself is found out.

use std::{collections::BTreeMap, net::IpAddr};

use super::Proof;
use crate::model::{Fingerprint, Generation, PeerName, ShortId, Spi, Time};

/// The longest time between two documents, in seconds.
pub const APART: u64 = 600;

/// A host's document, as far as comparing takes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Testimony {
    /// The mesh's name.
    pub mesh: String,
    /// The local peer.
    pub host: Member,
    /// When it was taken.
    pub taken: Time,
    /// The generation.
    pub generation: Generation,
    /// SHA-256 of mesh.toml.
    pub file: String,
    /// The included files and their SHA-256.
    pub included: Vec<(String, String)>,
    /// Packets that the capture lost.
    pub lost: u64,
    /// Packets with a marker that belongs to no probe.
    pub stray: u64,
    /// The peers that it is about.
    pub peers: BTreeMap<PeerName, Claim>,
}

/// A host of the mesh, as a document names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Its name.
    pub name: PeerName,
    /// Its number.
    pub short_id: ShortId,
    /// Its address. Behind a port forward others know it by another.
    pub address: IpAddr,
}

/// What a document says of a peer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    /// The peer.
    pub peer: Member,
    /// The verdict.
    pub proof: String,
    /// Probes sent.
    pub sent: u64,
    /// Probes that the kernel refused.
    pub refused: u64,
    /// Probes that were seen as ESP.
    pub matched: u64,
    /// Packets that could be read.
    pub clear: u64,
    /// The outbound SA.
    pub out: Option<(Spi, Option<Fingerprint>)>,
    /// Packets of ESP under it.
    pub packets: u64,
    /// SPI and sequence number of some of them.
    pub headers: Vec<(Spi, u32)>,
    /// The SPIs that are received, and their keys.
    pub inbound: BTreeMap<Spi, Option<Fingerprint>>,
    /// Packets that came under one of those.
    pub came: u64,
}

impl Claim {
    /// Whether it says that all that left was encrypted.
    pub fn is_encrypted(&self) -> bool {
        self.proof == Proof::Encrypted.word()
    }
}

/// The findings about two documents.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Comparison {
    /// Why they prove nothing together.
    pub objections: Vec<String>,
    /// One host's packets to the other, and the reverse.
    pub directions: [DirectionProof; 2],
}

/// The findings about one direction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DirectionProof {
    /// The sender.
    pub from: PeerName,
    /// The receiver.
    pub to: PeerName,
    /// The SPI that packets left under.
    pub spi: Option<Spi>,
    /// Packets of ESP that the sender has seen leave.
    pub packets: u64,
    /// Packets of ESP that the receiver has seen come while it sent its own probes.
    pub came: u64,
    /// Whether both hosts show the same key; `None` where one of them can't.
    pub same_key: Option<bool>,
    /// Why it is not proven; empty if it is.
    pub objections: Vec<String>,
}

impl Comparison {
    /// Whether both directions are proven.
    pub fn is_proven(&self) -> bool {
        self.objections.is_empty() && self.directions.iter().all(|one| one.objections.is_empty())
    }
}

/// Compares two documents.
pub fn compare(one: &Testimony, other: &Testimony) -> Comparison {
    Comparison {
        objections: objections(one, other),
        directions: [direction(one, other), direction(other, one)],
    }
}

/// What speaks against both directions.
fn objections(one: &Testimony, other: &Testimony) -> Vec<String> {
    let mut objections = Vec::new();
    let mut object = |is_wrong: bool, text: String| objections.extend(is_wrong.then_some(text));
    object(
        one.host.name == other.host.name,
        format!("both are of {}: take one of each host", one.host.name),
    );
    object(one.mesh != other.mesh, "they are of different meshes".into());
    object(
        one.file != other.file,
        format!("the hosts had different files: SHA-256 {} and {}", one.file, other.file),
    );
    object(one.included != other.included, "the hosts included different files".into());
    let apart = one.taken.seconds().abs_diff(other.taken.seconds());
    object(
        apart > APART,
        format!("they were taken {apart} s apart, which is more than {APART}: take both anew"),
    );
    objections
}

fn direction(from: &Testimony, to: &Testimony) -> DirectionProof {
    let sender = from.peers.get(&to.host.name);
    let receiver = to.peers.get(&from.host.name);
    let mut proof = DirectionProof {
        from: from.host.name.clone(),
        to: to.host.name.clone(),
        spi: sender.and_then(|claim| claim.out).map(|(spi, _)| spi),
        packets: sender.map_or(0, |claim| claim.packets),
        came: receiver.map_or(0, |claim| claim.came),
        same_key: None,
        objections: Vec::new(),
    };
    let (Some(sender), Some(receiver)) = (sender, receiver) else {
        for (by, of, claim) in [(from, to, sender), (to, from, receiver)] {
            let text =
                || format!("the document of {} says nothing of {}", by.host.name, of.host.name);
            proof.objections.extend(claim.is_none().then(text));
        }
        return proof;
    };
    proof.objections = contradictions(from, sender);
    proof.objections.extend(of_members(to, &sender.peer));
    proof.objections.extend(of_members(from, &receiver.peer));
    let Some((spi, key)) = sender.out else { return proof };
    match receiver.inbound.get(&spi) {
        None => proof.objections.push(format!("{} does not receive SPI {spi}", to.host.name)),
        Some(theirs) => {
            proof.same_key = key.zip(*theirs).map(|(ours, theirs)| ours == theirs);
            if proof.same_key == Some(false) {
                proof.objections.push(format!("the hosts have different keys for SPI {spi}"));
            }
        }
    }
    proof
}

/// The ways in which a document does not bear its own verdict.
fn contradictions(from: &Testimony, claim: &Claim) -> Vec<String> {
    let name = &from.host.name;
    if !claim.is_encrypted() {
        let proof = Proof::ALL.into_iter().find(|proof| proof.word() == claim.proof);
        let words = proof.map_or("of an unknown kind", Proof::text);
        return vec![format!("the verdict of {name} is: {words}")];
    }
    let mut wrong = Vec::new();
    let mut object = |is_wrong: bool, text: &str| {
        let text = || format!("the document of {name} contradicts itself: {text}");
        wrong.extend(is_wrong.then(text));
    };
    object(from.lost > 0 || from.stray > 0, "it is proven, and the capture is not whole");
    object(claim.refused > 0, "it is proven, and probes were refused");
    object(claim.clear > 0, "it is proven, and packets could be read");
    object(claim.sent == 0 || claim.matched < claim.sent, "fewer probes were seen than sent");
    object(claim.packets < claim.matched, "more probes than packets were seen");
    let expected = Spi::new(from.generation, from.host.short_id, claim.peer.short_id);
    let spi = claim.out.map(|(spi, _)| spi);
    object(spi != Some(expected), "its SPI is not that of the hosts and the generation");
    object(claim.headers.is_empty(), "it has no captured header");
    object(
        claim.headers.iter().any(|(spi, _)| *spi != expected),
        "a captured header has another SPI",
    );
    let mut numbers: Vec<u32> = claim.headers.iter().map(|(_, sequence)| *sequence).collect();
    let all = numbers.len();
    numbers.sort_unstable();
    numbers.dedup();
    object(numbers.len() < all, "two captured headers have one sequence number");
    wrong
}

/// Whether the other's document knows a host by the same number.
fn of_members(host: &Testimony, known_as: &Member) -> Option<String> {
    let name = &host.host.name;
    (host.host.short_id != known_as.short_id).then(|| {
        format!("{name} has ShortID {} and is known by {}", host.host.short_id, known_as.short_id)
    })
}
