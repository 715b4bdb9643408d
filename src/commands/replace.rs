//! Replaces a file by its next version, as a whole or not at all.
//!
//! The new version is written to a file beside it, the draft, which takes its
//! name when all of it is on the disk. So whoever reads the file finds the one
//! version or the other, also after a crash. Runs that replace files of one
//! directory wait for each other.

use std::{
    ffi::OsString,
    fs::{self, File},
    io::{self, Read, Write},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use rustix::{
    fs::{AtFlags, CWD, FlockOperation, Gid, Mode, OFlags, RenameFlags, Stat, Uid},
    io::Errno,
};
use zeroize::Zeroizing;

use crate::{config, error::Error};

/// How long another run may hold the directory.
const PATIENCE: Duration = Duration::from_secs(30);
/// How often it is looked whether it still does.
const INTERVAL: Duration = Duration::from_millis(20);

/// A file that is to be made or replaced; its directory is locked until this is dropped.
pub(super) struct Replacement {
    /// The file itself, symbolic links followed.
    target: PathBuf,
    /// The new version's name until it has the file's.
    draft: PathBuf,
    /// The open directory, which holds the lock.
    directory: File,
}

impl Replacement {
    /// Finds the file that a path leads to, or its place, and waits for other runs.
    ///
    /// # Errors
    ///
    /// There is no such directory, or another run takes too long.
    pub(super) fn begin(path: &Path) -> Result<Self, Error> {
        let failed = |doing| move |error: io::Error| failure(doing, path, &error);
        let target = resolve(path).map_err(failed("find"))?;
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
        self.prepare(read, contents)?;
        fs::rename(&self.draft, &self.target).map_err(|error| self.give_up(&error))?;
        self.settle();
        Ok(())
    }

    /// The same for a secret, whose old content is overwritten before it goes.
    /// Says where it may be left if that fails; the file is replaced all the same.
    ///
    /// The two versions change places first. So at any moment one of them has the
    /// file's name, and after a crash the other is where the next run sweeps.
    pub(super) fn commit_secret(
        &self,
        read: &[u8],
        contents: &[u8],
    ) -> Result<Option<String>, Error> {
        self.prepare(read, contents)?;
        let old = open_to_overwrite(&self.target);
        let exchanged =
            rustix::fs::renameat_with(CWD, &self.draft, CWD, &self.target, RenameFlags::EXCHANGE);
        match exchanged {
            Ok(()) => {
                self.settle();
                Ok(self.sweep())
            }
            // Not every file system can do that.
            Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) => {
                fs::rename(&self.draft, &self.target).map_err(|error| self.give_up(&error))?;
                self.settle();
                let overwritten = old.and_then(|mut old| overwrite(&mut old));
                Ok(overwritten.err().map(|error| self.remains(&error)))
            }
            Err(errno) => Err(self.give_up(&errno.into())),
        }
    }

    /// Makes the file, for its owner alone.
    ///
    /// # Errors
    ///
    /// There is one already, or it can't be made.
    pub(super) fn create(&self, contents: &[u8]) -> Result<(), Error> {
        let made = self.write(None, contents).and_then(|()| {
            // Unlike a rename, a second name never takes the place of a file.
            fs::hard_link(&self.draft, &self.target)
        });
        let _ = fs::remove_file(&self.draft);
        made.map_err(|error| failure("make", &self.target, &error))?;
        self.settle();
        Ok(())
    }

    /// Overwrites and removes what a killed run, or this one, has left beside the file.
    /// Says where it may still be if that fails.
    pub(super) fn sweep(&self) -> Option<String> {
        let error = erase(&self.draft).err()?;
        (error.kind() != io::ErrorKind::NotFound).then(|| self.remains(&error))
    }

    /// Writes the draft of a file that is still as it was read.
    fn prepare(&self, read: &[u8], contents: &[u8]) -> Result<(), Error> {
        let old = rustix::fs::stat(&self.target);
        let old = old.map_err(|errno| failure("replace", &self.target, &errno.into()))?;
        self.write(Some(&old), contents)
            .and_then(|()| self.is_still(&old, read))
            .map_err(|error| self.give_up(&error))
    }

    fn give_up(&self, error: &io::Error) -> Error {
        let _ = erase(&self.draft);
        failure("replace", &self.target, error)
    }

    /// Writes the draft to the disk, for its owner alone until all of it is
    /// there, and then with the mode and owner of the old version.
    fn write(&self, old: Option<&Stat>, contents: &[u8]) -> io::Result<()> {
        // If it can't be removed it can't be made either.
        let _ = erase(&self.draft);
        let flags =
            OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = rustix::fs::open(&self.draft, flags, Mode::RUSR | Mode::WUSR)?;
        let mut file = File::from(file);
        file.write_all(contents)?;
        if let Some(old) = old {
            take_after(&file, old)?;
        }
        file.sync_all()
    }

    /// Fails unless the file is the one that was read.
    fn is_still(&self, old: &Stat, read: &[u8]) -> io::Result<()> {
        let now = rustix::fs::statat(CWD, &self.target, AtFlags::SYMLINK_NOFOLLOW)?;
        let same = (now.st_dev, now.st_ino) == (old.st_dev, old.st_ino);
        if !same || *contents(&self.target, read.len())? != *read {
            return Err(io::Error::other("another program has changed it; run this again"));
        }
        Ok(())
    }

    /// The new version is in place. That its name may be lost in a power cut is
    /// no reason to say that nothing was changed.
    fn settle(&self) {
        if let Err(error) = self.directory.sync_all() {
            let target = self.target.display();
            super::say(format_args!("warning: {target} may not be on the disk yet: {error}"));
        }
    }

    fn remains(&self, error: &io::Error) -> String {
        let (target, draft) = (self.target.display(), self.draft.display());
        format!("the old content of {target} may be left on the disk, or in {draft}: {error}")
    }
}

/// A link stays a link: what it leads to is made or replaced.
fn resolve(path: &Path) -> io::Result<PathBuf> {
    match fs::canonicalize(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let name = path.file_name().ok_or(error)?;
            let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
            Ok(fs::canonicalize(parent.unwrap_or(Path::new(".")))?.join(name))
        }
        resolved => resolved,
    }
}

/// Gives a new file the owner and the mode of an old one.
fn take_after(file: &File, old: &Stat) -> io::Result<()> {
    let new = rustix::fs::fstat(file)?;
    let (owner, group) = (Uid::from_raw(old.st_uid), Gid::from_raw(old.st_gid));
    if (new.st_uid, new.st_gid) != (old.st_uid, old.st_gid) {
        rustix::fs::fchown(file, Some(owner), Some(group)).map_err(|errno| {
            io::Error::other(format!("its owner can't be kept ({errno}); run as its owner"))
        })?;
    }
    // After the owner, because a change of owner takes bits of the mode away.
    Ok(rustix::fs::fchmod(file, Mode::from_raw_mode(old.st_mode & 0o7777))?)
}

/// A file's contents, and one byte more than expected if there are more.
fn contents(path: &Path, expected: usize) -> io::Result<Zeroizing<Vec<u8>>> {
    config::fill(File::open(path)?, expected + 1)
}

/// Overwrites a file as well as its file system lets it, and removes it.
///
/// One that has other names is only removed: whose it is can't be told.
fn erase(path: &Path) -> io::Result<()> {
    let file = fs::symlink_metadata(path)?;
    let overwritten = match file.is_file() {
        true if file.nlink() == 1 => {
            open_to_overwrite(path).and_then(|mut file| overwrite(&mut file))
        }
        true => Err(io::Error::other("it has other names (hard links)")),
        false => Ok(()),
    };
    fs::remove_file(path).and(overwritten)
}

fn open_to_overwrite(path: &Path) -> io::Result<File> {
    let flags = OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    Ok(File::from(rustix::fs::open(path, flags, Mode::empty())?))
}

fn overwrite(file: &mut File) -> io::Result<()> {
    let length = file.metadata()?.len();
    io::copy(&mut io::repeat(0).take(length), file)?;
    file.sync_all()
}

/// The lock belongs to the open file, so that the kernel releases it with the process.
fn lock(directory: &File) -> io::Result<()> {
    let end = Instant::now() + PATIENCE;
    loop {
        match rustix::fs::flock(directory, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(()),
            Err(Errno::WOULDBLOCK) if Instant::now() < end => thread::sleep(INTERVAL),
            Err(Errno::WOULDBLOCK) => return Err(io::Error::other("another run holds it")),
            Err(errno) => return Err(errno.into()),
        }
    }
}

fn failure(doing: &'static str, path: &Path, error: &io::Error) -> Error {
    Error::File { doing, path: path.into(), reason: error.to_string() }
}
