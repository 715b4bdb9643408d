//! Security associations.

use std::{collections::BTreeSet, fmt, net::IpAddr};

use serde::{Deserialize, Serialize};

use super::{Generation, IPPROTO_ESP, KeyView, Mark, Period, Reqid, Selector, Spi, Time};

/// The identity of an SA in the kernel: destination, protocol, SPI and mark.
///
/// The source is not part of it. A mesh's SAs have no mark.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SaId {
    /// The destination of its packets.
    pub dst: IpAddr,
    /// The IPsec protocol, [`IPPROTO_ESP`] for all SAs of a mesh.
    pub proto: u8,
    /// The SPI.
    pub spi: Spi,
    /// A mark that packets must carry to find it.
    #[serde(default, skip_serializing_if = "Mark::is_none")]
    pub mark: Mark,
}

impl SaId {
    /// An ESP SA without a mark, as all of a mesh's.
    pub fn esp(dst: IpAddr, spi: Spi) -> Self {
        Self { dst, proto: IPPROTO_ESP, spi, mark: Mark::NONE }
    }
}

impl fmt::Display for SaId {
    /// In the words of `ip xfrm`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "dst {} proto ", self.dst)?;
        match self.proto {
            IPPROTO_ESP => f.write_str("esp")?,
            51 => f.write_str("ah")?,
            108 => f.write_str("comp")?,
            proto => write!(f, "{proto}")?,
        }
        write!(f, " spi {}", self.spi)?;
        if self.mark.is_none() { Ok(()) } else { write!(f, " mark {}", self.mark) }
    }
}

/// Transport, tunnel, or one of the modes that meshsec never uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, Hash)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// Only the payload is protected: the mode of all objects of a mesh.
    Transport,
    /// The whole packet is wrapped in another.
    Tunnel,
    /// Any other, by the kernel's number.
    Other(u8),
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Transport => f.write_str("transport"),
            Self::Tunnel => f.write_str("tunnel"),
            Self::Other(number) => write!(f, "mode {number}"),
        }
    }
}

/// A cipher of the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Cipher {
    /// AES-GCM with a 32-byte key (RFC 4106).
    Aes256Gcm,
    /// AES-GCM with a 16-byte key (RFC 4106).
    Aes128Gcm,
    /// ChaCha20-Poly1305 (RFC 7634).
    ChaCha20Poly1305,
}

impl Cipher {
    /// All of them, in the order in which errors list them.
    pub const ALL: [Self; 3] = [Self::Aes256Gcm, Self::Aes128Gcm, Self::ChaCha20Poly1305];

    /// The name in the file, which is also an input of the key schedule.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Aes256Gcm => "aes256-gcm",
            Self::Aes128Gcm => "aes128-gcm",
            Self::ChaCha20Poly1305 => "chacha20-poly1305",
        }
    }

    /// Bytes of key, without the 4 bytes of salt.
    pub fn key_len(self) -> usize {
        match self {
            Self::Aes256Gcm | Self::ChaCha20Poly1305 => 32,
            Self::Aes128Gcm => 16,
        }
    }

    /// The transform as the kernel knows it.
    pub fn algorithm(self) -> Algorithm {
        let name = match self {
            Self::Aes256Gcm | Self::Aes128Gcm => "rfc4106(gcm(aes))",
            Self::ChaCha20Poly1305 => "rfc7539esp(chacha20,poly1305)",
        };
        Algorithm::Aead {
            name: name.into(),
            key_bits: (self.key_len() as u32 + 4) * 8,
            icv_bits: 128,
        }
    }
}

/// The transform of an SA.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Hash)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Algorithm {
    /// A combined mode cipher.
    Aead {
        /// The kernel's name of it.
        name: String,
        /// Bits of key and salt together.
        key_bits: u32,
        /// Bits of the integrity check value.
        icv_bits: u32,
    },
    /// Anything else, by name.
    Other(String),
    /// None: the SA is larval, a placeholder that the kernel made.
    Larval,
}

impl fmt::Display for Algorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Aead { name, key_bits, icv_bits } => {
                match Cipher::ALL.iter().find(|cipher| cipher.algorithm() == *self) {
                    Some(cipher) => f.write_str(cipher.name()),
                    None => write!(f, "{name} key {key_bits} bits icv {icv_bits}"),
                }
            }
            Self::Other(name) => f.write_str(name),
            Self::Larval => f.write_str("none (larval)"),
        }
    }
}

/// Anti-replay as configured. The numbers seen so far are not part of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Replay {
    /// Packets; 0 turns the check off.
    pub window: u32,
    /// Extended (64-bit) sequence numbers.
    pub esn: bool,
}

/// A device that encrypts and decrypts for the kernel (`XFRMA_OFFLOAD_DEV`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Offload {
    /// Its name.
    pub device: String,
    /// Whether it is for packets that arrive.
    pub inbound: bool,
}

impl fmt::Display for Offload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "dev {} dir {}", self.device, if self.inbound { "in" } else { "out" })
    }
}

/// UDP around ESP (RFC 3948), in the words of `ip xfrm`: `encap espinudp`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Encap {
    /// The source port of its packets. The kernel does not compare it with that of packets that
    /// arrive.
    pub sport: u16,
    /// The destination port.
    pub dport: u16,
}

impl fmt::Display for Encap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "espinudp sport {} dport {}", self.sport, self.dport)
    }
}

/// The configuration of a security association.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sa {
    /// Its identity.
    pub id: SaId,
    /// The source of its packets.
    pub src: IpAddr,
    /// The reqid of its owner.
    pub reqid: Reqid,
    /// Its mode: transport for a mesh's SAs.
    pub mode: Mode,
    /// The addresses that may use it, checked by the kernel after decryption; `None` is no check.
    pub selector: Option<Selector>,
    /// Its transform.
    pub algorithm: Algorithm,
    /// The knowledge of its key.
    pub key: KeyView,
    /// Window and ESN.
    pub replay: Replay,
    /// The time when the kernel lets it expire, by its hard lifetime since it was added; `None` is
    /// never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ends: Option<Time>,
    /// The device that does its cryptography; `None` is the processor.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub offload: Option<Offload>,
    /// The UDP header before ESP; `None` is plain ESP. The kernel refuses a packet that comes in the
    /// other form.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub encap: Option<Encap>,
    /// Seconds without a packet after which the kernel sends a NAT keepalive (RFC 3948, section 4) on
    /// this outbound SA; `None` is never. Such an SA has the direction out (`XFRMA_SA_DIR`), for which
    /// the kernel refuses a replay window.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keepalive: Option<u32>,
    /// The number of the XFRM interfaces whose packets it is for; 0 is none. It is no part of the
    /// identity.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub if_id: u32,
    /// Names and values of attributes that this type can't express (a limit of bytes, TCP
    /// encapsulation, …). A mesh's SAs have none.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub extras: BTreeSet<String>,
}

/// Whether a number is 0, which snapshots leave out.
fn is_zero(number: &u32) -> bool {
    *number == 0
}

/// The direction of an outbound SA, among the attributes that [`Sa`] can't express.
pub const DIRECTION_OUT: &str = "dir out";

/// The distance, in seconds, of two ends that count as the same: lifetimes are whole seconds, and a
/// request takes some time.
const SAME_END: u64 = 2;

impl Sa {
    /// Whether both SAs expire at the same time, within `SAME_END`.
    pub fn expires_like(&self, other: &Self) -> bool {
        match (self.ends, other.ends) {
            (Some(a), Some(b)) => a.seconds().abs_diff(b.seconds()) <= SAME_END,
            (a, b) => a == b,
        }
    }

    /// Whether it has the direction out and nothing else that no SA of a mesh has: a kernel that knows
    /// directions and no keepalives made it.
    pub fn has_lost_its_keepalive(&self) -> bool {
        self.keepalive.is_none() && self.if_id == 0 && self.extras.iter().eq([DIRECTION_OUT])
    }

    /// Whether only policies of an XFRM interface find it. Older snapshots have the number
    /// among the other attributes.
    pub fn has_interface(&self) -> bool {
        self.if_id != 0 || self.extras.iter().any(|extra| extra.starts_with("if_id"))
    }

    /// Whether this is a placeholder that the kernel made for a missing SA.
    pub fn is_larval(&self) -> bool {
        self.algorithm == Algorithm::Larval
    }
}

/// The beginning of a new SA's sequence numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// At the beginning.
    Fresh,
    /// Outbound: at [`Period::seed`] of the moment when the request is sent.
    Seed {
        /// The generation, in which that moment has to lie.
        generation: Generation,
        /// The length of a generation.
        period: Period,
    },
    /// Beyond the numbers of an SA with the same key that is gone.
    Resume {
        /// The last number that it had sent.
        sent: u64,
        /// The highest that it had received.
        received: u64,
    },
}

/// The use of an SA so far. It is not configuration, and is never compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Usage {
    /// The SA's identity.
    pub id: SaId,
    /// The sequence number sent last.
    pub sent: u64,
    /// The highest sequence number received.
    pub received: u64,
    /// Bytes.
    pub bytes: u64,
    /// Packets.
    pub packets: u64,
    /// When it was added.
    pub added: Time,
    /// When it was first used.
    pub used: Option<Time>,
    /// When it was last used, where the kernel tells.
    #[serde(default)]
    pub last: Option<Time>,
    /// Packets refused as older than the replay window.
    pub too_old: u32,
    /// Packets refused as received before.
    pub replayed: u32,
    /// Packets refused by the integrity check.
    pub forged: u32,
}
