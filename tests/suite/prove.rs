//! `prove --compare`, with documents of two hosts as a real kernel made them.

use std::{
    fs,
    path::Path,
    process::{Command, Output},
};

use serde_json::{Value, json};

use crate::{
    schema::assert_valid,
    schemas::{assert_strict, documents::read},
};

fn evidence(host: &str) -> Value {
    read(&Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/evidence/{host}.json")))
}

/// The comparison of two documents, as the program prints it in a format.
fn compare(one: &Value, other: &Value, format: &str) -> Output {
    let directory = tempfile::tempdir().unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_meshsec"));
    // Neither the file nor the namespace is there.
    command.args(["-c", "absent.toml", "--netns", "absent", "--format", format]);
    command.args(["prove", "--compare"]).current_dir(directory.path());
    for (name, document) in [("one.json", one), ("other.json", other)] {
        fs::write(directory.path().join(name), document.to_string()).unwrap();
        command.arg(name);
    }
    command.output().unwrap()
}

#[track_caller]
fn ends(one: &Value, other: &Value, status: i32, text: &str) {
    let output = compare(one, other, "text");
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said).split_whitespace().collect::<Vec<_>>().join(" ");
    assert_eq!(output.status.code(), Some(status), "{said}");
    assert!(said.contains(text), "{text}: {said}");
}

#[test]
fn two_documents_prove_both_directions() {
    let (a, b) = (evidence("a"), evidence("b"));
    for document in [&a, &b] {
        assert_strict("prove", document);
    }
    ends(&a, &b, 0, "a to b: encrypted, SPI 0x84001002");
    ends(&b, &a, 0, "Proven in both directions.");
    let output = compare(&a, &b, "json");
    let document: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_strict("prove-compare", &document);
    assert_eq!(document["proven"], true);
    assert_eq!(document["directions"][1]["same_key"], true);
}

#[test]
fn a_changed_document_proves_nothing() {
    let (a, b) = (evidence("a"), evidence("b"));
    for (place, value, text) in [
        ("/file", json!("00".repeat(32)), "the hosts had different files"),
        ("/taken", json!("2001-02-03T04:05:06Z"), "s apart"),
        ("/mesh", json!("other"), "they are of different meshes"),
        ("/local", json!("c"), "says nothing of"),
        ("/capture/lost", json!(1), "the capture is not whole"),
        ("/peers/0/verdict", json!("blocked"), "the verdict of a is: blocked"),
        ("/peers/0/marker_packets", json!(1), "packets could be read"),
        ("/peers/0/out/spi", json!("0x84001003"), "b does not receive SPI 0x84001003"),
        ("/peers/0/out/headers/0", json!("8400100300000001"), "header has another SPI"),
        ("/peers/0/out", Value::Null, "contradicts itself"),
        ("/peers/0/in/sas", json!([]), "a does not receive SPI 0x84002001"),
        ("/peers", json!([]), "says nothing of"),
    ] {
        let mut changed = a.clone();
        *changed.pointer_mut(place).unwrap() = value;
        ends(&changed, &b, 2, text);
        ends(&b, &changed, 2, "Not proven.");
        let output = compare(&changed, &b, "json");
        assert_valid("prove-compare", &serde_json::from_slice(&output.stdout).unwrap());
    }
    ends(&a, &a, 2, "both are of a");
}

#[test]
fn what_is_no_document_of_this_format_is_an_error() {
    let (a, b) = (evidence("a"), evidence("b"));
    for (place, value, text) in [
        ("/format_version", json!("1.0"), "this meshsec reads 2.0"),
        ("/taken", json!("yesterday"), "taken is not a time"),
        ("/local", json!("\u{1b}[2J"), "a name is not a peer's"),
        ("/short_id", json!(4096), "a ShortID is too large"),
        ("/peers/0/out/headers/0", json!("84"), "a header is not 8 bytes in hex"),
        ("/peers/0/out/spi", json!("0xzz"), "an SPI is not one"),
        ("/capture", json!([]), "not a document of meshsec prove --format json"),
    ] {
        let mut changed = a.clone();
        *changed.pointer_mut(place).unwrap() = value;
        ends(&b, &changed, 1, text);
    }
    let mut twice = a.clone();
    let peers = twice["peers"].as_array_mut().unwrap();
    peers.push(peers[0].clone());
    ends(&twice, &b, 1, "a peer is in it twice");
    ends(&json!({}), &b, 1, "not a document of meshsec prove --format json");
    ends(&json!({ "format_version": "2.0", "mesh": "\u{1b}[2J" }), &b, 1, "not a document");
}
