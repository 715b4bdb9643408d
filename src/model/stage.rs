//! Stages: how much of the protection of a pair of hosts is in force.
#![forbid(unsafe_code)]

use std::fmt;

/// How much of the protection is in force, the least first. Hosts that are at most one stage apart
/// lose no packet between them; no object at all counts as the stage before the first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum Stage {
    /// Encrypted packets are received, and so are those in the clear. Packets leave in the clear.
    Receive,
    /// Packets leave encrypted. Both kinds are received.
    Send,
    /// Packets leave encrypted, and those in the clear are refused.
    #[default]
    Enforce,
}

impl Stage {
    /// All of them, in order.
    pub const ALL: [Self; 3] = [Self::Receive, Self::Send, Self::Enforce];

    /// The name in the file and in JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Receive => "receive",
            Self::Send => "send",
            Self::Enforce => "enforce",
        }
    }

    /// The stage with a name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|stage| stage.name() == name)
    }

    /// Whether packets leave encrypted.
    pub fn sends(self) -> bool {
        self >= Self::Send
    }

    /// Whether packets in the clear are refused.
    pub fn enforces(self) -> bool {
        self == Self::Enforce
    }
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
