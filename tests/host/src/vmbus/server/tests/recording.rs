// SPDX-License-Identifier: GPL-2.0

//! The stock C driver's messages, as recorded on another host, replayed to this one: the answers
//! must be those of the recording.

use super::super::version;
use super::machine::{Device, Guest, TestDevice};
use crate::vmbus::device::Offer;
use crate::vmbus::message::number;

const RECORDING: &str = include_str!("../../../../tests/data/vmbus-attach.txt");

enum Line {
    FromGuest(Vec<u8>),
    ToGuest(Vec<u8>),
    /// So many GPADL_BODY messages are missing.
    Omitted(usize),
}

fn recording() -> Vec<Line> {
    let lines = RECORDING.lines().filter(|line| !line.starts_with('#'));
    lines
        .map(|line| {
            let fields: Vec<&str> = line.split(' ').collect();
            match fields[..] {
                ["omitted", count] => Line::Omitted(count.parse().unwrap()),
                ["G>H", _, hex] => Line::FromGuest(bytes(hex)),
                ["H>G", _, hex] => Line::ToGuest(bytes(hex)),
                _ => panic!("{line}"),
            }
        })
        .collect()
}

fn bytes(hex: &str) -> Vec<u8> {
    (0..hex.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap())
        .collect()
}

fn is_offer(message: &[u8]) -> bool {
    message[0] == number::OFFERCHANNEL as u8
}

fn index_of(offer: &[u8]) -> u16 {
    u16::from_le_bytes([offer[180], offer[181]])
}

/// Puts the devices of the recording on the bus; the last one is the NIC.
fn add_devices(guest: &Guest, lines: &[Line]) -> Device {
    let mut last = Device::default();
    for line in lines {
        let Line::ToGuest(offer) = line else { continue };
        if !is_offer(offer) || index_of(offer) > 0 {
            continue;
        }
        last = Device::default();
        let device = TestDevice {
            offer: Offer {
                class: offer[8..24].try_into().unwrap(),
                instance: offer[24..40].try_into().unwrap(),
                max_channels: 4,
            },
            state: last.clone(),
        };
        guest.server.add_device(Box::new(device)).unwrap();
    }
    last
}

/// GPADL_BODY messages in the manner of `like`, with the page numbers that follow its.
fn bodies_after(like: &[u8], count: usize) -> Vec<Vec<u8>> {
    let last = like.len() - 8;
    let mut pfn = u64::from_le_bytes(like[last..].try_into().unwrap());
    let body = |_| {
        let mut body = like[..16].to_vec();
        for _ in 0..28 {
            pfn = (pfn + 1) % 0x3_0000;
            body.extend(pfn.to_le_bytes());
        }
        body
    };
    (0..count).map(body).collect()
}

#[track_caller]
fn assert_same(recorded: &[u8], answer: &[u8]) {
    match u32::from(recorded[0]) {
        // The other host names connection 1 for later messages, this one 4.
        number::VERSION_RESPONSE => {
            assert_eq!(answer.len(), recorded.len());
            assert_eq!(answer[..12], recorded[..12]);
            assert_eq!(answer[16..], recorded[16..]);
        }
        // Devices of other classes have flags and user data.
        number::OFFERCHANNEL if recorded[8..24] != super::machine::NIC_CLASS => {
            assert_eq!(answer[..40], recorded[..40]);
            assert_eq!(answer[180..], recorded[180..]);
        }
        _ => assert_eq!(answer, recorded),
    }
}

#[test]
fn the_stock_driver_gets_the_answers_it_got() {
    let lines = recording();
    let guest = Guest::new(version::V6_0);
    let nic = add_devices(&guest, &lines);
    let mut sent: Vec<u8> = Vec::new();
    let (mut answers, mut bodies) = (0, 0);
    for line in &lines {
        match line {
            Line::FromGuest(message) => {
                guest.post_bytes(message);
                sent.clone_from(message);
            }
            Line::Omitted(count) => {
                for body in bodies_after(&sent, *count) {
                    guest.post_bytes(&body);
                    bodies += 1;
                }
            }
            Line::ToGuest(recorded) => {
                if is_offer(recorded) && index_of(recorded) == 1 {
                    nic.host().offer_subchannels(3);
                }
                let answer = guest.read().expect("an answer");
                assert_same(recorded, &answer);
                answers += 1;
            }
        }
    }
    guest.expect_nothing();
    assert_eq!(guest.violations(), [] as [&str; 0]);
    assert_eq!((answers, bodies), (32, 323));
    let opened: Vec<String> = nic
        .log()
        .into_iter()
        .filter(|l| l.starts_with('o'))
        .collect();
    assert_eq!(opened, ["open 0", "open 1", "open 2", "open 3", "open 0"]);
    let counters = guest.server.snapshot();
    assert_eq!((counters.open_channels, counters.live_gpadls), (1, 2));
}
