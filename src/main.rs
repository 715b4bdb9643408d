//! The `meshsec` program: parses its arguments, runs, returns an exit status.

use std::process::ExitCode;

use clap::Parser;
use meshsec::{cli::Cli, commands, privilege};

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // clap would exit with 2, which here means "changes are pending".
            let _ = error.print();
            return ExitCode::from(if error.use_stderr() { 1 } else { 0 });
        }
    };
    if let Err(errno) = privilege::confine(&cli) {
        anstream::eprintln!("error: cannot give up what is not needed: {errno}");
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
