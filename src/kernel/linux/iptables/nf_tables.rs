//! nf_tables by `NETLINK_NETFILTER`: whether it holds a chain of a mesh, and the chains that
//! iptables does not list.
//!
//! One dump of all chains, without their rules, instead of four programs.
#![forbid(unsafe_code)]

use crate::{
    kernel::{
        Errno, KernelError,
        linux::{
            netlink::{Engine, Protocol},
            wire,
        },
    },
    model::{CHAIN_PREFIX, Family, ForeignChain},
};

/// `NFNL_SUBSYS_NFTABLES`, with `NFT_MSG_GETCHAIN` and `NFT_MSG_NEWCHAIN`
/// (linux/netfilter/nfnetlink.h, nf_tables.h).
const LIST_CHAINS: (u16, u16) = (10 << 8 | 4, 10 << 8 | 3);
/// A `struct nfgenmsg`: all families, version 0, no resource.
const ALL_FAMILIES: [u8; 4] = [0; 4];
/// `NFTA_CHAIN_NAME`: a text with a NUL at its end.
const NAME: u16 = 3;

/// Whether some chain of these families in the calling thread's network namespace has a name like
/// those of meshes. iptables-nft keeps names unchanged.
///
/// # Errors
///
/// Any doubt that all chains were seen. A kernel without nf_tables has none.
pub(super) fn has_chains_of_meshes(families: &[Family]) -> Result<bool, KernelError> {
    let numbers: Vec<u8> = families.iter().copied().map(number).collect();
    let ours = |message: &mut [u8]| {
        let is_of_them = message.first().is_some_and(|number| numbers.contains(number));
        Ok((is_of_a_mesh(message)? && is_of_them).then_some(()))
    };
    has_chains(ours)
}

/// Whether some chain is one of those that are looked for.
fn has_chains(
    decode: impl FnMut(&mut [u8]) -> Result<Option<()>, KernelError>,
) -> Result<bool, KernelError> {
    list(decode).map(|found| !found.is_empty())
}

fn list<T>(
    decode: impl FnMut(&mut [u8]) -> Result<Option<T>, KernelError>,
) -> Result<Vec<T>, KernelError> {
    let chains = || {
        let mut engine = Engine::open(Protocol::Netfilter)?;
        engine.dump(LIST_CHAINS, &ALL_FAMILIES, "chains of nf_tables", decode)
    };
    none_without_nf_tables(chains())
}

/// The chains of a kernel, none of one without nf_tables. That one refuses the socket
/// (`netlink_create`: EPROTONOSUPPORT), or the request if it has another part of nfnetlink
/// (`nfnetlink_rcv_msg`: EINVAL, once the module was asked for in vain). It gives no other message
/// EINVAL that has a `struct nfgenmsg`.
fn none_without_nf_tables<T>(listed: Result<Vec<T>, KernelError>) -> Result<Vec<T>, KernelError> {
    match listed {
        Err(KernelError::Refused { errno: Errno::EPROTONOSUPPORT | Errno::EINVAL, .. }) => {
            Ok(Vec::new())
        }
        other => other,
    }
}

/// `NFTA_CHAIN_TABLE` and `NFTA_CHAIN_TYPE`, likewise.
const TABLE: u16 = 1;
const TYPE: u16 = 7;

/// Whether some chain translates addresses in iptables-nft's table for that.
///
/// # Errors
///
/// As of [`has_chains_of_meshes`].
pub(super) fn has_nat(family: Family) -> Result<bool, KernelError> {
    has_chains(|message: &mut [u8]| Ok(is_nat(message, family)?.then_some(())))
}

/// `NFPROTO_IPV4` and `NFPROTO_IPV6`, the first byte of a message.
fn number(family: Family) -> u8 {
    match family {
        Family::Ipv4 => 2,
        Family::Ipv6 => 10,
    }
}

/// Whether the chain that a message is about is one of the nat table.
fn is_nat(message: &[u8], family: Family) -> Result<bool, KernelError> {
    let empty = || wire::garbled("a chain of nf_tables without attributes");
    let attributes = message.get(ALL_FAMILIES.len()..).ok_or_else(empty)?;
    let found = wire::attributes(attributes)?;
    let says = |kind: u16| {
        let value = found.iter().find(|(found, _)| *found == kind);
        value.is_some_and(|(_, range)| attributes[range.clone()] == *b"nat\0")
    };
    Ok(message.first() == Some(&number(family)) && says(TABLE) && says(TYPE))
}

/// `NFTA_CHAIN_HOOK`, with `NFTA_HOOK_HOOKNUM` in it, and `NFTA_CHAIN_POLICY`.
const HOOK: u16 = 4;
const HOOK_NUMBER: u16 = 1;
const POLICY: u16 = 5;
/// `NF_INET_FORWARD`, the one hook that packets of this host don't meet.
const FORWARD: u32 = 2;
/// `NF_INET_LOCAL_OUT` and `NF_INET_POST_ROUTING`, which packets meet that leave.
const OUTPUT: u32 = 3;
const POSTROUTING: u32 = 4;
/// `NF_DROP`.
const DROP: u32 = 0;
/// `NFPROTO_INET` and `NFPROTO_NETDEV`.
const INET: u8 = 1;
const NETDEV: u8 = 5;
/// The tables of iptables-nft.
const OF_IPTABLES: [&str; 5] = ["raw", "mangle", "nat", "filter", "security"];

/// A chain where packets of this host pass.
struct Base {
    family: u8,
    table: String,
    kind: String,
    hook: Option<u32>,
    chain: ForeignChain,
}

/// Whether iptables-nft's tables of a family have a chain.
///
/// # Errors
///
/// As of [`has_chains_of_meshes`].
pub(super) fn has_chains_of_iptables(family: Family) -> Result<bool, KernelError> {
    let number = number(family);
    has_chains(|message: &mut [u8]| {
        let is_its = |base: Base| base.is_of_iptables() && base.family == number;
        Ok(base(message)?.is_some_and(is_its).then_some(()))
    })
}

/// Chains of tables that are not iptables', where packets of this host pass.
#[derive(Default)]
pub(super) struct ForeignChains {
    /// Those where packets pass that come to this host or leave it.
    pub filtering: Vec<ForeignChain>,
    /// Those that may change the addresses of packets that leave.
    pub translating: Vec<ForeignChain>,
}

/// The chains of tables that are not iptables', where packets of a family pass.
///
/// # Errors
///
/// As of [`has_chains_of_meshes`].
pub(super) fn foreign_chains(family: Family) -> Result<ForeignChains, KernelError> {
    let families = [number(family), INET, NETDEV];
    let found = list(|message: &mut [u8]| {
        let is_foreign = |base: &Base| families.contains(&base.family) && !base.is_of_iptables();
        Ok(base(message)?.filter(is_foreign))
    })?;
    Ok(ForeignChains::of(found))
}

impl ForeignChains {
    fn of(found: Vec<Base>) -> Self {
        let mut chains = Self::default();
        for base in found {
            match (base.kind.as_str(), base.hook) {
                ("nat", Some(OUTPUT | POSTROUTING)) => chains.translating.push(base.chain),
                ("nat", _) => {}
                (_, _) => chains.filtering.push(base.chain),
            }
        }
        chains.filtering.sort();
        chains.translating.sort();
        chains
    }
}

impl Base {
    fn is_of_iptables(&self) -> bool {
        ![INET, NETDEV].contains(&self.family) && OF_IPTABLES.contains(&self.table.as_str())
    }
}

/// The chain that a message is about, if packets of this host meet it on their own.
fn base(message: &[u8]) -> Result<Option<Base>, KernelError> {
    let empty = || wire::garbled("a chain of nf_tables without attributes");
    let attributes = message.get(ALL_FAMILIES.len()..).ok_or_else(empty)?;
    let all = wire::attributes(attributes)?;
    let value = |kind: u16| {
        let found = all.iter().find(|(found, _)| *found == kind);
        found.map(|(_, range)| &attributes[range.clone()])
    };
    let text = |kind: u16| {
        let bytes = value(kind).unwrap_or_default();
        String::from_utf8_lossy(bytes).trim_end_matches('\0').to_owned()
    };
    let Some(hook) = value(HOOK) else { return Ok(None) };
    let number = wire::attributes(hook)?.into_iter().find(|(kind, _)| *kind == HOOK_NUMBER);
    let number = number.and_then(|(_, range)| big_endian(&hook[range]));
    let family = message.first().copied().unwrap_or_default();
    if number == Some(FORWARD) && family != NETDEV {
        return Ok(None);
    }
    let word = match family {
        INET => "inet",
        2 => "ip",
        10 => "ip6",
        NETDEV => "netdev",
        _ => "other",
    };
    let table = text(TABLE);
    let chain = ForeignChain {
        table: format!("{word} {table}"),
        chain: text(NAME),
        drops: value(POLICY).and_then(big_endian) == Some(DROP),
    };
    Ok(Some(Base { family, table, kind: text(TYPE), hook: number, chain }))
}

/// nf_tables has numbers in the order of the network.
fn big_endian(bytes: &[u8]) -> Option<u32> {
    bytes.first_chunk().copied().map(u32::from_be_bytes)
}

/// Whether the chain that a message is about has the name of a mesh's.
fn is_of_a_mesh(message: &[u8]) -> Result<bool, KernelError> {
    let nameless = || wire::garbled("a chain of nf_tables without a name");
    let attributes = message.get(ALL_FAMILIES.len()..).ok_or_else(nameless)?;
    let found = wire::attributes(attributes)?.into_iter().find(|(kind, _)| *kind == NAME);
    let (_, range) = found.ok_or_else(nameless)?;
    Ok(attributes[range].starts_with(CHAIN_PREFIX.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A message as `nf_tables_fill_chain_info` begins it: the table, the
    /// handle, the name.
    fn message(name: &str) -> Vec<u8> {
        let mut bytes = vec![2, 0, 0, 7];
        let handle = [0, 0, 0, 0, 0, 0, 0, 9];
        let name = format!("{name}\0");
        for (kind, value) in [(1, &b"MESHSEC-\0"[..]), (2, &handle), (NAME, name.as_bytes())] {
            bytes.extend_from_slice(&(4 + value.len() as u16).to_ne_bytes());
            bytes.extend_from_slice(&u16::to_ne_bytes(kind));
            bytes.extend_from_slice(value);
            bytes.resize(wire::aligned(bytes.len()), 0);
        }
        bytes
    }

    #[test]
    fn a_chain_of_a_mesh_is_told_by_its_name_alone() {
        for (name, ours) in [
            ("MESHSEC-4d530001-OUT", true),
            ("MESHSEC-", true),
            ("MESHSEC", false),
            ("OUTPUT", false),
            ("X-MESHSEC-4d530001-OUT", false),
            ("", false),
        ] {
            assert_eq!(is_of_a_mesh(&message(name)), Ok(ours), "{name}");
        }
    }

    #[test]
    fn only_a_kernel_that_lacks_nf_tables_has_no_chains_for_certain() {
        let refused = |errno| KernelError::Refused {
            doing: "cannot list chains of nf_tables".into(),
            errno,
            detail: None,
        };
        for errno in [Errno::EPROTONOSUPPORT, Errno::EINVAL] {
            assert_eq!(
                none_without_nf_tables::<()>(Err(refused(errno))),
                Ok(Vec::new()),
                "{errno}"
            );
        }
        // A socket that the unit's rights forbid, no memory, no more files, no rights.
        let others = [Errno::EPERM, Errno::EOPNOTSUPP, Errno(12), Errno(13), Errno(24), Errno(97)];
        let others = others.map(refused).into_iter();
        for error in others.chain([KernelError::Lost { doing: "listing".into() }]) {
            assert_eq!(none_without_nf_tables::<()>(Err(error.clone())), Err(error));
        }
        assert_eq!(none_without_nf_tables(Ok(vec![()])), Ok(vec![()]));
    }

    #[test]
    fn a_chain_that_translates_counts_for_its_own_family() {
        let nat = |family: u8, table: &str, kind: &str| {
            let mut bytes = vec![family, 0, 0, 7];
            for (attribute, text) in [(TABLE, table), (NAME, "POSTROUTING"), (TYPE, kind)] {
                bytes.extend_from_slice(&(5 + text.len() as u16).to_ne_bytes());
                bytes.extend_from_slice(&attribute.to_ne_bytes());
                bytes.extend_from_slice(format!("{text}\0").as_bytes());
                bytes.resize(wire::aligned(bytes.len()), 0);
            }
            Family::ALL.map(|family| is_nat(&bytes, family).unwrap())
        };
        assert_eq!(nat(2, "nat", "nat"), [true, false]);
        assert_eq!(nat(10, "nat", "nat"), [false, true]);
        assert_eq!(nat(2, "filter", "filter"), [false; 2]);
        assert_eq!(nat(2, "nat", "filter"), [false; 2]);
    }

    #[test]
    fn a_base_chain_is_told_with_its_table_and_its_policy() {
        let attribute = |bytes: &mut Vec<u8>, kind: u16, value: &[u8]| {
            bytes.extend_from_slice(&(4 + value.len() as u16).to_ne_bytes());
            bytes.extend_from_slice(&kind.to_ne_bytes());
            bytes.extend_from_slice(value);
            bytes.resize(wire::aligned(bytes.len()), 0);
        };
        let message = |family: u8, table: &str, hook: Option<u32>, policy: u32| {
            let mut bytes = vec![family, 0, 0, 7];
            for (kind, text) in [(TABLE, table), (NAME, "input"), (TYPE, "filter")] {
                attribute(&mut bytes, kind, format!("{text}\0").as_bytes());
            }
            if let Some(hook) = hook {
                let mut nested = Vec::new();
                attribute(&mut nested, HOOK_NUMBER, &hook.to_be_bytes());
                // NLA_F_NESTED.
                attribute(&mut bytes, 0x8000 | HOOK, &nested);
                attribute(&mut bytes, POLICY, &policy.to_be_bytes());
            }
            bytes
        };
        let found = |family, table: &str, hook, policy| {
            let base = base(&message(family, table, hook, policy)).unwrap()?;
            Some((base.is_of_iptables(), base.chain.table, base.chain.drops))
        };
        assert_eq!(found(INET, "filter", Some(1), DROP), Some((false, "inet filter".into(), true)));
        assert_eq!(found(2, "filter", Some(3), 1), Some((true, "ip filter".into(), false)));
        assert_eq!(found(2, "mine", Some(1), 1), Some((false, "ip mine".into(), false)));
        assert_eq!(found(INET, "filter", Some(FORWARD), DROP), None, "of other hosts' packets");
        assert_eq!(found(INET, "filter", None, DROP), None, "no rule leads to it by itself");
    }

    #[test]
    fn only_chains_where_packets_leave_may_change_their_addresses() {
        let base = |kind: &str, hook: u32| Base {
            family: INET,
            table: "mine".into(),
            kind: kind.into(),
            hook: Some(hook),
            chain: ForeignChain {
                table: "inet mine".into(),
                chain: format!("{kind}{hook}"),
                drops: false,
            },
        };
        let hooks = [POSTROUTING, OUTPUT, 1, 0];
        let all = ["nat", "filter"].iter().flat_map(|kind| hooks.map(|hook| base(kind, hook)));
        let found = ForeignChains::of(all.collect());
        let names = |chains: Vec<ForeignChain>| {
            chains.into_iter().map(|chain| chain.chain).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(names(found.translating), "nat3 nat4");
        assert_eq!(names(found.filtering), "filter0 filter1 filter3 filter4");
    }

    #[test]
    fn a_chain_whose_name_cannot_be_read_is_an_error() {
        let whole = message("OUTPUT");
        assert!(is_of_a_mesh(&whole[..whole.len() - 12]).is_err(), "no name");
        assert!(is_of_a_mesh(&whole[..whole.len() - 4]).is_err(), "a part of a name");
        assert!(is_of_a_mesh(&[2, 0]).is_err(), "no attributes");
    }
}
