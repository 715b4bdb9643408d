//! `ratchet`, and how an apply turns one: keys of the past are destroyed once nothing needs them
//! any more.

use std::path::Path;

use super::{Status, generate, moment, print, print_json, replace::Replacement};
use crate::{
    cli::{Format, Global, RatchetCommand},
    config::{self, Config, KeySource, Loaded, Moment, Secrets, SecretsMode},
    error::Error,
    kernel::linux::clock,
    keys::Ratchet,
    model::{ErrorCode, Generation, Key, Warning, WarningCode},
    render::{Plain, RatchetAdvance, ratchet_advance_json, ratchet_init_json},
};

/// Generations that an apply lets a ratchet turn at once, whether the clock is right or not. A
/// clock or a number that jumps further may be wrong, and destroyed keys don't come back. Where the
/// ratchet is one behind the right generation, a turn by one keeps its keys.
const AT_ONCE: u64 = 1;

/// Looks at no kernel.
pub(super) fn run(global: &Global, command: &RatchetCommand) -> Result<Status, Error> {
    let loaded = config::load(global.file(), SecretsMode::Ignored)?;
    let KeySource::Ratchet(path) = &loaded.config.keys else {
        return Err(Error::request(
            ErrorCode::RatchetRefused,
            format!(
                "{} has no ratchet in [keys]; write ratchet = {{ file = \"ratchet\" }} there first",
                global.file().display()
            ),
        ));
    };
    let moment = moment::now(&loaded.config)?;
    match command {
        RatchetCommand::Init => init(global, &loaded.config, path, moment),
        RatchetCommand::Advance(args) => advance(global, path, moment, args.to),
    }
}

/// Makes the file from the mesh key on standard input.
///
/// It begins at the oldest generation that is still accepted, or at the chain's beginning where
/// that depends on a clock that is not known to be synchronised.
fn init(global: &Global, config: &Config, path: &Path, moment: Moment) -> Result<Status, Error> {
    let mesh_key = Key::new(Box::from(&generate::secret("mesh key")?[..]));
    let doubtful = moment.clock.is_some() && clock::is_synchronised() != Some(true);
    let start = if doubtful { Generation::default() } else { oldest_accepted(moment) };
    let ratchet = Ratchet::begin(&mesh_key, &config.mesh).at(start).ok_or_else(|| {
        Error::request(
            ErrorCode::RatchetRefused,
            format!("generation {start} is too far from the begin of the chain"),
        )
    })?;
    Replacement::begin(path)?.create(ratchet.text().as_bytes())?;
    match global.format {
        Format::Text | Format::Prometheus => print(&format!(
            "{} is made, at generation {start}.\n\
             Now destroy the mesh key, on every host and in every backup: with it the keys of \
             all generations can be made again.\n\
             A new host gets a copy of this file, by a secret channel.\n",
            Plain(path.display())
        ))?,
        Format::Json => {
            print_json(&ratchet_init_json(&config.mesh, start))?;
        }
    }
    Ok(Status::Done)
}

/// Turns a ratchet as far as the operator says.
fn advance(global: &Global, path: &Path, moment: Moment, to: u64) -> Result<Status, Error> {
    let oldest = oldest_accepted(moment);
    let wanted = Generation::new(to).filter(|wanted| *wanted <= oldest).ok_or_else(|| {
        Error::request(ErrorCode::RatchetRefused, format!(
            "the mesh is at generation {}, so that keys of {oldest} are needed; --to {to} would \
             destroy them",
            moment.generation
        ))
    })?;
    let replacement = Replacement::begin(path)?;
    let mut remains = replacement.left();
    let ratchet = read_ratchet(path)?;
    let before = ratchet.generation();
    let after = ratchet.at(wanted).ok_or_else(|| {
        Error::request(
            ErrorCode::RatchetRefused,
            format!(
                "the ratchet is at generation {before}, and can't be turned to {wanted}: it turns \
             forwards only, by 67 million generations at most"
            ),
        )
    })?;
    if wanted != before {
        let (read, next) = (ratchet.text(), after.text());
        remains = replacement.commit_secret(read.as_bytes(), next.as_bytes())?.or(remains);
    }
    let turned = turned(before, wanted, remains);
    let status = if turned.error.is_some() { Status::Partial } else { Status::Done };
    // The work is done: a closed output must not change the status.
    let _ = match global.format {
        Format::Text if wanted == before && turned.error.is_none() => {
            print(&format!("The ratchet is at generation {before} already.\n"))
        }
        Format::Text | Format::Prometheus => print(&turned.text()),
        Format::Json => print_json(&ratchet_advance_json(&turned)),
    };
    Ok(status)
}

/// The work of an apply on a ratchet once all that protects is in place.
pub(super) struct Turn<'a> {
    path: &'a Path,
    moment: Moment,
}

impl<'a> Turn<'a> {
    /// A turn, if the file has a ratchet.
    pub(super) fn of(config: &'a Config, moment: Moment) -> Option<Self> {
        match &config.keys {
            KeySource::Ratchet(path) => Some(Self { path, moment }),
            KeySource::MeshKey(_) | KeySource::PrivateKey { .. } => None,
        }
    }

    /// Turns it to the oldest generation that is still accepted, if that is near or the clock can
    /// be believed. The kernel has all keys that it needs by now, so a failure is told and stops
    /// nothing.
    pub(super) fn perform(&self) -> RatchetAdvance {
        self.try_perform().unwrap_or_else(failed)
    }

    /// Leaves it where it is, because objects that are not in place may need the old keys; says so
    /// if it would have been turned.
    pub(super) fn hold(&self) -> RatchetAdvance {
        let held = read_ratchet(self.path).map(|ratchet| {
            let at = ratchet.generation();
            let reason = "the apply is incomplete, and what is not in place may need the old keys";
            let due = at < oldest_accepted(self.moment);
            turned(at, at, due.then(|| reason.to_owned()))
        });
        held.unwrap_or_else(failed)
    }

    fn try_perform(&self) -> Result<RatchetAdvance, Error> {
        let replacement = Replacement::begin(self.path)?;
        let mut remains = replacement.left();
        // Read again under the lock: another run may have turned it.
        let ratchet = read_ratchet(self.path)?;
        let before = ratchet.generation();
        let to = oldest_accepted(self.moment);
        let next =
            ratchet.at(to).filter(|_| may_turn(before, self.moment, clock::is_synchronised()));
        if let Some(next) = next.as_ref().filter(|_| before < to) {
            let (read, next) = (ratchet.text(), next.text());
            remains = replacement.commit_secret(read.as_bytes(), next.as_bytes())?.or(remains);
        }
        let after = next.map_or(before, |next| next.generation());
        Ok(turned(before, after, remains))
    }
}

/// Warns if an apply will leave a ratchet where it is.
pub(super) fn warning(loaded: &Loaded, moment: Moment) -> Option<Warning> {
    let Some(Secrets::Ratchet(ratchet)) = &loaded.secrets else { return None };
    let (at, to) = (ratchet.generation(), oldest_accepted(moment));
    if may_turn(at, moment, clock::is_synchronised()) {
        return None;
    }
    let doubt = match moment.clock {
        Some(_) => "no kernel clock that is known to be synchronised says that it is right",
        None => "a number may be mistyped, or raised twice",
    };
    let text = format!(
        "the ratchet is at generation {at} and apply leaves it there, because a turn to {to} is by \
         more than one generation and {doubt}; if generation {} is right, run meshsec ratchet advance \
         --to {to}, or keys of generation {at} and after stay on this host",
        moment.generation
    );
    Some(Warning::new(WarningCode::RatchetStays, text))
}

/// Turns far only by a clock that is known to be right.
fn may_turn(from: Generation, moment: Moment, synchronised: Option<bool>) -> bool {
    let near = oldest_accepted(moment).get().saturating_sub(from.get()) <= AT_ONCE;
    near || (moment.clock.is_some() && synchronised == Some(true))
}

/// The one before the generation that it is; 0 has none.
fn oldest_accepted(moment: Moment) -> Generation {
    moment.generation.previous().unwrap_or_default()
}

fn turned(before: Generation, after: Generation, error: Option<String>) -> RatchetAdvance {
    RatchetAdvance { before: Some(before.get()), after: Some(after.get()), error }
}

fn failed(error: Error) -> RatchetAdvance {
    let error = error.to_string().trim_start_matches("error: ").to_owned();
    RatchetAdvance { before: None, after: None, error: Some(error) }
}

fn read_ratchet(path: &Path) -> Result<Ratchet, Error> {
    config::read_ratchet(path)
        .map_err(|error| Error::request(ErrorCode::RatchetRefused, error.to_string()))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{
        config::Rotation,
        model::{Period, Time},
    };

    #[test]
    fn a_clock_that_jumps_ahead_turns_no_ratchet_unless_it_is_known_to_be_right() {
        let hour = Duration::from_secs(3600);
        let now = Time::from_seconds(1_795_230_000);
        let rotation = Rotation::Period(Period::new(3600).unwrap());
        let from = oldest_accepted(rotation.at(now));
        let after = |hours: u32| rotation.at(now.after(hour * hours));
        for (hours, synchronised, may) in [
            (0, None, true),
            (1, None, true),
            (1, Some(false), true),
            (2, None, false),
            (2, Some(false), false),
            (2, Some(true), true),
            (3, None, false),
            (3, Some(false), false),
            (3, Some(true), true),
            (100_000, Some(false), false),
        ] {
            assert_eq!(may_turn(from, after(hours), synchronised), may, "{hours} {synchronised:?}");
        }
    }

    #[test]
    fn a_number_that_jumps_ahead_turns_no_ratchet_whatever_the_clock() {
        let at = |number| Rotation::Generation(Generation::new(number).unwrap());
        let from = Generation::new(4).unwrap();
        for (number, may) in
            [(0, true), (5, true), (6, true), (7, false), (8, false), (4000, false)]
        {
            assert_eq!(may_turn(from, at(number).at(Time::default()), Some(true)), may, "{number}");
        }
    }
}
