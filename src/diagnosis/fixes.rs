//! Whether a kernel's number has the fixes of ESP of 2026.

use super::Finding;
use crate::model::{CheckCode, KernelFacts};

/// The first release of each series with the fix of CVE-2026-43284. Series after the last have it
/// from their start.
const FIXED: [(u64, u64, u64); 5] = [(6, 1, 171), (6, 6, 138), (6, 12, 87), (6, 18, 28), (7, 0, 5)];

/// A number below them tells nothing certain: distributions put fixes into older numbers.
pub(super) fn finding(kernel: &KernelFacts) -> Finding {
    let code = CheckCode::KernelFixes;
    // Debian 12 has the series alone in the release, and the number of its package in the version.
    let numbers = [number(&kernel.release), debian(&kernel.version)];
    let Some((major, minor, patch)) = numbers.into_iter().flatten().max() else {
        return Finding::unknown(code, format!("the kernel is {}", kernel.release));
    };
    let shown = format!("{major}.{minor}.{patch}");
    if is_fixed((major, minor, patch)) {
        return Finding::ok(code, format!("kernel {shown} has the fix of CVE-2026-43284"));
    }
    let text = format!(
        "kernel {shown} is older than the release of its series with the fix of CVE-2026-43284 in ESP \
         (6.1.171, 6.6.138, 6.12.87, 6.18.28, 7.0.5), and whether the distribution has put the fix \
         into it can't be told from the number"
    );
    let remedy = "look it up in the security tracker of the distribution, and install its newest \
                  kernel";
    Finding::unknown(code, text).remedy(remedy)
}

fn is_fixed((major, minor, patch): (u64, u64, u64)) -> bool {
    let of_series = FIXED.iter().find(|(a, b, _)| (*a, *b) == (major, minor));
    match of_series {
        Some((_, _, first)) => patch >= *first,
        None => (major, minor) > (7, 0),
    }
}

/// The number that a text begins with, such as `6.12.74+deb13-amd64`.
fn number(text: &str) -> Option<(u64, u64, u64)> {
    let digits = |text: &str| -> Option<u64> {
        let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
        text[..end].parse().ok()
    };
    let mut parts = text.splitn(3, '.');
    Some((digits(parts.next()?)?, digits(parts.next()?)?, parts.next().map_or(Some(0), digits)?))
}

/// The number in `#1 SMP PREEMPT_DYNAMIC Debian 6.1.164-1 (2026-03-09)`.
fn debian(version: &str) -> Option<(u64, u64, u64)> {
    number(version.split_once("Debian ")?.1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diagnosis::Outcome;

    #[test]
    fn a_number_below_the_fix_is_not_known_to_be_without_it() {
        for (release, version, outcome) in [
            ("6.12.87-amd64", "", Outcome::Ok),
            ("6.12.86+deb13-amd64", "", Outcome::Unknown),
            ("6.1.0-44-amd64", "#1 SMP PREEMPT_DYNAMIC Debian 6.1.171-1 (2026)", Outcome::Ok),
            ("6.1.0-44-amd64", "#1 SMP PREEMPT_DYNAMIC Debian 6.1.164-1 (2026)", Outcome::Unknown),
            ("6.14.3", "", Outcome::Unknown),
            ("5.15.0-91-generic", "#101-Ubuntu SMP", Outcome::Unknown),
            ("7.0.5", "", Outcome::Ok),
            ("7.0", "", Outcome::Unknown),
            ("7.1-rc2", "", Outcome::Ok),
            ("8.0.0", "", Outcome::Ok),
            ("none", "Debian", Outcome::Unknown),
        ] {
            let kernel = KernelFacts {
                release: release.into(),
                version: version.into(),
                ..KernelFacts::default()
            };
            assert_eq!(finding(&kernel).outcome, outcome, "{release} {version}");
        }
    }
}
