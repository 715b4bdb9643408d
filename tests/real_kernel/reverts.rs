//! The way back from an apply that nobody has confirmed, beside objects that others have set up
//! before it or meanwhile.

use std::{
    fs,
    io::{Read, Write},
    os::{
        linux::net::SocketAddrExt,
        unix::{
            fs::{PermissionsExt, symlink},
            net::{SocketAddr, UnixStream},
        },
    },
    path::PathBuf,
    process::Command,
    thread,
    time::Duration,
};

use crate::{
    capture::Recording,
    confirm::{LONG, Waiting, databases},
    fixture::{A, B, C, Lab, Underlay, inner},
    iptables::Backend,
    ping,
    wait::wait_for,
    xfrm,
};

/// Bytes that pings carry, and no header does.
const MARKER: &str = "SECRET-PLAINTEXT";

/// A foreign policy that comes before all of the mesh's, and concerns none of its packets.
const BESIDE: &str = "src 10.9.0.0/16 dst 10.9.0.0/16 dir out priority 5";

type Spoil = fn(&Lab);

/// Sends pings that carry the marker.
fn send_marked(lab: &Lab, from: usize, to: usize) {
    let pattern: String = MARKER.bytes().map(|byte| format!("{byte:02x}")).collect();
    let mut ping = Command::new("ping");
    ping.args(["-n", "-q", "-i", "0.05", "-W", "1", "-c", "10", "-s", "100", "-p", &pattern]);
    lab.host(from).run(ping.arg(inner(to)));
}

/// How often the marker is in the packets that have passed.
fn markers(recording: &Recording) -> usize {
    let bytes = fs::read(recording.path()).expect("the recording can be read");
    bytes.windows(MARKER.len()).filter(|window| *window == MARKER.as_bytes()).count()
}

fn destroying(lab: &Lab) -> Waiting {
    Waiting::start(lab, &["destroy", "--auto-approve", "--confirm-within", LONG])
}

#[test]
#[ignore = "needs a kernel with ESP: cargo xtask test"]
fn a_destroy_is_reverted_whatever_others_have_set_up_before_or_meanwhile() {
    let lab = Lab::new(2);
    lab.apply_all();
    let host = lab.host(A);
    let spoil: [(&str, Spoil); 3] = [
        ("a policy", |lab| _ = lab.host(A).ip(&format!("xfrm policy add {BESIDE}"))),
        ("a sysctl of all", |lab| lab.host(A).set_sysctl("ipv6/conf/all/disable_policy", "1")),
        ("a policy of the peer's", |lab| {
            let (us, them) = (lab.address(A), lab.address(B));
            let words = format!("src {us} dst {them} proto tcp dir out priority 5");
            lab.host(A).ip(&format!("xfrm policy add {words}"));
        }),
    ];
    for (name, spoil) in spoil {
        let waiting = destroying(&lab);
        let capture = lab.capture();
        send_marked(&lab, A, B);
        assert!(markers(&capture.stop()) > 0, "{name}: what can't see it proves nothing");
        spoil(&lab);
        waiting.signal("TERM");
        waiting.end().exits(1).says("Reverted: ").says("holds what it held before");
        let (before, capture) = (databases(host), lab.capture());
        lab.reaches(A, B);
        send_marked(&lab, A, B);
        let recording = capture.stop();
        recording.has_only_esp(20);
        assert_eq!(markers(&recording), 0, "{name}");
        // And now it was there before.
        let waiting = destroying(&lab);
        waiting.signal("TERM");
        waiting.end().exits(1).says("Reverted: ");
        assert_eq!(databases(host), before, "{name}");
        lab.reaches(A, B);
    }
}

#[test]
#[ignore = "needs a kernel with ESP: cargo xtask test"]
fn an_apply_that_cuts_the_host_off_is_reverted_though_somebody_changes_sysctls_meanwhile() {
    let mut lab = Lab::new(2);
    lab.mesh.traffic = "kind = \"all\"";
    lab.mesh.guard = "false";
    lab.write_all(&lab.mesh);
    let waiting = Waiting::start(&lab, &["apply", "--auto-approve", "--confirm-within", LONG]);
    assert_eq!(ping::answers(lab.host(A), &lab.address(B), 3), 0, "it is cut off");
    // As somebody at the console does who wants to get in at once.
    lab.host(A).set_sysctl("ipv4/conf/eth0/disable_policy", "1");
    let (us, them) = (lab.address(A), lab.address(B));
    lab.host(A).ip(&format!("xfrm policy add src {us} dst {them}/31 dir out priority 1"));
    waiting.signal("INT");
    waiting.end().exits(1).says("Interrupted; reverting all of it.").says("Reverted: ");
    assert_eq!(databases(lab.host(A)).len(), 1, "the foreign policy alone");
    assert_eq!(ping::answers(lab.host(A), &lab.address(B), 3), 3);
}

#[test]
#[ignore = "needs a kernel with ESP: cargo xtask test"]
fn what_something_foreign_has_taken_meanwhile_is_named_and_all_else_comes_back() {
    let lab = Lab::new(3);
    lab.apply_all();
    let (us, them) = (lab.address(A), lab.address(B));
    let words = ["destroy", "--auto-approve", "--confirm-within", LONG, "--format", "json"];
    let waiting = Waiting::start(&lab, &words);
    let taken = format!("src {us}/32 dst {them}/32 proto udp dport 4789 dir out");
    lab.host(A).ip(&format!("xfrm policy add {taken} action block priority 7"));
    waiting.signal("HUP");
    let report = waiting.end().exits(3).json();
    let confirmation = &report["confirmation"];
    assert_eq!(confirmation["reverted"], false);
    assert_eq!(
        confirmation["not_as_before"],
        serde_json::json!([format!("policy {taken} is missing")])
    );
    assert_eq!(confirmation["failed"], serde_json::json!([]));
    assert_eq!(xfrm::sas(lab.host(A)).len(), 8, "all SAs are back, those with b too");
    lab.reaches(A, C);
    lab.does_not_reach(A, B);
    lab.host(A).ip(&format!("xfrm policy delete {taken}"));
    lab.apply(A);
    lab.reaches(A, B);
}

/// Programs of iptables that fail while the file that is returned is there.
fn that_may_fail(lab: &mut Lab, backend: Backend) -> PathBuf {
    let (directory, flag) = (lab.directory().join("lockable"), lab.directory().join("locked"));
    fs::create_dir_all(&directory).expect("a directory can be made");
    for program in ["iptables", "ip6tables"] {
        let real = format!("/usr/sbin/{program}-{}", backend.suffix());
        symlink(&real, directory.join(program)).expect("a link can be made");
        for name in ["save", "restore"] {
            let path = directory.join(format!("{program}-{}-{name}", backend.suffix()));
            let script = format!(
                "#!/bin/sh\n[ -e '{}' ] && {{ echo 'Another app holds the xtables lock.' >&2; \
                 exit 4; }}\nexec {real}-{name} \"$@\"\n",
                flag.display()
            );
            fs::write(&path, script).expect("a script can be written");
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("it may be run");
        }
    }
    lab.hidden = vec![(directory, "/usr/local/sbin")];
    flag
}

#[test]
#[ignore = "needs a kernel with ESP: cargo xtask test"]
fn a_locked_iptables_is_waited_for_and_keeps_nothing_else_from_coming_back() {
    let mut lab = Backend::Nft.lab(&[Underlay::V4; 2]);
    lab.apply_all();
    let flag = that_may_fail(&mut lab, Backend::Nft);
    let (before, rules) = (databases(lab.host(A)), Backend::Nft.saved(lab.host(A)));
    let waiting = destroying(&lab);
    fs::write(&flag, "").expect("a file can be made");
    waiting.signal("TERM");
    thread::sleep(Duration::from_millis(1500));
    fs::remove_file(&flag).expect("it is there");
    waiting.end().exits(1).says("trying again").says("Reverted: ");
    assert_eq!(databases(lab.host(A)), before);
    assert_eq!(Backend::Nft.saved(lab.host(A)), rules);

    let waiting = destroying(&lab);
    fs::write(&flag, "").expect("a file can be made");
    waiting.signal("TERM");
    waiting.end().exits(3).says("Not reverted as a whole").says("chains can't be looked at");
    assert_eq!(databases(lab.host(A)), before, "SAs and policies are back");
    fs::remove_file(&flag).expect("it is there");
    lab.apply(A);
    lab.has_converged(A);
    lab.reaches(A, B);
}

#[test]
#[ignore = "needs a kernel with ESP: cargo xtask test"]
fn a_confirmation_from_before_the_last_step_counts_for_nothing() {
    let lab = Lab::new(2);
    lab.apply_all();
    lab.write(A, &lab.mesh.of_generation(2));
    let words = ["apply", "--auto-approve", "--confirm-within", "3s"];
    let mut command = lab.command(A, &words);
    let apply = thread::spawn(move || crate::shell::run(&mut command));
    // As `meshsec confirm` does, as soon as there is anybody to ask: before the first step.
    let mut early = lab.host(A).inside(|| wait_for("apply to begin", connected));
    early.write_all(b"confirm\n").expect("it is read");
    let mut answer = String::new();
    early.read_to_string(&mut answer).expect("it answers");
    assert_eq!(answer, "early\n");
    let ran = apply.join().expect("it does not panic").exits(1);
    ran.says("Not confirmed in time").says("Reverted: ");
}

/// A connection to the apply that is to be confirmed.
fn connected() -> Option<UnixStream> {
    let sockets = fs::read_to_string("/proc/thread-self/net/unix").expect("it is there");
    let mut words = sockets.lines().filter_map(|line| line.split_whitespace().last());
    let name = words.find_map(|word| {
        word.strip_prefix('@').filter(|name| name.starts_with("meshsec-confirm-"))
    })?;
    let address = SocketAddr::from_abstract_name(name).expect("it is short");
    UnixStream::connect_addr(&address).ok()
}
