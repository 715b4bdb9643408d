//! `spi --format json`.

use serde::Serialize;

use super::parts::FORMAT_VERSION;
use crate::model::{PeerName, Spi};

#[derive(Serialize)]
struct JsonSpi {
    format_version: &'static str,
    spi: String,
    generation_mod_32: u8,
    lane: u8,
    from: u16,
    to: u16,
    #[serde(skip_serializing_if = "Option::is_none")]
    from_peer: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    to_peer: Option<String>,
}

/// The parts of an SPI in the shape of their JSON, with the names of the peers that have the
/// ShortIDs.
pub fn spi_json(
    spi: Spi,
    from_peer: Option<&PeerName>,
    to_peer: Option<&PeerName>,
) -> impl Serialize + use<> {
    JsonSpi {
        format_version: FORMAT_VERSION,
        spi: spi.to_string(),
        generation_mod_32: spi.generation_low(),
        lane: spi.lane(),
        from: spi.from().get(),
        to: spi.to().get(),
        from_peer: from_peer.map(ToString::to_string),
        to_peer: to_peer.map(ToString::to_string),
    }
}
