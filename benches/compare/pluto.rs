//! libreswan's daemon on a host of [`super::storm`].

use std::{
    fmt::Write,
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use crate::{
    mesh::succeeds,
    storm::{address, name},
};

/// The directory of libreswan's programs, where pluto looks for those that it runs.
const PROGRAMS: &str = "/usr/libexec/ipsec";

/// Whether libreswan is here. Its package can't be installed beside strongSwan's, but be unpacked.
pub fn present() -> bool {
    Path::new(PROGRAMS).join("pluto").exists() && Path::new(PROGRAMS).join("addconn").exists()
}

/// A database of keys without any, which each host gets a copy of.
pub fn database(directory: &Path) -> PathBuf {
    let keys = directory.join("nss");
    fs::create_dir_all(&keys).expect("a directory can be made");
    let name = format!("sql:{}", keys.display());
    succeeds(Command::new("certutil").args(["-N", "-d", &name, "--empty-password"]));
    keys
}

/// pluto on a host; stopped when dropped.
pub struct Pluto(Child);

impl Pluto {
    /// Writes the files of a host into a directory of its own.
    pub fn prepare(
        directory: &Path,
        keys: &Path,
        host: usize,
        hosts: usize,
        auto: &str,
    ) -> PathBuf {
        let directory = directory.join(name(host));
        fs::create_dir_all(directory.join("nss")).expect("a directory can be made");
        for file in fs::read_dir(keys).expect("a database").map(|file| file.expect("a file")) {
            let copy = directory.join("nss").join(file.file_name());
            fs::copy(file.path(), copy).expect("a file can be copied");
        }
        let connections = connections(host, hosts, auto);
        fs::write(directory.join("ipsec.conf"), connections).expect("a file can be written");
        let secrets = directory.join("ipsec.secrets");
        fs::write(&secrets, ": PSK \"a secret of all hosts\"\n").expect("a file can be written");
        fs::set_permissions(&secrets, fs::Permissions::from_mode(0o600)).expect("by its owner");
        directory
    }

    /// Starts it. It loads its connections by itself.
    pub fn start(directory: &Path, host: usize) -> Self {
        let path = |name: &str| directory.join(name);
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &name(host), &format!("{PROGRAMS}/pluto")]);
        // First, as it sets each option that the file lacks back to its default.
        command.arg("--config").arg(path("ipsec.conf"));
        command.args(["--nofork", "--use-xfrm", "--no-dnssec"]);
        command.arg("--rundir").arg(directory).arg("--ipsecdir").arg(directory);
        command.arg("--dumpdir").arg(directory).arg("--nssdir").arg(path("nss"));
        command.arg("--secretsfile").arg(path("ipsec.secrets"));
        command.arg("--logfile").arg(path("log"));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        Self(command.spawn().expect("pluto starts"))
    }

    /// Whether it has ended by itself.
    pub fn has_ended(&mut self) -> bool {
        self.0.try_wait().expect("a child").is_some()
    }
}

impl Drop for Pluto {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The text of a host's ipsec.conf.
fn connections(host: usize, hosts: usize, auto: &str) -> String {
    let mut text = "config setup\n".to_owned();
    for other in (0..hosts).filter(|other| *other != host) {
        let _ = write!(
            text,
            "conn c{other}\n left={}\n right={}\n authby=secret\n ikev2=insist\n \
             type=transport\n ike=aes128-sha2;modp2048\n esp=aes128-sha2\n \
             leftupdown=%disabled\n auto={auto}\n",
            address(host),
            address(other)
        );
    }
    text
}
