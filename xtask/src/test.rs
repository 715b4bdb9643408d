//! The whole test suite: native tests, and tests on real kernels that need ESP.
//!
//! The tests for real kernels are those that are ignored by default in three libtest programs; each
//! creates its own network namespaces.

use std::collections::HashSet;
use std::path::PathBuf;
use std::thread::ScopedJoinHandle;
use std::time::{Duration, Instant};

use crate::failure::Failure;
use crate::kernels::{self, Choice, Kernel};
use crate::report::{self, Counts, Row, Table};
use crate::{cargo, host, packages, process, promtool, vm};

/// Longest run in a guest. The limit is for guests that hang. A busy machine must not reach it.
const GUEST_LIMIT: Duration = Duration::from_secs(4500);
/// The reason for a kernel that was left out on request.
const NO_VM: &str = "not run: --no-vm";

/// `cargo xtask test`.
pub fn run(arguments: &[String]) -> Result<u8, Failure> {
    let options = Options::parse(arguments)?;
    packages::ensure_tools()?;
    promtool::ensure()?;
    let suite = Suite::build(&options.filter);
    let mut table = Table::default();
    table.0.push(native(&options.filter, suite.as_ref().ok())?);
    let missed = match &suite {
        Ok(suite) => real_kernels(&options, suite, &mut table),
        Err(failure) => {
            eprintln!("error: {failure}");
            table.0.push(broken("real kernels", Counts::default(), failure.summary()));
            false
        }
    };
    // The end of a long log is read first, and some logs keep nothing else.
    for row in &table.0 {
        if let Some(words) = &row.last_words {
            println!("\n{}: {words}", row.place);
        }
    }
    print!("\n{table}");
    let strict = !options.kernels.is_empty() || std::env::var("CI").is_ok_and(|ci| ci == "true");
    let failed = table.total().failed > 0 || (missed && strict);
    Ok(u8::from(failed))
}

struct Options {
    kernels: Vec<Choice>,
    no_vm: bool,
    filter: Vec<String>,
}

impl Options {
    fn parse(arguments: &[String]) -> Result<Self, Failure> {
        let mut options = Self { kernels: Vec::new(), no_vm: false, filter: Vec::new() };
        let mut words = arguments.iter();
        while let Some(word) = words.next() {
            match word.as_str() {
                "--kernel" => {
                    let value =
                        words.next().ok_or_else(|| Failure::usage("--kernel needs a value"))?;
                    options.kernels.push(value.parse()?);
                }
                "--no-vm" => options.no_vm = true,
                "--" => options.filter.extend(words.by_ref().cloned()),
                other => return Err(Failure::usage(format!("test does not know {other}"))),
            }
        }
        if options.no_vm && options.kernels.iter().any(|choice| *choice != Choice::Host) {
            return Err(Failure::usage("--no-vm leaves only --kernel host"));
        }
        Ok(options)
    }
}

/// The arguments by which cargo builds the programs with tests for real kernels.
const BUILD: [&str; 5] = ["--lib", "--test", "kernel_contract", "--test", "real_kernel"];
/// Those programs' targets.
const TARGETS: [&str; 3] = ["meshsec", "kernel_contract", "real_kernel"];

/// Tests in these modules set the clock, change modules and limits of the whole machine, or run a
/// systemd of their own, so only a guest can run them.
const FOR_GUESTS: [&str; 3] = ["clock::", "encap_systemd::", "machine::"];

/// The programs with tests for real kernels.
struct Suite {
    programs: Vec<PathBuf>,
    filter: Vec<String>,
    /// The names of the tests that the filter leaves.
    tests: Vec<String>,
    /// The number of those that only a guest can run.
    guest_tests: usize,
}

impl Suite {
    fn build(filter: &[String]) -> Result<Self, Failure> {
        let programs = cargo::build_tests(&BUILD, &TARGETS)?;
        let mut suite =
            Self { programs, filter: filter.to_vec(), tests: Vec::new(), guest_tests: 0 };
        for program in &suite.programs {
            let mut list = std::process::Command::new(program);
            list.args(["--ignored", "--list"]).args(filter);
            let names = process::output(&mut list)?;
            let names = names.lines().filter_map(|line| line.strip_suffix(": test"));
            let for_guests = |name: &&str| FOR_GUESTS.iter().any(|module| name.starts_with(module));
            suite.guest_tests += names.clone().filter(for_guests).count();
            suite.tests.extend(names.map(String::from));
        }
        Ok(suite)
    }

    /// The command that runs the tests, one at a time: they measure, and a guest is slow. All
    /// programs run, even if one fails.
    fn command(&self, filter: &[String]) -> Vec<String> {
        let script = "one=$1 two=$2 three=$3; shift 3; failed=0; \
            for program in \"$one\" \"$two\" \"$three\"; do \
            \"$program\" --ignored --test-threads=1 --color=never \"$@\" || failed=1; \
            done; exit $failed";
        let mut words: Vec<String> = ["sh", "-c", script, "sh"].map(String::from).into();
        words.extend(self.programs.iter().map(|program| program.to_string_lossy().into_owned()));
        words.extend(filter.iter().cloned());
        words
    }

    /// The tests that did not end in `output`.
    fn rest(&self, output: &str) -> Vec<String> {
        let ended: HashSet<&str> = report::ended(output).map(|(name, _)| name).collect();
        let left = self.tests.iter().filter(|name| !ended.contains(name.as_str())).cloned();
        left.collect()
    }

    /// The program that all tests run. cargo puts it above the tests' own programs.
    fn often(&self) -> Vec<PathBuf> {
        let directory = self.programs.first().and_then(|program| program.parent()?.parent());
        directory.map(|directory| directory.join("meshsec")).into_iter().collect()
    }

    fn not_run(&self, choice: &Choice, why: impl Into<String>) -> Row {
        let counts = Counts { not_run: self.tests.len(), ..Counts::default() };
        Row { place: choice.to_string(), counts, note: why.into(), last_words: None }
    }
}

/// Runs the tests that need no special kernel. Tests for real kernels are ignored here, and counted
/// in their own rows.
fn native(filter: &[String], suite: Option<&Suite>) -> Result<Row, Failure> {
    heading("native");
    let mut command = cargo::cargo()?;
    command.args(["test", "--workspace", "--locked", "--no-fail-fast", "--"]).args(filter);
    let (status, output) = process::tee(&mut command)?;
    let mut counts = Counts::parse(&output);
    counts.not_run = counts.not_run.saturating_sub(suite.map_or(0, |suite| suite.tests.len()));
    Ok(row("native", counts, status.success(), &format!("cargo test ended with {status}")))
}

/// Runs the suite on all wanted kernels; returns whether one of them was missed.
fn real_kernels(options: &Options, suite: &Suite, table: &mut Table) -> bool {
    if suite.tests.is_empty() {
        println!("\nno test for real kernels matches the filter");
        return false;
    }
    if options.kernels.is_empty() && options.no_vm {
        let rows = default_kernels().map(|choice| suite.not_run(&choice, NO_VM));
        table.0.extend(rows);
        return false;
    }
    let wanted: Vec<Choice> = match options.kernels.as_slice() {
        [] => default_kernels().collect(),
        kernels => kernels.to_vec(),
    };
    let results = on_all(&wanted, suite);
    let missed = results.iter().filter(|result| result.is_err()).count();
    for (choice, result) in wanted.iter().zip(results) {
        table.0.push(result.unwrap_or_else(|failure| {
            eprintln!("{choice} is not run: {failure}");
            suite.not_run(choice, format!("not run: {}", failure.summary()))
        }));
    }
    // Any kernel with ESP is better than none, and the host's is at hand.
    if options.kernels.is_empty()
        && missed == wanted.len()
        && let Ok(row) = on_host(suite)
    {
        table.0.push(row);
        return false;
    }
    missed > 0
}

fn default_kernels() -> impl Iterator<Item = Choice> {
    kernels::DEFAULT.into_iter().filter_map(|series| series.parse().ok())
}

/// Runs the suite in all places. Guests have one processor each and run at the same time, after
/// everything for them is installed and fetched. The host comes last and alone. An error means that
/// nothing could be started there.
fn on_all(wanted: &[Choice], suite: &Suite) -> Vec<Result<Row, Failure>> {
    let prepared: Vec<Option<Result<Kernel, Failure>>> = wanted
        .iter()
        .map(|choice| match choice {
            Choice::Host => None,
            Choice::Series(series) => Some(vm::prepare(series)),
        })
        .collect();
    heading("real kernels");
    std::thread::scope(|scope| {
        let running: Vec<_> = prepared
            .into_iter()
            .map(|kernel| kernel.map(|kernel| scope.spawn(|| Ok(in_guest(&kernel?, suite)))))
            .collect();
        let finished: Vec<_> = running.into_iter().map(|run| run.map(joined)).collect();
        finished.into_iter().map(|run| run.unwrap_or_else(|| on_host(suite))).collect()
    })
}

fn joined<T>(thread: ScopedJoinHandle<'_, T>) -> T {
    thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// Runs the suite in a guest. A guest that dies says nothing about the test under way: that test and
/// the rest run in a second guest, and the table names it. A second death is a failure.
fn in_guest(kernel: &Kernel, suite: &Suite) -> Row {
    let begin = Instant::now();
    let (first, output) = attempt_in_guest(kernel, suite, &suite.filter, suite.tests.len());
    let Some(words) = &first.last_words else { return first };
    // A guest that hangs would hang again.
    if begin.elapsed() >= GUEST_LIMIT {
        return first;
    }
    let rest = suite.rest(&output);
    let Some(test) = rest.first() else { return first };
    let note = format!("the guest died at {test}; a second guest runs it and the rest");
    eprintln!("{}: {note}", kernel.release);
    let exactly: Vec<String> = [&["--exact".to_owned()], &rest[..]].concat();
    let (mut second, _) = attempt_in_guest(kernel, suite, &exactly, rest.len());
    let Counts { passed, failed, .. } = Counts::parse_partial(&output, suite.tests.len());
    second.counts += Counts { passed, failed, not_run: 0 };
    second.last_words = Some(match second.last_words {
        Some(last) => format!("{words}\n{last}"),
        None => words.clone(),
    });
    second.note = [note, second.note].join("; ").trim_end_matches("; ").to_owned();
    second
}

/// Runs the tests of a filter in one guest, of which there are `tests`. Returns their row, and what
/// they printed.
fn attempt_in_guest(
    kernel: &Kernel,
    suite: &Suite,
    filter: &[String],
    tests: usize,
) -> (Row, String) {
    let guest = vm::Guest {
        kernel,
        command: &suite.command(filter),
        programs: &suite.often(),
        scratch: None,
        append: "",
        label: &kernel.release,
        limit: GUEST_LIMIT,
    };
    let (counts, failure, output) = match guest.run() {
        Ok(vm::Finished { status: Ok(status), output }) => {
            let note = format!("the tests ended with status {status}");
            return (row(&kernel.release, Counts::parse(&output), status == 0, &note), output);
        }
        Ok(vm::Finished { status: Err(failure), output }) => {
            (Counts::parse_partial(&output, tests), failure, output)
        }
        Err(failure) => (Counts { not_run: tests, ..Counts::default() }, failure, String::new()),
    };
    eprintln!("error: {failure}");
    let row = broken(&kernel.release, counts, failure.summary());
    (Row { last_words: Some(failure.to_string()), ..row }, output)
}

fn on_host(suite: &Suite) -> Result<Row, Failure> {
    if !host::has_esp() {
        return Err(Failure::new("this kernel has no ESP, or we may not become root")
            .remedy("use --kernel 6.1 or --kernel 6.12"));
    }
    heading("kernel of this host");
    let mut words = suite.command(&suite.filter);
    words.extend(FOR_GUESTS.iter().flat_map(|module| ["--skip", module]).map(String::from));
    let (status, output) = process::tee(&mut host::root_script(&cargo::root()?, &words))?;
    let mut counts = Counts::parse(&output);
    counts.not_run += suite.guest_tests;
    let note = format!("the tests ended with {status}");
    Ok(row("host", counts, status.success(), &note))
}

/// A row for a run that ended by itself. A run that failed without a failing test did not get to
/// its end: a program did not build, or crashed.
fn row(place: &str, counts: Counts, success: bool, note: &str) -> Row {
    if !success && counts.failed == 0 {
        return broken(place, counts, note);
    }
    Row { place: place.to_owned(), counts, note: String::new(), last_words: None }
}

/// A row for a run that broke off, which counts as one failure: the sum must not say that all is
/// well.
fn broken(place: &str, counts: Counts, note: &str) -> Row {
    let counts = Counts { failed: counts.failed + 1, ..counts };
    Row { place: place.to_owned(), counts, note: format!("broke off: {note}"), last_words: None }
}

fn heading(place: &str) {
    println!("\n=== {place} ===");
}
