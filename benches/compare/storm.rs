//! The time until all pairs of some hosts talk that start at once: meshsec, and the daemons of
//! strongSwan and libreswan.
//!
//! Hosts are network namespaces at one bridge. All IP traffic between them is to be protected, and
//! clear text is blocked before anything starts, so that an answer is an encrypted one. The clock
//! starts right before the first program does.

use std::{
    collections::BTreeSet,
    fmt::Write,
    fs,
    io::Write as _,
    net::{IpAddr, Ipv4Addr, UdpSocket},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use base64ct::{Base64, Encoding};
use meshsec::kernel::linux::netns;

use crate::{
    Bench,
    charon::Charon,
    chart,
    mesh::{SECRET, succeeds},
    pluto::{self, Pluto},
};

/// Nobody waits longer for the next answer.
const PATIENCE: Duration = Duration::from_secs(60);
/// The least time between two questions to a host that has not answered.
const ASK: Duration = Duration::from_millis(200);
/// Processor time goes to the programs, and not to questions: all hosts together ask no more often.
const LEAST_BETWEEN_ANY: Duration = Duration::from_micros(200);
const PORT: u16 = 7;

/// The address of a host.
pub fn address(host: usize) -> Ipv4Addr {
    Ipv4Addr::new(10, 2, 0, host as u8 + 1)
}

/// The namespace of a host.
pub fn name(host: usize) -> String {
    format!("h{host}")
}

fn link_address(host: usize) -> String {
    format!("02:00:00:00:00:{:02x}", host + 1)
}

fn ip(words: &str) {
    succeeds(Command::new("ip").args(words.split(' ')));
}

/// Has `ip` perform these lines in a namespace.
fn batch(namespace: &str, lines: &str) {
    let mut command = Command::new("ip");
    command.args(["-n", namespace, "-batch", "-"]).stdin(Stdio::piped());
    let mut child = command.spawn().expect("ip starts");
    let mut input = child.stdin.take().expect("a pipe");
    input.write_all(lines.as_bytes()).expect("ip reads");
    drop(input);
    assert!(child.wait().expect("a child").success(), "ip performs the lines");
}

/// Namespaces at one bridge, with nothing in the clear between them. Each knows the link addresses
/// of all others: the kernel's table of neighbours is one for all namespaces, and too small.
struct Wire(usize);

impl Wire {
    fn new(hosts: usize) -> Self {
        ip("netns add wire");
        batch("wire", "link add br0 type bridge\nlink set br0 up\n");
        for host in 0..hosts {
            let h = name(host);
            ip(&format!("netns add {h}"));
            let mac = link_address(host);
            let veth = format!("link add eth0 address {mac} type veth peer name port{host}");
            let mut lines = format!(
                "link set lo up\n{veth} netns wire\nlink set eth0 up\n\
                 address add {}/24 dev eth0\n",
                address(host)
            );
            for direction in ["in", "out"] {
                let _ = writeln!(
                    lines,
                    "xfrm policy add src 10.2.0.0/24 dst 10.2.0.0/24 dir {direction} \
                     action block priority 4000000000"
                );
            }
            for other in (0..hosts).filter(|other| *other != host) {
                let (address, mac) = (address(other), link_address(other));
                let _ = writeln!(lines, "neigh add {address} lladdr {mac} dev eth0 nud permanent");
            }
            batch(&h, &lines);
            ip(&format!("-n wire link set port{host} master br0 up"));
        }
        Self(hosts)
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        for host in (0..self.0).map(name).chain(["wire".into()]) {
            let mut ip = Command::new("ip");
            let _ = ip.args(["netns", "delete", &host]).stderr(Stdio::null()).status();
        }
        thread::sleep(Duration::from_secs(2));
    }
}

/// The answers that came so far.
#[derive(Clone, Copy, Default)]
struct Heard {
    answers: usize,
    last: Option<Instant>,
}

/// Asks all others until each has answered, and answers them.
fn talk(host: usize, hosts: usize, done: &AtomicBool, heard: &Mutex<Heard>) {
    netns::enter(&name(host)).expect("a namespace");
    let socket = UdpSocket::bind((address(host), PORT)).expect("a socket");
    let pause = ASK.max(LEAST_BETWEEN_ANY * directions(hosts) as u32);
    socket.set_read_timeout(Some(pause / 10)).expect("a time");
    let mut open: BTreeSet<usize> = (0..hosts).filter(|other| *other != host).collect();
    let mut asked: Option<Instant> = None;
    let mut buffer = [0; 8];
    while !done.load(Ordering::Relaxed) {
        if asked.is_none_or(|asked| asked.elapsed() >= pause) {
            // A packet without an SA is an error here.
            open.iter().for_each(|other| _ = socket.send_to(b"?", (address(*other), PORT)));
            asked = Some(Instant::now());
        }
        let Ok((_, from)) = socket.recv_from(&mut buffer) else { continue };
        let IpAddr::V4(from_ip) = from.ip() else { continue };
        let other = usize::from(from_ip.octets()[3]) - 1;
        if buffer[0] == b'?' {
            let _ = socket.send_to(b"!", from);
        } else if open.remove(&other) {
            let mut heard = heard.lock().expect("a count");
            *heard = Heard { answers: heard.answers + 1, last: Some(Instant::now()) };
        }
    }
}

/// Ends the talk of all hosts when dropped, even by a panic.
struct Ending<'a>(&'a AtomicBool);

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Every host asks every other one.
fn directions(hosts: usize) -> usize {
    hosts * (hosts - 1)
}

/// The result of one start.
pub struct Start {
    pub hosts: usize,
    pub program: String,
    /// The time until the last answer that came; until the end of one that was stopped.
    pub seconds: f64,
    /// Directions in which no answer came.
    pub silent: usize,
    /// Whether its time was over before all answers came, or a minute passed without one.
    pub stopped: bool,
    /// Daemons that had ended by themselves.
    pub ended: usize,
}

impl Start {
    /// Directions of all pairs.
    pub fn directions(&self) -> usize {
        directions(self.hosts)
    }
}

/// Has programs started while all hosts try to talk. Waits until all of them do, or for a minute
/// without a new answer after some have come, or for as long as a start may take.
fn measured(bench: &Bench, hosts: usize, start: impl FnOnce(Instant)) -> Start {
    let (done, heard) = (AtomicBool::new(false), Mutex::new(Heard::default()));
    let now = || *heard.lock().expect("a count");
    thread::scope(|scope| {
        let _ending = Ending(&done);
        for host in 0..hosts {
            let (done, heard) = (&done, &heard);
            scope.spawn(move || talk(host, hosts, done, heard));
        }
        thread::sleep(Duration::from_secs(1));
        assert_eq!(now().answers, 0, "nothing passes before anything starts");
        let begin = Instant::now();
        start(begin + bench.limit);
        let started = Instant::now();
        // The first answer has all of the time: handshakes that share a processor end together.
        let quiet = || now().last.is_some_and(|last| last.max(started).elapsed() >= PATIENCE);
        let over = || begin.elapsed() >= bench.limit;
        while now().answers < directions(hosts) && !quiet() && !over() {
            thread::sleep(Duration::from_millis(10));
        }
        let (heard, silence, over) = (now(), quiet(), over());
        let silent = directions(hosts) - heard.answers;
        let stopped = silent > 0 && over && !silence;
        let end = if stopped { Some(Instant::now()) } else { heard.last };
        let seconds = end.map_or(0.0, |end| (end - begin).as_secs_f64());
        Start { hosts, program: String::new(), seconds, silent, stopped, ended: 0 }
    })
}

/// meshsec on all hosts at once.
fn meshsec(bench: &Bench, hosts: usize) -> Start {
    let directory = bench.directory.join(format!("storm-{hosts}"));
    fs::create_dir_all(&directory).expect("a directory can be made");
    let mut text = "[mesh]\nname = \"storm\"\n[traffic]\nkind = \"all\"\n[keys]\nmesh_key = { \
                    file = \"secret\" }\n[rotation]\ngeneration = 1\n"
        .to_owned();
    for host in 0..hosts {
        let (name, address) = (name(host), address(host));
        let _ = write!(
            text,
            "[[peer]]\nname = \"{name}\"\nshort_id = {host}\naddress = \"{address}\"\n"
        );
    }
    let (file, secret) = (directory.join("mesh.toml"), directory.join("secret"));
    fs::write(&file, text).expect("a file can be written");
    fs::write(&secret, Base64::encode_string(&SECRET)).expect("a file can be written");
    fs::set_permissions(&secret, fs::Permissions::from_mode(0o600)).expect("by its owner");
    let _wire = Wire::new(hosts);
    let start = measured(bench, hosts, |_| {
        let apply = |host| {
            let mut command = Command::new(&bench.meshsec);
            command.arg("-c").arg(&file).args(["--netns", &name(host)]);
            command.args(["apply", "--auto-approve", "--quiet"]).stdout(Stdio::null());
            command.spawn().expect("meshsec starts")
        };
        let mut all: Vec<Child> = (0..hosts).map(apply).collect();
        for child in &mut all {
            assert!(child.wait().expect("a child").success(), "an apply succeeds");
        }
    });
    Start { program: "meshsec".into(), ..start }
}

/// strongSwan on all hosts at once. Programs start together; connections are loaded as soon as the
/// daemons listen.
fn strongswan(bench: &Bench, hosts: usize, action: &str) -> Start {
    let directory = bench.directory.join(format!("charon-{hosts}-{action}"));
    let directories: Vec<PathBuf> =
        (0..hosts).map(|host| Charon::prepare(&directory, host, hosts, action)).collect();
    let _wire = Wire::new(hosts);
    let mut all: Vec<Charon> = Vec::new();
    let start = measured(bench, hosts, |deadline| {
        let hosts = directories.into_iter().enumerate();
        all.extend(hosts.map(|(host, directory)| Charon::start(directory, host)));
        all.iter().for_each(|charon| charon.listens(deadline));
        let mut loads: Vec<Child> = all.iter().map(Charon::load).collect();
        loads.iter_mut().for_each(|load| ends(load, deadline));
    });
    let ended = all.iter_mut().map(|charon| usize::from(charon.has_ended())).sum();
    Start { program: format!("strongSwan, `start_action = {action}`"), ended, ..start }
}

/// Waits for the end of a program, and stops it if it takes too long.
fn ends(program: &mut Child, deadline: Instant) {
    while program.try_wait().expect("a child").is_none() && Instant::now() < deadline {
        thread::sleep(Duration::from_millis(10));
    }
    let _ = program.kill();
    let _ = program.wait();
}

/// libreswan on all hosts at once.
fn libreswan(bench: &Bench, keys: &Path, hosts: usize, auto: &str) -> Start {
    let directory = bench.directory.join(format!("pluto-{hosts}-{auto}"));
    let directories: Vec<PathBuf> =
        (0..hosts).map(|host| Pluto::prepare(&directory, keys, host, hosts, auto)).collect();
    let _wire = Wire::new(hosts);
    let mut all: Vec<Pluto> = Vec::new();
    let start = measured(bench, hosts, |_| {
        let hosts = directories.iter().enumerate();
        all.extend(hosts.map(|(host, directory)| Pluto::start(directory, host)));
    });
    let ended = all.iter_mut().map(|pluto| usize::from(pluto.has_ended())).sum();
    Start { program: format!("libreswan, `auto={auto}`"), ended, ..start }
}

/// Rows of each number of hosts, and a chart of them.
pub fn starts(bench: &Bench, numbers: &[usize]) {
    let keys = pluto::present().then(|| pluto::database(&bench.directory));
    // The first start of a program reads it from disk.
    let _ = (meshsec(bench, 2), strongswan(bench, 2, "start"));
    let _ = keys.as_deref().map(|keys| libreswan(bench, keys, 2, "start"));
    println!("\nhosts that start at once, until every one has answered every other one:\n");
    println!("| hosts | program | s | beside meshsec | directions without an answer | |");
    println!("|---|---|---|---|---|---|");
    let all: Vec<Start> =
        numbers.iter().flat_map(|hosts| rows(bench, *hosts, keys.as_deref())).collect();
    if keys.is_none() {
        println!("\nlibreswan was not measured: there is no /usr/libexec/ipsec/pluto");
    }
    println!("\n```text\n{}```", chart::drawn(&all));
}

fn rows(bench: &Bench, hosts: usize, keys: Option<&Path>) -> Vec<Start> {
    let mut all = vec![row(meshsec(bench, hosts), None)];
    let ours = all[0].seconds;
    for action in &bench.actions {
        all.push(row(strongswan(bench, hosts, action), Some(ours)));
    }
    let Some(keys) = keys else { return all };
    for action in &bench.actions {
        let auto = if action == "trap" { "ondemand" } else { action };
        all.push(row(libreswan(bench, keys, hosts, auto), Some(ours)));
    }
    all
}

fn row(start: Start, ours: Option<f64>) -> Start {
    let Start { hosts, program, seconds, silent, stopped, ended } = &start;
    let (more, ratio) = (if *stopped { "> " } else { "" }, seconds / ours.unwrap_or(*seconds));
    let all = start.directions();
    let mut notes = Vec::new();
    notes.extend(stopped.then(|| "stopped".to_owned()));
    notes.extend((*ended > 0).then(|| format!("{ended} daemons had ended")));
    let notes = notes.join(", ");
    println!(
        "| {hosts} | {program} | {more}{seconds:.1} | {more}{ratio:.1} | {silent} of {all} | {notes} |"
    );
    start
}
