//! Properties of the real kernel only: objects of other programs, and its own texts.

use std::{
    process::{Command, Stdio},
    thread,
    time::Duration,
};

use meshsec::{
    kernel::{
        Errno, Kernel, KernelError, Linux,
        linux::{local_addresses, lock},
    },
    model::{Algorithm, Encap, KeyView, Level, Live, Mark, Policy, Replay, Sa, Start},
    plan::{PolicyStep, SaStep, Step, StepKind},
};

use crate::{
    bench::{Bench, in_a_fresh_namespace, ip},
    suite::{OURS, key, policy, sa},
};

const AEAD: &str = "aead rfc4106(gcm(aes)) 0x0102030405060708090a0b0c0d0e0f1011121314 128";

fn observe() -> Live {
    Linux::open().unwrap().observe(OURS).unwrap()
}

fn only_sa() -> Sa {
    let mut sas = observe().0.sas;
    assert_eq!(sas.len(), 1, "{sas:?}");
    sas.remove(0)
}

fn only_policy() -> Policy {
    let mut policies = observe().0.policies;
    assert_eq!(policies.len(), 1, "{policies:?}");
    policies.remove(0)
}

#[track_caller]
fn has(extras: &std::collections::BTreeSet<String>, wanted: &[&str]) {
    assert_eq!(extras.iter().map(String::as_str).collect::<Vec<_>>(), wanted);
}

#[test]
#[ignore = "needs a kernel with ESP: cargo xtask test"]
fn an_sa_of_ip_xfrm_shows_what_the_model_has_no_field_for() {
    in_a_fresh_namespace(|| {
        ip(&format!(
            "xfrm state add src 192.0.2.1 dst 192.0.2.2 proto esp spi 0x1001 reqid {} mode tunnel \
             {AEAD} mark 0x1 mask 0xff if_id 2 output-mark 0x10 mask 0xf0 flag noecn af-unspec \
             extra-flag dont-encap-dscp oseq-may-wrap limit time-hard 3600 limit byte-soft 1000 \
             limit packet-hard 7",
            OURS.0
        ));
        let sa = only_sa();
        assert_eq!((sa.id.mark, sa.if_id), (Mark { value: 1, mask: 0xff }, 2));
        assert!(matches!(sa.key, KeyView::Known(_)));
        let added = observe().0.usage[0].added;
        assert_eq!(sa.ends.unwrap().seconds(), added.seconds() + 3600);
        has(
            &sa.extras,
            &[
                "flag dont-encap-dscp flag oseq-may-wrap",
                "flag noecn",
                "hard-packet limit 7",
                "output-mark 0x10/0xf0",
                "soft-byte limit 1000",
            ],
        );
    });
}

#[test]
#[ignore = "needs a kernel with ESP: cargo xtask test"]
fn udp_encapsulation_and_older_transforms_are_named() {
    in_a_fresh_namespace(|| {
        ip("xfrm state add src 192.0.2.1 dst 192.0.2.2 proto esp spi 0x1001 mode transport \
            auth-trunc hmac(sha256) 0x0102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f20 128 \
            enc cbc(aes) 0x0102030405060708090a0b0c0d0e0f10 replay-window 16 \
            encap espinudp 4500 4501 0.0.0.0");
        let sa = only_sa();
        assert_eq!(sa.encap, Some(Encap { sport: 4500, dport: 4501 }));
        let name = "auth hmac(sha256) 256 bits icv 128 crypt cbc(aes) 128 bits";
        assert_eq!(sa.algorithm, Algorithm::Other(name.into()));
        assert_eq!((sa.key, sa.replay), (KeyView::Unknown, Replay { window: 16, esn: false }));
        assert!(sa.selector.is_some(), "the kernel fills in 0/0 of the SA's family");
    });
}

#[test]
#[ignore = "needs a kernel with ESP: cargo xtask test"]
fn a_policy_of_ip_xfrm_shows_what_the_model_has_no_field_for() {
    in_a_fresh_namespace(|| {
        ip("xfrm policy add src 2001:db8::/32 dst ::/0 dir in flag localok icmp \
            limit time-use-hard 60 tmpl src 192.0.2.1 dst 192.0.2.2 proto ah mode tunnel level use");
        let policy = only_policy();
        has(&policy.extras, &["flag icmp", "flag localok", "hard-use lifetime 60s"]);
        assert_eq!(policy.templates[0].level, Level::Use);
        assert!(policy.templates[0].src.is_ipv4() && !policy.id.selector.is_ipv4());
    });
}

#[test]
#[ignore = "needs a kernel with ESP: cargo xtask test"]
fn of_two_sas_that_differ_by_mark_only_the_right_one_is_deleted() {
    in_a_fresh_namespace(|| {
        let base = "src 192.0.2.1 dst 192.0.2.2 proto esp spi 0x1001 mode transport";
        ip(&format!("xfrm state add {base} {AEAD} mark 1 mask 1"));
        ip(&format!("xfrm state add {base} {AEAD}"));
        let mut kernel = Linux::open().unwrap();
        let ids: Vec<_> = observe().0.sas.iter().map(|sa| sa.id).collect();
        assert_eq!(ids.len(), 2);
        let marked = *ids.iter().find(|id| !id.mark.is_none()).unwrap();
        let plain = *ids.iter().find(|id| id.mark.is_none()).unwrap();
        let step = Step { peer: None, kind: StepKind::Sa(SaStep::Delete(marked)) };
        let hidden = kernel.perform(std::slice::from_ref(&step)).unwrap().remove(0);
        assert!(hidden.unwrap_err().to_string().contains("it is hidden by SA"));
        assert_eq!(observe().0.sas.len(), 2);
        for kind in [StepKind::Sa(SaStep::Delete(plain)), step.kind] {
            kernel.perform(&[Step { peer: None, kind }]).unwrap().remove(0).unwrap();
        }
        assert!(observe().0.sas.is_empty());
    });
}

#[test]
#[ignore = "needs a kernel with ESP: cargo xtask test"]
fn the_larval_sa_of_a_packet_is_taken_over() {
    in_a_fresh_namespace(|| {
        ip("link add dev0 type dummy");
        ip("addr add 192.0.2.1/24 dev dev0");
        ip("link set dev0 up");
        let mut monitor = Command::new("ip")
            .args(["xfrm", "monitor", "all"])
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        thread::sleep(Duration::from_millis(500));
        let mut kernel = Linux::open().unwrap();
        kernel.done(StepKind::Policy(PolicyStep::Add(policy(4789, OURS))));
        let socket = std::net::UdpSocket::bind("192.0.2.1:0").unwrap();
        let _ = socket.send_to(b"x", "192.0.2.2:4789");
        let larval = only_sa();
        assert!(larval.is_larval() && larval.reqid == OURS, "{larval:?}");
        let (wanted, key) = sa(meshsec::model::Cipher::Aes256Gcm, false, larval.id.spi.raw());
        kernel.done(StepKind::Sa(SaStep::Add { sa: wanted.clone(), key, start: Start::Fresh }));
        assert_eq!(only_sa(), wanted);
        monitor.kill().unwrap();
        monitor.wait().unwrap();
    });
}

#[test]
#[ignore = "needs a kernel with ESP: cargo xtask test"]
fn the_kernels_own_text_is_part_of_the_error() {
    in_a_fresh_namespace(|| {
        let mut kernel = Linux::open().unwrap();
        let (mut wanted, _) = sa(meshsec::model::Cipher::Aes256Gcm, false, 0x8000_0001);
        wanted.algorithm =
            Algorithm::Aead { name: "rfc4106(gcm(none))".into(), key_bits: 288, icv_bits: 128 };
        let key = key(meshsec::model::Cipher::Aes256Gcm, 1);
        let error = kernel.one(StepKind::Sa(SaStep::Add {
            sa: wanted.clone(),
            key: key.clone(),
            start: Start::Fresh,
        }));
        let error = error.unwrap_err();
        assert!(matches!(error, KernelError::Refused { errno: Errno::ENOSYS, .. }), "{error}");
        let text = error.to_string();
        assert!(text.contains("modules gcm and seqiv"), "{text}");
        wanted.algorithm = meshsec::model::Cipher::Aes256Gcm.algorithm();
        wanted.replay = Replay { window: 0, esn: true };
        let text = kernel
            .one(StepKind::Sa(SaStep::Add { sa: wanted, key, start: Start::Fresh }))
            .unwrap_err()
            .to_string();
        assert!(text.contains("EINVAL: ESN replay window must be > 0"), "{text}");
    });
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn addresses_and_sysctls_are_those_of_the_namespace() {
    in_a_fresh_namespace(|| {
        ip("link add dev0 type dummy");
        ip("addr add 192.0.2.1/24 dev dev0");
        ip("addr add 192.0.2.3 peer 192.0.2.4 dev dev0");
        ip("link set dev0 up");
        std::fs::write("/proc/sys/net/ipv4/conf/dev0/disable_xfrm", "1").unwrap();
        let live = observe().0;
        for address in ["127.0.0.1", "::1", "192.0.2.1", "192.0.2.3"] {
            assert!(live.has_address(address.parse().unwrap()), "{address}");
        }
        assert!(!live.has_address("192.0.2.4".parse().unwrap()), "that is the other end's");
        assert_eq!(local_addresses().unwrap(), live.addresses);
        let set: Vec<_> =
            live.bypasses.iter().map(|bypass| (bypass.device.as_str(), &*bypass.name)).collect();
        assert!(set.contains(&("dev0", "disable_xfrm")), "{set:?}");
    });
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn the_lock_is_one_per_namespace() {
    in_a_fresh_namespace(|| {
        let held = lock::Place::open().acquire(Duration::ZERO, &mut |_| {}).unwrap();
        assert!(lock::Place::open().acquire(Duration::ZERO, &mut |_| {}).is_err());
        in_a_fresh_namespace(|| {
            drop(lock::Place::open().acquire(Duration::ZERO, &mut |_| {}).unwrap())
        });
        drop(held);
        lock::Place::open().acquire(Duration::ZERO, &mut |_| {}).unwrap();
    });
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn without_the_capability_the_error_says_what_to_do() {
    const WITHOUT: &str = "MESHSEC_TEST_WITHOUT_CAPABILITY";
    if std::env::var_os(WITHOUT).is_none() {
        // Capabilities are given up for good, so this is for a process of its own.
        let status = Command::new("setpriv")
            .args(["--bounding-set", "-all", "--inh-caps", "-all", "--"])
            .arg(std::env::current_exe().unwrap())
            .args(["--ignored", "--exact"])
            .arg("real::without_the_capability_the_error_says_what_to_do")
            .env(WITHOUT, "1")
            .stdout(Stdio::null())
            .status()
            .unwrap();
        assert!(status.success());
        return;
    }
    let text = Linux::open().unwrap().observe(OURS).unwrap_err().to_string();
    let rest = "needs CAP_NET_ADMIN: run as root, or `plan --live FILE` with a snapshot";
    assert_eq!(text, format!("cannot list policies: EPERM: {rest}"));
    assert!(!local_addresses().unwrap().is_empty());
}
