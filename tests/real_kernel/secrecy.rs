//! No key is in anything that meshsec says.

use std::{fs, os::unix::fs::PermissionsExt};

use base64ct::{Base64, Encoding};

use crate::{
    fixture::{A, B, Lab, spi},
    mesh_file::MESH_KEY,
    shell::{self, Ran},
    xfrm,
};

/// Fails if an answer holds one of these secrets, given in hex, or a part of it.
#[track_caller]
pub fn holds_no_secret(ran: &Ran, secrets: &[String]) {
    for secret in secrets {
        for form in forms(secret) {
            let found = ran.stdout.contains(&form) || ran.stderr.contains(&form);
            assert!(!found, "{form:?}, of a secret, is in {ran}");
        }
    }
}

/// How the beginning and the end of a secret could be written: hex, base64, a list of numbers.
fn forms(secret: &str) -> Vec<String> {
    let bytes = hex::decode(secret).expect("a secret is in hex");
    let mut forms = Vec::new();
    for part in [&bytes[..8], &bytes[bytes.len() - 8..]] {
        let digits = hex::encode(part);
        forms.push(digits.to_uppercase());
        forms.push(digits);
        let numbers: Vec<String> = part.iter().map(u8::to_string).collect();
        forms.push(numbers.join(", "));
        forms.push(numbers.join(","));
    }
    // Nine bytes are twelve whole characters, whatever follows.
    forms.push(Base64::encode_string(&bytes[..9]));
    forms
}

/// The keys, with and without salt, of every SA of every host, in hex.
pub fn keys_of_sas(lab: &Lab) -> Vec<String> {
    let sas = lab.places().flat_map(|place| xfrm::sas(lab.host(place)).into_values());
    let keys = sas.filter_map(|sa| sa.key);
    keys.flat_map(|key| [key[..key.len() - 8].to_owned(), key]).collect()
}

/// Stands for a file in which a plan is saved.
const SAVED: &str = "saved plan";

/// Every command that looks at the kernel or changes it, with all that it could be made to say.
const COMMANDS: [&[&str]; 25] = [
    &["plan"],
    &["plan", "--format", "json"],
    &["plan", "--live", "empty"],
    &["plan", "--live", "empty", "--format", "json"],
    &["show"],
    &["show", "--all"],
    &["show", "--all", "--format", "json"],
    &["snapshot"],
    &["validate"],
    &["validate", "--format", "json"],
    &["apply", "--auto-approve"],
    &["apply", "--auto-approve", "--format", "json"],
    &["apply"],
    &["plan", "--live", "/dev/null"],
    &["status"],
    &["status", "--verbose"],
    &["status", "--format", "json"],
    &["status", "--format", "prometheus"],
    &["mtu"],
    &["plan", "--out", SAVED],
    &["apply", SAVED],
    &["rotate"],
    &["apply", "--auto-approve", "--confirm-within", "1s"],
    &["apply", "--auto-approve", "--confirm-within", "1s", "--format", "json"],
    &["confirm"],
];

/// Those that show the objects there in place of the wanted ones.
const LOOKING: [&[&str]; 4] = [
    &["plan"],
    &["plan", "--format", "json"],
    &["show", "--all", "--format", "json"],
    &["snapshot"],
];

/// Runs a command with everything turned on that programs say for debugging.
fn talkative(lab: &Lab, words: &[&str]) -> Ran {
    let mut command = lab.command(A, words);
    command.envs([("RUST_LOG", "trace"), ("RUST_BACKTRACE", "full")]);
    shell::run(&mut command)
}

#[test]
#[ignore = "needs a kernel with ESP: cargo xtask test"]
fn no_command_prints_a_key_of_the_mesh_or_of_an_sa() {
    let lab = Lab::new(2);
    // A first apply tells which keys there are to look for.
    lab.apply_all();
    let mut secrets = keys_of_sas(&lab);
    assert_eq!(secrets.len(), 2 * 2 * 4, "two forms of the keys of four SAs on each host");
    secrets.push(MESH_KEY.into());
    let check = |ran: &Ran| holds_no_secret(ran, &secrets);
    check(&talkative(&lab, &["destroy", "--auto-approve", "--format", "json"]).exits(0));
    check(&talkative(&lab, &["apply", "--auto-approve", "--format", "json"]).exits(0));
    check(&talkative(&lab, &["destroy", "--auto-approve"]).exits(0));
    let saved = lab.directory().join("saved").display().to_string();
    for words in COMMANDS {
        let words = words.iter().map(|&word| if word == SAVED { saved.as_str() } else { word });
        check(&talkative(&lab, &words.collect::<Vec<_>>()));
    }
    let stdout = fs::read_to_string(&saved).expect("a plan was saved");
    check(&Ran { command: saved, status: 0, stdout, stderr: String::new() });
    lab.write(A, &lab.mesh.of_generation(2));
    check(&talkative(&lab, &["plan"]).exits(0));
    check(&talkative(&lab, &["apply", "--auto-approve"]).exits(0));
}

#[test]
#[ignore = "needs a kernel with ESP: cargo xtask test"]
fn no_command_prints_a_foreign_key_or_what_was_found_instead_of_ours() {
    let lab = Lab::new(2);
    lab.apply_all();
    let (key, spi) = ("c3".repeat(31) + "0123456789", spi(1, B, A));
    let host = lab.host(A);
    let sa = |reqid: u32| {
        format!(
            "xfrm state add src 192.0.2.2 dst 192.0.2.1 proto esp spi {spi:#x} reqid {reqid} \
             mode transport aead rfc4106(gcm(aes)) 0x{key} 128"
        )
    };
    let ours = xfrm::sas(host)[&spi].reqid;
    let secrets = [key.clone()];
    for reqid in [ours, 77] {
        host.ip(&format!("xfrm state delete src 192.0.2.2 dst 192.0.2.1 proto esp spi {spi:#x}"));
        host.ip(&sa(reqid));
        for words in LOOKING {
            holds_no_secret(&talkative(&lab, words), &secrets);
        }
        holds_no_secret(&talkative(&lab, &["apply", "--auto-approve"]), &secrets);
    }
    assert_eq!(xfrm::sas(host)[&spi].reqid, 77, "the foreign SA is gone");
}

#[test]
#[ignore = "needs a kernel with ESP: cargo xtask test"]
fn errors_about_a_secret_do_not_show_it() {
    let lab = Lab::new(2);
    let key_file = lab.file(A).with_file_name("mesh.key");
    let secrets = [MESH_KEY.to_owned()];
    let fails = |what: &str| {
        for words in [["plan", "--format=text"], ["plan", "--format=json"]] {
            let ran = talkative(&lab, &words);
            assert_eq!(ran.status, 1, "{what}: {ran}");
            holds_no_secret(&ran, &secrets);
        }
    };
    fs::set_permissions(&key_file, fs::Permissions::from_mode(0o644)).expect("root may");
    fails("a secret that others may read");
    crate::fixture::write_secret(&key_file, &MESH_KEY[..63]);
    fails("a secret with a digit too few");
    crate::fixture::write_secret(&key_file, &format!("{MESH_KEY}\n{MESH_KEY}"));
    fails("two secrets");
    for inline in [
        format!("mesh_key = \"{MESH_KEY}\""),
        format!("mesh_key = {{ file = \"{MESH_KEY}\" }}"),
        format!("mesh_key = {{ hex = \"{MESH_KEY}\" }}"),
        format!("mesh_key = \"{MESH_KEY}"),
    ] {
        let text = lab.mesh.text().replace("mesh_key = { file = \"mesh.key\" }", &inline);
        fs::write(lab.file(A), text).expect("mesh.toml can be written");
        fails("a secret in the file itself");
    }
}
