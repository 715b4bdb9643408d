//! examples/monitoring: rules and dashboard ask for metrics and labels that the program prints, and
//! promtool finds nothing wrong.

use std::{
    collections::{BTreeMap, BTreeSet},
    env, fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use serde_json::Value;

/// Labels that Prometheus adds.
const OF_PROMETHEUS: [&str; 2] = ["instance", "job"];
/// Labels with a few words for values, all of which are somewhere in the golden statuses.
const WORDS: [&str; 6] = ["verdict", "traffic", "stage", "direction", "wanted", "cause"];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// Metrics, their labels, and the values of these.
type Metrics = BTreeMap<String, BTreeMap<String, BTreeSet<String>>>;

/// Those in the golden statuses.
fn printed() -> Metrics {
    let mut metrics = Metrics::new();
    for entry in fs::read_dir(root().join("tests/status")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "prom") {
            let text = fs::read_to_string(path).unwrap();
            text.lines().filter(|line| !line.starts_with('#')).for_each(|line| {
                let (name, labels) = line.split_once('{').unwrap();
                let metric = metrics.entry(name.into()).or_default();
                for (label, _, value) in matchers(labels.rsplit_once('}').unwrap().0) {
                    metric.entry(label).or_default().insert(value);
                }
            });
        }
    }
    metrics
}

/// `label="value"`, separated by commas: the labels with operators and values.
fn matchers(text: &str) -> Vec<(String, String, String)> {
    let mut found = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.find(['=', '!']) {
        let label = rest[..at].trim_matches([',', ' ']).to_owned();
        let quote = at + rest[at..].find('"').expect("a value has quotes");
        let end = quote + 1 + rest[quote + 1..].find('"').expect("a value has quotes");
        found.push((label, rest[at..quote].to_owned(), rest[quote + 1..end].to_owned()));
        rest = &rest[end + 1..];
    }
    found
}

/// Expressions of the rules, with the names of their alerts.
fn rules() -> Vec<(String, String)> {
    let text = read("examples/monitoring/alerts.yml");
    let mut name = "";
    let mut found = Vec::new();
    for line in text.lines().map(str::trim) {
        name = line.strip_prefix("- alert: ").unwrap_or(name);
        if let Some(expression) = line.strip_prefix("expr: ") {
            found.push((name.to_owned(), expression.to_owned()));
        }
    }
    assert_eq!(found.len(), text.matches("- alert: ").count(), "an expression of several lines");
    found
}

/// Expressions of the dashboard, with the titles of their panels.
fn panels() -> Vec<(String, String)> {
    let text = read("examples/monitoring/dashboard.json");
    let dashboard: Value = serde_json::from_str(&text).unwrap();
    let mut found = Vec::new();
    for panel in dashboard["panels"].as_array().unwrap() {
        let title = panel["title"].as_str().unwrap();
        for target in panel["targets"].as_array().unwrap() {
            found.push((title.to_owned(), target["expr"].as_str().unwrap().to_owned()));
        }
    }
    for variable in dashboard["templating"]["list"].as_array().unwrap() {
        if let Some(query) = variable["definition"].as_str() {
            // label_values(METRIC, LABEL)
            let query = query.strip_prefix("label_values(").unwrap().strip_suffix(')').unwrap();
            let (metric, label) = query.rsplit_once(", ").unwrap();
            found.push((variable["name"].to_string(), format!("count by ({label}) ({metric})")));
        }
    }
    found
}

/// Names of metrics in an expression, with the text behind each.
fn names(expression: &str) -> Vec<(&str, &str)> {
    let starts = expression.match_indices("meshsec_").map(|(at, _)| &expression[at..]);
    let end = |rest: &str| rest.find(|c: char| !c.is_ascii_lowercase() && c != '_');
    starts.map(|rest| rest.split_at(end(rest).unwrap_or(rest.len()))).collect()
}

/// The labels that `by`, `on` and their like list.
fn grouped(expression: &str) -> Vec<&str> {
    let words = ["by (", "on (", "ignoring (", "without (", "group_left (", "group_right ("];
    let lists = words.iter().flat_map(|word| expression.split(word).skip(1));
    let labels = lists.flat_map(|rest| rest.split(')').next().unwrap().split(", "));
    labels.filter(|label| !label.is_empty()).collect()
}

/// Fails where an expression asks for something that the program does not print.
fn assert_answered(place: &str, expression: &str, metrics: &Metrics) {
    for (name, rest) in names(expression) {
        let labels =
            metrics.get(name).unwrap_or_else(|| panic!("{place}: no metric is named {name}"));
        let Some(selector) = rest.strip_prefix('{') else { continue };
        for (label, operator, value) in matchers(selector.split('}').next().unwrap()) {
            if OF_PROMETHEUS.contains(&label.as_str()) {
                continue;
            }
            let known = labels
                .get(&label)
                .unwrap_or_else(|| panic!("{place}: {name} has no label {label}"));
            let values =
                if operator.ends_with('~') { value.split('|').collect() } else { vec![&*value] };
            for value in values.into_iter().filter(|_| WORDS.contains(&label.as_str())) {
                let is_counter = value.starts_with("Xfrm") && name == "meshsec_xfrm_errors_total";
                let there = known.contains(value) || (is_counter && is_a_counter(value));
                assert!(there, "{place}: {label} of {name} is never {value}");
            }
        }
    }
    for label in grouped(expression) {
        let known = metrics.values().any(|labels| labels.contains_key(label));
        assert!(known || OF_PROMETHEUS.contains(&label), "{place}: no metric has a label {label}");
    }
}

/// Whether meshsec-troubleshooting(7) explains a counter of /proc/net/xfrm_stat.
fn is_a_counter(name: &str) -> bool {
    read("man/meshsec-troubleshooting.7").lines().any(|line| line == format!(".It Va {name}"))
}

#[test]
fn rules_and_dashboard_ask_for_metrics_and_labels_that_there_are() {
    let metrics = printed();
    for (place, expression) in rules().iter().chain(&panels()) {
        assert!(!names(expression).is_empty(), "{place}: {expression}");
        assert_answered(place, expression, &metrics);
    }
}

#[test]
fn alerts_and_dashboard_leave_no_metric_out() {
    let both = [rules(), panels()].concat();
    for name in printed().keys() {
        // Beside the percentage of its numbers that an SA has used, and the times of the pair.
        if ["meshsec_sa_sequence_number", "meshsec_sa_last_used_timestamp_seconds"]
            .contains(&&**name)
        {
            continue;
        }
        let asked = |(_, text): &(String, String)| names(text).iter().any(|(it, _)| it == name);
        assert!(both.iter().any(asked), "nothing asks for {name}");
    }
}

#[test]
fn meshsec_json_7_has_every_metric_with_its_labels() {
    let page = read("man/meshsec-json.7");
    let section = page.split("\n.Sh METRICS\n").nth(1).unwrap().split("\n.Sh ").next().unwrap();
    let items = section.split("\n.It Va ").skip(1).map(|item| {
        let (name, rest) = item.split_once('\n').unwrap();
        let labels = rest.split('\n').nth(1).unwrap().trim_end_matches('.');
        (name.to_owned(), labels.split(", ").map(str::to_owned).collect::<BTreeSet<_>>())
    });
    let documented: BTreeMap<_, _> = items.collect();
    let printed = printed().into_iter();
    let printed: BTreeMap<String, BTreeSet<String>> =
        printed.map(|(name, labels)| (name, labels.into_keys().collect())).collect();
    assert_eq!(documented, printed);
}

/// promtool, installed or unpacked by `cargo xtask test`.
fn promtool(words: &[&str], file: &Path) -> Output {
    let var = |name| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let cache = var("XDG_CACHE_HOME").or_else(|| Some(var("HOME")?.join(".cache")));
    let unpacked = cache.map(|cache| cache.join("meshsec-vm/promtool"));
    let program = unpacked.filter(|path| path.exists()).unwrap_or_else(|| "promtool".into());
    Command::new(program).args(words).arg(file).output().unwrap_or_else(|error| {
        panic!("promtool is needed (cargo xtask test, or apt-get install prometheus): {error}")
    })
}

#[track_caller]
fn succeeds(output: &Output) {
    let said = [&output.stdout[..], &output.stderr].concat();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&said));
}

#[test]
fn the_rules_fire_as_their_tests_say() {
    let folder = root().join("examples/monitoring");
    succeeds(&promtool(&["check", "rules"], &folder.join("alerts.yml")));
    succeeds(&promtool(&["test", "rules"], &folder.join("alerts.test.yml")));
}

#[test]
fn the_expressions_of_the_dashboard_are_valid() {
    let mut text = String::from("groups:\n  - name: dashboard\n    rules:\n");
    for (place, (_, expression)) in panels().into_iter().enumerate() {
        let expression = expression.replace("$__rate_interval", "5m");
        text += &format!("      - record: panel:{place}\n        expr: '{expression}'\n");
    }
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("rules.yml");
    fs::write(&file, text).unwrap();
    succeeds(&promtool(&["check", "rules"], &file));
}

/// Runs meshsec-metrics.sh with a meshsec that prints a line and ends with this status.
fn metrics_after(status: u8, directory: &Path) -> bool {
    let program = directory.join("meshsec");
    fs::write(&program, format!("#!/bin/sh\necho \"$@\"\nexit {status}\n")).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    let path = format!("{}:{}", directory.display(), env::var("PATH").unwrap());
    let mut command = Command::new("sh");
    command.arg(root().join("examples/monitoring/meshsec-metrics.sh"));
    command.arg(directory).args(["-c", "mesh.toml"]).env("PATH", path);
    command.output().unwrap().status.success()
}

#[test]
fn metrics_are_written_whole_or_not_at_all() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("meshsec.prom");
    assert!(!metrics_after(1, directory.path()));
    assert!(!file.exists());
    for status in [0, 2] {
        assert!(metrics_after(status, directory.path()));
        assert_eq!(fs::read_to_string(&file).unwrap(), "-c mesh.toml --format prometheus status\n");
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o644);
        fs::remove_file(&file).unwrap();
    }
    // The program alone: no half-written file is left.
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
}

#[test]
fn systemd_finds_nothing_wrong_with_the_units_that_write_metrics() {
    let folder = root().join("examples/monitoring");
    let directory = tempfile::tempdir().unwrap();
    let script = folder.join("meshsec-metrics.sh");
    let units = ["meshsec-metrics.service", "meshsec-metrics.timer"].map(|name| {
        let text = fs::read_to_string(folder.join(name)).unwrap();
        let unit = directory.path().join(name);
        let installed = "/usr/local/libexec/meshsec-metrics";
        fs::write(&unit, text.replace(installed, script.to_str().unwrap())).unwrap();
        unit
    });
    let mut command = Command::new("systemd-analyze");
    let output =
        command.args(["verify", "--man=no"]).args(&units).output().unwrap_or_else(|error| {
            panic!("systemd-analyze is needed (apt-get install systemd): {error}")
        });
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.is_empty(), "{said}");
}
