//! The only effects on the network: observing a namespace and performing steps.
//!
//! Everything outside works on [`crate::model`] and [`Step`]s. There are two
//! kernels: the real one, [`linux`], and one in [`memory`] that fails in the
//! same way; one contract suite runs on both.

pub mod linux;
pub mod memory;
mod rules;

pub use linux::Linux;
pub use memory::Memory;

use crate::model::{ErrorCode, Live, Reqid, Step};

/// A network namespace of a kernel.
pub trait Kernel {
    /// Reads everything that plans depend on.
    ///
    /// Keys come back as fingerprints, and only those of SAs with this reqid.
    /// An incomplete answer is an error, never a shorter list.
    fn observe(&mut self, reqid: Reqid) -> Result<Live, KernelError>;

    /// Performs steps that don't depend on each other, all of them even if one fails. Returns a
    /// result for each, in order.
    ///
    /// `Err` as a whole is an answer that got lost: any of the steps may have
    /// been done or not, and only another look can tell.
    fn perform(&mut self, steps: &[Step]) -> Result<Vec<Result<(), KernelError>>, KernelError>;
}

/// An error of the kernel, or of the way to it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KernelError {
    /// A request that the kernel refused.
    #[error("{doing}: {errno}{}", .detail.as_deref().map(|text| format!(": {text}")).unwrap_or_default())]
    Refused {
        /// The request, such as `cannot add SA dst 192.0.2.2 proto esp spi 0x84001002`.
        doing: String,
        /// The error number.
        errno: Errno,
        /// The kernel's own text (extended ack), or the remedy.
        detail: Option<String>,
    },
    /// Answers were lost (`ENOBUFS`): only another look can tell the steps that were done.
    #[error("the kernel's answers were lost (ENOBUFS) while {doing}")]
    Lost {
        /// The work under way.
        doing: String,
    },
    /// A message that has a wrong length or makes no sense.
    #[error("the kernel's answer makes no sense: {0}")]
    Garbled(String),
    /// Something about the system besides the kernel's answer: a namespace, a file, a socket.
    #[error("{doing}: {reason}")]
    System {
        /// The cause, where it has a remedy of its own.
        cause: SystemCause,
        /// The attempt.
        doing: String,
        /// The reason of the failure. Text only, much of it from the C library and from other
        /// programs: causes that need telling apart are in `cause`.
        reason: String,
    },
    /// A policy has changed since the plan was made.
    #[error("policy {0} was changed by another program since the plan was made; it is left alone")]
    Changed(String),
}

/// The causes of [`KernelError::System`] that have a remedy of their own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SystemCause {
    /// Another run holds the lock of the network namespace: run again later.
    Locked,
    /// Objects kept changing while they were listed: run again.
    KeepsChanging,
    /// The clock left an SA's generation, or passed its end, after the plan was made: plan again.
    GenerationOver,
    /// A program of iptables is not installed.
    ProgramMissing,
    /// The kernel has no nf_tables. Where another backend is in use it has no rules there either.
    NoNfTables,
    /// A foreign rule leads to a chain that is to be deleted.
    ChainInUse,
    /// A device does not take an SA that is to be offloaded to it.
    OffloadRefused,
    /// Any other. Nobody could do more than read its text.
    Other,
}

impl SystemCause {
    /// The code by which programs tell it from others.
    fn code(self) -> ErrorCode {
        match self {
            Self::Locked => ErrorCode::NamespaceLocked,
            Self::KeepsChanging => ErrorCode::KernelKeepsChanging,
            Self::GenerationOver => ErrorCode::GenerationOver,
            Self::ProgramMissing => ErrorCode::ProgramMissing,
            Self::ChainInUse => ErrorCode::ChainInUse,
            Self::OffloadRefused => ErrorCode::OffloadRefused,
            Self::NoNfTables | Self::Other => ErrorCode::SystemFailed,
        }
    }
}

impl KernelError {
    /// The code by which programs tell it from others.
    pub fn code(&self) -> ErrorCode {
        match self {
            Self::Refused { .. } => ErrorCode::KernelRefused,
            Self::Lost { .. } => ErrorCode::KernelAnswersLost,
            Self::Garbled(_) => ErrorCode::KernelAnswerGarbled,
            Self::System { cause, .. } => cause.code(),
            Self::Changed(_) => ErrorCode::PolicyChanged,
        }
    }
}

/// An error number of the kernel, shown by its symbol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Errno(pub i32);

impl Errno {
    /// Operation not permitted.
    pub const EPERM: Self = Self(1);
    /// No such entry: the answer to deleting an absent policy.
    pub const ENOENT: Self = Self(2);
    /// No such process: the answer to deleting an absent SA.
    pub const ESRCH: Self = Self(3);
    /// It exists already.
    pub const EEXIST: Self = Self(17);
    /// No such device.
    pub const ENODEV: Self = Self(19);
    /// No such address on a device: the answer to deleting one that is absent.
    pub const EADDRNOTAVAIL: Self = Self(99);
    /// An invalid argument.
    pub const EINVAL: Self = Self(22);
    /// The kernel lacks an algorithm.
    pub const ENOSYS: Self = Self(38);
    /// The kernel lacks a protocol.
    pub const EPROTONOSUPPORT: Self = Self(93);
    /// The device is down.
    pub const ENETDOWN: Self = Self(100);
    /// Not supported.
    pub const EOPNOTSUPP: Self = Self(95);
    /// The receive buffer overflowed.
    pub const ENOBUFS: Self = Self(105);
}

impl std::fmt::Display for Errno {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            1 => f.write_str("EPERM"),
            2 => f.write_str("ENOENT"),
            3 => f.write_str("ESRCH"),
            12 => f.write_str("ENOMEM"),
            17 => f.write_str("EEXIST"),
            19 => f.write_str("ENODEV"),
            22 => f.write_str("EINVAL"),
            38 => f.write_str("ENOSYS"),
            93 => f.write_str("EPROTONOSUPPORT"),
            95 => f.write_str("EOPNOTSUPP"),
            99 => f.write_str("EADDRNOTAVAIL"),
            100 => f.write_str("ENETDOWN"),
            105 => f.write_str("ENOBUFS"),
            number => write!(f, "{}", std::io::Error::from_raw_os_error(number)),
        }
    }
}
