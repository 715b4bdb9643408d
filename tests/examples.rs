//! Every example is valid, and gives a plan for each of its peers.

use std::{
    fs,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    process::{Command, Output},
};

const SECRET: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=\n";
const KEY_FILE: &str = "mesh.key";

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
        let mut options = fs::OpenOptions::new();
        let key = options.write(true).create_new(true).mode(0o600);
        std::io::Write::write_all(
            &mut key.open(case.directory.path().join(KEY_FILE)).unwrap(),
            SECRET.as_bytes(),
        )
        .unwrap();
        case
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
        let text = case.printed(&["validate"]);
        let peers = format!("{} peers", case.peers().len());
        assert!(text.contains("is valid") && text.contains(&peers), "{text}");
    }
}

#[test]
fn only_the_example_that_says_so_warns_of_restarts() {
    for example in examples() {
        let case = Case::new(&example);
        let warns = case.printed(&["validate"]).contains("Warning: ");
        assert_eq!(warns, case.name == "esn.toml", "{}", case.name);
    }
}

#[test]
fn every_example_gives_a_plan_for_each_peer() {
    for example in examples() {
        let case = Case::new(&example);
        for peer in case.peers() {
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
        fs::remove_file(case.directory.path().join(KEY_FILE)).unwrap();
        let text = case.printed(&["plan", "--live", "empty", "--local", &case.peers()[0]]);
        assert!(
            text.contains(", key not checked") && text.contains("mesh_key is absent"),
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
