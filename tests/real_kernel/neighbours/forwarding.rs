//! Rules as docker and kube-proxy make them, with a service that works through them.

use std::{
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    thread,
    time::Duration,
};

use super::stays_through_a_mesh;
use crate::{
    fixture::{A, B, Lab, Underlay},
    iptables::{Backend, MARK},
    namespace::Namespace,
    shell,
};

const RULES: &str = include_str!("forwarding.rules");

/// A container on host a, behind docker0.
struct Container(Namespace);

impl Container {
    const ADDRESS: &str = "172.17.0.2:80";

    fn start(lab: &Lab) -> Self {
        let host = lab.host(A);
        let container = Self(Namespace(format!("{}-container", host.0)));
        let name = &container.0.0;
        shell::ip(&format!("netns add {name}"));
        host.ip_batch(&format!(
            "link add docker0 type bridge\nlink set docker0 addrgenmode none\n\
             address add 172.17.0.1/16 dev docker0\nlink set docker0 up\n\
             link add veth0 type veth peer name eth0 netns {name}\n\
             link set veth0 addrgenmode none master docker0 up\n\
             route add 10.96.0.0/16 dev eth0\n"
        ));
        container.0.ip_batch(
            "link set lo up\nlink set eth0 up\naddress add 172.17.0.2/16 dev eth0\n\
             route add default via 172.17.0.1\n",
        );
        host.set_sysctl("ipv4/ip_forward", "1");
        container
    }

    /// Fails unless its service answers at the port that docker publishes, asked by host b, and
    /// at the address that kube-proxy gives it, asked by its own host.
    #[track_caller]
    fn serves(&self, lab: &Lab) {
        let listener =
            self.0.inside(|| TcpListener::bind(Self::ADDRESS).expect("the port is free"));
        let server = thread::spawn(move || {
            for _ in 0..2 {
                let (mut client, _) = listener.accept().expect("somebody connects");
                client.write_all(b"served").expect("the answer can be sent");
            }
        });
        for (place, address) in [(B, "192.0.2.1:8080"), (A, "10.96.0.10:80")] {
            let address = address.parse().expect("it is an address");
            let limit = Duration::from_secs(30);
            let connect = || TcpStream::connect_timeout(&address, limit);
            let mut client = lab.host(place).inside(connect).expect("the service answers");
            client.set_read_timeout(Some(limit)).expect("a timeout can be set");
            let mut answer = String::new();
            client.read_to_string(&mut answer).expect("the answer arrives");
            assert_eq!(answer, "served");
        }
        server.join().expect("the server does not panic");
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        let _ = shell::run(std::process::Command::new("ip").args(["netns", "delete", &self.0.0]));
    }
}

/// All rules but those of our chains, and the rules that lead to them.
fn theirs(backend: Backend, host: &Namespace) -> String {
    let ours = MARK.trim_end_matches("MARK");
    let text = backend.saved(host);
    text.lines().filter(|line| !line.contains(ours)).map(|line| format!("{line}\n")).collect()
}

fn stay(backend: Backend, traffic: &'static str) {
    let mut lab = backend.lab(&[Underlay::V4; 2]);
    lab.mesh.traffic = traffic;
    lab.write_all(&lab.mesh);
    for place in [A, B] {
        let host = lab.host(place);
        backend.restore(host, Underlay::V4, RULES);
        for table in ["filter", "mangle"] {
            backend.tables(host, Underlay::V6, &format!("-t {table} -N KUBE-PROXY-CANARY"));
        }
    }
    let container = Container::start(&lab);
    assert!(!lab.meshsec(A, &["plan"]).exits(0).stdout.contains("shares bits"));
    let shown = |host: &Namespace| theirs(backend, host);
    stays_through_a_mesh(&lab, shown, || container.serves(&lab));
    assert!(!backend.saved(lab.host(A)).contains("MESHSEC"), "destroy left something");
}

#[test]
#[ignore = "needs a kernel with ESP: cargo xtask test"]
fn rules_like_dockers_and_kube_proxys_stay_and_work_beside_a_mesh_by_mark() {
    for backend in super::backends(Backend::Nft) {
        stay(backend, crate::iptables::BY_MARK);
    }
}

#[test]
#[ignore = "needs a kernel with ESP: cargo xtask test"]
fn rules_like_dockers_and_kube_proxys_stay_and_work_beside_a_mesh_by_port() {
    for backend in super::backends(Backend::Legacy) {
        stay(backend, "kind = \"vxlan\"");
    }
}
