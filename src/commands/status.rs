//! `status`: what SAs have carried and refused, peer by peer.

use super::{Status, moment, print, print_json};
use crate::{
    cli::{Format, Global},
    config::{self, SecretsMode},
    desired::desired,
    error::Error,
    kernel::{
        Kernel,
        linux::{clock, counters},
    },
    plan::{Plan, Warning},
    privilege::Files,
    render::{StatusView, status_json, status_prometheus, status_text},
};

/// Needs no secret: keys are not compared.
pub fn run(global: &Global) -> Result<Status, Error> {
    let loaded = super::load(global, SecretsMode::Ignored, Files::Leaves)?;
    let config = &loaded.config;
    let live = super::kernel_for(global, config)?.observe(config.reqid)?;
    let now = clock::now();
    let moment = moment::at(config, now)?;
    let local = config::local_peer(config, global.local.as_deref(), &live.0.addresses)?;
    let (desired, _) = desired(config, moment, local, None);
    let plan = Plan::new(&desired, &live, config.reqid);
    let warnings: Vec<Warning> = moment::warning(moment).into_iter().collect();
    let view = StatusView {
        config,
        moment,
        now,
        local,
        desired: &desired,
        live: &live,
        plan: &plan,
        counters: &counters()?,
        warnings: &warnings,
    };
    match global.format {
        Format::Text => print(&status_text(&view))?,
        Format::Json => print_json(&status_json(&view))?,
        Format::Prometheus => print(&status_prometheus(&view))?,
    }
    Ok(Status::Done)
}
