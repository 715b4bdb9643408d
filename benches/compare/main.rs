//! meshsec beside other programs that do the same work, or the part of it that can't be left out.
//!
//! `cargo xtask bench` runs it, natively and in a virtual machine, and docs/benchmarks.md explains
//! its table. Both sides of a ratio are measured in turns in one run, so that other work of the
//! machine meets both alike, and each is a median. Times are of whole processes, start included.
//! Needs root, network namespaces and ESP, apart from its native part.

mod charon;
mod chart;
mod floor;
mod mesh;
mod packets;
mod pluto;
mod storm;

use std::{
    env, fs,
    hint::black_box,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use meshsec::kernel::linux::netns;

use mesh::{Host, Keys, Mesh, ends_with, peak, succeeds};

fn main() {
    let words: Vec<String> = env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match words[..] {
        ["native", meshsec] => native(&Bench::new(meshsec)),
        ["kernel", meshsec] => kernel(&Bench::new(meshsec)),
        ["keys", peers] => floor::keys(number(peers), |key| {
            black_box(key);
        }),
        ["keys-of-pairs", peers] => floor::keys_of_pairs(number(peers)),
        ["read", host, peers] => {
            netns::enter(host).expect("a namespace");
            floor::read_all();
            floor::keys(number(peers), |key| {
                black_box(key);
            });
        }
        ["send", host, file] => {
            netns::enter(host).expect("a namespace");
            floor::send(Path::new(file));
        }
        _ => println!("run by `cargo xtask bench`"),
    }
}

fn number(text: &str) -> u16 {
    text.parse().expect("a number")
}

/// The parts of a run on a kernel; "storm" is the other one, and takes long.
const PARTS: &str = "few,foreign,generations,many,packets";

/// The programs and the sizes of a run.
struct Bench {
    meshsec: PathBuf,
    own: PathBuf,
    directory: PathBuf,
    peers: u16,
    rounds: usize,
    foreign: Vec<u32>,
    parts: Vec<String>,
    hosts: Vec<usize>,
    /// When strongSwan and libreswan make SAs: "start", at once, or "trap", for the first packet.
    actions: Vec<String>,
    /// The longest time of one start of many hosts.
    limit: Duration,
}

impl Bench {
    fn new(meshsec: &str) -> Self {
        let set = |name: &str, or: &str| env::var(name).unwrap_or_else(|_| or.into());
        let directory = env::temp_dir().join(format!("meshsec-bench-{}", std::process::id()));
        fs::create_dir_all(&directory).expect("a directory can be made");
        let foreign = set("MESHSEC_BENCH_FOREIGN", "20000,100000");
        Self {
            meshsec: meshsec.into(),
            own: env::current_exe().expect("this program has a path"),
            directory,
            peers: number(&set("MESHSEC_BENCH_PEERS", "4095")),
            rounds: number(&set("MESHSEC_BENCH_ROUNDS", "5")).into(),
            foreign: foreign.split(',').map(|count| count.parse().expect("a number")).collect(),
            parts: set("MESHSEC_BENCH_PARTS", PARTS).split(',').map(String::from).collect(),
            hosts: set("MESHSEC_BENCH_HOSTS", "10,20")
                .split(',')
                .map(|count| count.parse().expect("a number"))
                .collect(),
            actions: set("MESHSEC_BENCH_ACTIONS", "start,trap")
                .split(',')
                .map(String::from)
                .collect(),
            limit: Duration::from_secs(number(&set("MESHSEC_BENCH_LIMIT", "900")).into()),
        }
    }

    fn has(&self, part: &str) -> bool {
        self.parts.iter().any(|named| named == part)
    }

    fn mesh(&self, name: &str, peers: u16, keys: Keys) -> Mesh {
        Mesh::new(&self.directory.join(name), peers, keys, false)
    }

    /// This program in another part.
    fn own(&self, words: &[&str]) -> Command {
        let mut command = Command::new(&self.own);
        command.args(words);
        command
    }

    fn plan(&self, mesh: &Mesh, host: &Host) -> Command {
        mesh.command(&self.meshsec, &["--netns", &host.0, "plan", "--detailed-exitcode"])
    }

    fn apply(&self, mesh: &Mesh, host: &Host) -> Command {
        mesh.command(&self.meshsec, &["--netns", &host.0, "apply", "--auto-approve"])
    }

    /// A file with these bytes.
    fn file(&self, name: &str, bytes: &[u8]) -> String {
        let path = self.directory.join(name);
        fs::write(&path, bytes).expect("a file can be written");
        path.to_str().expect("a temporary directory of plain letters").to_owned()
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.directory);
    }
}

/// The medians of some runs of each, in ms, all of them in turns.
fn medians<const N: usize>(rounds: usize, mut sides: [&mut dyn FnMut(); N]) -> [f64; N] {
    let mut times = [const { Vec::new() }; N];
    for _ in 0..rounds {
        for (side, times) in sides.iter_mut().zip(&mut times) {
            let begin = Instant::now();
            side();
            times.push(begin.elapsed().as_secs_f64() * 1e3);
        }
    }
    times.map(|mut times| {
        times.sort_by(f64::total_cmp);
        times[times.len() / 2]
    })
}

fn heading() {
    println!("| measured | ms | beside | ms | ratio | goal | |");
    println!("|---|---|---|---|---|---|---|");
}

/// A row of the table. A goal is the largest ratio.
fn row(measured: &str, time: f64, beside: &str, other: f64, goal: Option<f64>) {
    let ratio = time / other;
    let (goal, met) = match goal {
        Some(goal) if ratio <= goal => (format!("{goal:.2}"), "met"),
        Some(goal) => (format!("{goal:.2}"), "not met"),
        None => Default::default(),
    };
    println!("| {measured} | {time:.0} | {beside} | {other:.0} | {ratio:.2} | {goal} | {met} |");
}

/// The part without a kernel.
fn native(bench: &Bench) {
    let count = bench.peers.to_string();
    heading();
    for (keys, source, floor) in
        [(Keys::MeshKey, "mesh_key", "keys"), (Keys::PrivateKey, "private_key", "keys-of-pairs")]
    {
        let mesh = bench.mesh(source, bench.peers, keys);
        let words = ["--local", "p0", "plan", "--live", "empty"];
        let [plan, validate, bare] = medians(
            bench.rounds,
            [
                &mut || succeeds(&mut mesh.command(&bench.meshsec, &words)),
                &mut || succeeds(&mut mesh.command(&bench.meshsec, &["validate"])),
                &mut || succeeds(&mut bench.own(&[floor, &count])),
            ],
        );
        let what = format!("`plan --live empty`, {count} peers, `{source}`");
        row(&what, plan, "the same keys alone", bare, None);
        row(&what, plan, "`validate`", validate, None);
    }
    all_hosts(bench);
}

/// Plans for all hosts: four times as many pairs.
fn all_hosts(bench: &Bench) {
    let [half, whole] = [511, 1023].map(|peers| {
        // Both ends of each pair are worked out, and compared.
        let mesh = bench.mesh(&format!("all-{peers}"), peers, Keys::MeshKey);
        (mesh, usize::from(peers) + 1)
    });
    let all = |mesh: &Mesh| succeeds(&mut mesh.command(&bench.meshsec, &["plan", "--all"]));
    let [small, large] = medians(bench.rounds, [&mut || all(&half.0), &mut || all(&whole.0)]);
    let what = |hosts: usize| format!("`plan --all`, {hosts} hosts");
    row(&what(whole.1), large, &what(half.1), small, None);
}

fn kernel(bench: &Bench) {
    let mut memory = Vec::new();
    heading();
    if bench.has("few") || bench.has("foreign") {
        memory.extend(few(bench));
    }
    if bench.has("generations") {
        memory.extend(generations(bench));
    }
    if bench.has("many") {
        memory.extend(many(bench));
    }
    if !memory.is_empty() {
        println!("\n| peak memory of | MiB |\n|---|---|");
    }
    for (what, peak) in memory {
        println!("| {what} | {peak:.1} |");
    }
    if bench.has("packets") {
        packets::sends(bench);
    }
    if bench.has("storm") {
        storm::starts(bench, &bench.hosts);
    }
}

fn few(bench: &Bench) -> Vec<(String, f64)> {
    let few = bench.mesh("few", 3, Keys::MeshKey);
    let host = Host::new("few");
    succeeds(&mut bench.apply(&few, &host));
    if bench.has("few") {
        three_peers(bench, &few, &host);
    }
    let mut memory = vec![("`plan`, 3 peers".to_owned(), peak(&mut bench.plan(&few, &host)))];
    if bench.has("foreign") {
        memory.extend(foreign_sas(bench, &few));
    }
    host.remove();
    memory
}

fn many(bench: &Bench) -> Vec<(String, f64)> {
    let many = bench.mesh("many", bench.peers, Keys::MeshKey);
    let host = Host::new("many");
    let apply = peak(&mut bench.apply(&many, &host));
    nothing_to_do(bench, &many, &host);
    let plan = peak(&mut bench.plan(&many, &host));
    from_empty(bench, &many, &host);
    host.remove();
    vec![
        (format!("`plan`, {} peers, nothing to do", bench.peers), plan),
        (format!("`apply`, {} peers, from empty", bench.peers), apply),
    ]
}

/// Rows of a host with SAs of all generations that an SPI can tell: a quarter of them, and all.
fn generations(bench: &Bench) -> Vec<(String, f64)> {
    let (mut memory, mut before) = (Vec::new(), None);
    for peers in [248, 992] {
        let mesh = bench.mesh(&format!("generations-{peers}"), peers, Keys::MeshKey);
        let host = Host::new("generations");
        succeeds(&mut bench.apply(&mesh, &host));
        netns::enter(&host.0).expect("a namespace");
        let requests = bench.file("generations", &floor::generations([10, 1, 0, 1]));
        succeeds(&mut bench.own(&["send", &host.0, &requests]));
        let mut sas = 0;
        floor::dump(floor::NEW_SA, |_| sas += 1);
        let count = peers.to_string();
        let [plan, bare] = medians(
            bench.rounds.min(3),
            [&mut || ends_with(&mut bench.plan(&mesh, &host), 2), &mut || {
                succeeds(&mut bench.own(&["read", &host.0, &count]))
            }],
        );
        let what = format!("`plan`, {peers} peers, {sas} SAs of 32 generations");
        row(&what, plan, "a bare dump loop and the same keys alone", bare, None);
        if let Some(before) = before.replace(plan) {
            row(&what, plan, "`plan` with a quarter of that", before, None);
        }
        memory.push((what, peak(&mut bench.plan(&mesh, &host))));
        host.remove();
    }
    memory
}

fn three_peers(bench: &Bench, mesh: &Mesh, host: &Host) {
    let with_rules = Host::new("rules");
    succeeds(&mut bench.apply(mesh, &with_rules));
    let rules = bench.file("rules", foreign_rules().as_bytes());
    let restore = format!("iptables-restore --noflush < {rules}");
    succeeds(&mut with_rules.program(&["sh", "-c", &restore]));
    let save = ["sh", "-c", "iptables-save; ip6tables-save"];
    let mut plan = || ends_with(&mut bench.plan(mesh, host), 0);
    plan();
    let [few, dumps, rules, saved] = medians(
        bench.rounds,
        [
            &mut plan,
            &mut || host.dumps(),
            &mut || ends_with(&mut bench.plan(mesh, &with_rules), 0),
            &mut || succeeds(&mut with_rules.program(&save)),
        ],
    );
    row("`plan`, 3 peers, nothing to do", few, DUMPS, dumps, Some(2.0));
    let what = format!("the same with {RULES} foreign rules of iptables");
    row(&what, rules, "`plan` without them", few, None);
    row("the part of it that is due to them", rules - few, "`plan` with them", rules, None);
    row("the same part", rules - few, "`iptables-save; ip6tables-save`", saved, None);
    with_rules.remove();
}

const DUMPS: &str = "`ip xfrm state; ip xfrm policy`";
const RULES: u32 = 5000;

/// Half of them in the filter table, half of them translate addresses of containers.
fn foreign_rules() -> String {
    let rules = |table: &str, rule: &dyn Fn(u32) -> String| {
        let lines: String = (0..RULES / 2).map(rule).collect();
        format!("*{table}\n{lines}COMMIT\n")
    };
    let source = |number: u32| format!("-s 172.16.{}.{}", number >> 8, number & 255);
    let filter = |number| format!("-A FORWARD {} -p tcp --dport 80 -j ACCEPT\n", source(number));
    let nat = |number| format!("-A POSTROUTING {} -j MASQUERADE\n", source(number));
    rules("filter", &filter) + &rules("nat", &nat)
}

/// Rows of a host with many SAs of others, and its memory.
fn foreign_sas(bench: &Bench, mesh: &Mesh) -> Vec<(String, f64)> {
    let mut memory = Vec::new();
    for &count in &bench.foreign {
        let host = Host::new("foreign");
        succeeds(&mut bench.apply(mesh, &host));
        netns::enter(&host.0).expect("a namespace");
        let requests = bench.file("foreign", &floor::foreign(count));
        succeeds(&mut bench.own(&["send", &host.0, &requests]));
        let [plan, bare] = medians(
            bench.rounds.min(3),
            [&mut || ends_with(&mut bench.plan(mesh, &host), 0), &mut || {
                succeeds(&mut bench.own(&["read", &host.0, "3"]))
            }],
        );
        let what = format!("`plan`, 3 peers and {count} foreign SAs");
        row(&what, plan, "a bare dump loop and the same keys alone", bare, None);
        memory.push((what, peak(&mut bench.plan(mesh, &host))));
        host.remove();
    }
    memory
}

fn nothing_to_do(bench: &Bench, mesh: &Mesh, host: &Host) {
    let count = bench.peers.to_string();
    netns::enter(&host.0).expect("a namespace");
    let mut dump = Vec::new();
    floor::dump(floor::NEW_SA, |payload| dump.extend_from_slice(payload));
    let (mut number, mut found) = (0, 0);
    floor::keys(bench.peers, |key| {
        number += 1;
        // A search of all of the dump for each key would take minutes.
        if number % 4000 == 1 {
            found += usize::from(!dump.windows(36).any(|bytes| bytes == key));
        }
    });
    assert_eq!(found, 0, "the keys that are derived alone are those of the kernel's SAs");
    drop(dump);

    let moved = Mesh::new(&bench.directory.join("moved"), bench.peers, Keys::MeshKey, true);
    let mut read = || succeeds(&mut bench.own(&["read", &host.0, &count]));
    read();
    let [plan, changed, dumps, bare] = medians(
        bench.rounds,
        [
            &mut || ends_with(&mut bench.plan(mesh, host), 0),
            &mut || ends_with(&mut bench.plan(&moved, host), 2),
            &mut || host.dumps(),
            &mut read,
        ],
    );
    let what = format!("`plan`, {count} peers, nothing to do");
    row(&what, plan, DUMPS, dumps, Some(0.5));
    row(&what, plan, "a bare dump loop and the same keys alone", bare, Some(2.0));
    let what = format!("`plan`, {count} peers, one has changed");
    row(&what, changed, "`plan`, nothing to do", plan, Some(1.05));
}

fn from_empty(bench: &Bench, mesh: &Mesh, full: &Host) {
    netns::enter(&full.0).expect("a namespace");
    let requests = bench.file("requests", &floor::requests());
    let batch = bench.file("batch", full.batch().as_bytes());
    let on_a_fresh_host = |run: &dyn Fn(&Host) -> Command| {
        let host = Host::new("empty");
        let begin = Instant::now();
        succeeds(&mut run(&host));
        let time = begin.elapsed().as_secs_f64() * 1e3;
        host.remove();
        time
    };
    let mut times = [const { Vec::new() }; 3];
    for _ in 0..bench.rounds.min(3) {
        times[0].push(on_a_fresh_host(&|host| bench.apply(mesh, host)));
        times[1].push(on_a_fresh_host(&|host| {
            let mut ip = Command::new("ip");
            ip.args(["-n", &host.0, "-batch", &batch]);
            ip
        }));
        times[2].push(on_a_fresh_host(&|host| bench.own(&["send", &host.0, &requests])));
    }
    let [apply, ip, bare] = times.map(|mut times| {
        times.sort_by(f64::total_cmp);
        times[times.len() / 2]
    });
    let what = format!("`apply`, {} peers, from empty", bench.peers);
    row(&what, apply, "`ip -batch` of the same SAs and policies", ip, Some(0.2));
    row(&what, apply, "a bare send loop of the same requests", bare, Some(1.3));
}
