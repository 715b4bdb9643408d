//! `show --format json`.

use serde::Serialize;

use super::parts::{FORMAT_VERSION, JsonClock};
use crate::render::show::{Object, ShowView, objects};

#[derive(Serialize)]
struct JsonShow {
    format_version: &'static str,
    /// Null where only a reqid is known.
    mesh: Option<String>,
    /// Null without a file.
    generation: Option<u64>,
    clock: Option<JsonClock>,
    local: Option<String>,
    /// The number of SAs of the mesh with keys that the kernel hides.
    hidden_keys: usize,
    ours: Vec<JsonObject>,
    #[serde(skip_serializing_if = "Option::is_none")]
    foreign: Option<Vec<JsonObject>>,
}

#[derive(Serialize)]
struct JsonObject {
    kind: &'static str,
    id: String,
    peer: Option<String>,
    direction: Option<String>,
    generation: Option<u64>,
    key: Option<String>,
    description: String,
}

impl From<Object> for JsonObject {
    fn from(object: Object) -> Self {
        let Object { kind, passage: _, id, peer, direction, generation, key, description } = object;
        let peer = peer.map(|peer| peer.to_string());
        Self { kind, id, peer, direction, generation, key, description }
    }
}

/// The mesh's objects and, with `all`, foreign ones, in the shape of their JSON.
pub fn show_json(shown: &ShowView<'_>) -> impl Serialize + use<> {
    let (ours, foreign) = objects(shown);
    let json = |objects: Vec<Object>| objects.into_iter().map(JsonObject::from).collect();
    let ShowView { subject, local, all, live } = *shown;
    let moment = subject.moment();
    JsonShow {
        format_version: FORMAT_VERSION,
        mesh: subject.mesh().map(ToString::to_string),
        generation: moment.map(|moment| moment.generation.get()),
        clock: moment.and_then(JsonClock::of),
        local: local.map(|peer| peer.name.to_string()),
        hidden_keys: live.0.hidden_keys(subject.reqid()),
        ours: json(ours),
        foreign: all.then(|| json(foreign)),
    }
}
