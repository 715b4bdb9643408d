//! strongSwan's daemon on a host of [`super::storm`].

use std::{
    fmt::Write,
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use crate::storm::{address, name};

/// The plugins that charon needs for a pre-shared key.
const PLUGINS: &str = "random nonce aes sha1 sha2 hmac kdf gmp kernel-netlink socket-default vici";

/// charon-systemd on a host; stopped when dropped.
pub struct Charon {
    daemon: Child,
    directory: PathBuf,
    host: usize,
}

impl Charon {
    /// Writes the files of a host into a directory of its own.
    pub fn prepare(directory: &Path, host: usize, hosts: usize, action: &str) -> PathBuf {
        let directory = directory.join(name(host));
        fs::create_dir_all(&directory).expect("a directory can be made");
        let path = directory.display();
        let conf = format!(
            "charon-systemd {{\nload = {PLUGINS}\ninstall_routes = no\n\
             plugins {{ vici {{ socket = unix://{path}/vici\n }} }}\n}}\n\
             swanctl {{ load = random }}\n"
        );
        let connections = connections(host, hosts, action);
        fs::write(directory.join("strongswan.conf"), conf).expect("a file can be written");
        fs::write(directory.join("swanctl.conf"), connections).expect("a file can be written");
        // A profile of AppArmor goes by the path.
        symlink("/usr/sbin/charon-systemd", directory.join("charon")).expect("a link can be made");
        directory
    }

    pub fn start(directory: PathBuf, host: usize) -> Self {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &name(host)]).arg(directory.join("charon"));
        command.env("STRONGSWAN_CONF", directory.join("strongswan.conf"));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        Self { daemon: command.spawn().expect("charon starts"), directory, host }
    }

    /// Waits until it takes commands.
    pub fn listens(&self, deadline: Instant) {
        while !self.directory.join("vici").exists() && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(10));
        }
    }

    /// Loads its connections, which starts them.
    pub fn load(&self) -> Child {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &name(self.host), "swanctl", "--load-all", "--file"]);
        command.arg(self.directory.join("swanctl.conf"));
        command.arg("--uri").arg(format!("unix://{}/vici", self.directory.display()));
        command.env("STRONGSWAN_CONF", self.directory.join("strongswan.conf"));
        command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("swanctl starts")
    }

    /// Whether it has ended by itself.
    pub fn has_ended(&mut self) -> bool {
        self.daemon.try_wait().expect("a child").is_some()
    }
}

impl Drop for Charon {
    fn drop(&mut self) {
        let _ = self.daemon.kill();
        let _ = self.daemon.wait();
    }
}

/// The text of a host's swanctl.conf.
fn connections(host: usize, hosts: usize, action: &str) -> String {
    let local = address(host);
    let mut text = "connections {\n".to_owned();
    for (number, remote) in (0..hosts).filter(|other| *other != host).enumerate() {
        let remote = address(remote);
        let _ = write!(
            text,
            "c{number} {{\nversion = 2\nproposals = aes128-sha256-modp2048\n\
             local_addrs = {local}\nremote_addrs = {remote}\n\
             local {{ auth = psk\n id = {local}\n }}\nremote {{ auth = psk\n id = {remote}\n }}\n\
             children {{ k{number} {{\nmode = transport\nlocal_ts = dynamic\n\
             remote_ts = dynamic\nesp_proposals = aes128-sha256\nstart_action = {action}\n}} }}\n\
             }}\n"
        );
    }
    text.push_str("}\nsecrets { ike-all { secret = \"a secret of all hosts\" } }\n");
    text
}
