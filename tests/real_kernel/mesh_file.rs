//! The text of mesh.toml.

use std::fmt::Write;

/// The mesh's secret, in hex, as mesh.key has it.
pub const MESH_KEY: &str = "5f2cbd3f1d0e6a7788c9a1b2c3d4e5f60718293a4b5c6d7e8f90a1b2c3d4e5f6";

/// The content of a mesh.toml.
#[derive(Debug, Clone)]
pub struct MeshFile {
    pub name: &'static str,
    pub generation: u64,
    /// Stands in place of the generation.
    pub period: Option<&'static str>,
    /// Lines of `[mesh]`, but for the name.
    pub lines: String,
    /// Lines of `[traffic]`, but for the guard.
    pub traffic: &'static str,
    /// Lines of `[esp]`.
    pub esp: &'static str,
    /// Lines of `[keys]`.
    pub keys: &'static str,
    /// `true`, `false` or `"xfrm"`, with its quotes; empty for the default.
    pub guard: &'static str,
    /// Lines of `[link]`; without any there is no such table.
    pub link: &'static str,
    pub peers: Vec<Peer>,
    /// Whatever follows the peers.
    pub tail: &'static str,
}

/// One `[[peer]]`.
#[derive(Debug, Clone)]
pub struct Peer {
    pub name: String,
    pub short_id: usize,
    pub address: String,
    pub public_key: Option<String>,
    pub stage: Option<&'static str>,
    pub outside: Option<&'static str>,
    /// Its other lines.
    pub lines: String,
}

impl MeshFile {
    /// The same with another generation.
    pub fn of_generation(&self, generation: u64) -> Self {
        Self { generation, ..self.clone() }
    }

    /// The same at a stage.
    pub fn at(&self, stage: &'static str) -> Self {
        Self { lines: stage_line(Some(stage)), ..self.clone() }
    }

    /// The same with these peers only, by their place.
    pub fn of_peers(&self, places: &[usize]) -> Self {
        let peers = places.iter().map(|&place| self.peers[place].clone()).collect();
        Self { peers, ..self.clone() }
    }

    /// Another mesh of the same hosts, with ShortIDs that are larger by this.
    pub fn renamed(&self, name: &'static str, by: usize) -> Self {
        let mut other = Self { name, ..self.clone() };
        other.peers.iter_mut().for_each(|peer| peer.short_id += by);
        other
    }

    /// The file's text.
    pub fn text(&self) -> String {
        let rotation = match self.period {
            Some(period) => format!("period = \"{period}\""),
            None => format!("generation = {}", self.generation),
        };
        let guard = match self.guard {
            "" => String::new(),
            guard => format!("guard = {guard}"),
        };
        let mut text = format!(
            "[mesh]\nname = \"{}\"\n{}\n[traffic]\n{}\n{}\n\n\
             [esp]\n{}\n\n[keys]\n{}\n\n\
             [rotation]\n{rotation}\n",
            self.name, self.lines, self.traffic, guard, self.esp, self.keys
        );
        if !self.link.is_empty() {
            let _ = write!(text, "\n[link]\n{}\n", self.link);
        }
        for peer in &self.peers {
            let Peer { name, short_id, address, public_key, stage: at, outside, lines } = peer;
            let _ = write!(
                text,
                "\n[[peer]]\nname = \"{name}\"\nshort_id = {short_id}\naddress = \"{address}\"\n"
            );
            if let Some(public_key) = public_key {
                let _ = writeln!(text, "public_key = \"{public_key}\"");
            }
            if let Some(outside) = outside {
                let _ = writeln!(text, "outside = \"{outside}\"");
            }
            text.push_str(&stage_line(*at));
            text.push_str(lines);
        }
        text.push_str(self.tail);
        text
    }
}

/// The line of a stage, if there is one.
fn stage_line(stage: Option<&str>) -> String {
    stage.map(|stage| format!("stage = \"{stage}\"\n")).unwrap_or_default()
}
