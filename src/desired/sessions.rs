//! The secrets that a host shares with its peers, worked out on all processors.
//!
//! X25519 for 4,095 peers is half the time of a plan on one processor.
#![forbid(unsafe_code)]

use std::{num::NonZero, panic::resume_unwind, thread};

use super::Mesh;
use crate::{
    config::{Config, Peer, Secrets},
    keys::Session,
    model::without_traces,
};

/// The fewest peers of a thread: X25519 takes about as long as the start of a thread, and HKDF less.
const LEAST: usize = 128;

/// The secret shared with each of the peers, in their order; `None` for all of them without secrets.
pub(super) fn sessions(mesh: &Mesh<'_>, peers: &[&Peer]) -> Vec<Option<Session>> {
    let Mesh { config, local, secrets, .. } = *mesh;
    let each = |peer: &&Peer| session(config, local, peer, secrets?);
    // The number of processors is read from files.
    let share = match secrets {
        Some(_) if peers.len() > LEAST => {
            let processors = thread::available_parallelism().map_or(1, NonZero::get);
            peers.len().div_ceil(processors).max(LEAST)
        }
        Some(_) | None => peers.len(),
    };
    if share == peers.len() {
        return peers.iter().map(each).collect();
    }
    thread::scope(|scope| {
        let work = |some: &[&Peer]| without_traces(|| some.iter().map(each).collect::<Vec<_>>());
        let spawn = |some| scope.spawn(move || work(some));
        let threads: Vec<_> = peers.chunks(share).map(spawn).collect();
        let results = threads.into_iter().map(|thread| thread.join());
        results.flat_map(|result| result.unwrap_or_else(|panic| resume_unwind(panic))).collect()
    })
}

/// The secret that the local peer shares with another in all generations. A ratchet gives each
/// generation its own. Public keys are there with `private_key`.
fn session(config: &Config, local: &Peer, peer: &Peer, secrets: &Secrets) -> Option<Session> {
    let mesh = &config.mesh;
    match secrets {
        Secrets::MeshKey(mesh_key) => {
            Some(Session::from_mesh_key(mesh_key, mesh, local.short_id, peer.short_id))
        }
        Secrets::PrivateKey { private_key, psk } => {
            let own = (local.short_id, local.public_key.as_ref()?);
            let other = (peer.short_id, peer.public_key.as_ref()?);
            Session::from_private_key(private_key, psk.as_ref(), mesh, own, other)
        }
        Secrets::Ratchet(_) => None,
    }
}
