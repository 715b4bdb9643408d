//! `pubkey`, and that a host's private key is its own, as an operator sees it.

use std::{
    fs,
    io::Write,
    os::unix::fs::OpenOptionsExt,
    path::Path,
    process::{Command, Output, Stdio},
};

use meshsec::{
    config::{Peer, Secrets},
    desired::desired,
    keys::Session,
    model::{Direction, KeyView, PeerName, PrivateKey, ShortId, Time},
};

/// RFC 7748, section 6.1: private and public keys of Alice and Bob.
const ALICE: [&str; 2] = [
    "77076d0a7318a57d3c16c17251b26645df4c2f87ebc0992ab177fba51db92c2a",
    "8520f0098930a754748b7ddcb43ef75a0dbf3a0d26381af4eba4a98eaa9b4e6a",
];
const BOB: [&str; 2] = [
    "5dab087e624a8a4b79e17f8b83800ee66f3bb1292618b6fd1c2f8b27ff88e0eb",
    "de9edb7d7b7dc1b4d35b61c2ece435373f8343c85b78674dadfc7e146f882b4f",
];

fn base64(hex_text: &str) -> String {
    use base64ct::{Base64, Encoding};
    Base64::encode_string(&hex::decode(hex_text).unwrap())
}

/// Runs a program on this input.
fn feed(program: &mut Command, input: &[u8]) -> Output {
    let mut child = program
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // A program that needs no more of its input may be gone by now.
    let _ = child.stdin.take().unwrap().write_all(input);
    child.wait_with_output().unwrap()
}

fn meshsec(words: &[&str], input: &[u8]) -> Output {
    feed(Command::new(env!("CARGO_BIN_EXE_meshsec")).args(words), input)
}

fn printed(output: Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn pubkey_prints_the_public_keys_of_rfc_7748() {
    for [private, public] in [ALICE, BOB] {
        let wanted = format!("{}\n", base64(public));
        for input in [
            private.to_owned(),
            private.to_uppercase(),
            base64(private),
            format!("{}\n", base64(private)),
            format!("\t{private} \r\n\r\n"),
        ] {
            assert_eq!(printed(meshsec(&["pubkey"], input.as_bytes())), wanted, "{input:?}");
        }
    }
}

#[test]
fn pubkey_refuses_what_is_no_key_without_showing_it() {
    let secret = base64(ALICE[0]);
    for (input, problem) in [
        (String::new(), "empty"),
        ("\n".into(), "empty"),
        (secret[..43].to_owned(), "base64 without the = at its end"),
        (format!("{secret}\n{secret}\n"), "several lines"),
        (secret.replace('=', "A"), "not base64 throughout"),
        (ALICE[0].replace('a', "x"), "not hex throughout"),
        (format!("{}=", "A".repeat(43)), "all zeros"),
        (secret.repeat(1000), "4096 bytes long"),
    ] {
        let output = meshsec(&["pubkey"], input.as_bytes());
        let error = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1));
        assert!(output.stdout.is_empty());
        assert!(error.starts_with("error: standard input is no private key: it is "), "{error}");
        assert!(error.contains(problem) && !error.contains(&secret[..8]), "{error}");
    }
}

#[test]
fn what_genkey_prints_has_a_public_key_of_its_own() {
    let public = || printed(meshsec(&["pubkey"], printed(meshsec(&["genkey"], b"")).as_bytes()));
    let (first, second) = (public(), public());
    assert_eq!(first.len(), 45);
    assert_ne!(first, second);
}

fn wg(word: &str, input: &[u8]) -> String {
    assert!(
        Command::new("wg").arg("--version").output().is_ok(),
        "wg is needed (apt-get install wireguard-tools)"
    );
    printed(feed(Command::new("wg").arg(word), input))
}

#[test]
fn keys_of_wg_and_of_meshsec_are_the_same_kind() {
    for private in [wg("genkey", b""), printed(meshsec(&["genkey"], b"")), wg("genpsk", b"")] {
        let public = printed(meshsec(&["pubkey"], private.as_bytes()));
        assert_eq!(public, wg("pubkey", private.as_bytes()));
    }
}

fn write_secret(path: &Path, text: &str) {
    let mut options = fs::OpenOptions::new();
    let options = options.write(true).create(true).truncate(true).mode(0o600);
    options.open(path).unwrap().write_all(text.as_bytes()).unwrap();
}

/// A directory with the mesh of Alice and Bob, and a private key.
fn mesh(private: &str) -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    write_secret(&directory.path().join("private.key"), private);
    let text = format!(
        "[mesh]\nname = \"lab\"\n[keys]\nprivate_key = {{ file = \"private.key\" }}\n\
         [rotation]\ngeneration = 1\n\
         [[peer]]\nname = \"alice\"\nshort_id = 1\naddress = \"198.51.100.1\"\npublic_key = \"{}\"\n\
         [[peer]]\nname = \"bob\"\nshort_id = 2\naddress = \"198.51.100.2\"\npublic_key = \"{}\"\n",
        base64(ALICE[1]),
        BOB[1]
    );
    fs::write(directory.path().join("mesh.toml"), text).unwrap();
    directory
}

fn in_directory(directory: &Path, words: &[&str]) -> Output {
    let mut program = Command::new(env!("CARGO_BIN_EXE_meshsec"));
    program.arg("-c").arg(directory.join("mesh.toml")).args(words).output().unwrap()
}

const PLAN: [&str; 3] = ["plan", "--live", "empty"];

#[test]
fn a_host_needs_the_private_key_of_its_own_public_key() {
    let directory = mesh(BOB[0]);
    for words in [&["validate"], &PLAN[..]] {
        let of = |peer| in_directory(directory.path(), &[words, &["--local", peer]].concat());
        printed(of("bob"));
        let output = of("alice");
        let error = String::from_utf8(output.stderr).unwrap();
        assert_eq!((output.status.code(), output.stdout.len()), (Some(1), 0));
        for said in [
            "error: the private key at hand does not belong to alice\n",
            "mesh.toml:11:14\n",
            "it is the private key of bob; each host has its own\n",
            "mesh.toml: 1 error; nothing was changed\n",
        ] {
            assert!(error.contains(said), "{said:?} is not in {error}");
        }
    }
    write_secret(&directory.path().join("private.key"), &"09".repeat(32));
    let public = printed(meshsec(&["pubkey"], "09".repeat(32).as_bytes()));
    let output = in_directory(directory.path(), &["validate", "--local", "alice"]);
    let error = String::from_utf8(output.stderr).unwrap();
    let hint = format!("write \"{}\", or put the right private key in place\n", public.trim_end());
    assert!(error.contains(&hint), "{error}");
}

#[test]
fn where_the_local_peer_is_not_known_validate_says_what_it_did_not_check() {
    let directory = mesh(&"09".repeat(32));
    let text = printed(in_directory(directory.path(), &["validate"]));
    assert!(text.contains("Warning: which peer this host is can't be told"), "{text}");
    let text = printed(in_directory(directory.path(), &["validate", "--format", "json"]));
    let valid: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(valid["warnings"].as_array().unwrap().len(), 2);
}

#[test]
fn a_plan_needs_no_private_key_and_says_that_keys_are_not_checked() {
    let directory = mesh(ALICE[0]);
    fs::remove_file(directory.path().join("private.key")).unwrap();
    let text = printed(in_directory(directory.path(), &[&PLAN[..], &["--local", "bob"]].concat()));
    assert!(text.contains(", key not checked"), "{text}");
    assert!(text.contains("private_key is absent, keys are not checked"), "{text}");
}

#[test]
fn validate_warns_of_private_keys_without_a_psk() {
    let directory = mesh(ALICE[0]);
    let words = ["validate", "--local", "alice"];
    let text = printed(in_directory(directory.path(), &words));
    assert!(text.contains("Warning: private_key without psk"), "{text}");
    let file = directory.path().join("mesh.toml");
    let with_psk = fs::read_to_string(&file).unwrap();
    fs::write(&file, with_psk.replace("[rotation]", "psk = { file = \"psk\" }\n[rotation]"))
        .unwrap();
    write_secret(&directory.path().join("psk"), &"07".repeat(32));
    let text = printed(in_directory(directory.path(), &words));
    assert!(!text.contains("Warning"), "{text}");
}

/// The fingerprints of a plan for one host, by SPI.
fn fingerprints(directory: &Path, local: &str) -> Vec<(String, String)> {
    let words = [&PLAN[..], &["--format", "json", "--local", local]].concat();
    let plan: serde_json::Value =
        serde_json::from_str(&printed(in_directory(directory, &words))).unwrap();
    let changes = plan["changes"].as_array().unwrap().iter();
    let keys = changes.filter(|change| change["kind"] == "sa").map(|change| {
        let fields = change["fields"].as_array().unwrap();
        let key = fields.iter().find(|field| field["name"] == "key").unwrap();
        let id = change["id"].as_str().unwrap().split(' ').next_back().unwrap();
        (id.to_owned(), key["after"].as_str().unwrap().to_owned())
    });
    keys.collect()
}

#[test]
fn both_ends_have_the_same_keys_and_a_psk_changes_all_of_them() {
    let (alice, bob) = (mesh(ALICE[0]), mesh(BOB[0]));
    let of_alice = fingerprints(alice.path(), "alice");
    let of_bob = fingerprints(bob.path(), "bob");
    let shared: Vec<_> =
        of_alice.iter().filter(|(spi, key)| of_bob.contains(&(spi.clone(), key.clone()))).collect();
    assert_eq!(shared.len(), 2, "each receives what the other sends: {of_alice:?} {of_bob:?}");
    let file = alice.path().join("mesh.toml");
    let text = fs::read_to_string(&file).unwrap();
    fs::write(&file, text.replace("[rotation]", "psk = { file = \"psk\" }\n[rotation]")).unwrap();
    write_secret(&alice.path().join("psk"), &"07".repeat(32));
    let with_psk = fingerprints(alice.path(), "alice");
    assert_eq!(with_psk.len(), of_alice.len());
    assert!(with_psk.iter().zip(&of_alice).all(|(new, old)| new.0 == old.0 && new.1 != old.1));
}

/// printf 'meshsec/v1 fingerprint____…' (32 underscores) | sha256sum
#[test]
fn validate_prints_the_fingerprint_of_the_shared_secret() {
    let directory = mesh(ALICE[0]);
    let file = directory.path().join("mesh.toml");
    let text = fs::read_to_string(&file).unwrap();
    fs::write(&file, text.replace("[rotation]", "psk = { env = \"PSK\" }\n[rotation]")).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_meshsec"));
    command.current_dir(directory.path()).args(["-c", "mesh.toml", "validate", "--local", "alice"]);
    let text = printed(command.env("PSK", "5f".repeat(32)).output().unwrap());
    assert!(text.contains("\n    psk       cc21 c44e c8cb ce2e\n"), "{text}");
    assert!(!text.contains("private_key  "), "{text}");
}

/// Several threads agree with many peers. Each key is still that of its pair.
#[test]
fn keys_with_many_peers_are_those_of_each_pair() {
    let private = |number: u16| {
        let mut bytes = [9; 32];
        bytes[4..6].copy_from_slice(&number.to_be_bytes());
        PrivateKey::new(&bytes)
    };
    let mut config = crate::common::mesh(1, &["192.0.2.1"]);
    config.peers = (1..600)
        .map(|number: u16| Peer {
            name: PeerName::new(&format!("p{number}")).unwrap(),
            short_id: ShortId::new(number).unwrap(),
            address: [10, 0, number.to_be_bytes()[0], number.to_be_bytes()[1]].into(),
            public_key: Some(private(number).public_key()),
            ..config.peers[0].clone()
        })
        .collect();
    let secrets = Secrets::PrivateKey { private_key: private(1), psk: None };
    let moment = config.rotation.at(Time::default());
    let (wanted, keyring) = desired(&config, moment, &config.peers[0], Some(&secrets));
    assert_eq!(wanted.sas.len(), 598 * 4);
    let local = &config.peers[0];
    for (id, sa) in &wanted.sas {
        let peer = config.peers.iter().find(|peer| peer.name == sa.peer).unwrap();
        let [own, other] = [local, peer].map(|p| (p.short_id, p.public_key.as_ref().unwrap()));
        let session =
            Session::from_private_key(&private(1), None, &config.mesh, own, other).unwrap();
        let (from, to) = match sa.direction {
            Direction::Out => (own.0, other.0),
            Direction::In | Direction::Fwd => (other.0, own.0),
        };
        let key = session.keymat(from, to, sa.generation, config.esp.cipher);
        assert_eq!(sa.sa.key, KeyView::Known(key.fingerprint()), "{id:?}");
        assert!(keyring.get(id).unwrap().expose() == key.expose());
    }
}
