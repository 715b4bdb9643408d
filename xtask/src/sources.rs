//! The package sources that kernels come from: the system's own, and Debian's backports.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::failure::{Attempt, Failure};
use crate::kernels::{Series, is_generic, numbers};
use crate::process;

/// The suite with kernels that are newer than those of the system's sources.
const BACKPORTS: &str = "trixie-backports";

/// The keys that Debian signs its lists with.
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// Package sources, as options of apt.
pub struct Sources(Vec<String>);

impl Sources {
    /// Those of this system.
    pub fn system() -> Self {
        Self(Vec::new())
    }

    /// Debian's backports, with lists of their own below `cache`: the system's apt never sees them.
    pub fn backports(cache: &Path) -> Result<Self, Failure> {
        if !Path::new(KEYRING).exists() {
            return Err(Failure::new(format!("{KEYRING} is missing"))
                .remedy("install debian-archive-keyring"));
        }
        let directory = cache.join(format!("apt-{BACKPORTS}"));
        for part in ["lists/partial", "cache/archives/partial"] {
            let path = directory.join(part);
            fs::create_dir_all(&path).attempt(format_args!("create {}", path.display()))?;
        }
        let list = directory.join("sources.list");
        let line = format!("deb [signed-by={KEYRING}] {} {BACKPORTS} main\n", archive()?);
        fs::write(&list, line).attempt(format_args!("write {}", list.display()))?;
        let sources = Self(private(&directory));
        println!("fetching the package lists of {BACKPORTS}");
        process::must(sources.apt("apt-get").args(["--quiet=2", "update"]))?;
        Ok(sources)
    }

    /// The name of the newest generic kernel of a series that is offered.
    pub fn newest(&self, series: &Series) -> Result<Option<String>, Failure> {
        let pattern = format!("^linux-image-{}\\.", series.to_string().replace('.', "\\."));
        let found =
            process::output(self.apt("apt-cache").args(["search", "--names-only", &pattern]))?;
        Ok(found
            .lines()
            .filter_map(|line| line.split_whitespace().next())
            .filter(|package| is_generic(package, series))
            .max_by_key(|package| numbers(package))
            .map(str::to_owned))
    }

    /// Downloads a kernel's packages into `directory`; `None` if one can't be had. The package
    /// itself is the first.
    pub fn download(
        &self,
        package: &str,
        directory: &Path,
    ) -> Result<Option<Vec<PathBuf>>, Failure> {
        let shown = process::output(self.apt("apt-cache").args(["show", package]))?;
        let mut archives = Vec::new();
        for name in std::iter::once(package.to_owned()).chain(parts(package, &shown)) {
            let mut command = self.apt("apt-get");
            command.args(["--quiet=2", "download", &name]).current_dir(directory);
            match process::show(&mut command)?.success().then(|| archive_of(&name, directory)) {
                Some(archive) => archives.push(archive?),
                None => return Ok(None),
            }
        }
        Ok(Some(archives))
    }

    fn apt(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        for option in &self.0 {
            command.args(["-o", option]);
        }
        // As root, apt would warn that its own user cannot write here.
        command.args(["-o", "APT::Sandbox::User=root"]);
        command
    }
}

/// The options that keep apt within a directory.
fn private(directory: &Path) -> Vec<String> {
    let path = |name: &str| directory.join(name).display().to_string();
    vec![
        format!("Dir::Etc::SourceList={}", path("sources.list")),
        "Dir::Etc::SourceParts=/dev/null".to_owned(),
        format!("Dir::State::Lists={}", path("lists")),
        format!("Dir::Cache={}", path("cache")),
    ]
}

/// The address of Debian's archive, as this system's sources name it.
fn archive() -> Result<String, Failure> {
    let mut command = Command::new("apt-get");
    command.args(["indextargets", "--format", "$(CODENAME) $(REPO_URI)"]);
    let targets = process::output(command.args(["Created-By: Packages", "Origin: Debian"]))?;
    of_releases(&targets).map(str::to_owned).ok_or_else(|| {
        Failure::new("this system's package sources name no archive of Debian")
            .remedy("add the suite with that kernel to them, or use --kernel host")
    })
}

/// The address of a release itself: security updates have another.
fn of_releases(targets: &str) -> Option<&str> {
    let mut targets = targets.lines().filter_map(|line| line.split_once(' '));
    targets.find(|(codename, _)| !codename.contains('-')).map(|(_, address)| address)
}

/// The packages that a kernel is split into since 6.19, by its package's description: its image, its
/// modules, and the files for both. Older kernels are one package.
fn parts(package: &str, shown: &str) -> Vec<String> {
    let release = package.strip_prefix("linux-image-").unwrap_or(package);
    let depends = shown.lines().find_map(|line| line.strip_prefix("Depends:")).unwrap_or_default();
    let is_part = |name: &&str| {
        ["binary", "modules", "base"].iter().any(|part| *name == format!("linux-{part}-{release}"))
    };
    depends.split([' ', ',', '|']).filter(is_part).map(str::to_owned).collect()
}

fn archive_of(package: &str, directory: &Path) -> Result<PathBuf, Failure> {
    let entries = fs::read_dir(directory).attempt("list downloaded packages")?.flatten();
    let name = |path: &PathBuf| path.file_name().map(|name| name.to_string_lossy().into_owned());
    entries
        .map(|entry| entry.path())
        .find(|path| name(path).is_some_and(|name| name.starts_with(&format!("{package}_"))))
        .ok_or_else(|| Failure::new(format!("apt-get download left no {package}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kernel_in_parts_is_all_of_them() {
        let shown = "\
Package: linux-image-7.3.4+deb13-amd64
Depends: dracut | linux-initramfs-tool, linux-base-7.3.4+deb13-amd64 (= 7.3.4-1), \
linux-binary-7.3.4+deb13-amd64 (= 7.3.4-1), linux-modules-7.3.4+deb13-amd64 (= 7.3.4-1)
Recommends: apparmor
";
        let parts = parts("linux-image-7.3.4+deb13-amd64", shown);
        let expected = ["base", "binary", "modules"];
        assert_eq!(parts, expected.map(|part| format!("linux-{part}-7.3.4+deb13-amd64")));
    }

    #[test]
    fn a_kernel_in_one_package_is_that_one() {
        let shown = "Depends: kmod, linux-base (>= 4.3~), initramfs-tools | dracut\n";
        assert!(parts("linux-image-6.12.117+deb12-amd64", shown).is_empty());
    }

    #[test]
    fn the_archive_of_security_updates_is_not_that_of_backports() {
        let targets = "bookworm-security a://security\nbookworm-updates a://debian\n\
                       bookworm a://debian\n";
        assert_eq!(of_releases(targets), Some("a://debian"));
        assert_eq!(of_releases("bookworm-security a://security\n"), None);
    }
}
