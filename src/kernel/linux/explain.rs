//! The meaning of the kernel's error numbers here, and the remedy.

use crate::{
    kernel::{Errno, KernelError},
    model::{Algorithm, Sa},
};

use super::{modules, wire::Refusal};

const NO_CAPABILITY: &str =
    "needs CAP_NET_ADMIN: run as root, or `plan --live FILE` with a snapshot";
const NO_XFRM: &str = "this kernel has no XFRM: module xfrm_user, CONFIG_XFRM_USER";

/// Adds the remedy to an error of opening the socket or of listing.
pub(super) fn of_access(error: KernelError) -> KernelError {
    match error {
        KernelError::Refused { doing, errno, detail } => {
            let hint = match errno {
                Errno::EPERM => Some(NO_CAPABILITY),
                Errno::EPROTONOSUPPORT => Some(NO_XFRM),
                _ => None,
            };
            KernelError::Refused { doing, errno, detail: joined(detail, hint.map(Into::into)) }
        }
        KernelError::Lost { .. }
        | KernelError::Garbled(_)
        | KernelError::System { .. }
        | KernelError::Changed(_) => error,
    }
}

/// The error of a step that was refused, with the hint of its kind.
pub(super) fn of_step(doing: String, refusal: &Refusal, hint: Option<String>) -> KernelError {
    let errno = refusal.errno;
    let hint = if errno == Errno::EPERM { Some(NO_CAPABILITY.into()) } else { hint };
    KernelError::Refused { doing, errno, detail: joined(refusal.text.clone(), hint) }
}

/// The hint of an SA that was refused. `EEXIST` is not explained here: that takes a look at the
/// object in the way.
pub(super) fn of_sa(sa: &Sa, errno: Errno) -> Option<String> {
    match errno {
        Errno::EPROTONOSUPPORT => {
            Some(modules::barred(&[modules::esp(sa)]).unwrap_or_else(|| missing_esp(sa)))
        }
        Errno::EINVAL | Errno::EOPNOTSUPP if sa.offload.is_some() => Some(format!(
            "the device may refuse to offload it, {}; leave offload out of [esp] to see",
            sa.offload.as_ref().map_or("", |offload| &offload.device)
        )),
        // ENOSYS where the transform is unknown (attach_aead), ENOENT where it can't be
        // instantiated (esp_init_aead).
        Errno::ENOSYS | Errno::ENOENT => {
            let forbidden = modules::forbidden_cipher(&sa.algorithm).map(Into::into);
            let barred = || modules::barred(&modules::of_cipher(&sa.algorithm));
            Some(forbidden.or_else(barred).unwrap_or_else(|| missing_cipher(&sa.algorithm)))
        }
        _ => None,
    }
}

fn missing_esp(sa: &Sa) -> String {
    let (family, module, option) = match sa.id.dst.is_ipv4() {
        true => ("IPv4", "esp4", "CONFIG_INET_ESP"),
        false => ("IPv6", "esp6", "CONFIG_INET6_ESP"),
    };
    format!(
        "this kernel has no ESP for {family}, or may not load it: module {module}, {option}; see \
         what modprobe {module} says, in a container on its host"
    )
}

fn missing_cipher(algorithm: &Algorithm) -> String {
    match algorithm {
        Algorithm::Aead { name, .. } if name.contains("gcm") => {
            "this kernel has no AES-GCM for ESP: modules gcm and seqiv, CONFIG_CRYPTO_GCM".into()
        }
        Algorithm::Aead { name, .. } if name.contains("chacha20") => {
            "this kernel has no ChaCha20-Poly1305 for ESP: modules chacha20poly1305 and seqiv, \
             CONFIG_CRYPTO_CHACHA20POLY1305"
                .into()
        }
        Algorithm::Aead { .. } | Algorithm::Other(_) | Algorithm::Larval => {
            format!("this kernel has no {algorithm}")
        }
    }
}

fn joined(first: Option<String>, second: Option<String>) -> Option<String> {
    match (first, second) {
        (Some(first), Some(second)) => Some(format!("{first}; {second}")),
        (first, second) => first.or(second),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_says_what_the_kernel_said_and_what_to_do() {
        let error = KernelError::Refused {
            doing: "cannot list SAs".into(),
            errno: Errno::EPERM,
            detail: None,
        };
        assert_eq!(
            of_access(error).to_string(),
            "cannot list SAs: EPERM: needs CAP_NET_ADMIN: run as root, \
             or `plan --live FILE` with a snapshot"
        );
        let both = joined(Some("a".into()), Some("b".into()));
        assert_eq!(both.as_deref(), Some("a; b"));
    }
}
