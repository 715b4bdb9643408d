//! The kernel's counters of refused packets, and their meanings.

use std::fmt::Write;

use super::{StatusView, text::BOLD, wrap};
use crate::{
    model::{Answers, EncapSocket},
    render::Plain,
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
    says.extend(meaning(name, !view.case.live.0.usage.is_empty()).map(String::from));
    if says.is_empty() {
        page.push('\n');
        return;
    }
    page.push_str("  ");
    wrap::write_wrapped(page, 34, 34, &says.join("; "));
}

/// The meaning of a counter of `/proc/net/xfrm_stat` (Documentation/networking/xfrm_proc.rst) on a
/// host that has SAs of the mesh, or none.
fn meaning(name: &str, has_sas: bool) -> Option<&'static str> {
    Some(match name {
        "XfrmOutPolBlock" => {
            "blocked by a guard: the source or destination is not a peer's address; look at \
             ip -d link show type vxlan"
        }
        "XfrmInPolBlock" => "blocked by a guard: came unencrypted",
        "XfrmInTmplMismatch" => "came unencrypted from a peer, and was dropped",
        "XfrmOutNoStates" => "the outbound SA is missing",
        "XfrmInError" => "arrived just as a policy changed, and lost its route",
        "XfrmInNoStates" if !has_sas => {
            "a peer sends ESP, and this host has no SA: run meshsec apply here"
        }
        "XfrmInNoStates" => {
            "the SPI is not here: the sender has another generation, short_id or peer list; \
             tcpdump -n esp shows the SPI, meshsec spi tells whose it is"
        }
        "XfrmInStateProtoError" => "the key differs, or a replay from before the window",
        "XfrmInStateSeqError" => "outside the replay window: a replay, or a restarted sender",
        "XfrmInStateMismatch" => "a peer's key with another's address",
        "XfrmOutStateSeqError" => "the sequence numbers have ended; raise the generation",
        "XfrmInStateExpired" | "XfrmOutStateExpired" => "the SA's lifetime has ended",
        "XfrmInStateInvalid" | "XfrmOutStateInvalid" => "the SA was just being deleted",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::meaning;

    #[test]
    fn an_unknown_spi_says_what_is_missing_here_or_what_differs() {
        assert!(meaning("XfrmInNoStates", false).unwrap().contains("meshsec apply here"));
        let differs = meaning("XfrmInNoStates", true).unwrap();
        assert!(["generation", "short_id", "peer list"].iter().all(|word| differs.contains(word)));
    }
}
