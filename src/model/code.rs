//! Codes, by which programs tell warnings, conflicts and reasons apart.
//!
//! A text is for people and may be worded anew; its code stays. A new kind of
//! warning is one line here and one item in meshsec-json(7), CODES, which a test
//! compares with these lists.

use std::{borrow::Cow, fmt};

/// An enum of words with a meaning for each; both are those of meshsec-json(7).
macro_rules! codes {
    ($(#[$doc:meta])* $name:ident { $($variant:ident $word:literal $meaning:literal,)+ }) => {
        $(#[$doc])*
        // Names of tables stand in brackets, which are not links here.
        #[allow(rustdoc::broken_intra_doc_links)]
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
        pub enum $name {
            $(#[doc = $meaning] $variant,)+
        }

        impl $name {
            /// All of them, as they are listed in meshsec-json(7).
            pub const ALL: &[Self] = &[$(Self::$variant,)+];

            /// The word in JSON.
            pub fn word(self) -> &'static str {
                match self { $(Self::$variant => $word,)+ }
            }

            /// Its meaning, in a sentence.
            pub fn meaning(self) -> &'static str {
                match self { $(Self::$variant => $meaning,)+ }
            }
        }

    };
}

codes! {
    /// The subject of a warning.
    WarningCode {
        // The file and its secrets.
        WindowWithGeneration "window-with-generation" "ESN or a replay window is used with generation, so a restart cuts a host off.",
        OnePeer "one-peer" "The mesh has a single peer.",
        NothingNamed "nothing-named" "No object is here of the mesh that --mesh or --reqid names.",
        AddressReserved "address-reserved" "A peer's address is of a range that many routers and systems refuse.",
        KeysNotChecked "keys-not-checked" "A secret is absent, and keys are not compared.",
        LocalPeerUnknown "local-peer-unknown" "Which peer this host is can't be told, so private_key is not checked.",
        NoPsk "no-psk" "Private keys are used without a psk, so that X25519 alone keeps recordings closed.",
        AddressMissing "address-missing" "This host does not have the address of the peer that it is said to be.",
        ClockNotSynchronised "clock-not-synchronised" "Generations follow a clock that nothing keeps right.",
        RatchetStays "ratchet-stays" "Apply will not turn the ratchet.",
        NoPair "no-pair" "A peer's address is of the other family.",
        NotPaired "not-paired" "Pairs leaves peers out, and says what becomes of traffic with them.",
        // The costs of a plan's changes.
        GenerationJump "generation-jump" "The generation moves by more than one.",
        GenerationGoesBack "generation-goes-back" "The generation goes back, and replay windows stay.",
        ShortIdChanges "short-id-changes" "A ShortID changes.",
        SpiLayoutChanges "spi-layout-changes" "SPIs in the layout of version 0.1 are replaced.",
        SasReplaced "sas-replaced" "SAs are deleted and made anew under their SPIs.",
        ClearTextStops "clear-text-stops" "What flowed in the clear stops until the peer has applied too.",
        ClearTextAccepted "clear-text-accepted" "A stage before enforce lets clear text pass, as the file asks.",
        Excepted "excepted" "An exception lets packets pass in the clear, as the file asks.",
        ExceptionChanges "exception-changes" "Packets of an exception are lost until the other end has applied the file too.",
        StageSkipped "stage-skipped" "A stage is skipped, so that packets are lost until the other end has followed.",
        NotHeardYet "not-heard-yet" "Clear text of peers is refused from now on that were never heard encrypted.",
        LeftInTheClear "left-in-the-clear" "Packets that were protected or blocked leave in the clear afterwards.",
        BlockedOnTheWay "blocked-on-the-way" "Packets to an old port are blocked while the plan is performed.",
        // Findings on the host.
        SasFlushed "sas-flushed" "Something has deleted all SAs of the mesh.",
        PoliciesFlushed "policies-flushed" "Something has deleted all policies of the mesh.",
        AllFlushed "all-flushed" "Something has deleted all SAs and policies of the mesh.",
        KeysHidden "keys-hidden" "The kernel hides keys, so that they can't be compared.",
        ChainsFlushed "chains-flushed" "Something has flushed the chains of the mesh.",
        ClearUntilApply "clear-until-apply" "After a flush, packets to peers leave in the clear until apply.",
        BlockedUntilApply "blocked-until-apply" "After a flush, packets to peers are blocked until apply.",
        OtherAddresses "other-addresses" "The host has other addresses, from which packets to peers leave in the clear.",
        Outranked "outranked" "A foreign policy outranks those of peers, and blocks their traffic or transforms it in its own way.",
        PastTheGuard "past-the-guard" "A sysctl, or the queue of a VRF, takes packets past all policies.",
        SysctlsHidden "sysctls-hidden" "Sysctls that may take packets past all policies can't be seen.",
        CountersHidden "counters-hidden" "The kernel's counters of refused packets can't be seen.",
        RouteUnknown "route-unknown" "By which devices packets to peers leave is not known.",
        NoRoute "no-route" "The host has no route to a peer.",
        NoCarrier "no-carrier" "Packets to a peer leave by a device without a carrier.",
        OtherSource "other-source" "Packets to a peer come from an address that no policy covers.",
        MarkShared "mark-shared" "Somebody else uses bits of the mark.",
        MarkInAVrf "mark-in-a-vrf" "Packets that a mark selects leave by a VRF, where some kernels drop them.",
        BothBackends "both-backends" "Both backends of iptables hold rules.",
        FirewallUnseen "firewall-unseen" "A part of the firewall can't be looked at.",
        SecondGuardMissing "second-guard-missing" "Rules of iptables are wanted as a second guard, and can't be had or looked at.",
        SecondGuardBehind "second-guard-behind" "A rule of the mangle table accepts ahead of the second guard.",
        SecondGuardDrops "second-guard-drops" "Rules of iptables drop what a foreign policy protects, as no SA of the mesh does.",
        TooManyPackets "too-many-packets" "More packets are sent than the period allows for.",
        NumbersNearlySpent "numbers-nearly-spent" "An SA without ESN has used half of its sequence numbers.",
        KernelWillRefuse "kernel-will-refuse" "The kernel is kept from loading ESP, or its mode forbids the cipher.",
        OffloadDeviceMissing "offload-device-missing" "The device of [esp] offload is not there.",
        EncapSocketMissing "encap-socket-missing" "No socket of the host takes ESP out of UDP, so that what peers send is lost.",
        EncapSocketUnknown "encap-socket-unknown" "Whether a socket of the host takes ESP out of UDP is not known.",
        KeepalivesMissing "keepalives-missing" "The kernel sends no NAT keepalives, which the file asks for.",
        KeepalivesUnknown "keepalives-unknown" "Whether the kernel sends NAT keepalives is not known.",
        EncapRefused "encap-refused" "A foreign policy refuses the UDP datagrams that hold ESP.",
        Translated "translated" "A rule of the nat table gives packets to peers another address, or may.",
        TranslationsHidden "translations-hidden" "Rules of the nat table can't be read.",
        NoInside "no-inside" "Packets of this host's own programs to networks come from an address that peers refuse.",
        NoIpv6 "no-ipv6" "IPv6 is off on the mesh's interface, so that networks of IPv6 are not reached.",
        NoOwnRoute "no-own-route" "No route leads to a network of this host: what arrives for it follows a route for others.",
        // Tunnel devices.
        TunnelUnprotected "tunnel-unprotected" "A tunnel device of the kind sends to a port that nothing protects.",
        TunnelGroup "tunnel-group" "A tunnel device floods to a multicast group, which is not a peer.",
        TunnelSource "tunnel-source" "A tunnel device sends from an address that no policy covers.",
        TunnelStranger "tunnel-stranger" "A tunnel device sends to addresses that no peer has.",
        EntriesUnseen "entries-unseen" "The forwarding entries of a tunnel device can't be read.",
        // MTUs.
        MtuNotChecked "mtu-not-checked" "The devices of the host are not known, nor their MTU.",
        LinkMissing "link-missing" "The device of [link] is not there.",
        LinkIsUnderlay "link-is-underlay" "The device of [link] carries the underlay's address.",
        UnderlayUnknown "underlay-unknown" "The MTU below the tunnel is not known.",
        UnderlayTooSmall "underlay-too-small" "The MTU below the tunnel leaves no room for packets.",
        MtuTooLarge "mtu-too-large" "The tunnel's MTU is more than what fits.",
        BridgeMtu "bridge-mtu" "A bridge has a larger MTU than the tunnel device that is its port.",
        MtuTakesIpv6 "mtu-takes-ipv6" "The tunnel's MTU is below 1280, and the kernel takes IPv6 off it.",
    }
}

codes! {
    /// The kind of object in the way.
    ConflictCode {
        SpiTaken "spi-taken" "A foreign SA has the destination and SPI of an SA to come.",
        SelectorTaken "selector-taken" "A foreign policy has the selector of a policy to come.",
        IndexTaken "index-taken" "A foreign policy has the index of a policy for neighbour discovery.",
        OutranksPeer "outranks-peer" "A foreign policy outranks those of peers and lets their traffic pass in the clear.",
        OutranksGuard "outranks-guard" "A foreign policy outranks the guard and lets traffic pass in the clear.",
        ExceptionOpens "exception-opens" "An exception would let pass what a foreign policy protects or blocks.",
        Bypass "bypass" "A sysctl takes packets of the mesh past all policies.",
        Translated "translated" "A rule of the nat table gives packets to peers another address.",
        DeviceTaken "device-taken" "A foreign device has the name of the mesh's interface.",
        OtherRoute "other-route" "By a foreign route packets for a peer's network leave without the mesh.",
        LinkPort "link-port" "The device of [link] sends to another port than the one that is protected.",
        LinkKind "link-kind" "The device of [link] makes no tunnels of the kind that is protected.",
        FirewallUnusable "firewall-unusable" "The chains of the mesh can't be set or looked at.",
        SameReqid "same-reqid" "Objects with the mesh's reqid seem to be another mesh's.",
    }
}

codes! {
    /// The reason for the change of an object.
    ReasonCode {
        Missing "missing" "It should be there, and is not.",
        // SAs.
        MarkedTwin "marked-twin" "An SA with a mark has its SPI.",
        Larval "larval" "The kernel holds a placeholder in its place.",
        Attributes "attributes" "It has attributes that those of a mesh never have.",
        Interface "interface" "It is for another XFRM interface, or for one at all.",
        Selector "selector" "Its selector differs.",
        Addresses "addresses" "Its addresses or mode differ.",
        Cipher "cipher" "Its cipher differs.",
        Key "key" "Its key differs.",
        Offload "offload" "Its offload differs.",
        Encap "encap" "Its UDP encapsulation differs.",
        Keepalive "keepalive" "Its NAT keepalives differ.",
        ReplayWindow "replay-window" "Its anti-replay window or ESN differs.",
        Lifetime "lifetime" "Its lifetime differs.",
        OtherGeneration "other-generation" "It is of a generation that is not in use any more.",
        OldLayout "old-layout" "Its SPI has the layout of version 0.1.",
        // Policies.
        LetsClearTextPass "lets-clear-text-pass" "It lets traffic pass in the clear.",
        Action "action" "Its action differs.",
        Templates "templates" "It has another number of templates.",
        Spi "spi" "It sends under another SPI.",
        Template "template" "Its template differs.",
        Priority "priority" "Its priority differs.",
        ForeignIdentity "foreign-identity" "It has the mesh's reqid, and a mark, an interface or a table that nothing asks for.",
        // Chains and devices.
        Rules "rules" "The rules of a chain differ.",
        NoJump "no-jump" "No rule leads to a chain.",
        JumpBehind "jump-behind" "A rule ahead of the one that leads to a chain accepts.",
        JumpConditions "jump-conditions" "The rule that leads to a chain has conditions.",
        SeveralJumps "several-jumps" "Several rules lead to a chain.",
        OtherBackend "other-backend" "A chain is in the backend that is not the system's.",
        DeviceName "device-name" "The interface has another name.",
        DeviceDown "device-down" "The interface is down.",
        DeviceAttributes "device-attributes" "Attributes of the interface differ.",
        LeadsElsewhere "leads-elsewhere" "A route leads elsewhere.",
        Source "source" "The source address of a route differs.",
        MtuWanted "mtu-wanted" "The file names the MTU.",
        MtuFits "mtu-fits" "It is the largest MTU that fits.",
        // Deletions.
        Destroying "destroying" "All of the mesh goes.",
        NoPeer "no-peer" "No peer of the file has it.",
        Stage "stage" "The stage of the pair asks for clear text.",
        PairGone "pair-gone" "Pairs has no such pair.",
        Unwanted "unwanted" "Nothing in the file asks for it.",
    }
}

codes! {
    /// The reason of an error that ends a command before it has changed anything.
    ErrorCode {
        // The file, and what it names.
        ConfigRefused "config-refused" "mesh.toml, or a secret that it names, can't be used.",
        LocalPeerUnknown "local-peer-unknown" "Which peer this host is can't be told.",
        ClockWrong "clock-wrong" "The clock is certainly wrong, and generations follow it.",
        DocumentRefused "document-refused" "A snapshot or a saved plan can't be used, or does not hold any more.",
        FileNotReplaced "file-not-replaced" "A file can't be replaced by its next version.",
        RatchetRefused "ratchet-refused" "The ratchet can't be read, or can't be turned as asked.",
        SecretMalformed "secret-malformed" "Standard input holds no secret.",
        // The command line.
        ApprovalMissing "approval-missing" "Nobody can be asked whether to go on.",
        OptionsDisagree "options-disagree" "Two options, or an option and a command, don't go together.",
        PeerUnknown "peer-unknown" "The file has no such peer, or this host forms no pair with it.",
        MeshRefused "mesh-refused" "A name or a number can't be a mesh's.",
        SpiRefused "spi-refused" "A number is not an SPI of a mesh.",
        PacketRefused "packet-refused" "A text is not a packet.",
        MtuUnknown "mtu-unknown" "The MTU can't be computed.",
        NotConfirmed "not-confirmed" "No run could be confirmed.",
        // The system.
        Irreversible "irreversible" "A change could not be reverted, so it is not made.",
        KernelRefused "kernel-refused" "The kernel refused a request.",
        KernelAnswersLost "kernel-answers-lost" "The kernel's answers got lost.",
        KernelAnswerGarbled "kernel-answer-garbled" "The kernel's answer makes no sense.",
        PolicyChanged "policy-changed" "Another program has changed a policy since the plan was made.",
        NamespaceLocked "namespace-locked" "Another run works on this network namespace.",
        KernelKeepsChanging "kernel-keeps-changing" "The kernel's objects kept changing while they were listed.",
        GenerationOver "generation-over" "The clock has left the generation of an SA since the plan was made.",
        ProgramMissing "program-missing" "A program of iptables is not installed.",
        ChainInUse "chain-in-use" "A foreign rule leads to a chain that is to be deleted.",
        OffloadRefused "offload-refused" "A device does not take an SA that is to be offloaded to it.",
        SystemFailed "system-failed" "A program, a file, a socket or a namespace can't be used.",
        PrivilegesStay "privileges-stay" "Capabilities that are not needed can't be given up.",
        InputOutput "input-output" "Standard input or output can't be used.",
    }
}
codes! {
    /// A check of `doctor`. The order is that of causes: one that comes earlier explains more.
    CheckCode {
        ObjectsUnread "objects-unread" "Whether the SAs and policies of the host can be read.",
        OwnAddress "own-address" "Whether the host has the address of one peer.",
        Clock "clock" "Whether the clock can be right, where generations follow it.",
        Device "device" "Whether the devices that packets to peers leave by are up and have a carrier.",
        Route "route" "Whether the host has a route to each peer.",
        Esp "esp" "Whether the kernel can load ESP and the cipher.",
        EncapSocket "encap-socket" "Whether a socket takes ESP out of UDP, where the mesh has it.",
        Conflict "conflict" "Whether foreign objects are in the way of the mesh's.",
        Applied "applied" "Whether the kernel holds the objects that the file asks for.",
        Bypass "bypass" "Whether sysctls or the queue of a VRF take packets past the policies.",
        Nat "nat" "Whether rules of the nat table change the addresses of packets to peers.",
        Firewall "firewall" "Whether rules of a firewall here drop packets of the mesh.",
        Source "source" "Whether packets to peers come from the local peer's address.",
        Tunnel "tunnel" "Whether the tunnel devices send to peers, from the local peer's address.",
        Refused "refused" "Whether the kernel refuses packets, and why.",
        Sent "sent" "Whether packets to a peer leave encrypted.",
        Heard "heard" "Whether encrypted packets come from a peer.",
        Generation "generation" "Whether a peer sends under the generation of this host.",
        Ping "ping" "Whether a peer's address answers pings, with --probe.",
        PathMtu "path-mtu" "Whether large packets get to a peer.",
        Mtu "mtu" "Whether the MTU of tunnel devices is what fits.",
        ReversePath "reverse-path" "Whether rp_filter drops packets.",
        Forwarding "forwarding" "Whether the host forwards packets for the hosts of its networks.",
        DeviceDrops "device-drops" "Whether the devices in question drop packets.",
        SequenceNumbers "sequence-numbers" "Whether sequence numbers last.",
        SecondGuard "second-guard" "Whether the rules of the second guard are in place.",
        Mark "mark" "Whether others use the bits of the mark.",
        KernelFixes "kernel-fixes" "Whether the kernel's number has the fixes of ESP of 2026 (CVE-2026-43284).",
        Keys "keys" "Whether the kernel shows keys, so that they can be compared.",
        Timer "timer" "Whether a timer of systemd runs apply.",
        LastApply "last-apply" "When SAs of the mesh were last added.",
    }
}

/// A notice to the operator. It stops nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Warning {
    /// Its subject.
    pub code: WarningCode,
    /// Its text, which may hold foreign text: it has to be made plain for a terminal.
    pub text: String,
}

impl Warning {
    /// A warning of a kind.
    pub fn new(code: WarningCode, text: impl Into<String>) -> Self {
        Self { code, text: text.into() }
    }
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// The reason for the change of an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reason {
    /// Its kind.
    pub code: ReasonCode,
    /// Its text.
    pub text: Cow<'static, str>,
}

impl Reason {
    /// The reason of every object that is to be created.
    pub const MISSING: Self = Self { code: ReasonCode::Missing, text: Cow::Borrowed("missing") };

    /// A reason of a kind.
    pub fn new(code: ReasonCode, text: impl Into<Cow<'static, str>>) -> Self {
        Self { code, text: text.into() }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}
