//! Raising the generation in the text of a mesh.toml.

use super::mesh_toml::{check_error, parsed, parts};
use crate::config::{Config, Rotation};

/// Only the digits of the generation change. Then the file's contents are the same, apart from the
/// generation.
pub fn rotate(input: &[u8]) {
    let Ok(loaded) = parsed(input) else { return };
    let raised = match loaded.raised() {
        Ok(raised) => raised,
        Err(error) => return check_error(input, &error),
    };
    let (mesh, _) = parts(input);
    assert_eq!(raised.read, mesh, "it was read whole");
    let (before, after) = changed(mesh, raised.contents.as_bytes());
    let digits = |bytes: &[u8]| bytes.iter().all(|c| c.is_ascii_hexdigit() || *c == b'_');
    assert!(digits(before) && digits(after) && !after.is_empty(), "{before:?} -> {after:?}");
    let next = [raised.contents.as_bytes(), &input[mesh.len()..]].concat();
    let again = parsed(&next).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(loaded.config.rotation, Rotation::Generation(raised.before));
    assert_eq!(raised.after.get(), raised.before.get() + 1);
    let wanted = Config { rotation: Rotation::Generation(raised.after), ..loaded.config };
    assert_eq!(again.config, wanted);
    assert_eq!(again.warnings, loaded.warnings);
}

/// The difference of two texts, without their common beginning and end.
fn changed<'t>(before: &'t [u8], after: &'t [u8]) -> (&'t [u8], &'t [u8]) {
    let begin = before.iter().zip(after).take_while(|(a, b)| a == b).count();
    let (before, after) = (&before[begin..], &after[begin..]);
    let end = before.iter().rev().zip(after.iter().rev()).take_while(|(a, b)| a == b).count();
    (&before[..before.len() - end], &after[..after.len() - end])
}
