//! Objects of a host in the words of other programs.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::Path,
    process::{Command, Output},
};

use meshsec::model::Key;

/// The secret of the vectors.
const SECRET: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=\n";

/// Runs meshsec on an example with more lines behind it.
fn run(directory: &Path, (example, more): (&str, &str), words: &[&str]) -> Output {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let key = directory.join("mesh.key");
    let file = fs::read_to_string(root.join("examples").join(example)).unwrap();
    fs::write(directory.join("mesh.toml"), file + more).unwrap();
    fs::write(&key, SECRET).unwrap();
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
    let mut meshsec = Command::new(env!("CARGO_BIN_EXE_meshsec"));
    meshsec.arg("-c").arg(directory.join("mesh.toml")).args(["--local", "a"]).args(words);
    meshsec.output().expect("it can be run")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// The key behind `0x` in a line, as a plan shows it.
fn fingerprint(line: &str) -> String {
    let hex = line.split("0x").max_by_key(|word| word.len()).unwrap();
    let hex: String = hex.chars().take_while(char::is_ascii_hexdigit).collect();
    Key::new(hex::decode(hex).unwrap().into()).fingerprint().to_string()
}

#[test]
fn lines_have_the_keys_that_a_plan_names_and_only_if_they_are_asked_for() {
    let directory = tempfile::tempdir().unwrap();
    let at = directory.path();
    let plan = text(&run(at, ("three-hosts.toml", ""), &["plan", "--live=empty"]).stdout);
    for form in ["ip-batch", "wireshark"] {
        let refused = run(at, ("three-hosts.toml", ""), &["export", "--as", form]);
        assert_eq!(refused.status.code(), Some(1));
        assert!(refused.stdout.is_empty());
        assert!(text(&refused.stderr).contains("add --show-secrets"));
        let output = run(at, ("three-hosts.toml", ""), &["export", "--as", form, "--show-secrets"]);
        let lines = text(&output.stdout);
        assert!(output.status.success(), "{}", text(&output.stderr));
        let keys: Vec<&str> = lines.lines().filter(|line| line.contains("0x8")).collect();
        let keys = keys.iter().filter(|line| line.contains(" aead ") || form == "wireshark");
        let mut sas = 0;
        for line in keys {
            sas += 1;
            let key = fingerprint(line);
            assert!(plan.contains(&key), "the plan has no key {key}");
        }
        assert_eq!(sas, 8, "{form}");
    }
}

#[test]
fn objects_without_words_are_refused_as_a_whole() {
    let cases = [
        (("period.toml", ""), "ip-batch", "with period, SAs begin and end by the clock"),
        (
            ("all.toml", "\n[[except]]\nicmp = true\n"),
            "ip-batch",
            "ip has no word for the mark by which the policy for",
        ),
    ];
    for (example, form, why) in cases {
        let directory = tempfile::tempdir().unwrap();
        let output = run(directory.path(), example, &["export", "--as", form, "--show-secrets"]);
        let said = text(&output.stderr);
        assert!(said.contains(why), "{example:?}: {said}");
        assert_eq!((output.status.code(), output.stdout.len()), (Some(1), 0));
    }
}
