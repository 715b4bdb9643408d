//! The cases of docs/testkit, which other implementations can run: here the program itself does, and
//! a second implementation in Python.

use std::{collections::BTreeMap, fs, os::unix::fs::PermissionsExt, path::Path, process::Command};

use meshsec::{
    keys::Ratchet,
    model::{Fingerprint, Generation, Key, MeshName, ShortId, Spi},
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::Value;

use crate::common;

/// The version of the files' format. A reader refuses another number before the point.
const FORMAT_VERSION: &str = "1.0";

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Document<C> {
    format_version: String,
    cases: Vec<C>,
}

fn path(file: &str) -> String {
    format!("{}/docs/testkit/{file}", env!("CARGO_MANIFEST_DIR"))
}

/// The cases of a file.
pub fn cases<C: DeserializeOwned>(name: &str) -> Vec<C> {
    let text = fs::read(path(&format!("{name}.json"))).unwrap();
    let document: Document<C> = serde_json::from_slice(&text).unwrap();
    assert_eq!(document.format_version, FORMAT_VERSION, "{name}");
    assert!(!document.cases.is_empty(), "{name}");
    document.cases
}

pub fn key(digits: &str) -> Key {
    Key::new(hex::decode(digits).unwrap().into())
}

pub fn bytes(digits: &str) -> [u8; 32] {
    hex::decode(digits).unwrap().try_into().unwrap()
}

fn generation(number: u64) -> Generation {
    Generation::new(number).unwrap()
}

#[derive(Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
enum SpiCase {
    Encode { generation: u64, from: u16, to: u16, spi: String },
    Decode { spi: String, generation_mod_32: u8, lane: u8, from: u16, to: u16 },
}

#[test]
fn spis_are_those_of_the_testkit() {
    let id = |number| ShortId::new(number).unwrap();
    for case in cases("spi") {
        match case {
            SpiCase::Encode { generation: number, from, to, spi } => {
                assert_eq!(Spi::new(generation(number), id(from), id(to)).to_string(), spi);
            }
            SpiCase::Decode { spi: text, generation_mod_32, lane, from, to } => {
                let digits = text.trim_start_matches("0x");
                let spi = Spi::from_raw(u32::from_str_radix(digits, 16).unwrap());
                let parts = (spi.generation_low(), spi.lane(), spi.from().get(), spi.to().get());
                assert_eq!(parts, (generation_mod_32, lane, from, to), "{text}");
            }
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FingerprintCase {
    bytes: String,
    fingerprint: String,
}

#[test]
fn fingerprints_are_those_of_the_testkit() {
    for FingerprintCase { bytes, fingerprint } in cases("fingerprint") {
        let of = Fingerprint::of(&hex::decode(bytes).unwrap());
        assert_eq!(of.to_string(), fingerprint);
    }
}

#[derive(Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
enum RatchetCase {
    Chain {
        mesh_key: String,
        mesh: String,
        generation: u64,
        ck: String,
        ck_fingerprint: String,
        file: String,
    },
    Refused {
        file: String,
        wrong: String,
    },
}

#[test]
fn ratchets_are_those_of_the_testkit() {
    for case in cases("ratchet") {
        match case {
            RatchetCase::Chain { mesh_key, mesh, generation: number, ck, ck_fingerprint, file } => {
                let begin = Ratchet::begin(&key(&mesh_key), &MeshName::new(&mesh).unwrap());
                let ratchet = begin.at(generation(number)).unwrap();
                assert_eq!(*ratchet.text(), file);
                assert!(file.contains(&format!("\nchain {ck}\n")), "{file}");
                assert_eq!(ratchet.fingerprint().to_string(), ck_fingerprint);
                assert_eq!(*Ratchet::parse(file.as_bytes()).ok().unwrap().text(), file);
            }
            RatchetCase::Refused { file, wrong } => {
                let error = Ratchet::parse(file.as_bytes()).err().expect(&file);
                let place = match wrong.as_str() {
                    "title" => "it does not begin with",
                    "checksum" => "checksum",
                    line => line,
                };
                assert!(error.to_string().contains(place), "{wrong}: {error}");
            }
        }
    }
}

/// A file of a mesh, a host, and the plan.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct PlanCase {
    name: String,
    mesh_toml: String,
    secrets: BTreeMap<String, String>,
    local: String,
    live: Option<Value>,
    plan: PlanFacts,
}

/// The part of a plan that does not depend on its words.
#[derive(Serialize, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
struct PlanFacts {
    generation: u64,
    changes: Vec<ChangeFacts>,
    steps: Vec<StepFacts>,
    conflicts: Vec<String>,
    warnings: Vec<String>,
    summary: BTreeMap<String, u64>,
}

#[derive(Serialize, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
struct ChangeFacts {
    kind: String,
    id: String,
    peer: Option<String>,
    action: String,
    reason: String,
    fields: Vec<Value>,
}

#[derive(Serialize, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
struct StepFacts {
    step: String,
    id: String,
}

impl PlanFacts {
    /// The facts of `plan --format json`.
    fn of(plan: &Value) -> Self {
        let text = |of: &Value| of.as_str().unwrap().to_owned();
        let list = |name: &str| plan[name].as_array().unwrap().iter();
        let change = |change: &Value| ChangeFacts {
            kind: text(&change["kind"]),
            id: text(&change["id"]),
            peer: change["peer"].as_str().map(str::to_owned),
            action: text(&change["action"]),
            reason: text(&change["reason"]["code"]),
            fields: change["fields"].as_array().unwrap().clone(),
        };
        let step = |step: &Value| StepFacts { step: text(&step["step"]), id: text(&step["id"]) };
        Self {
            generation: plan["generation"].as_u64().unwrap(),
            changes: list("changes").map(change).collect(),
            steps: list("steps").map(step).collect(),
            conflicts: list("conflicts").map(|conflict| text(&conflict["code"])).collect(),
            warnings: list("warnings").map(|warning| text(&warning["code"])).collect(),
            summary: serde_json::from_value(plan["summary"].clone()).unwrap(),
        }
    }
}

fn write_secret(directory: &Path, name: &str, text: &str) {
    let path = directory.join(name);
    fs::write(&path, text).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
}

/// The plan of the program for a case.
fn planned(case: &PlanCase) -> Value {
    let directory = tempfile::tempdir().unwrap();
    let at = directory.path();
    fs::write(at.join("mesh.toml"), &case.mesh_toml).unwrap();
    case.secrets.iter().for_each(|(name, digits)| write_secret(at, name, digits));
    let live = case.live.as_ref().map_or("empty", |live| {
        fs::write(at.join("live.json"), live.to_string()).unwrap();
        "live.json"
    });
    let mut meshsec = Command::new(env!("CARGO_BIN_EXE_meshsec"));
    meshsec.args(["-c", "mesh.toml", "--local", &case.local, "--format", "json"]);
    let output = meshsec.args(["plan", "--live", live]).current_dir(at).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.stdout.is_empty(), "{}: {said}", case.name);
    serde_json::from_slice(&output.stdout).unwrap()
}

/// `UPDATE_GOLDEN=1` writes the plans anew, and leaves the rest of each case.
#[test]
fn plans_are_those_of_the_testkit() {
    let mut plans: Vec<PlanCase> = cases("plan");
    for case in &mut plans {
        if let Some(live) = &case.live {
            crate::schema::assert_valid("snapshot", live);
        }
        case.plan = PlanFacts::of(&planned(case));
    }
    let document = Document { format_version: FORMAT_VERSION.into(), cases: plans };
    let text = serde_json::to_string_pretty(&document).unwrap() + "\n";
    common::compare("docs/testkit/plan.json", &text);
}

/// The second implementation needs nothing but Python, so that it can be read beside the README.
#[test]
fn a_second_implementation_agrees_with_the_testkit() {
    let output = Command::new("python3").arg(path("check.py")).output();
    let output = output.unwrap_or_else(|error| panic!("this test needs python3: {error}"));
    let said = [&output.stdout[..], &output.stderr].map(String::from_utf8_lossy).concat();
    assert!(output.status.success(), "{said}");
    for name in ["key-schedule", "spi", "fingerprint", "ratchet", "plan"] {
        assert!(said.contains(&format!("{name}.json: ")), "{said}");
        assert!(!said.contains(&format!("{name}.json: 0 ")), "{said}");
    }
}

/// It does not agree with everything.
#[test]
fn a_second_implementation_disagrees_with_a_wrong_case() {
    let directory = tempfile::tempdir().unwrap();
    for file in fs::read_dir(path("")).unwrap().flatten() {
        fs::copy(file.path(), directory.path().join(file.file_name())).unwrap();
    }
    let check = || {
        let output = Command::new("python3").arg(directory.path().join("check.py")).output();
        let output = output.unwrap_or_else(|error| panic!("this test needs python3: {error}"));
        (output.status.success(), String::from_utf8(output.stdout).unwrap())
    };
    assert!(check().0);
    for (name, from, to) in [
        ("key-schedule", "\"keymat\": \"2", "\"keymat\": \"3"),
        ("spi", "0x84001002", "0x84001003"),
        ("fingerprint", "sha256:", "sha256:0"),
        ("ratchet", "\"ck\": \"", "\"ck\": \"00"),
        ("plan", "proto esp spi 0x8", "proto esp spi 0x9"),
    ] {
        let file = directory.path().join(format!("{name}.json"));
        let good = fs::read_to_string(&file).unwrap();
        assert!(good.contains(from), "{name}");
        fs::write(&file, good.replacen(from, to, 1)).unwrap();
        let (agrees, said) = check();
        assert!(!agrees && said.contains(&format!("{name}.json, case")), "{name}: {said}");
        fs::write(&file, good).unwrap();
    }
}
