//! The `meshsec` program: parses its arguments, runs, returns an exit status.

use std::{env, io::Write, process::ExitCode};

use anstream::ColorChoice;
use clap::Parser;
use meshsec::{
    cli::{self, Cli, Color, Format},
    commands, completion,
    error::{self, Error},
    privilege,
    render::{Layout, Plain, json_text},
};

fn main() -> ExitCode {
    error::quiet_panics();
    completion::answer();
    let cli = match parse() {
        Ok(cli) => cli,
        Err(error) => {
            // clap would exit with 2, which here means "changes are pending".
            let _ = error.print();
            return ExitCode::from(if error.use_stderr() { 1 } else { 0 });
        }
    };
    colours(cli.global.color).write_global();
    if let Err(errno) = privilege::confine(&cli) {
        return failed(&format!("error: cannot give up what is not needed: {errno}"));
    }
    match commands::run(&cli) {
        Ok(status) => status.into(),
        Err(error) if error.is_broken_pipe() => ExitCode::SUCCESS,
        Err(error) => failed(&shown(&error, cli.global.format)),
    }
}

/// Terminals and the environment are asked where the command line leaves it open.
fn colours(wanted: Color) -> ColorChoice {
    match wanted {
        Color::Auto => ColorChoice::Auto,
        Color::Always => ColorChoice::Always,
        Color::Never => ColorChoice::Never,
    }
}

/// An error as text, or as one JSON document.
fn shown(error: &Error, format: Format) -> String {
    match format {
        // Text that is no JSON is better than no error.
        Format::Json => json_text(&error.json(), Layout::Lines)
            .map_or_else(|_| error.shown(), |text| text.trim_end().to_owned()),
        Format::Text | Format::Prometheus => error.shown(),
    }
}

/// Where standard error can't be written to, the status has to tell.
fn failed(what: &str) -> ExitCode {
    let _ = writeln!(anstream::stderr(), "{what}");
    ExitCode::from(1)
}

/// The arguments. Another program may have put them together, and an error repeats them: so they
/// are parsed again in the form that may be shown, to the same error.
fn parse() -> Result<Cli, clap::Error> {
    Cli::try_parse().map_err(|error| {
        let shown = env::args_os().map(|it| Plain(it.to_string_lossy()).to_string());
        cli::with_tip(Cli::try_parse_from(shown).err().unwrap_or(error))
    })
}
