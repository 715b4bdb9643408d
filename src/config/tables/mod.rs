//! What the tables of mesh.toml may say, apart from the peers.
#![forbid(unsafe_code)]

mod esp;
mod keys;
mod link;
mod rotation;
mod traffic;

use std::{ops::Range, path::Path};

use sha2::{Digest, Sha256};
use toml::de::{DeTable, DeValue};

use crate::model::{MeshName, Replay, Reqid, Warning, WarningCode};

use super::{
    address, mask,
    peers::{self, PublicKeySpans},
    reader::{Bounds, Field, Findings, Section, Value, belongs, lowered, nearest},
    secrets::Spans,
    types::{Config, Guard, KeySource, Peer, Rotation, Traffic},
};

pub(super) use keys::Kind;

const TABLES: [&str; 7] = ["mesh", "traffic", "esp", "keys", "rotation", "link", "peer"];
const MESH: Field = Field { name: "[mesh]", write: "write [mesh] and name = \"…\" below it" };
const TRAFFIC: Field = Field { name: "[traffic]", write: "write [traffic] and its keys below it" };
const ESP: Field = Field { name: "[esp]", write: "write [esp] and its keys below it" };
const KEYS: Field =
    Field { name: "[keys]", write: "write [keys] and mesh_key = { file = \"mesh.key\" } below it" };
const ROTATION: Field = Field {
    name: "[rotation]",
    write: "write [rotation] and generation = 1 or period = \"1h\" below it",
};
const LINK: Field =
    Field { name: "[link]", write: "write [link] and device = \"vxlan42\" below it" };
const PEERS: Field = Field {
    name: "[[peer]]",
    write: "write a [[peer]] for each host, with name, short_id and address",
};

const NAME: Field = Field { name: "name", write: "write 1 to 32 of a-z 0-9 - in quotes" };
const REQID: Field =
    Field { name: "reqid", write: "write a number from 0x10000 to 0xffffffff, or leave it out" };
const REQIDS: Bounds = Bounds { min: 0x10000, max: 0xffff_ffff, hex: true };

/// What a file says, as far as it could be read.
pub(super) struct Draft {
    /// All of it, if nothing is missing and nothing wrong.
    pub config: Option<Config>,
    /// Where the secrets are, and where the file says so.
    pub keys: Option<(KeySource, Spans)>,
    /// Where the public keys are.
    pub public_keys: PublicKeySpans,
    /// What is right and may surprise all the same.
    pub warnings: Vec<Warning>,
}

/// Reads the whole tree; `dir` is the directory of mesh.toml.
pub(super) fn read(findings: &mut Findings<'_>, root: &DeTable<'_>, dir: &Path) -> Draft {
    let start = if findings.source.text.starts_with('\u{feff}') { 3 } else { 0 };
    let top = Top { root, start: start..start, guessed: unknown_tables(findings, root) };
    let mesh = top.section(findings, MESH, &["name", "reqid"], true);
    let mesh = mesh.and_then(|section| read_mesh(findings, &section));
    let traffic = top.section(findings, TRAFFIC, traffic::KEYS, false);
    let traffic =
        traffic.map_or(Some(traffic::DEFAULT), |section| traffic::read(findings, &section));
    let keys = top.section(findings, KEYS, keys::KEYS, true);
    let keys = keys.map(|section| keys::read(findings, &section, dir)).unwrap_or_default();
    let rotation = top.section(findings, ROTATION, rotation::KEYS, true);
    let by_clock = rotation.as_ref().is_some_and(|section| section.get("period").is_some());
    let rotation = rotation.and_then(|section| rotation::read(findings, &section));
    let esp = top.section(findings, ESP, esp::KEYS, false);
    let esp =
        esp.map_or(Some(esp::default(by_clock)), |section| esp::read(findings, &section, by_clock));
    let link = top.section(findings, LINK, link::KEYS, false);
    let link = link.map_or(Some(None), |section| {
        link::read(findings, &section, traffic.map(|(traffic, ..)| traffic)).map(Some)
    });
    let mut public_keys = PublicKeySpans::new();
    let peers = top
        .require(findings, "peer", PEERS)
        .map(|value| peers::read(findings, value, keys.kind, &mut public_keys));

    let config = (|| {
        let (mesh, reqid) = mesh?;
        let (traffic, select, guard) = traffic?;
        let keys = keys.source.clone()?;
        let (esp, rotation, link, peers) = (esp?, rotation?, link?, peers?);
        Some(Config { mesh, reqid, traffic, select, guard, esp, keys, rotation, link, peers })
    })();
    let warnings = config.as_ref().map(warnings).unwrap_or_default();
    let keys = keys.source.map(|source| (source, keys.spans));
    Draft { config, keys, public_keys, warnings }
}

fn warnings(config: &Config) -> Vec<Warning> {
    let mut warnings = Vec::new();
    let by_file = matches!(config.rotation, Rotation::Generation(_));
    if by_file && config.esp.replay != (Replay { window: 0, esn: false }) {
        let text = "esn or replay_window with generation: after a restart a host is cut off from \
                    the others until generation is raised";
        warnings.push(Warning::new(WarningCode::WindowWithGeneration, text));
    }
    if config.peers.len() == 1 {
        warnings.push(Warning::new(WarningCode::OnePeer, alone(config)));
    }
    warnings.extend(reserved(config).map(|text| Warning::new(WarningCode::AddressReserved, text)));
    warnings
}

/// A file with one peer, as a template with an empty list of hosts makes it.
fn alone(config: &Config) -> String {
    let nothing = format!("mesh {} has one peer, so there is nothing to protect", config.mesh);
    match (config.guard, config.traffic) {
        (Guard::Both | Guard::Policies, Traffic::Vxlan { port }) => {
            format!("{nothing}, and the guards block all VXLAN of this host (UDP port {port})")
        }
        (Guard::Both | Guard::Policies, Traffic::Geneve { port }) => {
            format!("{nothing}, and the guards block all Geneve of this host (UDP port {port})")
        }
        (
            _,
            Traffic::All | Traffic::Port { .. } | Traffic::Vxlan { .. } | Traffic::Geneve { .. },
        ) => nothing,
    }
}

/// Addresses that Linux takes and many routers and other systems don't.
fn reserved(config: &Config) -> Option<String> {
    let odd =
        |peer: &Peer| Some((peer.name.clone(), peer.address, address::reserved(peer.address)?));
    let mut found = config.peers.iter().filter_map(odd);
    let (name, address, range) = found.next()?;
    let more = match found.count() {
        0 => String::new(),
        more => format!(", and {more} more like it"),
    };
    Some(format!(
        "address {address} of {name} is of {range}{more}: Linux sends to it, but many routers don't \
         pass it on"
    ))
}

/// The file's top level.
struct Top<'v, 'i> {
    root: &'v DeTable<'i>,
    /// Where something is said to be missing.
    start: Range<usize>,
    guessed: Vec<&'static str>,
}

impl<'v, 'i> Top<'v, 'i> {
    fn require(
        &self,
        findings: &mut Findings<'_>,
        name: &str,
        table: Field,
    ) -> Option<&'v Value<'i>> {
        let value = self.root.get(name);
        if value.is_none() && !self.guessed.contains(&name) {
            findings.missing(self.start.clone(), format!("{} is missing", table.name), table.write);
        }
        value
    }

    fn section(
        &self,
        findings: &mut Findings<'_>,
        field: Field,
        keys: &[&'static str],
        required: bool,
    ) -> Option<Section<'v, 'i>> {
        let name = field.name.trim_matches(['[', ']']);
        let value = match required {
            true => self.require(findings, name, field)?,
            false => self.root.get(name)?,
        };
        let Some(table) = value.get_ref().as_table() else {
            findings.wrong_type(value, field, "a table");
            return None;
        };
        Some(Section::open(findings, field.name, value.span(), table, keys))
    }
}

/// Reports unknown tables and keys outside of any table. Gives the tables that
/// they were taken for.
fn unknown_tables(findings: &mut Findings<'_>, root: &DeTable<'_>) -> Vec<&'static str> {
    let mut guessed = Vec::new();
    for (key, value) in root.iter() {
        let written = key.get_ref().as_ref();
        if TABLES.contains(&written) {
            continue;
        }
        let near = nearest(written, TABLES.iter());
        guessed.extend(near);
        let what = match value.get_ref() {
            DeValue::Table(_) => "table",
            DeValue::Array(array) if array.iter().all(|v| v.get_ref().is_table()) => "table",
            _ => "key",
        };
        let known = "known are [mesh], [traffic], [esp], [keys], [rotation], [link] and [[peer]]";
        let hint = match near {
            Some("peer") => format!("did you mean [[peer]]? {known}"),
            Some(near) => format!("did you mean [{near}]? {known}"),
            None if belongs(written).is_some_and(|_| what == "key") => {
                format!("it belongs in {}", belongs(written).unwrap_or_default())
            }
            None if what == "key" => format!("keys belong in a table; {known}"),
            None => known.to_owned(),
        };
        findings.wrong(key.span(), format!("unknown {what} {}", mask::quote(written)), hint);
    }
    guessed
}

fn read_mesh(findings: &mut Findings<'_>, section: &Section<'_, '_>) -> Option<(MeshName, Reqid)> {
    let name = section.require(findings, NAME).and_then(|value| {
        let text = findings.text(value, NAME)?;
        let name = MeshName::new(text);
        if name.is_none() {
            let message = format!("{} can't be a mesh's name", mask::quote(text));
            let near = lowered(text, false).and_then(|lowered| MeshName::new(&lowered));
            let hint = near.map_or(NAME.write.into(), |near| format!("write \"{near}\""));
            findings.wrong(value.span(), message, hint);
        }
        name
    });
    let given = section.get("reqid").map(|value| findings.number(value, REQID, REQIDS));
    let name = name?;
    let reqid = match given {
        Some(number) => Reqid(u32::try_from(number?).ok()?),
        None => default_reqid(&name),
    };
    Some((name, reqid))
}

/// 0x4d53 is "MS"; the name's hash keeps meshes on one host apart.
fn default_reqid(name: &MeshName) -> Reqid {
    let digest = Sha256::digest(name.as_str().as_bytes());
    Reqid(0x4d53_0000 | u32::from(digest[0]) << 8 | u32::from(digest[1]))
}

/// One of `words`.
fn word(
    findings: &mut Findings<'_>,
    value: &Value<'_>,
    field: Field,
    words: &[&'static str],
) -> Option<&'static str> {
    let text = findings.text(value, field)?;
    if let Some(word) = words.iter().find(|word| **word == text) {
        return Some(word);
    }
    let hint = match nearest(text, words.iter()) {
        Some(near) => format!("did you mean \"{near}\"?"),
        None => field.write.to_owned(),
    };
    findings.wrong(value.span(), format!("unknown {} {}", field.name, mask::quote(text)), hint);
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_reqid_follows_from_the_name() {
        // printf lab | sha256sum
        assert_eq!(default_reqid(&MeshName::new("lab").unwrap()), Reqid(0x4d53_a511));
    }
}
