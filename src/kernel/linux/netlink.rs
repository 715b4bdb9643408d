//! A blocking engine over one netlink socket: dumps, and windows of requests.
//!
//! It knows nothing of SAs and policies. For [`super`], [`super::perform`],
//! [`super::routes`], [`super::tunnels`] and [`super::iptables`].
//!
//! Two promises: a dump is whole or an error, and every request has an answer or the whole call is
//! an error. After an error the socket is drained, so that the next request begins afresh. Late
//! answers are told apart by their sequence numbers.

#[cfg(test)]
mod tests;

use std::{
    io,
    time::{Duration, Instant},
};

use netlink_packet_core::{NLM_F_DUMP_INTR, NLMSG_DONE, NLMSG_ERROR, NLMSG_NOOP};
use netlink_sys::{
    Socket, SocketAddr,
    protocols::{NETLINK_NETFILTER, NETLINK_ROUTE, NETLINK_XFRM},
};
use rustix::net::{RecvFlags, sockopt};
use zeroize::{Zeroize, Zeroizing};

use crate::kernel::{Errno, KernelError, SystemCause};

use super::wire::{self, Message, Messages, Refusal, Request, garbled};

/// Requests per send at most. 221 acknowledgements fit the default receive buffer since Linux 6.3,
/// more before; beyond, the kernel drops answers to requests that it has performed. A smaller
/// buffer has a smaller window.
pub(super) const WINDOW: usize = 128;
/// Bytes of a receive buffer that an acknowledgement takes (`SKB_SMALL_HEAD_SIZE`
/// and the head of an skb, since Linux 6.3).
const ACKNOWLEDGEMENT: usize = 960;
/// Requests per send at most where each answer has an object besides its acknowledgement. An object
/// takes up to four times the room.
pub(super) const LOOK_WINDOW: usize = 32;
/// Bytes per send, well below the default send buffer of 208 KiB.
const WINDOW_BYTES: usize = 64 * 1024;
/// The largest datagram of a dump (32 KiB since Linux 4.6), twice.
const BUFFER: usize = 64 * 1024;
/// The receive buffer that is asked for.
const WISHED_BUFFER: usize = 1024 * 1024;
/// Requests are performed inside `send`, so that answers are there at once.
const PATIENCE: Duration = Duration::from_secs(10);
/// The number of tries of a dump that the kernel calls inconsistent.
const DUMP_TRIES: usize = 5;

/// The kernel's side of a socket.
#[derive(Debug, Clone, Copy)]
pub(super) enum Protocol {
    /// `NETLINK_XFRM`.
    Xfrm,
    /// `NETLINK_NETFILTER`.
    Netfilter,
    /// `NETLINK_ROUTE`.
    Route,
}

/// A socket, its sequence numbers and its receive buffer.
pub(super) struct Engine {
    socket: Socket,
    kernel: SocketAddr,
    sequence: u32,
    buffer: Zeroizing<Vec<u8>>,
    /// Bytes of the receive buffer that the kernel has granted.
    room: usize,
}

/// The kernel's answer to one request.
pub(super) struct Answer {
    /// Success, or the refusal.
    pub outcome: Result<(), Refusal>,
    /// The object, if one was asked for; may hold a key.
    pub object: Option<Zeroizing<Vec<u8>>>,
}

impl Engine {
    /// Opens a socket in the calling thread's network namespace, where it stays.
    ///
    /// # Errors
    ///
    /// [`KernelError::Refused`] with `EPROTONOSUPPORT` where the kernel lacks the protocol.
    pub(super) fn open(protocol: Protocol) -> Result<Self, KernelError> {
        let (number, name) = match protocol {
            Protocol::Xfrm => (NETLINK_XFRM, "NETLINK_XFRM"),
            Protocol::Netfilter => (NETLINK_NETFILTER, "NETLINK_NETFILTER"),
            Protocol::Route => (NETLINK_ROUTE, "NETLINK_ROUTE"),
        };
        let refused = |error: io::Error| KernelError::Refused {
            doing: format!("cannot open a {name} socket"),
            errno: Errno(error.raw_os_error().unwrap_or_default()),
            detail: None,
        };
        let mut socket = Socket::new(number).map_err(refused)?;
        socket.bind_auto().map_err(refused)?;
        // Without it an error answer repeats the request, key included.
        socket.set_cap_ack(true).map_err(refused)?;
        socket.set_ext_ack(true).map_err(refused)?;
        let room = receive_buffer(&socket).map_err(|errno| refused(errno.into()))?;
        sockopt::set_socket_timeout(&socket, sockopt::Timeout::Recv, Some(PATIENCE))
            .map_err(|errno| refused(errno.into()))?;
        let buffer = Zeroizing::new(vec![0; BUFFER]);
        Ok(Self { socket, kernel: SocketAddr::new(0, 0), sequence: 0, buffer, room })
    }

    /// Lists everything that `kind` with `body` asks for, decoding each `answer` as it comes.
    /// Answers that decode to `None` are left out.
    ///
    /// # Errors
    ///
    /// Any doubt that the list is whole.
    pub(super) fn dump<T>(
        &mut self,
        (kind, answer): (u16, u16),
        body: &[u8],
        what: &str,
        mut decode: impl FnMut(&mut [u8]) -> Result<Option<T>, KernelError>,
    ) -> Result<Vec<T>, KernelError> {
        for _ in 0..DUMP_TRIES {
            match self.dump_once((kind, answer), body, what, &mut decode) {
                Ok(Some(list)) => return Ok(list),
                Ok(None) => {}
                Err(error) => {
                    self.drain();
                    return Err(error);
                }
            }
        }
        Err(KernelError::System {
            cause: SystemCause::KeepsChanging,
            doing: format!("cannot list {what}"),
            reason: format!("they kept changing, {DUMP_TRIES} times in a row"),
        })
    }

    /// One dump; `None` if it was interrupted and is not consistent.
    fn dump_once<T>(
        &mut self,
        (kind, answer): (u16, u16),
        body: &[u8],
        what: &str,
        decode: &mut impl FnMut(&mut [u8]) -> Result<Option<T>, KernelError>,
    ) -> Result<Option<Vec<T>>, KernelError> {
        let doing = format!("listing {what}");
        let sequence = self.next_sequence();
        self.send(&wire::dump_request(kind, body, sequence), &doing)?;
        let mut dump = Dump::new(sequence, answer, what);
        loop {
            let length = self.receive(&doing)?;
            let wiped = Wiped(&mut self.buffer[..length]);
            if dump.take_datagram(&mut *wiped.0, decode)? {
                return Ok((!dump.interrupted).then_some(dump.list));
            }
        }
    }

    /// Asks the kernel to check the headers of dumps, and so to heed filters in them
    /// (`NETLINK_GET_STRICT_CHK`). False on a kernel that does not.
    pub(super) fn check_strictly(&mut self) -> bool {
        self.socket.set_netlink_get_strict_chk(true).is_ok()
    }

    /// Performs requests in order, a window at a time. Performs all of them even if some are
    /// refused, and returns an answer for each. A window has at most `window` requests, and only as
    /// many as have answers that fit the receive buffer.
    ///
    /// # Errors
    ///
    /// Where answers are missing: any of the requests may have been performed.
    pub(super) fn transact(
        &mut self,
        requests: &[Request],
        window: usize,
    ) -> Result<Vec<Answer>, KernelError> {
        let mut answers = Vec::with_capacity(requests.len());
        let window = fitting(window, self.room);
        let mut rest = requests;
        while !rest.is_empty() {
            let (now, later) = rest.split_at(window_length(rest, window));
            match self.window(now) {
                Ok(more) => answers.extend(more),
                Err(error) => {
                    self.drain();
                    return Err(error);
                }
            }
            rest = later;
        }
        Ok(answers)
    }

    /// One send, and the answers to all its requests.
    fn window(&mut self, requests: &[Request]) -> Result<Vec<Answer>, KernelError> {
        let doing = "performing steps";
        let size = requests.iter().map(Request::size).sum();
        // Allocated at once: a vector that grows leaves keys behind.
        let mut send = Zeroizing::new(Vec::with_capacity(size));
        let mut open = Window::new(requests, self.sequence.wrapping_add(1));
        for request in requests {
            let sequence = self.next_sequence();
            request.append(&mut send, sequence);
        }
        self.send(&send, doing)?;
        while !open.is_complete() {
            let length = self.receive(doing)?;
            let wiped = Wiped(&mut self.buffer[..length]);
            for message in Messages::of(&mut *wiped.0) {
                open.take(&message?)?;
            }
        }
        Ok(open.into_answers())
    }

    fn next_sequence(&mut self) -> u32 {
        self.sequence = self.sequence.wrapping_add(1);
        self.sequence
    }

    fn send(&self, bytes: &[u8], doing: &str) -> Result<(), KernelError> {
        loop {
            match self.socket.send_to(bytes, &self.kernel, 0) {
                Ok(sent) if sent == bytes.len() => return Ok(()),
                Ok(sent) => {
                    return Err(garbled(format!("{sent} of {} bytes sent", bytes.len())));
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(socket_error(doing, &error)),
            }
        }
    }

    /// One datagram of the kernel, into the buffer.
    fn receive(&mut self, doing: &str) -> Result<usize, KernelError> {
        loop {
            match self.receive_with(RecvFlags::TRUNC) {
                // Only the kernel has port 0.
                Ok((_, from)) if from != 0 => {}
                Ok((length, _)) if length > self.buffer.len() => {
                    return Err(garbled(format!("a datagram of {length} bytes")));
                }
                Ok((length, _)) => return Ok(length),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(socket_error(doing, &error)),
            }
        }
    }

    fn receive_with(&mut self, flags: RecvFlags) -> io::Result<(usize, u32)> {
        let mut space = &mut self.buffer[..];
        let (length, from) = self.socket.recv_from(&mut space, flags.bits() as i32)?;
        Ok((length, from.port_number()))
    }

    /// Reads on until nothing is left: the kernel drops further answers until
    /// an overrun socket is empty (`NETLINK_S_CONGESTED`), and refuses a second
    /// dump while one is half read.
    fn drain(&mut self) {
        let begin = Instant::now();
        while begin.elapsed() < PATIENCE {
            match self.receive_with(RecvFlags::TRUNC | RecvFlags::DONTWAIT) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                // An overrun is reported once, and the messages behind it can be read.
                _ => {}
            }
        }
        self.buffer.as_mut_slice().zeroize();
    }
}

/// Asks for a large receive buffer and returns its size. A host may have a small limit
/// (`net.core.rmem_max`), which CAP_NET_ADMIN passes, except in a user namespace.
fn receive_buffer(socket: &Socket) -> rustix::io::Result<usize> {
    let _ = sockopt::set_socket_recv_buffer_size_force(socket, WISHED_BUFFER)
        .or_else(|_| sockopt::set_socket_recv_buffer_size(socket, WISHED_BUFFER));
    sockopt::socket_recv_buffer_size(socket)
}

/// The number of requests of a window with answers that fit a receive buffer. The smallest buffer
/// of Linux takes two answers, enough for a replacement's delete and add.
fn fitting(window: usize, room: usize) -> usize {
    (window * room / (WINDOW * ACKNOWLEDGEMENT)).clamp(1, window)
}

/// A part of the receive buffer, wiped on every way out.
struct Wiped<'a>(&'a mut [u8]);

impl Drop for Wiped<'_> {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

/// The number of the next requests that go into one send. A request that is joined to its
/// predecessor goes into the same send.
fn window_length(requests: &[Request], window: usize) -> usize {
    let (mut length, mut bytes) = (0, 0);
    for (index, request) in requests.iter().enumerate() {
        bytes += request.size();
        if !request.joined {
            length = index;
        }
        if length > 0 && (index >= window || bytes > WINDOW_BYTES) {
            return length;
        }
    }
    requests.len()
}

/// A dump that is being read.
pub(super) struct Dump<'a, T> {
    sequence: u32,
    answer: u16,
    what: &'a str,
    interrupted: bool,
    /// The objects decoded so far.
    pub list: Vec<T>,
}

impl<'a, T> Dump<'a, T> {
    /// A dump before anything is read.
    pub(super) fn new(sequence: u32, answer: u16, what: &'a str) -> Self {
        Self { sequence, answer, what, interrupted: false, list: Vec::new() }
    }

    /// Takes a datagram in. Returns whether it held the end.
    ///
    /// # Errors
    ///
    /// Any doubt that all of it was understood.
    pub(super) fn take_datagram(
        &mut self,
        datagram: &mut [u8],
        decode: &mut impl FnMut(&mut [u8]) -> Result<Option<T>, KernelError>,
    ) -> Result<bool, KernelError> {
        for message in Messages::of(datagram) {
            if self.take(message?, decode)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Takes a message in. Returns whether it was the last.
    fn take(
        &mut self,
        message: Message<'_>,
        decode: &mut impl FnMut(&mut [u8]) -> Result<Option<T>, KernelError>,
    ) -> Result<bool, KernelError> {
        if message.sequence != self.sequence {
            return Ok(false);
        }
        self.interrupted |= message.flags & NLM_F_DUMP_INTR != 0;
        let ended = match message.kind {
            NLMSG_DONE => wire::done(&message)?.map(|()| true),
            NLMSG_ERROR => wire::acknowledgement(&message)?.map(|()| false),
            kind if kind == self.answer => {
                self.list.extend(decode(message.payload)?);
                return Ok(false);
            }
            kind => return Err(garbled(format!("type {kind:#x} while listing {}", self.what))),
        };
        ended.map_err(|refusal| KernelError::Refused {
            doing: format!("cannot list {}", self.what),
            errno: refusal.errno,
            detail: refusal.text,
        })
    }
}

/// The requests of one send that are still to be answered.
struct Window {
    first: u32,
    slots: Vec<Slot>,
    missing: usize,
}

/// The answers to one request so far.
struct Slot {
    acknowledged: bool,
    outcome: Option<Result<(), Refusal>>,
    object: Option<Zeroizing<Vec<u8>>>,
}

impl Window {
    fn new(requests: &[Request], first: u32) -> Self {
        let slot = |request: &Request| Slot {
            acknowledged: request.acknowledged,
            outcome: None,
            object: None,
        };
        let slots = requests.iter().map(slot).collect();
        Self { first, slots, missing: requests.len() }
    }

    fn is_complete(&self) -> bool {
        self.missing == 0
    }

    /// Assigns a message to its request. A message without one answers a request that was given up,
    /// and is ignored.
    fn take(&mut self, message: &Message<'_>) -> Result<(), KernelError> {
        let index = message.sequence.wrapping_sub(self.first) as usize;
        let Some(slot) = self.slots.get_mut(index) else { return Ok(()) };
        let outcome = match message.kind {
            NLMSG_ERROR => wire::acknowledgement(message)?,
            NLMSG_NOOP | NLMSG_DONE => return Ok(()),
            _ => {
                slot.object = Some(Zeroizing::new(message.payload.to_vec()));
                if slot.acknowledged {
                    return Ok(());
                }
                Ok(())
            }
        };
        if slot.outcome.replace(outcome).is_some() {
            return Err(garbled("two acknowledgements of one request"));
        }
        self.missing -= 1;
        Ok(())
    }

    fn into_answers(self) -> Vec<Answer> {
        self.slots
            .into_iter()
            .filter_map(|slot| Some(Answer { outcome: slot.outcome?, object: slot.object }))
            .collect()
    }
}

fn socket_error(doing: &str, error: &io::Error) -> KernelError {
    if error.raw_os_error() == Some(Errno::ENOBUFS.0) {
        return KernelError::Lost { doing: doing.into() };
    }
    let reason = if error.kind() == io::ErrorKind::WouldBlock {
        format!("no answer within {} s", PATIENCE.as_secs())
    } else {
        error.to_string()
    };
    KernelError::System {
        cause: SystemCause::Other,
        doing: format!("netlink, while {doing}"),
        reason,
    }
}
