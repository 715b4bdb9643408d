//! `[traffic]`.
#![forbid(unsafe_code)]

use super::word;
use crate::config::{
    reader::{Bounds, Field, Findings, Section, Value},
    types::{Protocol, Traffic},
};

/// UDP's port for VXLAN (RFC 7348).
const VXLAN_PORT: u16 = 4789;
/// UDP's port for Geneve (RFC 8926).
const GENEVE_PORT: u16 = 6081;

/// The keys of this table, and those that this release refuses.
pub(super) const KEYS: [&[&str]; 2] = [&["kind", "port", "select", "guard"], &["mark"]];
/// What holds where there is no such table: the traffic, and whether it is guarded.
pub(super) const DEFAULT: (Traffic, bool) = (Traffic::Vxlan { port: VXLAN_PORT }, true);

const KIND: Field = Field {
    name: "kind",
    write: "write \"vxlan\", \"geneve\", \"all\" or { protocol = \"tcp\", port = 443 }",
};
const PROTOCOL: Field = Field { name: "protocol", write: "write \"tcp\", \"udp\" or \"sctp\"" };
const PORT: Field = Field { name: "port", write: "write a number from 1 to 65535" };
const PORTS: Bounds = Bounds { min: 1, max: 65535, hex: false };
const SELECT: Field = Field { name: "select", write: "write \"port\", or leave it out" };
const MARK: Field = Field { name: "mark", write: "leave it out; select = \"port\" needs none" };
const GUARD: Field = Field { name: "guard", write: "write true or false" };

pub(super) fn read(
    findings: &mut Findings<'_>,
    section: &Section<'_, '_>,
) -> Option<(Traffic, bool)> {
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
    let message = match traffic {
        Traffic::Port { .. } => Some("port is given twice, here and in kind"),
        Traffic::All => Some("kind = \"all\" is of every protocol and has no port"),
        Traffic::Vxlan { .. } | Traffic::Geneve { .. } => None,
    };
    let portless = message.zip(section.get("port"));
    if let Some((message, value)) = portless {
        findings.wrong(value.span(), message.into(), "leave it out here");
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
    portless.is_none().then_some((traffic, guard))
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
    Some(match word(findings, value, KIND, &["vxlan", "geneve", "all"], &[])? {
        "all" => Traffic::All,
        "geneve" => Traffic::Geneve { port: port.unwrap_or(GENEVE_PORT) },
        _ => Traffic::Vxlan { port: port.unwrap_or(VXLAN_PORT) },
    })
}
