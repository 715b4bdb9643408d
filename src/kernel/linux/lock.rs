//! One lock per network namespace, so that two runs never interleave.
//!
//! It is the name of an abstract Unix socket. Such names belong to a network
//! namespace, exactly as SAs and policies do, and one vanishes with the
//! process that has it, however that ends: there is no stale lock.

use std::{
    io,
    os::{
        linux::net::SocketAddrExt,
        unix::net::{SocketAddr, UnixListener},
    },
    thread,
    time::{Duration, Instant},
};

use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

use crate::kernel::KernelError;

const NAME: &[u8] = b"meshsec-lock";
const POLL: Duration = Duration::from_millis(50);

/// The lock of the network namespace that it was acquired in, until dropped.
#[derive(Debug)]
pub struct Lock {
    _listener: UnixListener,
}

/// Takes the lock of the calling thread's network namespace, waiting for it at
/// most `timeout`; a zero timeout tries once.
///
/// # Errors
///
/// [`KernelError::System`], with the process id of the holder, when time is up.
pub fn acquire(timeout: Duration) -> Result<Lock, KernelError> {
    acquire_name(NAME, timeout)
}

fn acquire_name(name: &[u8], timeout: Duration) -> Result<Lock, KernelError> {
    let begin = Instant::now();
    let failed =
        |reason| KernelError::System { doing: "cannot lock this network namespace".into(), reason };
    let address = SocketAddr::from_abstract_name(name).map_err(|e| failed(e.to_string()))?;
    loop {
        match UnixListener::bind_addr(&address) {
            Ok(listener) => return Ok(Lock { _listener: listener }),
            Err(error) if error.kind() != io::ErrorKind::AddrInUse => {
                return Err(failed(error.to_string()));
            }
            Err(_) => {}
        }
        let left = timeout.saturating_sub(begin.elapsed());
        if left.is_zero() {
            return Err(failed(format!("{} has it; see --lock-timeout", holder(name))));
        }
        thread::sleep(left.min(POLL));
    }
}

/// Who listens under the name, as well as the kernel will tell.
///
/// Never blocks: the holder accepts no connection, so that a blocking one
/// would wait for ever as soon as its queue is full.
fn holder(name: &[u8]) -> String {
    let pid = || -> rustix::io::Result<i32> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket =
            rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
        rustix::net::connect(&socket, &SocketAddrUnix::new_abstract_name(name)?)?;
        let peer = rustix::net::sockopt::socket_peercred(&socket)?;
        Ok(peer.pid.as_raw_nonzero().get())
    };
    pid().map_or_else(|_| "another process".into(), |pid| format!("process {pid}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A name of its own for each test, so that they don't wait for each other.
    fn name(test: &str) -> Vec<u8> {
        format!("meshsec-test-{}-{test}", std::process::id()).into_bytes()
    }

    #[test]
    fn the_second_waits_and_then_names_the_holder() {
        let name = name("holder");
        let _lock = acquire_name(&name, Duration::ZERO).unwrap();
        let begin = Instant::now();
        let error = acquire_name(&name, Duration::from_millis(120)).unwrap_err().to_string();
        assert!(begin.elapsed() >= Duration::from_millis(120));
        assert!(error.contains(&format!("process {} has it", std::process::id())), "{error}");
    }

    #[test]
    fn it_is_free_as_soon_as_the_holder_drops_it() {
        let name = name("free");
        let lock = acquire_name(&name, Duration::ZERO).unwrap();
        let waiter = thread::spawn({
            let name = name.clone();
            move || acquire_name(&name, Duration::from_secs(20)).is_ok()
        });
        thread::sleep(Duration::from_millis(60));
        drop(lock);
        assert!(waiter.join().unwrap());
    }

    #[test]
    fn asking_for_the_holder_never_blocks() {
        let name = name("queue");
        let _lock = acquire_name(&name, Duration::ZERO).unwrap();
        for _ in 0..5000 {
            assert!(holder(&name).contains("process"));
        }
    }
}
