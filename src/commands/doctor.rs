//! `doctor`: why traffic is dead or in the clear, on this host, or on which host to look.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    thread,
    time::Instant,
};

use super::{Status, moment, print, print_json, status};
use crate::{
    cli::{DoctorArgs, Format, Global},
    config::{Config, LocalError, Moment, Peer, SecretsMode, Traffic},
    desired::{Desired, desired, ways},
    diagnosis::{Facts, Finding, MeshFacts, Outcome, diagnose},
    error::Error,
    kernel::{
        Kernel, KernelError, Linux,
        linux::{Question, clock, counters_and_devices, ping::Pinger, surroundings},
    },
    model::{
        CheckCode, Counters, Direction, Examination, FilteredPackets, IPPROTO_ESP, IPPROTO_UDP,
        Live, PacketKind, PeerName, Probe, State, Time, Ways,
    },
    plan::Plan,
    privilege::{self, Files},
    render::{DoctorView, doctor_json, doctor_text},
    verdict::{Case, Sightings, judge},
};

/// The ports of the traffic that rules are asked about.
const MOST_PORTS: usize = 16;

/// Needs no secret: keys are not compared.
pub(super) fn run(global: &Global, args: &DoctorArgs) -> Result<Status, Error> {
    let loaded = super::load(global, SecretsMode::Ignored, Files::Neither)?;
    let config = &loaded.config;
    let mut doctor = Doctor {
        global,
        args,
        config,
        asked: super::asked(config, &args.peers)?,
        kernel: super::kernel_for(global, config),
        ways: ways(config, global.local.as_deref()),
        sightings: Sightings::default(),
    };
    let first = doctor.look()?;
    let before = counters_and_devices();
    let begun = Instant::now();
    let examination = doctor.examine(&first)?;
    thread::sleep(args.time.saturating_sub(begun.elapsed()));
    let after = counters_and_devices();
    let seconds = begun.elapsed().as_secs().max(1);
    let second = doctor.look()?;
    doctor.report(&first, &second, &examination, [&before, &after], seconds)
}

struct Doctor<'a> {
    global: &'a Global,
    args: &'a DoctorArgs,
    config: &'a Config,
    asked: BTreeSet<PeerName>,
    kernel: Result<Linux, KernelError>,
    ways: Ways,
    sightings: Sightings,
}

/// The result of one look.
struct Look<'a> {
    now: Time,
    local: Option<&'a Peer>,
    live: Live,
    /// The file's objects beside those of the host; `None` where that can't be told.
    wanted: Option<Wanted>,
    /// Why the host can't be judged.
    stop: Option<Finding>,
}

struct Wanted {
    moment: Moment,
    desired: Desired,
    plan: Plan,
}

impl<'a> Doctor<'a> {
    fn look(&mut self) -> Result<Look<'a>, Error> {
        let (live, unread) = self.observe()?;
        let now = clock::now();
        let mut look = Look { now, local: None, live, wanted: None, stop: unread };
        self.sightings.complete(&mut look.live.0, now);
        match super::local_peer(self.global, self.config, &look.live.0.addresses) {
            Ok(local) => look.local = Some(local),
            Err(error @ LocalError::NoAddress { .. }) => {
                look.stop = Some(stop(CheckCode::OwnAddress, Outcome::Attention, error));
                return Ok(look);
            }
            Err(error) => return Err(error.into()),
        }
        match moment::at(self.config, now) {
            Ok(moment) => look.wanted = Some(self.wanted(&look, moment)?),
            Err(error) => {
                let text = error.to_string();
                let text = text.trim_start_matches("error: ").to_owned();
                look.stop = Some(stop(CheckCode::Clock, Outcome::Attention, text));
            }
        }
        Ok(look)
    }

    /// The host, or else those parts of it that need no privilege.
    fn observe(&mut self) -> Result<(Live, Option<Finding>), Error> {
        let reqid = self.config.reqid;
        let observed = match &mut self.kernel {
            Ok(kernel) => kernel.observe(reqid),
            Err(error) => Err(error.clone()),
        };
        match observed {
            Ok(live) => Ok((live, None)),
            Err(error) => {
                let finding = stop(CheckCode::ObjectsUnread, Outcome::Unknown, error);
                Ok((Live(surroundings(&self.ways)?), Some(finding)))
            }
        }
    }

    fn wanted(&self, look: &Look<'a>, moment: Moment) -> Result<Wanted, Error> {
        let local = look.local.expect("it is known where the file's objects are");
        let (desired, _) = desired(self.config, moment, local, None);
        status::are_pairs(&self.asked, local, &desired)?;
        let plan = Plan::new(&desired, &look.live, self.config.reqid);
        Ok(Wanted { moment, desired, plan })
    }

    fn examine(&self, look: &Look<'a>) -> Result<Examination, Error> {
        let local = look.local.map(|local| local.address);
        let peers: Vec<IpAddr> = match &look.wanted {
            None => Vec::new(),
            Some(wanted) => {
                let is_asked = |name: &PeerName| self.asked.is_empty() || self.asked.contains(name);
                let peers = wanted.desired.peers.iter().filter(|(_, name)| is_asked(name));
                peers.map(|(address, _)| *address).collect()
            }
        };
        let routes = &look.live.0.routes;
        let are_known = !routes.is_empty() && routes.iter().all(|route| !route.devices.is_empty());
        let devices = routes.iter().flat_map(|route| route.devices.iter().cloned());
        let question = Question {
            local,
            devices: are_known.then(|| devices.collect()),
            packets: match (&look.wanted, look.local) {
                (Some(wanted), Some(local)) => self.packets(wanted, local, &peers),
                _ => Vec::new(),
            },
            sas: look
                .wanted
                .iter()
                .flat_map(|it| it.desired.sas.values().map(|it| &it.sa))
                .collect(),
            peers,
        };
        let mut examination = match (&self.kernel, &look.stop) {
            (Ok(kernel), None) => kernel.examine(&question),
            _ => Examination::without_rules(&question),
        };
        if let (true, Some(local)) = (self.args.probe, local) {
            examination.probes = self.probe(local, &question.peers, &look.live.0)?;
        }
        Ok(examination)
    }

    /// The packets that have to pass the firewall.
    fn packets(&self, wanted: &Wanted, local: &Peer, peers: &[IpAddr]) -> Vec<FilteredPackets> {
        let esp = &self.config.esp;
        let packets = |kind, direction, protocol, port, peers: &[IpAddr]| FilteredPackets {
            kind,
            direction,
            protocol,
            port,
            peers: peers.to_vec(),
        };
        let (input, output) = (Direction::In, Direction::Out);
        let mut all = Vec::new();
        match esp.port_at(wanted.moment.generation) {
            None => {
                let esp = |direction| packets(PacketKind::Esp, direction, IPPROTO_ESP, None, peers);
                all.extend([input, output].map(esp));
            }
            Some(port) => {
                let datagrams = |direction, port, peers: &[IpAddr]| {
                    packets(PacketKind::EspInUdp, direction, IPPROTO_UDP, Some(port), peers)
                };
                all.push(datagrams(input, port, peers));
                for (port, mut to) in self.ways.encap_of(local.address) {
                    to.retain(|to| peers.contains(to));
                    all.push(datagrams(output, port, &to));
                }
            }
        }
        let (protocol, ports): (u8, Vec<u16>) = match self.config.traffic {
            Traffic::All | Traffic::Networks => return all,
            Traffic::Vxlan { port } | Traffic::Geneve { port } => (IPPROTO_UDP, vec![port]),
            Traffic::Port { protocol, ports } => {
                (protocol.number(), ports.iter().take(MOST_PORTS).collect())
            }
        };
        for port in ports {
            let inside =
                |direction| packets(PacketKind::Inside, direction, protocol, Some(port), peers);
            all.extend([input, output].map(inside));
        }
        all
    }

    /// Pings the peers, each with packets of the MTU of its device.
    fn probe(
        &self,
        local: IpAddr,
        peers: &[IpAddr],
        state: &State,
    ) -> Result<BTreeMap<IpAddr, Probe>, Error> {
        let opened =
            privilege::with_raw_sockets(|| Pinger::open(local)).map_err(Error::Privilege)?;
        let mtu = |to: &IpAddr| {
            let devices = state.route(local, *to).map(|route| &route.devices);
            let links = devices.into_iter().flatten().filter_map(|device| state.link(device));
            links.map(|link| link.mtu.min(u32::from(u16::MAX))).min().unwrap_or_default()
        };
        Ok(match opened {
            Ok(pinger) => {
                let pings: Vec<(IpAddr, u32)> = peers.iter().map(|to| (*to, mtu(to))).collect();
                pinger.probe(&pings)
            }
            Err(error) => {
                let failed = Probe { failure: Some(error.to_string()), ..Probe::default() };
                peers.iter().map(|to| (*to, failed.clone())).collect()
            }
        })
    }

    fn report(
        &self,
        first: &Look<'a>,
        second: &Look<'a>,
        examination: &Examination,
        counters: [&Counters; 2],
        seconds: u64,
    ) -> Result<Status, Error> {
        let case = match (&second.wanted, second.local, &second.stop) {
            (Some(Wanted { moment, desired, plan }), Some(local), None) => Some(Case {
                config: self.config,
                moment: *moment,
                now: second.now,
                local,
                desired,
                live: &second.live,
                plan,
                asked: &self.asked,
                strict: false,
            }),
            _ => None,
        };
        let judged = case.as_ref().map(judge);
        let mesh = case.zip(judged.as_ref());
        let mesh =
            mesh.map(|(case, judged)| MeshFacts { case, judged, before: &first.live.0.usage });
        let facts = Facts {
            config: self.config,
            local: second.local,
            now: second.now,
            seconds,
            state: &second.live.0,
            mesh,
            stop: second.stop.clone(),
            warnings: second.wanted.as_ref().map_or(&[], |wanted| &wanted.plan.warnings),
            counters,
            examination,
        };
        let diagnosis = diagnose(&facts);
        let view = DoctorView { facts: &facts, diagnosis: &diagnosis, verbose: self.args.verbose };
        match self.global.format {
            Format::Text | Format::Prometheus => print(&doctor_text(&view))?,
            Format::Json => print_json(&doctor_json(&view))?,
        }
        Ok(if diagnosis.needs_attention { Status::Attention } else { Status::Done })
    }
}

fn stop(code: CheckCode, outcome: Outcome, why: impl ToString) -> Finding {
    Finding::new(code, outcome, why.to_string()).cause()
}
