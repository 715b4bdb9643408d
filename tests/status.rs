//! Golden statuses: a host on which all is well, one on which much is not.
//!
//! `UPDATE_GOLDEN=1 cargo test --test status` writes the files anew; read the
//! difference before you commit it.

mod common;

use std::collections::BTreeMap;

use common::{REQID, applied_host, compare, mesh, observe};
use meshsec::{
    config::{Config, Esp, Rotation, Select},
    desired::desired,
    kernel::memory::Memory,
    model::{Action, Mark, Period, Replay, Time},
    plan::Plan,
    render::{StatusView, status_json, status_prometheus, status_text},
};

/// 2026-01-16 13:30 UTC.
const NOW: Time = Time(1_768_570_200_000_000_000);

fn golden(name: &str, config: &Config, kernel: &mut Memory, counters: &BTreeMap<String, u64>) {
    let moment = config.rotation.at(NOW);
    let (wanted, _) = desired(config, moment, &config.peers[0], None);
    let live = observe(kernel);
    let plan = Plan::new(&wanted, &live, REQID);
    let view = StatusView {
        config,
        moment,
        now: NOW,
        local: &config.peers[0],
        desired: &wanted,
        live: &live,
        plan: &plan,
        counters,
        warnings: &[],
    };
    let text = anstream::adapter::strip_str(&status_text(&view)).to_string();
    let json = serde_json::to_string_pretty(&status_json(&view)).unwrap() + "\n";
    for (extension, actual) in [("txt", text), ("json", json), ("prom", status_prometheus(&view))] {
        compare(&format!("tests/status/{name}.{extension}"), &actual);
    }
}

const LAB: [&str; 3] = ["192.0.2.1", "192.0.2.2", "192.0.2.3"];

#[test]
fn all_is_well_by_the_clock() {
    let replay = Replay { window: 1024, esn: true };
    let config = Config {
        esp: Esp { replay, ..mesh(1, &LAB).esp },
        rotation: Rotation::Period(Period::new(3600).unwrap()),
        ..mesh(1, &LAB)
    };
    let mut kernel = common::host(&config);
    kernel.set_now(NOW);
    assert!(common::applied(&config, &mut kernel).is_complete());
    for usage in &mut kernel.state_mut().usage {
        (usage.packets, usage.bytes) = (1_234, 987_654);
        usage.last = Some(Time(NOW.0 - 65_000_000_000));
    }
    golden("all-is-well-by-the-clock", &config, &mut kernel, &BTreeMap::new());
}

#[test]
fn much_is_wrong() {
    let config = mesh(1, &LAB);
    let mut kernel = applied_host(&config);
    let state = kernel.state_mut();
    for (usage, number) in state.usage.iter_mut().zip(0..) {
        usage.sent = (1 << 32) / 10 * number;
        (usage.too_old, usage.replayed, usage.forged) = (number as u32 % 2, 0, number as u32 % 3);
    }
    // The way to b has no SA any more, and that to c lets clear text pass.
    let gone = state.sas.iter().position(|sa| sa.src == config.peers[0].address).unwrap();
    let b = state.sas.remove(gone).id.dst;
    state
        .policies
        .retain(|policy| policy.action == Action::Allow && (policy.id.selector.dst.address == b));
    let counters = [("XfrmInNoStates", 3), ("XfrmOutNoStates", 1234), ("XfrmSomethingNew", 1)];
    let counters = counters.map(|(name, number)| (name.to_owned(), number)).into();
    golden("much-is-wrong", &config, &mut kernel, &counters);
}

#[test]
fn traffic_is_selected_by_mark() {
    let mark = Mark { value: 0x20000, mask: 0x20000 };
    let config = Config { select: Select::Mark(mark), ..mesh(1, &LAB) };
    let mut kernel = applied_host(&config);
    // The way to b has no SA any more; that to c is as it should be.
    let (a, b) = (config.peers[0].address, config.peers[1].address);
    kernel.state_mut().sas.retain(|sa| (sa.src, sa.id.dst) != (a, b));
    golden("selected-by-mark", &config, &mut kernel, &BTreeMap::new());
}
