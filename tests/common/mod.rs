//! Helpers that several tests share: small meshes, and planning and applying in memory.
#![allow(dead_code, unused_imports, reason = "every test uses a part of it")]

mod golden;
pub mod namespace;

use std::{collections::BTreeMap, net::IpAddr};

use meshsec::{
    apply::{Report, Target, apply},
    config::{
        Config, Esp, Guard, KeySource, Pairs, Peer, Rotation, SecretSource, Secrets, Select,
        Traffic,
    },
    desired::{Desired, Goal, Keyring, Marking, desired},
    kernel::{Kernel, memory::Memory},
    model::{
        Cipher, Generation, Key, Link, Live, LocalAddress, MeshName, PeerName, Replay, Reqid,
        Route, ShortId, Spi, Stage, State, Time,
    },
    plan::{FarEnd, Outcome, Plan},
};

pub use golden::{compare, difference};

/// The reqid of every mesh here.
pub const REQID: Reqid = Reqid(0x4d53_0001);

/// The tunnel's device.
pub const VXLAN: &str = "vxlan42";

/// A mesh of peers with ShortIDs 1, 2, … in the order of their addresses.
pub fn mesh(generation: u64, addresses: &[&str]) -> Config {
    let names = "abcdefgh".chars();
    let peers = names.zip(1..).zip(addresses).map(|((name, id), address)| Peer {
        name: PeerName::new(&name.to_string()).unwrap(),
        short_id: ShortId::new(id).unwrap(),
        address: address.parse().unwrap(),
        public_key: None,
        groups: std::collections::BTreeSet::new(),
        stage: Stage::Enforce,
        outside: None,
        networks: Default::default(),
        inside: Default::default(),
    });
    Config {
        mesh: MeshName::new("lab").unwrap(),
        reqid: REQID,
        stage: Stage::Enforce,
        pairs: Pairs::All,
        traffic: Traffic::Vxlan { port: 4789 },
        select: Select::Port,
        guard: Guard::Both,
        esp: Esp {
            cipher: Cipher::Aes256Gcm,
            replay: Replay { window: 0, esn: false },
            offload: None,
            encap: None,
        },
        keys: KeySource::MeshKey(SecretSource::Env("MESH_KEY".into())),
        rotation: Rotation::Generation(Generation::new(generation).unwrap()),
        link: None,
        tunnel: None,
        peers: peers.collect(),
        exceptions: Vec::new(),
    }
}

/// The secrets of every mesh here.
pub fn secrets() -> Secrets {
    Secrets::MeshKey(Key::new((0..32).collect()))
}

/// The wanted objects of the first peer of a mesh. A mesh that follows the clock is looked at in
/// 1970.
pub fn wanted(config: &Config) -> (Desired, Keyring) {
    wanted_at(config, Time::default())
}

/// The wanted objects of the first peer of a mesh at a moment.
pub fn wanted_at(config: &Config, now: Time) -> (Desired, Keyring) {
    desired(config, config.rotation.at(now), &config.peers[0], Some(&secrets()))
}

/// The state that destroy asks of a host.
pub fn nothing(config: &Config) -> Desired {
    let local = &config.peers[0];
    let peers = config.peers[1..].iter().map(|peer| (peer.address, peer.name.clone()));
    Desired {
        local: Some(local.address),
        peers: peers.collect(),
        goal: Goal::Nothing,
        marking: Marking::of(config),
        ..Desired::default()
    }
}

/// A kernel of the first peer, with nothing but its address.
pub fn host(config: &Config) -> Memory {
    let mut kernel = Memory::default();
    kernel.offload_to("eth0");
    let state = kernel.state_mut();
    state.addresses.push(address(config.peers[0].address));
    state.links = vec![link("eth0", 1500), link(VXLAN, 1450)];
    let local = &config.peers[0];
    let peers =
        config.peers.iter().filter(|peer| peer.address.is_ipv4() == local.address.is_ipv4());
    state.routes =
        peers.skip(1).map(|peer| route(local.address, peer.address, &["eth0"])).collect();
    kernel
}

/// The way between two addresses, by these devices.
pub fn route(from: IpAddr, to: IpAddr, devices: &[&str]) -> Route {
    let (none, source) = (std::collections::BTreeSet::new, Some(from));
    let devices = devices.iter().map(ToString::to_string).collect();
    Route { to, from, devices, no_carrier: none(), vrfs: none(), source, refused: None }
}

/// A device.
pub fn link(name: &str, mtu: u32) -> Link {
    Link { name: name.into(), mtu, kind: None, queue: None }
}

/// An address on eth0.
pub fn address(address: IpAddr) -> LocalAddress {
    LocalAddress { address, device: "eth0".into() }
}

/// The kernel's objects of the mesh.
pub fn observe(kernel: &mut Memory) -> Live {
    kernel.observe(REQID).unwrap()
}

/// The plan for the first peer of a mesh, by its kernel's clock.
pub fn plan(config: &Config, kernel: &mut Memory) -> Plan {
    Plan::new(&wanted_at(config, kernel.now()).0, &observe(kernel), REQID)
}

/// What becomes of packets by a plan of [`plan`].
pub fn outcomes(config: &Config, kernel: &mut Memory, plan: &Plan) -> BTreeMap<FarEnd, Outcome> {
    let desired = wanted_at(config, kernel.now()).0;
    meshsec::plan::outcomes(&desired, REQID, &observe(kernel).0, &plan.changes)
}

/// Applies a mesh on its first peer, by its kernel's clock.
pub fn applied(config: &Config, kernel: &mut Memory) -> Report {
    let (desired, keyring) = wanted_at(config, kernel.now());
    let goal = Target { desired: &desired, keyring: &keyring, reqid: REQID };
    let plan = Plan::new(&desired, &observe(kernel), REQID);
    apply(kernel, &goal, &plan, &mut |_| {})
}

/// A host on which a mesh was applied.
pub fn applied_host(config: &Config) -> Memory {
    let mut kernel = host(config);
    let report = applied(config, &mut kernel);
    assert!(report.is_complete(), "a first apply completes");
    kernel
}

/// Gives a host's wanted SAs, and the policies that ask for them, the SPIs of version 0.1.
pub fn as_version_0_1(state: &mut State, wanted: &Desired) {
    let old = |spi: Spi, generation: Generation| {
        let low = (generation.get() % 128) as u32;
        Spi::from_raw(0x8000_0000 | low << 24 | (spi.raw() & 0xff_ffff))
    };
    let spis: BTreeMap<Spi, Spi> = wanted
        .sas
        .values()
        .map(|wanted| (wanted.sa.id.spi, old(wanted.sa.id.spi, wanted.generation)))
        .collect();
    let change = |spi: &mut Spi| *spi = spis.get(spi).copied().unwrap_or(*spi);
    state.sas.iter_mut().for_each(|sa| change(&mut sa.id.spi));
    state.usage.iter_mut().for_each(|usage| change(&mut usage.id.spi));
    let templates = state.policies.iter_mut().flat_map(|policy| &mut policy.templates);
    templates.for_each(|template| change(&mut template.spi));
}
