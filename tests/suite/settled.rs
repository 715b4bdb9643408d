//! `settled` and `rotate --seen`: the evidence of snapshots, taken from hosts in memory.

use std::{
    fs,
    net::IpAddr,
    path::PathBuf,
    process::{Command, Output},
    time::{SystemTime, UNIX_EPOCH},
};

use meshsec::{
    config::Config,
    kernel::memory::Memory,
    model::{Action, Direction, Stage, State, Time},
    render::{FORMAT_VERSION, JsonSnapshot},
};
use serde_json::Value;

use crate::common::{applied, host, mesh, observe};
use crate::schema::assert_valid;

const LAB: [&str; 3] = ["192.0.2.1", "192.0.2.2", "192.0.2.3"];
const NAMES: [&str; 3] = ["a", "b", "c"];
const A: usize = 0;
const B: usize = 1;
const C: usize = 2;

/// Three hosts at generation 7 since ten minutes, and a file in a directory of its own.
struct Lab {
    directory: tempfile::TempDir,
    config: Config,
    hosts: Vec<Memory>,
    now: u64,
    /// Whether kernels tell when SAs were used.
    tells: bool,
}

impl Lab {
    fn new() -> Self {
        Self::of(mesh(7, &LAB), "")
    }

    /// A mesh, and the lines of its file beside those of all.
    fn of(config: Config, lines: &str) -> Self {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
        let hosts = (0..LAB.len()).map(|place| host(&rotated(&config, place))).collect();
        let directory = tempfile::tempdir().unwrap();
        let mut lab = Self { directory, config, hosts, now, tells: true };
        fs::write(lab.file(), text(7, lines)).unwrap();
        for generation in [6, 7] {
            (0..LAB.len()).for_each(|place| lab.apply(place, generation, 1200 - generation * 100));
        }
        lab
    }

    fn file(&self) -> PathBuf {
        self.directory.path().join("mesh.toml")
    }

    /// A host applies a generation, so many seconds ago.
    fn apply(&mut self, place: usize, generation: u64, ago: u64) {
        let mut config = rotated(&self.config, place);
        config.rotation = mesh(generation, &LAB).rotation;
        self.hosts[place].set_now(Time::from_seconds(self.now - ago));
        assert!(applied(&config, &mut self.hosts[place]).is_complete());
    }

    /// A packet came from one host to another under a generation, so many seconds ago.
    fn came(&mut self, from: usize, to: usize, generation: u8, ago: u64) {
        let [src, dst] = [from, to].map(|place| LAB[place].parse::<IpAddr>().unwrap());
        let state = self.hosts[to].state_mut();
        let is_it = |sa: &&meshsec::model::Sa| {
            (sa.src, sa.id.dst, sa.id.spi.generation_low()) == (src, dst, generation)
        };
        let id = state.sas.iter().find(is_it).expect("there is such an SA").id;
        let usage = state.usage.iter_mut().find(|usage| usage.id == id).unwrap();
        usage.packets += 1;
        usage.last = self.tells.then_some(Time::from_seconds(self.now - ago));
    }

    /// A snapshot of a host from so many seconds ago, in a file of this name.
    fn snapshot(&mut self, place: usize, name: &str, ago: u64) {
        let state = observe(&mut self.hosts[place]).0;
        self.write(name, self.now - ago, "lab", Some(NAMES[place]), state);
    }

    fn write(&self, name: &str, taken: u64, mesh: &str, local: Option<&str>, state: State) {
        let snapshot = JsonSnapshot {
            format_version: FORMAT_VERSION.into(),
            taken,
            mesh: mesh.into(),
            local: local.map(Into::into),
            state,
        };
        let text = serde_json::to_vec(&snapshot).unwrap();
        fs::write(self.directory.path().join(name), text).unwrap();
    }

    fn run(&self, words: &str) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_meshsec"));
        command.current_dir(self.directory.path()).args(["-c", "mesh.toml"]);
        command.args(words.split_whitespace()).output().unwrap()
    }

    /// The output of a run that ends with this status, in one line.
    #[track_caller]
    fn says(&self, status: i32, words: &str) -> String {
        let output = self.run(words);
        let said = [&output.stdout[..], &output.stderr].map(String::from_utf8_lossy).concat();
        assert_eq!(output.status.code(), Some(status), "{said}");
        said.split_whitespace().collect::<Vec<_>>().join(" ")
    }

    #[track_caller]
    fn doubts(&self, words: &str) -> Vec<(String, String)> {
        let output = self.run(&format!("{words} --format json"));
        assert_eq!(output.status.code(), Some(2));
        let json: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_valid("settled", &json);
        assert_eq!(json["settled"], false);
        let word = |doubt: &Value, name: &str| doubt[name].as_str().unwrap().to_owned();
        let doubts = json["doubts"].as_array().unwrap().iter();
        doubts.map(|doubt| (word(doubt, "host"), word(doubt, "code"))).collect()
    }

    fn text(&self) -> String {
        fs::read_to_string(self.file()).unwrap()
    }
}

/// The mesh with a host's own peer first.
fn rotated(config: &Config, place: usize) -> Config {
    let mut config = config.clone();
    config.peers.rotate_left(place);
    config
}

fn text(generation: u64, lines: &str) -> String {
    let peers: String = NAMES
        .iter()
        .zip(LAB)
        .zip(1..)
        .map(|((name, address), id)| {
            format!("[[peer]]\nname = \"{name}\"\nshort_id = {id}\naddress = \"{address}\"\n")
        })
        .collect();
    format!(
        "[mesh]\nname = \"lab\"\nreqid = 0x4d530001\n{lines}\n[keys]\nmesh_key = {{ file = \"no.key\" }}\n\
         [rotation]\ngeneration = {generation}\n{peers}"
    )
}

fn doubt(host: &str, code: &str) -> (String, String) {
    (host.into(), code.into())
}

#[test]
fn a_host_that_has_not_applied_is_named_and_the_file_stays() {
    let mut lab = Lab::new();
    lab.apply(C, 6, 400);
    lab.came(B, A, 7, 100);
    lab.snapshot(A, "a.json", 1);
    let said = lab.says(2, "settled --seen a.json");
    assert!(said.starts_with("Mesh lab: generation 7 is not settled 2 of 3 hosts"), "{said}");
    assert!(said.contains("c: not heard under generation 7 since it was applied by a"), "{said}");
    assert!(said.contains("Evidence of a: a.json, taken"), "{said}");
    lab.snapshot(C, "c.json", 1);
    let said = lab.says(2, "rotate --seen a.json c.json");
    let missing = "c: has not applied generation 7: SAs or policies with a, b are missing";
    assert!(said.contains(missing), "{said}");
    assert_eq!(lab.text(), text(7, ""), "nothing was raised");
    assert_eq!(lab.doubts("rotate --seen a.json c.json"), [doubt("c", "not_applied")]);

    lab.apply(C, 7, 90);
    lab.came(C, A, 7, 80);
    lab.snapshot(A, "a.json", 1);
    let said = lab.says(0, "settled --seen a.json");
    assert!(said.contains("settled 3 of 3 hosts are known to have applied it"), "{said}");
    let said = lab.says(0, "rotate --seen a.json");
    assert!(said.contains("generation 7 is now 8"), "{said}");
    assert_eq!(lab.text(), text(8, ""));
    let of_all = ["a", "b", "c"].map(|host| doubt(host, "not_applied")).to_vec();
    (A..=C).for_each(|place| lab.snapshot(place, &format!("{}.json", NAMES[place]), 1));
    assert_eq!(lab.doubts("rotate --seen a.json b.json c.json"), of_all, "nobody has 8");
    let said = lab.says(2, "settled --seen a.json");
    assert!(said.contains("b, c: not heard: no host with evidence and a pair with it"), "{said}");
}

#[test]
fn snapshots_of_all_hosts_need_no_traffic() {
    let mut lab = Lab::new();
    (A..=C).for_each(|place| lab.snapshot(place, &format!("{}.json", NAMES[place]), 1));
    let said = lab.says(0, "settled --seen a.json b.json c.json");
    assert!(said.contains("settled 3 of 3"), "{said}");
    let unheard = [doubt("b", "not_heard"), doubt("c", "not_heard")];
    assert_eq!(lab.doubts("settled --seen a.json"), unheard);
    let said = lab.says(2, "settled --seen a.json");
    assert!(
        said.contains("b, c: not heard") && said.contains("tells nothing: send some"),
        "{said}"
    );
}

#[test]
fn a_policy_that_was_not_switched_is_not_an_applied_generation() {
    let mut lab = Lab::new();
    (A..=C).for_each(|place| lab.snapshot(place, &format!("{}.json", NAMES[place]), 1));
    let mut state = observe(&mut lab.hosts[B]).0;
    let mut out = state
        .policies
        .iter_mut()
        .filter(|policy| policy.id.direction == Direction::Out && policy.action == Action::Allow);
    let template = &mut out.next().unwrap().templates[0];
    template.spi = meshsec::model::Spi::from_raw(template.spi.raw() ^ 1 << 26);
    lab.write("b.json", lab.now - 1, "lab", None, state);
    assert_eq!(lab.doubts("settled --seen a.json b.json c.json"), [doubt("b", "not_applied")]);
}

#[test]
fn packets_under_another_generation_are_a_doubt_for_the_given_time() {
    let mut lab = Lab::new();
    (A..=C).for_each(|place| lab.snapshot(place, &format!("{}.json", NAMES[place]), 1));
    lab.came(B, A, 6, 91);
    lab.snapshot(A, "a.json", 1);
    let all = "--seen a.json b.json c.json";
    lab.says(0, &format!("settled {all}"));
    let said = lab.says(2, &format!("settled {all} --for 5m"));
    assert!(
        said.contains("b: sent under generation 6, seen by a 1m 30s before its look"),
        "{said}"
    );
    lab.says(0, &format!("settled {all} --for 90s"));
    assert_eq!(lab.doubts(&format!("rotate {all} --for 91s")), [doubt("b", "other_generation")]);
    // A file that is not the newest.
    lab.came(C, A, 8, 20);
    lab.snapshot(A, "a.json", 1);
    let said = lab.says(2, &format!("settled {all}"));
    assert!(said.contains("c: sends under generation 8") && said.contains("newest?"), "{said}");
}

/// A packet from before the host has applied may be from the generation's first time.
#[test]
fn packets_from_before_the_apply_count_for_nothing() {
    let mut lab = Lab::new();
    lab.snapshot(C, "c.json", 1);
    lab.came(B, A, 7, 501);
    lab.snapshot(A, "a.json", 1);
    assert_eq!(lab.doubts("settled --seen a.json c.json"), [doubt("b", "not_heard")]);
    lab.came(B, A, 7, 499);
    lab.snapshot(A, "a.json", 1);
    lab.says(0, "settled --seen a.json c.json");
}

/// Before Linux 6.2.
#[test]
fn a_kernel_that_does_not_tell_is_said_and_two_snapshots_do() {
    let mut lab = Lab::new();
    lab.tells = false;
    lab.snapshot(C, "c.json", 1);
    lab.came(B, A, 7, 400);
    lab.came(B, A, 6, 550);
    lab.snapshot(A, "a1.json", 100);
    let untold = [doubt("b", "other_generation_untold"), doubt("b", "heard_untold")];
    assert_eq!(lab.doubts("settled --seen a1.json c.json"), untold);
    let said = lab.says(2, "settled --seen a1.json c.json");
    assert!(said.contains("the kernel of a does not tell when"), "{said}");
    assert!(said.contains("--wait") && said.contains("take two snapshots"), "{said}");
    lab.snapshot(A, "a2.json", 1);
    assert_eq!(lab.doubts("settled --seen a1.json a2.json c.json"), [doubt("b", "heard_untold")]);
    lab.came(B, A, 7, 50);
    lab.snapshot(A, "a2.json", 1);
    lab.says(0, "settled --seen a2.json c.json a1.json");
    lab.came(B, A, 6, 50);
    lab.snapshot(A, "a2.json", 1);
    let said = lab.doubts("settled --seen a1.json a2.json c.json");
    assert_eq!(said, [doubt("b", "other_generation")]);
}

#[test]
fn snapshots_that_do_not_count_are_named() {
    let mut lab = Lab::new();
    (A..=C).for_each(|place| lab.snapshot(place, &format!("{}.json", NAMES[place]), 1));
    let all = "settled --seen a.json b.json c.json";
    for (ago, why) in [
        (3700, "b: b.json, taken 1h 1m ago, which is more than 1h"),
        (500, "b: b.json, not taken after c has applied generation 7: take another one"),
    ] {
        lab.snapshot(B, "b.json", ago);
        let said = lab.says(2, all);
        assert!(said.contains(&format!("Does not count for {why}")), "{said}");
        assert!(said.contains("b: not heard"), "{said}");
    }
    let state = observe(&mut lab.hosts[B]).0;
    lab.write("b.json", lab.now + 300, "lab", None, state.clone());
    let said = lab.says(2, all);
    assert!(said.contains("from now: one of the clocks is wrong"), "{said}");
    let without = State { usage: Vec::new(), ..state };
    lab.write("b.json", lab.now - 1, "lab", None, without);
    let said = lab.says(2, all);
    assert!(said.contains("b.json, it has no counters of SAs"), "{said}");
}

#[test]
fn snapshots_of_no_host_of_the_mesh_are_refused_by_name() {
    let mut lab = Lab::new();
    let state = observe(&mut lab.hosts[B]).0;
    let nowhere = State { addresses: Vec::new(), ..state.clone() };
    let mut both = state.clone();
    both.addresses.extend(observe(&mut lab.hosts[A]).0.addresses);
    for (mesh, local, state, why) in [
        ("other", None, &state, "b.json: taken for mesh \"other\", not for lab"),
        ("lab", Some("x"), &state, "b.json: taken on \"x\", which the file lacks"),
        ("lab", None, &nowhere, "b.json: it has the address of no peer"),
        ("lab", None, &both, "b.json: it has the addresses of several peers (a ("),
    ] {
        lab.write("b.json", lab.now - 1, mesh, local, state.clone());
        for command in ["settled", "rotate"] {
            let said = lab.says(1, &format!("{command} --seen b.json"));
            assert!(said.contains(why), "{said}");
        }
    }
    // The name goes before the addresses, as where an address moves from host to host.
    lab.write("b.json", lab.now - 1, "lab", Some("b"), both);
    lab.says(2, "settled --seen b.json");
    assert_eq!(lab.text(), text(7, ""));
}

#[test]
fn hosts_that_do_not_send_encrypted_need_a_snapshot_of_their_own() {
    let config =
        Config { stage: Stage::Receive, guard: meshsec::config::Guard::Off, ..mesh(7, &LAB) };
    let mut lab = Lab::of(config, "stage = \"receive\"");
    (A..=C).for_each(|place| lab.snapshot(place, &format!("{}.json", NAMES[place]), 1));
    let clear = [doubt("b", "sends_clear"), doubt("c", "sends_clear")];
    assert_eq!(lab.doubts("settled --seen a.json"), clear);
    lab.says(0, "settled --seen a.json b.json c.json");
}

#[test]
fn hosts_without_a_pair_need_no_evidence_and_those_with_another_pair_do() {
    let mut lab = Lab::new();
    fs::write(lab.file(), text(7, "pairs = [[\"a\", \"b\"]]")).unwrap();
    lab.came(B, A, 7, 100);
    lab.snapshot(A, "a.json", 1);
    lab.says(0, "settled --seen a.json");
    fs::write(lab.file(), text(7, "pairs = [[\"a\", \"b\"], [\"b\", \"c\"]]")).unwrap();
    assert_eq!(lab.doubts("settled --seen a.json"), [doubt("c", "no_pair")]);
    lab.came(C, B, 7, 100);
    lab.snapshot(B, "b.json", 1);
    lab.says(0, "settled --seen a.json b.json");
}

#[test]
fn options_without_an_effect_are_refused() {
    let lab = Lab::new();
    for (words, why) in [
        ("rotate --for 5m", "add --here or --seen"),
        ("rotate --wait 5m", "add --here or --seen"),
        ("settled --seen a.json --wait 5m", "add --here"),
        ("rotate --seen a.json --wait 5m", "add --here"),
    ] {
        let said = lab.says(1, words);
        assert!(said.contains(why), "{words}: {said}");
    }
    assert_eq!(lab.text(), text(7, ""));
}
