//! NAT keepalives, which a kernel before Linux 6.11 takes and never sends.
//!
//! An outbound SA with keepalives has no replay window, and such a kernel refuses ESN without one. So
//! there the SAs are those of a file without keepalives.

use std::borrow::Cow;

use crate::{
    desired::{Desired, WantedSa},
    model::{Live, Replay, Reqid, Sa, Warning, WarningCode},
};

/// Whether the kernel sends keepalives, as far as that is known. An SA that has one tells, whatever
/// others look like; and where none has, one whose keepalive the kernel did not take.
fn has_keepalives(live: &Live, reqid: Reqid) -> Option<bool> {
    let sas = || live.0.sas_of(reqid);
    if sas().any(|sa| sa.keepalive.is_some()) {
        Some(true)
    } else if sas().any(Sa::has_lost_its_keepalive) {
        Some(false)
    } else {
        live.0.keepalives
    }
}

/// Makes wanted SAs fit the kernel.
pub(super) struct Fit {
    /// Window and ESN in place of keepalives, where the kernel sends none.
    without: Option<Replay>,
}

impl Fit {
    pub(super) fn new(desired: &Desired, live: &Live, reqid: Reqid) -> Self {
        let without = desired.encap.and_then(|encap| encap.without_keepalives);
        Self { without: without.filter(|_| has_keepalives(live, reqid) != Some(true)) }
    }

    /// Whether an SA is as this kernel makes it when it is asked for keepalives: with the direction out
    /// and without any. It stays.
    pub(super) fn accepts(&self, live: &Sa) -> bool {
        self.without.is_some() && live.has_lost_its_keepalive()
    }

    /// The SA that this kernel should hold.
    pub(super) fn fit<'a>(&self, wanted: &'a WantedSa, live: Option<&Sa>) -> Cow<'a, WantedSa> {
        let is_kept = live.is_some_and(|live| self.accepts(live));
        match self.without {
            Some(replay) if wanted.sa.keepalive.is_some() && !is_kept => {
                let sa = Sa { keepalive: None, replay, ..wanted.sa.clone() };
                Cow::Owned(WantedSa { sa, ..wanted.clone() })
            }
            _ => Cow::Borrowed(wanted),
        }
    }
}

/// Warns where the file asks for keepalives and the kernel sends none.
pub(super) fn warning(desired: &Desired, live: &Live, reqid: Reqid) -> Option<Warning> {
    desired.encap?.without_keepalives?;
    let without = "SAs are made without them, and a NAT or firewall that forgets a silent host cuts \
                   it off";
    match has_keepalives(live, reqid) {
        Some(true) => None,
        Some(false) => Some(Warning::new(
            WarningCode::KeepalivesMissing,
            format!("this kernel sends no NAT keepalives (Linux 6.11 and later do): {without}"),
        )),
        None => Some(Warning::new(
            WarningCode::KeepalivesUnknown,
            format!("whether this kernel sends NAT keepalives is not known: {without}"),
        )),
    }
}
