//! libreswan's daemon on a host of [`super::storm`].

use std::{
    env,
    fmt::Write,
    fs,
    os::unix::fs::{PermissionsExt, symlink},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use crate::{
    mesh::succeeds,
    storm::{address, name},
};

/// Where pluto looks for the programs that it runs.
const PROGRAMS: &str = "/usr/libexec/ipsec";

/// The directory of libreswan's programs: the installed ones, or those of the package that was
/// unpacked into `MESHSEC_BENCH_LIBRESWAN`. `None` where there are none.
pub fn programs() -> Option<&'static Path> {
    let programs = Path::new(PROGRAMS);
    if let (false, Some(unpacked)) =
        (programs.exists(), env::var_os("MESHSEC_BENCH_LIBRESWAN").map(PathBuf::from))
    {
        let _ = fs::create_dir_all("/usr/libexec");
        let _ = symlink(unpacked.join("usr/libexec/ipsec"), programs);
    }
    programs.join("pluto").exists().then_some(programs)
}

/// pluto on a host; stopped when dropped.
pub struct Pluto(Child);

impl Pluto {
    /// Writes the files of a host.
    pub fn prepare(directory: &Path, host: usize, hosts: usize, auto: &str) -> PathBuf {
        let directory = directory.join(name(host));
        let keys = directory.join("nss");
        fs::create_dir_all(&keys).expect("a directory can be made");
        let keys = format!("sql:{}", keys.display());
        succeeds(Command::new("certutil").args(["-N", "-d", &keys, "--empty-password"]));
        let mut connections = "config setup\n".to_owned();
        for other in (0..hosts).filter(|other| *other != host) {
            let _ = write!(
                connections,
                "conn c{other}\n left={}\n right={}\n authby=secret\n ikev2=insist\n \
                 type=transport\n ike=aes128-sha2;modp2048\n esp=aes128-sha2\n \
                 leftupdown=%disabled\n auto={auto}\n",
                address(host),
                address(other)
            );
        }
        fs::write(directory.join("ipsec.conf"), connections).expect("a file can be written");
        let secrets = directory.join("ipsec.secrets");
        fs::write(&secrets, ": PSK \"a secret of all hosts\"\n").expect("a file can be written");
        fs::set_permissions(&secrets, fs::Permissions::from_mode(0o600)).expect("by its owner");
        directory
    }

    /// Starts it. It loads its connections by itself.
    pub fn start(programs: &Path, directory: &Path, host: usize) -> Self {
        let path = |name: &str| directory.join(name);
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &name(host)]).arg(programs.join("pluto"));
        command.args(["--nofork", "--use-xfrm", "--no-dnssec"]);
        command.arg("--rundir").arg(directory).arg("--ipsecdir").arg(directory);
        command.arg("--dumpdir").arg(directory).arg("--nssdir").arg(path("nss"));
        command.arg("--config").arg(path("ipsec.conf"));
        command.arg("--secretsfile").arg(path("ipsec.secrets"));
        command.arg("--logfile").arg(path("log"));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        Self(command.spawn().expect("pluto starts"))
    }
}

impl Drop for Pluto {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
