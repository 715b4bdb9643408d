//! Rules of the nat table that can change the sources of packets from this host's networks to those of
//! peers.
//!
//! Pure. A connection is given its source once, as its first packet leaves by the mesh's interface: not
//! again as that packet, encrypted, leaves by a device below.
#![forbid(unsafe_code)]

use super::{
    follow::{self, Is, Then, Visitor, follow, is_named},
    nat::{LONGEST_RULE, MOST_RULES},
    parse::{Line, Table, prefix},
};
use crate::model::{Backend, Family, Prefix, Translation};

/// Packets from this host's networks to those of peers.
#[derive(Debug, Clone)]
pub(crate) struct NetworkPackets {
    /// The networks behind this host.
    pub own: Vec<Prefix>,
    /// Those behind its peers.
    pub others: Vec<Prefix>,
    /// The interface that they leave by.
    pub device: String,
}

/// The rules of a nat table that can change the sources of these packets.
pub(super) fn translations(
    family: Family,
    backend: Backend,
    table: &Table,
    packets: &NetworkPackets,
) -> Vec<Translation> {
    let of_family = |all: &[Prefix]| -> Vec<Prefix> {
        let is_of = |prefix: &&Prefix| prefix.address.is_ipv4() == (family == Family::Ipv4);
        all.iter().filter(is_of).copied().collect()
    };
    let (own, others) = (of_family(&packets.own), of_family(&packets.others));
    if own.is_empty() || others.is_empty() {
        return Vec::new();
    }
    let packets = NetworkPackets { own, others, device: packets.device.clone() };
    let place = format!("{}-{} -t nat", family.program(), backend.suffix());
    let mut walk = Walk { packets: &packets, place, found: Vec::new() };
    follow(table, &mut walk, CHAIN);
    walk.found.truncate(MOST_RULES);
    walk.found
}

const CHAIN: &str = "POSTROUTING";

struct Walk<'a> {
    packets: &'a NetworkPackets,
    place: String,
    found: Vec<Translation>,
}

impl Visitor for Walk<'_> {
    fn matches(&self, line: &Line) -> Is {
        follow::matches(line, |option, value| one(option, value, self.packets))
    }

    fn target(&mut self, chain: &str, line: &Line, target: &str, sure: bool) -> Then {
        match target {
            "MASQUERADE" | "NETMAP" => {}
            "SNAT" if gives_own(line, self.packets) => return Then::End,
            "SNAT" => {}
            "ACCEPT" | "DROP" => return Then::End,
            "MARK" | "CONNMARK" | "LOG" | "NFLOG" | "SET" | "TRACE" | "CT" => return Then::GoOn,
            _ => return Then::MayGoOn,
        }
        let text = format!("{} -A {chain} {}", self.place, line.text);
        let rule = text.chars().take(LONGEST_RULE).collect();
        self.found.push(Translation { rule, chain: CHAIN.into(), certain: sure, esp: false });
        Then::End
    }
}

/// One match of a rule. An unknown match may match.
fn one(option: &str, value: &str, packets: &NetworkPackets) -> Is {
    let within = |networks: &[Prefix]| {
        prefix(value).map_or(Is::Maybe, |prefix| {
            let mut covered = networks.iter().map(|network| prefix.covers(network));
            Is::of(covered.all(|is| is), networks.iter().any(|network| prefix.overlaps(network)))
        })
    };
    match option {
        "-m" if matches!(value, "comment" | "addrtype" | "policy") => Is::Sure,
        "--comment" => Is::Sure,
        "-s" => within(&packets.own),
        "-d" => within(&packets.others),
        "-o" => {
            let is = is_named(value, &packets.device);
            Is::of(is, is)
        }
        // This host has no address in a peer's network.
        "--dst-type" if value == "LOCAL" => Is::Not,
        // The interface asks the policies behind these rules.
        "--pol" if value == "none" => Is::Sure,
        "--pol" if value == "ipsec" => Is::Not,
        "--dir" if value == "out" => Is::Sure,
        _ => Is::Maybe,
    }
}

/// Whether a rule gives packets one address within this host's networks, which peers take.
fn gives_own(line: &Line, packets: &NetworkPackets) -> bool {
    let words = line.words.as_deref().unwrap_or_default();
    let at = words.iter().position(|word| word == "--to-source");
    let address = at.and_then(|at| words.get(at + 1)?.parse().ok());
    address.is_some_and(|address| {
        packets.own.iter().any(|network| network.covers(&Prefix::host(address)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::linux::iptables::parse;

    #[test]
    fn a_rule_counts_unless_it_leaves_the_interface_or_the_networks_out() {
        let prefixes = |all: &[&str]| all.iter().map(|text| prefix(text).unwrap()).collect();
        let packets = NetworkPackets {
            own: prefixes(&["10.1.0.0/16", "fd00:1::/48"]),
            others: prefixes(&["10.2.0.0/16", "10.3.0.0/16", "fd00:2::/48"]),
            device: "mesh0".into(),
        };
        for (rules, certain) in [
            ("", &[][..]),
            ("-A POSTROUTING -j MASQUERADE\n", &[true]),
            ("-A POSTROUTING -o eth0 -j MASQUERADE\n", &[]),
            ("-A POSTROUTING ! -o mesh0 -j MASQUERADE\n", &[]),
            ("-A POSTROUTING -o mesh+ -j MASQUERADE\n", &[true]),
            ("-A POSTROUTING -s 10.1.0.0/16 ! -d 10.1.0.0/16 -j MASQUERADE\n", &[true]),
            ("-A POSTROUTING -s 10.1.3.0/24 ! -o br0 -j MASQUERADE\n", &[false]),
            ("-A POSTROUTING -s 172.17.0.0/16 ! -o docker0 -j MASQUERADE\n", &[]),
            ("-A POSTROUTING -s 10.1.0.0/16 -d 10.2.0.0/16 -j MASQUERADE\n", &[false]),
            ("-A POSTROUTING ! -d 10.0.0.0/8 -j MASQUERADE\n", &[]),
            ("-A POSTROUTING -m policy --dir out --pol none -j MASQUERADE\n", &[true]),
            (
                "-A POSTROUTING -m policy --dir out --pol ipsec -j ACCEPT\n-A POSTROUTING -j MASQUERADE\n",
                &[true],
            ),
            ("-A POSTROUTING -d 10.0.0.0/8 -j ACCEPT\n-A POSTROUTING -j MASQUERADE\n", &[]),
            ("-A POSTROUTING -j SNAT --to-source 10.1.0.1\n", &[]),
            ("-A POSTROUTING -j SNAT --to-source 192.0.2.1\n", &[true]),
            ("-A POSTROUTING -p tcp -j MASQUERADE\n", &[false]),
        ] {
            let text =
                format!("*nat\n:OUTPUT ACCEPT [0:0]\n:POSTROUTING ACCEPT [0:0]\n{rules}COMMIT\n");
            let table = parse::tables(&text).unwrap().remove("nat").unwrap();
            let found = translations(Family::Ipv4, Backend::NfTables, &table, &packets);
            let found: Vec<bool> = found.iter().map(|found| found.certain).collect();
            assert_eq!(found, certain, "{rules}");
        }
        let none = NetworkPackets { own: Vec::new(), ..packets };
        let table = parse::tables(
            "*nat\n:POSTROUTING ACCEPT [0:0]\n-A POSTROUTING -j MASQUERADE\nCOMMIT\n",
        );
        let table = table.unwrap().remove("nat").unwrap();
        assert_eq!(translations(Family::Ipv4, Backend::NfTables, &table, &none), []);
    }
}
