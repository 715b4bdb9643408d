//! `prove`: evidence on the wire.
//!
//! Probes of the mesh's kind go to each peer while all devices are captured. The order is: look at the
//! kernel as `status` does, open the sockets, give up all privileges, send and capture, judge.

mod compare;
mod run;

use std::{collections::BTreeSet, net::IpAddr};

use super::{Status, moment, print, print_json, status};
use crate::{
    cli::{Format, Global, ProveArgs},
    config::{Config, Loaded, Peer, SecretsMode, Traffic},
    desired::{self, desired},
    error::Error,
    kernel::{
        Kernel,
        linux::{self, capture::Capture, clock, probe::Sender},
    },
    model::{ErrorCode, Live, Member, Ways},
    privilege::{self, Files},
    render::{EvidenceView, HostFacts, evidence_json, evidence_text},
    verdict::proof::{Pair, pairs, strangers},
};
use run::Run;

/// Needs no secret: keys are shown as the kernel has them.
pub(super) fn run(global: &Global, args: &ProveArgs) -> Result<Status, Error> {
    if let [one, other] = args.compare.as_slice() {
        return compare::run(global.format, one, other);
    }
    let loaded = super::load(global, SecretsMode::Ignored, Files::Neither)?;
    let config = &loaded.config;
    if config.traffic == Traffic::Networks {
        return Err(Error::request(
            ErrorCode::OptionsDisagree,
            "prove sends packets from this host's own address, which kind = \"networks\" does not \
             protect: use meshsec status, and meshsec explain for single packets",
        ));
    }
    let asked = super::asked(config, &args.peers)?;
    let live = super::kernel_for(global, config)?.observe(config.reqid)?;
    let taken = clock::now();
    let moment = moment::at(config, taken)?;
    let local = super::local_peer(global, config, &live.0.addresses)?;
    let (desired, _) = desired(config, moment, local, None);
    status::are_pairs(&asked, local, &desired)?;
    let pairs = pairs(config, local, &desired, &live, &asked);
    let stranger = stranger(config, local, &live, &pairs)?;
    let vrf = pairs.iter().flat_map(|pair| &pair.vrfs).next().cloned();
    let opened = privilege::last_sockets(|| {
        Ok::<_, Error>((Capture::open()?, Sender::open(local.address, vrf)?))
    });
    let (capture, sender) = opened.map_err(Error::Privilege)??;
    let run = Run { config, pairs: &pairs, desired: &desired, stranger, capture, sender };
    let captured = run.send_and_judge(args)?;
    let view = EvidenceView {
        host: host_facts(&loaded),
        config,
        moment,
        local,
        taken,
        account: captured.account,
        devices: pairs.iter().flat_map(|pair| &pair.devices).cloned().collect(),
        peers: captured.peers(&pairs),
        guard: captured.guard.as_ref(),
        wants_guard: config.is_guarded(local),
        exceptions: desired.exceptions.keys().cloned().collect(),
    };
    match global.format {
        Format::Text | Format::Prometheus => print(&evidence_text(&view))?,
        Format::Json => print_json(&evidence_json(&view))?,
    }
    Ok(if view.is_proven() { Status::Done } else { Status::Attention })
}

fn host_facts(loaded: &Loaded) -> HostFacts {
    HostFacts {
        name: linux::host_name(),
        kernel: linux::kernel_release(),
        file: hex::encode(loaded.digest),
        included: loaded
            .included
            .iter()
            .map(|file| (file.name.clone(), hex::encode(file.digest)))
            .collect(),
    }
}

/// An address that no peer has, for a packet that the guard has to stop. It is routed by a device that
/// packets to peers leave by; without such a route there is none.
fn stranger(
    config: &Config,
    local: &Peer,
    live: &Live,
    pairs: &[Pair],
) -> Result<Option<IpAddr>, Error> {
    if !config.is_guarded(local) {
        return Ok(None);
    }
    let used = used_addresses(config, live);
    let mut random = [0; 4];
    fill(&mut random)?;
    let found = strangers(local.address, &used, u32::from_ne_bytes(random));
    let member = |address: &IpAddr| Member { address: *address, reached_at: *address, port: None };
    let members = found.iter().map(member).collect();
    // Without the tunnel devices: a look-up for a device that they are bound to finds a route by it to
    // any address.
    let ways = Ways {
        local: Some(local.address),
        members,
        tunnel: None,
        ..desired::ways(config, Some(local.name.as_str()))
    };
    let state = linux::surroundings(&ways)?;
    let devices: BTreeSet<&String> = pairs.iter().flat_map(|pair| &pair.devices).collect();
    Ok(found.into_iter().find(|address| {
        let route = state.route(local.address, *address);
        route.is_some_and(|route| route.devices.iter().any(|device| devices.contains(device)))
    }))
}

/// Addresses that somebody is known to have.
fn used_addresses(config: &Config, live: &Live) -> Vec<IpAddr> {
    let peers = config.peers.iter().flat_map(|peer| [peer.address, peer.reached_at()]);
    let own = live.0.addresses.iter().map(|at| at.address);
    let tunnels = live.0.tunnels.iter().flatten().flat_map(|tunnel| {
        let entries = tunnel.entries.iter().flatten().map(|entry| entry.address);
        entries.chain(tunnel.remote).chain(tunnel.local)
    });
    peers.chain(own).chain(tunnels).collect()
}

fn fill(bytes: &mut [u8]) -> Result<(), Error> {
    getrandom::fill(bytes).map_err(|error| Error::Io(std::io::Error::other(error.to_string())))
}
