//! The small file system a guest starts from: busybox, the modules that reach the host's files,
//! and the script that hands over to them.

use std::path::Path;
use std::process::Command;

use crate::cpio::Archive;
use crate::failure::{Attempt, Failure};
use crate::kernels::Kernel;
use crate::{packages, process};

/// Modules for the host's files (9p), the layer above them, and the port for the output; modprobe
/// loads all others when the guest asks for them.
const MODULES: [&str; 6] =
    ["virtio_pci", "9pnet_virtio", "9p", "overlay", "virtio_console", "virtio_rng"];

const INIT: &str = include_str!("../guest/init.sh");
const STAGE_TWO: &str = include_str!("../guest/stage2.sh");

/// Builds the initramfs for `kernel`.
pub fn build(kernel: &Kernel) -> Result<Vec<u8>, Failure> {
    let busybox = packages::static_busybox().ok_or_else(|| Failure::new("no static busybox"))?;
    let mut archive = Archive::new();
    for directory in ["bin", "dev", "lower", "modules", "proc", "root", "scratch", "sys", "upper"] {
        archive.directory(directory);
    }
    // Without this device the kernel has no console to give to init.
    archive.device("dev/console", 5, 1);
    archive.file("bin/busybox", &read(&busybox)?);
    archive.file("init", INIT.as_bytes());
    archive.file("stage2", STAGE_TWO.as_bytes());
    let index = text(&kernel.modules.join("modules.dep"))?;
    let builtin = text(&kernel.modules.join("modules.builtin"))?;
    for (position, path) in load_order(&index, &builtin)?.iter().enumerate() {
        // Numbered, so that the shell's sorting of names is the order to load them in.
        let name = format!("modules/{position:02}-{}.ko", module_name(path));
        archive.file(&name, &read_module(&kernel.modules.join(path))?);
    }
    Ok(archive.finish())
}

/// Paths of [`MODULES`] and of their dependencies, each after its own dependencies.
fn load_order<'a>(index: &'a str, builtin: &str) -> Result<Vec<&'a str>, Failure> {
    let mut order: Vec<&str> = Vec::new();
    for wanted in MODULES {
        if let Some((path, dependencies)) = index
            .lines()
            .filter_map(|line| line.split_once(':'))
            .find(|(path, _)| module_name(path) == wanted)
        {
            // modules.dep lists all dependencies, those to be loaded first at the end.
            for path in dependencies.split_whitespace().rev().chain([path]) {
                if !order.contains(&path) {
                    order.push(path);
                }
            }
        } else if !builtin.lines().any(|path| module_name(path) == wanted) {
            return Err(Failure::new(format!("this kernel has no module {wanted}")));
        }
    }
    Ok(order)
}

/// `kernel/net/9p/9pnet.ko.xz` is `9pnet`; dashes are as good as underscores.
fn module_name(path: &str) -> String {
    let file = path.rsplit('/').next().unwrap_or(path);
    file.split(".ko").next().unwrap_or(file).replace('-', "_")
}

/// Reads a module and unpacks it, as busybox cannot load compressed ones.
fn read_module(path: &Path) -> Result<Vec<u8>, Failure> {
    let program = match path.extension().and_then(|extension| extension.to_str()) {
        Some("xz") => "xz",
        Some("zst") => "zstd",
        _ => return read(path),
    };
    if process::find(program).is_none() {
        return Err(Failure::new(format!("modules are compressed and {program} is missing"))
            .remedy(format!("install {program}")));
    }
    let output = Command::new(program).arg("-dc").arg(path).output().attempt("unpack a module")?;
    if output.status.success() {
        Ok(output.stdout)
    } else {
        Err(Failure::new(format!("cannot unpack {}", path.display())))
    }
}

fn read(path: &Path) -> Result<Vec<u8>, Failure> {
    std::fs::read(path).attempt(format_args!("read {}", path.display()))
}

fn text(path: &Path) -> Result<String, Failure> {
    std::fs::read_to_string(path).attempt(format_args!("read {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dependencies_are_loaded_first_and_once() {
        let index = "\
k/virtio_pci.ko: k/modern.ko k/ring.ko k/virtio.ko
k/9pnet.ko:
k/9pnet_virtio.ko.xz: k/9pnet.ko k/ring.ko k/virtio.ko
k/9p.ko: k/9pnet.ko
k/virtio-rng.ko: k/virtio.ko
";
        let order =
            load_order(index, "k/overlay.ko\nk/virtio_console.ko\n").expect("all are there");
        let expected = [
            "k/virtio.ko",
            "k/ring.ko",
            "k/modern.ko",
            "k/virtio_pci.ko",
            "k/9pnet.ko",
            "k/9pnet_virtio.ko.xz",
            "k/9p.ko",
            "k/virtio-rng.ko",
        ];
        assert_eq!(order, expected);
        assert!(load_order(index, "").is_err());
    }
}
