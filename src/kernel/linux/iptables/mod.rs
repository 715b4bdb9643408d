//! iptables: the chains of meshes, and the foreign rules that matter to them.
//!
//! [`Iptables`] looks and acts by iptables-save and iptables-restore. `run` runs them, `parse`
//! reads their output, and `text` writes their input. `facts` sums up a host's rules, and `users`
//! finds other users of marks. `follow` follows packets through rules: `nat` finds the rules that
//! change addresses, and `drops` those that drop packets of a mesh. `nf_tables` tells without these
//! programs whether there is a chain of a mesh, and which chains are not iptables'.
//!
//! There are two backends, and the kernel applies the rules of both. iptables and ip6tables each
//! work on one backend, the system's.

mod drops;
mod facts;
mod follow;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
mod nat;
mod nat_of_networks;
mod nf_tables;
mod parse;
mod run;
mod text;
mod users;

use std::{
    cell::OnceCell,
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use super::host::read_if_any;
use crate::{
    kernel::{KernelError, SystemCause, rules},
    model::{
        Backend, ChainId, ChainStep, Family, FilteredPackets, Filters, Firewall, ObjectStep, Reqid,
        Rule, Translation, Unseen,
    },
};

pub(super) use drops::Host;
use facts::FirewallScan;
pub(super) use nat::Packets;
pub(super) use nat_of_networks::NetworkPackets;
use parse::{Table, Tables};

/// The `net` directory of the calling thread's network namespace. `/proc/net`
/// is that of the process's first thread.
const PROC_NET: &str = "/proc/thread-self/net";

/// Waits for the lock of iptables-legacy, which a busy host often holds for a moment. `run` limits
/// the whole.
const RESTORE: [&str; 3] = ["-w", "5", "--noflush"];

/// The programs of this host, found when they are first needed.
#[derive(Default)]
pub(super) struct Iptables {
    families: OnceCell<Vec<Programs>>,
}

/// The programs of a family.
struct Programs {
    family: Family,
    /// The backend of the program `iptables`; `None` where there is none.
    system: Option<Result<Backend, KernelError>>,
    pairs: BTreeMap<Backend, Pair>,
}

/// The rules of a host for one mesh.
pub(super) struct Seen {
    /// The chains of meshes, and the foreign rules that matter to them.
    pub firewall: Firewall,
    /// The nat tables that were read on the way, empty where there is none.
    nat: NatTables,
}

type NatTables = BTreeMap<(Family, Backend), Table>;

/// iptables-save and iptables-restore.
struct Pair {
    save: PathBuf,
    restore: PathBuf,
}

impl Iptables {
    /// The programs. They are asked once for the system's backend.
    fn families(&self) -> &[Programs] {
        self.families.get_or_init(|| Family::ALL.map(Programs::find).into())
    }

    /// The chains of meshes and nothing else: a mesh that uses no marks may have left some behind.
    /// No program runs where there can't be any.
    pub(super) fn leftovers(&self, reqid: Reqid) -> Seen {
        let nothing = Firewall { backends: BTreeMap::new(), whole: false, ..Firewall::default() };
        if !may_hold_chains() {
            return Seen { firewall: nothing, nat: NatTables::new() };
        }
        let Seen { firewall: Firewall { chains, unseen, .. }, nat } = self.observe(reqid);
        Seen { firewall: Firewall { chains, unseen, ..nothing }, nat }
    }

    /// The chains of meshes, and the foreign rules that matter to chains of the mesh with this
    /// reqid. Tables that can't be read are a part of the answer.
    pub(super) fn observe(&self, reqid: Reqid) -> Seen {
        self.look_around(reqid, || Ok(Vec::new()))
    }

    /// The same, and the other users of marks.
    pub(super) fn observe_marks(&self, reqid: Reqid) -> Seen {
        self.look_around(reqid, users::of_marks)
    }

    fn look_around(
        &self,
        reqid: Reqid,
        users: impl FnOnce() -> Result<Vec<(String, u32)>, KernelError>,
    ) -> Seen {
        let mut firewall = Firewall { backends: BTreeMap::new(), ..Firewall::default() };
        let mut nat = NatTables::new();
        let mut facts = FirewallScan::new(reqid);
        if let Err(error) = proc_is_there() {
            let unseen = |family| not_seen(family, true, error.clone());
            firewall.unseen.extend(Family::ALL.map(unseen));
            return Seen { firewall, nat };
        }
        for programs in self.families() {
            let family = programs.family;
            if is_absent(family) {
                firewall.absent.insert(family);
                continue;
            }
            let mut unseen = |system, error| firewall.unseen.push(not_seen(family, system, error));
            match &programs.system {
                Some(Ok(backend)) => drop(firewall.backends.insert(family, *backend)),
                Some(Err(error)) => unseen(true, error.clone()),
                None => {}
            }
            for backend in Backend::ALL {
                match programs.tables(backend) {
                    Ok(mut tables) => {
                        facts.add(family, backend, &tables);
                        // Without a program nothing was read.
                        if programs.pairs.contains_key(&backend) {
                            nat.insert((family, backend), tables.remove("nat").unwrap_or_default());
                        }
                    }
                    Err(error) => unseen(programs.is_system(backend), error),
                }
            }
        }
        match users() {
            Ok(users) => users.into_iter().for_each(|(user, bits)| facts.add_user(user, bits)),
            Err(error) => firewall.unseen.push(not_seen(Family::Ipv4, false, error)),
        }
        Seen { firewall: facts.into_firewall(firewall), nat }
    }

    /// The rules that can change the addresses of packets to peers, in both
    /// backends. A nat table that was seen is not read again, and no program runs where none is.
    ///
    /// # Errors
    ///
    /// Any doubt that all rules were seen.
    pub(super) fn translations(
        &self,
        packets: &Packets,
        seen: &Seen,
    ) -> Result<Vec<Translation>, KernelError> {
        let family = if packets.local.is_ipv4() { Family::Ipv4 } else { Family::Ipv6 };
        let tables = self.nat_tables(family, seen)?;
        let found = tables
            .iter()
            .map(|(backend, table)| nat::translations(family, *backend, table, packets));
        Ok(found.flatten().collect())
    }

    /// The rules that can change the sources of packets between networks, likewise.
    ///
    /// # Errors
    ///
    /// Any doubt that all rules were seen.
    pub(super) fn translations_of_networks(
        &self,
        packets: &NetworkPackets,
        seen: &Seen,
    ) -> Result<Vec<Translation>, KernelError> {
        let mut found = Vec::new();
        for family in Family::ALL.into_iter().filter(|family| !is_absent(*family)) {
            for (backend, table) in self.nat_tables(family, seen)? {
                found.extend(nat_of_networks::translations(family, backend, &table, packets));
            }
        }
        Ok(found)
    }

    /// The nat tables of a family that are there.
    fn nat_tables(
        &self,
        family: Family,
        seen: &Seen,
    ) -> Result<Vec<(Backend, Table)>, KernelError> {
        proc_is_there()?;
        let mut found = Vec::new();
        for backend in Backend::ALL {
            if let Some(table) = seen.nat.get(&(family, backend)) {
                found.push((backend, table.clone()));
                continue;
            }
            let may_be_there = match backend {
                Backend::Legacy => Ok(legacy_tables(family)?.contains("nat")),
                Backend::NfTables => nf_tables::has_nat(family),
            };
            if may_be_there == Ok(false) {
                continue;
            }
            let programs = self.families().iter().find(|programs| programs.family == family);
            let Some(programs) = programs else { continue };
            // Without a program nobody else can say.
            if !programs.pairs.contains_key(&backend) {
                may_be_there?;
            }
            if let Some(table) = programs.nat(backend)?.remove("nat") {
                found.push((backend, table));
            }
        }
        Ok(found)
    }

    /// The rules that drop packets of a mesh, in both backends, and the chains of nf_tables that no
    /// program of iptables lists. What can't be read is a part of the answer.
    pub(super) fn filters(&self, host: &Host, packets: &[FilteredPackets]) -> Filters {
        let mut filters = Filters::default();
        if let Err(error) = proc_is_there() {
            filters.unread.push(error.to_string());
            return filters;
        }
        let family = if host.local.is_ipv4() { Family::Ipv4 } else { Family::Ipv6 };
        match nf_tables::foreign_chains(family) {
            Ok(chains) => {
                (filters.foreign, filters.translating) = (chains.filtering, chains.translating)
            }
            Err(error) => filters.unread.push(error.to_string()),
        }
        for programs in self.families().iter().filter(|programs| programs.family == family) {
            for backend in Backend::ALL {
                match programs.rules(backend) {
                    Ok(tables) => {
                        filters.drops.extend(drops::drops(family, backend, &tables, host, packets));
                    }
                    Err(error) => filters.unread.push(error.to_string()),
                }
            }
        }
        filters
    }

    /// Performs a step about a chain.
    pub(super) fn perform(&self, step: &ChainStep) -> Result<(), KernelError> {
        match step {
            ChainStep::Set { id, rules, jump } => self.set(step, id, rules, *jump),
            ChainStep::Delete(id) => self.delete(step, id),
        }
    }

    fn set(
        &self,
        step: &ChainStep,
        id: &ChainId,
        rules: &[Rule],
        jump: bool,
    ) -> Result<(), KernelError> {
        rules::check_chain(id, rules, step)?;
        let (programs, table) = self.look(step, id)?;
        programs.restore(step, id, &text::set(&table, id, rules, jump))
    }

    fn delete(&self, step: &ChainStep, id: &ChainId) -> Result<(), KernelError> {
        rules::check_chain(id, &[], step)?;
        let (programs, table) = self.look(step, id)?;
        if !table.chains.contains_key(&id.name) {
            return Ok(());
        }
        rules::check_references(&text::references(&table, id), step)?;
        programs.restore(step, id, &text::delete(&table, id))
    }

    /// The table as it is right now: the rules that lead to a chain may have changed since the plan
    /// was made.
    fn look(&self, step: &ChainStep, id: &ChainId) -> Result<(&Programs, Table), KernelError> {
        let programs = self.families().iter().find(|programs| programs.family == id.family);
        let programs = programs.ok_or_else(|| rules::no_programs(id, step))?;
        if !programs.pairs.contains_key(&id.backend) {
            return Err(rules::no_programs(id, step));
        }
        let mut tables = programs.table(id.backend, &id.table)?;
        Ok((programs, tables.remove(&id.table).unwrap_or_default()))
    }
}

impl Programs {
    fn find(family: Family) -> Self {
        let program = family.program();
        let system = run::find(program).map(|path| backend_of(&path));
        let pair = |backend: Backend| {
            let named = format!("{program}-{}", backend.suffix());
            let plain = matches!(&system, Some(Ok(is)) if *is == backend);
            let plain = plain.then(|| program.to_owned());
            [named].into_iter().chain(plain).find_map(|name| {
                let save = run::find(&format!("{name}-save"))?;
                let restore = run::find(&format!("{name}-restore"))?;
                Some((backend, Pair { save, restore }))
            })
        };
        let pairs = Backend::ALL.into_iter().filter_map(pair).collect();
        Self { family, system, pairs }
    }

    fn is_system(&self, backend: Backend) -> bool {
        matches!(&self.system, Some(Ok(is)) if *is == backend)
    }

    /// All tables of a backend.
    fn tables(&self, backend: Backend) -> Result<Tables, KernelError> {
        match backend {
            // One process for all tables. It creates none.
            Backend::NfTables => match self.pairs.get(&backend) {
                Some(pair) => match save(pair, &[]) {
                    // A kernel without nf_tables has no rules in it.
                    Err(KernelError::System { cause: SystemCause::NoNfTables, .. })
                        if !self.is_system(backend) =>
                    {
                        Ok(Tables::new())
                    }
                    other => other,
                },
                None => self.without_nf_tables(),
            },
            // One process for all tables that exist. It creates no other.
            Backend::Legacy => match legacy_tables(self.family)?.first() {
                None => Ok(Tables::new()),
                Some(first) => save(self.pair(backend, first)?, &[]),
            },
        }
    }

    /// All tables of a backend, to find rules of any kind. Where no program lists nf_tables, it must
    /// have no chain of iptables.
    fn rules(&self, backend: Backend) -> Result<Tables, KernelError> {
        if backend == Backend::NfTables && !self.pairs.contains_key(&backend) {
            return match nf_tables::has_chains_of_iptables(self.family)? {
                false => Ok(Tables::new()),
                true => Err(self.not_installed(backend, "tables of iptables are there")),
            };
        }
        self.tables(backend)
    }

    /// No tables. An error if the kernel has a chain of a mesh that no program can list, or does
    /// not say: the programs may have been removed after the chain was set.
    fn without_nf_tables(&self) -> Result<Tables, KernelError> {
        if !nf_tables::has_chains_of_meshes(&[self.family])? {
            return Ok(Tables::new());
        }
        Err(self.not_installed(Backend::NfTables, "chains of a mesh are there"))
    }

    fn not_installed(&self, backend: Backend, found: &str) -> KernelError {
        let program = format!("{}-{}", self.family.program(), backend.suffix());
        KernelError::System {
            cause: SystemCause::ProgramMissing,
            doing: format!("cannot look at the rules of {program}"),
            reason: format!("{found}, and {program}-save is not installed"),
        }
    }

    /// The nat table of a backend.
    fn nat(&self, backend: Backend) -> Result<Tables, KernelError> {
        match self.table(backend, "nat") {
            Err(KernelError::System { cause: SystemCause::NoNfTables, .. }) => Ok(Tables::new()),
            other => other,
        }
    }

    /// One table of a backend; empty where it is not there.
    fn table(&self, backend: Backend, name: &str) -> Result<Tables, KernelError> {
        // iptables-legacy-save makes a table when it is asked for one by name.
        if backend == Backend::Legacy && !legacy_tables(self.family)?.contains(name) {
            return Ok(Tables::new());
        }
        save(self.pair(backend, name)?, &["-t", name])
    }

    /// The programs for a table that is there.
    fn pair(&self, backend: Backend, table: &str) -> Result<&Pair, KernelError> {
        let missing = || self.not_installed(backend, &format!("table {table} is there"));
        self.pairs.get(&backend).ok_or_else(missing)
    }

    fn restore(&self, step: &ChainStep, id: &ChainId, text: &str) -> Result<(), KernelError> {
        let pair = self.pairs.get(&id.backend).ok_or_else(|| rules::no_programs(id, step))?;
        run::run(&pair.restore, &RESTORE, text).map(drop).map_err(|error| KernelError::System {
            cause: SystemCause::Other,
            doing: step.attempt(),
            reason: error.to_string(),
        })
    }
}

fn save(pair: &Pair, arguments: &[&str]) -> Result<Tables, KernelError> {
    let printed = run::run(&pair.save, arguments, "")?;
    parse::tables(&printed).map_err(|reason| KernelError::System {
        cause: SystemCause::Other,
        doing: format!("{} shows what can't be read", pair.save.display()),
        reason,
    })
}

/// The backend of a program: by the file that its links lead to, and otherwise by its version. All
/// programs of a backend are links to one file since iptables 1.8, and a start of one of them takes
/// longer than a look at the SAs and policies of a small mesh.
fn backend_of(program: &Path) -> Result<Backend, KernelError> {
    let file = fs::canonicalize(program).ok();
    let name = file.as_deref().and_then(Path::file_name).and_then(|name| name.to_str());
    match name {
        Some("xtables-nft-multi") => Ok(Backend::NfTables),
        Some("xtables-legacy-multi") => Ok(Backend::Legacy),
        Some(_) | None => backend_by_version(program),
    }
}

/// The backend in `iptables v1.8.9 (nf_tables)`; before 1.8 there was one.
fn backend_by_version(program: &Path) -> Result<Backend, KernelError> {
    let version = run::run(program, &["--version"], "")?;
    if version.contains("(nf_tables)") {
        Ok(Backend::NfTables)
    } else if version.contains("(legacy)") || !version.contains('(') {
        Ok(Backend::Legacy)
    } else {
        Err(KernelError::System {
            cause: SystemCause::Other,
            doing: format!("cannot tell the backend of {}", program.display()),
            reason: format!("its version is {:?}", version.trim()),
        })
    }
}

/// Whether there can be a chain of a mesh. Any doubt is a yes.
fn may_hold_chains() -> bool {
    let has_legacy = |family| legacy_tables(family).map_or(true, |tables| !tables.is_empty());
    proc_is_there().is_err()
        || Family::ALL.into_iter().any(has_legacy)
        || nf_tables::has_chains_of_meshes(&Family::ALL).unwrap_or(true)
}

/// The tables of iptables-legacy that this network namespace has.
fn legacy_tables(family: Family) -> Result<BTreeSet<String>, KernelError> {
    let name = match family {
        Family::Ipv4 => "ip_tables_names",
        Family::Ipv6 => "ip6_tables_names",
    };
    // Without ip_tables in the kernel there is no such file.
    let text = read_if_any(&Path::new(PROC_NET).join(name))?.unwrap_or_default();
    Ok(text.lines().map(String::from).collect())
}

/// Without `/proc` a file that is missing there says nothing.
fn proc_is_there() -> Result<(), KernelError> {
    match fs::metadata(PROC_NET) {
        Ok(_) => Ok(()),
        Err(error) => Err(KernelError::System {
            cause: SystemCause::Other,
            doing: format!("cannot read {PROC_NET}"),
            reason: error.to_string(),
        }),
    }
}

/// Whether the kernel has no such family, so that no packet of it can leave.
fn is_absent(family: Family) -> bool {
    let exists = Path::new(PROC_NET).join("if_inet6").try_exists();
    family == Family::Ipv6 && matches!(exists, Ok(false))
}

fn not_seen(family: Family, system: bool, error: KernelError) -> Unseen {
    let (what, reason) = match error {
        KernelError::System { doing, reason, .. } => (doing, reason),
        error @ (KernelError::Refused { .. }
        | KernelError::Lost { .. }
        | KernelError::Garbled(_)
        | KernelError::Changed(_)) => {
            (format!("cannot look at the rules of {}", family.program()), error.to_string())
        }
    };
    Unseen { family, system, what, reason }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn the_backend_is_told_by_the_file_and_otherwise_by_the_version() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        for (file, backend) in
            [("xtables-nft-multi", Backend::NfTables), ("xtables-legacy-multi", Backend::Legacy)]
        {
            // As with Debian's alternatives. This file can't be run.
            fs::write(path(file), "").unwrap();
            let [first, second] = ["one", "two"].map(|name| path(&format!("{name}-{file}")));
            symlink(file, &first).unwrap();
            symlink(&first, &second).unwrap();
            assert_eq!(backend_of(&second), Ok(backend));
        }
        let says = |version: &str| {
            let program = path("iptables");
            // Written by another process: a thread that forks meanwhile would hold the file open.
            let script = "printf '#!/bin/sh\\necho \"%s\"\\n' \"$1\" > \"$0\"; chmod 755 \"$0\"";
            let mut sh = std::process::Command::new("/bin/sh");
            sh.args(["-c", script]).arg(&program).arg(version);
            assert!(sh.status().unwrap().success());
            backend_of(&program)
        };
        assert_eq!(says("iptables v1.8.9 (nf_tables)"), Ok(Backend::NfTables));
        assert_eq!(says("iptables v1.8.9 (legacy)"), Ok(Backend::Legacy));
        assert_eq!(says("iptables v1.6.2"), Ok(Backend::Legacy));
        let error = says("iptables v9 (ebpf)").unwrap_err().to_string();
        assert!(error.contains("cannot tell the backend"), "{error}");
    }
}
