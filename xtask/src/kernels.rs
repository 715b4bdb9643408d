//! Debian's kernels: found with apt, unpacked into a cache, never installed.

use std::ffi::OsStr;
use std::fmt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::str::FromStr;

use crate::failure::{Attempt, Failure};
use crate::sources::Sources;
use crate::{image, packages, process};

/// The kernels that are tested by default: Debian 12's own and a current one.
pub const DEFAULT: [&str; 2] = ["6.1", "6.12"];

/// The place to run: this machine's kernel, or a kernel in a virtual machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Choice {
    /// The kernel that runs now.
    Host,
    /// The newest kernel of a series.
    Series(Series),
}

/// A series of kernels, such as 6.12.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Series(String);

/// A kernel on disk.
#[derive(Debug)]
pub struct Kernel {
    /// The output of `uname -r`.
    pub release: String,
    /// The bootable image.
    pub image: PathBuf,
    /// Its directory of modules, with the output of depmod.
    pub modules: PathBuf,
}

impl FromStr for Choice {
    type Err = Failure;

    fn from_str(text: &str) -> Result<Self, Failure> {
        if text == "host" { Ok(Self::Host) } else { text.parse().map(Self::Series) }
    }
}

impl FromStr for Series {
    type Err = Failure;

    fn from_str(text: &str) -> Result<Self, Failure> {
        let is_number = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
        match text.split_once('.') {
            Some((major, minor)) if is_number(major) && is_number(minor) => Ok(Self(text.into())),
            _ => Err(Failure::usage(format!("not a series of kernels, such as 6.12: {text}"))),
        }
    }
}

impl fmt::Display for Choice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Host => f.write_str("host"),
            Self::Series(series) => series.fmt(f),
        }
    }
}

impl fmt::Display for Series {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Returns the newest kernel of `series` in the cache, or else fetches the newest that the package
/// sources offer. Remove the cache to get a newer one.
pub fn obtain(series: &Series) -> Result<Kernel, Failure> {
    if std::env::consts::ARCH != "x86_64" {
        return Err(Failure::new("kernels can be booted on x86_64 only")
            .remedy("on other machines use --kernel host"));
    }
    let cache = cache_directory()?;
    if let Some(directory) = newest_cached(&cache, series) {
        return open(&directory);
    }
    open(&download(&cache, series)?)
}

/// The directory of kernels, and of QEMU if it can't be installed.
pub fn cache_directory() -> Result<PathBuf, Failure> {
    let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty());
    let base = variable("XDG_CACHE_HOME")
        .map(PathBuf::from)
        .or_else(|| Some(PathBuf::from(variable("HOME")?).join(".cache")))
        .ok_or_else(|| Failure::new("neither XDG_CACHE_HOME nor HOME is set"))?;
    let cache = base.join("meshsec-vm");
    std::fs::create_dir_all(&cache).attempt(format_args!("create {}", cache.display()))?;
    cache.canonicalize().attempt("find the cache of kernels")
}

fn newest_cached(cache: &Path, series: &Series) -> Option<PathBuf> {
    entries(cache)
        .into_iter()
        .filter(|path| {
            let name = path.file_name().and_then(OsStr::to_str).unwrap_or_default();
            name.split_once('_').is_some_and(|(package, _)| is_generic(package, series))
        })
        .max_by_key(|path| numbers(&path.to_string_lossy()))
}

/// Downloads and unpacks. Unfinished files have another name, so that an interrupted run leaves
/// nothing that looks complete.
fn download(cache: &Path, series: &Series) -> Result<PathBuf, Failure> {
    let partial = cache.join(format!("partial-{}-{}", series, std::process::id()));
    std::fs::create_dir_all(&partial).attempt(format_args!("create {}", partial.display()))?;
    let result =
        fetch(cache, &partial, series).and_then(|archives| unpack(&archives, cache, &partial));
    let _ = std::fs::remove_dir_all(&partial);
    result
}

/// Downloads the newest packages of `series` into `directory`, with fresh lists if the present lists
/// don't have it, or name a version that the server has replaced; from backports where the system's
/// sources offer none.
fn fetch(cache: &Path, directory: &Path, series: &Series) -> Result<Vec<PathBuf>, Failure> {
    if process::find("apt-get").is_none() || process::find("dpkg-deb").is_none() {
        return Err(Failure::new(format!("no kernel {series}: this system has no apt")));
    }
    let system = Sources::system();
    let offered = system.newest(series)?;
    if let Some(archives) = fetch_from(&system, offered.as_deref(), directory)? {
        return Ok(archives);
    }
    if offered.is_some() || packages::lists_are_stale() {
        packages::update_lists()?;
        let offered = system.newest(series)?;
        if let Some(archives) = fetch_from(&system, offered.as_deref(), directory)? {
            return Ok(archives);
        }
    }
    match offered {
        Some(package) => Err(not_downloaded(&package)),
        None => fetch_backport(&Sources::backports(cache)?, directory, series),
    }
}

fn fetch_backport(
    backports: &Sources,
    directory: &Path,
    series: &Series,
) -> Result<Vec<PathBuf>, Failure> {
    let package = backports.newest(series)?.ok_or_else(|| {
        Failure::new(format!("neither the package sources nor backports offer a kernel {series}"))
            .remedy("see what there is: apt-cache search --names-only '^linux-image-[0-9]'")
    })?;
    fetch_from(backports, Some(&package), directory)?.ok_or_else(|| not_downloaded(&package))
}

fn not_downloaded(package: &str) -> Failure {
    Failure::new(format!("cannot download {package}")).remedy("look at what apt-get said above")
}

fn fetch_from(
    sources: &Sources,
    package: Option<&str>,
    directory: &Path,
) -> Result<Option<Vec<PathBuf>>, Failure> {
    let Some(package) = package else { return Ok(None) };
    println!("downloading {package}, once: it is kept in {}", parent(directory).display());
    sources.download(package, directory)
}

/// Unpacks a kernel's packages into one directory, which has the name of the first.
fn unpack(archives: &[PathBuf], cache: &Path, partial: &Path) -> Result<PathBuf, Failure> {
    let tree = partial.join("tree");
    for archive in archives {
        process::must(Command::new("dpkg-deb").arg("-x").arg(archive).arg(&tree))?;
    }
    index_modules(&tree)?;
    unpack_image(&tree)?;
    let first = archives.first().map_or(partial, PathBuf::as_path);
    let name = first.file_stem().and_then(OsStr::to_str).unwrap_or_default();
    let target = cache.join(name.trim_end_matches("_amd64"));
    if let Err(error) = std::fs::rename(&tree, &target)
        && !target.is_dir()
    {
        return Err(Failure::new(format!("cannot keep {}: {error}", target.display())));
    }
    Ok(target)
}

/// Writes modules.dep and modules.alias, as a package's installation would.
fn index_modules(tree: &Path) -> Result<(), Failure> {
    let kernel = open(tree)?;
    let depmod = process::find("depmod").ok_or_else(|| Failure::new("depmod is missing"))?;
    let base = kernel.modules.ancestors().nth(3).unwrap_or(tree);
    process::must(Command::new(depmod).arg("-b").arg(base).arg(&kernel.release))
}

/// Leaves the unpacked kernel beside the packed one, which still boots if unpacking fails.
fn unpack_image(tree: &Path) -> Result<(), Failure> {
    let kernel = open(tree)?;
    let unpacked = kernel.image.with_file_name(format!("vmlinux-{}", kernel.release));
    if let Err(failure) = image::unpack(&kernel.image, &unpacked) {
        eprintln!("warning: booting the packed image, which is slower: {failure}");
    }
    Ok(())
}

/// Reads an unpacked kernel: `/lib/modules`, or `/usr/lib/modules` since Debian 13. The image is in
/// `/boot`, or with the modules where a kernel is several packages.
fn open(tree: &Path) -> Result<Kernel, Failure> {
    let incomplete = |what| {
        Failure::new(format!("no {what} in {}", tree.display())).remedy("remove that directory")
    };
    let modules = ["lib/modules", "usr/lib/modules"]
        .into_iter()
        .flat_map(|directory| entries(&tree.join(directory)))
        .find(|directory| directory.join("kernel").is_dir())
        .ok_or_else(|| incomplete("directory of modules"))?;
    let release = file_name(&modules).to_owned();
    let image = [tree.join(format!("boot/vmlinuz-{release}")), modules.join("vmlinuz")]
        .into_iter()
        .find(|image| image.exists())
        .ok_or_else(|| incomplete("kernel image"))?;
    let unpacked = image.with_file_name(format!("vmlinux-{release}"));
    let image = if unpacked.exists() { unpacked } else { image };
    Ok(Kernel { release, image, modules })
}

/// Whether `package` is a signed generic kernel of `series`, for instance
/// `linux-image-6.1.0-56-amd64`: not a meta-package, not debug symbols, not made for clouds or for
/// real time.
pub fn is_generic(package: &str, series: &Series) -> bool {
    package
        .strip_prefix("linux-image-")
        .and_then(|rest| rest.strip_prefix(series.0.as_str()))
        .and_then(|rest| rest.strip_prefix('.'))
        .and_then(|rest| rest.strip_suffix("-amd64"))
        .is_some_and(|rest| !rest.ends_with("-cloud") && !rest.ends_with("-rt"))
}

/// The numbers in a name, in order, to compare versions by.
pub fn numbers(name: &str) -> Vec<u64> {
    name.split(|c: char| !c.is_ascii_digit()).filter_map(|digits| digits.parse().ok()).collect()
}

fn entries(directory: &Path) -> Vec<PathBuf> {
    std::fs::read_dir(directory).into_iter().flatten().flatten().map(|entry| entry.path()).collect()
}

fn file_name(path: &Path) -> &str {
    path.file_name().and_then(OsStr::to_str).unwrap_or_default()
}

fn parent(path: &Path) -> &Path {
    path.parent().unwrap_or(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_generic_kernels_of_the_series_are_taken() {
        let series: Series = "6.1".parse().expect("a series");
        assert!(is_generic("linux-image-6.1.0-56-amd64", &series));
        for other in [
            "linux-image-6.1.0-56-amd64-dbg",
            "linux-image-6.1.0-56-amd64-unsigned",
            "linux-image-6.1.0-56-cloud-amd64",
            "linux-image-6.1.0-56-rt-amd64",
            "linux-image-6.12.117+deb12-amd64",
            "linux-image-6.1-amd64",
            "linux-image-amd64",
        ] {
            assert!(!is_generic(other, &series), "{other}");
        }
    }

    #[test]
    fn versions_compare_by_number() {
        assert!(
            numbers("linux-image-6.12.117+deb12-amd64")
                > numbers("linux-image-6.12.43+deb12-amd64")
        );
        assert!(numbers("linux-image-6.1.0-100-amd64") > numbers("linux-image-6.1.0-56-amd64"));
    }

    #[test]
    fn a_choice_is_host_or_a_series() {
        assert_eq!("host".parse::<Choice>().expect("host"), Choice::Host);
        assert!("6".parse::<Choice>().is_err());
        assert!("6.x".parse::<Choice>().is_err());
    }
}
