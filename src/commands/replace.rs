//! Replaces a file by its next version, as a whole or not at all.
//!
//! The new version is written to a file beside it, which takes its name when
//! all of it is on the disk. So whoever reads the file finds the one version or
//! the other, also after a crash. Runs that replace files of one directory wait
//! for each other.

use std::{
    ffi::OsString,
    fs::{self, File},
    io::{self, Read, Write},
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use rustix::fs::{AtFlags, CWD, FlockOperation, Gid, Mode, OFlags, Stat, Uid};
use zeroize::Zeroizing;

use crate::error::Error;

/// How long another run may hold the directory.
const PATIENCE: Duration = Duration::from_secs(30);
/// How often it is looked whether it still does.
const INTERVAL: Duration = Duration::from_millis(20);

/// A file that is to be replaced; its directory is locked until this is dropped.
pub(super) struct Replacement {
    /// The file itself, symbolic links followed.
    target: PathBuf,
    /// The new version's name until it has the file's.
    draft: PathBuf,
    /// The open directory, which holds the lock.
    directory: File,
}

impl Replacement {
    /// Finds the file that a path leads to, and waits for other runs.
    ///
    /// # Errors
    ///
    /// There is no such file, or another run takes too long.
    pub(super) fn begin(path: &Path) -> Result<Self, Error> {
        let failed = |doing| move |error: io::Error| failure(doing, path, &error);
        // A link stays a link: what it leads to is replaced.
        let target = fs::canonicalize(path).map_err(failed("find"))?;
        let (Some(parent), Some(name)) = (target.parent(), target.file_name()) else {
            let error = io::Error::from(io::ErrorKind::IsADirectory);
            return Err(failure("replace", path, &error));
        };
        // One name for all runs, so that what a killed one has left is found.
        let mut draft = OsString::from(".");
        draft.push(name);
        draft.push(".meshsec");
        let draft = parent.join(draft);
        let directory = File::open(parent).map_err(failed("lock the directory of"))?;
        lock(&directory).map_err(failed("lock the directory of"))?;
        Ok(Self { draft, directory, target })
    }

    /// Replaces the file, if it is still as it was `read`.
    ///
    /// # Errors
    ///
    /// It was changed meanwhile, or it can't be replaced. It is then as it was.
    pub(super) fn commit(&self, read: &[u8], contents: &[u8]) -> Result<(), Error> {
        let failed = |error: io::Error| failure("replace", &self.target, &error);
        let old = rustix::fs::stat(&self.target).map_err(|errno| failed(errno.into()))?;
        let renamed = self.write(&old, contents).and_then(|()| self.swap(&old, read));
        if let Err(error) = renamed {
            let _ = fs::remove_file(&self.draft);
            return Err(failed(error));
        }
        // The new version is in place. That its name may be lost in a power cut
        // is no reason to say that nothing was changed.
        if let Err(error) = self.directory.sync_all() {
            anstream::eprintln!(
                "warning: {} may not be on the disk yet: {error}",
                self.target.display()
            );
        }
        Ok(())
    }

    /// Writes the new version to the disk, for its owner alone until all of it is there.
    fn write(&self, old: &Stat, contents: &[u8]) -> io::Result<()> {
        match fs::remove_file(&self.draft) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let flags =
            OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = rustix::fs::open(&self.draft, flags, Mode::RUSR | Mode::WUSR)?;
        let mut file = File::from(file);
        file.write_all(contents)?;
        let new = rustix::fs::fstat(&file)?;
        let (owner, group) = (Uid::from_raw(old.st_uid), Gid::from_raw(old.st_gid));
        if (new.st_uid, new.st_gid) != (old.st_uid, old.st_gid) {
            rustix::fs::fchown(&file, Some(owner), Some(group)).map_err(|errno| {
                io::Error::other(format!("its owner can't be kept ({errno}); run as its owner"))
            })?;
        }
        // After the owner, because a change of owner takes bits of the mode away.
        rustix::fs::fchmod(&file, Mode::from_raw_mode(old.st_mode & 0o7777))?;
        file.sync_all()
    }

    /// Gives the new version the file's name, if that is still the file that was read.
    fn swap(&self, old: &Stat, read: &[u8]) -> io::Result<()> {
        let now = rustix::fs::statat(CWD, &self.target, AtFlags::SYMLINK_NOFOLLOW)?;
        let same = (now.st_dev, now.st_ino) == (old.st_dev, old.st_ino);
        if !same || *contents(&self.target, read.len())? != *read {
            return Err(io::Error::other("another program has changed it; run this again"));
        }
        fs::rename(&self.draft, &self.target)
    }
}

/// A file's contents, and one byte more than expected if there are more.
fn contents(path: &Path, expected: usize) -> io::Result<Zeroizing<Vec<u8>>> {
    let mut contents = Zeroizing::new(Vec::with_capacity(expected + 1));
    File::open(path)?.take(expected as u64 + 1).read_to_end(&mut contents)?;
    Ok(contents)
}

/// The lock belongs to the open file, so that the kernel releases it with the process.
fn lock(directory: &File) -> io::Result<()> {
    let end = Instant::now() + PATIENCE;
    loop {
        match rustix::fs::flock(directory, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(()),
            Err(rustix::io::Errno::WOULDBLOCK) if Instant::now() < end => thread::sleep(INTERVAL),
            Err(rustix::io::Errno::WOULDBLOCK) => {
                return Err(io::Error::other("another run holds it"));
            }
            Err(errno) => return Err(errno.into()),
        }
    }
}

fn failure(doing: &'static str, path: &Path, error: &io::Error) -> Error {
    Error::File { doing, path: path.into(), reason: error.to_string() }
}
