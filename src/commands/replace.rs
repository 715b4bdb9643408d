//! Replaces a file by its next version, as a whole or not at all.
//!
//! The new version is written to a file beside it, the draft, which takes its name when all of it
//! is on the disk. So a reader of the file finds the one version or the other, also after a crash.
//! Runs that replace one file wait for each other: the draft is the lock too, as nobody but its
//! owner can open it.

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

/// The time for which another run may hold the draft.
const PATIENCE: Duration = Duration::from_secs(30);
/// The time for a run to get from the draft's mode to its name.
const MOMENT: Duration = Duration::from_secs(2);
/// The time between two looks whether it still does.
const INTERVAL: Duration = Duration::from_millis(20);

/// A file that is to be made or replaced; others wait for their turn until this is dropped.
pub(super) struct Replacement {
    /// The file itself, symbolic links followed.
    target: PathBuf,
    /// The new version's name until it has the file's.
    draft: PathBuf,
    /// The open directory.
    directory: File,
    /// The open draft, which holds the lock, even if it has the file's name by now.
    lock: File,
    /// The place of a file's content that a killed run did not erase.
    left: Option<String>,
}

impl Drop for Replacement {
    fn drop(&mut self) {
        if is_at(&self.lock, &self.draft) {
            let _ = fs::remove_file(&self.draft);
        }
    }
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
        // One name for all runs, so that the draft of a killed one is found.
        let mut draft = OsString::from(".");
        draft.push(name);
        draft.push(".meshsec");
        let draft = parent.join(draft);
        let directory = File::open(parent).map_err(failed("open the directory of"))?;
        let mut left = None;
        let lock = lock(&draft, &mut left).map_err(failed("lock the draft of"))?;
        let left = left.map(|error| remains(&target, &draft, &error));
        Ok(Self { draft, directory, target, lock, left })
    }

    /// Replaces the file, if it is still as it was `read`.
    ///
    /// # Errors
    ///
    /// It was changed meanwhile, or it can't be replaced. It is then as it was.
    pub(super) fn commit(&self, read: &[u8], contents: &[u8]) -> Result<(), Error> {
        self.prepare(read, contents)?;
        fs::rename(&self.draft, &self.target).map_err(|error| self.give_up(&error))?;
        self.settle_or_warn();
        Ok(())
    }

    /// The same for a secret: its old content is overwritten before it is removed. Returns the
    /// place where it may be left if that fails; the file is replaced all the same.
    ///
    /// The two versions change places first. So at any moment one of them has the file's name, and
    /// after a crash the other is where the next run sweeps.
    pub(super) fn commit_secret(
        &self,
        read: &[u8],
        contents: &[u8],
    ) -> Result<Option<String>, Error> {
        self.prepare(read, contents)?;
        let old = open_to_overwrite(&self.target);
        // It is going to have the draft's name, and a run that waits for that has to wait for this.
        if let Ok(old) = &old {
            rustix::fs::flock(old, FlockOperation::NonBlockingLockExclusive)
                .map_err(|errno| self.give_up(&errno.into()))?;
        }
        let exchanged =
            rustix::fs::renameat_with(CWD, &self.draft, CWD, &self.target, RenameFlags::EXCHANGE);
        match exchanged {
            Ok(()) => {
                // In a power cut the name may lead to the old one again, which must be whole then.
                self.settle().map_err(|error| self.unsettled(&error))?;
                Ok(self.erase_draft())
            }
            // Not every file system can do that.
            Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) => {
                fs::rename(&self.draft, &self.target).map_err(|error| self.give_up(&error))?;
                self.settle().map_err(|error| self.unsettled(&error))?;
                let overwritten = old.and_then(|mut old| overwrite(&mut old));
                Ok(overwritten.err().map(|error| remains(&self.target, &self.draft, &error)))
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
        self.settle_or_warn();
        Ok(())
    }

    /// The place where a killed run's draft may still be. It is overwritten and removed at the
    /// beginning; this tells if that failed.
    pub(super) fn left(&self) -> Option<String> {
        self.left.clone()
    }

    /// Overwrites and removes the old version, which has the draft's name.
    fn erase_draft(&self) -> Option<String> {
        let error = erase(&self.draft).err()?;
        let remains = || remains(&self.target, &self.draft, &error);
        (error.kind() != io::ErrorKind::NotFound).then(remains)
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
        if !is_at(&self.lock, &self.draft) {
            return Err(io::Error::other("another program has taken its draft away"));
        }
        let mut file = &self.lock;
        file.write_all(contents)?;
        if let Some(old) = old {
            take_after(file, old)?;
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

    /// Brings the new name to the disk.
    fn settle(&self) -> io::Result<()> {
        self.directory.sync_all()
    }

    /// The new version is in place. That its name may be lost in a power cut is not a reason to say
    /// that nothing was changed.
    fn settle_or_warn(&self) {
        if let Err(error) = self.settle() {
            let target = self.target.display();
            super::say(format_args!("warning: {target} may not be on the disk yet: {error}"));
        }
    }

    /// The old secret is kept, because it may be the only one after a power cut. The next run
    /// erases it.
    fn unsettled(&self, error: &io::Error) -> Error {
        let reason = format!(
            "it is there, but may not be on the disk yet ({error}), so its old content is kept in \
             {}",
            self.draft.display()
        );
        Error::File { doing: "sync", path: self.target.clone(), reason }
    }
}

fn remains(target: &Path, draft: &Path, error: &io::Error) -> String {
    let (target, draft) = (target.display(), draft.display());
    format!("the old content of {target} may be left on the disk, or in {draft}: {error}")
}

/// A link stays a link: its target is made or replaced.
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
/// A file with other names is only removed: its owner can't be told.
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

/// Makes an empty draft, and locks it: the lock belongs to the open file, so that the kernel
/// releases it with the process. The draft of a killed run is erased first.
fn lock(draft: &Path, left: &mut Option<io::Error>) -> io::Result<File> {
    let begin = Instant::now();
    loop {
        let (file, is_new) = open_draft(draft)?;
        let waited = begin.elapsed();
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            // The run that had it before has given it another name, or removed it.
            Ok(()) if !is_at(&file, draft) => continue,
            Ok(()) if is_new => return Ok(file),
            Ok(()) => *left = erase(draft).err().or(left.take()),
            Err(Errno::WOULDBLOCK) if waited > MOMENT && is_loose(&file)? => _ = erase(draft),
            Err(Errno::WOULDBLOCK) if waited < PATIENCE => {
                thread::sleep(INTERVAL);
                continue;
            }
            Err(Errno::WOULDBLOCK) => return Err(io::Error::other("another run holds it")),
            Err(errno) => return Err(errno.into()),
        }
        if is_at(&file, draft) {
            return Err(io::Error::other("what a killed run has left can't be removed"));
        }
    }
}

/// Whether others can open it, and hold it: a run that is about to give it its name has given it
/// its mode already, and a killed one may have left it so.
fn is_loose(file: &File) -> io::Result<bool> {
    Ok(file.metadata()?.mode() & 0o077 != 0)
}

/// Opens the draft, and says whether it was made for that.
fn open_draft(draft: &Path) -> io::Result<(File, bool)> {
    let flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
    loop {
        let new = flags | OFlags::CREATE | OFlags::EXCL;
        match rustix::fs::open(draft, new, Mode::RUSR | Mode::WUSR) {
            Ok(file) => return Ok((File::from(file), true)),
            Err(Errno::EXIST) => {}
            Err(errno) => return Err(errno.into()),
        }
        match rustix::fs::open(draft, flags, Mode::empty()) {
            Ok(file) => return Ok((File::from(file), false)),
            Err(Errno::NOENT) => {}
            // A link, or another user's: it goes, if it may.
            Err(_) => match erase(draft) {
                Err(error) if fs::symlink_metadata(draft).is_ok() => return Err(error),
                Ok(()) | Err(_) => {}
            },
        }
    }
}

/// Whether an open file has this name.
fn is_at(file: &File, path: &Path) -> bool {
    let there = fs::symlink_metadata(path);
    let same = |there: fs::Metadata| {
        file.metadata().is_ok_and(|open| (open.dev(), open.ino()) == (there.dev(), there.ino()))
    };
    there.is_ok_and(same)
}

fn failure(doing: &'static str, path: &Path, error: &io::Error) -> Error {
    Error::File { doing, path: path.into(), reason: error.to_string() }
}
