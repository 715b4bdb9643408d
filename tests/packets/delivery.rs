//! The way of a packet from one host to another, by the states of both.
//!
//! The other half of the judge asks one host at a time, and lets everybody have the key of an SA. Here
//! the receiver has the very SA that the sender has used, or the packet is lost: `crypto_aead_decrypt`
//! fails with another key or cipher, and with ESN on one side only (`esp_input_set_header`).

use std::{collections::BTreeSet, net::IpAddr};

use meshsec::{
    config::Traffic,
    model::{Algorithm, Sa, Spi, State},
};

use super::{ESP, Fate, Packet, arrives_as_sent, arrives_in_clear, leaves};

/// What becomes of a packet between two hosts, the worst last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Delivery {
    /// It is taken, and came inside ESP.
    Encrypted,
    /// It is taken, and could be read on the way.
    InTheClear,
    /// It does not leave, or is not taken.
    Lost,
}

/// Packets of a kind from one host to another.
pub fn packets(traffic: Traffic, src: IpAddr, dst: IpAddr) -> Vec<Packet> {
    let packet = |proto, sport, dport| Packet { src, dst, proto, sport, dport, mark: 0 };
    match traffic {
        Traffic::Vxlan { port } | Traffic::Geneve { port } => vec![packet(17, 49_152, port)],
        Traffic::All => vec![packet(6, 50_000, 22), packet(17, 50_000, 53)],
        Traffic::Port { protocol, ports } => {
            let number = protocol.number();
            let both = |port| [packet(number, 50_000, port), packet(number, port, 50_000)];
            ports.iter().flat_map(both).collect()
        }
        // None goes from one host itself to another.
        Traffic::Networks => Vec::new(),
    }
}

/// All that can become of a packet. The mark stays with the sender.
pub fn deliveries(from: &State, to: &State, packet: &Packet) -> BTreeSet<Delivery> {
    let arriving = packet.marked(0);
    let arrival = |fate| match fate {
        Fate::Protected(spi) if is_decrypted(from, to, &arriving, spi) => Delivery::Encrypted,
        Fate::Leaks if arrives_in_clear(to, &arriving) => Delivery::InTheClear,
        Fate::Protected(_) | Fate::Leaks | Fate::Dropped => Delivery::Lost,
    };
    leaves(from, packet).into_iter().map(arrival).collect()
}

/// Whether a packet gets to the other host, in every case that the states leave open.
pub fn gets_through(from: &State, to: &State, packet: &Packet) -> bool {
    !deliveries(from, to, packet).contains(&Delivery::Lost)
}

/// Whether the receiver takes a packet that was sent under an SPI.
fn is_decrypted(from: &State, to: &State, packet: &Packet, spi: Spi) -> bool {
    let has_it = |sa: &&Sa| (sa.id.dst, sa.id.proto, sa.id.spi) == (packet.dst, ESP, spi);
    let mut sent = from.sas.iter().filter(has_it).filter(|sa| sa.algorithm != Algorithm::Larval);
    let Some(received) = to.sas.iter().find(has_it) else { return false };
    sent.all(|sent| {
        (sent.key, &sent.algorithm, sent.replay.esn)
            == (received.key, &received.algorithm, received.replay.esn)
            && arrives_as_sent(to, packet, spi, sent.encap)
    })
}
