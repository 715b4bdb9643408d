//! Secrets that are recognised wherever they turn up, and all that follows from them.
#![allow(dead_code, reason = "every test uses a part of it")]

use base64ct::{Base64, Encoding};
use hkdf::Hkdf;
use sha2::{Digest, Sha256};

/// 32 bytes of a secret, none of them twice.
pub fn marked(number: u8) -> [u8; 32] {
    std::array::from_fn(|i| (i as u8).wrapping_mul(7).wrapping_add(number.wrapping_mul(37)) ^ 0xa5)
}

/// Every way in which a key could be left behind, inverted: its parts of eight
/// bytes raw, in hex, as Rust prints bytes, and as HMAC pads them; and its base64.
pub fn forms(name: &str, key: &[u8]) -> Vec<(String, Vec<u8>)> {
    let mut forms = Vec::new();
    let mut add = |how: &str, bytes: &[u8]| {
        forms.push((format!("{name} ({how})"), bytes.iter().map(|byte| !byte).collect()));
    };
    for part in key.chunks_exact(8) {
        add("raw", part);
        add("in hex", hex::encode(part).as_bytes());
        add("in hex", hex::encode_upper(part).as_bytes());
        for separator in [", ", ","] {
            let numbers: Vec<String> = part.iter().map(u8::to_string).collect();
            add("as numbers", numbers.join(separator).as_bytes());
        }
        for pad in [0x36, 0x5c] {
            add("padded", &part.iter().map(|byte| byte ^ pad).collect::<Vec<_>>());
        }
    }
    let base64 = Base64::encode_string(key);
    for part in base64.as_bytes().chunks_exact(11) {
        add("in base64", part);
    }
    forms
}

/// Bytes to look for, and their name.
pub struct Wanted {
    /// Kept inverted, so that a look at this process's memory does not find them here.
    inverted: Vec<(String, Vec<u8>)>,
    /// Whether one of them begins with these two bytes.
    begins: Vec<bool>,
}

impl Wanted {
    /// Each is given inverted.
    pub fn new(inverted: Vec<(String, Vec<u8>)>) -> Self {
        let mut begins = vec![false; 1 << 16];
        for (_, bytes) in &inverted {
            begins[usize::from(!bytes[0]) << 8 | usize::from(!bytes[1])] = true;
        }
        Self { inverted, begins }
    }

    /// Those that are somewhere in these bytes.
    pub fn within(&self, bytes: &[u8]) -> Vec<&str> {
        let mut found = Vec::new();
        for at in 0..bytes.len().saturating_sub(1) {
            if self.begins[usize::from(bytes[at]) << 8 | usize::from(bytes[at + 1])] {
                let here = |(_, inverted): &&(String, Vec<u8>)| begins_with(&bytes[at..], inverted);
                found.extend(self.inverted.iter().filter(here).map(|(what, _)| what.as_str()));
            }
        }
        found
    }
}

fn begins_with(bytes: &[u8], inverted: &[u8]) -> bool {
    bytes.len() >= inverted.len() && bytes.iter().zip(inverted).all(|(a, b)| *a == !b)
}

/// The secrets of a session between two peers: itself, the extracts of HKDF on the way to it and to
/// the keys, and the keys of a generation's neighbours.
pub fn derived(
    ikm: &[u8],
    info: &[&[u8]],
    ids: [u16; 2],
    generation: u64,
) -> Vec<(String, Vec<u8>)> {
    let mut all = Vec::new();
    let (extracted, session) = hkdf(&[], ikm, info, 32);
    all.extend(forms("what the session is expanded from", &extracted));
    all.extend(forms("the session", &session));
    for generation in generation.saturating_sub(1)..=generation + 1 {
        for [from, to] in [ids, [ids[1], ids[0]]] {
            let info =
                [&b"meshsec/v1 esp"[..], &from.to_be_bytes(), &to.to_be_bytes(), b"aes256-gcm"];
            let (extracted, keymat) = hkdf(&generation.to_be_bytes(), &session, &info, 36);
            all.extend(forms("what a key is expanded from", &extracted));
            all.extend(forms("a key", &keymat[..32]));
            all.extend(forms("a key and its salt", &keymat[4..]));
        }
    }
    all
}

/// All that follows from a mesh key for two peers.
pub fn of_mesh_key(key: &[u8], ids: [u16; 2], generation: u64) -> Vec<(String, Vec<u8>)> {
    let mesh = Sha256::digest("lab");
    let info = [&b"meshsec/v1 psk"[..], &mesh, &ids[0].to_be_bytes(), &ids[1].to_be_bytes()];
    let mut all = forms("the mesh key", key);
    all.extend(derived(key, &info, ids, generation));
    all
}

/// All that follows from a ratchet's chain key of a generation for two peers.
pub fn of_chain(chain: &[u8], ids: [u16; 2], generation: u64) -> Vec<(String, Vec<u8>)> {
    let mesh = Sha256::digest("lab");
    let info =
        [&b"meshsec/v1 ratchet pair"[..], &mesh, &ids[0].to_be_bytes(), &ids[1].to_be_bytes()];
    let mut all = forms("a chain key", chain);
    all.extend(derived(chain, &info, ids, generation));
    all
}

fn hkdf(salt: &[u8], ikm: &[u8], info: &[&[u8]], length: usize) -> (Vec<u8>, Vec<u8>) {
    let (extracted, hkdf) = Hkdf::<Sha256>::extract(Some(salt), ikm);
    let mut okm = vec![0; length];
    hkdf.expand_multi_info(info, &mut okm).expect("it is short");
    (extracted.to_vec(), okm)
}
