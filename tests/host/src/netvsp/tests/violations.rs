// SPDX-License-Identifier: GPL-2.0

//! Everything a guest may do wrong is reported by name and does no harm.

use super::guest::*;
use crate::backend::frame::Frame;
use crate::backend::headers::samples::tcp4;
use crate::backend::Backend;

/// Lets a guest misbehave, and expects this violation and nothing else.
fn expect(name: &str, mut guest: Guest, misbehave: impl FnOnce(&mut Guest)) {
    misbehave(&mut guest);
    let _ = guest.report();
    std::thread::sleep(std::time::Duration::from_millis(5));
    let _ = guest.report();
    assert_eq!(guest.violation_names(), [name]);
}

fn fresh() -> Guest {
    let mut guest = Guest::new(config(4), Buffers::default());
    guest.open(0);
    guest
}

fn agreed() -> Guest {
    let mut guest = fresh();
    guest.ask(&nvsp(&[1, 0x60001, 0x60001]));
    guest
}

fn configured() -> Guest {
    let mut guest = agreed();
    guest.tell_configuration(0x60001, 1514);
    guest
}

fn running() -> Guest {
    Guest::running(config(4))
}

#[test]
fn handshake_order() {
    expect("nvsp.order", agreed(), |g| {
        assert_eq!(word_at(&g.ask(&nvsp(&[1, 0x60001, 0x60001])), 12), 2);
    });
    expect("nvsp.order", fresh(), |g| g.tell(&nvsp(&[100, 6, 30])));
    expect("nvsp.order", fresh(), |g| {
        g.tell(&nvsp(&[125, 1514, 0, 0, 0]))
    });
    expect("nvsp.order", configured(), |g| {
        g.tell(&nvsp(&[125, 1514, 0, 0, 0]))
    });
    expect("nvsp.order", configured(), |g| g.tell(&nvsp(&[100, 6, 30])));
    expect("nvsp.ndis-version", agreed(), |g| {
        g.tell(&nvsp(&[100, 6, 1]))
    });
    for message in [[101, 1, 0xcafe], [104, 2, 0]] {
        expect("nvsp.order", agreed(), |g| {
            assert_eq!(word_at(&g.ask(&nvsp(&message)), 4), 2);
        });
        expect("nvsp.order", running(), |g| {
            assert_eq!(word_at(&g.ask(&nvsp(&message)), 4), 2);
        });
    }
    expect("nvsp.order", configured(), |g| {
        assert_eq!(word_at(&g.ask(&nvsp(&[133, 1, 1])), 4), 2);
    });
    expect("nvsp.order", configured(), |g| {
        g.post_control(&words(&[2, 24, 1, 1, 0, 0x4000]));
    });
}

#[test]
fn buffers() {
    for (name, message) in [
        ("nvsp.buffer-id", [101, 1, 0xcaff]),
        ("nvsp.buffer-id", [104, 2, 1]),
        ("nvsp.buffer-gpadl", [101, 77, 0xcafe]),
        ("nvsp.buffer-gpadl", [101, 3, 0xcafe]),
        ("nvsp.buffer-size", [101, 4, 0xcafe]),
        ("nvsp.buffer-size", [104, 4, 0]),
        ("nvsp.buffer-size", [101, 5, 0xcafe]),
        ("nvsp.buffer-size", [104, 5, 0]),
    ] {
        let guest = configured();
        guest.lend(3, RECEIVE_BUFFER, 5000);
        guest.lend(4, RECEIVE_BUFFER, 4096);
        guest.lend(5, RECEIVE_BUFFER, 32 << 20);
        expect(name, guest, |g| {
            assert_eq!(word_at(&g.ask(&nvsp(&message)), 4), 2, "{message:?}");
        });
    }
    expect("nvsp.buffer-id", running(), |g| g.tell(&nvsp(&[103, 1])));
    expect("nvsp.order", configured(), |g| g.tell(&nvsp(&[106, 0])));
    expect("nvsp.order", running(), |g| {
        g.tell(&nvsp(&[103, 0xcafe]));
        let id = g.send_section(0, 0, &packet_message(&[], &frame(60)));
        assert_eq!(g.completion(0, id), 1);
    });
}

#[test]
fn messages() {
    expect("nvsp.bad-message", running(), |g| g.tell(&nvsp(&[9])));
    expect("nvsp.bad-message", running(), |g| g.tell(&words(&[101, 1])));
    expect("nvsp.no-completion-flag", fresh(), |g| {
        g.tell(&nvsp(&[1, 0x60001, 0x60001]));
    });
    expect("nvsp.packet-type", fresh(), |g| {
        g.send(
            0,
            GPA_DIRECT,
            1,
            &words(&[0, 0]),
            &nvsp(&[1, 0x60001, 0x60001]),
        );
    });
    expect("nvsp.packet-type", running(), |g| {
        g.send(0, TRANSFER_PAGES, 0, &[0; 8], &nvsp(&[107]));
    });
    expect("nvsp.subchannel", running(), |g| {
        assert_eq!(word_at(&g.ask(&nvsp(&[133, 1, 4])), 4), 2);
    });
    expect("nvsp.subchannel", running(), |g| {
        assert_eq!(word_at(&g.ask(&nvsp(&[133, 2, 1])), 4), 2);
    });
    expect("nvsp.data-path", running(), |g| {
        assert!(g.ask(&nvsp(&[129, 2])).is_empty());
    });
    expect("nvsp.channel-type", running(), |g| {
        g.write(SEND_BUFFER, &packet_message(&[], &frame(60)));
        let id = g.send(0, IN_BAND, 1, &[], &nvsp(&[107, 2, 0, 104]));
        assert_eq!(g.completion(0, id), 2);
    });
}

#[test]
fn handshake_on_a_subchannel() {
    let mut guest = running();
    guest.open(1);
    expect("nvsp.wrong-channel", guest, |g| {
        g.send(1, IN_BAND, 1, &[], &nvsp(&[133, 1, 1]));
    });
}

#[test]
fn completions() {
    expect("nvsp.unknown-completion", running(), |g| {
        g.complete(0, 99, 1)
    });
    expect("nvsp.bad-completion", running(), |g| {
        g.send_as(16, 0, COMPLETION, 0, &[], &words(&[107, 1]));
    });
    let received = |g: &mut Guest| {
        g.wire.transmit(Frame::new(frame_to_guest(60))).unwrap();
        g.receive(0).transaction_id
    };
    expect("nvsp.unknown-completion", running(), |g| {
        let id = received(g);
        g.complete(0, id, 1);
        g.complete(0, id, 1);
    });
    expect("nvsp.bad-completion", running(), |g| {
        let id = received(g);
        g.complete(0, id, 3);
    });
    let mut guest = running();
    guest.open(1);
    expect("nvsp.completion-channel", guest, |g| {
        let id = received(g);
        g.complete(1, id, 1);
    });
}

/// Sends these bytes as RNDIS messages in a send section; expects a failure.
fn refused(name: &str, message: &[u8]) {
    expect(name, running(), |g| {
        let id = g.send_section(0, 0, message);
        assert_eq!(g.completion(0, id), 2, "{name}");
    });
}

/// A good message with one word changed.
fn changed(at: usize, value: u32) -> Vec<u8> {
    let mut message = packet_message(&[(8, 1)], &frame(100));
    message[at..at + 4].copy_from_slice(&word(value));
    message
}

#[test]
fn rndis_packets() {
    refused("rndis.type", &changed(0, 5));
    refused("rndis.length", &changed(4, 43));
    refused("rndis.length", &changed(4, 1000));
    refused("rndis.data-bounds", &changed(8, 35));
    refused("rndis.data-bounds", &changed(8, 53));
    refused("rndis.data-bounds", &changed(8, u32::MAX));
    refused("rndis.data-bounds", &changed(12, 0));
    refused("rndis.data-bounds", &changed(12, 13));
    refused("rndis.data-bounds", &changed(12, 101));
    refused("rndis.data-bounds", &changed(12, u32::MAX));
    // The frame must not overlap the per-packet information.
    refused("rndis.data-bounds", &changed(8, 51));
    for at in [16, 20, 24, 36, 40] {
        refused("rndis.out-of-band", &changed(at, 1));
    }
    refused("rndis.ppi", &changed(28, 35));
    refused("rndis.ppi", &changed(28, u32::MAX));
    refused("rndis.ppi", &changed(32, 200));
    refused("rndis.ppi", &changed(44, 0));
    refused("rndis.ppi", &changed(44, 20));
    refused("rndis.ppi", &changed(44, 14));
    refused("rndis.ppi", &changed(52, 11));
    refused("rndis.ppi", &changed(52, 17));
    refused("rndis.oversize", &packet_message(&[], &frame(1519)));
    let good = packet_message(&[], &frame(100));
    refused("rndis.trailing-bytes", &[good.as_slice(), &[0; 4]].concat());
    refused("rndis.too-many-messages", &good.repeat(9));
}

#[test]
fn eight_messages_are_not_too_many() {
    let mut guest = running();
    let id = guest.send_section(0, 0, &packet_message(&[], &frame(100)).repeat(8));
    assert_eq!(guest.completion(0, id), 1);
    assert_eq!(guest.wire_frames(8).len(), 8);
    guest.assert_clean();
}

#[test]
fn one_bad_message_refuses_the_batch() {
    let good = packet_message(&[], &frame(100));
    expect("rndis.data-bounds", running(), |g| {
        let id = g.send_section(0, 0, &[good.as_slice(), &changed(12, 0)].concat());
        assert_eq!(g.completion(0, id), 2);
        assert!(g.wire_frames(0).is_empty());
    });
}

#[test]
fn offload_requests() {
    let tcp = tcp4(b"payload");
    let request = |value: u32| packet_message(&[(0, value)], &tcp);
    let lso = |value: u32| packet_message(&[(2, value)], &tcp);
    // Wrong offset, beyond the frame, wrong IP version, wrong protocol, both protocols.
    for value in [
        0x5 | 30 << 16,
        0x5 | 500 << 16,
        0x6 | 34 << 16,
        0x9 | 34 << 16,
        0xd | 34 << 16,
    ] {
        refused("rndis.checksum-request", &request(value));
    }
    // The field must hold the pseudo header sum.
    refused("rndis.pseudo-header", &request(0x5 | 34 << 16));
    refused("rndis.lso-request", &lso(1448 | 34 << 20));
    refused("rndis.lso-request", &lso(34 << 20 | 1 << 30));
    refused("rndis.lso-request", &lso(1448 | 30 << 20 | 1 << 30));
    refused("rndis.lso-request", &lso(1448 | 34 << 20 | 3 << 30));
    refused("rndis.pseudo-header", &lso(1448 | 34 << 20 | 1 << 30));
}

#[test]
fn offloads_that_are_not_in_force() {
    let mut guest = running();
    let mut info = vec![0x80, 3, 28, 0, 1, 1, 1, 1, 1, 0, 0, 1, 1];
    info.resize(28, 0);
    assert_eq!(guest.set(0xfc01_020c, &info), 0);
    guest.receive_control();
    expect("rndis.offload-disabled", guest, |g| {
        let mut tcp = tcp4(b"payload");
        let h = crate::backend::headers::IpHeaders::parse(&tcp).unwrap();
        let l4 = crate::backend::frame::L4::Tcp;
        let sum = crate::backend::checksum::pseudo_header(&h.addresses, l4, 27);
        tcp[50..52].copy_from_slice(&sum.to_be_bytes());
        let id = g.send_section(0, 0, &packet_message(&[(0, 0x5 | 34 << 16)], &tcp));
        assert_eq!(g.completion(0, id), 1);
    });
}

#[test]
fn sections_and_pages() {
    expect("nvsp.send-section", running(), |g| {
        let id = g.send(0, IN_BAND, 1, &[], &nvsp(&[107, 0, 170, 104]));
        assert_eq!(g.completion(0, id), 2);
    });
    expect("nvsp.send-section", running(), |g| {
        let id = g.send(0, IN_BAND, 1, &[], &nvsp(&[107, 0, 0, 6145]));
        assert_eq!(g.completion(0, id), 2);
    });
    expect("rndis.empty", running(), |g| {
        let id = g.send(0, IN_BAND, 1, &[], &nvsp(&[107, 0, 0xffff_ffff, 0]));
        assert_eq!(g.completion(0, id), 2);
    });
    expect("rndis.memory", running(), |g| {
        let header = words(&[0, 1, 100, 0, 0xffff_ffff, 0]);
        let id = g.send(0, GPA_DIRECT, 1, &header, &nvsp(&[107, 0, 0xffff_ffff, 0]));
        assert_eq!(g.completion(0, id), 2);
    });
    expect("rndis.memory", running(), |g| {
        let header = words(&[0, 2, 100, 0, 9, 0]);
        let id = g.send(0, GPA_DIRECT, 1, &header, &nvsp(&[107, 0, 0xffff_ffff, 0]));
        assert_eq!(g.completion(0, id), 2);
    });
}

#[test]
fn control_messages() {
    expect("rndis.length", running(), |g| {
        g.send_control(&words(&[8, 16, 1]))
    });
    expect("rndis.type", running(), |g| {
        g.send_control(&words(&[1, 12, 1]))
    });
    expect("rndis.order", running(), |g| {
        g.rndis_initialize();
    });
    expect("rndis.request", running(), |g| {
        g.send_control(&words(&[5, 32, 1, 0x1010e, 4, 24, 0, 0]));
        assert_eq!(word_at(&g.receive_control(), 12), 0xc001_0015);
    });
    expect("rndis.filter", running(), |g| {
        assert_eq!(g.set(0x1010e, &[1, 2]), 0xc001_0015);
    });
    expect("rndis.offload-parameters", running(), |g| {
        assert_eq!(g.set(0xfc01_020c, &[0x80, 3, 28, 0]), 0xc001_0015);
    });
    let mut guest = Guest::new(config(1), Buffers::default());
    guest.open(0);
    guest.handshake(0x60001, 1514);
    expect("rndis.order", guest, |g| {
        assert_eq!(g.query(0x10106).0, 0xc000_0001);
    });
    let mut guest = running();
    guest.open(1);
    expect("nvsp.wrong-channel", guest, |g| {
        g.write(SEND_BUFFER, &words(&[8, 12, 1]));
        let id = g.send(1, IN_BAND, 1, &[], &nvsp(&[107, 1, 0, 12]));
        assert_eq!(g.completion(1, id), 2);
    });
}
