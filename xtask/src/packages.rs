//! Programs of the distribution that the tasks need, and their installation with apt.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, SystemTime};

use crate::failure::{Attempt, Failure};
use crate::{host, process, qemu, script};

/// Lists of packages older than this are fetched again before something is installed.
const LISTS_FRESH: Duration = Duration::from_secs(24 * 3600);

/// A package and the test for its presence.
struct Package {
    name: &'static str,
    present: fn() -> bool,
}

/// The packages for booting a machine. kmod is for depmod here and modprobe in the guest. QEMU is
/// installed in its own way, see `qemu`.
const MACHINE: [Package; 2] = [
    Package { name: "busybox-static", present: || static_busybox().is_some() },
    Package { name: "kmod", present: || has("depmod") && has("modprobe") },
];

/// The packages for the tests and the demo.
const TOOLS: [Package; 14] = [
    Package { name: "iproute2", present: || has("ip") },
    Package { name: "iputils-ping", present: || has("ping") },
    Package { name: "strace", present: || has("strace") },
    Package { name: "tcpdump", present: || has("tcpdump") },
    Package { name: "iptables", present: || has("iptables") },
    Package { name: "jq", present: || has("jq") },
    Package { name: "mandoc", present: || has("mandoc") },
    Package { name: "systemd", present: || has("systemd-analyze") },
    Package { name: "charon-systemd", present: || has("charon-systemd") },
    Package { name: "strongswan-swanctl", present: || has("swanctl") },
    Package { name: "wireguard-tools", present: || has("wg") },
    Package { name: "python3", present: || Path::new("/usr/bin/python3").exists() },
    Package { name: "python3-cryptography", present: || python_has("cryptography") },
    Package { name: "ansible-core", present: || python_has("ansible") },
];

/// The package for building libFuzzer.
const FUZZING: [Package; 1] = [Package { name: "g++", present: || has("c++") }];

/// The packages for trying the packages of a release.
const PACKAGING: [Package; 5] = [
    Package { name: "dpkg-dev", present: || has("dpkg-shlibdeps") },
    Package { name: "rpm", present: || has("rpm") },
    Package { name: "man-db", present: || has("man") },
    Package { name: "zsh", present: || has("zsh") },
    Package { name: "fish", present: || has("fish") },
];

/// Installs the packages for building the fuzz targets.
pub fn ensure_fuzzing() -> Result<(), Failure> {
    ensure(&FUZZING)
}

/// Installs the packages for trying the packages of a release.
pub fn ensure_packaging() -> Result<(), Failure> {
    ensure(&PACKAGING)
}

/// Installs the missing packages for booting a machine.
pub fn ensure_machine() -> Result<(), Failure> {
    ensure(&MACHINE)?;
    qemu::ensure()
}

/// Installs the tools that are missing.
pub fn ensure_tools() -> Result<(), Failure> {
    ensure(&TOOLS)
}

/// A busybox that runs in an initramfs without libraries.
pub fn static_busybox() -> Option<std::path::PathBuf> {
    let path = process::find("busybox")?;
    let program = std::fs::read(&path).ok()?;
    // A dynamically linked program names its loader in its first page (PT_INTERP).
    let head = &program[..program.len().min(4096)];
    let is_static = !head.windows(8).any(|bytes| bytes == b"ld-linux");
    is_static.then_some(path)
}

/// Fetches the lists of packages. A broken third-party source also fails this, while the lists that
/// matter are there: so a failure is shown, but has no effect.
pub fn update_lists() -> Result<(), Failure> {
    println!("fetching package lists: apt-get update");
    if !process::show(&mut apt_get(&["update", "--quiet=2"]))?.success() {
        eprintln!("warning: apt-get update failed; going on with the lists there are");
    }
    Ok(())
}

/// Whether the lists of packages are missing or old.
pub fn lists_are_stale() -> bool {
    let newest = std::fs::read_dir("/var/lib/apt/lists")
        .into_iter()
        .flatten()
        .flatten()
        .filter(|entry| entry.file_name().to_string_lossy().contains("Packages"))
        .filter_map(|entry| entry.metadata().ok()?.modified().ok())
        .max();
    // The server's date is kept on a list, so an unchanged one looks old: apt touches `partial`.
    let fetched = Path::new("/var/lib/apt/lists/partial").metadata().and_then(|d| d.modified());
    let Some(newest) = newest else { return true };
    let age = SystemTime::now().duration_since(fetched.map_or(newest, |at| at.max(newest)));
    age.is_ok_and(|age| age > LISTS_FRESH)
}

fn ensure(packages: &[Package]) -> Result<(), Failure> {
    let missing = || -> Vec<&str> {
        packages.iter().filter(|package| !(package.present)()).map(|package| package.name).collect()
    };
    let wanted = missing();
    if wanted.is_empty() {
        return Ok(());
    }
    install(&wanted)?;
    let still = missing();
    if still.is_empty() {
        return Ok(());
    }
    Err(Failure::new(format!("still missing after installation: {}", still.join(", ")))
        .remedy("look at what apt-get said above"))
}

/// Installs packages, unless another would be removed for them.
pub fn install(packages: &[&str]) -> Result<(), Failure> {
    let list = packages.join(" ");
    if !has("apt-get") {
        return Err(Failure::new(format!("missing: {list}"))
            .remedy("install these (names are Debian's) with this system's package manager"));
    }
    println!("installing: {list}");
    let updated = lists_are_stale();
    if updated {
        update_lists()?;
    }
    if try_install(packages)? {
        return Ok(());
    }
    if !updated {
        update_lists()?;
        if try_install(packages)? {
            return Ok(());
        }
    }
    Err(Failure::new(format!("cannot install {list}")).remedy(format!(
        "see what apt-get install --no-install-recommends {list} says: nothing is installed \
             that would remove a package"
    )))
}

fn try_install(packages: &[&str]) -> Result<bool, Failure> {
    let mut command = apt_get(&["install", "--yes", "--quiet=2", "--no-install-recommends"]);
    // A user that runs a test has not asked for a removal.
    Ok(process::show(command.arg("--no-remove").args(packages))?.success())
}

/// Downloads a package and its missing dependencies, and unpacks them below `partial/root`.
pub fn unpack(package: &str, partial: &Path) -> Result<(), Failure> {
    let (archives, root) = (partial.join("archives"), partial.join("root"));
    std::fs::create_dir_all(archives.join("partial")).attempt("make a directory for packages")?;
    std::fs::create_dir_all(&root).attempt(format_args!("make a directory for {package}"))?;
    download(&[package], &archives)?;
    let files = std::fs::read_dir(&archives).attempt("list packages")?.flatten();
    for file in files.map(|entry| entry.path()) {
        if file.extension().is_some_and(|extension| extension == "deb") {
            process::must(Command::new("dpkg-deb").arg("-x").args([&file, &root]))?;
        }
    }
    Ok(())
}

/// Downloads packages and their missing dependencies into a directory.
fn download(packages: &[&str], archives: &Path) -> Result<(), Failure> {
    let mut command = apt_get(&["install", "--yes", "--quiet=2", "--no-install-recommends"]);
    command.args(["--download-only", "-o", "APT::Sandbox::User=root", "-o"]);
    command.arg(format!("Dir::Cache::archives={}", archives.display()));
    process::must(command.args(packages))
}

fn apt_get(arguments: &[&str]) -> Command {
    // Through env, because sudo drops variables.
    let mut command = host::as_root("env");
    command.args(["DEBIAN_FRONTEND=noninteractive", "apt-get"]).args(arguments);
    command
}

fn has(program: &str) -> bool {
    process::find(program).is_some()
}

/// Whether the system's Python has a module.
fn python_has(module: &str) -> bool {
    process::succeeds(
        Command::new("/usr/bin/python3")
            .args(["-c", &format!("import {module}")])
            .env("PATH", script::PATH),
    )
}
