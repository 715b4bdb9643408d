//! The named properties, and the judgement of one host's state after each request.
//!
//! What becomes of packets is told by tests/packets alone. A property that begins with "once" is about
//! all moments since the first at which it held: so it is true of any number of runs after each other,
//! and a crash needs no history.

use std::collections::BTreeSet;

use meshsec::{
    config::Guard,
    model::{Reqid, SaId, State},
    plan::{PolicyStep, SaStep, StepKind},
};

use crate::{
    common::REQID,
    files::{At, Kind},
    packets::{
        Fate, Packet, arrives_by_another_interface, arrives_in_clear, arrives_under,
        delivery::{Delivery, deliveries, gets_through},
        errors_about, is_forwarded_in_clear, leaks, leaves, leaves_if_no_policy_is_asked,
        shown_by_an_error,
    },
    starts::{Foreign, THEIRS},
    watched::Moment,
};

/// The properties, each with its sentence.
macro_rules! properties {
    ($($property:ident $name:literal $sentence:literal,)*) => {
        /// A named property.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Property { $($property,)* }

        impl Property {
            pub const ALL: &[Self] = &[$(Self::$property,)*];

            pub fn name(self) -> &'static str {
                match self { $(Self::$property => $name,)* }
            }

            pub fn sentence(self) -> &'static str {
                match self { $(Self::$property => $sentence,)* }
            }
        }
    };
}

properties! {
    NeverOpens "never-opens"
        "Once a packet is encrypted or blocked, it does not leave in the clear, as long as the file says so.",
    NeverTakes "never-takes"
        "Once clear text is refused, it is not taken, and what was not sent on before a run is not sent on, as long as the file says so.",
    GuardsFirst "guards-first"
        "Once a run has added an SA or a policy of a peer, a guarded mesh has no packet in the clear, to or from any host.",
    SecondGuard "second-guard"
        "Once the chains drop what no policy was asked about, they do so as long as the file has them.",
    ErrorsHidden "errors-hidden"
        "Once no ICMP error shows decrypted content in the clear, none does, as long as packets are sent encrypted.",
    KeysTied "keys-tied"
        "No SA that a run makes, or leaves behind, takes packets from an address that is not its peer's.",
    OthersUntouched "others-untouched"
        "Packets of another kind fare after each request as they did before the first.",
    ForeignUntouched "foreign-untouched"
        "Objects of other programs stay as they are.",
    EndsAsWanted "ends-as-wanted"
        "A run that reports success leaves an empty second plan, and packets that get through as the file says.",
    Heals "heals"
        "After any event, once foreign objects are out of the way, one more run reports success.",
    NothingLost "nothing-lost"
        "Hosts that are at most one stage and one generation apart lose no packet, wherever either stands in its run.",
    RolledBack "rolled-back"
        "After a refused request packets get through as they did before the run, or are closed.",
    Reverted "reverted"
        "A revert gives the host its former state, and opens nothing that was closed before and after the apply.",
}

/// A property that does not hold.
#[derive(Debug, Clone)]
pub struct Finding {
    pub property: Property,
    /// What was seen, with the packet.
    pub what: String,
    /// The number of requests before.
    pub after: usize,
}

/// One packet out and its answer: whether each has been closed so far.
struct Watched {
    packet: Packet,
    closed: bool,
    refused: bool,
    not_forwarded: bool,
    hidden: bool,
    dropped: bool,
    not_injected: bool,
}

/// A packet that is not the mesh's, and its fate at the beginning.
struct Other {
    packet: Packet,
    fates: BTreeSet<Fate>,
    taken: bool,
}

/// The judge of one host during a run.
pub struct Judge {
    kind: Kind,
    goal: At,
    foreign: Foreign,
    watched: Vec<Watched>,
    others: Vec<Other>,
    sas: BTreeSet<SaId>,
    /// The other host, and the packets that got through: of the second host, if so.
    pair: Option<(State, Vec<(bool, Packet)>)>,
    /// Whether foreign objects are in the way, by the plan or by an event.
    in_the_way: bool,
    has_begun: bool,
    /// Whether somebody else has changed the state on the way. A run that takes down guards, as its
    /// file says, may then take down the last object that closes the pair's packets.
    is_disturbed: bool,
    /// Whether no foreign object is about the mesh's packets.
    pub has_bystanders_alone: bool,
    /// The first thing that was wrong.
    pub finding: Option<Finding>,
    /// The requests.
    pub log: Vec<String>,
    pub states: usize,
}

impl Judge {
    pub fn new(kind: Kind, goal: At, foreign: Foreign, state: &State, in_the_way: bool) -> Self {
        let watched = |packet| Watched {
            packet,
            closed: false,
            refused: false,
            not_forwarded: false,
            hidden: false,
            dropped: false,
            not_injected: false,
        };
        let mut judge = Self {
            kind,
            goal,
            foreign,
            watched: kind.packets_out().into_iter().map(watched).collect(),
            others: Vec::new(),
            sas: state.sas.iter().map(|sa| sa.id).collect(),
            pair: None,
            in_the_way,
            has_begun: false,
            is_disturbed: false,
            has_bystanders_alone: true,
            finding: None,
            log: Vec::new(),
            states: 0,
        };
        judge.begin(state);
        judge
    }

    /// Takes a state as it is: before the first request, and after somebody else has changed it.
    fn begin(&mut self, state: &State) {
        for watched in &mut self.watched {
            let seen = Seen::of(state, &watched.packet);
            watched.closed = !seen.leaks;
            watched.refused = !seen.taken;
            watched.not_forwarded = !seen.forwarded;
            watched.hidden = is_hidden(state, &watched.packet, &seen, self.is_disturbed);
            watched.dropped = !seen.past;
            watched.not_injected = !seen.injected;
        }
        let other = |packet: Packet| Other {
            packet,
            fates: leaves(state, &packet),
            taken: arrives_in_clear(state, &packet.answer()),
        };
        self.others = self.kind.others().into_iter().map(other).collect();
        self.sas.extend(state.sas.iter().map(|sa| sa.id));
        self.foreign.sas.retain(|sa| state.sas.contains(sa));
        self.foreign.policies.retain(|policy| state.policies.contains(policy));
    }

    /// Looks at the state after a request, or after somebody else has changed it.
    pub fn look(&mut self, state: &State, moment: &Moment<'_>, requests: usize) {
        match moment {
            Moment::After(step) => {
                self.log.push(format!("{requests}. {} {}", step.kind.name(), step.kind.id()));
                self.has_begun |= step.peer.is_some() && is_added(&step.kind);
            }
            Moment::Disturbed => {
                self.log.push("-- somebody changes the state".into());
                self.in_the_way = true;
                self.is_disturbed = true;
                return self.begin(state);
            }
        }
        self.states += 1;
        if self.finding.is_none()
            && let Err((property, what)) = self.judge(state)
        {
            self.finding = Some(Finding { property, what, after: requests });
        }
    }

    fn judge(&mut self, state: &State) -> Result<(), (Property, String)> {
        let (kind, goal) = (self.kind, self.goal);
        let guarded = kind.is_guarded(goal) && self.has_begun && !self.in_the_way;
        let has_chains = kind.is_guarded(goal) && kind.guard == Guard::Both;
        let sends = goal.stage >= Some(meshsec::model::Stage::Send);
        for watched in &mut self.watched {
            let Watched { packet, .. } = *watched;
            let seen = Seen::of(state, &packet);
            let wrong = |property, what: &str| Err((property, format!("{} {what}", told(&packet))));
            let back = |property, what: &str| {
                Err((property, format!("{} {what}", told(&packet.answer()))))
            };
            let is_excused = self.is_disturbed && !kind.is_guarded(goal);
            if !is_excused && kind.closes(goal, &packet) && watched.closed && seen.leaks {
                return wrong(Property::NeverOpens, "leaves in the clear");
            }
            let refuses = kind.refuses(goal, &packet) && !is_excused;
            if refuses && watched.refused && seen.taken {
                return back(Property::NeverTakes, "is taken in the clear");
            }
            // No guard is for forwarded packets.
            let is_pair = packet.dst == kind.addresses()[1];
            if refuses && is_pair && watched.not_forwarded && seen.forwarded {
                return back(Property::NeverTakes, "is sent on in the clear");
            }
            if guarded && seen.leaks {
                return wrong(Property::GuardsFirst, "leaves in the clear");
            }
            if guarded && seen.taken {
                return back(Property::GuardsFirst, "is taken in the clear");
            }
            if has_chains && watched.dropped && seen.past {
                return wrong(Property::SecondGuard, "leaves past all policies");
            }
            if has_chains && watched.not_injected && seen.injected {
                return back(Property::SecondGuard, "is taken from another's interface");
            }
            if sends && watched.hidden && seen.shown {
                return back(Property::ErrorsHidden, "is quoted in the clear");
            }
            watched.closed |= !seen.leaks;
            watched.refused |= !seen.taken;
            watched.hidden |= is_hidden(state, &packet, &seen, self.is_disturbed);
            watched.dropped |= !seen.past;
            watched.not_injected |= !seen.injected;
        }
        self.look_at_others(state)?;
        self.look_at_the_pair(state)?;
        self.look_at_keys(state, false)
    }

    /// Watches the packets that get through to another host, and from it, encrypted. Those in the
    /// clear may be blocked, where the file says that they are to be encrypted and a conflict stops that.
    pub fn follow_the_pair(&mut self, state: &State, peer: &State) {
        let both = [false, true].map(|second| {
            self.kind.packets(second).into_iter().map(move |packet| (second, packet))
        });
        let is_encrypted = |(second, packet): &(bool, Packet)| {
            let (from, to) = if *second { (peer, state) } else { (state, peer) };
            deliveries(from, to, packet) == [Delivery::Encrypted].into()
        };
        self.pair = Some((peer.clone(), both.into_iter().flatten().filter(is_encrypted).collect()));
    }

    fn look_at_the_pair(&self, state: &State) -> Result<(), (Property, String)> {
        let Some((peer, packets)) = &self.pair else { return Ok(()) };
        match packets.iter().find(|(second, packet)| !passes(state, peer, *second, packet)) {
            Some((_, packet)) => {
                Err((Property::NothingLost, format!("{} got through, and is lost", told(packet))))
            }
            None => Ok(()),
        }
    }

    fn look_at_others(&self, state: &State) -> Result<(), (Property, String)> {
        if !self.foreign.is_untouched(state) {
            return Err((Property::ForeignUntouched, "an object of others has changed".into()));
        }
        for Other { packet, fates, taken } in &self.others {
            let now = leaves(state, packet);
            if now != *fates || arrives_in_clear(state, &packet.answer()) != *taken {
                let what = format!("{} fared {fates:?}, and now {now:?}", told(packet));
                return Err((Property::OthersUntouched, what));
            }
        }
        Ok(())
    }

    /// Whether SAs are tied to their peer: those that were made, or all.
    pub fn look_at_keys(&self, state: &State, all: bool) -> Result<(), (Property, String)> {
        let [_, _, stranger] = self.kind.addresses();
        let ours = state.sas.iter().filter(|sa| sa.reqid == REQID);
        for sa in ours.filter(|sa| all || !self.sas.contains(&sa.id)) {
            for packet in self.kind.packets(true) {
                let forged = Packet { src: stranger, ..packet };
                if sa.id.dst == forged.dst && arrives_under(state, &forged, sa.id.spi) {
                    let what = format!("{} is taken under SA {}", told(&forged), sa.id);
                    return Err((Property::KeysTied, what));
                }
            }
        }
        Ok(())
    }
}

/// What a state does with a packet out and its answer.
pub struct Seen {
    pub leaks: bool,
    pub taken: bool,
    pub forwarded: bool,
    pub shown: bool,
    /// Out, where no policy is asked.
    pub past: bool,
    /// In, decrypted by somebody else's interface.
    pub injected: bool,
}

impl Seen {
    pub fn of(state: &State, packet: &Packet) -> Self {
        let back = packet.answer().marked(0);
        Self {
            leaks: leaks(state, packet),
            taken: arrives_in_clear(state, &back),
            forwarded: is_forwarded_in_clear(state, &back),
            shown: shown_by_an_error(state, &back, REQID).is_some(),
            past: leaves_if_no_policy_is_asked(state, packet),
            injected: arrives_by_another_interface(state, &back, THEIRS),
        }
    }
}

/// Whether no ICMP error shows the answer to a packet. Where nothing is decrypted yet, that is so only
/// as long as nobody else has opened, or taken away, the policies that come before the SAs.
fn is_hidden(state: &State, packet: &Packet, seen: &Seen, is_disturbed: bool) -> bool {
    let is_covered = || errors_about(&packet.answer()).iter().all(|error| !leaks(state, error));
    !seen.shown && (!is_disturbed || is_covered())
}

/// Whether a step adds an object.
fn is_added(kind: &StepKind) -> bool {
    matches!(kind, StepKind::Sa(SaStep::Add { .. }) | StepKind::Policy(PolicyStep::Add(_)))
}

/// Whether a packet gets from one host to the other: back, if it is the second's.
fn passes(state: &State, peer: &State, second: bool, packet: &Packet) -> bool {
    let (from, to) = if second { (peer, state) } else { (state, peer) };
    gets_through(from, to, packet)
}

/// A packet in words.
pub fn told(packet: &Packet) -> String {
    let Packet { src, dst, proto, sport, dport, mark } = packet;
    let mark = if *mark == 0 { String::new() } else { format!(" mark {mark:#x}") };
    format!("the packet proto {proto} {src} port {sport} -> {dst} port {dport}{mark}")
}

/// Whether nothing with the mesh's reqid is left. Asked of plain data, and not of the program.
pub fn holds_nothing(state: &State, Reqid(reqid): Reqid) -> bool {
    let name = format!("{reqid:08x}");
    state.sas.iter().all(|sa| sa.reqid.0 != reqid)
        && state.policies.iter().all(|policy| {
            policy.priority != reqid
                && policy.templates.iter().all(|template| template.reqid.0 != reqid)
                && policy.id.selector.user == 0
        })
        && state.firewall.chains.iter().all(|chain| !chain.id.name.contains(&name))
}
