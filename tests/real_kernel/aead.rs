//! The kernel's ciphers beside the vectors of Project Wycheproof (tests/vectors/README.md), by
//! AF_ALG.
//!
//! ESP uses `rfc4106(gcm(aes))` and `rfc7539esp(chacha20,poly1305)`, which put a nonce together from
//! the 4 bytes of salt at the end of the key and the 8 bytes of IV in the packet, and authenticate the
//! header before that IV.

use std::{
    fs,
    io::IoSlice,
    os::fd::{AsRawFd, OwnedFd},
};

use nix::{
    errno::Errno,
    sys::socket::{
        AddressFamily, AlgAddr, ControlMessage, MsgFlags, SockFlag, SockType, bind, recv, sendmsg,
        setsockopt, socket, sockopt,
    },
};
use serde::Deserialize;

const TAG: usize = 16;
/// The header of ESP that is authenticated: SPI and sequence number, and with ESN 4 bytes more.
const HEADERS: [usize; 2] = [8, 12];

#[derive(Deserialize)]
struct Vectors {
    tests: Vec<Vector>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Vector {
    tc_id: u32,
    key: String,
    iv: String,
    aad: String,
    msg: String,
    ct: String,
    tag: String,
    result: String,
}

fn vectors(text: &str) -> Vec<Vector> {
    serde_json::from_str::<Vectors>(text).unwrap().tests
}

fn aes_gcm() -> Vec<Vector> {
    vectors(include_str!("../vectors/wycheproof/aes_gcm.json"))
}

fn chacha20_poly1305() -> Vec<Vector> {
    vectors(include_str!("../vectors/wycheproof/chacha20_poly1305.json"))
}

fn bytes(digits: &str) -> Vec<u8> {
    hex::decode(digits).unwrap()
}

/// Where there is this file, as on 7.3, AF_ALG gives ciphers of ESP to nobody while it says 1.
const RESTRICT: &str = "/proc/sys/crypto/af_alg_restrict";

/// AF_ALG without its restriction, which comes back at the end.
struct Unrestricted(Option<String>);

impl Unrestricted {
    fn new() -> Self {
        // The file comes with the module.
        drop(alg_socket());
        let before = fs::read_to_string(RESTRICT).ok();
        if before.is_some() {
            fs::write(RESTRICT, "0").unwrap();
        }
        Self(before)
    }
}

impl Drop for Unrestricted {
    fn drop(&mut self) {
        if let Some(before) = &self.0 {
            fs::write(RESTRICT, before).unwrap();
        }
    }
}

fn alg_socket() -> OwnedFd {
    let socket = socket(AddressFamily::Alg, SockType::SeqPacket, SockFlag::SOCK_CLOEXEC, None);
    socket.unwrap_or_else(|error| panic!("this test needs AF_ALG: {error}"))
}

/// One of the kernel's ciphers with a key. Each operation has a socket of its own.
struct Aead(OwnedFd);

impl Aead {
    fn new(name: &str, key: &[u8]) -> Self {
        let bound = alg_socket();
        bind(bound.as_raw_fd(), &AlgAddr::new("aead", name))
            .unwrap_or_else(|error| panic!("the kernel has no {name} by AF_ALG: {error}"));
        setsockopt(&bound, sockopt::AlgSetKey::default(), &key).unwrap();
        setsockopt(&bound, sockopt::AlgSetAeadAuthSize, &TAG).unwrap();
        Self(bound)
    }

    /// Sends associated data and text through it.
    fn run(&self, operation: i32, iv: &[u8], aad: &[u8], text: &[u8]) -> Result<Vec<u8>, Errno> {
        let socket = rustix::net::accept(&self.0).unwrap();
        let length = aad.len() as u32;
        let control = [
            ControlMessage::AlgSetOp(&operation),
            ControlMessage::AlgSetIv(iv),
            ControlMessage::AlgSetAeadAssoclen(&length),
        ];
        let parts = [aad, text].concat();
        let parts = [IoSlice::new(&parts)];
        sendmsg::<()>(socket.as_raw_fd(), &parts, &control, MsgFlags::empty(), None)?;
        // The kernel gives the associated data back, ahead of the text. Where there is room left, a read
        // would wait for another operation; and a read without any room would do none.
        let mut output = vec![0; aad.len() + text.len() + TAG + 1];
        let read = recv(socket.as_raw_fd(), &mut output, MsgFlags::MSG_DONTWAIT)?;
        output.truncate(read);
        assert_eq!(output[..aad.len()], *aad);
        Ok(output.split_off(aad.len()))
    }

    fn encrypt(&self, iv: &[u8], aad: &[u8], text: &[u8]) -> Vec<u8> {
        self.run(libc::ALG_OP_ENCRYPT, iv, aad, text).unwrap()
    }

    fn decrypt(&self, iv: &[u8], aad: &[u8], sealed: &[u8]) -> Result<Vec<u8>, Errno> {
        self.run(libc::ALG_OP_DECRYPT, iv, aad, sealed)
    }

    /// Compares both ways with a vector. A wrong tag is refused, and nothing of the text is given.
    fn agrees_with(&self, vector: &Vector, iv: &[u8], aad: &[u8]) {
        let number = vector.tc_id;
        let (text, mut sealed) = (bytes(&vector.msg), bytes(&vector.ct));
        sealed.extend(bytes(&vector.tag));
        if vector.result == "invalid" {
            assert_eq!(self.decrypt(iv, aad, &sealed), Err(Errno::EBADMSG), "tcId {number}");
            return;
        }
        assert_eq!(
            hex::encode(self.encrypt(iv, aad, &text)),
            hex::encode(&sealed),
            "tcId {number}"
        );
        assert_eq!(self.decrypt(iv, aad, &sealed), Ok(text), "tcId {number}");
        self.refuses_others(number, iv, aad, &sealed);
    }

    /// One bit at another place, in the packet or before it, is refused.
    fn refuses_others(&self, number: u32, iv: &[u8], aad: &[u8], sealed: &[u8]) {
        for place in [0, sealed.len() / 2, sealed.len() - 1] {
            let mut other = sealed.to_vec();
            other[place] ^= 1;
            assert_eq!(self.decrypt(iv, aad, &other), Err(Errno::EBADMSG), "tcId {number} {place}");
        }
        // An IV alone, behind no header, is not authenticated: its effect is that on the nonce.
        if aad != iv && !aad.is_empty() {
            let mut other = aad.to_vec();
            other[0] ^= 0x80;
            assert_eq!(self.decrypt(iv, &other, sealed), Err(Errno::EBADMSG), "tcId {number}");
        }
    }
}

/// A key with the salt of ESP, the first 4 bytes of the nonce, behind it; and the IV, the other 8.
fn of_esp(vector: &Vector) -> (Vec<u8>, Vec<u8>) {
    let (key, nonce) = (bytes(&vector.key), bytes(&vector.iv));
    ([&key[..], &nonce[..4]].concat(), nonce[4..].to_vec())
}

#[test]
#[ignore = "needs a kernel with ESP: cargo xtask test"]
fn the_kernel_s_aes_gcm_gives_the_packets_of_wycheproof() {
    let _unrestricted = Unrestricted::new();
    let vectors = aes_gcm();
    assert_eq!(vectors.len(), 133);
    for vector in &vectors {
        let aead = Aead::new("gcm(aes)", &bytes(&vector.key));
        aead.agrees_with(vector, &bytes(&vector.iv), &bytes(&vector.aad));
    }
}

/// RFC 4106 wants a header of 8 or 12 bytes, which few vectors have: so each of the others is also
/// compared with `gcm(aes)`, which the test above compares with them.
#[test]
#[ignore = "needs a kernel with ESP: cargo xtask test"]
fn the_kernel_s_aes_gcm_of_esp_puts_its_nonce_together_from_salt_and_iv() {
    let _unrestricted = Unrestricted::new();
    let mut published = 0;
    for vector in aes_gcm() {
        let (key, iv) = of_esp(&vector);
        let esp = Aead::new("rfc4106(gcm(aes))", &key);
        let aad = bytes(&vector.aad);
        if HEADERS.contains(&aad.len()) {
            esp.agrees_with(&vector, &iv, &[&aad[..], &iv].concat());
            published += 1;
        }
        let gcm = Aead::new("gcm(aes)", &bytes(&vector.key));
        for header in HEADERS {
            let header: Vec<u8> = (1..=header as u8).collect();
            let text = bytes(&vector.msg);
            let sealed = gcm.encrypt(&bytes(&vector.iv), &header, &text);
            let aad = [&header[..], &iv].concat();
            assert_eq!(esp.encrypt(&iv, &aad, &text), sealed, "tcId {}", vector.tc_id);
            assert_eq!(esp.decrypt(&iv, &aad, &sealed), Ok(text), "tcId {}", vector.tc_id);
            esp.refuses_others(vector.tc_id, &iv, &aad, &sealed);
        }
    }
    assert_eq!(published, 4);
}

#[test]
#[ignore = "needs a kernel with ESP: cargo xtask test"]
fn the_kernel_s_chacha20_poly1305_gives_the_packets_of_wycheproof() {
    let _unrestricted = Unrestricted::new();
    let vectors = chacha20_poly1305();
    assert_eq!(vectors.len(), 316);
    for vector in &vectors {
        let (nonce, aad) = (bytes(&vector.iv), bytes(&vector.aad));
        let aead = Aead::new("rfc7539(chacha20,poly1305)", &bytes(&vector.key));
        aead.agrees_with(vector, &nonce, &aad);
        let (key, iv) = of_esp(vector);
        let esp = Aead::new("rfc7539esp(chacha20,poly1305)", &key);
        esp.agrees_with(vector, &iv, &[&aad[..], &iv].concat());
    }
}
