// SPDX-License-Identifier: GPL-2.0

//! Layout, the recorded messages, and hostile answers.

use super::*;
use crate::rndis::event::MESSAGE_BUFFER_LEN;
use crate::rndis::message::REQUEST_LEN;
use crate::rndis::recorded::{self, select, Direction, Line};
use core::mem::{offset_of, size_of};
use proptest::prelude::*;

#[test]
fn layout() {
    assert_eq!(size_of::<CapabilitiesBody>(), CAPABILITIES_LEN);
    assert_eq!(offset_of!(CapabilitiesBody, receive_queues), 12);
    assert_eq!(offset_of!(CapabilitiesBody, table_len), 16);
    assert_eq!(size_of::<ParametersBody>(), usize::from(PARAMETERS_LEN));
    assert_eq!(offset_of!(ParametersBody, flags), 4);
    assert_eq!(offset_of!(ParametersBody, hash_information), 8);
    assert_eq!(offset_of!(ParametersBody, table_bytes), 12);
    assert_eq!(offset_of!(ParametersBody, table_offset), 16);
    assert_eq!(offset_of!(ParametersBody, key_bytes), 20);
    assert_eq!(offset_of!(ParametersBody, key_offset), 24);
    assert_eq!(offset_of!(ParametersBody, masks), 28);
}

fn rss_sets(lines: &[Line]) -> Vec<Line> {
    select(lines, Direction::GuestToHost, "rndis")
        .into_iter()
        .filter(|line| {
            line.name == "SET"
                && line
                    .field("oid")
                    .is_some_and(|oid| oid.starts_with("0x10204"))
        })
        .collect()
}

fn table_of(line: &Line) -> Table {
    let table = &line.bytes[REQUEST_LEN + 40..line.bytes.len() - KEY_LEN];
    let entries = table
        .chunks(4)
        .map(|entry| u32::from_le_bytes(entry.try_into().unwrap()));
    Table::from_entries(entries).unwrap()
}

#[test]
fn parameters_are_those_of_the_c_driver() {
    let lines: Vec<Line> = recorded::attach_4_channels()
        .into_iter()
        .chain(recorded::reattach_2_channels())
        .chain(recorded::requests())
        .collect();
    let sets = rss_sets(&lines);
    assert_eq!(sets.len(), 8);
    for (index, line) in sets.iter().enumerate() {
        let mode = if index % 2 == 0 {
            Mode::Disable
        } else {
            Mode::Enable
        };
        let key: [u8; KEY_LEN] = *line.bytes.last_chunk().unwrap();
        let mut out = [0; MESSAGE_BUFFER_LEN];
        let id = line.number("reqid");
        let parameters = Parameters {
            table: &table_of(line),
            key: &key,
            types: FlowHash::ALL.types(OfferedHashes::default()),
        };
        let len = encode_set(id, mode, &parameters, &mut out).unwrap();
        assert_eq!(&out[..len], line.bytes, "line {}", line.seq);
    }
}

#[test]
fn default_key_and_spread_are_those_of_the_c_driver() {
    let attach = rss_sets(&recorded::attach_4_channels());
    assert_eq!(attach[0].bytes.last_chunk(), Some(&DEFAULT_KEY));
    assert_eq!(table_of(&attach[0]), Table::spread(128, 4));
    let reattach = rss_sets(&recorded::reattach_2_channels());
    assert_eq!(table_of(&reattach[0]), Table::spread(128, 2));
}

#[test]
fn query_and_answer_are_those_recorded() {
    let lines = recorded::attach_4_channels();
    let query = select(&lines, Direction::GuestToHost, "rndis")
        .into_iter()
        .find(|line| {
            line.field("oid")
                .is_some_and(|oid| oid.starts_with("0x10203"))
        })
        .unwrap();
    let mut out = [0xaa; CAPABILITIES_LEN];
    assert_eq!(Capabilities::encode_query(&mut out), Some(18));
    assert_eq!(&query.bytes[REQUEST_LEN..], out);
    let answer = select(&lines, Direction::HostToGuest, "rndis")
        .into_iter()
        .find(|line| line.field("for_oid") == Some("0x10203"))
        .unwrap();
    assert_eq!(
        Capabilities::decode(&answer.bytes[24..]),
        Some(Capabilities {
            receive_queues: 4,
            table_len: 128,
            hashes: OfferedHashes(0x301),
        })
    );
}

#[test]
fn impossible_table_sizes_become_the_default() {
    let mut info = [0u8; 18];
    info[0] = 0x88;
    for (size, expected) in [(0u16, 128), (1, 1), (256, 256), (257, 128), (u16::MAX, 128)] {
        info[16..].copy_from_slice(&size.to_le_bytes());
        assert_eq!(Capabilities::decode(&info).unwrap().table_len, expected);
    }
    info[0] = 0x89;
    assert_eq!(Capabilities::decode(&info), None);
    assert_eq!(Capabilities::decode(&info[..17]), None);
}

#[test]
fn the_longest_message_fits_the_buffer_and_no_other_overruns() {
    let table = Table::spread(256, 64);
    let mut out = [0; MESSAGE_BUFFER_LEN];
    let parameters = Parameters {
        table: &table,
        key: &DEFAULT_KEY,
        types: FlowHash::ALL.types(OfferedHashes::default()),
    };
    let len = encode_set(1, Mode::Enable, &parameters, &mut out);
    assert_eq!(len, Some(1132));
    let mut short = vec![0; 1131];
    assert_eq!(encode_set(1, Mode::Enable, &parameters, &mut short), None);
}

#[test]
fn ports_are_hashed_as_the_user_wants_and_the_host_can() {
    let plain = OfferedHashes::default();
    let udp = OfferedHashes(0x1800);
    assert_eq!(FlowHash::ALL.types(plain), HashTypes(0x1701));
    assert_eq!(FlowHash::ALL.types(udp), HashTypes(0xd701));
    let steps = [
        (Flow::Tcp4, 0xd501),
        (Flow::Udp6, 0x5501),
        (Flow::Tcp6, 0x4501),
        (Flow::Udp4, 0x0501),
    ];
    let mut hash = FlowHash::ALL;
    for (flow, expected) in steps {
        assert!(hash.has_ports(flow));
        hash = hash.with_ports(flow, false);
        assert!(!hash.has_ports(flow));
        assert_eq!(hash.types(udp), HashTypes(expected), "without {flow:?}");
    }
    assert_eq!(hash.mask(), 0);
    assert_eq!(hash.with_ports(Flow::Tcp6, true).mask(), 2);
}

#[test]
fn tables_hold_channels_only() {
    assert!(Table::from_entries([]).is_none());
    assert!(Table::from_entries([64]).is_none());
    assert!(Table::from_entries(vec![0; 257]).is_none());
    let full = Table::from_entries(vec![63; 256]).unwrap();
    assert_eq!(full.len(), 256);
    assert!(full.fits(64) && !full.fits(63));
}

proptest! {
    #[test]
    fn spread_uses_every_channel_and_no_other(len in 0u16..400, channels in 0u16..100) {
        let table = Table::spread(len, channels);
        prop_assert!((1..=256).contains(&table.len()));
        prop_assert_eq!(table.entries().len(), usize::from(table.len()));
        let channels = channels.clamp(1, 64);
        prop_assert!(table.fits(channels));
        if table.len() >= channels {
            prop_assert!((0..channels).all(|c| table.entries().contains(&(c as u8))));
        }
    }

    #[test]
    fn any_bytes_decode_or_fail(info in proptest::collection::vec(any::<u8>(), 0..32)) {
        let _ = Capabilities::decode(&info);
    }
}
