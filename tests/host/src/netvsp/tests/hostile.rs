// SPDX-License-Identifier: GPL-2.0

//! A hostile host on request: spoilt answers, packets as they are, indices moved.

use super::guest::*;
use crate::corruption::Corruption;
use crate::fault::FaultAction::Corrupt;
use crate::netvsp::RingIndex;
use crate::vmbus::ring::RawPacket;

fn fresh() -> Guest {
    let mut guest = Guest::new(config(4), Buffers::default());
    guest.open(0);
    guest
}

const INIT: [u32; 3] = [1, 0x60001, 0x60001];
const MEDIA_STATUS: u32 = 0x0001_0114;

#[test]
fn answers_of_nvsp_are_spoilt_once() {
    let cut = |guest: &mut Guest| guest.ask(&nvsp(&INIT)).len();
    let mut guest = fresh();
    guest.fault("nvsp.init", 1, Corrupt(Corruption::Truncate(8)));
    assert_eq!(cut(&mut guest), 8);
    let mut guest = fresh();
    guest.fault("nvsp.init", 1, Corrupt(Corruption::Extend(8)));
    assert_eq!(cut(&mut guest), 40);
    let mut guest = fresh();
    let offset = 12;
    let set = Corruption::Set { offset, value: 77 };
    guest.fault("nvsp.init", 1, Corrupt(set));
    assert_eq!(word_at(&guest.ask(&nvsp(&INIT)), 12), 77);
    guest.assert_clean();
}

#[test]
fn answers_come_twice_late_or_for_nobody() {
    let mut guest = fresh();
    guest.fault("nvsp.init", 1, Corrupt(Corruption::Duplicate));
    guest.ask(&nvsp(&INIT));
    assert_eq!(guest.receive(0).transaction_id, 1);
    let mut guest = fresh();
    guest.fault("nvsp.init", 1, Corrupt(Corruption::Unsolicited));
    guest.send(0, IN_BAND, 1, &[], &nvsp(&INIT));
    assert_eq!(guest.receive(0).transaction_id, 0x0bad_0001);
    assert_eq!(guest.receive(0).transaction_id, 1);
    let mut guest = fresh();
    guest.fault("nvsp.init", 1, Corrupt(Corruption::Late(300)));
    guest.send(0, IN_BAND, 1, &[], &nvsp(&INIT));
    guest.expect_silence(0);
    assert_eq!(guest.receive(0).transaction_id, 1);
    guest.assert_clean();
}

#[test]
fn answers_of_rndis_are_spoilt_and_their_packets_are_not() {
    let mut guest = Guest::running(config(4));
    guest.fault("rndis.query.*", 1, Corrupt(Corruption::WrongId));
    let id = guest.take_request_id();
    guest.send_control(&words(&[4, 28, id, MEDIA_STATUS, 0, 20, 0]));
    assert_eq!(word_at(&guest.receive_control(), 8), id + 0x0bad_0000);
    guest.fault("rndis.query.*", 1, Corrupt(Corruption::WrongType));
    let id = guest.take_request_id();
    guest.send_control(&words(&[4, 28, id, MEDIA_STATUS, 0, 20, 0]));
    assert_eq!(word_at(&guest.receive_control(), 0), 0x8000_0005);
    // The next one is as it should be.
    assert_eq!(guest.query(MEDIA_STATUS).0, 0);
    guest.assert_clean();
}

#[test]
fn completions_of_frames_are_spoilt() {
    let mut guest = Guest::running(config(4));
    let point = "nvsp.rndis-completion";
    guest.fault(point, 1, Corrupt(Corruption::Duplicate));
    let id = guest.send_section(0, 1, &packet_message(&[], &frame(60)));
    assert_eq!(guest.completion(0, id), 1);
    assert_eq!(guest.completion(0, id), 1);
    // The section was released once, and may be used again.
    let id = guest.send_section(0, 1, &packet_message(&[], &frame(60)));
    assert_eq!(guest.completion(0, id), 1);
    guest.assert_clean();
}

#[test]
fn packets_go_over_as_they_are_and_their_completion_is_no_violation() {
    let guest = Guest::running(config(4));
    let packet = RawPacket {
        kind: TRANSFER_PAGES,
        flags: 1,
        id: 0xdead,
        header: vec![1, 2, 0, 0, 0xff, 0xff, 0xff, 0xff],
        payload: nvsp(&[107, 0]),
        ..RawPacket::default()
    };
    guest.handle.inject_packet(0, packet).unwrap();
    let got = guest.receive(0);
    assert_eq!((got.kind, got.transaction_id), (TRANSFER_PAGES, 0xdead));
    assert_eq!(got.header, [1, 2, 0, 0, 0xff, 0xff, 0xff, 0xff]);
    guest.complete(0, 0xdead, 2);
    guest.expect_silence(0);
    let counters = guest.report()["counters"].clone();
    assert_eq!(counters["injected_completed"], 1);
    assert_eq!(counters["injected_refused"], 1);
    guest.assert_clean();
    let refused = guest.handle.inject_packet(9, RawPacket::default());
    assert_eq!(refused, Err("channel 9 is not open".to_owned()));
}

#[test]
fn indices_are_the_hosts_until_the_next_packet() {
    let mut guest = Guest::running(config(4));
    let handle = guest.handle.clone();
    handle.set_index(0, RingIndex::Read, 0x1234_5678).unwrap();
    // By the index shown the host is still busy with the ring, so that nothing but a signal of its own wakes it.
    let id = guest.post_control(&words(&[4, 28, 1, MEDIA_STATUS, 0, 20, 0]));
    guest.signal(0);
    guest.expect_control_completion(id);
    assert_eq!(guest.receive_control().len(), 28);
    assert_eq!(guest.query(MEDIA_STATUS).0, 0);
    guest.assert_clean();
    assert!(handle.set_index(3, RingIndex::Read, 0).is_err());
}
