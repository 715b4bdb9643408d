//! The arithmetic of `meshsec mtu`, line by line, as text.

use std::{fmt::Write, net::IpAddr};

use anstyle::Style;

use super::{Plain, text};
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
    pub(super) fn parts(&self) -> impl Iterator<Item = &Part> {
        self.fit.parts.iter().filter(|part| part.bytes > 0)
    }

    /// The bytes that are left, in words.
    fn result(&self) -> String {
        if let Some(tunnel) = &self.config.tunnel {
            return format!("largest MTU of {}", tunnel.device);
        }
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
