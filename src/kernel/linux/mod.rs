//! The real kernel, by `NETLINK_XFRM`, rtnetlink, `/proc` and iptables.
//!
//! [`Linux`] works on the network namespace of the thread that opens it; [`netns`] moves there
//! first, [`lock`] keeps two runs apart, and [`clock`] tells the time. The rest is private: `wire`
//! is netlink's framing, `netlink` the socket, `decode` and `encode` turn messages into the model
//! and back. `perform` has the rules of each step, `explain` the meaning of error numbers, and
//! `modules` the reasons why the kernel loads no module. `host` reads sysctls, `link` devices and
//! their addresses, `tunnels` VXLAN and Geneve devices, and `routes` the ways to peers. `interface`,
//! `address` and `fib` have XFRM interfaces, their addresses and the entries of routing tables. `iptables`
//! has the chains, and `encap` the socket for ESP in UDP. [`probe`] sends packets that [`capture`] is to
//! see on the devices. `examine` reads the facts that `doctor` alone asks for, `paths` among them the
//! path MTUs that the kernel knows, and [`ping`] sends pings.

mod address;
pub mod capture;
pub mod clock;
mod decode;
mod encap;
mod encode;
mod examine;
mod explain;
mod fib;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
mod host;
mod interface;
mod iptables;
mod link;
pub mod lock;
mod modules;
mod netlink;
pub mod netns;
mod paths;
mod perform;
pub mod ping;
pub mod probe;
pub mod rights;
mod routes;
mod tunnels;
mod wire;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use netlink_packet_xfrm::constants as xfrm;

use crate::model::{
    Answers, EncapSocket, Hidden, Key, Live, Neighbourhood, Policy, Reqid, Route, Sa, SaId, State,
    Step, Usage, Ways,
};

use super::{Kernel, KernelError};

use decode::Owner;
pub use encap::set_up as encap_socket;
pub use examine::{Question, counters_and_devices};
pub use host::counters;
use link::Devices;
pub use link::{devices_and_addresses, local_addresses};
pub use modules::foreseen as foreseen_refusals;

const LIST_SAS: (u16, u16) = (xfrm::XFRM_MSG_GETSA, xfrm::XFRM_MSG_NEWSA);
const LIST_POLICIES: (u16, u16) = (xfrm::XFRM_MSG_GETPOLICY, xfrm::XFRM_MSG_NEWPOLICY);

/// The kernel that this program runs on, in one network namespace.
///
/// Addresses and sysctls are those of the namespace of the calling thread,
/// which therefore has to stay where it was when this was opened.
pub struct Linux {
    engine: netlink::Engine,
    iptables: iptables::Iptables,
    look: Look,
    ways: Ways,
    foreign: Option<Neighbourhood>,
}

/// The parts of iptables that are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Look {
    /// The chains of meshes. No program runs where there can't be any.
    Leftovers,
    /// The needs of guards that are chains: also the programs, and the rules ahead of the chains.
    Guards,
    /// The needs of a mark: also its other users.
    Marks,
}

impl Linux {
    /// Opens a socket in the calling thread's network namespace.
    ///
    /// # Errors
    ///
    /// [`KernelError::Refused`] where the kernel has no XFRM. Observing and performing need
    /// privilege, opening doesn't.
    pub fn open() -> Result<Self, KernelError> {
        let engine = netlink::Engine::open(netlink::Protocol::Xfrm).map_err(explain::of_access)?;
        let (iptables, ways) = (iptables::Iptables::default(), Ways::default());
        Ok(Self { engine, iptables, look: Look::Marks, ways, foreign: None })
    }

    /// Sets the parts of iptables that are read. Without this call all of them are.
    #[must_use]
    pub fn looking_at(self, look: Look) -> Self {
        Self { look, ..self }
    }

    /// Sets the peers that routes are asked for. Without this call there are none.
    #[must_use]
    pub fn asking_for(self, ways: Ways) -> Self {
        Self { ways, ..self }
    }

    /// Leaves out SAs of others that can't matter to a mesh. Without this call all of them are kept.
    #[must_use]
    pub fn leaving_out_sas(self, but_those_of: Neighbourhood) -> Self {
        Self { foreign: Some(but_those_of), ..self }
    }

    /// The keys of the SAs with this reqid, for a caller that may have to create them again. Keys
    /// that the kernel doesn't show are left out.
    ///
    /// # Errors
    ///
    /// As of [`Kernel::observe`].
    pub fn keys(&mut self, reqid: Reqid) -> Result<Vec<(SaId, Key)>, KernelError> {
        let decode = |message: &mut [u8]| {
            let (sa, _, key) = decode::sa_and_key(message, reqid, &decode::Names::new())?;
            Ok(key.map(|key| (sa.id, key)))
        };
        self.engine.dump(LIST_SAS, &[], "SAs", decode).map_err(explain::of_access)
    }
}

/// Devices, addresses and the ways to peers. Needs no privilege.
///
/// # Errors
///
/// As of [`Kernel::observe`].
pub fn surroundings(ways: &Ways) -> Result<State, KernelError> {
    let devices = Devices::observe()?;
    let routes = routes::observe(ways, &devices)?;
    let Devices { links, addresses, .. } = devices;
    Ok(State { links, addresses, routes, ..State::default() }.sorted())
}

/// The name of this host (`uname -n`); empty where it is not text.
pub fn host_name() -> String {
    rustix::system::uname().nodename().to_str().unwrap_or_default().to_owned()
}

/// The release of the running kernel (`uname -r`).
pub fn kernel_release() -> String {
    rustix::system::uname().release().to_string_lossy().into_owned()
}

/// Whether an SA can matter to the mesh that is looked for, if one is.
fn sas_that_matter<'m>(
    mesh: Option<&'m Neighbourhood>,
    local: Option<IpAddr>,
    policies: &[Policy],
) -> impl Fn(&Sa) -> bool + use<'m> {
    let further = mesh.map(|mesh| mesh.further_ends(policies)).unwrap_or_default();
    move |sa| mesh.is_none_or(|mesh| mesh.holds(sa, local, &further))
}

/// The packets that rules of the nat table are checked for; none where the local peer's address is
/// not known.
fn packets(ways: &Ways, devices: &Devices, routes: &[Route]) -> Option<iptables::Packets> {
    let local = ways.local_among(&devices.addresses)?;
    let all_known = routes.iter().all(|route| !route.devices.is_empty()) && !routes.is_empty();
    let mut addresses = BTreeMap::<String, BTreeSet<IpAddr>>::new();
    for at in &devices.addresses {
        if at.address.is_ipv4() == local.is_ipv4() && !at.is_link_local() {
            addresses.entry(at.device.clone()).or_default().insert(at.address);
        }
    }
    Some(iptables::Packets {
        local,
        peers: ways.peers_of(local).collect(),
        protocol: ways.protocol,
        // Answers of other kinds come from the port, and go to any.
        port: ways.tunnel.and_then(|_| ways.ports.first().copied()),
        esp: false,
        encap: ways.encap_of(local),
        devices: all_known
            .then(|| routes.iter().flat_map(|route| route.devices.iter().cloned()).collect()),
        addresses,
    })
}

/// The packets between this host's networks and those of others, where the mesh has networks.
fn network_packets(ways: &Ways, devices: &Devices) -> Option<iptables::NetworkPackets> {
    let (local, device) = (ways.local_among(&devices.addresses)?, ways.interface.clone()?);
    let of = |is_own: bool| {
        let hosts = ways.behind.iter().filter(move |(host, _)| (**host == local) == is_own);
        hosts.flat_map(|(_, networks)| networks).copied().collect()
    };
    Some(iptables::NetworkPackets { own: of(true), others: of(false), device })
}

/// The part of a state that `NETLINK_XFRM` tells.
struct Objects {
    sas: Vec<Sa>,
    policies: Vec<Policy>,
    socket_policies: Vec<Policy>,
    usage: Vec<Usage>,
    encap: Option<EncapSocket>,
}

impl Linux {
    /// Reads SAs and policies, and whether a socket takes in ESP in UDP.
    fn objects(
        &mut self,
        reqid: Reqid,
        local: Option<IpAddr>,
        devices: &Devices,
    ) -> Result<Objects, KernelError> {
        let engine = &mut self.engine;
        let read = engine
            .dump(LIST_POLICIES, &[], "policies", |message| decode::policy(message).map(Some))
            .map_err(explain::of_access)?;
        let (mut policies, mut socket_policies) = (Vec::with_capacity(read.len()), Vec::new());
        for (policy, owner) in read {
            match owner {
                Owner::Host => policies.push(policy),
                Owner::Socket => socket_policies.push(policy),
            }
        }
        let matters = sas_that_matter(self.foreign.as_ref(), local, &policies);
        // All of them tell which SPI is free, and whether any ESP is here.
        let all = self.ways.encap.is_some();
        let read = engine
            .dump(LIST_SAS, &[], "SAs", |message| {
                let (sa, usage) = decode::sa(message, reqid, &devices.names)?;
                Ok((all || matters(&sa)).then_some((sa, usage)))
            })
            .map_err(explain::of_access)?;
        let ours = |(sa, usage): &(Sa, Usage)| (sa.reqid == reqid).then_some(*usage);
        let usage = read.iter().filter_map(ours).collect();
        let mut sas: Vec<Sa> = read.into_iter().map(|(sa, _)| sa).collect();
        let vrf = local.and_then(|local| devices.vrfs_of(local).pop_first());
        let vrf = vrf.and_then(|vrf| devices.vrf_by_index(vrf));
        let encap = self.ways.encap.map(|port| match local {
            Some(local) => encap::observe(port, (local, vrf.as_deref()), &sas),
            None => EncapSocket { port, answers: Answers::Unknown, is_bound: false },
        });
        sas.retain(|sa| matters(sa));
        Ok(Objects { sas, policies, socket_policies, usage, encap })
    }
}

impl Kernel for Linux {
    fn observe(&mut self, reqid: Reqid) -> Result<Live, KernelError> {
        let devices = Devices::observe()?;
        let routes = routes::observe(&self.ways, &devices)?;
        let tunnels = Some(tunnels::with_entries(&devices)?);
        let fib = fib::observe(&self.ways, &devices)?;
        let seen = match self.look {
            Look::Leftovers => self.iptables.leftovers(reqid),
            Look::Guards => self.iptables.observe(reqid),
            Look::Marks => self.iptables.observe_marks(reqid),
        };
        let of_networks = network_packets(&self.ways, &devices);
        let translations = match (of_networks, packets(&self.ways, &devices, &routes)) {
            (Some(packets), _) => self.iptables.translations_of_networks(&packets, &seen),
            (None, Some(packets)) => self.iptables.translations(&packets, &seen),
            (None, None) => Ok(Vec::new()),
        };
        let local = self.ways.local_among(&devices.addresses);
        let Objects { sas, policies, socket_policies, usage, encap } =
            self.objects(reqid, local, &devices)?;
        let keepalives = self.ways.encap.and_then(|_| host::keepalives());
        let Devices { links, addresses, interfaces, .. } = devices;
        let own = interfaces.iter().find(|interface| interface.belongs_to(reqid));
        let ipv6_off = !self.ways.networks.is_empty()
            && host::ipv6_off(own.map(|interface| interface.name.as_str()))?;
        let bypasses = host::bypasses(&links)?;
        let hidden = [
            bypasses.is_none().then_some(Hidden::Sysctls),
            translations.is_err().then_some(Hidden::Translations),
        ];
        Ok(Live(
            State {
                sas,
                policies,
                socket_policies,
                addresses,
                links,
                interfaces,
                fib,
                bypasses: bypasses.unwrap_or_default(),
                routes,
                tunnels,
                translations: translations.unwrap_or_default(),
                hidden: hidden.into_iter().flatten().collect(),
                usage,
                encap,
                keepalives,
                ipv6_off,
                firewall: seen.firewall,
            }
            .sorted(),
        ))
    }

    fn perform(&mut self, steps: &[Step]) -> Result<Vec<Result<(), KernelError>>, KernelError> {
        perform::perform(&mut self.engine, &self.iptables, steps)
    }
}
