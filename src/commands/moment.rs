//! The generation of now, by the file or by the clock.

use crate::{
    config::{Config, Moment, Rotation},
    error::Error,
    kernel::linux::clock,
    model::{Time, Warning, WarningCode},
};

/// Midnight of 2026-11-21 in UTC: the day of this release. No clock that is right shows less.
const RELEASED: Time = Time(1_795_219_200_000_000_000);

/// The generation of now.
///
/// # Errors
///
/// With `period`, a clock that is certainly wrong.
pub(super) fn now(config: &Config) -> Result<Moment, Error> {
    at(config, clock::now())
}

/// The generation at a moment.
///
/// # Errors
///
/// With `period`, a moment before this release.
pub(super) fn at(config: &Config, now: Time) -> Result<Moment, Error> {
    if matches!(config.rotation, Rotation::Period(_)) && now < RELEASED {
        return Err(Error::Clock { now, released: RELEASED });
    }
    Ok(config.rotation.at(now))
}

/// A warning of a clock that is not synchronised.
pub(super) fn warning(moment: Moment) -> Option<Warning> {
    (moment.clock.is_some() && clock::is_synchronised() == Some(false)).then(|| {
        let text = "the kernel says that its clock is not synchronised, and generations follow the clock: a \
         host that is off by more than a period is cut off; run chrony or another NTP client";
        Warning::new(WarningCode::ClockNotSynchronised, text)
    })
}
