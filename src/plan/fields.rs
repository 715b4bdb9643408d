//! The attributes of objects, in words, as a plan shows them.

use std::collections::BTreeSet;

use crate::model::{Chain, ChainId, Jump, Policy, Rule, Sa, Template};

/// One attribute of an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Field {
    /// Its name.
    pub name: &'static str,
    /// Its value in the kernel; `None` for an object to create.
    pub before: Option<String>,
    /// Its wanted value; `None` for an object to delete.
    pub after: Option<String>,
}

type Fields = Vec<(&'static str, String)>;

/// The attributes in which a kernel's SA may differ from a file's.
pub(super) fn of_sa(sa: &Sa) -> Fields {
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
    fields.extend(sa.ends.map(|time| ("ends", time.rfc3339())));
    fields.extend(sa.offload.as_ref().map(|offload| ("offload", offload.to_string())));
    fields.extend(extras(&sa.extras));
    fields
}

/// The attributes in which a kernel's policy may differ from a file's.
pub(super) fn of_policy(policy: &Policy) -> Fields {
    let mut fields =
        vec![("action", policy.action.to_string()), ("priority", policy.priority.to_string())];
    match policy.templates.as_slice() {
        [] => {}
        [template] => fields.extend(of_template(template)),
        several => {
            let several: Vec<_> = several.iter().map(ToString::to_string).collect();
            fields.push(("templates", several.join(" and ")));
        }
    }
    fields.extend(extras(&policy.extras));
    fields
}

/// The attribute of a device that is kept right.
pub(super) fn of_link(mtu: u32) -> Fields {
    vec![("mtu", mtu.to_string())]
}

fn of_template(template: &Template) -> [(&'static str, String); 5] {
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

/// A chain's rules, and the rule that leads to it.
pub(super) fn of_chain(chain: &Chain) -> Fields {
    vec![("rules", rules(&chain.rules)), ("jump", jumps(&chain.id, &chain.jumps))]
}

/// The wanted rules of a chain of the mesh, and the rule that leads to it.
pub(super) fn of_wanted_chain(id: &ChainId, wanted: &[Rule]) -> Fields {
    vec![("rules", rules(wanted)), ("jump", jumps(id, &[Jump::FIRST]))]
}

fn rules(rules: &[Rule]) -> String {
    match rules {
        [] => "none".into(),
        rules => rules.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "),
    }
}

fn jumps(id: &ChainId, jumps: &[Jump]) -> String {
    let hook = id.hook();
    let one = |jump: &Jump| {
        let condition = jump.conditions.as_ref().map(|rule| format!(" by `{rule}`"));
        let behind = jump.behind.as_ref().map(|rule| format!(" behind `{rule}`"));
        format!("from {hook}{}{}", condition.unwrap_or_default(), behind.unwrap_or_default())
    };
    match jumps {
        [] => "none".into(),
        jumps => jumps.iter().map(one).collect::<Vec<_>>().join("; "),
    }
}

fn extras(extras: &BTreeSet<String>) -> Option<(&'static str, String)> {
    let list: Vec<&str> = extras.iter().map(String::as_str).collect();
    (!list.is_empty()).then(|| ("unexpected", list.join(", ")))
}

/// The fields in which two SAs differ; an unknown key equals any. Of a placeholder that the kernel
/// made, only that it has no cipher.
pub(super) fn differing_sa(live: &Sa, wanted: &Sa) -> Vec<Field> {
    let mut fields = differing(of_sa(live), of_sa(wanted));
    if live.is_larval() {
        fields.retain(|field| field.name == "cipher");
    }
    fields.retain(|field| match field.name {
        "key" => live.key.differs(wanted.key),
        "ends" => !live.expires_like(wanted),
        _ => true,
    });
    fields
}

/// The marks of twins that go.
pub(super) fn twins(twins: &[Sa]) -> Vec<Field> {
    deleted(twins.iter().map(|twin| ("mark", twin.id.mark.to_string())).collect())
}

/// The fields of an object that is to come.
pub(super) fn created(fields: Fields) -> Vec<Field> {
    let field = |(name, after)| Field { name, before: None, after: Some(after) };
    fields.into_iter().map(field).collect()
}

/// The fields of an object that is to go.
pub(super) fn deleted(fields: Fields) -> Vec<Field> {
    let field = |(name, before)| Field { name, before: Some(before), after: None };
    fields.into_iter().map(field).collect()
}

/// Pairs fields by name; a field that one side lacks has no value there.
pub(super) fn differing(live: Fields, wanted: Fields) -> Vec<Field> {
    let missing = |name: &str| !wanted.iter().any(|(other, _)| *other == name);
    let gone: Fields = live.iter().filter(|(name, _)| missing(name)).cloned().collect();
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
