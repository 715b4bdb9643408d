//! Packets on the host's devices, by a packet socket (packet(7)).
//!
//! The kernel shows a packet that leaves as it gives it to the device's driver: behind all policies,
//! encryption, rules of iptables and queues. One socket sees all devices of the network namespace, so
//! that a packet which leaves by an unforeseen device is seen too. Needs `CAP_NET_RAW` to open, and
//! nothing afterwards.

use std::{
    collections::BTreeMap,
    os::fd::{AsFd, AsRawFd, OwnedFd},
    time::{Duration, Instant},
};

use nix::{
    errno::Errno as NixErrno,
    getsockopt_impl,
    net::if_::if_indextoname,
    sockopt_impl,
    sys::socket::{
        AddressFamily, GetSockOpt, LinkAddr, SockFlag, SockProtocol, SockType, recvfrom, socket,
    },
};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    net::sockopt,
};

use crate::kernel::{Errno, KernelError, SystemCause};

/// The bytes that are looked at of a packet. Probes are shorter, whatever is put around them.
const LOOKED_AT: usize = 2048;
/// The room for packets that were not read yet: some ten thousand.
const ROOM: usize = 16 << 20;
/// The packets that are looked at before the next look at the clock.
const AT_ONCE: usize = 64;
/// More packets than there is room for, as the kernel counts 500 bytes and more for each.
const MOST_WAITING: usize = 2 * ROOM / 500;
/// `PACKET_OUTGOING`: the host sends it.
const OUTGOING: u8 = 4;

sockopt_impl!(
    /// The packets that a packet socket has got and those that it had no room for, since the last
    /// question.
    PacketStatistics,
    GetOnly,
    libc::SOL_PACKET,
    libc::PACKET_STATISTICS,
    libc::tpacket_stats
);

/// A packet on a device.
#[derive(Debug, Clone, Copy)]
pub struct OnDevice<'a> {
    /// The device's name, or its number where that is gone.
    pub device: &'a str,
    /// Whether the host sends it.
    pub leaves: bool,
    /// Its first bytes, from the IP header on.
    pub bytes: &'a [u8],
}

/// A capture of all packets of the network namespace.
pub struct Capture {
    socket: OwnedFd,
    names: BTreeMap<usize, String>,
    buffer: Vec<u8>,
}

impl Capture {
    /// Begins to capture.
    ///
    /// # Errors
    ///
    /// The kernel refuses: without `CAP_NET_RAW`, or without packet sockets.
    pub fn open() -> Result<Self, KernelError> {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let socket = socket(AddressFamily::Packet, SockType::Datagram, flags, SockProtocol::EthAll)
            .map_err(refused)?;
        // With CAP_NET_ADMIN at any net.core.rmem_max. A smaller one loses packets sooner, which the
        // kernel then tells.
        let _ = sockopt::set_socket_recv_buffer_size_force(&socket, ROOM)
            .or_else(|_| sockopt::set_socket_recv_buffer_size(&socket, ROOM));
        Ok(Self { socket, names: BTreeMap::new(), buffer: vec![0; LOOKED_AT] })
    }

    /// Looks at packets until a moment.
    ///
    /// # Errors
    ///
    /// The kernel refuses to hand them out.
    pub fn read(
        &mut self,
        until: Instant,
        take: &mut dyn FnMut(&OnDevice<'_>),
    ) -> Result<(), KernelError> {
        loop {
            let is_empty = self.read_some(AT_ONCE, take)?;
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(());
            }
            if is_empty {
                self.wait(left)?;
            }
        }
    }

    /// Looks at all packets that came before this call. In a flood others come meanwhile.
    ///
    /// # Errors
    ///
    /// As of [`Capture::read`].
    pub fn drain(&mut self, take: &mut dyn FnMut(&OnDevice<'_>)) -> Result<(), KernelError> {
        self.read_some(MOST_WAITING, take).map(|_| ())
    }

    fn wait(&self, time: Duration) -> Result<(), KernelError> {
        let time = Timespec::try_from(time).map_err(|error| failed(error.to_string()))?;
        match poll(&mut [PollFd::new(&self.socket, PollFlags::IN)], Some(&time)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
            Err(errno) => Err(failed(errno.to_string())),
        }
    }

    /// Looks at packets that are there, at most so many. Returns whether there are no more.
    fn read_some(
        &mut self,
        most: usize,
        take: &mut dyn FnMut(&OnDevice<'_>),
    ) -> Result<bool, KernelError> {
        for _ in 0..most {
            match recvfrom::<LinkAddr>(self.socket.as_fd().as_raw_fd(), &mut self.buffer) {
                Ok((length, Some(from))) => {
                    let name = self.names.entry(from.ifindex()).or_insert_with_key(|at| name(*at));
                    take(&OnDevice {
                        device: name,
                        leaves: from.pkttype() == OUTGOING,
                        bytes: self.buffer.get(..length).unwrap_or(&self.buffer),
                    });
                }
                // A device has gone; others go on.
                Ok((_, None)) | Err(NixErrno::EINTR | NixErrno::ENETDOWN) => {}
                Err(NixErrno::EAGAIN) => return Ok(true),
                Err(errno) => return Err(refused(errno)),
            }
        }
        Ok(false)
    }

    /// The packets that the kernel had no room for since the capture began, or since the last
    /// question.
    ///
    /// # Errors
    ///
    /// The kernel does not tell.
    pub fn lost(&self) -> Result<u64, KernelError> {
        PacketStatistics.get(&self.socket).map(|counts| counts.tp_drops.into()).map_err(refused)
    }
}

fn name(index: usize) -> String {
    let name = u32::try_from(index).ok().and_then(|index| if_indextoname(index).ok());
    let name = name.and_then(|name| name.into_string().ok());
    name.unwrap_or_else(|| format!("device {index}"))
}

fn refused(errno: NixErrno) -> KernelError {
    let detail = (errno == NixErrno::EPERM).then(|| {
        "prove needs CAP_NET_RAW beside CAP_NET_ADMIN: run as root, or with both capabilities"
            .into()
    });
    KernelError::Refused {
        doing: "cannot capture packets".into(),
        errno: Errno(errno as i32),
        detail,
    }
}

fn failed(reason: String) -> KernelError {
    KernelError::System {
        cause: SystemCause::Other,
        doing: "cannot capture packets".into(),
        reason,
    }
}
