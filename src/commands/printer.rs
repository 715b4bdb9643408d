//! Prints from a thread of its own.
//!
//! A terminal that takes no more, because somebody stopped it or its network is cut, blocks a
//! process that prints to it. It must not block a run that has half of an apply done, or that is to
//! revert it because of that very network.

use std::{
    fmt::Display,
    io::{self, Write},
    sync::mpsc::{self, Receiver, Sender},
    thread,
    time::Duration,
};

use serde::Serialize;

use crate::{
    error::Error,
    render::{Layout, Plain, json_text},
};

/// The destination of a text.
enum Text {
    Out(String),
    /// Not to be broken into lines.
    Json(String),
    Err(String),
}

/// Prints in order, some time later; text that can't be printed is lost.
pub(super) struct Printer {
    texts: Sender<Text>,
    done: Receiver<()>,
}

impl Printer {
    pub(super) fn start() -> Result<Self, Error> {
        let (texts, waiting) = mpsc::channel();
        let (end, done) = mpsc::channel();
        thread::Builder::new().name("printer".into()).spawn(move || {
            waiting.into_iter().for_each(print);
            let _ = end.send(());
        })?;
        Ok(Self { texts, done })
    }

    /// To standard output.
    pub(super) fn out(&self, text: impl Into<String>) {
        let _ = self.texts.send(Text::Out(text.into()));
    }

    /// To standard output, as JSON with a newline at its end.
    pub(super) fn json(&self, value: &impl Serialize) {
        if let Ok(text) = json_text(value, Layout::Lines) {
            let _ = self.texts.send(Text::Json(text));
        }
    }

    /// A line to standard error.
    pub(super) fn err(&self, line: impl Display) {
        let _ = self.texts.send(Text::Err(format!("{}\n", Plain(line))));
    }

    /// Waits until all is printed, or no longer than `patience` if there is one.
    pub(super) fn finish(self, patience: Option<Duration>) {
        drop(self.texts);
        let _ = match patience {
            None => self.done.recv().is_ok(),
            Some(patience) => self.done.recv_timeout(patience).is_ok(),
        };
    }
}

/// The work goes on whether or not anybody reads of it.
fn print(text: Text) {
    let _ = match text {
        Text::Out(text) => super::print_at_once(&super::folded(&text)),
        Text::Json(text) => super::print_at_once(&text),
        Text::Err(text) => io::stderr().write_all(text.as_bytes()),
    };
}
