//! `plan`: shows the changes that apply would make.

use super::{Status, live, moment, print, print_json, ratchet, saved};
use crate::{
    cli::{Format, Global, PlanArgs},
    config::{self, Config, Loaded, Moment, Peer, SecretsMode},
    desired::{Keyring, desired},
    error::Error,
    kernel::linux::foreseen_refusals,
    model::Live,
    plan::{Plan, Warning, WarningCode},
    privilege::Files,
    render::{View, plan_json, plan_text},
};

/// Exits with 1 on a conflict, and with 2 on changes if asked to.
pub(super) fn run(global: &Global, args: &PlanArgs) -> Result<Status, Error> {
    let source = live::Source::from(args.live.as_str());
    if args.out.is_some() && source != live::Source::Kernel {
        return Err(Error::Usage(
            "--out saves a plan for this host's kernel; leave --live out".into(),
        ));
    }
    let secrets = match source {
        live::Source::Kernel => SecretsMode::Required,
        live::Source::Empty | live::Source::File(_) => SecretsMode::Optional,
    };
    let later = match (&source, &args.out) {
        (_, Some(_)) => Files::Replaces,
        (live::Source::File(_), None) => Files::Reads,
        (live::Source::Kernel | live::Source::Empty, None) => Files::Leaves,
    };
    let loaded = super::load(global, secrets, later)?;
    let (live, taken) = live::observe(&source, global, &loaded.config)?;
    let moment = moment::at(&loaded.config, taken)?;
    let mut prepared = prepare(global, &loaded, moment, &live)?;
    if source == live::Source::Kernel {
        prepared.warnings.extend(moment::warning(moment));
        prepared.warnings.extend(ratchet::warning(&loaded, moment));
        prepared.warn_of_modules();
    }
    if source != live::Source::Empty {
        prepared.warn_of_missing_address(&live);
    }
    prepared.show(global, &loaded.config)?;
    if let Some(path) = &args.out {
        saved::write(path, &loaded, &prepared, &live)?;
        super::say(format_args!("Saved; to perform it: meshsec apply {}", path.display()));
    }
    Ok(match &prepared.plan {
        plan if !plan.conflicts.is_empty() => Status::Error,
        plan if !plan.is_empty() && args.detailed_exitcode => Status::Pending,
        _ => Status::Done,
    })
}

/// A plan, and the facts that it takes to show and to perform it.
pub(super) struct Prepared<'a> {
    pub(super) local: &'a Peer,
    pub(super) moment: Moment,
    pub(super) desired: crate::desired::Desired,
    pub(super) keyring: Keyring,
    pub(super) plan: Plan,
    pub(super) warnings: Vec<Warning>,
}

/// Plans at a moment for the host with this live state.
pub(super) fn prepare<'a>(
    global: &Global,
    loaded: &'a Loaded,
    moment: Moment,
    live: &Live,
) -> Result<Prepared<'a>, Error> {
    let config = &loaded.config;
    let local = config::local_peer(config, global.local.as_deref(), &live.0.addresses)?;
    loaded.check_private_key(local)?;
    loaded.check_ratchet(moment.generation)?;
    let warnings = loaded.warnings.clone();
    let (desired, keyring) = desired(config, moment, local, loaded.secrets.as_ref());
    let plan = Plan::new(&desired, live, config.reqid);
    Ok(Prepared { local, moment, desired, keyring, plan, warnings })
}

impl Prepared<'_> {
    /// Whether it is the plan for another live state as well.
    pub(super) fn holds_for(
        &self,
        global: &Global,
        loaded: &Loaded,
        live: &Live,
    ) -> Result<bool, Error> {
        let other = prepare(global, loaded, self.moment, live)?;
        Ok(other.local.name == self.local.name && other.plan.asks_the_same_as(&self.plan))
    }

    /// The plan as it is to be shown.
    pub(super) fn view<'a>(&'a self, config: &'a Config, file: &'a str) -> View<'a> {
        let (local, plan, warnings) = (Some(self.local), &self.plan, &self.warnings);
        View { config, moment: self.moment, local, plan, warnings, file }
    }

    /// `--local` may name a host that this one isn't.
    pub(super) fn warn_of_missing_address(&mut self, live: &Live) {
        let Peer { name, address, .. } = self.local;
        if !live.0.has_address(*address) {
            let text = format!("this host does not have {address}, the address of {name}");
            self.warnings.push(Warning::new(WarningCode::AddressMissing, text));
        }
    }

    /// Warns of features that the kernel will refuse, where that is certain without trying.
    pub(super) fn warn_of_modules(&mut self) {
        let sas = self.plan.steps.iter().filter_map(|planned| Some(planned.step.kind.added()?.sa));
        let refused = |why| {
            let text = format!("apply will not get past its first trial: {why}");
            Warning::new(WarningCode::KernelWillRefuse, text)
        };
        self.warnings.extend(foreseen_refusals(sas).into_iter().map(refused));
    }

    fn show(&self, global: &Global, config: &Config) -> Result<(), Error> {
        let file = file_name(global);
        let view = self.view(config, &file);
        match global.format {
            Format::Text | Format::Prometheus => print(&plan_text(&view)),
            Format::Json => print_json(&plan_json(&view)),
        }
    }
}

/// The file's name without its directories, as reports call it.
pub(super) fn file_name(global: &Global) -> String {
    let name = global.config.file_name().unwrap_or(global.config.as_os_str());
    name.to_string_lossy().into_owned()
}
