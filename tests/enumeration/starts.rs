//! The states of a host at the beginning: all combinations of the states of its parts.
//!
//! A part has a value for each form that the program, or the kernel, treats apart. Forms that neither
//! can tell apart are one value:
//!
//! * Every field of an SA in which it may differ from the wanted one leads to the same steps, a delete
//!   and an add. So a wrong key stands for a wrong cipher and wrong addresses. The selector and the
//!   window have values of their own, since packets get through, or too many do.
//! * Policies in and fwd have the same templates and are made together: one part, and a value where
//!   fwd alone is missing. The policies for ICMP errors are all there or all missing.
//! * Guards and chains of the two families are equal but for the family, and no packet meets both.
//! * A foreign object that is in nobody's way is left out: no plan looks at it, and that it stays
//!   is asked of those which are in the way.
//! * The generation itself is a number. 5 stands for all that have one before them; 0, 31 and 32, where
//!   SPIs wrap, are in the random properties.

use std::fmt;

use meshsec::{
    kernel::memory::Memory,
    model::{
        Action, Algorithm, Backend, Chain, ChainId, Direction, Fingerprint, Jump, KeyView, Level,
        Policy, Prefix, Reqid, Rule, Sa, Selector, State,
    },
};

use crate::{
    common::REQID,
    files::Kind,
    worlds::{Cast, sas},
};

/// Somebody else's reqid.
pub const THEIRS: Reqid = Reqid(7);

/// The generation of the goal. An older one is the one before.
pub const GENERATION: u64 = 5;

/// A part of a host, with all of its values.
macro_rules! part {
    ($(#[$doc:meta])* $name:ident { $($(#[$of:meta])* $value:ident,)* }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
        pub enum $name { $($(#[$of])* $value,)* }

        impl $name {
            pub const ALL: &[Self] = &[$(Self::$value,)*];
        }
    };
}

part! {
    /// The guards, policies that block.
    Guards {
        Whole,
        Absent,
        OutOnly,
        InOnly,
        /// With an attribute that a guard never has.
        Damaged,
        /// Somebody else's policy has the identity of the guard out.
        Foreign,
    }
}

part! {
    /// The policies out of the pair.
    Out {
        Whole,
        Absent,
        /// It sends under the generation before.
        Older,
        /// With `level use`: edited, or of a stage that never was.
        Use,
        /// Somebody else's, with the same identity.
        Foreign,
        /// Behind somebody else's that lets the packets pass.
        Behind,
    }
}

part! {
    /// The policies in and fwd of the pair.
    Inward {
        Whole,
        Absent,
        /// With `level use`, as at the stages before the last.
        Use,
        /// The policies fwd are missing.
        NoForward,
        /// Somebody else's, with the same identity.
        Foreign,
        /// Behind somebody else's that let the packets pass.
        Behind,
    }
}

part! {
    /// The policies for ICMP errors.
    Errors {
        /// As the policies out, where those are the mesh's.
        AsOut,
        Absent,
    }
}

part! {
    /// The outbound SA of the generation.
    Sending { Whole, Absent, WrongKey, Larval, Foreign, }
}

part! {
    /// The outbound SA of the generation before.
    Former { Absent, Whole, }
}

part! {
    /// The inbound SAs of the generation, of the one before and of the next.
    Receiving {
        Whole,
        Absent,
        /// Those of the generation before: the next is missing, and an old one is there.
        Older,
        WrongKey,
        WrongWindow,
        /// Without a selector.
        Untied,
        /// Somebody else's SA has the place of the one of the generation.
        Foreign,
    }
}

part! {
    /// The chains of the firewall.
    Chains {
        Whole,
        Absent,
        /// With a rule of somebody else first.
        Damaged,
        /// No rule leads to them.
        Unreached,
    }
}

/// The state of a host at the beginning.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Start {
    pub guards: Guards,
    pub out: Out,
    pub inward: Inward,
    pub errors: Errors,
    pub sending: Sending,
    pub former: Former,
    pub receiving: Receiving,
    pub chains: Chains,
}

impl fmt::Display for Start {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts = self.parts().map(|(part, value)| format!("{part} {value}"));
        f.write_str(&parts.join(", "))
    }
}

/// A host at the beginning, and the objects that are not the mesh's.
pub struct Host {
    pub kernel: Memory,
    pub foreign: Foreign,
}

/// Objects that are not the mesh's, as they were planted.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Foreign {
    pub sas: Vec<Sa>,
    pub policies: Vec<Policy>,
}

impl Foreign {
    /// Whether all of them are there as they were.
    pub fn is_untouched(&self, state: &State) -> bool {
        self.sas.iter().all(|sa| state.sas.contains(sa))
            && self.policies.iter().all(|policy| state.policies.contains(policy))
    }

    /// Takes them away, as their owner would.
    pub fn remove(&self, state: &mut State) {
        state.sas.retain(|sa| !self.sas.contains(sa));
        state.policies.retain(|policy| !self.policies.contains(policy));
    }
}

impl Start {
    pub const WHOLE: Self = Self {
        guards: Guards::Whole,
        out: Out::Whole,
        inward: Inward::Whole,
        errors: Errors::AsOut,
        sending: Sending::Whole,
        former: Former::Absent,
        receiving: Receiving::Whole,
        chains: Chains::Whole,
    };

    /// All combinations. A kind without guards, chains or policies for ICMP errors has one value each.
    pub fn all(kind: Kind) -> Vec<Self> {
        let guards: &[Guards] = if kind.guard.is_on() { Guards::ALL } else { &Guards::ALL[..2] };
        let guards = if kind.traffic.can_be_guarded() { guards } else { &[Guards::Whole] };
        let has_chains = kind.guard == meshsec::config::Guard::Both;
        let chains = if has_chains { Chains::ALL } else { &[Chains::Whole] };
        let of_all = kind.traffic == meshsec::config::Traffic::All;
        let errors = if of_all { &[Errors::AsOut] } else { Errors::ALL };
        let mut all = vec![Self::WHOLE];
        vary(&mut all, guards, |start, guards| Self { guards, ..start });
        vary(&mut all, Out::ALL, |start, out| Self { out, ..start });
        vary(&mut all, Inward::ALL, |start, inward| Self { inward, ..start });
        vary(&mut all, errors, |start, errors| Self { errors, ..start });
        vary(&mut all, Sending::ALL, |start, sending| Self { sending, ..start });
        vary(&mut all, Former::ALL, |start, former| Self { former, ..start });
        vary(&mut all, Receiving::ALL, |start, receiving| Self { receiving, ..start });
        vary(&mut all, chains, |start, chains| Self { chains, ..start });
        all
    }

    /// The number of parts that are not as an apply has left them, of this generation or of the one
    /// before.
    pub fn oddities(&self) -> usize {
        let former = Self {
            out: Out::Older,
            sending: Sending::Absent,
            former: Former::Whole,
            receiving: Receiving::Older,
            ..Self::WHOLE
        };
        let from = |usual: Self| {
            let differ = [
                self.guards != usual.guards,
                self.out != usual.out,
                self.inward != usual.inward,
                self.errors != usual.errors,
                self.sending != usual.sending,
                self.former != usual.former,
                self.receiving != usual.receiving,
                self.chains != usual.chains,
            ];
            differ.into_iter().filter(|differs| *differs).count()
        };
        from(Self::WHOLE).min(from(former))
    }

    /// The names of the parts and their values.
    pub fn parts(&self) -> [(&'static str, String); 8] {
        let Self { guards, out, inward, errors, sending, former, receiving, chains } = self;
        [
            ("guards", format!("{guards:?}")),
            ("policies out", format!("{out:?}")),
            ("policies in", format!("{inward:?}")),
            ("policies for errors", format!("{errors:?}")),
            ("outbound SA", format!("{sending:?}")),
            ("former outbound SA", format!("{former:?}")),
            ("inbound SAs", format!("{receiving:?}")),
            ("chains", format!("{chains:?}")),
        ]
    }

    /// The first host of a pair in this state.
    pub fn host(&self, cast: &Cast) -> Host {
        let mut host = Host { kernel: cast.empty.clone(), foreign: cast.bystanders.clone() };
        let (state, foreign) = (host.kernel.state_mut(), &mut host.foreign);
        if cast.kind.traffic.can_be_guarded() {
            self.put_guards(cast.guards.iter().cloned(), state, foreign);
        }
        let [now, before] = [&cast.now, &cast.before]
            .map(|desired| desired.policies.values().map(|wanted| &wanted.policy));
        self.put_policies(now.zip(before), state, foreign);
        self.put_sending(&sas(&cast.now, Direction::Out)[0], state, foreign);
        if self.former == Former::Whole {
            state.sas.extend(sas(&cast.before, Direction::Out));
        }
        let [now, before] = [&cast.now, &cast.before].map(|desired| sas(desired, Direction::In));
        self.put_receiving(now, before, state, foreign);
        for ((family, role), rules) in &cast.now.chains {
            let id = ChainId::new(Backend::NfTables, *family, *role, REQID);
            state.firewall.chains.extend(self.chain(id, rules));
        }
        state.sas.extend(foreign.sas.iter().cloned());
        state.policies.extend(foreign.policies.iter().cloned());
        host
    }

    fn put_guards(
        &self,
        guards: impl Iterator<Item = Policy>,
        state: &mut State,
        foreign: &mut Foreign,
    ) {
        for mut guard in guards {
            let is_out = guard.id.direction == Direction::Out;
            match self.guards {
                Guards::Whole => {}
                Guards::Absent => continue,
                Guards::OutOnly if is_out => {}
                Guards::InOnly if !is_out => {}
                Guards::OutOnly | Guards::InOnly => continue,
                Guards::Damaged => drop(guard.extras.insert("flag localok".into())),
                Guards::Foreign if is_out => {
                    (guard.action, guard.priority) = (Action::Allow, 5_000);
                    foreign.policies.push(guard);
                    continue;
                }
                Guards::Foreign => {}
            }
            state.policies.push(guard);
        }
    }

    fn put_policies<'p>(
        &self,
        policies: impl Iterator<Item = (&'p Policy, &'p Policy)>,
        state: &mut State,
        foreign: &mut Foreign,
    ) {
        for (wanted, older) in policies {
            let is_for_errors = wanted.is_for_icmp_errors();
            let mut policy = wanted.clone();
            match wanted.id.direction {
                Direction::Out if is_for_errors && self.errors == Errors::Absent => continue,
                Direction::Out => match self.out {
                    Out::Whole => {}
                    Out::Absent if is_for_errors => {}
                    Out::Absent => continue,
                    Out::Older => policy = older.clone(),
                    Out::Use => set_level(&mut policy),
                    Out::Foreign if is_for_errors => {}
                    Out::Foreign => {
                        foreign.policies.push(with_their_reqid(policy));
                        continue;
                    }
                    Out::Behind => add_ahead(foreign, &policy),
                },
                direction @ (Direction::In | Direction::Fwd) => match self.inward {
                    Inward::Whole => {}
                    Inward::Absent => continue,
                    Inward::Use => set_level(&mut policy),
                    Inward::NoForward if direction == Direction::Fwd => continue,
                    Inward::NoForward => {}
                    Inward::Foreign => {
                        foreign.policies.push(with_their_reqid(policy));
                        continue;
                    }
                    Inward::Behind => add_ahead(foreign, &policy),
                },
            }
            state.policies.push(policy);
        }
    }

    fn put_sending(&self, wanted: &Sa, state: &mut State, foreign: &mut Foreign) {
        match self.sending {
            Sending::Whole => state.sas.push(wanted.clone()),
            Sending::Absent => {}
            Sending::WrongKey => state.sas.push(with_another_key(wanted.clone())),
            Sending::Larval => state.sas.push(Sa {
                algorithm: Algorithm::Larval,
                key: KeyView::Unknown,
                selector: None,
                ..wanted.clone()
            }),
            Sending::Foreign => foreign.sas.push(in_place_of(wanted)),
        }
    }

    fn put_receiving(
        &self,
        wanted: Vec<Sa>,
        older: Vec<Sa>,
        state: &mut State,
        foreign: &mut Foreign,
    ) {
        let middle = wanted.iter().map(|sa| sa.id).nth(1);
        for sa in wanted {
            match self.receiving {
                Receiving::Whole => state.sas.push(sa),
                Receiving::Absent | Receiving::Older => {}
                Receiving::WrongKey => state.sas.push(with_another_key(sa)),
                Receiving::WrongWindow => {
                    let mut sa = sa;
                    sa.replay.window = 32;
                    state.sas.push(sa);
                }
                Receiving::Untied => state.sas.push(Sa { selector: None, ..sa }),
                Receiving::Foreign if Some(sa.id) == middle => {
                    foreign.sas.push(in_place_of(&sa));
                }
                Receiving::Foreign => state.sas.push(sa),
            }
        }
        if self.receiving == Receiving::Older {
            state.sas.extend(older);
        }
    }

    fn chain(&self, id: ChainId, rules: &[Rule]) -> Option<Chain> {
        let (mut rules, mut jumps) = (rules.to_vec(), vec![Jump::FIRST]);
        match self.chains {
            Chains::Whole => {}
            Chains::Absent => return None,
            Chains::Damaged => rules.insert(0, Rule::Other("-j ACCEPT".into())),
            Chains::Unreached => jumps.clear(),
        }
        Some(Chain { id, rules, jumps, references: Vec::new() })
    }
}

/// Puts each value of a part into each state.
fn vary<P: Copy>(all: &mut Vec<Start>, values: &[P], with: impl Fn(Start, P) -> Start) {
    *all = all.iter().flat_map(|start| values.iter().map(|value| with(*start, *value))).collect();
}

fn set_level(policy: &mut Policy) {
    policy.templates.iter_mut().for_each(|template| template.level = Level::Use);
}

fn with_their_reqid(mut policy: Policy) -> Policy {
    policy.templates.iter_mut().for_each(|template| template.reqid = THEIRS);
    policy
}

fn with_another_key(mut sa: Sa) -> Sa {
    sa.key = KeyView::Known(Fingerprint::of(&[7; 36]));
    sa
}

/// Somebody else's policy that lets all packets between two hosts pass before the mesh's is asked.
fn add_ahead(foreign: &mut Foreign, policy: &Policy) {
    let ahead = ahead_of(policy);
    if foreign.policies.iter().all(|other| other.id != ahead.id) {
        foreign.policies.push(ahead);
    }
}

/// Somebody else's policy that comes before one of the mesh's and lets its packets pass.
pub fn ahead_of(policy: &Policy) -> Policy {
    let mut ahead = policy.clone();
    let Selector { src, dst, .. } = policy.id.selector;
    ahead.id.selector = Selector::between(Prefix::host(src.address), Prefix::host(dst.address));
    ahead.id.mark = meshsec::model::Mark::NONE;
    if ahead.id == policy.id {
        ahead.id.selector.proto = 17;
    }
    (ahead.priority, ahead.action) = (500, Action::Allow);
    ahead.templates.clear();
    ahead
}

/// Somebody else's SA in the place of one of the mesh's.
pub fn in_place_of(sa: &Sa) -> Sa {
    Sa { reqid: THEIRS, ..sa.clone() }
}
