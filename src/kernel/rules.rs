//! Texts and decisions that both kernels share.
//!
//! For [`super::linux`] and [`super::memory`] only. Here are the texts of refusals, and the rules
//! of meshsec itself, not of the kernel.

use crate::model::{
    Algorithm, CHAIN_PREFIX, ChainId, ChainStep, FibAction, FibEntry, Key, KeyView, ObjectStep,
    Passage, Policy, PolicyStep, Reqid, RouteStep, Rule, Sa, SaStep, Start, Time, Usage,
};

use super::{Errno, KernelError, SystemCause};

/// The largest replay window that the kernel takes (`XFRMA_REPLAY_ESN_MAX`).
pub(super) const MAX_WINDOW: u32 = 4096;
/// The largest number of templates of a policy (`XFRM_MAX_DEPTH`).
pub(super) const MAX_TEMPLATES: usize = 6;
/// The largest legacy window, and the largest without an attribute of its own.
pub(super) const MAX_LEGACY_WINDOW: u32 = 32;

/// The meaning of an `EEXIST` for an SA, by the SA that is there now.
pub(super) fn sa_exists(found: Option<&Sa>, reqid: Reqid) -> String {
    match found {
        Some(found) if found.reqid == reqid => {
            "an SA of this mesh has this destination and SPI already; plan again".into()
        }
        _ => {
            "a foreign SA has this destination and SPI; see CONFLICTS in meshsec-troubleshooting(7)"
                .into()
        }
    }
}

/// The meaning of an `EEXIST` for a policy.
pub(super) fn policy_exists() -> String {
    "a policy with this selector and direction exists; see CONFLICTS in meshsec-troubleshooting(7)"
        .into()
}

/// Whether an SA in the way is a placeholder that the mesh's SA may replace.
///
/// The kernel makes one, with the template's reqid, for a packet that meets a policy without its SA
/// (`xfrm_state_find`).
pub(super) fn may_take_over(found: &Sa, wanted: &Sa) -> bool {
    found.is_larval() && found.reqid == wanted.reqid
}

/// Whether a policy that exists may be replaced by this one: the mesh of one owns the other.
pub(super) fn may_update(found: &Policy, wanted: &Policy) -> bool {
    if wanted.index.is_some() {
        return found.index == wanted.index;
    }
    // Its identity holds a hash that only its own mesh gives it.
    if let Some(Passage::Encap | Passage::Exception) = wanted.passage() {
        // An exception that ends has a peer's templates for a while.
        return found.id == wanted.id
            && (found.passage() == wanted.passage() || !found.templates.is_empty());
    }
    if wanted.templates.is_empty() {
        return found.belongs_to(Reqid(wanted.priority));
    }
    wanted.templates.iter().any(|template| found.belongs_to(template.reqid))
}

/// The meaning of the absence of the device that `[esp] offload` names.
pub(super) fn no_offload_device() -> String {
    "[esp] offload names a device that is not there".into()
}

/// The meaning of the errors of setting an MTU, and the remedy.
pub(super) fn mtu_refused(errno: Errno) -> Option<String> {
    match errno {
        Errno::ENODEV => Some("there is no such device any more; plan again".into()),
        Errno::EINVAL => Some(
            "the device does not take it: a tunnel's MTU is limited by that of its lower device, \
             which `ip -d link` shows"
                .into(),
        ),
        _ => None,
    }
}

/// The meaning of the errors of changing an XFRM interface, and the remedy.
pub(super) fn interface_refused(errno: Errno) -> Option<String> {
    match errno {
        Errno::EEXIST => Some(
            "a device of this name, or an XFRM interface of this number, is there already; \
             `ip -d link show type xfrm` lists them"
                .into(),
        ),
        Errno::ENODEV => {
            Some("there is no such interface any more, or it has another number; plan again".into())
        }
        Errno::EINVAL => Some("the kernel takes no interface with the number 0".into()),
        Errno::EOPNOTSUPP => Some(
            "the kernel has no XFRM interfaces (CONFIG_XFRM_INTERFACE, module xfrm_interface)"
                .into(),
        ),
        _ => None,
    }
}

/// The meaning of the errors of changing an address, and the remedy.
pub(super) fn address_refused(errno: Errno) -> Option<String> {
    match errno {
        Errno::EEXIST => Some("the device has it already; plan again".into()),
        Errno::ENODEV => Some("there is no such device any more; plan again".into()),
        _ => None,
    }
}

/// The meaning of the errors of changing a route, and the remedy.
pub(super) fn route_refused(errno: Errno) -> Option<String> {
    match errno {
        Errno::EEXIST => Some(
            "a route for this prefix with this metric is there already; `ip route show` and \
             `ip -6 route show` list them"
                .into(),
        ),
        Errno::ENODEV => Some("there is no such device any more; plan again".into()),
        Errno::ENETDOWN => Some("its device is down; plan again".into()),
        Errno::EINVAL => Some("the kernel does not take it as its source is not here".into()),
        _ => None,
    }
}

/// Refuses an entry that no mesh can have.
///
/// # Errors
///
/// `EINVAL` for an entry of another program, with several devices, or with an action that no step
/// can express.
pub(super) fn check_route(entry: &FibEntry, step: &RouteStep) -> Result<(), KernelError> {
    let is_known = match &entry.action {
        FibAction::Devices(devices) => devices.len() == 1,
        FibAction::Blackhole => true,
        FibAction::Other(_) => false,
    };
    match entry.protocol == FibEntry::PROTOCOL && entry.metric != 0 && is_known {
        true => Ok(()),
        false => Err(invalid(step, "only routes of a mesh can be added or deleted")),
    }
}

/// Refuses an SA that can't be asked for as given, before the kernel sees it.
///
/// # Errors
///
/// `EINVAL` for attributes that no step ever has, or a key of a wrong length.
pub(super) fn check_sa(sa: &Sa, key: &Key, step: &SaStep) -> Result<(), KernelError> {
    let Algorithm::Aead { name, key_bits, .. } = &sa.algorithm else {
        return Err(invalid(step, "only AEAD transforms can be added"));
    };
    if name.len() > 63 {
        return Err(invalid(step, "the transform's name is longer than 63 bytes"));
    }
    if key.expose().len() * 8 != *key_bits as usize {
        let bits = key.expose().len() * 8;
        return Err(invalid(step, &format!("the key has {bits} bits, {name} takes {key_bits}")));
    }
    if sa.keepalive.is_some() && (sa.encap.is_none() || sa.replay.window > 0) {
        return Err(invalid(step, "an SA with keepalives is in UDP, and has no replay window"));
    }
    if !sa.extras.is_empty() || !sa.id.mark.is_none() {
        return Err(invalid(step, "an SA with a mark or other extras can't be added"));
    }
    Ok(())
}

/// The initial values of a new SA, as of the moment when its request is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct InitialValues {
    /// The sequence number before the first that it sends.
    pub sent: u64,
    /// The sequence number up to which it refuses all; 0 refuses none.
    pub received: u64,
    /// Seconds until it expires; 0 is never.
    pub lifetime: u64,
    /// The index of the device that it is offloaded to, if it is.
    pub device: u32,
}

/// The distance that a replacing SA skips ahead in sequence numbers: more than the old SA sends
/// between the look at it and its delete.
const AHEAD: u64 = 1 << 20;

/// Computes the initial values of an SA at `now`. `old` is the usage of the SA that it replaces, if
/// that SA has the same key.
///
/// # Errors
///
/// [`KernelError::System`] if the clock is not, or no longer, in the SA's
/// generation, or its end has passed.
pub(super) fn begin(
    step: &SaStep,
    sa: &Sa,
    start: Start,
    old: Option<&Usage>,
    now: Time,
) -> Result<InitialValues, KernelError> {
    let late = |reason: String| KernelError::System {
        cause: SystemCause::GenerationOver,
        doing: step.attempt(),
        reason,
    };
    let seed = match start {
        Start::Fresh | Start::Resume { .. } => 0,
        Start::Seed { generation, period } => period.seed(generation, now).ok_or_else(|| {
            late(format!(
                "the clock shows {} UTC, which is not in generation {generation}; plan again",
                now.utc()
            ))
        })?,
    };
    let lifetime = match sa.ends {
        None => 0,
        Some(end) if end.seconds() > now.seconds() => end.seconds() - now.seconds(),
        Some(end) => return Err(late(format!("it would have ended at {} UTC", end.utc()))),
    };
    let largest = if sa.replay.esn { u64::MAX } else { u32::MAX.into() };
    // Even without a window here: the peer may have one.
    let (last, highest) = match (old, start) {
        (Some(old), _) => (old.sent, old.received),
        (None, Start::Resume { sent, received }) => (sent, received),
        (None, _) => (0, 0),
    };
    let ahead = match last.checked_add(AHEAD) {
        Some(ahead) if last > 0 && ahead < largest => ahead,
        _ => last,
    };
    let received = if sa.replay.window > 0 { highest } else { 0 };
    Ok(InitialValues { sent: seed.max(ahead).min(largest), received, lifetime, device: 0 })
}

/// Whether an SA has the same key as its replacement, as far as is known.
pub(super) fn same_key(old: KeyView, key: &Key) -> bool {
    !old.differs(KeyView::Known(key.fingerprint()))
}

/// Refuses a policy that can't be asked for as given.
///
/// # Errors
///
/// `EINVAL` for attributes that no step ever has.
pub(super) fn check_policy(policy: &Policy, step: &PolicyStep) -> Result<(), KernelError> {
    if policy.extras.is_empty() {
        Ok(())
    } else {
        Err(invalid(step, "a policy with extras can't be added"))
    }
}

/// Refuses a chain that no mesh can have.
///
/// # Errors
///
/// `EINVAL` for another name, or for a rule that only iptables knows.
pub(super) fn check_chain(
    id: &ChainId,
    rules: &[Rule],
    step: &ChainStep,
) -> Result<(), KernelError> {
    if !id.name.starts_with(CHAIN_PREFIX) {
        return Err(invalid(step, "its name is not that of a mesh's chain"));
    }
    if rules.iter().any(|rule| matches!(rule, Rule::Other(_))) {
        return Err(invalid(step, "a rule that no mesh has can't be added"));
    }
    Ok(())
}

/// Refuses to delete a chain that rules of others lead to.
///
/// # Errors
///
/// [`KernelError::System`] with the first of these rules. It is foreign, and
/// the kernel deletes no chain that a rule leads to.
pub(super) fn check_references(references: &[String], step: &ChainStep) -> Result<(), KernelError> {
    match references.first() {
        None => Ok(()),
        Some(rule) => Err(KernelError::System {
            cause: SystemCause::ChainInUse,
            doing: step.attempt(),
            reason: format!(
                "the foreign rule `{rule}` leads to it; delete that rule, then run this again"
            ),
        }),
    }
}

/// The error that there is no program to set a chain with.
pub(super) fn no_programs(id: &ChainId, step: &ChainStep) -> KernelError {
    let (program, suffix) = (id.family.program(), id.backend.suffix());
    KernelError::System {
        cause: SystemCause::ProgramMissing,
        doing: step.attempt(),
        reason: format!("{program}-{suffix}-save and {program}-{suffix}-restore are not installed"),
    }
}

fn invalid(step: &impl ObjectStep, detail: &str) -> KernelError {
    KernelError::Refused {
        doing: step.attempt(),
        errno: Errno::EINVAL,
        detail: Some(detail.into()),
    }
}
