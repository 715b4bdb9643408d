//! The time until all pairs of some hosts talk that start at once: meshsec, and strongSwan's daemon.
//!
//! Hosts are network namespaces at one bridge. All IP traffic between them is to be protected, and
//! clear text is blocked before anything starts, so that an answer is an encrypted one. The clock
//! starts right before the first program does.

use std::{
    collections::BTreeSet,
    fmt::Write,
    fs,
    net::{Ipv4Addr, UdpSocket},
    os::unix::fs::{PermissionsExt, symlink},
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
    mesh::{SECRET, succeeds},
};

/// Nobody waits longer for the next pair to talk.
const PATIENCE: Duration = Duration::from_secs(60);
/// The time between two questions to a host that has not answered.
const ASK: Duration = Duration::from_millis(200);
const PORT: u16 = 7;
/// The plugins that charon needs for a pre-shared key.
const PLUGINS: &str = "random nonce aes sha1 sha2 hmac kdf gmp kernel-netlink socket-default vici";

fn address(host: usize) -> Ipv4Addr {
    Ipv4Addr::new(10, 2, 0, host as u8 + 1)
}

fn name(host: usize) -> String {
    format!("h{host}")
}

fn ip(words: &str) {
    succeeds(Command::new("ip").args(words.split(' ')));
}

/// Namespaces at one bridge, with nothing in the clear between them.
struct Wire(usize);

impl Wire {
    fn new(hosts: usize) -> Self {
        ip("netns add wire");
        ip("-n wire link add br0 type bridge");
        ip("-n wire link set br0 up");
        for host in 0..hosts {
            let h = name(host);
            ip(&format!("netns add {h}"));
            ip(&format!("-n {h} link set lo up"));
            ip(&format!("-n {h} link add eth0 type veth peer name port{host} netns wire"));
            ip(&format!("-n wire link set port{host} master br0 up"));
            ip(&format!("-n {h} link set eth0 up"));
            ip(&format!("-n {h} address add {}/24 dev eth0", address(host)));
            for direction in ["in", "out"] {
                ip(&format!(
                    "-n {h} xfrm policy add src 10.2.0.0/24 dst 10.2.0.0/24 dir {direction} \
                     action block priority 4000000000"
                ));
            }
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

/// Asks all others until each has answered, and answers them.
fn talk(host: usize, hosts: usize, done: &AtomicBool, heard: &Mutex<BTreeSet<[usize; 2]>>) {
    netns::enter(&name(host)).expect("a namespace");
    let socket = UdpSocket::bind((address(host), PORT)).expect("a socket");
    socket.set_read_timeout(Some(Duration::from_millis(20))).expect("a time");
    let mut open: BTreeSet<usize> = (0..hosts).filter(|other| *other != host).collect();
    let mut asked: Option<Instant> = None;
    let mut buffer = [0; 8];
    while !done.load(Ordering::Relaxed) {
        if asked.is_none_or(|asked| asked.elapsed() >= ASK) {
            // A packet without an SA is an error here.
            open.iter().for_each(|other| _ = socket.send_to(b"?", (address(*other), PORT)));
            asked = Some(Instant::now());
        }
        let Ok((_, from)) = socket.recv_from(&mut buffer) else { continue };
        let std::net::IpAddr::V4(from_ip) = from.ip() else { continue };
        let other = usize::from(from_ip.octets()[3]) - 1;
        match buffer[0] {
            b'?' => _ = socket.send_to(b"!", from),
            _ if open.remove(&other) => _ = heard.lock().expect("a list").insert([host, other]),
            _ => {}
        }
    }
}

/// The result of one start.
struct Start {
    /// The time until the last pair talked that ever did.
    seconds: f64,
    /// Directions in which no answer came.
    silent: usize,
}

/// Has programs started while all hosts try to talk. Waits until all of them do.
fn measured(hosts: usize, start: impl FnOnce()) -> Start {
    let (done, heard) = (AtomicBool::new(false), Mutex::new(BTreeSet::new()));
    let all = hosts * (hosts - 1);
    thread::scope(|scope| {
        for host in 0..hosts {
            let (done, heard) = (&done, &heard);
            scope.spawn(move || talk(host, hosts, done, heard));
        }
        thread::sleep(Duration::from_secs(1));
        assert!(heard.lock().expect("a list").is_empty(), "nothing passes before anything starts");
        let begin = Instant::now();
        start();
        let (mut talking, mut last) = (0, begin);
        while talking < all && last.elapsed() < PATIENCE {
            thread::sleep(Duration::from_millis(10));
            let now = heard.lock().expect("a list").len();
            if now > talking {
                (talking, last) = (now, Instant::now());
            }
        }
        done.store(true, Ordering::Relaxed);
        Start { seconds: (last - begin).as_secs_f64(), silent: all - talking }
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
    measured(hosts, || {
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
    })
}

/// charon-systemd on a host; stopped when dropped.
struct Charon {
    daemon: Child,
    directory: PathBuf,
    host: usize,
}

impl Charon {
    fn start(directory: &Path, host: usize, hosts: usize, action: &str) -> Self {
        let directory = directory.join(name(host));
        fs::create_dir_all(&directory).expect("a directory can be made");
        let path = directory.display();
        let conf = format!(
            "charon-systemd {{\nload = {PLUGINS}\ninstall_routes = no\n\
             plugins {{ vici {{ socket = unix://{path}/vici\n }} }}\n}}\n\
             swanctl {{ load = random }}\n"
        );
        let local = address(host);
        let mut connections = "connections {\n".to_owned();
        for (number, remote) in (0..hosts).filter(|other| *other != host).enumerate() {
            let remote = address(remote);
            let _ = write!(
                connections,
                "c{number} {{\nversion = 2\nproposals = aes128-sha256-modp2048\n\
                 local_addrs = {local}\nremote_addrs = {remote}\n\
                 local {{ auth = psk\n id = {local}\n }}\nremote {{ auth = psk\n id = {remote}\n }}\n\
                 children {{ k{number} {{\nmode = transport\nlocal_ts = dynamic\n\
                 remote_ts = dynamic\nesp_proposals = aes128-sha256\nstart_action = {action}\n}} }}\n\
                 }}\n"
            );
        }
        connections.push_str("}\nsecrets { ike-all { secret = \"a secret of all\" } }\n");
        fs::write(directory.join("strongswan.conf"), conf).expect("a file can be written");
        fs::write(directory.join("swanctl.conf"), connections).expect("a file can be written");
        // A profile of AppArmor goes by the path.
        let program = directory.join("charon");
        symlink("/usr/sbin/charon-systemd", &program).expect("a link can be made");
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &name(host)]).arg(program);
        command.env("STRONGSWAN_CONF", directory.join("strongswan.conf"));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        Self { daemon: command.spawn().expect("charon starts"), directory, host }
    }

    /// Loads its connections, which starts them.
    fn load(&self) -> Child {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &name(self.host), "swanctl", "--load-all", "--file"]);
        command.arg(self.directory.join("swanctl.conf"));
        command.arg("--uri").arg(format!("unix://{}/vici", self.directory.display()));
        command.env("STRONGSWAN_CONF", self.directory.join("strongswan.conf"));
        command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("swanctl starts")
    }
}

impl Drop for Charon {
    fn drop(&mut self) {
        let _ = self.daemon.kill();
        let _ = self.daemon.wait();
    }
}

/// strongSwan on all hosts at once. Programs start together; connections are loaded as soon as the
/// daemons listen.
fn strongswan(bench: &Bench, hosts: usize, action: &str) -> Start {
    let directory = bench.directory.join(format!("charon-{hosts}-{action}"));
    let _wire = Wire::new(hosts);
    let mut all = Vec::new();
    measured(hosts, || {
        all.extend((0..hosts).map(|host| Charon::start(&directory, host, hosts, action)));
        for charon in &all {
            let begin = Instant::now();
            while !charon.directory.join("vici").exists() {
                assert!(begin.elapsed() < PATIENCE, "charon listens");
                thread::sleep(Duration::from_millis(10));
            }
        }
        let mut loads: Vec<Child> = all.iter().map(Charon::load).collect();
        loads.iter_mut().for_each(|load| _ = load.wait());
    })
}

/// Rows of each number of hosts.
pub fn starts(bench: &Bench, numbers: &[usize]) {
    // The first start of a program reads it from disk.
    let _ = (meshsec(bench, 2), strongswan(bench, 2, "start"));
    println!("\nhosts that start at once, until every one has answered every other one:\n");
    println!("| hosts | program | s | beside meshsec | directions that never talk |");
    println!("|---|---|---|---|---|");
    for &hosts in numbers {
        let ours = meshsec(bench, hosts);
        let row = |program: &str, start: &Start| {
            let (seconds, ratio) = (start.seconds, start.seconds / ours.seconds);
            println!("| {hosts} | {program} | {seconds:.1} | {ratio:.1} | {} |", start.silent);
        };
        row("meshsec", &ours);
        for action in ["start", "trap"] {
            let theirs = strongswan(bench, hosts, action);
            row(&format!("strongSwan, `start_action = {action}`"), &theirs);
        }
    }
}
