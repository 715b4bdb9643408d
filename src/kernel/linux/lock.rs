//! One lock per network namespace, so that two runs never interleave.
//!
//! The lock has two parts, and a run takes as many as it can get. The first is a file in
//! `/run/meshsec`, one for each network namespace. Only root and users that root gave the directory
//! to can open it, so nobody else can hold it. The second is the name of an abstract Unix socket,
//! which belongs to the network namespace itself. It keeps runs apart that see different files or
//! may open none. Any process can take such a name, so the name counts only if its holder may
//! change the namespace; see [`super::rights`]. Both vanish when the process ends in any way: there
//! is no stale lock.

use std::{
    fs::{self, File},
    io::{self, Read, Seek, Write},
    os::{
        linux::net::SocketAddrExt,
        unix::net::{SocketAddr, UnixListener},
    },
    path::Path,
    thread,
    time::{Duration, Instant},
};

use rustix::{
    fs::{FlockOperation, Mode, OFlags},
    io::Errno,
    net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, UCred},
};

use super::rights;
use crate::kernel::{KernelError, SystemCause};

/// Only root can create this directory, and so decides which users may open files in it.
const DIRECTORY: &str = "/run/meshsec";
const NAME: &[u8] = b"meshsec-lock";
const POLL: Duration = Duration::from_millis(50);
/// The number of looks at a name that nobody listens under, before that is taken as final.
const SILENT: u32 = 3;
/// The limit of a holder's note on itself.
const LONGEST_NOTE: u64 = 200;

/// The lock of the network namespace that it was acquired in, until dropped.
#[derive(Debug)]
pub struct Lock {
    file: Option<File>,
    _listener: Option<UnixListener>,
}

impl Lock {
    /// Tells waiting runs about the work of this one: a part of a sentence that begins with
    /// "process 7".
    pub fn note(&self, what: &str) {
        if let Some(file) = &self.file {
            // The note is only for people: without it, other runs wait all the same.
            let _ = write_note(file, what);
        }
    }
}

/// The message to a run that waits, or doesn't.
pub enum Notice {
    /// The run waits for the holder of the lock.
    Waits(String),
    /// The run doesn't wait for a process that has taken the name of the lock.
    Ignores(String),
}

/// The lock's file, opened while the process may still open it, and its name.
pub struct Place {
    file: Option<File>,
    name: Vec<u8>,
}

impl Place {
    /// The place of the calling thread's network namespace.
    pub fn open() -> Self {
        let file = namespace().and_then(|id| open(Path::new(DIRECTORY), &id));
        Self { file, name: NAME.to_vec() }
    }

    /// Takes the lock, waiting for it at most `timeout`; a zero timeout tries once.
    ///
    /// # Errors
    ///
    /// [`KernelError::System`], with the process id of the holder, when time is up.
    pub fn acquire(
        self,
        timeout: Duration,
        tell: &mut dyn FnMut(Notice),
    ) -> Result<Lock, KernelError> {
        let begin = Instant::now();
        let mut told = false;
        let mut wait = |holder: String| {
            let left = timeout.saturating_sub(begin.elapsed());
            if left.is_zero() {
                return Err(failed(
                    SystemCause::Locked,
                    format!("it is held by {holder}; see --lock-timeout"),
                ));
            }
            if !std::mem::replace(&mut told, true) {
                tell(Notice::Waits(holder));
            }
            thread::sleep(left.min(POLL));
            Ok(())
        };
        let file = self.file.map(|file| lock_file(file, &mut wait)).transpose()?;
        let (listener, ignored) = take_name(&self.name, file.is_some(), &mut wait)?;
        if let Some(holder) = ignored {
            tell(Notice::Ignores(holder));
        }
        let lock = Lock { file, _listener: listener };
        lock.note("");
        Ok(lock)
    }
}

type Wait<'w> = dyn FnMut(String) -> Result<(), KernelError> + 'w;

/// Binds the name, or tells the process that has it and need not be waited for.
fn take_name(
    name: &[u8],
    has_file: bool,
    wait: &mut Wait<'_>,
) -> Result<(Option<UnixListener>, Option<String>), KernelError> {
    let mut silent = 0;
    loop {
        if let Some(listener) = bind(name)? {
            return Ok((Some(listener), None));
        }
        let holder = holder(name);
        match &holder {
            Ok(peer) if !rights::may_change_network(peer) => {
                return Ok((
                    None,
                    Some(format!("{} of user {}", process(peer), peer.uid.as_raw())),
                ));
            }
            Ok(peer) => wait(process(peer))?,
            // A run listens right after it takes the name.
            Err(Errno::CONNREFUSED) if silent == SILENT => {
                return Ok((None, Some("another process".into())));
            }
            Err(Errno::CONNREFUSED) => {
                silent += 1;
                thread::sleep(POLL);
            }
            // The queue is full, so that the holder can't be told. The file is enough.
            Err(_) if has_file => return Ok((None, Some("another process".into()))),
            Err(_) => wait("another process".into())?,
        }
    }
}

fn failed(cause: SystemCause, reason: String) -> KernelError {
    KernelError::System { cause, doing: "cannot lock this network namespace".into(), reason }
}

/// The identity of the calling thread's network namespace.
fn namespace() -> Option<String> {
    let link = fs::read_link("/proc/thread-self/ns/net").ok()?;
    let text = link.to_str()?.strip_prefix("net:[")?.strip_suffix(']')?;
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.to_owned())
}

/// A file that only its owner can open; none where there is no safe one.
///
/// The owner of the directory does not matter, as long as only root can have created it.
fn open(directory: &Path, id: &str) -> Option<File> {
    let parent = rustix::fs::stat(directory.parent()?).ok()?;
    if parent.st_uid != 0 || parent.st_mode & 0o022 != 0 {
        return None;
    }
    let _ = rustix::fs::mkdir(directory, Mode::RWXU);
    let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let directory = rustix::fs::open(directory, flags | OFlags::RDONLY, Mode::empty()).ok()?;
    if rustix::fs::fstat(&directory).ok()?.st_mode & 0o022 != 0 {
        return None;
    }
    let name = format!("lock-{id}");
    let flags = OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let (read, write) = (flags | OFlags::RDONLY, flags | OFlags::RDWR | OFlags::CREATE);
    let mode = Mode::RUSR | Mode::WUSR;
    // In a unit all of /run may be read-only. A file that is open for reading can be locked too.
    let file = rustix::fs::openat(&directory, &name, write, mode)
        .or_else(|_| rustix::fs::openat(&directory, &name, read, Mode::empty()))
        .ok()?;
    // A file that others can open, others can lock.
    (rustix::fs::fstat(&file).ok()?.st_mode & 0o077 == 0).then(|| File::from(file))
}

fn lock_file(file: File, wait: &mut Wait<'_>) -> Result<File, KernelError> {
    loop {
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(file),
            Err(Errno::WOULDBLOCK) => wait(read_note(&file))?,
            Err(errno) => return Err(failed(SystemCause::Other, errno.to_string())),
        }
    }
}

fn write_note(mut file: &File, what: &str) -> io::Result<()> {
    let comma = if what.is_empty() { "" } else { ", which " };
    file.set_len(0)?;
    file.rewind()?;
    writeln!(file, "process {}{comma}{what}", std::process::id())
}

/// The holder's note on itself. The printer makes sure that it moves no cursor.
fn read_note(mut file: &File) -> String {
    let mut note = String::new();
    let read = file.rewind().and_then(|()| file.take(LONGEST_NOTE).read_to_string(&mut note));
    match note.trim_end() {
        "" => "another process".into(),
        _ if read.is_err() => "another process".into(),
        note => note.into(),
    }
}

/// A socket of this name; none if another socket has it.
fn bind(name: &[u8]) -> Result<Option<UnixListener>, KernelError> {
    let address = SocketAddr::from_abstract_name(name)
        .map_err(|e| failed(SystemCause::Other, e.to_string()))?;
    match UnixListener::bind_addr(&address) {
        Ok(listener) => Ok(Some(listener)),
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => Ok(None),
        Err(error) => Err(failed(SystemCause::Other, error.to_string())),
    }
}

/// The process that listens under the name, as far as the kernel tells.
///
/// Never blocks: the holder accepts no connection, so that a blocking connect would wait for ever
/// as soon as its queue is full.
fn holder(name: &[u8]) -> Result<UCred, Errno> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    rustix::net::connect(&socket, &SocketAddrUnix::new_abstract_name(name)?)?;
    rustix::net::sockopt::socket_peercred(&socket)
}

fn process(peer: &UCred) -> String {
    format!("process {}", peer.pid.as_raw_nonzero())
}

#[cfg(test)]
mod tests {
    use std::{os::unix::fs::PermissionsExt, process::Command};

    use super::*;
    use crate::model::ErrorCode;

    /// A name of its own for each test, so that they don't wait for each other.
    fn name(test: &str) -> Vec<u8> {
        format!("meshsec-test-{}-{test}", std::process::id()).into_bytes()
    }

    fn by_name(name: &[u8], timeout: Duration) -> (Result<Lock, KernelError>, Vec<String>) {
        acquire(Place { file: None, name: name.to_vec() }, timeout)
    }

    fn acquire(place: Place, timeout: Duration) -> (Result<Lock, KernelError>, Vec<String>) {
        let mut told = Vec::new();
        let lock = place.acquire(timeout, &mut |notice| {
            told.push(match notice {
                Notice::Waits(holder) => format!("waits for {holder}"),
                Notice::Ignores(holder) => format!("ignores {holder}"),
            });
        });
        (lock, told)
    }

    #[test]
    fn the_second_waits_and_then_names_the_holder() {
        let name = name("holder");
        let _lock = by_name(&name, Duration::ZERO).0.unwrap();
        let begin = Instant::now();
        let (lock, told) = by_name(&name, Duration::from_millis(120));
        assert!(begin.elapsed() >= Duration::from_millis(120));
        let holder = format!("process {}", std::process::id());
        assert_eq!(told, [format!("waits for {holder}")]);
        let error = lock.unwrap_err();
        assert_eq!(error.code(), ErrorCode::NamespaceLocked);
        assert!(error.to_string().contains(&format!("held by {holder};")), "{error}");
    }

    #[test]
    fn it_is_free_as_soon_as_the_holder_drops_it() {
        let name = name("free");
        let lock = by_name(&name, Duration::ZERO).0.unwrap();
        let waiter = thread::spawn({
            let name = name.clone();
            move || by_name(&name, Duration::from_secs(20)).0.is_ok()
        });
        thread::sleep(Duration::from_millis(60));
        drop(lock);
        assert!(waiter.join().unwrap());
    }

    #[test]
    fn asking_for_the_holder_never_blocks() {
        let name = name("queue");
        let _lock = by_name(&name, Duration::ZERO).0.unwrap();
        for _ in 0..5000 {
            let _ = holder(&name);
        }
        assert!(by_name(&name, Duration::ZERO).0.is_err(), "a full queue opens nothing");
    }

    /// A directory like `/run`, and a directory in it, as far as this user can create them.
    fn directories() -> (tempfile::TempDir, std::path::PathBuf) {
        let parent = tempfile::tempdir().unwrap();
        let directory = parent.path().join("meshsec");
        (parent, directory)
    }

    #[test]
    fn a_file_of_root_s_directory_keeps_runs_apart_and_its_holder_says_what_it_does() {
        if !rustix::process::geteuid().is_root() {
            return; // The directory has to be root's.
        }
        let (_parent, directory) = directories();
        let name = name("file");
        // Each run has a name of its own, as if a program tampered with names.
        let place =
            |extra: &[u8]| Place { file: open(&directory, "7"), name: [&name[..], extra].concat() };
        let lock = acquire(place(b"a"), Duration::ZERO).0.unwrap();
        lock.note("waits to be confirmed");
        let (second, told) = acquire(place(b"b"), Duration::from_millis(60));
        let holder = format!("process {}, which waits to be confirmed", std::process::id());
        assert_eq!(told, [format!("waits for {holder}")]);
        assert!(second.unwrap_err().to_string().contains(&holder));
        drop(lock);
        assert!(acquire(place(b"b"), Duration::ZERO).0.is_ok());
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o7777;
        assert_eq!((mode(&directory), mode(&directory.join("lock-7"))), (0o700, 0o600));
    }

    #[test]
    fn what_others_can_open_or_replace_is_no_lock() {
        if !rustix::process::geteuid().is_root() {
            return;
        }
        let (parent, directory) = directories();
        assert!(open(&directory, "7").is_some());
        let chmod = |path: &Path, mode| {
            fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        };
        let file = directory.join("lock-7");
        chmod(&file, 0o644);
        assert!(open(&directory, "7").is_none(), "others can hold it");
        chmod(&file, 0o600);
        chmod(&directory, 0o777);
        assert!(open(&directory, "7").is_none(), "others can put another in its place");
        chmod(&directory, 0o700);
        chmod(parent.path(), 0o1777);
        assert!(open(&directory, "7").is_none(), "others can have made it");
        chmod(parent.path(), 0o755);
        std::os::unix::fs::chown(parent.path(), Some(65534), None).unwrap();
        assert!(open(&directory, "7").is_none(), "who owns that place can have made it");
        std::os::unix::fs::chown(parent.path(), Some(0), None).unwrap();
        assert!(open(&directory, "7").is_some(), "only root can have made it");
        fs::remove_file(&file).unwrap();
        std::os::unix::fs::symlink("/etc/passwd", &file).unwrap();
        assert!(open(&directory, "7").is_none(), "a link leads elsewhere");
    }

    /// Takes a name as a process without any rights.
    const SQUATTER: &str = "
import os, socket, sys
kind, name = sys.argv[1], sys.argv[2]
os.setgroups([]) if os.geteuid() == 0 else None
os.setresgid(65534, 65534, 65534); os.setresuid(65534, 65534, 65534)
s = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
s.bind('\\0' + name)
if kind in ('listens', 'full'):
    s.listen(0)
full = []
if kind == 'full':
    for _ in range(2):
        c = socket.socket(socket.AF_UNIX); c.setblocking(False); full.append(c)
        c.connect_ex('\\0' + name)
print('bound', flush=True)
sys.stdin.read()
";

    #[test]
    fn who_has_no_rights_keeps_nobody_waiting() {
        if !rustix::process::geteuid().is_root() {
            return; // The other user has to differ from this one.
        }
        for (kind, with_file) in
            [("listens", false), ("listens", true), ("silent", false), ("full", true)]
        {
            let name = name(kind);
            let mut command = Command::new("python3");
            command.args(["-c", SQUATTER, kind]).arg(String::from_utf8(name.clone()).unwrap());
            command.stdin(std::process::Stdio::piped()).stdout(std::process::Stdio::piped());
            let mut squatter = command.spawn().unwrap();
            let mut said = [0; 6];
            squatter.stdout.take().unwrap().read_exact(&mut said).unwrap();
            let (_parent, directory) = directories();
            let file = with_file.then(|| open(&directory, "7").unwrap());
            let (lock, told) = acquire(Place { file, name }, Duration::ZERO);
            let ignored = told.first().is_some_and(|told| told.starts_with("ignores "));
            assert!(lock.is_ok() && ignored, "{kind}: {told:?} {:?}", lock.err());
            squatter.kill().unwrap();
            squatter.wait().unwrap();
        }
    }
}
