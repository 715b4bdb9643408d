//! A local user without any right who takes every name and lock that can be had.

use std::{
    io::{BufRead, BufReader},
    process::{Child, Command, Stdio},
};

use crate::{
    confirm::{LONG, Waiting},
    fixture::{A, Lab},
};

/// Takes names of sockets and locks of files, as far as an ordinary user can, and poses as an
/// apply that was confirmed.
const SQUATTER: &str = "
import fcntl, os, socket, sys, threading
os.setgroups([]); os.setresgid(65534, 65534, 65534); os.setresuid(65534, 65534, 65534)
sockets = []
def listen(name, answer):
    s = socket.socket(socket.AF_UNIX); s.bind('\\0' + name); s.listen(1); sockets.append(s)
    def serve():
        while answer:
            c, _ = s.accept(); c.recv(99); c.sendall(answer); c.close()
    threading.Thread(target=serve, daemon=True).start()
forged = b'confirmed \\x1b]0;pwned\\x07\\x1b[2Jlab stays as it is\\n'
listen('meshsec-lock', None)
listen('meshsec-confirm', forged)
listen('meshsec-confirm-0000000000000000', forged)
held = []
for path in sys.argv[1:]:
    for name in [path] + [os.path.join(path, n) for n in os.listdir(path)]:
        try:
            f = os.open(name, os.O_RDONLY); fcntl.flock(f, fcntl.LOCK_EX | fcntl.LOCK_NB); held.append(name)
        except OSError: pass
print(len(held), flush=True)
sys.stdin.read()
";

struct Squatter(Child);

impl Squatter {
    fn on(lab: &Lab) -> Self {
        let directory = lab.file(A).with_file_name("");
        let mut command = Command::new("python3");
        command.args(["-c", SQUATTER]).arg(directory);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = lab.host(A).spawn(&mut command);
        let mut held = String::new();
        let mut said = BufReader::new(child.stdout.take().expect("it is piped"));
        said.read_line(&mut held).expect("it says what it holds");
        assert_eq!(held, "2\n", "the directory and mesh.toml");
        Self(child)
    }
}

impl Drop for Squatter {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
#[ignore = "needs a kernel with ESP: cargo xtask test"]
fn who_has_no_rights_keeps_nothing_from_being_applied_turned_or_confirmed() {
    let mut lab = Lab::new(2);
    lab.mesh.keys = "ratchet = { file = \"ratchet\" }";
    lab.mesh.generation = 5;
    lab.write_all(&lab.mesh);
    for place in lab.places() {
        let ratchet = meshsec::keys::Ratchet::begin(
            &meshsec::model::Key::new(Box::new([7; 32])),
            &meshsec::model::MeshName::new("lab").expect("a name"),
        );
        let at = meshsec::model::Generation::new(3).expect("a number");
        let text = ratchet.at(at).expect("it turns forwards").text();
        crate::fixture::write_secret(&lab.file(place).with_file_name("ratchet"), text.trim());
    }
    let _squatter = Squatter::on(&lab);
    let ran = lab.meshsec(A, &["apply", "--auto-approve"]).exits(0);
    ran.says("the name of the lock")
        .says("it is ignored")
        .says("The ratchet is at generation 4 now");
    lab.meshsec(A, &["rotate"]).exits(0).says("generation 5 is now 6");

    let words = ["apply", "--auto-approve", "--confirm-within", LONG];
    let waiting = Waiting::start(&lab, &words);
    // Runs of those who have rights keep each other waiting all the same.
    lab.meshsec(A, &["apply", "--auto-approve", "--lock-timeout", "300ms"])
        .exits(1)
        .says(", which waits to be confirmed; see --lock-timeout");
    let ran = lab.meshsec(A, &["confirm"]).exits(0).says("Confirmed: mesh lab stays as it is now.");
    assert!(ran.stderr.contains("of user 65534 poses as an apply that waits"), "{ran}");
    waiting.end().exits(0).says("Confirmed.");
    // Nobody waits any more, whatever the squatter says.
    let ran = lab.meshsec(A, &["confirm"]).exits(1).says("nothing waits to be confirmed");
    assert!(!ran.stdout.contains('\u{1b}') && !ran.stderr.contains('\u{1b}'), "{ran}");
}
