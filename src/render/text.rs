//! A plan as text, with colours that the caller strips where they don't belong.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write,
    net::IpAddr,
};

use anstyle::{AnsiColor, Style};
use similar::TextDiff;

use super::{
    Extent, Plain, Subject, View,
    counts::write_counts,
    outcome::write_outcomes,
    status::{count, wrap::WIDTH},
};
use crate::{
    config::{Config, EncapWish, Moment, Peer, Select, Traffic},
    model::{Passage, PeerName, Reason, Reqid},
    plan::{Change, ChangeAction, Conflict, Field, ObjectKind, Phase, Plan},
};

/// The field of a chain with several values.
const RULES: &str = "rules";
pub(super) const BOLD: Style = Style::new().bold();
const DIM: Style = Style::new().dimmed();
pub(super) const YELLOW: Style = AnsiColor::Yellow.on_default();
/// The number of conflicts that are shown before the rest is counted.
const CONFLICTS_SHOWN: usize = 20;
pub(super) const RED: Style = AnsiColor::Red.on_default();

/// A plan, as far as somebody wants to read it. The last line counts the changes or says that there
/// are none.
pub fn plan_text(view: &View<'_>, extent: &Extent) -> String {
    match extent {
        Extent::Whole => whole(view),
        Extent::Peers(peers) => of_peers(view, peers),
        Extent::Summary => {
            let mut text = header(view);
            write_counts(&mut text, &view.plan.changes);
            write_end(&mut text, view);
            text
        }
        Extent::OneLine => one_line(view),
    }
}

fn whole(view: &View<'_>) -> String {
    let mut text = header(view);
    let of_all = common_reason(&view.plan.changes);
    if let Some(reason) = of_all {
        write_reason(&mut text, "", reason);
    }
    for group in groups(view) {
        write_group(&mut text, &group, of_all);
    }
    write_order(&mut text, view.plan);
    write_end(&mut text, view);
    text
}

/// The changes of some peers. Conflicts and warnings are those of the whole plan.
fn of_peers(view: &View<'_>, peers: &BTreeSet<PeerName>) -> String {
    let mut text = header(view);
    let is_asked = |change: &Change| change.peer.as_ref().is_some_and(|peer| peers.contains(peer));
    let mut shown = 0;
    for group in groups(view).iter().filter(|group| group.changes.iter().all(is_asked)) {
        shown += group.changes.len();
        write_group(&mut text, group, None);
    }
    let hidden = view.plan.changes.len() - shown;
    if hidden > 0 {
        let _ = writeln!(text, "\nNot shown: {} of others.", count(hidden, "change", "changes"));
    }
    write_end(&mut text, view);
    text
}

fn write_group(text: &mut String, group: &Group<'_>, of_all: Option<&Reason>) {
    let _ = writeln!(text, "\n{}", group.title);
    let of_group = of_all.or_else(|| common_reason(group.changes));
    if let Some(reason) = of_group.filter(|_| of_all.is_none()) {
        write_reason(text, "  ", reason);
    }
    for change in group.changes {
        write_change(text, change, of_group);
    }
}

/// The effect, the conflicts, the warnings and the last line.
fn write_end(text: &mut String, view: &View<'_>) {
    write_outcomes(text, view);
    write_conflicts(text, view.plan);
    let mut gap = "\n";
    for warning in view.all_warnings() {
        let _ = writeln!(text, "{gap}{YELLOW}Warning:{YELLOW:#} {}", Plain(warning));
        gap = "";
    }
    let _ = writeln!(text, "\n{}", summary(view));
}

/// The last line alone, and how many warnings the plan has.
fn one_line(view: &View<'_>) -> String {
    let last = summary(view);
    let last = last.lines().last().unwrap_or_default();
    let counts = match view.plan.conflicts.len() {
        0 => String::new(),
        _ => format!(" {}", counts(view.plan)),
    };
    match view.all_warnings().count() {
        0 => format!("{last}{counts}\n"),
        warnings => format!("{last}{counts} {}.\n", count(warnings, "warning", "warnings")),
    }
}

fn header(view: &View<'_>) -> String {
    title(view.subject, view.local)
}

/// The first line: the mesh, and what is known of it.
pub(super) fn title(subject: Subject<'_>, local: Option<&Peer>) -> String {
    let (config, moment) = match subject {
        Subject::File { config, moment } => (config, moment),
        Subject::Named(mesh) => return format!("{BOLD}Mesh {mesh}{BOLD:#}: without its file\n"),
    };
    let local = local.map(|peer| format!(", peer {} ({})", peer.name, peer.address));
    let mesh = format!("Mesh {}{}, {}", config.mesh, local.unwrap_or_default(), generation(moment));
    let protection = format!(
        "{}, {}{}, reqid {}",
        traffic(config),
        config.esp.cipher.name(),
        encap(config, moment),
        config.reqid,
    );
    let gap = if mesh.len() + protection.len() + 2 > WIDTH { "\n  " } else { " " };
    format!("{BOLD}{mesh}{BOLD:#}:{gap}{protection}\n")
}

/// ESP in UDP, in words: the port, and the first generation where that is still to come.
fn encap(config: &Config, Moment { generation, clock }: Moment) -> String {
    let Some(EncapWish { port, from, keepalive }) = config.esp.encap else { return String::new() };
    let keepalive = keepalive.map(|seconds| format!(", keepalives after {seconds}s"));
    let keepalive = keepalive.unwrap_or_default();
    if from <= generation {
        return format!(" in UDP port {port}{keepalive}");
    }
    let begin = clock.and_then(|clock| Some(clock.period.end(from.previous()?)));
    let begin = begin.map(|begin| format!(" ({} UTC)", begin.utc())).unwrap_or_default();
    format!(" in UDP port {port} from generation {from}{begin}{keepalive}")
}

/// The generation, and where the clock says so, its end.
pub fn generation(Moment { generation, clock }: Moment) -> String {
    match clock {
        None => format!("generation {generation}"),
        Some(clock) => format!(
            "generation {generation} until {} UTC, next apply due before {} UTC",
            clock.period.end(generation).time_of_day(),
            clock.next_apply().time_of_day(),
        ),
    }
}

/// The protected traffic, in words.
pub(super) fn traffic(config: &Config) -> String {
    let kind = match config.traffic {
        Traffic::Vxlan { port } => format!("vxlan port {port}"),
        Traffic::Geneve { port } => format!("geneve port {port}"),
        Traffic::All => "all traffic".into(),
        Traffic::Networks => "traffic of networks".into(),
        Traffic::Port { protocol, ports } => format!("{} {ports}", protocol.name()),
    };
    match config.select {
        Select::Port => kind,
        Select::Mark(mark) => format!("{kind} by mark {mark}"),
    }
}

/// Changes that are shown below one title.
struct Group<'a> {
    title: String,
    changes: &'a [Change],
}

fn groups<'a>(view: &View<'a>) -> Vec<Group<'a>> {
    let addresses =
        view.subject.peers().iter().map(|peer| (&peer.name, peer.reached_at())).collect();
    let titles: Vec<String> =
        view.plan.changes.iter().map(|change| group_title(&addresses, change)).collect();
    let mut rest = view.plan.changes.as_slice();
    let same = titles.chunk_by(|a, b| a == b);
    same.map(|titles| {
        let (changes, behind) = rest.split_at(titles.len());
        rest = behind;
        Group { title: titles[0].clone(), changes }
    })
    .collect()
}

/// The reason that several changes have in common, to be said once.
fn common_reason(changes: &[Change]) -> Option<&Reason> {
    let [first, more @ ..] = changes else { return None };
    let same = |change: &Change| has_reason(change) && change.reason == first.reason;
    (!more.is_empty() && changes.iter().all(same)).then_some(&first.reason)
}

/// Whether a change needs a reason: a missing object needs none.
fn has_reason(change: &Change) -> bool {
    change.action() != ChangeAction::Create
}

fn write_reason(text: &mut String, indent: &str, reason: &Reason) {
    let _ = writeln!(text, "{indent}{DIM}# {}{DIM:#}", Plain(reason));
}

fn group_title(addresses: &BTreeMap<&PeerName, IpAddr>, change: &Change) -> String {
    let title = match &change.peer {
        Some(name) => {
            let address = addresses.get(name).map(|ip| format!(" ({ip})")).unwrap_or_default();
            format!("Peer {name}{address}")
        }
        None => change.passage().map_or(change.kind().title(), passage_title).into(),
    };
    format!("{BOLD}{title}{BOLD:#}")
}

/// The title above policies that let packets pass untransformed.
pub(super) fn passage_title(passage: Passage) -> &'static str {
    match passage {
        Passage::Discovery => "Neighbour discovery",
        Passage::Encap => "ESP in UDP",
        Passage::Exception => "Exceptions",
    }
}

/// Writes a change, and its reason unless that is `told` already.
fn write_change(text: &mut String, change: &Change, told: Option<&Reason>) {
    let action = change.action();
    let style = match action {
        ChangeAction::Create => AnsiColor::Green.on_default(),
        ChangeAction::Update | ChangeAction::Replace => YELLOW,
        ChangeAction::Delete => RED,
    };
    let _ = writeln!(
        text,
        "{style}{:>5}{style:#} {:<6} {}",
        action.symbol(),
        change.kind(),
        Plain(change.line())
    );
    if action == ChangeAction::Create && change.kind() == ObjectKind::Chain {
        change.fields().iter().filter(|field| field.name == RULES).for_each(|field| {
            write_rules(text, field);
        });
    }
    if has_reason(change) && told != Some(&change.reason) {
        write_reason(text, "        ", &change.reason);
    }
    if matches!(action, ChangeAction::Update | ChangeAction::Replace) {
        change.fields().iter().for_each(|field| write_field(text, field));
    }
}

/// Each rule in a line of its own, with signs where they differ.
fn write_rules(text: &mut String, field: &Field) {
    let rules = |side: &Option<String>| -> Vec<String> {
        let listed = side.as_deref().filter(|rules| *rules != "none").unwrap_or_default();
        listed.split("; ").filter(|rule| !rule.is_empty()).map(String::from).collect()
    };
    let (before, after) = (rules(&field.before), rules(&field.after));
    let (before, after) = (as_lines(&before), as_lines(&after));
    for change in TextDiff::from_slices(&before, &after).iter_all_changes() {
        let _ = writeln!(text, "        {} {}", change.tag(), Plain(change.value()));
    }
}

fn as_lines(rules: &[String]) -> Vec<&str> {
    rules.iter().map(String::as_str).collect()
}

fn write_field(text: &mut String, field: &Field) {
    if field.name == RULES {
        return write_rules(text, field);
    }
    let none = "none".to_owned();
    let before = field.before.as_ref().unwrap_or(&none);
    let after = field.after.as_ref().unwrap_or(&none);
    let _ = writeln!(text, "        {}: {} -> {}", field.name, Plain(before), Plain(after));
}

fn write_order(text: &mut String, plan: &Plan) {
    if plan.steps.is_empty() {
        return;
    }
    let _ = writeln!(text, "\n{BOLD}Order{BOLD:#}");
    let mut phases: Vec<(Phase, usize)> = Vec::new();
    for step in &plan.steps {
        match phases.last_mut() {
            Some((phase, count)) if *phase == step.phase => *count += 1,
            _ => phases.push((step.phase, 1)),
        }
    }
    for (number, (phase, count)) in phases.into_iter().enumerate() {
        let count = if phase == Phase::Wait { "200 ms".into() } else { count.to_string() };
        let _ = writeln!(text, "{:>5}. {phase}: {count}", number + 1);
        let _ = writeln!(text, "       {DIM}# {}{DIM:#}", phase.reason());
    }
}

fn write_conflicts(text: &mut String, plan: &Plan) {
    let Plan { conflicts, held, .. } = plan;
    if conflicts.is_empty() {
        return;
    }
    let _ = writeln!(text, "\n{BOLD}Conflicts{BOLD:#}");
    for conflict in conflicts.iter().take(CONFLICTS_SHOWN) {
        let Conflict { object, stops, text: why, .. } = conflict;
        let _ = writeln!(text, "{RED}    !{RED:#} {}  stops {stops}", Plain(object));
        let _ = writeln!(text, "        {DIM}# {}{DIM:#}", Plain(why));
    }
    if let Some(more) = conflicts.len().checked_sub(CONFLICTS_SHOWN).filter(|more| *more > 0) {
        let _ = writeln!(text, "  and {more} more conflicts");
    }
    if *held > 0 {
        let changes = if *held == 1 { "change is" } else { "changes are" };
        let _ = writeln!(
            text,
            "  {held} {changes} held back; pairs that already work are kept up to date."
        );
    }
}

fn summary(view: &View<'_>) -> String {
    let plan = view.plan;
    match view.subject {
        Subject::File { .. } if plan.is_empty() => {
            return format!("No changes. {}", Plain(plan.matches(view.file)));
        }
        Subject::Named(mesh) if plan.is_empty() => return nothing_to_destroy(plan, mesh.reqid),
        Subject::File { .. } | Subject::Named(_) => {}
    }
    let counts = counts(plan);
    match plan.conflicts.len() {
        0 => counts,
        1 => format!("{counts}\n{RED}Error:{RED:#} 1 conflict{}", stopped(plan, "stops")),
        many => format!("{counts}\n{RED}Error:{RED:#} {many} conflicts{}", stopped(plan, "stop")),
    }
}

fn counts(plan: &Plan) -> String {
    format!(
        "Plan: {} to create, {} to update, {} to replace, {} to delete.",
        plan.count(ChangeAction::Create),
        plan.count(ChangeAction::Update),
        plan.count(ChangeAction::Replace),
        plan.count(ChangeAction::Delete),
    )
}

fn nothing_to_destroy(plan: &Plan, reqid: Reqid) -> String {
    let seen = if plan.unseen_rules { ", as far as it shows its firewall" } else { "" };
    format!("No changes. The kernel holds no object with reqid {reqid}{seen}.")
}

/// The effect of conflicts on an apply: the last line of a screen is read first.
fn stopped(plan: &Plan, stop: &str) -> String {
    match (plan.steps.is_empty(), plan.held) {
        (true, 0) => {
            ", see above; nothing else differs from the file, and nothing was changed.".into()
        }
        (true, _) => format!(" {stop} everything; nothing was changed."),
        (false, _) => format!(" {stop} a part of this; apply does the rest and exits with 3."),
    }
}
