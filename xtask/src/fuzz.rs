//! A time-boxed run of the fuzz targets.
//!
//! The targets are laid out for cargo-fuzz, and built here without it, with the same flags. Its
//! installation takes longer than such a run. The stable compiler is enough, because there is no
//! unsafe code for a sanitizer to watch.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::{fs, thread};

use crate::failure::{Attempt, Failure};
use crate::{cargo, packages, process};

/// Seconds for each target.
const SECONDS: u32 = 15;
/// Targets that run at the same time.
const AT_ONCE: usize = 2;
/// The flags that cargo-fuzz gives the compiler with `-s none --no-trace-compares`.
const FLAGS: [&str; 8] = [
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-simplifycfg-branch-fold-threshold=0",
    "-Ccodegen-units=1",
    "--cfg",
    "fuzzing",
];
/// The limits of every run of libFuzzer: an input that takes 10 seconds, or 2 GiB, is a crash too.
const LIMITS: [&str; 4] =
    ["-max_len=2048", "-timeout=10", "-rss_limit_mb=2048", "-print_final_stats=1"];
/// The words before the number of runs in libFuzzer's statistics.
const EXECUTED: &str = "stat::number_of_executed_units:";

/// `cargo xtask fuzz`.
pub fn run(arguments: &[String]) -> Result<u8, Failure> {
    let options = Options::parse(arguments)?;
    let directory = cargo::root()?.join("fuzz");
    let targets = chosen(&directory, options.targets)?;
    packages::ensure_fuzzing()?;
    let programs = build(&directory)?;
    let left = Mutex::new(targets.into_iter());
    let work = || {
        let mut crashed = 0;
        while let Some(target) = next(&left) {
            let run = Run { directory: &directory, program: programs.join(&target), target };
            crashed += usize::from(!run.perform(options.seconds)?);
        }
        Ok(crashed)
    };
    let results: Vec<Result<usize, Failure>> = thread::scope(|scope| {
        let workers: Vec<_> = (0..AT_ONCE).map(|_| scope.spawn(work)).collect();
        workers
            .into_iter()
            .map(|worker| worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
            .collect()
    });
    let crashed = results.into_iter().sum::<Result<usize, Failure>>()?;
    Ok(u8::from(crashed > 0))
}

fn next(left: &Mutex<impl Iterator<Item = String>>) -> Option<String> {
    left.lock().ok()?.next()
}

struct Options {
    seconds: u32,
    targets: Vec<String>,
}

impl Options {
    fn parse(arguments: &[String]) -> Result<Self, Failure> {
        let mut options = Self { seconds: SECONDS, targets: Vec::new() };
        let mut words = arguments.iter();
        while let Some(word) = words.next() {
            match word.as_str() {
                "--seconds" => {
                    let value = words.next().and_then(|value| value.parse().ok());
                    options.seconds = value.filter(|seconds| *seconds > 0).ok_or_else(|| {
                        Failure::usage("--seconds needs a number of seconds, 1 at least")
                    })?;
                }
                option if option.starts_with('-') => {
                    return Err(Failure::usage(format!("fuzz does not know {option}")));
                }
                target => options.targets.push(target.to_owned()),
            }
        }
        Ok(options)
    }
}

/// The targets that were named, or all targets.
fn chosen(directory: &Path, named: Vec<String>) -> Result<Vec<String>, Failure> {
    let mut all: Vec<String> = fs::read_dir(directory.join("fuzz_targets"))
        .attempt("list fuzz/fuzz_targets")?
        .flatten()
        .filter_map(|entry| Some(entry.path().file_stem()?.to_string_lossy().into_owned()))
        .collect();
    all.sort();
    match named.iter().find(|target| !all.contains(target)) {
        Some(unknown) => {
            Err(Failure::usage(format!("no fuzz target {unknown}: {}", all.join(", "))))
        }
        None if named.is_empty() => Ok(all),
        None => Ok(named),
    }
}

/// Builds all targets and returns the directory that they are in.
///
/// With a target given, build scripts and macros are not instrumented.
fn build(directory: &Path) -> Result<PathBuf, Failure> {
    let version = process::output(Command::new("rustc").arg("-vV"))?;
    let host = version.lines().find_map(|line| line.strip_prefix("host: "));
    let host = host.ok_or_else(|| Failure::new("rustc -vV names no host"))?;
    let mut command = cargo::cargo()?;
    command
        .args(["build", "--release", "--locked", "--bins", "--target", host, "--target-dir"])
        .arg(directory.join("target"))
        .arg("--manifest-path")
        .arg(directory.join("Cargo.toml"))
        .env("RUSTFLAGS", FLAGS.join(" "));
    process::must(&mut command)?;
    Ok(directory.join("target").join(host).join("release"))
}

/// A target and its program.
struct Run<'a> {
    directory: &'a Path,
    program: PathBuf,
    target: String,
}

impl Run<'_> {
    /// Fuzzes for some seconds; returns whether all was well. New inputs are kept out of the tree.
    fn perform(&self, seconds: u32) -> Result<bool, Failure> {
        let Self { directory, target, .. } = self;
        let found = directory.join("target/corpus").join(target);
        let artifacts = directory.join("artifacts").join(target);
        for made in [&found, &artifacts] {
            fs::create_dir_all(made).attempt(format_args!("make {}", made.display()))?;
        }
        let mut command = Command::new(&self.program);
        command.args(LIMITS).arg(format!("-max_total_time={seconds}"));
        command.arg(format!("-artifact_prefix={}/", artifacts.display()));
        let dictionary = directory.join("dictionaries").join(format!("{target}.dict"));
        if dictionary.exists() {
            command.arg(format!("-dict={}", dictionary.display()));
        }
        command.arg(found).arg(directory.join("corpus").join(target));
        let output = command.output().attempt(format_args!("run {}", self.program.display()))?;
        let log = String::from_utf8_lossy(&output.stderr);
        if output.status.success() {
            println!("fuzz: {target}: {} runs, {}", executed(&log), coverage(&log));
        } else {
            self.tell(&log);
        }
        Ok(output.status.success())
    }

    /// Prints the problem, and the way to reproduce it.
    fn tell(&self, log: &str) {
        let target = &self.target;
        let lines: Vec<&str> = log.lines().collect();
        let begin = lines
            .iter()
            .position(|line| line.contains("panicked at") || line.starts_with("=="))
            .unwrap_or(0);
        eprintln!("{}", lines[begin..].join("\n"));
        eprintln!("error: fuzz target {target} failed");
        let file = log
            .lines()
            .find_map(|line| line.split_once("Test unit written to "))
            .map(|(_, file)| file);
        if let Some(file) = file {
            eprintln!("  the input: {file}");
            eprintln!(
                "  to see it again: cp {file} fuzz/corpus/{target}/ && cargo test --lib corpora"
            );
            eprintln!("  to make it smaller: cargo fuzz tmin -s none {target} {file}");
        }
    }
}

/// The number of inputs that were run.
fn executed(log: &str) -> &str {
    log.lines().find_map(|line| line.strip_prefix(EXECUTED)).map_or("?", str::trim)
}

/// The edges and features that were reached, by the last line that shows them.
fn coverage(log: &str) -> String {
    let last = log.lines().rev().find(|line| line.contains(" cov: "));
    let words: Vec<&str> = last.unwrap_or_default().split_whitespace().collect();
    let after = |name: &str| {
        let at = words.iter().position(|word| *word == name);
        at.and_then(|at| words.get(at + 1)).copied().unwrap_or("?")
    };
    format!("{} edges, {} features", after("cov:"), after("ft:"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_those_of_libfuzzer() {
        let log = "#8\tNEW    cov: 1 ft: 2 corp: 1/1b\n#9\tDONE   cov: 33 ft: 44 corp: 5/6Kb\n\
                   stat::number_of_executed_units: 13547\n";
        assert_eq!((executed(log), coverage(log)), ("13547", "33 edges, 44 features".into()));
        assert_eq!((executed(""), coverage("")), ("?", "? edges, ? features".into()));
    }
}
