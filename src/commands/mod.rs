//! The commands, a file each: orchestration only.

mod after;
mod apply;
mod change;
mod compare;
mod completions;
mod confirm;
mod destroy;
mod doctor;
mod document;
mod encap_socket;
mod explain;
mod export;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
mod generate;
mod live;
mod moment;
mod mtu;
mod named;
mod plan;
mod plan_all;
mod prepared;
mod printer;
mod progress;
mod prove;
mod ratchet;
mod replace;
mod revert;
mod rotate;
mod saved;
mod settled;
mod show;
mod snapshot;
mod spi;
mod status;
mod validate;

use std::{
    borrow::Cow,
    collections::BTreeSet,
    io::{self, IsTerminal, Write},
    path::Path,
    process::ExitCode,
    time::Duration,
};

use rustix::termios;
use serde::Serialize;

use crate::{
    cli::{Cli, Command, EvidenceArgs, ExtentArgs, Format, Global},
    config::{self, Config, Guard, Loaded, LocalError, Peer, STANDARD_INPUT, SecretsMode, Select},
    desired,
    error::Error,
    kernel::{
        KernelError, Linux,
        linux::{
            self, Look,
            lock::{Lock, Notice, Place},
            netns,
        },
    },
    model::{ErrorCode, Live, LocalAddress, PeerName},
    plan::NAMES_SHOWN,
    privilege::{self, Files},
    render::{Extent, Layout, Plain, fold, json_text},
};

/// The end of a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// Done, or nothing to do.
    Done,
    /// Nothing was changed, because of an error.
    Error,
    /// `plan --detailed-exitcode`: changes are pending.
    Pending,
    /// `status`, `doctor`: somebody should look. `settled`, `rotate`: hosts are not known to have followed.
    Attention,
    /// A part was done.
    Partial,
}

impl From<Status> for ExitCode {
    fn from(status: Status) -> Self {
        ExitCode::from(match status {
            Status::Done => 0,
            Status::Error => 1,
            Status::Pending | Status::Attention => 2,
            Status::Partial => 3,
        })
    }
}

/// Runs a command to its end.
///
/// The network namespace is entered first: every socket and every look at
/// `/proc` after that is in it.
pub fn run(cli: &Cli) -> Result<Status, Error> {
    if cli.global.format == Format::Prometheus && !matches!(cli.command, Command::Status(_)) {
        return Err(Error::request(
            ErrorCode::OptionsDisagree,
            "--format prometheus is for status; use text or json",
        ));
    }
    let needs_a_file = matches!(cli.command, Command::Rotate(_) | Command::Ratchet(_));
    if needs_a_file && cli.global.file() == Path::new(STANDARD_INPUT) {
        return Err(Error::request(
            ErrorCode::OptionsDisagree,
            "this command writes files beside mesh.toml, and takes none from standard input; name \
             the file with -c FILE",
        ));
    }
    if let Some(what) = saved_plan_of_standard_input(cli) {
        return Err(Error::request(ErrorCode::OptionsDisagree, what));
    }
    let looks_at_a_host = !matches!(
        cli.command,
        Command::Genkey
            | Command::Genpsk
            | Command::Pubkey
            | Command::Rotate(EvidenceArgs { here: false, .. })
            | Command::Ratchet(_)
            | Command::Spi(_)
            | Command::Completions(_)
            | Command::EncapSocket
    );
    let looks_at_a_host = looks_at_a_host && !compares(&cli.command);
    if let (true, Some(name)) = (looks_at_a_host, &cli.global.netns) {
        netns::enter(name)?;
        privilege::namespace_entered().map_err(Error::Privilege)?;
    }
    match &cli.command {
        Command::Validate(args) => validate::run(&cli.global, args),
        Command::Plan(args) => plan::run(&cli.global, args),
        Command::Apply(args) => apply::run(&cli.global, args),
        Command::Destroy(args) => destroy::run(&cli.global, args),
        Command::Confirm => confirm::run(&cli.global),
        Command::Show(args) => show::run(&cli.global, args),
        Command::Status(args) => status::run(&cli.global, args),
        Command::Prove(args) => prove::run(&cli.global, args),
        Command::Doctor(args) => doctor::run(&cli.global, args),
        Command::Snapshot => snapshot::run(&cli.global),
        Command::Explain(args) => explain::run(&cli.global, args),
        Command::Compare(args) => compare::run(&cli.global, args),
        Command::Mtu(args) => mtu::run(&cli.global, args),
        Command::Genkey => generate::genkey(),
        Command::Genpsk => generate::genpsk(),
        Command::Pubkey => generate::pubkey(),
        Command::Rotate(args) => rotate::run(&cli.global, args),
        Command::Settled(args) => settled::run(&cli.global, args),
        Command::Ratchet(command) => ratchet::run(&cli.global, command),
        Command::Spi(args) => spi::run(&cli.global, args),
        Command::Export(args) => export::run(&cli.global, args),
        Command::Completions(args) => completions::run(args),
        Command::EncapSocket => encap_socket::run(),
    }
}

/// Whether documents are compared, wherever they are from.
fn compares(command: &Command) -> bool {
    matches!(command, Command::Prove(args) if args.compares())
}

/// A saved plan holds for a file, which is there to be compared. Standard input is gone.
fn saved_plan_of_standard_input(cli: &Cli) -> Option<&'static str> {
    if cli.global.file() != Path::new(STANDARD_INPUT) {
        return None;
    }
    if matches!(&cli.command, Command::Plan(args) if args.out.is_some()) {
        return Some(
            "--out saves a plan for a file, and standard input is none; name the file with -c FILE",
        );
    }
    matches!(&cli.command, Command::Apply(args) if args.plan.is_some()).then_some(
        "a saved plan is compared with its file, and standard input is none; name the file with \
         -c FILE",
    )
}

/// The mesh's file and its secrets. From then on the process has no more privilege than the kernel
/// and `later` files take.
fn load(global: &Global, secrets: SecretsMode, later: Files) -> Result<Loaded, Error> {
    let loaded = config::load(global.file(), secrets)?;
    privilege::file_read(&loaded.config, later).map_err(Error::Privilege)?;
    Ok(loaded)
}

/// The kernel, read as far as a plan for this file needs it.
fn kernel_for(global: &Global, config: &Config) -> Result<Linux, KernelError> {
    let ways = desired::ways(config, global.local.as_deref());
    let look = match (config.select, config.guard) {
        _ if config.traffic == config::Traffic::Networks => Look::Guards,
        (Select::Mark(_), _) => Look::Marks,
        (Select::Port, Guard::Both) => Look::Guards,
        (Select::Port, Guard::Policies | Guard::Off) => Look::Leftovers,
    };
    Ok(Linux::open()?.looking_at(look).asking_for(ways))
}

/// The same for a plan, which no foreign SA far from the mesh can change.
fn kernel_to_plan(global: &Global, config: &Config) -> Result<Linux, KernelError> {
    Ok(kernel_for(global, config)?.leaving_out_sas(desired::neighbourhood(config)))
}

/// Takes the lock of this network namespace, and names the process that it waits for.
fn lock(place: Place, timeout: Duration) -> Result<Lock, Error> {
    let lock = place.acquire(timeout, &mut |notice| match notice {
        Notice::Waits(holder) => say(format_args!(
            "Waiting for {holder}; it has the lock of this network namespace."
        )),
        Notice::Ignores(holder) => say(format_args!(
            "warning: {holder} has taken the name of the lock of this network namespace, without the \
             right to change anything here: it is ignored"
        )),
    })?;
    Ok(lock)
}

/// The local peer of this host's kernel: the one that is named, the one with an address of this
/// host, or else the one with its host name. A host name says nothing about a namespace that
/// `--netns` names.
fn local_peer<'a>(
    global: &Global,
    config: &'a Config,
    addresses: &[LocalAddress],
) -> Result<&'a Peer, LocalError> {
    let by_name = |error| match global.netns {
        Some(_) => Err(error),
        None => config::peer_by_host_name(config, &linux::host_name())?.ok_or(error),
    };
    match config::local_peer(config, global.local.as_deref(), addresses) {
        Ok(peer) => Ok(peer),
        Err(error @ LocalError::NoAddress { .. }) => by_name(error),
        Err(
            error @ (LocalError::Unknown { .. }
            | LocalError::Several { .. }
            | LocalError::SameName { .. }),
        ) => Err(error),
    }
}

/// The local peer, for commands that do without one: only a name that was given has to be right.
fn local_if_any<'a>(
    global: &Global,
    config: &'a Config,
    live: &Live,
) -> Result<Option<&'a Peer>, Error> {
    match local_peer(global, config, &live.0.addresses) {
        Ok(peer) => Ok(Some(peer)),
        Err(error) if global.local.is_some() => Err(error.into()),
        Err(_) => Ok(None),
    }
}

/// The peers that were named.
fn asked(config: &Config, names: &[String]) -> Result<BTreeSet<PeerName>, Error> {
    let peer = |name: &String| {
        let found = config.peers.iter().find(|peer| peer.name.as_str() == name);
        found.map(|peer| peer.name.clone()).ok_or_else(|| name.clone())
    };
    let (known, unknown): (Vec<_>, Vec<_>) = names.iter().map(peer).partition(Result::is_ok);
    let unknown: Vec<String> = unknown.into_iter().filter_map(Result::err).collect();
    if unknown.is_empty() {
        return Ok(known.into_iter().flatten().collect());
    }
    let all: BTreeSet<&PeerName> = config.peers.iter().map(|peer| &peer.name).collect();
    let all: Vec<&str> = all.iter().take(NAMES_SHOWN).map(|name| name.as_str()).collect();
    let more = if all.len() < config.peers.len() { " and others" } else { "" };
    let (unknown, all) = (unknown.join(", "), all.join(", "));
    Err(Error::request(
        ErrorCode::PeerUnknown,
        format!("the file has no peer {unknown}; it has {all}{more}"),
    ))
}

/// Prints one line to standard error. If that fails, the work goes on.
fn say(what: std::fmt::Arguments<'_>) {
    let _ = writeln!(anstream::stderr(), "{}", Plain(what));
}

/// Prints text to standard output; colours go where they are wanted. The command goes on to its own
/// exit status where the reader, such as a pager, has closed the pipe.
fn print(text: &str) -> Result<(), Error> {
    unless_closed(print_to_reader(text))
}

/// The same, and it is an error that nobody reads any more.
fn print_to_reader(text: &str) -> Result<(), Error> {
    Ok(print_at_once(&folded(text))?)
}

fn unless_closed(printed: Result<(), Error>) -> Result<(), Error> {
    match printed {
        Err(error) if error.is_broken_pipe() => Ok(()),
        printed => printed,
    }
}

/// Lines fit the terminal, if that is where they go. Elsewhere they stay whole, to be searched.
fn folded(text: &str) -> Cow<'_, str> {
    let out = io::stdout();
    let columns = out.is_terminal().then(|| termios::tcgetwinsize(&out).ok());
    match columns.flatten() {
        Some(size) => fold(text, size.ws_col.into()).into(),
        None => text.into(),
    }
}

/// Prints text, with colours where standard output takes them. In one piece: a write for each line
/// takes longer than a large plan itself.
fn print_at_once(text: &str) -> io::Result<()> {
    let choice = anstream::AutoStream::choice(&io::stdout());
    let mut bytes = anstream::AutoStream::new(Vec::with_capacity(text.len()), choice);
    bytes.write_all(text.as_bytes())?;
    let mut out = io::stdout().lock();
    out.write_all(&bytes.into_inner())?;
    out.flush()
}

/// Prints JSON to standard output, with a newline at its end.
fn print_json(value: &impl Serialize) -> Result<(), Error> {
    unless_closed(print_json_as(value, Layout::Lines))
}

fn print_json_as(value: &impl Serialize, layout: Layout) -> Result<(), Error> {
    let text = json_text(value, layout).map_err(io::Error::from)?;
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    Ok(out.flush()?)
}

impl From<ExtentArgs> for Extent {
    fn from(args: ExtentArgs) -> Self {
        match args {
            ExtentArgs { quiet: true, .. } => Self::OneLine,
            ExtentArgs { summary: true, .. } => Self::Summary,
            ExtentArgs { .. } => Self::Whole,
        }
    }
}
