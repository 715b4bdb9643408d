//! A private key for each host, and a psk for all.

use std::{collections::BTreeSet, process::Command};

use crate::{
    fixture::{A, B, C, Lab, write_secret},
    secrecy::{holds_no_secret, keys_of_sas},
    shell, xfrm,
};

/// The output of a program of wireguard-tools.
fn wg(word: &str, input: &str) -> String {
    let ran = shell::run_with(Command::new("wg").arg(word), input).exits(0);
    ran.stdout.trim_end().to_owned()
}

/// Hosts with keys as `wg` prints them, but the private keys in hex.
fn lab(hosts: usize) -> (Lab, Vec<String>) {
    use base64ct::{Base64, Encoding};
    let mut lab = Lab::new(hosts);
    lab.mesh.keys = "private_key = { file = \"private.key\" }\npsk = { file = \"psk\" }";
    let private: Vec<String> = (0..hosts).map(|_| wg("genkey", "")).collect();
    for (peer, key) in lab.mesh.peers.iter_mut().zip(&private) {
        peer.public_key = Some(wg("pubkey", key));
    }
    lab.write_all(&lab.mesh);
    let psk = wg("genpsk", "");
    for place in lab.places() {
        write_secret(&lab.file(place).with_file_name("private.key"), &private[place]);
        write_secret(&lab.file(place).with_file_name("psk"), &psk);
    }
    let in_hex = |key| hex::encode(Base64::decode_vec(key).expect("wg prints base64"));
    let secrets = private.iter().chain([&psk]).map(|key| in_hex(key)).collect();
    (lab, secrets)
}

fn keys(lab: &Lab, place: usize) -> BTreeSet<String> {
    xfrm::sas(lab.host(place)).into_values().filter_map(|sa| sa.key).collect()
}

#[test]
#[ignore = "needs a kernel with ESP: cargo xtask test"]
fn hosts_with_private_keys_and_a_psk_talk_and_a_third_has_none_of_two_others_keys() {
    let (lab, mut secrets) = lab(3);
    lab.apply_all();
    let capture = lab.capture();
    for (from, to) in [(A, B), (B, C), (C, A)] {
        lab.reaches(from, to);
        lab.has_converged(from);
    }
    capture.stop().has_only_esp(18);
    let [a, b, c] = [A, B, C].map(|place| keys(&lab, place));
    let of_a_and_b: BTreeSet<_> = a.intersection(&b).collect();
    // Each receives under the keys that the other sends with; the keys of other generations are
    // unused.
    assert_eq!(of_a_and_b.len(), 2);
    assert!(of_a_and_b.iter().all(|key| !c.contains(*key)), "c has a key of a and b");

    secrets.extend(keys_of_sas(&lab));
    for words in [
        &["plan", "--format", "json"][..],
        &["snapshot"],
        &["show", "--all"],
        &["validate"],
        &["apply", "--auto-approve", "--format", "json"],
        &["destroy", "--auto-approve", "--format", "json"],
        &["apply", "--auto-approve"],
    ] {
        holds_no_secret(&lab.meshsec(A, words).exits(0), &secrets);
    }
}

#[test]
#[ignore = "needs a kernel with ESP: cargo xtask test"]
fn a_host_with_a_wrong_psk_is_blocked_and_never_in_clear() {
    let (lab, _) = lab(3);
    let psk = lab.file(A).with_file_name("psk");
    let right = std::fs::read_to_string(&psk).expect("it was written");
    write_secret(&psk, &wg("genpsk", ""));
    let capture = lab.capture();
    lab.apply_all();
    lab.reaches(B, C);
    lab.does_not_reach(A, B);
    lab.does_not_reach(C, A);
    capture.stop().has_only_esp(8);
    write_secret(&psk, right.trim_end());
    lab.meshsec(A, &["plan", "--detailed-exitcode"]).exits(2).says("key");
    lab.apply(A);
    lab.reaches(A, B);
    lab.reaches(C, A);
    lab.places().for_each(|place| lab.has_converged(place));
}

#[test]
#[ignore = "needs a kernel with ESP: cargo xtask test"]
fn a_host_with_the_private_key_of_another_changes_nothing() {
    let (lab, _) = lab(2);
    let [a, b] = [A, B].map(|place| lab.file(place).with_file_name("private.key"));
    std::fs::copy(b, a).expect("the key can be copied");
    for words in [&["plan"][..], &["apply", "--auto-approve"], &["validate"]] {
        lab.meshsec(A, words).exits(1).says("the private key at hand does not belong to a");
    }
    assert!(xfrm::sas(lab.host(A)).is_empty());
    // Objects that have to go away don't depend on a secret.
    lab.meshsec(A, &["destroy", "--auto-approve"]).exits(0);
}
