//! The packages of a release: builds them, and tries them in a virtual machine.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::failure::{Attempt, Failure};
use crate::kernels::Series;
use crate::{cargo, packages, process, vm};

/// The target of the static program.
const STATIC: &str = "x86_64-unknown-linux-musl";
/// The version of packages to upgrade from.
const OLD: &str = "0.0.1";
/// Commands of cargo, and the crates that have them.
const COMMANDS: [&str; 3] = ["cargo-auditable", "cargo-deb", "cargo-generate-rpm"];

/// `cargo xtask packages`.
pub fn run(arguments: &[String]) -> Result<u8, Failure> {
    let series: Series = match arguments {
        [] => "6.12".parse()?,
        [option, value] if option == "--kernel" => value.parse()?,
        _ => return Err(Failure::usage("packages takes --kernel K and nothing else")),
    };
    commands_are_there()?;
    packages::ensure_tools()?;
    packages::ensure_packaging()?;
    let built = build()?;
    let kernel = vm::prepare(&series)?;
    println!("\non kernel {}, in a virtual machine:", kernel.release);
    let script = cargo::root()?.join("xtask/packages.sh");
    let command: Vec<String> =
        [script].iter().chain(&built).map(|path| path.to_string_lossy().into_owned()).collect();
    let guest = vm::Guest {
        kernel: &kernel,
        command: &command,
        programs: &[],
        scratch: None,
        append: "",
        label: "",
        limit: vm::DEFAULT_LIMIT,
    };
    guest.run()?.status
}

fn commands_are_there() -> Result<(), Failure> {
    let missing: Vec<&str> =
        COMMANDS.into_iter().filter(|command| process::find(command).is_none()).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let list = missing.join(" ");
    Err(Failure::new(format!("missing: {list}"))
        .remedy(format!("cargo install --locked {list}; their directory must be in PATH")))
}

/// Builds everything, in the order of the script's arguments.
fn build() -> Result<[PathBuf; 5], Failure> {
    let program = cargo::build_program(&["auditable", "build", "--release"], "meshsec")?;
    let target = ["auditable", "build", "--release", "--target", STATIC];
    let static_program = cargo::build_program(&target, "meshsec").map_err(|failure| {
        failure.remedy(format!("if the target is missing: rustup target add {STATIC}"))
    })?;
    let directory = program.with_file_name("").join("../packages");
    std::fs::create_dir_all(&directory).attempt("make a directory for packages")?;
    // One date for all files, so that the same commit gives the same packages.
    let date = process::output(
        Command::new("git").args(["log", "-1", "--format=%ct"]).current_dir(cargo::root()?),
    )?;
    let package = Package { directory: &directory, date: date.trim() };
    Ok([
        package.debian("old.deb", &["--deb-version", &format!("{OLD}-1")])?,
        package.debian("new.deb", &[])?,
        package.rpm("old.rpm", &["--set-metadata", &format!("version = \"{OLD}\"")])?,
        package.rpm("new.rpm", &[])?,
        static_program,
    ])
}

struct Package<'a> {
    directory: &'a Path,
    date: &'a str,
}

impl Package<'_> {
    fn debian(&self, name: &str, options: &[&str]) -> Result<PathBuf, Failure> {
        self.make(&["deb", "--no-build", "--locked"], name, options)
    }

    fn rpm(&self, name: &str, options: &[&str]) -> Result<PathBuf, Failure> {
        self.make(&["generate-rpm", "--source-date", self.date], name, options)
    }

    fn make(&self, command: &[&str], name: &str, options: &[&str]) -> Result<PathBuf, Failure> {
        let path = self.directory.join(name);
        let mut cargo = cargo::cargo()?;
        cargo.env("SOURCE_DATE_EPOCH", self.date).args(command).arg("--output").arg(&path);
        process::must(cargo.args(options))?;
        Ok(path)
    }
}
