//! `compare`: this host beside another, or all hosts beside each other, by their states.

use std::{collections::BTreeMap, path::Path};

use super::{
    Status, after::after, live, moment, plan_all::snapshots, prepared::prepare_for, print,
    print_json,
};
use crate::{
    cli::{CompareArgs, Format, Global},
    compare::{Asked, Host, Seen, findings, rollout, way},
    config::{Config, Loaded, Peer, Secrets, SecretsMode},
    error::Error,
    kernel::{Kernel, linux},
    model::{ErrorCode, Live, PeerName, State, Time},
    privilege::Files,
    render::{CompareView, RolloutView, compare_json, compare_text, rollout_json, rollout_text},
};

/// Exits with 2 where packets of a pair are lost, now or during a rollout.
pub(super) fn run(global: &Global, args: &CompareArgs) -> Result<Status, Error> {
    match (&args.all, &args.snapshot) {
        (Some(folder), _) => all(global, folder),
        (None, Some(snapshot)) => pair(global, args, snapshot),
        (None, None) => Err(Error::request(
            ErrorCode::OptionsDisagree,
            "name the other host's snapshot, as in: meshsec compare b.json, or a folder of all \
             hosts' with --all",
        )),
    }
}

/// A host, its state and the time of the look.
type Look<'a> = (&'a Peer, State, Time);

fn pair(global: &Global, args: &CompareArgs, path: &Path) -> Result<Status, Error> {
    let secrets = match args.live {
        Some(_) => SecretsMode::LeftOut,
        None => SecretsMode::Ignored,
    };
    let config = super::load(global, secrets, Files::Reads)?.config;
    let far = live::seen(path, &config)?;
    let near = near(global, args, &config)?;
    check_pair(&config, near.0, far.0)?;
    let (near, far) = (seen(&near), seen(&far));
    let moment = moment::at(&config, near.taken)?;
    let [mut here, mut there] = [near, far].map(|seen| Asked::new(seen.peer, seen.state));
    let view = CompareView {
        config: &config,
        moment,
        near,
        far,
        ways: [way(&config, &mut here, &mut there), way(&config, &mut there, &mut here)],
        findings: findings(&config, moment.generation, near, far),
    };
    match global.format {
        Format::Text | Format::Prometheus => print(&compare_text(&view))?,
        Format::Json => print_json(&compare_json(&view))?,
    }
    Ok(match view.ways.iter().all(|way| way.fate.arrives()) {
        true => Status::Done,
        false => Status::Attention,
    })
}

fn seen<'a>((peer, state, taken): &'a Look<'a>) -> Seen<'a> {
    Seen { peer, state, taken: *taken }
}

fn near<'a>(global: &Global, args: &CompareArgs, config: &'a Config) -> Result<Look<'a>, Error> {
    if let Some(path) = &args.live {
        return live::seen(path, config);
    }
    let live = super::kernel_for(global, config)?.observe(config.reqid)?;
    let peer = super::local_peer(global, config, &live.0.addresses)?;
    Ok((peer, live.0, linux::clock::now()))
}

fn check_pair(config: &Config, near: &Peer, far: &Peer) -> Result<(), Error> {
    let refused = |text| Err(Error::request(ErrorCode::OptionsDisagree, text));
    if near.name == far.name {
        return refused(format!("both are of {}: name the snapshot of another host", near.name));
    }
    if near.address.is_ipv4() != far.address.is_ipv4() || !config.is_pair(near, far) {
        return refused(format!("{} and {} form no pair in this file", near.name, far.name));
    }
    Ok(())
}

fn all(global: &Global, folder: &Path) -> Result<Status, Error> {
    let mut loaded = super::load(global, SecretsMode::Optional, Files::Reads)?;
    // Each host has a private key of its own, and this machine at most one of them.
    if matches!(loaded.secrets, Some(Secrets::PrivateKey { .. })) {
        loaded.secrets = None;
    }
    let now = moment::now(&loaded.config)?;
    let (files, ignored) = snapshots(folder)?;
    let mut hosts = BTreeMap::<&PeerName, Host<'_>>::new();
    for path in files {
        let host = planned(&loaded, &path)?;
        if let Some(other) = hosts.insert(&host.peer.name, host) {
            let name = &other.peer.name;
            let reason = format!("another snapshot is of {name} too: keep one of them");
            return Err(super::document::unread(&path, reason));
        }
    }
    let missing = loaded.config.peers.iter().map(|peer| &peer.name);
    let missing: Vec<_> = missing.filter(|name| !hosts.contains_key(name)).cloned().collect();
    let hosts: Vec<Host<'_>> = hosts.into_values().collect();
    let view = RolloutView {
        config: &loaded.config,
        moment: now,
        hosts: hosts.len(),
        missing,
        ignored,
        rollout: rollout(&loaded.config, &hosts),
        warnings: &loaded.warnings,
    };
    match global.format {
        Format::Text | Format::Prometheus => print(&rollout_text(&view))?,
        Format::Json => print_json(&rollout_json(&view))?,
    }
    Ok(if view.is_clear() { Status::Done } else { Status::Attention })
}

/// A host, and the state that its plan for this file leads to.
fn planned<'a>(loaded: &'a Loaded, path: &Path) -> Result<Host<'a>, Error> {
    let (peer, state, taken) = live::seen(path, &loaded.config)?;
    let moment = moment::at(&loaded.config, taken)?;
    loaded.check_ratchet(moment.generation)?;
    let live = Live(state);
    let prepared = prepare_for(peer, loaded, moment, &live);
    let after = after(&live.0, taken, &prepared.plan.steps)?;
    Ok(Host { peer, before: live.0, after, taken })
}
