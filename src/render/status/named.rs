//! The status of a mesh without its file: what the kernel tells of each pair of hosts.

use std::{collections::BTreeMap, fmt::Write, net::IpAddr};

use super::{
    details,
    text::{BOLD, count},
    wrap,
};
use crate::{
    model::{Direction, Live, NamedMesh, OldPairs, PolicyRole, Sa, Selector, Time, Usage, Warning},
    plan::Flow,
    render::{Plain, YELLOW},
    verdict::{Refused, seconds_since},
};

/// The parts of such a status.
pub struct NamedStatusView<'a> {
    /// The mesh.
    pub mesh: &'a NamedMesh,
    /// The time of the look.
    pub now: Time,
    /// The state of the kernel.
    pub live: &'a Live,
    /// The hosts at the other end of the mesh's SAs and policies.
    pub peers: Vec<NamedPeer>,
    /// `/proc/net/xfrm_stat`, the counters that are not 0.
    pub counters: &'a BTreeMap<String, u64>,
    /// Warnings.
    pub warnings: &'a [Warning],
}

/// A host of a mesh without its file.
pub struct NamedPeer {
    /// Its address.
    pub address: IpAddr,
    /// The packets to it that policies of the mesh are for, and what becomes of them.
    pub packets: Vec<(Selector, Flow)>,
}

/// An SA with a host, and its use.
pub(in crate::render) struct NamedSa<'a> {
    pub(in crate::render) sa: &'a Sa,
    /// Seen from here; `None` where neither end is here.
    pub(in crate::render) direction: Option<Direction>,
    /// The generation in its SPI, and the number that it is modulo.
    pub(in crate::render) generation: (u8, u8),
    pub(in crate::render) usage: &'a Usage,
}

impl<'a> NamedStatusView<'a> {
    /// The SAs with each host, outbound ones first.
    pub(in crate::render) fn sas(&self) -> BTreeMap<IpAddr, Vec<NamedSa<'a>>> {
        let live: &'a Live = self.live;
        let old = OldPairs::of(&live.0, self.mesh.reqid);
        let usage: BTreeMap<_, &'a Usage> =
            live.0.usage.iter().map(|usage| (usage.id, usage)).collect();
        let mut hosts = BTreeMap::<_, Vec<NamedSa<'a>>>::new();
        for sa in live.0.sas_of(self.mesh.reqid) {
            let Some(usage) = usage.get(&sa.id) else { continue };
            let direction = match (live.0.has_address(sa.src), live.0.has_address(sa.id.dst)) {
                (true, _) => Some(Direction::Out),
                (false, true) => Some(Direction::In),
                (false, false) => None,
            };
            let far = if direction == Some(Direction::In) { sa.src } else { sa.id.dst };
            let generation = old.generation_low(sa);
            hosts.entry(far).or_default().push(NamedSa { sa, direction, generation, usage });
        }
        for sas in hosts.values_mut() {
            sas.sort_by_key(|found| found.direction != Some(Direction::Out));
        }
        hosts
    }

    /// The numbers of policies that guard and of chains.
    pub(in crate::render) fn guards(&self) -> (usize, usize) {
        let reqid = self.mesh.reqid;
        let is_guard = |role| role == Some(PolicyRole::Guard);
        let policies = self.live.0.policies.iter();
        let guards = policies.filter(|policy| is_guard(policy.role_in(reqid))).count();
        (guards, self.live.0.firewall.chains_of(reqid).count())
    }
}

/// The hosts, one after the other. There is no verdict.
pub fn named_status_text(view: &NamedStatusView<'_>) -> String {
    let mut page = format!("{BOLD}Mesh {}{BOLD:#}: without its file\n", view.mesh);
    wrap::write_paragraph(
        &mut page,
        0,
        "There is no verdict: the objects that should be here are not known, nor the names of \
         hosts, nor whether all hosts are listed.",
    );
    let (guards, chains) = view.guards();
    let guards = count(guards, "policy that guards", "policies that guard");
    let chains = count(chains, "chain", "chains");
    let _ = writeln!(page, "\n{guards}, {chains}");
    let mut sas = view.sas();
    for peer in &view.peers {
        let sas = sas.remove(&peer.address).unwrap_or_default();
        write_peer(&mut page, view.now, peer, &sas);
    }
    if !view.counters.is_empty() {
        let _ = writeln!(page, "\n{BOLD}Refused packets, of all meshes{BOLD:#}");
        for (name, number) in view.counters {
            let _ = writeln!(page, "  {name} {number}");
        }
    }
    for warning in view.warnings {
        let _ = write!(page, "\n{YELLOW}Warning:{YELLOW:#} ");
        wrap::write_wrapped(&mut page, 9, 2, &Plain(warning).to_string());
    }
    page
}

fn write_peer(page: &mut String, now: Time, peer: &NamedPeer, sas: &[NamedSa<'_>]) {
    let _ = writeln!(page, "\n{BOLD}{}{BOLD:#}", peer.address);
    if peer.packets.is_empty() {
        wrap::write_paragraph(page, 2, "no policy of the mesh is for packets to it");
    }
    for (packets, flow) in &peer.packets {
        wrap::write_paragraph(page, 2, &format!("{packets}: {flow}"));
    }
    for NamedSa { sa, direction, generation: (low, cycle), usage } in sas {
        let direction = direction.map_or_else(|| "-".into(), |direction| direction.to_string());
        let mut line = format!(
            "{direction:<3} SPI {}, generation {low} (modulo {cycle}), short_id {} to {}: {}, {} \
             bytes, {}",
            sa.id.spi,
            sa.id.spi.from(),
            sa.id.spi.to(),
            count(usage.packets as usize, "packet", "packets"),
            usage.bytes,
            used(usage, now)
        );
        let refused = Refused {
            too_old: usage.too_old.into(),
            replayed: usage.replayed.into(),
            forged: usage.forged.into(),
        };
        if refused.total() > 0 {
            let _ = write!(line, ", {}", details::refused(refused));
        }
        page.push_str("  ");
        wrap::write_wrapped(page, 2, 6, &line);
    }
}

/// The time of its last use, which kernels before 6.2 do not tell.
fn used(usage: &Usage, now: Time) -> String {
    match usage.last {
        Some(last) => format!("used {} ago", wrap::duration(seconds_since(last, now))),
        None if usage.packets > 0 => "used".into(),
        None => "not used".into(),
    }
}
