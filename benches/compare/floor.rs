//! The work that can't be left out, and nothing else: a dump read to its end, requests sent and
//! acknowledged, and keys derived. None of it checks or keeps anything.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    hint::black_box,
    path::Path,
};

use hkdf::Hkdf;
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_XFRM};
use sha2::{Digest, Sha256};
use x25519_dalek::{PublicKey, StaticSecret};

use crate::mesh::{GENERATION, MESH, SECRET, private_key};

/// `XFRM_MSG_NEWSA` and `XFRM_MSG_NEWPOLICY`, each followed by the delete and the get.
pub const NEW_SA: u16 = 0x10;
pub const NEW_POLICY: u16 = 0x13;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
/// `NLM_F_REQUEST`, with `NLM_F_DUMP`, or with `NLM_F_ACK`, `NLM_F_EXCL` and `NLM_F_CREATE`.
const DUMP: u16 = 0x301;
const CREATE: u16 = 0x605;
/// Requests of one send: their acknowledgements fit the default receive buffer.
const WINDOW: usize = 128;
const HEADER: usize = 16;

/// An XFRM socket in the namespace of the calling thread.
fn socket() -> Socket {
    let mut socket = Socket::new(NETLINK_XFRM).expect("a kernel with XFRM");
    socket.bind_auto().expect("a port");
    socket.set_cap_ack(true).expect("short acknowledgements");
    socket.connect(&SocketAddr::new(0, 0)).expect("the kernel has port 0");
    socket
}

/// A message: its header, then the payload.
fn message(kind: u16, flags: u16, payload: &[u8]) -> Vec<u8> {
    let length = (HEADER + payload.len()) as u32;
    let mut message = Vec::from(length.to_ne_bytes());
    message.extend([kind.to_ne_bytes(), flags.to_ne_bytes()].concat());
    message.extend([0; 8]);
    message.extend(payload);
    message
}

/// The messages of a datagram, as types and payloads.
fn messages(mut datagram: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = u32::from_ne_bytes(datagram.get(..4)?.try_into().ok()?) as usize;
        let kind = u16::from_ne_bytes(datagram.get(4..6)?.try_into().ok()?);
        let payload = datagram.get(HEADER..length)?;
        datagram = &datagram[length.next_multiple_of(4).min(datagram.len())..];
        Some((kind, payload))
    })
}

/// Reads all SAs, or all policies.
pub fn dump(new: u16, mut each: impl FnMut(&[u8])) {
    let socket = socket();
    socket.send(&message(new + 2, DUMP, &[]), 0).expect("a request is sent");
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let length = socket.recv(&mut &mut buffer[..], 0).expect("an answer");
        for (kind, payload) in messages(&buffer[..length]) {
            match kind {
                NLMSG_DONE => return,
                kind if kind == new => each(payload),
                kind => panic!("a message of type {kind} in a dump"),
            }
        }
    }
}

/// Reads all SAs and policies, and drops them.
pub fn read_all() {
    for new in [NEW_SA, NEW_POLICY] {
        dump(new, |payload| {
            black_box(payload);
        });
    }
}

/// The requests that make the objects of this namespace again, each after its length.
pub fn requests() -> Vec<u8> {
    let mut all = Vec::new();
    for new in [NEW_SA, NEW_POLICY] {
        dump(new, |payload| {
            let mut payload = payload.to_vec();
            if new == NEW_POLICY {
                // The kernel gives the index of `struct xfrm_userpolicy_info`.
                payload[156..160].fill(0);
            }
            all.extend(message(new, CREATE, &payload));
        });
    }
    all
}

/// The requests for foreign SAs: the first SA of this namespace, to other hosts.
pub fn foreign(count: u32) -> Vec<u8> {
    let mut model = Vec::new();
    dump(NEW_SA, |payload| {
        if model.is_empty() {
            model = payload.to_vec();
        }
    });
    let mut all = Vec::new();
    for number in 0..count {
        let host = (0xac10_0000 + number).to_be_bytes();
        // Of `struct xfrm_usersa_info`: the selector's and the SA's destination, SPI and reqid.
        model[..4].copy_from_slice(&host);
        model[56..60].copy_from_slice(&host);
        model[72..76].copy_from_slice(&(0x1000 + number).to_be_bytes());
        model[208..212].copy_from_slice(&7_u32.to_ne_bytes());
        all.extend(message(NEW_SA, CREATE, &model));
    }
    all
}

/// The requests for inbound SAs of all other generations that an SPI can tell, beside those of this
/// namespace, as somebody who raises and lowers `generation` by hand would leave them.
pub fn generations(local: [u8; 4]) -> Vec<u8> {
    let (mut there, mut models) = (BTreeSet::new(), BTreeMap::new());
    dump(NEW_SA, |payload| {
        let spi = u32::from_be_bytes(payload[72..76].try_into().expect("four bytes"));
        there.insert((payload[56..60].to_vec(), spi));
        if payload[56..60] == local {
            models.insert(spi & 0xff_ffff, payload.to_vec());
        }
    });
    let mut all = Vec::new();
    for (ends, mut model) in models {
        for generation in 0..32 {
            let spi: u32 = 0x8000_0000 | generation << 26 | ends;
            if !there.contains(&(local.to_vec(), spi)) {
                model[72..76].copy_from_slice(&spi.to_be_bytes());
                all.extend(message(NEW_SA, CREATE, &model));
            }
        }
    }
    all
}

/// Sends the requests of a file, and waits for the acknowledgement of each.
pub fn send(file: &Path) {
    let requests = fs::read(file).expect("a file of requests");
    let socket = socket();
    let mut buffer = vec![0; 64 * 1024];
    let mut rest = &requests[..];
    while !rest.is_empty() {
        let (mut end, mut count) = (0, 0);
        for (_, payload) in messages(rest).take(WINDOW) {
            end += HEADER + payload.len();
            count += 1;
        }
        socket.send(&rest[..end], 0).expect("requests are sent");
        while count > 0 {
            let length = socket.recv(&mut &mut buffer[..], 0).expect("an acknowledgement");
            for (kind, payload) in messages(&buffer[..length]) {
                assert_eq!((kind, &payload[..4]), (NLMSG_ERROR, &[0; 4][..]), "a refusal");
                count -= 1;
            }
        }
        rest = &rest[end..];
    }
}

/// RFC 5869.
fn hkdf(salt: &[u8], ikm: &[u8], info: &[&[u8]], okm: &mut [u8]) {
    Hkdf::<Sha256>::new(Some(salt), ikm).expand_multi_info(info, okm).expect("a short key");
}

/// The keys of the first host's SAs with this many peers: inbound for three generations, and
/// outbound for one.
pub fn keys(peers: u16, mut each: impl FnMut(&[u8; 36])) {
    let digest = Sha256::digest(MESH);
    for peer in 1..=peers {
        let mut session = [0; 32];
        let info = [&b"meshsec/v1 psk"[..], &digest, &[0, 0], &peer.to_be_bytes()];
        hkdf(&[], &SECRET, &info, &mut session);
        esp_keys(&session, peer, &mut each);
    }
}

/// The same where each pair agrees on a secret by X25519.
pub fn keys_of_pairs(peers: u16) {
    let digest = Sha256::digest(MESH);
    let own = StaticSecret::from(private_key(0));
    let own_public = PublicKey::from(&own);
    for peer in 1..=peers {
        // Any point costs the same.
        let point = PublicKey::from(Sha256::digest(peer.to_be_bytes()).0);
        let mut ikm = [0; 64];
        ikm[..32].copy_from_slice(own.diffie_hellman(&point).as_bytes());
        let mut session = [0; 32];
        let info = [&b"meshsec/v1 x25519"[..], &digest, own_public.as_bytes(), point.as_bytes()];
        hkdf(&[], &ikm, &info, &mut session);
        esp_keys(&session, peer, &mut |key| {
            black_box(key);
        });
    }
}

fn esp_keys(session: &[u8], peer: u16, each: &mut impl FnMut(&[u8; 36])) {
    let (own, peer) = ([0, 0], peer.to_be_bytes());
    let inbound = (GENERATION - 1..=GENERATION + 1).map(|generation| (generation, peer, own));
    for (generation, from, to) in inbound.chain([(GENERATION, own, peer)]) {
        let mut key = [0; 36];
        let info = [&b"meshsec/v1 esp"[..], &from, &to, b"aes256-gcm"];
        hkdf(&generation.to_be_bytes(), session, &info, &mut key);
        each(&key);
    }
}
