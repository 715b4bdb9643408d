//! The conflicts, changes and warnings of a plan, each as a finding of a check.

use super::{Facts, Finding, MeshFacts, Outcome, list, plural};
use crate::{
    model::{CheckCode, PeerName, Tunnel},
    plan::{Conflict, ConflictCode, WarningCode},
    verdict::Came,
};

pub(super) fn findings(facts: &Facts<'_>) -> Vec<Finding> {
    let mut found: Vec<Finding> =
        facts.warnings.iter().filter_map(|warning| of_warning(facts, warning)).collect();
    let Some(mesh) = &facts.mesh else {
        return found;
    };
    found.extend(mesh.case.plan.conflicts.iter().take(crate::plan::NAMES_SHOWN).map(of_conflict));
    found.push(applied(facts, mesh));
    found.extend(well(facts));
    found
}

fn of_conflict(conflict: &Conflict) -> Finding {
    let code = match conflict.code {
        ConflictCode::Bypass => CheckCode::Bypass,
        ConflictCode::Translated => CheckCode::Nat,
        ConflictCode::LinkPort | ConflictCode::LinkKind => CheckCode::Tunnel,
        ConflictCode::OtherRoute => CheckCode::Route,
        ConflictCode::SpiTaken
        | ConflictCode::SelectorTaken
        | ConflictCode::IndexTaken
        | ConflictCode::OutranksPeer
        | ConflictCode::OutranksGuard
        | ConflictCode::ExceptionOpens
        | ConflictCode::FirewallUnusable
        | ConflictCode::DeviceTaken
        | ConflictCode::SameReqid => CheckCode::Conflict,
    };
    let peers: Vec<PeerName> =
        conflict.stops.peers().map(|peers| peers.iter().cloned().collect()).unwrap_or_default();
    let text = format!("{}: {}", conflict.object, conflict.text);
    Finding::attention(code, text).about(peers).remedy("meshsec plan shows it").cause()
}

/// Changes on which no protection depends are no cause.
fn applied(facts: &Facts<'_>, mesh: &MeshFacts<'_>) -> Finding {
    let code = CheckCode::Applied;
    let plan = mesh.case.plan;
    if plan.changes.is_empty() {
        let lack = plan.lack().map(|lack| format!(", but {lack}")).unwrap_or_default();
        let text =
            format!("nothing differs from the file, apart from keys, which are not compared{lack}");
        let is_seen = plan.lacks.iter().all(|lack| !lack.unseen);
        return if is_seen { Finding::ok(code, text) } else { Finding::unknown(code, text) };
    }
    let peers: std::collections::BTreeSet<&PeerName> =
        plan.changes.iter().filter_map(|change| change.peer.as_ref()).collect();
    let whose = if peers.is_empty() { String::new() } else { format!(" ({})", list(peers)) };
    let changes = plural(plan.changes.len() as u64, "change is", "changes are");
    let why = match facts.state.has_objects_of(facts.config.reqid) {
        false => ": nothing of the mesh is here, so it was never applied or everything was flushed",
        true => "",
    };
    let finding = Finding::attention(code, format!("{changes} due{whose}{why}"))
        .remedy("meshsec plan shows them, meshsec apply makes them");
    if plan.changes.iter().all(crate::plan::Change::is_optional) {
        finding
    } else {
        finding.cause()
    }
}

/// The checks that are well, or not known, where nothing was said about them.
fn well(facts: &Facts<'_>) -> Vec<Finding> {
    let mut found = vec![Finding::ok(CheckCode::Conflict, "no foreign object is in the way")];
    found.extend(ways(facts));
    found.push(addresses(facts));
    if let Some((kind, port)) = facts.config.traffic.device() {
        let tunnels = facts.state.tunnels.iter().flatten();
        let of_mesh = tunnels.filter(|tunnel| (tunnel.kind, tunnel.port) == (kind, port));
        let of_mesh: Vec<&Tunnel> = of_mesh.collect();
        let names: Vec<&str> = of_mesh.iter().map(|tunnel| tunnel.device.as_str()).collect();
        found.push(match (&facts.state.tunnels, names.is_empty()) {
            (None, _) => Finding::unknown(CheckCode::Tunnel, "tunnel devices can't be read"),
            (Some(_), true) => Finding::unknown(
                CheckCode::Tunnel,
                format!(
                    "no {} device here sends to port {port}: does another program make the tunnels?",
                    kind.word()
                ),
            ),
            (Some(_), false) => {
                Finding::ok(CheckCode::Tunnel, format!("{} sends to peers", list(&names)))
            }
        });
        found.push(mtu(facts, &of_mesh));
    }
    if facts.config.esp.encap.is_some() {
        found.push(Finding::ok(CheckCode::EncapSocket, "a socket takes ESP out of UDP"));
    }
    found
}

/// Routes, and the checks that are made by the devices to which these lead.
fn ways(facts: &Facts<'_>) -> Vec<Finding> {
    let are_known = facts.local.is_some_and(|local| {
        let mut peers = facts.peers().iter();
        peers.all(|peer| facts.state.route(local.address, peer.address).is_some())
    });
    let checks = [
        (CheckCode::Route, "there is a route to each peer"),
        (CheckCode::Source, "packets come from the local peer's address"),
        (CheckCode::Bypass, "no sysctl takes packets past the policies"),
    ];
    let finding = |(code, text)| match are_known {
        true => Finding::ok(code, text),
        false => Finding::unknown(code, "the routes to peers are not known"),
    };
    checks.map(finding).into()
}

fn addresses(facts: &Facts<'_>) -> Finding {
    let filters = &facts.examination.filters;
    let chains = &filters.translating;
    let Some(first) = chains.first() else {
        return match filters.unread.first() {
            None => Finding::ok(CheckCode::Nat, "no rule changes addresses"),
            Some(why) => Finding::unknown(CheckCode::Nat, format!("rules can't be read: {why}")),
        };
    };
    let shown = list(chains.iter().map(|chain| format!("{} {}", chain.table, chain.chain)));
    let text = format!(
        "rules of nf_tables that are not iptables' are not read, and may change addresses: {shown}"
    );
    let remedy = format!("read them with nft list chain {} {}", first.table, first.chain);
    Finding::unknown(CheckCode::Nat, text).remedy(remedy)
}

/// Whether it could be compared: with that of the devices below.
fn mtu(facts: &Facts<'_>, tunnels: &[&Tunnel]) -> Finding {
    let code = CheckCode::Mtu;
    let is_known = |tunnel: &&Tunnel| facts.state.link(&tunnel.device).is_some();
    if let Some(tunnel) = tunnels.iter().find(|tunnel| tunnel.external) {
        let text = format!(
            "{} takes packets of any size; the MTU that counts is that of the networks behind it",
            tunnel.device
        );
        return Finding::unknown(code, text).remedy("compare it with meshsec mtu");
    }
    let below = facts.local.map(|local| crate::plan::underlay(facts.state, local.address));
    match below {
        _ if tunnels.is_empty() => {
            Finding::unknown(code, "no tunnel device was found to be looked at")
        }
        Some(Ok(_)) if tunnels.iter().all(is_known) => {
            Finding::ok(code, "the MTU of tunnel devices fits")
        }
        Some(Err(why)) => Finding::unknown(code, why),
        Some(Ok(_)) | None => Finding::unknown(code, "the MTU of a device can't be read"),
    }
}

fn of_warning(facts: &Facts<'_>, warning: &crate::model::Warning) -> Option<Finding> {
    let (code, outcome) = check(warning.code)?;
    // Where SAs and policies can't be read, a plan knows the way of packets alone.
    if facts.mesh.is_none() && code != CheckCode::Route {
        return None;
    }
    let finding = Finding::new(code, outcome, &warning.text);
    Some(if explains(facts, warning.code) { finding.cause() } else { finding })
}

/// Whether a warning tells why traffic is dead or in the clear.
fn explains(facts: &Facts<'_>, code: WarningCode) -> bool {
    let has_unheard =
        facts.peers().iter().any(|peer| matches!(peer.came, Came::Never | Came::Silent));
    let blocked = |counters: &crate::model::Counters| {
        let all = counters.refused.as_ref();
        all.and_then(|all| all.get("XfrmOutPolBlock").copied()).unwrap_or(0)
    };
    // A leftover entry is not why nothing comes from a peer, unless the guard drops packets.
    if matches!(code, WarningCode::TunnelStranger | WarningCode::TunnelGroup) {
        return !has_unheard || blocked(facts.counters[1]) > blocked(facts.counters[0]);
    }
    if matches!(code, WarningCode::MtuTooLarge | WarningCode::BridgeMtu) {
        return !has_unheard;
    }
    // It may be for a generation to come.
    if code == WarningCode::EncapSocketMissing {
        let encap = facts.mesh.as_ref().and_then(|mesh| mesh.case.encap());
        return encap.is_some_and(|encap| encap.is_used);
    }
    matches!(
        code,
        WarningCode::SasFlushed
            | WarningCode::PoliciesFlushed
            | WarningCode::AllFlushed
            | WarningCode::ClearUntilApply
            | WarningCode::BlockedUntilApply
            | WarningCode::Outranked
            | WarningCode::NoRoute
            | WarningCode::OtherSource
            | WarningCode::TunnelSource
            | WarningCode::TunnelUnprotected
            | WarningCode::SecondGuardDrops
            | WarningCode::KernelWillRefuse
            | WarningCode::OffloadDeviceMissing
            | WarningCode::EncapRefused
    )
}

/// The check that a warning belongs to, and its outcome; `None` for one about the file, or about
/// the costs of changes to come.
fn check(code: WarningCode) -> Option<(CheckCode, Outcome)> {
    use Outcome::{Attention, Unknown};
    use WarningCode as W;
    Some(match code {
        W::WindowWithGeneration
        | W::NothingNamed
        | W::KeysNotChecked
        | W::LocalPeerUnknown
        | W::NoPsk
        | W::RatchetStays
        | W::GenerationGoesBack
        | W::ShortIdChanges
        | W::SpiLayoutChanges
        | W::SasReplaced
        | W::ClearTextStops
        | W::ClearTextAccepted
        | W::Excepted
        | W::ExceptionChanges
        | W::StageSkipped
        | W::NotHeardYet
        | W::LeftInTheClear
        | W::BlockedOnTheWay
        // These have checks of their own here.
        | W::AddressMissing
        | W::NoCarrier
        | W::ClockNotSynchronised
        | W::CountersHidden
        | W::KeysHidden => return None,
        W::OnePeer | W::AddressReserved | W::NoPair | W::NotPaired => return None,
        W::GenerationJump => (CheckCode::Applied, Attention),
        W::SasFlushed
        | W::PoliciesFlushed
        | W::AllFlushed
        | W::ChainsFlushed
        | W::ClearUntilApply
        | W::BlockedUntilApply => (CheckCode::Applied, Attention),
        W::OtherAddresses => (CheckCode::Source, Unknown),
        W::OtherSource | W::NoInside => (CheckCode::Source, Attention),
        W::NoIpv6 | W::NoOwnRoute => (CheckCode::Forwarding, Attention),
        W::Outranked => (CheckCode::Conflict, Attention),
        W::PastTheGuard | W::MarkInAVrf => (CheckCode::Bypass, Attention),
        W::SysctlsHidden => (CheckCode::Bypass, Unknown),
        W::RouteUnknown => (CheckCode::Route, Unknown),
        W::NoRoute => (CheckCode::Route, Attention),
        W::MarkShared => (CheckCode::Mark, Attention),
        W::BothBackends => (CheckCode::SecondGuard, Attention),
        W::FirewallUnseen => (CheckCode::Firewall, Unknown),
        W::SecondGuardMissing | W::SecondGuardBehind | W::SecondGuardDrops => {
            (CheckCode::SecondGuard, Attention)
        }
        W::TooManyPackets | W::NumbersNearlySpent => (CheckCode::SequenceNumbers, Attention),
        W::KernelWillRefuse | W::OffloadDeviceMissing => (CheckCode::Esp, Attention),
        W::EncapSocketMissing | W::EncapRefused => (CheckCode::EncapSocket, Attention),
        W::EncapSocketUnknown => (CheckCode::EncapSocket, Unknown),
        W::KeepalivesMissing => (CheckCode::Nat, Attention),
        W::KeepalivesUnknown => (CheckCode::Nat, Unknown),
        W::Translated => (CheckCode::Nat, Attention),
        W::TranslationsHidden => (CheckCode::Nat, Unknown),
        W::TunnelUnprotected | W::TunnelGroup | W::TunnelSource | W::TunnelStranger => {
            (CheckCode::Tunnel, Attention)
        }
        W::EntriesUnseen => (CheckCode::Tunnel, Unknown),
        W::MtuNotChecked | W::UnderlayUnknown => (CheckCode::Mtu, Unknown),
        W::LinkMissing
        | W::LinkIsUnderlay
        | W::UnderlayTooSmall
        | W::MtuTooLarge
        | W::BridgeMtu
        | W::MtuTakesIpv6 => (CheckCode::Mtu, Attention),
    })
}
