//! Looking at captured packets: what is known of each pair once all were seen.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use super::{
    Pair,
    probe::{ProbeMark, RunMark},
};
use crate::model::{EspHeader, Packet, Selector, Spi};

/// The number of headers that are kept of a pair.
const HEADERS_KEPT: usize = 16;

/// The probe that a marker belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Marked {
    /// A probe to the pair with this number.
    Probe(usize),
    /// A packet that is meant to be seen, to the pair with this number.
    Control(usize),
    /// The packet that is to be blocked.
    Guard,
}

/// A captured packet.
#[derive(Debug, Clone, Copy)]
pub struct Captured<'a> {
    /// The device's name.
    pub device: &'a str,
    /// Whether this host sends it. Packets that come in are shown once more when they are decrypted,
    /// on some devices.
    pub leaves: bool,
    /// The packet from its IP header on.
    pub bytes: &'a [u8],
}

/// Findings about one pair.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Seen {
    /// Packets of ESP that left under the SPI and in the form that the file wants.
    pub esp: u64,
    /// Their lengths.
    pub lengths: BTreeSet<usize>,
    /// Their first headers, at most 16.
    pub headers: Vec<EspHeader>,
    /// The header of the last one.
    pub last: Option<EspHeader>,
    /// Packets under the right SPI, but plain where the file wants UDP around them, or the reverse.
    pub other_form: u64,
    /// Other SPIs of ESP that left for the peer.
    pub other_spis: BTreeSet<Spi>,
    /// Packets in which a probe's marker could be read, and their devices.
    pub marked: u64,
    /// The devices of those.
    pub devices: BTreeSet<String>,
    /// Those of them that are ESP under the right SPI: the device encrypts behind the capture.
    pub offloaded: u64,
    /// Other packets of the kind that left unencrypted.
    pub clear: u64,
    /// The first of these.
    pub clear_packet: Option<Selector>,
    /// Whether a packet that is meant to be seen was.
    pub control: bool,
    /// Packets of ESP that came from the peer under an SPI that is received.
    pub came: u64,
    /// The header of the last of these.
    pub came_last: Option<EspHeader>,
}

/// A watch over all pairs.
pub struct Watch<'a> {
    pairs: &'a [Pair],
    by_address: BTreeMap<IpAddr, usize>,
    run: RunMark,
    markers: BTreeMap<ProbeMark, Marked>,
    passing: Vec<Selector>,
    hidden: BTreeSet<&'a str>,
    /// What was seen of each pair.
    pub seen: Vec<Seen>,
    /// Packets with the marker of the one that is to be blocked.
    pub guard: u64,
    /// Packets with a marker of this run that belongs to no probe, or that is cut.
    pub stray: u64,
    /// All packets that were looked at.
    pub packets: u64,
}

impl<'a> Watch<'a> {
    /// A watch for the markers of a run. `passing` are packets that the file lets pass unencrypted.
    pub fn new(pairs: &'a [Pair], run: RunMark, passing: Vec<Selector>) -> Self {
        let numbers = pairs.iter().enumerate();
        let by_address = numbers.map(|(number, pair)| (pair.address, number)).collect();
        // On a VRF and on lo packets are on their way inside of the host.
        let mut hidden: BTreeSet<&str> =
            pairs.iter().flat_map(|pair| &pair.vrfs).map(String::as_str).collect();
        hidden.insert("lo");
        for device in pairs.iter().flat_map(|pair| &pair.devices) {
            hidden.remove(device.as_str());
        }
        let seen = vec![Seen::default(); pairs.len()];
        let markers = BTreeMap::new();
        let (guard, stray, packets) = (0, 0, 0);
        Self { pairs, by_address, run, markers, passing, hidden, seen, guard, stray, packets }
    }

    /// Knows a marker from now on.
    pub fn expect(&mut self, marker: ProbeMark, marked: Marked) {
        self.markers.insert(marker, marked);
    }

    /// Looks at a packet.
    pub fn take(&mut self, captured: &Captured<'_>) {
        self.packets += 1;
        let packet = Packet::parse(captured.bytes);
        if !captured.leaves {
            if let Some(packet) = packet {
                self.take_inbound(&packet);
            }
            return;
        }
        if self.hidden.contains(captured.device) {
            return;
        }
        let marker = self.marker(captured.bytes);
        if let Some(packet) = packet {
            self.take_outbound(&packet, captured.device, marker.is_some());
        }
        if let Some(marked) = marker {
            self.take_marked(captured, packet.as_ref(), marked);
        }
    }

    /// The probe whose marker is in the bytes; `Some(None)` where it is not known which.
    fn marker(&self, bytes: &[u8]) -> Option<Option<Marked>> {
        let at = bytes.windows(self.run.len()).position(|window| window == self.run)?;
        let rest = bytes.get(at + self.run.len()..)?.first_chunk();
        Some(rest.and_then(|rest| self.markers.get(rest).copied()))
    }

    fn take_marked(
        &mut self,
        captured: &Captured<'_>,
        packet: Option<&Packet<'_>>,
        marked: Option<Marked>,
    ) {
        match marked {
            None => self.stray += 1,
            Some(Marked::Guard) => self.guard += 1,
            Some(Marked::Control(number)) => {
                if let (Some(pair), Some(seen)) =
                    (self.pairs.get(number), self.seen.get_mut(number))
                {
                    seen.control |= pair.devices.contains(captured.device);
                }
            }
            Some(Marked::Probe(number)) => {
                let Some((pair, seen)) = self.pairs.get(number).zip(self.seen.get_mut(number))
                else {
                    return;
                };
                let is_esp = packet.is_some_and(|packet| pair.esp_of(packet).is_some());
                if is_esp && pair.is_offloaded() {
                    seen.offloaded += 1;
                } else {
                    seen.marked += 1;
                    seen.devices.insert(captured.device.into());
                }
            }
        }
    }

    fn take_outbound(&mut self, packet: &Packet<'_>, device: &str, is_marked: bool) {
        let Some(&number) = self.by_address.get(&packet.dst) else { return };
        let (pair, seen) = (&self.pairs[number], &mut self.seen[number]);
        // Its first fragment tells of the whole packet.
        if !pair.devices.contains(device) || packet.is_later_fragment {
            return;
        }
        if let Some(esp) = pair.esp_of(packet).filter(|_| packet.src == pair.local) {
            seen.esp += 1;
            seen.lengths.insert(esp.length);
            seen.last = Some(esp);
            if seen.headers.len() < HEADERS_KEPT {
                seen.headers.push(esp);
            }
            return;
        }
        if let Some(esp) = packet.esp() {
            if pair.out.as_ref().is_some_and(|out| out.spi == esp.spi) {
                seen.other_form += 1;
            } else {
                seen.other_spis.insert(esp.spi);
            }
            return;
        }
        let flow = packet.flow();
        if let Some((_, esp)) = packet.esp_in_udp()
            && pair.out.as_ref().is_some_and(|out| out.spi == esp.spi)
        {
            seen.other_form += 1;
        } else if !is_marked
            && pair.protected.iter().any(|selector| selector.covers(&flow))
            && !self.passing.iter().any(|selector| selector.covers(&flow))
        {
            seen.clear += 1;
            seen.clear_packet.get_or_insert(flow);
        }
    }

    fn take_inbound(&mut self, packet: &Packet<'_>) {
        let Some(&number) = self.by_address.get(&packet.src) else { return };
        let (pair, seen) = (&self.pairs[number], &mut self.seen[number]);
        let esp = packet.esp().or_else(|| packet.esp_in_udp().map(|(_, esp)| esp));
        if let Some(esp) = esp.filter(|esp| pair.inbound.contains_key(&esp.spi)) {
            seen.came += 1;
            seen.came_last = Some(esp);
        }
    }
}
