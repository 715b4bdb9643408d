//! The way of packets through the rules of a table, as the kernel follows it.
//!
//! Pure. There are three answers: a rule matches, does not match, or may match.
#![forbid(unsafe_code)]

use super::parse::{Line, Table, Target};

/// Chains within chains beyond this are not followed.
const DEEPEST: usize = 32;

/// Whether something is true of packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Is {
    Not,
    Maybe,
    Sure,
}

impl Is {
    pub(super) fn of(all: bool, any: bool) -> Self {
        match (all, any) {
            (true, _) => Self::Sure,
            (false, true) => Self::Maybe,
            (false, false) => Self::Not,
        }
    }

    fn negated(self, negated: bool) -> Self {
        match (self, negated) {
            (Self::Sure, true) => Self::Not,
            (Self::Not, true) => Self::Sure,
            (other, _) => other,
        }
    }
}

/// Where packets are after a chain or a rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Then {
    /// They come back from it.
    GoOn,
    /// Some come back from it.
    MayGoOn,
    /// None comes back from it.
    End,
}

/// Follows packets through rules.
pub(super) trait Visitor {
    /// Whether a rule matches.
    fn matches(&self, line: &Line) -> Is;

    /// The effect of a target that is not a chain, of a rule in `chain`; `sure` is whether all
    /// packets get there and match.
    fn target(&mut self, chain: &str, line: &Line, target: &str, sure: bool) -> Then;
}

/// Follows a chain that all packets get to.
pub(super) fn follow(table: &Table, visitor: &mut impl Visitor, chain: &str) -> Then {
    within(table, visitor, chain, true, 0)
}

/// Follows a chain; `sure` is whether all packets get to it.
fn within(
    table: &Table,
    visitor: &mut impl Visitor,
    name: &str,
    mut sure: bool,
    depth: usize,
) -> Then {
    let Some(chain) = table.chains.get(name) else { return Then::GoOn };
    if depth > DEEPEST {
        return Then::MayGoOn;
    }
    // Of packets that returned before, none is at a rule behind.
    let (mut all_come_back, mut some_returned) = (true, false);
    for line in &chain.rules {
        let matches = visitor.matches(line);
        if matches == Is::Not {
            continue;
        }
        let certain = matches == Is::Sure;
        let then = match line.target() {
            Target::Nothing => Then::GoOn,
            Target::Unknown => Then::MayGoOn,
            Target::Jump("RETURN") if certain && all_come_back => return Then::GoOn,
            Target::Jump("RETURN") if certain => return Then::MayGoOn,
            Target::Jump("RETURN") => {
                (sure, some_returned) = (false, true);
                continue;
            }
            Target::Jump(target) if table.chains.contains_key(target) => {
                within(table, visitor, target, sure && certain, depth + 1)
            }
            Target::Jump(target) => visitor.target(name, line, target, sure && certain),
            Target::Goto(target) => {
                let then = within(table, visitor, target, sure && certain, depth + 1);
                match (certain, then) {
                    (true, Then::GoOn) if all_come_back => return Then::GoOn,
                    (true, Then::End) if !some_returned => return Then::End,
                    (true, _) => return Then::MayGoOn,
                    (false, _) => Then::MayGoOn,
                }
            }
        };
        match then {
            Then::GoOn => {}
            Then::End if certain && all_come_back && some_returned => return Then::MayGoOn,
            Then::End if certain && all_come_back => return Then::End,
            Then::End | Then::MayGoOn => (sure, all_come_back) = (false, false),
        }
    }
    if all_come_back { Then::GoOn } else { Then::MayGoOn }
}

/// Whether a rule matches, by the answers about each of its matches.
pub(super) fn matches(line: &Line, one: impl Fn(&str, &str) -> Is) -> Is {
    let Some(words) = &line.words else { return Is::Maybe };
    let mut is = Is::Sure;
    let mut negated = false;
    let mut words = words.iter().map(String::as_str);
    while let Some(option) = words.next() {
        if option == "!" {
            negated = true;
            continue;
        }
        // The options behind it belong to the target.
        if matches!(option, "-j" | "-g") {
            return is;
        }
        let Some(value) = words.next() else { return is.min(Is::Maybe) };
        is = is.min(one(option, value).negated(negated));
        negated = false;
    }
    is
}

/// The number of a protocol.
pub(super) fn protocol(text: &str) -> Option<u8> {
    match text {
        "tcp" => Some(6),
        "udp" => Some(17),
        "sctp" => Some(132),
        "icmp" => Some(1),
        "ipv6-icmp" | "icmpv6" => Some(58),
        "esp" => Some(50),
        number => number.parse().ok().filter(|number| *number != 0),
    }
}

/// Whether a pattern is for a device: `eth+` stands for all names that begin with `eth`.
pub(super) fn is_named(pattern: &str, device: &str) -> bool {
    match pattern.strip_suffix('+') {
        Some(begin) => device.starts_with(begin),
        None => pattern == device,
    }
}
