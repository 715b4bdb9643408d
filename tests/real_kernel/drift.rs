//! Changes of our objects by others: the plan names them, and apply heals them.

use std::process::{Child, Command, Stdio};

use serde_json::Value;

use crate::{
    fixture::{A, B, Lab, inner, spi},
    ping::{self, Stream},
    wait::wait_for,
    xfrm::{self, AEAD},
};

/// A lab of two hosts, and the words with which `ip` names host a's objects.
struct Patient {
    lab: Lab,
    reqid: u32,
    /// Key and salt of the inbound SA of this generation.
    key: String,
}

impl Patient {
    fn new() -> Self {
        let lab = Lab::new(2);
        lab.apply_all();
        let sa = xfrm::sas(lab.host(A)).remove(&spi(1, B, A)).expect("it was applied");
        Self { lab, reqid: sa.reqid, key: sa.key.expect("it has a key") }
    }

    fn ip(&self, words: &str) {
        self.lab.host(A).ip(words);
    }

    /// Deletes the inbound SA and makes it anew with other attributes.
    fn remake_sa(&self, attributes: &str) {
        let spi = spi(1, B, A);
        self.ip(&format!("xfrm state delete src 192.0.2.2 dst 192.0.2.1 proto esp spi {spi:#x}"));
        self.ip(&format!(
            "xfrm state add src 192.0.2.2 dst 192.0.2.1 proto esp spi {spi:#x} reqid {} \
             mode transport {attributes}",
            self.reqid
        ));
    }

    /// The transform with the right key.
    fn aead(&self) -> String {
        format!("aead rfc4106(gcm(aes)) 0x{} 128", self.key)
    }

    /// Updates the outbound policy, or adds one beside it.
    fn policy(&self, verb: &str, attributes: &str, template: &str) {
        self.ip(&format!(
            "xfrm policy {verb} src 192.0.2.1/32 dst 192.0.2.2/32 proto udp dport 4789 dir out \
             {attributes} tmpl src 192.0.2.1 dst 192.0.2.2 proto esp {template} reqid {} \
             mode transport",
            self.reqid
        ));
    }

    /// Fails unless the plan has one change, with this reason, and apply heals it.
    #[track_caller]
    fn is_healed(&self, kind: &str, action: &str, reason: &str) {
        let plan = self.lab.plan(A);
        let [change] = plan["changes"].as_array().expect("a list").as_slice() else {
            panic!("wanted one change, for {reason:?}: {plan:#}");
        };
        assert_eq!(change["reason"]["text"], reason, "{change:#}");
        assert_eq!(change["kind"], kind, "{change:#}");
        assert_eq!(change["action"], action, "{change:#}");
        self.lab.apply(A).says("Apply complete");
        self.lab.reaches(A, B);
    }
}

const TIED: &str = "sel src 192.0.2.2/32 dst 192.0.2.1/32";
const RIGHT_SPI: &str = "spi 0x84001002";

#[test]
#[ignore = "needs a kernel with ESP: cargo xtask test"]
fn an_sa_that_was_changed_behind_our_back_is_made_anew() {
    let patient = Patient::new();
    let aead = patient.aead();
    let other_key = format!("aead rfc4106(gcm(aes)) 0x{} 128", "5a".repeat(36));
    let unexpected = "it has attributes that a mesh's SA never has";
    for (attributes, reason) in [
        (format!("{other_key} {TIED}"), "its key differs"),
        (format!("{AEAD} {TIED}"), "its cipher differs"),
        (format!("replay-window 32 {aead} {TIED}"), "its anti-replay window differs"),
        (format!("replay-window 64 flag esn {aead} {TIED}"), "its anti-replay window differs"),
        (aead.clone(), "its selector doesn't tie the key to the two addresses"),
        (format!("{aead} {TIED} if_id 7"), "it is for another XFRM interface, or for one at all"),
        (format!("{aead} {TIED} limit packet-hard 1000"), unexpected),
    ] {
        patient.remake_sa(&attributes);
        patient.is_healed("sa", "replace", reason);
    }
}

#[test]
#[ignore = "needs a kernel with ESP: cargo xtask test"]
fn an_sa_with_a_mark_on_our_spi_goes() {
    let patient = Patient::new();
    patient.remake_sa(&format!("{} {TIED} mark 7 mask 0xff", patient.aead()));
    let reason =
        "an SA of this mesh with a mark has this SPI, and the kernel can't tell the two apart";
    patient.is_healed("sa", "replace", reason);
}

#[test]
#[ignore = "needs a kernel with ESP: cargo xtask test"]
fn a_policy_that_was_changed_behind_our_back_is_put_right() {
    let patient = Patient::new();
    for (attributes, template, reason) in [
        ("priority 500", RIGHT_SPI, "its priority differs"),
        ("priority 1000", "spi 0x88001002", "it sends under another SPI"),
        ("priority 1000", "", "it sends under another SPI"),
    ] {
        patient.policy("update", attributes, template);
        patient.is_healed("policy", "update", reason);
    }
    patient.ip(&format!(
        "xfrm policy update src 192.0.2.1/32 dst 192.0.2.2/32 proto udp dport 4789 dir out \
         priority 1000 tmpl src 192.0.2.1 dst 192.0.2.2 proto esp {RIGHT_SPI} reqid {} \
         mode transport level use",
        patient.reqid
    ));
    patient.is_healed("policy", "update", "it lets the traffic pass in the clear");
    patient.policy("add", "mark 7 mask 0xff priority 5", RIGHT_SPI);
    let reason = "it has the mesh's reqid, and a mark, an interface or a table that mesh.toml doesn't ask for";
    patient.is_healed("policy", "delete", reason);
    patient.policy("add", "if_id 9 priority 5", RIGHT_SPI);
    patient.is_healed("policy", "delete", reason);
}

#[test]
#[ignore = "needs a kernel with ESP: cargo xtask test"]
fn a_guard_that_was_changed_or_deleted_is_put_right() {
    let patient = Patient::new();
    let guard = "src 0.0.0.0/0 dst 0.0.0.0/0 proto udp dport 4789 dir in";
    patient.ip(&format!("xfrm policy delete {guard}"));
    patient.is_healed("guard", "create", "missing");
    // One that was edited to let packets pass can't be told from somebody else's policy.
    let reqid = patient.reqid;
    patient.ip(&format!("xfrm policy update {guard} action allow priority {reqid}"));
    let text =
        "it may be the mesh's own, and edited by somebody: delete it, and the next apply puts up";
    patient.lab.meshsec(A, &["plan"]).exits(1).says(text);
    patient.ip(&format!("xfrm policy delete {guard}"));
    patient.is_healed("guard", "create", "missing");
}

/// `ip xfrm monitor`, which the kernel takes for a key manager.
struct KeyManager(Child);

impl KeyManager {
    fn start(lab: &Lab) -> Self {
        let mut monitor = Command::new("ip");
        monitor.args(["xfrm", "monitor"]).stdin(Stdio::null()).stdout(Stdio::null());
        let manager = Self(lab.host(A).spawn(&mut monitor));
        // Protocol 6 of netlink is XFRM; a listener has joined groups.
        wait_for("the key manager to listen", || {
            let sockets = lab.host(A).proc_net("netlink");
            let joined = |line: &str| {
                let words: Vec<&str> = line.split_whitespace().collect();
                words.get(1) == Some(&"6")
                    && words.get(3).is_some_and(|g| *g != "00000000")
                    && words.get(2) != Some(&"0")
            };
            sockets.lines().any(joined).then_some(())
        });
        manager
    }
}

impl Drop for KeyManager {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
#[ignore = "needs a kernel with ESP: cargo xtask test"]
fn a_larval_sa_that_the_kernel_put_on_our_spi_gives_way() {
    let patient = Patient::new();
    let host = patient.lab.host(A);
    let _manager = KeyManager::start(&patient.lab);
    let spi = spi(1, A, B);
    patient.ip(&format!("xfrm state delete src 192.0.2.1 dst 192.0.2.2 proto esp spi {spi:#x}"));
    ping::answers(host, &inner(B), 1);
    let larval = xfrm::sas(host).remove(&spi).expect("the kernel puts an SA there");
    assert!(larval.key.is_none(), "this SA is not larval: {}", larval.text);
    patient.is_healed("sa", "replace", "the kernel holds a larval SA in its place");
}

fn created(plan: &Value, kind: &str) -> usize {
    let changes = plan["changes"].as_array().expect("a list");
    let matches = |change: &&Value| change["kind"] == kind && change["action"] == "create";
    changes.iter().filter(matches).count()
}

#[test]
#[ignore = "needs a kernel with ESP: cargo xtask test"]
fn flushed_sas_cost_packets_but_send_none_in_clear_and_come_back() {
    let lab = Lab::new(2);
    lab.apply_all();
    let stream = Stream::start(&lab, A, B);
    let capture = lab.capture();
    lab.host(A).ip("xfrm state flush");
    wait_for("the kernel to miss an SA", || {
        (xfrm::counters(lab.host(A))["XfrmOutNoStates"] >= 5).then_some(())
    });
    let plan = lab.plan(A);
    assert_eq!(created(&plan, "sa"), 4, "{plan:#}");
    assert_eq!(plan["changes"].as_array().map(Vec::len), Some(4), "{plan:#}");
    lab.apply(A);
    stream.wait_for_more(10);
    capture.stop().is_closed();
    assert!(!stream.lost().is_empty(), "nothing was lost, so nothing was flushed");
}

/// That clear text may leave between the flush and the apply is so: the guards are policies too.
#[test]
#[ignore = "needs a kernel with ESP: cargo xtask test"]
fn flushed_policies_come_back_guards_first() {
    let lab = Lab::new(2);
    lab.apply_all();
    lab.host(A).ip("xfrm policy flush");
    let plan = lab.plan(A);
    assert_eq!((created(&plan, "guard"), created(&plan, "policy")), (4, 6), "{plan:#}");
    assert_eq!(plan["steps"][0]["step"], "add_guard", "{plan:#}");
    lab.apply(A);
    let capture = lab.capture();
    lab.reaches(A, B);
    capture.stop().has_only_esp(6);
}
