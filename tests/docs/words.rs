//! The language of comments and pages: nouns are named.
//!
//! A clause with "what" or "who" in place of a noun makes a reader look for the noun. English needs
//! some of them, so each kind of text has a limit.

use std::fs;

use crate::{files, root};

/// Words that stand in place of a noun.
const VAGUE: [&str; 5] = ["what", "whatever", "who", "whoever", "whose"];
/// The most of them in 1,000 words of comments.
const IN_COMMENTS: usize = 3;
/// The most of them in 1,000 words of a page, but at least a few in a short page.
const IN_PAGES: usize = 3;

/// Phrases that have a plainer form.
const PHRASES: [(&str, &str); 2] = [("that by which", "the noun"), ("that of which", "the noun")];

struct Text {
    place: String,
    words: Vec<String>,
}

impl Text {
    fn new(place: String, text: &str) -> Self {
        let word = |word: &str| word.trim_matches(|c: char| !c.is_alphanumeric()).to_lowercase();
        let words = text.split_whitespace().map(word).filter(|word| !word.is_empty()).collect();
        Self { place, words }
    }

    fn vague(&self) -> usize {
        self.words.iter().filter(|word| VAGUE.contains(&word.as_str())).count()
    }

    fn phrases(&self) -> impl Iterator<Item = String> + '_ {
        let text = format!(" {} ", self.words.join(" "));
        PHRASES
            .iter()
            .filter(move |(phrase, _)| text.contains(&format!(" {phrase} ")))
            .map(|(phrase, instead)| format!("{}: \"{phrase}\": write {instead}", self.place))
    }
}

/// The comments of a file of Rust, as one text.
fn comments(code: &str) -> String {
    let comment = |line: &str| {
        let at = line.find("// ").or_else(|| line.find("/// ")).or_else(|| line.find("//! "))?;
        // "//" within a string, such as that of an address, follows no space.
        let before = &line[..at];
        (before.is_empty() || before.ends_with([' ', '/'])).then(|| line[at..].to_owned())
    };
    let text: Vec<String> = code.lines().filter_map(comment).collect();
    text.join(" ").replace("///", " ").replace("//!", " ").replace("//", " ")
}

fn all_comments() -> Vec<Text> {
    let paths = ["src", "tests", "xtask", "benches", "fuzz/fuzz_targets"];
    let paths = paths.iter().flat_map(|directory| files(directory, &["rs"]));
    let text = |path: &std::path::PathBuf| fs::read_to_string(root().join(path)).unwrap();
    paths.map(|path| Text::new(path.display().to_string(), &comments(&text(&path)))).collect()
}

fn pages() -> Vec<Text> {
    let mut pages =
        vec!["README.md", "ARCHITECTURE.md", "SECURITY.md", "CONTRIBUTING.md", "CHANGELOG.md"]
            .into_iter()
            .map(std::path::PathBuf::from)
            .collect::<Vec<_>>();
    pages.extend(crate::pages());
    pages.extend(files("docs", &["md"]));
    let text = |path: &std::path::PathBuf| fs::read_to_string(root().join(path)).unwrap();
    pages.iter().map(|path| Text::new(path.display().to_string(), &text(path))).collect()
}

#[test]
fn comments_name_their_nouns() {
    let texts = all_comments();
    let words: usize = texts.iter().map(|text| text.words.len()).sum();
    let vague: usize = texts.iter().map(Text::vague).sum();
    let mut worst: Vec<_> = texts.iter().map(|text| (text.vague(), &text.place)).collect();
    worst.sort_by(|a, b| b.cmp(a));
    worst.truncate(10);
    assert!(
        vague * 1000 <= IN_COMMENTS * words,
        "{vague} of {words} words of comments are one of {VAGUE:?}; at most {IN_COMMENTS} of 1,000 \
         may be. Name the noun. Most are in {worst:?}"
    );
}

#[test]
fn pages_name_their_nouns() {
    for page in pages() {
        let (vague, words) = (page.vague(), page.words.len());
        assert!(
            vague * 1000 <= IN_PAGES * words,
            "{vague} of {words} words of {} are one of {VAGUE:?}; at most {IN_PAGES} of 1,000 may \
             be. Name the noun",
            page.place
        );
    }
}

#[test]
fn phrases_that_have_a_plainer_form_are_not_used() {
    let texts = all_comments().into_iter().chain(pages());
    let texts = texts.filter(|text| text.place != "tests/docs/words.rs");
    let found: Vec<String> = texts.flat_map(|text| text.phrases().collect::<Vec<_>>()).collect();
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[test]
fn comments_are_told_from_code() {
    let code = "//! One.\nlet a = \"https://x\"; // two\n    /// three what\nlet what = 1;\n";
    let text = Text::new("x".into(), &comments(code));
    assert_eq!(text.words, ["one", "two", "three", "what"]);
    assert_eq!(text.vague(), 1);
}
