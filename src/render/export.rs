//! The objects of a mesh in the words of other programs, with their keys.
//!
//! Each line is in a buffer of its own, which is wiped and never grows: what grows leaves copies.

use std::fmt::Write;

use zeroize::Zeroizing;

use crate::model::{
    AddressStep, Algorithm, Cipher, Encap, FibEntry, Interface, InterfaceStep, Key, Mark,
    ObjectStep, Passage, Policy, PolicyStep, RouteStep, Sa, SaStep, Start, StepKind,
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
        StepKind::Interface(InterfaceStep::Add(interface)) => write_interface(&mut line, interface),
        StepKind::Address(step @ AddressStep::Add(_)) => {
            let _ = writeln!(line, "address add {}", step.id());
        }
        StepKind::Route(RouteStep::Add(entry)) => write_route(&mut line, entry),
        StepKind::Wait(_) => {}
        StepKind::Interface(InterfaceStep::Set(_) | InterfaceStep::Delete { .. })
        | StepKind::Address(AddressStep::Delete(_))
        | StepKind::Route(RouteStep::Delete(_))
        | StepKind::Sa(SaStep::Replace { .. } | SaStep::Delete(_))
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

/// The lines of an interface. `ip` has no word for its sysctl.
fn write_interface(line: &mut String, interface: &Interface) {
    let Interface { name, if_id, mtu, up, makes_addresses, skips_policies } = interface;
    let _ = writeln!(line, "link add {name} type xfrm if_id {if_id:#x}");
    let mode = if *makes_addresses { "eui64" } else { "none" };
    let state = if *up { "up" } else { "down" };
    let _ = writeln!(line, "link set {name} mtu {mtu} addrgenmode {mode} {state}");
    if *skips_policies {
        let _ = writeln!(line, "# not in the words of ip: net.ipv4.conf.{name}.disable_xfrm=1");
    }
}

fn write_route(line: &mut String, entry: &FibEntry) {
    let _ = write!(line, "route add {entry} proto {}", entry.protocol);
    if let Some(source) = entry.source {
        let _ = write!(line, " src {source}");
    }
    line.push('\n');
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
    match (sa.replay.esn, sa.selector) {
        (true, Some(_)) => line.push_str(" flag esn"),
        (true, None) => line.push_str(" flag esn af-unspec"),
        (false, None) => line.push_str(" flag af-unspec"),
        (false, Some(_)) => {}
    }
    if sa.if_id != 0 {
        let _ = write!(line, " if_id {:#x}", sa.if_id);
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
    if id.if_id != 0 {
        let _ = write!(line, " if_id {:#x}", id.if_id);
    }
    let _ = write!(line, " action {} priority {}", policy.action, policy.priority);
    for template in &policy.templates {
        let _ = write!(line, " tmpl {template}");
    }
    line.push('\n');
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{LocalAddress, Prefix, Reqid};

    #[test]
    fn interfaces_addresses_and_routes_are_lines_of_ip() {
        let reqid = Reqid(0x4d53_0001);
        let inside = [10, 9, 0, 1].into();
        let network = Prefix { address: [10, 1, 0, 0].into(), length: 16 };
        let local = LocalAddress { address: inside, device: "mesh0".into() };
        let lines: String = [
            StepKind::Interface(InterfaceStep::Add(Interface::of_mesh("mesh0", reqid, 1400))),
            StepKind::Address(AddressStep::Add(local)),
            StepKind::Route(RouteStep::Add(FibEntry::through(network, "mesh0", Some(inside)))),
            StepKind::Route(RouteStep::Add(FibEntry::blackhole(network, reqid))),
        ]
        .iter()
        .map(|step| ip_line(step).unwrap().to_string())
        .collect();
        assert_eq!(
            lines,
            "link add mesh0 type xfrm if_id 0x4d530001\n\
             link set mesh0 mtu 1400 addrgenmode none up\n\
             # not in the words of ip: net.ipv4.conf.mesh0.disable_xfrm=1\n\
             address add 10.9.0.1/32 dev mesh0\n\
             route add 10.1.0.0/16 dev mesh0 metric 1 proto 77 src 10.9.0.1\n\
             route add blackhole 10.1.0.0/16 metric 1297285121 proto 77\n"
        );
    }
}
