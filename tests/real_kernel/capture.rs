//! What passes the switch, as tcpdump sees it.

use std::{
    fs,
    io::{BufRead, BufReader},
    net::UdpSocket,
    path::{Path, PathBuf},
    process::{Child, ChildStderr, Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
};

use crate::{
    fixture::{A, Lab},
    namespace::Namespace,
    shell,
    wait::wait_for,
};

/// Packets that a protected mesh has nothing to do with: neighbour discovery,
/// multicast listener reports (ICMPv6 behind a hop-by-hop header), and the mark
/// that ends a recording.
const HARMLESS: &str = "arp or (icmp6 and ip6[40] >= 133 and ip6[40] <= 137) \
                        or (ip6[6] = 0 and ip6[40] = 58) or udp port 9";

/// For IPv6, tcpdump's `esp` does not see behind a fragment header.
const FRAGMENT_OF_ESP: &str = "(ip6[6] = 44 and ip6[40] = 50)";

/// VXLAN that nothing protects. tcpdump's `udp` is of both families.
pub const CLEAR: &str = "udp port 4789";

/// A recording under way.
pub struct Capture {
    tcpdump: Child,
    /// Held open, or tcpdump dies of what it says at its end.
    _said: BufReader<ChildStderr>,
    file: PathBuf,
    marker: Namespace,
}

/// A finished recording.
pub struct Recording {
    file: PathBuf,
}

impl Capture {
    /// Returns once tcpdump listens.
    pub fn start(lab: &Lab) -> Self {
        static SERIAL: AtomicU32 = AtomicU32::new(0);
        let serial = SERIAL.fetch_add(1, Ordering::Relaxed);
        let file = lab.directory().join(format!("wire-{serial}.pcap"));
        let mut command = Command::new("tcpdump");
        // Immediate mode and -U: no packet waits in a buffer that the end would cut off.
        command.args(["-i", "br0", "-n", "-Z", "root", "--immediate-mode", "-U"]);
        // The buffer has a place of the largest length for every packet: room for a burst.
        command.args(["-s", "65535", "-B", "8192", "-w"]).arg(&file);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut tcpdump = lab.wire.spawn(&mut command);
        let mut said = BufReader::new(tcpdump.stderr.take().expect("it is piped"));
        let mut words = String::new();
        while !words.contains("listening on") {
            let read = said.read_line(&mut words).expect("tcpdump speaks UTF-8");
            assert!(read > 0, "tcpdump did not start: {words}");
        }
        Self { tcpdump, _said: said, file, marker: lab.host(A).clone() }
    }

    /// The recording's name in the laboratory's directory.
    pub fn name(&self) -> String {
        let name = self.file.file_name().expect("it is a file");
        name.to_string_lossy().into_owned()
    }

    /// Ends it once everything that has passed is in the file.
    ///
    /// A last packet says so: what was sent before it was recorded before it.
    pub fn stop(mut self) -> Recording {
        let mark = b"end of the recording";
        self.marker.inside(|| {
            let socket = UdpSocket::bind("192.0.2.1:0").expect("host a has this address");
            socket.set_broadcast(true).expect("any socket may broadcast");
            // Port 9 is discard; nobody answers a broadcast.
            socket.send_to(mark, "192.0.2.255:9").expect("the switch takes a broadcast");
        });
        wait_for("the last packet to be recorded", || {
            let bytes = fs::read(&self.file).unwrap_or_default();
            bytes.windows(mark.len()).any(|window| window == mark).then_some(())
        });
        self.end();
        Recording { file: self.file.clone() }
    }

    fn end(&mut self) {
        let _ = self.tcpdump.kill();
        let _ = self.tcpdump.wait();
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        self.end();
    }
}

impl Recording {
    /// The file, as tcpdump wrote it.
    pub fn path(&self) -> &Path {
        &self.file
    }

    /// The packets that match, a line each.
    #[track_caller]
    pub fn packets(&self, filter: &str) -> Vec<String> {
        let mut command = Command::new("tcpdump");
        command.args(["-nn", "-t", "-r"]).arg(&self.file).arg(filter);
        shell::run(&mut command).exits(0).stdout.lines().map(String::from).collect()
    }

    /// Fails if a packet matches.
    #[track_caller]
    pub fn has_none(&self, filter: &str) {
        let packets = self.packets(filter);
        let shown = &packets[..packets.len().min(10)];
        assert!(packets.is_empty(), "{} packets match {filter:?}: {shown:#?}", packets.len());
    }

    /// Fails if there is anything but ESP, or too little of that.
    #[track_caller]
    pub fn has_only_esp(&self, at_least: usize) {
        self.has_none(&format!("not (esp or {FRAGMENT_OF_ESP} or {HARMLESS})"));
        let esp = self.packets("esp").len();
        assert!(esp >= at_least, "{esp} packets of ESP, wanted {at_least}");
    }

    /// Fails if there are fewer clear VXLAN packets: what can't see them proves nothing elsewhere.
    #[track_caller]
    pub fn has_clear(&self, at_least: usize) {
        let clear = self.packets(CLEAR).len();
        assert!(clear >= at_least, "{clear} packets of clear VXLAN, wanted {at_least}");
    }
}
