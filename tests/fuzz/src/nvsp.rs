// SPDX-License-Identifier: GPL-2.0

//! NVSP: completions, notices of the host, its send table, the payload of received packets.

use crate::words::word;
use netvsc_proto::rndis::{
    nvsp::{self, Completion, Notice, NvspError, Status, SEND_TABLE_LEN},
    rss::MAX_CHANNELS,
    send_table::SendTable,
    version::NvspVersion,
};

/// See [`crate::bounds`].
pub fn run(data: &[u8]) {
    crate::bounds::run(data, check);
}

/// `payload` is that of a ring packet.
fn check(payload: &[u8]) {
    let kind = word(payload, 0);
    match Completion::decode(payload) {
        Ok(completion) => check_completion(&completion, kind, payload),
        Err(error) => check_error(error, kind, payload),
    }
    for version in NvspVersion::NEWEST_FIRST {
        check_notice(payload, version);
    }
    match nvsp::decode_rndis_packet(payload) {
        Ok(_) => assert_eq!(kind, Some(107)),
        Err(error) => check_error(error, kind, payload),
    }
}

fn check_error(error: NvspError, kind: Option<u64>, payload: &[u8]) {
    assert!(!error.to_string().is_empty());
    match error {
        NvspError::Truncated { message_type, len } => {
            assert_eq!(message_type.map(u64::from), kind);
            assert_eq!(len, payload.len());
        }
        NvspError::UnexpectedType(found) => assert_eq!(Some(found.into()), kind),
        NvspError::SendTableCount(count) => assert_ne!(count, 16),
        NvspError::SendTableOffset(offset) => {
            assert!(payload.len() as u64 - u64::from(offset).min(payload.len() as u64) < 64);
        }
    }
}

fn check_completion(completion: &Completion, kind: Option<u64>, payload: &[u8]) {
    // Type of message, and where its status is, in words.
    let (expected, status, at) = match *completion {
        Completion::Empty => return assert!(payload.is_empty()),
        Completion::Init { status } => (2, status, 3),
        Completion::ReceiveBuffer { status, .. } => (102, status, 1),
        Completion::SendBuffer { status, .. } => (105, status, 1),
        Completion::RndisPacket { status } => (108, status, 1),
        Completion::Subchannels { status, .. } => (133, status, 1),
    };
    assert_eq!(kind, Some(expected));
    assert_eq!(word(payload, at), Some(status.value().into()));
    assert_eq!(Status::from_value(status.value()), status);
    assert!(!status.to_string().is_empty());
    match *completion {
        Completion::ReceiveBuffer {
            section_groups,
            offset,
            section_len,
            section_count,
            ..
        } => {
            let got = [section_groups, offset, section_len, section_count];
            for (index, got) in got.into_iter().enumerate() {
                let there = word(payload, index + 2).filter(|_| status.is_success());
                assert_eq!(u64::from(got), there.unwrap_or(0));
            }
        }
        Completion::SendBuffer { section_len, .. } => {
            let there = word(payload, 2).filter(|_| status.is_success());
            assert_eq!(u64::from(section_len), there.unwrap_or(0));
        }
        Completion::Subchannels { count, .. } => {
            assert_eq!(word(payload, 2), Some(count.into()));
        }
        _ => {}
    }
}

fn check_notice(payload: &[u8], version: NvspVersion) {
    let kind = word(payload, 0);
    match Notice::decode(payload, version) {
        Ok(Notice::SendTable(entries)) => {
            assert_eq!(kind, Some(134));
            check_table(&entries, payload, version);
        }
        Ok(Notice::VfAssociation { allocated, serial }) => {
            assert_eq!(kind, Some(128));
            assert_eq!(word(payload, 1).map(|word| word != 0), Some(allocated));
            assert_eq!(word(payload, 2), Some(serial.into()));
        }
        Ok(Notice::Other(other)) => assert_eq!(kind, Some(other.into())),
        Err(error) => check_error(error, kind, payload),
    }
}

fn check_table(entries: &[u32; SEND_TABLE_LEN], payload: &[u8], version: NvspVersion) {
    assert_eq!(word(payload, 1), Some(16));
    // Hosts before 6.1 say 12 but mean 40.
    let at = if version <= NvspVersion::V6 && payload.len() >= 104 {
        40
    } else {
        word(payload, 2).unwrap() as usize
    };
    for (index, entry) in entries.iter().enumerate() {
        assert_eq!(word(&payload[at..], index), Some((*entry).into()));
    }
    for channels in [1, 2, 3, 7, MAX_CHANNELS] {
        let table = SendTable::from_host(entries, channels);
        for hash in 0..SEND_TABLE_LEN as u32 {
            assert!(table.channel(hash) < channels);
        }
    }
}
