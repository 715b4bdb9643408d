//! `explain`: what becomes of one packet, and why.

use std::{collections::BTreeMap, net::IpAddr};

use super::{Status, after::after, live, moment, prepared::prepare, print, print_json};
use crate::{
    cli::{DirectionWord, ExplainArgs, Flushed, Format, Global},
    config::{Loaded, Peer, SecretsMode, networks_of_others},
    error::Error,
    model::{Direction, ErrorCode, Live, LocalAddress, PeerName, Prefix, State, Time},
    plan::{Names, Packet, trace},
    privilege::Files,
    render::{ExplainView, explain_json, explain_text},
};

/// Exits with 0 whatever becomes of the packet.
pub(super) fn run(global: &Global, args: &ExplainArgs) -> Result<Status, Error> {
    let packet: Packet = args
        .packet
        .parse()
        .map_err(|error| Error::request(ErrorCode::PacketRefused, format!("{error}")))?;
    let source = live::Source::from(args.live.as_str());
    let planned = args.after_plan || args.after_step.is_some();
    let (secrets, later) = match (&source, planned) {
        (live::Source::Kernel, false) => (SecretsMode::Ignored, Files::Neither),
        (live::Source::Kernel, true) => (SecretsMode::Required, Files::Neither),
        (live::Source::Empty, _) => (SecretsMode::Optional, Files::Neither),
        (live::Source::File(_), _) => (SecretsMode::Optional, Files::Reads),
    };
    let loaded = super::load(global, secrets, later)?;
    let (mut live, taken) = live::observe(&source, global, &loaded.config)?;
    let local = local(global, &loaded, &live, &source)?;
    if let (live::Source::Empty, Some(local)) = (&source, local) {
        // Those of this machine say nothing about another host.
        let device = "?".into();
        live.0.addresses = vec![LocalAddress { address: local.address, device }];
    }
    let (mut state, steps) = match planned {
        true => planned_state(global, args, &loaded, (live, taken), &source)?,
        false => (live.0, None),
    };
    args.after_flush.iter().for_each(|flushed| flush(&mut state, *flushed));
    let networks = networks_of_others(&loaded.config.peers, local);
    let by_default = || direction(&packet, &state, local, &networks);
    let direction = args.direction.map_or_else(by_default, Into::into);
    check_direction(&packet, direction)?;
    let names = Names {
        reqid: loaded.config.reqid,
        mesh: loaded.config.mesh.to_string(),
        local: local.map(|peer| peer.address),
        peers: peers(&loaded),
        networks,
    };
    let view = ExplainView {
        mesh: &loaded.config.mesh,
        local,
        packet: &packet,
        direction,
        state: state_in_words(args, steps),
        trace: trace(&state, &packet, direction, &names),
    };
    match global.format {
        Format::Text | Format::Prometheus => print(&explain_text(&view))?,
        Format::Json => print_json(&explain_json(&view))?,
    }
    Ok(Status::Done)
}

/// Which peer this host is only tells its addresses; a plan that is asked for has to know it.
fn local<'a>(
    global: &Global,
    loaded: &'a Loaded,
    live: &Live,
    source: &live::Source,
) -> Result<Option<&'a Peer>, Error> {
    let config = &loaded.config;
    match (source, crate::config::local_peer(config, global.local.as_deref(), &live.0.addresses)) {
        (live::Source::Kernel, _) => super::local_if_any(global, config, live),
        (live::Source::Empty | live::Source::File(_), Ok(peer)) => Ok(Some(peer)),
        (live::Source::Empty | live::Source::File(_), Err(error)) if global.local.is_some() => {
            Err(error.into())
        }
        (live::Source::Empty | live::Source::File(_), Err(_)) => Ok(None),
    }
}

/// The state after steps of the plan, and how many there are of it.
fn planned_state(
    global: &Global,
    args: &ExplainArgs,
    loaded: &Loaded,
    (live, taken): (Live, Time),
    source: &live::Source,
) -> Result<(State, Option<(usize, usize)>), Error> {
    let moment = moment::at(&loaded.config, taken)?;
    let plan = prepare(global, loaded, moment, (&live, source))?.plan;
    let all = plan.steps.len();
    let number = args.after_step.unwrap_or(all);
    let Some(steps) = plan.steps.get(..number) else {
        let text =
            format!("--after-step {number}: the plan has {all} steps; meshsec plan lists them");
        return Err(Error::request(ErrorCode::OptionsDisagree, text));
    };
    Ok((after(&live.0, taken, steps)?, Some((number, all))))
}

/// What others do with `ip xfrm policy flush`, `ip xfrm state flush` and `iptables -F`.
fn flush(state: &mut State, flushed: Flushed) {
    match flushed {
        Flushed::Policies => state.policies.clear(),
        Flushed::Sas => {
            state.sas.clear();
            state.usage.clear();
        }
        Flushed::Iptables => state.firewall.chains.iter_mut().for_each(|chain| {
            chain.rules.clear();
            chain.jumps.clear();
        }),
    }
}

/// The direction of a packet that the operator gives none of. One that a gateway sends on to a network
/// of a peer leaves.
fn direction(
    packet: &Packet,
    state: &State,
    local: Option<&Peer>,
    networks: &BTreeMap<Prefix, &PeerName>,
) -> Direction {
    let leaves = || networks.keys().any(|network| network.covers(&packet.selector.dst));
    let is_here =
        |address| state.has_address(address) || local.is_some_and(|local| local.address == address);
    match (is_here(packet.selector.src.address), is_here(packet.selector.dst.address)) {
        (true, _) if packet.under.is_none() => Direction::Out,
        (_, true) => Direction::In,
        (false, false) if packet.under.is_none() && leaves() => Direction::Out,
        (true | false, false) => Direction::Fwd,
    }
}

fn check_direction(packet: &Packet, direction: Direction) -> Result<(), Error> {
    match (packet.under, direction) {
        (Some(_), Direction::Out) => Err(Error::request(
            ErrorCode::PacketRefused,
            "under is the SPI of a packet that arrives: leave it out with --direction out",
        )),
        (Some(_) | None, _) => Ok(()),
    }
}

fn peers(loaded: &Loaded) -> BTreeMap<IpAddr, &PeerName> {
    let peers = loaded.config.peers.iter();
    peers.flat_map(|peer| [(peer.address, &peer.name), (peer.reached_at(), &peer.name)]).collect()
}

/// The state in words: where it is from, and what came after.
fn state_in_words(args: &ExplainArgs, steps: Option<(usize, usize)>) -> String {
    let mut words = match args.live.as_str() {
        "kernel" => "as the kernel is".to_owned(),
        "empty" => "on an empty host".into(),
        file => format!("as in {file}"),
    };
    match steps {
        None => {}
        Some((number, all)) if number == all => {
            words.push_str(&format!(", after all {all} steps of the plan"))
        }
        Some((number, all)) => {
            words.push_str(&format!(", after step {number} of {all} of the plan"))
        }
    }
    for flushed in &args.after_flush {
        words.push_str(match flushed {
            Flushed::Policies => ", after a flush of all policies",
            Flushed::Sas => ", after a flush of all SAs",
            Flushed::Iptables => ", after a flush of iptables",
        });
    }
    words
}

impl From<DirectionWord> for Direction {
    fn from(word: DirectionWord) -> Self {
        match word {
            DirectionWord::Out => Self::Out,
            DirectionWord::In => Self::In,
            DirectionWord::Fwd => Self::Fwd,
        }
    }
}
