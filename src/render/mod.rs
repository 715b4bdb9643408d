//! Plans, reports and live states as text and JSON; never computes a difference.
#![forbid(unsafe_code)]

mod compare;
mod counts;
mod doctor;
mod evidence;
mod explain;
mod export;
mod fold;
mod json;
mod mtu;
mod outcome;
mod plain;
mod plan_all;
mod prometheus;
mod report;
mod settled;
mod show;
mod status;
mod text;

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    config::{Config, Moment, Peer},
    model::{MeshName, NamedMesh, PeerName, Reqid},
    plan::{FarEnd, Outcome, Plan, Warning},
};

pub use compare::{CompareView, RolloutView, compare_text, rollout_text};
pub use doctor::{DoctorView, doctor_text};
pub use evidence::{
    ComparedHost, ComparisonView, EvidenceView, HostFacts, comparison_text, evidence_text,
};
pub use explain::{ExplainView, explain_text};
pub use export::{SecretLine, ip_line, wireshark_line};
pub use fold::fold;
pub use json::{
    FORMAT_VERSION, JsonError, JsonEvidence, JsonIncluded, JsonPremises, JsonSavedPlan,
    JsonSnapshot, compare_json, comparison_json, confirm_json, doctor_json, errors_json,
    evidence_json, explain_json, mtu_json, named_status_json, plan_all_json, plan_json,
    ratchet_advance_json, ratchet_init_json, report_json, rollout_json, rotate_json, settled_json,
    show_json, spi_json, status_json, validate_json,
};
pub use mtu::{Underlay, mtu_text};
pub use plain::{Layout, Plain, json_text};
pub use plan_all::{HostPlan, PlanAllView, plan_all_text};
pub use prometheus::status_prometheus;
pub use report::{ConfirmationOutcome, RatchetAdvance, Verb, report_text};
pub use settled::{SettledView, settled_text};
pub use show::{ShowView, show_text};
pub use status::{NamedPeer, NamedStatusView, Sample, StatusView, named_status_text, status_text};
use text::YELLOW;
pub use text::{generation, plan_text};

/// The mesh that a text or a document is about.
#[derive(Clone, Copy)]
pub enum Subject<'a> {
    /// That of a file, at a moment.
    File {
        /// The file.
        config: &'a Config,
        /// The generation, and its end.
        moment: Moment,
    },
    /// One that was named without a file. Nothing is known of it but its objects in the kernel.
    Named(&'a NamedMesh),
}

impl<'a> Subject<'a> {
    /// The mesh's reqid.
    pub fn reqid(self) -> Reqid {
        match self {
            Self::File { config, .. } => config.reqid,
            Self::Named(mesh) => mesh.reqid,
        }
    }

    /// The mesh's name, or its reqid where it has none.
    pub fn name(self) -> String {
        self.mesh().map_or_else(|| self.reqid().to_string(), ToString::to_string)
    }

    /// The mesh's name, if it is known.
    fn mesh(self) -> Option<&'a MeshName> {
        match self {
            Self::File { config, .. } => Some(&config.mesh),
            Self::Named(mesh) => mesh.name.as_ref(),
        }
    }

    /// The generation and the clock that it follows, if they are known.
    fn moment(self) -> Option<Moment> {
        match self {
            Self::File { moment, .. } => Some(moment),
            Self::Named(_) => None,
        }
    }

    /// The peers of the file.
    fn peers(self) -> &'a [Peer] {
        match self {
            Self::File { config, .. } => &config.peers,
            Self::Named(_) => &[],
        }
    }
}

/// The part of a plan that somebody wants to read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Extent {
    /// All of it.
    Whole,
    /// The changes of these peers.
    Peers(BTreeSet<PeerName>),
    /// How many changes there are of each peer, and no single one.
    Summary,
    /// The last line.
    OneLine,
}

/// A plan with its context.
pub struct View<'a> {
    /// The mesh.
    pub subject: Subject<'a>,
    /// The local peer; `None` where all of the mesh is to go and nobody asked which peer this host
    /// is.
    pub local: Option<&'a Peer>,
    /// The plan.
    pub plan: &'a Plan,
    /// Warnings that aren't the plan's own: those of the file and of the secrets.
    pub warnings: &'a [Warning],
    /// The fate of packets that leave, before the plan and after it; empty if nobody has asked.
    pub outcomes: &'a BTreeMap<FarEnd, Outcome>,
    /// The file's name, for the line that says that nothing differs.
    pub file: &'a str,
}

/// Nobody has asked what becomes of packets.
pub static NO_OUTCOMES: BTreeMap<FarEnd, Outcome> = BTreeMap::new();

impl View<'_> {
    /// All warnings, the plan's own last.
    fn all_warnings(&self) -> impl Iterator<Item = &Warning> {
        self.warnings.iter().chain(&self.plan.warnings)
    }
}
