//! Comparing the documents of two hosts: whether both directions between them are proven.
//!
//! Documents have no signature. Whoever can write one can write a false one; a document that
//! contradicts itself is found out.

use std::{collections::BTreeMap, net::IpAddr};

use super::Proof;
use crate::config::quoted;
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
        format!(
            "the hosts had different files: SHA-256 {} and {}",
            quoted(&one.file),
            quoted(&other.file)
        ),
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

#[cfg(test)]
mod tests {
    use super::*;

    fn generation(number: u64) -> Generation {
        Generation::new(number).unwrap()
    }

    fn member(name: &str, number: u16) -> Member {
        Member {
            name: PeerName::new(name).unwrap(),
            short_id: ShortId::new(number).unwrap(),
            address: format!("192.0.2.{number}").parse().unwrap(),
        }
    }

    fn spi(generation_of: u64, from: &Member, to: &Member) -> Spi {
        Spi::new(generation(generation_of), from.short_id, to.short_id)
    }

    /// The document of a host that has proven its packets to another.
    fn testimony(host: Member, peer: Member) -> Testimony {
        let key = |from: &Member| Some(Fingerprint::of(&from.short_id.get().to_be_bytes()));
        let out = spi(1, &host, &peer);
        let claim = Claim {
            proof: "encrypted".into(),
            sent: 3,
            refused: 0,
            matched: 3,
            clear: 0,
            out: Some((out, key(&host))),
            packets: 4,
            headers: (1..=4).map(|sequence| (out, sequence)).collect(),
            inbound: [(spi(1, &peer, &host), key(&peer))].into(),
            came: 2,
            peer: peer.clone(),
        };
        Testimony {
            mesh: "lab".into(),
            taken: Time::from_seconds(1_800_000_000),
            generation: generation(1),
            file: "5f".repeat(32),
            included: Vec::new(),
            lost: 0,
            stray: 0,
            peers: [(peer.name, claim)].into(),
            host,
        }
    }

    fn both() -> [Testimony; 2] {
        let (a, b) = (member("a", 1), member("b", 2));
        [testimony(a.clone(), b.clone()), testimony(b, a)]
    }

    /// All objections after a change of the first document.
    fn objections(change: impl Fn(&mut Testimony, &mut Claim)) -> String {
        let [mut a, b] = both();
        let (name, mut claim) = a.peers.pop_first().unwrap();
        change(&mut a, &mut claim);
        a.peers.insert(name, claim);
        let found = compare(&a, &b);
        let directions = found.directions.iter().flat_map(|direction| &direction.objections);
        found.objections.iter().chain(directions).cloned().collect::<Vec<_>>().join("; ")
    }

    #[test]
    fn two_documents_that_fit_prove_both_directions() {
        let [a, b] = both();
        let found = compare(&a, &b);
        assert!(found.is_proven(), "{found:?}");
        assert!(found.directions.iter().all(|direction| direction.same_key == Some(true)));
        assert_eq!(objections(|_, _| {}), "");
    }

    #[test]
    fn a_key_that_a_kernel_hides_is_not_compared() {
        let [mut a, b] = both();
        let claim = a.peers.values_mut().next().unwrap();
        claim.out = claim.out.map(|(spi, _)| (spi, None));
        let found = compare(&a, &b);
        assert!(found.is_proven() && found.directions[0].same_key.is_none(), "{found:?}");
    }

    #[test]
    fn each_thing_that_does_not_fit_is_named() {
        type Change = fn(&mut Testimony, &mut Claim);
        let changes: [(Change, &str); 15] = [
            (|a, _| a.mesh = "other".into(), "different meshes"),
            (|a, _| a.file = "00".repeat(32), "different files"),
            (|a, _| a.included = vec![("x".into(), "y".into())], "included different files"),
            (|a, _| a.taken = Time::from_seconds(1_800_000_601), "601 s apart"),
            (|a, _| a.lost = 1, "the capture is not whole"),
            (|a, _| a.generation = generation(2), "not that of the hosts and the generation"),
            (|a, _| a.host.short_id = ShortId::new(7).unwrap(), "a has ShortID 7"),
            (|_, claim| claim.proof = "clear".into(), "the verdict of a is: in the clear"),
            (|_, claim| claim.clear = 1, "packets could be read"),
            (|_, claim| claim.refused = 1, "probes were refused"),
            (|_, claim| claim.matched = 2, "fewer probes were seen than sent"),
            (|_, claim| claim.headers[1].0 = Spi::from_raw(5), "another SPI"),
            (|_, claim| claim.headers[1].1 = 1, "one sequence number"),
            (|_, claim| claim.headers.clear(), "no captured header"),
            (|_, claim| claim.inbound.clear(), "a does not receive SPI"),
        ];
        for (change, text) in changes {
            let found = objections(change);
            assert!(found.contains(text), "{text}: {found}");
        }
        let other_key = |_: &mut Testimony, claim: &mut Claim| {
            claim.out = claim.out.map(|(spi, _)| (spi, Some(Fingerprint::of(b"other"))));
        };
        assert!(objections(other_key).contains("different keys"));
    }

    #[test]
    fn one_host_alone_proves_nothing() {
        let [a, mut b] = both();
        assert!(!compare(&a, &a).is_proven());
        b.peers.clear();
        let found = compare(&a, &b);
        assert!(found.directions.iter().all(|one| !one.objections.is_empty()), "{found:?}");
    }
}
