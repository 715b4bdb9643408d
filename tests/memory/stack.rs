//! Bytes left on the stack by functions that have returned: other values take them along to the
//! heap, and a swapped page to the disk.

use std::{
    fs::{self, File},
    hint::black_box,
    os::unix::fs::FileExt,
    thread,
};

use meshsec::{
    keys::{Ratchet, Session},
    model::{Cipher, Fingerprint, Generation, Key, MeshName, PrivateKey, ShortId},
};

use crate::secrets::{self, Wanted, forms, marked};

/// How far below a caller it is looked. Nothing here goes deeper.
const DEEP: usize = 256 << 10;

/// The stack of the calling thread, below a place in it.
struct Stack {
    memory: File,
    /// Where the thread's stack begins, and nothing can be read below.
    lowest: u64,
    found: Vec<u8>,
}

impl Stack {
    fn of_this_thread() -> Self {
        let here = place();
        let maps = fs::read_to_string("/proc/self/maps").unwrap();
        let range = |line: &str| {
            let (begin, end) = line.split_once(' ')?.0.split_once('-')?;
            let number = |text| u64::from_str_radix(text, 16).ok();
            Some(number(begin)?..number(end)?)
        };
        let mut ranges = maps.lines().filter_map(range);
        let lowest = ranges.find(|range| range.contains(&here)).unwrap().start;
        let memory = File::open("/proc/self/mem").unwrap();
        Self { memory, lowest, found: vec![0; DEEP] }
    }

    /// Reads the stack below the caller, but for the little that this takes itself.
    #[inline(never)]
    fn read(&mut self) {
        let begin = self.lowest.max(place() - DEEP as u64);
        self.memory.read_exact_at(&mut self.found, begin).unwrap();
    }
}

#[inline(never)]
fn place() -> u64 {
    let here = 0u8;
    (&raw const here).addr() as u64
}

/// Covers the bytes that others have left where this thread's stack is.
#[inline(never)]
fn cover() {
    black_box(&mut [0x11u8; DEEP]).fill(0x22);
}

/// With a frame of its own.
#[inline(never)]
fn called<T>(work: impl FnOnce() -> T) -> T {
    black_box(work())
}

/// Those of some secrets that are on the stack after a piece of work, which itself has them on the
/// heap alone.
fn left_by<T>(secrets: Vec<(String, Vec<u8>)>, work: impl FnOnce() -> T + Send) -> Vec<String> {
    let wanted = Wanted::new(secrets);
    thread::scope(|scope| {
        let looking = scope.spawn(move || {
            let mut stack = Stack::of_this_thread();
            called(cover);
            let done = called(work);
            stack.read();
            drop(done);
            wanted.within(&stack.found).into_iter().map(String::from).collect()
        });
        looking.join().unwrap()
    })
}

#[track_caller]
fn leaves_nothing<T>(secrets: Vec<(String, Vec<u8>)>, work: impl FnOnce() -> T + Send) {
    let found = left_by(secrets, work);
    assert!(found.is_empty(), "it leaves {found:?}");
}

fn id(number: u16) -> ShortId {
    ShortId::new(number).unwrap()
}

/// Traces of this kind can be seen: HKDF by itself leaves them there.
#[test]
fn cryptography_leaves_secrets_on_the_stack_if_nobody_wipes_it() {
    let (key, name) = (Key::new(Box::new(marked(20))), MeshName::new("lab").unwrap());
    let secrets = secrets::of_mesh_key(&marked(20), [1, 2], 5);
    let found = left_by(secrets, || Session::from_mesh_key(&key, &name, id(1), id(2)));
    assert!(!found.is_empty());
}

#[test]
fn a_fingerprint_leaves_nothing_of_its_key_on_the_stack() {
    let key = Key::new(Box::new(marked(21)));
    leaves_nothing(forms("the key", &marked(21)), || Fingerprint::of(key.expose()));
}

/// As for each SA: other values go to the heap between one key and the next.
#[test]
fn a_key_and_its_fingerprint_leave_nothing_of_what_they_follow_from() {
    let (mesh_key, name) = (Key::new(Box::new(marked(20))), MeshName::new("lab").unwrap());
    let generation = Generation::new(5).unwrap();
    leaves_nothing(secrets::of_mesh_key(&marked(20), [1, 2], 5), || {
        let session = Session::from_mesh_key(&mesh_key, &name, id(1), id(2));
        let key = session.keymat(id(1), id(2), generation, Cipher::Aes256Gcm);
        (key.fingerprint(), key, session)
    });
}

#[test]
fn x25519_leaves_nothing_of_its_keys_on_the_stack() {
    let own = Box::new(marked(22));
    let peer = PrivateKey::new(&marked(23)).public_key();
    let agreed = PrivateKey::new(&own).agree(&peer).unwrap();
    let mut secrets = forms("the private key", &own[..]);
    secrets.extend(forms("what the two agree on", &agreed[..]));
    leaves_nothing(secrets.clone(), || PrivateKey::new(&own));
    let private = PrivateKey::new(&own);
    leaves_nothing(secrets.clone(), || private.public_key());
    leaves_nothing(secrets, || private.agree(&peer));
}

#[test]
fn a_ratchet_leaves_nothing_of_its_chain_on_the_stack() {
    let (key, name) = (Key::new(Box::new(marked(21))), MeshName::new("lab").unwrap());
    let at = |ratchet: &Ratchet, generation| ratchet.at(Generation::new(generation).unwrap());
    let begin = Ratchet::begin(&key, &name);
    let chain = |generation| {
        let text = at(&begin, generation).unwrap().text();
        let chain = text.lines().find_map(|line| line.strip_prefix("chain ")).unwrap();
        forms("a chain key", &hex::decode(chain).unwrap())
    };
    let mut secrets = forms("the mesh key", &marked(21));
    secrets.extend((0..=3).flat_map(chain));
    leaves_nothing(secrets.clone(), || Ratchet::begin(&key, &name));
    leaves_nothing(secrets, || at(&begin, 3));
}
