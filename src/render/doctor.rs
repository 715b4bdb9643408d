//! The findings of `doctor`: the worst first, one sentence last.
#![forbid(unsafe_code)]

use std::fmt::Write;

use anstyle::{AnsiColor, Style};

use super::{Plain, status::wrap, text::YELLOW};
use crate::{
    diagnosis::{Diagnosis, Facts, Finding, Outcome},
    model::PeerName,
    plan::NAMES_SHOWN,
};

const BOLD: Style = Style::new().bold();
const RED: Style = AnsiColor::Red.on_default();
const GREEN: Style = AnsiColor::Green.on_default();

/// The parts of a diagnosis.
pub struct DoctorView<'a> {
    /// The facts that were judged.
    pub facts: &'a Facts<'a>,
    /// The findings.
    pub diagnosis: &'a Diagnosis,
    /// Whether checks that are well are shown with their reasons.
    pub verbose: bool,
}

/// Findings that ask for attention, those that could not be read, the others in few lines, and a
/// last line that is one sentence.
pub fn doctor_text(view: &DoctorView<'_>) -> String {
    let mut page = headline(view);
    for (outcome, title, style) in [
        (Outcome::Attention, "Look at", RED),
        (Outcome::Unknown, "Not known", YELLOW),
        (Outcome::Ok, "Well", GREEN),
    ] {
        let of_it = |finding: &&Finding| finding.outcome == outcome;
        let found: Vec<&Finding> = view.diagnosis.findings.iter().filter(of_it).collect();
        if found.is_empty() {
            continue;
        }
        let _ = writeln!(page, "\n{style}{title}{style:#}");
        match outcome == Outcome::Ok && !view.verbose {
            true => write_codes(&mut page, &found),
            false => found.iter().for_each(|finding| write_finding(&mut page, finding)),
        }
    }
    // The last line is not wrapped, so that it is the whole sentence.
    let _ = writeln!(page, "\n{BOLD}{}{BOLD:#}", Plain(&view.diagnosis.conclusion));
    page
}

fn headline(view: &DoctorView<'_>) -> String {
    let facts = view.facts;
    let local = match facts.local {
        Some(local) => format!("peer {} ({})", local.name, local.address),
        None => "of which this host is no peer".into(),
    };
    format!("{BOLD}Mesh {}, {local}{BOLD:#}\n", facts.config.mesh)
}

/// Checks that are well, by their names; one about peers with the number of these.
fn write_codes(page: &mut String, found: &[&Finding]) {
    let mut codes: Vec<(&str, usize)> = Vec::new();
    for finding in found {
        match codes.last_mut() {
            Some((code, peers)) if *code == finding.code.word() => *peers += finding.peers.len(),
            _ => codes.push((finding.code.word(), finding.peers.len())),
        }
    }
    let shown = codes.into_iter().map(|(code, peers)| match peers {
        0 => code.to_owned(),
        1 => format!("{code} (1 peer)"),
        peers => format!("{code} ({peers} peers)"),
    });
    wrap::write_paragraph(page, 2, &shown.collect::<Vec<_>>().join(", "));
}

fn write_finding(page: &mut String, finding: &Finding) {
    let code = finding.code.word();
    let names = match finding.peers.as_slice() {
        [] => String::new(),
        names => format!("{}, ", list(names)),
    };
    let _ = write!(page, "  {BOLD}{code}{BOLD:#}: ");
    let text = Plain(format!("{names}{}", finding.text)).to_string();
    wrap::write_wrapped(page, code.len() + 4, 6, &text);
    if let Some(remedy) = &finding.remedy {
        wrap::write_paragraph(page, 6, &format!("-> {}", Plain(remedy)));
    }
}

fn list(names: &[PeerName]) -> String {
    let shown: Vec<&str> = names.iter().take(NAMES_SHOWN).map(|name| name.as_str()).collect();
    match names.len().saturating_sub(NAMES_SHOWN) {
        0 => shown.join(", "),
        more => format!("{} and {more} more", shown.join(", ")),
    }
}
