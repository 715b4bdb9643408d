//! The time of a plan with 4,095 peers, beside the key derivations that it needs. `cargo bench`
//! prints times and their ratio.

use std::time::{Duration, Instant};

use hkdf::Hkdf;
use meshsec::{
    config::{
        Config, Esp, Guard, KeySource, Pairs, Peer, Rotation, SecretSource, Secrets, Select,
        Traffic,
    },
    desired::desired,
    kernel::{Kernel, memory::Memory},
    model::{
        Cipher, Generation, Key, Live, LocalAddress, MeshName, PeerName, Replay, Reqid, ShortId,
        Stage, Time,
    },
    plan::Plan,
    render::{Extent, NO_OUTCOMES, Subject, View, plan_json, plan_text},
};
use sha2::Sha256;

const PEERS: u16 = 4095;
const REQID: Reqid = Reqid(0x4d53_0001);
const ROUNDS: usize = 5;

fn main() {
    let config = config();
    let secrets = Secrets::MeshKey(Key::new((0..32).collect()));
    let local = &config.peers[0];
    let live = empty_host(local);
    let moment = config.rotation.at(Time::default());

    let base = best(|| derivations(usize::from(PEERS) * 5));
    let derive = best(|| drop(desired(&config, moment, local, Some(&secrets))));
    let (wanted, _) = desired(&config, moment, local, Some(&secrets));
    let compare = best(|| drop(Plan::new(&wanted, &live, REQID)));
    let plan = Plan::new(&wanted, &live, REQID);
    let subject = Subject::File { config: &config, moment };
    let view = View {
        subject,
        local: Some(local),
        plan: &plan,
        warnings: &[],
        outcomes: &NO_OUTCOMES,
        file: "f",
    };
    let text = best(|| drop(plan_text(&view, &Extent::Whole)));
    let json = best(|| drop(serde_json::to_string(&plan_json(&view))));

    println!("{PEERS} peers, {} changes, best of {ROUNDS}", plan.changes.len());
    for (what, time) in [
        ("5 HKDFs a peer alone", base),
        ("what the host should hold, keys included", derive),
        ("comparison with an empty host", compare),
        ("plan as text", text),
        ("plan as JSON", json),
    ] {
        let ratio = time.as_secs_f64() / base.as_secs_f64();
        println!("{:>9.1} ms  {ratio:>5.2} x  {what}", time.as_secs_f64() * 1e3);
    }
}

fn best(mut run: impl FnMut()) -> Duration {
    let time = |_| {
        let begin = Instant::now();
        run();
        begin.elapsed()
    };
    (0..ROUNDS).map(time).min().expect("there is a round")
}

fn derivations(count: usize) {
    let mut okm = [0; 36];
    for number in 0..count {
        let salt = number.to_be_bytes();
        Hkdf::<Sha256>::new(Some(&salt), &[7; 32])
            .expand(b"meshsec/v1 esp of the length of an info", &mut okm)
            .expect("36 bytes are few");
        std::hint::black_box(&okm);
    }
}

fn empty_host(local: &Peer) -> Live {
    let mut kernel = Memory::default();
    let address = LocalAddress { address: local.address, device: "eth0".into() };
    kernel.state_mut().addresses.push(address);
    kernel.observe(REQID).expect("nothing was planted that fails")
}

fn config() -> Config {
    let peer = |number: u16| Peer {
        name: PeerName::new(&format!("p{number}")).expect("a name"),
        short_id: ShortId::new(number).expect("below 4096"),
        address: [10, 0, (number >> 8) as u8, number as u8].into(),
        public_key: None,
        groups: std::collections::BTreeSet::new(),
        stage: Stage::Enforce,
        outside: None,
        networks: Default::default(),
        inside: Default::default(),
    };
    Config {
        mesh: MeshName::new("bench").expect("a name"),
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
        keys: KeySource::MeshKey(SecretSource::Env("KEY".into())),
        rotation: Rotation::Generation(Generation::new(1).expect("small")),
        link: None,
        tunnel: None,
        peers: (0..=PEERS).map(peer).collect(),
        exceptions: Vec::new(),
    }
}
