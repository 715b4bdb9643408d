//! QEMU: the system's, or a private copy where installing it would remove something.
//!
//! Debian's qemu-system-x86 and a qemu-utils from backports, for example, can't be installed
//! together. The copy is unpacked into the cache of kernels and never installed.

use std::path::{Path, PathBuf};

use crate::failure::{Attempt, Failure};
use crate::{kernels, packages, process};

const PROGRAM: &str = "qemu-system-x86_64";
const PACKAGE: &str = "qemu-system-x86";
/// Debian's directories of libraries, in packages and after usrmerge.
const LIBRARIES: [&str; 2] = ["usr/lib/x86_64-linux-gnu", "lib/x86_64-linux-gnu"];
/// The directories of QEMU's replacement for a BIOS.
const DATA: [&str; 2] = ["usr/share/qemu", "usr/share/seabios"];

/// Gets QEMU, unless it is there.
pub fn ensure() -> Result<(), Failure> {
    if process::find(PROGRAM).is_some() || copy()?.is_some() {
        return Ok(());
    }
    // If no other package has to be removed for it, it is installed like the others.
    match packages::install(&[PACKAGE]) {
        Err(failure) if process::find("apt-get").is_none() => return Err(failure),
        Ok(()) if process::find(PROGRAM).is_some() => return Ok(()),
        _ => {}
    }
    println!("unpacking a copy of {PACKAGE}, so that no package has to be removed");
    let cache = kernels::cache_directory()?;
    let partial = cache.join(format!("partial-qemu-{}", std::process::id()));
    let result = unpack(&partial).and_then(|()| {
        let (from, to) = (partial.join("root"), cache.join("qemu"));
        std::fs::rename(from, &to).attempt(format_args!("make {}", to.display()))
    });
    let _ = std::fs::remove_dir_all(&partial);
    result
}

/// The copy, if there is one.
fn copy() -> Result<Option<PathBuf>, Failure> {
    let root = kernels::cache_directory()?.join("qemu");
    Ok(root.join("usr/bin").join(PROGRAM).exists().then_some(root))
}

fn unpack(partial: &Path) -> Result<(), Failure> {
    packages::unpack(PACKAGE, partial)?;
    if partial.join("root/usr/bin").join(PROGRAM).exists() {
        return Ok(());
    }
    Err(Failure::new(format!("{PACKAGE} can't be had without removing packages"))
        .remedy(format!("see what apt-get install {PACKAGE} would remove, and decide")))
}

/// The words of a command that runs QEMU.
pub fn command() -> Result<Vec<String>, Failure> {
    let Some(root) = copy()?.filter(|_| process::find(PROGRAM).is_none()) else {
        return Ok(vec![PROGRAM.into()]);
    };
    let below = |part: &str| root.join(part).to_string_lossy().into_owned();
    let libraries = LIBRARIES.map(below).join(":");
    let mut words = vec![
        "env".into(),
        format!("LD_LIBRARY_PATH={libraries}"),
        format!("QEMU_MODULE_DIR={}", below("usr/lib/x86_64-linux-gnu/qemu")),
        below(&format!("usr/bin/{PROGRAM}")),
    ];
    words.extend(DATA.into_iter().flat_map(|directory| ["-L".into(), below(directory)]));
    Ok(words)
}
