//! `XFRM_MSG_NEWPOLICY` to [`Policy`].

use netlink_packet_xfrm::{
    UserPolicyInfo, UserTemplate, XFRM_USER_POLICY_INFO_LEN, XfrmAttrs, constants as xfrm,
};

use crate::{
    kernel::KernelError,
    model::{Action, Direction, Level, Mark, Policy, PolicyId, Reqid, Spi, Template},
};

use super::{
    super::wire::garbled, Extras, Family, attributes, flags, lifetimes, mode, selector,
    undecodable, unknown,
};

/// The kernel counts indexes up from small numbers (`idx_generator`).
const OWN_INDEX: u32 = 1 << 31;
const FLAGS: &[(u32, &str)] = &[(1, "localok"), (2, "icmp"), (4, "cpu-acquire")];

/// The directions of policies of single sockets, which come after `XFRM_POLICY_MAX`.
const IN_OF_SOCKET: u8 = 3;
const OUT_OF_SOCKET: u8 = 4;

/// The packets that a policy applies to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Owner {
    /// All packets of the network namespace.
    Host,
    /// Packets of one socket (`IP_XFRM_POLICY`). Such a policy comes before all others.
    Socket,
}

/// Decodes a policy, and tells whether it belongs to a single socket.
///
/// # Errors
///
/// [`KernelError::Garbled`] for a message that is too short, or an attribute
/// that is not as long as its type says.
pub(crate) fn policy(payload: &[u8]) -> Result<(Policy, Owner), KernelError> {
    let info = UserPolicyInfo::parse(payload).map_err(undecodable)?;
    let behind = attributes(&payload[XFRM_USER_POLICY_INFO_LEN..])?;
    let (direction, owner) = match info.direction {
        xfrm::XFRM_POLICY_IN => (Direction::In, Owner::Host),
        xfrm::XFRM_POLICY_OUT => (Direction::Out, Owner::Host),
        xfrm::XFRM_POLICY_FWD => (Direction::Fwd, Owner::Host),
        IN_OF_SOCKET => (Direction::In, Owner::Socket),
        OUT_OF_SOCKET => (Direction::Out, Owner::Socket),
        other => return Err(garbled(format!("policy direction {other}"))),
    };
    let Some(selector) = selector(&info.selector)? else {
        return Err(garbled("a policy without an address family"));
    };
    let mut policy = Policy {
        id: PolicyId::new(direction, selector),
        priority: info.priority,
        action: action(info.action)?,
        index: (info.index & OWN_INDEX != 0).then_some(info.index),
        templates: Vec::new(),
        extras: Extras::new(),
    };
    lifetimes(&info.lifetime_cfg, &mut policy.extras);
    flags(info.flags.into(), FLAGS, "flags", &mut policy.extras);
    share(info.share, "", &mut policy.extras);
    let family = Family::of(info.selector.family)?;
    for attribute in &behind {
        take(&mut policy, attribute, family)?;
    }
    Ok((policy, owner))
}

fn action(number: u8) -> Result<Action, KernelError> {
    match number {
        xfrm::XFRM_POLICY_ALLOW => Ok(Action::Allow),
        xfrm::XFRM_POLICY_BLOCK => Ok(Action::Block),
        other => Err(garbled(format!("policy action {other}"))),
    }
}

#[allow(
    clippy::wildcard_enum_match_arm,
    reason = "a crate adds attributes; others are kept as text"
)]
fn take(policy: &mut Policy, attribute: &XfrmAttrs, family: Family) -> Result<(), KernelError> {
    let extras = &mut policy.extras;
    match attribute {
        XfrmAttrs::Template(templates) => {
            for (index, raw) in templates.iter().enumerate() {
                policy.templates.push(template(raw, index, family, extras)?);
            }
        }
        XfrmAttrs::Mark(mark) => policy.id.mark = Mark { value: mark.value, mask: mark.mask },
        XfrmAttrs::IfId(id) => policy.id.if_id = *id,
        XfrmAttrs::PolicyType(kind) => match kind.ptype {
            xfrm::XFRM_POLICY_TYPE_MAIN => {}
            xfrm::XFRM_POLICY_TYPE_SUB => policy.id.sub = true,
            other => _ = extras.insert(format!("ptype {other}")),
        },
        XfrmAttrs::Pad() | XfrmAttrs::Unspec(_) | XfrmAttrs::LastUsed(_) => {}
        XfrmAttrs::SecurityContext(_) => _ = extras.insert("security context".into()),
        XfrmAttrs::OffloadDevice(offload) => {
            let (index, flags) = (offload.ifindex, offload.flags);
            extras.insert(format!("offload dev index {index} flags {flags:#x}"));
        }
        other => _ = extras.insert(unknown(other)),
    }
    Ok(())
}

/// A template. Unusual settings that have no field go to the policy's extras.
fn template(
    raw: &UserTemplate,
    index: usize,
    family: Family,
    extras: &mut Extras,
) -> Result<Template, KernelError> {
    // A template without a family has the policy's (validate_tmpl).
    let family = if raw.family == xfrm::AF_UNSPEC { family } else { Family::of(raw.family)? };
    share(raw.share, &format!("template {index} "), extras);
    for (name, mask) in [("auth", raw.aalgos), ("enc", raw.ealgos), ("comp", raw.calgos)] {
        if mask != u32::MAX {
            extras.insert(format!("template {index} {name}-algos {mask:#x}"));
        }
    }
    Ok(Template {
        src: family.address(&raw.saddr),
        dst: family.address(&raw.id.daddr),
        proto: raw.id.proto,
        spi: Spi::from_raw(raw.id.spi),
        reqid: Reqid(raw.reqid),
        mode: mode(raw.mode),
        level: if raw.optional == 0 { Level::Required } else { Level::Use },
    })
}

fn share(number: u8, whose: &str, extras: &mut Extras) {
    let name = match number {
        xfrm::XFRM_SHARE_ANY => return,
        xfrm::XFRM_SHARE_SESSION => "session".into(),
        xfrm::XFRM_SHARE_USER => "user".into(),
        xfrm::XFRM_SHARE_UNIQUE => "unique".into(),
        other => other.to_string(),
    };
    extras.insert(format!("{whose}share {name}"));
}
