//! A raise by evidence: of this kernel's counters, and of snapshots of other hosts.

use std::{fs, path::PathBuf, thread, time::Duration};

use crate::{
    fixture::{A, B, C, Lab},
    ping::Stream,
};

/// Takes a snapshot of a host into a file.
fn snapshot(lab: &Lab, place: usize, name: &str) -> PathBuf {
    let file = lab.directory().join(name);
    let taken = lab.meshsec(place, &["snapshot"]).exits(0);
    fs::write(&file, taken.stdout).expect("a snapshot can be written");
    file
}

fn generation(lab: &Lab) -> bool {
    let text = fs::read_to_string(lab.file(A)).expect("a has a file");
    text.contains("generation = 3")
}

#[test]
#[ignore = "needs a kernel with ESP: cargo xtask test"]
fn a_host_that_has_not_applied_is_refused_by_name_until_it_has_and_was_heard() {
    let lab = Lab::new(3);
    lab.apply_all();
    let streams = [(A, B), (B, C), (C, A)].map(|(from, to)| Stream::start(&lab, from, to));
    streams.iter().for_each(|stream| stream.wait_for_more(5));
    lab.meshsec(A, &["settled", "--for=2s", "--wait=60s"]).exits(0).says("3 of 3 hosts");

    lab.write_all(&lab.mesh.of_generation(2));
    lab.apply(A);
    lab.apply(B);
    streams.iter().for_each(|stream| stream.wait_for_more(20));
    let raise = ["rotate", "--here", "--for=2s", "--wait=6s"];
    let refused = lab.meshsec(A, &raise).exits(2).says("is not settled");
    assert!(refused.stdout.contains("  c: "), "{refused}");
    assert!(refused.stdout.contains("c: not heard under generation 2"), "{refused}");
    assert!(refused.stdout.contains("c: sent under generation 1, seen by a"), "{refused}");
    assert!(!refused.stdout.contains("  b: "), "b has applied, and was heard: {refused}");
    assert!(!generation(&lab), "the file stays");
    // The same by snapshots, with that of the host itself.
    thread::sleep(Duration::from_secs(2));
    let files = [A, B, C].map(|place| snapshot(&lab, place, &format!("{place}.json")));
    let seen: Vec<&str> = files.iter().map(|file| file.to_str().expect("UTF-8")).collect();
    let words = [&["rotate", "--for=1s", "--seen"], &seen[..]].concat();
    let refused = lab.meshsec(A, &words).exits(2);
    assert!(refused.stdout.contains("c: has not applied generation 2"), "{refused}");

    lab.apply(C);
    streams.iter().for_each(|stream| stream.wait_for_more(20));
    lab.meshsec(A, &["settled", "--for=2s", "--wait=60s"]).exits(0).says("3 of 3 hosts");
    lab.meshsec(A, &["rotate", "--here", "--for=2s", "--wait=60s"]).exits(0);
    assert!(generation(&lab), "the file is raised");
    // Nobody has applied the raise.
    lab.meshsec(A, &["rotate", "--here"]).exits(2).says("a: has not applied generation 3");
    streams.into_iter().for_each(Stream::lost_nothing);
}

/// Where the kernel does not tell when an SA was used, a single look says so.
#[test]
#[ignore = "needs a kernel with ESP: cargo xtask test"]
fn snapshots_of_all_hosts_settle_a_mesh_without_traffic() {
    let lab = Lab::new(3);
    lab.apply_all();
    lab.meshsec(A, &["settled"]).exits(2).says("b, c: not heard");
    thread::sleep(Duration::from_secs(2));
    let files = [A, B, C].map(|place| snapshot(&lab, place, &format!("{place}.json")));
    let seen: Vec<&str> = files.iter().map(|file| file.to_str().expect("UTF-8")).collect();
    let words = [&["settled", "--seen"], &seen[..]].concat();
    lab.meshsec(A, &words).exits(0).says("3 of 3 hosts");
    lab.meshsec(A, &["settled", "--here", "--seen", seen[1]]).exits(2).says("c: not heard");
}
