//! Completion of command lines. A shell asks the program itself, so that peers and network
//! namespaces are completed as well.
//!
//! The script that `meshsec completions SHELL` prints makes the shell run the program with
//! `MESHSEC_COMPLETE` in the environment. Only `main` and that command use this module.

use std::{env, ffi::OsStr, path::PathBuf};

use clap::CommandFactory;
use clap_complete::{
    ArgValueCandidates, ArgValueCompleter, CompleteEnv, CompletionCandidate, PathCompleter,
    engine::ValueCompleter, env::EnvCompleter,
};

use crate::{
    cli::{self, Cli, Shell},
    config::{self, SecretsMode},
    kernel::linux::netns,
    privilege,
};

/// In the environment: the shell that asks.
const VARIABLE: &str = "MESHSEC_COMPLETE";

/// Answers a shell and ends the process, if it was a shell that has started it.
///
/// A shell puts `--` before the line. Without that the variable is only somewhere in the environment,
/// and an apply must not end as a success that has done nothing.
pub fn answer() {
    let asks = env::args_os().nth(1).is_some_and(|word| word == "--");
    if !asks || env::var_os(VARIABLE).is_none() {
        return;
    }
    // Nothing that is read for a completion needs a right.
    if privilege::confine_to_nothing().is_ok() {
        CompleteEnv::with_factory(command).var(VARIABLE).complete();
    }
}

/// The script by which a shell learns to ask.
///
/// # Errors
///
/// Memory that can't be written to, which does not happen.
pub fn script(shell: Shell) -> std::io::Result<String> {
    let mut script = Vec::new();
    let shell = completer(shell);
    shell.write_registration(VARIABLE, "meshsec", "meshsec", "meshsec", &mut script)?;
    Ok(String::from_utf8_lossy(&script).into_owned())
}

fn completer(shell: Shell) -> &'static dyn EnvCompleter {
    match shell {
        Shell::Bash => &clap_complete::env::Bash,
        Shell::Elvish => &clap_complete::env::Elvish,
        Shell::Fish => &clap_complete::env::Fish,
        Shell::Powershell => &clap_complete::env::Powershell,
        Shell::Zsh => &clap_complete::env::Zsh,
    }
}

/// The command line, with the values that are known on this host.
fn command() -> clap::Command {
    let of_peers = |command: clap::Command| {
        command.mut_arg("peers", |arg| arg.add(ArgValueCandidates::new(peers)))
    };
    Cli::command()
        .mut_arg("local", |arg| arg.add(ArgValueCandidates::new(peers)))
        .mut_arg("netns", |arg| arg.add(ArgValueCandidates::new(namespaces)))
        .mut_subcommand("plan", |plan| {
            of_peers(plan).mut_arg("live", |arg| arg.add(ArgValueCompleter::new(live)))
        })
        .mut_subcommand("status", of_peers)
        .mut_subcommand("prove", of_peers)
        .mut_subcommand("doctor", of_peers)
}

/// The peers of the file; none if it can't be read.
fn peers() -> Vec<CompletionCandidate> {
    let loaded = config::load(&file(), SecretsMode::Ignored);
    let peers = loaded.map(|loaded| loaded.config.peers).unwrap_or_default();
    let candidate = |peer: &config::Peer| {
        let address = peer.address.to_string();
        CompletionCandidate::new(peer.name.as_str()).help(Some(address.into()))
    };
    peers.iter().map(candidate).collect()
}

fn namespaces() -> Vec<CompletionCandidate> {
    netns::named().into_iter().map(CompletionCandidate::new).collect()
}

/// The kernel, an empty host, and files.
fn live(begun: &OsStr) -> Vec<CompletionCandidate> {
    let words = [("kernel", "this host's"), ("empty", "a host without any object")];
    let begun_with = begun.to_string_lossy();
    let words = words.into_iter().filter(|(word, _)| word.starts_with(&*begun_with));
    let words = words.map(|(word, help)| CompletionCandidate::new(word).help(Some(help.into())));
    words.chain(PathCompleter::file().complete(begun)).collect()
}

/// The mesh's file, as the line so far names it.
fn file() -> PathBuf {
    let words: Vec<_> = env::args_os().collect();
    let named = |pair: &[std::ffi::OsString]| {
        ["-c", "--config"].iter().any(|option| pair[0] == *option).then(|| pair[1].clone())
    };
    let joined = || {
        let value =
            |word: &std::ffi::OsString| Some(word.to_str()?.strip_prefix("--config=")?.to_owned());
        words.iter().find_map(value).map(PathBuf::from)
    };
    let file = words.windows(2).find_map(named).map(PathBuf::from).or_else(joined);
    file.unwrap_or_else(|| cli::DEFAULT_FILE.into())
}
