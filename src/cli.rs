//! The command line: types for clap, and nothing else.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use clap::{
    Args, Parser, Subcommand, ValueEnum,
    error::{ContextKind, ContextValue, ErrorKind},
};

/// The examples below the help of a command, a line each.
macro_rules! examples {
    ($($line:literal),+) => { concat!("Examples:" $(, "\n  ", $line)+) };
}

/// The mesh's file, where none is named.
pub const DEFAULT_FILE: &str = "/etc/meshsec/mesh.toml";

/// Terraform for IPsec: plan and apply an encrypted mesh from one TOML file.
#[derive(Debug, Parser)]
#[command(name = "meshsec", version, arg_required_else_help = true)]
#[command(
    after_help = "Is something wrong? See meshsec-troubleshooting(7).\nSee meshsec(8) for the commands and meshsec.toml(5) for the file."
)]
pub struct Cli {
    /// Options of every command.
    #[command(flatten)]
    pub global: Global,
    /// The command.
    #[command(subcommand)]
    pub command: Command,
}

/// Options of every command.
#[derive(Debug, Args)]
pub struct Global {
    /// The mesh's file, or - for standard input; by default /etc/meshsec/mesh.toml
    #[arg(short, long, value_name = "FILE", global = true)]
    pub config: Option<PathBuf>,
    /// The peer that this host is; by default the one whose address it has
    #[arg(long, value_name = "NAME", global = true)]
    pub local: Option<String>,
    /// Work in this network namespace, as `ip netns` names it
    #[arg(long, value_name = "NAME", global = true)]
    pub netns: Option<String>,
    /// How to print
    #[arg(long, value_name = "FORMAT", global = true, value_enum, default_value_t = Format::Text)]
    pub format: Format,
    /// Colours in text; auto is for terminals alone
    #[arg(long, value_name = "WHEN", global = true, value_enum, default_value_t = Color::Auto)]
    pub color: Color,
}

impl Global {
    /// The mesh's file.
    pub fn file(&self) -> &Path {
        self.config.as_deref().unwrap_or(Path::new(DEFAULT_FILE))
    }

    /// The options that say which mesh and host another command is for, each behind a space.
    pub fn same_host(&self) -> String {
        let file = self.config.as_ref().map(|path| format!(" -c {}", path.display()));
        let local = self.local.as_ref().map(|name| format!(" --local {name}"));
        let netns = self.netns.as_ref().map(|name| format!(" --netns {name}"));
        [file, local, netns].into_iter().flatten().collect()
    }
}

/// How to print.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people
    Text,
    /// For programs
    Json,
    /// For Prometheus, by node_exporter's textfile collector; status only
    Prometheus,
}

/// When text has colours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Color {
    /// On a terminal
    Auto,
    /// In pipes and files too, as for less -R
    Always,
    /// Nowhere
    Never,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Check the file and its secrets; needs no privilege
    #[command(after_help = examples!("meshsec -c mesh.toml validate", "meshsec -c mesh.toml validate --without-secrets"))]
    Validate(ValidateArgs),
    /// Show what apply would do
    #[command(after_help = examples!("meshsec plan", "meshsec plan --summary", "meshsec -c mesh.toml plan --live empty --local a   # anywhere, without privilege", "meshsec plan --out plan.json   # then: meshsec apply plan.json"))]
    Plan(PlanArgs),
    /// Show the plan, ask, do it and prove that it is done
    #[command(after_help = examples!("meshsec apply", "meshsec apply --confirm-within 60s   # then: meshsec confirm", "meshsec apply --auto-approve --quiet"))]
    Apply(ApplyArgs),
    /// Remove everything of this mesh from this host; needs no secret
    #[command(after_help = examples!("meshsec destroy", "meshsec destroy --mesh lab   # without its file"))]
    Destroy(DestroyArgs),
    /// Keep what an apply or destroy with --confirm-within has done
    #[command(after_help = examples!("meshsec confirm"))]
    Confirm,
    /// Show live objects in the file's words
    #[command(after_help = examples!("meshsec show", "meshsec show --all"))]
    Show(ShowArgs),
    /// Show whether each peer is protected; exit with 2 if somebody should look
    #[command(after_help = examples!("meshsec status", "meshsec status b --watch", "meshsec status --wait-heard 5m"))]
    Status(StatusArgs),
    /// Send probes to peers and capture them: evidence that they leave encrypted, for an auditor
    #[command(after_help = examples!("meshsec prove", "meshsec prove --format json > a.json", "meshsec prove --compare a.json b.json   # anywhere, without privilege"))]
    Prove(ProveArgs),
    /// Find out why traffic is dead or in the clear, here or on which host; exit with 2 if it is
    #[command(after_help = examples!("meshsec doctor", "meshsec doctor b --probe   # with pings, in the clear", "meshsec doctor --for 10s --format json"))]
    Doctor(DoctorArgs),
    /// Print the live state as JSON, without keys: input of plan --live FILE
    #[command(after_help = examples!("meshsec snapshot > a.json   # then, anywhere: meshsec plan --live a.json"))]
    Snapshot,
    /// Tell what becomes of a packet, such as 'udp 192.0.2.1 > 192.0.2.2:4789', and why
    #[command(after_help = examples!("meshsec explain 'udp 192.0.2.1 > 192.0.2.2:4789'", "meshsec explain 'tcp 192.0.2.2 > 192.0.2.1:22' --after-plan"))]
    Explain(ExplainArgs),
    /// Tell what differs between this host and another, by its snapshot; exit with 2 if packets get lost
    #[command(after_help = examples!("meshsec compare b.json   # b's snapshot", "meshsec compare --all hosts   # a folder of snapshots, without privilege"))]
    Compare(CompareArgs),
    /// Show how large a packet may be, part by part; needs no privilege
    #[command(after_help = examples!("meshsec mtu", "meshsec mtu --underlay-mtu 9000"))]
    Mtu(MtuArgs),
    /// Print a new X25519 private key, as wg genkey does
    #[command(after_help = examples!("meshsec genkey > /etc/meshsec/private.key"))]
    Genkey,
    /// Print a new 32-byte secret, as wg genpsk does
    #[command(after_help = examples!("meshsec genpsk > /etc/meshsec/mesh.key"))]
    Genpsk,
    /// Print the public key of a private key on standard input, as wg pubkey does
    #[command(after_help = examples!("meshsec pubkey < /etc/meshsec/private.key"))]
    Pubkey,
    /// Raise generation in the file by one, and change nothing else in it
    #[command(after_help = examples!("meshsec rotate", "meshsec rotate --here   # only if all hosts have followed"))]
    Rotate(EvidenceArgs),
    /// Tell whether all hosts have applied the generation; exit with 2 if they are not known to
    #[command(after_help = examples!("meshsec settled --for 5m", "meshsec settled --seen a.json b.json c.json"))]
    Settled(EvidenceArgs),
    /// Make the ratchet of the file, or turn it
    #[command(subcommand)]
    #[command(after_help = examples!("meshsec ratchet init < mesh.key", "meshsec ratchet advance --to 12"))]
    Ratchet(RatchetCommand),
    /// Decode an SPI into generation, lane, from and to
    #[command(after_help = examples!("meshsec spi 0x84001002", "meshsec spi spi=0x84001002   # as tcpdump prints it"))]
    Spi(SpiArgs),
    /// Print this host's objects with their keys, for ip or Wireshark
    #[command(after_help = examples!(
        "meshsec export --as ip-batch --show-secrets > lines   # then: ip -batch lines",
        "meshsec export --as wireshark --show-secrets > ~/.config/wireshark/esp_sa"
    ))]
    Export(ExportArgs),
    /// Print the script by which a shell completes command lines, peers and namespaces included
    #[command(after_help = examples!("source <(meshsec completions bash)"))]
    Completions(CompletionsArgs),
    /// Make the sockets that systemd passes take ESP out of UDP; for meshsec-encap@.service
    #[command(after_help = examples!("systemctl enable --now meshsec-encap@4500.socket   # runs it"))]
    EncapSocket,
}

/// The commands of `ratchet`.
#[derive(Debug, Subcommand)]
pub enum RatchetCommand {
    /// Make the file from the mesh key on standard input
    Init,
    /// Destroy the keys of all generations before this one
    Advance(AdvanceArgs),
}

/// Arguments of `ratchet advance`.
#[derive(Debug, Args)]
pub struct AdvanceArgs {
    /// The oldest generation whose keys are kept
    #[arg(long, value_name = "GENERATION")]
    pub to: u64,
}

/// Arguments of `validate`.
#[derive(Debug, Args)]
pub struct ValidateArgs {
    /// Check all but the secrets, which may be absent or unreadable, as in continuous integration
    #[arg(long)]
    pub without_secrets: bool,
}

/// Arguments of `plan`.
#[derive(Debug, Args)]
pub struct PlanArgs {
    /// Compare with the kernel (by default), an empty host or a snapshot's FILE; with --all, with a
    /// folder of snapshots
    #[arg(long, value_name = "kernel|empty|FILE")]
    pub live: Option<String>,
    /// Plan for every peer at once, by default from empty hosts, and check that all pairs agree
    #[arg(long, conflicts_with_all = ["out", "summary", "quiet", "peers"])]
    pub all: bool,
    /// Exit with 2 if there are changes
    #[arg(long)]
    pub detailed_exitcode: bool,
    /// How much of the plan to show.
    #[command(flatten)]
    pub extent: ExtentArgs,
    /// Show the changes of this peer alone; may be given several times
    #[arg(long = "peer", value_name = "NAME", conflicts_with_all = ["summary", "quiet"])]
    pub peers: Vec<String>,
    /// Save the plan for apply FILE, which performs it only if nothing has changed
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,
}

impl PlanArgs {
    /// The source of the live side.
    pub fn live(&self) -> &str {
        let default = if self.all { "empty" } else { "kernel" };
        self.live.as_deref().unwrap_or(default)
    }
}

/// How much of a plan's text to show.
#[derive(Debug, Clone, Copy, Args)]
#[group(multiple = false)]
pub struct ExtentArgs {
    /// Show how many changes there are of each peer, and no single one
    #[arg(long)]
    pub summary: bool,
    /// Show one line: the number of changes and of warnings, or the error
    #[arg(short, long)]
    pub quiet: bool,
}

/// Arguments of `apply`.
#[derive(Debug, Args)]
pub struct ApplyArgs {
    /// A plan that plan --out saved: it is performed without asking, if nothing has changed
    #[arg(value_name = "PLAN")]
    pub plan: Option<PathBuf>,
    /// How to run.
    #[command(flatten)]
    pub run: RunArgs,
}

/// Arguments of `apply` and `destroy`.
#[derive(Debug, Args)]
pub struct RunArgs {
    /// Don't ask
    #[arg(long)]
    pub auto_approve: bool,
    /// How much of the plan to show.
    #[command(flatten)]
    pub extent: ExtentArgs,
    /// How long to wait for another run in this network namespace, such as 500ms or 2m
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = humantime::parse_duration)]
    pub lock_timeout: Duration,
    /// Take all back unless `meshsec confirm` is run in this time, from 1s to 24h
    #[arg(long, value_name = "DURATION", value_parser = confirm_within)]
    pub confirm_within: Option<Duration>,
}

/// Arguments of `destroy`.
#[derive(Debug, Args)]
pub struct DestroyArgs {
    /// How to run.
    #[command(flatten)]
    pub run: RunArgs,
    /// Which mesh, where there is no file.
    #[command(flatten)]
    pub named: NamedArgs,
}

/// Names a mesh without its file.
#[derive(Debug, Args)]
#[group(multiple = false)]
pub struct NamedArgs {
    /// Without a file: the mesh of this name, under the reqid that follows from the name
    #[arg(long, value_name = "NAME")]
    pub mesh: Option<String>,
    /// Without a file: the mesh with this reqid, such as 0x4d53a511
    #[arg(long, value_name = "REQID")]
    pub reqid: Option<String>,
}

impl NamedArgs {
    /// Whether a mesh is named, so that no file is read.
    pub fn is_given(&self) -> bool {
        self.mesh.is_some() || self.reqid.is_some()
    }
}

/// An error of the command line, with a tip where the intended word is known.
pub fn with_tip(mut error: clap::Error) -> clap::Error {
    if error.kind() != ErrorKind::UnknownArgument {
        return error;
    }
    let Some(ContextValue::String(given)) = error.get(ContextKind::InvalidArg) else {
        return error;
    };
    let tip = match given.as_str() {
        "-y" | "--yes" | "--force" | "-f" | "--auto_approve" => "write --auto-approve",
        "-n" | "--dry-run" | "--check" => "meshsec plan shows what apply would do",
        "-v" | "-vv" | "--verbose" => "there is no more to say; --format json has all of it",
        file if file.ends_with(".toml") => "the mesh's file is named with -c FILE",
        _ => return error,
    };
    error.insert(ContextKind::Suggested, ContextValue::StyledStrs(vec![tip.into()]));
    error.remove(ContextKind::SuggestedArg);
    error
}

fn confirm_within(text: &str) -> Result<Duration, String> {
    let time = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    let allowed = Duration::from_secs(1)..=Duration::from_secs(24 * 3600);
    if allowed.contains(&time) { Ok(time) } else { Err("it is from 1s to 24h".into()) }
}

/// Arguments of `show`.
#[derive(Debug, Args)]
pub struct ShowArgs {
    /// List foreign objects too
    #[arg(long)]
    pub all: bool,
    /// Which mesh, where there is no file.
    #[command(flatten)]
    pub named: NamedArgs,
}

/// Arguments of `status`.
#[derive(Debug, Args)]
pub struct StatusArgs {
    /// Show these peers alone, and all that is known of them
    #[arg(value_name = "PEER")]
    pub peers: Vec<String>,
    /// Show all that is known of every peer
    #[arg(short, long)]
    pub verbose: bool,
    /// Exit with 2 for a silent peer, whatever kind of traffic is protected
    #[arg(long)]
    pub strict: bool,
    /// Wait until every peer was heard, or exit with 2 when this time is up
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    pub wait_heard: Option<Duration>,
    /// Look again and again, by default every 2s, and show which counters move
    #[arg(long, value_name = "INTERVAL", num_args = 0..=1, default_missing_value = "2s")]
    #[arg(value_parser = interval, conflicts_with = "wait_heard")]
    pub watch: Option<Duration>,
    /// Which mesh, where there is no file.
    #[command(flatten)]
    pub named: NamedArgs,
}

/// The kernel tells times of events in whole seconds.
fn interval(text: &str) -> Result<Duration, String> {
    let hint = "a peer's name stands before --watch";
    let time = humantime::parse_duration(text).map_err(|error| format!("{error}; {hint}"))?;
    let allowed = Duration::from_secs(1)..=Duration::from_secs(24 * 3600);
    if allowed.contains(&time) { Ok(time) } else { Err("it is from 1s to 24h".into()) }
}

/// Arguments of `explain`.
#[derive(Debug, Args)]
pub struct ExplainArgs {
    /// The packet, such as 'udp 192.0.2.1 > 192.0.2.2:4789'; 'mark 0x20000' or 'under SPI' may follow
    #[arg(value_name = "PACKET")]
    pub packet: String,
    /// Where it goes; by default out from an address of this host, in to one, and else fwd
    #[arg(long, value_name = "DIRECTION", value_enum)]
    pub direction: Option<DirectionWord>,
    /// Look at the kernel, at an empty host, or at a snapshot's FILE
    #[arg(long, value_name = "kernel|empty|FILE", default_value = "kernel")]
    pub live: String,
    /// After this step of the plan
    #[arg(long, value_name = "NUMBER", conflicts_with = "after_plan")]
    pub after_step: Option<usize>,
    /// After all steps of the plan
    #[arg(long)]
    pub after_plan: bool,
    /// After somebody has flushed these
    #[arg(long, value_name = "OBJECTS", value_enum)]
    pub after_flush: Vec<Flushed>,
}

/// A direction, as policies have it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum DirectionWord {
    /// It leaves this host
    Out,
    /// It arrives for this host
    In,
    /// It is sent on by this host
    Fwd,
}

/// Objects that a command of others removes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Flushed {
    /// ip xfrm policy flush
    Policies,
    /// ip xfrm state flush
    Sas,
    /// iptables -F and ip6tables -F, in all tables
    Iptables,
}

/// Arguments of `compare`.
#[derive(Debug, Args)]
pub struct CompareArgs {
    /// The other host's snapshot, as meshsec snapshot prints it
    #[arg(value_name = "SNAPSHOT")]
    pub snapshot: Option<PathBuf>,
    /// Compare with this snapshot in place of this host's kernel
    #[arg(long, value_name = "FILE")]
    pub live: Option<PathBuf>,
    /// Compare all hosts by a folder of their snapshots, and tell whether a rollout of the file cuts a pair
    #[arg(long, value_name = "FOLDER", conflicts_with_all = ["snapshot", "live"])]
    pub all: Option<PathBuf>,
}

/// Arguments of `prove`.
#[derive(Debug, Args)]
pub struct ProveArgs {
    /// Send to these peers alone
    #[arg(value_name = "PEER", conflicts_with = "compare")]
    pub peers: Vec<String>,
    /// How many probes each peer gets, from 1 to 10
    #[arg(long, value_name = "N", default_value_t = 3, conflicts_with = "compare")]
    #[arg(value_parser = clap::value_parser!(u8).range(1..=10))]
    pub count: u8,
    /// How long packets are captured after the last probe, from 100ms to 60s
    #[arg(long, value_name = "DURATION", default_value = "1s", conflicts_with = "compare")]
    #[arg(value_parser = capture_time)]
    pub wait: Duration,
    /// Compare the documents of two hosts, as prove --format json prints them; needs no privilege
    #[arg(long, value_names = ["FILE", "FILE"], num_args = 2)]
    pub compare: Vec<PathBuf>,
}

impl ProveArgs {
    /// Whether documents are compared, and nothing is sent.
    pub fn compares(&self) -> bool {
        !self.compare.is_empty()
    }
}

fn capture_time(text: &str) -> Result<Duration, String> {
    let time = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    let allowed = Duration::from_millis(100)..=Duration::from_secs(60);
    if allowed.contains(&time) { Ok(time) } else { Err("it is from 100ms to 60s".into()) }
}

/// Arguments of `doctor`.
#[derive(Debug, Args)]
pub struct DoctorArgs {
    /// Look at the traffic with these peers alone
    #[arg(value_name = "PEER")]
    pub peers: Vec<String>,
    /// Show the checks that are well too, each with its reason
    #[arg(short, long)]
    pub verbose: bool,
    /// The time between two looks at all counters, from 1s to 1h
    #[arg(long = "for", value_name = "DURATION", default_value = "2s", value_parser = watched)]
    pub time: Duration,
    /// Send pings to the peers, in the clear unless all traffic is protected
    #[arg(long)]
    pub probe: bool,
}

fn watched(text: &str) -> Result<Duration, String> {
    let time = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    let allowed = Duration::from_secs(1)..=Duration::from_secs(3600);
    if allowed.contains(&time) { Ok(time) } else { Err("it is from 1s to 1h".into()) }
}

/// Arguments of `rotate` and `settled`.
#[derive(Debug, Args)]
pub struct EvidenceArgs {
    /// Look at this host's kernel; settled does so where no --seen is given
    #[arg(long)]
    pub here: bool,
    /// Snapshots of hosts, as meshsec snapshot prints them
    #[arg(long, value_name = "FILE", num_args = 1..)]
    pub seen: Vec<PathBuf>,
    /// No packet may have come under another generation for this time; by default 1m
    #[arg(long = "for", value_name = "DURATION", value_parser = humantime::parse_duration)]
    pub quiet: Option<Duration>,
    /// Look at the kernel again and again, until this time is up
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    pub wait: Option<Duration>,
}

impl EvidenceArgs {
    /// Whether there is anything to look at.
    pub fn is_given(&self) -> bool {
        self.here || !self.seen.is_empty()
    }
}

/// Arguments of `mtu`.
#[derive(Debug, Args)]
pub struct MtuArgs {
    /// The MTU below, where this is not the host; by default that of the local address's device
    #[arg(long, value_name = "BYTES")]
    pub underlay_mtu: Option<u32>,
    /// What is needed below for packets of this length inside
    #[arg(long, value_name = "BYTES", conflicts_with = "underlay_mtu")]
    pub inner_mtu: Option<u32>,
}

/// Arguments of `spi`.
#[derive(Debug, Args)]
pub struct SpiArgs {
    /// An SPI such as 0x84001002
    pub value: String,
}

/// Arguments of `completions`.
#[derive(Debug, Args)]
pub struct CompletionsArgs {
    /// The shell
    #[arg(value_enum)]
    pub shell: Shell,
}

/// A shell that completes command lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Shell {
    /// source <(meshsec completions bash)
    Bash,
    /// eval (meshsec completions elvish | slurp)
    Elvish,
    /// meshsec completions fish | source
    Fish,
    /// meshsec completions powershell | Out-String | Invoke-Expression
    Powershell,
    /// source <(meshsec completions zsh)
    Zsh,
}

/// Arguments of `export`.
#[derive(Debug, Args)]
pub struct ExportArgs {
    /// The program that is to read it
    #[arg(long = "as", value_name = "FORM", value_enum)]
    pub form: ExportForm,
    /// Print keys
    #[arg(long)]
    pub show_secrets: bool,
}

/// The form of exported objects.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ExportForm {
    /// Lines of ip -batch: SAs and policies, and objects that ip has no words for as comments
    IpBatch,
    /// Lines of Wireshark's file esp_sa, with which it decrypts a capture
    Wireshark,
}

impl ExportForm {
    /// Its name on the command line.
    pub fn word(self) -> &'static str {
        match self {
            Self::IpBatch => "ip-batch",
            Self::Wireshark => "wireshark",
        }
    }
}
