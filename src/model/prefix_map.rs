//! Values by prefix, found without a look at all of them, and sets of prefixes.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use super::Prefix;

/// Values by prefix.
#[derive(Debug, Clone)]
pub struct PrefixMap<T>(BTreeMap<Prefix, Vec<T>>);

impl<T> Default for PrefixMap<T> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

impl<T> PrefixMap<T> {
    /// Adds a value.
    pub fn add(&mut self, prefix: Prefix, value: T) {
        self.0.entry(prefix.network()).or_default().push(value);
    }

    /// The values of all prefixes that cover this one, the widest first.
    pub fn covering(&self, prefix: Prefix) -> impl Iterator<Item = &T> + use<'_, T> {
        let address = prefix.address;
        let wider = (0..=prefix.length).map(move |length| Prefix { address, length }.network());
        wider.filter_map(|wider| self.0.get(&wider)).flatten()
    }

    /// The values of all prefixes within this one, but not its own.
    pub fn within(&self, prefix: Prefix) -> impl Iterator<Item = &T> + use<'_, T> {
        let (first, own) = (prefix.network(), prefix.length);
        let last = Prefix { address: prefix.last(), length: u8::MAX };
        let found = self.0.range(first..=last).filter(move |(one, _)| one.length > own);
        found.flat_map(|(_, values)| values)
    }
}

impl<T> FromIterator<(Prefix, T)> for PrefixMap<T> {
    fn from_iter<I: IntoIterator<Item = (Prefix, T)>>(values: I) -> Self {
        let mut map = Self::default();
        values.into_iter().for_each(|(prefix, value)| map.add(prefix, value));
        map
    }
}

impl Prefix {
    /// The same with zeros behind the prefix.
    #[must_use]
    pub fn network(self) -> Self {
        let address = match self.address {
            IpAddr::V4(v4) => IpAddr::V4((v4.to_bits() & self.mask_v4()).into()),
            IpAddr::V6(v6) => IpAddr::V6((v6.to_bits() & self.mask_v6()).into()),
        };
        Self { address, length: self.length }
    }

    /// The fewest prefixes with the addresses of these, and with no others: two halves of one prefix
    /// become that one.
    pub fn joined(prefixes: &BTreeSet<Self>) -> Vec<Self> {
        let mut joined: Vec<Self> = Vec::new();
        // In this order the prefixes within another follow it.
        let sorted: BTreeSet<Self> = prefixes.iter().map(|prefix| prefix.network()).collect();
        for mut next in sorted {
            if joined.last().is_some_and(|last| last.covers(&next)) {
                continue;
            }
            while let Some(whole) = joined.last().and_then(|last| last.half_of(next)) {
                joined.pop();
                next = whole;
            }
            joined.push(next);
        }
        joined
    }

    /// The longest prefix around all of these, if one shorter than everything is; none of two families.
    pub fn around(prefixes: &[Self]) -> Option<Self> {
        let (first, last) = (prefixes.iter().min()?, prefixes.iter().max()?);
        let shortest = prefixes.iter().map(|prefix| prefix.length).min()?;
        let wider = (1..=shortest).rev().map(|length| Self { length, ..*first }.network());
        wider.into_iter().find(|wider| wider.covers(first) && wider.covers(last))
    }

    /// Prefixes with the addresses of this one that are in none of others.
    pub fn without(self, others: &BTreeSet<Self>) -> Vec<Self> {
        if others.iter().any(|other| other.covers(&self)) {
            return Vec::new();
        }
        let within: BTreeSet<Self> =
            others.iter().filter(|other| self.covers(other)).copied().collect();
        if within.is_empty() {
            return vec![self];
        }
        // It is wider than another, so it has halves.
        let first = Self { length: self.length + 1, ..self.network() };
        let second = Self { address: self.last(), ..first }.network();
        [first, second].into_iter().flat_map(|half| half.without(&within)).collect()
    }

    /// The prefix whose first half is this one and whose second half is the other.
    fn half_of(self, second: Self) -> Option<Self> {
        let length = self.length.checked_sub(1)?;
        let whole = Self { length, ..self };
        let are_halves = self.length == second.length
            && self.address != second.address
            && whole.network() == whole
            && whole.covers(&second);
        are_halves.then_some(whole)
    }

    /// Its last address.
    pub fn last(self) -> IpAddr {
        match self.address {
            IpAddr::V4(v4) => IpAddr::V4((v4.to_bits() | !self.mask_v4()).into()),
            IpAddr::V6(v6) => IpAddr::V6((v6.to_bits() | !self.mask_v6()).into()),
        }
    }

    fn mask_v4(self) -> u32 {
        u32::MAX.checked_shl(32_u32.saturating_sub(self.length.into())).unwrap_or(0)
    }

    fn mask_v6(self) -> u128 {
        u128::MAX.checked_shl(128_u32.saturating_sub(self.length.into())).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prefix(text: &str) -> Prefix {
        let (address, length) = text.split_once('/').unwrap();
        Prefix { address: address.parse().unwrap(), length: length.parse().unwrap() }
    }

    #[test]
    fn a_prefix_without_others_has_all_other_addresses() {
        for (whole, others, left) in [
            ("10.2.0.0/15", vec![], vec!["10.2.0.0/15"]),
            ("10.2.0.0/15", vec!["10.3.0.0/16"], vec!["10.2.0.0/16"]),
            ("10.2.0.0/15", vec!["10.2.0.0/16", "10.3.0.0/16"], vec![]),
            ("10.2.0.0/15", vec!["10.0.0.0/8"], vec![]),
            ("10.2.0.0/15", vec!["10.4.0.0/16", "::/0"], vec!["10.2.0.0/15"]),
            ("10.2.0.0/14", vec!["10.1.0.0/16"], vec!["10.0.0.0/16", "10.2.0.0/15"]),
            ("fd00::/127", vec!["fd00::1/128"], vec!["fd00::/128"]),
            ("0.0.0.0/0", vec!["0.0.0.0/1"], vec!["128.0.0.0/1"]),
        ] {
            let others = others.into_iter().map(prefix).collect();
            let left: Vec<Prefix> = left.into_iter().map(prefix).collect();
            assert_eq!(prefix(whole).without(&others), left, "{whole} without {others:?}");
        }
    }

    #[test]
    fn the_prefix_around_others_is_the_longest() {
        for (all, around) in [
            (vec![], None),
            (vec!["10.1.0.0/16"], Some("10.1.0.0/16")),
            (vec!["10.1.0.0/16", "10.2.0.0/24", "10.9.0.0/16"], Some("10.0.0.0/12")),
            (vec!["10.1.0.0/16", "192.168.0.0/24"], None),
            (vec!["10.1.0.0/16", "100.64.0.0/24"], Some("0.0.0.0/1")),
            (vec!["10.0.0.0/8", "10.9.0.0/16"], Some("10.0.0.0/8")),
            (vec!["fd00:1::/48", "fd00:9::/48"], Some("fd00::/28")),
            (vec!["10.1.0.0/16", "fd00:9::/48"], None),
        ] {
            let all: Vec<Prefix> = all.into_iter().map(prefix).collect();
            assert_eq!(Prefix::around(&all), around.map(prefix), "{all:?}");
        }
    }

    #[test]
    fn joined_prefixes_are_the_fewest_with_the_same_addresses() {
        for (prefixes, joined) in [
            (vec![], vec![]),
            (vec!["10.0.0.0/16", "10.1.0.0/16"], vec!["10.0.0.0/15"]),
            (vec!["10.1.0.0/16", "10.2.0.0/16"], vec!["10.1.0.0/16", "10.2.0.0/16"]),
            (vec!["10.0.0.0/16", "10.1.0.0/17", "10.1.128.0/17"], vec!["10.0.0.0/15"]),
            (vec!["10.0.0.0/15", "10.1.0.0/16", "10.1.7.0/24"], vec!["10.0.0.0/15"]),
            (vec!["10.0.0.0/16", "10.2.0.0/15"], vec!["10.0.0.0/16", "10.2.0.0/15"]),
            (vec!["0.0.0.0/1", "128.0.0.0/1"], vec!["0.0.0.0/0"]),
            (vec!["::/1", "128.0.0.0/1", "8000::/1"], vec!["128.0.0.0/1", "::/0"]),
            (vec!["fd00::1/128", "fd00::/128"], vec!["fd00::/127"]),
            (vec!["10.0.0.7/16"], vec!["10.0.0.0/16"]),
        ] {
            let all = prefixes.iter().map(|text| prefix(text)).collect();
            let expected: Vec<Prefix> = joined.into_iter().map(prefix).collect();
            assert_eq!(Prefix::joined(&all), expected, "{prefixes:?}");
        }
        // All numbers but one, as a host sees a mesh that numbers its networks through.
        let all = (0..4096_u32).filter(|number| *number != 1365);
        let all =
            all.map(|number| Prefix { address: IpAddr::V4((number << 20).into()), length: 12 });
        assert_eq!(Prefix::joined(&all.collect()).len(), 12);
    }

    #[test]
    fn values_are_found_by_prefixes_around_and_within() {
        let all = [
            "0.0.0.0/0",
            "10.0.0.0/8",
            "10.2.0.0/16",
            "10.2.3.0/24",
            "10.2.255.255/32",
            "10.3.0.0/16",
            "::/0",
            "fd00:2::/48",
            "fd00:2::1/128",
        ];
        let map: PrefixMap<&str> = all.into_iter().map(|text| (prefix(text), text)).collect();
        for asked in all.into_iter().chain(["10.2.3.4/32", "10.2.0.0/15", "fd00::/16"]) {
            let asked = prefix(asked);
            let around: Vec<&str> = map.covering(asked).copied().collect();
            let within: Vec<&str> = map.within(asked).copied().collect();
            let by_each = |is: &dyn Fn(Prefix) -> bool| -> Vec<&str> {
                all.into_iter().filter(|text| is(prefix(text))).collect()
            };
            assert_eq!(around, by_each(&|one| one.covers(&asked)), "around {asked}");
            assert_eq!(
                within,
                by_each(&|one| asked.covers(&one) && asked.length < one.length),
                "within {asked}"
            );
        }
    }

    #[test]
    fn a_network_has_zeros_behind_its_prefix_and_its_last_address_ones() {
        for (text, network, last) in [
            ("10.2.3.4/16", "10.2.0.0/16", "10.2.255.255"),
            ("10.2.3.4/0", "0.0.0.0/0", "255.255.255.255"),
            ("10.2.3.4/32", "10.2.3.4/32", "10.2.3.4"),
            ("fd00::1/0", "::/0", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"),
            ("fd00::1/127", "fd00::/127", "fd00::1"),
        ] {
            assert_eq!(prefix(text).network().to_string(), network);
            assert_eq!(prefix(text).last().to_string(), last);
        }
    }
}
