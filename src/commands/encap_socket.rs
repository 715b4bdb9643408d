//! `encap-socket`: what the unit meshsec-encap@PORT.service runs.

use super::Status;
use crate::{error::Error, kernel::linux::encap_socket, model::ErrorCode};

/// Reads no file and looks at no kernel object. The sockets come from systemd, and stay with it.
pub(super) fn run() -> Result<Status, Error> {
    let variable = |name| std::env::var(name).unwrap_or_default();
    if variable("LISTEN_PID") != std::process::id().to_string() {
        return Err(Error::request(
            ErrorCode::OptionsDisagree,
            "systemd passes this command its sockets: run systemctl enable --now \
             meshsec-encap@4500.socket",
        ));
    }
    let count = encap_socket(&variable("LISTEN_FDS"))?;
    let sockets = if count == 1 { "1 socket takes" } else { "the sockets take" };
    super::say(format_args!("{sockets} ESP out of UDP"));
    Ok(Status::Done)
}
