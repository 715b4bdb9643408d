//! Steps: requests to the kernel, each done wholly or not at all.
//!
//! A file for each kind of object, with the texts of its steps.
#![forbid(unsafe_code)]

mod address;
mod chain;
mod interface;
mod mtu;
mod policy;
mod route;
mod sa;

use std::{sync::Arc, time::Duration};

pub use address::AddressStep;
pub use chain::ChainStep;
pub use interface::InterfaceStep;
pub use mtu::MtuStep;
pub use policy::PolicyStep;
pub use route::RouteStep;
pub use sa::{Added, SaStep};

use super::{Key, PeerName, SaId};

/// One request to the kernel.
///
/// With keys, for the kernel, it has no `Debug`. With `()` in their place it is a part of a plan.
#[derive(Clone)]
pub struct Step<K = Arc<Key>> {
    /// The peer that it is for. A guard and the link have no peer.
    pub peer: Option<PeerName>,
    /// The request.
    pub kind: StepKind<K>,
}

/// The request of a step, by kind of object. `K` is the key of an SA to add.
#[derive(Clone)]
pub enum StepKind<K = Arc<Key>> {
    /// About an SA.
    Sa(SaStep<K>),
    /// About a policy or guard.
    Policy(PolicyStep),
    /// About a device's MTU.
    Mtu(MtuStep),
    /// About a chain of the firewall.
    Chain(ChainStep),
    /// About an XFRM interface.
    Interface(InterfaceStep),
    /// About an address of a device.
    Address(AddressStep),
    /// About an entry of a routing table.
    Route(RouteStep),
    /// Lets packets in flight arrive before their SAs go.
    Wait(Duration),
}

/// The part of a step that each kind of object answers for, in a file of its own.
pub trait ObjectStep {
    /// The step's name in JSON.
    fn name(&self) -> &'static str;
    /// Its object's identity, or a time.
    fn id(&self) -> String;
    /// The attempt, for the beginning of an error.
    fn attempt(&self) -> String;
    /// Whether later steps may go on if this one fails: no protection depends on it, or policies
    /// guard without it.
    fn is_optional(&self) -> bool;
}

impl Step<()> {
    /// The same with a key for each SA that it adds.
    ///
    /// # Errors
    ///
    /// The error of `key` for an SA that it has no key for.
    pub fn keyed<K, E>(&self, key: impl Fn(&SaId) -> Result<K, E>) -> Result<Step<K>, E> {
        let kind = match &self.kind {
            StepKind::Sa(step) => StepKind::Sa(step.keyed(key)?),
            StepKind::Policy(step) => StepKind::Policy(step.clone()),
            StepKind::Mtu(step) => StepKind::Mtu(step.clone()),
            StepKind::Chain(step) => StepKind::Chain(step.clone()),
            StepKind::Interface(step) => StepKind::Interface(step.clone()),
            StepKind::Address(step) => StepKind::Address(step.clone()),
            StepKind::Route(step) => StepKind::Route(step.clone()),
            StepKind::Wait(time) => StepKind::Wait(*time),
        };
        Ok(Step { peer: self.peer.clone(), kind })
    }
}

impl<K> StepKind<K> {
    /// The one place that leads from a step to the texts of its kind.
    fn of_object(&self) -> &dyn ObjectStep {
        match self {
            Self::Sa(step) => step,
            Self::Policy(step) => step,
            Self::Mtu(step) => step,
            Self::Chain(step) => step,
            Self::Interface(step) => step,
            Self::Address(step) => step,
            Self::Route(step) => step,
            Self::Wait(time) => time,
        }
    }

    /// As [`ObjectStep::is_optional`].
    pub fn is_optional(&self) -> bool {
        self.of_object().is_optional()
    }

    /// As [`ObjectStep::id`].
    pub fn id(&self) -> String {
        self.of_object().id()
    }

    /// As [`ObjectStep::name`].
    pub fn name(&self) -> &'static str {
        self.of_object().name()
    }

    /// As [`ObjectStep::attempt`].
    pub fn attempt(&self) -> String {
        self.of_object().attempt()
    }

    /// The SA that the step adds, its key and its first sequence number.
    pub fn added(&self) -> Option<Added<'_, K>> {
        if let Self::Sa(step) = self { step.added() } else { None }
    }
}

/// A wait.
impl ObjectStep for Duration {
    fn name(&self) -> &'static str {
        "wait"
    }

    fn id(&self) -> String {
        format!("{} ms", self.as_millis())
    }

    fn attempt(&self) -> String {
        format!("cannot wait {} ms", self.as_millis())
    }

    fn is_optional(&self) -> bool {
        false
    }
}
