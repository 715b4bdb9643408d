//! Whether all hosts have applied the generation, for people: doubts first, by host, and the
//! evidence last.

use std::fmt::Write;

use anstyle::Style;

use super::{
    Plain,
    status::wrap::{duration, write_paragraph},
};
use crate::{
    model::{Generation, PeerName},
    verdict::{
        Doubt, DoubtKind, EvidenceOfHost, NotCounted, OLDEST_EVIDENCE, Question, Settlement,
        Sighted, seconds_since,
    },
};

const BOLD: Style = Style::new().bold();
/// The number of peers that a doubt about one host names before it counts the rest, and the number
/// of lines of evidence that counts.
const NAMES_SHOWN: usize = 8;

/// The question and its answer.
pub struct SettledView<'a> {
    /// The question.
    pub question: Question<'a>,
    /// The answer.
    pub settlement: &'a Settlement<'a>,
}

impl SettledView<'_> {
    /// Whether every host is known to have applied the generation.
    pub fn is_settled(&self) -> bool {
        self.settlement.is_settled()
    }

    fn generation(&self) -> Generation {
        self.question.moment.generation
    }
}

/// A paragraph for each doubt, with the hosts that it is about; hints; and the evidence.
pub fn settled_text(view: &SettledView<'_>) -> String {
    let mut page = headline(view);
    let mut rest: Vec<(&PeerName, String)> =
        view.settlement.doubts.iter().map(|doubt| (&doubt.host, text(view, doubt))).collect();
    // Hosts with the same doubt are on one line.
    while let Some((_, first)) = rest.first().cloned() {
        let hosts: Vec<&PeerName> =
            rest.iter().filter(|(_, text)| *text == first).map(|(host, _)| *host).collect();
        write_paragraph(&mut page, 2, &format!("{}: {first}", names(&hosts, usize::MAX)));
        rest.retain(|(_, text)| *text != first);
    }
    for hint in hints(view) {
        page.push('\n');
        write_paragraph(&mut page, 0, &hint);
    }
    page.push('\n');
    let (counted, rest): (Vec<_>, Vec<_>) =
        view.settlement.evidence.iter().partition(|of_host| of_host.not_counted.is_none());
    for of_host in counted.iter().take(NAMES_SHOWN).chain(&rest) {
        write_paragraph(&mut page, 0, &Plain(evidence(view, of_host)).to_string());
    }
    if let more @ 1.. = counted.len().saturating_sub(NAMES_SHOWN) {
        write_paragraph(&mut page, 0, &format!("And evidence of {more} more hosts"));
    }
    page
}

fn headline(view: &SettledView<'_>) -> String {
    let (mesh, generation) = (&view.question.config.mesh, view.generation());
    let (known, all) = (view.settlement.known(), view.settlement.hosts.len());
    let quiet = duration(view.question.quiet.as_secs());
    let mut page = format!("{BOLD}Mesh {mesh}: generation {generation} is ");
    if view.is_settled() {
        let _ = writeln!(page, "settled{BOLD:#}");
        let text = format!(
            "{known} of {all} hosts are known to have applied it, and no packet has come under \
             another one for {quiet}."
        );
        write_paragraph(&mut page, 0, &text);
    } else {
        let _ = writeln!(page, "not settled{BOLD:#}");
        let text = format!("{known} of {all} hosts are known to have applied it. In doubt:");
        write_paragraph(&mut page, 0, &text);
    }
    page
}

/// The words for a doubt, behind the name of its host.
pub(super) fn text(view: &SettledView<'_>, doubt: &Doubt) -> String {
    let now = view.generation();
    match &doubt.kind {
        DoubtKind::NotApplied(peers) => {
            let peers: Vec<&PeerName> = peers.iter().collect();
            let peers = names(&peers, NAMES_SHOWN);
            format!("has not applied generation {now}: SAs or policies with {peers} are missing")
        }
        DoubtKind::Other(Sighted { generation, by, ago }) if *generation > now => format!(
            "sends under generation {generation}, seen by {by} {} before its look: is this file \
             the newest?",
            duration(*ago)
        ),
        DoubtKind::Other(Sighted { generation, by, ago }) => format!(
            "sent under generation {generation}, seen by {by} {} before its look",
            duration(*ago)
        ),
        DoubtKind::OtherUntold(Sighted { generation, by, .. }) => format!(
            "has sent under generation {generation}, and the kernel of {by} does not tell when"
        ),
        DoubtKind::NotHeard(by) if by.is_empty() => {
            format!(
                "not heard: no host with evidence and a pair with it has applied generation {now}"
            )
        }
        DoubtKind::NotHeard(by) => {
            let by: Vec<&PeerName> = by.iter().collect();
            let by = names(&by, NAMES_SHOWN);
            format!("not heard under generation {now} since it was applied by {by}")
        }
        DoubtKind::HeardUntold(by) => format!(
            "heard under generation {now}, and the kernel of {by} does not tell whether that was \
             after its last apply"
        ),
        DoubtKind::SendsClear => "sends nothing encrypted at its stage".into(),
        DoubtKind::NoPair => "forms no pair with a host with evidence that counts".into(),
    }
}

/// The code of a doubt in JSON.
pub(super) fn code(kind: &DoubtKind) -> &'static str {
    match kind {
        DoubtKind::NotApplied(_) => "not_applied",
        DoubtKind::Other(_) => "other_generation",
        DoubtKind::OtherUntold(_) => "other_generation_untold",
        DoubtKind::NotHeard(_) => "not_heard",
        DoubtKind::HeardUntold(_) => "heard_untold",
        DoubtKind::SendsClear => "sends_clear",
        DoubtKind::NoPair => "no_pair",
    }
}

/// The ways to remove doubts, however many there are.
fn hints(view: &SettledView<'_>) -> Vec<String> {
    let doubts = &view.settlement.doubts;
    let any = |is_it: fn(&DoubtKind) -> bool| doubts.iter().any(|doubt| is_it(&doubt.kind));
    let mut hints = Vec::new();
    if any(|kind| {
        matches!(kind, DoubtKind::NotHeard(_) | DoubtKind::SendsClear | DoubtKind::NoPair)
    }) {
        hints.push(
            "A pair without encrypted traffic tells nothing: send some, such as a ping, or add \
             a snapshot of the hosts in doubt with --seen."
                .into(),
        );
    }
    if any(|kind| matches!(kind, DoubtKind::OtherUntold(_) | DoubtKind::HeardUntold(_))) {
        let quiet = duration(view.question.quiet.as_secs());
        hints.push(format!(
            "Linux tells when an SA was last used since version 6.2. Before, --wait looks at this \
             host again and again, for longer than {quiet}; of another host take two snapshots \
             that are so far apart, and give both."
        ));
    }
    hints
}

/// One line about the state of a host.
fn evidence(view: &SettledView<'_>, of_host: &EvidenceOfHost<'_>) -> String {
    let host = &of_host.host.name;
    let Some(source) = &of_host.source else {
        return format!("Evidence of {host}: this kernel");
    };
    let taken = duration(seconds_since(of_host.taken, view.question.now));
    match &of_host.not_counted {
        None => format!("Evidence of {host}: {source}, taken {taken} ago"),
        Some(why) => format!("Does not count for {host}: {source}, {}", not_counted(view, why)),
    }
}

/// Why a snapshot does not count.
pub(super) fn not_counted(view: &SettledView<'_>, why: &NotCounted) -> String {
    match why {
        NotCounted::Old(age) => format!(
            "taken {} ago, which is more than {}",
            duration(*age),
            duration(OLDEST_EVIDENCE)
        ),
        NotCounted::Ahead(seconds) => {
            format!("taken {} from now: one of the clocks is wrong", duration(*seconds))
        }
        NotCounted::BeforeApply(host) => format!(
            "not taken after {host} has applied generation {}: take another one",
            view.generation()
        ),
        NotCounted::NoCounters => "it has no counters of SAs".into(),
    }
}

/// The first names of a list, and the number of the others.
fn names(names: &[&PeerName], most: usize) -> String {
    let shown: Vec<&str> = names.iter().take(most).map(|name| name.as_str()).collect();
    match names.len().saturating_sub(most) {
        0 => shown.join(", "),
        more => format!("{} and {more} more", shown.join(", ")),
    }
}
