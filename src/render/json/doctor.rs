//! `doctor --format json`.

use std::{collections::BTreeMap, net::IpAddr};

use serde::Serialize;

use super::parts::FORMAT_VERSION;
use crate::{
    diagnosis::{Finding, Moved},
    model::{PeerName, Probe},
    render::DoctorView,
};

#[derive(Serialize)]
struct JsonDoctor<'a> {
    format_version: &'static str,
    mesh: &'a str,
    /// Null where it is not known which peer the host is.
    local: Option<&'a str>,
    now: String,
    findings: Vec<JsonFinding<'a>>,
    /// The seconds between the two looks.
    seconds: u64,
    peers: Vec<JsonMoved<'a>>,
    /// The counters that have risen; null where they can't be read.
    counters: Option<&'a BTreeMap<String, u64>>,
    /// The results of pings; none without --probe.
    probes: Vec<JsonProbe<'a>>,
    conclusion: &'a str,
    status: u8,
}

#[derive(Serialize)]
struct JsonFinding<'a> {
    code: &'static str,
    /// `attention`, `unknown` or `ok`.
    verdict: &'static str,
    /// Empty where it is about the host.
    peers: Vec<&'a str>,
    text: &'a str,
    remedy: Option<&'a str>,
    /// Whether it is a cause, and not only a sign.
    explains: bool,
}

#[derive(Serialize)]
struct JsonMoved<'a> {
    name: &'a str,
    sent: u64,
    heard: u64,
    refused: u64,
}

#[derive(Serialize)]
struct JsonProbe<'a> {
    address: IpAddr,
    /// Null where none could be sent.
    answers: Option<bool>,
    failure: Option<&'a str>,
    /// The largest packet that was answered, in bytes.
    passed: Option<u32>,
    /// The smallest packet that was not, in bytes.
    lost: Option<u32>,
}

/// The shape of `doctor --format json`.
pub fn doctor_json(view: &DoctorView<'_>) -> impl Serialize {
    let (facts, diagnosis) = (view.facts, view.diagnosis);
    JsonDoctor {
        format_version: FORMAT_VERSION,
        mesh: facts.config.mesh.as_str(),
        local: facts.local.map(|local| local.name.as_str()),
        now: facts.now.rfc3339(),
        findings: diagnosis.findings.iter().map(finding).collect(),
        seconds: facts.seconds,
        peers: diagnosis.moved.iter().map(moved).collect(),
        counters: diagnosis.refused.as_ref(),
        probes: facts.examination.probes.iter().map(probe).collect(),
        conclusion: &diagnosis.conclusion,
        status: if diagnosis.needs_attention { 2 } else { 0 },
    }
}

fn finding(finding: &Finding) -> JsonFinding<'_> {
    JsonFinding {
        code: finding.code.word(),
        verdict: finding.outcome.word(),
        peers: finding.peers.iter().map(PeerName::as_str).collect(),
        text: &finding.text,
        remedy: finding.remedy.as_deref(),
        explains: finding.explains,
    }
}

fn moved<'a>((name, moved): (&'a PeerName, &Moved)) -> JsonMoved<'a> {
    let Moved { sent, heard, refused } = *moved;
    JsonMoved { name: name.as_str(), sent, heard, refused }
}

fn probe<'a>((address, probe): (&IpAddr, &'a Probe)) -> JsonProbe<'a> {
    JsonProbe {
        address: *address,
        answers: probe.answers,
        failure: probe.failure.as_deref(),
        passed: probe.passed,
        lost: probe.lost,
    }
}
