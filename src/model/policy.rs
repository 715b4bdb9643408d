//! Security policies.

use std::{
    collections::BTreeSet,
    fmt,
    net::{IpAddr, Ipv6Addr},
};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::{
    IPPROTO_ESP, IPPROTO_ICMP, IPPROTO_ICMPV6, IPPROTO_UDP, Mark, Mode, PEER_PRIORITY, PortMatch,
    Prefix, Reqid, Selector, Spi,
};

/// ICMPv6 types of neighbour discovery between two hosts (RFC 4861).
const NEIGHBOUR_SOLICITATION: u16 = 135;
const NEIGHBOUR_ADVERTISEMENT: u16 = 136;

/// The direction of the packets that a policy applies to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Direction {
    /// Packets that arrive for this host.
    In,
    /// Packets that leave this host.
    Out,
    /// Packets that this host forwards.
    Fwd,
}

impl fmt::Display for Direction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::In => "in",
            Self::Out => "out",
            Self::Fwd => "fwd",
        })
    }
}

/// The identity of a policy in the kernel. The priority is not part of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PolicyId {
    /// In, out or forward.
    pub direction: Direction,
    /// The packets that it selects.
    pub selector: Selector,
    /// A mark that packets must carry. Of a mesh's policies only out policies have one, with select
    /// = "mark".
    #[serde(default, skip_serializing_if = "Mark::is_none")]
    pub mark: Mark,
    /// An XFRM interface. A mesh's policies have none, which is 0.
    #[serde(default)]
    pub if_id: u32,
    /// Whether it is in the table of sub policies. A mesh's policies never are.
    #[serde(default)]
    pub sub: bool,
}

impl PolicyId {
    /// The far end of its packets.
    pub fn far_end(&self) -> Prefix {
        match self.direction {
            Direction::Out => self.selector.dst,
            Direction::In | Direction::Fwd => self.selector.src,
        }
    }

    /// A policy without mark and interface, as most of a mesh's.
    pub fn new(direction: Direction, selector: Selector) -> Self {
        Self { direction, selector, mark: Mark::NONE, if_id: 0, sub: false }
    }
}

impl PolicyId {
    /// The identity without its direction, and where the two hosts are known from elsewhere without
    /// those.
    pub fn undirected(&self, hosts_are_known: bool) -> String {
        let selector = match hosts_are_known {
            true => self.selector.packets(),
            false => self.selector.to_string(),
        };
        format!("{selector}{}", PolicyRest(self))
    }
}

impl fmt::Display for PolicyId {
    /// In the words of `ip xfrm policy get`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} dir {}{}", self.selector, self.direction, PolicyRest(self))
    }
}

/// A policy's identity without selector and direction; each word has a space before it.
struct PolicyRest<'a>(&'a PolicyId);

impl fmt::Display for PolicyRest<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let id = self.0;
        if id.sub {
            f.write_str(" ptype sub")?;
        }
        if !id.mark.is_none() {
            write!(f, " mark {}", id.mark)?;
        }
        if id.if_id != 0 {
            write!(f, " if_id {:#x}", id.if_id)?;
        }
        Ok(())
    }
}

/// The action of a policy on its packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// Let them pass, transformed as the templates say.
    Allow,
    /// Drop them.
    Block,
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Allow => "allow",
            Self::Block => "block",
        })
    }
}

/// Whether a template may be skipped if there is no SA for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    /// No SA, no packet.
    Required,
    /// No SA: the packet passes unencrypted.
    Use,
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Required => "required",
            Self::Use => "use",
        })
    }
}

/// A transformation that a policy asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Template {
    /// The SA's source; not looked at in transport mode.
    pub src: IpAddr,
    /// The SA's destination; not looked at in transport mode.
    pub dst: IpAddr,
    /// The IPsec protocol.
    pub proto: u8,
    /// The SA's SPI, or 0 for any.
    pub spi: Spi,
    /// The SA's reqid, or 0 for any.
    pub reqid: Reqid,
    /// The SA's mode.
    pub mode: Mode,
    /// Whether it may be skipped.
    pub level: Level,
}

impl Template {
    /// An ESP template in transport mode that can't be skipped.
    pub fn transport(src: IpAddr, dst: IpAddr, spi: Spi, reqid: Reqid) -> Self {
        let (mode, level) = (Mode::Transport, Level::Required);
        Self { src, dst, proto: IPPROTO_ESP, spi, reqid, mode, level }
    }
}

impl fmt::Display for Template {
    /// In the words of `ip xfrm`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "src {} dst {} proto ", self.src, self.dst)?;
        match self.proto {
            IPPROTO_ESP => f.write_str("esp")?,
            proto => write!(f, "{proto}")?,
        }
        if self.spi.raw() != 0 {
            write!(f, " spi {}", self.spi)?;
        }
        write!(f, " reqid {} mode {}", self.reqid, self.mode)?;
        match self.level {
            Level::Required => Ok(()),
            Level::Use => f.write_str(" level use"),
        }
    }
}

/// The configuration of a security policy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Policy {
    /// Its identity.
    pub id: PolicyId,
    /// The smaller number wins.
    pub priority: u32,
    /// Allow or block.
    pub action: Action,
    /// A number that its creator gave it, with the top bit set. Numbers that the kernel gives are
    /// small, and mean nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub index: Option<u32>,
    /// The transformations asked for; an SA has to match each required one.
    pub templates: Vec<Template>,
    /// Names and values of attributes that this type can't express. A mesh's policies have none.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub extras: BTreeSet<String>,
}

/// The part that a policy plays in its mesh.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PolicyRole {
    /// It blocks unprotected traffic of all hosts.
    Guard,
    /// It lets some packets pass untransformed, ahead of the peers' policies.
    Passage(Passage),
    /// It asks for the protection of a peer's traffic.
    Peer,
}

/// The packets that pass untransformed where a mesh protects everything else.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Passage {
    /// Neighbour discovery (RFC 4861).
    Discovery,
    /// UDP datagrams that hold ESP (RFC 3948).
    Encap,
    /// An exception of the file.
    Exception,
}

impl Passage {
    /// Its packets, as texts name them.
    pub fn packets(self) -> &'static str {
        match self {
            Self::Discovery => "neighbour discovery",
            Self::Encap => "ESP in UDP",
            Self::Exception => "an exception",
        }
    }
}

impl Policy {
    /// Its part in the mesh with this reqid; `None` for a foreign policy. This alone decides which
    /// policies are the mesh's:
    ///
    /// * A guard blocks, has no template, and has the reqid as its priority. Any other policy with
    ///   that priority is foreign: another program has chosen the same number.
    /// * A policy for neighbour discovery has an index that is made of the reqid. Others that let
    ///   packets pass have a hash of the reqid and of their packets, as the user's number.
    /// * A peer's policy has the reqid in a template.
    pub fn role_in(&self, reqid: Reqid) -> Option<PolicyRole> {
        let role = self.role();
        let is_ours = match role {
            PolicyRole::Guard => self.priority == reqid.0,
            PolicyRole::Passage(Passage::Discovery) => {
                let is_self = |ours: Self| ours.id == self.id && ours.index == self.index;
                self.index.is_some() && Self::discovery(reqid).any(is_self)
            }
            PolicyRole::Passage(Passage::Encap | Passage::Exception) => {
                let PolicyId { direction, selector, .. } = self.id;
                selector.user == tag(reqid, direction, selector)
            }
            PolicyRole::Peer => self.templates.iter().any(|template| template.reqid == reqid),
        };
        is_ours.then_some(role)
    }

    /// Its part in its mesh, if it is known to be a mesh's.
    pub fn role(&self) -> PolicyRole {
        match (self.templates.is_empty(), self.action) {
            (true, Action::Block) => PolicyRole::Guard,
            (true, Action::Allow) => PolicyRole::Passage(match self.id.selector {
                selector if selector.user == 0 => Passage::Discovery,
                Selector { src: Prefix { length: 0, .. }, .. } => Passage::Encap,
                _ => Passage::Exception,
            }),
            (false, Action::Block | Action::Allow) => PolicyRole::Peer,
        }
    }

    /// Whether the mesh with this reqid owns it.
    pub fn belongs_to(&self, reqid: Reqid) -> bool {
        self.role_in(reqid).is_some()
    }

    /// Whether it is a guard of the mesh with this reqid.
    pub fn is_guard_of(&self, reqid: Reqid) -> bool {
        self.role_in(reqid) == Some(PolicyRole::Guard)
    }

    /// Whether it is a guard, if it is known to be the mesh's.
    pub fn is_guard(&self) -> bool {
        self.role() == PolicyRole::Guard
    }

    /// The packets that it lets pass untransformed, if it is known to be the mesh's.
    pub fn passage(&self) -> Option<Passage> {
        match self.role() {
            PolicyRole::Passage(passage) => Some(passage),
            PolicyRole::Guard | PolicyRole::Peer => None,
        }
    }

    /// Whether it is for ICMP errors to a peer, if it is known to be the mesh's.
    pub fn is_for_icmp_errors(&self) -> bool {
        self.id.direction == Direction::Out && self.id.selector.is_icmp_error()
    }

    /// Whether its packets include ICMP errors to a peer, if it is known to be the mesh's. It is
    /// then for ICMP errors only, or for all outgoing packets.
    pub fn covers_icmp_errors(&self) -> bool {
        self.id.direction == Direction::Out
            && [0, IPPROTO_ICMP, IPPROTO_ICMPV6].contains(&self.id.selector.proto)
            && !self.templates.is_empty()
    }

    /// The policies that let neighbour discovery (RFC 4861) pass untransformed, where everything
    /// else between two hosts is transformed. Without neighbour discovery the hosts lose each
    /// other's link-layer address, and can't even send protected packets.
    ///
    /// A policy without a template has no reqid, so these carry an index. The kernel keeps an index
    /// that a program gives (`xfrm_gen_index`), and needs the direction in its low three bits.
    pub fn discovery(reqid: Reqid) -> impl Iterator<Item = Self> {
        let any = Prefix::any(IpAddr::V6(Ipv6Addr::UNSPECIFIED));
        let kinds = [(NEIGHBOUR_SOLICITATION, 0), (NEIGHBOUR_ADVERTISEMENT, 1)];
        kinds.into_iter().flat_map(move |(kind, bit)| {
            [(Direction::In, 0), (Direction::Out, 1)].map(move |(direction, number)| Self {
                // For ICMPv6 a flow has the type in place of the source port.
                id: PolicyId::new(
                    direction,
                    Selector::between(any, any).from_port(IPPROTO_ICMPV6, kind),
                ),
                priority: PEER_PRIORITY - 1,
                action: Action::Allow,
                index: Some(1 << 31 | (reqid.0 & 0x07ff_ffff) << 4 | bit << 3 | number),
                templates: Vec::new(),
                extras: BTreeSet::new(),
            })
        })
    }

    /// A policy that blocks packets, behind all others. Its priority is the reqid: a large number.
    pub fn guard(reqid: Reqid, id: PolicyId) -> Self {
        Self {
            id,
            priority: reqid.0,
            action: Action::Block,
            index: None,
            templates: Vec::new(),
            extras: BTreeSet::new(),
        }
    }

    /// A policy that asks for an SA with a peer.
    pub fn of_peer(id: PolicyId, template: Template) -> Self {
        Self {
            id,
            priority: PEER_PRIORITY,
            action: Action::Allow,
            index: None,
            templates: vec![template],
            extras: BTreeSet::new(),
        }
    }

    /// The hosts that its packets go between: source and destination. The selector of a tunnel has
    /// networks, and its template the addresses of the hosts.
    pub fn hosts(&self) -> [IpAddr; 2] {
        match self.templates.first().filter(|_| self.id.if_id != 0) {
            Some(template) => [template.src, template.dst],
            None => [self.id.selector.src.address, self.id.selector.dst.address],
        }
    }

    /// A policy that lets packets pass untransformed, ahead of the peers' policies. It has no template
    /// that could hold the reqid. So the field of the selector that the kernel compares with no packet
    /// holds a hash, by which a policy that somebody has edited is not taken for the mesh's.
    pub fn passing(reqid: Reqid, direction: Direction, selector: Selector) -> Self {
        Self {
            id: PolicyId::new(
                direction,
                Selector { user: tag(reqid, direction, selector), ..selector },
            ),
            priority: PEER_PRIORITY - 1,
            action: Action::Allow,
            index: None,
            templates: Vec::new(),
            extras: BTreeSet::new(),
        }
    }

    /// The policy that lets UDP datagrams to an address and port in, where policies would else ask
    /// them for an SA: the kernel asks about the datagram before it takes the ESP out of it
    /// (`udp_queue_rcv_one_skb`). Only the socket gets the other datagrams that pass.
    pub fn encap(reqid: Reqid, address: IpAddr, port: u16) -> Self {
        let selector = Selector::between(Prefix::any(address), Prefix::host(address));
        Self::passing(reqid, Direction::In, selector.to_port(IPPROTO_UDP, port))
    }

    /// Whether it lets IPv4's echo replies out. Their type is 0, as that of a flow without a type.
    pub fn passes_echo_replies(&self) -> bool {
        let Selector { proto, sport, .. } = self.id.selector;
        self.id.direction == Direction::Out
            && self.passage() == Some(Passage::Exception)
            && (proto, sport) == (IPPROTO_ICMP, PortMatch::exactly(0))
    }

    /// The packets that it lets pass untransformed, of any priority, if it is of this mesh.
    pub fn passage_in(&self, reqid: Reqid) -> Option<Passage> {
        match self.role_in(reqid)? {
            PolicyRole::Passage(passage) => Some(passage),
            PolicyRole::Guard | PolicyRole::Peer => None,
        }
    }

    /// Whether it has the effect of `other`, for any owner, at a priority ahead of the peers'
    /// policies.
    pub fn serves_as(&self, other: &Self) -> bool {
        Self { priority: other.priority, index: other.index, ..self.clone() } == *other
            && self.priority < PEER_PRIORITY
    }

    /// Whether both treat the same packets in the same way. The index has no effect.
    pub fn same_as(&self, other: &Self) -> bool {
        self.id == other.id
            && self.priority == other.priority
            && self.action == other.action
            && self.templates == other.templates
            && self.extras == other.extras
    }

    /// Whether it may refuse a matching packet, because of a missing SA or always.
    pub fn refuses(&self) -> bool {
        self.action == Action::Block
            || self.templates.iter().any(|template| template.level == Level::Required)
    }

    /// Whether matching packets may pass in readable form. AH and IPComp hide nothing.
    pub fn lets_clear_text_pass(&self) -> bool {
        let hides = |template: &Template| {
            template.level == Level::Required && template.proto == IPPROTO_ESP
        };
        self.action == Action::Allow && !self.templates.iter().any(hides)
    }
}

/// The first four bytes of a hash of the reqid and of the packets that a policy lets pass.
fn tag(reqid: Reqid, direction: Direction, selector: Selector) -> u32 {
    let mut hash = Sha256::new();
    hash.update("meshsec/v1 passage");
    hash.update(reqid.0.to_be_bytes());
    hash.update(PolicyId::new(direction, Selector { user: 0, ..selector }).to_string());
    let hash: [u8; 32] = hash.finalize().into();
    u32::from_be_bytes([hash[0], hash[1], hash[2], hash[3]])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_index_holds_reqid_type_and_direction() {
        let indexes: Vec<_> = Policy::discovery(Reqid(0x4d53_a511))
            .map(|policy| (policy.id.to_string(), policy.index.unwrap()))
            .collect();
        let to = |kind, direction| {
            format!("src ::/0 dst ::/0 proto ipv6-icmp type {kind} dir {direction}")
        };
        assert_eq!(
            indexes,
            [
                (to(135, "in"), 0xd53a_5110),
                (to(135, "out"), 0xd53a_5111),
                (to(136, "in"), 0xd53a_5118),
                (to(136, "out"), 0xd53a_5119),
            ]
        );
    }

    #[test]
    fn a_policy_that_lets_packets_pass_is_known_by_its_selector() {
        let (ours, other) = (Reqid(0x4d53_0001), Reqid(0x4d53_0002));
        let [here, there]: [IpAddr; 2] = ["192.0.2.1", "192.0.2.2"].map(|one| one.parse().unwrap());
        let exception = Selector::hosts(there, here).to_port(6, 22);
        for (policy, passage) in [
            (Policy::encap(ours, here, 4500), Passage::Encap),
            (Policy::passing(ours, Direction::In, exception), Passage::Exception),
        ] {
            assert_eq!(policy.passage_in(ours), Some(passage));
            assert!(!policy.belongs_to(other));
            assert!(!Policy { action: Action::Block, ..policy.clone() }.belongs_to(ours));
            let mut nobodys = policy.clone();
            nobodys.id.selector.user = 0;
            assert!(!nobodys.belongs_to(ours));
            let mut edited = policy;
            edited.id.selector.dport = PortMatch::ANY;
            assert!(!edited.belongs_to(ours));
        }
        // printf 'meshsec/v1 passage\x4d\x53\x00\x01src 0.0.0.0/0 dst 192.0.2.1/32 proto udp dport 4500 dir in' | sha256sum
        assert_eq!(Policy::encap(ours, here, 4500).id.selector.user, 0xab30_8e96);
    }

    #[test]
    fn only_the_very_index_and_selector_are_of_a_mesh() {
        let (ours, other) = (Reqid(0x4d53_0001), Reqid(0x4d53_0002));
        for policy in Policy::discovery(ours) {
            let is_ours = |policy: &Policy| policy.belongs_to(ours);
            assert!(is_ours(&policy) && !policy.belongs_to(other) && !policy.is_guard());
            assert!(is_ours(&Policy { priority: 5, ..policy.clone() }));
            assert!(!is_ours(&Policy { index: None, ..policy.clone() }));
            assert!(!is_ours(&Policy { index: Some(policy.index.unwrap() ^ 8), ..policy.clone() }));
            assert!(!is_ours(&Policy { action: Action::Block, ..policy.clone() }));
            let mut elsewhere = policy.clone();
            elsewhere.id.selector.dst.length = 64;
            assert!(!is_ours(&elsewhere));
        }
    }
}
