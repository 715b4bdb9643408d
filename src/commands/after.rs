//! A host's state after steps that nobody performs: they are performed in memory.

use std::{collections::BTreeMap, sync::Arc};

use crate::{
    error::Error,
    kernel::{Kernel, Memory},
    model::{Algorithm, Key, Sa, SaId, State, StepKind, Time},
    plan::PlannedStep,
};

/// The state that steps lead to. No key is known here: each SA has zeros for one, and then the view
/// of the key that its step has.
///
/// # Errors
///
/// A step that a kernel would refuse, because something is in its place.
pub(super) fn after(state: &State, now: Time, steps: &[PlannedStep]) -> Result<State, Error> {
    let mut kernel = Memory::holding(state.clone());
    kernel.set_now(now);
    let added = steps.iter().filter_map(|step| Some(step.step.kind.added()?.sa));
    let added: BTreeMap<SaId, &Sa> = added.map(|sa| (sa.id, sa)).collect();
    for device in added.values().filter_map(|sa| sa.offload.as_ref()) {
        kernel.offload_to(&device.device);
    }
    for planned in steps {
        let zeros = |id: &SaId| {
            let length = added.get(id).map_or(0, |sa| bytes(sa));
            Ok::<_, Error>(Arc::new(Key::new(vec![0; length].into())))
        };
        let wait = matches!(planned.step.kind, StepKind::Wait(_));
        let step = planned.step.keyed(zeros)?;
        for answer in kernel.perform(&[step])? {
            if !wait && !planned.step.kind.is_optional() {
                answer?;
            }
        }
    }
    let mut state = kernel.state().clone();
    for sa in &mut state.sas {
        if let Some(of_step) = added.get(&sa.id) {
            sa.key = of_step.key;
        }
    }
    Ok(state.sorted())
}

fn bytes(sa: &Sa) -> usize {
    match &sa.algorithm {
        Algorithm::Aead { key_bits, .. } => *key_bits as usize / 8,
        Algorithm::Other(_) | Algorithm::Larval => 0,
    }
}
