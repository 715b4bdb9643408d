//! The SAs of others that can matter to a mesh on a host. A host may have a hundred thousand that
//! can't, as one where many road warriors end.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use super::{Direction, Mode, Policy, Prefix, Reqid, Sa, ShortId};

/// A mesh, as far as it tells which SAs of others matter.
#[derive(Debug, Clone)]
pub struct Neighbourhood {
    /// The mesh's own reqid.
    pub reqid: Reqid,
    /// All addresses of its hosts, with their ShortIDs.
    pub hosts: BTreeMap<IpAddr, ShortId>,
    /// The bits of the mark that selects its traffic.
    pub mark: u32,
}

impl Neighbourhood {
    /// Destinations beside the mesh's hosts that its packets may have: hosts that its policies are
    /// still there for, and ends of tunnels that policies send packets to any of these through.
    pub fn further_ends(&self, policies: &[Policy]) -> BTreeSet<IpAddr> {
        let out = || policies.iter().filter(|policy| policy.id.direction == Direction::Out);
        let ours = out().filter(|policy| policy.belongs_to(self.reqid));
        let former = ours.map(|policy| policy.id.selector.dst.address);
        let mut ends: BTreeSet<IpAddr> =
            former.filter(|dst| !self.hosts.contains_key(dst)).collect();
        let covered = |policy: &Policy| {
            let covers = |host: &IpAddr| policy.id.selector.dst.covers(&Prefix::host(*host));
            self.hosts.keys().chain(&ends).any(covers)
        };
        let has_tunnel = |policy: &&Policy| {
            policy.templates.iter().any(|template| template.mode != Mode::Transport)
        };
        let tunnels = out().filter(has_tunnel).filter(|policy| covered(policy));
        let templates = tunnels.flat_map(|policy| &policy.templates);
        let of_tunnels: Vec<IpAddr> = templates.map(|template| template.dst).collect();
        ends.extend(of_tunnels);
        ends
    }

    /// Whether an SA can matter: the mesh's own; any that packets to another host of the mesh, or to
    /// a further end, may leave under; one with the mesh's mark; and one to this host with
    /// an SPI that the mesh could want.
    pub fn holds(&self, sa: &Sa, local: Option<IpAddr>, further: &BTreeSet<IpAddr>) -> bool {
        let is_in_place = || match self.hosts.get(&sa.id.dst) {
            Some(here) if local == Some(sa.id.dst) => {
                sa.id.spi.is_mesh() && sa.id.spi.to() == *here
            }
            Some(_) => true,
            None => further.contains(&sa.id.dst),
        };
        sa.reqid == self.reqid || sa.id.mark.mask & self.mark != 0 || is_in_place()
    }
}
