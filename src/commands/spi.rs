//! `spi`: decodes an SPI.

use serde::Serialize;

use super::{Status, print, print_json};
use crate::{
    cli::{Format, Global, SpiArgs},
    error::Error,
    model::Spi,
};

#[derive(Serialize)]
struct Decoded {
    spi: String,
    generation_mod_128: u8,
    from: u16,
    to: u16,
}

/// Takes hex with `0x`, as `ip xfrm` prints it, or decimal.
pub fn run(global: &Global, args: &SpiArgs) -> Result<Status, Error> {
    let spi = parse(&args.value)?;
    let (generation, from, to) = (spi.generation_low(), spi.from(), spi.to());
    match global.format {
        Format::Text | Format::Prometheus => {
            print(&format!("{spi}: generation {generation} (modulo 128), from {from}, to {to}\n"))?;
        }
        Format::Json => print_json(&Decoded {
            spi: spi.to_string(),
            generation_mod_128: generation,
            from: from.get(),
            to: to.get(),
        })?,
    }
    Ok(Status::Done)
}

fn parse(text: &str) -> Result<Spi, Error> {
    let raw = match text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        Some(digits) => u32::from_str_radix(digits, 16),
        None => text.parse(),
    };
    let spi = raw
        .map(Spi::from_raw)
        .map_err(|_| Error::Usage(format!("{text} is no SPI; write 32 bits such as 0x81001002")))?;
    if spi.is_mesh() {
        return Ok(spi);
    }
    Err(Error::Usage(format!("{spi} is no SPI of a mesh: those have the top bit set")))
}
