// SPDX-License-Identifier: GPL-2.0

//! Layout, the C driver's bytes, and hostile messages.

use super::*;
use crate::rndis::recorded::{self, select, Direction, Line};
use core::mem::{offset_of, size_of};
use proptest::prelude::*;

#[test]
fn bodies_have_their_layout_and_fit() {
    assert_eq!(size_of::<InitBody>(), 8);
    assert_eq!(offset_of!(InitBody, max), 4);
    assert_eq!(size_of::<InitCompleteBody>(), 12);
    assert_eq!(offset_of!(InitCompleteBody, status), 8);
    assert_eq!(size_of::<NdisVersionBody>(), 8);
    assert_eq!(offset_of!(NdisVersionBody, minor), 4);
    assert_eq!(size_of::<ShareBufferBody>(), 6);
    assert_eq!(offset_of!(ShareBufferBody, id), 4);
    assert_eq!(size_of::<ReceiveBufferCompleteBody>(), 24);
    assert_eq!(offset_of!(ReceiveBufferCompleteBody, section_groups), 4);
    assert_eq!(offset_of!(ReceiveBufferCompleteBody, offset), 8);
    assert_eq!(offset_of!(ReceiveBufferCompleteBody, section_len), 12);
    assert_eq!(offset_of!(ReceiveBufferCompleteBody, section_count), 16);
    assert_eq!(offset_of!(ReceiveBufferCompleteBody, end_offset), 20);
    assert_eq!(size_of::<SendBufferCompleteBody>(), 8);
    assert_eq!(offset_of!(SendBufferCompleteBody, section_len), 4);
    assert_eq!(size_of::<RndisPacketBody>(), 12);
    assert_eq!(offset_of!(RndisPacketBody, section_index), 4);
    assert_eq!(offset_of!(RndisPacketBody, section_size), 8);
    assert_eq!(size_of::<NdisConfigBody>(), 16);
    assert_eq!(offset_of!(NdisConfigBody, capabilities), 8);
    assert_eq!(size_of::<VfAssociationBody>(), 8);
    assert_eq!(offset_of!(VfAssociationBody, serial), 4);
    assert_eq!(size_of::<SubchannelBody>(), 8);
    assert_eq!(offset_of!(SubchannelBody, count), 4);
    assert_eq!(size_of::<IndirectionTableBody>(), 8);
    assert_eq!(offset_of!(IndirectionTableBody, offset), 4);
    // The largest guest body leaves room for the type.
    assert!(size_of::<NdisConfigBody>() + 4 <= MESSAGE_LEN);
}

fn sent(lines: &[Line], name: &str) -> Vec<u8> {
    select(lines, Direction::GuestToHost, "nvsp")
        .into_iter()
        .find(|line| line.name == name)
        .unwrap_or_else(|| panic!("no {name} in the recording"))
        .bytes
}

fn received(lines: &[Line], name: &str) -> Vec<u8> {
    select(lines, Direction::HostToGuest, "nvsp")
        .into_iter()
        .find(|line| line.name == name)
        .unwrap_or_else(|| panic!("no {name} in the recording"))
        .bytes
}

#[test]
fn guest_messages_are_those_of_the_c_driver() {
    let attach = recorded::attach_4_channels();
    let reattach = recorded::reattach_2_channels();
    let frames = recorded::frames();
    let same = |message: GuestMessage, bytes: Vec<u8>| {
        assert_eq!(message.encode().as_slice(), bytes, "{message:?}");
    };
    same(GuestMessage::Init(NvspVersion::V61), sent(&attach, "INIT"));
    same(
        GuestMessage::NdisConfig {
            frame_len: 1514,
            capabilities: capability::SRIOV
                | capability::VLAN
                | capability::TEAMING
                | capability::RSC,
        },
        sent(&attach, "SEND_NDIS_CONFIG"),
    );
    same(
        GuestMessage::NdisVersion(NvspVersion::V61),
        sent(&attach, "SEND_NDIS_VER"),
    );
    same(
        GuestMessage::SendReceiveBuffer { gpadl: 0xe1e11 },
        sent(&attach, "SEND_RECV_BUF"),
    );
    same(
        GuestMessage::SendSendBuffer { gpadl: 0xe1e12 },
        sent(&attach, "SEND_SEND_BUF"),
    );
    same(
        GuestMessage::AllocateSubchannels { count: 3 },
        sent(&attach, "SUBCHANNEL"),
    );
    same(
        GuestMessage::RevokeReceiveBuffer,
        sent(&reattach, "REVOKE_RECV_BUF"),
    );
    for line in select(&frames, Direction::GuestToHost, "nvsp") {
        if line.name != "SEND_RNDIS_PKT" {
            continue;
        }
        let section = line.number("section");
        let message = GuestMessage::RndisPacket {
            channel: RndisChannel::Data,
            section: (section != NO_SECTION).then_some(section),
            section_size: line.number("section_size"),
        };
        same(message, line.bytes);
    }
}

#[test]
fn receive_completion_is_that_of_the_c_driver() {
    let bytes = sent(&recorded::attach_4_channels(), "SEND_RNDIS_PKT_COMPLETE");
    assert_eq!(rndis_completion(Status::Success).as_slice(), bytes);
    assert_eq!(rndis_completion(Status::Failure)[4], 2);
}

#[test]
fn host_answers_are_understood() {
    let lines = recorded::attach_4_channels();
    let decode = |name| Completion::decode(&received(&lines, name));
    assert_eq!(
        decode("INIT_COMPLETE"),
        Ok(Completion::Init {
            status: Status::Success
        })
    );
    assert_eq!(
        decode("SEND_RECV_BUF_COMPLETE"),
        Ok(Completion::ReceiveBuffer {
            status: Status::Success,
            section_groups: 1,
            offset: 0,
            section_len: 1806,
            section_count: 9289,
        })
    );
    assert_eq!(
        decode("SEND_SEND_BUF_COMPLETE"),
        Ok(Completion::SendBuffer {
            status: Status::Success,
            section_len: 6144
        })
    );
    assert_eq!(
        decode("SUBCHANNEL"),
        Ok(Completion::Subchannels {
            status: Status::Success,
            count: 3
        })
    );
    assert_eq!(
        decode("SEND_RNDIS_PKT_COMPLETE"),
        Ok(Completion::RndisPacket {
            status: Status::Success
        })
    );
}

#[test]
fn send_table_is_understood() {
    let bytes = received(&recorded::attach_4_channels(), "SEND_INDIRECTION_TABLE");
    let Ok(Notice::SendTable(table)) = Notice::decode(&bytes, NvspVersion::V61) else {
        panic!("not a send table");
    };
    let expected: Vec<u32> = (0..16).map(|i| i % 4).collect();
    assert_eq!(table.as_slice(), expected);
}

fn table_message(offset: u32, count: u32, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    bytes[..4].copy_from_slice(&134u32.to_le_bytes());
    bytes[4..8].copy_from_slice(&count.to_le_bytes());
    bytes[8..12].copy_from_slice(&offset.to_le_bytes());
    bytes
}

#[test]
fn old_hosts_have_the_table_at_40_whatever_they_say() {
    let mut bytes = table_message(12, 16, 104);
    bytes[40] = 7;
    let Ok(Notice::SendTable(old)) = Notice::decode(&bytes, NvspVersion::V6) else {
        panic!("not a send table");
    };
    assert_eq!(old[0], 7);
    let Ok(Notice::SendTable(new)) = Notice::decode(&bytes, NvspVersion::V61) else {
        panic!("not a send table");
    };
    assert_eq!((new[0], new[7]), (0, 7));
}

#[test]
fn send_tables_outside_the_message_are_refused() {
    let decode = |bytes: &[u8]| Notice::decode(bytes, NvspVersion::V61);
    assert_eq!(
        decode(&table_message(17, 16, 80)),
        Err(NvspError::SendTableOffset(17))
    );
    assert_eq!(
        decode(&table_message(u32::MAX, 16, 80)),
        Err(NvspError::SendTableOffset(u32::MAX))
    );
    assert_eq!(
        decode(&table_message(12, 15, 80)),
        Err(NvspError::SendTableCount(15))
    );
}

#[test]
fn short_answers_are_refused_only_if_their_fields_are_needed() {
    let refusal = [102u32.to_le_bytes(), 2u32.to_le_bytes()].concat();
    assert!(matches!(
        Completion::decode(&refusal),
        Ok(Completion::ReceiveBuffer {
            status: Status::Failure,
            ..
        })
    ));
    let success = [102u32.to_le_bytes(), 1u32.to_le_bytes()].concat();
    assert_eq!(
        Completion::decode(&success),
        Err(NvspError::Truncated {
            message_type: Some(102),
            len: 8
        })
    );
    assert_eq!(Completion::decode(&[]), Ok(Completion::Empty));
    assert!(Completion::decode(&[1, 0, 0]).is_err());
}

proptest! {
    #[test]
    fn any_bytes_decode_or_fail(
        kind in prop_oneof![any::<u32>(), 0u32..140],
        body in proptest::collection::vec(any::<u8>(), 0..128),
        version in proptest::sample::select(&NvspVersion::NEWEST_FIRST),
    ) {
        let bytes = [kind.to_le_bytes().to_vec(), body].concat();
        let succeeded = matches!(
            Completion::decode(&bytes),
            Ok(Completion::RndisPacket { status }) if status.is_success()
        );
        prop_assert_eq!(packet_succeeded(&bytes), succeeded);
        let _ = Notice::decode(&bytes, version);
        let _ = decode_rndis_packet(&bytes);
    }

    #[test]
    fn any_status_survives_the_wire(value: u32) {
        prop_assert_eq!(Status::from_value(value).value(), value);
    }
}

#[test]
fn a_packet_succeeded_if_the_host_says_so() {
    for status in [0, 1, 2, 5] {
        let completion = rndis_completion(Status::from_value(status));
        assert_eq!(packet_succeeded(&completion), status == 1);
    }
}
