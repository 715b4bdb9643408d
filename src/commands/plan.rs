//! `plan`: shows the changes that apply would make.

use super::{
    Status, live, moment, plan_all,
    prepared::{Prepared, file_name, prepare},
    print, print_json, ratchet, saved,
};
use crate::{
    cli::{Format, Global, PlanArgs},
    config::{Config, SecretsMode},
    error::Error,
    model::ErrorCode,
    privilege::Files,
    render::{Extent, plan_json, plan_text},
};

/// Exits with 1 on a conflict, and with 2 on changes if asked to.
pub(super) fn run(global: &Global, args: &PlanArgs) -> Result<Status, Error> {
    if args.all {
        return plan_all::run(global, args);
    }
    let source = live::Source::from(args.live());
    if args.out.is_some() && source != live::Source::Kernel {
        return Err(Error::request(
            ErrorCode::OptionsDisagree,
            "--out saves a plan for this host's kernel; leave --live out",
        ));
    }
    let secrets = match source {
        live::Source::Kernel => SecretsMode::Required,
        live::Source::Empty | live::Source::File(_) => SecretsMode::Optional,
    };
    let later = match (&source, &args.out) {
        (_, Some(_)) => Files::Replaces,
        (live::Source::File(_), None) => Files::Reads,
        (live::Source::Kernel | live::Source::Empty, None) => Files::Neither,
    };
    let loaded = super::load(global, secrets, later)?;
    let extent = extent(&loaded.config, args)?;
    let (live, taken) = match (&source, &args.out) {
        (live::Source::Kernel, None) => live::to_plan(global, &loaded.config)?,
        _ => live::observe(&source, global, &loaded.config)?,
    };
    let moment = moment::at(&loaded.config, taken)?;
    let mut prepared = prepare(global, &loaded, moment, (&live, &source))?;
    if source == live::Source::Kernel {
        prepared.warnings.extend(moment::warning(moment));
        prepared.warnings.extend(ratchet::warning(&loaded, moment));
        prepared.warn_of_modules();
    }
    if source != live::Source::Empty {
        prepared.warn_of_missing_address(global, &live);
    }
    // One line does not show it.
    if global.format == Format::Json || !matches!(extent, Extent::OneLine) {
        prepared.foresee(&live, loaded.config.reqid);
    }
    show(&prepared, global, &loaded.config, &extent)?;
    if let Some(path) = &args.out {
        saved::write(path, &loaded, &prepared, &live)?;
        let options = global.same_host();
        super::say(format_args!("Saved; to perform it: meshsec{options} apply {}", path.display()));
    }
    Ok(match &prepared.plan {
        plan if !plan.conflicts.is_empty() => Status::Error,
        plan if !plan.is_empty() && args.detailed_exitcode => Status::Pending,
        _ => Status::Done,
    })
}

/// The part of the plan that is asked for.
fn extent(config: &Config, args: &PlanArgs) -> Result<Extent, Error> {
    match args.peers.as_slice() {
        [] => Ok(args.extent.into()),
        names => Ok(Extent::Peers(super::asked(config, names)?)),
    }
}

/// Prints a plan.
fn show(
    prepared: &Prepared<'_>,
    global: &Global,
    config: &Config,
    extent: &Extent,
) -> Result<(), Error> {
    let file = file_name(global);
    let view = prepared.view(config, &file);
    match global.format {
        Format::Text | Format::Prometheus => print(&plan_text(&view, extent)),
        Format::Json => print_json(&plan_json(&view)),
    }
}
