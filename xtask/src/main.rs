//! Development tasks, run as `cargo xtask TASK`.
//!
//! Cargo's own commands cannot do these, because they need a kernel: ESP is missing from many
//! container and micro-VM kernels, so the tests and the demo boot Debian's kernels under QEMU.

mod bench;
mod cargo;
mod cpio;
mod demo;
#[path = "../../tests/enumeration/edits.rs"]
mod edits;
mod enumerate;
mod failure;
mod fuzz;
mod host;
mod image;
mod initramfs;
mod kernels;
mod packages;
mod process;
mod promtool;
mod qemu;
mod release;
mod report;
mod script;
mod sources;
mod test;
mod vm;

use std::process::ExitCode;

use failure::Failure;

const USAGE: &str = "\
usage: cargo xtask TASK

  test [--kernel K]... [--no-vm] [-- FILTER]
      Run every test: natively, then those that need ESP on each kernel K, which is a series of
      Debian's kernels such as 6.12 (booted under QEMU) or `host`. Without --kernel: 6.1 and 6.12,
      or the host where neither can be had and the host has ESP. A series that the package sources
      lack, such as 7.3, comes from backports. --no-vm leaves the virtual machines out.
      A kernel that did not run is listed as such; with --kernel or CI=true it is also an error.

  demo [--kernel K]
      Show a mesh of three hosts: plan, apply, encrypted traffic, destroy.

  bench [--kernel K]
      Print how long meshsec takes beside other programs that do the same work, natively and on
      kernel K, 6.12 by default. docs/benchmarks.md explains the table and names the variables that
      pick its parts.

  enumerate [--broken [NAME]...]
      Look at every state of one pair of hosts, and at every event on the way, and print how many
      worlds that were, by property and dimension. docs/verification.md explains it. With --broken:
      break each rule in tests/enumeration/breaks, or those that are named, in a copy of the
      source, and expect that its property fails.

  fuzz [--seconds N] [TARGET...]
      Run each fuzz target, or those that are named, for N seconds, 15 by default. What it finds
      stays in fuzz/artifacts, and is an error.

  packages [--kernel K]
      Build the packages of a release, and install, use, upgrade and remove them on kernel K, 6.12
      by default. Its needs are in RELEASING.md.

  vm --kernel K [--timeout SECONDS] [--scratch DIR] [--append WORDS] [--] COMMAND...
      Run COMMAND as root on kernel K, a series such as 6.1 or 6.12, and exit with its status.
      The guest sees this machine's files; what it writes is lost, except in DIR, which it finds
      in $MESHSEC_SCRATCH. WORDS go on the kernel's command line, such as fips=1. An error of the
      machine itself is status 125.
";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match run(&arguments) {
        Ok(status) => ExitCode::from(status),
        Err(failure) => {
            eprintln!("error: {failure}");
            if failure.is_usage() {
                eprint!("\n{USAGE}");
            }
            ExitCode::from(failure.status())
        }
    }
}

/// Dispatches to a task and returns its exit status.
fn run(arguments: &[String]) -> Result<u8, Failure> {
    let Some((task, rest)) = arguments.split_first() else {
        return Err(Failure::usage("no task given"));
    };
    match task.as_str() {
        "test" => test::run(rest),
        "demo" => demo::run(rest),
        "bench" => bench::run(rest),
        "enumerate" => enumerate::run(rest),
        "fuzz" => fuzz::run(rest),
        "packages" => release::run(rest),
        "vm" => vm::run(rest),
        "help" | "-h" | "--help" => {
            print!("{USAGE}");
            Ok(0)
        }
        other => Err(Failure::usage(format!("no such task: {other}"))),
    }
}
