//! Rules of the nat table that give packets to peers other addresses.
//!
//! The kernel looks up policies again after a translation, and none covers the new
//! addresses: what a guard stops is blocked, all else leaves in the clear. Packets to networks of peers
//! are protected whatever their source, but the peers refuse a source outside of the networks.

use super::{conflict::Conflict, stops::Stops, warn::capped};
use crate::{
    desired::Desired,
    model::{ConflictCode, Hidden, Live, Translation, Warning, WarningCode},
};

/// Advice about a rule, in its own backend: each has rules of its own. The ESP packet meets them
/// too, so an exception for packets that policies select would not do.
fn remedy(desired: &Desired, Translation { rule, chain, .. }: &Translation) -> String {
    let Some(local) = desired.local else { return String::new() };
    let program = rule.split(' ').next().unwrap_or("iptables");
    format!(
        "let packets of {local} pass ahead of it: {program} -t nat -I {chain} -s {local} -j ACCEPT; \
         then conntrack -D -s {local}, as connections keep their address"
    )
}

/// Rules that are certain to take packets past the policies.
pub(super) fn conflicts(desired: &Desired, live: &Live) -> Vec<Conflict> {
    // At stage receive packets leave in the clear in any case.
    let is_any = desired.protects_any_source();
    if is_any || desired.traffic.is_none() || desired.is_guarded() || !desired.sends() {
        return Vec::new();
    }
    let conflict = |translation: &Translation| Conflict {
        code: ConflictCode::Translated,
        stops: Stops::All,
        object: translation.rule.clone(),
        text: format!(
            "it gives packets to peers another address, which no policy covers, so that they \
             leave in the clear; {}",
            remedy(desired, translation)
        ),
    };
    let certain = live.0.translations.iter().filter(|found| found.certain && !found.esp);
    certain.map(conflict).collect()
}

/// All other rules that may do so, and rules that can't be read.
pub(super) fn warnings(desired: &Desired, live: &Live) -> Vec<Warning> {
    if desired.traffic.is_none() {
        return Vec::new();
    }
    let guarded = desired.is_guarded();
    let is_conflict = !guarded && desired.sends() && !desired.protects_any_source();
    let fate = if guarded { "are blocked by the guard" } else { "leave in the clear" };
    let line = |found: &Translation| {
        let Translation { rule, certain, esp, .. } = found;
        let does = if *certain { "gives" } else { "may give" };
        if let Some(tunnel) = &desired.tunnel {
            let device = &tunnel.device;
            let text = format!(
                "the rule {rule} {does} packets from networks of this host to those of peers another \
                 source, which peers refuse if it is outside of these networks; let packets of the \
                 interface pass ahead of it: {program} -t nat -I {chain} -o {device} -j ACCEPT",
                program = rule.split(' ').next().unwrap_or("iptables"),
                chain = found.chain,
            );
            return Warning::new(WarningCode::Translated, text);
        }
        let (packets, fate) = match esp {
            false => ("packets", fate),
            true => {
                ("ESP packets", "are refused by the peer's SA, which knows this host's address")
            }
        };
        let text = format!(
            "the rule {rule} {does} {packets} to peers another address, and then they {fate}; {}",
            remedy(desired, found)
        );
        Warning::new(WarningCode::Translated, text)
    };
    let found =
        live.0.translations.iter().filter(|found| !is_conflict || found.esp || !found.certain);
    let mut lines = capped(found.map(line).collect(), WarningCode::Translated);
    if live.0.hidden.contains(&Hidden::Translations) {
        let text = "rules of iptables' nat table can't be read, so whether one gives packets to \
                    peers another address is not known";
        lines.push(Warning::new(WarningCode::TranslationsHidden, text));
    }
    lines
}
