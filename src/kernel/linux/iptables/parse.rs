//! The output of iptables-save, parsed.
//!
//! Pure. iptables-save rewrites rules (0x1002 becomes 4098, `-m udp` appears, marks get masks). So
//! rules are compared by their words and never as text. An output that ends early or holds anything
//! unknown is an error, because missing lines would be taken for absent rules.
#![forbid(unsafe_code)]

use std::collections::{BTreeMap, BTreeSet};

use crate::model::{Direction, Mark, Prefix, Reqid, Rule, number};

/// Tables by their names.
pub(super) type Tables = BTreeMap<String, Table>;

/// One table.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Table {
    /// Chains by their names.
    pub chains: BTreeMap<String, Chain>,
}

/// One chain.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Chain {
    /// The verdict at its end, of a built-in chain only.
    pub policy: Option<String>,
    /// Its rules, in order.
    pub rules: Vec<Line>,
}

/// A rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Line {
    /// The text after `-A CHAIN`, as printed.
    pub text: String,
    /// Its words, unless they can't be told apart.
    pub words: Option<Vec<String>>,
}

/// The target that a rule sends its packets to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Target<'a> {
    /// `-j`: a verdict, an extension or a chain. Packets come back from the end of the chain.
    Jump(&'a str),
    /// `-g`: a chain. Packets don't come back from its end.
    Goto(&'a str),
    /// None: the rule only counts.
    Nothing,
    /// The rule can't be read.
    Unknown,
}

/// Parses an output.
///
/// # Errors
///
/// The first line that makes no sense here, or that the end is missing.
pub(super) fn tables(text: &str) -> Result<Tables, String> {
    let mut tables = Tables::new();
    let mut current: Option<(&str, Table)> = None;
    for line in text.lines().map(str::trim_end).filter(|line| !line.is_empty()) {
        if let Some(comment) = line.strip_prefix('#') {
            // iptables-nft prints this, with status 0, for a table that it can't show.
            if comment.contains("is incompatible") {
                return Err(format!("it says {:?}", comment.trim()));
            }
        } else if let Some(name) = line.strip_prefix('*') {
            if current.is_some() {
                return Err(format!("table {name:?} begins before the end of another"));
            }
            current = Some((name, tables.remove(name).unwrap_or_default()));
        } else if line == "COMMIT" {
            let (name, table) = current.take().ok_or("COMMIT without a table")?;
            tables.insert(name.into(), table);
        } else {
            let (_, table) = current.as_mut().ok_or_else(|| format!("unexpected line {line:?}"))?;
            entry(table, line)?;
        }
    }
    match current {
        Some((name, _)) => Err(format!("table {name:?} has no end")),
        None => Ok(tables),
    }
}

/// A line that declares a chain or adds a rule.
fn entry(table: &mut Table, line: &str) -> Result<(), String> {
    let unexpected = || format!("unexpected line {line:?}");
    if let Some(rest) = line.strip_prefix(':') {
        let (name, policy) = rest.split_once(' ').ok_or_else(unexpected)?;
        let policy = policy.split(' ').next().filter(|policy| *policy != "-").map(Into::into);
        let chain = Chain { policy, rules: Vec::new() };
        return match table.chains.insert(name.into(), chain) {
            None => Ok(()),
            Some(_) => Err(format!("chain {name:?} is declared twice")),
        };
    }
    let rest = line.strip_prefix("-A ").ok_or_else(unexpected)?;
    let (name, text) = rest.split_once(' ').unwrap_or((rest, ""));
    let chain = table.chains.get_mut(name).ok_or_else(unexpected)?;
    chain.rules.push(Line { text: text.into(), words: words(text) });
    Ok(())
}

/// Words, with quotes and backslashes removed as iptables-restore does; `None` where a quote is not
/// closed.
pub(super) fn words(text: &str) -> Option<Vec<String>> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quoted = false;
    let mut characters = text.chars();
    while let Some(character) = characters.next() {
        match character {
            '"' => {
                quoted = !quoted;
                word.get_or_insert_default();
            }
            '\\' => word.get_or_insert_default().push(characters.next()?),
            ' ' | '\t' if !quoted => words.extend(word.take()),
            other => word.get_or_insert_default().push(other),
        }
    }
    words.extend(word);
    (!quoted).then_some(words)
}

impl Line {
    /// Options and values, without the values of comments, which may look like anything.
    fn options(&self) -> impl Iterator<Item = (&str, Option<&str>)> {
        let words = self.words.as_deref().unwrap_or_default();
        let is_comment = move |index: usize| index > 0 && words[index - 1] == "--comment";
        (0..words.len())
            .filter(move |&index| !is_comment(index))
            .map(|index| (words[index].as_str(), words.get(index + 1).map(String::as_str)))
    }

    /// The target of its packets.
    pub(super) fn target(&self) -> Target<'_> {
        if self.words.is_none() {
            return Target::Unknown;
        }
        self.options()
            .find_map(|(option, value)| match (option, value) {
                ("-j", Some(name)) => Some(Target::Jump(name)),
                ("-g", Some(name)) => Some(Target::Goto(name)),
                _ => None,
            })
            .unwrap_or(Target::Nothing)
    }

    /// Whether it leads to this chain.
    pub(super) fn leads_to(&self, chain: &str) -> bool {
        matches!(self.target(), Target::Jump(name) | Target::Goto(name) if name == chain)
    }

    /// Whether it only sends every packet to this chain and back.
    pub(super) fn is_plain_jump_to(&self, chain: &str) -> bool {
        self.words.as_deref().is_some_and(|words| words == ["-j", chain])
    }

    /// As a rule of a mesh, or as it is.
    pub(super) fn rule(&self) -> Rule {
        let own = self.words.as_deref().and_then(own_rule);
        own.unwrap_or_else(|| Rule::Other(self.text.clone()))
    }

    /// The bits of marks that it sets, saves or compares; 0 for most.
    pub(super) fn mark_bits(&self) -> u32 {
        let options: Vec<_> = self.options().collect();
        let value_of =
            |name: &str| options.iter().find(|(option, _)| *option == name).and_then(|(_, v)| *v);
        options
            .iter()
            .map(|(option, value)| match (*option, value.and_then(bits)) {
                // Bits in the value alone are flipped.
                ("--set-xmark" | "--set-mark" | "--tproxy-mark", Some((value, mask))) => {
                    value | mask.unwrap_or(u32::MAX)
                }
                ("--mark", Some((value, mask))) => mask.map_or(u32::MAX, |mask| value | mask),
                ("--or-mark" | "--xor-mark", Some((value, _))) => value,
                ("--and-mark", Some((value, _))) => !value,
                ("--save-mark" | "--restore-mark", _) => {
                    let masks = ["--nfmask", "--ctmask", "--mask"].map(value_of);
                    let given = masks.into_iter().flatten().filter_map(bits).map(|(mask, _)| mask);
                    given.reduce(|all, one| all | one).unwrap_or(u32::MAX)
                }
                _ => 0,
            })
            .fold(0, |all, one| all | one)
    }
}

/// A value and its mask, if there is one.
fn bits(text: &str) -> Option<(u32, Option<u32>)> {
    match text.split_once('/') {
        Some((value, mask)) => Some((number(value)?, Some(number(mask)?))),
        None => Some((number(text)?, None)),
    }
}

/// A prefix, or an address as the prefix of one host.
pub(super) fn prefix(text: &str) -> Option<Prefix> {
    let (address, length) = text.split_once('/').map_or((text, None), |(a, l)| (a, Some(l)));
    let host = Prefix::host(address.parse().ok()?);
    match length {
        None => Some(host),
        Some(length) => {
            let length = length.parse().ok().filter(|length| *length <= host.length)?;
            Some(Prefix { length, ..host })
        }
    }
}

/// A rule of a mesh, with its matches in any order.
fn own_rule(words: &[String]) -> Option<Rule> {
    let mut words = words.iter().map(String::as_str);
    let mut found = Matches::default();
    while let Some(option) = words.next() {
        match option {
            "!" => found.add_negated(words.next()?, words.next()?)?,
            option => found.add(option, words.next()?)?,
        }
    }
    found.rule()
}

/// The matches and the target of a rule. A mesh's rule has each of them once.
#[derive(Default)]
struct Matches<'a> {
    udp: Option<()>,
    port: Option<u16>,
    to: Option<Prefix>,
    not_to: Option<Prefix>,
    by: Option<&'a str>,
    not_lo: Option<Direction>,
    direction: Option<Direction>,
    policy: Option<&'a str>,
    reqid: Option<Reqid>,
    mark: Option<(u32, Option<u32>)>,
    target: Option<&'a str>,
}

/// Sets a value that was not set yet.
fn once<T>(place: &mut Option<T>, value: T) -> Option<()> {
    place.replace(value).is_none().then_some(())
}

impl<'a> Matches<'a> {
    /// `None` for an option that no rule of a mesh has.
    fn add(&mut self, option: &str, value: &'a str) -> Option<()> {
        match option {
            "-m" => matches!(value, "udp" | "policy").then_some(()),
            "-p" if matches!(value, "udp" | "17") => once(&mut self.udp, ()),
            "--dport" => once(&mut self.port, value.parse().ok()?),
            "--dir" if value == "in" => once(&mut self.direction, Direction::In),
            "--dir" if value == "out" => once(&mut self.direction, Direction::Out),
            "--pol" => once(&mut self.policy, value),
            "--reqid" => once(&mut self.reqid, Reqid(number(value)?)),
            "--set-xmark" => once(&mut self.mark, bits(value)?),
            "-d" => once(&mut self.to, prefix(value)?),
            "-o" => once(&mut self.by, value),
            "-j" => once(&mut self.target, value),
            _ => None,
        }
    }

    fn add_negated(&mut self, option: &str, value: &str) -> Option<()> {
        match (option, value) {
            ("-i", "lo") => once(&mut self.not_lo, Direction::In),
            ("-o", "lo") => once(&mut self.not_lo, Direction::Out),
            ("-d", value) => once(&mut self.not_to, prefix(value)?),
            _ => None,
        }
    }

    /// The rule that has just these matches and this target.
    fn rule(&self) -> Option<Rule> {
        match (self.port, self.udp) {
            (Some(port), Some(()))
                if self.to.is_none() && self.not_to.is_none() && self.by.is_none() =>
            {
                self.rule_of_port(port)
            }
            (None, None) if self.mark.is_none() => self.rule_of_networks(),
            _ => None,
        }
    }

    /// A rule for UDP packets to a port.
    fn rule_of_port(&self, port: u16) -> Option<Rule> {
        let Self { not_lo, direction, policy, reqid, mark, .. } = *self;
        Some(match (self.target?, not_lo, direction, policy, reqid, mark) {
            ("MARK", None, None, None, None, Some((value, Some(mask)))) => {
                Rule::Mark { port, mark: Mark { value, mask } }
            }
            ("DROP", None, Some(direction), Some("none"), None, None) => {
                Rule::Drop { port, direction }
            }
            ("DROP", Some(direction), None, None, None, None) => Rule::Block { port, direction },
            ("RETURN", Some(device), Some(direction), Some("ipsec"), Some(reqid), None)
                if device == direction =>
            {
                Rule::Pass { port, direction, reqid }
            }
            _ => return None,
        })
    }

    /// A rule for packets to networks, of any protocol.
    fn rule_of_networks(&self) -> Option<Rule> {
        let Self { to, not_to, by, not_lo, direction, policy, reqid, .. } = *self;
        let policy = (direction, policy, reqid);
        if let Some(network) = not_to {
            let is_alone = (to, by, not_lo, policy) == (None, None, None, (None, None, None));
            return (self.target? == "RETURN" && is_alone).then_some(Rule::PassOutside { network });
        }
        Some(match (self.target?, to, by, not_lo, policy) {
            ("DROP", Some(network), None, Some(Direction::Out), (None, None, None)) => {
                Rule::BlockTo { network }
            }
            ("RETURN", None, Some(device), None, (None, None, None)) => {
                Rule::PassDevice { device: device.into() }
            }
            ("RETURN", None, None, None, (Some(Direction::Out), Some("ipsec"), Some(reqid))) => {
                Rule::PassProtected { reqid }
            }
            _ => return None,
        })
    }
}

impl Table {
    /// The first rule of `chain` before its rule `index` that may accept a packet, so that it never
    /// gets there.
    pub(super) fn accepted_before(&self, chain: &str, index: usize) -> Option<&Line> {
        let rules = self.chains.get(chain)?.rules.get(..index)?;
        let mut seen = BTreeSet::new();
        rules.iter().find(|line| match line.target() {
            // RETURN and the end of a goto's chain lead to the policy of the built-in chain.
            Target::Jump("RETURN") | Target::Goto(_) | Target::Unknown => true,
            Target::Jump(name) => self.accepts(name, &mut seen),
            Target::Nothing => false,
        })
    }

    /// Whether this target may accept a packet. `seen` holds the chains that don't accept. A list
    /// instead of recursion: foreign chains may lead to each other deeper than the stack allows.
    fn accepts<'t>(&'t self, target: &'t str, seen: &mut BTreeSet<&'t str>) -> bool {
        let mut left = vec![target];
        while let Some(target) = left.pop() {
            let Some(chain) = self.chains.get(target) else {
                // The program behind a queue may accept the packet.
                if matches!(target, "ACCEPT" | "NFQUEUE" | "QUEUE") {
                    return true;
                }
                continue;
            };
            let rules = if seen.insert(target) { &chain.rules[..] } else { &[] };
            for line in rules {
                match line.target() {
                    Target::Jump(name) | Target::Goto(name) => left.push(name),
                    Target::Unknown => return true,
                    Target::Nothing => {}
                }
            }
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(rules: &str) -> Table {
        let text =
            format!("*filter\n:OUTPUT ACCEPT [0:0]\n:A - [0:0]\n:B - [0:0]\n{rules}COMMIT\n");
        tables(&text).unwrap().remove("filter").unwrap()
    }

    fn line(text: &str) -> Line {
        Line { text: text.into(), words: words(text) }
    }

    fn words_of(text: &str) -> Vec<String> {
        words(text).unwrap()
    }

    #[test]
    fn quotes_and_backslashes_are_those_of_iptables_save() {
        let text = r#"-m comment --comment "say \"hi\" it\'s \\ -j ACCEPT" -j "A B""#;
        assert_eq!(
            words_of(text),
            ["-m", "comment", "--comment", r#"say "hi" it's \ -j ACCEPT"#, "-j", "A B"]
        );
        assert_eq!(words_of(r#"--comment "" -j X"#), ["--comment", "", "-j", "X"]);
        assert_eq!(words(r#"--comment "open"#), None);
        assert_eq!(words(r"end \"), None);
    }

    #[test]
    fn an_output_that_ends_early_or_holds_anything_else_is_an_error() {
        assert_eq!(tables("").unwrap(), Tables::new());
        assert!(tables("# Generated\n# Warning: iptables-legacy tables present\n").is_ok());
        for text in [
            "*filter\n:OUTPUT ACCEPT [0:0]\n",
            "*filter\n*nat\nCOMMIT\n",
            "COMMIT\n",
            "-A OUTPUT -j DROP\n",
            "*filter\n-A NOWHERE -j DROP\nCOMMIT\n",
            "*filter\nnonsense\nCOMMIT\n",
            "*filter\n:A - [0:0]\n-A A -j DROP\n:A - [0:0]\nCOMMIT\n",
            "*filter\n:A - [0:0]\nCOMMIT\n*filter\n:A - [0:0]\nCOMMIT\n",
            "# Table `filter' is incompatible, use 'nft' tool.\n",
        ] {
            assert!(tables(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn rules_are_compared_by_their_words_in_any_order_and_base() {
        let mark = Rule::Mark { port: 4789, mark: Mark { value: 0x1002, mask: 0xffff } };
        for text in [
            "-p udp -m udp --dport 4789 -j MARK --set-xmark 0x1002/0xffff",
            "-p 17 --dport 4789 -j MARK --set-xmark 4098/65535",
        ] {
            assert_eq!(line(text).rule(), mark);
        }
        let drop = Rule::Drop { port: 4789, direction: Direction::Out };
        assert_eq!(
            line("-p udp -m policy --dir out --pol none -m udp --dport 4789 -j DROP").rule(),
            drop
        );
        let [out, into] = [Direction::Out, Direction::In];
        for (text, rule) in [
            (
                "! -o lo -p udp -m udp --dport 4789 -m policy --dir out --pol ipsec --reqid \
                 1297285121 -j RETURN",
                Rule::Pass { port: 4789, direction: out, reqid: Reqid(0x4d53_0001) },
            ),
            (
                "-p udp ! -i lo -m policy --pol ipsec --reqid 0x4d530001 --dir in -m udp --dport \
                 4789 -j RETURN",
                Rule::Pass { port: 4789, direction: into, reqid: Reqid(0x4d53_0001) },
            ),
            (
                "! -o lo -p udp -m udp --dport 4789 -j DROP",
                Rule::Block { port: 4789, direction: out },
            ),
            ("-p 17 ! -i lo --dport 4789 -j DROP", Rule::Block { port: 4789, direction: into }),
            (
                "-d fd00:2::/47 ! -o lo -j DROP",
                Rule::BlockTo { network: prefix("fd00:2::/47").unwrap() },
            ),
            (
                "! -o lo -d 192.0.2.7 -j DROP",
                Rule::BlockTo { network: prefix("192.0.2.7").unwrap() },
            ),
            (
                "! -d fd00::/28 -j RETURN",
                Rule::PassOutside { network: prefix("fd00::/28").unwrap() },
            ),
            ("-o mesh.7 -j RETURN", Rule::PassDevice { device: "mesh.7".into() }),
            (
                "-m policy --reqid 7 --dir out --pol ipsec -j RETURN",
                Rule::PassProtected { reqid: Reqid(7) },
            ),
        ] {
            assert_eq!(line(text).rule(), rule);
            assert_eq!(line(&rule.to_string()).rule(), rule);
        }
        for text in [
            "",
            "-j DROP",
            "-p tcp -m tcp --dport 4789 -m policy --dir out --pol none -j DROP",
            "-p tcp -p udp -m udp --dport 4789 -m policy --dir out --pol none -j DROP",
            "-p udp -m udp --dport 4789 -m policy --dir out --pol ipsec --pol none -j DROP",
            "-p udp -m udp --dport 4789:4790 -m policy --dir out --pol none -j DROP",
            "-p udp -m udp ! --dport 4789 -m policy --dir out --pol none -j DROP",
            "-p udp -m udp --dport 4789 -m policy --dir out --pol ipsec -j DROP",
            "-p udp -m udp --dport 4789 -m policy --dir fwd --pol none -j DROP",
            "-p udp -m udp --dport 4789 -m policy --dir out --pol none -j ACCEPT",
            "-p udp -m udp --dport 4789 -m policy --dir out --pol none",
            "-o lo -p udp -m udp --dport 4789 -m policy --dir out --pol none -j DROP",
            "-p udp -m udp --dport 4789 -j MARK --set-xmark 0x1002",
            "-p udp -m udp --dport 4789 -j DROP",
            "-p udp -m udp --dport 4789 -m comment --comment \"open",
            "! -o lo -p udp -m udp --dport 4789 -m policy --dir out --pol ipsec --reqid 7 --strict \
             -j RETURN",
            "! -o lo -p udp -m udp --dport 4789 -m policy --dir out --pol ipsec ! --reqid 7 -j \
             RETURN",
            "! -o lo -p udp -m udp --dport 4789 -m policy --dir out --pol ipsec -j RETURN",
            "! -i lo -p udp -m udp --dport 4789 -m policy --dir out --pol ipsec --reqid 7 -j RETURN",
            "-p udp -m udp --dport 4789 -m policy --dir out --pol ipsec --reqid 7 -j RETURN",
            "-o lo -p udp -m udp --dport 4789 -j DROP",
            "! -o lo+ -p udp -m udp --dport 4789 -j DROP",
            "! -o lo ! -o lo -p udp -m udp --dport 4789 -j DROP",
            "! -o lo -p udp -m udp ! --dport 4789 -j DROP",
            "! -o lo -p udp -m udp --dport 4789 -j ACCEPT",
            "! -o lo -p udp -m udp --dport 4789 -j",
            "! -o",
            "-d fd00:2::/47 -j DROP",
            "! -d fd00:2::/47 ! -o lo -j DROP",
            "-s fd00:2::/47 ! -o lo -j DROP",
            "-d fd00:2::/129 ! -o lo -j DROP",
            "-d fd00:2::/47 ! -o lo -p udp -j DROP",
            "-d fd00:2::/47 ! -o lo -p udp -m udp --dport 4789 -j DROP",
            "-d fd00:2::/47 ! -o lo -j RETURN",
            "! -o mesh0 -j RETURN",
            "! -d fd00:2::/47 -j DROP",
            "! -d fd00:2::/47 ! -d fd00:4::/48 -j RETURN",
            "! -d fd00:2::/47 -o mesh0 -j RETURN",
            "! -d fd00:2::/47 -m policy --dir out --pol none -j RETURN",
            "-o mesh0 -d fd00:2::/47 -j RETURN",
            "-o mesh0 -j ACCEPT",
            "-m policy --dir out --pol ipsec -j RETURN",
            "-m policy --dir in --pol ipsec --reqid 7 -j RETURN",
            "-m policy --dir out --pol none --reqid 7 -j RETURN",
        ] {
            assert_eq!(line(text).rule(), Rule::Other(text.into()));
        }
    }

    #[test]
    fn what_is_ahead_accepts_directly_or_through_chains() {
        for (rules, accepts) in [
            ("-A OUTPUT -p tcp -j ACCEPT\n", true),
            ("-A OUTPUT -j A\n-A A -j B\n-A B -o lo -j ACCEPT\n", true),
            ("-A OUTPUT -j A\n-A A -g B\n-A B -j NFQUEUE --queue-num 0\n", true),
            ("-A OUTPUT -g A\n-A A -j DROP\n", true),
            ("-A OUTPUT -j RETURN\n", true),
            ("-A OUTPUT -m comment --comment \"open\n", true),
            ("-A OUTPUT -j A\n-A A -j RETURN\n-A A -j DROP\n", false),
            ("-A OUTPUT -j A\n-A A -j B\n-A B -j A\n", false),
            ("-A OUTPUT -j DROP\n-A OUTPUT -j LOG --log-prefix \"-j ACCEPT\"\n", false),
            ("-A OUTPUT -m comment --comment \"-j ACCEPT\"\n", false),
            ("-A OUTPUT -m comment --comment -j -j A\n-A B -j ACCEPT\n", false),
            ("-A OUTPUT -j MARK --set-xmark 0x1/0x1\n", false),
            ("", false),
        ] {
            let table = table(&format!("{rules}-A OUTPUT -j OURS\n"));
            let index = table.chains["OUTPUT"].rules.len() - 1;
            let found = table.accepted_before("OUTPUT", index);
            assert_eq!(found.is_some(), accepts, "{rules}");
        }
        let long: String = (0..200_000).map(|n| format!("-A C{n} -j C{}\n", n + 1)).collect();
        let chains: String = (0..=200_000).map(|n| format!(":C{n} - [0:0]\n")).collect();
        let text = format!(
            "*filter\n:OUTPUT ACCEPT [0:0]\n{chains}{long}-A C200000 -j ACCEPT\n\
             -A OUTPUT -j C0\n-A OUTPUT -j OURS\nCOMMIT\n"
        );
        let long = tables(&text).unwrap().remove("filter").unwrap();
        assert!(long.accepted_before("OUTPUT", 1).is_some(), "a long way through chains");
        let behind = table("-A OUTPUT -j OURS\n-A OUTPUT -j ACCEPT\n");
        assert_eq!(behind.accepted_before("OUTPUT", 0), None);
    }

    #[test]
    fn the_bits_of_marks_are_those_that_are_set_saved_or_compared() {
        for (text, bits) in [
            ("-j MARK --set-xmark 0x4000/0x4000", 0x4000),
            ("-j MARK --set-xmark 0x4000/0x0", 0x4000),
            ("-j MARK --set-mark 5", u32::MAX),
            ("-j MARK --and-mark 0xfffffffe", 1),
            ("-j MARK --or-mark 0x6", 6),
            ("-m mark --mark 0x0/0x20000 -j DROP", 0x20000),
            ("-m mark ! --mark 0x8000/0x8000", 0x8000),
            ("-m connmark --mark 7", u32::MAX),
            ("-j CONNMARK --restore-mark", u32::MAX),
            ("-j CONNMARK --save-mark --nfmask 0xf --ctmask 0xf0", 0xff),
            ("-j CONNMARK --restore-mark --mask 0xff00", 0xff00),
            ("-j TPROXY --on-port 1 --tproxy-mark 0x200/0x200", 0x200),
            ("-m comment --comment \"--mark 5\" -j DROP", 0),
            ("-m comment --comment --mark -j DROP", 0),
            ("-p udp -j ACCEPT", 0),
        ] {
            assert_eq!(line(text).mark_bits(), bits, "{text}");
        }
    }
}
