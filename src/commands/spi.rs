//! `spi`: decodes an SPI.

use super::{Status, print, print_json};
use crate::{
    cli::{Format, Global, SpiArgs},
    config::{self, SecretsMode},
    error::Error,
    model::{self, ErrorCode, ShortId, Spi},
    render::spi_json,
};

/// Takes hex with `0x`, as `ip xfrm` prints it, `spi=0x…`, as tcpdump does, or decimal.
pub(super) fn run(global: &Global, args: &SpiArgs) -> Result<Status, Error> {
    let spi = parse(&args.value)?;
    // The names are of help where there is a file, and not needed.
    let file = config::load(global.file(), SecretsMode::Ignored).ok().map(|loaded| loaded.config);
    let (from, to) = (spi.from(), spi.to());
    let peer = |id: ShortId| file.as_ref()?.peers.iter().find(|peer| peer.short_id == id);
    match global.format {
        Format::Text | Format::Prometheus => {
            let named = |id: ShortId| match (peer(id), &file) {
                (Some(peer), _) => format!("{id} ({}, {})", peer.name, peer.address),
                (None, Some(_)) => format!("{id} (not a peer of the file)"),
                (None, None) => id.to_string(),
            };
            print(&format!(
                "{spi}: generation {} (modulo {}), lane {}, from {}, to {}{}\n",
                spi.generation_low(),
                Spi::CYCLE,
                spi.lane(),
                named(from),
                named(to),
                other_version(spi)
            ))?;
        }
        Format::Json => {
            let name = |id: ShortId| peer(id).map(|peer| &peer.name);
            print_json(&spi_json(spi, name(from), name(to)))?;
        }
    }
    Ok(Status::Done)
}

/// A remark on an SPI that this version makes for no SA.
fn other_version(spi: Spi) -> String {
    match spi.lane() {
        0 => String::new(),
        _ => format!(
            "\nThis version makes SPIs of lane 0 alone. Version 0.1 had another layout, in which this \
             is generation {} (modulo {}).",
            spi.generation_low_in_version_0_1(),
            Spi::CYCLE_OF_VERSION_0_1
        ),
    }
}

fn parse(text: &str) -> Result<Spi, Error> {
    let number = text.trim_end_matches(',');
    let number = number.strip_prefix("spi=").or(number.strip_prefix("spi ")).unwrap_or(number);
    let lower = number.to_ascii_lowercase();
    let looks_hex = number.len() == 8 && model::number(&format!("0x{lower}")).is_some();
    let meant = if looks_hex { format!("; did you mean 0x{number}?") } else { String::new() };
    let spi = model::number(&lower).map(Spi::from_raw).ok_or_else(|| {
        let quoted = config::quoted(text);
        let write = if looks_hex { &meant } else { "; write 32 bits such as 0x84001002" };
        Error::request(ErrorCode::SpiRefused, format!("{quoted} is not an SPI{write}"))
    })?;
    if spi.is_mesh() {
        return Ok(spi);
    }
    Err(Error::request(
        ErrorCode::SpiRefused,
        format!("{spi} is not an SPI of a mesh, as those have the top bit set{meant}"),
    ))
}
