//! A laboratory: hosts on one switch, a VXLAN between them, and a mesh.toml for each.
//!
//! Neighbours are entered by hand on both layers, so that the only packets are
//! those that a test sends, and none is lost while an address is asked for.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
    sync::{
        OnceLock,
        atomic::{AtomicU32, Ordering},
    },
    thread,
    time::Duration,
};

use tempfile::TempDir;

use crate::{
    capture::Capture,
    mesh_file::{MESH_KEY, MeshFile, Peer},
    namespace::Namespace,
    ping,
    random::Random,
    shell::{self, Ran},
    wait::wait_for,
    xfrm,
};

/// How far apart hosts that do something at moments of their own do it, in milliseconds.
const SPREAD: u64 = 300;

/// The hosts, by their place.
pub const A: usize = 0;
pub const B: usize = 1;
pub const C: usize = 2;
pub const D: usize = 3;

/// The VXLAN device of every host.
pub const VXLAN: &str = "vxlan42";

/// The family of the addresses in mesh.toml. Every host has both.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Underlay {
    V4,
    V6,
}

impl Underlay {
    /// The underlay address of the host in this place.
    pub fn address(self, place: usize) -> String {
        match self {
            Self::V4 => format!("192.0.2.{}", place + 1),
            Self::V6 => format!("2001:db8::{}", place + 1),
        }
    }
}

/// Hosts, their network, and their files. All of it goes when this is dropped.
pub struct Lab {
    hosts: Vec<Namespace>,
    pub wire: Namespace,
    underlay: Vec<Underlay>,
    /// The mesh of all hosts, which every host's file holds at first.
    pub mesh: MeshFile,
    /// Directories that hide others from meshsec, such as its programs.
    pub hidden: Vec<(PathBuf, &'static str)>,
    directory: TempDir,
}

impl Lab {
    /// This many hosts on an IPv4 underlay.
    pub fn new(hosts: usize) -> Self {
        Self::over(&vec![Underlay::V4; hosts])
    }

    /// A host for each underlay, with a VXLAN that reaches those of the same family.
    pub fn over(underlay: &[Underlay]) -> Self {
        needs();
        let lab = Self::unwired(underlay);
        lab.wire_up();
        for place in 0..underlay.len() {
            lab.configure(place);
            lab.write(place, &lab.mesh);
        }
        lab
    }

    fn unwired(underlay: &[Underlay]) -> Self {
        static SERIAL: AtomicU32 = AtomicU32::new(0);
        let serial = SERIAL.fetch_add(1, Ordering::Relaxed);
        let namespace = |name| Namespace(format!("ms{}-{serial}-{name}", std::process::id()));
        let names: Vec<char> = ('a'..'q').take(underlay.len()).collect();
        let peers = names.iter().zip(underlay).enumerate().map(|(place, (name, underlay))| Peer {
            name: name.to_string(),
            short_id: place + 1,
            address: underlay.address(place),
            public_key: None,
            stage: None,
            outside: None,
            lines: String::new(),
        });
        let directory = tempfile::tempdir().expect("a directory can be made");
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755))
            .expect("its permissions can be set");
        Self {
            hosts: names.iter().map(|name| namespace(name.to_string())).collect(),
            wire: namespace("wire".into()),
            underlay: underlay.to_vec(),
            mesh: MeshFile {
                name: "lab",
                generation: 1,
                period: None,
                lines: String::new(),
                traffic: "kind = \"vxlan\"",
                esp: "",
                keys: "mesh_key = { file = \"mesh.key\" }",
                guard: "true",
                link: "",
                peers: peers.collect(),
                tail: "",
            },
            hidden: Vec::new(),
            directory,
        }
    }

    /// Makes the namespaces and the switch.
    fn wire_up(&self) {
        let mut lines = format!("netns add {}\n", self.wire.0);
        for (place, host) in self.hosts.iter().enumerate() {
            let mac = underlay_mac(place);
            lines.push_str(&format!("netns add {}\n", host.0));
            lines.push_str(&format!(
                "link add eth0 address {mac} netns {} type veth peer name port{place} netns {}\n",
                host.0, self.wire.0
            ));
        }
        shell::ip_batch(&lines);
        let mut lines = String::from(
            "link add br0 type bridge mcast_snooping 0 forward_delay 0\n\
             link set br0 addrgenmode none\nlink set br0 up\n",
        );
        for place in 0..self.hosts.len() {
            lines.push_str(&format!("link set port{place} addrgenmode none\n"));
            lines.push_str(&format!("link set port{place} master br0 up\n"));
        }
        self.wire.ip_batch(&lines);
    }

    /// Gives a host its addresses, its VXLAN device and its neighbours.
    fn configure(&self, place: usize) {
        let local = self.address(place);
        // The MTU that fits 1500 bytes when encrypted, and less.
        let mtu = match self.underlay[place] {
            Underlay::V4 => 1400,
            Underlay::V6 => 1380,
        };
        let mut lines = format!(
            "link set lo up\n\
             link set eth0 addrgenmode none\n\
             link set eth0 up\n\
             address add 192.0.2.{0}/24 dev eth0\n\
             address add 2001:db8::{0}/64 dev eth0 nodad\n\
             link add {VXLAN} address {1} mtu {mtu} type vxlan id 42 dstport 4789 local {local} \
             dev eth0 nolearning\n\
             link set {VXLAN} addrgenmode none\n\
             link set {VXLAN} up\n\
             address add 10.42.0.{0}/24 dev {VXLAN}\n",
            place + 1,
            inner_mac(place),
        );
        let mut forwarding = String::new();
        for other in (0..self.hosts.len()).filter(|&other| other != place) {
            let mac = underlay_mac(other);
            for family in [Underlay::V4, Underlay::V6] {
                let address = family.address(other);
                lines.push_str(&format!("neigh add {address} lladdr {mac} dev eth0\n"));
            }
            if self.underlay[other] == self.underlay[place] {
                let mac = inner_mac(other);
                let inner = inner(other);
                lines.push_str(&format!("neigh add {inner} lladdr {mac} dev {VXLAN}\n"));
                let remote = self.address(other);
                forwarding.push_str(&format!("fdb add {mac} dev {VXLAN} dst {remote}\n"));
            }
        }
        let host = &self.hosts[place];
        host.ip_batch(&lines);
        host.batch("bridge", &forwarding);
    }

    /// How many hosts there are.
    pub fn places(&self) -> std::ops::Range<usize> {
        0..self.hosts.len()
    }

    /// The namespace of the host in this place.
    pub fn host(&self, place: usize) -> &Namespace {
        &self.hosts[place]
    }

    /// The address of a host in mesh.toml.
    pub fn address(&self, place: usize) -> String {
        self.underlay[place].address(place)
    }

    /// A directory that goes with the laboratory.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// A host's mesh.toml.
    pub fn file(&self, place: usize) -> PathBuf {
        self.directory.path().join(&self.mesh.peers[place].name).join("mesh.toml")
    }

    /// Writes a host's mesh.toml, and its mesh.key beside it.
    pub fn write(&self, place: usize, mesh: &MeshFile) {
        let file = self.file(place);
        let directory = file.parent().expect("it lies in the host's directory");
        fs::create_dir_all(directory).expect("a directory can be made");
        fs::write(&file, mesh.text()).expect("mesh.toml can be written");
        write_secret(&directory.join("mesh.key"), MESH_KEY);
    }

    /// Writes the same mesh.toml on every host.
    pub fn write_all(&self, mesh: &MeshFile) {
        self.places().for_each(|place| self.write(place, mesh));
    }

    /// meshsec on a host, not started yet.
    pub fn command(&self, place: usize, words: &[&str]) -> Command {
        let mut command = match self.hidden.as_slice() {
            [] => Command::new(env!("CARGO_BIN_EXE_meshsec")),
            hidden => with_hidden(hidden),
        };
        command.args(["--netns", &self.hosts[place].0]);
        command.arg("-c").arg(self.file(place)).args(words);
        command
    }

    /// meshsec on a host. No answer of it may ever hold the mesh's secret.
    #[track_caller]
    pub fn meshsec(&self, place: usize, words: &[&str]) -> Ran {
        let ran = shell::run(&mut self.command(place, words));
        crate::secrecy::holds_no_secret(&ran, &[MESH_KEY.to_owned()]);
        ran
    }

    /// `meshsec apply` on a host, which succeeds.
    #[track_caller]
    pub fn apply(&self, place: usize) -> Ran {
        self.meshsec(place, &["apply", "--auto-approve"]).exits(0)
    }

    /// `meshsec apply` on every host, one after the other.
    #[track_caller]
    pub fn apply_all(&self) {
        for place in self.places() {
            self.apply(place);
        }
    }

    /// meshsec with these words, which succeeds, on every host at a moment of its own.
    pub fn all_at_random(&self, random: &mut Random, words: &[&str]) {
        let pauses: Vec<Duration> =
            self.places().map(|_| Duration::from_millis(random.below(SPREAD))).collect();
        thread::scope(|scope| {
            for (place, pause) in pauses.into_iter().enumerate() {
                scope.spawn(move || {
                    thread::sleep(pause);
                    self.meshsec(place, words).exits(0);
                });
            }
        });
    }

    /// The changes of `meshsec plan` on a host.
    #[track_caller]
    pub fn plan(&self, place: usize) -> serde_json::Value {
        self.meshsec(place, &["plan", "--format", "json"]).json()
    }

    /// Fails unless a host's plan is empty.
    #[track_caller]
    pub fn has_converged(&self, place: usize) {
        self.meshsec(place, &["plan", "--detailed-exitcode"]).exits(0).says("No changes.");
    }

    /// Fails unless a host's packets reach another through the VXLAN, and its answers come back.
    #[track_caller]
    pub fn reaches(&self, from: usize, to: usize) {
        let what = format!("an answer to host {from} from host {to}");
        wait_for(&what, || (ping::answers(self.host(from), &inner(to), 3) == 3).then_some(()));
    }

    /// Fails if one of a few packets is answered.
    #[track_caller]
    pub fn does_not_reach(&self, from: usize, to: usize) {
        let answers = ping::answers(self.host(from), &inner(to), 5);
        assert_eq!(answers, 0, "host {to} answers host {from} although it must not");
    }

    /// Begins to record the packets that pass the switch.
    pub fn capture(&self) -> Capture {
        Capture::start(self)
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        // Each by itself, even if others failed: this runs on a failed test too.
        let all = self.hosts.iter().chain([&self.wire]);
        let lines: String = all.map(|host| format!("netns delete {}\n", host.0)).collect();
        let mut command = Command::new("ip");
        command.args(["-force", "-batch", "-"]);
        let _ = shell::run_with(&mut command, &lines);
    }
}

/// meshsec where directories lie over others, which only it sees.
fn with_hidden(hidden: &[(PathBuf, &str)]) -> Command {
    let mut script = String::new();
    for (directory, over) in hidden {
        script.push_str(&format!("mount --bind {} {over} && ", directory.display()));
    }
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-c", &format!("{script}exec \"$@\""), "sh"]);
    command.arg(env!("CARGO_BIN_EXE_meshsec"));
    command
}

/// Writes a secret that only its owner may read.
pub fn write_secret(path: &Path, text: &str) {
    fs::write(path, format!("{text}\n")).expect("a secret can be written");
    fs::set_permissions(path, fs::Permissions::from_mode(0o600))
        .expect("its permissions can be set");
}

/// The address of a host in the VXLAN.
pub fn inner(place: usize) -> String {
    format!("10.42.0.{}", place + 1)
}

/// The SPI of a direction and generation, as the wire format says.
pub fn spi(generation: u32, from: usize, to: usize) -> u32 {
    let (from, to) = (from as u32 + 1, to as u32 + 1);
    0x8000_0000 | (generation % 32) << 26 | from << 12 | to
}

/// The MAC address of a host on the switch.
pub fn underlay_mac(place: usize) -> String {
    format!("02:00:5e:00:00:{:02x}", place + 1)
}

/// The MAC address of a host in the VXLAN.
pub fn inner_mac(place: usize) -> String {
    format!("02:42:00:00:00:{:02x}", place + 1)
}

/// Fails with a reason where these tests can't run.
fn needs() {
    static MISSING: OnceLock<Option<String>> = OnceLock::new();
    if let Some(missing) = MISSING.get_or_init(missing) {
        panic!("this test can't run here: {missing}; run it by `cargo xtask test`");
    }
}

fn missing() -> Option<String> {
    if !rustix::process::geteuid().is_root() {
        return Some("it needs root".into());
    }
    for (program, option) in [
        ("ip", "-V"),
        ("bridge", "-V"),
        ("ping", "-V"),
        ("tcpdump", "--version"),
        ("python3", "-V"),
        ("strace", "-V"),
        ("iptables-nft", "-V"),
        ("iptables-legacy", "-V"),
    ] {
        if !Command::new(program).arg(option).output().is_ok_and(|out| out.status.success()) {
            return Some(format!("{program} is missing"));
        }
    }
    let probe = Namespace(format!("ms{}-probe", std::process::id()));
    shell::ip(&format!("netns add {}", probe.0));
    let answer = probe.try_ip(&format!(
        "xfrm state add src 192.0.2.1 dst 192.0.2.2 proto esp spi 0x1000 mode transport {}",
        xfrm::AEAD
    ));
    shell::ip(&format!("netns delete {}", probe.0));
    (answer.status != 0).then(|| format!("the kernel takes no ESP SA: {}", answer.stderr.trim()))
}
