// SPDX-License-Identifier: GPL-2.0

//! Frames from the guest.

use super::guest::*;
use crate::backend::checksum::{self, verify};
use crate::backend::frame::{Checksum, L4};
use crate::backend::headers::samples::{tcp4, tcp6, udp4};
use crate::backend::headers::IpHeaders;
use crate::backend::segment;

fn checksum_request(v6: bool, l4: L4, offset: u32) -> (u32, u32) {
    let version = if v6 { 2 } else { 1 };
    let kind = if l4 == L4::Tcp { 4 } else { 8 };
    (0, version | kind | offset << 16)
}

/// Leaves the pseudo header sum in the checksum field, as a stack does.
fn leave_pseudo_header(frame: &mut [u8], l4: L4, length: Option<u32>) {
    let h = IpHeaders::parse(frame).unwrap();
    let length = length.unwrap_or((h.end - h.l4_offset) as u32);
    let sum = checksum::pseudo_header(&h.addresses, l4, length);
    let at = h.l4_offset + l4.checksum_offset();
    frame[at..at + 2].copy_from_slice(&sum.to_be_bytes());
}

#[test]
fn section_frames_of_every_length_arrive() {
    let mut guest = Guest::running(config(1));
    for len in (14..200).chain([1513, 1514, 1518]) {
        let sent = frame(len);
        let id = guest.send_section(0, len as u32 % 170, &packet_message(&[], &sent));
        assert_eq!(guest.completion(0, id), 1);
        let got = guest.wire_frames(1);
        assert_eq!(got.len(), 1);
        assert_eq!(got[0].bytes, sent);
    }
    guest.assert_clean();
    let report = guest.report();
    assert_eq!(report["channels"]["0"]["tx_section"], 189);
    assert_eq!(report["channels"]["0"]["tx_completions"], 189);
    assert_eq!(report["counters"]["tx_packets"], 189);
}

#[test]
fn page_frames_cut_anywhere_behind_the_header_arrive() {
    let mut guest = Guest::running(config(1));
    let sent = frame(600);
    let message = packet_message(&[(8, 0x1234)], &sent);
    for cut in 60..message.len() {
        let id = guest.send_pages(0, &[&message[..cut], &message[cut..]]);
        assert_eq!(guest.completion(0, id), 1, "{cut}");
        assert_eq!(guest.wire_frames(1)[0].bytes, sent);
    }
    guest.assert_clean();
}

#[test]
fn header_split_over_ranges_is_refused() {
    let mut guest = Guest::running(config(1));
    let message = packet_message(&[(8, 0x1234)], &frame(600));
    for cut in 1..60 {
        let id = guest.send_pages(0, &[&message[..cut], &message[cut..]]);
        assert_eq!(guest.completion(0, id), 2, "{cut}");
    }
    assert_eq!(guest.violation_names(), ["rndis.split-header"; 59]);
    assert_eq!(guest.report()["channels"]["0"]["tx_refused"], 59);
    assert_eq!(guest.report()["counters"]["tx_packets"], 0);
}

#[test]
fn partial_batch_spans_section_and_pages() {
    let mut guest = Guest::running(config(1));
    // Two whole messages and the header of a third in the section, its frame in pages.
    let frames = [frame(100), frame(204), frame(1000)];
    let mut section = packet_message(&[], &frames[0]);
    section.extend(packet_message(&[], &frames[1]));
    section.extend(&packet_message(&[], &frames[2])[..44]);
    guest.write(SEND_BUFFER + 3 * 6144, &section);
    guest.write(PAGES + 4000, &frames[2]);
    let mut header = words(&[0, 1, 1000, 4000]);
    let page = PAGES / 4096;
    header.extend([page, page + 1].iter().flat_map(|p| p.to_le_bytes()));
    let message = nvsp(&[107, 0, 3, section.len() as u32]);
    let id = guest.send(0, GPA_DIRECT, 1, &header, &message);
    assert_eq!(guest.completion(0, id), 1);
    let got = guest.wire_frames(3);
    let got: Vec<_> = got.into_iter().map(|f| f.bytes).collect();
    assert_eq!(got, frames);
    guest.assert_clean();
}

#[test]
fn checksums_are_finished_for_the_peer() {
    let mut guest = Guest::running(config(1));
    for (mut sent, v6, l4, at) in [
        (tcp4(b"odd"), false, L4::Tcp, 34),
        (tcp6(b"even"), true, L4::Tcp, 54),
        (udp4(b"datagram"), false, L4::Udp, 34),
    ] {
        leave_pseudo_header(&mut sent, l4, None);
        let message = packet_message(&[checksum_request(v6, l4, at)], &sent);
        let id = guest.send_section(0, 0, &message);
        assert_eq!(guest.completion(0, id), 1);
        let got = &guest.wire_frames(1)[0];
        assert_eq!(verify(&got.bytes).l4, Some((l4, true)));
        assert_eq!(got.checksum, Checksum::Verified);
    }
    guest.assert_clean();
}

#[test]
fn large_sends_reach_the_peer_as_requests() {
    let mut guest = Guest::running(config(1));
    for v6 in [false, true] {
        let payload: Vec<u8> = (0..20_000u32).map(|i| (i % 251) as u8).collect();
        let mut sent = if v6 { tcp6(&payload) } else { tcp4(&payload) };
        leave_pseudo_header(&mut sent, L4::Tcp, Some(0));
        let length = if v6 { 18 } else { 16 };
        sent[length..length + 2].fill(0);
        let (at, headers): (u32, usize) = if v6 { (54, 74) } else { (34, 54) };
        let request = 1448 | at << 20 | 1 << 30 | u32::from(v6) << 31;
        let message = packet_message(&[(2, request)], &sent);
        let header = message.len() - sent.len();
        let id = guest.send_pages(0, &[&message[..header], &message[header..]]);
        assert_eq!(guest.completion(0, id), 1);
        // The switch passes the request on; who receives carries it out.
        let large = guest.wire_frames(1).remove(0);
        let got = segment::segment(large).expect("a request that can be carried out");
        assert_eq!(got.len(), 14);
        let mut joined = Vec::new();
        for segment in &got {
            assert!(segment.bytes.len() <= headers + 1448);
            assert_eq!(verify(&segment.bytes).l4, Some((L4::Tcp, true)));
            joined.extend_from_slice(&segment.bytes[headers..]);
        }
        assert_eq!(joined, payload);
    }
    guest.assert_clean();
    assert_eq!(guest.report()["counters"]["tx_lso"], 2);
}

#[test]
fn vlan_tag_travels_beside_the_frame() {
    let mut guest = Guest::running(config(1));
    // Priority 3, drop eligible, VLAN 5.
    let message = packet_message(&[(6, 3 | 8 | 5 << 4)], &frame(64));
    let id = guest.send_section(0, 1, &message);
    assert_eq!(guest.completion(0, id), 1);
    let got = &guest.wire_frames(1)[0];
    assert_eq!(
        (got.vlan, got.bytes.len()),
        (Some(3 << 13 | 1 << 12 | 5), 64)
    );
    guest.assert_clean();
}

#[test]
fn subchannels_send_too() {
    let mut guest = Guest::running(config(4));
    guest.ask(&nvsp(&[133, 1, 3]));
    for index in 1..4 {
        guest.open(index);
    }
    assert_eq!(guest.receive(0).kind, IN_BAND);
    for index in 0..4 {
        let id = guest.send_section(index, u32::from(index), &packet_message(&[], &frame(100)));
        assert_eq!(guest.completion(index, id), 1);
        assert_eq!(guest.wire_frames(1).len(), 1);
    }
    guest.assert_clean();
    assert_eq!(guest.report()["channels"]["3"]["tx_packets"], 1);
}

#[test]
fn completions_outlast_a_full_ring() {
    let mut guest = Guest::new(config(1), Buffers::default());
    // One data page towards the guest: 4096 / 64 completions at most.
    guest.open_sized(0, 64, 2);
    guest.handshake(0x60001, 1514);
    guest.rndis_initialize();
    let ids: Vec<u64> = (0..170)
        .map(|section| guest.send_section(0, section, &packet_message(&[], &frame(60))))
        .collect();
    assert_eq!(guest.wire_frames(170).len(), 170);
    for id in ids {
        assert_eq!(guest.completion(0, id), 1);
    }
    guest.assert_clean();
    assert!(guest.report()["channels"]["0"]["ring_full"].as_u64() > Some(0));
}

#[test]
fn frames_are_not_sent_while_the_link_is_down() {
    let mut guest = Guest::running(config(1));
    guest.handle.set_link(false);
    guest.receive_control();
    let id = guest.send_section(0, 0, &packet_message(&[], &frame(60)));
    assert_eq!(guest.completion(0, id), 1);
    assert_eq!(guest.report()["counters"]["tx_dropped"]["link-down"], 1);
    assert!(guest.wire_frames(0).is_empty());
}
