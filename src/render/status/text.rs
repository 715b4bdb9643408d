//! A status for people: problems first, and the verdicts counted last.

use std::{collections::BTreeSet, fmt::Write};

use anstyle::{AnsiColor, Style};

use super::{StatusView, counters::write_counters, details, wrap};
use crate::{
    config::Moment,
    model::{Answers, Generation, PeerName, Stage},
    plan::Flow,
    render::{Plain, text::YELLOW},
    verdict::{Came, EncapState, PeerState, Verdict, seconds_since},
};

pub(super) const BOLD: Style = Style::new().bold();
const RED: Style = AnsiColor::Red.on_default();
const GREEN: Style = AnsiColor::Green.on_default();
/// The widest name that leaves room for the rest of a peer's line.
const WIDEST_NAME: usize = 24;

/// A line for each remarkable peer, the others counted, counters, warnings, and a line that counts
/// the verdicts.
pub fn status_text(view: &StatusView<'_>) -> String {
    let mut page = headline(view);
    write_peers(&mut page, view);
    write_hints(&mut page, view);
    details::write_unwanted(&mut page, view);
    write_counters(&mut page, view);
    let mut gap = "\n";
    for warning in view.all_warnings() {
        let _ = write!(page, "{gap}{YELLOW}Warning:{YELLOW:#} ");
        wrap::write_wrapped(&mut page, 9, 2, &Plain(warning).to_string());
        gap = "";
    }
    page.push('\n');
    wrap::write_paragraph(&mut page, 0, &due(view));
    wrap::write_paragraph(&mut page, 0, &totals(view));
    page
}

fn headline(view: &StatusView<'_>) -> String {
    let local = view.case.local;
    format!(
        "{BOLD}Mesh {}, peer {} ({}){BOLD:#}\n{}\n{}",
        view.case.config.mesh,
        local.name,
        local.address,
        generations(view),
        encap(view)
    )
}

/// The line about ESP in UDP, where the mesh has it.
fn encap(view: &StatusView<'_>) -> String {
    let Some(EncapState { port, from, is_used, socket }) = view.case.encap() else {
        return String::new();
    };
    let takes = match (socket.answers, socket.is_bound) {
        (Answers::Yes, _) => "a socket takes it",
        (Answers::No, true) => "the socket of that port does not take it",
        (Answers::No, false) => "no socket takes it",
        (Answers::Unknown, _) => "whether a socket takes it is not known",
    };
    let begins = if is_used { String::new() } else { format!(" from generation {from} on") };
    format!("ESP in UDP port {port}{begins}: {takes}\n")
}

/// The generation of the file or clock, and the one under which packets leave where it differs.
fn generations(view: &StatusView<'_>) -> String {
    let Moment { generation, clock } = view.case.moment;
    let kernel = view.judged.generations();
    let (source, until) = match clock {
        None => ("file", String::new()),
        Some(clock) => ("clock", until(clock.period.end(generation), clock.next_apply())),
    };
    let sends = view.judged.peers.iter().any(|peer| peer.stage.sends());
    if !sends || kernel == BTreeSet::from([generation]) {
        return format!("Generation {generation}{until}");
    }
    let kernel: Vec<String> = kernel.iter().map(Generation::to_string).collect();
    let kernel = if kernel.is_empty() { "none".into() } else { kernel.join(" and ") };
    format!("Generation: {source} {generation}, kernel {kernel}{until}")
}

fn until(end: crate::model::Time, next_apply: crate::model::Time) -> String {
    let (end, next_apply) = (end.time_of_day(), next_apply.time_of_day());
    format!(" until {end} UTC, next apply due before {next_apply} UTC")
}

fn write_peers(page: &mut String, view: &StatusView<'_>) {
    let peers = &view.judged.peers;
    let (folded, shown): (Vec<_>, Vec<_>) =
        peers.iter().partition(|peer| !view.details && is_unremarkable(view, peer));
    let longest = shown.iter().map(|peer| peer.name.as_str().len()).max().unwrap_or(0);
    page.push('\n');
    for peer in shown {
        write_peer(page, view, peer, longest.min(WIDEST_NAME));
        if view.details {
            details::write_details(page, view, peer);
        }
    }
    for verdict in [Verdict::Protected, Verdict::Idle, Verdict::Clear] {
        let of_it = |peer: &&&PeerState| peer.verdict == verdict;
        let peers: Vec<&PeerState> = folded.iter().filter(of_it).copied().collect();
        write_folded(page, view, verdict, &peers);
    }
}

/// Whether a peer is well in every respect, so that it is only counted.
fn is_unremarkable(view: &StatusView<'_>, peer: &PeerState) -> bool {
    let is_well = match peer.verdict {
        Verdict::Protected | Verdict::Idle => true,
        Verdict::Clear => !peer.stage.sends(),
        Verdict::Blocked | Verdict::NeverHeard | Verdict::Silent => false,
    };
    is_well
        && peer.refused.total() == 0
        && peer.changes == 0
        && (peer.sends == Some(view.case.moment.generation) || !peer.stage.sends())
        && peer.hears.is_none_or(|hears| Some(hears) == peer.sends)
}

fn write_folded(page: &mut String, view: &StatusView<'_>, verdict: Verdict, peers: &[&PeerState]) {
    let Some(longest) = peers.iter().map(|peer| heard_ago(view, peer).unwrap_or(0)).max() else {
        return;
    };
    let how = if verdict == Verdict::Clear {
        as_asked()
    } else if verdict == Verdict::Idle {
        "nothing sent, nothing heard".into()
    } else if peers.iter().all(|peer| peer.heard.is_none()) {
        "heard".into()
    } else {
        format!("heard at most {} ago", wrap::duration(longest))
    };
    let names: Vec<&PeerName> = peers.iter().map(|peer| &peer.name).collect();
    let text = format!("{} {}, {how}: {}", peers.len(), verdict.text(), list(&names));
    wrap::write_paragraph(page, 2, &text);
}

fn as_asked() -> String {
    format!("as stage {} asks", Stage::Receive)
}

fn heard_ago(view: &StatusView<'_>, peer: &PeerState) -> Option<u64> {
    peer.heard.map(|heard| seconds_since(heard, view.case.now))
}

fn write_peer(page: &mut String, view: &StatusView<'_>, peer: &PeerState, width: usize) {
    let style = match peer.verdict {
        Verdict::Clear if !peer.stage.sends() => YELLOW,
        Verdict::Clear | Verdict::NeverHeard => RED,
        Verdict::Blocked | Verdict::Silent => YELLOW,
        Verdict::Idle | Verdict::Protected => GREEN,
    };
    let (name, verdict) = (peer.name.as_str(), peer.verdict.text());
    let _ = write!(page, "  {BOLD}{name:<width$}{BOLD:#}  {style}{verdict}{style:#}");
    let said = about(view, peer).join(", ");
    if said.is_empty() {
        page.push('\n');
        return;
    }
    let indent = width + 18;
    let used = 4 + name.len().max(width) + verdict.len();
    let gap = indent.saturating_sub(used).max(2);
    let _ = write!(page, "{:gap$}", "");
    wrap::write_wrapped(page, used + gap, indent, &said);
}

/// The parts of a peer's line beside its verdict.
fn about(view: &StatusView<'_>, peer: &PeerState) -> Vec<String> {
    let mut says = Vec::new();
    if !peer.only.is_empty() {
        let kinds = peer.only.iter().map(|selector| details::kind_of_packets(view, selector));
        says.push(format!("only {}", kinds.collect::<Vec<_>>().join(", ")));
        says.extend(peer.rest.map(|rest| format!("all else {}", words_of(rest))));
    }
    if peer.verdict == Verdict::Clear && !peer.stage.sends() {
        says.push(as_asked());
    }
    says.extend(peer.no_way.as_ref().map(|why| Plain(why).to_string()));
    says.extend(ages(view, peer));
    if let (Some(sends), Some(hears)) = (peer.sends, peer.hears) {
        says.extend(other_generation(sends, hears));
    }
    if view.judged.generations().len() > 1 && peer.sends != Some(view.case.moment.generation) {
        says.extend(peer.sends.map(|sends| format!("packets leave under generation {sends}")));
    }
    if peer.refused.total() > 0 {
        says.push(details::refused(peer.refused));
    }
    if let Some(before) = view.before {
        let (moved, ago) = (before.peer(peer), before.ago(view.case.now));
        let [sent, heard, refused] = [moved.sent, moved.heard, moved.refused];
        says.push(format!("in the last {ago}: {sent} sent, {heard} heard, {refused} refused"));
    }
    if peer.changes > 0 {
        says.push(format!("{} due", count(peer.changes, "change", "changes")));
    }
    says
}

/// The fate of packets, without its SPI.
fn words_of(flow: Flow) -> &'static str {
    match flow {
        Flow::Protected(_) => "encrypted",
        Flow::Blocked => "blocked",
        Flow::Clear => "in the clear",
    }
}

/// When it was heard, and when a packet last left, as far as the verdict does not say.
fn ages(view: &StatusView<'_>, peer: &PeerState) -> Vec<String> {
    let now = view.case.now;
    let ago = |time| wrap::duration(seconds_since(time, now));
    let untold = (peer.came == Came::Heard).then(|| "heard, the kernel does not tell when".into());
    let heard = peer.heard.map(|heard| format!("heard {} ago", ago(heard))).or(untold);
    let sent = peer.sent.map(|sent| format!("sent {} ago", ago(sent)));
    let unheard = peer.unheard_since.map(|since| format!("not heard for {}", ago(since)));
    match peer.verdict {
        Verdict::Protected => heard.into_iter().collect(),
        Verdict::Idle => vec!["nothing sent, nothing heard".into()],
        Verdict::Clear | Verdict::Blocked => heard.into_iter().collect(),
        Verdict::NeverHeard | Verdict::Silent => {
            heard.into_iter().chain(unheard).chain(sent).collect()
        }
    }
}

/// A peer that sends under another generation than this host does.
fn other_generation(sends: Generation, hears: Generation) -> Option<String> {
    let (ours, theirs) = (sends.get(), hears.get());
    let far = match ours.abs_diff(theirs) {
        0 => return None,
        1 => "one".into(),
        more => more.to_string(),
    };
    Some(if theirs < ours {
        format!("still sends under generation {hears} ({far} behind)")
    } else {
        format!("sends under generation {hears} already ({far} ahead)")
    })
}

/// Advice about peers that are not well, however many they are.
fn write_hints(page: &mut String, view: &StatusView<'_>) {
    let of = |wanted: &[Verdict]| -> Vec<&PeerName> {
        let peers = view.judged.peers.iter().filter(|peer| wanted.contains(&peer.verdict));
        peers.map(|peer| &peer.name).collect()
    };
    let unheard = of(&[Verdict::NeverHeard, Verdict::Silent]);
    let stopped = of(&[Verdict::Blocked]);
    let mut hints = Vec::new();
    if let Some(first) = unheard.first() {
        let case = &view.case;
        let esp = match case.config.esp.port_at(case.moment.generation) {
            None => "ESP (IP protocol 50)".into(),
            Some(port) => format!("UDP port {port}, which holds ESP"),
        };
        hints.push(format!(
            "Nothing comes in from {}: does a firewall drop {esp}, here, there or on the way? Run \
             meshsec status on {first}: what it refuses, and why, is counted there.",
            list(&unheard)
        ));
    }
    if !stopped.is_empty() && view.case.plan.is_empty() {
        hints.push(format!("Nothing leaves for {}: see the warnings.", list(&stopped)));
    }
    let forged = view.judged.peers.iter().filter(|peer| peer.refused.forged > 0);
    let forged: Vec<&PeerName> = forged.map(|peer| &peer.name).collect();
    if !forged.is_empty() {
        hints.push(format!(
            "Packets of {} came under another key: are secret, cipher and generation the same on \
             both hosts? The count stays when that is mended.",
            list(&forged)
        ));
    }
    for hint in hints {
        page.push('\n');
        wrap::write_paragraph(page, 0, &hint);
    }
}

/// The changes that are due, and their peers.
fn due(view: &StatusView<'_>) -> String {
    let plan = view.case.plan;
    let (changes, conflicts) = (plan.changes.len(), plan.conflicts.len());
    if changes + conflicts == 0 {
        let lack = plan.lack().map(|lack| format!(", but {lack}")).unwrap_or_default();
        let rules = if plan.unseen_rules { " and a part of the firewall" } else { "" };
        return format!("Nothing differs from the file{lack}; keys{rules} were not compared.");
    }
    let mut whose: Vec<String> = Vec::new();
    let peers: BTreeSet<_> =
        plan.changes.iter().filter_map(|change| change.peer.as_ref()).collect();
    let peers: Vec<&PeerName> = peers.into_iter().collect();
    whose.extend((!peers.is_empty()).then(|| list(&peers)));
    let of_none = plan.changes.iter().filter(|change| change.peer.is_none());
    let kinds: BTreeSet<&str> = of_none.map(|change| change.kind().word()).collect();
    whose.extend(kinds.into_iter().map(String::from));
    let mut says = Vec::new();
    if changes > 0 {
        let is = if changes == 1 { "is" } else { "are" };
        let changes = count(changes, "change", "changes");
        says.push(format!("{changes} {is} due ({})", whose.join(", ")));
    }
    if conflicts > 0 {
        let holds = match (plan.held, conflicts) {
            (0, _) => String::new(),
            (held, 1) => format!(" that holds back {}", count(held, "change", "changes")),
            (held, _) => format!(" that hold back {}", count(held, "change", "changes")),
        };
        let first = plan.conflicts.first().map(|first| Plain(&first.object).to_string());
        let first = first.unwrap_or_default();
        let more = if conflicts > 1 { ", .." } else { "" };
        let conflicts = count(conflicts, "conflict", "conflicts");
        says.push(format!("{conflicts} ({first}{more}){holds}"));
    }
    format!("{}: run meshsec plan.", says.join(", "))
}

/// The verdicts, counted.
fn totals(view: &StatusView<'_>) -> String {
    let (all, asked) = (view.case.desired.peers.len(), view.judged.peers.len());
    if asked == 0 {
        return match view.case.desired.not_paired.is_empty() {
            true => "There is no peer, so nothing is protected.".into(),
            false => "This host has no pair, so nothing is protected.".into(),
        };
    }
    let of_all = match view.case.asked.is_empty() {
        true => count(all, "peer", "peers"),
        false => format!("{asked} of {}", count(all, "peer", "peers")),
    };
    let verdicts = Verdict::ALL.into_iter().map(|verdict| (view.judged.count(verdict), verdict));
    let verdicts = verdicts.filter(|(count, _)| *count > 0);
    let verdicts: Vec<String> =
        verdicts.map(|(count, verdict)| format!("{count} {}", verdict.text())).collect();
    format!("{of_all}: {}.", verdicts.join(", "))
}

pub(in crate::render) fn count(number: usize, one: &str, more: &str) -> String {
    format!("{number} {}", if number == 1 { one } else { more })
}

fn list(names: &[&PeerName]) -> String {
    crate::plan::list(&names.iter().map(ToString::to_string).collect::<Vec<_>>())
}
