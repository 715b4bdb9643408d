//! A chart of the starts of [`super::storm`], in text.

use std::fmt::Write;

use crate::storm::Start;

/// The time at the left end of all bars, in seconds.
const LEFT: f64 = 0.1;
/// Columns for a factor of ten.
const DECADE: usize = 11;
const NAME: usize = 34;

/// A bar for each start, as long as the logarithm of its time.
pub fn drawn(starts: &[Start]) -> String {
    let mut text = format!("{:5} {:NAME$} ", "hosts", "");
    for tick in ["0.1 s", "1 s", "10 s", "100 s"] {
        let _ = write!(text, "{:DECADE$}", format!("|{tick}"));
    }
    text.push_str("|1000 s\n");
    let mut before = None;
    for start in starts {
        let new = before.replace(start.hosts) != Some(start.hosts);
        let hosts = if new { start.hosts.to_string() } else { String::new() };
        let program = start.program.replace('`', "");
        let _ = writeln!(text, "{hosts:>5} {program:NAME$} {}", bar(start));
    }
    text
}

fn bar(start: &Start) -> String {
    let length = ((start.seconds / LEFT).log10() * DECADE as f64).round().max(1.0);
    let more = if start.stopped { ">" } else { "" };
    let mut text = format!("{}{more} {more}{:.1}", "#".repeat(length as usize), start.seconds);
    if start.silent > 0 {
        let _ = write!(text, ", {} of {} silent", start.silent, start.directions());
    }
    text
}
