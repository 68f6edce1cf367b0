// SPDX-License-Identifier: GPL-2.0

//! Layout, the C driver's bytes, and hostile messages.

use super::*;
use crate::rndis::recorded::{self, select, Direction};
use core::mem::{offset_of, size_of};
use proptest::prelude::*;

#[test]
fn layout() {
    assert_eq!(size_of::<Header>(), HEADER_LEN);
    assert_eq!(size_of::<InitializeCompleteBody>(), 44);
    assert_eq!(offset_of!(InitializeCompleteBody, status), 4);
    assert_eq!(
        offset_of!(InitializeCompleteBody, max_packets_per_message),
        24
    );
    assert_eq!(offset_of!(InitializeCompleteBody, max_transfer_size), 28);
    assert_eq!(offset_of!(InitializeCompleteBody, alignment_factor), 32);
    assert_eq!(size_of::<RequestBody>() + HEADER_LEN, REQUEST_LEN);
    assert_eq!(offset_of!(RequestBody, oid), 4);
    assert_eq!(offset_of!(RequestBody, info_len), 8);
    assert_eq!(offset_of!(RequestBody, info_offset), 12);
    assert_eq!(size_of::<QueryCompleteBody>(), 16);
    assert_eq!(offset_of!(QueryCompleteBody, info_len), 8);
    assert_eq!(offset_of!(QueryCompleteBody, info_offset), 12);
    assert_eq!(size_of::<StatusBody>(), 8);
    assert_eq!(size_of::<IndicateBody>(), 12);
    assert_eq!(offset_of!(IndicateBody, buffer_offset), 8);
}

#[test]
fn requests_are_those_of_the_c_driver() {
    let lines = recorded::attach_4_channels();
    let mut compared = 0;
    for line in select(&lines, Direction::GuestToHost, "rndis") {
        let id = line.number("reqid");
        let mut out = [0u8; 1152];
        let info = line.bytes.get(REQUEST_LEN..).unwrap_or(&[]);
        let oid = || {
            let text = line.field("oid").unwrap();
            let hex = text.trim_start_matches("0x").split('(').next().unwrap();
            Oid(u32::from_str_radix(hex, 16).unwrap())
        };
        let len = match line.name.as_str() {
            "INIT" => encode_initialize(id, &mut out),
            "QUERY" => encode_query(id, oid(), info, &mut out),
            "SET" => encode_set(id, oid(), info, &mut out),
            other => panic!("{other}"),
        };
        assert_eq!(&out[..len.unwrap()], line.bytes, "line {}", line.seq);
        compared += 1;
    }
    assert_eq!(compared, 11);
}

#[test]
fn halt_is_that_of_the_c_driver() {
    let lines = recorded::reattach_2_channels();
    let halt = select(&lines, Direction::GuestToHost, "rndis")
        .into_iter()
        .find(|line| line.name == "HALT")
        .unwrap();
    let mut out = [0u8; 12];
    assert_eq!(encode_halt(halt.number("reqid"), &mut out), Some(12));
    assert_eq!(out.as_slice(), halt.bytes);
}

#[test]
fn answers_are_understood() {
    let lines = recorded::attach_4_channels();
    let mut seen = Vec::new();
    for line in select(&lines, Direction::HostToGuest, "rndis") {
        let message = HostMessage::decode(&line.bytes).unwrap();
        match (line.name.as_str(), message) {
            (
                "INIT_C",
                HostMessage::InitializeComplete {
                    request_id,
                    status,
                    max_packets_per_message,
                    max_transfer_size,
                    alignment_factor,
                },
            ) => {
                assert_eq!(request_id, 1);
                assert!(status.is_success());
                assert_eq!(max_packets_per_message, 8);
                assert_eq!(max_transfer_size, line.number("max_xfer"));
                assert_eq!(alignment_factor, 3);
            }
            (
                "QUERY_C",
                HostMessage::QueryComplete {
                    request_id,
                    status,
                    info,
                },
            ) => {
                assert_eq!(request_id, line.number("reqid"));
                assert!(status.is_success());
                assert_eq!(info.len(), line.number("info_len") as usize);
                assert_eq!(info, &line.bytes[24..]);
            }
            ("SET_C", HostMessage::SetComplete { request_id, status }) => {
                assert_eq!(request_id, line.number("reqid"));
                assert!(status.is_success());
            }
            ("INDICATE", HostMessage::Indicate { status, buffer }) => {
                assert_eq!(status, 0x4002_0006);
                assert_eq!(buffer.len(), 156);
            }
            (name, message) => panic!("{name} became {message:?}"),
        }
        seen.push(line.name);
    }
    assert_eq!(seen.len(), 12);
}

fn message(kind: u32, len: u32, words: &[u32]) -> Vec<u8> {
    [kind, len]
        .iter()
        .chain(words)
        .flat_map(|word| word.to_le_bytes())
        .collect()
}

#[test]
fn lengths_that_leave_the_range_are_refused() {
    for len in [0, 7, 17, u32::MAX] {
        let bytes = message(kind::KEEPALIVE, len, &[1, 2]);
        assert_eq!(
            HostMessage::decode(&bytes),
            Err(MessageError::Length(len)),
            "length {len}"
        );
    }
}

#[test]
fn query_buffers_that_leave_the_message_are_refused() {
    for (len, offset) in [(4, 15), (5, 16), (4, 17), (u32::MAX, 16), (4, u32::MAX)] {
        let bytes = message(0x8000_0004, 28, &[9, 0, len, offset, 5]);
        assert_eq!(
            HostMessage::decode(&bytes),
            Err(MessageError::Buffer {
                request_id: 9,
                offset,
                len
            })
        );
    }
    let bytes = message(0x8000_0004, 28, &[9, 0, 4, 16, 5]);
    assert!(matches!(
        HostMessage::decode(&bytes),
        Ok(HostMessage::QueryComplete {
            info: [5, 0, 0, 0],
            ..
        })
    ));
}

#[test]
fn refusals_may_be_short() {
    let bytes = message(0x8000_0004, 16, &[9, 0xc000_00bb]);
    assert_eq!(
        HostMessage::decode(&bytes),
        Ok(HostMessage::QueryComplete {
            request_id: 9,
            status: RndisStatus(0xc000_00bb),
            info: &[]
        })
    );
    let bytes = message(0x8000_0002, 16, &[9, 1]);
    assert!(matches!(
        HostMessage::decode(&bytes),
        Ok(HostMessage::InitializeComplete { request_id: 9, .. })
    ));
    let bytes = message(0x8000_0002, 16, &[9, 0]);
    assert!(HostMessage::decode(&bytes).is_err());
}

#[test]
fn old_hosts_leave_the_speed_out_of_the_length() {
    let bytes = message(kind::INDICATE, 20, &[0x4001_0013, 4, 12, 1000]);
    let decoded = HostMessage::decode(&bytes).unwrap();
    assert!(matches!(
        decoded,
        HostMessage::Indicate { buffer, .. } if buffer == 1000u32.to_le_bytes()
    ));
}

#[test]
fn keepalives_can_be_answered() {
    let bytes = message(kind::KEEPALIVE, 12, &[77]);
    assert_eq!(
        HostMessage::decode(&bytes),
        Ok(HostMessage::Keepalive { request_id: 77 })
    );
    let mut out = [0; 16];
    assert_eq!(encode_keepalive_complete(77, &mut out), Some(16));
    assert_eq!(out.to_vec(), message(0x8000_0008, 16, &[77, 0]));
}

#[test]
fn requests_do_not_overrun_their_buffer() {
    for room in 0..REQUEST_LEN + 4 {
        let mut out = vec![0u8; room];
        assert_eq!(encode_set(1, Oid(2), &[0; 4], &mut out), None);
    }
}

proptest! {
    #[test]
    fn any_bytes_decode_or_fail(
        kind in prop_oneof![any::<u32>(), 0u32..10, (0u32..10).prop_map(|k| k | 0x8000_0000)],
        len in prop_oneof![any::<u32>(), 0u32..100],
        body in proptest::collection::vec(any::<u8>(), 0..100),
    ) {
        let bytes = [kind.to_le_bytes().to_vec(), len.to_le_bytes().to_vec(), body].concat();
        let _ = HostMessage::decode(&bytes);
    }
}
