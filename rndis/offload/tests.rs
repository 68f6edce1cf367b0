// SPDX-License-Identifier: GPL-2.0

//! Layout, the recorded negotiation, and hostile answers.

use super::*;
use crate::rndis::message::{HostMessage, REQUEST_LEN};
use crate::rndis::recorded::{self, select, Direction};
use core::mem::{offset_of, size_of};
use proptest::prelude::*;

#[test]
fn layout() {
    assert_eq!(size_of::<ObjectHeader>(), 4);
    assert_eq!(size_of::<OffloadCapabilitiesBody>(), 112);
    assert_eq!(offset_of!(OffloadCapabilitiesBody, ip4_tx_checksum), 8);
    assert_eq!(offset_of!(OffloadCapabilitiesBody, ip6_tx_checksum), 24);
    assert_eq!(offset_of!(OffloadCapabilitiesBody, lso_v1), 36);
    assert_eq!(offset_of!(OffloadCapabilitiesBody, ipsec_v1), 52);
    assert_eq!(offset_of!(OffloadCapabilitiesBody, lso4_encapsulation), 80);
    assert_eq!(offset_of!(OffloadCapabilitiesBody, lso6_encapsulation), 92);
    assert_eq!(offset_of!(OffloadCapabilitiesBody, lso6_options), 104);
    assert_eq!(size_of::<ParametersBody>(), MAX_PARAMETERS_LEN);
    assert_eq!(offset_of!(ParametersBody, tcp4_checksum), 5);
    assert_eq!(offset_of!(ParametersBody, lso4), 11);
    assert_eq!(offset_of!(ParametersBody, flags), 16);
    assert_eq!(offset_of!(ParametersBody, rsc4), 22);
}

fn recorded_capabilities() -> Vec<u8> {
    let lines = recorded::attach_4_channels();
    let answer = select(&lines, Direction::HostToGuest, "rndis")
        .into_iter()
        .find(|line| line.field("for_oid") == Some("0xfc01020d"))
        .unwrap();
    match HostMessage::decode(&answer.bytes) {
        Ok(HostMessage::QueryComplete { info, .. }) => info.to_vec(),
        other => panic!("{other:?}"),
    }
}

fn recorded_request(oid: &str) -> Vec<u8> {
    let lines = recorded::attach_4_channels();
    select(&lines, Direction::GuestToHost, "rndis")
        .into_iter()
        .find(|line| line.field("oid").is_some_and(|text| text.starts_with(oid)))
        .unwrap()
        .bytes[REQUEST_LEN..]
        .to_vec()
}

#[test]
fn query_and_parameters_are_those_of_the_c_driver() {
    let mut out = [0xaa; MAX_CAPABILITIES_LEN];
    let len = encode_capabilities_query(NvspVersion::V61, &mut out).unwrap();
    assert_eq!(&out[..len], recorded_request("0xfc01020d"));

    let offloads = Offloads::negotiate(&recorded_capabilities()).unwrap();
    assert_eq!(
        offloads,
        Offloads {
            tcp4_checksum: true,
            udp4_checksum: true,
            tcp6_checksum: true,
            udp6_checksum: true,
            tso4: true,
            tso6: true,
            gso_max: 0xf53c,
            rx_checksum: true,
            rsc_offered: false,
            rsc: false,
        }
    );
    let len = offloads
        .encode_parameters(NvspVersion::V61, &mut out)
        .unwrap();
    assert_eq!(&out[..len], recorded_request("0xfc01020c"));
}

#[test]
fn older_versions_have_shorter_objects() {
    let mut out = [0; MAX_CAPABILITIES_LEN];
    let mut query = |version| {
        let len = encode_capabilities_query(version, &mut out).unwrap();
        (out[1], len)
    };
    assert_eq!(query(NvspVersion::V1), (1, 112));
    assert_eq!(query(NvspVersion::V2), (1, 112));
    assert_eq!(query(NvspVersion::V4), (2, 144));
    assert_eq!(query(NvspVersion::V5), (3, 156));

    let offloads = Offloads::negotiate(&recorded_capabilities()).unwrap();
    let mut out = [0; 22];
    assert_eq!(
        offloads.encode_parameters(NvspVersion::V4, &mut out),
        Some(22)
    );
    assert_eq!((out[2], out[5], out[6], out[8]), (22, 4, 0, 0));
    assert_eq!(
        offloads.encode_parameters(NvspVersion::V5, &mut out),
        None,
        "28 bytes do not fit 22"
    );
}

fn changed(change: impl FnOnce(&mut Vec<u8>)) -> Result<Offloads, OffloadError> {
    let mut info = recorded_capabilities();
    change(&mut info);
    Offloads::negotiate(&info)
}

#[test]
fn coalescing_is_switched_on_or_off_where_it_is_offered() {
    let offloads = changed(|info| {
        info[144] = 1;
        info[145] = 1;
    })
    .unwrap();
    assert!(offloads.rsc_offered && !offloads.rsc);
    for (offered, rsc, value) in [(true, false, 1), (true, true, 2), (false, true, 0)] {
        let mut out = [0; MAX_PARAMETERS_LEN];
        let offloads = Offloads {
            rsc_offered: offered,
            rsc,
            ..offloads
        };
        offloads
            .encode_parameters(NvspVersion::V61, &mut out)
            .unwrap();
        assert_eq!(&out[22..24], &[value, value]);
    }
}

#[test]
fn receive_checksums_can_be_left_out() {
    let all = Offloads::negotiate(&recorded_capabilities()).unwrap();
    for (rx_checksum, value) in [(true, 4), (false, 2)] {
        let mut out = [0; MAX_PARAMETERS_LEN];
        let offloads = Offloads { rx_checksum, ..all };
        offloads
            .encode_parameters(NvspVersion::V61, &mut out)
            .unwrap();
        assert_eq!(&out[4..9], &[1, value, value, value, value]);
    }
    let mut out = [0; MAX_PARAMETERS_LEN];
    let none = Offloads {
        rx_checksum: true,
        ..Offloads::default()
    };
    none.encode_parameters(NvspVersion::V61, &mut out).unwrap();
    assert_eq!(&out[4..9], &[1, 0, 0, 0, 0]);
}

#[test]
fn segmentation_needs_checksums_options_and_room() {
    let without_tcp_options = changed(|info| info[8] &= !4).unwrap();
    assert!(!without_tcp_options.tcp4_checksum && !without_tcp_options.tso4);
    assert!(without_tcp_options.tso6);
    let without_extension_headers = changed(|info| info[104] &= !1).unwrap();
    assert!(without_extension_headers.tcp6_checksum && !without_extension_headers.tso6);
    let tiny = changed(|info| info[84..88].copy_from_slice(&100u32.to_le_bytes())).unwrap();
    assert!(!tiny.tso4);
    assert_eq!(tiny.gso_max, 0xf53c);
    let other_encapsulation = changed(|info| info[80] = 1).unwrap();
    assert!(!other_encapsulation.tso4);
}

#[test]
fn malformed_answers_are_named() {
    assert_eq!(
        changed(|info| info[0] = 0xa8),
        Err(OffloadError::ObjectType(0xa8))
    );
    assert_eq!(changed(|info| info[1] = 0), Err(OffloadError::Revision));
    assert_eq!(changed(|info| info[2] = 111), Err(OffloadError::Size(111)));
    assert_eq!(changed(|info| info[2] = 157), Err(OffloadError::Size(157)));
    assert_eq!(
        changed(|info| info.truncate(111)),
        Err(OffloadError::Truncated(111))
    );
}

proptest! {
    #[test]
    fn any_bytes_negotiate_or_fail(
        mut info in proptest::collection::vec(any::<u8>(), 0..200),
        valid: bool,
    ) {
        if valid && info.len() >= 4 {
            info[..4].copy_from_slice(&[0xa7, 3, 112, 0]);
        }
        if let Ok(offloads) = Offloads::negotiate(&info) {
            prop_assert!(offloads.gso_max <= 65536);
            prop_assert!(!offloads.tso4 || offloads.tcp4_checksum);
            prop_assert!(!offloads.tso6 || offloads.tcp6_checksum);
        }
    }
}
