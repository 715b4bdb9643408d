//! The facts about a host that `doctor` alone asks for. None of them changes anything, and no
//! packet is sent.
//!
//! A fact that can't be read is `None`, or a text in a list: never an absence.

use std::{collections::BTreeSet, fs, io::ErrorKind, net::IpAddr, path::Path};

use futures_util::TryStreamExt;
use rtnetlink::packet_route::link::{LinkAttribute, LinkFlags, LinkMessage};

use super::{Linux, clock, counters, iptables, link, modules, paths};
use crate::model::{
    Counters, DeviceState, Examination, Family, FilteredPackets, KernelFacts, Sa, Timer,
};

/// The directories of systemd's units, in the order in which systemd looks.
const UNITS: [&str; 2] = ["/etc/systemd/system", "/run/systemd/system"];

/// The subject of an examination.
pub struct Question<'a> {
    /// The local peer's address, if it is known.
    pub local: Option<IpAddr>,
    /// The addresses of its peers.
    pub peers: Vec<IpAddr>,
    /// The devices that packets to them leave by; `None` if they are not known.
    pub devices: Option<BTreeSet<String>>,
    /// The packets that have to pass.
    pub packets: Vec<FilteredPackets>,
    /// The SAs that the kernel should hold.
    pub sas: Vec<&'a Sa>,
}

impl Linux {
    /// Reads them.
    pub fn examine(&self, question: &Question<'_>) -> Examination {
        let filters = question.local.map(|local| {
            let host = iptables::Host { local, devices: question.devices.clone() };
            self.iptables.filters(&host, &question.packets)
        });
        Examination { filters: filters.unwrap_or_default(), ..Examination::without_rules(question) }
    }
}

impl Examination {
    /// All but the rules of firewalls.
    pub fn without_rules(question: &Question<'_>) -> Self {
        let devices = question.devices.iter().flatten();
        Self {
            kernel: kernel(question.sas.iter().copied()),
            is_synchronised: clock::is_synchronised(),
            timer: timer(Path::new("/")),
            path_mtus: question.local.and_then(|local| paths::mtus(local, &question.peers).ok()),
            reverse_path_filters: devices
                .map(|device| (device.clone(), reverse_path_filter(device)))
                .collect(),
            forwards: Family::ALL
                .into_iter()
                .filter_map(|family| Some((family, forwards(family)?)))
                .collect(),
            ..Self::default()
        }
    }
}

/// Counters and devices of this moment.
pub fn counters_and_devices() -> Counters {
    Counters {
        refused: counters().ok().flatten(),
        reverse_path: reverse_path_drops(),
        devices: devices(),
    }
}

fn kernel<'a>(sas: impl Iterator<Item = &'a Sa>) -> KernelFacts {
    let name = rustix::system::uname();
    let text = |text: &std::ffi::CStr| text.to_string_lossy().into_owned();
    KernelFacts {
        release: text(name.release()),
        version: text(name.version()),
        is_fips: fips(),
        lockdown: lockdown(),
        algorithms: algorithms(),
        barred: modules::foreseen(sas),
    }
}

/// A kernel that was built without FIPS has no such file.
fn fips() -> Option<bool> {
    match fs::read_to_string("/proc/sys/crypto/fips_enabled") {
        Ok(text) => Some(text.trim() == "1"),
        Err(error) if error.kind() == ErrorKind::NotFound => {
            Path::new("/proc/sys/kernel").exists().then_some(false)
        }
        Err(_) => None,
    }
}

/// The word in brackets of `none [integrity] confidentiality`.
fn lockdown() -> Option<String> {
    let text = fs::read_to_string("/sys/kernel/security/lockdown").ok()?;
    Some(text.split_once('[')?.1.split_once(']')?.0.to_owned())
}

fn algorithms() -> Option<BTreeSet<String>> {
    let text = fs::read_to_string("/proc/crypto").ok()?;
    let name = |line: &str| {
        let (key, value) = line.split_once(':')?;
        (key.trim() == "name").then(|| value.trim().to_owned())
    };
    Some(text.lines().filter_map(name).collect())
}

/// The larger of a device's own setting and that of all counts (`IN_DEV_RPFILTER`).
fn reverse_path_filter(device: &str) -> Option<u8> {
    let of = |device: &str| -> Option<u8> {
        let path = Path::new("/proc/sys/net/ipv4/conf").join(device).join("rp_filter");
        fs::read_to_string(path).ok()?.trim().parse().ok()
    };
    Some(of(device)?.max(of("all")?))
}

/// Whether packets of a family are sent on, unless a device of its own says no.
fn forwards(family: Family) -> Option<bool> {
    let path = match family {
        Family::Ipv4 => "/proc/sys/net/ipv4/ip_forward",
        Family::Ipv6 => "/proc/sys/net/ipv6/conf/all/forwarding",
    };
    Some(fs::read_to_string(path).ok()?.trim() != "0")
}

/// The counter of `/proc/net/netstat`, a table of names above values.
fn reverse_path_drops() -> Option<u64> {
    let text = fs::read_to_string("/proc/thread-self/net/netstat").ok()?;
    let mut lines = text.lines().filter_map(|line| line.strip_prefix("TcpExt: "));
    let (names, values) = (lines.next()?, lines.next()?);
    let mut pairs = names.split(' ').zip(values.split(' '));
    pairs.find(|(name, _)| *name == "IPReversePathFilter")?.1.parse().ok()
}

fn devices() -> Option<Vec<DeviceState>> {
    let messages: Vec<LinkMessage> =
        link::ask(async |handle| Ok(handle.link().get().execute().try_collect().await?)).ok()?;
    Some(messages.iter().filter_map(device).collect())
}

#[allow(clippy::wildcard_enum_match_arm, reason = "rtnetlink has more attributes than are used")]
fn device(message: &LinkMessage) -> Option<DeviceState> {
    let (mut name, mut lost) = (None, (0, 0));
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::IfName(text) => name = Some(text.clone()),
            LinkAttribute::Stats64(all) => {
                lost = (all.rx_dropped + all.rx_errors, all.tx_dropped + all.tx_errors);
            }
            _ => {}
        }
    }
    let flags = message.header.flags;
    Some(DeviceState {
        name: name?,
        is_up: flags.contains(LinkFlags::Up),
        has_carrier: flags.contains(LinkFlags::LowerUp),
        lost_in: lost.0,
        lost_out: lost.1,
    })
}

/// Timers that are enabled, by the links that `systemctl enable` makes.
fn timer(root: &Path) -> Timer {
    let at = |path: &str| root.join(path.trim_start_matches('/'));
    match at("/run/systemd/system").try_exists() {
        Ok(true) => {}
        Ok(false) if at("/run").exists() => return Timer::NoSystemd,
        Ok(false) | Err(_) => return Timer::Unknown,
    }
    let mut found = BTreeSet::new();
    for directory in UNITS {
        match wanted_timers(&at(directory)) {
            Ok(timers) => found.extend(timers),
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(_) => return Timer::Unknown,
        }
    }
    if found.is_empty() { Timer::None } else { Timer::Enabled(found) }
}

fn wanted_timers(units: &Path) -> std::io::Result<BTreeSet<String>> {
    let mut found = BTreeSet::new();
    for entry in fs::read_dir(units)? {
        let path = entry?.path();
        if path.extension().is_none_or(|extension| extension != "wants") {
            continue;
        }
        for entry in fs::read_dir(path)? {
            let name = entry?.file_name().to_string_lossy().into_owned();
            if name.contains("meshsec") && name.ends_with(".timer") {
                found.insert(name);
            }
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_host_can_be_asked() {
        let found = counters_and_devices();
        let lo = found.device("lo").expect("every namespace has lo");
        assert_eq!(lo.name, "lo");
        assert!(found.reverse_path.is_some(), "the kernel counts them");
        let question = Question {
            local: None,
            peers: Vec::new(),
            devices: Some(["lo".to_owned()].into()),
            packets: Vec::new(),
            sas: Vec::new(),
        };
        let found = Examination::without_rules(&question);
        assert!(!found.kernel.release.is_empty() && found.kernel.algorithms.is_some());
        assert!(found.reverse_path_filters["lo"].is_some());
        assert_eq!(reverse_path_filter("no/../such"), None);
    }

    #[test]
    fn a_timer_counts_if_it_is_enabled() {
        let root = tempfile::tempdir().unwrap();
        let make = |path: &str| fs::create_dir_all(root.path().join(path)).unwrap();
        assert_eq!(timer(root.path()), Timer::Unknown, "nothing can be seen");
        make("run");
        assert_eq!(timer(root.path()), Timer::NoSystemd);
        make("run/systemd/system");
        make("etc/systemd/system/timers.target.wants");
        fs::write(root.path().join("etc/systemd/system/meshsec.timer"), "").unwrap();
        assert_eq!(timer(root.path()), Timer::None, "it is there, and not enabled");
        let link = "etc/systemd/system/timers.target.wants/meshsec@lab.timer";
        fs::write(root.path().join(link), "").unwrap();
        assert_eq!(timer(root.path()), Timer::Enabled(["meshsec@lab.timer".to_owned()].into()));
    }
}
