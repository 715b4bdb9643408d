//! Counts of tests: read from libtest's output, shown as a table.

use std::fmt;
use std::ops::AddAssign;

/// The number of tests by outcome. A test that libtest ignored did not run, for any reason.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Tests that passed.
    pub passed: usize,
    /// Tests that failed.
    pub failed: usize,
    /// Tests that did not run.
    pub not_run: usize,
}

impl Counts {
    /// Adds up the lines that begin with "test result:", one from each test program.
    pub fn parse(output: &str) -> Self {
        let mut counts = Self::default();
        for line in output.lines().filter_map(|line| line.strip_prefix("test result:")) {
            counts += Self {
                passed: number_before(line, " passed"),
                failed: number_before(line, " failed"),
                not_run: number_before(line, " ignored"),
            };
        }
        counts
    }

    /// Counts the lines of single tests, for a run of `tests` that broke off. The test under way
    /// is neither passed nor failed, nor among those that did not run.
    pub fn parse_partial(output: &str, tests: usize) -> Self {
        let count = |wanted: Outcome| ended(output).filter(|(_, is)| *is == wanted).count();
        let (passed, failed) = (count(Outcome::Passed), count(Outcome::Failed));
        Self { passed, failed, not_run: tests.saturating_sub(passed + failed + 1) }
    }
}

/// The outcome of a single test.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    Passed,
    Failed,
}

/// The tests that ended in a run that broke off, by name.
pub fn ended(output: &str) -> impl Iterator<Item = (&str, Outcome)> {
    output.lines().filter_map(|line| {
        let line = line.strip_prefix("test ")?;
        let outcome = match line {
            _ if line.ends_with("... ok") => Outcome::Passed,
            _ if line.ends_with("... FAILED") => Outcome::Failed,
            _ => return None,
        };
        Some((line.split_once(" ... ")?.0, outcome))
    })
}

impl AddAssign for Counts {
    fn add_assign(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.not_run += other.not_run;
    }
}

fn number_before(line: &str, word: &str) -> usize {
    let number = line.split_once(word).and_then(|(before, _)| before.rsplit(' ').next());
    number.and_then(|number| number.parse().ok()).unwrap_or(0)
}

/// The results in one place.
pub struct Row {
    /// The kernel, or "native".
    pub place: String,
    /// The tests there.
    pub counts: Counts,
    /// A note beside the counts: why nothing ran, how the run broke off.
    pub note: String,
    /// The last words of a guest that died, for the end of the run.
    pub last_words: Option<String>,
}

/// The rows of a whole run.
#[derive(Default)]
pub struct Table(pub Vec<Row>);

impl Table {
    /// The sum over all rows.
    pub fn total(&self) -> Counts {
        let mut total = Counts::default();
        for row in &self.0 {
            total += row.counts;
        }
        total
    }
}

impl fmt::Display for Table {
    /// The table, and on a line of its own the sum.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = self.0.iter().map(|row| row.place.len()).max().unwrap_or(0).max("kernel".len());
        writeln!(f, "{:width$}  passed  failed  not run", "kernel")?;
        for Row { place, counts, note, last_words: _ } in &self.0 {
            let Counts { passed, failed, not_run } = counts;
            let line = format!("{place:width$}  {passed:6}  {failed:6}  {not_run:7}  {note}");
            writeln!(f, "{}", line.trim_end())?;
        }
        let total = self.total();
        writeln!(f, "\n{} passed, {} failed", total.passed, total.failed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OUTPUT: &str = "\
test a ... ok
test result: ok. 2 passed; 0 failed; 1 ignored; 0 measured; 3 filtered out; finished in 0.00s
test result: FAILED. 10 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.1s
";

    #[test]
    fn all_result_lines_count() {
        assert_eq!(Counts::parse(OUTPUT), Counts { passed: 12, failed: 1, not_run: 1 });
        assert_eq!(Counts::parse("test a ... ok\n"), Counts::default());
    }

    #[test]
    fn a_run_that_broke_off_counts_what_had_ended() {
        let output = "running 5 tests\ntest a ... ok\ntest b ... FAILED\ntest c ... ";
        let expected = Counts { passed: 1, failed: 1, not_run: 2 };
        assert_eq!(Counts::parse_partial(output, 5), expected);
        let names: Vec<&str> = ended(output).map(|(name, _)| name).collect();
        assert_eq!(names, ["a", "b"]);
    }

    #[test]
    fn the_last_line_is_the_sum() {
        let row = |place: &str, passed, note: &str| Row {
            place: place.into(),
            counts: Counts { passed, failed: 0, not_run: 1 },
            note: note.into(),
            last_words: None,
        };
        let table = Table(vec![row("native", 3, ""), row("6.1", 4, "why")]).to_string();
        let expected = "\
kernel  passed  failed  not run
native       3       0        1
6.1          4       0        1  why

7 passed, 0 failed
";
        assert_eq!(table, expected);
    }
}
