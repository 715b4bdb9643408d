//! MPTCP under kind "all": a connection goes on by addresses that no policy covers.

use std::{
    io::{BufRead, BufReader},
    process::{Child, Command, Stdio},
};

use crate::{
    capture::MARKER,
    fixture::{A, B, Lab, underlay_mac},
    iptables::Backend,
    wait::wait_for,
};

/// The second addresses of hosts a and b.
const OTHERS: [&str; 2] = ["198.51.100.1", "198.51.100.2"];

/// One end of a connection of MPTCP (IPPROTO_MPTCP). The client sends until it is killed.
const TALK: &str = "
import socket, sys, time
side, address, marker = sys.argv[1:]
it = socket.socket(socket.AF_INET, socket.SOCK_STREAM, 262)
if side == 'server':
    it.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    it.bind((address, 5000))
    it.listen()
    print('listens', flush=True)
    # A subflow is taken by the socket that listens.
    client, _ = it.accept()
    while client.recv(65536):
        pass
else:
    it.connect((address, 5000))
    while True:
        it.send(marker.encode() * 50)
        time.sleep(0.01)
";

/// An end that is killed when this is dropped.
struct End(Child);

impl Drop for End {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn end(lab: &Lab, place: usize, side: &str) -> End {
    let marker = String::from_utf8_lossy(MARKER);
    let mut python = Command::new("python3");
    python.args(["-c", TALK, side, &lab.address(B), &marker]).stdout(Stdio::piped());
    End(lab.host(place).spawn(&mut python))
}

/// Two hosts with a second address each, which are told of to no path manager.
fn lab() -> Lab {
    let mut lab = Lab::new(2);
    (lab.mesh.traffic, lab.mesh.guard) = ("kind = \"all\"", "false");
    lab.write_all(&lab.mesh);
    for (place, other) in OTHERS.iter().enumerate() {
        lab.host(place).set_sysctl("mptcp/enabled", "1");
        lab.host(place).ip(&format!("address add {other}/24 dev eth0"));
        let (far, mac) = (OTHERS[1 - place], underlay_mac(1 - place));
        lab.host(place).ip(&format!("neigh replace {far} lladdr {mac} dev eth0"));
    }
    lab.apply_all();
    lab
}

/// A connection from a to b, on which data flow.
fn connection(lab: &Lab) -> [End; 2] {
    let mut server = end(lab, B, "server");
    let mut said = BufReader::new(server.0.stdout.take().expect("it is piped"));
    said.read_line(&mut String::new()).expect("the server listens");
    let client = end(lab, A, "client");
    has_sent(lab, &lab.address(A));
    [server, client]
}

/// Waits until data have left a from an address, by a subflow to b.
fn has_sent(lab: &Lab, from: &str) {
    wait_for(&format!("data from {from}"), || {
        let mut ss = Command::new("ss");
        let shown = lab.host(A).run(ss.args(["-tniH", "src", from])).exits(0).stdout;
        (shown.contains("bytes_sent:") && shown.contains("mptcp")).then_some(())
    });
}

#[test]
#[ignore = "needs a kernel with ESP: cargo xtask test"]
fn a_connection_without_other_addresses_is_protected() {
    let lab = lab();
    let capture = lab.capture();
    drop(connection(&lab));
    let recording = capture.stop();
    assert!(!recording.packets("esp").is_empty(), "nothing was sent");
    recording.has_none("tcp");
}

/// Data of one connection leave encrypted by one subflow, and in the clear by the other; the plan
/// warns of the address.
#[test]
#[ignore = "needs a kernel with ESP: cargo xtask test"]
fn a_subflow_by_another_address_leaves_in_the_clear_and_the_plan_warns() {
    let lab = lab();
    lab.host(A).ip(&format!("mptcp endpoint add {} dev eth0 subflow", OTHERS[A]));
    let warning = "packets to a peer from another address than 192.0.2.1 are not protected, and \
                   this host also has 10.42.0.1, 198.51.100.1";
    lab.meshsec(A, &["plan"]).exits(0).says(warning);
    let capture = lab.capture();
    let connection = connection(&lab);
    wait_for("a second subflow", || {
        let mut ss = Command::new("ss");
        let ss = ss.args(["-tnH", "state", "established", "src", OTHERS[A]]);
        (!lab.host(A).run(ss).exits(0).stdout.is_empty()).then_some(())
    });
    // Without the first subflow, all data go by the second.
    Backend::Nft.tables(lab.host(A), crate::fixture::Underlay::V4, "-A OUTPUT -p esp -j DROP");
    has_sent(&lab, OTHERS[A]);
    drop(connection);
    let recording = capture.stop();
    assert!(!recording.marked(&format!("tcp and src host {}", OTHERS[A])).is_empty());
    recording.has_none(&format!("tcp and host {} and host {}", lab.address(A), lab.address(B)));
}

/// A host joins an address that the other one announces, if it accepts any.
#[test]
#[ignore = "needs a kernel with ESP: cargo xtask test"]
fn an_address_that_the_other_host_announces_is_joined_in_the_clear() {
    let lab = lab();
    lab.host(B).ip(&format!("mptcp endpoint add {} dev eth0 signal", OTHERS[B]));
    let joins = format!("tcp[tcpflags] & tcp-syn != 0 and dst host {}", OTHERS[B]);
    for (accepted, joined) in [(0, false), (1, true)] {
        lab.host(A).ip(&format!("mptcp limits set subflow 2 add_addr_accepted {accepted}"));
        let capture = lab.capture();
        let connection = connection(&lab);
        std::thread::sleep(std::time::Duration::from_secs(2));
        drop(connection);
        assert_eq!(!capture.stop().packets(&joins).is_empty(), joined, "{accepted}");
    }
}
