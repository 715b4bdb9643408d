//! The way of one packet through a state, with the reasons: the model of `flow` and `arrival`, which
//! alone decide, and beside it each object that they have looked at.
#![forbid(unsafe_code)]

use std::{collections::BTreeMap, fmt, net::IpAddr};

use super::{
    arrival::{Arrival, arrivals, comes_by, is_for, is_past_policies},
    flow::{
        Flow, Look, Miss, Passing, Table, best, chains, flows_of, marks, miss, seen, serves,
        verdict,
    },
    packet::Packet,
    routed::{RoutedTo, routed},
};
use crate::model::{
    Action, ChainRole, Direction, Hidden, IPPROTO_ESP, Interface, Mode, PeerName, Policy, PolicyId,
    PolicyRole, Prefix, Reqid, Sa, Selector, Spi, State, Template,
};

/// The fate of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It leaves as ESP under this SPI.
    Encrypted(Spi),
    /// It does not leave.
    Blocked,
    /// It leaves in the clear.
    Clear,
    /// It is taken, or sent on.
    Accepted,
    /// It is dropped as it arrives.
    Refused,
}

impl Verdict {
    /// All names in JSON.
    pub const WORDS: [&'static str; 5] = ["encrypted", "blocked", "clear", "accepted", "refused"];

    /// Its name in JSON.
    pub fn word(self) -> &'static str {
        let [encrypted, blocked, clear, accepted, refused] = Self::WORDS;
        match self {
            Self::Encrypted(_) => encrypted,
            Self::Blocked => blocked,
            Self::Clear => clear,
            Self::Accepted => accepted,
            Self::Refused => refused,
        }
    }

    /// The SPI under which it leaves.
    pub fn spi(self) -> Option<Spi> {
        match self {
            Self::Encrypted(spi) => Some(spi),
            Self::Blocked | Self::Clear | Self::Accepted | Self::Refused => None,
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Encrypted(spi) => write!(f, "encrypted under SPI {spi}"),
            Self::Blocked => f.write_str("blocked"),
            Self::Clear => f.write_str("in the clear"),
            Self::Accepted => f.write_str("accepted"),
            Self::Refused => f.write_str("refused"),
        }
    }
}

/// A part of the way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    /// The kind of object that is asked: `policy`, `sub policy`, `sa`, `chain`, `mark`, `sysctl`.
    pub kind: &'static str,
    /// The object that decides, or that there is none.
    pub found: String,
    /// Objects that do not, each with the reason; the nearest first.
    pub missed: Vec<(String, String)>,
    /// The number of further ones.
    pub more: usize,
}

impl Part {
    fn new(kind: &'static str, found: impl Into<String>) -> Self {
        Self { kind, found: found.into(), missed: Vec::new(), more: 0 }
    }
}

/// The way of a packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trace {
    /// What the packet meets, in order.
    pub parts: Vec<Part>,
    /// All fates that the state leaves open, the worst last.
    pub verdicts: Vec<Verdict>,
    /// What the model does not know.
    pub notes: Vec<String>,
}

/// The names of the mesh's objects.
pub struct Names<'a> {
    /// The mesh's reqid.
    pub reqid: Reqid,
    /// The mesh's name.
    pub mesh: String,
    /// The local host's address, if it is known.
    pub local: Option<IpAddr>,
    /// Its peers, by address.
    pub peers: BTreeMap<IpAddr, &'a PeerName>,
    /// The peers by the networks behind them.
    pub networks: BTreeMap<Prefix, &'a PeerName>,
}

impl Names<'_> {
    fn peer(&self, ends: [IpAddr; 2], here: &State) -> String {
        let is_here = |end: &IpAddr| self.local == Some(*end) || here.has_address(*end);
        let far = ends.iter().filter(|end| !is_here(end));
        let name = far.chain(&ends).find_map(|end| self.peers.get(end));
        name.map_or_else(String::new, |name| format!(", peer {name}"))
    }

    fn policy(&self, policy: &Policy, state: &State) -> String {
        let selector = policy.id.selector;
        let ends = [selector.src.address, selector.dst.address];
        let owner = match policy.role_in(self.reqid) {
            None => "foreign".into(),
            Some(PolicyRole::Guard) => format!("guard of mesh {}", self.mesh),
            Some(PolicyRole::Passage(_)) => format!("mesh {}, lets packets pass", self.mesh),
            Some(PolicyRole::Peer) => match self.networks.get(&policy.id.far_end()) {
                Some(name) => format!("mesh {}, peer {name}", self.mesh),
                None => format!("mesh {}{}", self.mesh, self.peer(ends, state)),
            },
        };
        let action = match policy.action {
            Action::Allow if policy.templates.is_empty() => "allows",
            Action::Allow => "asks for SAs",
            Action::Block => "blocks",
        };
        let index = policy.index.map(|index| format!(" index {index:#x}")).unwrap_or_default();
        format!("{} priority {}{index} ({owner}; {action})", policy.id, policy.priority)
    }

    fn sa(&self, sa: &Sa, state: &State) -> String {
        let owner = match sa.reqid == self.reqid {
            true => format!("mesh {}{}", self.mesh, self.peer([sa.src, sa.id.dst], state)),
            false => "foreign".into(),
        };
        format!("src {} {} ({owner})", sa.src, sa.id)
    }
}

/// Objects that are listed in one part; the others are counted.
const SHOWN: usize = 8;

/// The way of a packet through a state in a direction.
pub fn trace(state: &State, packet: &Packet, direction: Direction, names: &Names<'_>) -> Trace {
    let tracer = Tracer { state, packet, names };
    let (parts, verdicts) = match direction {
        Direction::Out => tracer.out(),
        Direction::In | Direction::Fwd => tracer.arrives(direction),
    };
    Trace { parts, verdicts, notes: tracer.notes(direction) }
}

struct Tracer<'a> {
    state: &'a State,
    packet: &'a Packet,
    names: &'a Names<'a>,
}

impl<'a> Tracer<'a> {
    fn out(&self) -> (Vec<Part>, Vec<Verdict>) {
        let Packet { selector, mark, .. } = self.packet;
        let (state, mut parts) = (self.state, Vec::new());
        let (first, first_mark) = seen(state, selector, *mark, Look::First);
        self.add_look_up(&mut parts, &first, first_mark);
        self.add_chains(&mut parts, ChainRole::MangleOut, Direction::Out);
        for new in marks(state, selector, *mark).into_iter().filter(|new| new != mark) {
            parts.push(Part::new(
                "mark",
                format!("a chain gives it mark {new:#x}: looked up again"),
            ));
            self.add_look_up(&mut parts, selector, new);
        }
        self.add_chains(&mut parts, ChainRole::Out, Direction::Out);
        self.add_chains(&mut parts, ChainRole::Post, Direction::Out);
        let verdict = |flow| match flow {
            Flow::Protected(spi) => Verdict::Encrypted(spi),
            Flow::Blocked => Verdict::Blocked,
            Flow::Clear => Verdict::Clear,
        };
        (parts, flows_of(state, selector, *mark).into_iter().map(verdict).collect())
    }

    fn add_look_up(&self, parts: &mut Vec<Part>, packet: &Selector, mark: u32) {
        let dst = packet.dst.address;
        for to in routed(self.state, packet.dst) {
            match to {
                RoutedTo::Nowhere => {
                    let text = format!("a route drops packets to {dst}, or has them stay here");
                    parts.push(Part::new("route", text));
                }
                RoutedTo::Interface(interface) => {
                    let Interface { name, if_id, skips_policies, .. } = interface;
                    let text = format!("packets to {dst} go to the XFRM interface {name}");
                    parts.push(Part::new("route", text));
                    if !(packet.is_ipv4() && *skips_policies) {
                        self.add_asked(parts, packet, mark, 0);
                    }
                    self.add_asked(parts, packet, mark, *if_id);
                }
                RoutedTo::Underlay => self.add_underlay(parts, packet, mark),
            }
        }
    }

    fn add_underlay(&self, parts: &mut Vec<Part>, packet: &Selector, mark: u32) {
        let [src, dst] = [packet.src.address, packet.dst.address];
        if self.state.bypasses_policies(src, dst) {
            parts.push(Part::new("sysctl", "disable_xfrm takes it past all policies"));
            return;
        }
        self.add_asked(parts, packet, mark, 0);
    }

    /// The policies with the number of an interface, or without one, and the SAs that they ask for.
    fn add_asked(&self, parts: &mut Vec<Part>, packet: &Selector, mark: u32, if_id: u32) {
        let found = self.add_policies(parts, packet, mark, (Direction::Out, if_id));
        let mut outer = packet.dst.address;
        for policy in found {
            for template in &policy.templates {
                outer = if template.mode == Mode::Transport { outer } else { template.dst };
                parts.push(self.sas(template, &policy.id, outer, packet));
            }
        }
    }

    /// The policies that decide, of both tables.
    fn add_policies(
        &self,
        parts: &mut Vec<Part>,
        packet: &Selector,
        mark: u32,
        (direction, if_id): (Direction, u32),
    ) -> Vec<&'a Policy> {
        let mut all = Vec::new();
        for (sub, kind) in [(true, "sub policy"), (false, "policy")] {
            let table = Table { direction, sub, if_id };
            let found: Vec<&Policy> =
                best(self.state, packet, mark, table).into_iter().flatten().collect();
            let any = self.state.policies.iter().any(|policy| policy.id.sub);
            if sub && !any {
                continue;
            }
            parts.push(self.policies(kind, packet, mark, table, &found));
            all.extend(found);
        }
        all
    }

    fn policies(
        &self,
        kind: &'static str,
        packet: &Selector,
        mark: u32,
        table: Table,
        found: &[&Policy],
    ) -> Part {
        let mut part = match found {
            [] => Part::new(kind, "none matches"),
            [one] => Part::new(kind, self.names.policy(one, self.state)),
            [first, ..] => Part::new(
                kind,
                format!(
                    "{}, or one of {} others with that priority: the oldest",
                    self.names.policy(first, self.state),
                    found.len() - 1
                ),
            ),
        };
        let smallest = found.first().map(|policy| policy.priority);
        let mut others: Vec<(bool, u32, &Policy, String)> = Vec::new();
        for policy in &self.state.policies {
            if found.iter().any(|found| found.id == policy.id && found.priority == policy.priority)
            {
                continue;
            }
            let (far, why) = match miss(policy, packet, mark, table) {
                Some(Miss::Table) => continue,
                Some(why @ (Miss::Source | Miss::Destination)) => (true, word(why).into()),
                Some(Miss::Interface) => (false, of_interface(policy).into()),
                Some(why) => (false, word(why).into()),
                None => (false, format!("it ranks behind {}", smallest.unwrap_or_default())),
            };
            others.push((far, policy.priority, policy, why));
        }
        // Those for other hosts are no near misses, and there may be thousands.
        others.sort_by_key(|(far, priority, ..)| (*far, *priority));
        let near = others.iter().filter(|(far, ..)| !far).count();
        let shown = near.clamp(others.len().min(2), SHOWN);
        part.more = others.len() - shown.min(others.len());
        let shown = others.into_iter().take(shown);
        part.missed =
            shown.map(|(_, _, policy, why)| (self.names.policy(policy, self.state), why)).collect();
        part
    }

    /// The SAs for a template.
    fn sas(&self, template: &Template, id: &PolicyId, dst: IpAddr, packet: &Selector) -> Part {
        let fits =
            |sa: &&Sa| serves(sa, template, id, dst) && !sa.is_larval() && is_for(sa, packet);
        let found: Vec<&Sa> = self.state.sas.iter().filter(fits).collect();
        let asked = format!("for {template}");
        let mut part = match found.as_slice() {
            [] => Part::new("sa", format!("none {asked}: level {}", template.level)),
            [one] => Part::new("sa", self.names.sa(one, self.state)),
            [one, more @ ..] => Part::new(
                "sa",
                format!(
                    "{}, or one of {} others {asked}",
                    self.names.sa(one, self.state),
                    more.len()
                ),
            ),
        };
        let others = self.state.sas.iter().filter(|sa| sa.id.dst == dst && !fits(sa));
        let why = |sa: &Sa| {
            let why = if sa.id.proto != template.proto {
                "it is of another protocol"
            } else if template.spi.raw() != 0 && sa.id.spi != template.spi {
                "the policy asks for another SPI"
            } else if sa.reqid != template.reqid {
                "the policy asks for another reqid"
            } else if sa.mode != template.mode {
                "it has another mode"
            } else if !id.mark.finds(sa.id.mark) {
                "it is for another mark"
            } else if sa.if_id != id.if_id || id.if_id == 0 && sa.has_interface() {
                "it is for another interface, or for none"
            } else if sa.is_larval() {
                "it is a placeholder of the kernel, without a key"
            } else {
                "its own selector is for other packets"
            };
            (self.names.sa(sa, self.state), why.to_owned())
        };
        let mut missed: Vec<_> = others.map(why).collect();
        part.more = missed.len().saturating_sub(SHOWN);
        missed.truncate(SHOWN);
        part.missed = missed;
        part
    }

    fn add_chains(&self, parts: &mut Vec<Part>, role: ChainRole, direction: Direction) {
        let selector = &self.packet.selector;
        let reqids: Vec<Reqid> = match direction {
            Direction::Out => self.state.sas.iter().map(|sa| sa.reqid).collect(),
            Direction::In | Direction::Fwd => self.under().map(|sa| sa.reqid).into_iter().collect(),
        };
        for chain in chains(self.state, role, selector) {
            let of = |reqids| {
                let passing =
                    Passing { packet: selector, side: direction, reqids: &reqids, by: None };
                verdict(self.state, chain, passing)
            };
            let clear = of(Default::default());
            let protected = of(reqids.iter().copied().collect());
            let words = match (clear.drops, protected.drops) {
                (false, _) => "lets it pass",
                (true, false) if direction == Direction::Out => {
                    "lets it pass if an SA of the mesh protects it, and drops it if none does"
                }
                (true, false) => "lets it pass, as it came under an SA of the mesh",
                (true, true) => "drops it",
            };
            let maybe = match chain.is_reached() {
                true => "",
                false => "; other rules decide whether it gets there",
            };
            parts.push(Part::new("chain", format!("{} {words}{maybe}", chain.id)));
        }
    }

    /// The SA that it arrives under.
    fn under(&self) -> Option<&'a Sa> {
        let (spi, dst) = (self.packet.under?, self.packet.selector.dst.address);
        let mut sas = self.state.sas.iter().filter(|sa| !sa.is_larval());
        // The outer address of a tunnel is another one.
        let is_to_here = |sa: &Sa| sa.id.dst == dst || sa.mode == Mode::Tunnel;
        sas.find(|sa| (sa.id.proto, sa.id.spi) == (IPPROTO_ESP, spi) && is_to_here(sa))
    }

    fn arrives(&self, direction: Direction) -> (Vec<Part>, Vec<Verdict>) {
        let Packet { selector, mark, under } = self.packet;
        let mut parts = Vec::new();
        if let Some(spi) = under {
            match self.under() {
                None => {
                    let none = format!("none to {} under SPI {spi}", selector.dst.address);
                    return (vec![Part::new("sa", none)], vec![Verdict::Refused]);
                }
                Some(sa) => {
                    let selects = match is_for(sa, selector) {
                        true => "",
                        false => ": its own selector is for other packets",
                    };
                    let found = format!("{}{selects}", self.names.sa(sa, self.state));
                    parts.push(Part::new("sa", found));
                }
            }
        }
        if direction == Direction::In {
            self.add_chains(&mut parts, ChainRole::MangleIn, Direction::In);
            self.add_chains(&mut parts, ChainRole::In, Direction::In);
        }
        let interface = self.under().and_then(|sa| comes_by(self.state, sa));
        if let Some(Interface { name, .. }) = interface {
            parts.push(Part::new("route", format!("it comes out of the XFRM interface {name}")));
        }
        let if_id = interface.map_or(0, |interface| interface.if_id);
        match is_past_policies(self.state, selector, interface) {
            true => parts.push(Part::new("sysctl", "disable_policy takes it past all policies")),
            false => _ = self.add_policies(&mut parts, selector, *mark, (direction, if_id)),
        }
        let fates = arrivals(self.state, selector, *mark, direction, self.under());
        let verdict = |fate| match fate {
            Arrival::Accepted => Verdict::Accepted,
            Arrival::Refused => Verdict::Refused,
        };
        (parts, fates.into_iter().map(verdict).collect())
    }

    /// Whether a policy asks for a port of this name.
    fn asks_for(&self, name: &str) -> bool {
        self.state.policies.iter().map(|policy| policy.id.selector).any(|selector| {
            let port = if name == "source" { selector.sport } else { selector.dport };
            port.mask != 0 && selector.proto == self.packet.selector.proto
        })
    }

    fn notes(&self, direction: Direction) -> Vec<String> {
        let mut notes = vec![
            "rules of others in iptables and nftables are not looked at, except where they stand \
             before the mesh's"
                .to_owned(),
        ];
        let mut ways = routed(self.state, self.packet.selector.dst).into_iter();
        let is_led = ways.any(|to| matches!(to, RoutedTo::Interface(_)));
        if direction == Direction::Out && is_led {
            let text = "programs that bind to a device, and devices in a VRF, do not ask these routes: \
                        what they send leaves the host by others, or is dropped by guards and chains";
            notes.push(text.into());
        }
        match direction {
            Direction::Out => notes.push(
                "a socket that has sent before keeps the route and the SAs that it found then, until \
                 a policy is put in or its route changes"
                    .into(),
            ),
            Direction::In | Direction::Fwd => notes.push(
                "an SA also drops what its window has seen, and what its key does not decrypt".into(),
            ),
        }
        if !self.state.socket_policies.is_empty() {
            let text = "sockets here have policies of their own, which come before all others: \
                        which socket a packet is of is not known";
            notes.push(text.into());
        }
        if self.state.hidden.contains(&Hidden::Sysctls) {
            notes.push("whether disable_xfrm or disable_policy is set can't be seen here".into());
        }
        let Selector { proto, sport, dport, .. } = self.packet.selector;
        let has_ports = matches!(proto, 6 | 17);
        for (port, name) in [(sport, "source"), (dport, "destination")] {
            if has_ports && port.mask == 0 && self.asks_for(name) {
                notes.push(format!(
                    "no {name} port is given: policies that ask for one are taken not to match"
                ));
            }
        }
        notes
    }
}

/// Why a policy is not asked about packets of an interface, or of none.
fn of_interface(policy: &Policy) -> &'static str {
    match policy.id.if_id {
        0 => "it is not for packets of XFRM interfaces",
        _ => "it is for packets of an XFRM interface",
    }
}

fn word(miss: Miss) -> &'static str {
    match miss {
        Miss::Table => "it is of another table",
        Miss::Interface => "it is for packets of another interface",
        Miss::Mark => "it is for another mark",
        Miss::Source => "it is for other sources",
        Miss::Destination => "it is for other destinations",
        Miss::Protocol => "it is for another protocol",
        Miss::Ports => "it is for other ports or types",
        Miss::Device => "it is for packets of one device",
    }
}
