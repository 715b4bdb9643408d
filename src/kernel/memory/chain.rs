//! Steps about a chain of the firewall.

use super::Memory;
use crate::{
    kernel::{KernelError, SystemCause, rules},
    model::{Chain, ChainId, ChainStep, Jump, ObjectStep, Rule},
};

impl Memory {
    pub(super) fn perform_chain(&mut self, step: &ChainStep) -> Result<(), KernelError> {
        match step {
            ChainStep::Set { id, rules, jump } => self.set_chain(id, rules, *jump, step),
            ChainStep::Delete(id) => self.delete_chain(id, step),
        }
    }

    fn set_chain(
        &mut self,
        id: &ChainId,
        rules: &[Rule],
        jump: bool,
        step: &ChainStep,
    ) -> Result<(), KernelError> {
        rules::check_chain(id, rules, step)?;
        if self.lacking.contains(&id.table) {
            return Err(KernelError::System {
                cause: SystemCause::Other,
                doing: step.attempt(),
                reason: "the kernel has no such table".into(),
            });
        }
        let chains = &mut self.state.firewall.chains;
        let jumps = if jump { vec![Jump::FIRST] } else { Vec::new() };
        match chains.iter_mut().find(|chain| chain.id == *id) {
            Some(chain) => (chain.rules, chain.jumps) = (rules.into(), jumps),
            None => {
                let (id, rules) = (id.clone(), rules.into());
                chains.push(Chain { id, rules, jumps, references: Vec::new() });
            }
        }
        Ok(())
    }

    fn delete_chain(&mut self, id: &ChainId, step: &ChainStep) -> Result<(), KernelError> {
        rules::check_chain(id, &[], step)?;
        let chains = &mut self.state.firewall.chains;
        for chain in chains.iter().filter(|chain| chain.id == *id) {
            rules::check_references(&chain.references, step)?;
        }
        chains.retain(|chain| chain.id != *id);
        Ok(())
    }
}
