//! The names of what differs between two hosts, for their pair.
#![forbid(unsafe_code)]

use std::{collections::BTreeSet, net::IpAddr};

use super::{Seen, sa, unfit};
use crate::{
    config::Config,
    model::{
        Direction, Generation, IPPROTO_ESP, KeyView, Level, OldPairs, Policy, PolicyRole, Sa, State,
    },
};

/// The subject of a difference.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum FindingCode {
    /// A host does not have the address that the file gives it.
    Address,
    /// They send under different generations.
    Generation,
    /// One sends under ShortIDs that the other has no SA of.
    ShortId,
    /// The ciphers of an SA differ.
    Cipher,
    /// The keys of an SA differ.
    Key,
    /// A key can't be compared.
    KeyUnknown,
    /// The ESN or the mode of an SA differs.
    Sa,
    /// The one sends ESP in UDP, and the other takes plain ESP, or the reverse.
    Encap,
    /// The replay windows differ, which is allowed.
    Window,
    /// One sends encrypted, and the other in the clear.
    Sends,
    /// One refuses clear text, and the other takes it.
    Level,
    /// One has a guard, and the other none.
    Guard,
    /// The MTU of the tunnel's device differs.
    Mtu,
    /// The states are of different times.
    Time,
}

impl FindingCode {
    /// All of them, as they are listed.
    pub const ALL: [Self; 14] = [
        Self::Address,
        Self::Generation,
        Self::ShortId,
        Self::Cipher,
        Self::Key,
        Self::KeyUnknown,
        Self::Sa,
        Self::Encap,
        Self::Window,
        Self::Sends,
        Self::Level,
        Self::Guard,
        Self::Mtu,
        Self::Time,
    ];

    /// Its name in JSON.
    pub fn word(self) -> &'static str {
        match self {
            Self::Address => "address",
            Self::Generation => "generation",
            Self::ShortId => "short-id",
            Self::Cipher => "cipher",
            Self::Key => "key",
            Self::KeyUnknown => "key-unknown",
            Self::Sa => "sa",
            Self::Encap => "encap",
            Self::Window => "window",
            Self::Sends => "sends",
            Self::Level => "level",
            Self::Guard => "guard",
            Self::Mtu => "mtu",
            Self::Time => "time",
        }
    }

    /// Its name for people.
    pub fn name(self) -> &'static str {
        match self {
            Self::Address => "address",
            Self::Generation => "generation sent",
            Self::ShortId => "ShortIDs",
            Self::Cipher => "cipher",
            Self::Key => "key",
            Self::KeyUnknown => "key not known",
            Self::Sa => "SA",
            Self::Encap => "ESP in UDP",
            Self::Window => "replay window",
            Self::Sends => "packets out",
            Self::Level => "clear text in",
            Self::Guard => "guard",
            Self::Mtu => "MTU",
            Self::Time => "time of the look",
        }
    }
}

/// A difference.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// Its subject.
    pub code: FindingCode,
    /// The value of the first host.
    pub near: String,
    /// The value of the second host.
    pub far: String,
}

/// Looks that are farther apart, in seconds, are of two times.
const APART: u64 = 300;

/// All differences between two hosts.
pub fn findings(config: &Config, now: Generation, near: Seen<'_>, far: Seen<'_>) -> Vec<Finding> {
    let mut found = of_hosts(config, now, near, far);
    found.extend(of_sas(config, near, far, false));
    found.extend(of_sas(config, far, near, true));
    found.sort_by(|a, b| (a.code, &a.near, &a.far).cmp(&(b.code, &b.near, &b.far)));
    found.dedup();
    found
}

/// Those that each host has one value of.
fn of_hosts(config: &Config, now: Generation, near: Seen<'_>, far: Seen<'_>) -> Vec<Finding> {
    let pair = Pair { config, now };
    let mut found = Vec::new();
    let mut both = |code, near: String, far: String| {
        if near != far {
            found.push(Finding { code, near, far });
        }
    };
    both(FindingCode::Generation, pair.generation(near, far), pair.generation(far, near));
    both(FindingCode::ShortId, pair.short_ids(near, far), pair.short_ids(far, near));
    both(FindingCode::Sends, pair.sends(near, far), pair.sends(far, near));
    both(FindingCode::Level, pair.level(near, far), pair.level(far, near));
    both(FindingCode::Guard, pair.guard(near.state), pair.guard(far.state));
    both(FindingCode::Mtu, pair.mtu(near.state), pair.mtu(far.state));
    both(FindingCode::Address, pair.address(near), pair.address(far));
    let apart = near.taken.seconds().abs_diff(far.taken.seconds());
    if apart > APART {
        both(FindingCode::Time, near.taken.rfc3339(), far.taken.rfc3339());
    }
    found
}

struct Pair<'a> {
    config: &'a Config,
    now: Generation,
}

impl Pair<'_> {
    /// The mesh's policies of one direction between a host and another.
    fn policies<'s>(
        &self,
        here: Seen<'s>,
        there: Seen<'_>,
        direction: Direction,
    ) -> impl Iterator<Item = &'s Policy> + use<'s> {
        let (reqid, far) = (self.config.reqid, there.peer.reached_at());
        here.state.policies.iter().filter(move |policy| {
            let [src, dst] = policy.hosts();
            let other = match direction {
                Direction::Out => dst,
                Direction::In | Direction::Fwd => src,
            };
            policy.role_in(reqid) == Some(PolicyRole::Peer)
                && policy.id.direction == direction
                && other == far
                && !policy.is_for_icmp_errors()
        })
    }

    fn spis(&self, here: Seen<'_>, there: Seen<'_>) -> Vec<Sa> {
        let templates =
            self.policies(here, there, Direction::Out).flat_map(|policy| &policy.templates);
        let spis: BTreeSet<_> = templates.map(|template| template.spi).collect();
        let found = spis.into_iter().filter_map(|spi| sa(here.state, there.peer.reached_at(), spi));
        found.cloned().collect()
    }

    fn generation(&self, here: Seen<'_>, there: Seen<'_>) -> String {
        let old = OldPairs::of(here.state, self.config.reqid);
        let spis = self.spis(here, there);
        let generations: BTreeSet<_> = spis.iter().map(|sa| old.generation(sa, self.now)).collect();
        list(generations, "none")
    }

    /// Of the two hosts, by name, so that both ends write them alike.
    fn short_ids(&self, here: Seen<'_>, there: Seen<'_>) -> String {
        let spis = self.spis(here, there);
        let is_first = here.peer.name < there.peer.name;
        let ids: BTreeSet<_> = spis
            .iter()
            .map(|sa| (sa.id.spi.from().get(), sa.id.spi.to().get()))
            .map(|(from, to)| if is_first { (from, to) } else { (to, from) })
            .map(|(first, second)| format!("{first} and {second}"))
            .collect();
        let none = [here.peer, there.peer];
        let [first, second] = if is_first { none } else { [none[1], none[0]] };
        match ids.is_empty() {
            true => format!("{} and {}", first.short_id.get(), second.short_id.get()),
            false => list(ids, ""),
        }
    }

    fn sends(&self, here: Seen<'_>, there: Seen<'_>) -> String {
        let any = self.policies(here, there, Direction::Out).next().is_some();
        if any { "encrypted" } else { "no policy" }.into()
    }

    fn level(&self, here: Seen<'_>, there: Seen<'_>) -> String {
        let policies = self.policies(here, there, Direction::In);
        let levels: Vec<Level> = policies
            .flat_map(|policy| policy.templates.iter().map(|template| template.level))
            .collect();
        match levels.as_slice() {
            [] => "no policy".into(),
            all if all.contains(&Level::Use) => "taken".into(),
            _ => "refused".into(),
        }
    }

    fn guard(&self, state: &State) -> String {
        let role = |policy: &Policy| policy.role_in(self.config.reqid);
        let any = state.policies.iter().any(|policy| role(policy) == Some(PolicyRole::Guard));
        if any { "yes" } else { "no" }.into()
    }

    fn mtu(&self, state: &State) -> String {
        let Some(link) = &self.config.link else { return String::new() };
        let mtu = state.link(&link.device).map(|link| link.mtu.to_string());
        mtu.unwrap_or_else(|| "no device".into())
    }

    fn address(&self, here: Seen<'_>) -> String {
        match here.state.has_address(here.peer.address) {
            true => "as in the file".into(),
            false => format!("{} has no {}", here.peer.name, here.peer.address),
        }
    }
}

/// Those of SAs that both hosts have of one direction. `swapped` tells that the sender is the second
/// host.
fn of_sas(config: &Config, from: Seen<'_>, to: Seen<'_>, swapped: bool) -> Vec<Finding> {
    let mut found = Vec::new();
    let dst = to.peer.reached_at();
    let sent = from.state.sas_of(config.reqid).filter(|sa| is_to(sa, dst) && !sa.is_larval());
    for sent in sent {
        let Some(taken) = sa(to.state, to.peer.address, sent.id.spi) else { continue };
        let mut add = |code, value: fn(&Sa) -> String| {
            let under = |sa: &Sa| format!("{} under SPI {}", value(sa), sa.id.spi);
            let (near, far) = (under(sent), under(taken));
            let (near, far) = if swapped { (far, near) } else { (near, far) };
            found.push(Finding { code, near, far });
        };
        for part in unfit(sent, taken) {
            match part {
                "cipher" => add(FindingCode::Cipher, |sa| sa.algorithm.to_string()),
                "key" => add(FindingCode::Key, |sa| sa.key.to_string()),
                "ESP in UDP" => add(FindingCode::Encap, |sa| match sa.encap {
                    Some(encap) => format!("UDP port {}", encap.dport),
                    None => "plain ESP".into(),
                }),
                _ => add(FindingCode::Sa, |sa| {
                    format!("mode {}, ESN {}", sa.mode, if sa.replay.esn { "on" } else { "off" })
                }),
            }
        }
        if !matches!((sent.key, taken.key), (KeyView::Known(_), KeyView::Known(_))) {
            add(FindingCode::KeyUnknown, |sa| sa.key.to_string());
        }
    }
    found
}

fn is_to(sa: &Sa, dst: IpAddr) -> bool {
    (sa.id.dst, sa.id.proto) == (dst, IPPROTO_ESP)
}

fn list(values: BTreeSet<impl ToString>, none: &str) -> String {
    let values: Vec<String> = values.iter().map(ToString::to_string).collect();
    if values.is_empty() { none.into() } else { values.join(", ") }
}
