//! Effects of meshsec on a real kernel, seen from outside.
//!
//! Hosts are network namespaces on one switch, with a VXLAN between them.
//! Effects are read from iproute2, tcpdump, ping and `/proc`, never from meshsec itself, except in
//! tests of its own words.
//!
//! All of this needs root and a kernel with ESP, which many containers and
//! virtual machines lack: `cargo xtask test` boots one. A test that lacks something fails and names
//! it; none passes without having looked.

mod capture;
mod fixture;
mod inject;
mod iptables;
mod kill;
mod mesh_file;
mod namespace;
mod ping;
mod random;
mod replay;
#[path = "../memory/secrets.rs"]
mod secrets;
mod shell;
mod traffic;
mod wait;
#[path = "../memory/watch.rs"]
mod watch;
mod xfrm;

mod aead;
mod all;
mod ansible;
mod by_hand;
mod clock;
mod concurrency;
mod confirm;
mod conflicts;
mod crash_by_mark;
mod crash_second_guard;
mod crashes;
mod crashes_at_random;
mod destroy;
mod doctor;
mod drift;
mod encap;
mod encap_systemd;
mod exceptions;
mod explain;
mod export;
mod firewalls;
mod forwarded;
mod full_mesh;
mod generations;
mod guards;
mod guide;
mod icmp_errors;
mod idempotence;
mod kept_up;
mod kinds;
mod least_privilege;
mod link;
mod locking;
mod look_ups;
mod machine;
mod mark_attacks;
mod mark_changes;
mod mark_drift;
mod marks;
mod membership;
mod mptcp;
mod neighbours;
mod networks;
mod offload;
mod outages;
mod overlays;
mod private_keys;
mod prove;
mod ratchet;
mod reboot;
mod reverts;
mod rotation;
mod saved_plans;
mod second_guard;
mod secrecy;
mod settled;
mod snapshots;
mod spoofing;
mod squatters;
mod stages;
mod taken_back;
mod vrf;
mod ways;
mod wiped;
