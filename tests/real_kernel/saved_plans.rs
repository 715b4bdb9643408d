//! Plans that are saved, looked at by somebody, and performed later.

use std::{fs, thread};

use crate::{
    fixture::{A, B, Lab, write_secret},
    xfrm,
};

/// Saves a plan of host a and returns the file's name.
fn save(lab: &Lab) -> String {
    let path = lab.directory().join("a.plan").display().to_string();
    lab.meshsec(A, &["plan", "--out", &path]).exits(0).says("to create");
    path
}

/// Fails unless a host refuses the plan and stays as it is.
#[track_caller]
fn is_refused(lab: &Lab, path: &str, why: &str) {
    let before = xfrm::databases(lab.host(A));
    let errors = lab.meshsec(A, &["apply", path]).exits(1).stderr;
    assert!(errors.contains("this plan is stale") && errors.contains(why), "{errors}");
    assert_eq!(xfrm::databases(lab.host(A)), before);
}

#[test]
#[ignore = "needs a kernel with ESP: cargo xtask test"]
fn a_saved_plan_is_performed_without_asking_and_only_once() {
    let lab = Lab::new(2);
    let path = save(&lab);
    let saved = fs::read_to_string(&path).expect("it was saved");
    assert!(saved.contains("\"add_sa\""), "what was shown is in it: {saved}");
    lab.meshsec(A, &["apply", &path]).exits(0).says("Apply complete");
    lab.has_converged(A);
    is_refused(&lab, &path, "the kernel's state was changed");
    lab.apply(B);
    lab.reaches(A, B);
}

#[test]
#[ignore = "needs a kernel with ESP: cargo xtask test"]
fn a_saved_plan_is_refused_once_anything_that_it_follows_from_has_changed() {
    let lab = Lab::new(2);
    let path = save(&lab);
    let file = lab.file(A);
    let text = fs::read_to_string(&file).expect("mesh.toml");
    fs::write(&file, format!("{text}\n# A comment\n")).expect("mesh.toml can be written");
    is_refused(&lab, &path, "mesh.toml was changed");
    fs::write(&file, text).expect("mesh.toml can be written");

    let key = file.with_file_name("mesh.key");
    let old = fs::read_to_string(&key).expect("mesh.key");
    write_secret(&key, &"1".repeat(64));
    is_refused(&lab, &path, "the keys are others");
    write_secret(&key, old.trim());

    fs::write(&file, lab.mesh.of_generation(2).text()).expect("mesh.toml can be written");
    is_refused(&lab, &path, "mesh.toml was changed");
    lab.write(A, &lab.mesh);

    let theirs = "src 198.51.100.1 dst 198.51.100.2 proto esp spi 0x1234";
    lab.host(A).ip(&format!("xfrm state add {theirs} mode transport {}", xfrm::AEAD));
    is_refused(&lab, &path, "the kernel's state was changed");
    lab.host(A).ip(&format!("xfrm state delete {theirs}"));

    lab.host(A).ip("xfrm policy add src 198.51.100.1 dst 198.51.100.2 dir out action block");
    is_refused(&lab, &path, "the kernel's state was changed");
    lab.host(A).ip("xfrm policy delete src 198.51.100.1 dst 198.51.100.2 dir out");
    lab.meshsec(A, &["apply", &path]).exits(0);
}

#[test]
#[ignore = "needs a kernel with ESP: cargo xtask test"]
fn of_saved_plans_that_are_applied_at_once_one_is_performed_and_the_others_are_stale() {
    let lab = Lab::new(2);
    let path = save(&lab);
    let words = ["apply", &path, "--lock-timeout", "10m"];
    let runs: Vec<_> = thread::scope(|scope| {
        let runs: Vec<_> = (0..5).map(|_| scope.spawn(|| lab.meshsec(A, &words))).collect();
        runs.into_iter().map(|run| run.join().expect("it was run")).collect()
    });
    let done = runs.iter().filter(|run| run.status == 0).count();
    assert_eq!(done, 1, "{runs:#?}");
    for run in runs.iter().filter(|run| run.status != 0) {
        assert!(run.status == 1 && run.stderr.contains("this plan is stale"), "{run}");
    }
    lab.has_converged(A);
    // A plan with premises that another apply changes while it waits for the lock.
    lab.write(A, &lab.mesh.of_generation(2));
    let path = save(&lab);
    lab.apply(A);
    is_refused(&lab, &path, "the kernel's state was changed");
}
