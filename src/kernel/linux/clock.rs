//! The system's clock, `CLOCK_REALTIME`.

use std::time::{SystemTime, UNIX_EPOCH};

use crate::model::Time;

/// The time that the clock shows; 1970 for any time before it.
pub fn now() -> Time {
    let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Time(u64::try_from(since_1970.as_nanos()).unwrap_or(u64::MAX))
}

/// Whether the kernel says that something keeps the clock right
/// (`STA_UNSYNC` of `adjtimex`). `None` where it doesn't say. Needs no privilege.
#[allow(unsafe_code, reason = "no library that is kept well has this call")]
pub fn is_synchronised() -> Option<bool> {
    // SAFETY: it is made of integers, and zeros are a valid value of it. Mode 0 changes nothing.
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
    }

    /// A ratchet that wrongly believes a clock destroys keys that are still needed.
    #[test]
    fn the_clock_is_synchronised_if_the_kernel_says_so() {
        // The return value and `status` of `struct timex`, whose mode 0 changes nothing.
        const ASK: &str = "
import ctypes
words = (ctypes.c_long * 64)()
state = ctypes.CDLL(None).adjtimex(ctypes.byref(words))
status = ctypes.cast(ctypes.byref(words, 5 * ctypes.sizeof(ctypes.c_long)),
                     ctypes.POINTER(ctypes.c_int))[0]
# TIME_ERROR and STA_UNSYNC
print('no answer' if state < 0 else 'no' if state == 5 or status & 64 else 'yes')";
        let answer = std::process::Command::new("python3").args(["-c", ASK]).output();
        let answer = answer.expect("python3 is needed (apt-get install python3)");
        let said = match is_synchronised() {
            None => "no answer",
            Some(false) => "no",
            Some(true) => "yes",
        };
        assert_eq!(String::from_utf8_lossy(&answer.stdout).trim(), said);
    }
}
