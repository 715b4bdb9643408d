//! The `meshsec` program: parses its arguments, runs, returns an exit status.

use std::{io::Write, process::ExitCode};

use clap::Parser;
use meshsec::{
    cli::{self, Cli},
    commands, error, privilege,
    render::Plain,
};

fn main() -> ExitCode {
    error::quiet_panics();
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            let error = cli::with_tip(error);
            // clap would exit with 2, which here means "changes are pending".
            let _ = error.print();
            return ExitCode::from(if error.use_stderr() { 1 } else { 0 });
        }
    };
    if let Err(errno) = privilege::confine(&cli) {
        return failed(&format!("error: cannot give up what is not needed: {errno}"));
    }
    match commands::run(&cli) {
        Ok(status) => status.into(),
        Err(error) if error.is_broken_pipe() => ExitCode::SUCCESS,
        Err(error) => failed(&error.to_string()),
    }
}

/// Where standard error takes nothing, the status has to tell. What others have
/// named may be in any line.
fn failed(what: &str) -> ExitCode {
    let mut err = anstream::stderr().lock();
    let _ = what.lines().try_for_each(|line| writeln!(err, "{}", Plain(line)));
    ExitCode::from(1)
}
