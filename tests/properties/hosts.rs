//! Random meshes, and hosts in any state: ours, somebody else's, damaged, or plain odd.
//!
//! All is made of small numbers, so that a failure shrinks to the few that matter.

use std::{collections::BTreeSet, fmt, net::IpAddr};

use meshsec::{
    config::{
        Config, EncapWish, Exception, Guard, LinkWish, Members, Pairs, Ports, Protocol, Rotation,
        Select, Traffic,
    },
    desired::Desired,
    kernel::memory::Memory,
    model::{
        Action, Algorithm, Backend, Bypass, Chain, ChainId, ChainRole, Cipher, Direction, Encap,
        Family, Fingerprint, Generation, Jump, KeyView, Level, Link, Mark, Mode, Mtu, Period,
        Policy, PortMatch, Prefix, Queue, Replay, Reqid, Rule, Sa, Selector, ShortId, Spi, Stage,
        Start, State, Template, Time, Usage,
    },
};
use proptest::prelude::*;

use crate::{
    common::{self, REQID, wanted_at},
    packets::Packet,
};

/// When everything happens, where a mesh follows the clock: early in a period.
pub const NOW: Time = Time(60_030_000_000_000);

/// Somebody else's reqid.
pub const THEIRS: Reqid = Reqid(7);

/// The local peer, its peers and a stranger, of either family.
const V4: [&str; 5] = ["192.0.2.1", "192.0.2.2", "192.0.2.3", "192.0.2.4", "192.0.2.99"];
const V6: [&str; 5] = ["2001:db8::1", "2001:db8::2", "2001:db8::3", "2001:db8::4", "2001:db8::99"];

/// A host that is in no mesh, of the family of an address.
pub fn stranger(like: IpAddr) -> IpAddr {
    let all = if like.is_ipv4() { V4 } else { V6 };
    all[4].parse().unwrap()
}

/// Which of a list a number picks; shrinking leads to the first.
fn pick<T: Copy>(from: &[T], number: u8) -> T {
    from[usize::from(number) % from.len()]
}

/// Another address of the host, by which it talks to its peers past the policies of the pair.
pub fn another(like: IpAddr) -> IpAddr {
    let address = if like.is_ipv4() { "192.0.2.101" } else { "2001:db8::101" };
    address.parse().unwrap()
}

/// A mesh by its numbers; `ipv6` says of which family the local peer is.
pub fn config(ipv6: bool, n: [u8; 10]) -> Config {
    let (addresses, others) = if ipv6 { (V6, V4) } else { (V4, V6) };
    let mut config = common::mesh(0, &[&addresses[..4], &others[1..2]].concat());
    let mut bits = (0..).map(|bit| bit == 0 || n[0] >> (bit - 1) & 1 == 0);
    config.peers.retain(|_| bits.next().unwrap());
    if n[0] & 0x80 != 0 {
        let other = |id: ShortId| ShortId::new(id.get() ^ 0x20).unwrap();
        config.peers.iter_mut().skip(1).for_each(|peer| peer.short_id = other(peer.short_id));
    }
    let tcp = Traffic::Port { protocol: Protocol::Tcp, ports: Ports::one(443) };
    let (vxlan, geneve) = (Traffic::Vxlan { port: 4789 }, Traffic::Geneve { port: 6081 });
    let two = Ports::new(&[443, 8443]).unwrap();
    let two = Traffic::Port { protocol: Protocol::Tcp, ports: two };
    let kinds = [vxlan, vxlan, Traffic::Vxlan { port: 8472 }, geneve, Traffic::All, tcp, two];
    config.traffic = pick(&kinds, n[1]);
    let marks = [Mark { value: 0x20000, mask: 0x20000 }, Mark { value: 1, mask: 3 }];
    (config.select, config.guard) = match n[2] % 5 {
        _ if !config.traffic.can_be_guarded() => (Select::Port, Guard::Off),
        mark @ 2..=3 => (Select::Mark(marks[usize::from(mark) - 2]), Guard::Both),
        0 => (Select::Port, Guard::Both),
        1 => (Select::Port, Guard::Off),
        _ => (Select::Port, Guard::Policies),
    };
    if config.traffic == Traffic::All && n[1] & 0x40 != 0 {
        let one = Members::Peer(config.peers[0].name.clone());
        let serves = vec![if n[1] & 0x80 == 0 { Members::Everybody } else { one }];
        let ssh = Exception::Port { protocol: Protocol::Tcp, port: 22, serves };
        config.exceptions = vec![ssh, Exception::Echo];
    }
    let generation = Generation::new(pick(&[1, 2, 0, 3, 30, 31, 32, 43], n[3])).unwrap();
    config.esp.replay = pick(
        &[(0, false), (1024, false), (64, true)].map(|(window, esn)| Replay { window, esn }),
        n[4],
    );
    config.rotation = match n[5] % 4 {
        3 => Rotation::Period(Period::new(600).unwrap()),
        _ => Rotation::Generation(generation),
    };
    config.esp.cipher = pick(&Cipher::ALL, n[6]);
    config.esp.offload = (n[7] % 8 == 7).then(|| "eth0".into());
    // A quarter of the meshes is in UDP, some from a later generation on.
    let from = Generation::new(pick(&[0, 2, 3, 31], n[7] >> 5)).unwrap();
    let encap = n[7] % 4 == 2;
    let keepalive = pick(&[None, Some(20), Some(25)], n[8] >> 1);
    let port = pick(&[4500, 4501], n[7] >> 3);
    config.esp.encap = encap.then_some(EncapWish { port, from, keepalive });
    let mtu = pick(&[Mtu::Auto, Mtu::Exactly(1300)], n[8]);
    let link = LinkWish { device: common::VXLAN.into(), mtu };
    // Half of the meshes are at the last stage.
    let stage = |bits: u8| pick(&[Stage::Enforce, Stage::Send, Stage::Receive], bits & 3);
    if n[9] & 0x40 == 0 {
        config.stage = stage(n[9]);
        config.peers[0].stage = stage(n[9] >> 2);
        config.peers.last_mut().unwrap().stage = stage(n[9] >> 4);
    }
    // Some talk to one peer only.
    if n[9] & 0xc0 == 0xc0 {
        let [first, last] = [config.peers.first(), config.peers.last()].map(|peer| peer.unwrap());
        let ends = [first, last].map(|peer| Members::Peer(peer.name.clone()));
        config.pairs = Pairs::Listed(vec![ends]);
    }
    config.link = (n[8] > 1 && config.traffic.can_be_guarded()).then_some(link);
    config
}

/// Whether a file lets a packet out of the local peer pass in the clear, as one of tcp port 22 whose
/// service one of the ends offers.
pub fn is_excepted(config: &Config, packet: &Packet) -> bool {
    let local = &config.peers[0];
    let offers = |address| {
        config.exceptions.iter().any(|exception| match exception {
            Exception::Port { serves, .. } => serves.iter().any(|members| match members {
                Members::Everybody => true,
                Members::Peer(name) => *name == local.name && address == local.address,
                Members::Group(_) => false,
            }),
            Exception::Echo => false,
        })
    };
    packet.proto == 6
        && (packet.dport == 22 && offers(packet.dst) || packet.sport == 22 && offers(packet.src))
}

/// A host, the mesh that was, and the one that is to be.
#[derive(Clone)]
pub struct Case {
    ipv6: bool,
    before: [u8; 10],
    after: [u8; 10],
    /// The objects of the host: those before (0 and 1), those to be, none, or those that version 0.1
    /// made before.
    base: u8,
    oddities: Vec<(u8, [u8; 12])>,
}

impl fmt::Debug for Case {
    /// On one line.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { ipv6, before, after, base, oddities } = self;
        write!(f, "ipv6 {ipv6} before {before:?} after {after:?} base {base} oddities {oddities:?}")
    }
}

/// Cases with up to this many oddities. In half of them the two meshes differ
/// in little.
pub fn any_case(oddities: usize) -> impl Strategy<Value = Case> {
    let one_field = (any::<[u8; 10]>(), 0..10usize, any::<u8>()).prop_map(|(n, field, other)| {
        let mut after = n;
        after[field] = other;
        (n, after)
    });
    let pair = prop_oneof![one_field, any::<([u8; 10], [u8; 10])>()];
    let oddities = proptest::collection::vec((0..11u8, any::<[u8; 12]>()), 0..=oddities);
    (any::<bool>(), pair, 0..5u8, oddities).prop_map(|(ipv6, (before, after), base, oddities)| {
        Case { ipv6, before, after, base, oddities }
    })
}

impl Case {
    /// The mesh that was, and the one that is to be.
    pub fn meshes(&self) -> (Config, Config) {
        (config(self.ipv6, self.before), config(self.ipv6, self.after))
    }

    /// The host.
    pub fn kernel(&self) -> Memory {
        let (before, after) = self.meshes();
        let wanted = [&before, &after].map(|config| wanted_at(config, NOW).0);
        let mut kernel = common::host(&after);
        kernel.set_now(NOW);
        let state = kernel.state_mut();
        let kinds = [("lo", "loopback"), ("dummy0", "dummy"), ("red", "vrf")];
        state.links.extend(
            kinds.map(|(name, kind)| Link { kind: Some(kind.into()), ..common::link(name, 1500) }),
        );
        state.links.push(common::link("eth1", 1500));
        match self.base {
            0 | 1 => fill(state, &wanted[0]),
            2 => fill(state, &wanted[1]),
            4 => {
                fill(state, &wanted[0]);
                common::as_version_0_1(state, &wanted[0]);
            }
            _ => {}
        }
        for (kind, n) in &self.oddities {
            odd(state, &wanted, *kind, n);
        }
        let sends_them = state.sas.iter().any(|sa| sa.keepalive.is_some());
        let known = pick(&[Some(true), Some(false), None], self.after[8] >> 4);
        state.keepalives = if sends_them { Some(true) } else { known };
        kernel
    }
}

/// The objects that an apply on an empty host leaves there.
pub fn fill(state: &mut State, wanted: &Desired) {
    state.sas = wanted.sas.values().map(|wanted| wanted.sa.clone()).collect();
    state.usage = state.sas.iter().map(|sa| used(sa, wanted)).collect();
    let policies = wanted.policies.values().map(|wanted| &wanted.policy);
    let policies = policies.chain(wanted.guards.values()).chain(wanted.passages.values());
    state.policies = policies.cloned().collect();
    let chains = wanted.chains.iter().map(|((family, role), rules)| Chain {
        id: ChainId::new(Backend::NfTables, *family, *role, REQID),
        rules: rules.clone(),
        jumps: vec![Jump::FIRST],
        references: Vec::new(),
    });
    state.firewall.chains = chains.collect();
}

fn used(sa: &Sa, wanted: &Desired) -> Usage {
    let sent = match wanted.sas[&sa.id].start {
        Start::Seed { generation, period } => period.seed(generation, NOW).unwrap_or(0),
        _ => 0,
    };
    Usage {
        id: sa.id,
        sent,
        received: 0,
        bytes: 0,
        packets: 0,
        added: NOW,
        used: None,
        last: None,
        too_old: 0,
        replayed: 0,
        forged: 0,
    }
}

/// Makes something of a state that no apply has left so.
fn odd(state: &mut State, wanted: &[Desired; 2], kind: u8, n: &[u8; 12]) {
    let nth = |length: usize| usize::from(n[0]) % length.max(1);
    match kind {
        0..=3 => odd_policy(state, wanted, n),
        4 | 5 => odd_sa(state, wanted, n),
        6 if !state.sas.is_empty() => drop(state.sas.remove(nth(state.sas.len()))),
        7 if !state.policies.is_empty() => drop(state.policies.remove(nth(state.policies.len()))),
        8 | 9 => odd_chain(&mut state.firewall.chains, wanted, n),
        10 => odd_surroundings(state, n),
        _ => {}
    }
}

/// A policy like one of theirs or ours, with some fields changed.
fn odd_policy(state: &mut State, wanted: &[Desired; 2], n: &[u8; 12]) {
    let wanted = &wanted[usize::from(n[0] & 1)];
    let policies = wanted.policies.values().map(|wanted| &wanted.policy);
    let like = policies.chain(wanted.guards.values()).chain(&state.policies);
    // The kernel lets no index and direction disagree (`verify_newpolicy_info`).
    let like: Vec<&Policy> = like.filter(|policy| policy.index.is_none()).collect();
    let Some(mut policy) = like.get(usize::from(n[0] >> 1) % like.len().max(1)).copied().cloned()
    else {
        return;
    };
    // Their SAs find their own policies, and often ours have none.
    if n[1] & 1 == 1 {
        policy.templates.iter_mut().for_each(|template| template.reqid = THEIRS);
        if policy.templates.is_empty() {
            policy.priority = 5000;
        }
    }
    for (field, by) in [(n[2], n[3]), (n[4], n[5]), (n[6], n[7]), (n[8], n[9]), (n[10], n[11])] {
        edit_policy(&mut policy, field, by);
    }
    state.policies.retain(|other| other.id != policy.id);
    state.policies.push(policy);
}

fn edit_policy(policy: &mut Policy, field: u8, by: u8) {
    let id = &mut policy.id;
    let any = |prefix: Prefix| Prefix::any(prefix.address);
    let shorter = |length: u8| if length > 32 { length - 8 } else { length.saturating_sub(8) };
    match field % 24 {
        0..=3 => {}
        4 => policy.priority = pick(&[1, 500, 1000, 1001, 2000, REQID.0, u32::MAX], by),
        5 => policy.priority = pick(&[999, 1000, 1001, REQID.0 - 1, REQID.0 + 1], by),
        6 => policy.action = pick(&[Action::Allow, Action::Block], by),
        7 => id.direction = pick(&[Direction::Out, Direction::In, Direction::Fwd], by),
        8 => id.mark = pick(&[mark(1, 1), mark(0x20000, 0x20000), mark(0, 1), mark(1, 3)], by),
        9 => (id.if_id, id.sub) = pick(&[(7, false), (0, true)], by),
        10 => id.selector.dst = any(id.selector.dst),
        11 => id.selector.src = any(id.selector.src),
        12 => id.selector.dst.length = shorter(id.selector.dst.length),
        13 => (id.selector.dport, id.selector.sport) = (PortMatch::ANY, PortMatch::ANY),
        14 => id.selector.proto = pick(&[0, 17, 6], by),
        15 => id.selector.dport = PortMatch::exactly(pick(&[4789, 8472, 6081, 443], by)),
        16 => id.selector.sport = PortMatch { port: 49_152, mask: 0xc000 },
        17 => policy.templates.clear(),
        18 => policy.templates.extend(policy.templates.first().copied()),
        19 => edit_template(policy, |template| template.level = Level::Use),
        20 => edit_template(policy, |template| template.proto = pick(&[51, 108], by)),
        21 => edit_template(policy, |template| template.mode = Mode::Tunnel),
        22 => edit_template(policy, |template| {
            template.spi = Spi::from_raw(pick(&[0, 0x8400_1002, 0xc000_0001], by));
        }),
        _ => {
            edit_template(policy, |template| template.reqid = pick(&[Reqid(0), THEIRS, REQID], by))
        }
    }
}

/// Changes the last template.
fn edit_template(policy: &mut Policy, edit: impl FnOnce(&mut Template)) {
    if let Some(template) = policy.templates.last_mut() {
        edit(template);
    }
}

/// An SA like one of ours, with some fields changed.
fn odd_sa(state: &mut State, wanted: &[Desired; 2], n: &[u8; 12]) {
    let wanted = &wanted[usize::from(n[0] & 1)];
    let like: Vec<&Sa> = wanted.sas.values().map(|wanted| &wanted.sa).chain(&state.sas).collect();
    let Some(mut sa) = like.get(usize::from(n[0] >> 1) % like.len().max(1)).copied().cloned()
    else {
        return;
    };
    for (field, by) in [(n[1], n[2]), (n[3], n[4]), (n[5], n[6]), (n[7], n[8])] {
        edit_sa(&mut sa, field, by);
    }
    state.sas.retain(|other| other.id != sa.id);
    state.usage.retain(|usage| usage.id != sa.id);
    state.sas.push(sa);
}

fn edit_sa(sa: &mut Sa, field: u8, by: u8) {
    let other = if sa.src.is_ipv4() { V4 } else { V6 }[3 + usize::from(by & 1)];
    match field % 16 {
        0 => (sa.algorithm, sa.key) = (Algorithm::Larval, KeyView::Unknown),
        1 => sa.selector = None,
        2 => sa.selector = Some(Selector::hosts(other.parse().unwrap(), sa.id.dst)),
        3 => sa.src = other.parse().unwrap(),
        4 => sa.reqid = pick(&[THEIRS, Reqid(0)], by),
        5 => sa.id.mark = pick(&[mark(1, 1), mark(0x20000, 0x20000), mark(0, 1)], by),
        6 => sa.id.proto = pick(&[51, 108], by),
        7 => sa.mode = Mode::Tunnel,
        8 => sa.id.spi = Spi::from_raw(sa.id.spi.raw() ^ pick(&[0x0100_0000, 0x0300_0000, 1], by)),
        9 => sa.key = pick(&[KeyView::Unknown, KeyView::Known(Fingerprint::of(b"another"))], by),
        10 => sa.replay = Replay { window: 32, esn: false },
        11 if by.is_multiple_of(2) => sa.if_id = 7,
        11 => sa.extras = BTreeSet::from(["flag nopmtudisc".into()]),
        14 => sa.encap = pick(&[None, Some(Encap { sport: 4500, dport: 4500 })], by),
        15 => sa.keepalive = sa.encap.map(|_| 30),
        12 => sa.algorithm = Algorithm::Other("crypt cbc(aes) 128 bits".into()),
        13 => sa.src = Prefix::any(sa.src).address,
        _ => {}
    }
}

/// A chain of ours or of another mesh, other than an apply leaves it.
fn odd_chain(chains: &mut Vec<Chain>, wanted: &[Desired; 2], n: &[u8; 12]) {
    let (family, role) = (pick(&Family::ALL, n[0] & 1), pick(&ChainRole::ALL, n[1]));
    let backend = pick(&[Backend::NfTables, Backend::Legacy], n[2] & 1);
    let id = ChainId::new(backend, family, role, pick(&[REQID, REQID, REQID, THEIRS], n[3]));
    let theirs = |number: u8| Rule::Other(pick(&["-j ACCEPT", "-j RETURN"], number).into());
    let [port, old] = [4789, pick(&[4789, 8472, 6081], n[4])];
    let rules = |port| match role.guards() {
        None => {
            vec![Rule::Mark { port, mark: pick(&[mark(0x20000, 0x20000), mark(1, 3)], n[5]) }]
        }
        // Those of version 0.1, of this mesh and of another, and halves of them.
        Some(direction) => match n[5] % 6 {
            0 => vec![Rule::Drop { port, direction }],
            1 => Rule::guards(port, direction, THEIRS),
            2 => vec![Rule::Pass { port, direction, reqid: REQID }],
            3 => vec![Rule::Block { port, direction }],
            _ => Rule::guards(port, direction, REQID),
        },
    };
    let rules = |port| match role {
        ChainRole::Post | ChainRole::Forward => {
            let network =
                pick(&["192.0.2.0/24", "192.0.2.2/32", "2001:db8::/64", "10.0.0.0/8"], n[5]);
            let (address, length) = network.split_once('/').unwrap();
            let network =
                Prefix { address: address.parse().unwrap(), length: length.parse().unwrap() };
            let all =
                Rule::guards_of_networks(&[network].into(), "mesh0", pick(&[REQID, THEIRS], n[4]));
            let outside = n[11].is_multiple_of(3).then_some(Rule::PassOutside { network });
            outside.into_iter().chain(all.into_iter().skip(usize::from(n[10] % 3))).collect()
        }
        _ => rules(port),
    };
    let ours = wanted[0].chains.get(&(family, role)).cloned().unwrap_or(rules(port));
    let rules = match n[6] % 5 {
        0 => ours,
        1 => Vec::new(),
        2 => [vec![theirs(n[7])], rules(port)].concat(),
        3 => [rules(old), vec![theirs(n[7])]].concat(),
        _ => [rules(port), rules(old)].concat(),
    };
    let jump = |conditions: Option<&str>, behind: Option<&str>| Jump {
        conditions: conditions.map(Into::into),
        behind: behind.map(Into::into),
    };
    let jumps = match n[8] % 6 {
        0 | 1 => vec![Jump::FIRST],
        2 => Vec::new(),
        3 => vec![jump(None, Some("-j ACCEPT"))],
        4 => vec![jump(Some("-p tcp"), None)],
        _ => vec![Jump::FIRST, jump(None, Some("-j ACCEPT"))],
    };
    chains.retain(|chain| chain.id != id);
    if n[9] % 4 != 3 {
        chains.push(Chain { id, rules, jumps, references: Vec::new() });
    }
}

/// The surroundings of SAs, policies and chains.
fn odd_surroundings(state: &mut State, n: &[u8; 12]) {
    match n[0] % 8 {
        0 => state.sas.iter_mut().for_each(|sa| sa.key = KeyView::Unknown),
        1 => state.policies.clear(),
        2 => state.sas.clear(),
        3 => state.firewall.backends = [(Family::Ipv6, Backend::NfTables)].into(),
        4 => state.firewall.backends = Family::ALL.map(|family| (family, Backend::Legacy)).into(),
        5 => odd_routes(state, n),
        _ => state.bypasses.push(Bypass {
            device: pick(&["eth0", "all", "eth1", "red", "lo"], n[1]).into(),
            ipv6: state.addresses.iter().any(|local| local.address.is_ipv6()),
            name: pick(&["disable_xfrm", "disable_policy"], n[2]).into(),
        }),
    }
}

/// The address on another device than packets leave by, and other ways to peers.
fn odd_routes(state: &mut State, n: &[u8; 12]) {
    let carrier = pick(&["eth0", "lo", "dummy0", "eth1"], n[1]);
    state.addresses.iter_mut().for_each(|local| local.device = carrier.into());
    for (route, by) in state.routes.iter_mut().zip(n[2..].iter().cycle()) {
        let devices: &[&str] = pick(&[&["eth0"], &["eth1"], &["eth0", "eth1"], &[]], *by);
        route.devices = devices.iter().map(ToString::to_string).collect();
        route.refused = devices.is_empty().then(|| "ENETUNREACH".into());
        route.vrfs = if by & 4 == 0 { BTreeSet::new() } else { ["red".to_owned()].into() };
    }
    if n[2] & 8 != 0 {
        let vrfs = state.links.iter_mut().filter(|link| link.kind.as_deref() == Some("vrf"));
        vrfs.for_each(|vrf| vrf.queue = Some(Queue::Discipline("pfifo".into())));
    }
    if n[3] & 0x80 != 0 {
        state.routes.pop();
    }
}

const fn mark(value: u32, mask: u32) -> Mark {
    Mark { value, mask }
}
