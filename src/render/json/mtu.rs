//! `mtu --format json`.

use serde::Serialize;

use super::parts::{FORMAT_VERSION, JsonCoded, warnings};
use crate::{mtu::Part, render::Underlay};

#[derive(Serialize)]
struct JsonMtu {
    format_version: &'static str,
    mesh: String,
    local: Option<String>,
    family: &'static str,
    underlay: JsonDevice,
    parts: Vec<JsonPart>,
    mtu: Option<u32>,
    link: Option<JsonDevice>,
    warnings: Vec<JsonCoded>,
}

#[derive(Serialize)]
struct JsonDevice {
    device: Option<String>,
    mtu: u32,
}

#[derive(Serialize)]
struct JsonPart {
    name: &'static str,
    bytes: u32,
}

/// The arithmetic in the shape of its JSON.
pub fn mtu_json(underlay: &Underlay<'_>) -> impl Serialize + use<> {
    let Underlay { config, mtu, fit, .. } = underlay;
    let device = |name: Option<&str>, mtu| JsonDevice { device: name.map(Into::into), mtu };
    let part = |part: &Part| JsonPart { name: part.name, bytes: part.bytes };
    JsonMtu {
        format_version: FORMAT_VERSION,
        mesh: config.mesh.to_string(),
        local: underlay.local.map(|peer| peer.name.to_string()),
        family: if underlay.address.is_ipv4() { "ipv4" } else { "ipv6" },
        underlay: device(underlay.device, *mtu),
        parts: underlay.parts().map(part).collect(),
        mtu: fit.inner,
        link: underlay.link.map(|link| device(Some(&link.name), link.mtu)),
        warnings: warnings(underlay.warnings),
    }
}
