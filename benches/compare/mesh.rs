//! The meshes that are measured: their files, and the hosts that hold them.

use std::{
    fmt::Write,
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use base64ct::{Base64, Encoding};
use meshsec::model::PrivateKey;
use sha2::{Digest, Sha256};

pub const MESH: &str = "bench";
pub const SECRET: [u8; 32] = [7; 32];
pub const GENERATION: u64 = 1;

/// The private key of a peer.
pub fn private_key(peer: u16) -> [u8; 32] {
    Sha256::digest(format!("private key of {peer}")).0
}

/// The address of a peer.
pub fn address(peer: u16) -> String {
    let number = peer + 1;
    format!("10.1.{}.{}", number >> 8, number & 255)
}

/// A directory with a mesh.toml of one host and this many peers, and with its secret.
pub struct Mesh(PathBuf);

/// How the peers of a mesh come to their keys.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Keys {
    MeshKey,
    PrivateKey,
}

impl Mesh {
    /// Writes the files. With `moved` the last peer has another address.
    pub fn new(directory: &Path, peers: u16, keys: Keys, moved: bool) -> Self {
        Self::written(directory, peers, keys, (moved, ""))
    }

    /// The same with more lines in `[traffic]`.
    pub fn with(directory: &Path, peers: u16, keys: Keys, traffic: &str) -> Self {
        Self::written(directory, peers, keys, (false, traffic))
    }

    fn written(directory: &Path, peers: u16, keys: Keys, (moved, traffic): (bool, &str)) -> Self {
        fs::create_dir_all(directory).expect("a directory can be made");
        let source = match keys {
            Keys::MeshKey => "mesh_key",
            Keys::PrivateKey => "private_key",
        };
        let mut text = format!(
            "[mesh]\nname = \"{MESH}\"\n[traffic]\nkind = \"vxlan\"\n{traffic}\
             [keys]\n{source} = {{ file = \"secret\" }}\n[rotation]\ngeneration = {GENERATION}\n"
        );
        for peer in 0..=peers {
            let address = if moved && peer == peers { "10.1.200.1".into() } else { address(peer) };
            write!(
                text,
                "[[peer]]\nname = \"p{peer}\"\nshort_id = {peer}\naddress = \"{address}\"\n"
            )
            .expect("memory");
            if keys == Keys::PrivateKey {
                let public = PrivateKey::new(&private_key(peer)).public_key();
                let public = Base64::encode_string(public.bytes());
                writeln!(text, "public_key = \"{public}\"").expect("memory");
            }
        }
        fs::write(directory.join("mesh.toml"), text).expect("a file can be written");
        let secret = match keys {
            Keys::MeshKey => SECRET,
            Keys::PrivateKey => private_key(0),
        };
        let file = directory.join("secret");
        fs::write(&file, Base64::encode_string(&secret)).expect("a file can be written");
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).expect("by its owner");
        Self(directory.to_owned())
    }

    /// meshsec with this mesh's file, its output dropped.
    pub fn command(&self, meshsec: &Path, words: &[&str]) -> Command {
        let mut command = Command::new(meshsec);
        command.arg("-c").arg(self.0.join("mesh.toml")).args(words);
        command.stdout(Stdio::null()).stderr(Stdio::null());
        command
    }
}

/// A network namespace of a host that has the first peer's address.
pub struct Host(pub String);

impl Host {
    pub fn new(name: &str) -> Self {
        let host = Self(name.into());
        succeeds(Command::new("ip").args(["netns", "add", name]));
        for line in [
            "link set lo up",
            "link add eth0 type veth peer name port0",
            "link set port0 up",
            "link set eth0 up",
            &format!("address add {}/16 dev eth0", address(0)),
        ] {
            host.ip(line);
        }
        host
    }

    /// `ip` with these words in here, its output dropped.
    pub fn ip(&self, words: &str) {
        succeeds(Command::new("ip").args(["-n", &self.0]).args(words.split(' ')));
    }

    /// The two dumps of iproute2.
    pub fn dumps(&self) {
        self.ip("xfrm state");
        self.ip("xfrm policy");
    }

    /// The lines of `ip -batch` that make the SAs and policies of this host again.
    pub fn batch(&self) -> String {
        let mut lines = String::new();
        for kind in ["state", "policy"] {
            let mut ip = Command::new("ip");
            let output = ip.args(["-n", &self.0, "xfrm", kind]).output().expect("ip");
            let text = String::from_utf8(output.stdout).expect("text");
            for object in text.split("\nsrc ") {
                let object = object.strip_prefix("src ").unwrap_or(object);
                let words: Vec<&str> =
                    object.lines().filter(|line| !line.contains("anti-replay context")).collect();
                let words = words.join(" ");
                // `sel.user` is shown as `uid`, and can't be given.
                let mut words = words.split_whitespace().peekable();
                let _ = write!(lines, "xfrm {kind} add src");
                while let Some(word) = words.next() {
                    if word == "uid" {
                        words.next();
                    } else {
                        let _ = write!(lines, " {word}");
                    }
                }
                lines.push('\n');
            }
        }
        lines
    }

    /// A program in here.
    pub fn program(&self, words: &[&str]) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.0]).args(words).stdout(Stdio::null());
        command
    }

    /// Removes all of it.
    pub fn remove(self) {
        self.ip("xfrm policy flush");
        self.ip("xfrm state flush");
        succeeds(Command::new("ip").args(["netns", "del", &self.0]));
        // The kernel frees SAs later, which is not to be measured with something else.
        std::thread::sleep(std::time::Duration::from_secs(2));
    }
}

/// Runs a command to its end, its output dropped.
#[track_caller]
pub fn succeeds(command: &mut Command) {
    ends_with(command, 0);
}

/// Runs a command that ends with this status, its output dropped.
#[track_caller]
pub fn ends_with(command: &mut Command, wanted: i32) {
    let status = command.stdout(Stdio::null()).status();
    let status = status.unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert_eq!(status.code(), Some(wanted), "{command:?}");
}

/// The most memory that a command has had at once, in MiB (`VmHWM`). Looked at every millisecond.
pub fn peak(command: &mut Command) -> f64 {
    let mut child = command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let status = format!("/proc/{}/status", child.id());
    let mut peak = 0;
    while child.try_wait().expect("a child of this process").is_none() {
        let text = fs::read_to_string(&status).unwrap_or_default();
        let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let number = line.and_then(|line| line.split_whitespace().next()?.parse::<u32>().ok());
        peak = peak.max(number.unwrap_or_default());
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    f64::from(peak) / 1024.0
}
