//! The kernel's counters of refused packets, and their meanings.

use std::fmt::Write;

use super::{StatusView, text::BOLD, wrap};
use crate::{
    model::{Answers, EncapSocket},
    render::Plain,
    verdict::counter_meaning,
};

pub(super) fn write_counters(page: &mut String, view: &StatusView<'_>) {
    if view.counters.is_empty() {
        return;
    }
    let _ = writeln!(page, "\n{BOLD}Packets refused since this network namespace began{BOLD:#}");
    wrap::write_paragraph(
        page,
        2,
        "Counters stay when a fault is mended: --watch shows which move.",
    );
    for (name, number) in view.counters {
        write_counter(page, view, name, *number);
    }
}

fn write_counter(page: &mut String, view: &StatusView<'_>, name: &str, number: u64) {
    let _ = write!(page, "  {:<22} {number:>7}", Plain(name).to_string());
    let mut says = Vec::new();
    let encap = view.case.encap().filter(|_| name == "XfrmInNoStates");
    let is_counted = encap.is_some_and(|encap| encap.socket.answers == Answers::Yes);
    let looked = if is_counted { EncapSocket::DATAGRAMS } else { 0 };
    if let Some(before) = view.before {
        says.push(format!(
            "{} in the last {}",
            before.counter(name, number).saturating_sub(looked),
            before.ago(view.case.now)
        ));
    }
    says.extend(encap.map(|_| {
        let each = EncapSocket::DATAGRAMS;
        format!("each look of meshsec for the socket of ESP in UDP adds {each}")
    }));
    let has_networks = !view.case.desired.networks.is_empty();
    let meaning = counter_meaning(name, !view.case.live.0.usage.is_empty(), has_networks);
    says.extend(meaning.map(String::from));
    if says.is_empty() {
        page.push('\n');
        return;
    }
    page.push_str("  ");
    wrap::write_wrapped(page, 34, 34, &says.join("; "));
}
