//! Sites: gateways on one underlay, each with a network of both families and a host in it.

use std::process::Command;

use crate::{
    capture::Capture,
    fixture::{Lab, Underlay},
    namespace::Namespace,
    ping,
    random::Random,
    shell::{self, Ran},
};

/// The families of packets between sites.
pub const FAMILIES: [Underlay; 2] = [Underlay::V4, Underlay::V6];

/// Gateways that are the hosts of a laboratory, and a host behind each.
pub struct Sites {
    pub lab: Lab,
    inner: Vec<Namespace>,
}

/// An address in the network of the site in this place.
pub fn address(family: Underlay, place: usize, host: usize) -> String {
    match family {
        Underlay::V4 => format!("10.{}.0.{host}", place + 1),
        Underlay::V6 => format!("fd00:{}::{host}", place + 1),
    }
}

/// The network of the site in this place.
pub fn network(family: Underlay, place: usize) -> String {
    match family {
        Underlay::V4 => format!("10.{}.0.0/16", place + 1),
        Underlay::V6 => format!("fd00:{}::/48", place + 1),
    }
}

/// The number of the gateway in each network, and that of the host behind it.
const GATEWAY: usize = 1;
pub const HOST: usize = 7;

impl Sites {
    /// This many, with a file for each gateway. Without a mesh all of their packets go to a router of
    /// the underlay, so that whatever leaks can be read there.
    pub fn over(underlay: Underlay, number: usize) -> Self {
        let mut lab = Lab::over(&vec![underlay; number]);
        lab.mesh.traffic = "kind = \"networks\"";
        lab.mesh.guard = "";
        for (place, peer) in lab.mesh.peers.iter_mut().enumerate() {
            let networks = FAMILIES.map(|family| format!("\"{}\"", network(family, place)));
            peer.lines = format!("networks = [{}]\n", networks.join(", "));
        }
        lab.write_all(&lab.mesh);
        let inner = lab.places().map(|place| Namespace(format!("{}-lan", lab.host(place).0)));
        let sites = Self { inner: inner.collect(), lab };
        sites.lab.wire.ip_batch(
            "address add 192.0.2.254/24 dev br0\naddress add 2001:db8::fe/64 dev br0 nodad\n",
        );
        sites.lab.places().for_each(|place| sites.configure(place));
        sites
    }

    fn configure(&self, place: usize) {
        let (gateway, inner) = (self.lab.host(place), self.inner(place));
        shell::ip_batch(&format!(
            "netns add {1}\nlink add lan0 netns {0} type veth peer name eth0 netns {1}\n",
            gateway.0, inner.0
        ));
        // The first packets over IPv6 would wait for link-local addresses.
        for (namespace, device) in [(gateway, "lan0"), (inner, "eth0")] {
            for of in ["all", device] {
                namespace.set_sysctl(&format!("ipv6/conf/{of}/accept_dad"), "0");
            }
        }
        let at = |family, host| address(family, place, host);
        let [v4, v6] = FAMILIES;
        gateway.ip_batch(&format!(
            "link set lan0 up\n\
             address add {}/16 dev lan0\naddress add {}/48 dev lan0 nodad\n\
             address add fe80::{}/64 dev eth0 nodad\n\
             route add default via 192.0.2.254\nroute add default via 2001:db8::fe\n",
            at(v4, GATEWAY),
            at(v6, GATEWAY),
            // Whoever forwards asks for the router's link-layer address from a link-local one.
            place + 1
        ));
        for name in ["ipv4/ip_forward", "ipv6/conf/all/forwarding"] {
            gateway.set_sysctl(name, "1");
        }
        inner.ip_batch(&format!(
            "link set lo up\nlink set eth0 up\n\
             address add {}/16 dev eth0\naddress add {}/48 dev eth0 nodad\n\
             route add default via {}\nroute add default via {}\n",
            at(v4, HOST),
            at(v6, HOST),
            at(v4, GATEWAY),
            at(v6, GATEWAY)
        ));
    }

    /// The host behind a gateway.
    pub fn inner(&self, place: usize) -> &Namespace {
        &self.inner[place]
    }

    /// The number of answers to pings from one site's host to another's, of three in each family.
    pub fn answers(&self, from: usize, to: usize) -> [u32; 2] {
        FAMILIES.map(|family| ping::answers(self.inner(from), &address(family, to, HOST), 3))
    }

    /// Fails unless all are answered.
    #[track_caller]
    pub fn reaches(&self, from: usize, to: usize) {
        assert_eq!(self.answers(from, to), [3, 3], "from site {from} to site {to}");
    }

    /// Fails if any packet that hosts of two sites send each other meanwhile can be read on the
    /// underlay.
    #[track_caller]
    pub fn is_closed(&self, from: usize, to: usize) {
        let capture = self.lab.capture();
        self.answers(from, to);
        self.answers(to, from);
        capture.stop().is_closed();
    }

    /// Begins to record the underlay.
    pub fn capture(&self) -> Capture {
        self.lab.capture()
    }

    /// Applies on all gateways in a random order, each at a moment of its own.
    pub fn apply_at_random(&self, random: &mut Random) {
        self.lab.all_at_random(random, &["apply", "--auto-approve"]);
    }

    /// A ping of a size from a site's host to another's, whose packets must not be cut up.
    pub fn ping_of(&self, family: Underlay, [from, to]: [usize; 2], bytes: usize) -> Ran {
        let mut ping: Command = ping::command();
        let size = bytes.to_string();
        ping.args(["-q", "-c", "2", "-i", "0.2", "-W", "1", "-M", "do", "-s", &size]);
        ping.arg(address(family, to, HOST));
        self.inner(from).run(&mut ping)
    }
}

impl Drop for Sites {
    fn drop(&mut self) {
        let lines: String =
            self.inner.iter().map(|inner| format!("netns delete {}\n", inner.0)).collect();
        let mut command = Command::new("ip");
        command.args(["-force", "-batch", "-"]);
        let _ = shell::run_with(&mut command, &lines);
    }
}
