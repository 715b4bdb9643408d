//! ESP in UDP (RFC 3948): the socket that takes it in, and whether there is one.
//!
//! A kernel sends ESP in UDP without a socket. It takes it in only at a socket with `UDP_ENCAP`,
//! which somebody has to hold. Here that is a socket unit of systemd: [`set_up`] prepares the sockets
//! that the unit passes, and they keep the options when this process ends.
//!
//! Nothing lists the option, so [`observe`] sends the host a few datagrams that look like ESP, with an
//! SPI that no SA has. The kernel counts each as `XfrmInNoStates` if it takes them for ESP.

use std::{
    collections::BTreeSet,
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    os::fd::{AsFd, AsRawFd, BorrowedFd},
    path::Path,
    thread,
    time::{Duration, Instant},
};

use rustix::net::{RecvFlags, SocketType, ipproto, recv, sockopt};

use super::host::{counters, read_if_any};
use crate::{
    kernel::{KernelError, SystemCause},
    model::{Answers, EncapSocket, IPPROTO_ESP, Sa, Spi},
};

/// `XfrmInNoStates`: no SA was found for a packet.
const NO_STATE: &str = "XfrmInNoStates";
/// The length of each. The kernel takes none for ESP that is shorter than 40 bytes over IPv6, or 36
/// over IPv4 (seen on 6.12).
const LENGTH: usize = 64;
/// The time before a probe in which nobody else's packet may be refused.
const QUIET: Duration = Duration::from_millis(10);
/// The time given to a datagram to come in. It crosses no device but lo.
const PATIENCE: Duration = Duration::from_millis(100);

/// Looks whether ESP to a port of the host gets to the kernel's IPsec. `local` is the address that
/// peers send to, `vrf` the VRF that it is in, and `sas` are all SAs of the host.
///
/// Whatever can't be read, or sent, is [`Answers::Unknown`].
pub(super) fn observe(port: u16, (local, vrf): (IpAddr, Option<&str>), sas: &[Sa]) -> EncapSocket {
    let bound = match bound_addresses(port) {
        Ok(Some(bound)) => bound,
        Ok(None) | Err(_) => {
            return EncapSocket { port, answers: Answers::Unknown, is_bound: false };
        }
    };
    let Some(to) = hearing(&bound, local) else {
        // One of the other family leaves the port free.
        let is_bound = bound.iter().any(|address| address.is_ipv4() == local.is_ipv4());
        return EncapSocket { port, answers: Answers::No, is_bound };
    };
    // Before the first SA of the family the kernel may not have loaded ESP, which counts.
    let has_esp = sas.iter().any(|sa| {
        sa.id.proto == IPPROTO_ESP && sa.id.dst.is_ipv4() == local.is_ipv4() && !sa.is_larval()
    });
    let spi = unused_spi(sas);
    // A VRF has no loopback address, and what comes by it gets to other sockets.
    let to = if vrf.is_some() { local } else { to };
    let answers = match probe(SocketAddr::new(to, port), vrf, spi) {
        Ok(Some(true)) => Answers::Yes,
        Ok(Some(false)) if has_esp => Answers::No,
        // Of IPv6 alone, that socket does not hear IPv4.
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            return EncapSocket { port, answers: Answers::No, is_bound: false };
        }
        Ok(Some(false) | None) | Err(_) => Answers::Unknown,
    };
    EncapSocket { port, answers, is_bound: true }
}

/// The address at which to ask: a socket of the very address gets its datagrams before one of all
/// addresses, which hears loopback too. A process under systemd may send to loopback alone.
fn hearing(bound: &BTreeSet<IpAddr>, local: IpAddr) -> Option<IpAddr> {
    let (any, loopback) = match local {
        IpAddr::V4(_) => (Ipv4Addr::UNSPECIFIED.into(), Ipv4Addr::LOCALHOST.into()),
        IpAddr::V6(_) => (Ipv6Addr::UNSPECIFIED.into(), Ipv6Addr::LOCALHOST.into()),
    };
    let of_both_families = IpAddr::from(Ipv6Addr::UNSPECIFIED);
    if bound.contains(&local) {
        Some(local)
    } else if bound.contains(&any) || bound.contains(&of_both_families) {
        Some(loopback)
    } else {
        None
    }
}

/// The addresses of UDP sockets with a port; `None` where the kernel doesn't tell.
fn bound_addresses(port: u16) -> Result<Option<BTreeSet<IpAddr>>, KernelError> {
    let Some(of_four) = read_if_any(Path::new("/proc/thread-self/net/udp"))? else {
        return Ok(None);
    };
    // Without IPv6 there is no such file.
    let of_six = read_if_any(Path::new("/proc/thread-self/net/udp6"))?.unwrap_or_default();
    let lines = of_four.lines().chain(of_six.lines());
    let bound = lines.filter_map(bound).filter(|(_, at)| *at == port);
    Ok(Some(bound.map(|(address, _)| address).collect()))
}

/// The local end in a line of `/proc/net/udp` or `udp6`: 32-bit words in the host's order, in hex.
fn bound(line: &str) -> Option<(IpAddr, u16)> {
    let (address, port) = line.split_whitespace().nth(1)?.split_once(':')?;
    let words = (0..address.len() / 8).map(|word| address.get(word * 8..word * 8 + 8));
    let words = words.map(|word| Some(u32::from_str_radix(word?, 16).ok()?.to_ne_bytes()));
    let words: Vec<[u8; 4]> = words.collect::<Option<_>>()?;
    let address = match words.as_slice() {
        [four] => IpAddr::from(*four),
        [_, _, _, _] => IpAddr::from(<[u8; 16]>::try_from(words.concat()).ok()?),
        _ => return None,
    };
    Some((address, u16::from_str_radix(port, 16).ok()?))
}

/// An SPI that no SA of the host has. The highest has a lane that no mesh uses.
fn unused_spi(sas: &[Sa]) -> Spi {
    let taken: BTreeSet<u32> = sas.iter().map(|sa| sa.id.spi.raw()).collect();
    let free = (0..=u32::MAX).rev().find(|spi| !taken.contains(spi));
    Spi::from_raw(free.unwrap_or(u32::MAX))
}

/// Whether datagrams to there are taken for ESP; `None` where the kernel has no counters.
fn probe(to: SocketAddr, vrf: Option<&str>, spi: Spi) -> io::Result<Option<bool>> {
    let any: IpAddr = match to.ip() {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let Some(before) = refused()? else { return Ok(None) };
    // Where others are refused all the time, nothing can be told.
    thread::sleep(QUIET);
    if refused()? != Some(before) {
        return Ok(None);
    }
    let socket = UdpSocket::bind((any, 0))?;
    if let Some(vrf) = vrf {
        let mut name = [0; libc::IFNAMSIZ];
        name.iter_mut().zip(vrf.bytes()).for_each(|(to, byte)| *to = byte);
        set(socket.as_fd(), libc::SOL_SOCKET, libc::SO_BINDTODEVICE, &name)?;
    }
    // A connected socket hears that the port is free.
    socket.connect(to)?;
    let mut datagram = [0; LENGTH];
    datagram[..4].copy_from_slice(&spi.raw().to_be_bytes());
    for _ in 0..EncapSocket::DATAGRAMS {
        socket.send(&datagram)?;
    }
    let begun = Instant::now();
    loop {
        let Some(now) = refused()? else { return Ok(None) };
        if now >= before + EncapSocket::DATAGRAMS {
            let taken = begun.elapsed();
            if taken < QUIET {
                return Ok(Some(true));
            }
            // Not others' packets, if as long again brings none.
            thread::sleep(taken);
            return Ok((refused()? == Some(now)).then_some(true));
        }
        if let Some(error) = socket.take_error()? {
            return Err(error);
        }
        if begun.elapsed() > PATIENCE {
            return Ok(Some(false));
        }
        thread::sleep(Duration::from_millis(5));
    }
}

/// The number of packets for which no SA was found.
fn refused() -> io::Result<Option<u64>> {
    let counters = counters().map_err(|error| io::Error::other(error.to_string()))?;
    Ok(counters.map(|counters| counters.get(NO_STATE).copied().unwrap_or(0)))
}

/// The first descriptor that systemd passes (`SD_LISTEN_FDS_START`).
const FIRST: i32 = 3;
/// The largest number of sockets that are set up.
const MOST: i32 = 16;

/// Makes the sockets that systemd has passed take ESP out of UDP, and drop everything else: a filter
/// refuses all, behind the look for ESP, so that no datagram ever wakes the unit. What came before is
/// thrown away, for a socket that stays readable would start the unit again and again. Returns the
/// number of sockets.
///
/// # Errors
///
/// [`KernelError::System`] if there are none, one is not a UDP socket, or the kernel refuses.
pub fn set_up(passed: &str) -> Result<i32, KernelError> {
    let failed = |reason: String| KernelError::System {
        cause: SystemCause::Other,
        doing: "cannot set up the sockets for ESP in UDP".into(),
        reason,
    };
    let count = passed.parse().ok().filter(|count| (1..=MOST).contains(count));
    let count = count.ok_or_else(|| failed(format!("LISTEN_FDS is {passed:?}")))?;
    for number in FIRST..FIRST + count {
        set_up_one(number).map_err(|error| failed(format!("descriptor {number}: {error}")))?;
    }
    Ok(count)
}

#[allow(unsafe_code, reason = "a descriptor that another process has opened is a number")]
fn set_up_one(number: i32) -> io::Result<()> {
    // SAFETY: it is used in this function only, where nothing closes it; the kernel answers EBADF
    // where there is none.
    let socket = unsafe { BorrowedFd::borrow_raw(number) };
    let is_udp = sockopt::socket_type(socket)? == SocketType::DGRAM
        && sockopt::socket_protocol(socket)? == Some(ipproto::UDP);
    if !is_udp {
        return Err(io::Error::other("it is not a UDP socket"));
    }
    drop_all(socket)?;
    set(socket, libc::IPPROTO_UDP, libc::UDP_ENCAP, &ESP_IN_UDP)?;
    let mut nothing = [0; 1];
    loop {
        match recv(socket, &mut nothing[..], RecvFlags::DONTWAIT | RecvFlags::TRUNC) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(rustix::io::Errno::AGAIN) => return Ok(()),
            Err(errno) => return Err(errno.into()),
        }
    }
}

/// Attaches the filter `ret 0`.
fn drop_all(socket: BorrowedFd<'_>) -> io::Result<()> {
    let mut refuse_all = [libc::sock_filter { code: RETURN, jt: 0, jf: 0, k: 0 }];
    let program = libc::sock_fprog { len: 1, filter: refuse_all.as_mut_ptr() };
    set(socket, libc::SOL_SOCKET, libc::SO_ATTACH_FILTER, &program)
}

/// `UDP_ENCAP_ESPINUDP`.
const ESP_IN_UDP: libc::c_int = 2;

/// `BPF_RET | BPF_K`: the constant is the number of bytes that pass.
const RETURN: u16 = 0x06;

/// `setsockopt`.
#[allow(unsafe_code, reason = "no library that is kept well has these options")]
fn set<T>(socket: BorrowedFd<'_>, level: i32, name: i32, value: &T) -> io::Result<()> {
    let length = libc::socklen_t::try_from(size_of::<T>()).map_err(io::Error::other)?;
    // SAFETY: the kernel reads `length` bytes of `value`, which outlives the call, and the filter that
    // a `sock_fprog` points to.
    let answer = unsafe {
        libc::setsockopt(socket.as_raw_fd(), level, name, (&raw const *value).cast(), length)
    };
    if answer == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use rustix::net::{AddressFamily, bind};

    use super::*;

    #[test]
    fn the_local_end_of_a_socket_is_read() {
        let line = "  13: 00000000:1194 00000000:0000 07 00000000:00000000 00:00000000 00000000";
        assert_eq!(bound(line), Some((Ipv4Addr::UNSPECIFIED.into(), 4500)));
        if cfg!(target_endian = "little") {
            let line = "  14: 010200C0:1195 00000000:0000 07";
            assert_eq!(bound(line), Some(("192.0.2.1".parse().unwrap(), 4501)));
            let line = "  15: B80D0120000000000000000001000000:1194 0000:0000 07";
            assert_eq!(bound(line), Some(("2001:db8::1".parse().unwrap(), 4500)));
        }
        for line in ["  sl  local_address rem_address", "", "1: 0:1", "1: 00000000 x", "1: zz:1"] {
            assert_eq!(bound(line), None, "{line}");
        }
    }

    #[test]
    fn the_socket_of_the_very_address_is_asked_first() {
        let address = |text: &str| -> IpAddr { text.parse().unwrap() };
        let bound = |all: &[&str]| all.iter().map(|one| address(one)).collect::<BTreeSet<_>>();
        for (sockets, local, asked) in [
            (&["0.0.0.0", "192.0.2.1"][..], "192.0.2.1", Some("192.0.2.1")),
            (&["0.0.0.0"], "192.0.2.1", Some("127.0.0.1")),
            (&["::"], "192.0.2.1", Some("127.0.0.1")),
            (&["::"], "2001:db8::1", Some("::1")),
            (&["0.0.0.0"], "2001:db8::1", None),
            (&["192.0.2.9"], "192.0.2.1", None),
            (&[], "192.0.2.1", None),
        ] {
            assert_eq!(hearing(&bound(sockets), address(local)), asked.map(address), "{sockets:?}");
        }
    }

    #[test]
    fn a_socket_of_another_program_takes_no_esp() {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let port = socket.local_addr().unwrap().port();
        let found = observe(port, (Ipv4Addr::LOCALHOST.into(), None), &[]);
        assert!(found.is_bound && found.answers != Answers::Yes, "{found:?}");
        drop(socket);
        let nobody = EncapSocket { port, answers: Answers::No, is_bound: false };
        let found = observe(port, (Ipv4Addr::LOCALHOST.into(), None), &[]);
        assert_eq!(found, nobody);
    }

    #[test]
    fn a_socket_of_the_other_family_leaves_the_port_free() {
        let of_four = UdpSocket::bind("0.0.0.0:0").unwrap();
        let port = of_four.local_addr().unwrap().port();
        let found = observe(port, (Ipv6Addr::LOCALHOST.into(), None), &[]);
        assert_eq!(found, EncapSocket { port, answers: Answers::No, is_bound: false });
        drop(of_four);
        let of_six = rustix::net::socket(AddressFamily::INET6, SocketType::DGRAM, None).unwrap();
        sockopt::set_ipv6_v6only(&of_six, true).unwrap();
        bind(&of_six, &SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), port)).unwrap();
        let found = observe(port, (Ipv4Addr::LOCALHOST.into(), None), &[]);
        assert_eq!(found, EncapSocket { port, answers: Answers::No, is_bound: false });
    }
}
