//! Rules that drop packets of a mesh.
//!
//! Pure. The tables are followed in the order in which packets meet them. Chains of meshes are left
//! out: a plan looks at those. Packets are followed twice, for connection tracking: as the first of
//! their flow, and as answers. The size of the result is bounded.
#![forbid(unsafe_code)]

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use super::{
    follow::{self, Is, Then, Visitor, follow, is_named, protocol},
    parse::{Line, Tables, prefix},
};
use crate::model::{
    Backend, CHAIN_PREFIX, Direction, DropRule, Family, FilteredPackets, IPPROTO_UDP, PacketKind,
};

/// The limit of rules: more than anybody reads.
const MOST_RULES: usize = 32;
/// The characters of a foreign rule that are shown.
const LONGEST_RULE: usize = 200;
/// With more peers, they are followed together, and rules for a few of them only may match.
const MOST_WALKS: usize = 64;

/// The tables and chains that packets in and out meet, in order.
const IN: [(&str, &str); 5] = [
    ("raw", "PREROUTING"),
    ("mangle", "PREROUTING"),
    ("mangle", "INPUT"),
    ("filter", "INPUT"),
    ("security", "INPUT"),
];
const OUT: [(&str, &str); 5] = [
    ("raw", "OUTPUT"),
    ("mangle", "OUTPUT"),
    ("filter", "OUTPUT"),
    ("security", "OUTPUT"),
    ("mangle", "POSTROUTING"),
];

/// The host whose rules are followed.
pub(crate) struct Host {
    /// The local peer's address.
    pub local: IpAddr,
    /// The devices that packets to peers leave by; `None` if they are not known.
    pub devices: Option<BTreeSet<String>>,
}

/// The rules of one backend that drop some of these packets.
pub(super) fn drops(
    family: Family,
    backend: Backend,
    tables: &Tables,
    host: &Host,
    packets: &[FilteredPackets],
) -> Vec<DropRule> {
    let program = format!("{}-{}", family.program(), backend.suffix());
    let mut found = BTreeMap::<_, BTreeSet<IpAddr>>::new();
    for packets in packets {
        for peers in walks(&packets.peers) {
            let (kind, direction) = (packets.kind, packets.direction);
            for dropped in drops_of(&program, tables, host, packets, &peers) {
                // Packets of ESP come first: the rest is in them.
                let key = (kind, direction == Direction::Out, dropped);
                found.entry(key).or_default().extend(peers.iter().copied());
            }
        }
    }
    let all: BTreeSet<IpAddr> = packets.iter().flat_map(|it| &it.peers).copied().collect();
    let rule = |((kind, is_out, dropped), peers): ((PacketKind, bool, Dropped), _)| {
        let Dropped { rule, is_certain, spares_answers } = dropped;
        let direction = if is_out { Direction::Out } else { Direction::In };
        let peers = if peers == all { BTreeSet::new() } else { peers };
        DropRule { rule, kind, direction, is_certain, spares_answers, peers }
    };
    found.into_iter().map(rule).take(MOST_RULES).collect()
}

/// A rule that drops packets.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Dropped {
    rule: String,
    is_certain: bool,
    spares_answers: bool,
}

/// The state of a packet for connection tracking.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Tracked {
    /// The first of its flow.
    New,
    /// An answer.
    Established,
}

fn walks(peers: &[IpAddr]) -> Vec<Vec<IpAddr>> {
    match peers.len() {
        0 => Vec::new(),
        1..=MOST_WALKS => peers.iter().map(|peer| vec![*peer]).collect(),
        _ => vec![peers.to_vec()],
    }
}

/// The rules that drop them.
///
/// The datagrams of a tunnel that come back go to the tunnel's port too, and are answers to none.
fn drops_of(
    program: &str,
    tables: &Tables,
    host: &Host,
    packets: &FilteredPackets,
    peers: &[IpAddr],
) -> Vec<Dropped> {
    let [new, answers] = [Tracked::New, Tracked::Established].map(|state| {
        let packets = Followed { packets, peers, state };
        drops_in_state(program, tables, host, packets)
    });
    let has_answers = packets.kind != PacketKind::Inside || packets.protocol != IPPROTO_UDP;
    let spares = |rule: &(String, bool)| has_answers && !answers.contains(rule);
    let spares: Vec<bool> = new.iter().map(spares).collect();
    let more: Vec<_> = answers.iter().filter(|rule| !new.contains(rule)).cloned().collect();
    let more = more.into_iter().filter(|_| has_answers).map(|rule| (rule, false));
    let all = new.into_iter().zip(spares).chain(more);
    all.map(|((rule, is_certain), spares_answers)| Dropped { rule, is_certain, spares_answers })
        .collect()
}

/// The packets of one walk.
#[derive(Clone, Copy)]
struct Followed<'a> {
    packets: &'a FilteredPackets,
    peers: &'a [IpAddr],
    state: Tracked,
}

/// The rules of each table that drop them, and whether they are certain to.
fn drops_in_state(
    program: &str,
    tables: &Tables,
    host: &Host,
    followed: Followed<'_>,
) -> Vec<(String, bool)> {
    let way = if followed.packets.direction == Direction::Out { OUT } else { IN };
    let mut found = Vec::new();
    for (name, chain) in way {
        let Some(table) = tables.get(name) else { continue };
        let place = match name {
            "filter" => program.to_owned(),
            _ => format!("{program} -t {name}"),
        };
        let mut walk = Walk { host, followed, place: &place, found: Vec::new() };
        let then = follow(table, &mut walk, chain);
        found.append(&mut walk.found);
        let policy = table.chains.get(chain).and_then(|chain| chain.policy.as_deref());
        if then != Then::End && policy == Some("DROP") {
            found.push((format!("{place} -P {chain} DROP"), then == Then::GoOn));
        }
    }
    found
}

struct Walk<'a> {
    host: &'a Host,
    followed: Followed<'a>,
    place: &'a str,
    found: Vec<(String, bool)>,
}

impl Visitor for Walk<'_> {
    fn matches(&self, line: &Line) -> Is {
        let leads_to = |prefix: &str| {
            let mut words = line.words.iter().flatten().skip_while(|word| *word != "-j").skip(1);
            words.next().is_some_and(|target| target.starts_with(prefix))
        };
        if leads_to(CHAIN_PREFIX) {
            return Is::Not;
        }
        follow::matches(line, |option, value| self.one(option, value))
    }

    fn target(&mut self, chain: &str, line: &Line, target: &str, sure: bool) -> Then {
        match target {
            "DROP" | "REJECT" => {
                if sure || self.names_them(line) {
                    let text = format!("{} -A {chain} {}", self.place, line.text);
                    self.found.push((text.chars().take(LONGEST_RULE).collect(), sure));
                }
                Then::End
            }
            "ACCEPT" => Then::End,
            "MARK" | "CONNMARK" | "LOG" | "NFLOG" | "SET" | "TRACE" | "CT" | "NOTRACK"
            | "TCPMSS" | "DSCP" | "TOS" | "CLASSIFY" | "CHECKSUM" | "AUDIT" => Then::GoOn,
            _ => Then::MayGoOn,
        }
    }
}

impl Walk<'_> {
    /// Whether a rule that may match is about these packets by their protocol or port: many rules
    /// for other packets have matches that nobody knows here.
    fn names_them(&self, line: &Line) -> bool {
        let words = line.words.as_deref().unwrap_or_default();
        let mut pairs = words.windows(2);
        match self.followed.packets.port {
            None => pairs.any(|pair| pair[0] == "-p" && protocol(&pair[1]) == Some(50)),
            Some(port) => pairs.any(|pair| {
                matches!(&*pair[0], "--dport" | "--dports") && holds(&pair[1], port) == Some(true)
            }),
        }
    }

    /// One match of a rule. An unknown match may match.
    fn one(&self, option: &str, value: &str) -> Is {
        let Followed { packets, peers, state } = self.followed;
        let out = packets.direction == Direction::Out;
        let is = |is: bool| Is::of(is, is);
        match option {
            "-m" => match value {
                "tcp" | "udp" | "comment" | "addrtype" | "policy" | "esp" | "multiport"
                | "conntrack" | "state" => Is::Sure,
                _ => Is::Maybe,
            },
            "--comment" => Is::Sure,
            "-s" | "-d" => prefix(value).map_or(Is::Maybe, |prefix| {
                let covers =
                    |address: &IpAddr| prefix.covers(&crate::model::Prefix::host(*address));
                if (option == "-s") == out {
                    return is(covers(&self.host.local));
                }
                Is::of(peers.iter().all(covers), peers.iter().any(covers))
            }),
            "-p" => match protocol(value) {
                Some(named) => is(named == packets.protocol),
                None if value == "all" => Is::Sure,
                None => Is::Maybe,
            },
            "--dport" | "--dports" => {
                let named = packets.port.map(|port| holds(value, port));
                named.map_or(Is::Not, |holds| holds.map_or(Is::Maybe, is))
            }
            "-i" | "-o" if (option == "-o") != out => Is::Not,
            "-i" | "-o" => self.host.devices.as_ref().map_or(Is::Maybe, |devices| {
                let named = |device: &String| is_named(value, device);
                Is::of(devices.iter().all(named), devices.iter().any(named))
            }),
            "--ctstate" | "--state" => is(value.split(',').any(|named| match state {
                Tracked::New => named == "NEW",
                Tracked::Established => named == "ESTABLISHED",
            })),
            "--dst-type" if value == "LOCAL" => is(!out),
            "--src-type" if value == "LOCAL" => is(out),
            "--dir" => is((value == "out") == out),
            "--pol" => is((value == "ipsec") == (packets.kind == PacketKind::Inside)),
            _ => Is::Maybe,
        }
    }
}

/// Whether a list of ports and ranges holds a port; `None` where it can't be read.
fn holds(list: &str, port: u16) -> Option<bool> {
    let mut found = false;
    for part in list.split(',') {
        let (first, last) = part.split_once(':').unwrap_or((part, part));
        found |= (first.parse().ok()?..=last.parse().ok()?).contains(&port);
    }
    Some(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::linux::iptables::parse;

    /// Of each rule that drops packets, whether it is certain to; and whether answers pass.
    fn found(
        policy: &str,
        rules: &str,
        kind: PacketKind,
        direction: Direction,
    ) -> Vec<(bool, bool)> {
        let text = format!(
            "*filter\n:INPUT {policy} [0:0]\n:OUTPUT {policy} [0:0]\n:A - [0:0]\n\
             :MESHSEC-1-IN - [0:0]\n{rules}COMMIT\n"
        );
        let tables = parse::tables(&text).unwrap();
        let peers = ["192.0.2.2", "192.0.2.3"].map(|text| text.parse().unwrap()).to_vec();
        let (protocol, port) = match kind {
            PacketKind::Esp => (50, None),
            PacketKind::EspInUdp => (17, Some(4500)),
            PacketKind::Inside => (17, Some(4789)),
        };
        let host =
            Host { local: "192.0.2.1".parse().unwrap(), devices: Some(["eth0".to_owned()].into()) };
        let packets = FilteredPackets { kind, direction, protocol, port, peers };
        let drops = drops(Family::Ipv4, Backend::NfTables, &tables, &host, &[packets]);
        drops.iter().map(|drop| (drop.is_certain, drop.spares_answers)).collect()
    }

    #[test]
    fn a_rule_counts_if_it_drops_packets_of_the_mesh() {
        use Direction::{In, Out};
        use PacketKind::{Esp, EspInUdp, Inside};
        const SURE: &[(bool, bool)] = &[(true, false)];
        const MAYBE: &[(bool, bool)] = &[(false, false)];
        const FIRST: &[(bool, bool)] = &[(true, true)];
        let established = "-A INPUT -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT\n";
        for (rules, kind, direction, dropped) in [
            ("-A INPUT -p esp -j DROP\n", Esp, In, SURE),
            ("-A INPUT -p esp -j DROP\n", Esp, Out, &[]),
            ("-A INPUT -p esp -j DROP\n", Inside, In, &[]),
            ("-A INPUT -p 50 -j REJECT\n", Esp, In, SURE),
            ("-A OUTPUT -d 192.0.2.2/32 -j DROP\n", Esp, Out, SURE),
            ("-A OUTPUT -d 198.51.100.0/24 -j DROP\n", Esp, Out, &[]),
            ("-A INPUT -p udp -m udp --dport 4500 -j DROP\n", EspInUdp, In, SURE),
            ("-A INPUT -p udp -m multiport --dports 500,4500:4600 -j DROP\n", EspInUdp, In, SURE),
            ("-A INPUT -p udp -m udp --dport 4789 -j DROP\n", Inside, In, SURE),
            ("-A INPUT -p udp -m udp --dport 4789 -j DROP\n", Esp, In, &[]),
            ("-A INPUT -m policy --dir in --pol none -j DROP\n", Inside, In, &[]),
            ("-A INPUT -p esp -j ACCEPT\n-A INPUT -j DROP\n", Esp, In, &[]),
            (&format!("{established}-A INPUT -p esp -j DROP\n"), Esp, In, FIRST),
            (&format!("{established}-A INPUT -j DROP\n"), Inside, In, SURE),
            ("-A INPUT -m conntrack --ctstate INVALID -j DROP\n", Esp, In, &[]),
            // A match that nobody knows, of packets that the rule does not name.
            ("-A INPUT -m limit --limit 1/s -j DROP\n", Esp, In, &[]),
            ("-A INPUT -p esp -m limit --limit 1/s -j DROP\n", Esp, In, MAYBE),
            ("-A INPUT -i eth1 -j DROP\n", Esp, In, &[]),
            ("-A INPUT -i eth+ -j A\n-A A -j DROP\n", Esp, In, SURE),
            ("-A INPUT -j MESHSEC-1-IN\n-A MESHSEC-1-IN -j DROP\n", Inside, In, &[]),
        ] {
            assert_eq!(found("ACCEPT", rules, kind, direction), dropped, "{rules}");
        }
    }

    #[test]
    fn a_policy_drops_what_no_rule_accepts() {
        let of = |rules: &str| found("DROP", rules, PacketKind::Esp, Direction::In);
        assert_eq!(of(""), [(true, false)]);
        assert_eq!(of("-A INPUT -p esp -j ACCEPT\n"), []);
        assert_eq!(of("-A INPUT -i lo -j ACCEPT\n"), [(true, false)]);
        assert_eq!(of("-A INPUT -m conntrack --ctstate ESTABLISHED -j ACCEPT\n"), [(true, true)]);
        assert_eq!(of("-A INPUT -m mark --mark 0x1 -j ACCEPT\n"), [(false, false)]);
        let other = of("-A INPUT -s 192.0.2.2/32 -p esp -j ACCEPT\n");
        assert_eq!(other, [(true, false)], "of the other peer");
    }
}
