//! The output of iptables-save, from any bytes.

use super::{
    facts::FirewallScan,
    parse::{self, Chain, Line, Table, Tables},
    text,
};
use crate::{
    fuzzing::{harmless, number},
    model::{Backend, ChainId, ChainRole, Family, Firewall, Mark, Reqid, Rule},
};

const OURS: Reqid = Reqid(0x4d53_0001);

/// An output is read whole or refused. A rule that is taken for a mesh's has just those words. A
/// mesh's chain that is set has the rules that it should have.
pub fn iptables_save(input: &[u8]) {
    let Ok(printed) = std::str::from_utf8(input) else { return };
    let number = number(input);
    match parse::tables(printed) {
        Err(reason) => harmless(&reason),
        Ok(tables) => {
            assert!(!is_open(printed), "an output without its end is taken for whole");
            assert_eq!(rules(printed), lines(&tables).count(), "every rule is there");
            lines(&tables).for_each(check_line);
            check_facts(&tables);
            let role = ChainRole::ALL[number % ChainRole::ALL.len()];
            check_set(&tables, &ChainId::new(Backend::NfTables, Family::Ipv4, role, OURS));
        }
    }
    let cut = (0..=number % (printed.len() + 1)).rev().find(|at| printed.is_char_boundary(*at));
    let begin = &printed[..cut.unwrap_or(0)];
    assert!(
        !is_open(begin) || parse::tables(begin).is_err(),
        "cut off at {cut:?}, taken for whole"
    );
}

/// Whether a table has begun and not ended. Uses no code that is tested here.
fn is_open(printed: &str) -> bool {
    let mut open = false;
    for line in printed.lines() {
        open = (open || line.starts_with('*')) && line.trim_end() != "COMMIT";
    }
    open
}

/// How many rules there are.
fn rules(printed: &str) -> usize {
    printed.lines().filter(|line| line.starts_with("-A ")).count()
}

fn lines(tables: &Tables) -> impl Iterator<Item = &Line> {
    tables.values().flat_map(|table| table.chains.values()).flat_map(|chain| &chain.rules)
}

/// Checks that a mesh's rule has the words of one, each once, and no others.
fn check_line(line: &Line) {
    let rule = line.rule();
    let _ = line.mark_bits();
    if let Rule::Other(text) = &rule {
        assert_eq!(*text, line.text);
        return;
    }
    let printed = read(&rule.to_string());
    assert_eq!(printed.rule(), rule, "it is printed as another");
    let words = line.words.as_deref().unwrap_or_default();
    for option in
        printed.words.as_deref().unwrap_or_default().iter().filter(|word| word.starts_with('-'))
    {
        let times = words.iter().filter(|word| *word == option).count();
        assert!(times == 1 || option == "-m", "{option} {times} times in {}", line.text);
    }
    let negated = |words: &[String]| {
        let at = |index: &usize| words[*index] == "!";
        let after = (0..words.len()).filter(at).map(|index| words[index..].iter().take(3).cloned());
        after.map(|words| words.collect::<Vec<_>>()).collect::<Vec<_>>()
    };
    let of_printed = negated(printed.words.as_deref().unwrap_or_default());
    assert_eq!(negated(words), of_printed, "what else is negated is not ours: {}", line.text);
}

fn read(text: &str) -> Line {
    Line { text: text.into(), words: parse::words(text) }
}

fn check_facts(tables: &Tables) {
    let mut facts = FirewallScan::new(OURS);
    facts.add(Family::Ipv4, Backend::NfTables, tables);
    let firewall = facts.into_firewall(Firewall::default());
    let json = serde_json::to_vec(&firewall).expect("a firewall is JSON");
    assert_eq!(serde_json::from_slice::<Firewall>(&json).expect("and back"), firewall);
}

/// Sets a mesh's chain as iptables-restore does, and deletes it again.
fn check_set(tables: &Tables, id: &ChainId) {
    let wanted = match id.role().and_then(ChainRole::guards) {
        None => vec![Rule::Mark { port: 4789, mark: Mark { value: 1, mask: 3 } }],
        Some(_) if matches!(id.role(), Some(ChainRole::Post | ChainRole::Forward)) => {
            let network = parse::prefix("10.2.0.0/15").expect("a prefix");
            Rule::guards_of_networks(&[network].into(), "mesh0", OURS)
        }
        Some(direction) => Rule::guards(4789, direction, OURS),
    };
    let Some(before) = tables.get(&id.table).filter(|table| table.chains.contains_key(id.hook()))
    else {
        return;
    };
    let mut table = before.clone();
    restore(&mut table, id, &text::set(before, id, &wanted, true));
    let rules: Vec<Rule> = table.chains[&id.name].rules.iter().map(Line::rule).collect();
    assert_eq!(rules, wanted);
    match text::jumps(&table, id).as_slice() {
        [(at, line)] => {
            assert!(line.is_plain_jump_to(&id.name), "a jump with conditions: {}", line.text);
            assert_eq!(table.accepted_before(id.hook(), *at), None);
        }
        jumps => panic!("{} jumps", jumps.len()),
    }
    let deleted = text::delete(&table, id);
    restore(&mut table, id, &deleted);
    assert!(!table.chains.contains_key(&id.name) && text::jumps(&table, id).is_empty());
    let others = |table: &Table| {
        let mut table = table.clone();
        table.chains.remove(&id.name);
        let hook = table.chains.get_mut(id.hook()).expect("it was there");
        hook.rules.retain(|line| !line.leads_to(&id.name));
        table
    };
    assert_eq!(others(&table), others(before), "rules of others were changed");
}

/// Changes a table as iptables-restore does. The text may name only the mesh's chain and its jumps.
fn restore(table: &mut Table, id: &ChainId, text: &str) {
    let mut lines = text.lines();
    assert_eq!(lines.next().and_then(|line| line.strip_prefix('*')), Some(id.table.as_str()));
    assert_eq!(lines.next_back(), Some("COMMIT"));
    for line in lines {
        let (command, rest) = line.split_at(if line.starts_with(':') { 1 } else { 3 });
        let (name, rest) = rest.split_once(' ').unwrap_or((rest, ""));
        let chain = if name == id.name { &id.name } else { id.hook() };
        assert_eq!(name, chain, "{line}");
        match command {
            ":" if name == id.name => drop(table.chains.insert(name.into(), Chain::default())),
            "-X " if name == id.name => drop(table.chains.remove(name)),
            _ => edit(table.chains.get_mut(chain).expect(line), command, rest, id),
        }
    }
}

fn edit(chain: &mut Chain, command: &str, rest: &str, id: &ChainId) {
    match command {
        "-A " => chain.rules.push(read(rest)),
        "-F " => chain.rules.clear(),
        "-I " => chain.rules.insert(0, read(rest.strip_prefix("1 ").expect("ahead of all"))),
        "-D " => {
            let at = chain.rules.iter().position(|line| line.text == rest).expect("it is there");
            assert!(chain.rules.remove(at).leads_to(&id.name), "a rule of others: {rest}");
        }
        other => panic!("{other}"),
    }
}
