//! The rights of this process: no core dumps, no capability that its command does not need.
//!
//! [`confine`] comes first, before any file is opened. Capabilities that are needed only for a
//! while are given up by [`namespace_entered`] and [`file_read`]. Capabilities belong to a thread,
//! and threads inherit them: all of this has to happen before the first other thread is started.

use rustix::{
    io::{self, Errno},
    process::{DumpableBehavior, Resource, Rlimit},
    thread::{self, CapabilitySet, CapabilitySets},
};

use crate::{
    cli::{Cli, Command, DestroyArgs, EvidenceArgs, ShowArgs, StatusArgs},
    config::{Config, Guard, Select},
};

/// The capabilities that programs of iptables may need: for their netlink sockets, and for the raw
/// socket and the modules of iptables-legacy, which loads ip_tables by modprobe.
const PROGRAMS: CapabilitySet =
    CapabilitySet::NET_ADMIN.union(CapabilitySet::NET_RAW).union(CapabilitySet::SYS_MODULE);

/// Keys are in this process's memory: it leaves no core file, no process of the
/// same user may read its memory, and it keeps only rights that its command may need.
///
/// # Errors
///
/// The kernel refuses, which only a filter of system calls makes it do.
pub fn confine(cli: &Cli) -> io::Result<()> {
    confine_to(needs(cli))
}

/// No right is kept at all: a shell wants to know how a line may go on.
///
/// # Errors
///
/// As [`confine`].
pub fn confine_to_nothing() -> io::Result<()> {
    confine_to(CapabilitySet::empty())
}

fn confine_to(keep: CapabilitySet) -> io::Result<()> {
    let none = Rlimit { current: Some(0), maximum: Some(0) };
    rustix::process::setrlimit(Resource::Core, none)?;
    rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
    // No program that is run can gain capabilities that are given up here.
    thread::set_no_new_privs(true)?;
    leave_bounding_set(keep & PROGRAMS)?;
    keep_only(keep)?;
    hand_on(keep & PROGRAMS)
}

/// The network namespace is entered, and no other will be.
///
/// # Errors
///
/// As [`confine`].
pub fn namespace_entered() -> io::Result<()> {
    keep_only(!CapabilitySet::SYS_ADMIN)
}

/// The access to files that a command still needs after it has read mesh.toml.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Files {
    /// It opens none.
    Neither,
    /// It reads others.
    Reads,
    /// It makes or replaces one.
    Replaces,
}

impl Files {
    fn needs(self) -> CapabilitySet {
        match self {
            Self::Neither => CapabilitySet::empty(),
            // To read a file of another user, as in a home directory.
            Self::Reads => CapabilitySet::DAC_READ_SEARCH,
            // To replace such a file, and leave it that user's.
            Self::Replaces => {
                CapabilitySet::DAC_OVERRIDE
                    | CapabilitySet::DAC_READ_SEARCH
                    | CapabilitySet::CHOWN
                    | CapabilitySet::FOWNER
            }
        }
    }
}

/// The file and its secrets are read.
///
/// # Errors
///
/// As [`confine`].
pub fn file_read(config: &Config, later: Files) -> io::Result<()> {
    // Without chains to come, no table has to be made.
    let modules = match (config.select, config.guard) {
        (Select::Port, Guard::Policies | Guard::Off) => CapabilitySet::SYS_MODULE,
        (Select::Mark(_), _) | (Select::Port, Guard::Both) => CapabilitySet::empty(),
    };
    keep_only((PROGRAMS - modules) | later.needs())
}

/// A mesh was named, and no file will be read. No chain is to come either.
///
/// # Errors
///
/// As [`confine`].
pub fn no_file() -> io::Result<()> {
    keep_only(PROGRAMS - CapabilitySet::SYS_MODULE)
}

/// Opens sockets that take packets of others, with the capability that was kept for programs until
/// then. All capabilities are given up afterwards: sockets go on without.
///
/// # Errors
///
/// As [`confine`].
pub fn last_sockets<T>(open: impl FnOnce() -> T) -> io::Result<T> {
    let opened = with_raw_sockets(open)?;
    keep_only(CapabilitySet::empty())?;
    Ok(opened)
}

/// Runs `open`, which opens a socket, with CAP_NET_RAW in effect, if this process may have it.
/// Elsewhere that is for programs alone.
///
/// # Errors
///
/// As [`confine`].
pub fn with_raw_sockets<T>(open: impl FnOnce() -> T) -> io::Result<T> {
    let held = thread::capabilities(None)?;
    let raw = held.permitted & CapabilitySet::NET_RAW;
    thread::set_capabilities(None, CapabilitySets { effective: held.effective | raw, ..held })?;
    let opened = open();
    thread::set_capabilities(None, held)?;
    Ok(opened)
}

/// All capabilities that a command may ever need.
fn needs(cli: &Cli) -> CapabilitySet {
    let namespace = match cli.global.netns {
        Some(_) => CapabilitySet::SYS_ADMIN,
        None => CapabilitySet::empty(),
    };
    let (files, kernel) = match &cli.command {
        Command::Genkey
        | Command::Genpsk
        | Command::Pubkey
        | Command::Spi(_)
        | Command::Completions(_)
        | Command::EncapSocket => {
            return CapabilitySet::empty();
        }
        Command::Ratchet(_) | Command::Rotate(EvidenceArgs { here: false, .. }) => {
            return Files::Replaces.needs();
        }
        Command::Rotate(EvidenceArgs { here: true, .. }) => (Files::Replaces, PROGRAMS),
        Command::Settled(args) if !args.here && args.is_given() => {
            (Files::Reads, CapabilitySet::empty())
        }
        // Not used, but shown: by it the apply that waits knows that this process may confirm.
        Command::Confirm => (Files::Neither, CapabilitySet::NET_ADMIN),
        Command::Validate(_) | Command::Mtu(_) | Command::Export(_) => {
            (Files::Reads, CapabilitySet::empty())
        }
        Command::Compare(args) if args.live.is_some() || args.all.is_some() => {
            (Files::Reads, CapabilitySet::empty())
        }
        Command::Explain(args) if args.live != "kernel" => (Files::Reads, CapabilitySet::empty()),
        Command::Plan(args) if args.live() != "kernel" || args.all => {
            (Files::Reads, CapabilitySet::empty())
        }
        Command::Prove(args) if args.compares() => (Files::Reads, CapabilitySet::empty()),
        Command::Plan(args) if args.out.is_some() => (Files::Replaces, PROGRAMS),
        // With a ratchet, which it turns.
        Command::Apply(_) => (Files::Replaces, PROGRAMS),
        Command::Destroy(DestroyArgs { named, .. })
        | Command::Show(ShowArgs { named, .. })
        | Command::Status(StatusArgs { named, .. })
            if named.is_given() =>
        {
            (Files::Neither, PROGRAMS - CapabilitySet::SYS_MODULE)
        }
        Command::Plan(_)
        | Command::Destroy(_)
        | Command::Show(_)
        | Command::Status(_)
        | Command::Doctor(_)
        | Command::Settled(_)
        | Command::Compare(_)
        | Command::Explain(_)
        | Command::Prove(_)
        | Command::Snapshot => (Files::Reads, PROGRAMS),
    };
    namespace | files.needs() | kernel
}

/// A capability outside the bounding set goes to no program, not even to one run by root.
fn leave_bounding_set(keep: CapabilitySet) -> io::Result<()> {
    for number in 0..u64::BITS {
        let capability = CapabilitySet::from_bits_retain(1 << number);
        if keep.contains(capability) {
            continue;
        }
        match thread::remove_capability_from_bounding_set(capability) {
            // The kernel knows no such capability.
            Ok(()) | Err(Errno::INVAL) => {}
            // A process that can't change the set holds so little that it does not matter:
            // no_new_privs keeps programs from having more than this process.
            Err(Errno::PERM) => return Ok(()),
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}

/// Gives up for good all capabilities that are not in `keep`.
fn keep_only(keep: CapabilitySet) -> io::Result<()> {
    let held = thread::capabilities(None)?;
    let permitted = held.permitted & keep;
    // The rest is for programs, and nothing that this one does itself uses it.
    let own = !PROGRAMS | CapabilitySet::NET_ADMIN;
    let inheritable = permitted & PROGRAMS;
    thread::set_capabilities(
        None,
        CapabilitySets { effective: permitted & own, permitted, inheritable },
    )
}

/// Hands capabilities to the programs that are run: unlike root's, those of an ordinary user begin
/// with the ambient ones.
fn hand_on(wanted: CapabilitySet) -> io::Result<()> {
    match thread::clear_ambient_capability_set() {
        Ok(()) => {}
        // Before Linux 4.3 there is no such set.
        Err(Errno::INVAL) => return Ok(()),
        Err(errno) => return Err(errno),
    }
    let held = thread::capabilities(None)?.permitted & wanted;
    for capability in held.iter() {
        match thread::configure_capability_in_ambient_set(capability, true) {
            // Forbidden by SECBIT_NO_CAP_AMBIENT_RAISE, or by the bounding set.
            Ok(()) | Err(Errno::PERM) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}
