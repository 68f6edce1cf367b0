// SPDX-License-Identifier: GPL-2.0

//! Layout, the C driver's frames, and hostile messages.

use super::*;
use crate::rndis::recorded::{self, select, Direction, Line};
use core::mem::{offset_of, size_of};
use proptest::prelude::*;

#[test]
fn layout() {
    assert_eq!(size_of::<PacketBody>(), BODY_LEN);
    assert_eq!(offset_of!(PacketBody, data_len), 4);
    assert_eq!(offset_of!(PacketBody, oob_offset), 8);
    assert_eq!(offset_of!(PacketBody, ppi_offset), 20);
    assert_eq!(offset_of!(PacketBody, ppi_len), 24);
    assert_eq!(offset_of!(PacketBody, reserved), 32);
    assert_eq!(PACKET_HEADER_LEN, HEADER_LEN + BODY_LEN);
    assert_eq!(MAX_TX_HEADER, PACKET_HEADER_LEN + 3 * RECORD_LEN);
}

/// What the driver must have been told to send a recorded message, from the decoded fields.
fn meta_of(line: &Line) -> TxMeta {
    let mut meta = TxMeta {
        len: line.number("data_len"),
        ..TxMeta::default()
    };
    let word = |hex: &str| u32::from_str_radix(hex, 16).unwrap().swap_bytes();
    let records = line.field("ppi").unwrap_or("");
    for (kind, payload) in records.split(',').filter_map(|r| r.split_once(':')) {
        let value = word(payload);
        match kind {
            "8" => meta.hash = Some(value),
            "6" => {
                let (priority, dei, id) = (value & 7, (value >> 3) & 1, (value >> 4) & 0xfff);
                meta.vlan = Some((priority << 13 | dei << 12 | id) as u16);
            }
            "0" => {
                meta.offload = TxOffload::Checksum {
                    ipv6: value & 2 != 0,
                    transport: if value & 4 != 0 {
                        Transport::Tcp
                    } else {
                        Transport::Udp
                    },
                    l4_offset: ((value >> 16) & 0x3ff) as u16,
                }
            }
            "2" => {
                meta.offload = TxOffload::Lso {
                    ipv6: value >> 31 != 0,
                    mss: value & 0xf_ffff,
                    l4_offset: ((value >> 20) & 0x3ff) as u16,
                }
            }
            other => panic!("record type {other}"),
        }
    }
    meta
}

#[test]
fn sent_headers_are_those_of_the_c_driver() {
    let lines = select(&recorded::frames(), Direction::GuestToHost, "rndis");
    let mut kinds = std::collections::BTreeSet::new();
    for line in &lines {
        let meta = meta_of(line);
        let mut out = [0xaa; MAX_TX_HEADER];
        let len = meta.write_header(&mut out);
        let pad = line.number("msg_len") - (len as u32 + meta.len);
        assert!(extend_message(&mut out, pad));
        assert_eq!(
            &out[..len],
            &line.bytes[..len],
            "line {}: {meta:?}",
            line.seq
        );
        assert_eq!(len as u32, line.number("data_off") + 8);
        kinds.insert((
            meta.hash.is_some(),
            meta.vlan.is_some(),
            format!("{:?}", meta.offload),
        ));
    }
    assert!(kinds.len() >= 9, "too few kinds of frames: {kinds:?}");
}

#[test]
fn batches_are_padded_as_the_c_driver_does() {
    let lines = select(&recorded::frames(), Direction::GuestToHost, "rndis");
    let mut batches = 0;
    for pair in lines.windows(2) {
        let [message, next] = pair else { continue };
        if message.of != next.of {
            continue;
        }
        let unpadded = message.number("data_off") + 8 + message.number("data_len");
        let pad = padding(unpadded, 8);
        assert_eq!(message.number("msg_len"), unpadded + pad);
        assert_eq!(
            next.number("at"),
            message.number("at") + message.number("msg_len")
        );
        batches += 1;
    }
    assert!(batches > 0, "no batch in the recording");
}

#[test]
fn received_frames_are_found() {
    let lines = select(&recorded::frames(), Direction::HostToGuest, "rndis");
    assert!(!lines.is_empty());
    for line in lines {
        let header = &line.bytes[..MAX_RX_HEADER];
        let Ok(RxMessage::Data(data)) = parse(header, line.number("msg_len")) else {
            panic!("line {} is not data", line.seq);
        };
        assert_eq!(data.data_offset, 256);
        assert_eq!(data.data_len, line.number("data_len"));
        assert_eq!(data.checksum, RxChecksum(0));
        assert_eq!((data.vlan, data.hash, data.fragment), (None, None, None));
    }
}

#[test]
fn control_messages_are_told_from_frames() {
    let lines = recorded::attach_4_channels();
    for line in select(&lines, Direction::HostToGuest, "rndis") {
        let len = line.bytes.len() as u32;
        assert!(matches!(
            parse(&line.bytes, len),
            Ok(RxMessage::Control { len: got, .. }) if got == len
        ));
    }
}

/// A well-formed message: 16 bytes of info at 36, a frame of 60 bytes at 52.
fn valid() -> Vec<u8> {
    let words: [u32; 11] = [1, 120, 52, 60, 0, 0, 0, 36, 16, 0, 0];
    let mut bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
    bytes.extend(TxRecord::vlan(5).encode());
    bytes.resize(120, 0);
    bytes
}

fn with_word(index: usize, value: u32) -> Vec<u8> {
    let mut bytes = valid();
    bytes[index * 4..index * 4 + 4].copy_from_slice(&value.to_le_bytes());
    bytes
}

#[test]
fn a_well_formed_message_is_accepted() {
    let Ok(RxMessage::Data(data)) = parse(&valid(), 120) else {
        panic!("refused");
    };
    assert_eq!(
        (data.data_offset, data.data_len, data.vlan),
        (60, 60, Some(5))
    );
}

#[test]
fn each_lie_is_refused_by_its_name() {
    let refused = |bytes: Vec<u8>| parse(&bytes, 120).unwrap_err();
    assert_eq!(parse(&valid(), 119), Err(RxError::MessageLength));
    assert_eq!(refused(with_word(1, 7)), RxError::MessageLength);
    assert_eq!(refused(with_word(1, 121)), RxError::MessageLength);
    assert_eq!(refused(with_word(1, 43)), RxError::Truncated);
    assert_eq!(refused(with_word(2, 53)), RxError::DataRange);
    assert_eq!(refused(with_word(2, 35)), RxError::DataRange);
    assert_eq!(refused(with_word(2, u32::MAX)), RxError::DataRange);
    assert_eq!(refused(with_word(3, 61)), RxError::DataRange);
    assert_eq!(refused(with_word(3, u32::MAX)), RxError::DataRange);
    assert_eq!(refused(with_word(3, 13)), RxError::FrameTooShort);
    assert_eq!(refused(with_word(7, 35)), RxError::InfoRange);
    assert_eq!(refused(with_word(7, 37)), RxError::InfoRange);
    assert_eq!(refused(with_word(8, 17)), RxError::InfoRange);
    assert_eq!(refused(with_word(8, u32::MAX)), RxError::InfoRange);
    assert_eq!(refused(with_word(8, 15)), RxError::InfoRecord);
    assert_eq!(refused(with_word(11, 0)), RxError::InfoRecord);
    assert_eq!(parse(&valid()[..7], 120), Err(RxError::Truncated));
    assert_eq!(parse(&valid()[..43], 120), Err(RxError::Truncated));
    assert_eq!(parse(&valid()[..56], 120), Err(RxError::InfoTooLong));
}

#[test]
fn only_the_first_piece_of_a_coalesced_frame_has_an_ethernet_header() {
    let piece = |flags: u8| {
        let mut bytes = with_word(3, 4);
        bytes[48..52].copy_from_slice(&0x8000_0001u32.to_le_bytes());
        bytes[56..60].copy_from_slice(&[1, flags, 0, 0]);
        parse(&bytes, 120)
    };
    assert_eq!(piece(3), Err(RxError::FrameTooShort));
    assert!(matches!(
        piece(5),
        Ok(RxMessage::Data(RxData {
            fragment: Some(Fragment { last: true, .. }),
            ..
        }))
    ));
}

#[test]
fn error_names_are_distinct_and_indexed() {
    let names: std::collections::BTreeSet<_> = RxError::ALL.iter().map(|e| e.name()).collect();
    assert_eq!(names.len(), RxError::ALL.len());
    for (index, error) in RxError::ALL.iter().enumerate() {
        assert_eq!(error.index(), index);
    }
}

#[test]
fn padding_reaches_the_alignment() {
    assert_eq!(padding(1590, 8), 2);
    assert_eq!(padding(1592, 8), 0);
    assert_eq!(padding(5, 1), 0);
    assert_eq!(padding(5, 0), 0);
    assert_eq!(padding(5, 6), 0);
    assert!(!extend_message(&mut [0; 7], 1));
    assert!(!extend_message(&mut [0xff; 8], 1));
}

fn check(header: &[u8], range_len: u32) -> Result<(), TestCaseError> {
    if let Ok(RxMessage::Data(data)) = parse(header, range_len) {
        let end = u64::from(data.data_offset) + u64::from(data.data_len);
        prop_assert!(end <= u64::from(range_len));
        prop_assert!(data.data_offset as usize >= PACKET_HEADER_LEN);
    }
    Ok(())
}

proptest! {
    #[test]
    fn any_bytes_parse_or_fail(
        bytes in proptest::collection::vec(any::<u8>(), 0..MAX_RX_HEADER),
        range_len: u32,
    ) {
        check(&bytes, range_len)?;
    }

    #[test]
    fn the_bytes_asked_for_are_enough(
        bytes in proptest::collection::vec(any::<u8>(), MAX_RX_HEADER),
        changes in proptest::collection::vec((0usize..15, prop_oneof![any::<u32>(), 0u32..130]), 0..4),
        valid_start: bool,
        range_len in 0u32..MAX_RX_HEADER as u32,
    ) {
        let mut bytes = bytes;
        if valid_start {
            let valid = valid();
            bytes[..valid.len()].copy_from_slice(&valid);
        }
        for (index, value) in changes {
            bytes[index * 4..index * 4 + 4].copy_from_slice(&value.to_le_bytes());
        }
        let all = &bytes[..range_len as usize];
        let fixed = &all[..all.len().min(PACKET_HEADER_LEN)];
        let len = header_len(fixed, range_len);
        prop_assert!(fixed.len() <= len && len <= all.len());
        prop_assert_eq!(parse(&all[..len], range_len), parse(all, range_len));
    }

    #[test]
    fn nearly_valid_messages_stay_in_their_range(
        changes in proptest::collection::vec((0usize..15, prop_oneof![any::<u32>(), 0u32..130]), 0..4),
        range_len in 100u32..130,
    ) {
        let mut bytes = valid();
        for (index, value) in changes {
            bytes[index * 4..index * 4 + 4].copy_from_slice(&value.to_le_bytes());
        }
        check(&bytes, range_len)?;
    }

    #[test]
    fn what_is_sent_can_be_received(len in 14u32..65536, hash: Option<u32>, vlan: Option<u16>) {
        let meta = TxMeta { len, hash, vlan, offload: TxOffload::None };
        let mut out = [0; MAX_TX_HEADER];
        let header = meta.write_header(&mut out);
        let Ok(RxMessage::Data(data)) = parse(&out, header as u32 + len) else {
            return Err(TestCaseError::fail("refused"));
        };
        prop_assert_eq!(data.data_offset as usize, header);
        prop_assert_eq!((data.data_len, data.hash, data.vlan), (len, hash, vlan));
    }
}
