//! The socket that takes ESP out of UDP.

use serde::{Deserialize, Serialize};

/// Whether ESP that arrives at a UDP port of this host gets to the kernel's IPsec.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EncapSocket {
    /// The port.
    pub port: u16,
    /// Whether it does.
    pub answers: Answers,
    /// Whether a socket has the port at which packets of the peers would come to it.
    pub is_bound: bool,
}

impl EncapSocket {
    /// The datagrams of a look. The kernel counts each as `XfrmInNoStates` if the socket takes it.
    /// One that others send at the same time must not pass for an answer.
    pub const DATAGRAMS: u64 = 3;
}

/// The result of sending ESP to oneself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Answers {
    /// The kernel's IPsec got it.
    Yes,
    /// It did not.
    No,
    /// The kernel does not tell, or the process may not send.
    Unknown,
}

impl Answers {
    /// Its name in JSON and for people.
    pub fn word(self) -> &'static str {
        match self {
            Self::Yes => "yes",
            Self::No => "no",
            Self::Unknown => "unknown",
        }
    }
}
