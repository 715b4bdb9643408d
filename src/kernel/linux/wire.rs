//! Netlink's framing: requests to bytes, bytes to messages, attributes and acknowledgements.
//!
//! Pure, and every length is checked here. For [`super::netlink`],
//! [`super::decode`] and [`super::iptables`].

use std::{mem, ops::Range};

use netlink_packet_core::{
    NLA_HEADER_SIZE, NLA_TYPE_MASK, NLM_F_ACK, NLM_F_ACK_TLVS, NLM_F_CAPPED, NLM_F_DUMP,
    NLM_F_REQUEST,
};
use zeroize::Zeroizing;

use crate::kernel::{Errno, KernelError};

/// Bytes of a `struct nlmsghdr`.
pub(super) const HEADER: usize = 16;
/// The text of an extended acknowledgement (`NLMSGERR_ATTR_MSG`).
const TEXT: u16 = 1;

/// `XFRMA_SA_DIR`, newer than the crate.
pub(super) const DIRECTION: u16 = 33;
/// `XFRMA_NAT_KEEPALIVE_INTERVAL`, newer than the crate.
pub(super) const NAT_KEEPALIVE: u16 = 34;
/// `XFRM_SA_DIR_OUT`, a value of [`DIRECTION`].
pub(super) const DIRECTION_OUT: u8 = 2;

/// `XFRM_OFFLOAD_IPV6`, which the kernel never gives back.
pub(super) const OFFLOAD_IPV6: u8 = 1;
/// `XFRM_OFFLOAD_INBOUND`.
pub(super) const OFFLOAD_INBOUND: u8 = 2;

/// The next multiple of 4, to which messages and attributes are padded.
pub(super) fn aligned(length: usize) -> usize {
    length.next_multiple_of(4)
}

/// One request, without its header.
pub(super) struct Request {
    /// The message type.
    pub kind: u16,
    /// The message behind the header; may hold a key.
    pub body: Zeroizing<Vec<u8>>,
    /// Whether it has to follow its predecessor at once, in the same send.
    pub joined: bool,
    /// Whether an acknowledgement is asked for. Without one a single message is the whole answer:
    /// the object, or an error.
    pub acknowledged: bool,
}

impl Request {
    /// The size of the request in a send, in bytes.
    pub(super) fn size(&self) -> usize {
        aligned(HEADER + self.body.len())
    }

    /// Appends it to a send.
    pub(super) fn append(&self, send: &mut Vec<u8>, sequence: u32) {
        let acknowledgement = if self.acknowledged { NLM_F_ACK } else { 0 };
        append(send, self.kind, NLM_F_REQUEST | acknowledgement, sequence, &self.body);
    }
}

/// A request for everything of a kind; `body` is the part that the kind needs behind the header.
pub(super) fn dump_request(kind: u16, body: &[u8], sequence: u32) -> Vec<u8> {
    let mut send = Vec::with_capacity(aligned(HEADER + body.len()));
    append(&mut send, kind, NLM_F_REQUEST | NLM_F_DUMP, sequence, body);
    send
}

fn append(send: &mut Vec<u8>, kind: u16, flags: u16, sequence: u32, body: &[u8]) {
    let length = HEADER + body.len();
    send.extend_from_slice(&(length as u32).to_ne_bytes());
    send.extend_from_slice(&kind.to_ne_bytes());
    send.extend_from_slice(&flags.to_ne_bytes());
    send.extend_from_slice(&sequence.to_ne_bytes());
    send.extend_from_slice(&0u32.to_ne_bytes());
    send.extend_from_slice(body);
    send.resize(send.len() + aligned(length) - length, 0);
}

/// A message of the kernel.
pub(super) struct Message<'a> {
    /// Its type.
    pub kind: u16,
    /// Its flags.
    pub flags: u16,
    /// The sequence number of the request that it answers.
    pub sequence: u32,
    /// The bytes behind the header.
    pub payload: &'a mut [u8],
}

/// The messages of a datagram, in order.
pub(super) struct Messages<'a>(&'a mut [u8]);

impl<'a> Messages<'a> {
    /// Splits a datagram.
    pub(super) fn of(datagram: &'a mut [u8]) -> Self {
        Self(datagram)
    }
}

impl<'a> Iterator for Messages<'a> {
    type Item = Result<Message<'a>, KernelError>;

    fn next(&mut self) -> Option<Self::Item> {
        let rest = mem::take(&mut self.0);
        if rest.is_empty() {
            return None;
        }
        let length = u32_at(rest, 0).map_or(0, |length| length as usize);
        if length < HEADER || length > rest.len() {
            return Some(Err(garbled(format!(
                "a message of {length} bytes in a datagram with {} left",
                rest.len()
            ))));
        }
        let (message, behind) = rest.split_at_mut(aligned(length).min(rest.len()));
        self.0 = behind;
        let (kind, flags) = (u16_at(message, 4)?, u16_at(message, 6)?);
        let sequence = u32_at(message, 8)?;
        Some(Ok(Message { kind, flags, sequence, payload: &mut message[HEADER..length] }))
    }
}

/// The kernel's refusal of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Refusal {
    /// The error number.
    pub errno: Errno,
    /// The extended acknowledgement's text.
    pub text: Option<String>,
}

/// Reads an `NLMSG_ERROR`, which acknowledges success too.
pub(super) fn acknowledgement(message: &Message<'_>) -> Result<Result<(), Refusal>, KernelError> {
    let payload = &*message.payload;
    let code = u32_at(payload, 0).ok_or_else(|| garbled("an acknowledgement without a number"))?;
    // Behind the number comes the request's header, and unless capped the
    // request itself, and only then the attributes (netlink_ack).
    let request = u32_at(payload, 4).map_or(0, |length| length as usize);
    let capped = message.flags & NLM_F_CAPPED != 0 || code == 0;
    let attributes = 4 + if capped { HEADER } else { aligned(request) };
    Ok(outcome(code, message.flags, payload.get(attributes..)))
}

/// Reads an `NLMSG_DONE`, which carries the error of a dump that failed.
pub(super) fn done(message: &Message<'_>) -> Result<Result<(), Refusal>, KernelError> {
    let payload = &*message.payload;
    let code = u32_at(payload, 0).ok_or_else(|| garbled("an end of a dump without a number"))?;
    Ok(outcome(code, message.flags, payload.get(4..)))
}

fn outcome(code: u32, flags: u16, attributes: Option<&[u8]>) -> Result<(), Refusal> {
    let code = code as i32;
    if code >= 0 {
        return Ok(());
    }
    let attributes = attributes.filter(|_| flags & NLM_F_ACK_TLVS != 0);
    Err(Refusal { errno: Errno(code.saturating_neg()), text: attributes.and_then(text) })
}

/// The text among the attributes of an acknowledgement; broken attributes give none, since the
/// number is enough.
fn text(bytes: &[u8]) -> Option<String> {
    let range = attributes(bytes).ok()?.into_iter().find(|(kind, _)| *kind == TEXT)?.1;
    let text = String::from_utf8_lossy(&bytes[range]);
    let text = text.trim_end_matches('\0').trim();
    (!text.is_empty()).then(|| text.into())
}

/// The type of each attribute, and where its value lies in `bytes`.
pub(super) fn attributes(bytes: &[u8]) -> Result<Vec<(u16, Range<usize>)>, KernelError> {
    let mut found = Vec::new();
    let mut at = 0;
    while at < bytes.len() {
        let (Some(length), Some(kind)) = (u16_at(bytes, at), u16_at(bytes, at + 2)) else {
            return Err(garbled(format!("{} bytes behind the last attribute", bytes.len() - at)));
        };
        let end = at + usize::from(length);
        if usize::from(length) < NLA_HEADER_SIZE || end > bytes.len() {
            return Err(garbled(format!("an attribute of {length} bytes")));
        }
        found.push((kind & NLA_TYPE_MASK, at + NLA_HEADER_SIZE..end));
        at = aligned(end);
    }
    Ok(found)
}

/// The error for an answer that makes no sense.
pub(super) fn garbled(what: impl Into<String>) -> KernelError {
    KernelError::Garbled(what.into())
}

/// The number of 2 bytes at `at`, if it is there.
pub(super) fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..)?.first_chunk().copied().map(u16::from_ne_bytes)
}

/// The number of 4 bytes at `at`, if it is there.
pub(super) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().copied().map(u32::from_ne_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(body: &[u8]) -> Request {
        Request {
            kind: 0x1c,
            body: Zeroizing::new(body.to_vec()),
            joined: false,
            acknowledged: true,
        }
    }

    /// An `NLMSG_ERROR` as the kernel builds it.
    fn ack(code: i32, flags: u16, echo: &[u8], text: &str) -> Vec<u8> {
        let mut bytes = code.to_ne_bytes().to_vec();
        append(&mut bytes, 0x10, 5, 7, echo);
        if flags & NLM_F_CAPPED != 0 {
            bytes.truncate(4 + HEADER);
        }
        if flags & NLM_F_ACK_TLVS != 0 {
            bytes.extend_from_slice(&((text.len() + 5) as u16).to_ne_bytes());
            bytes.extend_from_slice(&TEXT.to_ne_bytes());
            bytes.extend_from_slice(text.as_bytes());
            bytes.resize(aligned(bytes.len() + 1), 0);
        }
        bytes
    }

    fn read(mut payload: Vec<u8>, flags: u16) -> Result<Result<(), Refusal>, KernelError> {
        acknowledgement(&Message { kind: 2, flags, sequence: 7, payload: &mut payload })
    }

    #[test]
    fn messages_are_padded_to_4_and_split_again() {
        let mut send = Vec::new();
        request(&[9]).append(&mut send, 1);
        request(&[1, 2, 3, 4]).append(&mut send, 2);
        assert_eq!(send.len(), request(&[9]).size() + request(&[0; 4]).size());
        let messages: Vec<_> = Messages::of(&mut send).map(Result::unwrap).collect();
        assert_eq!(messages.len(), 2);
        assert_eq!((messages[0].sequence, &*messages[0].payload), (1, &[9][..]));
        assert_eq!((messages[1].sequence, &*messages[1].payload), (2, &[1, 2, 3, 4][..]));
    }

    #[test]
    fn a_message_longer_than_its_datagram_is_an_error_and_the_last() {
        let mut send = Vec::new();
        request(&[0; 8]).append(&mut send, 1);
        let mut messages = Messages::of(&mut send[..20]);
        assert!(messages.next().unwrap().is_err());
        assert!(messages.next().is_none());
    }

    #[test]
    fn an_acknowledgement_gives_its_number_and_text_capped_or_not() {
        let text = |text: &str| Refusal { errno: Errno::EINVAL, text: Some(text.into()) };
        let both = NLM_F_CAPPED | NLM_F_ACK_TLVS;
        assert_eq!(read(ack(-22, both, &[1; 30], "no"), both), Ok(Err(text("no"))));
        let tlvs = NLM_F_ACK_TLVS;
        assert_eq!(read(ack(-22, tlvs, &[1; 30], "no"), tlvs), Ok(Err(text("no"))));
        let plain = Refusal { errno: Errno::EEXIST, text: None };
        assert_eq!(read(ack(-17, NLM_F_CAPPED, &[], ""), NLM_F_CAPPED), Ok(Err(plain)));
        assert_eq!(read(ack(0, NLM_F_CAPPED, &[], ""), NLM_F_CAPPED), Ok(Ok(())));
    }

    #[test]
    fn a_short_acknowledgement_is_an_error_and_a_broken_text_is_none() {
        assert!(read(vec![0, 0], 0).is_err());
        let both = NLM_F_CAPPED | NLM_F_ACK_TLVS;
        let mut bytes = ack(-22, both, &[], "no");
        bytes[20] = 200;
        let plain = Refusal { errno: Errno::EINVAL, text: None };
        assert_eq!(read(bytes, both), Ok(Err(plain)));
        assert!(read(i32::MIN.to_ne_bytes().to_vec(), 0).unwrap().is_err());
    }

    #[test]
    fn attributes_that_do_not_add_up_are_an_error() {
        assert_eq!(attributes(&[4, 0, 27, 0]).unwrap(), [(27, 4..4)]);
        assert_eq!(attributes(&[5, 0, 1, 0x80, 7]).unwrap(), [(1, 4..5)]);
        for broken in [&[3, 0, 1, 0][..], &[8, 0, 1, 0], &[4, 0, 1]] {
            assert!(attributes(broken).is_err(), "{broken:?}");
        }
    }
}
