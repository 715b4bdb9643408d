//! The one error type of these tasks: the problem and the remedy.

use std::fmt;

/// Exit status for a mistake on the command line, as most programs have it.
const USAGE_STATUS: u8 = 2;
/// Exit status when a machine could not be run; a command in it can return anything up to 124.
pub const MACHINE_STATUS: u8 = 125;

/// An error, ready to be shown.
#[derive(Debug)]
pub struct Failure {
    what: String,
    remedy: Option<String>,
    status: u8,
}

impl Failure {
    /// A failure of a task.
    pub fn new(what: impl Into<String>) -> Self {
        Self { what: what.into(), remedy: None, status: 1 }
    }

    /// A mistake on the command line. The usage is printed after it.
    pub fn usage(what: impl Into<String>) -> Self {
        Self { status: USAGE_STATUS, ..Self::new(what) }
    }

    /// Adds the remedy.
    pub fn remedy(mut self, remedy: impl Into<String>) -> Self {
        self.remedy = Some(remedy.into());
        self
    }

    /// Replaces the exit status.
    pub fn with_status(mut self, status: u8) -> Self {
        self.status = status;
        self
    }

    /// Whether usage should be printed.
    pub fn is_usage(&self) -> bool {
        self.status == USAGE_STATUS
    }

    /// The exit status this error ends the program with.
    pub fn status(&self) -> u8 {
        self.status
    }

    /// The first line, for a table.
    pub fn summary(&self) -> &str {
        self.what.lines().next().unwrap_or_default()
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)?;
        match &self.remedy {
            Some(remedy) => write!(f, "\n  {remedy}"),
            None => Ok(()),
        }
    }
}

/// Turns an I/O error into a [`Failure`] that names the attempt.
pub trait Attempt<T> {
    /// `attempt` completes the sentence "cannot …".
    fn attempt(self, attempt: impl fmt::Display) -> Result<T, Failure>;
}

impl<T> Attempt<T> for std::io::Result<T> {
    fn attempt(self, attempt: impl fmt::Display) -> Result<T, Failure> {
        self.map_err(|error| Failure::new(format!("cannot {attempt}: {error}")))
    }
}
