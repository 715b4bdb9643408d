//! Changes: what differs between file and kernel, in words and values.

use std::fmt;

use crate::{
    desired::WantedSa,
    model::{Direction, PeerName, Policy, Sa, Template},
};

/// One object that isn't as it should be.
#[derive(Debug, Clone)]
pub struct Change {
    /// The peer that it is for; guards and leftovers of nobody's have none.
    pub peer: Option<PeerName>,
    /// The object, and what it is to become.
    pub what: What,
    /// Why.
    pub reason: String,
    /// What it is made of, or where the two differ.
    pub fields: Vec<Field>,
}

/// An object and what it is to become.
///
/// An SA has no update: the kernel answers one with success and does nothing
/// (`xfrm_state_update`), so an SA that differs is replaced.
#[derive(Debug, Clone)]
pub enum What {
    /// A missing SA.
    CreateSa(WantedSa),
    /// An SA that differs. `live` is deleted, and so are ours on the same SPI
    /// that have a mark, which would otherwise be found in its place.
    ReplaceSa {
        /// What is there; `None` where only a marked twin is.
        live: Option<Sa>,
        /// What should be.
        wanted: WantedSa,
        /// Twins with a mark.
        twins: Vec<Sa>,
    },
    /// An SA of ours that nothing asks for.
    DeleteSa(Sa),
    /// A missing policy.
    CreatePolicy(Policy),
    /// A policy of ours that differs.
    UpdatePolicy {
        /// What is there.
        live: Policy,
        /// What should be.
        wanted: Policy,
    },
    /// A policy of ours that nothing asks for.
    DeletePolicy(Policy),
}

/// What happens to an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChangeAction {
    /// It is missing.
    Create,
    /// It is changed in place.
    Update,
    /// It is deleted and made anew.
    Replace,
    /// It goes.
    Delete,
}

impl ChangeAction {
    /// The word in JSON.
    pub fn word(self) -> &'static str {
        match self {
            Self::Create => "create",
            Self::Update => "update",
            Self::Replace => "replace",
            Self::Delete => "delete",
        }
    }

    /// The symbol in text.
    pub fn symbol(self) -> &'static str {
        match self {
            Self::Create => "+",
            Self::Update => "~",
            Self::Replace => "-/+",
            Self::Delete => "-",
        }
    }
}

/// What kind of object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ObjectKind {
    /// A security association.
    Sa,
    /// A peer's policy.
    Policy,
    /// A block policy without a peer.
    Guard,
}

impl ObjectKind {
    /// The word in text and JSON.
    pub fn word(self) -> &'static str {
        match self {
            Self::Sa => "sa",
            Self::Policy => "policy",
            Self::Guard => "guard",
        }
    }
}

impl fmt::Display for ObjectKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.word())
    }
}

/// One attribute of an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Field {
    /// Its name.
    pub name: &'static str,
    /// As it is; nothing for an object to create.
    pub before: Option<String>,
    /// As it should be; nothing for an object to delete.
    pub after: Option<String>,
}

impl Change {
    /// What happens to the object.
    pub fn action(&self) -> ChangeAction {
        match self.what {
            What::CreateSa(_) | What::CreatePolicy(_) => ChangeAction::Create,
            What::UpdatePolicy { .. } => ChangeAction::Update,
            What::ReplaceSa { .. } => ChangeAction::Replace,
            What::DeleteSa(_) | What::DeletePolicy(_) => ChangeAction::Delete,
        }
    }

    /// What kind of object it is. A policy without templates is a guard.
    pub fn kind(&self) -> ObjectKind {
        match &self.what {
            What::CreateSa(_) | What::ReplaceSa { .. } | What::DeleteSa(_) => ObjectKind::Sa,
            What::CreatePolicy(policy)
            | What::UpdatePolicy { wanted: policy, .. }
            | What::DeletePolicy(policy) => {
                if policy.templates.is_empty() {
                    ObjectKind::Guard
                } else {
                    ObjectKind::Policy
                }
            }
        }
    }

    /// The object's identity, in the words of `ip xfrm`.
    pub fn id(&self) -> String {
        match &self.what {
            What::CreateSa(wanted) | What::ReplaceSa { wanted, .. } => wanted.sa.id.to_string(),
            What::DeleteSa(sa) => sa.id.to_string(),
            What::CreatePolicy(policy)
            | What::UpdatePolicy { wanted: policy, .. }
            | What::DeletePolicy(policy) => policy.id.to_string(),
        }
    }

    /// The direction, where the object itself or the file tells it.
    pub fn direction(&self) -> Option<Direction> {
        match &self.what {
            What::CreateSa(wanted) | What::ReplaceSa { wanted, .. } => Some(wanted.direction),
            What::DeleteSa(_) => None,
            What::CreatePolicy(policy)
            | What::UpdatePolicy { wanted: policy, .. }
            | What::DeletePolicy(policy) => Some(policy.id.direction),
        }
    }
}

/// The attributes of an SA in which a kernel's may differ from a file's.
fn sa_fields(sa: &Sa) -> Vec<(&'static str, String)> {
    let selector = sa.selector.map_or_else(|| "none".into(), |selector| selector.to_string());
    let mut fields = vec![
        ("src", sa.src.to_string()),
        ("mode", sa.mode.to_string()),
        ("selector", selector),
        ("cipher", sa.algorithm.to_string()),
        ("key", sa.key.to_string()),
        ("replay_window", sa.replay.window.to_string()),
        ("esn", sa.replay.esn.to_string()),
    ];
    fields.extend(extras(&sa.extras));
    fields
}

/// The attributes of a policy in which a kernel's may differ from a file's.
fn policy_fields(policy: &Policy) -> Vec<(&'static str, String)> {
    let mut fields =
        vec![("action", policy.action.to_string()), ("priority", policy.priority.to_string())];
    match policy.templates.as_slice() {
        [] => {}
        [template] => fields.extend(template_fields(template)),
        several => {
            let several: Vec<_> = several.iter().map(ToString::to_string).collect();
            fields.push(("templates", several.join(" and ")));
        }
    }
    fields.extend(extras(&policy.extras));
    fields
}

fn template_fields(template: &Template) -> [(&'static str, String); 5] {
    let spi = match template.spi.raw() {
        0 => "any".into(),
        _ => template.spi.to_string(),
    };
    [
        ("spi", spi),
        ("reqid", template.reqid.to_string()),
        ("mode", template.mode.to_string()),
        ("level", template.level.to_string()),
        ("template", format!("src {} dst {} proto {}", template.src, template.dst, template.proto)),
    ]
}

fn extras(extras: &std::collections::BTreeSet<String>) -> Option<(&'static str, String)> {
    let list: Vec<&str> = extras.iter().map(String::as_str).collect();
    (!list.is_empty()).then(|| ("unexpected", list.join(", ")))
}

/// The fields of an SA that is to come.
pub(super) fn created_sa(sa: &Sa) -> Vec<Field> {
    created(sa_fields(sa))
}

/// The fields of an SA that is to go.
pub(super) fn deleted_sa(sa: &Sa) -> Vec<Field> {
    deleted(sa_fields(sa))
}

/// Where two SAs differ, keys that aren't known being equal to any.
pub(super) fn differing_sa(live: &Sa, wanted: &Sa) -> Vec<Field> {
    let mut fields = differing(sa_fields(live), sa_fields(wanted));
    fields.retain(|field| field.name != "key" || live.key.differs(wanted.key));
    fields
}

/// What makes a placeholder of the kernel's an SA.
pub(super) fn larval_sa(live: &Sa, wanted: &Sa) -> Vec<Field> {
    let mut fields = differing(sa_fields(live), sa_fields(wanted));
    fields.retain(|field| field.name == "cipher");
    fields
}

/// The marks of twins that go.
pub(super) fn twins(twins: &[Sa]) -> Vec<Field> {
    let marks = twins.iter().map(|twin| ("mark", twin.id.mark.to_string()));
    deleted(marks.collect())
}

/// The fields of a policy that is to come.
pub(super) fn created_policy(policy: &Policy) -> Vec<Field> {
    created(policy_fields(policy))
}

/// The fields of a policy that is to go.
pub(super) fn deleted_policy(policy: &Policy) -> Vec<Field> {
    deleted(policy_fields(policy))
}

/// Where two policies differ.
pub(super) fn differing_policy(live: &Policy, wanted: &Policy) -> Vec<Field> {
    differing(policy_fields(live), policy_fields(wanted))
}

fn created(fields: Vec<(&'static str, String)>) -> Vec<Field> {
    fields
        .into_iter()
        .map(|(name, after)| Field { name, before: None, after: Some(after) })
        .collect()
}

fn deleted(fields: Vec<(&'static str, String)>) -> Vec<Field> {
    fields
        .into_iter()
        .map(|(name, before)| Field { name, before: Some(before), after: None })
        .collect()
}

/// Pairs fields by name; a field that one side lacks has no value there.
fn differing(live: Vec<(&'static str, String)>, wanted: Vec<(&'static str, String)>) -> Vec<Field> {
    let missing = |name: &str| !wanted.iter().any(|(other, _)| *other == name);
    let gone: Vec<_> = live.iter().filter(|(name, _)| missing(name)).cloned().collect();
    let mut fields: Vec<Field> = wanted
        .into_iter()
        .map(|(name, after)| {
            let before = live.iter().find(|(other, _)| *other == name);
            Field { name, before: before.map(|(_, value)| value.clone()), after: Some(after) }
        })
        .filter(|field| field.before != field.after)
        .collect();
    fields.extend(deleted(gone));
    fields
}
