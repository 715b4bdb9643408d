//! The system's clock, `CLOCK_REALTIME`.

use std::time::{SystemTime, UNIX_EPOCH};

use crate::model::Time;

/// What the clock shows; 1970 for anything before.
pub fn now() -> Time {
    let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Time(u64::try_from(since_1970.as_nanos()).unwrap_or(u64::MAX))
}

/// Whether the kernel says that something keeps the clock right
/// (`STA_UNSYNC` of `adjtimex`). `None` where it doesn't say. Needs no privilege.
#[allow(unsafe_code, reason = "no library that is kept well has this call")]
pub fn is_synchronised() -> Option<bool> {
    // SAFETY: it is made of integers, of which zeros are a value. Mode 0 changes nothing.
    let mut timex: libc::timex = unsafe { std::mem::zeroed() };
    // SAFETY: the kernel writes to this one structure, which outlives the call.
    let state = unsafe { libc::adjtimex(&raw mut timex) };
    (state != -1).then_some(state != libc::TIME_ERROR && timex.status & libc::STA_UNSYNC == 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clock_runs_and_the_kernel_can_be_asked() {
        let before = now();
        assert!(before.seconds() > 1_700_000_000 && now() >= before);
        // Whatever it says here: asking is no error.
        let _ = is_synchronised();
    }
}
