//! The host itself: its address, devices, kernel, clock and timer.

use std::collections::BTreeSet;

use super::{Facts, Finding, fixes, list, plural};
use crate::{
    config::Rotation,
    model::{CheckCode, DeviceState, Family, Prefix, Timer},
    verdict::seconds_since,
};

pub(super) fn findings(facts: &Facts<'_>) -> Vec<Finding> {
    let mut found = Vec::new();
    found.extend(own_address(facts));
    found.extend(devices(facts));
    found.push(esp(facts));
    found.push(fixes::finding(&facts.examination.kernel));
    found.extend(keys(facts));
    found.extend(clock(facts));
    found.push(timer(facts));
    found.extend(last_apply(facts));
    found.extend(reverse_path(facts));
    found.extend(forwarding(facts));
    found.push(drops(facts));
    found
}

/// A host with a network of several addresses forwards packets for them, in each family.
fn forwarding(facts: &Facts<'_>) -> Option<Finding> {
    let code = CheckCode::Forwarding;
    let several = facts.local?.networks.iter().filter(|net| **net != Prefix::host(net.address));
    let families: BTreeSet<Family> = several
        .map(|net| if net.address.is_ipv4() { Family::Ipv4 } else { Family::Ipv6 })
        .collect();
    let sysctl = |family: &Family| match family {
        Family::Ipv4 => "net.ipv4.ip_forward",
        Family::Ipv6 => "net.ipv6.conf.all.forwarding",
    };
    let forwards = |family: &Family| facts.examination.forwards.get(family).copied();
    let off: Vec<&str> =
        families.iter().filter(|family| forwards(family) == Some(false)).map(sysctl).collect();
    let unread = families.iter().any(|family| forwards(family).is_none());
    if families.is_empty() {
        return None;
    }
    Some(if !off.is_empty() {
        let text = format!(
            "this host forwards no packets to and from the hosts of its networks ({} is 0)",
            list(off.clone())
        );
        let remedy = format!("run: sysctl -w {}=1, unless its networks hold no other host", off[0]);
        Finding::attention(code, text).remedy(remedy).cause()
    } else if unread {
        Finding::unknown(code, "whether this host forwards packets can't be read")
    } else {
        Finding::ok(code, "this host forwards packets for the hosts of its networks")
    })
}

fn own_address(facts: &Facts<'_>) -> Option<Finding> {
    let local = facts.local?;
    let carriers: Vec<&str> = facts
        .state
        .addresses
        .iter()
        .filter(|at| at.address == local.address)
        .map(|at| at.device.as_str())
        .collect();
    let code = CheckCode::OwnAddress;
    if !carriers.is_empty() {
        let text = format!("{} is on {}", local.address, list(carriers));
        return Some(Finding::ok(code, text));
    }
    let is_here = |at: &&crate::model::LocalAddress| {
        !at.address.is_loopback() && at.address.is_ipv4() == local.address.is_ipv4()
    };
    let here = facts.state.addresses.iter().filter(is_here);
    let here: Vec<String> = here.map(|at| format!("{} ({})", at.address, at.device)).collect();
    let has = if here.is_empty() { String::new() } else { format!(": it has {}", list(here)) };
    let text = format!(
        "this host does not have {}, the address of {}{has}; no packet of a peer gets here",
        local.address, local.name
    );
    let remedy = "give the host its address, or correct address or --local";
    Some(Finding::attention(code, text).remedy(remedy).cause())
}

/// The devices that packets leave by; those with the address where none is known to.
fn devices(facts: &Facts<'_>) -> Vec<Finding> {
    let code = CheckCode::Device;
    let mut names = facts.devices();
    if names.is_empty() {
        let own = facts.local.map(|local| local.address);
        let with_it = facts.state.addresses.iter().filter(|at| Some(at.address) == own);
        names = with_it.map(|at| at.device.as_str()).filter(|device| *device != "lo").collect();
    }
    let counters = facts.counters[1];
    if counters.devices.is_none() {
        return vec![Finding::unknown(code, "the states of devices can't be read")];
    }
    let wrong = |name: &&str| {
        let device = counters.device(name)?;
        let (is, remedy) = match device {
            DeviceState { is_up: false, .. } => ("is down", format!("ip link set {name} up")),
            DeviceState { has_carrier: false, .. } => (
                "has no carrier: nothing is at its other end",
                "look at its cable, its switch, or the device that it is on".into(),
            ),
            DeviceState { .. } => return None,
        };
        let text = format!("{name}, by which packets to peers leave, {is}");
        Some(Finding::attention(code, text).remedy(remedy).cause())
    };
    let found: Vec<Finding> = names.iter().filter_map(wrong).collect();
    let gone: Vec<&&str> = names.iter().filter(|name| counters.device(name).is_none()).collect();
    match (found.is_empty(), names.is_empty(), gone.is_empty()) {
        (false, _, _) => found,
        (true, true, _) => {
            vec![Finding::unknown(code, "no device is known by which packets to peers leave")]
        }
        (true, false, false) => {
            let text = format!("{}, by which packets to peers leave, can't be read", list(gone));
            vec![Finding::unknown(code, text)]
        }
        (true, false, true) => {
            vec![Finding::ok(code, format!("{} up, with a carrier", list(names)))]
        }
    }
}

fn esp(facts: &Facts<'_>) -> Finding {
    let code = CheckCode::Esp;
    let kernel = &facts.examination.kernel;
    let has_sas = facts.state.sas_of(facts.config.reqid).next().is_some();
    if has_sas {
        let fips = if kernel.is_fips == Some(true) { "; FIPS mode is on" } else { "" };
        return Finding::ok(code, format!("the kernel has taken SAs of the mesh{fips}"));
    }
    if !kernel.barred.is_empty() {
        return Finding::attention(code, kernel.barred.join("; ")).cause();
    }
    let aead = facts.config.esp.cipher.algorithm();
    let name = match &aead {
        crate::model::Algorithm::Aead { name, .. } => name.as_str(),
        crate::model::Algorithm::Other(_) | crate::model::Algorithm::Larval => "",
    };
    let is_listed = kernel.algorithms.as_ref().is_some_and(|all| all.contains(name));
    let crypto = match is_listed {
        true => format!("/proc/crypto lists {name}"),
        false => {
            format!("/proc/crypto does not list {name}, which the kernel loads when it is needed")
        }
    };
    let text = format!(
        "no SA of the mesh is here, so whether the kernel has ESP and the cipher is not known before \
         an apply; {crypto}"
    );
    Finding::unknown(code, text)
}

/// In lockdown=confidentiality the kernel shows no key.
fn keys(facts: &Facts<'_>) -> Option<Finding> {
    let code = CheckCode::Keys;
    facts.mesh.as_ref()?;
    let hidden = facts.state.hidden_keys(facts.config.reqid);
    if hidden > 0 {
        let mode = facts.examination.kernel.lockdown.as_deref().unwrap_or("not known");
        let text = format!(
            "the kernel hides {} (lockdown: {mode}), so plans can't compare them with the file's",
            plural(hidden as u64, "key", "keys")
        );
        return Some(Finding::unknown(code, text));
    }
    if facts.state.sas_of(facts.config.reqid).next().is_none() {
        let text = "no SA of the mesh is here, so whether the kernel shows keys is not known";
        return Some(Finding::unknown(code, text));
    }
    Some(Finding::ok(code, "the kernel shows keys, and meshsec plan compares them"))
}

fn clock(facts: &Facts<'_>) -> Option<Finding> {
    let code = CheckCode::Clock;
    if facts.stop.as_ref().is_some_and(|stop| stop.code == code) {
        return None;
    }
    Some(match (facts.config.rotation, facts.examination.is_synchronised) {
        (Rotation::Generation(_), _) => Finding::ok(code, "generations do not follow the clock"),
        (Rotation::Period(_), Some(true)) => Finding::ok(code, "the clock is synchronised"),
        (Rotation::Period(_), Some(false)) => {
            let text = "the clock is not synchronised, and generations follow it: a host that is off \
                        by more than a period is cut off";
            Finding::attention(code, text)
                .remedy("run chrony or another NTP client, and compare date -u on both hosts")
        }
        (Rotation::Period(_), None) => {
            Finding::unknown(code, "the kernel does not say whether its clock is synchronised")
        }
    })
}

fn timer(facts: &Facts<'_>) -> Finding {
    let code = CheckCode::Timer;
    let follows = matches!(facts.config.rotation, Rotation::Period(_));
    let needs = "with period something has to run meshsec apply again and again";
    match &facts.examination.timer {
        Timer::Enabled(timers) => Finding::ok(code, format!("{} enabled", list(timers))),
        Timer::NoSystemd | Timer::Unknown | Timer::None if !follows => {
            Finding::ok(code, "none is needed: the generation is in the file")
        }
        Timer::NoSystemd => {
            Finding::unknown(code, format!("there is no systemd, and {needs}: does cron?"))
        }
        Timer::Unknown => Finding::unknown(code, format!("timers can't be read, and {needs}")),
        Timer::None => Finding::unknown(
            code,
            format!("no timer with meshsec in its name is enabled, and {needs}: does cron?"),
        )
        .remedy("systemctl enable --now meshsec.timer"),
    }
}

fn last_apply(facts: &Facts<'_>) -> Option<Finding> {
    let mesh = facts.mesh.as_ref()?;
    let added = mesh.case.live.0.usage.iter().map(|usage| usage.added).max()?;
    let ago = seconds_since(added, facts.now);
    let text = format!("SAs of the mesh were last added {ago} s ago, at {}", added.rfc3339());
    Some(Finding::ok(CheckCode::LastApply, text))
}

fn reverse_path(facts: &Facts<'_>) -> Option<Finding> {
    let code = CheckCode::ReversePath;
    // IPv6 has no such sysctl.
    facts.local.filter(|local| local.address.is_ipv4())?;
    let [before, after] = facts.counters.map(|counters| counters.reverse_path);
    let (Some(before), Some(after)) = (before, after) else {
        let text = "whether rp_filter drops packets can't be read";
        return Some(Finding::unknown(code, text));
    };
    let strict = facts.examination.reverse_path_filters.iter();
    let strict: Vec<&String> =
        strict.filter(|(_, value)| **value == Some(1)).map(|(device, _)| device).collect();
    let dropped = after.saturating_sub(before);
    if dropped == 0 {
        let is =
            if strict.is_empty() { String::new() } else { format!("; strict on {}", list(strict)) };
        return Some(Finding::ok(code, format!("rp_filter has dropped nothing{is}")));
    }
    let text = format!(
        "rp_filter has dropped {} in {} s, as their source is not reached by the device they came in by",
        plural(dropped, "packet", "packets"),
        facts.seconds
    );
    let remedy = "if they come from peers, set net.ipv4.conf.DEVICE.rp_filter to 2";
    Some(Finding::attention(code, text).remedy(remedy))
}

/// The devices by which packets leave, and the tunnel devices of the mesh.
fn drops(facts: &Facts<'_>) -> Finding {
    let code = CheckCode::DeviceDrops;
    let [before, after] = facts.counters;
    if before.devices.is_none() || after.devices.is_none() {
        return Finding::unknown(code, "the counters of devices can't be read");
    }
    let of_mesh = facts.config.traffic.device();
    let tunnels = facts.state.tunnels.iter().flatten();
    let tunnels = tunnels.filter(|tunnel| Some((tunnel.kind, tunnel.port)) == of_mesh);
    let names: BTreeSet<&str> =
        facts.devices().into_iter().chain(tunnels.map(|tunnel| tunnel.device.as_str())).collect();
    let moved = |name: &str| {
        let (before, after) = (before.device(name)?, after.device(name)?);
        let lost_in = after.lost_in.saturating_sub(before.lost_in);
        let lost_out = after.lost_out.saturating_sub(before.lost_out);
        (lost_in + lost_out > 0).then(|| format!("{name} {lost_in} in and {lost_out} out"))
    };
    let is_gone = |name: &&&str| before.device(name).is_none() || after.device(name).is_none();
    let gone: Vec<&&str> = names.iter().filter(is_gone).collect();
    let lost: Vec<String> = names.iter().copied().filter_map(moved).collect();
    if lost.is_empty() && names.is_empty() {
        return Finding::unknown(code, "no device is known by which packets of the mesh pass");
    }
    if lost.is_empty() && !gone.is_empty() {
        return Finding::unknown(code, format!("the counters of {} can't be read", list(gone)));
    }
    if lost.is_empty() {
        return Finding::ok(code, format!("devices have dropped nothing in {} s", facts.seconds));
    }
    let text = format!("devices have dropped packets in {} s: {}", facts.seconds, list(lost));
    Finding::attention(code, text).remedy("ip -s -s link show tells more")
}
