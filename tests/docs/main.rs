//! The documents agree with the program: man pages, README and completions. `source` tests the
//! rules that ARCHITECTURE.md and CONTRIBUTING.md state of the source, and `words` the language.
//!
//! `UPDATE_GOLDEN=1` rewrites the completions, the README's plan and the lists of codes.

#[path = "../common/mod.rs"]
mod common;
mod crates;
mod packages;
mod references;
mod source;
mod words;

use std::{
    collections::{BTreeMap, BTreeSet},
    env, fs,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use clap::{CommandFactory, Parser};
use meshsec::{
    cli::{Cli, Shell},
    completion,
    model::{CheckCode, ErrorCode},
    plan::{ConflictCode, ReasonCode, WarningCode},
};

use common::compare;

const MANIFESTS: [&str; 3] = ["Cargo.toml", "xtask/Cargo.toml", "fuzz/Cargo.toml"];
/// Thirty-two bytes counting up: the secret of the vectors of the key schedule too.
const SECRET: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=\n";

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// Files below a directory of the project, by their paths in it.
fn files(directory: &str, extensions: &[&str]) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut left = vec![root().join(directory)];
    while let Some(directory) = left.pop() {
        for entry in fs::read_dir(&directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                left.push(path);
            } else if path
                .extension()
                .is_some_and(|is| extensions.iter().any(|extension| is == *extension))
            {
                found.push(path.strip_prefix(root()).unwrap().to_owned());
            }
        }
    }
    found.sort();
    found
}

/// Runs the program on a mesh.toml, its secret beside it.
fn meshsec(mesh: &str, arguments: &[&str]) -> Output {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("mesh.toml"), mesh).unwrap();
    let mut options = fs::OpenOptions::new();
    let options = options.write(true).create_new(true).mode(0o600);
    let mut key = options.open(directory.path().join("mesh.key")).unwrap();
    std::io::Write::write_all(&mut key, SECRET.as_bytes()).unwrap();
    Command::new(env!("CARGO_BIN_EXE_meshsec"))
        .args(arguments)
        .current_dir(directory.path())
        .output()
        .unwrap()
}

fn validate(mesh: &str) -> String {
    let output = meshsec(mesh, &["-c", "mesh.toml", "validate"]);
    String::from_utf8(output.stderr).unwrap()
}

// The man pages.

fn pages() -> Vec<PathBuf> {
    files("man", &["5", "7", "8"])
}

/// The words that `.It` lines of a page name by an mdoc macro, such as `Fl`.
fn items(page: &str, name: &str) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for line in page.lines().filter(|line| line.starts_with(".It ")) {
        let words: Vec<&str> = line.split_whitespace().collect();
        let pairs = words.windows(2).filter(|pair| pair[0] == name);
        names.extend(pairs.map(|pair| pair[1].to_owned()));
    }
    names
}

/// Options of a command and of the commands below it, as mdoc writes them: `c` is -c,
/// `-config` is --config.
fn options(command: &clap::Command) -> BTreeSet<String> {
    let arguments = || command.get_arguments();
    let long =
        arguments().filter_map(|argument| argument.get_long()).map(|long| format!("-{long}"));
    let short = arguments().filter_map(|argument| argument.get_short()).map(String::from);
    long.chain(short).chain(command.get_subcommands().flat_map(options)).collect()
}

#[test]
fn meshsec_8_has_every_command_and_every_option_and_no_other() {
    let page = read("man/meshsec.8");
    let mut cli = Cli::command();
    cli.build();
    let commands: BTreeSet<String> =
        cli.get_subcommands().map(|command| command.get_name().to_owned()).collect();
    let documented = items(&page, "Cm");
    let missing: Vec<_> = commands.difference(&documented).collect();
    assert!(missing.is_empty(), "commands that meshsec(8) lacks: {missing:?}");

    let wanted = options(&cli);
    assert_eq!(items(&page, "Fl"), wanted, "options of meshsec(8), and options there are");
}

#[test]
fn meshsec_8_has_every_command_in_its_synopsis() {
    let page = read("man/meshsec.8");
    let synopsis = section(&page, "SYNOPSIS");
    for command in Cli::command().get_subcommands() {
        let name = command.get_name();
        assert!(synopsis.contains(&format!("\n.Cm {name}\n")), "{name} is not in the synopsis");
    }
}

/// One section of a page.
fn section<'p>(page: &'p str, title: &str) -> &'p str {
    let head = format!("\n.Sh {title}\n");
    let begin = page.find(&head).unwrap_or_else(|| panic!("no section {title}")) + head.len();
    let end = page[begin..].find("\n.Sh ").map_or(page.len(), |end| begin + end + 1);
    &page[begin..end]
}

#[test]
fn meshsec_json_7_explains_every_word_of_a_plan_in_json() {
    let page = read("man/meshsec-json.7");
    let json = section(&page, "JSON");
    let mut found = BTreeSet::new();
    for (schema, place) in [
        ("plan", "/$defs/change/properties/kind"),
        ("plan", "/$defs/change/properties/action"),
        ("plan", "/$defs/field/properties/name"),
        ("common", "/$defs/step_name"),
    ] {
        let schema = read(&format!("schemas/{schema}.schema.json"));
        let schema: serde_json::Value = serde_json::from_str(&schema).unwrap();
        let words = schema.pointer(place).unwrap()["enum"].as_array().unwrap();
        found.extend(words.iter().map(|word| word.as_str().unwrap().to_owned()));
    }
    for word in found {
        let explained = json.lines().any(|line| {
            line.strip_prefix(".Ql ").is_some_and(|rest| rest.split(' ').next() == Some(&word))
        });
        assert!(explained, "JSON in meshsec-json(7) has no {word}");
    }
}

/// A list of codes with their meanings, as meshsec-json(7) has it.
fn listed<'c>(title: &str, codes: impl Iterator<Item = (&'c str, &'c str)>) -> String {
    let mut text = format!(".Ss {title}\n.Bl -tag -width Ds -compact\n");
    for (word, meaning) in codes {
        text += &format!(".It Ql {word}\n");
        let mut column = 0;
        for word in meaning.split(' ') {
            column += word.len() + 1;
            if column > 79 {
                column = word.len() + 1;
                text.pop();
                text.push('\n');
            }
            text = text + word + " ";
        }
        text.pop();
        text.push('\n');
    }
    text + ".El\n"
}

#[test]
fn meshsec_json_7_lists_every_code_and_no_other() {
    let codes = [
        listed("Of warnings", WarningCode::ALL.iter().map(|code| (code.word(), code.meaning()))),
        listed("Of errors", ErrorCode::ALL.iter().map(|code| (code.word(), code.meaning()))),
        listed("Of conflicts", ConflictCode::ALL.iter().map(|code| (code.word(), code.meaning()))),
        listed("Of reasons", ReasonCode::ALL.iter().map(|code| (code.word(), code.meaning()))),
        listed("Of checks", CheckCode::ALL.iter().map(|code| (code.word(), code.meaning()))),
    ]
    .concat();
    let page = read("man/meshsec-json.7");
    let found = section(&page, "CODES");
    let found = &found[found.find(".Ss ").expect("lists")..];
    compare("man/meshsec-json.7", &page.replace(found, &codes));
}

#[test]
fn no_code_stands_for_two_things() {
    let words = WarningCode::ALL.iter().map(|code| code.word());
    assert_eq!(words.clone().collect::<BTreeSet<_>>().len(), words.count());
    let words = ReasonCode::ALL.iter().map(|code| code.word());
    assert_eq!(words.clone().collect::<BTreeSet<_>>().len(), words.count());
    let words = CheckCode::ALL.iter().map(|code| code.word());
    assert_eq!(words.clone().collect::<BTreeSet<_>>().len(), words.count());
    let words = ConflictCode::ALL.iter().map(|code| code.word());
    assert_eq!(words.clone().collect::<BTreeSet<_>>().len(), words.count());
}

/// The known keys of each table, by asking for one that is not: the error lists them.
#[test]
fn meshsec_toml_5_has_every_key() {
    let tables =
        ["[mesh]", "[traffic]", "[esp]", "[keys]", "[rotation]", "[link]", "[tunnel]", "[[peer]]"];
    let strange: String = tables.map(|table| format!("{table}\nzzzzzzzzzz = 1\n")).concat();
    let errors = validate(&(strange + "name = \"a\"\n"));
    let documented = items(&read("man/meshsec.toml.5"), "Ic");
    for table in tables {
        let head = format!("known in {table}: ");
        let Some((_, list)) = errors.split_once(&head) else { panic!("{table}: {errors}") };
        let list = list.lines().next().unwrap();
        for key in list.split(", ") {
            assert!(documented.contains(key), "meshsec.toml(5) has no {key} of {table}");
        }
    }
    for place in ["file", "credential", "env"] {
        assert!(documented.contains(place), "meshsec.toml(5) has no {place}");
    }
}

#[test]
fn complete_examples_of_meshsec_toml_5_are_valid() {
    let page = read("man/meshsec.toml.5");
    let blocks = page.split("\n.Bd -literal -offset indent\n").skip(1);
    let meshes: Vec<&str> = blocks
        .map(|block| block.split("\n.Ed\n").next().unwrap())
        .filter(|block| block.starts_with("[mesh]\n"))
        .collect();
    assert_eq!(meshes.len(), 2);
    for mesh in meshes {
        let output = meshsec(mesh, &["-c", "mesh.toml", "validate"]);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
}

#[test]
fn the_test_vectors_of_meshsec_toml_5_are_the_first_of_the_vectors() {
    let page: String = read("man/meshsec.toml.5").split_whitespace().collect();
    let both = ["session", "keymat", "fingerprint"];
    let text = read("docs/testkit/key-schedule.json");
    let testkit: serde_json::Value = serde_json::from_str(&text).unwrap();
    for (way, names) in [
        ("mesh_key", &["mesh_key", "spi"][..]),
        ("private_key", &["from_private_key", "to_public_key", "x25519"]),
        ("ratchet", &["ck"]),
    ] {
        let mut cases = testkit["cases"].as_array().unwrap().iter();
        let first = cases.find(|case| case["way"] == way).unwrap();
        for name in names.iter().chain(&both) {
            let value = first[name].as_str().unwrap();
            assert!(page.contains(&format!("{name}{value}")), "{way}: {name}");
        }
    }
}

#[test]
fn mandoc_finds_nothing_to_warn_of() {
    for page in pages() {
        let output = Command::new("mandoc")
            .args(["-T", "lint", "-W", "warning"])
            .arg(root().join(page))
            .output()
            .unwrap_or_else(|error| panic!("mandoc is needed (apt-get install mandoc): {error}"));
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && text.is_empty(), "{text}");
    }
}

// The README.

/// The text of the first fenced block with this beginning, and where it is.
fn fenced<'t>(text: &'t str, first: &str) -> &'t str {
    let begin = text
        .match_indices("\n```")
        .map(|(at, _)| at + 1 + text[at + 1..].find('\n').unwrap() + 1)
        .find(|&begin| text[begin..].starts_with(first))
        .unwrap_or_else(|| panic!("no block begins with {first}"));
    let end = text[begin..].find("\n```").unwrap();
    &text[begin..=begin + end]
}

#[test]
fn the_plan_in_the_readme_is_what_the_program_prints() {
    let readme = read("README.md");
    let mesh = fenced(&readme, "[mesh]");
    let shown = fenced(&readme, "$ meshsec -c mesh.toml plan");
    let (command, plan) = shown.split_once('\n').unwrap();
    let arguments: Vec<&str> = command.split(' ').skip(2).collect();
    let output = meshsec(mesh, &arguments);
    let printed = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    compare("README.md", &readme.replacen(plan, &printed, 1));
}

#[test]
fn the_mesh_in_the_readme_is_valid() {
    let readme = read("README.md");
    let output = meshsec(fenced(&readme, "[mesh]"), &["-c", "mesh.toml", "validate"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn relative_links_lead_somewhere() {
    for directory in [root().to_owned(), root().join("docs")] {
        for entry in fs::read_dir(&directory).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_none_or(|extension| extension != "md") {
                continue;
            }
            let text = fs::read_to_string(&path).unwrap();
            for (at, _) in text.match_indices("](") {
                let target = text[at + 2..].split(')').next().unwrap();
                let target = target.split('#').next().unwrap();
                if target.is_empty() || target.contains("://") {
                    continue;
                }
                assert!(directory.join(target).exists(), "{}: {target}", path.display());
            }
        }
    }
}

#[test]
fn every_promise_of_security_md_has_tests_that_there_are() {
    let text = read("SECURITY.md");
    let section = text.split("\n## ").find(|section| section.starts_with("What is promised"));
    let tests: Vec<(String, String)> = ["tests", "src"]
        .iter()
        .flat_map(|directory| files(directory, &["rs"]))
        .map(|path| {
            let module = path.with_extension("");
            (module.to_string_lossy().replace('/', "::"), read(path.to_str().unwrap()))
        })
        .collect();
    for promise in section.unwrap().split("\n* ").skip(1) {
        let shown = promise.split('`').filter(|words| words.contains("::"));
        assert!(shown.clone().count() > 0, "no test shows: {promise}");
        for name in shown {
            let (module, function) = name.rsplit_once("::").unwrap();
            let in_module = |path: &str| {
                path.ends_with(&format!("::{module}")) || path.contains(&format!("::{module}::"))
            };
            let is_there = tests
                .iter()
                .any(|(path, code)| in_module(path) && code.contains(&format!("fn {function}(")));
            assert!(is_there, "{name} is no test");
        }
    }
}

#[test]
fn the_changelog_has_an_unreleased_section() {
    let changelog = read("CHANGELOG.md");
    assert!(changelog.lines().any(|line| line == "## [Unreleased]"));
}

// Completions.

#[test]
fn completions_are_those_that_the_program_prints() {
    let shells =
        [(Shell::Bash, "meshsec.bash"), (Shell::Zsh, "_meshsec"), (Shell::Fish, "meshsec.fish")];
    for (shell, name) in shells {
        compare(&format!("completions/{name}"), &completion::script(shell).unwrap());
    }
}

/// What follows the program's name, up to a comment or a redirection. A word in quotes may hold
/// anything.
fn words_of_an_example(line: &str) -> Option<Vec<&str>> {
    let (_, typed) = line.split_once("meshsec ")?;
    let mut words = vec!["meshsec"];
    for (place, part) in typed.split("   #").next()?.split('\'').enumerate() {
        if place % 2 == 1 {
            words.push(part);
            continue;
        }
        let ends = [" > ", " < ", ")"];
        let end = ends.iter().filter_map(|end| part.find(end)).min();
        words.extend(part[..end.unwrap_or(part.len())].split_whitespace());
        if end.is_some() {
            break;
        }
    }
    Some(words)
}

#[test]
fn every_commands_help_has_examples_that_can_be_typed() {
    for command in Cli::command().get_subcommands().filter(|command| command.get_name() != "help") {
        let name = command.get_name();
        let help = command.get_after_help().unwrap_or_else(|| panic!("{name} has no example"));
        let help = help.to_string();
        let lines: Vec<&str> = help.lines().skip(1).collect();
        assert!(help.starts_with("Examples:\n") && !lines.is_empty(), "{help}");
        for line in lines.iter().filter(|line| !line.contains("systemctl")) {
            let words = words_of_an_example(line).unwrap_or_else(|| panic!("{line}"));
            assert!(words.contains(&name), "{line} is not of {name}");
            assert!(Cli::try_parse_from(&words).is_ok(), "{line}");
        }
    }
}

// The rules of ARCHITECTURE.md and CONTRIBUTING.md for the source.

#[test]
fn every_direct_dependency_has_its_reason_in_architecture_md() {
    let text = read("ARCHITECTURE.md");
    for manifest in MANIFESTS {
        let manifest: toml::Table = read(manifest).parse().unwrap();
        for kind in ["dependencies", "dev-dependencies", "build-dependencies"] {
            let Some(table) = manifest.get(kind) else { continue };
            let names = table.as_table().unwrap().keys();
            for name in names.filter(|name| *name != "meshsec") {
                let row = format!("| `{name}` |");
                assert!(text.contains(&row), "ARCHITECTURE.md has no row for {name}");
            }
        }
    }
}

#[test]
fn the_table_of_dependencies_has_no_others() {
    let mut known = BTreeSet::new();
    for manifest in MANIFESTS {
        let manifest: toml::Table = read(manifest).parse().unwrap();
        for kind in ["dependencies", "dev-dependencies"] {
            known.extend(
                manifest.get(kind).into_iter().flat_map(|table| {
                    table.as_table().unwrap().keys().cloned().collect::<Vec<_>>()
                }),
            );
        }
    }
    let text = read("ARCHITECTURE.md");
    let (_, dependencies) = text.split_once("\n## Dependencies\n").unwrap();
    let dependencies = dependencies.split("\n## ").next().unwrap();
    for row in dependencies.lines().filter_map(|line| line.strip_prefix("| `")) {
        let name = row.split('`').next().unwrap();
        assert!(known.contains(name), "ARCHITECTURE.md has {name}, which no Cargo.toml has");
    }
}

/// The versions in a lock file of the program's own dependencies. Tests may have others of them.
fn locked_dependencies(path: &str) -> BTreeMap<String, String> {
    let lock: toml::Table = read(path).parse().unwrap();
    let packages = lock["package"].as_array().unwrap();
    let named = |name: &str| packages.iter().find(|it| it["name"].as_str() == Some(name)).unwrap();
    let program = named("meshsec")["dependencies"].as_array().unwrap();
    let dependencies = program.iter().map(|dependency| {
        // `name version` where the file has several versions, and else `name`.
        let (name, version) = match dependency.as_str().unwrap().split_once(' ') {
            Some((name, version)) => (name, version),
            None => {
                let name = dependency.as_str().unwrap();
                (name, named(name)["version"].as_str().unwrap())
            }
        };
        (name.to_owned(), version.to_owned())
    });
    dependencies.collect()
}

/// `fuzz/Cargo.lock` is of another workspace, and cargo doesn't keep the two alike.
#[test]
fn the_lock_file_of_the_fuzz_targets_has_the_dependencies_of_the_program() {
    let manifest: toml::Table = read("Cargo.toml").parse().unwrap();
    let [program, fuzz] = ["Cargo.lock", "fuzz/Cargo.lock"].map(locked_dependencies);
    for name in manifest["dependencies"].as_table().unwrap().keys() {
        assert!(program.contains_key(name), "Cargo.lock has no {name}");
        assert_eq!(
            fuzz.get(name),
            program.get(name),
            "fuzz/Cargo.lock has another {name}; copy Cargo.lock to fuzz/Cargo.lock, and run \
             cargo metadata in fuzz"
        );
    }
}
