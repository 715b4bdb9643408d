//! mesh.toml: from text to a checked [`Config`], with every error located.
//!
//! [`load`] is the whole of it. Everything wrong with a file is reported in
//! one run, each error with its line and a caret.

mod types;

pub use types::{Config, Esp, Peer, SecretSource, Secrets, Traffic};
