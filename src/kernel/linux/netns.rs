//! Going into a named network namespace, before anything else is done.

use std::{fs, io, os::fd::AsFd, path::Path};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::kernel::{KernelError, SystemCause};

/// The directory in which iproute2 mounts the namespaces that have a name.
const NAMED: &str = "/run/netns";

/// Moves the calling thread into the network namespace `name`, as `ip netns exec` does.
///
/// Only the calling thread moves, and sockets stay where they were opened. So
/// a program calls this before it opens a socket or starts a thread.
///
/// # Errors
///
/// [`KernelError::System`] if there is no such namespace (the error lists the existing ones), or if
/// the process may not enter it.
pub fn enter(name: &str) -> Result<(), KernelError> {
    enter_under(Path::new(NAMED), name)
}

fn enter_under(directory: &Path, name: &str) -> Result<(), KernelError> {
    let failed = |reason: String| KernelError::System {
        cause: SystemCause::Other,
        doing: format!("cannot enter network namespace {name:?}"),
        reason,
    };
    // A name is one component: anything else would open a file elsewhere.
    if name.is_empty() || name.contains('/') || name == "." || name == ".." {
        return Err(failed("a name is not empty and has no /".into()));
    }
    let file = fs::File::open(directory.join(name)).map_err(|error| {
        let absent = error.kind() == io::ErrorKind::NotFound;
        failed(if absent { missing(directory) } else { error.to_string() })
    })?;
    move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network)).map_err(|errno| {
        failed(match errno {
            rustix::io::Errno::PERM => "needs CAP_SYS_ADMIN: run as root".into(),
            rustix::io::Errno::INVAL => "the file is not a network namespace".into(),
            _ => errno.to_string(),
        })
    })
}

/// The names of network namespaces that `ip netns list` shows.
pub fn named() -> Vec<String> {
    names_in(Path::new(NAMED))
}

fn names_in(directory: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(directory)
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .collect();
    names.sort();
    names
}

/// The reason where there is no such namespace. It lists those that `ip netns list` shows.
fn missing(directory: &Path) -> String {
    let names = names_in(directory);
    if names.is_empty() {
        "it does not exist, and `ip netns list` shows none".into()
    } else {
        format!("it does not exist; `ip netns list` shows {}", names.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_one_component() {
        for name in ["", ".", "..", "a/b", "/etc/passwd"] {
            let error = enter(name).unwrap_err().to_string();
            assert!(error.contains("a name is not empty and has no /"), "{error}");
        }
    }

    #[test]
    fn a_missing_namespace_is_answered_with_those_that_exist() {
        let directory = tempfile::tempdir().unwrap();
        let error = enter_under(directory.path(), "blue").unwrap_err().to_string();
        assert!(error.ends_with("it does not exist, and `ip netns list` shows none"), "{error}");
        for name in ["red", "green"] {
            fs::write(directory.path().join(name), "").unwrap();
        }
        let error = enter_under(directory.path(), "blue").unwrap_err().to_string();
        assert!(error.ends_with("`ip netns list` shows green, red"), "{error}");
    }

    #[test]
    fn a_file_that_is_no_namespace_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("red"), "").unwrap();
        assert!(enter_under(directory.path(), "red").is_err());
    }
}
