//! The arithmetic of `meshsec mtu`, line by line, as text and JSON.

use std::{fmt::Write, net::IpAddr};

use anstyle::Style;
use serde::Serialize;

use super::{Plain, json::FORMAT_VERSION, text};
use crate::{
    config::{Config, Peer},
    model::{Link, Warning},
    mtu::{Fit, Part},
};

const BOLD: Style = Style::new().bold();

/// The start of the arithmetic.
pub struct Underlay<'a> {
    /// The file.
    pub config: &'a Config,
    /// The local peer, if it is known.
    pub local: Option<&'a Peer>,
    /// An address of the underlay's family.
    pub address: IpAddr,
    /// The underlay's device; `None` where its MTU was given.
    pub device: Option<&'a str>,
    /// The underlay's MTU.
    pub mtu: u32,
    /// The inner packet that the operator asked for.
    pub inner: Option<u32>,
    /// The result of the arithmetic.
    pub fit: &'a Fit,
    /// The device that \[link\] names, if the host has it.
    pub link: Option<&'a Link>,
    /// Warnings for the operator.
    pub warnings: &'a [Warning],
}

impl Underlay<'_> {
    fn family(&self) -> &'static str {
        if self.address.is_ipv4() { "IPv4" } else { "IPv6" }
    }

    /// Parts that take bytes.
    fn parts(&self) -> impl Iterator<Item = &Part> {
        self.fit.parts.iter().filter(|part| part.bytes > 0)
    }

    /// The bytes that are left, in words.
    fn result(&self) -> String {
        match (self.config.traffic.tunnel(), &self.config.link) {
            (None, _) => "largest payload of an IP packet".into(),
            (Some(_), Some(link)) => format!("largest MTU of {}", link.device),
            (Some(_), None) => "largest MTU of the tunnel's device".into(),
        }
    }
}

/// A line for each part.
pub fn mtu_text(underlay: &Underlay<'_>) -> String {
    let Underlay { config, device, mtu, fit, .. } = underlay;
    let local = underlay.local.map(|peer| format!(", peer {} ({})", peer.name, peer.address));
    let mut text = format!(
        "{BOLD}Mesh {}{}{BOLD:#}: {} over {}\n\n",
        config.mesh,
        local.unwrap_or_default(),
        text::traffic(config),
        underlay.family()
    );
    let of = match (device, underlay.inner) {
        (Some(name), _) => format!("MTU of {name}"),
        (None, Some(inner)) => format!("MTU needed below for {inner} bytes inside"),
        (None, None) => "MTU below, as given".into(),
    };
    let _ = writeln!(text, "{mtu:>7}  {}", Plain(of));
    if fit.underlay != *mtu {
        let _ = writeln!(text, "{:>7}  the longest IP packet", fit.underlay);
    }
    for part in underlay.parts() {
        let _ = writeln!(text, "{:>7}  {}", format!("- {}", part.bytes), part.name);
    }
    let _ = match fit.inner {
        Some(inner) => writeln!(text, "{:>7}  {}", format!("= {inner}"), underlay.result()),
        None => writeln!(text, "   none  {}", underlay.result()),
    };
    if let Some(link) = underlay.link {
        let _ = writeln!(text, "\n{} has an MTU of {}.", Plain(&link.name), link.mtu);
    }
    for warning in underlay.warnings {
        let _ = writeln!(text, "\n{}Warning:{:#} {}", text::YELLOW, text::YELLOW, Plain(warning));
    }
    text
}

/// `mtu --format json`.
#[derive(Serialize)]
struct JsonMtu<'a> {
    format_version: &'static str,
    mesh: &'a str,
    local: Option<String>,
    family: String,
    underlay: JsonDevice<'a>,
    parts: Vec<JsonPart>,
    mtu: Option<u32>,
    link: Option<JsonDevice<'a>>,
    warnings: &'a [Warning],
}

#[derive(Serialize)]
struct JsonDevice<'a> {
    device: Option<&'a str>,
    mtu: u32,
}

#[derive(Serialize)]
struct JsonPart {
    name: &'static str,
    bytes: u32,
}

/// The same in the shape of its JSON.
pub fn mtu_json(underlay: &Underlay<'_>) -> impl Serialize {
    let Underlay { config, device, mtu, fit, .. } = underlay;
    let part = |part: &Part| JsonPart { name: part.name, bytes: part.bytes };
    JsonMtu {
        format_version: FORMAT_VERSION,
        mesh: config.mesh.as_str(),
        local: underlay.local.map(|peer| peer.name.to_string()),
        family: underlay.family().to_lowercase(),
        underlay: JsonDevice { device: *device, mtu: *mtu },
        parts: underlay.parts().map(part).collect(),
        mtu: fit.inner,
        link: underlay.link.map(|link| JsonDevice { device: Some(&link.name), mtu: link.mtu }),
        warnings: underlay.warnings,
    }
}
