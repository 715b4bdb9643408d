//! `[[except]]`: traffic between two hosts that stays unprotected, with kind "all".
#![forbid(unsafe_code)]

use std::{collections::BTreeMap, ops::Range};

use super::word;
use crate::config::{
    pairs::{self, Names},
    reader::{Findings, Section, Value},
    schema::{EXCEPT_ICMP, EXCEPT_PORT, EXCEPT_PROTOCOL, SERVES, Table},
    types::{EncapWish, Exception, Protocol, Traffic},
};

/// As many as a file may have: each is up to six policies for each peer.
const MOST: usize = 16;

/// The parts of other tables that decide about exceptions, as far as they are known.
pub(super) struct OtherTables<'a> {
    pub traffic: Option<Traffic>,
    pub encap: Option<EncapWish>,
    /// The names of all peers; `None` where some could not be read.
    pub names: Option<&'a Names<'a>>,
}

/// All exceptions. None after an error.
pub(super) fn read(
    findings: &mut Findings<'_>,
    value: &Value<'_>,
    others: &OtherTables<'_>,
) -> Option<Vec<Exception>> {
    let Some(array) = value.get_ref().as_array() else {
        findings.not_a(value, "except", "an array of tables", Table::Except.write());
        return None;
    };
    if others.traffic.is_some_and(|traffic| traffic != Traffic::All) {
        let message = "[[except]] is for kind = \"all\": other kinds protect their own ports alone";
        let hint = "leave it out, or write kind = \"all\" in [traffic]";
        let span = array.iter().next().map_or(value.span(), |first| first.span());
        findings.wrong(span, message.into(), hint);
        return None;
    }
    if array.len() > MOST {
        let message = format!("there are more than {MOST} exceptions");
        let hint =
            "protect the ports that need it instead: kind = { protocol = \"tcp\", port = 443 }";
        findings.wrong(value.span(), message, hint);
        return None;
    }
    let mut seen = BTreeMap::<(u8, u16), Range<usize>>::new();
    let read: Vec<Option<Exception>> =
        array.iter().map(|value| exception(findings, value, others, &mut seen)).collect();
    read.into_iter().collect()
}

fn exception(
    findings: &mut Findings<'_>,
    value: &Value<'_>,
    others: &OtherTables<'_>,
    seen: &mut BTreeMap<(u8, u16), Range<usize>>,
) -> Option<Exception> {
    let Some(table) = value.get_ref().as_table() else {
        findings.not_a(value, "except", "an array of tables", Table::Except.write());
        return None;
    };
    let section = Section::open(findings, Table::Except, value.span(), table);
    let exception = match section.get(EXCEPT_ICMP.name) {
        Some(icmp) => echo(findings, &section, icmp)?,
        None => port(findings, &section, others)?,
    };
    let (place, what) = match &exception {
        Exception::Echo => ((0, 0), "icmp".to_owned()),
        Exception::Port { protocol, port, .. } => {
            ((protocol.number(), *port), format!("{} port {port}", protocol.name()))
        }
    };
    if let Some(first) = seen.get(&place) {
        let line = findings.source.line(first.start);
        let message = format!("{what} is an exception on line {line} already");
        let hint = "leave one of the two out; serves can name several hosts";
        findings.wrong(value.span(), message, hint);
        return None;
    }
    seen.insert(place, value.span());
    Some(exception)
}

fn echo(
    findings: &mut Findings<'_>,
    section: &Section<'_, '_>,
    icmp: &Value<'_>,
) -> Option<Exception> {
    let given = findings.boolean(icmp, EXCEPT_ICMP)?;
    if !given {
        findings.wrong(icmp.span(), "icmp = false excepts nothing".into(), EXCEPT_ICMP.write);
        return None;
    }
    for field in [EXCEPT_PROTOCOL, EXCEPT_PORT, SERVES] {
        if let Some(value) = section.get(field.name) {
            let message = format!("{} does not go with icmp = true", field.name);
            findings.wrong(value.span(), message, "write an [[except]] for each");
            return None;
        }
    }
    Some(Exception::Echo)
}

fn port(
    findings: &mut Findings<'_>,
    section: &Section<'_, '_>,
    others: &OtherTables<'_>,
) -> Option<Exception> {
    let protocol = section.require(findings, EXCEPT_PROTOCOL).and_then(|value| {
        let name = word(findings, value, EXCEPT_PROTOCOL)?;
        Protocol::ALL.into_iter().find(|protocol| protocol.name() == name)
    });
    let given = section.require(findings, EXCEPT_PORT);
    let port = given.and_then(|value| {
        findings.number(value, EXCEPT_PORT).and_then(|port| u16::try_from(port).ok())
    });
    let serves = section.require(findings, SERVES).and_then(|value| {
        let Some(array) = value.get_ref().as_array() else {
            findings.wrong_type(value, SERVES, "an array of names");
            return None;
        };
        if array.is_empty() {
            findings.wrong(value.span(), "serves names no host".into(), SERVES.write);
            return None;
        }
        let members = array
            .iter()
            .map(|name| pairs::member(findings, name, others.names, (SERVES, "a name in serves")));
        members.collect::<Vec<_>>().into_iter().collect::<Option<Vec<_>>>()
    });
    let (protocol, port, serves) = (protocol?, port?, serves?);
    let is_encap = protocol == Protocol::Udp && others.encap.is_some_and(|e| e.port == port);
    if let Some(value) = given.filter(|_| is_encap) {
        let message = format!("UDP port {port} is where hosts take ESP, by encap in [esp]");
        findings.wrong(
            value.span(),
            message,
            "leave the exception out, or give encap another port",
        );
        return None;
    }
    Some(Exception::Port { protocol, port, serves })
}
