//! JsonSavedPlan plans: files that `plan --out FILE` writes and `apply FILE` performs.
//!
//! A saved plan holds the plan that was shown, and pins its premises: the file, the keys, the
//! generation, the live state. `apply` plans anew, which from the same premises gives the same
//! plan, and refuses a plan with premises that have changed. So keys and sequence numbers are never
//! saved.
//!
//! The steps are not read from the plan that is shown. But a plan is refused unless its file is, to
//! the byte, the one that would be saved now: so nobody gets another plan performed than the one
//! that was looked at.

use std::{borrow::Cow, collections::BTreeSet, fs, io::ErrorKind, path::Path};

use serde_json::Value;
use sha2::{Digest, Sha256};

use super::{
    document::{DocumentKind, unread},
    prepared::Prepared,
    replace::Replacement,
};
use crate::{
    config::{self, Clock, IncludedFile, Loaded, Moment},
    error::Error,
    model::{Live, State, Time},
    render::{
        FORMAT_VERSION, JsonIncluded, JsonPremises, JsonSavedPlan, Layout, Subject, View,
        json_text, plan_json,
    },
};

const SAVED_PLAN: DocumentKind =
    DocumentKind { noun: "plan", whose: "a plan that meshsec saved", versions: &[FORMAT_VERSION] };

impl JsonSavedPlan {
    /// A plan that was made at a moment.
    fn new(
        loaded: &Loaded,
        prepared: &Prepared<'_>,
        live: &Live,
        made: Time,
    ) -> Result<Self, Error> {
        let plan = shown(loaded, prepared, live, made)?;
        let premises = JsonPremises::of(loaded, prepared, live, made, &plan)?;
        Ok(Self { format_version: FORMAT_VERSION.into(), premises, plan })
    }

    fn text(&self) -> Result<Vec<u8>, Error> {
        Ok(json_text(self, Layout::Lines).map_err(std::io::Error::from)?.into_bytes())
    }

    /// The part of its text that another one doesn't show.
    fn difference(&self, other: &Self) -> String {
        let (Value::Object(ours), Value::Object(theirs)) = (&self.plan, &other.plan) else {
            return "its plan".into();
        };
        let keys: BTreeSet<&String> = ours.keys().chain(theirs.keys()).collect();
        let differ = keys.into_iter().filter(|key| ours.get(*key) != theirs.get(*key));
        let names: Vec<String> = differ.map(|key| config::quoted(key)).collect();
        if names.is_empty() { "its layout".into() } else { names.join(", ") }
    }
}

impl JsonPremises {
    /// The premises of a plan; `shown` is its JSON.
    fn of(
        loaded: &Loaded,
        prepared: &Prepared<'_>,
        live: &Live,
        made: Time,
        shown: &Value,
    ) -> Result<Self, Error> {
        let mut keys = Sha256::new();
        for wanted in prepared.desired.sas.values() {
            keys.update(format!("{} {}\n", wanted.sa.id, wanted.sa.key));
        }
        let (usage, links, addresses) = (Vec::new(), Vec::new(), Vec::new());
        let socket_policies = Vec::new();
        let objects =
            State { usage, links, addresses, socket_policies, tunnels: None, ..live.0.clone() };
        let live = serde_json::to_vec(&objects).map_err(std::io::Error::from)?;
        let what = ["changes", "steps", "conflicts"].map(|key| shown[key].to_string());
        Ok(Self {
            mesh: loaded.config.mesh.to_string(),
            local: prepared.local.map(|peer| peer.name.to_string()).unwrap_or_default(),
            generation: prepared.moment.generation.get(),
            made: made.seconds(),
            file: hex::encode(loaded.digest),
            included: loaded.included.iter().map(included).collect(),
            keys: hex::encode(keys.finalize()),
            live: hex::encode(Sha256::digest(live)),
            plan: hex::encode(Sha256::digest(what.concat())),
        })
    }

    /// The first premise that has changed, if any.
    pub(super) fn change(&self, now: &Self) -> Option<Cow<'static, str>> {
        let included = change_of_included(&self.included, &now.included);
        Some(Cow::from(if (&self.mesh, &self.local) != (&now.mesh, &now.local) {
            "it is of another mesh or another host"
        } else if self.file != now.file {
            "mesh.toml was changed"
        } else if let Some(change) = included {
            return Some(change.into());
        } else if self.generation != now.generation {
            "the generation is another one"
        } else if self.keys != now.keys {
            "the keys are others"
        } else if (&self.live, &self.plan) != (&now.live, &now.plan) {
            "the kernel's state was changed"
        } else {
            return None;
        }))
    }
}

fn included(file: &IncludedFile) -> JsonIncluded {
    JsonIncluded { name: file.name.clone(), sha256: hex::encode(file.digest) }
}

/// The first of the included files that was changed, came or went.
fn change_of_included(before: &[JsonIncluded], now: &[JsonIncluded]) -> Option<String> {
    let named = |list: &[JsonIncluded], name: &str| list.iter().any(|file| file.name == name);
    if let Some(gone) = before.iter().find(|file| !named(now, &file.name)) {
        return Some(format!("{} was removed from the included files", config::quoted(&gone.name)));
    }
    if let Some(new) = now.iter().find(|file| !named(before, &file.name)) {
        return Some(format!("{} was added to the included files", config::quoted(&new.name)));
    }
    let changed = before.iter().find(|file| !now.contains(file));
    changed.map(|file| format!("{} was changed", config::quoted(&file.name)))
}

/// Refuses a saved plan that is not the one that was just made.
///
/// # Errors
///
/// The premise that has changed, or that the saved plan can't be read.
pub(super) fn check(
    path: &Path,
    loaded: &Loaded,
    prepared: &Prepared<'_>,
    live: &Live,
) -> Result<(), Error> {
    let (saved, text) = read_saved_plan(path)?;
    let now = JsonSavedPlan::new(loaded, prepared, live, Time::from_seconds(saved.premises.made))?;
    match saved.premises.change(&now.premises) {
        Some(change) => Err(stale(path, &change)),
        None => same(path, &saved, &text, &now),
    }
}

/// Every byte counts: of a name that is there twice, a reader and a parser may each take another
/// one.
fn same(path: &Path, saved: &JsonSavedPlan, text: &[u8], now: &JsonSavedPlan) -> Result<(), Error> {
    if text == now.text()? {
        return Ok(());
    }
    let reason = format!(
        "it does not show what a plan of now shows ({}): the file was edited, or what the plan \
         warns of has changed; plan again",
        saved.difference(now)
    );
    Err(unread(path, reason))
}

/// Writes a plan, for its owner alone unless there was one with another mode.
///
/// # Errors
///
/// There is another kind of file in its place: that is never overwritten.
pub(super) fn write(
    path: &Path,
    loaded: &Loaded,
    prepared: &Prepared<'_>,
    live: &Live,
) -> Result<(), Error> {
    // Whole seconds, as they are saved.
    let now = prepared.moment.clock.map(|clock| clock.now).unwrap_or_default();
    let made = Time::from_seconds(now.seconds());
    put(path, &JsonSavedPlan::new(loaded, prepared, live, made)?.text()?)
}

/// A plan as `plan --format json` printed it at a moment; it has no name of a file.
fn shown(
    loaded: &Loaded,
    prepared: &Prepared<'_>,
    live: &Live,
    made: Time,
) -> Result<Value, Error> {
    let clock = prepared.moment.clock.map(|clock| Clock { now: made, ..clock });
    let moment = Moment { clock, ..prepared.moment };
    let subject = Subject::File { config: &loaded.config, moment };
    let outcomes = &prepared.foreseen(live, loaded.config.reqid);
    let view = View { subject, outcomes, ..prepared.view(&loaded.config, "") };
    Ok(serde_json::to_value(plan_json(&view)).map_err(std::io::Error::from)?)
}

fn put(path: &Path, text: &[u8]) -> Result<(), Error> {
    let file = Replacement::begin(path)?;
    match fs::metadata(path) {
        Ok(there) if there.is_file() && read_saved_plan(path).is_ok() => {
            let old = fs::read(path).map_err(|error| unread(path, error.to_string()))?;
            file.commit(&old, text)
        }
        Ok(_) => Err(unread(path, "it is no saved plan, and is not overwritten".into())),
        Err(error) if error.kind() == ErrorKind::NotFound => file.create(text),
        Err(error) => Err(unread(path, error.to_string())),
    }
}

fn read_saved_plan(path: &Path) -> Result<(JsonSavedPlan, Vec<u8>), Error> {
    SAVED_PLAN.read_with_text(path)
}

#[cfg(any(test, fuzzing))]
impl JsonPremises {
    /// The premises of a plan with other changes.
    pub(super) fn of_another(&self) -> Self {
        let text = String::clone;
        Self {
            mesh: text(&self.mesh),
            local: text(&self.local),
            generation: self.generation,
            made: self.made,
            file: text(&self.file),
            included: self.included.clone(),
            keys: text(&self.keys),
            live: text(&self.live),
            plan: text(&self.plan) + "0",
        }
    }
}

/// The premises in a saved plan's text.
#[cfg(any(test, fuzzing))]
pub(super) fn parse(text: &[u8]) -> Result<JsonPremises, Error> {
    SAVED_PLAN.of(Path::new("plan.json"), text).map(|JsonSavedPlan { premises, .. }| premises)
}

fn stale(path: &Path, change: &str) -> Error {
    let reason = format!("this plan is stale: {change} since it was saved; plan again");
    unread(path, reason)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(name: &str) -> JsonIncluded {
        JsonIncluded { name: name.into(), sha256: "00".into() }
    }

    fn premises() -> JsonPremises {
        let text = |text: &str| text.to_owned();
        JsonPremises {
            mesh: text("lab"),
            local: text("a"),
            generation: 1,
            made: 0,
            file: text("00"),
            included: ["a.toml", "b.json"].map(file).into(),
            keys: text("01"),
            live: text("02"),
            plan: text("03"),
        }
    }

    fn saved(directory: &tempfile::TempDir, text: &str) -> std::path::PathBuf {
        let path = directory.path().join("plan");
        fs::write(&path, text).unwrap();
        path
    }

    #[test]
    fn each_premise_that_changed_is_named() {
        let changed = |change: fn(&mut JsonPremises)| {
            let mut now = premises();
            change(&mut now);
            premises().change(&now)
        };
        assert_eq!(changed(|_| {}), None);
        assert!(changed(|now| now.local = "b".into()).unwrap().contains("another host"));
        assert!(changed(|now| now.file = "x".into()).unwrap().contains("mesh.toml"));
        let included = |change: fn(&mut Vec<JsonIncluded>)| {
            let mut now = premises();
            change(&mut now.included);
            premises().change(&now).unwrap()
        };
        assert_eq!(included(|files| files[1].sha256 = "01".into()), "\"b.json\" was changed");
        assert_eq!(
            included(|files| drop(files.remove(0))),
            "\"a.toml\" was removed from the included files"
        );
        assert_eq!(
            included(|files| files.push(file("c.toml"))),
            "\"c.toml\" was added to the included files"
        );
        assert_eq!(
            included(|files| files.clear()),
            "\"a.toml\" was removed from the included files"
        );
        assert!(changed(|now| now.generation = 2).unwrap().contains("generation"));
        assert!(changed(|now| now.keys = "x".into()).unwrap().contains("keys"));
        assert!(changed(|now| now.live = "x".into()).unwrap().contains("state"));
        assert!(changed(|now| now.plan = "x".into()).unwrap().contains("state"));
    }

    #[test]
    fn only_a_saved_plan_is_overwritten_by_another() {
        let saved_plan = JsonSavedPlan {
            format_version: FORMAT_VERSION.into(),
            premises: premises(),
            plan: Value::Null,
        };
        let text = serde_json::to_vec(&saved_plan).unwrap();
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("plan");
        put(&path, &text).unwrap();
        put(&path, &text).unwrap();
        assert_eq!(read_saved_plan(&path).unwrap().0.premises, premises());
        let secret = saved(&directory, "a secret");
        let error = put(&secret, &text).unwrap_err().to_string();
        assert!(error.contains("not overwritten"), "{error}");
        assert_eq!(fs::read_to_string(&secret).unwrap(), "a secret");
        assert!(put(Path::new("/dev/null"), &text).is_err());
    }

    #[test]
    fn what_is_no_saved_plan_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let text = |error: Error| error.to_string();
        for (contents, reason) in [
            ("", "not a plan that meshsec saved"),
            ("{}", "not a plan that meshsec saved"),
            ("[1]", "not a plan that meshsec saved"),
            (r#"{"format_version":"1.0"}"#, "format \"1.0\" is not known"),
            (
                r#"{"format_version":"2.0","premises":{},"plan":{}}"#,
                "not a plan that meshsec saved",
            ),
        ] {
            let path = saved(&directory, contents);
            let error = text(read_saved_plan(&path).err().unwrap());
            assert!(error.contains(reason), "{contents}: {error}");
        }
        let absent = directory.path().join("absent");
        assert!(text(read_saved_plan(&absent).err().unwrap()).contains("No such file"));
    }
}
