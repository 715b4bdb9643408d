//! The enumeration of all states of one pair, and proof that it finds broken rules.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Instant;

use crate::edits::{self, Break};
use crate::failure::{Attempt, Failure};
use crate::{cargo, process};

/// The test that looks at the worlds.
const TEST: [&str; 3] = ["--nocapture", "--exact", "every_world_is_safe"];

/// The small set takes a moment in any case, and code that is not optimised is built sooner.
const UNOPTIMISED: &str = "profile.dev.package.meshsec.opt-level=0";

/// `cargo xtask enumerate`.
pub fn run(arguments: &[String]) -> Result<u8, Failure> {
    match arguments.split_first() {
        None => every_world(),
        Some((option, names)) if option == "--broken" => broken(names),
        Some((other, _)) => Err(Failure::usage(format!("enumerate does not know {other}"))),
    }
}

/// Looks at every world. The profile of all tests is optimised enough, and built already.
fn every_world() -> Result<u8, Failure> {
    let mut command = cargo::cargo()?;
    command.args(["test", "--locked", "--test", "enumeration", "--"]).args(TEST);
    let status = process::show(command.env("MESHSEC_WORLDS", "all"))?;
    Ok(u8::from(!status.success()))
}

/// Breaks one rule after another in a copy of the source, and expects that the small set of worlds,
/// which `cargo test` looks at, shows it.
fn broken(names: &[String]) -> Result<u8, Failure> {
    let root = cargo::root()?;
    let mut breaks = edits::all(&root).map_err(Failure::new)?;
    if let Some(unknown) = names.iter().find(|name| breaks.iter().all(|one| one.name != **name)) {
        return Err(Failure::usage(format!("no break {unknown} in tests/enumeration/breaks")));
    }
    breaks.retain(|one| names.is_empty() || names.contains(&one.name));
    let copy = Source::make(&root)?;
    println!("the source as it is");
    let found = copy.failed()?;
    if !found.is_empty() {
        let found = Vec::from_iter(found).join(", ");
        return Err(Failure::new(format!("without any break these do not hold: {found}")));
    }
    let mut missed = 0;
    for one in &breaks {
        let begin = Instant::now();
        let found = copy.broken(one);
        let is_found = found.as_ref().is_ok_and(|found| found.contains(&one.property));
        missed += usize::from(!is_found);
        let word = if is_found { "found" } else { "MISSED" };
        println!("\n{word}: {}: {}", one.name, one.why);
        let seconds = begin.elapsed().as_secs();
        match found {
            Ok(all) => println!("  by {}, in {seconds} s", Vec::from_iter(all).join(", ")),
            Err(failure) => println!("  {failure}"),
        }
    }
    println!("\n{} of {} broken rules were found", breaks.len() - missed, breaks.len());
    Ok(u8::from(missed > 0))
}

/// A copy of the source. It is built in the directory of the original, where its dependencies are
/// built already.
struct Source {
    root: PathBuf,
    target: PathBuf,
}

impl Source {
    fn make(root: &Path) -> Result<Self, Failure> {
        let target = root.join("target");
        let copy = Self { root: target.join("broken"), target };
        if copy.root.exists() {
            fs::remove_dir_all(&copy.root).attempt("remove the last copy of the source")?;
        }
        let mut list = Command::new("git");
        list.current_dir(root).args(["ls-files", "-z", "--cached", "--others"]);
        let files = process::output(list.arg("--exclude-standard"))?;
        for file in files.split('\0').filter(|file| !file.is_empty() && root.join(file).is_file()) {
            let to = copy.root.join(file);
            fs::create_dir_all(to.parent().unwrap_or(&to)).attempt(format_args!("copy {file}"))?;
            fs::copy(root.join(file), to).attempt(format_args!("copy {file}"))?;
        }
        Ok(copy)
    }

    /// The properties that fail with a rule broken. The source is as before afterwards.
    fn broken(&self, one: &Break) -> Result<BTreeSet<String>, Failure> {
        let mut before = Vec::new();
        for edit in &one.edits {
            let path = self.root.join(&edit.path);
            let text = fs::read_to_string(&path).attempt(format_args!("read {}", edit.path))?;
            let edited = edit.apply(&text);
            let edited = edited.map_err(|what| Failure::new(format!("{}: {what}", one.name)))?;
            fs::write(&path, edited).attempt(format_args!("write {}", edit.path))?;
            before.push((path, text));
        }
        let found = self.failed();
        for (path, text) in before.into_iter().rev() {
            fs::write(&path, text).attempt(format_args!("write {}", path.display()))?;
        }
        found
    }

    /// The properties that fail.
    fn failed(&self) -> Result<BTreeSet<String>, Failure> {
        let built = self.cargo(&["--no-run"])?;
        if !built.status.success() {
            let said = String::from_utf8_lossy(&built.stderr).into_owned();
            return Err(Failure::new(format!("it does not build: {said}")));
        }
        let output = self.cargo(&[&["--"], &TEST[..]].concat())?;
        let text = String::from_utf8_lossy(&output.stdout);
        let failed =
            text.lines().filter_map(|line| line.strip_prefix("FAILED ")?.split(':').next());
        let failed: BTreeSet<String> = failed.map(str::to_owned).collect();
        if output.status.success() == failed.is_empty() {
            return Ok(failed);
        }
        let said = String::from_utf8_lossy(&output.stderr);
        Err(Failure::new(format!("the enumeration ended with {}: {said}", output.status)))
    }

    fn cargo(&self, arguments: &[&str]) -> Result<Output, Failure> {
        let mut command = cargo::cargo()?;
        command.current_dir(&self.root).env("CARGO_TARGET_DIR", &self.target);
        command.args(["test", "--quiet", "--locked", "--test", "enumeration"]);
        command.args(["--config", UNOPTIMISED]).args(arguments);
        command.output().attempt("run cargo")
    }
}
