//! Packets that pass the switch, as tcpdump sees them.

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

/// The bytes that every ping, datagram and stream of these tests carries. Where they can be read on
/// the wire, something has leaked, by any protocol and port.
pub const MARKER: &[u8; 16] = b"SECRETPLAINTEXT!";

/// VXLAN that nothing protects. tcpdump's `udp` is of both families.
const CLEAR: &str = "udp port 4789";

/// A filter that every packet matches.
const ANY: &str = "greater 1";

/// A recording under way.
pub struct Capture {
    tcpdump: Child,
    /// Held open, or tcpdump dies of its output at its end.
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
    /// A last packet says so: packets sent before it were recorded before it.
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

    /// The packets that match and in which the marker can be read.
    #[track_caller]
    pub fn marked(&self, filter: &str) -> Vec<Vec<u8>> {
        let selected = self.file.with_extension("selected");
        let mut command = Command::new("tcpdump");
        command.arg("-r").arg(&self.file).arg("-w").arg(&selected).arg(filter);
        shell::run(&mut command).exits(0);
        let bytes = fs::read(&selected).expect("tcpdump has written it");
        let shows = |packet: &&[u8]| packet.windows(MARKER.len()).any(|window| window == MARKER);
        packets_of(&bytes).into_iter().filter(shows).map(<[u8]>::to_vec).collect()
    }

    /// Fails if the marker can be read in any packet, or if one is clear VXLAN.
    #[track_caller]
    pub fn is_closed(&self) {
        self.is_closed_for(ANY);
    }

    /// Fails if the marker can be read in a packet that matches, or if one is clear VXLAN.
    #[track_caller]
    pub fn is_closed_for(&self, filter: &str) {
        let marked = self.marked(filter);
        let first = marked.first().map(|packet| String::from_utf8_lossy(packet).into_owned());
        assert!(
            marked.is_empty(),
            "the marker can be read in {} packets, the first {first:?}, of {:#?}",
            marked.len(),
            self.packets(&format!("({filter}) and not esp")),
        );
        self.has_none(&format!("({filter}) and {CLEAR}"));
    }

    /// Fails if there is anything but ESP, or too little of that.
    #[track_caller]
    pub fn has_only_esp(&self, at_least: usize) {
        self.is_closed();
        self.has_none(&format!("not (esp or {FRAGMENT_OF_ESP} or {HARMLESS})"));
        let esp = self.packets("esp").len();
        assert!(esp >= at_least, "{esp} packets of ESP, wanted {at_least}");
    }

    /// Fails if the marker can be read in fewer packets of clear VXLAN: a capture that can't see it
    /// there proves nothing elsewhere.
    #[track_caller]
    pub fn has_clear(&self, at_least: usize) {
        let clear = self.marked(CLEAR).len();
        assert!(clear >= at_least, "{clear} packets of clear VXLAN, wanted {at_least}");
    }
}

/// The packets of a pcap file: behind a header of 24 bytes, each behind one of 16, which has its
/// length in bytes 8 to 12, in the byte order of this machine.
fn packets_of(file: &[u8]) -> Vec<&[u8]> {
    let mut rest = &file[24..];
    let mut packets = Vec::new();
    while let Some((header, behind)) = rest.split_at_checked(16) {
        let length = header[8..12].try_into().map(u32::from_ne_bytes).expect("four bytes");
        let (packet, behind) = behind.split_at(length as usize);
        packets.push(packet);
        rest = behind;
    }
    packets
}
