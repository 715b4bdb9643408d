//! A peer that speaks as another one, under its own SA and key.

use crate::{
    fixture::{A, B, C, Lab, Underlay, spi},
    inject, xfrm,
};

/// Makes host b send its VXLAN packets to a from `source`, under the SPI and key of b to a.
fn send_as(lab: &Lab, source: &str, key: &str) {
    let host = lab.host(B);
    host.ip("xfrm policy flush");
    host.ip("xfrm state flush");
    let (a, spi) = (lab.address(A), spi(1, B, A));
    host.ip(&format!(
        "xfrm state add src {source} dst {a} proto esp spi {spi:#x} reqid 7 mode transport \
         aead rfc4106(gcm(aes)) 0x{key} 128"
    ));
    host.ip(&format!(
        "xfrm policy add src {source} dst {a} proto udp dport 4789 dir out \
         tmpl proto esp spi {spi:#x} reqid 7 mode transport"
    ));
}

fn is_found_out(underlay: Underlay) {
    let lab = Lab::over(&[underlay; 3]);
    // The rules of the sender's own second guard would drop its packets under another reqid.
    let mut mesh = lab.mesh.clone();
    mesh.guard = "\"xfrm\"";
    lab.write(B, &mesh);
    lab.apply(A);
    lab.apply(B);
    let own = xfrm::sas(lab.host(B))[&spi(1, B, A)].key.clone().expect("the SA has a key");

    // From its own address all is well, so it is the address that the kernel minds.
    send_as(&lab, &lab.address(B), &own);
    inject::gets_in(&lab, lab.host(B), &lab.address(B), A);

    let prefix = if underlay == Underlay::V4 { "32" } else { "128 nodad" };
    lab.host(B).ip(&format!("address add {}/{prefix} dev eth0", lab.address(C)));
    send_as(&lab, &lab.address(C), &own);
    inject::is_dropped(&lab, lab.host(B), &lab.address(C), A, "XfrmInStateMismatch");
}

#[test]
#[ignore = "needs a kernel with ESP: cargo xtask test"]
fn a_peer_cannot_send_as_another_under_its_own_key() {
    is_found_out(Underlay::V4);
}

#[test]
#[ignore = "needs a kernel with ESP: cargo xtask test"]
fn a_peer_cannot_send_as_another_under_its_own_key_over_ipv6() {
    is_found_out(Underlay::V6);
}
