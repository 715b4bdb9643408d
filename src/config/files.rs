//! The only file of this stage that opens files.
//!
//! Only regular files are opened, and they are read up to a limit. So a FIFO, a device or a growing
//! file can neither hang a run nor eat its memory.
#![forbid(unsafe_code)]

use std::{
    fs::File,
    io::{self, Read},
    path::{Path, PathBuf},
};

use rustix::fs::{FileType, Mode, OFlags, Stat, StatVfsMountFlags};
use zeroize::Zeroizing;

use super::include::{FoundFile, MOST_FILES, Pattern};

/// 4 MiB: six times the size of the largest mesh with its 4,096 peers.
pub(super) const MESH_LIMIT: usize = 4 << 20;
/// 4 KiB: sixty times a secret. There is room for a long comment, which is then refused.
pub(super) const SECRET_LIMIT: usize = 4 << 10;

/// The reason why a file wasn't read. The caller adds the path.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FileError {
    #[error("no such file")]
    Absent,
    #[error("it is a directory")]
    Directory,
    #[error("it is not a regular file")]
    Special,
    #[error("it is larger than {0} KiB")]
    Large(usize),
    /// One of several files, which are limited together.
    #[error("with mesh.toml and the files before it, it is larger than {} KiB", MESH_LIMIT >> 10)]
    LargeTogether,
    #[error("more than {MOST_FILES} files have such a name")]
    Many,
    #[error("it grows while it is read")]
    Growing,
    #[error("group or others may use it (mode {0:04o})")]
    Loose(u32),
    /// The same where chmod has no effect, or no lasting one.
    #[error("group or others may use it (mode {0:04o}), and chmod does not last in this volume")]
    LooseVolume(u32),
    #[error("group or others can write it (mode {0:04o})")]
    Writable(u32),
    #[error("others can replace it: they can write its directory (mode {1:04o})")]
    OpenDirectory(PathBuf, u32),
    #[error("it belongs to user {0}, who is neither root nor the one who runs this")]
    Owner(u32),
    #[error("permission denied")]
    Denied,
    #[error("{0}")]
    Io(#[from] io::Error),
}

/// Reads mesh.toml for commands that only look at it.
pub(super) fn mesh_of_anybody(path: &Path) -> Result<Zeroizing<Vec<u8>>, FileError> {
    read_file(path, MESH_LIMIT, Permissions::Any)
}

/// Reads mesh.toml. Users that can write it decide which traffic is protected.
pub(super) fn mesh(path: &Path) -> Result<Zeroizing<Vec<u8>>, FileError> {
    read_file(path, MESH_LIMIT, Permissions::OwnerWrites)
}

/// Reads mesh.toml from standard input.
pub(super) fn standard_input() -> Result<Zeroizing<Vec<u8>>, FileError> {
    let stdin = rustix::io::dup(rustix::stdio::stdin()).map_err(io::Error::from)?;
    let bytes = fill(File::from(stdin), MESH_LIMIT + 1)?;
    if bytes.len() > MESH_LIMIT {
        return Err(FileError::Large(MESH_LIMIT >> 10));
    }
    Ok(bytes)
}

/// The directory in which the names of included files begin: that of mesh.toml, with its links
/// followed if it is one.
pub(super) fn directory_of(path: &Path) -> Result<PathBuf, FileError> {
    let is_link = std::fs::symlink_metadata(path).is_ok_and(|file| file.is_symlink());
    let file = if is_link { std::fs::canonicalize(path)? } else { path.into() };
    Ok(file.parent().unwrap_or(Path::new("")).into())
}

/// Reads the files that a name or a pattern means, for commands that only look at them.
pub(super) fn included_of_anybody(
    dir: &Path,
    pattern: &Pattern<'_>,
    room: usize,
) -> Result<Vec<FoundFile>, FileError> {
    included(dir, pattern, room, Permissions::Any)
}

/// Reads the files that a name or a pattern means. Users that can write them, or put others in their
/// place, decide who is a member of the mesh.
pub(super) fn included_of_owner(
    dir: &Path,
    pattern: &Pattern<'_>,
    room: usize,
) -> Result<Vec<FoundFile>, FileError> {
    included(dir, pattern, room, Permissions::OwnerWrites)
}

/// The files in the order of their names, together of no more bytes than there is room.
fn included(
    dir: &Path,
    pattern: &Pattern<'_>,
    mut room: usize,
    permissions: Permissions,
) -> Result<Vec<FoundFile>, FileError> {
    let mut found = Vec::new();
    for name in names(dir, pattern)? {
        let path = dir.join(&name);
        let bytes = not_replaced_by_others(&path, permissions).and_then(|()| {
            read_file(&path, room, permissions).map_err(|error| {
                let is_large = matches!(error, FileError::Large(_));
                if is_large { FileError::LargeTogether } else { error }
            })
        });
        room -= bytes.as_ref().map_or(0, |bytes| bytes.len().min(room));
        found.push(FoundFile { name, bytes });
    }
    Ok(found)
}

/// The names that a pattern means, sorted. A name without an asterisk means itself.
fn names(dir: &Path, pattern: &Pattern<'_>) -> Result<Vec<String>, FileError> {
    if !pattern.has_asterisk() {
        return Ok(vec![pattern.text.into()]);
    }
    let directory = dir.join(pattern.directory());
    // An empty path is no name of the working directory.
    let here = if directory == Path::new("") { Path::new(".") } else { &directory };
    let mut names = Vec::new();
    for entry in std::fs::read_dir(here).map_err(unlisted)? {
        let name = entry?.file_name();
        if !pattern.matches(&name.to_string_lossy()) {
            continue;
        }
        let Some(name) = name.to_str() else {
            return Err(io::Error::other("the name of a file is not UTF-8").into());
        };
        if names.len() == MOST_FILES {
            return Err(FileError::Many);
        }
        names.push(format!("{}{name}", pattern.directory()));
    }
    names.sort();
    Ok(names)
}

fn unlisted(error: io::Error) -> FileError {
    match rustix::io::Errno::from_io_error(&error) {
        Some(errno) => unopened(errno),
        None => error.into(),
    }
}

/// Whoever can write a directory can give a file's name to another file, unless the directory is
/// sticky. The directories of a link and of its target both count.
fn not_replaced_by_others(path: &Path, permissions: Permissions) -> Result<(), FileError> {
    if permissions != Permissions::OwnerWrites {
        return Ok(());
    }
    // A file that is not there has its error where it is opened.
    let Ok(target) = std::fs::canonicalize(path) else { return Ok(()) };
    for directory in [path, &target].into_iter().filter_map(Path::parent) {
        let here = if directory == Path::new("") { Path::new(".") } else { directory };
        let mode = rustix::fs::stat(here).map_err(io::Error::from)?.st_mode & 0o7777;
        if mode & 0o0022 != 0 && mode & 0o1000 == 0 {
            return Err(FileError::OpenDirectory(here.into(), mode));
        }
    }
    Ok(())
}

/// Reads a secret that the operator keeps.
pub(super) fn secret(path: &Path) -> Result<Zeroizing<Vec<u8>>, FileError> {
    read_file(path, SECRET_LIMIT, Permissions::OwnerOnly)
}

/// Reads a secret that systemd keeps. systemd sets the permissions.
pub(super) fn credential(path: &Path) -> Result<Zeroizing<Vec<u8>>, FileError> {
    read_file(path, SECRET_LIMIT, Permissions::Any)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Permissions {
    /// Another program sets them.
    Any,
    /// Nobody else may write it.
    OwnerWrites,
    /// Nobody else may use it.
    OwnerOnly,
}

impl Permissions {
    fn check(self, path: &Path, file: &File, stat: &Stat) -> Result<(), FileError> {
        let mode = stat.st_mode & 0o7777;
        match self {
            Self::Any => return Ok(()),
            Self::OwnerWrites if mode & 0o022 != 0 => return Err(FileError::Writable(mode)),
            Self::OwnerOnly if mode & 0o077 != 0 => {
                let kept = is_kept_by_others(path, file);
                return Err(match kept {
                    true => FileError::LooseVolume(mode),
                    false => FileError::Loose(mode),
                });
            }
            Self::OwnerWrites | Self::OwnerOnly => {}
        }
        match may_own(stat.st_uid) {
            true => Ok(()),
            false => Err(FileError::Owner(stat.st_uid)),
        }
    }
}

/// Whether a user may own mesh.toml or a secret: root, the user of this process, and the user that
/// runs it with sudo. In a container, files of the host's root belong to a user that the container
/// doesn't know, and no user in it can change them.
fn may_own(user: u32) -> bool {
    let own = rustix::process::geteuid().as_raw();
    let sudo = || std::env::var("SUDO_UID").is_ok_and(|id| id.parse() == Ok(user));
    user == 0 || user == own || (own == 0 && sudo()) || !is_mapped(user)
}

/// Whether this process's user namespace knows a user.
fn is_mapped(user: u32) -> bool {
    let Ok(map) = std::fs::read_to_string("/proc/self/uid_map") else { return true };
    map.lines().any(|line| {
        let mut numbers = line.split_whitespace().map(str::parse::<u32>);
        match (numbers.next(), numbers.nth(1)) {
            (Some(Ok(first)), Some(Ok(count))) => user.wrapping_sub(first) < count,
            _ => true,
        }
    })
}

fn read_file(
    path: &Path,
    limit: usize,
    permissions: Permissions,
) -> Result<Zeroizing<Vec<u8>>, FileError> {
    // Without NONBLOCK, opening a FIFO waits for a writer.
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    let file = File::from(rustix::fs::open(path, flags, Mode::empty()).map_err(unopened)?);
    // The open file is asked, not the path: the path may be another file by now.
    let stat = rustix::fs::fstat(&file).map_err(io::Error::from)?;
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => {}
        FileType::Directory => return Err(FileError::Directory),
        FileType::Symlink
        | FileType::Fifo
        | FileType::Socket
        | FileType::CharacterDevice
        | FileType::BlockDevice
        | FileType::Unknown => return Err(FileError::Special),
    }
    permissions.check(path, &file, &stat)?;
    let size = usize::try_from(stat.st_size).unwrap_or(usize::MAX);
    if size > limit {
        return Err(FileError::Large(limit >> 10));
    }
    contents(file, size)
}

/// Whether another program sets a file's mode. Its file system is mounted read-only, or it is a
/// part of a volume of Kubernetes. There `mesh.key` links to `..data/mesh.key`, and `..data` to a
/// directory that is replaced as a whole.
fn is_kept_by_others(path: &Path, file: &File) -> bool {
    let read_only = rustix::fs::fstatvfs(file)
        .is_ok_and(|volume| volume.f_flag.contains(StatVfsMountFlags::RDONLY));
    let link = std::fs::read_link(path);
    read_only || link.is_ok_and(|link| link.starts_with("..data"))
}

fn unopened(errno: rustix::io::Errno) -> FileError {
    use rustix::io::Errno;
    match errno {
        Errno::NOENT | Errno::NOTDIR => FileError::Absent,
        Errno::ACCESS | Errno::PERM => FileError::Denied,
        // The file is a socket, which can't be opened.
        Errno::NXIO => FileError::Special,
        errno => FileError::Io(errno.into()),
    }
}

fn contents(file: File, size: usize) -> Result<Zeroizing<Vec<u8>>, FileError> {
    // Files of /proc have contents but a size of 0.
    let expected = size.max(SECRET_LIMIT);
    let contents = fill(file, expected + 1)?;
    if contents.len() > expected {
        return Err(FileError::Growing);
    }
    Ok(contents)
}

/// Reads to the end, at most `most` bytes, into one buffer that is wiped and
/// never grows: growing would leave copies of it behind.
///
/// # Errors
///
/// The errors of reading.
pub fn fill(mut from: impl Read, most: usize) -> io::Result<Zeroizing<Vec<u8>>> {
    let mut buffer = Zeroizing::new(vec![0; most]);
    let mut length = 0;
    while length < buffer.len() {
        match from.read(&mut buffer[length..]) {
            Ok(0) => break,
            Ok(read) => length += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    buffer.truncate(length);
    Ok(buffer)
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt};

    use super::*;

    #[test]
    fn only_regular_files_are_read() {
        let dir = tempfile::tempdir().unwrap();
        assert!(matches!(mesh(dir.path()), Err(FileError::Directory)));
        assert!(matches!(mesh(&dir.path().join("none")), Err(FileError::Absent)));
        assert!(matches!(mesh(Path::new("/dev/zero")), Err(FileError::Special)));
        let socket = dir.path().join("socket");
        let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        assert!(matches!(mesh(&socket), Err(FileError::Special)));
        let fifo = dir.path().join("fifo");
        rustix::fs::mknodat(rustix::fs::CWD, &fifo, FileType::Fifo, Mode::RUSR, 0).unwrap();
        assert!(matches!(mesh(&fifo), Err(FileError::Special)));
    }

    #[test]
    fn a_file_is_read_up_to_its_limit() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("credential");
        fs::write(&path, vec![b'x'; SECRET_LIMIT]).unwrap();
        assert_eq!(credential(&path).unwrap().len(), SECRET_LIMIT);
        fs::write(&path, vec![b'x'; SECRET_LIMIT + 1]).unwrap();
        assert!(matches!(credential(&path), Err(FileError::Large(4))));
        // Files of /proc claim to be empty, but are not.
        assert!(!mesh(Path::new("/proc/self/status")).unwrap().is_empty());
    }

    #[test]
    fn a_secret_is_its_owner_s_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("mesh.key");
        fs::write(&path, "x").unwrap();
        for (mode, good) in [(0o600, true), (0o400, true), (0o640, false), (0o601, false)] {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            assert_eq!(secret(&path).is_ok(), good, "{mode:o}");
        }
    }

    #[test]
    fn a_mesh_that_others_can_write_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("mesh.toml");
        fs::write(&path, "x").unwrap();
        for (mode, good) in
            [(0o644, true), (0o444, true), (0o600, true), (0o664, false), (0o646, false)]
        {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            assert_eq!(mesh(&path).is_ok(), good, "{mode:o}");
            assert!(mesh_of_anybody(&path).is_ok(), "{mode:o}");
        }
    }

    #[test]
    fn what_belongs_to_another_user_is_refused() {
        let own = rustix::process::geteuid().as_raw();
        assert!(may_own(0) && may_own(own));
        if own != 0 {
            return; // Only root can give a file away.
        }
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("mesh.key");
        fs::write(&path, "x").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        std::os::unix::fs::chown(&path, Some(65534), None).unwrap();
        if is_mapped(65534) {
            assert!(matches!(secret(&path), Err(FileError::Owner(65534))));
            assert!(matches!(mesh(&path), Err(FileError::Owner(65534))));
        }
        assert!(credential(&path).is_ok(), "systemd sees to it");
    }

    /// If the path were asked for owner and mode after the open, a user that can rename files
    /// beside a secret could have one file checked and another read.
    #[test]
    fn what_is_read_is_the_file_that_was_looked_at() {
        let dir = tempfile::tempdir().unwrap();
        let [path, other] = ["mesh.key", "other.key"].map(|name| dir.path().join(name));
        for (path, mode) in [(&path, 0o600), (&other, 0o644)] {
            fs::write(path, format!("{mode:o}")).unwrap();
            fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        }
        let done = std::sync::atomic::AtomicBool::new(false);
        let read = std::thread::scope(|scope| {
            scope.spawn(|| {
                use rustix::fs::{CWD, RenameFlags, renameat_with};
                while !done.load(std::sync::atomic::Ordering::Relaxed) {
                    renameat_with(CWD, &path, CWD, &other, RenameFlags::EXCHANGE).unwrap();
                }
            });
            let read: Vec<_> = (0..30_000).map(|_| secret(&path)).collect();
            done.store(true, std::sync::atomic::Ordering::Relaxed);
            read
        });
        let refused = read.iter().filter(|read| read.is_err()).count();
        assert!(refused > 0 && refused < read.len(), "the two change places");
        let loose = read.iter().flatten().filter(|text| text.as_slice() != b"600").count();
        assert_eq!(loose, 0, "times a file was read that others can use");
    }

    #[test]
    fn a_volume_of_kubernetes_is_told_from_a_file_that_chmod_mends() {
        let dir = tempfile::tempdir().unwrap();
        let data = dir.path().join("..2026_11_28");
        fs::create_dir(&data).unwrap();
        fs::write(data.join("mesh.key"), "x").unwrap();
        fs::set_permissions(data.join("mesh.key"), fs::Permissions::from_mode(0o440)).unwrap();
        std::os::unix::fs::symlink("..2026_11_28", dir.path().join("..data")).unwrap();
        std::os::unix::fs::symlink("..data/mesh.key", dir.path().join("mesh.key")).unwrap();
        let error = secret(&dir.path().join("mesh.key"));
        assert!(matches!(error, Err(FileError::LooseVolume(0o440))), "{error:?}");
        assert!(matches!(secret(&data.join("mesh.key")), Err(FileError::Loose(0o440))));
    }
}
