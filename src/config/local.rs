//! Which peer of the mesh this host is.
#![forbid(unsafe_code)]

use std::net::IpAddr;

use super::{Config, Peer, mask};

/// Candidates that an error lists at most.
const LISTED: usize = 10;

/// Why it isn't known which peer this host is.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum LocalError {
    /// `--local` names a peer that isn't there.
    #[error("no peer is named {name}; use --local NAME with one of: {candidates}")]
    Unknown {
        /// What was asked for, in quotes.
        name: String,
        /// The peers there are.
        candidates: String,
    },
    /// This host has the address of no peer.
    #[error("this host has no peer's address; use --local NAME with one of: {candidates}")]
    NoAddress {
        /// The peers there are.
        candidates: String,
    },
    /// This host has the addresses of several peers.
    #[error(
        "this host has the addresses of several peers; use --local NAME with one of: {candidates}"
    )]
    Several {
        /// These peers.
        candidates: String,
    },
}

/// The peer that is named, or else the one whose address this host has.
///
/// # Errors
///
/// No peer has that name; or the host has the addresses of no peer, or of
/// several. The error lists those to choose from.
pub fn local_peer<'a>(
    config: &'a Config,
    name: Option<&str>,
    has_address: impl Fn(IpAddr) -> bool,
) -> Result<&'a Peer, LocalError> {
    let all: Vec<&Peer> = config.peers.iter().collect();
    if let Some(name) = name {
        let named = all.iter().find(|peer| peer.name.as_str() == name);
        return named.copied().ok_or_else(|| LocalError::Unknown {
            name: mask::quote(name),
            candidates: list(&all),
        });
    }
    let here: Vec<&Peer> = all.iter().copied().filter(|peer| has_address(peer.address)).collect();
    match here[..] {
        [peer] => Ok(peer),
        [] => Err(LocalError::NoAddress { candidates: list(&all) }),
        _ => Err(LocalError::Several { candidates: list(&here) }),
    }
}

fn list(peers: &[&Peer]) -> String {
    let shown = peers.iter().take(LISTED).map(|peer| format!("{} ({})", peer.name, peer.address));
    let mut list = shown.collect::<Vec<_>>().join(", ");
    if peers.len() > LISTED {
        list += &format!(" and {} more", peers.len() - LISTED);
    }
    list
}

#[cfg(test)]
mod tests {
    use crate::config::Rotation;
    use crate::model::{Cipher, Generation, MeshName, PeerName, Replay, Reqid, ShortId};

    use super::super::{Esp, KeySource, SecretSource, Select, Traffic};
    use super::*;

    fn config(peers: u8) -> Config {
        let peer = |i: u8| Peer {
            name: PeerName::new(&format!("p{i}")).unwrap(),
            short_id: ShortId::new(i.into()).unwrap(),
            address: IpAddr::from([192, 0, 2, i]),
            public_key: None,
        };
        Config {
            mesh: MeshName::new("lab").unwrap(),
            reqid: Reqid(0x4d53_0001),
            traffic: Traffic::Vxlan { port: 4789 },
            select: Select::Port,
            guard: true,
            esp: Esp {
                cipher: Cipher::Aes256Gcm,
                replay: Replay { window: 0, esn: false },
                offload: None,
            },
            keys: KeySource::MeshKey(SecretSource::Env("X".into())),
            rotation: Rotation::Generation(Generation::new(1).unwrap()),
            link: None,
            peers: (1..=peers).map(peer).collect(),
        }
    }

    #[test]
    fn a_name_wins_over_addresses() {
        let config = config(2);
        let peer = local_peer(&config, Some("p2"), |_| true).unwrap();
        assert_eq!(peer.name.as_str(), "p2");
    }

    #[test]
    fn the_one_peer_whose_address_is_here_is_local() {
        let config = config(3);
        let here = IpAddr::from([192, 0, 2, 3]);
        let peer = local_peer(&config, None, |address| address == here).unwrap();
        assert_eq!(peer.name.as_str(), "p3");
    }

    #[test]
    fn none_and_several_list_the_candidates() {
        let (small, large) = (config(2), config(12));
        assert_eq!(
            local_peer(&small, None, |_| true).unwrap_err().to_string(),
            "this host has the addresses of several peers; use --local NAME with one of: \
             p1 (192.0.2.1), p2 (192.0.2.2)"
        );
        let none = local_peer(&large, None, |_| false).unwrap_err().to_string();
        assert!(none.ends_with("p10 (192.0.2.10) and 2 more"), "{none}");
        let unknown = local_peer(&small, Some("x\x1b"), |_| true).unwrap_err().to_string();
        assert!(unknown.starts_with("no peer is named \"x\u{fffd}\"; "), "{unknown}");
    }
}
