//! Sending packets from the local peer's address, as any program may: by sockets without privileges.

use std::{
    net::{IpAddr, SocketAddr},
    os::fd::OwnedFd,
};

use nix::{
    errno::Errno as NixErrno,
    sys::socket::{
        SetSockOpt,
        sockopt::{BindToDevice, SndBufForce},
    },
};
use rustix::net::{
    AddressFamily, SendFlags, SocketFlags, SocketType, bind, connect, sendto, socket_with,
};

use crate::kernel::{KernelError, SystemCause};

/// The room for datagrams that wait for the answer of a neighbour. Without room, a peer that is down
/// would hold up the others.
const ROOM: usize = 16 << 20;

/// Sends from one address.
pub struct Sender {
    local: IpAddr,
    vrf: Option<String>,
    datagrams: OwnedFd,
    /// Connections under way. They are closed together at the end, so that they stay on the wire as
    /// long as packets are captured.
    connections: Vec<OwnedFd>,
}

impl Sender {
    /// A sender from an address, by the VRF that has the address.
    ///
    /// # Errors
    ///
    /// The host does not have the address, or the kernel refuses a socket.
    pub fn open(local: IpAddr, vrf: Option<String>) -> Result<Self, KernelError> {
        let datagrams = socket(local, vrf.as_deref(), SocketType::DGRAM).map_err(|errno| {
            KernelError::System {
                cause: SystemCause::Other,
                doing: format!("cannot send from {local}"),
                reason: std::io::Error::from(errno).to_string(),
            }
        })?;
        // With CAP_NET_ADMIN; without, the run may only take longer.
        let _ = SndBufForce.set(&datagrams, &ROOM);
        Ok(Self { local, vrf, datagrams, connections: Vec::new() })
    }

    /// Sends a datagram, or names the error by its symbol.
    ///
    /// # Errors
    ///
    /// The kernel's, such as EPERM where a policy blocks.
    pub fn datagram(&self, to: SocketAddr, content: &[u8]) -> Result<(), String> {
        match sendto(&self.datagrams, content, SendFlags::empty(), &to) {
            Ok(_) => Ok(()),
            Err(errno) => Err(symbol(errno)),
        }
    }

    /// Begins to connect, and does not wait.
    ///
    /// # Errors
    ///
    /// As of [`Sender::datagram`].
    pub fn connect(&mut self, to: SocketAddr) -> Result<(), String> {
        let socket = socket(self.local, self.vrf.as_deref(), SocketType::STREAM).map_err(symbol)?;
        match connect(&socket, &to) {
            Ok(()) | Err(rustix::io::Errno::INPROGRESS) => {}
            Err(errno) => return Err(symbol(errno)),
        }
        self.connections.push(socket);
        Ok(())
    }
}

fn socket(local: IpAddr, vrf: Option<&str>, kind: SocketType) -> rustix::io::Result<OwnedFd> {
    let family = if local.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let mut flags = SocketFlags::CLOEXEC;
    flags.set(SocketFlags::NONBLOCK, kind == SocketType::STREAM);
    let socket = socket_with(family, kind, flags, None)?;
    if let Some(vrf) = vrf {
        BindToDevice
            .set(&socket, &vrf.into())
            .map_err(|errno| rustix::io::Errno::from_raw_os_error(errno as i32))?;
    }
    bind(&socket, &SocketAddr::new(local, 0))?;
    Ok(socket)
}

/// An error number by its symbol.
fn symbol(errno: rustix::io::Errno) -> String {
    format!("{:?}", NixErrno::from_raw(errno.raw_os_error()))
}
