//! SAs, policies and counters, as iproute2 and `/proc` show them.

use std::collections::BTreeMap;

use crate::namespace::Namespace;

/// A transform with a key that nobody uses, for `ip xfrm state add`.
pub const AEAD: &str = "aead rfc4106(gcm(aes)) 0x000102030405060708090a0b0c0d0e0f10111213 128";

/// An SA as `ip -s xfrm state` shows it.
#[derive(Debug, Clone)]
pub struct Sa {
    pub spi: u32,
    pub reqid: u32,
    /// Key and salt in hex; a larval SA has none.
    pub key: Option<String>,
    /// Packets so far.
    pub packets: u64,
    /// When it was made.
    pub added: String,
    /// All that is shown of it.
    pub text: String,
}

/// All SAs of a host, by SPI. Where several have one, the last.
pub fn sas(host: &Namespace) -> BTreeMap<u32, Sa> {
    let text = host.ip("-s xfrm state");
    let mut blocks: Vec<String> = Vec::new();
    for line in text.lines() {
        match blocks.last_mut() {
            Some(block) if line.starts_with(char::is_whitespace) => {
                block.push('\n');
                block.push_str(line);
            }
            _ => blocks.push(line.into()),
        }
    }
    blocks.into_iter().map(sa).map(|sa| (sa.spi, sa)).collect()
}

fn sa(text: String) -> Sa {
    let after = |word: &str| {
        let mut words = text.split_whitespace().skip_while(|other| *other != word);
        words.nth(1).map(String::from)
    };
    let known = |word| after(word).unwrap_or_else(|| panic!("no {word} in {text}"));
    // With -s, numbers are shown in both systems: 0x81001002(2164264962), 7(0x00000007).
    let first = |word: String| word.split('(').next().unwrap_or_default().to_owned();
    let spi = first(known("spi"));
    let digits = spi.strip_prefix("0x").expect("an SPI is in hex");
    // `12(bytes), 3(packets)`; a limit's line has the same end.
    let packets = text.lines().find_map(|line| {
        let (_, packets) = line.trim().strip_suffix("(packets)")?.split_once("(bytes), ")?;
        packets.parse().ok()
    });
    let added = text.lines().find_map(|line| line.trim().strip_prefix("add 2"));
    Sa {
        spi: u32::from_str_radix(digits, 16).expect("an SPI is in hex"),
        reqid: first(known("reqid")).parse().expect("a reqid is a number"),
        key: text.split_whitespace().skip_while(|w| *w != "aead").nth(2).map(key_digits),
        packets: packets.unwrap_or_else(|| panic!("no packets in {text}")),
        added: added.and_then(|line| line.split(" use ").next()).unwrap_or_default().into(),
        text,
    }
}

impl Sa {
    /// The word behind another one.
    pub fn word_after(&self, word: &str) -> &str {
        let mut words = self.text.split_whitespace().skip_while(|other| *other != word);
        words.nth(1).unwrap_or_else(|| panic!("no {word} in {}", self.text))
    }
}

/// An SA of a mesh with a window of 1024 and ESN, in words for `ip xfrm state`.
pub fn as_words(sa: &Sa) -> String {
    let key = sa.key.as_ref().expect("it has a key");
    let [src, dst] = ["src", "dst"].map(|word| sa.word_after(word));
    format!(
        "src {src} dst {dst} proto esp spi {:#x} reqid {} mode transport flag esn \
         replay-window 1024 aead rfc4106(gcm(aes)) 0x{key} 128 sel src {src} dst {dst}",
        sa.spi, sa.reqid
    )
}

/// The sequence numbers that an SA with ESN has sent and received last.
pub fn numbers(sa: &Sa) -> (u64, u64) {
    // `seq-hi 0x0, seq 0x0, oseq-hi 0x0, oseq 0x5`, behind the same of numbers without ESN
    let (_, shown) = sa.text.split_once("esn context:").expect("it has ESN");
    let number = |word| {
        let digits = shown.split_whitespace().skip_while(|other| *other != word).nth(1);
        let digits = digits.map(|digits| digits.trim_end_matches(',').trim_start_matches("0x"));
        u64::from_str_radix(digits.expect("a number"), 16).expect("numbers are in hex")
    };
    (number("oseq-hi") << 32 | number("oseq"), number("seq-hi") << 32 | number("seq"))
}

/// Seconds from its addition until an SA expires; 0 is never.
pub fn hard_lifetime(sa: &Sa) -> u64 {
    // `expire add: soft 0(sec), hard 100(sec)`
    let (_, rest) = sa.text.split_once("expire add:").expect("ip -s shows lifetimes");
    let (_, rest) = rest.split_once("hard ").expect("ip -s shows hard lifetimes");
    rest.split('(').next().and_then(|number| number.parse().ok()).expect("it is a number")
}

/// When an SA was added, in seconds since 1970.
pub fn added(sa: &Sa) -> u64 {
    let text = format!("2{} UTC", sa.added);
    let mut date = std::process::Command::new("date");
    date.env("TZ", "UTC").args(["-d", &text, "+%s"]);
    crate::shell::run(&mut date).exits(0).stdout.trim().parse().expect("it is a number")
}

fn key_digits(word: &str) -> String {
    word.trim_start_matches("0x").to_owned()
}

/// The host's `/proc/net/xfrm_stat`.
pub fn counters(host: &Namespace) -> BTreeMap<String, u64> {
    let number = |line: &str| {
        let (name, number) = line.split_once(char::is_whitespace)?;
        Some((name.to_owned(), number.trim().parse().ok()?))
    };
    host.proc_net("xfrm_stat").lines().filter_map(number).collect()
}

/// The counters that moved, and by how much.
pub fn moved(
    before: &BTreeMap<String, u64>,
    after: &BTreeMap<String, u64>,
) -> BTreeMap<String, u64> {
    let delta = |(name, now): (&String, &u64)| {
        let moved = now - before.get(name).copied().unwrap_or(0);
        (moved > 0).then(|| (name.clone(), moved))
    };
    after.iter().filter_map(delta).collect()
}

/// Everything in a host's SAD and SPD, as `ip xfrm` lists it.
pub fn databases(host: &Namespace) -> String {
    format!("{}{}", host.ip("xfrm state"), host.ip("xfrm policy"))
}

/// Whether a host has our guard against outgoing packets to this UDP port, over IPv4.
pub fn has_guard(host: &Namespace, port: u16) -> bool {
    let text = host.ip("xfrm policy");
    let selector = format!("src 0.0.0.0/0 dst 0.0.0.0/0 proto udp dport {port}");
    let mut lines = text.lines().zip(text.lines().skip(1));
    lines.any(|(first, second)| {
        first.trim() == selector && second.trim().starts_with("dir out action block")
    })
}
