//! `destroy`: removes all objects of this mesh. Needs no secret.

use super::{
    Status,
    apply::{Run, needs_approval},
    plan::file_name,
};
use crate::{
    apply::Target,
    cli::{Global, RunArgs},
    config::SecretsMode,
    desired::{Desired, Goal, Keyring, Marking},
    error::Error,
    kernel::{
        Kernel,
        linux::{clock, lock},
    },
    plan::Plan,
    privilege::Files,
    render::View,
};

/// Works without a local peer too: the mesh's objects are known by its reqid.
pub(super) fn run(global: &Global, args: &RunArgs) -> Result<Status, Error> {
    needs_approval(global, args)?;
    // While the process still has the right to open it.
    let place = lock::Place::open();
    let loaded = super::load(global, SecretsMode::Ignored, Files::Leaves)?;
    let config = &loaded.config;
    let lock = super::lock(place, args.lock_timeout)?;
    let mut kernel = super::kernel_for(global, config)?;
    let mut live = kernel.observe(config.reqid)?;
    let local = super::local_if_any(global, config, &live)?;
    // Only names, for the plan's text: nothing is wanted.
    let others = config.peers.iter().filter(|peer| local.is_none_or(|l| l.name != peer.name));
    let desired = Desired {
        local: local.map(|peer| peer.address),
        peers: others.map(|peer| (peer.address, peer.name.clone())).collect(),
        goal: Goal::Nothing,
        marking: Marking::of(config),
        ..Desired::default()
    };
    let keyring = Keyring::default();
    let run = Run { global, args, config, verb: "destroy", turn: None, lock: &lock, now: &|| None };
    let file = file_name(global);
    // Only shown: a clock that is wrong keeps nobody from removing everything.
    let moment = config.rotation.at(clock::now());
    loop {
        let plan = Plan::new(&desired, &live, config.reqid);
        let view = View { config, moment, local, plan: &plan, warnings: &[], file: &file };
        if !run.approved(&view)? {
            return Ok(Status::Error);
        }
        let again = kernel.observe(config.reqid)?;
        let other = Plan::new(&desired, &again, config.reqid);
        if again.0.same_objects(&live.0) || other.asks_the_same_as(&plan) {
            let goal = Target { desired: &desired, keyring: &keyring, reqid: config.reqid };
            return run.carry_out(&mut kernel, &goal, &view, &again);
        }
        super::say(format_args!("The kernel's state changed meanwhile; planning again."));
        live = again;
    }
}
