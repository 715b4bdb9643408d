//! Finding the peer of the mesh that is this host.
#![forbid(unsafe_code)]

use std::net::IpAddr;

use crate::model::LocalAddress;

use super::{Config, Peer, mask};

/// Candidates that an error lists at most.
const LISTED: usize = 10;

/// The reason why the local peer is unknown.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum LocalError {
    /// `--local` names a peer that isn't there.
    #[error("no peer is named {name}; use --local NAME with one of: {candidates}")]
    Unknown {
        /// The name that was given, in quotes.
        name: String,
        /// The peers there are.
        candidates: String,
    },
    /// This host doesn't have the address of any peer.
    #[error(
        "this host has no peer's address: it has {here}, and the peers are {candidates}; give the \
         host its address, or say which peer it is with --local NAME"
    )]
    NoAddress {
        /// The host's addresses.
        here: String,
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
    /// This host has the short name of several peers.
    #[error(
        "this host has no peer's address, and its name {name} is that of several peers; use \
         --local NAME with one of: {candidates}"
    )]
    SameName {
        /// The host's name, in quotes.
        name: String,
        /// These peers.
        candidates: String,
    },
}

/// The peer that is named, or else the peer with an address of this host.
///
/// # Errors
///
/// No peer has that name; or the host has the addresses of no peer, or of several. The error lists
/// the candidates.
pub fn local_peer<'a>(
    config: &'a Config,
    name: Option<&str>,
    addresses: &[LocalAddress],
) -> Result<&'a Peer, LocalError> {
    let all: Vec<&Peer> = config.peers.iter().collect();
    if let Some(name) = name {
        let named = all.iter().find(|peer| peer.name.as_str() == name);
        return named.copied().ok_or_else(|| LocalError::Unknown {
            name: mask::quote(name),
            candidates: list(&all),
        });
    }
    let is_here = |peer: &&Peer| addresses.iter().any(|local| local.address == peer.address);
    let here: Vec<&Peer> = all.iter().copied().filter(is_here).collect();
    match here[..] {
        [peer] => Ok(peer),
        [] => Err(LocalError::NoAddress { here: list_here(addresses), candidates: list(&all) }),
        _ => Err(LocalError::Several { candidates: list(&here) }),
    }
}

/// The peer with the name of a host: as it is, or without its domain, or the one peer with this name
/// and any domain if the host's name has none. `None` if there is no such peer.
///
/// # Errors
///
/// Several peers have this name and a domain.
pub fn peer_by_host_name<'a>(
    config: &'a Config,
    host_name: &str,
) -> Result<Option<&'a Peer>, LocalError> {
    let full = host_name.to_ascii_lowercase();
    let short = full.split('.').next().unwrap_or_default();
    let named = |name: &str| config.peers.iter().find(|peer| peer.name.as_str() == name);
    if let Some(peer) = named(&full).or_else(|| named(short)) {
        return Ok(Some(peer));
    }
    let has_it = |peer: &&Peer| peer.name.as_str().split_once('.').is_some_and(|it| it.0 == full);
    let with_domain: Vec<&Peer> = config.peers.iter().filter(has_it).collect();
    match with_domain[..] {
        [] => Ok(None),
        [peer] => Ok(Some(peer)),
        _ => {
            let candidates = list(&with_domain);
            Err(LocalError::SameName { name: mask::quote(host_name), candidates })
        }
    }
}

fn list(peers: &[&Peer]) -> String {
    capped(peers.iter().map(|peer| format!("{} ({})", peer.name, peer.address)))
}

/// The addresses by which another host may know this host.
fn list_here(addresses: &[LocalAddress]) -> String {
    let known = |local: &&LocalAddress| match local.address {
        IpAddr::V4(v4) => !v4.is_loopback(),
        IpAddr::V6(v6) => !v6.is_loopback() && !v6.is_unicast_link_local(),
    };
    let device = |local: &LocalAddress| local.device.chars().map(mask::printable).collect();
    let shown = |local: &LocalAddress| -> String {
        let device: String = device(local);
        format!("{} ({device})", local.address)
    };
    let mut known = addresses.iter().filter(known).map(shown).peekable();
    if known.peek().is_some() { capped(known) } else { "none that other hosts reach".into() }
}

fn capped(mut items: impl Iterator<Item = String>) -> String {
    let mut list = items.by_ref().take(LISTED).collect::<Vec<_>>().join(", ");
    match items.count() {
        0 => {}
        more => list += &format!(" and {more} more"),
    }
    list
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use crate::config::{Guard, Pairs, Rotation};
    use crate::model::{Cipher, Generation, MeshName, PeerName, Replay, Reqid, ShortId, Stage};

    use super::super::{Esp, KeySource, SecretSource, Select, Traffic};
    use super::*;

    fn config(peers: u8) -> Config {
        let peer = |i: u8| Peer {
            name: PeerName::new(&format!("p{i}")).unwrap(),
            short_id: ShortId::new(i.into()).unwrap(),
            address: IpAddr::from([192, 0, 2, i]),
            public_key: None,
            groups: BTreeSet::new(),
            stage: Stage::Enforce,
            outside: None,
            networks: Default::default(),
            inside: Default::default(),
        };
        Config {
            mesh: MeshName::new("lab").unwrap(),
            reqid: Reqid(0x4d53_0001),
            stage: Stage::Enforce,
            pairs: Pairs::All,
            traffic: Traffic::Vxlan { port: 4789 },
            select: Select::Port,
            guard: Guard::Both,
            esp: Esp {
                cipher: Cipher::Aes256Gcm,
                replay: Replay { window: 0, esn: false },
                offload: None,
                encap: None,
            },
            keys: KeySource::MeshKey(SecretSource::Env("X".into())),
            rotation: Rotation::Generation(Generation::new(1).unwrap()),
            link: None,
            tunnel: None,
            peers: (1..=peers).map(peer).collect(),
            exceptions: Vec::new(),
        }
    }

    fn local(address: [u8; 4], device: &str) -> LocalAddress {
        LocalAddress { address: address.into(), device: device.into() }
    }

    #[test]
    fn a_host_without_a_peer_s_address_is_shown_what_it_has() {
        let mut addresses = vec![local([127, 0, 0, 1], "lo"), local([192, 0, 2, 77], "u0")];
        let error = |addresses: &[LocalAddress]| {
            local_peer(&config(2), None, addresses).unwrap_err().to_string()
        };
        assert_eq!(
            error(&addresses),
            "this host has no peer's address: it has 192.0.2.77 (u0), and the peers are \
             p1 (192.0.2.1), p2 (192.0.2.2); give the host its address, or say which peer it is \
             with --local NAME"
        );
        assert!(error(&addresses[..1]).contains("it has none that other hosts reach, and"));
        addresses.extend((1..=12).map(|i| local([198, 51, 100, i], "u\x1b")));
        let error = error(&addresses);
        assert!(error.contains("198.51.100.9 (u\u{fffd}) and 3 more, and"), "{error}");
    }

    #[test]
    fn a_name_wins_over_addresses() {
        let config = config(2);
        let peer = local_peer(&config, Some("p2"), &[]).unwrap();
        assert_eq!(peer.name.as_str(), "p2");
    }

    #[test]
    fn the_one_peer_whose_address_is_here_is_local() {
        let config = config(3);
        let peer = local_peer(&config, None, &[local([192, 0, 2, 3], "u0")]).unwrap();
        assert_eq!(peer.name.as_str(), "p3");
    }

    #[test]
    fn a_host_name_is_a_peers_name_with_or_without_a_domain() {
        let mut config = config(2);
        let found = |config: &Config, host_name: &str| {
            peer_by_host_name(config, host_name).unwrap().map(|peer| peer.name.to_string())
        };
        for host_name in ["p2", "P2", "p2.example.org"] {
            assert_eq!(found(&config, host_name).as_deref(), Some("p2"), "{host_name}");
        }
        for host_name in ["", ".", "p", "p22", "x.p2", "localhost"] {
            assert_eq!(found(&config, host_name), None, "{host_name}");
        }
        // The longer name is the very host's.
        config.peers[0].name = PeerName::new("p2.example.org").unwrap();
        assert_eq!(found(&config, "p2.example.org").as_deref(), Some("p2.example.org"));
        assert_eq!(found(&config, "p2.example.com").as_deref(), Some("p2"));
    }

    #[test]
    fn a_host_name_without_a_domain_is_that_of_one_peer_or_an_error() {
        let mut config = config(3);
        config.peers[0].name = PeerName::new("web.a.example").unwrap();
        let found = |config: &Config, host_name: &str| {
            peer_by_host_name(config, host_name).map(|peer| peer.map(|peer| peer.address))
        };
        assert_eq!(found(&config, "WEB"), Ok(Some(IpAddr::from([192, 0, 2, 1]))));
        for host_name in ["web.b.example", "we", "a", "", "web."] {
            assert_eq!(found(&config, host_name), Ok(None), "{host_name}");
        }
        config.peers[1].name = PeerName::new("web.b.example").unwrap();
        let error = found(&config, "web").unwrap_err().to_string();
        assert_eq!(
            error,
            "this host has no peer's address, and its name \"web\" is that of several peers; use \
             --local NAME with one of: web.a.example (192.0.2.1), web.b.example (192.0.2.2)"
        );
        // The name itself is nobody else's.
        config.peers[2].name = PeerName::new("web").unwrap();
        assert_eq!(found(&config, "web"), Ok(Some(IpAddr::from([192, 0, 2, 3]))));
    }

    #[test]
    fn none_and_several_list_the_candidates() {
        let (small, large) = (config(2), config(12));
        assert_eq!(
            local_peer(&small, None, &[local([192, 0, 2, 1], "u0"), local([192, 0, 2, 2], "u0")])
                .unwrap_err()
                .to_string(),
            "this host has the addresses of several peers; use --local NAME with one of: \
             p1 (192.0.2.1), p2 (192.0.2.2)"
        );
        let none = local_peer(&large, None, &[]).unwrap_err().to_string();
        assert!(none.contains("p10 (192.0.2.10) and 2 more; give the host"), "{none}");
        let unknown = local_peer(&small, Some("x\x1b"), &[]).unwrap_err().to_string();
        assert!(unknown.starts_with("no peer is named \"x\u{fffd}\"; "), "{unknown}");
    }
}
