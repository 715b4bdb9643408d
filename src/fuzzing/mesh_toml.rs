//! mesh.toml, from any bytes to errors or a plan that converges.

use std::path::Path;

use zeroize::Zeroizing;

use super::{NOW, harmless_and_secretless, harmless_with_styles, number};
use crate::{
    apply::{Target, apply},
    config::{self, Config, ConfigError, Loaded, Secrets, SecretsMode},
    desired::desired,
    kernel::{Kernel, Memory},
    model::{Key, Link, LocalAddress, Warning},
    plan::Plan,
    render::{Subject, View, plan_json, plan_text},
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

pub(super) fn parsed(input: &[u8]) -> Result<Loaded, ConfigError> {
    let bytes = Zeroizing::new(input.to_vec());
    config::parse(Path::new(FILE), bytes, SecretsMode::Ignored, &|_| None)
}

/// Checks an error about a file.
pub(super) fn check_error(input: &[u8], error: &ConfigError) {
    let shown = error.to_string();
    harmless_and_secretless(&shown);
    if number(input).is_multiple_of(SAMPLE) {
        harmless_and_secretless(&format!("{error:?}"));
    }
    let text = String::from_utf8_lossy(input);
    let places = shown.lines().filter_map(|line| line.trim_start().strip_prefix("--> "));
    let errors = shown.lines().filter(|line| line.starts_with("error: ")).count();
    let placed = places.inspect(|place| assert_in_file(&text, place)).count();
    assert!(errors > 0 && errors == placed, "an error has no place: {shown}");
}

/// Checks that `mesh.toml:LINE:COLUMN` is there.
fn assert_in_file(text: &str, place: &str) {
    let numbers = place.strip_prefix(FILE).and_then(|rest| rest.strip_prefix(':'));
    let (line, column) = numbers.and_then(|numbers| numbers.split_once(':')).expect(place);
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
    let view = View { subject, local: Some(local), plan: &plan, warnings, file: FILE };
    harmless_with_styles(&plan_text(&view));
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
