//! Pings (ICMP echo) to peers, and the largest packets that are answered.
//!
//! The only packets that this program ever sends to another host, and only where it is asked to. A
//! ping socket needs no privilege where `net.ipv4.ping_group_range` allows it; a raw one needs
//! CAP_NET_RAW. An answer counts if it holds the random bytes of its question.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
    os::fd::OwnedFd,
    time::{Duration, Instant},
};

use rustix::{
    io::Errno,
    net::{
        AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, bind, ipproto, recvfrom,
        sendto, socket_with, sockopt,
    },
};

use crate::{
    kernel::{KernelError, SystemCause},
    model::Probe,
};

/// The length of a small ping, its IP header included.
const SMALL: u32 = 84;
/// How long answers are waited for at least.
const PATIENCE: Duration = Duration::from_millis(1000);
/// The same where another packet of this peer was answered.
const LEAST_PATIENCE: Duration = Duration::from_millis(300);
/// The time in which a socket looks for an answer before it looks at the clock.
const POLL: Duration = Duration::from_millis(20);
/// The number of packets that are sent before answers are taken.
const BURST: usize = 64;
/// The number of peers whose path is measured to the byte.
const MOST_MEASURED: usize = 32;
/// The random bytes that an answer must hold, and where they begin behind the header of ICMP.
const NONCE: usize = 8;
const ICMP_HEADER: usize = 8;

/// A socket for pings from one address.
pub struct Pinger {
    socket: OwnedFd,
    local: IpAddr,
    /// Whether packets come with their IP header.
    has_header: bool,
    nonce: [u8; NONCE],
}

/// A ping of a length, its IP header included.
type Ping = (IpAddr, u32);

impl Pinger {
    /// Opens one.
    ///
    /// # Errors
    ///
    /// [`KernelError::System`] where neither kind of socket is allowed.
    pub fn open(local: IpAddr) -> Result<Self, KernelError> {
        let failed = |reason: String| KernelError::System {
            cause: SystemCause::Other,
            doing: "cannot send pings".into(),
            reason,
        };
        let (socket, has_header) = socket(local).map_err(|errno| {
            failed(format!("{errno}; run as root (sudo), or widen net.ipv4.ping_group_range"))
        })?;
        let mut nonce = [0; NONCE];
        getrandom::fill(&mut nonce).map_err(|error| failed(error.to_string()))?;
        let pinger = Self { socket, local, has_header, nonce };
        pinger.set_up().map_err(|errno| failed(errno.to_string()))?;
        Ok(pinger)
    }

    /// Every packet says that it must not be fragmented, whatever the kernel knows of the path.
    fn set_up(&self) -> Result<(), Errno> {
        match self.local {
            IpAddr::V4(_) => {
                sockopt::set_ip_mtu_discover(&self.socket, sockopt::Ipv4PathMtuDiscovery::PROBE)?
            }
            IpAddr::V6(_) => {
                sockopt::set_ipv6_mtu_discover(&self.socket, sockopt::Ipv6PathMtuDiscovery::PROBE)?
            }
        }
        sockopt::set_socket_timeout(&self.socket, sockopt::Timeout::Recv, Some(POLL))?;
        bind(&self.socket, &SocketAddr::new(self.local, 0))
    }

    /// Pings peers, and those that answer with the largest packet that their device takes.
    pub fn probe(&self, peers: &[Ping]) -> BTreeMap<IpAddr, Probe> {
        let small: Vec<Ping> = peers.iter().map(|(to, _)| (*to, SMALL)).collect();
        let mut probes: BTreeMap<IpAddr, Probe> =
            peers.iter().map(|(to, _)| (*to, Probe::default())).collect();
        let begun = Instant::now();
        self.round_twice(&small, PATIENCE, &mut probes);
        let patience = (begun.elapsed() * 3).clamp(LEAST_PATIENCE, PATIENCE);
        let answers = |to: &IpAddr, probes: &BTreeMap<IpAddr, Probe>| {
            probes.get(to).is_some_and(|probe| probe.answers == Some(true))
        };
        let large: Vec<Ping> = peers
            .iter()
            .filter(|(to, mtu)| answers(to, &probes) && *mtu > SMALL)
            .copied()
            .collect();
        self.round_twice(&large, patience, &mut probes);
        for _ in 0..u32::BITS {
            let between = |(to, probe): (&IpAddr, &Probe)| {
                let (passed, lost) = (probe.passed?, probe.lost?);
                (lost - passed > 1).then_some((*to, passed.midpoint(lost)))
            };
            let next: Vec<Ping> = probes.iter().filter_map(between).take(MOST_MEASURED).collect();
            if next.is_empty() {
                break;
            }
            self.round(&next, patience, &mut probes);
        }
        probes
    }

    /// One round, and another of the pings without an answer: one packet may be lost by chance.
    fn round_twice(&self, pings: &[Ping], time: Duration, probes: &mut BTreeMap<IpAddr, Probe>) {
        let is_lost = |(to, length): &&Ping, probes: &BTreeMap<IpAddr, Probe>| {
            probes[to].failure.is_none() && probes[to].passed < Some(*length)
        };
        self.round(pings, time, probes);
        let again: Vec<Ping> = pings.iter().filter(|ping| is_lost(ping, probes)).copied().collect();
        for (to, _) in &again {
            probes.entry(*to).or_default().lost = None;
        }
        self.round(&again, time, probes);
    }

    /// Sends pings, waits for the answers, and notes both.
    fn round(&self, pings: &[Ping], time: Duration, probes: &mut BTreeMap<IpAddr, Probe>) {
        let mut left = BTreeSet::new();
        for burst in pings.chunks(BURST) {
            for (to, length) in burst {
                let probe = probes.entry(*to).or_default();
                match self.send(*to, *length) {
                    Ok(()) => drop(left.insert((*to, *length))),
                    Err(Errno::MSGSIZE) => probe.lose(*length),
                    Err(errno) => probe.failure = Some(refusal(errno)),
                }
            }
            self.take_answers(Duration::ZERO, &mut left, probes);
        }
        self.take_answers(time, &mut left, probes);
        for (to, length) in left {
            probes.entry(to).or_default().lose(length);
        }
    }

    fn send(&self, to: IpAddr, length: u32) -> Result<(), Errno> {
        let body = self.request(to, length);
        sendto(&self.socket, &body, SendFlags::empty(), &SocketAddr::new(to, 0)).map(drop)
    }

    /// An echo request, which makes an IP packet of this length.
    fn request(&self, to: IpAddr, length: u32) -> Vec<u8> {
        let (kind, header) = if to.is_ipv4() { (8, 20) } else { (128, 40) };
        let mut body = vec![0; (length as usize).saturating_sub(header).max(ICMP_HEADER + NONCE)];
        body[0] = kind;
        // The identifier, which a ping socket sets itself.
        body[4..6].copy_from_slice(&self.nonce[..2]);
        body[6..8].copy_from_slice(&(length as u16).to_be_bytes());
        body[ICMP_HEADER..ICMP_HEADER + NONCE].copy_from_slice(&self.nonce);
        // That of ICMPv6 covers addresses, and the kernel makes it.
        if to.is_ipv4() {
            let sum = checksum(&body);
            body[2..4].copy_from_slice(&sum.to_be_bytes());
        }
        body
    }

    /// Takes answers until all have come, or time is up.
    fn take_answers(
        &self,
        time: Duration,
        left: &mut BTreeSet<Ping>,
        probes: &mut BTreeMap<IpAddr, Probe>,
    ) {
        let until = Instant::now() + time;
        let mut buffer = vec![0; 1 << 16];
        let flags = if time.is_zero() { RecvFlags::DONTWAIT } else { RecvFlags::empty() };
        while !left.is_empty() {
            let come = recvfrom(&self.socket, &mut buffer, flags);
            if let Ok((_, length, Some(from))) = &come
                && let Ok(from) = SocketAddr::try_from(from.clone())
                && let Some(length) = self.answered(&buffer[..*length])
                && left.remove(&(from.ip(), length))
            {
                let probe = probes.entry(from.ip()).or_default();
                probe.answers = Some(true);
                probe.passed = probe.passed.max(Some(length));
            }
            // Errors, such as of ICMP, are news of no answer.
            if Instant::now() >= until && (time > Duration::ZERO || come.is_err()) {
                return;
            }
        }
    }

    /// The length of the ping that a packet answers.
    fn answered(&self, packet: &[u8]) -> Option<u32> {
        let skipped = if self.has_header { usize::from(packet.first()? & 15) * 4 } else { 0 };
        let body = packet.get(skipped..)?;
        let kind = if self.local.is_ipv4() { 0 } else { 129 };
        let is_ours = *body.first()? == kind
            && body.get(ICMP_HEADER..ICMP_HEADER + NONCE)? == self.nonce.as_slice();
        let length = u16::from_be_bytes(*body.get(6..8)?.first_chunk()?);
        is_ours.then_some(u32::from(length))
    }
}

impl Probe {
    fn lose(&mut self, length: u32) {
        self.lost = Some(self.lost.map_or(length, |lost| lost.min(length)));
        self.answers.get_or_insert(false);
    }
}

/// A ping socket, or else a raw one; and whether packets come with their IP header.
fn socket(local: IpAddr) -> Result<(OwnedFd, bool), Errno> {
    let (family, protocol) = match local {
        IpAddr::V4(_) => (AddressFamily::INET, ipproto::ICMP),
        IpAddr::V6(_) => (AddressFamily::INET6, ipproto::ICMPV6),
    };
    let open = |kind| socket_with(family, kind, SocketFlags::CLOEXEC, Some(protocol));
    match open(SocketType::DGRAM) {
        Ok(socket) => Ok((socket, false)),
        Err(_) => open(SocketType::RAW).map(|socket| (socket, local.is_ipv4())),
    }
}

/// Why a packet could not be sent.
fn refusal(errno: Errno) -> String {
    match errno {
        Errno::PERM => "EPERM: a firewall or a policy of this host drops it".into(),
        other => std::io::Error::from(other).to_string(),
    }
}

/// RFC 1071.
fn checksum(bytes: &[u8]) -> u16 {
    let words = bytes
        .chunks(2)
        .map(|pair| u64::from(pair[0]) << 8 | pair.get(1).copied().map_or(0, u64::from));
    let mut sum: u64 = words.sum();
    while sum > 0xffff {
        sum = (sum >> 16) + (sum & 0xffff);
    }
    !(sum as u16)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_checksum_is_that_of_the_rfc() {
        // The example of RFC 1071, section 3, and an odd byte.
        assert_eq!(checksum(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]), !0xddf2);
        assert_eq!(checksum(&[1]), !0x0100);
    }

    #[test]
    fn an_answer_holds_the_random_bytes_of_its_question() {
        let socket = rustix::net::socket(AddressFamily::INET, SocketType::DGRAM, None).unwrap();
        let local = "192.0.2.1".parse().unwrap();
        let pinger = Pinger { socket, local, has_header: true, nonce: [7; NONCE] };
        let mut packet = vec![0x45];
        packet.resize(20, 0);
        packet.extend(pinger.request("192.0.2.2".parse().unwrap(), 1500));
        assert_eq!(packet.len(), 1500);
        assert_eq!(checksum(&packet[20..]), 0, "the sum of all is right");
        assert_eq!(pinger.answered(&packet), None, "a question");
        packet[20] = 0;
        assert_eq!(pinger.answered(&packet), Some(1500));
        packet[20 + ICMP_HEADER] = 8;
        assert_eq!(pinger.answered(&packet), None, "the answer of another");
        assert_eq!(pinger.answered(&packet[..21]), None);
        assert_eq!(pinger.answered(&[]), None);
    }
}
