//! Secrets, and keys that follow from them, are wiped wherever they were.

#[path = "../common/mod.rs"]
mod common;
mod process;
mod secrets;
mod stack;
mod watch;

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::Path,
};

use clap::Parser;
use meshsec::{
    apply::{Target, apply},
    cli::Cli,
    commands,
    config::{self, SecretsMode},
    desired::{WantedSa, desired},
    kernel::{Kernel, Linux, memory::Memory},
    keys::Ratchet,
    model::{Generation, Key, Live, LocalAddress, MeshName, PrivateKey},
    plan::{Plan, SaStep, Step, StepKind},
};

use secrets::{forms, marked};
use watch::Looking;

/// A mesh of two, of generation 5.
fn mesh(directory: &Path, keys: &str, public: [&str; 2]) -> std::path::PathBuf {
    let text = format!(
        "[mesh]\nname = \"lab\"\n[keys]\n{keys}\n[rotation]\ngeneration = 5\n\
         [[peer]]\nname = \"a\"\nshort_id = 1\naddress = \"192.0.2.1\"\n{}\n\
         [[peer]]\nname = \"b\"\nshort_id = 2\naddress = \"192.0.2.2\"\n{}\n",
        public[0], public[1]
    );
    let file = directory.join("mesh.toml");
    fs::write(&file, text).unwrap();
    file
}

fn write(path: &Path, text: &str) {
    use std::io::Write;
    let mut options = fs::OpenOptions::new();
    let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(path).unwrap();
    file.write_all(text.as_bytes()).unwrap();
}

/// Loads a file, and applies it on the first peer; says whether all of it was done.
fn load_and_apply(file: &Path, kernel: &mut dyn Kernel) -> bool {
    let loaded = config::load(file, SecretsMode::Required).expect("the file is right");
    let (config, now) = (&loaded.config, Default::default());
    let local = &config.peers[0];
    loaded.check_private_key(local).expect("it is that of a");
    let (wanted, keyring) =
        desired(config, config.rotation.at(now), local, loaded.secrets.as_ref());
    let live: Live = kernel.observe(config.reqid).unwrap();
    let plan = Plan::new(&wanted, &live, config.reqid);
    let goal = Target { desired: &wanted, keyring: &keyring, reqid: config.reqid };
    apply(kernel, &goal, &plan, &mut |_| {}).is_complete()
}

/// The same in memory, and again after drift.
fn load_and_apply_in_memory(file: &Path) {
    let mut kernel = Memory::default();
    let address = LocalAddress { address: [192, 0, 2, 1].into(), device: "eth0".into() };
    kernel.state_mut().addresses.push(address);
    for _ in 0..2 {
        assert!(load_and_apply(file, &mut kernel));
        kernel.state_mut().sas.truncate(1);
    }
}

#[test]
fn a_key_that_is_not_wiped_is_found_in_the_block_that_is_freed() {
    let looking = Looking::for_all(forms("a key", &marked(1)));
    looking.at(|| drop(std::hint::black_box(marked(1).to_vec())));
    looking.found_something();
    let looking = Looking::for_all(forms("a key", &marked(1)));
    looking.at(|| drop(Key::new(Box::new(marked(1)))));
    looking.found_nothing("a key");
}

#[test]
fn a_mesh_key_in_any_writing_and_place_is_wiped_with_all_keys_that_follow() {
    let key = marked(2);
    let base64 = <base64ct::Base64 as base64ct::Encoding>::encode_string(&key);
    for text in [hex::encode(key), hex::encode_upper(key), format!("  {base64}\r\n")] {
        let directory = tempfile::tempdir().unwrap();
        let file = mesh(directory.path(), "mesh_key = { file = \"mesh.key\" }", ["", ""]);
        write(&directory.path().join("mesh.key"), &text);
        let looking = Looking::for_all(secrets::of_mesh_key(&key, [1, 2], 5));
        looking.at(|| load_and_apply_in_memory(&file));
        looking.found_nothing(&text);
    }
}

/// Peers with public keys of their own.
fn more_peers(count: u16) -> String {
    let peer = |number: u16| {
        let [high, low] = number.to_be_bytes();
        let mut private = [8 + high; 32];
        private[1] = low;
        let public = PrivateKey::new(&private).public_key();
        format!(
            "[[peer]]\nname = \"p{number}\"\nshort_id = {number}\naddress = \"198.51.{}.{}\"\n\
             public_key = \"{public}\"\n",
            100 + high,
            low
        )
    };
    (100..100 + count).map(peer).collect()
}

#[test]
fn a_private_key_and_a_psk_are_wiped_with_all_keys_that_follow() {
    let directory = tempfile::tempdir().unwrap();
    let (own, psk) = (marked(3), marked(4));
    let public = [own, marked(5)].map(|key| PrivateKey::new(&key).public_key());
    let lines = public.map(|key| format!("public_key = \"{key}\""));
    let keys = "private_key = { file = \"private.key\" }\npsk = { file = \"psk\" }";
    let file = mesh(directory.path(), keys, [&lines[0], &lines[1]]);
    // With many peers several threads agree with them.
    let many = directory.path().join("many.toml");
    write(&many, &(fs::read_to_string(&file).unwrap() + &more_peers(300)));
    write(&directory.path().join("private.key"), &hex::encode(own));
    write(&directory.path().join("psk"), &hex::encode(psk));
    let agreed = PrivateKey::new(&own).agree(&public[1]).unwrap();
    let ikm = [&agreed[..], &psk].concat();
    let mesh = <sha2::Sha256 as sha2::Digest>::digest("lab");
    let info = [&b"meshsec/v1 x25519"[..], &mesh, public[0].bytes(), public[1].bytes()];
    let mut wanted = secrets::derived(&ikm, &info, [1, 2], 5);
    wanted.extend(forms("the private key", &own));
    wanted.extend(forms("the psk", &psk));
    wanted.extend(forms("what the two agree on", &agreed[..]));
    let looking = Looking::for_all(wanted);
    looking.at(|| {
        load_and_apply_in_memory(&file);
        load_and_apply_in_memory(&many);
    });
    looking.found_nothing("a private key");
}

#[test]
fn a_ratchet_is_wiped_with_all_keys_that_follow() {
    let directory = tempfile::tempdir().unwrap();
    let file = mesh(directory.path(), "ratchet = { file = \"ratchet\" }", ["", ""]);
    let name = MeshName::new("lab").unwrap();
    let begin = Ratchet::begin(&Key::new(Box::new(marked(6))), &name);
    let mut wanted = Vec::new();
    for generation in 3..=6 {
        let text = begin.at(Generation::new(generation).unwrap()).unwrap().text().to_string();
        let chain = text.lines().find_map(|line| line.strip_prefix("chain ")).unwrap();
        wanted.extend(secrets::of_chain(&hex::decode(chain).unwrap(), [1, 2], generation));
        if generation == 3 {
            write(&directory.path().join("ratchet"), &text);
        }
    }
    let looking = Looking::for_all(wanted);
    looking.at(|| load_and_apply_in_memory(&file));
    looking.at(|| {
        let ratchet = config::read_ratchet(&directory.path().join("ratchet")).ok().unwrap();
        ratchet.at(Generation::new(4).unwrap()).unwrap().text();
    });
    looking.found_nothing("a ratchet");
}

#[test]
fn a_secret_that_is_refused_is_wiped_all_the_same() {
    let key = marked(7);
    let text = hex::encode(key);
    let mut cases = BTreeMap::from([
        ("a digit too few", text[..63].to_owned()),
        ("two secrets", format!("{text}\n{text}")),
        ("no hex at its end", format!("{}g", &text[..63])),
        ("no base64 at its end", format!("{}-", &base64(&key)[..43])),
        ("more than base64", format!("{}==", base64(&key))),
        ("much around it", format!("{}{text}{}", " ".repeat(3000), "x".repeat(900))),
        ("too much", format!("{text}{}", "x".repeat(5000))),
    ]);
    for (what, text) in std::mem::take(&mut cases) {
        for keys in ["mesh_key = { file = \"key\" }", "ratchet = { file = \"key\" }"] {
            let directory = tempfile::tempdir().unwrap();
            let file = mesh(directory.path(), keys, ["", ""]);
            write(&directory.path().join("key"), &text);
            let looking = Looking::for_all(forms("the secret", &key));
            let said = looking.at(|| {
                config::load(&file, SecretsMode::Required).err().map(|error| error.to_string())
            });
            assert!(said.is_some(), "{what}");
            looking.found_nothing(what);
        }
    }
}

#[test]
fn a_secret_in_a_file_that_others_may_read_is_not_even_read() {
    let directory = tempfile::tempdir().unwrap();
    let file = mesh(directory.path(), "mesh_key = { file = \"key\" }", ["", ""]);
    let path = directory.path().join("key");
    write(&path, &hex::encode(marked(8)));
    fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
    let looking = Looking::for_all(forms("the secret", &marked(8)));
    looking.at(|| assert!(config::load(&file, SecretsMode::Required).is_err()));
    looking.found_nothing("a loose file");
}

/// Whether this machine's kernel has ESP or not: requests that it refuses were sent as well.
#[test]
fn what_is_sent_to_the_kernel_is_wiped_whether_it_is_taken_or_not() {
    if !common::namespace::inside("what_is_sent_to_the_kernel_is_wiped_whether_it_is_taken_or_not")
    {
        return;
    }
    common::namespace::ip("link set lo up");
    common::namespace::ip("address add 192.0.2.1/32 dev lo");
    let directory = tempfile::tempdir().unwrap();
    let file = mesh(directory.path(), "mesh_key = { file = \"mesh.key\" }", ["", ""]);
    write(&directory.path().join("mesh.key"), &hex::encode(marked(11)));
    let looking = Looking::for_all(secrets::of_mesh_key(&marked(11), [1, 2], 5));
    looking.at(|| {
        let loaded = config::load(&file, SecretsMode::Required).expect("the file is right");
        let config = &loaded.config;
        let moment = config.rotation.at(Default::default());
        let (wanted, keyring) = desired(config, moment, &config.peers[0], loaded.secrets.as_ref());
        let add = |wanted: &WantedSa| {
            let key = keyring.get(&wanted.sa.id).expect("the secret is at hand");
            let kind =
                StepKind::Sa(SaStep::Add { sa: wanted.sa.clone(), key, start: wanted.start });
            Step { peer: None, kind }
        };
        let steps: Vec<_> = wanted.sas.values().map(add).collect();
        let answers = Linux::open().unwrap().perform(&steps).unwrap();
        assert_eq!(answers.len(), 4);
    });
    looking.found_nothing("requests");
}

/// The lines of `export` have keys in them, and are printed past the standard library's buffer.
#[test]
fn lines_of_an_export_are_wiped_with_the_keys_in_them() {
    if !common::namespace::inside("lines_of_an_export_are_wiped_with_the_keys_in_them") {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let file = mesh(directory.path(), "mesh_key = { file = \"mesh.key\" }", ["", ""]);
    write(&directory.path().join("mesh.key"), &hex::encode(marked(13)));
    for form in ["ip-batch", "wireshark"] {
        let printed = directory.path().join(form);
        write(&printed, "");
        let words = ["export", "--as", form, "--show-secrets", "--local", "a", "-c"];
        let words = ["meshsec"].iter().chain(&words).map(std::ffi::OsStr::new);
        let cli = Cli::parse_from(words.chain([file.as_os_str()]));
        let looking = Looking::for_all(secrets::of_mesh_key(&marked(13), [1, 2], 5));
        let done = with_stdout(&printed, || looking.at(|| commands::run(&cli).is_ok()));
        looking.found_nothing(form);
        let lines = fs::read(&printed).unwrap();
        let wanted = secrets::Wanted::new(secrets::of_mesh_key(&marked(13), [1, 2], 5));
        assert!(done && wanted.within(&lines).contains(&"a key (in hex)"), "{form} has keys");
    }
}

/// Runs something with a file as standard output.
fn with_stdout<T>(file: &Path, work: impl FnOnce() -> T) -> T {
    let stdout = rustix::io::dup(rustix::stdio::stdout()).unwrap();
    let file = fs::OpenOptions::new().write(true).open(file).unwrap();
    rustix::stdio::dup2_stdout(&file).unwrap();
    let done = work();
    rustix::stdio::dup2_stdout(&stdout).unwrap();
    done
}

/// Gives some bytes at a time, and does not say how many are to come.
struct Trickle<'a>(&'a [u8]);

impl std::io::Read for Trickle<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let length = buffer.len().min(20);
        self.0.read(&mut buffer[..length])
    }
}

#[test]
fn a_secret_that_trickles_in_leaves_no_copies_of_a_buffer_that_grows() {
    let text = hex::encode(marked(12)) + &" ".repeat(2000);
    let looking = Looking::for_all(forms("the secret", &marked(12)));
    looking.at(|| config::fill(Trickle(text.as_bytes()), 4096).map(drop).unwrap());
    looking.found_nothing("a pipe");
}

fn base64(key: &[u8]) -> String {
    <base64ct::Base64 as base64ct::Encoding>::encode_string(key)
}
