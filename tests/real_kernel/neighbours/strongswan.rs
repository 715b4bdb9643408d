//! strongSwan: its daemon charon with a live CHILD_SA between the mesh's hosts.

use std::{
    fs,
    os::unix::fs::symlink,
    path::PathBuf,
    process::{Child, Command, Stdio},
};

use super::{foreign, stays_through_a_mesh};
use crate::{
    encap::Holder,
    fixture::{A, B, Lab, Underlay, inner, spi},
    namespace::Namespace,
    ping::{self, Stream},
    shell::Ran,
    wait::wait_for,
    xfrm,
};

/// The plugins that charon needs for a pre-shared key, and no more: it starts in a moment.
const PLUGINS: &str = "random nonce aes sha1 sha2 hmac kdf gmp kernel-netlink socket-default vici";

/// A conversation of theirs: ICMP between the two hosts.
const ICMP: &str = "icmp {\n\
                    mode = transport\n\
                    local_ts = dynamic[icmp]\n\
                    remote_ts = dynamic[icmp]\n\
                    esp_proposals = aes128-sha256\n\
                    }\n";

/// charon on a host, with its files in a directory of its own.
pub struct Charon {
    daemon: Child,
    directory: PathBuf,
    host: Namespace,
}

/// Settings that are not the same in every test.
#[derive(Clone)]
struct Settings {
    /// Lines of the daemon's section in strongswan.conf.
    daemon: String,
    plugins: String,
    /// Lines of the connection in swanctl.conf.
    connection: String,
    /// Its children.
    children: String,
}

impl Settings {
    fn new(children: &str) -> Self {
        Self {
            daemon: String::new(),
            plugins: PLUGINS.into(),
            connection: String::new(),
            children: children.into(),
        }
    }
}

impl Charon {
    /// charon on hosts a and b, which know each other.
    fn pair(lab: &Lab, settings: &Settings) -> [Self; 2] {
        Self::two(lab, [settings, settings])
    }

    /// The same, not set up alike.
    fn two(lab: &Lab, settings: [&Settings; 2]) -> [Self; 2] {
        let pair = [A, B].map(|place| Self::start(lab, place, settings[place]));
        pair.iter().for_each(|charon| {
            wait_for("charon to listen", || charon.directory.join("vici").exists().then_some(()));
            charon.load();
        });
        pair
    }

    fn start(lab: &Lab, place: usize, settings: &Settings) -> Self {
        let directory = lab.directory().join(format!("charon-{place}"));
        fs::create_dir_all(&directory).expect("a directory can be made");
        let Settings { daemon, plugins, connection, children } = settings;
        let path = directory.display();
        let conf = format!(
            "charon-systemd {{\nload = {plugins}\ninstall_routes = no\n{daemon}\n\
             filelog {{ log {{ path = {path}/log\n flush_line = yes\n default = 1\n }} }}\n\
             plugins {{ vici {{ socket = unix://{path}/vici\n }} }}\n}}\n\
             swanctl {{ load = random }}\n"
        );
        let (local, remote) = (lab.address(place), lab.address(A + B - place));
        let connections = format!(
            "connections {{ them {{\nversion = 2\nproposals = aes128-sha256-modp1024\n\
             local_addrs = {local}\nremote_addrs = {remote}\n{connection}\
             local {{ auth = psk\n id = {local}\n }}\nremote {{ auth = psk\n id = {remote}\n }}\n\
             children {{\n{children}}}\n}} }}\n\
             secrets {{ ike-them {{ secret = \"a secret of theirs\"\n }} }}\n"
        );
        fs::write(directory.join("strongswan.conf"), conf).expect("a file can be written");
        fs::write(directory.join("swanctl.conf"), connections).expect("a file can be written");
        // A profile of AppArmor goes by the path.
        let program = directory.join("charon");
        if !program.exists() {
            symlink("/usr/sbin/charon-systemd", &program).expect("a link can be made");
        }
        let mut command = Command::new(program);
        command.env("STRONGSWAN_CONF", directory.join("strongswan.conf"));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let host = lab.host(place).clone();
        let daemon = host.spawn(&mut command);
        Self { daemon, directory, host }
    }

    /// `swanctl` with these words.
    fn swanctl(&self, words: &str) -> Ran {
        let mut command = Command::new("swanctl");
        command.env("STRONGSWAN_CONF", self.directory.join("strongswan.conf"));
        command.args(words.split_whitespace());
        command.arg("--uri").arg(format!("unix://{}/vici", self.directory.display()));
        self.host.run(&mut command)
    }

    fn load(&self) {
        let file = self.directory.join("swanctl.conf");
        self.swanctl(&format!("--load-all --file {}", file.display())).exits(0);
    }

    /// Sets up a CHILD_SA.
    fn initiate(&self, child: &str) {
        let ran = self.swanctl(&format!("--initiate --child {child}"));
        assert!(ran.status == 0, "{ran}\n{}", self.log());
    }

    /// Lets it close all that it has, as its service does when it stops.
    fn stop(mut self) {
        let pid = self.daemon.id().to_string();
        crate::shell::run(Command::new("kill").arg(pid)).exits(0);
        self.daemon.wait().expect("it ends");
    }

    fn log(&self) -> String {
        fs::read_to_string(self.directory.join("log")).unwrap_or_default()
    }
}

impl Drop for Charon {
    fn drop(&mut self) {
        let _ = self.daemon.kill();
        let _ = self.daemon.wait();
    }
}

/// How many packets SAs of theirs have carried.
fn carried(host: &Namespace) -> u64 {
    let sas = xfrm::sas(host);
    sas.values().filter(|sa| sa.reqid != super::REQID).map(|sa| sa.packets).sum()
}

/// Fails unless pings between the hosts themselves are answered, and go by SAs of theirs.
#[track_caller]
fn their_ping_works(lab: &Lab) {
    let before = carried(lab.host(A));
    let capture = lab.capture();
    wait_for("answers through their SAs", || {
        (ping::answers(lab.host(A), &lab.address(B), 3) == 3).then_some(())
    });
    capture.stop().is_closed();
    assert!(carried(lab.host(A)) >= before + 6, "their SAs carry nothing");
}

#[test]
#[ignore = "needs a kernel with ESP: cargo xtask test"]
fn strongswans_sas_and_policies_stay_and_work_through_all_of_a_meshs_life() {
    let lab = Lab::new(2);
    let charons = Charon::pair(&lab, &Settings::new(ICMP));
    charons[A].initiate("icmp");
    stays_through_a_mesh(&lab, foreign, || their_ping_works(&lab));
    charons[A].swanctl("--terminate --ike them").exits(0);
    assert_eq!(xfrm::sas(lab.host(A)).len(), 0, "charon could not delete its own");
}

/// A change of any policy may cost a packet that is on a cached route (XfrmInError).
#[test]
#[ignore = "needs a kernel with ESP: cargo xtask test"]
fn strongswan_rekeys_while_the_mesh_rotates_and_both_go_on() {
    let lab = Lab::new(2);
    let charons = Charon::pair(&lab, &Settings::new(ICMP));
    charons[A].initiate("icmp");
    lab.apply_all();
    let (ours, theirs) = (Stream::start(&lab, A, B), Stream::between(&lab, A, &lab.address(B)));
    let counters = |place| xfrm::counters(lab.host(place));
    let before = [A, B].map(counters);
    let capture = lab.capture();
    for generation in 2..5 {
        std::thread::scope(|scope| {
            scope.spawn(|| charons[A].swanctl("--rekey --child icmp").exits(0));
            for place in [A, B] {
                lab.write(place, &lab.mesh.of_generation(generation));
                lab.apply(place);
            }
        });
    }
    let lost = [ours.lost(), theirs.lost()];
    let moved = [A, B].map(|place| xfrm::moved(&before[place], &counters(place)));
    let lost: usize = lost.iter().map(Vec::len).sum();
    let counted: u64 = moved.iter().flat_map(|counters| counters.values()).sum();
    assert!(lost <= 3 && lost as u64 <= counted, "lost {lost}, counted {moved:?}");
    capture.stop().is_closed();
    let rekeyed = charons[A].log().matches("outbound CHILD_SA icmp{").count();
    assert_eq!(rekeyed, 3, "{}", charons[A].log());
    charons.into_iter().for_each(Charon::stop);
    assert_eq!(foreign(lab.host(A)), "", "charon leaves something");
    lab.places().for_each(|place| lab.has_converged(place));
}

#[test]
#[ignore = "needs a kernel with ESP: cargo xtask test"]
fn bypass_policies_of_strongswans_that_outrank_the_guard_are_named_and_left() {
    let mut lab = Lab::new(2);
    lab.apply_all();
    let mut settings = Settings::new(ICMP);
    settings.plugins += " bypass-lan";
    let _charons = Charon::pair(&lab, &settings);
    wait_for("charon's bypass policies", || foreign(lab.host(A)).contains("dir out").then_some(()));
    let theirs = foreign(lab.host(A));
    let plan = lab.meshsec(A, &["plan"]).exits(1);
    plan.says("policy src 192.0.2.0/24 dst 192.0.2.0/24 dir out allow priority 175423  stops all")
        .says("a foreign policy outranks the guard and lets the traffic pass in the clear");
    lab.meshsec(A, &["apply", "--auto-approve"]).exits(1);
    assert_eq!(foreign(lab.host(A)), theirs);
    // Policies of peers rank before theirs.
    let capture = lab.capture();
    lab.reaches(A, B);
    capture.stop().has_only_esp(6);
    lab.mesh.guard = "false";
    lab.write_all(&lab.mesh);
    lab.meshsec(A, &["plan"]).exits(0);
}

/// A shunt that lets the mesh's own traffic pass.
const SHUNT: &str = "shunt {\n\
                     mode = pass\n\
                     priority = 500\n\
                     local_ts = dynamic[udp]\n\
                     remote_ts = dynamic[udp/4000-5000]\n\
                     }\n";

#[test]
#[ignore = "needs a kernel with ESP: cargo xtask test"]
fn a_shunt_of_strongswans_for_a_peers_traffic_is_named_and_left() {
    let lab = Lab::new(2);
    let charons = Charon::pair(&lab, &Settings::new(SHUNT));
    charons[A].swanctl("--install --child shunt").exits(0);
    let theirs = foreign(lab.host(A));
    let plan = lab.meshsec(A, &["plan"]).exits(1);
    plan.says("dir out allow priority 500").says("lets the traffic pass in the clear");
    lab.meshsec(A, &["apply", "--auto-approve"]);
    assert_eq!(foreign(lab.host(A)), theirs);
    charons[A].swanctl("--uninstall --child shunt").exits(0);
    lab.apply_all();
    lab.reaches(A, B);
}

/// charon holds the two ports of IKE, and takes ESP out of UDP at the second. It goes on there, in UDP
/// too, while the mesh's ESP is in UDP at a port of its own.
#[test]
#[ignore = "needs a kernel with ESP: cargo xtask test"]
fn esp_in_udp_goes_beside_strongswans_own_at_another_port() {
    let mut lab = Lab::new(2);
    let mut settings = Settings::new(ICMP);
    settings.connection = "encap = yes\n".into();
    let charons = Charon::pair(&lab, &settings);
    charons[A].initiate("icmp");
    lab.mesh.esp = "encap = 4501";
    lab.write_all(&lab.mesh);
    let holders = [A, B].map(|place| Holder::start(lab.host(place), Underlay::V4, 4501));
    let capture = lab.capture();
    lab.apply_all();
    their_ping_works(&lab);
    lab.reaches(A, B);
    lab.reaches(B, A);
    for place in [A, B] {
        lab.has_converged(place);
        lab.meshsec(place, &["status"]).exits(0).says("1 protected");
    }
    let recording = capture.stop();
    recording.is_closed();
    recording.has_none("esp");
    for port in [4500, 4501] {
        assert!(recording.packets(&format!("udp port {port}")).len() >= 6, "port {port} is used");
    }
    drop(holders);
    lab.meshsec(A, &["plan"]).exits(0).says("ESP that peers send to UDP port 4501 is lost");
    their_ping_works(&lab);
}

/// The port that charon has: its socket takes ESP out of UDP for the mesh too.
#[test]
#[ignore = "needs a kernel with ESP: cargo xtask test"]
fn the_socket_of_strongswan_takes_the_meshs_esp_out_of_udp() {
    let mut lab = Lab::new(2);
    let charons = Charon::pair(&lab, &Settings::new(ICMP));
    lab.mesh.esp = "encap = 4500";
    lab.write_all(&lab.mesh);
    lab.apply_all();
    for place in [A, B] {
        let status = lab.meshsec(place, &["status", "--format", "json"]).json();
        assert_eq!(status["encap"]["answers"], "yes");
    }
    lab.reaches(A, B);
    charons[A].initiate("icmp");
    their_ping_works(&lab);
    drop(charons);
    lab.meshsec(A, &["plan"]).exits(0).says("ESP that peers send to UDP port 4500 is lost");
}

/// SPIs of meshes in generations 16 to 19, modulo 32, are in charon's range.
#[test]
#[ignore = "needs a kernel with ESP: cargo xtask test"]
fn an_spi_that_strongswan_has_drawn_before_us_is_named_and_left() {
    let mut lab = Lab::new(2);
    lab.mesh.generation = 16;
    lab.write_all(&lab.mesh);
    let taken = spi(16, B, A);
    assert!((0xc000_0000..=0xcfff_ffff).contains(&taken));
    let mut settings = Settings::new(ICMP);
    settings.daemon = format!("spi_min = {taken:#x}\nspi_max = {taken:#x}");
    let charons = Charon::two(&lab, [&settings, &Settings::new(ICMP)]);
    charons[A].initiate("icmp");
    assert!(xfrm::sas(lab.host(A)).contains_key(&taken), "charon drew another SPI");
    let theirs = [A, B].map(|place| foreign(lab.host(place)));
    for place in [A, B] {
        let plan = lab.meshsec(place, &["plan"]).exits(1);
        plan.says(&format!("{taken:#x} reqid 0x1  stops peer "))
            .says("a foreign SA has the destination and SPI of an SA of the mesh");
        lab.meshsec(place, &["apply", "--auto-approve"]).exits(3);
    }
    lab.does_not_reach(A, B);
    their_ping_works(&lab);
    assert_eq!([A, B].map(|place| foreign(lab.host(place))), theirs);
    // The way out that the manual tells.
    charons[A].swanctl("--terminate --ike them").exits(0);
    lab.apply_all();
    lab.reaches(A, B);
}

#[test]
#[ignore = "needs a kernel with ESP: cargo xtask test"]
fn strongswan_draws_another_spi_where_ours_is_there_first() {
    let mut lab = Lab::new(2);
    lab.mesh.generation = 16;
    lab.write_all(&lab.mesh);
    lab.apply_all();
    let ours = spi(16, B, A);
    let mut settings = Settings::new(ICMP);
    settings.daemon = format!("spi_min = {ours:#x}\nspi_max = {:#x}", ours + 7);
    let charons = Charon::two(&lab, [&settings, &Settings::new(ICMP)]);
    charons[A].initiate("icmp");
    let sas = xfrm::sas(lab.host(A));
    let theirs = sas.range(ours + 1..=ours + 7).filter(|(_, sa)| sa.reqid == 1).count();
    assert_eq!(theirs, 1, "{}", charons[A].log());
    their_ping_works(&lab);
    lab.reaches(A, B);
    lab.places().for_each(|place| lab.has_converged(place));
}

/// A CHILD_SA for the very traffic of the mesh, from one host to the other.
fn vxlan(local: &str, remote: &str) -> Settings {
    Settings::new(&format!(
        "vxlan {{\nmode = transport\nlocal_ts = dynamic[{local}]\nremote_ts = dynamic[{remote}]\n\
         esp_proposals = aes128-sha256\n}}\n"
    ))
}

/// charon updates a policy that is there already, whosever it is.
#[test]
#[ignore = "needs a kernel with ESP: cargo xtask test"]
fn a_policy_of_ours_that_strongswan_has_taken_over_is_named_and_comes_back() {
    let lab = Lab::new(2);
    lab.apply_all();
    let charons = Charon::two(&lab, [&vxlan("udp", "udp/4789"), &vxlan("udp/4789", "udp")]);
    let capture = lab.capture();
    charons[A].initiate("vxlan");
    let plan = lab.meshsec(A, &["plan"]).exits(1);
    plan.says("a foreign policy has the selector of the mesh's policy").says("stops peer b");
    let theirs = foreign(lab.host(A));
    lab.meshsec(A, &["apply", "--auto-approve"]).exits(1);
    assert_eq!(foreign(lab.host(A)), theirs);
    charons[A].swanctl("--terminate --ike them").exits(0);
    lab.apply_all();
    lab.reaches(A, B);
    capture.stop().is_closed();
}

#[test]
#[ignore = "needs a kernel with ESP: cargo xtask test"]
fn charon_that_is_asked_for_an_sa_of_ours_makes_none_and_apply_heals() {
    let lab = Lab::new(2);
    let charons = Charon::pair(&lab, &Settings::new(ICMP));
    charons[A].initiate("icmp");
    lab.apply_all();
    let spi = spi(1, A, B);
    let sa = format!("src 192.0.2.1 dst 192.0.2.2 proto esp spi {spi:#x}");
    lab.host(A).ip(&format!("xfrm state delete {sa}"));
    let capture = lab.capture();
    ping::answers(lab.host(A), &inner(B), 1);
    wait_for("charon to be asked", || charons[A].log().contains("acquire").then_some(()));
    let larval = xfrm::sas(lab.host(A)).remove(&spi).expect("the kernel puts an SA there");
    assert!(larval.key.is_none(), "{}", larval.text);
    lab.meshsec(A, &["plan"]).exits(0).says("the kernel holds a larval SA in its place");
    lab.apply(A);
    lab.reaches(A, B);
    capture.stop().is_closed();
    their_ping_works(&lab);
}

/// As the manual of strongSwan sets it for a route-based VPN.
#[test]
#[ignore = "needs a kernel with ESP: cargo xtask test"]
fn disable_policy_is_told_on_a_device_of_theirs_and_stops_all_on_the_meshs() {
    // The rules of the second guard look at no sysctl.
    let mut lab = Lab::new(2);
    lab.mesh.guard = "\"xfrm\"";
    lab.write_all(&lab.mesh);
    lab.host(A).ip_batch(
        "link add ipsec0 type xfrm dev eth0 if_id 42\n\
         link set ipsec0 addrgenmode none\nlink set ipsec0 up\n\
         address add 10.99.0.1/24 dev ipsec0\n",
    );
    lab.host(A).set_sysctl("ipv4/conf/ipsec0/disable_policy", "1");
    lab.apply(A).says("packets that come in by ipsec0 pass all policies, the guard too");
    lab.has_converged(A);
    lab.host(A).set_sysctl("ipv4/conf/eth0/disable_policy", "1");
    let plan = lab.meshsec(A, &["plan"]).exits(1);
    plan.says("sysctl net/ipv4/conf/eth0/disable_policy = 1  stops all");
}
