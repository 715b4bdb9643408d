//! A summary of a host's rules: the chains of meshes, and the users of marks.
//!
//! Pure. Foreign rules are not kept, however many there are. The size of the summary is bounded.
#![forbid(unsafe_code)]

use std::collections::{BTreeMap, BTreeSet};

use crate::model::{
    Backend, CHAIN_PREFIX, Chain, ChainId, Family, Firewall, Jump, MarkUser, Reqid,
};

use super::{
    parse::{self, Tables},
    text,
};

/// The limit of users of marks: more than anybody reads.
const MOST_USERS: usize = 64;
/// The characters of a foreign rule that are shown.
const LONGEST_RULE: usize = 200;

/// A system that uses marks: its name, the prefixes of its chains and devices, and the bits that it
/// is known to use.
struct System {
    name: &'static str,
    chains: &'static [&'static str],
    devices: &'static [&'static str],
    bits: u32,
}

const SYSTEMS: [System; 5] = [
    System {
        name: "Kubernetes",
        chains: &["KUBE-"],
        devices: &["kube-", "nodelocaldns"],
        bits: 0xc000,
    },
    System {
        name: "Cilium",
        chains: &["CILIUM_", "OLD_CILIUM_"],
        devices: &["cilium_"],
        bits: 0x0f00,
    },
    System {
        name: "Calico",
        chains: &["cali-"],
        devices: &["cali", "vxlan.calico"],
        bits: 0xffff_0000,
    },
    System { name: "Tailscale", chains: &["ts-"], devices: &["tailscale"], bits: 0x000c_0000 },
    System { name: "Weave Net", chains: &["WEAVE"], devices: &["weave"], bits: 0x0002_0000 },
];

fn system_by(
    name: &str,
    prefixes: fn(&System) -> &'static [&'static str],
) -> Option<&'static System> {
    SYSTEMS.iter().find(|system| prefixes(system).iter().any(|prefix| name.starts_with(prefix)))
}

/// The system that a device of this name belongs to, and the bits that it uses.
pub(super) fn system_of_device(name: &str) -> Option<(&'static str, u32)> {
    system_by(name, |system| system.devices).map(|system| (system.name, system.bits))
}

/// The findings so far.
pub(super) struct FirewallScan {
    reqid: Reqid,
    chains: Vec<Chain>,
    foreign: BTreeSet<(Family, Backend)>,
    users: BTreeMap<String, u32>,
}

impl FirewallScan {
    /// Nothing yet, for the mesh with this reqid.
    pub(super) fn new(reqid: Reqid) -> Self {
        let (chains, foreign, users) = Default::default();
        Self { reqid, chains, foreign, users }
    }

    /// Adds all tables of a backend.
    pub(super) fn add(&mut self, family: Family, backend: Backend, tables: &Tables) {
        for (table, content) in tables {
            let place = format!("{}-{} -t {table}", family.program(), backend.suffix());
            for (name, chain) in &content.chains {
                let id = ChainId { backend, family, table: table.clone(), name: name.clone() };
                self.add_users(&id, &place, chain);
                if name.starts_with(CHAIN_PREFIX) {
                    self.chains.push(own(content, id, chain));
                } else if is_foreign(chain) {
                    self.foreign.insert((family, backend));
                }
            }
        }
    }

    /// Adds the users of marks in a chain, and the system that the chain belongs to.
    fn add_users(&mut self, id: &ChainId, place: &str, chain: &parse::Chain) {
        if id.belongs_to(self.reqid) {
            return;
        }
        let used = chain.rules.iter().fold(0, |bits, line| bits | line.mark_bits());
        match system_by(&id.name, |system| system.chains) {
            Some(system) => self.add_user(system.name.into(), used | system.bits),
            None if used == 0 => {}
            None if id.name.starts_with(CHAIN_PREFIX) => {
                self.add_user(format!("another mesh, in chain {}", id.name), used);
            }
            None => self.add_user(format!("chain {} of {place}", id.name), used),
        }
    }

    /// Adds a user of marks and its bits.
    pub(super) fn add_user(&mut self, user: String, bits: u32) {
        let named = self.users.contains_key(&user)
            || self.users.len() < MOST_USERS
            || SYSTEMS.iter().any(|system| system.name == user);
        let user = if named { user } else { "others".into() };
        *self.users.entry(user).or_default() |= bits;
    }

    /// Completes a firewall.
    pub(super) fn into_firewall(self, firewall: Firewall) -> Firewall {
        let marks = self.users.into_iter().map(|(user, bits)| MarkUser { user, bits }).collect();
        Firewall { chains: self.chains, foreign: self.foreign, marks, ..firewall }
    }
}

/// Whether a chain does anything apart from leading to chains of meshes.
fn is_foreign(chain: &parse::Chain) -> bool {
    let own = |line: &parse::Line| matches!(line.target(), parse::Target::Jump(name) if name.starts_with(CHAIN_PREFIX));
    match &chain.policy {
        Some(policy) => policy != "ACCEPT" || chain.rules.iter().any(|line| !own(line)),
        None => true,
    }
}

/// A chain of a mesh, and the rules that lead to it.
fn own(table: &parse::Table, id: ChainId, chain: &parse::Chain) -> Chain {
    let jumps = text::jumps(table, &id)
        .into_iter()
        .map(|(index, line)| Jump {
            conditions: (!line.is_plain_jump_to(&id.name)).then(|| shortened(&line.text)),
            behind: table.accepted_before(id.hook(), index).map(|ahead| shortened(&ahead.text)),
        })
        .collect();
    let references = text::references(table, &id).iter().map(|text| shortened(text)).collect();
    Chain { rules: chain.rules.iter().map(parse::Line::rule).collect(), jumps, references, id }
}

fn shortened(text: &str) -> String {
    match text.char_indices().nth(LONGEST_RULE) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts(text: &str) -> Firewall {
        let mut facts = FirewallScan::new(Reqid(0x4d53_0001));
        facts.add(Family::Ipv4, Backend::Legacy, &parse::tables(text).unwrap());
        facts.into_firewall(Firewall::default())
    }

    #[test]
    fn users_of_marks_are_named_by_their_chains_and_bounded() {
        let mut text = String::from(
            "*mangle\n:OUTPUT ACCEPT [0:0]\n:KUBE-X - [0:0]\n:cali-OUTPUT - [0:0]\n:MINE - [0:0]\n\
             :MESHSEC-4d530001-MARK - [0:0]\n:MESHSEC-4d530002-MARK - [0:0]\n\
             -A OUTPUT -j MARK --set-xmark 0x1/0x1\n-A MINE -m mark --mark 0x2/0x2 -j DROP\n\
             -A MESHSEC-4d530001-MARK -p udp --dport 1 -j MARK --set-xmark 0x20000/0x20000\n\
             -A MESHSEC-4d530002-MARK -p udp --dport 2 -j MARK --set-xmark 0x40000/0x40000\n",
        );
        let user = |user: &str, bits| MarkUser { user: user.into(), bits };
        assert_eq!(
            facts(&(text.clone() + "COMMIT\n")).marks,
            [
                user("Calico", 0xffff_0000),
                user("Kubernetes", 0xc000),
                user("another mesh, in chain MESHSEC-4d530002-MARK", 0x40000),
                user("chain MINE of iptables-legacy -t mangle", 2),
                user("chain OUTPUT of iptables-legacy -t mangle", 1),
            ]
        );
        for number in 0..5000 {
            text += &format!(":C{number} - [0:0]\n-A C{number} -m mark --mark 0x8/0x8\n");
        }
        let marks = facts(&(text + "COMMIT\n")).marks;
        assert!(marks.len() <= MOST_USERS + SYSTEMS.len() + 1, "{}", marks.len());
        assert!(marks.contains(&user("Kubernetes", 0xc000)));
        assert!(marks.iter().any(|user| user.user == "others" && user.bits & 0x4000a == 0x4000a));
    }

    #[test]
    fn a_host_with_chains_of_meshes_alone_has_no_rules_of_others() {
        let ours = "*filter\n:OUTPUT ACCEPT [0:0]\n:MESHSEC-4d530001-OUT - [0:0]\n\
                    -A OUTPUT -j MESHSEC-4d530001-OUT\n-A MESHSEC-4d530001-OUT -j RETURN\nCOMMIT\n";
        let firewall = facts(ours);
        assert!(firewall.foreign.is_empty() && firewall.marks.is_empty());
        assert_eq!(firewall.chains[0].jumps, [Jump::FIRST]);
        for change in [
            ours.replace("ACCEPT", "DROP"),
            ours.replace("-A OUTPUT", "-A OUTPUT -j LOG\n-A OUTPUT"),
            ours.replace("COMMIT", ":X - [0:0]\nCOMMIT"),
        ] {
            assert_eq!(facts(&change).foreign.len(), 1, "{change}");
        }
    }
}
