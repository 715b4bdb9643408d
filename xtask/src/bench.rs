//! The benchmarks: `benches/compare`, natively and where there is ESP.

use std::time::Duration;

use crate::failure::Failure;
use crate::kernels::Choice;
use crate::{cargo, host, packages, process, vm};

/// Longest run in a guest. A busy machine without KVM must not reach it.
const GUEST_LIMIT: Duration = Duration::from_secs(2 * 3600);

/// `cargo xtask bench`.
pub fn run(arguments: &[String]) -> Result<u8, Failure> {
    let choice: Choice = match arguments {
        [] => "6.12".parse()?,
        [option, value] if option == "--kernel" => value.parse()?,
        _ => return Err(Failure::usage("bench takes --kernel K and nothing else")),
    };
    packages::ensure_tools()?;
    // The profile of benchmarks is that of releases, and cargo builds the program beside them.
    let arguments = ["bench", "--no-run", "--bench", "compare"];
    let [meshsec, compare] = cargo::build_both(&arguments, ["meshsec", "compare"])?;
    let words = |part: &str| {
        [compare.to_string_lossy(), part.into(), meshsec.to_string_lossy()].map(String::from)
    };
    println!("natively:\n");
    process::must(std::process::Command::new(&compare).args(&words("native")[1..]))?;
    let words = words("kernel");
    match choice {
        Choice::Host if host::has_esp() => {
            println!("\non this host's kernel, in network namespaces:\n");
            let status = process::show(&mut host::root_script(&cargo::root()?, &words))?;
            Ok(u8::from(!status.success()))
        }
        Choice::Host => Err(Failure::new("this kernel has no ESP, or root is out of reach")
            .remedy("use --kernel 6.12")),
        Choice::Series(series) => {
            let kernel = vm::prepare(&series)?;
            println!("\non kernel {}, in a virtual machine:\n", kernel.release);
            let guest = vm::Guest {
                kernel: &kernel,
                command: &words,
                programs: &[meshsec, compare],
                scratch: None,
                append: "",
                label: "",
                limit: GUEST_LIMIT,
            };
            guest.run()?.status
        }
    }
}
