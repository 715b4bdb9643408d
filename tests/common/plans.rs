//! Golden plans, in `tests/plan`: the text, and behind it the facts that only the JSON tells.

use std::{collections::BTreeSet, fmt::Write};

use meshsec::{
    config::Config,
    kernel::memory::Memory,
    model::State,
    render::{Extent, Subject, View, plan_json, plan_text},
};
use serde_json::Value;

use crate::common::{self, compare};

/// The cases with a file of JSON. Together they have every shape: no change and each action, every
/// kind of object, a clock, a conflict of some peers and one that stops all, warnings, a second
/// guard that is missing, hidden keys. The JSON of all cases is compared with the schema.
const WITH_JSON: [&str; 9] = [
    "a-key-that-the-kernel-hides-is-no-difference",
    "a-key-was-changed",
    "nothing-differs",
    "packets-wait-in-a-vrf",
    "rules-that-cannot-be-seen-stop-marks",
    "the-clock-says-that-the-next-has-begun",
    "the-guard-is-turned-off",
    "the-mtu-is-too-large",
    "there-is-no-iptables-by-port",
];

/// Compares with `tests/plan/<name>.txt`, for some cases with `.json` too, and checks that the
/// plan, performed, leaves nothing to do.
pub fn golden(name: &str, config: &Config, kernel: &mut Memory) {
    let now = kernel.now();
    let plan = common::plan(config, kernel);
    let outcomes = &common::outcomes(config, kernel, &plan);
    let view = View {
        subject: Subject::File { config, moment: config.rotation.at(now) },
        local: Some(&config.peers[0]),
        plan: &plan,
        warnings: &[],
        outcomes,
        file: "mesh.toml",
    };
    let json = serde_json::to_value(plan_json(&view)).unwrap();
    crate::schema::assert_valid("plan", &json);
    let text = anstream::adapter::strip_str(&plan_text(&view, &Extent::Whole)).to_string();
    compare(&format!("tests/plan/{name}.txt"), &(text + &steps(&json) + &other_facts(&json)));
    if WITH_JSON.contains(&name) {
        let json = serde_json::to_string_pretty(&plan_json(&view)).unwrap();
        compare(&format!("tests/plan/{name}.json"), &(json + "\n"));
    }
    if plan.conflicts.is_empty() {
        let foreseen = foreseen(&meshsec::plan::after(kernel.state(), &plan.changes));
        let report = common::applied(config, kernel);
        assert!(report.is_complete(), "{name}: apply leaves nothing to do");
        assert_eq!(self::foreseen(kernel.state()), foreseen, "{name}");
    }
}

/// The facts of a state by which packets fare.
fn foreseen(state: &State) -> String {
    let sas: BTreeSet<String> =
        state.sas.iter().map(|sa| format!("{} {:?} {}", sa.id, sa.selector, sa.reqid)).collect();
    let policies: BTreeSet<String> = state
        .policies
        .iter()
        .map(|policy| format!("{} {} {:?}", policy.id, policy.priority, policy.templates))
        .collect();
    let chains: BTreeSet<String> = state
        .firewall
        .chains
        .iter()
        .map(|chain| format!("{} {:?} {:?}", chain.id, chain.rules, chain.jumps))
        .collect();
    format!("{sas:#?}\n{policies:#?}\n{chains:#?}")
}

fn list<'a>(of: &'a Value, name: &str) -> &'a [Value] {
    of[name].as_array().unwrap()
}

fn text<'a>(of: &'a Value, name: &str) -> &'a str {
    of[name].as_str().unwrap_or("none")
}

/// A line for each step, in order.
fn steps(plan: &Value) -> String {
    let mut lines = String::new();
    for step in list(plan, "steps") {
        let peer = step["peer"].as_str().map(|peer| format!("  [{peer}]")).unwrap_or_default();
        let _ = writeln!(lines, "  {} {}{peer}", text(step, "step"), text(step, "id"));
    }
    if lines.is_empty() { lines } else { format!("\nSteps\n{lines}") }
}

/// Facts that the text leaves out: codes, dates, and the fields of objects that come or go.
fn other_facts(plan: &Value) -> String {
    let mut lines = String::new();
    if !plan["clock"].is_null() {
        let _ = writeln!(lines, "  clock {}", plan["clock"]);
    }
    for change in list(plan, "changes") {
        let _ =
            write!(lines, "  {} {}: {}", text(change, "kind"), text(change, "id"), code(change));
        let side = match text(change, "action") {
            "create" => "after",
            "delete" => "before",
            _ => "",
        };
        for field in list(change, "fields").iter().filter(|_| !side.is_empty()) {
            let _ = write!(lines, "; {} {}", text(field, "name"), text(field, side));
        }
        lines.push('\n');
    }
    for conflict in list(plan, "conflicts") {
        let (peers, more) = (&conflict["peers"], &conflict["more_peers"]);
        let _ = writeln!(lines, "  conflict {}: {peers}, {more} more", text(conflict, "code"));
    }
    for lack in list(plan, "second_guard_missing") {
        let _ = writeln!(lines, "  second guard missing: {lack}");
    }
    for warning in list(plan, "warnings") {
        let _ = writeln!(lines, "  warning {}", text(warning, "code"));
    }
    for count in ["more_conflicts", "held", "hidden_keys"] {
        if plan[count] != 0 {
            let _ = writeln!(lines, "  {count} {}", plan[count]);
        }
    }
    if lines.is_empty() { lines } else { format!("\nFacts of the JSON\n{lines}") }
}

fn code(change: &Value) -> &str {
    text(&change["reason"], "code")
}
