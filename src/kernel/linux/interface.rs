//! XFRM interfaces, by rtnetlink.
//!
//! The kernel sets sysctls and the making of link-local addresses only of a device that is there
//! already (`rtnl_newlink` ignores `IFLA_AF_SPEC`), and a device that goes up makes its address before
//! the same request says that it makes none (`do_setlink`). So a new interface takes three requests,
//! and is down until the last.

use netlink_packet_core::DefaultNla;
use rtnetlink::{
    Handle, LinkUnspec, LinkXfrm,
    packet_route::link::{
        AfSpecInet, AfSpecInet6, AfSpecUnspec, In6AddrGenMode, InfoData, InfoKind, InfoXfrm,
        LinkAttribute, LinkFlags, LinkInfo, LinkMessage,
    },
};

use super::link::{self, Devices};
use crate::{
    kernel::{Errno, KernelError, rules},
    model::{Interface, InterfaceStep, ObjectStep},
};

/// `IFLA_INET_CONF`, as a list of attributes, and the number of disable_xfrm in it
/// (`IPV4_DEVCONF_NOXFRM`).
const INET_CONF: u16 = 1 | 1 << 15;
const DISABLE_XFRM: u16 = 15;

/// The XFRM interface that a message describes, if it describes one with a number.
#[allow(clippy::wildcard_enum_match_arm, reason = "rtnetlink has more attributes than are used")]
pub(super) fn decoded(message: &LinkMessage) -> Option<Interface> {
    let (mut name, mut mtu, mut if_id) = (None, None, None);
    // A device without IPv6 makes no addresses.
    let (mut makes_addresses, mut skips_policies) = (false, false);
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::IfName(text) => name = Some(text.clone()),
            LinkAttribute::Mtu(bytes) => mtu = Some(*bytes),
            LinkAttribute::LinkInfo(info) => if_id = number(info),
            LinkAttribute::AfSpecUnspec(families) => {
                makes_addresses = addr_gen_mode(families)
                    .is_some_and(|mode| !matches!(mode, In6AddrGenMode::None));
                skips_policies = families.iter().any(disables_xfrm);
            }
            _ => {}
        }
    }
    let up = message.header.flags.contains(LinkFlags::Up);
    let (name, if_id, mtu) = (name?, if_id.filter(|if_id| *if_id != 0)?, mtu?);
    Some(Interface { name, if_id, mtu, up, makes_addresses, skips_policies })
}

fn number(info: &[LinkInfo]) -> Option<u32> {
    let is_xfrm = info.iter().any(|info| matches!(info, LinkInfo::Kind(InfoKind::Xfrm)));
    let data = info.iter().find_map(|info| {
        if let LinkInfo::Data(InfoData::Xfrm(data)) = info { Some(data) } else { None }
    });
    data.filter(|_| is_xfrm)?
        .iter()
        .find_map(|info| if let InfoXfrm::IfId(if_id) = info { Some(*if_id) } else { None })
}

fn addr_gen_mode(families: &[AfSpecUnspec]) -> Option<In6AddrGenMode> {
    let inet6 = families.iter().find_map(|family| {
        if let AfSpecUnspec::Inet6(inet6) = family { Some(inet6) } else { None }
    });
    inet6?
        .iter()
        .find_map(|part| if let AfSpecInet6::AddrGenMode(mode) = part { Some(*mode) } else { None })
}

fn disables_xfrm(family: &AfSpecUnspec) -> bool {
    let AfSpecUnspec::Inet(inet) = family else { return false };
    inet.iter().any(|part| matches!(part, AfSpecInet::DevConf(conf) if conf.noxfrm != 0))
}

/// Performs a step.
pub(super) fn perform(step: &InterfaceStep) -> Result<(), KernelError> {
    match step {
        InterfaceStep::Add(interface) => {
            let Interface { name, if_id, mtu, .. } = interface;
            let message = rtnetlink::LinkMessageBuilder::<LinkXfrm>::new(name)
                .if_id(*if_id)
                .mtu(*mtu)
                .build();
            change(step, async move |handle| handle.link().add(message).execute().await)?;
            set(step, interface)
        }
        InterfaceStep::Set(interface) => set(step, interface),
        InterfaceStep::Delete { name, if_id } => {
            let Some((index, _)) = found(step, name, *if_id)? else { return Ok(()) };
            let gone = async move |handle: Handle| handle.link().del(index).execute().await;
            match change(step, gone) {
                Err(KernelError::Refused { errno: Errno::ENODEV, .. }) => Ok(()),
                answer => answer,
            }
        }
    }
}

/// Gives an interface all of its attributes. Whether it is up comes last.
fn set(step: &InterfaceStep, interface: &Interface) -> Result<(), KernelError> {
    let Some((index, live)) = found(step, &interface.name, interface.if_id)? else {
        return Err(KernelError::Refused {
            doing: step.attempt(),
            errno: Errno::ENODEV,
            detail: rules::interface_refused(Errno::ENODEV),
        });
    };
    let skips = u32::from(interface.skips_policies).to_ne_bytes();
    let mut families = vec![AfSpecUnspec::Inet(vec![AfSpecInet::Other(DefaultNla::new(
        INET_CONF,
        [&8u16.to_ne_bytes()[..], &DISABLE_XFRM.to_ne_bytes(), &skips].concat(),
    ))])];
    if live != interface.makes_addresses {
        let mode = match interface.makes_addresses {
            true => In6AddrGenMode::Eui64,
            false => In6AddrGenMode::None,
        };
        families.push(AfSpecUnspec::Inet6(vec![AfSpecInet6::AddrGenMode(mode)]));
    }
    let message = LinkUnspec::new_with_index(index)
        .mtu(interface.mtu)
        .append_extra_attribute(LinkAttribute::AfSpecUnspec(families))
        .build();
    change(step, async move |handle| handle.link().change(message).execute().await)?;
    let message = LinkUnspec::new_with_index(index);
    let message = if interface.up { message.up() } else { message.down() }.build();
    change(step, async move |handle| handle.link().change(message).execute().await)
}

/// The index of an interface of this name and number, and whether it makes addresses.
fn found(step: &InterfaceStep, name: &str, if_id: u32) -> Result<Option<(u32, bool)>, KernelError> {
    let devices = Devices::observe().map_err(|error| KernelError::System {
        cause: crate::kernel::SystemCause::Other,
        doing: step.attempt(),
        reason: error.to_string(),
    })?;
    let is_it = |interface: &&Interface| interface.name == name && interface.if_id == if_id;
    let interface = devices.interfaces.iter().find(is_it);
    Ok(interface.and_then(|it| Some((devices.index(name)?, it.makes_addresses))))
}

fn change<F>(step: &InterfaceStep, question: impl FnOnce(Handle) -> F) -> Result<(), KernelError>
where
    F: Future<Output = Result<(), rtnetlink::Error>>,
{
    link::change(step.attempt(), rules::interface_refused, question)
}
