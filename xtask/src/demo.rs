//! The demo: `xtask/demo.sh`, run where there is ESP.

use crate::failure::Failure;
use crate::kernels::{self, Choice};
use crate::{cargo, host, packages, process, vm};

/// `cargo xtask demo`.
pub fn run(arguments: &[String]) -> Result<u8, Failure> {
    let choice = match arguments {
        [] => None,
        [option, value] if option == "--kernel" => Some(value.parse()?),
        _ => return Err(Failure::usage("demo takes --kernel K and nothing else")),
    };
    packages::ensure_tools()?;
    let choice = match choice {
        Some(choice) => choice,
        None => default()?,
    };
    let script = cargo::root()?.join("xtask/demo.sh");
    let meshsec = cargo::build_program(&["build", "--bin", "meshsec"], "meshsec")?;
    let words = [script, meshsec].map(|path| path.to_string_lossy().into_owned());
    match choice {
        Choice::Host => on_host(&words),
        Choice::Series(series) => {
            let kernel = vm::prepare(&series)?;
            println!("on kernel {}, in a virtual machine:\n", kernel.release);
            let limit = vm::DEFAULT_LIMIT;
            let guest = vm::Guest {
                kernel: &kernel,
                command: &words,
                programs: &[],
                scratch: None,
                append: "",
                label: "",
                limit,
            };
            guest.run()?.status
        }
    }
}

/// This machine's kernel if it has ESP, or else the newest of the tested kernels.
fn default() -> Result<Choice, Failure> {
    if host::has_esp() {
        return Ok(Choice::Host);
    }
    kernels::DEFAULT[kernels::DEFAULT.len() - 1].parse()
}

fn on_host(words: &[String]) -> Result<u8, Failure> {
    if !host::has_esp() {
        return Err(Failure::new("this kernel has no ESP, or we may not become root")
            .remedy("use --kernel 6.1 or --kernel 6.12"));
    }
    println!("on this host's kernel, in network namespaces:\n");
    let status = process::show(&mut host::root_script(&cargo::root()?, words))?;
    Ok(u8::from(!status.success()))
}
