//! `confirm`, and how an apply or a destroy waits for it.
//!
//! An operator that has cut himself off can't confirm, so the run is reverted. The two commands
//! meet at an abstract Unix socket, with a name that belongs to the network namespace and vanishes
//! with the process. Any process can take a name, so this one ends in a random number: nobody can
//! keep an apply from having one. `confirm` looks for all names of that kind, and each end asks the
//! kernel for the identity of the other.

use std::{
    collections::BTreeSet,
    fmt, fs,
    io::{self, Read, Write},
    os::{
        fd::AsFd,
        linux::net::SocketAddrExt,
        unix::net::{SocketAddr, UnixListener, UnixStream},
    },
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
    net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType},
};
use signal_hook::{consts as signals, flag, low_level::pipe};

use super::{Status, print, print_json};
use crate::{
    cli::{Format, Global},
    error::Error,
    kernel::linux::rights,
    model::ErrorCode,
    render::{Plain, confirm_json},
};

/// The prefix of the names.
const NAME: &str = "meshsec-confirm-";
/// The kernel's list of the names of a network namespace.
const SOCKETS: &str = "/proc/thread-self/net/unix";
const QUESTION: &[u8] = b"confirm\n";
const REFUSED: &str = "refused\n";
const EARLY: &str = "early\n";
/// The time for a process that has connected to ask.
const PATIENCE: Duration = Duration::from_secs(2);
/// The time between two looks at a queue that is full.
const INTERVAL: Duration = Duration::from_millis(20);
/// The time for an apply to get to the point where it waits.
const BUSY: Duration = Duration::from_secs(600);

const NOT_CONFIRMED: &str = "it was not confirmed: time was up, or apply has ended, or it belongs \
                             to another user; see what it printed";

/// The signals that end the wait, and their meaning.
const SIGNALS: [(i32, Verdict); 4] = [
    (signals::SIGHUP, Verdict::Hangup),
    (signals::SIGINT, Verdict::Interrupted),
    (signals::SIGQUIT, Verdict::Interrupted),
    (signals::SIGTERM, Verdict::Terminated),
];

/// Signals that would stop the process: a stopped one reverts nothing.
const STOPS: [i32; 3] = [signals::SIGTSTP, signals::SIGTTIN, signals::SIGTTOU];

/// The end of a wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    Confirmed,
    TimeUp,
    Hangup,
    Interrupted,
    Terminated,
}

impl Verdict {
    /// The word in JSON.
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Confirmed => "confirmed",
            Self::TimeUp => "time_up",
            Self::Hangup => "hangup",
            Self::Interrupted => "interrupted",
            Self::Terminated => "terminated",
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Confirmed => "Confirmed",
            Self::TimeUp => "Not confirmed in time",
            Self::Hangup => "The terminal is gone (SIGHUP)",
            Self::Interrupted => "Interrupted",
            Self::Terminated => "Told to end (SIGTERM)",
        })
    }
}

/// Waits for a confirmation. From its creation on, signals don't end the process.
pub(super) struct Waiter {
    listener: UnixListener,
    signals: Vec<(UnixStream, Verdict)>,
}

impl Waiter {
    pub(super) fn begin() -> Result<Self, Error> {
        let failed = |error: io::Error| {
            io::Error::new(error.kind(), format!("cannot listen for meshsec confirm: {error}"))
        };
        let mut number = [0; 8];
        getrandom::fill(&mut number).map_err(|error| failed(io::Error::other(error)))?;
        let name = format!("{NAME}{}", hex::encode(number));
        let listener = SocketAddr::from_abstract_name(name)
            .and_then(|address| UnixListener::bind_addr(&address))
            .map_err(failed)?;
        listener.set_nonblocking(true)?;
        let mut signals = Vec::new();
        for (signal, verdict) in SIGNALS {
            let (read, write) = UnixStream::pair()?;
            pipe::register(signal, write)?;
            signals.push((read, verdict));
        }
        for signal in STOPS {
            flag::register(signal, Arc::default())?;
        }
        Ok(Self { listener, signals })
    }

    /// Refuses all processes that have connected until now.
    pub(super) fn refuse_early(&self) {
        while let Ok((stream, _)) = self.listener.accept() {
            // A process that can't be told sees the end of the connection.
            let _ = refuse(&stream, EARLY);
        }
    }

    /// Waits at most `time` for somebody to confirm `mesh`.
    pub(super) fn wait(&self, time: Duration, mesh: &str) -> Verdict {
        let end = Instant::now() + time;
        loop {
            if let Some(verdict) = self.signalled() {
                return verdict;
            }
            if self.is_confirmed(mesh) {
                return Verdict::Confirmed;
            }
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Verdict::TimeUp;
            }
            self.sleep(left);
        }
    }

    /// Sleeps until a connection or a signal has come, or time is up.
    fn sleep(&self, time: Duration) {
        let sources = self.signals.iter().map(|(pipe, _)| pipe.as_fd());
        let sources = sources.chain([self.listener.as_fd()]);
        let mut sources: Vec<_> =
            sources.map(|source| PollFd::from_borrowed_fd(source, PollFlags::IN)).collect();
        // A poll that fails comes back at once, and is tried again until time is up.
        let _ = poll(&mut sources, Timespec::try_from(time).ok().as_ref());
    }

    fn signalled(&self) -> Option<Verdict> {
        let mut sources: Vec<_> = self
            .signals
            .iter()
            .map(|(pipe, _)| PollFd::from_borrowed_fd(pipe.as_fd(), PollFlags::IN))
            .collect();
        poll(&mut sources, Some(&Timespec::default())).ok()?;
        let came = sources.iter().position(|source| !source.revents().is_empty())?;
        Some(self.signals[came].1)
    }

    /// Whether the next of the processes that have connected confirms.
    fn is_confirmed(&self, mesh: &str) -> bool {
        let Ok((mut stream, _)) = self.listener.accept() else { return false };
        let confirmed = confirms(&stream).is_ok_and(|confirms| confirms);
        if confirmed {
            // The answer may get lost; the question is what counts.
            let _ = stream.write_all(format!("confirmed {mesh}\n").as_bytes());
        }
        confirmed
    }
}

/// Only root, and the user that runs the apply, may confirm it: an abstract socket has no
/// permissions of its own. Root means a root that may change this namespace: the root of a
/// container on the host's network may not.
fn confirms(mut stream: &UnixStream) -> io::Result<bool> {
    let peer = rustix::net::sockopt::socket_peercred(stream)?;
    let own = !peer.uid.is_root() && peer.uid == rustix::process::geteuid();
    let mut question = [0; QUESTION.len()];
    if !own && !rights::may_change_network(&peer) {
        refuse(stream, REFUSED)?;
        return Ok(false);
    }
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.read_exact(&mut question)?;
    Ok(question == QUESTION)
}

/// Answers without waiting for the question, as others wait; but unread bytes reset the connection.
fn refuse(mut stream: &UnixStream, answer: &str) -> io::Result<()> {
    stream.set_nonblocking(true)?;
    let _ = stream.read(&mut [0; QUESTION.len()]);
    stream.write_all(answer.as_bytes())
}

/// The names of all processes that wait, or say that they do, in this network namespace.
fn names(sockets: &str) -> BTreeSet<String> {
    let words = sockets.lines().filter_map(|line| line.split_whitespace().last());
    let names = words.filter_map(|word| word.strip_prefix('@'));
    let number = |name: &&str| {
        let digits = name.strip_prefix(NAME).unwrap_or_default();
        digits.len() == 16 && digits.bytes().all(|byte| byte.is_ascii_hexdigit())
    };
    names.filter(number).map(String::from).collect()
}

/// A connection to the process that waits, which has the rights for its claim.
///
/// Others can fill a queue, that of an apply too, which then empties it.
fn connect() -> io::Result<UnixStream> {
    let end = Instant::now() + PATIENCE;
    let mut ignored = BTreeSet::new();
    loop {
        let sockets = fs::read(SOCKETS)?;
        let mut is_full = false;
        for name in names(&String::from_utf8_lossy(&sockets)) {
            match connect_to(&name) {
                Ok(stream) if is_trusted(&stream, &mut ignored)? => return Ok(stream),
                Err(Errno::AGAIN) => is_full = true,
                Ok(_) | Err(_) => {}
            }
        }
        if !is_full || Instant::now() >= end {
            return Err(io::ErrorKind::ConnectionRefused.into());
        }
        thread::sleep(INTERVAL);
    }
}

/// Never waits: a process that fills its own queue would keep us for ever.
fn connect_to(name: &str) -> Result<UnixStream, Errno> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    rustix::net::connect(&socket, &SocketAddrUnix::new_abstract_name(name.as_bytes())?)?;
    rustix::io::ioctl_fionbio(&socket, false)?;
    Ok(UnixStream::from(socket))
}

/// Says so, once, of a process that is not.
fn is_trusted(stream: &UnixStream, ignored: &mut BTreeSet<i32>) -> io::Result<bool> {
    let peer = rustix::net::sockopt::socket_peercred(stream)?;
    let trusted = rights::may_change_network(&peer);
    let pid = peer.pid.as_raw_nonzero().get();
    if !trusted && ignored.insert(pid) {
        super::say(format_args!(
            "warning: process {pid} of user {} poses as an apply that waits: it is ignored",
            peer.uid.as_raw()
        ));
    }
    Ok(trusted)
}

/// The reason why no run has answered.
#[allow(clippy::wildcard_enum_match_arm, reason = "an error of any other kind is shown as it is")]
fn unanswered(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => {
            "nothing waits to be confirmed in this network namespace: it was confirmed, or reverted, \
             or apply was run without --confirm-within"
                .into()
        }
        io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => NOT_CONFIRMED.into(),
        _ => format!("cannot confirm: {error}"),
    }
}

/// Confirms the run that waits in this network namespace.
pub(super) fn run(global: &Global) -> Result<Status, Error> {
    let answer =
        ask().map_err(|error| Error::request(ErrorCode::NotConfirmed, unanswered(&error)))?;
    let Some(mesh) = answer.strip_prefix("confirmed ").map(str::trim_end) else {
        return Err(Error::request(
            ErrorCode::NotConfirmed,
            match answer.as_str() {
                REFUSED => "only root, or the user who runs apply, may confirm it",
                EARLY => {
                    "this was run before all was applied, and proves nothing of what came after; \
                      run it again"
                }
                _ => NOT_CONFIRMED,
            },
        ));
    };
    match global.format {
        Format::Json => print_json(&confirm_json(mesh))?,
        Format::Text | Format::Prometheus => {
            print(&format!("Confirmed: mesh {} stays as it is now.\n", Plain(mesh)))?
        }
    }
    Ok(Status::Done)
}

fn ask() -> io::Result<String> {
    let mut stream = connect()?;
    stream.set_read_timeout(Some(BUSY))?;
    // A process that is refused is so before it asks: the answer says it.
    let _ = stream.write_all(QUESTION);
    let mut answer = Vec::new();
    match stream.take(256).read_to_end(&mut answer) {
        // A question that came too late to be read resets the connection behind the answer.
        Err(error) if answer.is_empty() => Err(error),
        Ok(_) | Err(_) => Ok(String::from_utf8_lossy(&answer).into_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_the_very_kind_are_asked() {
        let sockets = "Num       RefCount Protocol Flags    Type St Inode Path\n\
                       0000: 00000002 00000000 00010000 0001 01 7 @meshsec-confirm-00112233445566ff\n\
                       0000: 00000002 00000000 00010000 0001 01 8 @meshsec-confirm-\x1b[2J\n\
                       0000: 00000002 00000000 00010000 0001 01 9 @meshsec-lock\n\
                       0000: 00000002 00000000 00010000 0001 01 6 /meshsec-confirm-00112233445566ff\n\
                       0000: 00000002 00000000 00010000 0001 01 5\n";
        let names: Vec<String> = names(sockets).into_iter().collect();
        assert_eq!(names, ["meshsec-confirm-00112233445566ff"]);
    }
}
