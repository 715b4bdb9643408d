//! The `meshsec` program: parses its arguments, runs, returns an exit status.

use std::process::ExitCode;

use clap::Parser;
use meshsec::{cli::Cli, commands};

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // clap would exit with 2, which here means "changes are pending".
            let _ = error.print();
            return ExitCode::from(if error.use_stderr() { 1 } else { 0 });
        }
    };
    if let Err(error) = no_core_dumps() {
        anstream::eprintln!("error: cannot turn core dumps off: {error}");
        return ExitCode::from(1);
    }
    match commands::run(&cli) {
        Ok(status) => status.into(),
        Err(error) if error.is_broken_pipe() => ExitCode::SUCCESS,
        Err(error) => {
            anstream::eprintln!("{error}");
            ExitCode::from(1)
        }
    }
}

/// Keys are in this process's memory: it leaves no core file, and no process
/// of the same user may read its memory.
fn no_core_dumps() -> rustix::io::Result<()> {
    use rustix::process::{DumpableBehavior, Resource, Rlimit};
    let none = Rlimit { current: Some(0), maximum: Some(0) };
    rustix::process::setrlimit(Resource::Core, none)?;
    rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable)
}
