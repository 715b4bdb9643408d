//! A plan, prepared to be shown, saved or performed.

use std::{borrow::Cow, collections::BTreeMap, path::Path};

use super::live::Source;
use crate::{
    apply::Target,
    cli::Global,
    config::{self, Config, Loaded, Moment, Peer, STANDARD_INPUT},
    desired::{Keyring, desired},
    error::Error,
    kernel::linux::foreseen_refusals,
    model::{Live, Reqid},
    plan::{FarEnd, Outcome, Plan, Warning, WarningCode, outcomes},
    render::{Subject, View},
};

/// A plan, and the facts that it takes to show and to perform it.
pub(super) struct Prepared<'a> {
    /// The local peer; a destroy may not know it.
    pub(super) local: Option<&'a Peer>,
    pub(super) moment: Moment,
    pub(super) desired: crate::desired::Desired,
    pub(super) keyring: Keyring,
    pub(super) plan: Plan,
    pub(super) warnings: Vec<Warning>,
    /// The fate of packets that leave, once [`Prepared::foresee`] was called.
    pub(super) outcomes: BTreeMap<FarEnd, Outcome>,
}

/// Plans at a moment for the host with this live state, which is of that source.
pub(super) fn prepare<'a>(
    global: &Global,
    loaded: &'a Loaded,
    moment: Moment,
    (live, source): (&Live, &Source),
) -> Result<Prepared<'a>, Error> {
    let config = &loaded.config;
    let local = match source {
        Source::Kernel => super::local_peer(global, config, &live.0.addresses)?,
        // The name of this host says nothing about another one.
        Source::Empty | Source::File(_) => {
            config::local_peer(config, global.local.as_deref(), &live.0.addresses)?
        }
    };
    loaded.check_private_key(local)?;
    loaded.check_ratchet(moment.generation)?;
    Ok(prepare_for(local, loaded, moment, live))
}

/// The same for a host that is known, with secrets that are.
pub(super) fn prepare_for<'a>(
    local: &'a Peer,
    loaded: &'a Loaded,
    moment: Moment,
    live: &Live,
) -> Prepared<'a> {
    let config = &loaded.config;
    let warnings = loaded.warnings.clone();
    let (desired, keyring) = desired(config, moment, local, loaded.secrets.as_ref());
    let plan = Plan::new(&desired, live, config.reqid);
    let outcomes = BTreeMap::new();
    Prepared { local: Some(local), moment, desired, keyring, plan, warnings, outcomes }
}

impl Prepared<'_> {
    /// Whether it is the plan for another live state as well.
    pub(super) fn holds_for(
        &self,
        global: &Global,
        loaded: &Loaded,
        live: &Live,
    ) -> Result<bool, Error> {
        let other = prepare(global, loaded, self.moment, (live, &Source::Kernel))?;
        let name = |local: Option<&Peer>| local.map(|peer| peer.name.clone());
        Ok(name(other.local) == name(self.local) && other.plan.asks_the_same_as(&self.plan))
    }

    /// Finds out what becomes of packets, for a plan that is to be shown.
    pub(super) fn foresee(&mut self, live: &Live, reqid: Reqid) {
        self.outcomes = self.foreseen(live, reqid).into_owned();
    }

    /// What becomes of packets, which is worked out once.
    pub(super) fn foreseen(&self, live: &Live, reqid: Reqid) -> Cow<'_, BTreeMap<FarEnd, Outcome>> {
        match self.outcomes.is_empty() {
            true => Cow::Owned(outcomes(&self.desired, reqid, &live.0, &self.plan.changes)),
            false => Cow::Borrowed(&self.outcomes),
        }
    }

    /// The plan as it is to be shown.
    pub(super) fn view<'a>(&'a self, config: &'a Config, file: &'a str) -> View<'a> {
        let subject = Subject::File { config, moment: self.moment };
        let Self { local, plan, warnings, outcomes, .. } = self;
        View { subject, local: *local, plan, warnings, outcomes, file }
    }

    /// The objects and keys that the plan leads to.
    pub(super) fn target(&self, reqid: Reqid) -> Target<'_> {
        Target { desired: &self.desired, keyring: &self.keyring, reqid }
    }

    /// `--local` may name a host that this one isn't.
    /// Nor need a host with a peer's name have its address yet.
    pub(super) fn warn_of_missing_address(&mut self, global: &Global, live: &Live) {
        let Some(Peer { name, address, .. }) = self.local else { return };
        if !live.0.has_address(*address) {
            let text = match global.local {
                Some(_) => format!("this host does not have {address}, the address of {name}"),
                None => format!(
                    "this host has the name of {name}, but not its address {address}; if it is \
                     another peer, say so with --local NAME"
                ),
            };
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
}

/// The file's name without its directories, as reports call it.
pub(super) fn file_name(global: &Global) -> String {
    if global.file() == Path::new(STANDARD_INPUT) {
        return "the file on standard input".into();
    }
    let name = global.file().file_name().unwrap_or(global.file().as_os_str());
    name.to_string_lossy().into_owned()
}
