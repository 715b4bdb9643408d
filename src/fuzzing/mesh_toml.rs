//! mesh.toml, and the files that it includes, from any bytes to errors or a plan that converges.

use std::path::Path;

use zeroize::Zeroizing;

use super::{NOW, harmless_and_secretless, harmless_with_styles, number};
use crate::{
    apply::{Target, apply},
    config::{self, Config, ConfigError, FoundFile, Loaded, Pattern, Secrets, SecretsMode},
    desired::desired,
    kernel::{Kernel, Memory},
    model::{Key, Link, LocalAddress, Warning},
    plan::{Plan, outcomes},
    render::{Extent, Subject, View, plan_json, plan_text},
};

const FILE: &str = "mesh.toml";
/// One accepted file in so many is planned and applied, and one error in so many is shown by its
/// `Debug`.
const SAMPLE: usize = 32;

/// Every error has its place in the file and can be shown. An accepted file has a plan, and once
/// that is performed a second plan is empty.
pub fn mesh_toml(input: &[u8]) {
    match parsed(input) {
        Err(error) => check_error(input, &error),
        Ok(loaded) => check(input, &loaded),
    }
}

/// The line of an input behind which the contents of each included file begin.
const INCLUDED: &[u8] = b"\n# included\n";

/// The parts of an input: mesh.toml, and the contents of each file that it includes.
pub(super) fn parts(input: &[u8]) -> (&[u8], &[u8]) {
    let end = input.windows(INCLUDED.len()).position(|line| line == INCLUDED);
    end.map_or((input, &[]), |end| (&input[..end], &input[end + INCLUDED.len()..]))
}

pub(super) fn parsed(input: &[u8]) -> Result<Loaded, ConfigError> {
    let (mesh, included) = parts(input);
    let bytes = |bytes: &[u8]| Zeroizing::new(bytes.to_vec());
    let find = |pattern: &Pattern<'_>, _| {
        let name = pattern.text.replace('*', "a");
        Ok(vec![FoundFile { name, bytes: Ok(bytes(included)) }])
    };
    let file = (Path::new(FILE), bytes(mesh));
    config::parse(file, SecretsMode::Ignored, &|_| None, (Path::new(""), &find))
}

/// Checks an error about a file.
pub(super) fn check_error(input: &[u8], error: &ConfigError) {
    let shown = error.to_string();
    harmless_and_secretless(&shown);
    if number(input).is_multiple_of(SAMPLE) {
        harmless_and_secretless(&format!("{error:?}"));
    }
    let places = shown.lines().filter_map(|line| line.trim_start().strip_prefix("--> "));
    let errors = shown.lines().filter(|line| line.starts_with("error: ")).count();
    let placed = places.inspect(|place| assert_in_a_file(input, place)).count();
    assert!(errors > 0 && errors == placed, "an error has no place: {shown}");
}

/// Checks that `mesh.toml:LINE:COLUMN` is there, or this place of an included file.
fn assert_in_a_file(input: &[u8], place: &str) {
    let (file, column) = place.rsplit_once(':').expect(place);
    let (file, line) = file.rsplit_once(':').expect(place);
    let (mesh, included) = parts(input);
    let text = String::from_utf8_lossy(if file == FILE { mesh } else { included });
    let (line, column): (usize, usize) = (line.parse().expect(place), column.parse().expect(place));
    let there = text.split('\n').nth(line.checked_sub(1).expect(place)).expect(place);
    assert!((1..=there.chars().count() + 1).contains(&column), "{place} of {there:?}");
}

fn check(input: &[u8], loaded: &Loaded) {
    loaded.warnings.iter().for_each(|warning| harmless_and_secretless(&warning.text));
    if number(input).is_multiple_of(SAMPLE) {
        converges(&loaded.config, &loaded.warnings);
    }
}

/// Plans and applies on an empty host, the one of the first peer.
fn converges(config: &Config, warnings: &[Warning]) {
    let (moment, local) = (config.rotation.at(NOW), &config.peers[0]);
    let secret = Secrets::MeshKey(Key::new((0..32).collect()));
    let (desired, keyring) = desired(config, moment, local, Some(&secret));
    let mut kernel = host(config);
    let live = kernel.observe(config.reqid).expect("memory is always seen");
    let plan = Plan::new(&desired, &live, config.reqid);
    let subject = Subject::File { config, moment };
    let outcomes = &outcomes(&desired, config.reqid, &live.0, &plan.changes);
    let view = View { subject, local: Some(local), plan: &plan, warnings, outcomes, file: FILE };
    harmless_with_styles(&plan_text(&view, &Extent::Whole));
    serde_json::to_vec(&plan_json(&view)).expect("a plan is JSON");
    let goal = Target { desired: &desired, keyring: &keyring, reqid: config.reqid };
    let report = apply(&mut kernel, &goal, &plan, &mut |_| {});
    assert!(report.is_complete(), "a second plan is not empty: {config:?}");
}

fn host(config: &Config) -> Memory {
    let mut kernel = Memory::default();
    kernel.set_now(NOW);
    let tunnel = config.link.as_ref().map(|link| link.device.as_str());
    let devices = [Some("eth0"), tunnel, config.esp.offload.as_deref()];
    devices.into_iter().flatten().for_each(|device| kernel.offload_to(device));
    let link = |name: &str| Link { name: name.into(), mtu: 1500, kind: None, queue: None };
    let state = kernel.state_mut();
    state.links = devices.into_iter().flatten().map(link).collect();
    state.links.sort();
    state.links.dedup();
    let address = config.peers[0].address;
    state.addresses.push(LocalAddress { address, device: "eth0".into() });
    kernel
}
