//! `explain` as text.

use std::fmt::Write;

use super::{
    Plain,
    text::{BOLD, RED, YELLOW},
};
use crate::{
    config::Peer,
    model::{Direction, MeshName},
    plan::{Packet, Trace, Verdict},
};

/// The way of a packet with its context.
pub struct ExplainView<'a> {
    /// The mesh.
    pub mesh: &'a MeshName,
    /// The local peer, if it is known.
    pub local: Option<&'a Peer>,
    /// The packet.
    pub packet: &'a Packet,
    /// Its direction.
    pub direction: Direction,
    /// The state in words.
    pub state: String,
    /// The answer.
    pub trace: Trace,
}

impl ExplainView<'_> {
    /// What leaves, arrives, or is sent on.
    fn verb(&self) -> &'static str {
        match self.direction {
            Direction::Out => "leaves",
            Direction::In => "arrives",
            Direction::Fwd => "is sent on",
        }
    }
}

/// The width of the names of parts.
const NAMES: usize = 10;

/// The way of a packet as text.
pub fn explain_text(view: &ExplainView<'_>) -> String {
    let host = view.local.map(|peer| format!(" {}", peer.name)).unwrap_or_default();
    let mut text = format!(
        "{BOLD}{}{BOLD:#} {} ({}) at host{host} of mesh {}, {}\n\n",
        view.packet,
        view.verb(),
        view.direction,
        view.mesh,
        Plain(&view.state)
    );
    for part in &view.trace.parts {
        let _ = writeln!(text, "{:NAMES$}  {}", part.kind, Plain(&part.found));
        for (object, why) in &part.missed {
            let _ = writeln!(text, "{:NAMES$}    not {}: {why}", "", Plain(object));
        }
        if part.more > 0 {
            let _ = writeln!(text, "{:NAMES$}    nor {} others", "", part.more);
        }
    }
    let _ = writeln!(text);
    for note in &view.trace.notes {
        let _ = writeln!(text, "Not known: {}", Plain(note));
    }
    let _ = writeln!(text, "\n{}", verdicts(&view.trace.verdicts));
    text
}

fn verdicts(verdicts: &[Verdict]) -> String {
    let words: Vec<String> = verdicts.iter().map(ToString::to_string).collect();
    let worst = verdicts.last().copied().unwrap_or(Verdict::Clear);
    let color = match worst {
        Verdict::Encrypted(_) | Verdict::Accepted => BOLD,
        Verdict::Blocked | Verdict::Refused => YELLOW,
        Verdict::Clear => RED,
    };
    let open = if words.len() > 1 { "; what is known does not tell which" } else { "" };
    format!("Verdict: {color}{}{color:#}{open}", words.join(", or "))
}
