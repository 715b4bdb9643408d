//! The module of examples/ansible, as Ansible runs it on a host: its arguments in JSON on standard
//! input, its results in JSON on standard output.

use std::{fs, path::Path, process::Command};

use serde_json::{Value, json};

use crate::{
    fixture::{A, B, Lab},
    mesh_file::MESH_KEY,
    secrecy::holds_no_secret,
    shell, xfrm,
};

/// The results of the module on a host, with these arguments beside those that name the host.
#[track_caller]
fn module(lab: &Lab, place: usize, more: Value) -> Value {
    let mut arguments = json!({
        "program": env!("CARGO_BIN_EXE_meshsec"),
        "config": lab.file(place),
        "netns": lab.host(place).0,
        "_ansible_remote_tmp": lab.directory(),
    });
    arguments.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    let module = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/ansible/library/meshsec.py");
    let input = json!({ "ANSIBLE_MODULE_ARGS": arguments }).to_string();
    let ran = shell::run_with(Command::new("/usr/bin/python3").arg(module), &input);
    let lacks = ran.stderr.contains("No module named 'ansible'");
    assert!(!lacks, "ansible-core is needed (apt-get install ansible-core): {ran}");
    holds_no_secret(&ran, &[MESH_KEY.to_owned()]);
    ran.json()
}

#[track_caller]
fn changes(results: &Value) -> bool {
    assert!(results.get("failed").is_none(), "{results:#}");
    results["changed"].as_bool().expect("a module says whether it has changed something")
}

#[track_caller]
fn fails(results: &Value, with: &str) {
    assert_eq!(results["failed"], json!(true), "{results:#}");
    assert_eq!(results["changed"], json!(false), "{results:#}");
    let message = results["msg"].as_str().unwrap();
    assert!(message.contains(with), "{message}");
}

#[test]
#[ignore = "needs a kernel with ESP: cargo xtask test"]
fn ansible_changes_a_host_once_and_check_mode_finds_its_drift() {
    let lab = Lab::new(2);
    lab.apply(A);
    let results = module(&lab, B, json!({}));
    assert!(changes(&results));
    assert_eq!(results["summary"]["create"], json!(18), "{results:#}");
    lab.reaches(A, B);
    assert!(!changes(&module(&lab, B, json!({ "_ansible_diff": true }))));

    lab.host(B).ip("xfrm policy flush");
    let check = json!({ "_ansible_check_mode": true, "_ansible_diff": true });
    let results = module(&lab, B, check);
    assert!(changes(&results));
    let codes: Vec<&Value> =
        results["plan_warnings"].as_array().unwrap().iter().map(|it| &it["code"]).collect();
    assert!(codes.contains(&&json!("policies-flushed")), "{codes:?}");
    let [difference] = results["diff"].as_array().unwrap().as_slice() else {
        panic!("the file is as before, and the kernel is not: {results:#}")
    };
    assert_eq!(difference["before"], json!(""));
    let missing = "policy src 192.0.2.2/32 dst 192.0.2.1/32 proto udp dport 4789 dir out (peer a)";
    assert!(difference["after"].as_str().unwrap().contains(missing), "{difference:#}");
    assert_eq!(lab.host(B).ip("xfrm policy"), "", "check mode has changed the host");
}

#[test]
#[ignore = "needs a kernel with ESP: cargo xtask test"]
fn ansible_plans_the_new_file_before_it_takes_the_place_of_the_old_one() {
    let lab = Lab::new(2);
    lab.apply(A);
    let before = lab.mesh.text();
    let file = || fs::read_to_string(lab.file(A)).unwrap();

    let wrong = before.replace("short_id", "shortid");
    let results = module(&lab, A, json!({ "content": wrong }));
    fails(&results, "config-refused: unknown key \"shortid\" in [[peer]]");
    assert_eq!(results["errors"][0]["file"], json!(lab.file(A)), "{results:#}");
    assert_eq!(file(), before);

    let jump = lab.mesh.of_generation(3).text();
    let results = module(&lab, A, json!({ "content": jump, "refuse": ["generation-jump"] }));
    fails(&results, "generation-jump: ");
    assert_eq!(file(), before);
    lab.has_converged(A);

    let next = lab.mesh.of_generation(2).text();
    let check = json!({ "content": next, "_ansible_check_mode": true, "_ansible_diff": true });
    let results = module(&lab, A, check);
    assert!(changes(&results));
    assert_eq!(results["generation"], json!(2));
    assert_eq!(results["diff"].as_array().unwrap().len(), 2, "{results:#}");
    assert_eq!(file(), before);
    lab.has_converged(A);

    assert!(changes(&module(&lab, A, json!({ "content": next }))));
    assert_eq!(file(), next);
    lab.has_converged(A);
}

#[test]
#[ignore = "needs a kernel with ESP: cargo xtask test"]
fn ansible_destroys_a_mesh_and_not_in_check_mode() {
    let lab = Lab::new(2);
    lab.apply(A);
    let check = json!({ "state": "absent", "_ansible_check_mode": true });
    assert!(changes(&module(&lab, A, check)));
    lab.has_converged(A);
    assert!(changes(&module(&lab, A, json!({ "state": "absent" }))));
    assert_eq!(xfrm::databases(lab.host(A)), "");
}

#[test]
#[ignore = "needs a kernel with ESP: cargo xtask test"]
fn ansible_puts_the_old_file_back_where_nobody_confirms() {
    let lab = Lab::new(2);
    lab.apply(A);
    let before = fs::read_to_string(lab.file(A)).unwrap();
    let next = lab.mesh.of_generation(2).text();
    let results = module(&lab, A, json!({ "content": next, "confirm_within": "1s" }));
    fails(&results, "nobody has confirmed it (time_up)\nall is as it was before");
    assert_eq!(fs::read_to_string(lab.file(A)).unwrap(), before);
    lab.has_converged(A);
}

/// Keys follow from a secret that check mode does not write.
#[test]
#[ignore = "needs a kernel with ESP: cargo xtask test"]
fn ansible_plans_in_check_mode_before_a_secret_is_there() {
    let lab = Lab::new(2);
    fs::remove_file(lab.file(A).with_file_name("mesh.key")).unwrap();
    let check = json!({ "_ansible_check_mode": true, "secret_changes": true });
    let results = module(&lab, A, check);
    assert!(changes(&results));
    assert_eq!(results["summary"]["create"], json!(18), "{results:#}");
}
