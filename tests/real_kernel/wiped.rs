//! Keys that went to the kernel, or came from it, are wiped from freed memory.

use meshsec::{
    apply::{Target, apply},
    config::{self, SecretsMode},
    desired::desired,
    kernel::{Kernel, Linux},
    plan::Plan,
    restore::restore,
};

use crate::{
    fixture::{A, B, Lab, write_secret},
    mesh_file::MESH_KEY,
    secrets::of_mesh_key,
    watch::Looking,
    xfrm,
};

/// The course of `apply`, on the kernel and in this program.
fn applies(lab: &Lab) {
    let loaded = config::load(&lab.file(A), SecretsMode::Required).expect("the file is right");
    let (config, now) = (&loaded.config, Default::default());
    let local = &config.peers[A];
    let (wanted, keyring) =
        desired(config, config.rotation.at(now), local, loaded.secrets.as_ref());
    let mut kernel = Linux::open().expect("it has XFRM");
    let live = kernel.observe(config.reqid).expect("root may");
    let plan = Plan::new(&wanted, &live, config.reqid);
    let goal = Target { desired: &wanted, keyring: &keyring, reqid: config.reqid };
    // As --confirm-within does, to be able to bring them back.
    let keys = kernel.keys(config.reqid).expect("root may").into_iter().collect();
    let before = restore(&live, keys, &plan, &wanted, config.reqid);
    assert!(before.is_ok(), "what is there can be made again");
    assert!(apply(&mut kernel, &goal, &plan, &mut |_| {}).is_complete());
}

#[test]
#[ignore = "needs a kernel with ESP: cargo xtask test"]
fn keys_are_wiped_from_requests_answers_and_dumps() {
    let lab = Lab::new(2);
    let other = "71".repeat(16) + &MESH_KEY[32..];
    let keys = [MESH_KEY, &other].map(|key| hex::decode(key).expect("it is hex"));
    let wanted = keys.iter().flat_map(|key| of_mesh_key(key, [1, 2], 1)).collect();
    let looking = Looking::for_all(wanted);
    let apply_here = || lab.host(A).inside(|| looking.at(|| applies(&lab)));
    // All is new, then nothing; then a key is another, and each SA is looked at and replaced.
    apply_here();
    apply_here();
    write_secret(&lab.file(A).with_file_name("mesh.key"), &other);
    apply_here();
    assert_eq!(xfrm::sas(lab.host(A)).len(), 4, "generations 0 to 2 in, and 1 out");
    looking.found_nothing("requests, answers and dumps");
    write_secret(&lab.file(A).with_file_name("mesh.key"), MESH_KEY);
    lab.apply_all();
    lab.reaches(A, B);
}
