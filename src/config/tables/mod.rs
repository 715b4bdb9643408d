//! The tables of mesh.toml, apart from the peers.
#![forbid(unsafe_code)]

mod esp;
mod except;
mod keys;
mod link;
mod rotation;
mod traffic;
mod tunnel;

use std::{collections::BTreeSet, ops::Range, path::Path};

use toml::de::{DeTable, DeValue};

use crate::model::{MeshName, Replay, Reqid, Stage, Warning, WarningCode};

use super::{
    address,
    include::Included,
    mask,
    pairs::{self, Names},
    peers::{self, OtherTables, Peers, PublicKeySpans},
    reader::{Findings, Section, Value, lowered, nearest},
    schema::{self, Field, MESH_NAME, MESH_STAGE, PAIRS, REQID, Table},
    secrets::Spans,
    types::{Config, Guard, KeySource, Peer, Rotation, Traffic},
};

pub(super) use keys::KeyMethod;

/// The contents of a file, as far as they could be read.
pub(super) struct Draft {
    /// The configuration, if nothing is missing or wrong.
    pub config: Option<Config>,
    /// The places of the secrets, and the spans where the file names them.
    pub keys: Option<(KeySource, Spans)>,
    /// The spans of the public keys.
    pub public_keys: PublicKeySpans,
    /// Warnings of valid settings that may surprise.
    pub warnings: Vec<Warning>,
}

/// Reads the whole tree; `dir` is the directory of mesh.toml, and `others` are the files with peers
/// that mesh.toml includes.
pub(super) fn read<'s>(
    findings: &mut Findings<'s>,
    root: &DeTable<'_>,
    dir: &Path,
    others: &mut Others<'_, 's>,
) -> Draft {
    let start = if findings.source.text.starts_with('\u{feff}') { 3 } else { 0 };
    let top = Top { root, start: start..start, guessed: unknown_tables(findings, root) };
    let mesh = top.section(findings, Table::Mesh, true);
    let pairs = mesh.as_ref().and_then(|section| section.get(PAIRS.name));
    let mesh = mesh.and_then(|section| read_mesh(findings, &section));
    let traffic = top.section(findings, Table::Traffic, false);
    let (kind, traffic) = match traffic {
        Some(section) => traffic::read(findings, &section),
        None => (Some(traffic::DEFAULT.0), Some(traffic::DEFAULT)),
    };
    let keys = top.section(findings, Table::Keys, true);
    let keys = keys.map(|section| keys::read(findings, &section, dir)).unwrap_or_default();
    let rotation = top.section(findings, Table::Rotation, true);
    let by_clock = rotation.as_ref().is_some_and(|section| section.get("period").is_some());
    let rotation = rotation.and_then(|section| rotation::read(findings, &section));
    let esp = top.section(findings, Table::Esp, false);
    let esp = esp.map_or(Some(esp::default(by_clock)), |section| {
        esp::read(findings, &section, by_clock, kind)
    });
    let link = top.section(findings, Table::Link, false);
    let link = link.map_or(Some(None), |section| link::read(findings, &section, kind).map(Some));
    let tunnel = top.section(findings, Table::Tunnel, false);
    let tunnel = match tunnel {
        Some(section) => tunnel::read(findings, &section, kind),
        None => Some(tunnel::default(kind)),
    };
    let tables = OtherTables {
        keys: keys.kind,
        has_encap: esp.as_ref().map(|esp| esp.encap.is_some()),
        traffic: kind,
    };
    let own = match others.are_named {
        true => root.get(Table::Peer.name()),
        false => top.require(findings, Table::Peer),
    };
    let Peers { list, tables: number, public_keys, .. } = read_peers(findings, own, tables, others);
    let peers = (own.is_some() || others.are_named).then_some(list);
    let whole = peers.as_deref().filter(|list| list.len() == number && !others.lack_any());
    let except = root.get(Table::Except.name());
    // Made only where something names hosts.
    let names = whole.filter(|_| pairs.is_some() || except.is_some()).map(Names::of);
    let pairs = pairs::read_pairs(findings, pairs, names.as_ref());
    let encap = esp.as_ref().and_then(|esp| esp.encap);
    let tables = except::OtherTables { traffic: kind, encap, names: names.as_ref() };
    let exceptions =
        except.map_or(Some(Vec::new()), |value| except::read(findings, value, &tables));

    let config = (|| {
        let (mesh, reqid, stage) = mesh?;
        let (traffic, select, guard) = traffic?;
        let keys = keys.source.clone()?;
        let (esp, rotation, link, peers) = (esp?, rotation?, link?, peers?);
        let tunnel = tunnel?;
        Some(Config {
            mesh,
            reqid,
            stage,
            pairs: pairs?,
            traffic,
            select,
            guard,
            esp,
            keys,
            rotation,
            link,
            tunnel,
            peers,
            exceptions: exceptions?,
        })
    })();
    let warnings = config.as_ref().map(warnings).unwrap_or_default();
    let keys = keys.source.map(|source| (source, keys.spans));
    Draft { config, keys, public_keys, warnings }
}

/// The files with peers that mesh.toml includes.
pub(super) struct Others<'f, 's> {
    pub files: &'f mut [Included<'s, 's>],
    /// Whether mesh.toml names any.
    pub are_named: bool,
    /// Whether one that it names was not read.
    pub lacks: bool,
}

impl Others<'_, '_> {
    /// Whether there may be peers that nobody has read.
    fn lack_any(&self) -> bool {
        self.lacks || self.files.iter().any(|file| file.is_damaged)
    }
}

/// The peers of mesh.toml and of the other files, sorted by name.
fn read_peers<'s>(
    findings: &mut Findings<'s>,
    own: Option<&Value<'_>>,
    tables: OtherTables,
    others: &mut Others<'_, 's>,
) -> Peers<'s> {
    let mut peers = Peers::default();
    if let Some(value) = own {
        peers::read(findings, value, tables, &mut peers);
    }
    for file in others.files.iter_mut() {
        let Some(value) = file.peers else { continue };
        peers::read(&mut file.findings, value, tables, &mut peers);
    }
    for overlap in peers.overlaps() {
        let file = match overlap.file.checked_sub(1).and_then(|file| others.files.get_mut(file)) {
            Some(file) => &mut file.findings,
            None => &mut *findings,
        };
        file.wrong(overlap.span, overlap.message, overlap.hint);
    }
    peers.list.sort_by(|a, b| a.name.cmp(&b.name));
    let names: BTreeSet<&str> = peers.list.iter().map(|peer| peer.name.as_str()).collect();
    if let Some(value) = own {
        pairs::check_groups(findings, value, &names);
    }
    for file in others.files.iter_mut() {
        let Some(value) = file.peers else { continue };
        pairs::check_groups(&mut file.findings, value, &names);
    }
    peers
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
            Traffic::All
            | Traffic::Port { .. }
            | Traffic::Vxlan { .. }
            | Traffic::Geneve { .. }
            | Traffic::Networks,
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
    /// The place where missing parts are reported.
    start: Range<usize>,
    guessed: Vec<Table>,
}

impl<'v, 'i> Top<'v, 'i> {
    fn require(&self, findings: &mut Findings<'_>, table: Table) -> Option<&'v Value<'i>> {
        let value = self.root.get(table.name());
        if value.is_none() && !self.guessed.contains(&table) {
            let message = format!("{} is missing", table.title());
            findings.missing(self.start.clone(), message, table.write());
        }
        value
    }

    fn section(
        &self,
        findings: &mut Findings<'_>,
        table: Table,
        required: bool,
    ) -> Option<Section<'v, 'i>> {
        let value = match required {
            true => self.require(findings, table)?,
            false => self.root.get(table.name())?,
        };
        let Some(keys) = value.get_ref().as_table() else {
            findings.not_a(value, table.title(), "a table", table.write());
            return None;
        };
        Some(Section::open(findings, table, value.span(), keys))
    }
}

/// Reports unknown tables and keys outside of any table. Returns the tables that they were taken
/// for.
fn unknown_tables(findings: &mut Findings<'_>, root: &DeTable<'_>) -> Vec<Table> {
    let names = Table::TOP.map(Table::name);
    let titles = Table::TOP.map(Table::title);
    let (last, others) = titles.split_last().unwrap_or((&"", &[]));
    let known = format!("known are {} and {last}", others.join(", "));
    let mut guessed = Vec::new();
    for (key, value) in root.iter() {
        let written = key.get_ref().as_ref();
        if names.contains(&written) {
            continue;
        }
        let near = nearest(written, &names).and_then(Table::named);
        guessed.extend(near);
        let is_table = match value.get_ref() {
            DeValue::Table(_) => true,
            DeValue::Array(array) => array.iter().all(|value| value.get_ref().is_table()),
            DeValue::String(_)
            | DeValue::Integer(_)
            | DeValue::Float(_)
            | DeValue::Boolean(_)
            | DeValue::Datetime(_) => false,
        };
        let what = if is_table { "table" } else { "key" };
        let hint = match (near, schema::belongs(written)) {
            (Some(near), _) => format!("did you mean {}? {known}", near.title()),
            (None, Some(table)) if !is_table => format!("it belongs in {}", table.place()),
            (None, _) if !is_table => format!("keys belong in a table; {known}"),
            (None, _) => known.clone(),
        };
        findings.wrong(key.span(), format!("unknown {what} {}", mask::quote(written)), hint);
    }
    guessed
}

fn read_mesh(
    findings: &mut Findings<'_>,
    section: &Section<'_, '_>,
) -> Option<(MeshName, Reqid, Stage)> {
    let name = section.require(findings, MESH_NAME).and_then(|value| {
        let text = findings.text(value, MESH_NAME)?;
        let name = MeshName::new(text);
        if name.is_none() {
            let near = lowered(text, false).filter(|lowered| MeshName::new(lowered).is_some());
            findings.not_a_name((value, text), "a mesh's", near, MESH_NAME);
        }
        name
    });
    let given = section.get("reqid").map(|value| findings.number(value, REQID));
    let stage = read_stage(findings, section, MESH_STAGE);
    let name = name?;
    let reqid = match given {
        Some(number) => Reqid(u32::try_from(number?).ok()?),
        None => Reqid::of_name(&name),
    };
    Some((name, reqid, stage?))
}

/// The stage that a table names, or else the last. None after an error.
pub(super) fn read_stage(
    findings: &mut Findings<'_>,
    section: &Section<'_, '_>,
    field: Field,
) -> Option<Stage> {
    match section.get(field.name) {
        Some(value) => word(findings, value, field).and_then(Stage::named),
        None => Some(Stage::default()),
    }
}

/// A time of whole seconds, such as `1h`.
fn whole_seconds(text: &str) -> Option<u64> {
    let duration = humantime::parse_duration(text).ok()?;
    (duration.subsec_nanos() == 0).then_some(duration.as_secs())
}

/// One of the words that the key takes.
fn word(findings: &mut Findings<'_>, value: &Value<'_>, field: Field) -> Option<&'static str> {
    let text = findings.text(value, field)?;
    if let Some(word) = field.words().iter().find(|word| **word == text) {
        return Some(word);
    }
    let hint = match nearest(text, field.words()) {
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
        assert_eq!(Reqid::of_name(&MeshName::new("lab").unwrap()), Reqid(0x4d53_a511));
    }
}
