//! Every example is valid, and gives a plan for each of its peers.

use std::{
    fs,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use meshsec::{
    keys::Ratchet,
    model::{Key, MeshName},
};

const SECRET: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=\n";
/// Private keys of peers a, b and c: those of RFC 7748, section 6.1, and the secret.
const PRIVATE_KEYS: [(&str, &str); 3] = [
    ("a", "77076d0a7318a57d3c16c17251b26645df4c2f87ebc0992ab177fba51db92c2a"),
    ("b", "5dab087e624a8a4b79e17f8b83800ee66f3bb1292618b6fd1c2f8b27ff88e0eb"),
    ("c", SECRET),
];

fn examples() -> Vec<PathBuf> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples");
    let mut files: Vec<PathBuf> =
        fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.retain(|path| path.extension().is_some_and(|extension| extension == "toml"));
    files.sort();
    assert!(files.len() >= 5, "{files:?}");
    files
}

/// A directory with an example and a secret, which serves as file and as credential.
struct Case {
    directory: tempfile::TempDir,
    name: String,
}

impl Case {
    fn new(example: &Path) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let name = example.file_name().unwrap().to_str().unwrap().to_owned();
        fs::copy(example, directory.path().join(&name)).unwrap();
        let case = Self { directory, name };
        case.write_secret("mesh.key", SECRET);
        case.write_secret("psk", SECRET);
        let (key, mesh) = (Key::new((0..32).collect()), MeshName::new("lab").unwrap());
        case.write_secret("ratchet", &Ratchet::begin(&key, &mesh).text());
        case.be(&case.peers()[0]);
        case
    }

    fn write_secret(&self, name: &str, text: &str) {
        let mut options = fs::OpenOptions::new();
        let options = options.write(true).create(true).truncate(true).mode(0o600);
        let mut file = options.open(self.directory.path().join(name)).unwrap();
        std::io::Write::write_all(&mut file, text.as_bytes()).unwrap();
    }

    /// Puts a peer's private key in place; a mesh without private keys doesn't mind.
    fn be(&self, peer: &str) {
        let private_key = PRIVATE_KEYS.iter().find(|(name, _)| *name == peer);
        self.write_secret("private.key", private_key.map_or(SECRET, |(_, key)| key));
    }

    fn meshsec(&self, arguments: &[&str]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_meshsec"))
            .arg("-c")
            .arg(self.directory.path().join(&self.name))
            .args(arguments)
            .env("CREDENTIALS_DIRECTORY", self.directory.path())
            .output()
            .unwrap()
    }

    /// Standard output of a run that has to succeed.
    fn printed(&self, arguments: &[&str]) -> String {
        let output = self.meshsec(arguments);
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{} {arguments:?}: {errors}", self.name);
        String::from_utf8(output.stdout).unwrap()
    }

    fn peers(&self) -> Vec<String> {
        let text = fs::read_to_string(self.directory.path().join(&self.name)).unwrap();
        let file: toml::Table = text.parse().unwrap();
        let peers = file["peer"].as_array().unwrap();
        peers.iter().map(|peer| peer["name"].as_str().unwrap().to_owned()).collect()
    }
}

#[test]
fn every_example_is_valid() {
    for example in examples() {
        let case = Case::new(&example);
        let text = case.printed(&["validate", "--local", &case.peers()[0]]);
        let peers = format!("{} peers", case.peers().len());
        assert!(text.contains("is valid") && text.contains(&peers), "{text}");
    }
}

#[test]
fn only_the_example_that_says_so_warns_of_restarts() {
    for example in examples() {
        let case = Case::new(&example);
        let text = case.printed(&["validate", "--local", &case.peers()[0]]);
        let warns = text.contains("Warning: ");
        assert_eq!(warns, case.name == "esn.toml", "{}", case.name);
    }
}

#[test]
fn every_example_gives_a_plan_for_each_peer() {
    for example in examples() {
        let case = Case::new(&example);
        for peer in case.peers() {
            case.be(&peer);
            let text = case.printed(&["plan", "--live", "empty", "--local", &peer]);
            assert!(text.contains(&format!(", peer {peer} (")), "{text}");
            assert!(text.contains(", key sha256:"), "no keys, or no pair: {text}");
            assert!(text.contains(" 0 to update, 0 to replace, 0 to delete.\n"), "{text}");
        }
    }
}

#[test]
fn an_example_can_be_planned_without_its_secret() {
    for example in examples() {
        let case = Case::new(&example);
        for name in ["mesh.key", "private.key", "psk", "ratchet"] {
            fs::remove_file(case.directory.path().join(name)).unwrap();
        }
        let text = case.printed(&["plan", "--live", "empty", "--local", &case.peers()[0]]);
        assert!(
            text.contains(", key not checked") && text.contains(" is absent, keys are not checked"),
            "{text}"
        );
        assert!(!case.meshsec(&["validate"]).status.success());
    }
}

#[test]
fn peers_of_two_families_form_no_pair_and_the_plan_says_so() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/dual-stack.toml");
    let text = Case::new(&path).printed(&["plan", "--live", "empty", "--local", "a"]);
    assert!(text.contains("Peer b (") && !text.contains("Peer c ("), "{text}");
    assert!(text.contains("no pair with c, d"), "{text}");
}
