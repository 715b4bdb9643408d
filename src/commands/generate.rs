//! `genkey`, `genpsk` and `pubkey`: keys in the form that `wg` prints and reads.

use std::io::{self, Write};

use base64ct::{Base64, Encoding};
use rustix::fs::FileType;
use zeroize::Zeroizing;

use super::{Status, print};
use crate::{
    config,
    error::Error,
    model::{ErrorCode, PrivateKey},
};

/// Far more than a key and the space around it.
const LARGEST_INPUT: usize = 4 << 10;

/// A private key for X25519, clamped as RFC 7748 section 5 says.
pub(super) fn genkey() -> Result<Status, Error> {
    let mut key = random()?;
    key[0] &= 248;
    key[31] = key[31] & 127 | 64;
    print_secret(&key)
}

/// Thirty-two random bytes.
pub(super) fn genpsk() -> Result<Status, Error> {
    print_secret(&*random()?)
}

/// The public key that belongs to the private key on standard input.
pub(super) fn pubkey() -> Result<Status, Error> {
    let private_key = PrivateKey::new(&**secret("private key")?);
    print(&format!("{}\n", private_key.public_key()))?;
    Ok(Status::Done)
}

/// The secret on standard input; `what` names the expected secret, for errors.
pub(super) fn secret(what: &str) -> Result<Box<Zeroizing<[u8; 32]>>, Error> {
    config::secret(&input()?).map_err(|malformed| {
        Error::request(
            ErrorCode::SecretMalformed,
            format!("standard input is no {what}: it is {malformed}"),
        )
    })
}

/// Standard input to its end, in one buffer that is wiped, past the standard
/// library's own, which is not.
fn input() -> Result<Zeroizing<Vec<u8>>, Error> {
    let stdin = rustix::io::dup(rustix::stdio::stdin()).map_err(io::Error::from)?;
    Ok(config::fill(std::fs::File::from(stdin), LARGEST_INPUT)?)
}

fn random() -> Result<Zeroizing<[u8; 32]>, Error> {
    let mut bytes = Zeroizing::new([0; 32]);
    getrandom::fill(&mut *bytes).map_err(|error| {
        Error::request(
            ErrorCode::SystemFailed,
            format!("the system gives no random numbers: {error}"),
        )
    })?;
    Ok(bytes)
}

/// Warns where the secret goes into a file that others can read, as `wg` does.
pub(super) fn warn_of_readers() {
    let loose = rustix::fs::fstat(rustix::stdio::stdout()).is_ok_and(|stat| {
        FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile && stat.st_mode & 0o077 != 0
    });
    if loose {
        super::say(format_args!(
            "warning: writing to a file that group or others can use: run `umask 077` first, and \
             make another one"
        ));
    }
}

/// Prints 44 characters of base64 and a newline from a buffer that is wiped,
/// past the standard library's own, which is not.
fn print_secret(bytes: &[u8; 32]) -> Result<Status, Error> {
    warn_of_readers();
    let mut text = Zeroizing::new([0; 45]);
    let length = Base64::encode(bytes, &mut text[..44])
        .map_err(|_| {
            Error::request(ErrorCode::SecretMalformed, "32 bytes are 44 characters of base64")
        })?
        .len();
    text[length] = b'\n';
    let mut stdout =
        std::fs::File::from(rustix::io::dup(rustix::stdio::stdout()).map_err(io::Error::from)?);
    stdout.write_all(&*text)?;
    Ok(Status::Done)
}
