//! The code of the fuzz targets: input that others write, and the properties that hold for any
//! input.
//!
//! Not in the program, only with `--cfg fuzzing`, which cargo-fuzz sets, and in unit tests. These
//! replay the corpora, so that every input that ever broke something is a test. A target that needs
//! private items stands beside them.

mod mesh;
mod mesh_toml;
mod rotate;
#[cfg(test)]
mod tests;

pub use crate::{
    commands::fuzzing::{saved_plan, snapshot},
    kernel::linux::fuzzing::{iptables_save, xfrm_policies, xfrm_sas},
};
pub(crate) use mesh::{Mesh, NOW, meshes};
pub use mesh_toml::mesh_toml;
pub use rotate::rotate;

/// A target: takes any bytes, and panics if a property does not hold.
pub type Target = fn(&[u8]);

/// All targets, by their names in `fuzz/fuzz_targets`.
pub const TARGETS: [(&str, Target); 7] = [
    ("mesh_toml", mesh_toml),
    ("rotate", rotate),
    ("snapshot", snapshot),
    ("saved_plan", saved_plan),
    ("xfrm_sas", xfrm_sas),
    ("xfrm_policies", xfrm_policies),
    ("iptables_save", iptables_save),
];

/// The beginning of the secret that seeds and dictionaries have in place of a real one.
const SECRET: &str = "5ec2e75ec2e75ec2e75ec2e75ec2e75e";

/// The sequences that styles of a rendered text begin and end with. Rendered texts have no others.
const STYLES: [&str; 6] = ["\x1b[0m", "\x1b[1m", "\x1b[2m", "\x1b[31m", "\x1b[32m", "\x1b[33m"];

/// Checks that a text may go to a terminal: nothing in it moves the cursor, colours
/// or turns text around.
pub(crate) fn harmless(text: &str) {
    let turns = |c| matches!(c, '\u{061c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    let bad = text.contains(|c: char| c != '\n' && (c.is_control() || turns(c)));
    assert!(!bad, "moves the cursor: {text:?}");
}

/// The same, and that it has no secret.
pub(crate) fn harmless_and_secretless(text: &str) {
    harmless(text);
    assert!(!text.contains(SECRET), "shows a secret: {text}");
}

/// The same of a text with styles.
pub(crate) fn harmless_with_styles(text: &str) {
    let mut plain = text.to_owned();
    for style in STYLES {
        plain = plain.replace(style, "");
    }
    harmless(&plain);
}

/// A number that looks random and is the same for the same input: it picks the expensive checks
/// that are made, and the place where an input is cut.
pub(crate) fn number(input: &[u8]) -> usize {
    // FNV-1a.
    let hash = input.iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    });
    (hash >> 20) as usize
}
