//! Traffic that a plan's changes leave without any protection.
#![forbid(unsafe_code)]

use std::collections::BTreeSet;

use super::{
    chain,
    change::{Change, Operation},
    policy,
    warn::list,
};
use crate::{
    desired::Desired,
    model::{Direction, Policy, Prefix, PrefixMap, Selector, Warning, WarningCode},
};

/// Traffic that the changed objects covered, and the remaining ones don't.
pub(super) fn left_in_clear(desired: &Desired, changes: &[Change]) -> Option<Warning> {
    let chains: Vec<Selector> = desired
        .chains
        .iter()
        .filter(|((_, role), _)| role.guards() == Some(Direction::Out))
        .flat_map(|((family, _), rules)| chain::guarded(*family, rules))
        .collect();
    let routes: PrefixMap<()> = desired.fib.values().map(|wanted| (wanted.entry.to, ())).collect();
    let stays = |selector: &Selector| {
        let guards = desired.guards.values();
        let policies = desired.policies.values().map(|wanted| &wanted.policy);
        let policies = guards.chain(policies).filter(|kept| covers_unmarked(kept));
        let mut kept = policies.map(|kept| &kept.id.selector).chain(&chains);
        kept.any(|kept| kept.covers(selector))
            || selector.is_for_all_to() && routes.covering(selector.dst).next().is_some()
    };
    let of_chains = |change: &&Change| matches!(change.operation, Operation::Chain(_));
    let (by_chains, by_others): (Vec<&Change>, Vec<&Change>) = changes.iter().partition(of_chains);
    let uncovered = |changes: Vec<&Change>| -> Vec<Selector> {
        let all = changes.into_iter().flat_map(Change::uncovered);
        all.filter(|selector| !stays(selector)).collect()
    };
    let mut gone = uncovered(by_others);
    // A chain's rule may be for several networks, which other objects name.
    let named = gone.iter().filter(|selector| selector.is_for_all_to());
    let named: BTreeSet<Prefix> = named.map(|selector| selector.dst).collect();
    let networks = desired.chains.values().flat_map(|rules| chain::guarded_networks(rules));
    let kept = networks.chain(desired.fib.values().map(|wanted| wanted.entry.to));
    let named: BTreeSet<Prefix> = kept.chain(named).collect();
    for selector in uncovered(by_chains) {
        match selector.is_for_all_to() {
            true => gone.extend(selector.dst.without(&named).into_iter().map(Selector::to_network)),
            false => gone.push(selector),
        }
    }
    gone.sort();
    gone.dedup();
    // Of two that cover each other, such as two that differ in `user` alone, the first is named.
    let is_within = |at: usize, selector: &Selector| {
        gone.iter().enumerate().any(|(other_at, other)| {
            other_at != at && other.covers(selector) && (other_at < at || !selector.covers(other))
        })
    };
    let widest: Vec<String> = gone
        .iter()
        .enumerate()
        .filter(|(at, selector)| !is_within(*at, selector))
        .map(|(_, selector)| selector.to_string())
        .collect();
    (!widest.is_empty()).then(|| {
        let text = format!(
            "nothing protects these packets afterwards; they leave in the clear: {}",
            list(&widest)
        );
        Warning::new(WarningCode::LeftInTheClear, text)
    })
}

fn covers_unmarked(policy: &Policy) -> bool {
    policy::may_protect(policy) && !policy.lets_clear_text_pass()
}
