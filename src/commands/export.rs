//! `export`: the objects of a host, with their keys, in the words of other programs.

use std::io::Write;

use super::{Status, live, moment, prepared::prepare};
use crate::{
    cli::{ExportArgs, ExportForm, Format, Global},
    config::SecretsMode,
    desired::ways,
    error::Error,
    kernel::linux::surroundings,
    model::{ErrorCode, SaId},
    privilege::Files,
    render::{SecretLine, ip_line, wireshark_line},
};

/// The lines are those of a plan for an empty host, in its order. All of them are made before the first
/// is printed: half of a host's objects are of no use.
pub(super) fn run(global: &Global, args: &ExportArgs) -> Result<Status, Error> {
    let refused = |text: String| Error::request(ErrorCode::OptionsDisagree, text);
    if !args.show_secrets {
        return Err(refused(
            "export prints the keys of all SAs of this host; if that is wanted, add --show-secrets"
                .into(),
        ));
    }
    if global.format != Format::Text {
        return Err(refused("export has forms of its own, by --as; leave --format out".into()));
    }
    let loaded = super::load(global, SecretsMode::Required, Files::Neither)?;
    let source = live::Source::Empty;
    let (mut live, taken) = live::observe(&source, global, &loaded.config)?;
    if loaded.config.tunnel.is_some() {
        // The MTU of the interface follows from this host's devices.
        let here = surroundings(&ways(&loaded.config, global.local.as_deref()))?;
        (live.0.links, live.0.routes) = (here.links, here.routes);
    }
    let moment = moment::at(&loaded.config, taken)?;
    let prepared = prepare(global, &loaded, moment, (&live, &source))?;
    let key = |id: &SaId| prepared.keyring.get(id).ok_or(*id);
    let mut lines: Vec<SecretLine> = Vec::new();
    for planned in &prepared.plan.steps {
        let step =
            planned.step.keyed(key).map_err(|id| refused(format!("no key of the SA {id}")))?;
        let line = match args.form {
            ExportForm::IpBatch => ip_line(&step.kind),
            ExportForm::Wireshark => wireshark_line(&step.kind),
        };
        lines.push(line.map_err(|why| refused(format!("{}: {why}", args.form.word())))?);
    }
    super::generate::warn_of_readers();
    let stdout = rustix::io::dup(rustix::stdio::stdout()).map_err(std::io::Error::from)?;
    // Past the standard library's buffer, which is not wiped.
    let mut stdout = std::fs::File::from(stdout);
    lines.iter().try_for_each(|line| stdout.write_all(line.as_bytes()))?;
    Ok(Status::Done)
}
