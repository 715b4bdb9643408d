//! `plan --all`, `compare` and `explain`: the whole mesh on one machine, from hosts in memory.

use std::{
    fs,
    path::PathBuf,
    process::{Command, Output},
};

use meshsec::{
    agreement::{Ends, Row, difference, fit},
    config::{Config, Peer, Rotation},
    desired::{Desired, desired},
    kernel::memory::Memory,
    model::{Generation, KeyView, Level, Live, LocalAddress, State},
    plan::Plan,
    render::{FORMAT_VERSION, HostPlan, JsonSnapshot},
};
use serde_json::Value;

use crate::common::{applied, host, mesh};
use crate::schemas::assert_strict;

const LAB: [&str; 3] = ["192.0.2.1", "192.0.2.2", "192.0.2.3"];

/// A mesh's file, a folder of snapshots, and hosts in memory.
struct Lab {
    directory: tempfile::TempDir,
    config: Config,
    hosts: Vec<Memory>,
}

impl Lab {
    /// Three hosts at generation 7, with a file of the same.
    fn new() -> Self {
        let config = mesh(7, &LAB);
        let hosts = (0..LAB.len()).map(|place| host(&seen_from(&config, place))).collect();
        let mut lab = Self { directory: tempfile::tempdir().unwrap(), config, hosts };
        fs::create_dir(lab.at("hosts")).unwrap();
        lab.write(7, "");
        (0..LAB.len()).for_each(|place| lab.apply(place, 7));
        lab
    }

    fn at(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn write(&self, generation: u64, lines: &str) {
        let peers = LAB.iter().zip(["a", "b", "c"]).zip(1..).map(|((address, name), id)| {
            format!("[[peer]]\nname = \"{name}\"\nshort_id = {id}\naddress = \"{address}\"\n")
        });
        let peers: String = peers.collect();
        let text = format!(
            "[mesh]\nname = \"lab\"\nreqid = 0x4d530001\n[keys]\nmesh_key = {{ env = \"KEY\" }}\n\
             [rotation]\ngeneration = {generation}\n{lines}\n{peers}"
        );
        fs::write(self.at("mesh.toml"), text).unwrap();
    }

    /// A host applies a generation, and its snapshot is taken.
    fn apply(&mut self, place: usize, generation: u64) {
        let mut config = seen_from(&self.config, place);
        config.rotation = Rotation::Generation(Generation::new(generation).unwrap());
        assert!(applied(&config, &mut self.hosts[place]).is_complete());
        self.snapshot(place);
    }

    fn snapshot(&self, place: usize) {
        let snapshot = JsonSnapshot {
            format_version: FORMAT_VERSION.into(),
            taken: 1_900_000_000,
            mesh: "lab".into(),
            local: Some(["a", "b", "c"][place].into()),
            state: self.hosts[place].state().clone().sorted(),
        };
        let path = self.at(&format!("hosts/{}.json", ["a", "b", "c"][place]));
        fs::write(path, serde_json::to_vec(&snapshot).unwrap()).unwrap();
    }

    fn run(&self, words: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_meshsec"));
        command.current_dir(self.directory.path()).args(["-c", "mesh.toml"]).args(words);
        // Bytes 0 to 31, as the secrets of hosts in memory.
        let key: String = (0..32).map(|byte| format!("{byte:02x}")).collect();
        command.env("KEY", key).output().unwrap()
    }

    #[track_caller]
    fn says(&self, status: i32, words: &[&str]) -> String {
        let output = self.run(words);
        let text = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
        assert_eq!(output.status.code(), Some(status), "{words:?}: {text}");
        text
    }

    #[track_caller]
    fn json(&self, name: &str, status: i32, words: &[&str]) -> Value {
        let text = self.says(status, &[words, &["--format", "json"]].concat());
        let document = serde_json::from_str(&text).unwrap();
        assert_strict(name, &document);
        document
    }
}

/// The same mesh with another peer first, whose host tests apply it on.
fn seen_from(config: &Config, place: usize) -> Config {
    let mut config = config.clone();
    config.peers.swap(0, place);
    config
}

// plan --all.

#[test]
fn plan_all_has_a_line_for_each_host_and_says_that_pairs_agree() {
    let lab = Lab::new();
    let text = lab.says(0, &["plan", "--all"]);
    for name in ["a", "b", "c"] {
        assert!(text.contains(&format!("\n{name}  28 to create, 0 to update")), "{text}");
    }
    assert!(text.contains("both ends of all 3 agree"), "{text}");
    assert!(
        text.ends_with("Plans: 3 hosts, 84 to create, 0 to update, 0 to replace, 0 to delete.\n")
    );
    lab.says(2, &["plan", "--all", "--detailed-exitcode"]);
    let document = lab.json("plan-all", 0, &["plan", "--all"]);
    assert_eq!(document["pairs"]["compared"], 3);
    assert_eq!(document["summary"]["create"], 84);
}

#[test]
fn plan_all_compares_each_host_with_its_snapshot_wherever_the_file_is_named() {
    let mut lab = Lab::new();
    fs::rename(lab.at("hosts/a.json"), lab.at("hosts/z.json")).unwrap();
    fs::write(lab.at("hosts/notes.txt"), "a note").unwrap();
    // Reading a pipe would wait for a writer.
    let pipe = lab.at("hosts/pipe.json");
    assert!(Command::new("mkfifo").arg(pipe).status().unwrap().success());
    let words = ["plan", "--all", "--live", "hosts", "--detailed-exitcode"];
    let text = lab.says(0, &words);
    assert!(text.contains("\na  no changes (z.json)\n"), "{text}");
    assert!(text.contains("Not looked at: 2 entries of the folder"), "{text}");
    lab.apply(1, 8);
    lab.says(2, &words);
    fs::remove_file(lab.at("hosts/c.json")).unwrap();
    let document = lab.json("plan-all", 1, &words);
    assert_eq!(document["missing"], serde_json::json!(["c"]));
    assert_eq!(document["hosts"][1]["snapshot"], "b.json");
    assert_ne!(document["hosts"][1]["delete"], 0);
}

/// Policies of exceptions have a mark of their direction, which is no part of what passes.
#[test]
fn plan_all_says_that_pairs_with_exceptions_agree() {
    let lab = Lab::new();
    let lines = "[traffic]\nkind = \"all\"\n[[except]]\nicmp = true\n[[except]]\n\
                 protocol = \"tcp\"\nport = 22\nserves = [\"a\"]\n";
    lab.write(7, lines);
    let text = lab.says(0, &["plan", "--all"]);
    assert!(text.contains("both ends of all 3 agree"), "{text}");
}

#[test]
fn plan_all_refuses_options_and_folders_that_make_no_sense() {
    let lab = Lab::new();
    let refused = |words: &[&str], reason: &str| {
        let text = lab.says(1, &[&["plan", "--all"], words].concat());
        assert!(text.contains(reason), "{text}");
    };
    refused(&["--live", "kernel"], "--live kernel is this one");
    refused(&["--local", "a"], "--local names one");
    refused(&["--live", "mesh.toml"], "--all takes a folder of snapshots");
    refused(&["--live", "absent"], "No such file");
    fs::create_dir(lab.at("empty-folder")).unwrap();
    refused(&["--live", "empty-folder"], "no file in it ends with .json");
    fs::copy(lab.at("hosts/a.json"), lab.at("hosts/a-again.json")).unwrap();
    refused(&["--live", "hosts"], "it is of a, as \"a-again.json\" is: keep one of them");
    fs::write(lab.at("hosts/a-again.json"), "{}\u{1b}[2J").unwrap();
    refused(&["--live", "hosts"], "not a snapshot of meshsec");
    assert_eq!(lab.run(&["plan", "--all", "--out", "x"]).status.code(), Some(1));
}

fn wanted(config: &Config, peer: &Peer) -> Desired {
    desired(config, config.rotation.at(Default::default()), peer, None).0
}

/// Both ends of all pairs, after one host's objects were changed.
fn unfit(config: &Config, change: &dyn Fn(&mut Desired)) -> Vec<(usize, usize)> {
    let now = config.rotation.at(Default::default()).generation;
    let mut hosts: Vec<Desired> = config.peers.iter().map(|peer| wanted(config, peer)).collect();
    change(&mut hosts[1]);
    let ends: Vec<_> = config.peers.iter().zip(&hosts).collect();
    let mut unfit = Vec::new();
    for (place, one) in ends.iter().enumerate() {
        for (behind, other) in ends.iter().enumerate().skip(place + 1) {
            let [out, back] = fit(config, *one, *other, now).unwrap();
            unfit.extend((!out).then_some((place, behind)));
            unfit.extend((!back).then_some((behind, place)));
        }
    }
    unfit
}

/// Each part of an object that the other end depends on.
#[test]
fn ends_that_do_not_agree_are_found() {
    let config = mesh(7, &LAB);
    assert_eq!(unfit(&config, &|_| {}), []);
    let all = [(0, 1), (1, 0), (1, 2), (2, 1)];
    let found = |change: &dyn Fn(&mut Desired)| {
        let mut found = unfit(&config, change);
        found.sort_unstable();
        found
    };
    let fingerprint = meshsec::model::Fingerprint::of(b"another");
    assert_eq!(
        found(&|desired| desired.sas.values_mut().for_each(|wanted| {
            wanted.sa.key = KeyView::Known(fingerprint);
        })),
        all
    );
    assert_eq!(
        found(&|desired| desired.sas.values_mut().for_each(|wanted| wanted.sa.replay.esn = true)),
        all
    );
    assert_eq!(found(&|desired| desired.sas.clear()), all);
    assert_eq!(found(&|desired| desired.policies.clear()), all);
    let use_level = |desired: &mut Desired| {
        for wanted in desired.policies.values_mut() {
            wanted.policy.templates.iter_mut().for_each(|template| template.level = Level::Use);
        }
    };
    // Whoever takes clear text too takes what the other sends.
    assert_eq!(found(&use_level), []);
    let sends_nothing = |desired: &mut Desired| {
        desired.policies.retain(|id, _| id.direction != meshsec::model::Direction::Out);
    };
    assert_eq!(found(&sends_nothing), [(1, 0), (1, 2)]);
    let [a, b] = [0, 1].map(|place| &config.peers[place]);
    let mut silent = wanted(&config, b);
    sends_nothing(&mut silent);
    let now = config.rotation.at(Default::default()).generation;
    let words = difference(&config, (b, &silent), (a, &wanted(&config, a)), now);
    assert_eq!(words.to_string(), "from b to a: it is sent in the clear, and refused there");
}

/// What a large mesh's numbers stand on.
#[test]
fn an_empty_host_creates_all_that_is_wanted() {
    let generation = Generation::new(7).unwrap();
    for addresses in [LAB, ["2001:db8::1", "2001:db8::2", "2001:db8::3"]] {
        let config = mesh(7, &addresses);
        let moment = config.rotation.at(Default::default());
        let mut ends = Ends::new(config.peers.len());
        (0..config.peers.len()).for_each(|place| ends.add(Row::of(&config, moment, place)));
        assert_eq!((ends.pairs, ends.unfit), (3, 0));
        for (place, peer) in config.peers.iter().enumerate() {
            let here = LocalAddress { address: peer.address, device: "?".into() };
            let state = State { addresses: vec![here], ..State::default() };
            let plan = Plan::new(&wanted(&config, peer), &Live(state), config.reqid);
            let objects = ends.objects(&config, moment, place);
            let counted = HostPlan::of_empty(&peer.name, objects, generation);
            assert_eq!(counted.create, HostPlan::of(&peer.name, &plan, generation, None).create);
        }
    }
}

// compare.

#[test]
fn compare_says_that_nothing_differs_and_what_does() {
    let mut lab = Lab::new();
    let words = ["compare", "hosts/b.json", "--live", "hosts/a.json"];
    let text = lab.says(0, &words);
    assert!(text.contains("from a to b: arrive encrypted under SPI 0x9c001002"), "{text}");
    assert!(text.ends_with("Nothing differs between a and b.\n"), "{text}");
    // One generation apart nothing is lost, two apart all is.
    lab.apply(1, 8);
    let document = lab.json("compare", 0, &words);
    assert_eq!(document["findings"][0]["code"], "generation");
    assert_eq!(document["findings"][0]["near"], "7");
    assert_eq!(document["findings"][0]["far"], "8");
    lab.apply(1, 9);
    let document = lab.json("compare", 2, &words);
    assert_eq!(document["ways"][0]["fate"], "no-sa");
    assert_eq!(document["ways"][1]["arrives"], false);
}

#[test]
fn compare_names_keys_and_ciphers_that_differ() {
    let mut lab = Lab::new();
    let words = ["compare", "hosts/b.json", "--live", "hosts/a.json"];
    let other = meshsec::model::Fingerprint::of(b"another");
    for sa in &mut lab.hosts[1].state_mut().sas {
        sa.key = KeyView::Known(other);
    }
    lab.snapshot(1);
    let text = lab.says(2, &words);
    assert!(text.contains("lost: the SAs of SPI 0x9c001002 differ in key"), "{text}");
    assert!(text.contains(&format!("b  {other} under SPI 0x9c001002")), "{text}");
    for sa in &mut lab.hosts[1].state_mut().sas {
        sa.key = KeyView::Unknown;
        sa.algorithm = meshsec::model::Cipher::Aes128Gcm.algorithm();
    }
    lab.snapshot(1);
    let document = lab.json("compare", 2, &words);
    let findings = document["findings"].as_array().unwrap();
    let codes: Vec<&str> = findings.iter().map(|found| found["code"].as_str().unwrap()).collect();
    assert!(codes.contains(&"cipher") && codes.contains(&"key-unknown"), "{codes:?}");
    assert!(!codes.contains(&"key"), "{codes:?}");
}

#[test]
fn compare_refuses_what_is_no_pair() {
    let lab = Lab::new();
    let same = lab.says(1, &["compare", "hosts/a.json", "--live", "hosts/a.json"]);
    assert!(same.contains("both are of a"), "{same}");
    assert!(lab.says(1, &["compare"]).contains("name the other host's snapshot"));
    assert!(
        lab.says(1, &["compare", "absent.json", "--live", "hosts/a.json"]).contains("absent.json")
    );
    lab.write(7, "[traffic]\nkind = \"all\"");
    let text = fs::read_to_string(lab.at("mesh.toml")).unwrap();
    let text = text.replace("reqid =", "pairs = [[\"a\", \"c\"], [\"b\", \"c\"]]\nreqid =");
    fs::write(lab.at("mesh.toml"), text).unwrap();
    let none = lab.says(1, &["compare", "hosts/b.json", "--live", "hosts/a.json"]);
    assert!(none.contains("a and b form no pair in this file"), "{none}");
}

#[test]
fn a_rollout_of_the_next_generation_cuts_no_pair_and_one_of_a_cipher_does() {
    let lab = Lab::new();
    lab.write(8, "");
    let document = lab.json("rollout", 0, &["compare", "--all", "hosts"]);
    assert_eq!((&document["pairs"], &document["any_order"]), (&3.into(), &true.into()));
    let text = lab.says(0, &["compare", "--all", "hosts"]);
    assert!(text.ends_with("Rollout: in any order, no pair is cut on the way.\n"), "{text}");
    lab.write(7, "[esp]\ncipher = \"chacha20-poly1305\"");
    let document = lab.json("rollout", 2, &["compare", "--all", "hosts"]);
    assert_eq!(document["order"], Value::Null);
    assert_eq!(document["losses"][0]["at"], "sender-first");
    assert_eq!(document["losses"][0]["fate"], "sa-differs");
    let text = lab.says(2, &["compare", "--all", "hosts"]);
    assert!(text.ends_with("Rollout: each order of hosts cuts some pair on the way.\n"), "{text}");
}

/// A host that is two generations behind has to come before those that are to go on.
#[test]
fn the_order_of_a_rollout_puts_the_host_that_is_behind_first() {
    let mut lab = Lab::new();
    lab.apply(0, 8);
    lab.apply(2, 8);
    lab.write(9, "");
    let document = lab.json("rollout", 0, &["compare", "--all", "hosts"]);
    assert_eq!(document["order"], serde_json::json!(["b", "a", "c"]));
    assert_eq!(document["any_order"], false);
    fs::remove_file(lab.at("hosts/c.json")).unwrap();
    let text = lab.says(2, &["compare", "--all", "hosts"]);
    assert!(text.contains("c: no snapshot in the folder"), "{text}");
    assert!(text.contains("no pair of hosts that have a snapshot is cut"), "{text}");
}

// explain.

const TO_B: &str = "udp 192.0.2.1:49152 > 192.0.2.2:4789";

#[test]
fn explain_tells_the_way_of_a_packet_and_what_flushes_make_of_it() {
    let lab = Lab::new();
    let explain = |packet: &str, more: &[&str]| {
        lab.says(0, &[&["explain", packet, "--live", "hosts/a.json"], more].concat())
    };
    let text = explain(TO_B, &[]);
    assert!(text.contains("(mesh lab, peer b; asks for SAs)"), "{text}");
    assert!(text.contains("it ranks behind 1000"), "{text}");
    assert!(text.ends_with("\nVerdict: encrypted under SPI 0x9c001002\n"), "{text}");
    let verdict =
        |packet: &str, more: &[&str]| explain(packet, more).lines().last().unwrap().to_owned();
    assert_eq!(verdict(TO_B, &["--after-flush", "sas"]), "Verdict: blocked");
    assert_eq!(verdict(TO_B, &["--after-flush", "policies"]), "Verdict: blocked");
    let both = ["--after-flush", "policies", "--after-flush", "iptables"];
    assert_eq!(verdict(TO_B, &both), "Verdict: in the clear");
    assert_eq!(verdict("tcp 192.0.2.1 > 192.0.2.2:22", &[]), "Verdict: in the clear");
    assert_eq!(verdict("udp 192.0.2.1 > 198.51.100.1:4789", &[]), "Verdict: blocked");
    assert_eq!(verdict("udp 192.0.2.2 > 192.0.2.1:4789", &[]), "Verdict: refused");
    assert_eq!(
        verdict("udp 192.0.2.2 > 192.0.2.1:4789 under 0x9c002001", &[]),
        "Verdict: accepted"
    );
    // Another peer's SA, and one that is not there.
    assert_eq!(verdict("udp 192.0.2.2 > 192.0.2.1:4789 under 0x9c003001", &[]), "Verdict: refused");
    assert_eq!(verdict("udp 192.0.2.2 > 192.0.2.1:4789 under 0x84002001", &[]), "Verdict: refused");
    assert_eq!(verdict("udp 192.0.2.2 > 198.51.100.1:4789", &[]), "Verdict: accepted");
}

#[test]
fn explain_goes_through_the_plan_step_by_step() {
    let lab = Lab::new();
    let after = |more: &[&str]| {
        let words = ["--local", "a", "explain", TO_B, "--live", "empty", "--format", "json"];
        let text = lab.says(0, &[&words, more].concat());
        let document: Value = serde_json::from_str(&text).unwrap();
        assert_strict("explain", &document);
        document["verdicts"][0]["verdict"].as_str().unwrap().to_owned()
    };
    assert_eq!(after(&[]), "clear");
    assert_eq!(after(&["--after-step", "0"]), "clear");
    assert_eq!(after(&["--after-plan"]), "encrypted");
    // Once it is blocked it is never in the clear again.
    let fates: Vec<String> =
        (0..=28).map(|step| after(&["--after-step", &step.to_string()])).collect();
    let blocked = fates.iter().position(|fate| fate == "blocked").unwrap();
    assert!(!fates[blocked..].contains(&"clear".into()), "{fates:?}");
    let words = ["--local", "a", "explain", TO_B, "--live", "empty", "--after-step", "29"];
    assert!(lab.says(1, &words).contains("the plan has 28 steps"));
}

#[test]
fn explain_refuses_what_is_no_packet() {
    let lab = Lab::new();
    let refused = |packet: &str, more: &[&str], reason: &str| {
        let text = lab.says(1, &[&["explain", packet, "--live", "hosts/a.json"], more].concat());
        assert!(text.contains(reason), "{text}");
    };
    refused("udp 192.0.2.1", &[], "like: 'udp 192.0.2.1 > 192.0.2.2:4789'");
    refused("\u{1b}[2J\n", &[], "is no protocol");
    refused(&format!("{TO_B} under 0x84001002"), &["--direction", "out"], "leave it out");
}
