// SPDX-License-Identifier: GPL-2.0

//! Layout, round trips, and hostile records.

use super::*;
use core::mem::{offset_of, size_of};
use proptest::prelude::*;

#[test]
fn layout() {
    assert_eq!(size_of::<RecordHeader>(), RECORD_HEADER_LEN);
    assert_eq!(offset_of!(RecordHeader, record_type), 4);
    assert_eq!(offset_of!(RecordHeader, payload_offset), 8);
}

fn record(size: u32, record_type: u32, offset: u32, payload: &[u8]) -> Vec<u8> {
    let mut bytes: Vec<u8> = [size, record_type, offset]
        .iter()
        .flat_map(|word| word.to_le_bytes())
        .collect();
    bytes.extend(payload);
    bytes
}

fn fragment_word(flags: u8, id: u16) -> [u8; 4] {
    let [a, b] = id.to_le_bytes();
    [1, flags, a, b]
}

#[test]
fn every_record_is_found_in_one_pass() {
    let bytes = [
        record(16, VLAN, 12, &0x0345u32.to_le_bytes()),
        record(24, 5, 12, &[0xff; 12]),
        record(16, CHECKSUM, 12, &0x28u32.to_le_bytes()),
        record(20, HASH, 16, &[0, 0, 0, 0, 1, 2, 3, 4]),
        record(16, PACKET_ID, 12, &fragment_word(3, 9)),
    ]
    .concat();
    let info = RxInfo::parse(&bytes).unwrap();
    assert_eq!(info.vlan, Some(tci_from_vlan(0x0345)));
    assert_eq!(info.hash, Some(0x0403_0201));
    let checksum = info.checksum.unwrap();
    assert!(checksum.transport_ok() && checksum.ip_ok());
    assert!(!checksum.transport_failed() && !checksum.ip_value_invalid());
    assert_eq!(
        info.fragment,
        Some(Fragment {
            first: true,
            last: false,
            id: 9
        })
    );
}

#[test]
fn the_first_of_equal_records_counts() {
    let bytes = [
        record(16, HASH, 12, &[1, 0, 0, 0]),
        record(16, HASH, 12, &[2, 0, 0, 0]),
    ]
    .concat();
    assert_eq!(RxInfo::parse(&bytes).unwrap().hash, Some(1));
}

#[test]
fn internal_types_are_not_the_public_ones() {
    let bytes = record(16, INTERNAL | HASH, 12, &[1, 0, 0, 0]);
    assert_eq!(RxInfo::parse(&bytes), Ok(RxInfo::default()));
    let bytes = record(16, 1, 12, &fragment_word(1, 0));
    assert_eq!(RxInfo::parse(&bytes), Ok(RxInfo::default()));
}

#[test]
fn malformed_records_end_the_walk() {
    let refused = |bytes: Vec<u8>| RxInfo::parse(&bytes).unwrap_err();
    assert_eq!(refused(record(0, HASH, 12, &[0; 4])), PpiError::Size);
    assert_eq!(refused(record(11, HASH, 12, &[0; 4])), PpiError::Size);
    assert_eq!(refused(record(17, HASH, 12, &[0; 4])), PpiError::Size);
    assert_eq!(refused(record(u32::MAX, HASH, 12, &[0; 4])), PpiError::Size);
    assert_eq!(refused(record(12, HASH, 12, &[])), PpiError::Payload);
    assert_eq!(refused(record(16, HASH, 13, &[0; 4])), PpiError::Payload);
    assert_eq!(refused(record(16, HASH, 0, &[0; 4])), PpiError::Payload);
    assert_eq!(
        refused(record(16, HASH, u32::MAX, &[0; 4])),
        PpiError::Payload
    );
    assert_eq!(
        refused([record(16, HASH, 12, &[0; 4]), vec![0; 11]].concat()),
        PpiError::Truncated
    );
}

proptest! {
    #[test]
    fn any_bytes_parse_or_fail(bytes in proptest::collection::vec(any::<u8>(), 0..120)) {
        let _ = RxInfo::parse(&bytes);
    }

    #[test]
    fn nearly_valid_records_parse_or_fail(
        records in proptest::collection::vec(
            (0u32..24, prop_oneof![0u32..10, Just(PACKET_ID)], 0u32..20, any::<[u8; 8]>()),
            0..6,
        )
    ) {
        let bytes: Vec<u8> = records
            .iter()
            .flat_map(|(size, kind, offset, payload)| record(*size, *kind, *offset, payload))
            .collect();
        let _ = RxInfo::parse(&bytes);
    }

    #[test]
    fn a_tag_survives_the_wire(tci: u16) {
        let bytes = TxRecord::vlan(tci).encode();
        prop_assert_eq!(RxInfo::parse(&bytes).unwrap().vlan, Some(tci));
    }

    #[test]
    fn a_hash_survives_the_wire(hash: u32) {
        let bytes = TxRecord::hash(hash).encode();
        prop_assert_eq!(RxInfo::parse(&bytes).unwrap().hash, Some(hash));
    }
}
