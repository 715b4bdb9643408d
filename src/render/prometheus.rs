//! A status in the text format of Prometheus, for node_exporter's textfile collector.

use std::fmt::{Display, Write};

use super::status::{PeerStatus, SaStatus, StatusView};

/// Metrics with their help and type, all of a metric together.
pub fn status_prometheus(view: &StatusView<'_>) -> String {
    let mut page = Page { text: String::new(), mesh: view.config.mesh.to_string() };
    let peers = view.peers();
    page.metric("generation", "gauge", "The generation of keys in use.");
    page.sample("generation", &[], view.moment.generation);
    page.metric("changes_due", "gauge", "What differs between the file and the kernel.");
    page.sample("changes_due", &[], view.plan.changes.len());
    page.metric("conflicts", "gauge", "Foreign objects in the way.");
    page.sample("conflicts", &[], view.plan.conflicts.len());
    page.metric("status_timestamp_seconds", "gauge", "When this was written.");
    page.sample("status_timestamp_seconds", &[], view.now.seconds());
    if let Some(clock) = view.moment.clock {
        let end = clock.period.end(view.moment.generation);
        page.metric("generation_end_timestamp_seconds", "gauge", "When the generation ends.");
        page.sample("generation_end_timestamp_seconds", &[], end.seconds());
    }
    page.metric("peer_traffic", "gauge", "1 for what becomes of packets to a peer.");
    for peer in &peers {
        for traffic in ["protected", "blocked", "clear"] {
            let labels = [("peer", peer.name.as_str()), ("traffic", traffic)];
            page.sample("peer_traffic", &labels, u8::from(peer.traffic == traffic));
        }
    }
    page.of_sas(&peers, "sa_packets_total", "counter", "Packets.", |sa| Some(sa.packets));
    page.of_sas(&peers, "sa_bytes_total", "counter", "Bytes.", |sa| Some(sa.bytes));
    let help = "The sequence number sent or received last.";
    page.of_sas(&peers, "sa_sequence_number", "gauge", help, |sa| Some(sa.number));
    let help = "How much of its numbers an SA without ESN has used.";
    page.of_sas(&peers, "sa_sequence_used_percent", "gauge", help, |sa| sa.used_percent);
    page.rejections(&peers);
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

    /// Names, words and numbers alone are labels: none needs escaping.
    fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: impl Display) {
        let _ = write!(self.text, "meshsec_{name}{{mesh=\"{}\"", self.mesh);
        for (label, text) in labels {
            let _ = write!(self.text, ",{label}=\"{text}\"");
        }
        let _ = writeln!(self.text, "}} {value}");
    }

    fn of_sas(
        &mut self,
        peers: &[PeerStatus],
        name: &str,
        kind: &str,
        help: &str,
        value: impl Fn(&SaStatus) -> Option<u64>,
    ) {
        self.metric(name, kind, help);
        for (peer, sa) in sas(peers) {
            if let Some(value) = value(sa) {
                self.sample(name, &labels(peer, sa), value);
            }
        }
    }

    fn rejections(&mut self, peers: &[PeerStatus]) {
        self.metric("sa_rejected_total", "counter", "Packets that an SA refused.");
        for (peer, sa) in sas(peers) {
            let causes =
                [("too_old", sa.too_old), ("replayed", sa.replayed), ("forged", sa.forged)];
            for (cause, number) in causes {
                let labels = [&labels(peer, sa)[..], &[("cause", cause)]].concat();
                self.sample("sa_rejected_total", &labels, number);
            }
        }
    }
}

fn sas(peers: &[PeerStatus]) -> impl Iterator<Item = (&PeerStatus, &SaStatus)> {
    peers.iter().flat_map(|peer| peer.sas.iter().map(move |sa| (peer, sa)))
}

fn labels<'a>(peer: &'a PeerStatus, sa: &'a SaStatus) -> [(&'static str, &'a str); 3] {
    [("peer", peer.name.as_str()), ("direction", &sa.direction), ("spi", &sa.spi)]
}
