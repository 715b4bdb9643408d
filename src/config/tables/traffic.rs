//! `[traffic]`.
#![forbid(unsafe_code)]

use std::{collections::BTreeSet, num::NonZeroU16};

use super::word;
use crate::{
    config::{
        mask,
        ports::Ports,
        reader::{Findings, Section, Value},
        schema::{Field, GUARD, KIND, KIND_PORT, KIND_PROTOCOL, MARK, PORT, SELECT, Table},
        types::{Guard, Protocol, Select, Traffic},
    },
    model::{Mark, number as number_of},
};

/// UDP's port for VXLAN (RFC 7348).
const VXLAN_PORT: u16 = 4789;
/// UDP's port for Geneve (RFC 8926).
const GENEVE_PORT: u16 = 6081;
/// One bit, which Kubernetes, Cilium and Tailscale leave alone.
const DEFAULT_MARK: Mark = Mark { value: 0x20000, mask: 0x20000 };

/// The default where there is no such table.
pub(super) const DEFAULT: Read = (Traffic::Vxlan { port: VXLAN_PORT }, Select::Port, Guard::Both);

/// The traffic, its selection, and its guard.
type Read = (Traffic, Select, Guard);

/// The kind of traffic, if it could be read, and all that the table says; none of that after an error.
pub(super) fn read(
    findings: &mut Findings<'_>,
    section: &Section<'_, '_>,
) -> (Option<Traffic>, Option<Read>) {
    let given = section.get("port").map(|value| read_port(findings, value));
    let port = given.flatten();
    let traffic = match section.get("kind") {
        Some(value) => read_kind(findings, value, port),
        None => Some(Traffic::Vxlan { port: port.unwrap_or(VXLAN_PORT) }),
    };
    (traffic, read_rest(findings, section, (given, traffic)))
}

/// Reads the rest of the table. `given` is the port, where the file gives one.
fn read_rest(
    findings: &mut Findings<'_>,
    section: &Section<'_, '_>,
    (given, traffic): (Option<Option<u16>>, Option<Traffic>),
) -> Option<Read> {
    let guard_of_networks = section.get("guard").filter(|_| traffic == Some(Traffic::Networks));
    if let Some(value) = guard_of_networks {
        let message = "kind = \"networks\" has guards of its own at stage enforce".into();
        findings.wrong(value.span(), message, "leave it out");
    }
    let select = read_select(findings, section, traffic);
    if guard_of_networks.is_some() {
        return None;
    }
    let guard = section.get("guard").map(|value| read_guard(findings, value));
    let (traffic, select) = traffic.zip(select)?;
    if given == Some(None) {
        return None;
    }
    let message = match traffic {
        Traffic::Port { .. } => Some("port is given twice, here and in kind"),
        Traffic::All => Some("kind = \"all\" is of every protocol and has no port"),
        Traffic::Networks => Some("kind = \"networks\" is of every protocol and has no port"),
        Traffic::Vxlan { .. } | Traffic::Geneve { .. } => None,
    };
    let portless = message.zip(section.get("port"));
    if let Some((message, value)) = portless {
        findings.wrong(value.span(), message.into(), "leave it out here");
    }
    let guard = match (guard, traffic.can_be_guarded()) {
        (Some(given), true) => given?,
        (None, true) => Guard::Both,
        (None, false) => Guard::Off,
        (Some(Some(Guard::Both | Guard::Policies)), false) => {
            let message =
                "this kind has no guard, which would block it from and to everybody".into();
            findings.wrong(span_of(section, "guard"), message, "leave it out");
            return None;
        }
        (Some(given), false) => given?,
    };
    let message = match (select, guard) {
        (Select::Port, _) | (_, Guard::Both) => None,
        (Select::Mark(_), Guard::Policies) => Some(
            "guard = \"xfrm\" guards nothing that leaves: with select = \"mark\" a policy that \
             blocks would meet packets before they are marked",
        ),
        (Select::Mark(_), Guard::Off) => {
            Some("guard = false lets traffic out in the clear wherever the mark is missing")
        }
    };
    if let Some(message) = message {
        let hint = "leave it out: with select = \"mark\" there is always a guard";
        findings.wrong(span_of(section, "guard"), message.into(), hint);
        return None;
    }
    portless.is_none().then_some((traffic, select, guard))
}

/// The place of a key's value, or else of the table.
fn span_of(section: &Section<'_, '_>, key: &str) -> std::ops::Range<usize> {
    section.get(key).map_or(section.header(), |value| value.span())
}

/// `true`, `"xfrm"` or `false`.
fn read_guard(findings: &mut Findings<'_>, value: &Value<'_>) -> Option<Guard> {
    match (value.get_ref().as_bool(), value.get_ref().as_str()) {
        (Some(true), _) => Some(Guard::Both),
        (Some(false), _) => Some(Guard::Off),
        (None, Some(_)) => word(findings, value, GUARD).map(|_| Guard::Policies),
        (None, None) => {
            findings.wrong_type(value, GUARD, "true, \"xfrm\" or false");
            None
        }
    }
}

/// The selection of the traffic. `traffic` is the kind of traffic, if that could be read.
fn read_select(
    findings: &mut Findings<'_>,
    section: &Section<'_, '_>,
    traffic: Option<Traffic>,
) -> Option<Select> {
    let by_routes = section.get("select").or(section.get("mark"));
    if let (Some(Traffic::Networks), Some(value)) = (traffic, by_routes) {
        let message = "kind = \"networks\" is selected by routes".into();
        findings.wrong(value.span(), message, "leave it out");
        return None;
    }
    let select = section.get("select").map_or(Some("port"), |value| word(findings, value, SELECT));
    let mark = section.get("mark").map(|value| read_mark(findings, value));
    if select? == "port" {
        if mark.is_some() {
            let message = "mark is for select = \"mark\"".into();
            let hint = "write select = \"mark\" as well, or leave mark out";
            findings.wrong(span_of(section, "mark"), message, hint);
            return None;
        }
        return Some(Select::Port);
    }
    if traffic.is_some_and(|traffic| !traffic.can_be_guarded()) {
        let message = "select = \"mark\" is for kinds vxlan and geneve only".into();
        let hint = "leave it out: the kernel selects this kind by its ports";
        findings.wrong(span_of(section, "select"), message, hint);
        return None;
    }
    mark.unwrap_or(Some(DEFAULT_MARK)).map(Select::Mark)
}

/// `VALUE/MASK`; a value alone is its own mask.
fn read_mark(findings: &mut Findings<'_>, value: &Value<'_>) -> Option<Mark> {
    let text = findings.text(value, MARK)?;
    let (number, bits) = text.split_once('/').unwrap_or((text, text));
    let shown = mask::quote(text);
    let (Some(number), Some(bits)) = (number_of(number), number_of(bits)) else {
        let message = format!("{shown} is no mark");
        findings.wrong(value.span(), message, MARK.write);
        return None;
    };
    let (message, hint) = if bits == 0 {
        (format!("{shown} has no bit in its mask"), MARK.write.to_owned())
    } else if number & !bits != 0 {
        let hint = format!("write \"{number:#x}/{:#x}\"", number | bits);
        (format!("the value of {shown} has bits that its mask lacks"), hint)
    } else if number == 0 {
        // An unmarked packet would match.
        let hint = format!("write \"{bits:#x}/{bits:#x}\"");
        (format!("{shown} is the mark of packets that have none"), hint)
    } else {
        return Some(Mark { value: number, mask: bits });
    };
    findings.wrong(value.span(), message, hint);
    None
}

/// The port of a tunnel.
fn read_port(findings: &mut Findings<'_>, value: &Value<'_>) -> Option<u16> {
    let what = match value.get_ref().as_array() {
        Some(_) => "a list of ports",
        None if is_range(value) => "a list or a range of ports",
        None => return read_number(findings, value, PORT),
    };
    let message = format!("port must be one number, not {what}");
    findings.wrong(value.span(), message, "write one port: a mesh's tunnel has one");
    None
}

/// Whether a value is text that programs read as several ports.
fn is_range(value: &Value<'_>) -> bool {
    let several = |text: &str| text.contains(['-', ':', ',', ' ']) || text.contains("..");
    value.get_ref().as_str().is_some_and(several)
}

/// A port.
fn read_number(findings: &mut Findings<'_>, value: &Value<'_>, field: Field) -> Option<u16> {
    let quoted = value.get_ref().as_str().filter(|text| text.parse::<NonZeroU16>().is_ok());
    if let Some(text) = quoted {
        let hint = format!("write {text}, without quotes");
        findings.wrong(value.span(), "port must be an integer, not a string".into(), hint);
        return None;
    }
    findings.number(value, field).and_then(|port| u16::try_from(port).ok())
}

const EACH: &str = "write each port, such as [2181, 2888], at most 16; or kind = \"all\" for all \
                    traffic between the hosts";

/// The ports of conversations: one, or a list.
fn read_ports(findings: &mut Findings<'_>, value: &Value<'_>) -> Option<Ports> {
    let Some(list) = value.get_ref().as_array() else {
        return read_listed(findings, value, KIND_PORT).map(Ports::one);
    };
    let mut seen = BTreeSet::new();
    let mut ports = Vec::new();
    for value in list.iter() {
        let port = read_listed(findings, value, PORT);
        if let Some(port) = port.filter(|port| !seen.insert(*port)) {
            let message = format!("port {port} is in the list twice");
            findings.wrong(value.span(), message, "leave it out here");
        }
        ports.push(port);
    }
    if list.is_empty() || list.len() > Ports::MOST {
        let message = match list.len() {
            0 => "the list of ports is empty".into(),
            number => format!("the list has {number} ports, more than {}", Ports::MOST),
        };
        findings.wrong(value.span(), message, EACH);
    }
    Ports::new(&ports.into_iter().collect::<Option<Vec<u16>>>()?)
}

/// A port by itself or in a list.
fn read_listed(findings: &mut Findings<'_>, value: &Value<'_>, field: Field) -> Option<u16> {
    if is_range(value) {
        let message = "port must be a number, not a list or a range in quotes";
        findings.wrong(value.span(), message.into(), EACH);
        return None;
    }
    read_number(findings, value, field)
}

/// SCTP knows all addresses of both ends, and switches to others when a path fails.
fn read_protocol(findings: &mut Findings<'_>, value: &Value<'_>) -> Option<Protocol> {
    if value.get_ref().as_str() == Some("sctp") {
        let message = "sctp fails over to other addresses of the two hosts, which no policy covers";
        let hint = "write \"tcp\" or \"udp\", or send SCTP through a tunnel: kind = \"vxlan\"";
        findings.wrong(value.span(), message.into(), hint);
        return None;
    }
    let name = word(findings, value, KIND_PROTOCOL)?;
    Protocol::ALL.into_iter().find(|protocol| protocol.name() == name)
}

fn read_kind(findings: &mut Findings<'_>, value: &Value<'_>, port: Option<u16>) -> Option<Traffic> {
    if let Some(table) = value.get_ref().as_table() {
        let section = Section::open(findings, Table::Kind, value.span(), table);
        let protocol = section
            .require(findings, KIND_PROTOCOL)
            .and_then(|value| read_protocol(findings, value));
        let ports =
            section.require(findings, KIND_PORT).and_then(|value| read_ports(findings, value));
        return Some(Traffic::Port { protocol: protocol?, ports: ports? });
    }
    Some(match word(findings, value, KIND)? {
        "all" => Traffic::All,
        "networks" => Traffic::Networks,
        "geneve" => Traffic::Geneve { port: port.unwrap_or(GENEVE_PORT) },
        _ => Traffic::Vxlan { port: port.unwrap_or(VXLAN_PORT) },
    })
}
