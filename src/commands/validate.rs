//! `validate`: checks the file and its secrets. Needs no privilege.

use super::{Status, moment, print, print_json};
use crate::{
    cli::{Format, Global, ValidateArgs},
    config::{Config, KeySource, Loaded, Moment, PeersOf, Secrets, SecretsMode},
    error::Error,
    kernel::linux,
    model::{Warning, WarningCode},
    privilege::Files,
    render::{Plain, generation, validate_json},
};

/// An invalid file is an error before anything is printed here.
pub(super) fn run(global: &Global, args: &ValidateArgs) -> Result<Status, Error> {
    let secrets = match args.without_secrets {
        true => SecretsMode::LeftOut,
        false => SecretsMode::Required,
    };
    let mut loaded = super::load(global, secrets, Files::Neither)?;
    check_local(global, &mut loaded)?;
    loaded.warnings.extend(without_psk(&loaded.config));
    let config = &loaded.config;
    let moment = moment::now(config)?;
    loaded.check_ratchet(moment.generation)?;
    match global.format {
        Format::Text | Format::Prometheus => {
            let mut text = format!(
                "{} is valid: mesh {}, {} peers, {}.\n",
                Plain(global.file().display()),
                config.mesh,
                config.peers.len(),
                generation(moment)
            );
            if !loaded.included.is_empty() {
                text.extend(loaded.peers_by_file().iter().map(line));
            }
            text.push_str(&fingerprints(&loaded, moment));
            for warning in &loaded.warnings {
                text.push_str(&format!("Warning: {}\n", Plain(warning)));
            }
            print(&text)?;
        }
        Format::Json => print_json(&validate_json(&loaded, moment))?,
    }
    Ok(Status::Done)
}

/// The fingerprints that people at two hosts compare by telephone.
fn fingerprints(loaded: &Loaded, moment: Moment) -> String {
    let file = match loaded.included.len() {
        0 => "the file".into(),
        files => format!("all {} files", files + 1),
    };
    let mut lines = vec![(file, in_groups(&loaded.files_digest().to_string()))];
    for secret in loaded.secret_fingerprints(moment.generation) {
        let name = match secret.generation {
            Some(generation) => format!("{} at generation {generation}", secret.name),
            None => secret.name.into(),
        };
        lines.push((name, in_groups(secret.fingerprint.to_string().trim_start_matches("sha256:"))));
    }
    let width = lines.iter().map(|(name, _)| name.len()).max().unwrap_or_default();
    let mut text = String::from("Fingerprints, the same on every host:\n");
    for (name, digits) in lines {
        text.push_str(&format!("    {name:width$}  {digits}\n"));
    }
    if loaded.secrets.is_none() {
        text.push_str("The secrets were not looked at.\n");
    }
    text
}

/// 16 hexadecimal digits: enough that nobody makes another file that has the same ones, and few
/// enough to be read aloud.
fn in_groups(digits: &str) -> String {
    let group = |group: &[u8]| String::from_utf8_lossy(group).into_owned();
    digits.as_bytes().chunks(4).take(4).map(group).collect::<Vec<_>>().join(" ")
}

fn line(PeersOf { file, peers, .. }: &PeersOf) -> String {
    let plural = if *peers == 1 { "" } else { "s" };
    format!("    {peers} peer{plural} in {}\n", Plain(file))
}

/// X25519 is the one public-key step that a mesh can have.
fn without_psk(config: &Config) -> Option<Warning> {
    let text = "private_key without psk: traffic that is recorded today can be read by anybody who can \
                break X25519 one day, as a quantum computer might; a psk in [keys] closes it to all \
                who lack that";
    match &config.keys {
        KeySource::PrivateKey { psk: None, .. } => Some(Warning::new(WarningCode::NoPsk, text)),
        KeySource::PrivateKey { psk: Some(_), .. }
        | KeySource::MeshKey(_)
        | KeySource::Ratchet(_) => None,
    }
}

/// Checks that the private key is the local peer's, where it is known which peer that is.
fn check_local(global: &Global, loaded: &mut Loaded) -> Result<(), Error> {
    let config = &loaded.config;
    let addresses = linux::local_addresses().unwrap_or_default();
    match super::local_peer(global, config, &addresses) {
        Ok(local) => loaded.check_private_key(local)?,
        Err(error) if global.local.is_some() => return Err(error.into()),
        Err(_) if matches!(loaded.secrets, Some(Secrets::PrivateKey { .. })) => {
            let warning = "which peer this host is can't be told, so that private_key was not \
                           compared with a public_key; use --local NAME";
            loaded.warnings.push(Warning::new(WarningCode::LocalPeerUnknown, warning));
        }
        Err(_) => {}
    }
    Ok(())
}
