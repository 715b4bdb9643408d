//! Plain data, shared by everything: identifiers, keys, and the objects of a host.
//!
//! No effects and no decisions are here. One [`State`] type describes both the
//! wanted and the real side; only their newtypes differ, so that the two can't
//! be swapped.
#![forbid(unsafe_code)]

mod chain;
mod code;
mod encap;
mod examination;
mod fib;
mod foreign;
mod ids;
mod interface;
mod key;
mod layout;
mod number;
mod packet;
mod policy;
mod prefix_map;
mod sa;
mod selector;
mod stage;
mod state;
mod step;
mod time;
mod way;
mod x25519;

pub use chain::{
    Backend, CHAIN_PREFIX, Chain, ChainId, ChainRole, Family, Firewall, Jump, MarkUser, Rule,
    Unseen,
};
pub use code::{CheckCode, ConflictCode, ErrorCode, Reason, ReasonCode, Warning, WarningCode};
pub use encap::{Answers, EncapSocket};
pub use examination::{
    Counters, DeviceState, DropRule, Examination, FilteredPackets, Filters, ForeignChain,
    KernelFacts, PacketKind, Probe, Timer,
};
pub use fib::{FibAction, FibEntry, MAIN_TABLE};
pub use foreign::Neighbourhood;
pub use ids::{Generation, GroupName, MeshName, NamedMesh, PeerName, Reqid, ShortId, Spi};
pub use interface::Interface;
pub use key::{Fingerprint, Key, KeyView, without_traces};
pub use layout::OldPairs;
pub use number::number;
pub use packet::{EspHeader, Packet};
pub use policy::{Action, Direction, Level, Passage, Policy, PolicyId, PolicyRole, Template};
pub use prefix_map::PrefixMap;
pub use sa::{
    Algorithm, Cipher, DIRECTION_OUT, Encap, Mode, Offload, Replay, Sa, SaId, Start, Usage,
};
pub use selector::{Mark, PortMatch, Prefix, Selector, icmp_echo};
pub use stage::Stage;
pub use state::{Bypass, Hidden, Link, Live, LocalAddress, Mtu, Queue, State};
pub use step::*;
pub use time::{Period, Time};
pub use way::{Destination, Member, Route, Translation, Tunnel, TunnelKind, Ways};
pub use x25519::{PrivateKey, PublicKey, PublicKeyError};

/// ESP's number as an IP protocol (RFC 4303).
pub const IPPROTO_ESP: u8 = 50;
/// TCP's number as an IP protocol.
pub const IPPROTO_TCP: u8 = 6;
/// UDP's number as an IP protocol.
pub const IPPROTO_UDP: u8 = 17;
/// ICMP's number as an IP protocol.
pub const IPPROTO_ICMP: u8 = 1;
/// ICMPv6's number as an IP protocol.
pub const IPPROTO_ICMPV6: u8 = 58;
/// The priority of every policy of a peer; a smaller number wins.
pub const PEER_PRIORITY: u32 = 1000;
