//! `prove --format json`: a host's evidence, which `prove --compare` reads, and what comes of that.

use serde::{Deserialize, Serialize};

use super::{JsonIncluded, parts::FORMAT_VERSION};
use crate::{
    model::{Fingerprint, Generation, PeerName, ShortId, Spi, Time},
    render::{
        ComparedHost, ComparisonView, EvidenceView,
        evidence::{code, of_finding},
        text::traffic,
    },
    verdict::proof::{
        GuardProof, PeerProof,
        compare::{Claim, DirectionProof, Member, Testimony},
    },
};

/// A host's evidence.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JsonEvidence {
    format_version: String,
    mesh: String,
    local: String,
    short_id: u16,
    address: String,
    taken: String,
    generation: u64,
    traffic: String,
    /// The host's name, its kernel and this program.
    host: String,
    kernel: String,
    meshsec: String,
    /// SHA-256 of mesh.toml.
    file: String,
    included: Vec<JsonIncluded>,
    capture: JsonCapture,
    proven: bool,
    peers: Vec<JsonPeerProof>,
    guard: Option<JsonGuard>,
    /// Packets that the file lets pass unencrypted.
    excepted: Vec<String>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct JsonCapture {
    devices: Vec<String>,
    packets: u64,
    /// Packets that the kernel had no room for.
    lost: u64,
    /// Packets with a part of a marker.
    stray: u64,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct JsonPeerProof {
    name: String,
    short_id: u16,
    address: String,
    stage: String,
    verdict: String,
    findings: Vec<JsonFinding>,
    /// Probes that the kernel took, refused, and that were seen as ESP.
    sent: u64,
    refused: u64,
    seen: u64,
    /// Packets in which a probe could be read, and other packets of the kind.
    marker_packets: u64,
    clear_packets: u64,
    /// Whether a packet that is meant to be seen was.
    control: bool,
    out: Option<JsonOut>,
    #[serde(rename = "in")]
    inbound: JsonIn,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct JsonFinding {
    code: String,
    text: String,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct JsonOut {
    spi: String,
    /// The destination port of UDP around ESP.
    encap: Option<u16>,
    /// The fingerprint of the key in the kernel.
    key: Option<String>,
    /// All packets under the SPI, those of other programs too.
    packets: u64,
    first_sequence: Option<u32>,
    last_sequence: Option<u32>,
    /// SPI and sequence number of the first packets, in hex.
    headers: Vec<String>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct JsonIn {
    sas: Vec<JsonInbound>,
    packets: u64,
    last_spi: Option<String>,
    last_sequence: Option<u32>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct JsonInbound {
    spi: String,
    key: Option<String>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct JsonGuard {
    address: String,
    verdict: String,
    refused: Option<String>,
}

/// The shape of `prove --format json`.
pub fn evidence_json(view: &EvidenceView<'_>) -> JsonEvidence {
    let EvidenceView { host, config, local, account, .. } = view;
    let included = host.included.iter();
    JsonEvidence {
        format_version: FORMAT_VERSION.into(),
        mesh: config.mesh.to_string(),
        local: local.name.to_string(),
        short_id: local.short_id.get(),
        address: local.address.to_string(),
        taken: view.taken.rfc3339(),
        generation: view.moment.generation.get(),
        traffic: traffic(config),
        host: host.name.clone(),
        kernel: host.kernel.clone(),
        meshsec: env!("CARGO_PKG_VERSION").into(),
        file: host.file.clone(),
        included: included
            .map(|(name, sha256)| JsonIncluded { name: name.clone(), sha256: sha256.clone() })
            .collect(),
        capture: JsonCapture {
            devices: view.devices.iter().cloned().collect(),
            packets: account.packets,
            lost: account.lost,
            stray: account.stray,
        },
        proven: view.is_proven(),
        peers: view.peers.iter().map(peer).collect(),
        guard: view.guard.map(guard),
        excepted: view.exceptions.clone(),
    }
}

fn peer(proof: &PeerProof<'_>) -> JsonPeerProof {
    let PeerProof { pair, sent, seen, matched, findings, .. } = proof;
    let last = seen.came_last;
    let sas = pair.inbound.iter().map(|(spi, key)| JsonInbound {
        spi: spi.to_string(),
        key: key.map(|key| key.to_string()),
    });
    let finding = |finding| JsonFinding { code: code(finding).into(), text: of_finding(finding) };
    JsonPeerProof {
        name: pair.name.to_string(),
        short_id: pair.short_id.get(),
        address: pair.address.to_string(),
        stage: pair.stage.name().into(),
        verdict: proof.proof.word().into(),
        findings: findings.iter().map(finding).collect(),
        sent: sent.taken.into(),
        refused: sent.refused.values().map(|count| u64::from(*count)).sum(),
        seen: *matched,
        marker_packets: seen.marked,
        clear_packets: seen.clear,
        control: seen.control,
        out: pair.out.as_ref().map(|out| JsonOut {
            spi: out.spi.to_string(),
            encap: out.encap.map(|encap| encap.dport),
            key: out.key.map(|key| key.to_string()),
            packets: seen.esp,
            first_sequence: seen.headers.first().map(|header| header.sequence),
            last_sequence: seen.last.map(|header| header.sequence),
            headers: seen.headers.iter().map(|header| hex::encode(header.bytes())).collect(),
        }),
        inbound: JsonIn {
            sas: sas.collect(),
            packets: seen.came,
            last_spi: last.map(|header| header.spi.to_string()),
            last_sequence: last.map(|header| header.sequence),
        },
    }
}

fn guard(guard: &GuardProof) -> JsonGuard {
    JsonGuard {
        address: guard.address.to_string(),
        verdict: guard.proof.word().into(),
        refused: guard.refused.clone(),
    }
}

impl JsonEvidence {
    /// The parts that are compared.
    ///
    /// # Errors
    ///
    /// A value that the program never writes.
    pub fn testimony(&self) -> Result<Testimony, &'static str> {
        let host = member(&self.local, self.short_id, &self.address)?;
        let mut peers = std::collections::BTreeMap::new();
        for peer in &self.peers {
            let claim = peer.claim()?;
            if peers.insert(claim.peer.name.clone(), claim).is_some() {
                return Err("a peer is in it twice");
            }
        }
        let included = self.included.iter();
        Ok(Testimony {
            mesh: self.mesh.clone(),
            host,
            taken: Time::parse(&self.taken).ok_or("taken is not a time")?,
            generation: Generation::new(self.generation).ok_or("a generation is too large")?,
            file: self.file.clone(),
            included: included.map(|file| (file.name.clone(), file.sha256.clone())).collect(),
            lost: self.capture.lost,
            stray: self.capture.stray,
            peers,
        })
    }
}

impl JsonPeerProof {
    fn claim(&self) -> Result<Claim, &'static str> {
        let mut inbound = std::collections::BTreeMap::new();
        for sa in &self.inbound.sas {
            inbound.insert(spi(&sa.spi)?, key(sa.key.as_ref())?);
        }
        let out = self.out.as_ref();
        let headers = out.iter().flat_map(|out| &out.headers).map(|text| header(text));
        Ok(Claim {
            peer: member(&self.name, self.short_id, &self.address)?,
            proof: self.verdict.clone(),
            sent: self.sent,
            refused: self.refused,
            matched: self.seen,
            clear: self.marker_packets.saturating_add(self.clear_packets),
            out: out.map(outbound).transpose()?,
            packets: out.map_or(0, |out| out.packets),
            headers: headers.collect::<Result<_, _>>()?,
            inbound,
            came: self.inbound.packets,
        })
    }
}

fn member(name: &str, short_id: u16, address: &str) -> Result<Member, &'static str> {
    Ok(Member {
        name: PeerName::new(name).ok_or("a name is not a peer's")?,
        short_id: ShortId::new(short_id).ok_or("a ShortID is too large")?,
        address: address.parse().map_err(|_| "an address is not one")?,
    })
}

fn outbound(out: &JsonOut) -> Result<(Spi, Option<Fingerprint>), &'static str> {
    Ok((spi(&out.spi)?, key(out.key.as_ref())?))
}

fn spi(text: &str) -> Result<Spi, &'static str> {
    Spi::try_from(text.to_owned()).map_err(|_| "an SPI is not one")
}

fn key(text: Option<&String>) -> Result<Option<Fingerprint>, &'static str> {
    text.map(|text| Fingerprint::try_from(text.clone())).transpose()
}

fn header(text: &str) -> Result<(Spi, u32), &'static str> {
    let mut bytes = [0; 8];
    hex::decode_to_slice(text, &mut bytes).map_err(|_| "a header is not 8 bytes in hex")?;
    let [a, b, c, d, e, f, g, h] = bytes;
    Ok((Spi::from_raw(u32::from_be_bytes([a, b, c, d])), u32::from_be_bytes([e, f, g, h])))
}

#[derive(Serialize)]
struct JsonComparison<'a> {
    format_version: &'static str,
    mesh: &'a str,
    documents: Vec<JsonCompared>,
    proven: bool,
    /// Why the documents prove nothing together.
    objections: &'a [String],
    directions: Vec<JsonDirection<'a>>,
}

#[derive(Serialize)]
struct JsonCompared {
    file: String,
    host: String,
    taken: String,
}

#[derive(Serialize)]
struct JsonDirection<'a> {
    from: &'a str,
    to: &'a str,
    proven: bool,
    spi: Option<String>,
    packets: u64,
    came: u64,
    /// Null where a kernel does not show its key.
    same_key: Option<bool>,
    objections: &'a [String],
}

/// The shape of `prove --compare FILE FILE --format json`.
pub fn comparison_json<'a>(view: &'a ComparisonView<'_>) -> impl Serialize + use<'a> {
    let compared = |ComparedHost { path, taken, host }: &ComparedHost<'_>| JsonCompared {
        file: path.display().to_string(),
        host: (*host).to_owned(),
        taken: taken.rfc3339(),
    };
    JsonComparison {
        format_version: FORMAT_VERSION,
        mesh: view.mesh,
        documents: view.documents.iter().map(compared).collect(),
        proven: view.comparison.is_proven(),
        objections: &view.comparison.objections,
        directions: view.comparison.directions.iter().map(direction).collect(),
    }
}

fn direction(direction: &DirectionProof) -> JsonDirection<'_> {
    JsonDirection {
        from: direction.from.as_str(),
        to: direction.to.as_str(),
        proven: direction.objections.is_empty(),
        spi: direction.spi.map(|spi| spi.to_string()),
        packets: direction.packets,
        came: direction.came,
        same_key: direction.same_key,
        objections: &direction.objections,
    }
}
