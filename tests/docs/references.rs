//! References to pages, and to sections of pages, lead to sections that there are.

use std::{collections::BTreeMap, fs, path::Path};

use crate::{files, pages, read, root};

/// The sections of each page, by its name as `meshsec(8)`.
fn sections() -> BTreeMap<String, Vec<String>> {
    let of = |path: &Path| {
        let title = |line: &str| line.strip_prefix(".Sh ").map(str::to_owned);
        read(path.to_str().unwrap()).lines().filter_map(title).collect()
    };
    let name = |path: &Path| {
        let name = path.file_stem().unwrap().to_string_lossy();
        format!("{name}({})", path.extension().unwrap().to_string_lossy())
    };
    pages().iter().map(|path| (name(path), of(path))).collect()
}

/// A text with the references of mdoc, and the links of Markdown, as plain text has them.
fn plain(text: &str) -> String {
    let line = |line: &str| match line.strip_prefix(".Xr ") {
        Some(reference) => {
            let mut words = reference.split(' ');
            let [name, section] = [words.next().unwrap(), words.next().unwrap()];
            format!("{name}({section})")
        }
        None => line.trim_start_matches([' ', '/', '#', '!', '*']).replace('[', ""),
    };
    text.lines().map(line).collect::<Vec<_>>().join(" ").replace(" \\ ", " ")
}

/// References to pages of meshsec, each with the words in capitals before "in", which name a
/// section.
fn references(text: &str) -> Vec<(String, String)> {
    let text = plain(text);
    let words: Vec<&str> = text.split_whitespace().collect();
    let mut found = Vec::new();
    for (at, word) in words.iter().enumerate() {
        let Some((name, section)) = word.find("meshsec").and_then(|at| word[at..].split_once('('))
        else {
            continue;
        };
        let is_name = name.bytes().all(|byte| byte.is_ascii_lowercase() || b".-".contains(&byte));
        let Some(section) = ["5", "7", "8"].into_iter().find(|it| section.starts_with(*it)) else {
            continue;
        };
        if !is_name {
            continue;
        }
        let is_title = |word: &&&str| word.bytes().all(|byte| byte.is_ascii_uppercase());
        let before = at.checked_sub(1).map_or("", |at| words[at]);
        let mut title: Vec<&str> = match before {
            "in" => words[..at - 1].iter().rev().take_while(is_title).copied().collect(),
            _ => Vec::new(),
        };
        title.reverse();
        found.push((format!("{name}({section})"), title.join(" ")));
    }
    found
}

#[test]
fn references_lead_to_pages_and_sections_that_there_are() {
    let sections = sections();
    let kinds = ["rs", "md", "toml", "yml", "json", "py", "txt", "service", "socket", "timer"];
    let folders = ["src", "docs", "examples", "schemas", "tests", "packaging"];
    let mut all: Vec<_> = folders.iter().flat_map(|folder| files(folder, &kinds)).collect();
    all.extend(["README.md", "SECURITY.md", "ARCHITECTURE.md", "CHANGELOG.md"].map(Into::into));
    all.extend(pages());
    let mut count = 0;
    for path in all.iter().filter(|path| !path.ends_with("tests/docs/references.rs")) {
        let text = String::from_utf8_lossy(&fs::read(root().join(path)).unwrap()).into_owned();
        for (page, title) in references(&text) {
            let known = sections.get(&page);
            let known = known.unwrap_or_else(|| panic!("{}: there is no {page}", path.display()));
            let is_known = title.is_empty() || known.contains(&title);
            assert!(is_known, "{}: {page} has no section {title}", path.display());
            count += usize::from(!title.is_empty());
        }
    }
    assert!(count > 60, "only {count} references to sections were found");
}

#[test]
fn references_within_a_page_lead_to_its_sections() {
    for path in pages() {
        let page = read(path.to_str().unwrap());
        let titles: Vec<&str> = page
            .lines()
            .filter_map(|line| line.strip_prefix(".Sh ").or(line.strip_prefix(".Ss ")))
            .collect();
        for line in page.lines().filter_map(|line| line.strip_prefix(".Sx ")) {
            let title = line.trim_end_matches([' ', '.', ',', ';', ':', ')']);
            assert!(titles.contains(&title), "{}: there is no section {title}", path.display());
        }
    }
}

#[test]
fn every_page_is_named_by_meshsec_8_which_begins_with_troubleshooting() {
    let page = read("man/meshsec.8");
    for other in sections().keys().filter(|name| *name != "meshsec(8)") {
        let (name, section) = other.trim_end_matches(')').split_once('(').unwrap();
        assert!(page.contains(&format!(".It Xr {name} {section}\n")), "meshsec(8) lacks {other}");
    }
    let (_, description) = page.split_once("\n.Sh DESCRIPTION\n").unwrap();
    let first = description.split("\n.Pp\n").next().unwrap();
    assert!(first.contains(".Xr meshsec-troubleshooting 7"), "{first}");
    let help = read("man/meshsec-troubleshooting.7");
    assert!(help.split("\n.Sh ").nth(2).unwrap().starts_with("TROUBLESHOOTING\n"));
}

#[test]
fn packages_hold_every_page() {
    let manifest = read("Cargo.toml");
    for path in pages() {
        let name = path.display().to_string();
        let extension = path.extension().unwrap().to_str().unwrap();
        let lines = manifest.lines().filter(|line| {
            line.contains(&format!("\"{name}\""))
                || line.contains(&format!("\"man/*.{extension}\""))
        });
        assert_eq!(lines.count(), 2, "the packages for Debian and RPM hold {name}");
    }
}
