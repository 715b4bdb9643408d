//! What the tables of mesh.toml may say, apart from the peers.
#![forbid(unsafe_code)]

use std::{ops::Range, path::Path};

use sha2::{Digest, Sha256};
use toml::de::{DeTable, DeValue};

use crate::model::{Cipher, Generation, MeshName, Replay, Reqid};

use super::{
    mask, peers,
    reader::{Bounds, Field, Findings, Section, Value, belongs, nearest},
    secrets,
    types::{Config, Esp, Protocol, SecretSource, Traffic},
};

const TABLES: [&str; 6] = ["mesh", "traffic", "esp", "keys", "rotation", "peer"];
const TABLES_LATER: [&str; 1] = ["link"];
/// UDP's port for VXLAN (RFC 7348).
const VXLAN_PORT: u16 = 4789;
/// UDP's port for Geneve (RFC 8926).
const GENEVE_PORT: u16 = 6081;

const MESH: Field = Field { name: "[mesh]", write: "write [mesh] and name = \"…\" below it" };
const TRAFFIC: Field = Field { name: "[traffic]", write: "write [traffic] and its keys below it" };
const ESP: Field = Field { name: "[esp]", write: "write [esp] and its keys below it" };
const KEYS: Field =
    Field { name: "[keys]", write: "write [keys] and mesh_key = { file = \"mesh.key\" } below it" };
const ROTATION: Field =
    Field { name: "[rotation]", write: "write [rotation] and generation = 1 below it" };
const PEERS: Field = Field {
    name: "[[peer]]",
    write: "write a [[peer]] for each host, with name, short_id and address",
};

const NAME: Field = Field { name: "name", write: "write 1 to 32 of a-z 0-9 - in quotes" };
const REQID: Field =
    Field { name: "reqid", write: "write a number from 0x10000 to 0xffffffff, or leave it out" };
const REQIDS: Bounds = Bounds { min: 0x10000, max: 0xffff_ffff, hex: true };
const KIND: Field = Field {
    name: "kind",
    write: "write \"vxlan\", \"geneve\" or { protocol = \"tcp\", port = 443 }",
};
const PROTOCOL: Field = Field { name: "protocol", write: "write \"tcp\", \"udp\" or \"sctp\"" };
const PORT: Field = Field { name: "port", write: "write a number from 1 to 65535" };
const PORTS: Bounds = Bounds { min: 1, max: 65535, hex: false };
const SELECT: Field = Field { name: "select", write: "write \"port\", or leave it out" };
const MARK: Field = Field { name: "mark", write: "leave it out; select = \"port\" needs none" };
const GUARD: Field = Field { name: "guard", write: "write true or false" };
const CIPHER: Field = Field {
    name: "cipher",
    write: "write \"aes256-gcm\", \"aes128-gcm\" or \"chacha20-poly1305\"",
};
const ESN: Field = Field { name: "esn", write: "write true or false" };
const WINDOW: Field =
    Field { name: "replay_window", write: "write 0 or a power of two from 32 to 4096" };
const WINDOWS: Bounds = Bounds { min: 0, max: 4096, hex: false };
const OFFLOAD: Field = Field { name: "offload", write: "leave it out; the CPU encrypts" };
const MESH_KEY: Field =
    Field { name: "mesh_key", write: "write mesh_key = { file = \"mesh.key\" }" };
const KEYS_LATER: [Field; 3] = [
    Field { name: "private_key", write: "use mesh_key, one secret for the mesh" },
    Field { name: "psk", write: "leave it out; mesh_key needs none" },
    Field { name: "ratchet", write: "use mesh_key, one secret for the mesh" },
];
const GENERATION: Field =
    Field { name: "generation", write: "write a number from 0 up, such as generation = 1" };
const GENERATIONS: Bounds = Bounds { min: 0, max: Generation::MAX, hex: false };
const PERIOD: Field =
    Field { name: "period", write: "write generation = 1, and raise it to rotate the keys" };

/// What a file says, as far as it could be read.
pub(super) struct Draft {
    /// All of it, if nothing is missing and nothing wrong.
    pub config: Option<Config>,
    /// Where the secret is, and where the file says so.
    pub mesh_key: Option<(SecretSource, Range<usize>)>,
    /// What is right and may surprise all the same.
    pub warnings: Vec<String>,
}

/// Reads the whole tree; `dir` is the directory of mesh.toml.
pub(super) fn read(findings: &mut Findings<'_>, root: &DeTable<'_>, dir: &Path) -> Draft {
    let start = if findings.source.text.starts_with('\u{feff}') { 3 } else { 0 };
    let top = Top { root, start: start..start, guessed: unknown_tables(findings, root) };
    if let Some(span) = top.key_span("link") {
        findings.unsupported(span, "[link]", "leave it out, and set the device's MTU yourself");
    }
    let mesh = top.section(findings, MESH, &[&["name", "reqid"], &[]], true);
    let mesh = mesh.and_then(|section| read_mesh(findings, &section));
    let traffic =
        top.section(findings, TRAFFIC, &[&["kind", "port", "select", "guard"], &["mark"]], false);
    let traffic = traffic.map_or(Some((Traffic::Vxlan { port: VXLAN_PORT }, true)), |section| {
        read_traffic(findings, &section)
    });
    let esp_keys: &[&[&str]; 2] = &[&["cipher", "esn", "replay_window"], &["offload"]];
    let esp = top.section(findings, ESP, esp_keys, false);
    let none = Esp { cipher: Cipher::Aes256Gcm, replay: Replay { window: 0, esn: false } };
    let esp = esp.map_or(Some(none), |section| read_esp(findings, &section));
    let keys: &[&[&str]; 2] = &[&["mesh_key"], &["private_key", "psk", "ratchet"]];
    let keys = top.section(findings, KEYS, keys, true);
    let mesh_key = keys.and_then(|section| read_keys(findings, &section, dir));
    let rotation = top.section(findings, ROTATION, &[&["generation"], &["period"]], true);
    let generation = rotation.and_then(|section| read_rotation(findings, &section));
    let peers = top.require(findings, "peer", PEERS).map(|value| peers::read(findings, value));

    let config = (|| {
        let (mesh, reqid) = mesh?;
        let (traffic, guard) = traffic?;
        let mesh_key = mesh_key.clone()?.0;
        let (esp, generation, peers) = (esp?, generation?, peers?);
        Some(Config { mesh, reqid, traffic, guard, esp, mesh_key, generation, peers })
    })();
    let warnings = config.as_ref().map(warnings).unwrap_or_default();
    Draft { config, mesh_key, warnings }
}

fn warnings(config: &Config) -> Vec<String> {
    let mut warnings = Vec::new();
    if config.esp.replay != (Replay { window: 0, esn: false }) {
        warnings.push(
            "esn or replay_window with generation: after a restart a host is cut off from the \
             others until generation is raised"
                .into(),
        );
    }
    if config.peers.len() == 1 {
        warnings.push(format!("mesh {} has one peer, so there is nothing to protect", config.mesh));
    }
    warnings
}

/// The file's top level.
struct Top<'v, 'i> {
    root: &'v DeTable<'i>,
    /// Where something is said to be missing.
    start: Range<usize>,
    guessed: Vec<&'static str>,
}

impl<'v, 'i> Top<'v, 'i> {
    fn key_span(&self, name: &str) -> Option<Range<usize>> {
        self.root.get_key_value(name).map(|(key, _)| key.span())
    }

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
        keys: &[&[&'static str]; 2],
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
        Some(Section::open(findings, field.name, value.span(), table, *keys))
    }
}

/// Reports unknown tables and keys outside of any table. Gives the tables that
/// they were taken for.
fn unknown_tables(findings: &mut Findings<'_>, root: &DeTable<'_>) -> Vec<&'static str> {
    let mut guessed = Vec::new();
    for (key, value) in root.iter() {
        let written = key.get_ref().as_ref();
        if TABLES.contains(&written) || TABLES_LATER.contains(&written) {
            continue;
        }
        let near = nearest(written, TABLES.iter());
        guessed.extend(near);
        let what = match value.get_ref() {
            DeValue::Table(_) => "table",
            DeValue::Array(array) if array.iter().all(|v| v.get_ref().is_table()) => "table",
            _ => "key",
        };
        let known = "known are [mesh], [traffic], [esp], [keys], [rotation] and [[peer]]";
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
            findings.wrong(value.span(), message, NAME.write);
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

fn read_traffic(findings: &mut Findings<'_>, section: &Section<'_, '_>) -> Option<(Traffic, bool)> {
    section.refuse(findings, &[MARK]);
    let given = section.get("port").map(|value| read_port(findings, value));
    let port = given.flatten();
    let traffic = match section.get("kind") {
        Some(value) => read_kind(findings, value, port),
        None => Some(Traffic::Vxlan { port: port.unwrap_or(VXLAN_PORT) }),
    };
    let select = section
        .get("select")
        .map_or(Some(()), |value| word(findings, value, SELECT, &["port"], &["mark"]).map(drop));
    let guard = section.get("guard").map(|value| findings.boolean(value, GUARD));
    let (traffic, ()) = traffic.zip(select)?;
    if given == Some(None) {
        return None;
    }
    if let (Traffic::Port { .. }, Some(value)) = (traffic, section.get("port")) {
        let message = "port is given twice, here and in kind".into();
        findings.wrong(value.span(), message, "leave it out here");
        return None;
    }
    let guard = match (guard, traffic.can_be_guarded()) {
        (Some(given), true) => given?,
        (None, can) => can,
        (Some(Some(true)), false) => {
            let span = section.get("guard").map_or(section.header(), |value| value.span());
            let message =
                "this kind has no guard, which would block it from and to everybody".into();
            findings.wrong(span, message, "leave it out");
            return None;
        }
        (Some(given), false) => given?,
    };
    Some((traffic, guard))
}

fn read_port(findings: &mut Findings<'_>, value: &Value<'_>) -> Option<u16> {
    findings.number(value, PORT, PORTS).and_then(|port| u16::try_from(port).ok())
}

fn read_kind(findings: &mut Findings<'_>, value: &Value<'_>, port: Option<u16>) -> Option<Traffic> {
    if let Some(table) = value.get_ref().as_table() {
        let keys = [&["protocol", "port"][..], &[]];
        let section = Section::open(findings, "kind", value.span(), table, keys);
        let protocol = section.require(findings, PROTOCOL).and_then(|value| {
            let name = word(findings, value, PROTOCOL, &Protocol::ALL.map(Protocol::name), &[])?;
            Protocol::ALL.into_iter().find(|protocol| protocol.name() == name)
        });
        let port = section.require(findings, PORT).and_then(|value| read_port(findings, value));
        return Some(Traffic::Port { protocol: protocol?, port: port? });
    }
    Some(match word(findings, value, KIND, &["vxlan", "geneve"], &["all"])? {
        "geneve" => Traffic::Geneve { port: port.unwrap_or(GENEVE_PORT) },
        _ => Traffic::Vxlan { port: port.unwrap_or(VXLAN_PORT) },
    })
}

/// One word of `now`; those of `later` are not built yet.
fn word(
    findings: &mut Findings<'_>,
    value: &Value<'_>,
    field: Field,
    now: &[&'static str],
    later: &[&'static str],
) -> Option<&'static str> {
    let text = findings.text(value, field)?;
    if let Some(word) = now.iter().find(|word| **word == text) {
        return Some(word);
    }
    if later.contains(&text) {
        findings.unsupported(value.span(), &format!("{} = \"{text}\"", field.name), field.write);
        return None;
    }
    let hint = match nearest(text, now.iter()) {
        Some(near) => format!("did you mean \"{near}\"?"),
        None => field.write.to_owned(),
    };
    findings.wrong(value.span(), format!("unknown {} {}", field.name, mask::quote(text)), hint);
    None
}

fn read_esp(findings: &mut Findings<'_>, section: &Section<'_, '_>) -> Option<Esp> {
    section.refuse(findings, &[OFFLOAD]);
    let cipher = section.get("cipher").map_or(Some(Cipher::Aes256Gcm), |value| {
        let names = Cipher::ALL.map(Cipher::name);
        let name = word(findings, value, CIPHER, &names, &[])?;
        Cipher::ALL.into_iter().find(|cipher| cipher.name() == name)
    });
    let esn = section.get("esn").map_or(Some(false), |value| findings.boolean(value, ESN));
    let window = section.get("replay_window").map_or(Some(0), |value| read_window(findings, value));
    let replay = Replay { window: window?, esn: esn? };
    if replay.esn && replay.window == 0 {
        let span = section.get("esn").map_or(section.header(), |value| value.span());
        let message = "the kernel refuses ESN without a replay window".into();
        findings.wrong(span, message, "write replay_window = 1024 as well");
        return None;
    }
    Some(Esp { cipher: cipher?, replay })
}

fn read_window(findings: &mut Findings<'_>, value: &Value<'_>) -> Option<u32> {
    let number = findings.number(value, WINDOW, WINDOWS)?;
    if number == 0 || (number >= 32 && number.is_power_of_two()) {
        return u32::try_from(number).ok();
    }
    let message = format!("replay_window {number} is neither 0 nor a power of two from 32 to 4096");
    let hint = format!("write {}", (number.next_power_of_two()).max(32));
    findings.wrong(value.span(), message, hint);
    None
}

fn read_keys(
    findings: &mut Findings<'_>,
    section: &Section<'_, '_>,
    dir: &Path,
) -> Option<(SecretSource, Range<usize>)> {
    section.refuse(findings, &KEYS_LATER);
    if let Some(value) = section.get("mesh_key") {
        return Some((secrets::source(findings, value, MESH_KEY, dir)?, value.span()));
    }
    let other = ["private_key", "ratchet"]
        .iter()
        .any(|key| section.key_span(key).is_some() || section.is_guessed(key));
    if !other {
        section.require(findings, MESH_KEY);
    }
    None
}

fn read_rotation(findings: &mut Findings<'_>, section: &Section<'_, '_>) -> Option<Generation> {
    section.refuse(findings, &[PERIOD]);
    if section.key_span("period").is_some() && section.get("generation").is_none() {
        return None;
    }
    let value = section.require(findings, GENERATION)?;
    findings.number(value, GENERATION, GENERATIONS).and_then(Generation::new)
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
