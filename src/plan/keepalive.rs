//! NAT keepalives, which a kernel before Linux 6.11 takes and never sends.
//!
//! An outbound SA with keepalives has no replay window, and such a kernel refuses ESN without one. So
//! there the SAs are those of a file without keepalives.

use std::borrow::Cow;

use crate::{
    desired::{Desired, Keepalive, WantedSa},
    model::{Live, Reqid, Sa, Warning, WarningCode},
};

/// Whether the kernel sends keepalives, as far as that is known. An SA that has one tells, as does
/// one whose keepalive the kernel did not take.
fn has_keepalives(live: &Live, reqid: Reqid) -> Option<bool> {
    let mut sas = live.0.sas_of(reqid);
    let shown = sas.find_map(|sa| match sa.keepalive {
        Some(_) => Some(true),
        None => sa.has_lost_its_keepalive().then_some(false),
    });
    shown.or(live.0.keepalives)
}

/// Makes wanted SAs fit the kernel.
pub(super) struct Fit {
    without: Option<Keepalive>,
}

impl Fit {
    pub(super) fn new(desired: &Desired, live: &Live, reqid: Reqid) -> Self {
        let keepalive = desired.encap.and_then(|encap| encap.keepalive);
        Self { without: keepalive.filter(|_| has_keepalives(live, reqid) != Some(true)) }
    }

    /// The SA that this kernel should hold. One that it holds with the direction out stays.
    pub(super) fn fit<'a>(&self, wanted: &'a WantedSa, live: Option<&Sa>) -> Cow<'a, WantedSa> {
        match self.without {
            Some(Keepalive { otherwise, .. })
                if wanted.sa.keepalive.is_some()
                    && !live.is_some_and(Sa::has_lost_its_keepalive) =>
            {
                let sa = Sa { keepalive: None, replay: otherwise, ..wanted.sa.clone() };
                Cow::Owned(WantedSa { sa, ..wanted.clone() })
            }
            _ => Cow::Borrowed(wanted),
        }
    }
}

/// Warns where the file asks for keepalives and the kernel sends none.
pub(super) fn warning(desired: &Desired, live: &Live, reqid: Reqid) -> Option<Warning> {
    desired.encap?.keepalive?;
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
