//! Hosts with SAs of version 0.1, whose SPIs have another layout.

use std::collections::BTreeMap;

use meshsec::{
    config::{Config, Rotation},
    desired::{Desired, desired},
    kernel::memory::Memory,
    model::{Direction, Generation, KeyView, Period, Sa, Spi, Time},
    plan::{Plan, WarningCode},
    render::{ShowView, Subject, show_json},
};

use super::LAB;
use crate::{
    common::{REQID, applied, applied_host, as_version_0_1, host, mesh, observe, plan, wanted_at},
    golden_plans::golden,
};

/// A host on which version 0.1 has applied a mesh.
fn host_of_version_0_1(config: &Config, now: Time) -> Memory {
    let mut kernel = host(config);
    kernel.set_now(now);
    assert!(applied(config, &mut kernel).is_complete());
    as_version_0_1(kernel.state_mut(), &wanted_at(config, now).0);
    kernel
}

/// The warnings of what a switch to other SPIs costs.
fn costs(plan: &Plan) -> Vec<WarningCode> {
    let costs = [
        WarningCode::SpiLayoutChanges,
        WarningCode::GenerationJump,
        WarningCode::GenerationGoesBack,
        WarningCode::ShortIdChanges,
        WarningCode::SasReplaced,
    ];
    plan.warnings.iter().map(|warning| warning.code).filter(|code| costs.contains(code)).collect()
}

fn spis(kernel: &Memory) -> BTreeMap<Spi, KeyView> {
    kernel.state().sas.iter().map(|sa| (sa.id.spi, sa.key)).collect()
}

#[test]
fn spis_have_the_layout_of_version_0_1() {
    let config = mesh(1, &LAB[..2]);
    let mut kernel = host_of_version_0_1(&config, Time::default());
    golden("spis-have-the-layout-of-version-0-1", &config, &mut kernel);
}

/// At some generations an old SPI is the wanted one of another generation, and has another key.
#[test]
fn an_old_mesh_gets_all_its_sas_at_any_generation() {
    for number in 0..300 {
        let config = mesh(number, &LAB[..2]);
        let right = spis(&applied_host(&config));
        let mut kernel = host_of_version_0_1(&config, Time::default());
        let planned = plan(&config, &mut kernel);
        // Where the SPI out is the same in both layouts, nothing is cut.
        let cut = number % 128 != 0;
        let expected = [WarningCode::SpiLayoutChanges];
        assert_eq!(costs(&planned), expected[usize::from(!cut)..], "generation {number}");
        assert_eq!(planned.conflicts, [], "generation {number}");
        assert!(applied(&config, &mut kernel).is_complete(), "generation {number}");
        assert_eq!(spis(&kernel), right, "generation {number}");
        assert!(plan(&config, &mut kernel).is_empty(), "generation {number}");
    }
}

/// Under lockdown the plan can't see that the SA on a wanted SPI has the key of another generation.
#[test]
fn a_hidden_key_of_an_old_spi_is_not_taken_for_the_wanted_one() {
    let mut met = 0;
    for number in 1..200 {
        let config = mesh(number, &LAB[..2]);
        let wanted = wanted_at(&config, Time::default()).0;
        let mut kernel = host_of_version_0_1(&config, Time::default());
        let other =
            |sa: &Sa| wanted.sas.get(&sa.id).is_some_and(|wanted| wanted.sa.key.differs(sa.key));
        let others: Vec<_> = kernel.state().sas.iter().filter(|sa| other(sa)).cloned().collect();
        met += others.len();
        kernel.state_mut().sas.iter_mut().for_each(|sa| sa.key = KeyView::Unknown);
        assert!(applied(&config, &mut kernel).is_complete(), "generation {number}");
        for old in others {
            let now = kernel.state().sas.iter().find(|sa| sa.id == old.id).unwrap();
            assert_eq!(now.key, wanted.sas[&old.id].sa.key, "generation {number}, {}", old.id);
        }
    }
    assert!(met > 5, "only {met} SPIs met");
}

/// Where the SPI out is the same in both layouts, so is the key, and the SA stays though it is hidden.
#[test]
fn a_hidden_key_of_the_same_generation_is_taken_for_the_wanted_one() {
    let config = mesh(128, &LAB[..2]);
    let mut kernel = host_of_version_0_1(&config, Time::default());
    kernel.state_mut().sas.iter_mut().for_each(|sa| sa.key = KeyView::Unknown);
    let names = plan(&config, &mut kernel).steps.into_iter().map(|step| step.name());
    assert_eq!(names.filter(|name| *name == "replace_sa").count(), 0);
}

/// A plan that is made without secrets knows no wanted key, and replaces those SAs all the same.
#[test]
fn an_old_sa_of_another_generation_is_replaced_without_secrets_too() {
    let mut met = 0;
    for number in 1..200 {
        let config = mesh(number, &LAB[..2]);
        let mut kernel = host_of_version_0_1(&config, Time::default());
        let replaced = |desired: &Desired, kernel: &mut Memory| {
            let plan = Plan::new(desired, &observe(kernel), REQID);
            plan.steps.iter().filter(|step| step.name() == "replace_sa").count()
        };
        let with = replaced(&wanted_at(&config, Time::default()).0, &mut kernel);
        let moment = config.rotation.at(Time::default());
        let (without, _) = desired(&config, moment, &config.peers[0], None);
        assert_eq!(replaced(&without, &mut kernel), with, "generation {number}");
        met += with;
    }
    assert!(met > 5, "only {met} SPIs met");
}

/// The SA out of the next generation is kept for its numbers, but not another on its SPI.
#[test]
fn an_old_sa_out_on_the_spi_of_the_next_generation_goes() {
    let period = Period::new(3600).unwrap();
    let config = Config { rotation: Rotation::Period(period), ..mesh(0, &LAB[..2]) };
    for number in 470_000..470_128_u64 {
        let now = Time::from_seconds(number * 3600 + 60);
        assert_eq!(config.rotation.at(now).generation, Generation::new(number).unwrap());
        let mut kernel = host_of_version_0_1(&config, now);
        assert!(applied(&config, &mut kernel).is_complete(), "generation {number}");
        let wanted = wanted_at(&config, now).0;
        let outbound = |sa: &&Sa| sa.src == config.peers[0].address;
        let out: Vec<_> = kernel.state().sas.iter().filter(outbound).map(|sa| sa.id).collect();
        let right = wanted.sas.values().filter(|wanted| wanted.direction == Direction::Out);
        assert_eq!(out, right.map(|wanted| wanted.sa.id).collect::<Vec<_>>(), "{number}");
    }
}

/// An SPI of today's generation 1 is that of generation 4 in the old layout.
#[test]
fn a_generation_that_was_skipped_is_not_taken_for_the_old_layout() {
    for (before, now) in [(1, 4), (5, 20), (2, 8), (31, 28)] {
        let mut kernel = applied_host(&mesh(before, &LAB[..2]));
        let planned = plan(&mesh(now, &LAB[..2]), &mut kernel);
        assert_eq!(costs(&planned), [WarningCode::GenerationJump], "{before} to {now}");
    }
}

/// SAs of one lane that somebody has put beside those of today are deleted, and cut nothing.
#[test]
fn a_stray_sa_of_the_old_layout_cuts_nothing() {
    let config = mesh(1, &LAB[..2]);
    let mut kernel = applied_host(&config);
    let mut stray = kernel.state().sas[0].clone();
    stray.id.spi = Spi::from_raw(stray.id.spi.raw() | 0x0300_0000);
    kernel.state_mut().sas.push(stray.clone());
    let planned = plan(&config, &mut kernel);
    assert_eq!((costs(&planned), planned.changes.len()), (vec![], 1));
    assert!(applied(&config, &mut kernel).is_complete());
    assert!(kernel.state().sas.iter().all(|sa| sa.id != stray.id));
}

#[test]
fn an_old_mesh_whose_generation_moves_too_gets_the_one_warning() {
    for (before, now) in [(5, 6), (6, 5), (5, 9), (43, 60)] {
        let mut kernel = host_of_version_0_1(&mesh(before, &LAB[..2]), Time::default());
        let planned = plan(&mesh(now, &LAB[..2]), &mut kernel);
        assert_eq!(costs(&planned), [WarningCode::SpiLayoutChanges], "{before} to {now}");
    }
}

/// The SPI of generation 4 is that of generation 1 today.
#[test]
fn show_tells_the_generations_of_old_sas() {
    for number in [4, 5, 200] {
        let config = mesh(number, &LAB[..2]);
        let mut kernel = host_of_version_0_1(&config, Time::default());
        let (moment, local) = (config.rotation.at(kernel.now()), Some(&config.peers[0]));
        let live = observe(&mut kernel);
        let subject = Subject::File { config: &config, moment };
        let shown = ShowView { subject, local, live: &live, all: false };
        let shown = serde_json::to_value(show_json(&shown)).unwrap();
        let objects = shown["ours"].as_array().unwrap().iter();
        let mut told: Vec<u64> = objects.filter_map(|it| it["generation"].as_u64()).collect();
        told.sort_unstable();
        assert_eq!(told, [number - 1, number, number, number + 1]);
    }
}
