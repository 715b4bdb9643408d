//! A status in the text format of Prometheus, for node_exporter's textfile collector.

use std::fmt::{Display, Write};

use super::{Plain, status::StatusView};
use crate::{
    model::{Stage, Time},
    plan::Flow,
    verdict::{Judgement, PeerState, SaEvidence, Verdict},
};

/// Metrics with their help and type, all of a metric together.
pub fn status_prometheus(view: &StatusView<'_>) -> String {
    let mut page = Page { text: String::new(), mesh: view.case.config.mesh.to_string() };
    page.of_the_host(view);
    page.of_peers(view.judged);
    page.of_sas(view.judged);
    page.metric("xfrm_errors_total", "counter", "Counters of /proc/net/xfrm_stat.");
    for (name, number) in view.counters {
        page.sample("xfrm_errors_total", &[("cause", name)], number);
    }
    page.text
}

struct Page {
    text: String,
    mesh: String,
}

impl Page {
    fn metric(&mut self, name: &str, kind: &str, help: &str) {
        let _ = writeln!(self.text, "# HELP meshsec_{name} {help}");
        let _ = writeln!(self.text, "# TYPE meshsec_{name} {kind}");
    }

    fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: impl Display) {
        let _ = write!(self.text, "meshsec_{name}{{mesh=\"{}\"", label_value(&self.mesh));
        for (label, text) in labels {
            let _ = write!(self.text, ",{label}=\"{}\"", label_value(text));
        }
        let _ = writeln!(self.text, "}} {value}");
    }

    fn gauge(&mut self, name: &str, help: &str, value: impl Display) {
        self.metric(name, "gauge", help);
        self.sample(name, &[], value);
    }

    fn of_the_host(&mut self, view: &StatusView<'_>) {
        let (case, judged) = (&view.case, view.judged);
        let generation = case.moment.generation;
        self.gauge("generation", "The generation of the file or clock.", generation);
        self.gauge(
            "changes_due",
            "What differs between the file and the kernel.",
            case.plan.changes.len(),
        );
        let help = "What differs and is held back by conflicts.";
        self.gauge("changes_held", help, case.plan.held);
        self.gauge("conflicts", "Foreign objects in the way.", case.plan.conflicts.len());
        self.gauge("sas_not_wanted", "SAs that the file does not want.", judged.unwanted());
        let help = "Families whose second guard is wanted, and is missing or can't be seen.";
        self.gauge("second_guard_missing", help, case.plan.lacks.len());
        let attention = u8::from(!judged.reasons.is_empty());
        self.gauge("attention", "1 if status would exit with 2.", attention);
        self.gauge("status_timestamp_seconds", "When this was written.", case.now.seconds());
        if let Some(clock) = case.moment.clock {
            let end = clock.period.end(generation).seconds();
            self.gauge("generation_end_timestamp_seconds", "When the generation ends.", end);
        }
    }

    fn of_peers(&mut self, judged: &Judgement) {
        self.metric("peer_verdict", "gauge", "1 for how the traffic with a peer fares.");
        for peer in &judged.peers {
            for verdict in Verdict::ALL {
                let labels = [("peer", peer.name.as_str()), ("verdict", verdict.word())];
                self.sample("peer_verdict", &labels, u8::from(peer.verdict == verdict));
            }
        }
        self.metric("peer_stage", "gauge", "1 for the stage that the file wants for a pair.");
        for peer in &judged.peers {
            for stage in Stage::ALL {
                let labels = [("peer", peer.name.as_str()), ("stage", stage.name())];
                self.sample("peer_stage", &labels, u8::from(peer.stage == stage));
            }
        }
        self.metric("peer_traffic", "gauge", "1 for what becomes of packets to a peer.");
        for peer in &judged.peers {
            for traffic in Flow::WORDS {
                let labels = [("peer", peer.name.as_str()), ("traffic", traffic)];
                self.sample("peer_traffic", &labels, u8::from(peer.flow.word() == traffic));
            }
        }
        let name = "peer_last_received_timestamp_seconds";
        let time = |time: Option<Time>| time.map(Time::seconds);
        self.each(judged, name, "When a packet last came from a peer.", |peer| time(peer.heard));
        let name = "peer_last_sent_timestamp_seconds";
        self.each(judged, name, "When a packet last left for a peer.", |peer| time(peer.sent));
        let help = "The generation under which packets leave for a peer.";
        let number = |generation: crate::model::Generation| generation.get();
        self.each(judged, "peer_sends_generation", help, |peer| peer.sends.map(number));
        let help = "The generation under which a peer sends.";
        self.each(judged, "peer_heard_generation", help, |peer| peer.hears.map(number));
    }

    fn each(
        &mut self,
        judged: &Judgement,
        name: &str,
        help: &str,
        value: impl Fn(&PeerState) -> Option<u64>,
    ) {
        self.metric(name, "gauge", help);
        for peer in &judged.peers {
            if let Some(value) = value(peer) {
                self.sample(name, &[("peer", peer.name.as_str())], value);
            }
        }
    }

    fn of_sas(&mut self, judged: &Judgement) {
        self.each_sa(judged, "sa_packets_total", "counter", "Packets.", |sa| {
            Some(sa.usage.packets)
        });
        self.each_sa(judged, "sa_bytes_total", "counter", "Bytes.", |sa| Some(sa.usage.bytes));
        let help = "The sequence number sent or received last.";
        self.each_sa(judged, "sa_sequence_number", "gauge", help, |sa| Some(sa.number()));
        let help = "How much of its numbers an SA without ESN has used.";
        let percent = SaEvidence::used_percent;
        self.each_sa(judged, "sa_sequence_used_percent", "gauge", help, percent);
        let name = "sa_last_used_timestamp_seconds";
        let last = |sa: &SaEvidence| sa.usage.last.map(Time::seconds);
        self.each_sa(judged, name, "gauge", "When an SA was last used.", last);
        self.metric("sa_rejected_total", "counter", "Packets that an SA refused.");
        for (peer, sa) in judged.sas() {
            let usage = &sa.usage;
            for (cause, number) in
                [("too_old", usage.too_old), ("replayed", usage.replayed), ("forged", usage.forged)]
            {
                let labels = labels(peer, sa);
                let labels = labels.iter().map(|(label, text)| (*label, text.as_str()));
                let labels: Vec<_> = labels.chain([("cause", cause)]).collect();
                self.sample("sa_rejected_total", &labels, number);
            }
        }
    }

    fn each_sa(
        &mut self,
        judged: &Judgement,
        name: &str,
        kind: &str,
        help: &str,
        value: impl Fn(&SaEvidence) -> Option<u64>,
    ) {
        self.metric(name, kind, help);
        for (peer, sa) in judged.sas() {
            if let Some(value) = value(sa) {
                let labels = labels(peer, sa);
                let labels = labels.iter().map(|(label, text)| (*label, text.as_str()));
                self.sample(name, &labels.collect::<Vec<_>>(), value);
            }
        }
    }
}

/// A label's value, escaped as the text format wants it, and always in one line.
fn label_value(text: &str) -> String {
    Plain(text).to_string().replace('\\', "\\\\").replace('"', "\\\"")
}

/// The labels that tell an SA apart; an SPI alone does not where two hosts had one ShortID.
fn labels(peer: Option<&PeerState>, sa: &SaEvidence) -> [(&'static str, String); 5] {
    let direction = sa.direction.map_or_else(|| "none".into(), |it| it.to_string());
    [
        ("peer", peer.map(|peer| peer.name.to_string()).unwrap_or_default()),
        ("direction", direction),
        ("dst", sa.id.dst.to_string()),
        ("spi", sa.id.spi.to_string()),
        ("wanted", sa.wanted.to_string()),
    ]
}
