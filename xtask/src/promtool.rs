//! promtool, unpacked from Debian's package of Prometheus. Installed, that would start a server.

use crate::failure::{Attempt, Failure};
use crate::{kernels, packages, process};

const PROGRAM: &str = "promtool";
const PACKAGE: &str = "prometheus";

/// Gets promtool into the cache of kernels, where tests look for it, unless it is there or installed.
pub fn ensure() -> Result<(), Failure> {
    let cache = kernels::cache_directory()?;
    let program = cache.join(PROGRAM);
    if process::find(PROGRAM).is_some() || program.exists() {
        return Ok(());
    }
    if process::find("apt-get").is_none() {
        return Err(Failure::new(format!("missing: {PROGRAM}"))
            .remedy("install Prometheus with this system's package manager"));
    }
    println!("unpacking: {PROGRAM}");
    if packages::lists_are_stale() {
        packages::update_lists()?;
    }
    let partial = cache.join(format!("partial-promtool-{}", std::process::id()));
    let result = packages::unpack(PACKAGE, &partial).and_then(|()| {
        let from = partial.join("root/usr/bin").join(PROGRAM);
        std::fs::rename(from, &program).attempt(format_args!("make {}", program.display()))
    });
    let _ = std::fs::remove_dir_all(&partial);
    result
}
