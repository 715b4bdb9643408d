//! The meanings of the kernel's counters of refused packets.

/// The meaning of a counter of `/proc/net/xfrm_stat` (Documentation/networking/xfrm_proc.rst) on a
/// host that has SAs of the mesh, or none, where the mesh protects networks or packets between hosts.
pub fn counter_meaning(name: &str, has_sas: bool, has_networks: bool) -> Option<&'static str> {
    Some(match name {
        "XfrmOutPolBlock" if has_networks => {
            "blocked by a guard: to a peer's network, and not by the mesh's interface; \
             ip route get shows the route"
        }
        "XfrmInPolBlock" if has_networks => {
            "blocked by a guard: from a peer's network, unencrypted"
        }
        "XfrmInTmplMismatch" if has_networks => {
            "came under the key of another peer than the one whose network the source is in"
        }
        "XfrmInNoPols" if has_networks => {
            "came encrypted from an address in no peer's network: the sender lacks inside, or \
             masquerades what leaves by its interface"
        }
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
        assert!(meaning("XfrmInNoStates", false, false).unwrap().contains("meshsec apply here"));
        let differs = meaning("XfrmInNoStates", true, false).unwrap();
        assert!(["generation", "short_id", "peer list"].iter().all(|word| differs.contains(word)));
    }

    #[test]
    fn refusals_of_networks_are_of_other_reasons_than_those_of_hosts() {
        for (name, of_hosts, of_networks) in [
            ("XfrmOutPolBlock", Some("type vxlan"), "ip route get"),
            ("XfrmInPolBlock", Some("came unencrypted"), "from a peer's network"),
            ("XfrmInTmplMismatch", Some("came unencrypted"), "key of another peer"),
            ("XfrmInNoPols", None, "masquerades"),
        ] {
            let [hosts, networks] = [false, true].map(|networks| meaning(name, true, networks));
            assert_eq!(
                hosts.is_some_and(|text| text.contains(of_hosts.unwrap())),
                of_hosts.is_some()
            );
            assert!(networks.unwrap().contains(of_networks), "{name}");
        }
    }
}
