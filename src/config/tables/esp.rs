//! `[esp]`.
#![forbid(unsafe_code)]

use super::word;
use crate::{
    config::{
        reader::{Bounds, Field, Findings, Section, Value},
        types::Esp,
    },
    model::{Cipher, Replay},
};

/// The keys of this table, and those that this release refuses.
pub(super) const KEYS: [&[&str]; 2] = [&["cipher", "esn", "replay_window"], &["offload"]];
/// What holds where there is no such table.
pub(super) const DEFAULT: Esp =
    Esp { cipher: Cipher::Aes256Gcm, replay: Replay { window: 0, esn: false } };

const CIPHER: Field = Field {
    name: "cipher",
    write: "write \"aes256-gcm\", \"aes128-gcm\" or \"chacha20-poly1305\"",
};
const ESN: Field = Field { name: "esn", write: "write true or false" };
const WINDOW: Field =
    Field { name: "replay_window", write: "write 0 or a power of two from 32 to 4096" };
const WINDOWS: Bounds = Bounds { min: 0, max: 4096, hex: false };
const OFFLOAD: Field = Field { name: "offload", write: "leave it out; the CPU encrypts" };

pub(super) fn read(findings: &mut Findings<'_>, section: &Section<'_, '_>) -> Option<Esp> {
    section.refuse(findings, &[OFFLOAD]);
    let cipher = section.get("cipher").map_or(Some(Cipher::Aes256Gcm), |value| {
        let names = Cipher::ALL.map(Cipher::name);
        let name = word(findings, value, CIPHER, &names, &[])?;
        Cipher::ALL.into_iter().find(|cipher| cipher.name() == name)
    });
    let esn = section.get("esn").map_or(Some(false), |value| findings.boolean(value, ESN));
    let window = section.get("replay_window").map_or(Some(0), |value| read_window(findings, value));
    let replay = Replay { window: window?, esn: esn? };
    if replay.esn && replay.window == 0 {
        let span = section.get("esn").map_or(section.header(), |value| value.span());
        let message = "the kernel refuses ESN without a replay window".into();
        findings.wrong(span, message, "write replay_window = 1024 as well");
        return None;
    }
    Some(Esp { cipher: cipher?, replay })
}

fn read_window(findings: &mut Findings<'_>, value: &Value<'_>) -> Option<u32> {
    let number = findings.number(value, WINDOW, WINDOWS)?;
    if number == 0 || (number >= 32 && number.is_power_of_two()) {
        return u32::try_from(number).ok();
    }
    let message = format!("replay_window {number} is neither 0 nor a power of two from 32 to 4096");
    let hint = format!("write {}", (number.next_power_of_two()).max(32));
    findings.wrong(value.span(), message, hint);
    None
}
