//! The clock, and generations that follow from it.

use std::{fmt, time::Duration};

use serde::{Deserialize, Serialize};

use super::Generation;

/// A moment of `CLOCK_REALTIME`: nanoseconds since 1970, up to the year 2554.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Time(pub u64);

impl Time {
    /// A moment by its whole seconds since 1970, or the last possible moment if they are too many.
    pub fn from_seconds(seconds: u64) -> Self {
        Self(seconds.saturating_mul(1_000_000_000))
    }

    /// Whole seconds since 1970.
    pub fn seconds(self) -> u64 {
        self.0 / 1_000_000_000
    }

    /// A time as [`Time::rfc3339`] writes it.
    pub fn parse(text: &str) -> Option<Self> {
        let time = humantime::parse_rfc3339(text).ok()?;
        let since_1970 = time.duration_since(std::time::UNIX_EPOCH).ok()?;
        Some(Self::from_seconds(since_1970.as_secs()))
    }

    /// The moment after a duration.
    pub fn after(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)))
    }

    /// Date and time of day in UTC: `2026-11-21 14:00`, with seconds only if they are not 0.
    pub fn utc(self) -> String {
        let text = self.rfc3339().replace('T', " ");
        let text = text.trim_end_matches('Z');
        text.strip_suffix(":00").unwrap_or(text).to_owned()
    }

    /// The time of day in UTC, rounded down to the minute: `14:00`.
    pub fn time_of_day(self) -> String {
        self.rfc3339()[11..16].to_owned()
    }

    /// As in RFC 3339, in UTC and to the second: `2026-11-21T14:00:00Z`.
    pub fn rfc3339(self) -> String {
        let since_1970 = Duration::from_secs(self.seconds());
        humantime::format_rfc3339_seconds(std::time::UNIX_EPOCH + since_1970).to_string()
    }
}

/// The length of a generation: 10 minutes to a day, in whole seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Period(u32);

impl Period {
    /// The shortest period, in seconds.
    pub const MIN: u64 = 600;
    /// The longest period, in seconds.
    pub const MAX: u64 = 86_400;

    /// `None` outside of [`Period::MIN`] to [`Period::MAX`].
    pub fn new(seconds: u64) -> Option<Self> {
        let number = u32::try_from(seconds).ok()?;
        (Self::MIN..=Self::MAX).contains(&seconds).then_some(Self(number))
    }

    /// The period in seconds.
    pub fn seconds(self) -> u64 {
        self.0.into()
    }

    /// The generation by the clock.
    pub fn generation(self, now: Time) -> Generation {
        Generation::new(now.seconds() / self.seconds()).expect("at most 2^64 / 10^9 / 600")
    }

    /// The beginning of a generation.
    pub fn start(self, generation: Generation) -> Time {
        Time::from_seconds(generation.get().saturating_mul(self.seconds()))
    }

    /// The end of a generation, when the next begins.
    pub fn end(self, generation: Generation) -> Time {
        self.start(generation.next())
    }

    /// The time when peers retire the SAs of a generation, because it is then two before their own:
    /// the end of the next generation.
    pub fn retired(self, generation: Generation) -> Time {
        self.end(generation.next())
    }

    /// The sequence number from which an outbound SA of a generation, installed at `now`, goes on:
    /// floor(2^31 * (now - start) / period). `None` if the clock is not in that generation.
    ///
    /// So a host that lost its SAs starts above all numbers that it ever sent, as long as it sends
    /// fewer than 2^31 packets a period.
    pub fn seed(self, generation: Generation, now: Time) -> Option<u64> {
        if self.generation(now) != generation {
            return None;
        }
        let elapsed = u128::from(now.0 - self.start(generation).0);
        let period = u128::from(self.seconds()) * 1_000_000_000;
        u64::try_from((elapsed << 31) / period).ok()
    }
}

impl fmt::Display for Period {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        humantime::format_duration(Duration::from_secs(self.seconds())).fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: u64 = 3600;

    fn hour() -> Period {
        Period::new(HOUR).unwrap()
    }

    #[test]
    fn a_generation_lasts_a_period_and_is_retired_after_the_next() {
        let generation = hour().generation(Time::from_seconds(491_234 * HOUR + 1));
        assert_eq!(generation.get(), 491_234);
        assert_eq!(hour().start(generation), Time::from_seconds(491_234 * HOUR));
        assert_eq!(hour().end(generation), Time::from_seconds(491_235 * HOUR));
        assert_eq!(hour().retired(generation), Time::from_seconds(491_236 * HOUR));
    }

    #[test]
    fn the_seed_grows_from_0_to_2_to_the_31_within_a_generation() {
        let generation = Generation::new(491_234).unwrap();
        let seed =
            |nanoseconds| hour().seed(generation, Time(hour().start(generation).0 + nanoseconds));
        assert_eq!(seed(0), Some(0));
        assert_eq!(seed(HOUR * 500_000_000), Some(1 << 30));
        assert_eq!(seed(1_000_000_000), Some((1 << 31) / HOUR));
        assert_eq!(seed(HOUR * 1_000_000_000 - 1), Some((1 << 31) - 1));
        assert_eq!(seed(HOUR * 1_000_000_000), None);
        let before = Time(hour().start(generation).0 - 1);
        assert_eq!(hour().seed(generation, before), None);
    }

    #[test]
    fn a_period_is_10_minutes_to_a_day() {
        assert!(Period::new(599).is_none() && Period::new(86_401).is_none());
        assert_eq!(Period::new(600).unwrap().to_string(), "10m");
        assert_eq!(Period::new(5400).unwrap().to_string(), "1h 30m");
        assert_eq!(Period::new(86_400).unwrap().to_string(), "1day");
    }

    #[test]
    fn a_moment_reads_in_utc() {
        let time = Time::from_seconds(1_700_000_000);
        assert_eq!(
            (time.utc().as_str(), time.rfc3339().as_str()),
            ("2023-11-14 22:13:20", "2023-11-14T22:13:20Z")
        );
        assert_eq!(Time::from_seconds(1_700_000_040).utc(), "2023-11-14 22:14");
        assert_eq!(time.time_of_day(), "22:13");
        assert!(Time::from_seconds(u64::MAX).seconds() > 1 << 34);
    }
}
