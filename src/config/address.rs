//! A peer's address: valid forms, invalid ones, and their corrections.
//!
//! An address that a hint suggests is always a valid one.
#![forbid(unsafe_code)]

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use super::{
    mask,
    reader::{Findings, Value},
    schema::{ADDRESS, INSIDE, OUTSIDE},
};

const GLOBAL: &str = "write an address of this host that routers know, in quotes";
const BOTH_FAMILIES: &str = "write one address; a host with IPv4 and IPv6 peers has two files: DUAL STACK in meshsec-traffic(7)";

pub(super) fn read(findings: &mut Findings<'_>, value: &Value<'_>) -> Option<IpAddr> {
    if value.get_ref().is_array() {
        let message = "address must be a string, not an array".into();
        findings.wrong(value.span(), message, BOTH_FAMILIES);
        return None;
    }
    let text = findings.text(value, ADDRESS)?;
    let Problem { is, hint } = match text.parse() {
        Ok(address) => match unsuitable(address) {
            None => return Some(address),
            Some(problem) => problem,
        },
        Err(_) => unparsed(text),
    };
    findings.wrong(value.span(), format!("{} is {is}", mask::quote(text)), hint);
    None
}

/// An address within a peer's networks.
pub(super) fn parse_inside(
    findings: &mut Findings<'_>,
    value: &Value<'_>,
    text: &str,
) -> Option<IpAddr> {
    let Problem { is, hint } = match text.parse() {
        Ok(address) => match unsuitable(address) {
            None => return Some(address),
            Some(Problem { is, .. }) => problem(is, INSIDE.write),
        },
        Err(_) => match unparsed(text) {
            Problem { is, hint } if hint.starts_with("write \"") => problem(is, hint),
            Problem { is, .. } => problem(is, INSIDE.write),
        },
    };
    findings.wrong(value.span(), format!("{} is {is}", mask::quote(text)), hint);
    None
}

/// An address that others can send to, and a port: `203.0.113.5:4500`, `[2001:db8::5]:4500`.
pub(super) fn read_with_port(findings: &mut Findings<'_>, value: &Value<'_>) -> Option<SocketAddr> {
    let text = findings.text(value, OUTSIDE)?;
    let Problem { is, hint } = match (text.parse::<SocketAddr>(), text.parse::<IpAddr>()) {
        (Ok(socket), _) if socket.port() == 0 => problem("of port 0", OUTSIDE.write),
        (Ok(SocketAddr::V6(socket)), _) if socket.scope_id() != 0 => {
            problem("an address with a zone", OUTSIDE.write)
        }
        (Ok(socket), _) => match unsuitable(socket.ip()) {
            None => return Some(socket),
            Some(Problem { is, .. }) => problem(is, OUTSIDE.write),
        },
        (Err(_), Ok(address)) if unsuitable(address).is_none() => {
            let hint = format!(
                "write \"{}\", with the port that is forwarded",
                SocketAddr::new(address, DEFAULT_PORT)
            );
            problem("an address without a port", hint)
        }
        (Err(_), _) => problem("not an address and a port", OUTSIDE.write),
    };
    findings.wrong(value.span(), format!("{} is {is}", mask::quote(text)), hint);
    None
}

/// The port of IPsec behind NAT (RFC 3948), for hints.
const DEFAULT_PORT: u16 = 4500;

/// The kind of a text that is not a host's address, and its correction.
struct Problem {
    is: &'static str,
    hint: String,
}

fn problem(is: &'static str, hint: impl Into<String>) -> Problem {
    Problem { is, hint: hint.into() }
}

/// The reason why a packet can't come from this address through the underlay.
fn unsuitable(address: IpAddr) -> Option<Problem> {
    let common = |is| Some(problem(is, ADDRESS.write));
    match address {
        _ if address.is_unspecified() => common("the unspecified address, not a host's"),
        _ if address.is_multicast() => common("a multicast address, not a host's"),
        _ if address.is_loopback() => common("a loopback address, which no other host reaches"),
        IpAddr::V4(v4) if v4.is_broadcast() => common("the broadcast address, not a host's"),
        IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some() => {
            Some(alone(address.to_canonical(), "an IPv4 address in an IPv6 one", ""))
        }
        IpAddr::V6(v6) if v6.is_unicast_link_local() => {
            Some(problem("a link-local address, which means another host on each link", GLOBAL))
        }
        IpAddr::V4(_) | IpAddr::V6(_) => None,
    }
}

/// The problem of an address with extra characters. A problem of the address itself comes first: a
/// hint that is refused in turn helps nobody.
fn alone(address: IpAddr, is: &'static str, more: &str) -> Problem {
    let hint = format!("write \"{address}\"{more}");
    unsuitable(address).unwrap_or_else(|| problem(is, hint))
}

/// The kind of a text that is not an address.
fn unparsed(text: &str) -> Problem {
    decorated(text).unwrap_or_else(|| {
        let many = |c: char| c == ',' || c == ';' || c.is_whitespace();
        let parts = || text.split(many).filter(|part| !part.is_empty());
        if text.trim().is_empty() {
            let hint = "write the address under which the other hosts reach it; \
                        a host without a fixed address can't be a peer";
            problem("empty", hint)
        } else if parts().count() > 1 && parts().all(|part| part.parse::<IpAddr>().is_ok()) {
            problem("several addresses", BOTH_FAMILIES)
        } else if is_host_name(text) {
            let hint = "write its address: SAs and policies have addresses, not names";
            problem("a name, not an IP address", hint)
        } else {
            problem("not an IP address", ADDRESS.write)
        }
    })
}

/// An address with a prefix length, a zone, a port, brackets, spaces or zeros.
fn decorated(text: &str) -> Option<Problem> {
    let parsed = |text: &str| -> Option<IpAddr> {
        let text = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
        text.parse().ok().or_else(|| without_zeros(text))
    };
    let part = |separator| text.split_once(separator).and_then(|(part, _)| parsed(part));
    if let Some(address) = part('/') {
        return Some(alone(address, "an address with a prefix length", ""));
    }
    if let Ok(socket) = text.parse::<SocketAddr>() {
        return Some(alone(socket.ip(), "an address with a port", "; the port is in [traffic]"));
    }
    if let Some(address) = part('%') {
        return Some(alone(address, "an address with a zone", ""));
    }
    if let Some(address) = without_zeros(text) {
        return Some(alone(address, "an address with leading zeros", ""));
    }
    let trimmed = text.trim();
    let is = if trimmed == text { "an address in brackets" } else { "an address with spaces" };
    parsed(trimmed).map(|address| alone(address, is, ""))
}

/// `192.0.2.01`, which some programs read as octal and others as decimal.
fn without_zeros(text: &str) -> Option<IpAddr> {
    let part = |part: &str| {
        let digits = (1..=3).contains(&part.len()) && part.bytes().all(|c| c.is_ascii_digit());
        digits.then(|| part.parse::<u8>().ok()).flatten()
    };
    let parts: Vec<u8> = text.split('.').map(part).collect::<Option<_>>()?;
    let zeros = text.split('.').any(|part| part.len() > 1 && part.starts_with('0'));
    <[u8; 4]>::try_from(parts).ok().filter(|_| zeros).map(IpAddr::from)
}

/// `node0.example.net`, also with a port.
fn is_host_name(text: &str) -> bool {
    let name = match text.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|c| c.is_ascii_digit()) => name,
        _ => text,
    };
    name.starts_with(|c: char| c.is_ascii_alphanumeric())
        && name.contains(|c: char| c.is_ascii_alphabetic())
        && name.chars().all(|c| c.is_ascii_alphanumeric() || "-._".contains(c))
}

/// The oddity of an address that the kernel still accepts.
pub(super) fn reserved(address: IpAddr) -> Option<&'static str> {
    let IpAddr::V4(v4) = address else { return None };
    match v4.octets()[0] {
        0 => Some("0.0.0.0/8 (\"this network\")"),
        240.. if v4 != Ipv4Addr::BROADCAST => Some("240.0.0.0/4 (reserved)"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn an_address_that_packets_cannot_come_from_is_refused() {
        let refused = ["0.0.0.0", "::", "224.0.0.5", "ff02::1", "127.0.0.1", "127.9.9.9", "::1"];
        let more = ["255.255.255.255", "::ffff:192.0.2.1", "fe80::1"];
        for address in refused.iter().chain(&more) {
            assert!(unsuitable(address.parse().unwrap()).is_some(), "{address}");
        }
        // Nobody can tell the 192.0.2.255 of a /24 from that of a /16.
        for address in
            ["192.0.2.1", "10.0.0.0", "169.254.1.1", "2001:db8::1", "fd00::1", "192.0.2.255"]
        {
            assert!(unsuitable(address.parse().unwrap()).is_none(), "{address}");
        }
    }

    #[test]
    fn what_is_too_much_on_an_address_is_named() {
        for (text, is, hint) in [
            ("192.0.2.1/24", "an address with a prefix length", "write \"192.0.2.1\""),
            ("2001:db8::1%eth0", "an address with a zone", "write \"2001:db8::1\""),
            (
                "[2001:db8::1]:4789",
                "an address with a port",
                "write \"2001:db8::1\"; the port is in [traffic]",
            ),
            ("[2001:db8::1]", "an address in brackets", "write \"2001:db8::1\""),
            (" 192.0.2.1", "an address with spaces", "write \"192.0.2.1\""),
            ("192.0.2.01", "an address with leading zeros", "write \"192.0.2.1\""),
            ("::ffff:10.0.0.1", "an IPv4 address in an IPv6 one", "write \"10.0.0.1\""),
            ("192.0.2.1, 2001:db8::1", "several addresses", BOTH_FAMILIES),
            ("300.0.2.1", "not an IP address", ADDRESS.write),
            ("hunter 2", "not an IP address", ADDRESS.write),
        ] {
            let found = text.parse().ok().and_then(unsuitable).unwrap_or_else(|| unparsed(text));
            assert_eq!((found.is, found.hint.as_str()), (is, hint), "{text}");
        }
        for name in ["localhost", "node0.example.net", "db_1:4789", "3com.example"] {
            assert_eq!(unparsed(name).is, "a name, not an IP address", "{name}");
        }
    }

    #[test]
    fn what_is_left_of_a_bad_address_is_not_offered() {
        for text in [
            "fe80::1%eth0",
            "127.0.0.1/8",
            "[::1]:4789",
            "0.0.0.0/0",
            "::ffff:127.0.0.1",
            "[fe80::1%2]:1",
            "255.255.255.255/32",
            "127.0.0.01",
        ] {
            let found = text.parse().ok().and_then(unsuitable).unwrap_or_else(|| unparsed(text));
            assert!(!found.hint.contains("write \""), "{text}: {}", found.hint);
        }
    }

    fn decoration() -> impl Strategy<Value = String> {
        let address = prop_oneof![
            any::<u32>().prop_map(|bits| Ipv4Addr::from(bits).to_string()),
            any::<[u16; 8]>().prop_map(|parts| std::net::Ipv6Addr::from(parts).to_string()),
            any::<u32>().prop_map(|bits| format!("::ffff:{}", Ipv4Addr::from(bits))),
            Just("fe80::1".to_owned()),
            Just("127.0.0.1".to_owned()),
            Just("::".to_owned()),
        ];
        let around = prop_oneof![
            Just(("", "")),
            Just(("[", "]")),
            Just(("", "/0")),
            Just(("", "%eth0")),
            Just(("[", "]:4789")),
            Just(("", ":4789")),
            Just((" ", " ")),
            Just(("[", "%1]:1")),
            Just(("0", "")),
            Just(("[", "]/64")),
        ];
        (address, around).prop_map(|(address, (before, after))| format!("{before}{address}{after}"))
    }

    proptest! {
        #[test]
        fn an_address_that_a_hint_offers_is_taken(text in decoration()) {
            let found = match text.parse() {
                Ok(address) => unsuitable(address),
                Err(_) => Some(unparsed(&text)),
            };
            let offered = found.and_then(|found| {
                let quoted = found.hint.strip_prefix("write \"")?.split_once('"')?.0.to_owned();
                Some(quoted)
            });
            if let Some(offered) = offered {
                let address = offered.parse::<IpAddr>();
                prop_assert!(address.is_ok_and(|address| unsuitable(address).is_none()), "{offered}");
            }
        }
    }
}
