//! Rules of the nat table that can change the addresses of packets to peers.
//!
//! Pure. The chains are followed from OUTPUT and POSTROUTING as the kernel does, with three
//! answers: a rule matches, doesn't match, or may match. The size of the result is bounded.
#![forbid(unsafe_code)]

use std::{
    collections::{BTreeMap, BTreeSet},
    iter,
    net::IpAddr,
};

use super::{
    follow::{self, Is, Then, Visitor, follow, is_named, protocol},
    parse::{Line, Table, prefix},
};
use crate::model::{Backend, Family, IPPROTO_ESP, IPPROTO_UDP, Prefix, Translation};

/// The limit of rules: more than anybody reads.
pub(super) const MOST_RULES: usize = 32;
/// The characters of a foreign rule that are shown.
pub(super) const LONGEST_RULE: usize = 200;

/// Packets from the local peer to the others, as far as rules can tell them.
#[derive(Debug, Clone)]
pub(crate) struct Packets {
    /// The local peer's address.
    pub local: IpAddr,
    /// The addresses of the other peers.
    pub peers: Vec<IpAddr>,
    /// Their protocol; none for all.
    pub protocol: Option<u8>,
    /// Their destination port, if all have the same.
    pub port: Option<u16>,
    /// The devices that they leave by; `None` if the devices are not known.
    pub devices: Option<BTreeSet<String>>,
    /// Whether they are the ESP packets that come from the SAs.
    pub esp: bool,
    /// The peers by the destination port of the datagrams that hold ESP, if there are any.
    pub encap: BTreeMap<u16, Vec<IpAddr>>,
    /// The addresses of each device, those of its own link left out.
    pub addresses: BTreeMap<String, BTreeSet<IpAddr>>,
}

/// The rules of a nat table that can change addresses of these packets.
pub(super) fn translations(
    family: Family,
    backend: Backend,
    table: &Table,
    packets: &Packets,
) -> Vec<Translation> {
    if packets.local.is_ipv4() != (family == Family::Ipv4) {
        return Vec::new();
    }
    let place = format!("{}-{} -t nat", family.program(), backend.suffix());
    let mut walk = Walk { table, packets, place, base: "", found: Vec::new() };
    walk.all();
    let Walk { place, mut found, .. } = walk;
    // An encrypted packet meets the rules once more, as an ESP packet or a datagram that holds one.
    let plain = (IPPROTO_ESP, None, &packets.peers);
    let in_udp = packets.encap.iter().map(|(port, peers)| (IPPROTO_UDP, Some(*port), peers));
    for (protocol, port, peers) in iter::once(plain).chain(in_udp) {
        let (protocol, peers) = (Some(protocol), peers.clone());
        let esp = Packets { protocol, port, peers, esp: true, ..packets.clone() };
        let place = place.clone();
        let mut again = Walk { table, packets: &esp, place, base: "", found: Vec::new() };
        again.all();
        again.found.retain(|esp| !found.iter().any(|known| known.rule == esp.rule));
        found.extend(again.found);
    }
    found.truncate(MOST_RULES);
    found
}

struct Walk<'a> {
    table: &'a Table,
    packets: &'a Packets,
    place: String,
    /// The built-in chain that is followed.
    base: &'static str,
    found: Vec<Translation>,
}

impl Walk<'_> {
    /// Follows the built-in chains that packets of this host meet.
    fn all(&mut self) {
        for chain in ["OUTPUT", "POSTROUTING"] {
            self.base = chain;
            follow(self.table, self, chain);
        }
    }
}

impl Visitor for Walk<'_> {
    fn matches(&self, line: &Line) -> Is {
        matches(line, self.packets)
    }

    fn target(&mut self, chain: &str, line: &Line, target: &str, sure: bool) -> Then {
        let change = match target {
            "SNAT" => given(line, "--to-source", self.packets, true),
            "MASQUERADE" => masquerade(self.packets),
            "DNAT" => given(line, "--to-destination", self.packets, false),
            "NETMAP" | "REDIRECT" => Is::Sure,
            "ACCEPT" | "DROP" => return Then::End,
            "MARK" | "CONNMARK" | "LOG" | "NFLOG" | "SET" | "TRACE" | "CT" => return Then::GoOn,
            _ => return Then::MayGoOn,
        };
        if change != Is::Not {
            let text = format!("{} -A {chain} {}", self.place, line.text);
            let rule = text.chars().take(LONGEST_RULE).collect();
            let (chain, certain) = (self.base.into(), sure && change == Is::Sure);
            self.found.push(Translation { rule, chain, certain, esp: self.packets.esp });
        }
        Then::End
    }
}

/// Whether a rule matches packets to peers.
fn matches(line: &Line, packets: &Packets) -> Is {
    follow::matches(line, |option, value| one(option, value, packets))
}

/// One match of a rule. An unknown match may match.
fn one(option: &str, value: &str, packets: &Packets) -> Is {
    let peers = || packets.peers.iter();
    match option {
        "-m" => match value {
            "tcp" | "udp" | "comment" | "addrtype" | "policy" => Is::Sure,
            _ => Is::Maybe,
        },
        "--comment" => Is::Sure,
        "-s" => prefix(value).map_or(Is::Maybe, |prefix| {
            let inside = prefix.covers(&Prefix::host(packets.local));
            Is::of(inside, inside)
        }),
        "-d" => prefix(value).map_or(Is::Maybe, |prefix| {
            let mut inside = peers().map(|peer| prefix.covers(&Prefix::host(*peer)));
            Is::of(inside.clone().all(|is| is), inside.any(|is| is))
        }),
        "-p" => match (protocol(value), packets.protocol) {
            (Some(named), Some(own)) => Is::of(named == own, named == own),
            _ => Is::Maybe,
        },
        "--dport" => match (value.parse::<u16>(), packets.port) {
            (Ok(named), Some(own)) => Is::of(named == own, named == own),
            _ => Is::Maybe,
        },
        "-o" => packets.devices.as_ref().map_or(Is::Maybe, |devices| {
            let mut named = devices.iter().map(|device| is_named(value, device));
            Is::of(named.clone().all(|is| is), named.any(|is| is))
        }),
        // This host has no peer's address.
        "--dst-type" if value == "LOCAL" => Is::Not,
        "--src-type" if value == "LOCAL" => Is::Sure,
        "--dir" if value == "out" => Is::Sure,
        // Packets that policies select are on their way to an SA. ESP packets come from one.
        "--pol" if value == "none" => Is::of(packets.esp, packets.esp),
        "--pol" if value == "ipsec" => Is::of(!packets.esp, !packets.esp),
        _ => Is::Maybe,
    }
}

/// Whether a rule gives packets an address other than their own.
fn given(line: &Line, option: &str, packets: &Packets, source: bool) -> Is {
    let words = line.words.as_deref().unwrap_or_default();
    let at = words.iter().position(|word| word == option);
    let Some(to) = at.and_then(|at| words.get(at + 1)) else { return Is::Maybe };
    let plain = to.trim_start_matches('[').replace(']', "");
    let address = plain.parse().ok().or_else(|| plain.rsplit_once(':')?.0.parse().ok());
    match address {
        Some(address) if source => Is::of(address != packets.local, false),
        Some(address) => Is::of(!packets.peers.contains(&address), true),
        None => Is::Maybe,
    }
}

/// Whether the kernel picks another source address for a device. Certain where the device has only
/// other addresses, and not so where it has only the local peer's. Otherwise it may.
fn masquerade(packets: &Packets) -> Is {
    let Some(devices) = &packets.devices else { return Is::Maybe };
    let of_device = |device: &String| match packets.addresses.get(device) {
        None => Is::Maybe,
        Some(addresses) if addresses.contains(&packets.local) => match addresses.len() {
            1 => Is::Not,
            _ => Is::Maybe,
        },
        Some(_) => Is::Sure,
    };
    let all: BTreeSet<Is> = devices.iter().map(of_device).collect();
    match (all.len(), all.first()) {
        (1, Some(same)) => *same,
        _ => Is::Maybe,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::linux::iptables::parse;

    fn packets(device_has: &[&str]) -> Packets {
        let address = |text: &&str| text.parse().unwrap();
        Packets {
            local: address(&"192.0.2.101"),
            peers: ["192.0.2.102", "192.0.2.103"].iter().map(address).collect(),
            protocol: None,
            port: None,
            esp: false,
            encap: BTreeMap::new(),
            devices: Some(["u0".to_owned()].into()),
            addresses: [("u0".to_owned(), device_has.iter().map(address).collect())].into(),
        }
    }

    /// Whether each rule that is found is certain to match.
    fn found(rules: &str, packets: &Packets) -> Vec<bool> {
        let text = format!(
            "*nat\n:OUTPUT ACCEPT [0:0]\n:POSTROUTING ACCEPT [0:0]\n:A - [0:0]\n:B - [0:0]\n\
             {rules}COMMIT\n"
        );
        let table = parse::tables(&text).unwrap().remove("nat").unwrap();
        let found = translations(Family::Ipv4, Backend::NfTables, &table, packets);
        found.iter().map(|translation| translation.certain).collect()
    }

    #[test]
    fn a_rule_counts_if_it_is_reached_and_matches() {
        let other = packets(&["192.0.2.1"]);
        for (rules, certain) in [
            ("-A POSTROUTING -o u0 -j MASQUERADE\n", &[true][..]),
            ("-A POSTROUTING -j MASQUERADE\n", &[true]),
            ("-A POSTROUTING -o u+ -j MASQUERADE\n", &[true]),
            ("-A POSTROUTING -o u1 -j MASQUERADE\n", &[]),
            ("-A POSTROUTING ! -o docker0 -s 172.17.0.0/16 -j MASQUERADE\n", &[]),
            ("-A POSTROUTING -s 192.0.2.0/24 -j MASQUERADE\n", &[true]),
            ("-A POSTROUTING -d 192.0.2.102/32 -j MASQUERADE\n", &[false]),
            ("-A POSTROUTING ! -d 192.0.2.0/24 -j MASQUERADE\n", &[]),
            ("-A POSTROUTING -p udp -j MASQUERADE\n", &[false]),
            ("-A POSTROUTING -m mark --mark 0x1 -j MASQUERADE\n", &[false]),
            ("-A POSTROUTING -m policy --dir out --pol ipsec -j MASQUERADE\n", &[true]),
            ("-A POSTROUTING -s 192.0.2.101/32 -j ACCEPT\n-A POSTROUTING -j MASQUERADE\n", &[]),
            ("-A POSTROUTING -p tcp -j ACCEPT\n-A POSTROUTING -j MASQUERADE\n", &[false]),
            ("-A POSTROUTING -j A\n-A A -j RETURN\n-A A -j MASQUERADE\n", &[]),
            (
                "-A POSTROUTING -j A\n-A A -m mark --mark 1 -j RETURN\n-A A -j MASQUERADE\n",
                &[false],
            ),
            (
                "-A POSTROUTING -j A\n-A A -g B\n-A B -j MASQUERADE\n-A A -j SNAT --to-source 1.1.1.1\n",
                &[true],
            ),
            (
                "-A POSTROUTING -j A\n-A A -m mark --mark 1 -j RETURN\n-A A -j ACCEPT\n\
                 -A POSTROUTING -j MASQUERADE\n",
                &[false],
            ),
            (
                "-A POSTROUTING -j A\n-A A -p tcp -j RETURN\n-A A -g B\n-A B -j ACCEPT\n\
                 -A POSTROUTING -j MASQUERADE\n",
                &[false],
            ),
            ("-A POSTROUTING -j A\n-A A -j A\n-A A -j MASQUERADE\n", &[false; 32]),
            ("-A POSTROUTING -j SNAT --to-source 192.0.2.101\n", &[]),
            ("-A POSTROUTING -j SNAT --to-source 192.0.2.1:1024-2000\n", &[true]),
            ("-A POSTROUTING -j SNAT --to-source 192.0.2.1-192.0.2.200\n", &[false]),
            ("-A OUTPUT -d 192.0.2.102/32 -j DNAT --to-destination 10.0.0.1\n", &[false]),
            ("-A OUTPUT -m addrtype --dst-type LOCAL -j DNAT --to-destination 10.0.0.1\n", &[]),
            ("-A OUTPUT -p tcp -m tcp --dport 80 -j REDIRECT --to-ports 3128\n", &[false]),
            ("-A POSTROUTING -m comment --comment \"-j X\" -j MASQUERADE\n", &[true]),
            ("", &[]),
        ] {
            assert_eq!(
                found(rules, &other).iter().take(32).copied().collect::<Vec<_>>(),
                certain,
                "{rules}"
            );
        }
    }

    #[test]
    fn masquerade_changes_nothing_where_the_device_has_the_address_alone() {
        let rule = "-A POSTROUTING -o u0 -j MASQUERADE\n";
        assert_eq!(found(rule, &packets(&["192.0.2.101"])), [false; 0]);
        assert_eq!(found(rule, &packets(&["192.0.2.1", "192.0.2.101"])), [false]);
        assert_eq!(found(rule, &packets(&["192.0.2.1"])), [true]);
        let unknown = Packets { devices: None, ..packets(&["192.0.2.1"]) };
        assert_eq!(found(rule, &unknown), [false]);
    }

    /// ESP packets come from an SA, so that no policy selects them any more.
    #[test]
    fn what_changes_esp_packets_alone_is_told_as_such() {
        let (protocol, port) = (Some(17), Some(4789));
        let vxlan = Packets { protocol, port, ..packets(&["192.0.2.1"]) };
        let masquerade = "-A POSTROUTING -o u0 -j MASQUERADE\n";
        for (rules, esp) in [
            (masquerade.to_owned(), &[false][..]),
            (masquerade.replace("-j", "-m policy --dir out --pol none -j"), &[true]),
            (masquerade.replace("-j", "-m policy --dir out --pol ipsec -j"), &[false]),
            (masquerade.replace("-j", "-p esp -j"), &[true]),
            (format!("-A POSTROUTING -p udp -m udp --dport 4789 -j ACCEPT\n{masquerade}"), &[true]),
            (
                format!("-A POSTROUTING -m policy --dir out --pol ipsec -j ACCEPT\n{masquerade}"),
                &[true],
            ),
            (format!("-A POSTROUTING -s 192.0.2.101/32 -j ACCEPT\n{masquerade}"), &[]),
            (format!("-A POSTROUTING -p esp -j ACCEPT\n{masquerade}"), &[false]),
        ] {
            let text =
                format!("*nat\n:OUTPUT ACCEPT [0:0]\n:POSTROUTING ACCEPT [0:0]\n{rules}COMMIT\n");
            let table = parse::tables(&text).unwrap().remove("nat").unwrap();
            let found = translations(Family::Ipv4, Backend::NfTables, &table, &vxlan);
            let found: Vec<bool> = found.iter().map(|translation| translation.esp).collect();
            assert_eq!(found, esp, "{rules}");
        }
    }

    /// A port forward before a peer may have another port than the mesh.
    #[test]
    fn what_changes_datagrams_that_hold_esp_is_found_by_the_port_of_each_peer() {
        let mut vxlan = packets(&["192.0.2.1"]);
        (vxlan.protocol, vxlan.port) = (Some(17), Some(4789));
        vxlan.encap = [(4500, vec![vxlan.peers[0]]), (4777, vec![vxlan.peers[1]])].into();
        for (rule, certain) in [
            (
                "-A OUTPUT -p udp -m udp --dport 4500 -j DNAT --to-destination 192.0.2.9\n",
                &[true][..],
            ),
            ("-A OUTPUT -p udp -m udp --dport 4777 -j DNAT --to-destination 192.0.2.9\n", &[true]),
            ("-A OUTPUT -d 192.0.2.102/32 -p udp -m udp --dport 4777 -j REDIRECT\n", &[]),
            ("-A OUTPUT -p udp -m udp --dport 4501 -j REDIRECT\n", &[]),
        ] {
            assert_eq!(found(rule, &vxlan), certain, "{rule}");
        }
    }

    #[test]
    fn a_port_is_told_from_others() {
        let (protocol, port) = (Some(17), Some(4789));
        let vxlan = Packets { protocol, port, ..packets(&["192.0.2.1"]) };
        for (rule, certain) in [
            ("-A POSTROUTING -p udp -j MASQUERADE\n", &[true][..]),
            ("-A POSTROUTING -p tcp -j MASQUERADE\n", &[]),
            ("-A POSTROUTING -p udp -m udp --dport 53 -j MASQUERADE\n", &[]),
        ] {
            assert_eq!(found(rule, &vxlan), certain, "{rule}");
        }
    }
}
