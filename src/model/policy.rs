//! Security policies.

use std::{collections::BTreeSet, fmt, net::IpAddr};

use serde::{Deserialize, Serialize};

use super::{IPPROTO_ESP, Mark, Mode, Reqid, Selector, Spi};

/// Which packets a policy is asked about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Direction {
    /// Arriving for this host.
    In,
    /// Leaving this host.
    Out,
    /// Passing through it.
    Fwd,
}

impl fmt::Display for Direction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::In => "in",
            Self::Out => "out",
            Self::Fwd => "fwd",
        })
    }
}

/// What the kernel tells policies apart by. The priority is not part of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PolicyId {
    /// In, out or forward.
    pub direction: Direction,
    /// Which packets.
    pub selector: Selector,
    /// A mark that packets must carry; ours have none.
    #[serde(default, skip_serializing_if = "Mark::is_none")]
    pub mark: Mark,
    /// An XFRM interface; ours have none, which is 0.
    #[serde(default)]
    pub if_id: u32,
    /// Whether it is in the table of sub policies, where ours never are.
    #[serde(default)]
    pub sub: bool,
}

impl PolicyId {
    /// A policy without mark and interface, as all of ours are.
    pub fn new(direction: Direction, selector: Selector) -> Self {
        Self { direction, selector, mark: Mark::NONE, if_id: 0, sub: false }
    }
}

impl fmt::Display for PolicyId {
    /// In the words of `ip xfrm policy get`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} dir {}", self.selector, self.direction)?;
        if self.sub {
            f.write_str(" ptype sub")?;
        }
        if !self.mark.is_none() {
            write!(f, " mark {}", self.mark)?;
        }
        if self.if_id != 0 {
            write!(f, " if_id {:#x}", self.if_id)?;
        }
        Ok(())
    }
}

/// What a policy says of its packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// Let them pass, transformed as the templates say.
    Allow,
    /// Drop them.
    Block,
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Allow => "allow",
            Self::Block => "block",
        })
    }
}

/// Whether a template may be left out where no SA is at hand.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    /// No SA, no packet.
    Required,
    /// No SA: the packet passes in clear.
    Use,
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Required => "required",
            Self::Use => "use",
        })
    }
}

/// A transformation that a policy asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Template {
    /// The SA's source; not looked at in transport mode.
    pub src: IpAddr,
    /// The SA's destination; not looked at in transport mode.
    pub dst: IpAddr,
    /// The IPsec protocol.
    pub proto: u8,
    /// The SA's SPI, or 0 for any.
    pub spi: Spi,
    /// The SA's reqid, or 0 for any.
    pub reqid: Reqid,
    /// The SA's mode.
    pub mode: Mode,
    /// Whether it may be left out.
    pub level: Level,
}

impl Template {
    /// An ESP template in transport mode that can't be left out.
    pub fn transport(src: IpAddr, dst: IpAddr, spi: Spi, reqid: Reqid) -> Self {
        let (mode, level) = (Mode::Transport, Level::Required);
        Self { src, dst, proto: IPPROTO_ESP, spi, reqid, mode, level }
    }
}

impl fmt::Display for Template {
    /// In the words of `ip xfrm`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "src {} dst {} proto ", self.src, self.dst)?;
        match self.proto {
            IPPROTO_ESP => f.write_str("esp")?,
            proto => write!(f, "{proto}")?,
        }
        if self.spi.raw() != 0 {
            write!(f, " spi {}", self.spi)?;
        }
        write!(f, " reqid {} mode {}", self.reqid, self.mode)?;
        match self.level {
            Level::Required => Ok(()),
            Level::Use => f.write_str(" level use"),
        }
    }
}

/// A security policy, as much of it as is configuration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Policy {
    /// What tells it apart.
    pub id: PolicyId,
    /// The smaller number wins.
    pub priority: u32,
    /// Allow or block.
    pub action: Action,
    /// The transformations asked for; an SA has to match each required one.
    pub templates: Vec<Template>,
    /// Names and values of attributes that this type can't express. Ours have none.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub extras: BTreeSet<String>,
}

impl Policy {
    /// Whether the mesh with this reqid owns it: one of its templates has the
    /// reqid, or it is a guard, whose priority is the reqid.
    pub fn belongs_to(&self, reqid: Reqid) -> bool {
        self.is_guard_of(reqid) || self.templates.iter().any(|template| template.reqid == reqid)
    }

    /// Whether it is a guard of the mesh with this reqid, edited or not.
    pub fn is_guard_of(&self, reqid: Reqid) -> bool {
        self.priority == reqid.0
    }

    /// Whether packets that match may pass as they are.
    pub fn lets_clear_text_pass(&self) -> bool {
        self.action == Action::Allow
            && self.templates.iter().all(|template| template.level == Level::Use)
    }
}
