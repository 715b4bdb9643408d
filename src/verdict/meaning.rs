//! The meanings of the kernel's counters of refused packets.

/// The meaning of a counter of `/proc/net/xfrm_stat` (Documentation/networking/xfrm_proc.rst) on a
/// host that has SAs of the mesh, or none.
pub fn counter_meaning(name: &str, has_sas: bool) -> Option<&'static str> {
    Some(match name {
        "XfrmOutPolBlock" => {
            "blocked by a guard: the source or destination is not a peer's address; look at \
             ip -d link show type vxlan"
        }
        "XfrmInPolBlock" => "blocked by a guard: came unencrypted",
        "XfrmInTmplMismatch" => "came unencrypted from a peer, and was dropped",
        "XfrmOutNoStates" => "the outbound SA is missing",
        "XfrmInError" => "arrived just as a policy changed, and lost its route",
        "XfrmInNoStates" if !has_sas => {
            "a peer sends ESP, and this host has no SA: run meshsec apply here"
        }
        "XfrmInNoStates" => {
            "the SPI is not here: the sender has another generation, short_id or peer list; \
             tcpdump -n esp shows the SPI, meshsec spi tells whose it is"
        }
        "XfrmInStateProtoError" => "the key differs, or a replay from before the window",
        "XfrmInStateSeqError" => "outside the replay window: a replay, or a restarted sender",
        "XfrmInStateMismatch" => "a peer's key with another's address",
        "XfrmOutStateSeqError" => "the sequence numbers have ended; raise the generation",
        "XfrmInStateExpired" | "XfrmOutStateExpired" => "the SA's lifetime has ended",
        "XfrmInStateInvalid" | "XfrmOutStateInvalid" => "the SA was just being deleted",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::counter_meaning as meaning;

    #[test]
    fn an_unknown_spi_says_what_is_missing_here_or_what_differs() {
        assert!(meaning("XfrmInNoStates", false).unwrap().contains("meshsec apply here"));
        let differs = meaning("XfrmInNoStates", true).unwrap();
        assert!(["generation", "short_id", "peer list"].iter().all(|word| differs.contains(word)));
    }
}
