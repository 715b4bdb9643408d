//! Counts of worlds, and failures in a form that a person can follow.

use std::{collections::BTreeMap, fmt, time::Duration};

use crate::{
    files::{At, Kind},
    judge::{Finding, Judge, Property},
    worlds::{Beginning, World},
};

/// The failures of a property that are shown, the shortest first.
const SHOWN: usize = 2;

/// A world in which a property does not hold.
pub struct Failure {
    pub property: Property,
    /// The number of things that are not as usual, and of requests.
    length: (usize, usize),
    text: String,
}

impl Failure {
    pub fn new(kind: Kind, world: &World, finding: Finding, log: &[String]) -> Self {
        let oddities = match world.beginning {
            Beginning::Parts(start) => start.oddities(),
            Beginning::Applied(_) => 0,
        };
        let oddities = oddities + usize::from(world.disturbance.is_some());
        let what = format!("after request {}: {}", finding.after, finding.what);
        Self::told(finding.property, oddities, format!("  mesh:    {kind}\n{world}"), log, &what)
    }

    /// A failure with its world, its requests and what was seen, in words.
    pub fn told(
        property: Property,
        oddities: usize,
        world: String,
        log: &[String],
        what: &str,
    ) -> Self {
        let requests: String = log.iter().map(|line| format!("    {line}\n")).collect();
        let text = format!("{world}  requests:\n{requests}  {what}\n");
        Self { property, length: (oddities, log.len()), text }
    }
}

/// Everything that was seen.
#[derive(Default)]
pub struct Tally {
    worlds: usize,
    by_dimension: BTreeMap<(String, String), usize>,
    judged: BTreeMap<Property, usize>,
    failures: Vec<Failure>,
    failed: BTreeMap<Property, usize>,
}

impl Tally {
    pub fn add_world(&mut self, kind: Kind, world: &World) {
        let mut values = vec![("mesh", kind.to_string()), ("goal", world.goal.to_string())];
        match world.beginning {
            Beginning::Parts(start) => values.extend(start.parts()),
            Beginning::Applied(at) => values.push(("begins with", at.to_string())),
        }
        let event = world.disturbance.map(|disturbance| format!("{:?}", disturbance.event));
        values.push(("event", event.unwrap_or_else(|| "none".into())));
        self.add(values);
    }

    /// A world of two hosts, or of a revert.
    pub fn add(&mut self, values: Vec<(&'static str, String)>) {
        self.worlds += 1;
        for (dimension, value) in values {
            *self.by_dimension.entry((dimension.into(), value)).or_default() += 1;
        }
    }

    pub fn count(&mut self, property: Property) {
        *self.judged.entry(property).or_default() += 1;
    }

    /// Counts the states that a judge has looked at, by the properties that it asked for.
    pub fn judged(&mut self, judge: &Judge, kind: Kind, goal: At) {
        let guarded = kind.is_guarded(goal);
        let both = guarded && kind.guard == meshsec::config::Guard::Both;
        for (property, is_asked) in [
            (Property::NeverOpens, goal.stage >= Some(meshsec::model::Stage::Send)),
            (Property::NeverTakes, goal.stage == Some(meshsec::model::Stage::Enforce)),
            (Property::GuardsFirst, guarded),
            (Property::SecondGuard, both),
            (Property::ErrorsHidden, goal.stage >= Some(meshsec::model::Stage::Send)),
            (Property::KeysTied, true),
            (Property::OthersUntouched, !kind.others().is_empty()),
            (Property::ForeignUntouched, true),
        ] {
            *self.judged.entry(property).or_default() += if is_asked { judge.states } else { 0 };
        }
    }

    pub fn fail(&mut self, failure: Failure) {
        *self.failed.entry(failure.property).or_default() += 1;
        self.failures.push(failure);
        if self.failures.len() > 1_000 {
            self.keep_the_shortest();
        }
    }

    fn keep_the_shortest(&mut self) {
        self.failures.sort_by_key(|failure| (failure.property, failure.length));
        let mut kept: BTreeMap<Property, usize> = BTreeMap::new();
        self.failures.retain(|failure| {
            let number = kept.entry(failure.property).or_default();
            *number += 1;
            *number <= SHOWN
        });
    }

    pub fn merge(&mut self, other: Self) {
        self.worlds += other.worlds;
        for (key, number) in other.by_dimension {
            *self.by_dimension.entry(key).or_default() += number;
        }
        for (property, number) in other.judged {
            *self.judged.entry(property).or_default() += number;
        }
        for (property, number) in other.failed {
            *self.failed.entry(property).or_default() += number;
        }
        self.failures.extend(other.failures);
        self.keep_the_shortest();
    }

    pub fn has_failed(&self) -> bool {
        !self.failed.is_empty()
    }

    /// The report, with the time that it took.
    pub fn report(&self, took: Duration) -> String {
        let mut text = String::new();
        for failure in &self.failures {
            text +=
                &format!("FAILED {}: {}\n", failure.property.name(), failure.property.sentence());
            text += &format!("{}\n", failure.text);
        }
        format!("{text}{self}\n{} worlds in {:.1} s\n", self.worlds, took.as_secs_f64())
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut last = "";
        for ((dimension, value), worlds) in &self.by_dimension {
            if dimension != last {
                writeln!(f, "{dimension}")?;
            }
            last = dimension;
            writeln!(f, "  {worlds:>9}  {value}")?;
        }
        writeln!(f, "\nproperty             states judged   failed")?;
        for property in Property::ALL {
            let of =
                |counts: &BTreeMap<Property, usize>| counts.get(property).copied().unwrap_or(0);
            let (judged, failed) = (of(&self.judged), of(&self.failed));
            writeln!(f, "{:<20} {judged:>13} {failed:>8}", property.name())?;
        }
        Ok(())
    }
}
