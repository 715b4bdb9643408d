//! The objects of a mesh in the words of other programs, with their keys.
//!
//! Each line is in a buffer of its own, which is wiped and never grows: what grows leaves copies.

use std::fmt::Write;

use zeroize::Zeroizing;

use crate::model::{
    Algorithm, Cipher, Encap, Key, Mark, Passage, Policy, PolicyStep, Sa, SaStep, Start, StepKind,
};

/// More than the longest line, with two addresses of IPv6 in each of four places.
const LONGEST_LINE: usize = 2 << 10;

/// A line of text with a key in it.
pub type SecretLine = Zeroizing<String>;

/// A step in the words of `ip -batch`, or why it has none.
///
/// # Errors
///
/// `ip xfrm` can't express the object, or the object depends on the time.
pub fn ip_line(step: &StepKind) -> Result<SecretLine, String> {
    let mut line = line();
    match step {
        StepKind::Sa(SaStep::Add { sa, key, start }) => write_sa(&mut line, sa, key, *start)?,
        StepKind::Policy(PolicyStep::Add(policy)) => write_policy(&mut line, policy)?,
        StepKind::Chain(_) | StepKind::Mtu(_) => {
            let _ = writeln!(line, "# not in the words of ip: {}", step.id());
        }
        StepKind::Wait(_) => {}
        StepKind::Sa(SaStep::Replace { .. } | SaStep::Delete(_))
        | StepKind::Policy(PolicyStep::Update(_) | PolicyStep::Delete(_)) => {
            return Err(format!("{} is on an empty host already", step.id()));
        }
    }
    Ok(line)
}

/// An SA as a line of Wireshark's file `esp_sa`; nothing for other objects.
///
/// # Errors
///
/// Wireshark has no name for the cipher.
pub fn wireshark_line(step: &StepKind) -> Result<SecretLine, String> {
    let mut line = line();
    let StepKind::Sa(SaStep::Add { sa, key, .. }) = step else { return Ok(line) };
    let is_gcm = [Cipher::Aes256Gcm, Cipher::Aes128Gcm]
        .iter()
        .any(|cipher| cipher.algorithm() == sa.algorithm);
    if !is_gcm {
        return Err(format!("Wireshark does not decrypt {} in ESP", sa.algorithm));
    }
    let family = if sa.id.dst.is_ipv4() { "IPv4" } else { "IPv6" };
    let _ = write!(
        line,
        "\"{family}\",\"{}\",\"{}\",\"{}\",\"AES-GCM with 16 octet ICV [RFC4106]\",\"0x",
        sa.src, sa.id.dst, sa.id.spi
    );
    write_hex(&mut line, key);
    line.push_str("\",\"NULL\",\"\"\n");
    Ok(line)
}

fn line() -> SecretLine {
    Zeroizing::new(String::with_capacity(LONGEST_LINE))
}

fn write_hex(line: &mut String, key: &Key) {
    for byte in key.expose() {
        let _ = write!(line, "{byte:02x}");
    }
}

fn write_sa(line: &mut String, sa: &Sa, key: &Key, start: Start) -> Result<(), String> {
    let Algorithm::Aead { name, icv_bits, .. } = &sa.algorithm else {
        return Err(format!("the SA {} has no cipher", sa.id));
    };
    if sa.ends.is_some() || start != Start::Fresh {
        return Err(
            "with period, SAs begin and end by the clock, and lines that are run later would be \
             wrong; write generation"
                .into(),
        );
    }
    if sa.offload.is_some() {
        return Err("offload depends on the host's device; leave it out of [esp]".into());
    }
    if sa.keepalive.is_some() {
        return Err(
            "ip has no word for NAT keepalives; leave keepalive out of encap in [esp]".into()
        );
    }
    let _ =
        write!(line, "xfrm state add src {} {} reqid {} mode {}", sa.src, sa.id, sa.reqid, sa.mode);
    if sa.replay.window > 0 {
        let _ = write!(line, " replay-window {}", sa.replay.window);
    }
    if sa.replay.esn {
        line.push_str(" flag esn");
    }
    let _ = write!(line, " aead {name} 0x");
    write_hex(line, key);
    let _ = write!(line, " {icv_bits}");
    if let Some(selector) = sa.selector {
        let _ = write!(line, " sel {selector}");
    }
    if let Some(Encap { sport, dport }) = sa.encap {
        let any = if sa.id.dst.is_ipv4() { "0.0.0.0" } else { "::" };
        let _ = write!(line, " encap espinudp {sport} {dport} {any}");
    }
    line.push('\n');
    Ok(())
}

fn write_policy(line: &mut String, policy: &Policy) -> Result<(), String> {
    match policy.passage() {
        Some(passage @ (Passage::Encap | Passage::Exception)) => {
            return Err(format!(
                "ip has no word for the mark by which the policy for {} is known",
                passage.packets()
            ));
        }
        Some(Passage::Discovery) | None => {}
    }
    let id = &policy.id;
    // The kernel compares it with no packet, and it tells the policies of two meshes apart.
    if id.selector.user != 0 {
        let _ = writeln!(line, "# not in the words of ip: policy {id}");
        return Ok(());
    }
    let _ = write!(line, "xfrm policy add {} dir {}", id.selector, id.direction);
    if let Some(index) = policy.index {
        let _ = write!(line, " index {index}");
    }
    let Mark { value, mask } = id.mark;
    if !id.mark.is_none() {
        let _ = write!(line, " mark {value:#x} mask {mask:#x}");
    }
    let _ = write!(line, " action {} priority {}", policy.action, policy.priority);
    for template in &policy.templates {
        let _ = write!(line, " tmpl {template}");
    }
    line.push('\n');
    Ok(())
}
