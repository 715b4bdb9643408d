//! The input of iptables-restore: one table, which it changes wholly or not at all.
//!
//! Pure. With `--noflush` it leaves chains alone that the input doesn't name. `:CHAIN - [0:0]`
//! empties a mesh's chain, or creates it. No built-in chain is ever declared: that would set its
//! policy.
#![forbid(unsafe_code)]

use std::fmt::Write;

use crate::model::{ChainId, Rule};

use super::parse::{Line, Table};

/// Sets the rules of a mesh's chain, and the rules of the built-in chain that lead to it: with
/// `jump` one rule, ahead of all others, otherwise none.
pub(super) fn set(table: &Table, id: &ChainId, rules: &[Rule], jump: bool) -> String {
    let mut text = format!("*{}\n:{} - [0:0]\n", id.table, id.name);
    for rule in rules {
        let _ = writeln!(text, "-A {} {rule}", id.name);
    }
    let jumps = jumps(table, id);
    let right = match jumps.as_slice() {
        [(index, line)] if jump => {
            line.is_plain_jump_to(&id.name) && table.accepted_before(id.hook(), *index).is_none()
        }
        none => none.is_empty() && !jump,
    };
    if !right {
        drop_jumps(&mut text, id, &jumps);
        if jump {
            let _ = writeln!(text, "-I {} 1 -j {}", id.hook(), id.name);
        }
    }
    text + "COMMIT\n"
}

/// Deletes a mesh's chain and the rules of its built-in chain that lead to it.
pub(super) fn delete(table: &Table, id: &ChainId) -> String {
    let mut text = format!("*{}\n", id.table);
    drop_jumps(&mut text, id, &jumps(table, id));
    let _ = write!(text, "-F {0}\n-X {0}\nCOMMIT\n", id.name);
    text
}

/// Deletes jumps by their words, not by their places: another program may change the places
/// meanwhile.
fn drop_jumps(text: &mut String, id: &ChainId, jumps: &[(usize, &Line)]) {
    for (_, line) in jumps {
        let _ = writeln!(text, "-D {} {}", id.hook(), line.text);
    }
}

/// The rules of its built-in chain that lead to a chain, and their places.
pub(super) fn jumps<'t>(table: &'t Table, id: &ChainId) -> Vec<(usize, &'t Line)> {
    let rules = table.chains.get(id.hook()).map_or(&[][..], |chain| &chain.rules);
    rules.iter().enumerate().filter(|(_, line)| line.leads_to(&id.name)).collect()
}

/// The rules of other chains that lead to a chain, as iptables-save prints them.
pub(super) fn references(table: &Table, id: &ChainId) -> Vec<String> {
    let others = table.chains.iter().filter(|(name, _)| *name != id.hook());
    others
        .flat_map(|(name, chain)| {
            let leading = chain.rules.iter().filter(|line| line.leads_to(&id.name));
            leading.map(move |line| format!("-A {name} {}", line.text))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::{super::parse, *};
    use crate::model::{Backend, ChainRole, Direction, Family, Reqid};

    const OUT: &str = "MESHSEC-4d530001-OUT";

    fn table(rules: &str) -> Table {
        let text =
            format!("*filter\n:OUTPUT DROP [0:0]\n:OTHER - [0:0]\n:{OUT} - [0:0]\n{rules}COMMIT\n");
        parse::tables(&text).unwrap().remove("filter").unwrap()
    }

    fn id() -> ChainId {
        ChainId::new(Backend::NfTables, Family::Ipv4, ChainRole::Out, Reqid(0x4d53_0001))
    }

    fn set_on(rules: &str) -> String {
        let guards = Rule::guards(4789, Direction::Out, Reqid(0x4d53_0001));
        let text = set(&table(rules), &id(), &guards, true);
        let begin = format!(
            "*filter\n:{OUT} - [0:0]\n-A {OUT} ! -o lo -p udp --dport 4789 -m policy --dir out \
             --pol ipsec --reqid 1297285121 -j RETURN\n-A {OUT} ! -o lo -p udp --dport 4789 -j \
             DROP\n"
        );
        text.strip_prefix(&begin).and_then(|rest| rest.strip_suffix("COMMIT\n")).unwrap().into()
    }

    #[test]
    fn a_chain_and_its_jump_are_set_together_and_a_right_jump_is_left_alone() {
        let jump = format!("-I OUTPUT 1 -j {OUT}\n");
        assert_eq!(set_on(""), jump);
        assert_eq!(set_on(&format!("-A OUTPUT -j OTHER\n-A OUTPUT -j {OUT}\n")), "");
        let accepted = format!("-A OUTPUT -j ACCEPT\n-A OUTPUT -j {OUT}\n");
        assert_eq!(set_on(&accepted), format!("-D OUTPUT -j {OUT}\n{jump}"));
        let twice = format!(
            "-A OUTPUT -j {OUT}\n-A OUTPUT -p udp -m comment --comment \"a \\\"b\" -j {OUT}\n"
        );
        assert_eq!(set_on(&twice), twice.replace("-A ", "-D ") + &jump);
    }

    #[test]
    fn a_chain_to_be_tried_is_led_to_by_nothing() {
        let text = set(&Table::default(), &id(), &[], false);
        assert_eq!(text, format!("*filter\n:{OUT} - [0:0]\nCOMMIT\n"));
        let text = set(&table(&format!("-A OUTPUT -j {OUT}\n")), &id(), &[], false);
        assert!(text.contains(&format!("-D OUTPUT -j {OUT}\n")), "{text}");
    }

    #[test]
    fn a_chain_goes_with_its_jumps_and_rules_of_others_that_lead_to_it_are_told() {
        let table =
            table(&format!("-A OUTPUT -g {OUT}\n-A OTHER -p tcp -j {OUT}\n-A {OUT} -j DROP\n"));
        assert_eq!(
            delete(&table, &id()),
            format!("*filter\n-D OUTPUT -g {OUT}\n-F {OUT}\n-X {OUT}\nCOMMIT\n")
        );
        assert_eq!(references(&table, &id()), [format!("-A OTHER -p tcp -j {OUT}")]);
    }
}
