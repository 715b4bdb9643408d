//! The model's types to the kernel's requests.
//!
//! Fields have the values that iproute2 sends for the same object, so that the output of `ip xfrm`
//! looks familiar. For [`super::perform`] only, which has checked with [`crate::kernel::rules`]
//! that nothing gets lost here.

use netlink_packet_core::{DefaultNla, Emitable};
use netlink_packet_xfrm::{
    Address, AlgAead, EncapTmpl, LifetimeConfig, Mark as XfrmMark, Replay as ReplayState,
    ReplayEsn, Selector as XfrmSelector, UserOffloadDev, UserPolicyId, UserPolicyInfo,
    UserPolicyType, UserSaId, UserSaInfo, UserTemplate, XfrmAttrs, constants as xfrm, policy,
    state,
};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use zeroize::{Zeroize, Zeroizing};

use crate::{
    kernel::rules::{InitialValues, MAX_LEGACY_WINDOW, MAX_WINDOW},
    model::{
        Action, Algorithm, Direction, Encap, Key, Level, Mark, Mode, Offload, Policy, PolicyId,
        Replay, Sa, SaId, Selector, Template,
    },
};

use super::wire::{
    DIRECTION, DIRECTION_OUT, NAT_KEEPALIVE, OFFLOAD_INBOUND, OFFLOAD_IPV6, Request,
};

/// Adds an SA; `EEXIST` where an SA has its identity.
pub(super) fn new_sa(sa: &Sa, key: &Key, begin: InitialValues) -> Request {
    modify_sa(xfrm::XFRM_MSG_NEWSA, sa, key, begin)
}

/// Replaces a larval SA. For a live SA the kernel changes lifetimes and nothing else, and still
/// reports success (`xfrm_state_update`).
pub(super) fn update_sa(sa: &Sa, key: &Key, begin: InitialValues) -> Request {
    modify_sa(xfrm::XFRM_MSG_UPDSA, sa, key, begin)
}

/// Deletes an SA.
pub(super) fn delete_sa(id: &SaId) -> Request {
    request(xfrm::XFRM_MSG_DELSA, &sa_id(id))
}

/// Asks for an SA.
pub(super) fn get_sa(id: &SaId) -> Request {
    request(xfrm::XFRM_MSG_GETSA, &sa_id(id))
}

/// Adds a policy; `EEXIST` where a policy has its identity, so that a foreign policy is never taken
/// over.
pub(super) fn new_policy(policy: &Policy) -> Request {
    request(xfrm::XFRM_MSG_NEWPOLICY, &policy_message(policy))
}

/// Replaces a policy, or adds it where there is none.
pub(super) fn update_policy(policy: &Policy) -> Request {
    request(xfrm::XFRM_MSG_UPDPOLICY, &policy_message(policy))
}

/// Deletes a policy.
pub(super) fn delete_policy(id: &PolicyId) -> Request {
    request(xfrm::XFRM_MSG_DELPOLICY, &policy_id(id))
}

/// Asks for a policy.
pub(super) fn get_policy(id: &PolicyId) -> Request {
    request(xfrm::XFRM_MSG_GETPOLICY, &policy_id(id))
}

fn request(kind: u16, message: &impl Emitable) -> Request {
    let mut body = Zeroizing::new(vec![0; message.buffer_len()]);
    message.emit(&mut body);
    Request { kind, body, joined: false, acknowledged: true }
}

fn modify_sa(kind: u16, sa: &Sa, key: &Key, begin: InitialValues) -> Request {
    let mut message = sa_message(sa, key, begin);
    let request = request(kind, &message);
    for attribute in &mut message.nlas {
        if let XfrmAttrs::EncryptionAlgAead(aead) = attribute {
            aead.alg_key.zeroize();
        }
    }
    request
}

fn sa_message(sa: &Sa, key: &Key, begin: InitialValues) -> state::ModifyMessage {
    let mut flags = if sa.replay.esn { xfrm::XFRM_STATE_ESN } else { 0 };
    if sa.selector.is_none() {
        // Without the flag the kernel makes the selector 0/0 to 0/0 of the SA's family.
        flags |= xfrm::XFRM_STATE_AF_UNSPEC;
    }
    let mut info = UserSaInfo {
        selector: sa.selector.as_ref().map(selector).unwrap_or_default(),
        lifetime_cfg: LifetimeConfig {
            hard_add_expires_seconds: begin.lifetime,
            ..LifetimeConfig::default()
        },
        reqid: sa.reqid.0,
        mode: mode(sa.mode),
        flags,
        ..UserSaInfo::default()
    };
    info.source(&sa.src);
    info.destination(&sa.id.dst);
    info.id.spi = sa.id.spi.raw();
    info.id.proto = sa.id.proto;
    let mut nlas = Vec::from_iter(aead(&sa.algorithm, key));
    if needs_attribute(sa.replay) {
        nlas.push(replay_esn(sa.replay, begin));
    } else {
        info.replay_window = sa.replay.window as u8;
        nlas.extend(legacy_numbers(begin));
    }
    nlas.extend(sa.offload.as_ref().map(|to| offload(to, sa.id.dst.is_ipv4(), begin.device)));
    nlas.extend(sa.encap.map(|ports| encap(ports, &sa.id.dst)));
    nlas.extend(sa.keepalive.into_iter().flat_map(keepalive));
    nlas.extend(interface(sa.if_id));
    state::ModifyMessage { user_sa_info: info, nlas }
}

/// A NAT keepalive, and the direction without which the kernel refuses one. A kernel without them
/// ignores both attributes.
fn keepalive(seconds: u32) -> [XfrmAttrs; 2] {
    [
        XfrmAttrs::Other(DefaultNla::new(DIRECTION, vec![DIRECTION_OUT])),
        XfrmAttrs::Other(DefaultNla::new(NAT_KEEPALIVE, seconds.to_ne_bytes().to_vec())),
    ]
}

/// `struct xfrm_encap_tmpl`, without an original address.
fn encap(ports: Encap, destination: &IpAddr) -> XfrmAttrs {
    let unspecified = match destination {
        IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    };
    XfrmAttrs::EncapsulationTemplate(EncapTmpl {
        encap_type: xfrm::UDP_ENCAP_ESPINUDP,
        encap_sport: ports.sport,
        encap_dport: ports.dport,
        encap_oa: Address::from_ip(&unspecified),
    })
}

/// `struct xfrm_user_offload`.
fn offload(to: &Offload, ipv4: bool, device: u32) -> XfrmAttrs {
    let ipv6 = if ipv4 { 0 } else { OFFLOAD_IPV6 };
    let inbound = if to.inbound { OFFLOAD_INBOUND } else { 0 };
    let flags = ipv6 | inbound;
    XfrmAttrs::OffloadDevice(UserOffloadDev { ifindex: device as i32, flags })
}

fn aead(algorithm: &Algorithm, key: &Key) -> Option<XfrmAttrs> {
    let Algorithm::Aead { name, key_bits, icv_bits } = algorithm else { return None };
    let mut alg_name = [0; 64];
    for (to, from) in alg_name.iter_mut().zip(name.bytes()) {
        *to = from;
    }
    Some(XfrmAttrs::EncryptionAlgAead(AlgAead {
        alg_name,
        alg_key_len: *key_bits,
        alg_icv_len: *icv_bits,
        alg_key: key.expose().to_vec(),
    }))
}

/// Whether the replay settings don't fit the legacy field. The field and the attribute exclude each
/// other (`verify_replay`).
fn needs_attribute(replay: Replay) -> bool {
    replay.esn || replay.window > MAX_LEGACY_WINDOW
}

/// Window and numbers. All of the window before `received` counts as received.
fn replay_esn(replay: Replay, begin: InitialValues) -> XfrmAttrs {
    let words = replay.window.div_ceil(32);
    // The kernel refuses a window that is too large, and needs no bitmap for that.
    let sent = words.min(MAX_WINDOW / 32 + 1) as usize;
    let (low, high) = (|number: u64| number as u32, |number: u64| (number >> 32) as u32);
    XfrmAttrs::ReplayStateEsn(ReplayEsn {
        bmp_len: words,
        oseq: low(begin.sent),
        oseq_hi: high(begin.sent),
        seq: low(begin.received),
        seq_hi: high(begin.received),
        replay_window: replay.window,
        bmp: vec![received_before(begin); sent],
    })
}

/// Numbers of an SA with its window in the legacy field; nothing where they are 0.
fn legacy_numbers(begin: InitialValues) -> Option<XfrmAttrs> {
    let numbers = ReplayState {
        oseq: begin.sent as u32,
        seq: begin.received as u32,
        bitmap: received_before(begin),
    };
    (numbers != ReplayState::default()).then_some(XfrmAttrs::ReplayState(numbers))
}

/// Thirty-two packets of the window.
fn received_before(begin: InitialValues) -> u32 {
    if begin.received == 0 { 0 } else { u32::MAX }
}

fn sa_id(id: &SaId) -> state::DelGetMessage {
    let mut user_sa_id = UserSaId { spi: id.spi.raw(), proto: id.proto, ..UserSaId::default() };
    user_sa_id.destination(&id.dst);
    state::DelGetMessage { user_sa_id, nlas: Vec::from_iter(mark(id.mark)) }
}

fn policy_message(policy: &Policy) -> policy::ModifyMessage {
    let user_policy_info = UserPolicyInfo {
        selector: selector(&policy.id.selector),
        lifetime_cfg: LifetimeConfig::default(),
        priority: policy.priority,
        index: policy.index.unwrap_or_default(),
        direction: direction(policy.id.direction),
        action: match policy.action {
            Action::Allow => xfrm::XFRM_POLICY_ALLOW,
            Action::Block => xfrm::XFRM_POLICY_BLOCK,
        },
        ..UserPolicyInfo::default()
    };
    let mut nlas = Vec::new();
    if !policy.templates.is_empty() {
        nlas.push(XfrmAttrs::Template(policy.templates.iter().map(template).collect()));
    }
    nlas.extend(identity(&policy.id));
    policy::ModifyMessage { user_policy_info, nlas }
}

fn policy_id(id: &PolicyId) -> policy::DelGetMessage {
    let user_policy_id = UserPolicyId {
        selector: selector(&id.selector),
        index: 0,
        direction: direction(id.direction),
    };
    policy::DelGetMessage { user_policy_id, nlas: identity(id).collect() }
}

/// The parts of a policy's identity that are attributes.
fn identity(id: &PolicyId) -> impl Iterator<Item = XfrmAttrs> {
    let sub = id.sub.then(|| {
        let ptype = xfrm::XFRM_POLICY_TYPE_SUB;
        XfrmAttrs::PolicyType(UserPolicyType { ptype, ..UserPolicyType::default() })
    });
    mark(id.mark).into_iter().chain(interface(id.if_id)).chain(sub)
}

/// The number of an XFRM interface, if there is one.
fn interface(if_id: u32) -> Option<XfrmAttrs> {
    (if_id != 0).then_some(XfrmAttrs::IfId(if_id))
}

fn mark(mark: Mark) -> Option<XfrmAttrs> {
    let Mark { value, mask } = mark;
    (!mark.is_none()).then_some(XfrmAttrs::Mark(XfrmMark { value, mask }))
}

fn template(template: &Template) -> UserTemplate {
    // The masks of algorithms are all ones by default: any will do.
    let mut raw = UserTemplate {
        reqid: template.reqid.0,
        mode: mode(template.mode),
        optional: u8::from(template.level == Level::Use),
        ..UserTemplate::default()
    };
    raw.source(&template.src);
    raw.destination(&template.dst);
    raw.id.spi = template.spi.raw();
    raw.id.proto = template.proto;
    raw
}

/// Both addresses with their lengths as given; the crate's own setters turn 0.0.0.0/8 into
/// 0.0.0.0/0.
fn selector(selector: &Selector) -> XfrmSelector {
    XfrmSelector {
        saddr: Address::from_ip(&selector.src.address),
        daddr: Address::from_ip(&selector.dst.address),
        sport: selector.sport.port,
        sport_mask: selector.sport.mask,
        dport: selector.dport.port,
        dport_mask: selector.dport.mask,
        family: family(&selector.dst.address),
        prefixlen_s: selector.src.length,
        prefixlen_d: selector.dst.length,
        proto: selector.proto,
        ifindex: selector.ifindex,
        user: selector.user,
    }
}

fn family(address: &IpAddr) -> u16 {
    if address.is_ipv4() { xfrm::AF_INET } else { xfrm::AF_INET6 }
}

fn mode(mode: Mode) -> u8 {
    match mode {
        Mode::Transport => xfrm::XFRM_MODE_TRANSPORT,
        Mode::Tunnel => xfrm::XFRM_MODE_TUNNEL,
        Mode::Other(number) => number,
    }
}

fn direction(direction: Direction) -> u8 {
    match direction {
        Direction::In => xfrm::XFRM_POLICY_IN,
        Direction::Out => xfrm::XFRM_POLICY_OUT,
        Direction::Fwd => xfrm::XFRM_POLICY_FWD,
    }
}
