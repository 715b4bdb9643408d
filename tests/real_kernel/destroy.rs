//! `destroy`: nothing of ours stays, and nothing else goes.

use crate::{
    fixture::{A, B, Lab},
    iptables::Backend,
    shell::{self, Ran},
    xfrm,
};

/// Objects of somebody else, which are in nobody's way.
pub fn add_foreign(lab: &Lab) {
    let host = lab.host(A);
    host.ip(&format!(
        "xfrm state add src 198.51.100.1 dst 192.0.2.1 proto esp spi 0x1234 reqid 77 \
         mode tunnel replay-window 32 {}",
        xfrm::AEAD
    ));
    host.ip(&format!(
        "xfrm state add src 192.0.2.1 dst 192.0.2.2 proto esp spi 0x1235 reqid 78 \
         mode transport {}",
        xfrm::AEAD
    ));
    host.ip("xfrm policy add src 10.0.0.0/8 dst 198.51.100.0/24 dir out priority 3 \
         tmpl src 192.0.2.1 dst 198.51.100.1 proto esp reqid 77 mode tunnel");
    host.ip("xfrm policy add src 198.51.100.0/24 dst 10.0.0.0/8 dir fwd action allow priority 9");
    host.ip("xfrm policy add dst 192.0.2.2/32 proto tcp dport 4789 dir out action block");
}

#[test]
#[ignore = "needs a kernel with ESP: cargo xtask test"]
fn destroy_leaves_both_databases_as_they_were_and_says_what_flows_in_clear_then() {
    let lab = Lab::new(2);
    add_foreign(&lab);
    let before = xfrm::databases(lab.host(A));
    assert!(before.matches("src ").count() > 5, "no foreign objects in {before}");
    lab.apply_all();
    lab.reaches(A, B);
    // The guards stay while the peers go: a file is all that destroy needs.
    std::fs::remove_file(lab.file(A).with_file_name("mesh.key")).expect("it is there");

    let capture = lab.capture();
    let said = lab.meshsec(A, &["destroy", "--auto-approve"]).exits(0);
    said.says("they leave in the clear").says("proto udp dport 4789");
    assert_eq!(before, xfrm::databases(lab.host(A)));
    lab.meshsec(A, &["destroy", "--auto-approve"]).exits(0);

    lab.meshsec(B, &["destroy", "--auto-approve"]).exits(0);
    assert_eq!(xfrm::databases(lab.host(B)), "");
    lab.reaches(A, B);
    capture.stop().has_clear(6);
}

/// meshsec on a host, as somebody types it who has no file.
fn without_a_file(lab: &Lab, place: usize, words: &str) -> Ran {
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_meshsec"));
    command.current_dir("/").args(["--netns", &lab.host(place).0]);
    shell::run(command.args(words.split_whitespace()))
}

#[test]
#[ignore = "needs a kernel with ESP: cargo xtask test"]
fn destroy_by_name_leaves_nothing_of_a_mesh_and_all_of_others_where_the_file_is_gone() {
    for select in ["port", "mark"] {
        let mut lab = Lab::new(2);
        if select == "mark" {
            lab.mesh.traffic = "kind = \"vxlan\"\nselect = \"mark\"";
            lab.write_all(&lab.mesh);
        }
        add_foreign(&lab);
        let rules = || Backend::Nft.saved(lab.host(A));
        let before = xfrm::databases(lab.host(A));
        lab.apply_all();
        lab.reaches(A, B);
        assert!(rules().contains("MESHSEC-4d53a511"), "the mesh has chains");
        std::fs::remove_dir_all(lab.file(A).parent().expect("a directory")).expect("it is there");

        let shown = without_a_file(&lab, A, "show --mesh lab --all").exits(0);
        shown.says("generation 1 (modulo 32), short_id 1 to 2").says("Foreign");
        let status = without_a_file(&lab, A, "status --mesh lab").exits(0);
        let status = status.says("encrypted under SPI\n  0x84001002\n");
        // Kernels before 6.2 don't tell when an SA was last used.
        let is_told = ["ago\n", "bytes, used\n"].iter().any(|told| status.stdout.contains(told));
        assert!(is_told, "{status}");
        status.says("out SPI 0x84001002, generation 1 (modulo 32), short_id 1 to 2:");

        // Nobody confirms: all is as it was, keys included.
        let there = xfrm::databases(lab.host(A));
        let words = "destroy --mesh lab --auto-approve --confirm-within 1s";
        without_a_file(&lab, A, words).exits(1).says("Reverted");
        lab.reaches(A, B);
        assert_eq!(without_times(&there), without_times(&xfrm::databases(lab.host(A))));

        let said = without_a_file(&lab, A, "destroy --mesh lab --auto-approve").exits(0);
        said.says("they leave in the clear").says("proto udp dport 4789").says("Destroy complete");
        assert_eq!(before, xfrm::databases(lab.host(A)));
        assert!(!rules().contains("MESHSEC"), "{}", rules());
        let again = without_a_file(&lab, A, "destroy --mesh lab --auto-approve").exits(0);
        again.says("The kernel holds no object with reqid 0x4d53a511");
    }
}

/// The identities of objects, without numbers that move.
fn without_times(databases: &str) -> Vec<&str> {
    let mut lines: Vec<&str> =
        databases.lines().filter(|line| line.contains("src ") || line.contains("spi ")).collect();
    lines.sort_unstable();
    lines
}
