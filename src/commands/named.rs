//! A mesh that is named on the command line, where its file is broken or gone.
//!
//! Nothing of such a mesh is known but its objects in the kernel, by their reqid. The hosts and the
//! mark are read from its live policies.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use crate::{
    cli::{Format, Global, NamedArgs},
    desired::{Desired, Goal, Marking, WantedPolicy},
    error::Error,
    kernel::linux::{Linux, Look},
    model::{
        Direction, ErrorCode, Live, MeshName, NamedMesh, PeerName, Policy, PolicyRole, PortMatch,
        Prefix, Reqid, Sa, Warning, WarningCode, number,
    },
    plan::packets_out,
    privilege,
    render::NamedPeer,
};

/// The mesh that is named, if one is. From then on the process has no more privilege than a look at
/// the kernel and changes to it take.
pub(super) fn named(global: &Global, args: &NamedArgs) -> Result<Option<NamedMesh>, Error> {
    let mesh = match (&args.mesh, &args.reqid) {
        (None, None) => return Ok(None),
        (Some(name), _) => by_name(name)?,
        (None, Some(reqid)) => by_reqid(reqid)?,
    };
    let refused = |option: &str, why: &str| {
        let text = format!("--mesh and --reqid do without a file, {why}: leave {option} out");
        Err(Error::request(ErrorCode::OptionsDisagree, text))
    };
    if global.config.is_some() {
        return refused("-c", "and -c names one");
    }
    if global.local.is_some() {
        return refused("--local", "which alone has names of peers");
    }
    privilege::no_file().map_err(Error::Privilege)?;
    Ok(Some(mesh))
}

fn by_name(name: &str) -> Result<NamedMesh, Error> {
    let name = MeshName::new(name).ok_or_else(|| {
        Error::request(
            ErrorCode::MeshRefused,
            format!(
                "{} can't be a mesh's name: it has 1 to 32 of a-z 0-9 -",
                crate::config::quoted(name)
            ),
        )
    })?;
    Ok(NamedMesh { reqid: Reqid::of_name(&name), name: Some(name) })
}

fn by_reqid(text: &str) -> Result<NamedMesh, Error> {
    let reqid = number(&text.to_ascii_lowercase()).map(Reqid);
    match reqid.filter(|reqid| *reqid >= Reqid::MIN) {
        Some(reqid) => Ok(NamedMesh { name: None, reqid }),
        None => Err(Error::request(
            ErrorCode::MeshRefused,
            format!(
                "{} can't be a mesh's reqid: it is from {} to 0xffffffff, and smaller ones are of \
                 other programs; write it in decimal, or in hex such as 0x4d53a511",
                crate::config::quoted(text),
                Reqid::MIN
            ),
        )),
    }
}

/// Says what to do where a file can't be read, and a mesh is to be removed all the same. Programs
/// get the error alone.
pub(super) fn point_out(global: &Global) {
    if global.format == Format::Text {
        super::say(format_args!(
            "note: destroy --mesh NAME, or --reqid, removes a mesh without its file"
        ));
    }
}

/// The kernel, read as far as the mesh's objects go.
pub(super) fn kernel() -> Result<Linux, Error> {
    Ok(Linux::open()?.looking_at(Look::Leftovers))
}

/// The kernel, read as far as it takes to remove the mesh's objects and to bring them back: chains
/// come back in the system's backend alone, so that has to be known.
pub(super) fn kernel_to_change() -> Result<Linux, Error> {
    Ok(Linux::open()?.looking_at(Look::Guards))
}

/// What a mesh is to be after its destruction, on the host with this live state: nothing. Its hosts
/// are known by their addresses.
pub(super) fn nothing(live: &Live, reqid: Reqid) -> Desired {
    Desired {
        local: local(live, reqid),
        peers: peers(live, reqid).into_iter().map(|at| (at, name_of(at))).collect(),
        goal: Goal::Nothing,
        marking: marking(live, reqid),
        ..Desired::default()
    }
}

/// The policies out that a host holds, as if a file had asked for them: by them packets are judged.
fn held(live: &Live, reqid: Reqid) -> Desired {
    let policies = of_peers(live, reqid).filter(|policy| policy.id.direction == Direction::Out);
    let wanted = policies.map(|policy| {
        let [_, dst] = policy.hosts();
        let peer = name_of(dst);
        (policy.id, WantedPolicy { policy: policy.clone(), peer })
    });
    Desired { policies: wanted.collect(), ..nothing(live, reqid) }
}

/// The address of this host in the mesh.
fn local(live: &Live, reqid: Reqid) -> Option<IpAddr> {
    let mut ends = ends(live, reqid).flatten();
    ends.find(|address| live.0.has_address(*address))
}

/// The addresses of the other hosts.
fn peers(live: &Live, reqid: Reqid) -> BTreeSet<IpAddr> {
    let ends = ends(live, reqid).flatten();
    ends.filter(|address| !live.0.has_address(*address)).collect()
}

/// The ends of SAs, and of policies between two hosts.
fn ends(live: &Live, reqid: Reqid) -> impl Iterator<Item = [IpAddr; 2]> {
    let sas = live.0.sas_of(reqid).map(|sa: &Sa| [sa.src, sa.id.dst]);
    let selectors = of_peers(live, reqid).map(|policy| policy.id.selector);
    let is_host = |prefix: Prefix| prefix == Prefix::host(prefix.address);
    let hosts = selectors.filter(move |selector| is_host(selector.src) && is_host(selector.dst));
    sas.chain(hosts.map(|selector| [selector.src.address, selector.dst.address]))
}

fn of_peers(live: &Live, reqid: Reqid) -> impl Iterator<Item = &Policy> {
    let role = move |policy: &&Policy| policy.role_in(reqid) == Some(PolicyRole::Peer);
    live.0.policies.iter().filter(role)
}

/// The name of a host that has none here.
fn name_of(address: IpAddr) -> PeerName {
    let name = address.to_string().replace(':', "-");
    PeerName::new(&name).expect("an address without colons is a name")
}

/// The mark that selects the traffic, if one does, and the port that packets in are told by.
fn marking(live: &Live, reqid: Reqid) -> Option<Marking> {
    let policies: Vec<&Policy> = of_peers(live, reqid).collect();
    let mut marks = policies.iter().map(|policy| policy.id.mark);
    let mark = marks.find(|mark| !mark.is_none())?;
    let mut inbound = policies.iter().filter(|policy| policy.id.direction == Direction::In);
    let port = inbound.find_map(|policy| {
        let PortMatch { port, mask } = policy.id.selector.dport;
        (mask == u16::MAX).then_some(port)
    });
    Some(Marking { mark, port: port? })
}

/// Warns where nothing is here of a mesh that was named: the name may be misspelt.
pub(super) fn warning(live: &Live, mesh: &NamedMesh) -> Option<Warning> {
    let reqid = mesh.reqid;
    if live.0.has_objects_of(reqid) {
        return None;
    }
    let others = other_reqids(live);
    let listed: Vec<String> =
        others.iter().map(|(reqid, count)| format!("{reqid} ({count})")).collect();
    let here = match listed.is_empty() {
        true => "nor with any other reqid of a mesh".to_owned(),
        false => format!(
            "and with these, which may be meshes', there are (SAs and policies): {}",
            listed.join(", ")
        ),
    };
    let text = format!(
        "no object with reqid {reqid} is here, {here}; is the name right, and did the file give no \
         reqid of its own?"
    );
    Some(Warning::new(WarningCode::NothingNamed, text))
}

/// The reqids of SAs and policies here that a mesh may have, with the numbers of these.
fn other_reqids(live: &Live) -> BTreeMap<Reqid, usize> {
    let sas = live.0.sas.iter().filter(|sa| sa.id.spi.is_mesh()).map(|sa| sa.reqid);
    let of_policy = |policy: &Policy| match policy.templates.first() {
        Some(template) => template.reqid,
        None => Reqid(policy.priority),
    };
    let policies = live.0.policies.iter().map(of_policy).filter(|reqid| reqid.0 != u32::MAX);
    let mut counts = BTreeMap::new();
    for reqid in sas.chain(policies).filter(|reqid| *reqid >= Reqid::MIN) {
        *counts.entry(reqid).or_insert(0) += 1;
    }
    counts
}

/// The hosts of a mesh, with what becomes of packets to them.
pub(super) fn hosts(live: &Live, reqid: Reqid) -> Vec<NamedPeer> {
    let mut packets = packets_out(&live.0, &held(live, reqid), |_| true);
    let host = |address| NamedPeer {
        address,
        packets: packets.remove(&name_of(address)).unwrap_or_default(),
    };
    peers(live, reqid).into_iter().map(host).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        fuzzing::{Mesh, meshes},
        model::{LocalAddress, State},
        plan::{Flow, Phase, Plan},
    };

    /// The host of the first peer of a mesh, which holds all of its objects.
    fn live(mesh: &Mesh) -> Live {
        let desired = &mesh.desired;
        let policies = desired.policies.values().map(|wanted| &wanted.policy);
        let policies = policies.chain(desired.guards.values()).chain(desired.passages.values());
        let address = mesh.local().address;
        Live(State {
            sas: desired.sas.values().map(|wanted| wanted.sa.clone()).collect(),
            policies: policies.cloned().collect(),
            addresses: vec![LocalAddress { address, device: "eth0".into() }],
            ..State::default()
        })
    }

    #[test]
    fn live_policies_tell_the_hosts_and_the_mark() {
        for mesh in meshes() {
            let found = nothing(&live(mesh), mesh.config.reqid);
            assert_eq!(found.local, Some(mesh.local().address));
            let peers: Vec<IpAddr> = found.peers.keys().copied().collect();
            assert_eq!(peers, [mesh.config.peers[1].address]);
            assert_eq!(found.marking, Marking::of(&mesh.config));
        }
    }

    #[test]
    fn all_of_a_mesh_goes_in_the_order_that_it_goes_in_with_its_file() {
        for mesh in meshes() {
            let (live, reqid) = (live(mesh), mesh.config.reqid);
            let file = Desired {
                local: Some(mesh.local().address),
                peers: [(mesh.config.peers[1].address, name_of(mesh.config.peers[1].address))]
                    .into(),
                goal: Goal::Nothing,
                marking: Marking::of(&mesh.config),
                ..Desired::default()
            };
            let steps = |desired: &Desired| -> Vec<(Phase, String)> {
                let plan = Plan::new(desired, &live, reqid);
                plan.steps.iter().map(|step| (step.phase, step.id())).collect()
            };
            let named = steps(&nothing(&live, reqid));
            assert_eq!(named, steps(&file));
            assert_eq!(named.len(), live.0.sas.len() + live.0.policies.len());
        }
    }

    #[test]
    fn packets_are_judged_by_live_policies() {
        let mesh = &meshes()[0];
        let (mut live, reqid) = (live(mesh), mesh.config.reqid);
        let flows = |live: &Live| -> Vec<Flow> {
            let hosts = hosts(live, reqid);
            hosts.iter().flat_map(|host| &host.packets).map(|(_, flow)| *flow).collect()
        };
        assert!(matches!(flows(&live)[..], [Flow::Protected(_)]));
        live.0.sas.clear();
        assert_eq!(flows(&live), [Flow::Blocked]);
    }

    #[test]
    fn a_mesh_that_is_not_here_brings_the_reqids_that_are() {
        let mesh = &meshes()[0];
        let live = live(mesh);
        let named = |reqid| NamedMesh { name: None, reqid };
        assert_eq!(warning(&live, &named(mesh.config.reqid)), None);
        let other = warning(&live, &named(Reqid(0x4d53_0002))).unwrap().text;
        assert!(other.contains("0x4d530001 ("), "{other}");
        let none = warning(&Live::default(), &named(Reqid(0x4d53_0002))).unwrap().text;
        assert!(none.contains("no object with reqid 0x4d530002 is here"), "{none}");
    }

    #[test]
    fn names_and_reqids_of_meshes_are_told_from_others() {
        assert_eq!(by_name("lab").unwrap().reqid, Reqid(0x4d53_a511));
        for text in ["0x4d53a511", "0x4D53A511", "1297327377"] {
            assert_eq!(
                by_reqid(text).unwrap(),
                NamedMesh { name: None, reqid: Reqid(0x4d53_a511) }
            );
        }
        assert!(by_name("Lab").is_err() && by_name("").is_err());
        for text in ["", "lab", "0x", "1", "0xffff", "0x100000000"] {
            assert!(by_reqid(text).is_err(), "{text}");
        }
    }
}
