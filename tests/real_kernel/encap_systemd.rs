//! The units that hold the socket for ESP in UDP, under a real systemd.
//!
//! systemd is process 1 of a pid namespace, in the network namespace of a host.

use std::{
    fs,
    net::UdpSocket,
    path::Path,
    process::{Child, Command, Stdio},
};

use crate::{
    encap::Holder,
    fixture::{A, B, Lab, Underlay},
    ping::Stream,
    shell::{self, Ran},
    wait::wait_for,
};

/// Becomes systemd, with the units of a directory and nothing else to start.
const BECOME: &str = "mount -t proc proc /proc && mount -t tmpfs tmpfs /run &&
    mkdir -p /run/systemd/system && mount --bind \"$1\" /run/systemd/system &&
    mount -t cgroup2 cgroup2 /sys/fs/cgroup
    container=other exec /lib/systemd/systemd --system --unit=lab.target \
        --log-target=null --show-status=no";

const UNITS: [&str; 3] =
    ["meshsec-encap@.service", "meshsec-encap@.socket", "meshsec-encap6@.socket"];
const SOCKET: &str = "meshsec-encap@4500.socket";
const SERVICE: &str = "meshsec-encap@4500.service";

struct Systemd {
    unshare: Child,
    /// Its process number outside.
    process: String,
}

impl Systemd {
    /// Starts it in a host, with the units of the examples.
    fn start(lab: &Lab, place: usize) -> Self {
        let directory = lab.directory().join("units");
        fs::create_dir(&directory).expect("a directory can be made");
        let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/systemd");
        for name in UNITS {
            let text = fs::read_to_string(examples.join(name)).expect("an example");
            let program = env!("CARGO_BIN_EXE_meshsec");
            let text = text.replace("ExecStart=meshsec", &format!("ExecStart={program}"));
            // The program just built may lie in a home directory, or in /tmp.
            let text = text.replace("ProtectHome=yes", "").replace("PrivateTmp=yes", "");
            fs::write(directory.join(name), text).expect("a unit can be written");
        }
        for target in ["lab", "sysinit", "basic"] {
            let text = "[Unit]\nDefaultDependencies=no\n";
            fs::write(directory.join(format!("{target}.target")), text).expect("it can be written");
        }
        let mut command = Command::new("unshare");
        command.args([
            "--fork",
            "--kill-child",
            "--pid",
            "--mount",
            "--cgroup",
            "sh",
            "-c",
            BECOME,
        ]);
        command.arg("sh").arg(&directory);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let unshare = lab.host(place).spawn(&mut command);
        let children = format!("/proc/{0}/task/{0}/children", unshare.id());
        let process = wait_for("a process in the pid namespace", || {
            let text = fs::read_to_string(&children).unwrap_or_default();
            text.split_whitespace().next().map(String::from)
        });
        let systemd = Self { unshare, process };
        wait_for("systemd to be up", || {
            (systemd.ctl(&["is-active", "lab.target"]).status == 0).then_some(())
        });
        systemd
    }

    /// systemctl with these words.
    fn ctl(&self, words: &[&str]) -> Ran {
        let mut command = Command::new("nsenter");
        command.args(["-t", &self.process, "--mount", "--pid", "systemctl", "--no-pager"]);
        shell::run(command.args(words))
    }

    /// A property of a unit.
    fn property(&self, unit: &str, name: &str) -> String {
        let ran = self.ctl(&["show", "--value", "-p", name, unit]).exits(0);
        ran.stdout.trim().to_owned()
    }

    /// When the service was started last. It changes with every start.
    fn last_start(&self) -> String {
        wait_for("the service to end", || {
            (self.property(SERVICE, "ActiveState") == "inactive").then_some(())
        });
        self.property(SERVICE, "ExecMainStartTimestampMonotonic")
    }
}

impl Drop for Systemd {
    fn drop(&mut self) {
        let _ = self.unshare.kill();
        let _ = self.unshare.wait();
    }
}

/// Datagrams that hold no ESP: of IKE, too short, and keepalives.
fn strange_datagrams(lab: &Lab) {
    let socket = lab.host(B).inside(|| UdpSocket::bind((lab.address(B), 0))).expect("a port");
    let to = (lab.address(A), 4500);
    let to = (to.0.as_str(), to.1);
    let ike = [&[0; 4][..], &[7; 200]].concat();
    for _ in 0..1000 {
        for datagram in [&ike[..], &[1, 2, 3], &[], &[0xff], &[0; 4]] {
            // A full buffer of the sender is not what is tested.
            let _ = socket.send_to(datagram, to);
        }
    }
}

#[test]
#[ignore = "needs a kernel with ESP: cargo xtask test"]
fn systemd_holds_the_socket_and_nothing_starts_in_a_loop() {
    let mut lab = Lab::new(2);
    lab.mesh.esp = "encap = 4500";
    lab.write_all(&lab.mesh);
    let _holder = Holder::start(lab.host(B), Underlay::V4, 4500);
    lab.apply_all();
    let systemd = Systemd::start(&lab, A);
    lab.does_not_reach(B, A);
    systemd.ctl(&["start", SOCKET]).exits(0);
    let started = systemd.last_start();
    lab.reaches(B, A);
    lab.reaches(A, B);
    lab.meshsec(A, &["status"]).exits(0).says("ESP in UDP port 4500: a socket takes it");

    // None of this loses a packet, or starts the service.
    let stream = Stream::flood(&lab, A, B);
    systemd.ctl(&["daemon-reload"]).exits(0);
    strange_datagrams(&lab);
    systemd.ctl(&["daemon-reexec"]).exits(0);
    wait_for("systemd to be back", || {
        (systemd.ctl(&["is-active", SOCKET]).status == 0).then_some(())
    });
    strange_datagrams(&lab);
    stream.wait_for_more(10);
    stream.lost_nothing();
    assert_eq!(systemd.last_start(), started, "the service was not started again");

    // A restart closes the socket for a moment, and all is well again, under a flood too.
    for _ in 0..3 {
        std::thread::scope(|scope| {
            let flood = scope.spawn(|| strange_datagrams(&lab));
            systemd.ctl(&["restart", SOCKET]).exits(0);
            flood.join().expect("it ends");
        });
        lab.reaches(B, A);
        assert_eq!(systemd.property(SOCKET, "ActiveState"), "active");
    }
    assert_ne!(systemd.last_start(), started);
    // The service alone may be started at any time.
    systemd.ctl(&["start", SERVICE]).exits(0);
    lab.reaches(A, B);
    // The other family has a socket of its own.
    systemd.ctl(&["start", "meshsec-encap6@4500.socket"]).exits(0);
    systemd.last_start();
    let sockets =
        lab.host(A).run(Command::new("ss").args(["-uanH", "sport = :4500"])).exits(0).stdout;
    assert_eq!(sockets.lines().count(), 2, "{sockets}");
    lab.reaches(A, B);
    systemd.ctl(&["stop", SOCKET]).exits(0);
    lab.does_not_reach(B, A);
    lab.meshsec(A, &["status"]).exits(2).says("no socket takes it");
}
