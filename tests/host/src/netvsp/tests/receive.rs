// SPDX-License-Identifier: GPL-2.0

//! Frames to the guest.

use super::guest::*;
use crate::backend::checksum;
use crate::backend::frame::{Checksum, Frame, Segmentation, L4};
use crate::backend::headers::samples::{tcp4, udp4};
use crate::backend::null::Null;
use crate::backend::Backend;
use crate::netvsp::rss::samples::parameters;
use crate::netvsp::rss::Rss;
use crate::netvsp::toeplitz::MICROSOFT_KEY;
use crate::netvsp::{NicConfig, OffloadSupport, RxOverload};

/// Frame, and (type, payload) of each per-packet information element.
type Received = (Vec<u8>, Vec<(u32, u32)>);

/// An RNDIS PACKET message as the guest reads it: frame and (type, payload) elements.
fn unpack(message: &[u8]) -> Received {
    assert_eq!(word_at(message, 0), 1);
    assert_eq!(word_at(message, 4) as usize, message.len());
    let data = 8 + word_at(message, 8) as usize;
    let len = word_at(message, 12) as usize;
    assert_eq!((data, data + len), (256, message.len()));
    let mut at = 8 + word_at(message, 28) as usize;
    let end = at + word_at(message, 32) as usize;
    let mut ppis = Vec::new();
    while at < end {
        assert_eq!((word_at(message, at), word_at(message, at + 8)), (16, 12));
        ppis.push((word_at(message, at + 4), word_at(message, at + 12)));
        at += 16;
    }
    (message[data..].to_vec(), ppis)
}

/// Takes one ring packet with frames and gives its sections back.
fn take(guest: &Guest, channel: u16) -> Vec<Received> {
    let packet = guest.receive(channel);
    assert_eq!((packet.kind, packet.flags), (TRANSFER_PAGES, 1));
    let nvsp = [0, 4, 8, 12].map(|at| word_at(&packet.payload, at));
    assert_eq!(nvsp, [107, 0, 0xffff_ffff, 0]);
    let messages = guest.ranges(&packet);
    guest.complete(channel, packet.transaction_id, 1);
    messages.iter().map(|m| unpack(m)).collect()
}

fn wire(guest: &mut Guest, frame: Frame) {
    guest.wire.transmit(frame).unwrap();
}

#[test]
fn frames_of_every_length_arrive() {
    let mut guest = Guest::running(config(1));
    for len in (14..200).chain([1514, 1518]) {
        let sent = frame_to_guest(len);
        wire(&mut guest, Frame::new(sent.clone()));
        let got = take(&guest, 0);
        assert_eq!(got, [(sent, vec![(0, 0)])]);
    }
    guest.assert_clean();
    let report = guest.report();
    assert_eq!(report["counters"]["rx_packets"], 188);
    assert_eq!(report["channels"]["0"]["rx_completions"], 188);
    assert_eq!(report["receive_buffer"]["in_flight"], 0);
}

#[test]
fn bursts_are_batched_up_to_the_limit() {
    let mut guest = Guest::running(NicConfig {
        rx_batch: 7,
        ..config(1)
    });
    for i in 0..500u32 {
        let mut frame = frame_to_guest(60);
        frame[20..24].copy_from_slice(&word(i));
        wire(&mut guest, Frame::new(frame));
    }
    let mut next = 0;
    let mut largest = 0;
    while next < 500 {
        let batch = take(&guest, 0);
        largest = largest.max(batch.len());
        for (frame, _) in batch {
            assert_eq!(word_at(&frame, 20), next);
            next += 1;
        }
    }
    assert_eq!(largest, 7);
    guest.assert_clean();
}

#[test]
fn checksum_verdicts() {
    let mut guest = Guest::running(config(1));
    let mut good = tcp4(b"payload");
    good[..6].copy_from_slice(&MAC);
    checksum::fill_ipv4_header(&mut good);
    checksum::fill_l4(&mut good, L4::Tcp, 34);
    let mut bad = good.clone();
    bad[60] ^= 1;
    let mut bad_ip = good.clone();
    bad_ip[22] ^= 1;
    for (sent, verdict) in [(good.clone(), 0x28), (bad, 0x21), (bad_ip, 0x0c)] {
        wire(&mut guest, Frame::new(sent));
        assert_eq!(take(&guest, 0)[0].1, [(0, verdict)]);
    }
    // A frame that the sender's NIC left to finish.
    let mut partial = Frame::new(udp4(b"x"));
    partial.bytes[..6].copy_from_slice(&MAC);
    checksum::fill_ipv4_header(&mut partial.bytes);
    partial.checksum = Checksum::Partial {
        l4_offset: 34,
        l4: L4::Udp,
    };
    wire(&mut guest, partial);
    let (frame, ppis) = take(&guest, 0).remove(0);
    assert_eq!(ppis, [(0, 0x30)]);
    assert_eq!(checksum::verify(&frame).l4, Some((L4::Udp, true)));
    // Receive offloads off: no verdict.
    let mut info = vec![0x80, 3, 28, 0, 1, 2, 2, 2, 2];
    info.resize(28, 0);
    assert_eq!(guest.set(0xfc01_020c, &info), 0);
    guest.receive_control();
    wire(&mut guest, Frame::new(good));
    assert_eq!(take(&guest, 0)[0].1, [(0, 0)]);
    guest.assert_clean();
}

#[test]
fn vlan_tag_is_stripped() {
    let mut guest = Guest::running(config(1));
    let plain = frame_to_guest(80);
    let mut tagged = Frame::new(plain.clone());
    tagged.vlan = Some(0x7005);
    tagged.insert_vlan();
    wire(&mut guest, tagged);
    assert_eq!(
        take(&guest, 0),
        [(plain, vec![(0, 0), (6, 3 | 8 | 5 << 4)])]
    );
    guest.assert_clean();
}

#[test]
fn filter_lets_in_what_it_says() {
    let mut guest = Guest::running(config(1));
    let to = |mac: [u8; 6]| {
        let mut frame = frame_to_guest(60);
        frame[..6].copy_from_slice(&mac);
        Frame::new(frame)
    };
    let all = [MAC, [2, 0, 0, 0, 0, 7], [1, 0, 0x5e, 0, 0, 1], [0xff; 6]];
    for (filter, passing) in [
        (0x0d, 3),
        (0x09, 2),
        (0x01, 1),
        (0x20, 4),
        (0, 0),
        (0x0d, 3),
    ] {
        assert_eq!(guest.set(0x1010e, &word(filter)), 0);
        for mac in all {
            wire(&mut guest, to(mac));
        }
        let mut got = 0;
        while got < passing {
            got += take(&guest, 0).len();
        }
        guest.expect_silence(0);
        assert_eq!(got, passing, "{filter:#x}");
    }
    let counters = guest.report()["counters"].clone();
    assert_eq!(counters["rx_dropped"]["filter-closed"], 4);
    assert_eq!(counters["rx_filtered"], 1 + 2 + 3 + 1);
    guest.assert_clean();
}

#[test]
fn rss_steers_by_hash_and_table() {
    let mut guest = Guest::running(config(64));
    guest.ask(&nvsp(&[133, 1, 7]));
    for index in 1..8 {
        guest.open(index);
    }
    assert_eq!(guest.receive(0).kind, IN_BAND);
    let table: Vec<u32> = (0..128).map(|i| (i * 5) % 8).collect();
    let info = parameters(0, 0x1701, &table, &MICROSOFT_KEY);
    assert_eq!(guest.set(0x10204, &info), 0);
    let rss = Rss::parse(&info, None, 64, 128).unwrap().unwrap();
    let mut used = [0; 8];
    for port in 0..200u16 {
        let mut sent = tcp4(b"flow");
        sent[..6].copy_from_slice(&MAC);
        sent[34..36].copy_from_slice(&port.to_be_bytes());
        let steering = rss.steer(&sent);
        wire(&mut guest, Frame::new(sent.clone()));
        let got = take(&guest, steering.queue as u16);
        assert_eq!(got[0].0, sent);
        assert_eq!(got[0].1[1], (8, steering.hash.unwrap()));
        used[steering.queue as usize] += 1;
    }
    assert!(used.iter().all(|n| *n > 5), "{used:?}");
    // Frames that RSS does not know go to the primary channel, without a hash.
    wire(&mut guest, Frame::new(frame_to_guest(60)));
    assert_eq!(take(&guest, 0)[0].1, [(0, 0)]);
    guest.assert_clean();
}

#[test]
fn entries_of_channels_that_are_not_open_lead_to_the_primary() {
    let mut guest = Guest::running(config(4));
    let info = parameters(0, 0x1701, &[3; 128], &MICROSOFT_KEY);
    assert_eq!(guest.set(0x10204, &info), 0);
    let mut sent = tcp4(b"flow");
    sent[..6].copy_from_slice(&MAC);
    wire(&mut guest, Frame::new(sent));
    assert_eq!(take(&guest, 0).len(), 1);
    assert_eq!(guest.report()["counters"]["rx_unopened_channel"], 1);
}

/// Sections for frames in the guest's buffer of 1 MiB.
const DATA_SECTIONS: usize = 580 - 16;

#[test]
fn without_sections_frames_wait_or_drop() {
    for overload in [RxOverload::Wait, RxOverload::Drop] {
        let mut guest = Guest::running(NicConfig {
            rx_overload: overload,
            ..config(1)
        });
        for _ in 0..DATA_SECTIONS + 100 {
            wire(&mut guest, Frame::new(frame_to_guest(60)));
        }
        let mut held = Vec::new();
        let mut frames = 0;
        while frames < DATA_SECTIONS {
            let packet = guest.receive(0);
            frames += guest.ranges(&packet).len();
            held.push(packet.transaction_id);
        }
        guest.expect_silence(0);
        assert_eq!(guest.report()["receive_buffer"]["in_flight"], DATA_SECTIONS);
        for id in held {
            guest.complete(0, id, 1);
        }
        let dropped = &guest.report()["counters"]["rx_dropped"]["no-receive-section"];
        if overload == RxOverload::Drop {
            assert_eq!(*dropped, 100);
        } else {
            let mut late = 0;
            while late < 100 {
                late += take(&guest, 0).len();
            }
            assert_eq!(late, 100);
            assert!(guest.report()["counters"]["rx_dropped"]
                .as_object()
                .unwrap()
                .is_empty());
        }
        guest.assert_clean();
    }
}

#[test]
fn full_ring_waits_for_the_guest() {
    let mut guest = Guest::new(
        NicConfig {
            rx_batch: 1,
            ..config(1)
        },
        Buffers::default(),
    );
    guest.open_sized(0, 32, 2);
    guest.handshake(0x60001, 1514);
    guest.rndis_initialize();
    assert_eq!(guest.set(0x1010e, &word(0x0d)), 0);
    for i in 0..300u32 {
        let mut frame = frame_to_guest(60);
        frame[20..24].copy_from_slice(&word(i));
        wire(&mut guest, Frame::new(frame));
    }
    std::thread::sleep(std::time::Duration::from_millis(20));
    assert!(guest.report()["channels"]["0"]["ring_full"].as_u64() > Some(0));
    for i in 0..300u32 {
        let batch = take(&guest, 0);
        assert_eq!(word_at(&batch[0].0, 20), i);
    }
    guest.assert_clean();
}

#[test]
fn failed_receives_are_counted_and_give_the_section_back() {
    let mut guest = Guest::running(config(1));
    wire(&mut guest, Frame::new(frame_to_guest(60)));
    let packet = guest.receive(0);
    guest.complete(0, packet.transaction_id, 2);
    guest.expect_silence(0);
    let report = guest.report();
    assert_eq!(report["channels"]["0"]["rx_completions_failed"], 1);
    assert_eq!(report["receive_buffer"]["in_flight"], 0);
    guest.assert_clean();
}

#[test]
fn closing_a_subchannel_frees_its_sections() {
    let mut guest = Guest::running(config(2));
    guest.ask(&nvsp(&[133, 1, 1]));
    guest.open(1);
    assert_eq!(guest.receive(0).kind, IN_BAND);
    let info = parameters(0, 0x1701, &[1; 128], &MICROSOFT_KEY);
    assert_eq!(guest.set(0x10204, &info), 0);
    let mut sent = tcp4(b"flow");
    sent[..6].copy_from_slice(&MAC);
    wire(&mut guest, Frame::new(sent));
    guest.receive(1);
    assert_eq!(guest.report()["receive_buffer"]["in_flight"], 1);
    guest.close(1);
    assert_eq!(guest.report()["receive_buffer"]["in_flight"], 0);
    guest.assert_clean();
}

#[test]
fn oversize_frames_and_frames_without_link_are_dropped() {
    let mut guest = Guest::running(config(1));
    wire(&mut guest, Frame::new(frame_to_guest(1519)));
    guest.expect_silence(0);
    guest.handle.set_link(false);
    guest.receive_control();
    wire(&mut guest, Frame::new(frame_to_guest(60)));
    guest.expect_silence(0);
    let dropped = guest.report()["counters"]["rx_dropped"].clone();
    assert_eq!(dropped["oversize"], 1);
    assert_eq!(dropped["link-down"], 1);
    guest.assert_clean();
}

#[test]
fn injected_frames_arrive() {
    let guest = Guest::running(config(1));
    guest.handle.inject(Frame::new(frame_to_guest(99)));
    assert_eq!(take(&guest, 0)[0].0, frame_to_guest(99));
}

#[test]
fn closing_the_filter_drops_what_waits() {
    let mut guest = Guest::running(config(1));
    for _ in 0..DATA_SECTIONS + 100 {
        wire(&mut guest, Frame::new(frame_to_guest(60)));
    }
    let mut held = Vec::new();
    let mut frames = 0;
    while frames < DATA_SECTIONS {
        let packet = guest.receive(0);
        frames += guest.ranges(&packet).len();
        held.push(packet.transaction_id);
    }
    assert_eq!(guest.set(0x1010e, &word(0)), 0);
    for id in held {
        guest.complete(0, id, 1);
    }
    guest.expect_silence(0);
    let report = guest.report();
    assert_eq!(report["counters"]["rx_dropped"]["filter-closed"], 100);
    assert_eq!(report["counters"]["rx_packets"], DATA_SECTIONS);
    guest.assert_clean();
}

#[test]
fn capture_holds_the_frames_of_both_directions() {
    let path = std::env::temp_dir().join(format!("hvhost-capture-{}.pcap", std::process::id()));
    let mut guest = Guest::running(NicConfig {
        pcap: Some(path.clone()),
        ..config(1)
    });
    wire(&mut guest, Frame::new(frame_to_guest(60)));
    take(&guest, 0);
    let id = guest.send_section(0, 0, &packet_message(&[(6, 5 << 4)], &frame(100)));
    assert_eq!(guest.completion(0, id), 1);
    let _ = guest.report();
    let file = std::fs::read(&path).unwrap();
    std::fs::remove_file(&path).unwrap();
    assert_eq!(file.len(), 24 + 16 + 60 + 16 + 104);
    assert_eq!(file[40..100], frame_to_guest(60));
    assert_eq!(file[128..132], [0x81, 0, 0, 5]);
}

#[test]
fn capture_that_cannot_be_written_is_named() {
    let config = NicConfig {
        pcap: Some("/nonexistent/a.pcap".into()),
        ..config(1)
    };
    let error = crate::netvsp::Netvsp::new(config, Box::new(Null::default())).err();
    assert!(error.unwrap().to_string().contains("/nonexistent/a.pcap"));
}

/// A large frame as the guest's peer sends it: lengths zero, segments of 1000 bytes.
fn large_frame(payload: &[u8]) -> Frame {
    let mut bytes = tcp4(payload);
    bytes[..6].copy_from_slice(&MAC);
    bytes[16..18].fill(0);
    Frame {
        bytes,
        segmentation: Some(Segmentation {
            mss: 1000,
            l4_offset: 34,
            v6: false,
        }),
        ..Frame::default()
    }
}

fn coalescing(support: bool) -> NicConfig {
    NicConfig {
        offloads: OffloadSupport {
            rsc: support,
            ..OffloadSupport::default()
        },
        ..config(1)
    }
}

#[test]
fn large_frames_go_over_in_pieces_where_the_guest_takes_them() {
    let mut guest = Guest::running(coalescing(true));
    let payload: Vec<u8> = (0..2500u32).map(|i| i as u8).collect();
    wire(&mut guest, large_frame(&payload));
    let got = take(&guest, 0);
    let ids: Vec<u32> = got.iter().map(|(_, ppis)| ppis[ppis.len() - 1].1).collect();
    assert_eq!(ids, [0x0301, 0x0101, 0x0501]);
    // TCP and IP right, and neither filled in.
    assert_eq!(got[0].1, [(0, 0x1a8), (0x8000_0001, 0x0301)]);
    let joined: Vec<u8> = got.iter().flat_map(|(data, _)| data.clone()).collect();
    assert_eq!(joined.len(), 54 + 2500);
    assert_eq!(joined[16..18], 2540u16.to_be_bytes());
    assert_eq!(joined[24..26], [0, 0]);
    assert_eq!(joined[54..], payload);
    assert_eq!(guest.report()["counters"]["rx_coalesced_pieces"], 3);
    guest.assert_clean();
}

#[test]
fn large_frames_are_cut_up_where_the_guest_does_not_take_them() {
    let mut guest = Guest::running(coalescing(false));
    wire(&mut guest, large_frame(&[7; 2500]));
    let mut got = Vec::new();
    while got.len() < 3 {
        got.extend(take(&guest, 0));
    }
    for (frame, ppis) in got {
        assert_eq!(checksum::verify(&frame).l4, Some((L4::Tcp, true)));
        assert_eq!(ppis, [(0, 0x28)]);
    }
    assert_eq!(guest.report()["counters"]["rx_coalesced"], 0);
    guest.assert_clean();
}
