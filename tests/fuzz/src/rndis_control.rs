// SPDX-License-Identifier: GPL-2.0

//! RNDIS control messages, and what is in the answers to queries: offloads, RSS, names, link events.

use crate::words::{lies_in, word};
use netvsc_proto::rndis::{
    link::LinkEvent,
    message::{self, HostMessage, MessageError},
    name::FriendlyName,
    offload::Offloads,
    oid::Oid,
    rss,
    version::NvspVersion,
};

/// See [`crate::bounds`].
pub fn run(data: &[u8]) {
    crate::bounds::run(data, check);
}

/// `range` is what the host wrote to a range of the receive buffer.
fn check(range: &[u8]) {
    check_message(range);
    check_information(range);
    check_requests(range);
}

fn check_message(range: &[u8]) {
    let decoded = HostMessage::decode(range);
    let kind = word(range, 0);
    match decoded {
        Ok(message) => {
            let (length, kind) = (word(range, 1).unwrap(), kind.unwrap());
            assert!(8 <= length && length <= range.len() as u64);
            check_answer(&message, &range[8..length as usize]);
            check_decoded(&message, kind, range);
        }
        Err(error) => {
            assert!(!error.to_string().is_empty());
            if let MessageError::Buffer {
                request_id,
                offset,
                len,
            } = error
            {
                assert_eq!(word(range, 2), Some(request_id.into()));
                let end = u64::from(offset) + u64::from(len);
                assert!(offset < 16 || end + 8 > word(range, 1).unwrap());
            }
        }
    }
    let split = message::split(range);
    assert!(decoded.is_err() || split.is_ok());
    if let Ok((split_kind, body)) = split {
        assert_eq!(Some(u64::from(split_kind)), kind);
        assert!(lies_in(body, range));
    }
}

fn check_decoded(message: &HostMessage<'_>, kind: u64, range: &[u8]) {
    let id = word(range, 2);
    if let Some(answered) = message.answers() {
        assert_eq!(id, Some(answered.into()));
    }
    match *message {
        HostMessage::InitializeComplete { .. } => assert_eq!(kind, 0x8000_0002),
        HostMessage::QueryComplete { info, status, .. } => {
            assert_eq!(kind, 0x8000_0004);
            assert!(lies_in(info, &range[8..]));
            assert!(status.is_success() || info.is_empty());
            assert!(!status.to_string().is_empty());
            check_information(info);
        }
        HostMessage::SetComplete { .. } => assert_eq!(kind, 0x8000_0005),
        HostMessage::Indicate { status, buffer } => {
            assert_eq!(kind, 7);
            assert!(lies_in(buffer, &range[8..]));
            let event = LinkEvent::from_message(message);
            assert_eq!(event, LinkEvent::from_indication(status, buffer));
        }
        HostMessage::Keepalive { request_id } => {
            assert_eq!((kind, id), (8, Some(request_id.into())))
        }
        HostMessage::Other(other) => assert_eq!(kind, u64::from(other)),
    }
}

/// The information buffer of an answer lies where the answer says, within the message.
fn check_answer(message: &HostMessage<'_>, body: &[u8]) {
    let HostMessage::QueryComplete { info, status, .. } = message else {
        return;
    };
    let (len, at) = (word(body, 2), word(body, 3));
    if !status.is_success() || len == Some(0) {
        return assert!(info.is_empty());
    }
    let (len, at) = (len.unwrap(), at.unwrap());
    assert!(at >= 16 && at + len <= body.len() as u64);
    assert_eq!(*info, &body[at as usize..][..len as usize]);
}

/// An information buffer, whatever it answers.
fn check_information(info: &[u8]) {
    match Offloads::negotiate(info) {
        Ok(offloads) => check_offloads(&offloads),
        Err(error) => assert!(!error.to_string().is_empty()),
    }
    if let Some(capabilities) = rss::Capabilities::decode(info) {
        assert!((1..=rss::MAX_TABLE_LEN).contains(&capabilities.table_len));
    }
    if let Some(name) = FriendlyName::decode(info).given() {
        let text = std::str::from_utf8(name).expect("a name is text");
        assert!((1..=255).contains(&text.len()) && !text.contains('\0'));
    }
}

fn check_offloads(offloads: &Offloads) {
    assert!((4096..=65536).contains(&offloads.gso_max));
    assert!(offloads.tcp4_checksum || !offloads.tso4 && !offloads.udp4_checksum);
    assert!(offloads.tcp6_checksum || !offloads.tso6 && !offloads.udp6_checksum);
    assert!(!offloads.rsc, "nobody has asked for it yet");
    for version in NvspVersion::NEWEST_FIRST {
        let mut out = [0xaa; 32];
        let len = offloads.encode_parameters(version, &mut out).unwrap();
        assert_eq!(len, if version <= NvspVersion::V4 { 22 } else { 28 });
        assert_eq!(usize::from(u16::from_le_bytes([out[2], out[3]])), len);
        assert!(out[len..].iter().all(|byte| *byte == 0xaa));
    }
}

/// What we write, we can read.
fn check_requests(info: &[u8]) {
    let mut out = vec![0; info.len() + message::REQUEST_LEN];
    for encode in [message::encode_query, message::encode_set] {
        let len = encode(7, Oid::GEN_FRIENDLY_NAME, info, &mut out).unwrap();
        let (_, body) = message::split(&out[..len]).unwrap();
        assert_eq!(&body[20..], info);
        assert_eq!(word(body, 0), Some(7));
        let short = len - 1;
        assert_eq!(
            encode(7, Oid::GEN_FRIENDLY_NAME, info, &mut out[..short]),
            None
        );
    }
}
