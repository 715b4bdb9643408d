//! The meshes that snapshots are compared with.

use std::sync::LazyLock;

use crate::{
    config::{
        Config, Esp, Guard, KeySource, LinkWish, Moment, Pairs, Peer, Rotation, SecretSource,
        Select, Traffic,
    },
    desired::{Desired, desired},
    model::{
        Cipher, Generation, Mark, MeshName, Mtu, PeerName, Period, Replay, Reqid, ShortId, Stage,
        Time,
    },
};

/// The moment at which all plans are made.
pub(crate) const NOW: Time = Time(1_795_300_000_000_000_000);

/// A mesh, and the objects that its first peer should hold.
pub(crate) struct Mesh {
    /// The file.
    pub config: Config,
    /// The moment, with its generation.
    pub moment: Moment,
    /// The objects that the host should hold, with keys not checked.
    pub desired: Desired,
}

impl Mesh {
    fn of(config: Config) -> Self {
        let moment = config.rotation.at(NOW);
        let (desired, _) = desired(&config, moment, &config.peers[0], None);
        Self { config, moment, desired }
    }

    /// The peer that the host is.
    pub fn local(&self) -> &Peer {
        &self.config.peers[0]
    }
}

/// Three meshes: one by port, one by mark, and one of all traffic with generations that follow the
/// clock.
pub(crate) fn meshes() -> &'static [Mesh; 3] {
    static MESHES: LazyLock<[Mesh; 3]> = LazyLock::new(|| {
        let by_mark = Mark { value: 0x20000, mask: 0x20000 };
        let period = Period::new(3600).expect("an hour");
        [
            Mesh::of(config(&["192.0.2.1", "192.0.2.2"])),
            Mesh::of(Config {
                select: Select::Mark(by_mark),
                link: None,
                tunnel: None,
                ..config(&["192.0.2.1", "192.0.2.2"])
            }),
            Mesh::of(Config {
                traffic: Traffic::All,
                guard: Guard::Off,
                link: None,
                tunnel: None,
                rotation: Rotation::Period(period),
                ..config(&["2001:db8::1", "2001:db8::2"])
            }),
        ]
    });
    &MESHES
}

fn config(addresses: &[&str]) -> Config {
    let peers = ["a", "b"].iter().zip(1..).zip(addresses).map(|((name, id), address)| Peer {
        name: PeerName::new(name).expect("a name"),
        short_id: ShortId::new(id).expect("a ShortID"),
        address: address.parse().expect("an address"),
        public_key: None,
        groups: std::collections::BTreeSet::new(),
        stage: Stage::Enforce,
        outside: None,
        networks: Default::default(),
        inside: Default::default(),
    });
    Config {
        mesh: MeshName::new("lab").expect("a name"),
        reqid: Reqid(0x4d53_0001),
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
        rotation: Rotation::Generation(Generation::new(1).expect("a generation")),
        link: Some(LinkWish { device: "vxlan42".into(), mtu: Mtu::Auto }),
        tunnel: None,
        peers: peers.collect(),
        exceptions: Vec::new(),
    }
}
