// SPDX-License-Identifier: GPL-2.0

//! What a guest must not do: each case has its name, is answered where the guest waits for an
//! answer, and leaves the server in order.

use super::super::version;
use super::machine::Guest;
use crate::hypervisor::{HvStatus, MessageSink};
use crate::vmbus::message::{number, STATUS_UNSUCCESSFUL};
use crate::vmbus::ring::guest::WRITE_INDEX;

/// Runs `act` on a connected guest with one device and expects exactly these violations.
#[track_caller]
fn expect_violations(names: &[&str], act: impl FnOnce(&mut Guest)) {
    let (mut guest, _, _) = Guest::with_device(4);
    act(&mut guest);
    guest.read_all();
    assert_eq!(guest.violations(), names);
    // The server goes on as if nothing had happened.
    guest.server.clear_violations();
    guest.connect(version::V6_0);
    assert_eq!(guest.request_offers()[0], 1);
    let (ring, _) = guest.open(1, 0);
    guest.close(1);
    guest.teardown(1, ring);
    guest.assert_clean();
}

#[test]
fn messages_that_are_none() {
    expect_violations(&["vmbus.message-length"], |g| g.post_bytes(&[]));
    expect_violations(&["vmbus.message-length"], |g| g.post_bytes(&[3, 0, 0]));
    expect_violations(&["vmbus.message-length"], |g| {
        g.post(number::OPENCHANNEL, &[1, 1, 2, 0, 128]);
    });
    expect_violations(&["vmbus.message-length"], |g| {
        g.post(number::GPADL_HEADER, &[1, 0x77])
    });
    expect_violations(&["vmbus.message-type"], |g| g.post(21, &[]));
    expect_violations(&["vmbus.message-type"], |g| {
        g.post(number::OFFERCHANNEL, &[])
    });
    expect_violations(&["vmbus.synic-type"], |g| {
        assert_eq!(g.server.message(4, 2, &[]), HvStatus::InvalidParameter);
    });
    expect_violations(&[], |g| {
        let status = g.server.message(0x80_0074, 1, &[14, 0, 0, 0]);
        assert_eq!(status, HvStatus::InvalidConnectionId);
    });
    expect_violations(&["vmbus.signal-flag"], |g| {
        assert_eq!(g.server.signal(0x2001, 1), HvStatus::InvalidParameter);
    });
}

#[test]
fn messages_out_of_order() {
    let guest = Guest::new(version::V6_0);
    guest.post(number::REQUESTOFFERS, &[]);
    guest.expect_nothing();
    assert_eq!(guest.violations(), ["vmbus.not-connected"]);
    guest.post(number::UNLOAD, &[]);
    guest.expect(number::UNLOAD_RESPONSE);

    expect_violations(&["vmbus.offers-twice"], |g| {
        g.post(number::REQUESTOFFERS, &[]);
        g.expect_nothing();
    });
    expect_violations(&["vmbus.message-connection"], |g| {
        g.connection = 1;
        g.describe(1, 0x100, 1);
        g.expect(number::GPADL_CREATED);
    });
    expect_violations(&["vmbus.contact-vp"], |g| {
        g.vp = 4;
        g.initiate(version::V6_0);
        g.vp = 0;
        g.expect_nothing();
    });
    expect_violations(&["vmbus.contact-sint"], |g| {
        let words = [version::V6_0, 0, 3, 0, 0, 0, 0, 0];
        g.post(number::INITIATE_CONTACT, &words);
    });
    expect_violations(&["vmbus.message-connection"], |g| {
        g.initiate(version::V4_1);
        g.connection = 4;
        g.initiate(version::V4_1);
        g.connection = 4;
        let words = [version::V4_1, 0, 2, 0, 0, 0, 0, 0];
        g.post(number::INITIATE_CONTACT, &words);
    });
}

#[test]
fn channels_that_are_not_there() {
    expect_violations(&["vmbus.unknown-relid"], |g| {
        g.post_open(9, 0x77, 0, 128);
        let result = g.expect(number::OPENCHANNEL_RESULT);
        assert_eq!(result, [9, 9, STATUS_UNSUCCESSFUL]);
    });
    expect_violations(&["vmbus.unknown-relid"], |g| g.close(9));
    expect_violations(&["vmbus.unknown-relid"], |g| {
        g.post(number::RELID_RELEASED, &[0]);
    });
    expect_violations(&["vmbus.unknown-relid"], |g| {
        g.post(number::MODIFYCHANNEL, &[9, 0]);
        let result = g.expect(number::MODIFYCHANNEL_RESPONSE);
        assert_eq!(result, [9, STATUS_UNSUCCESSFUL]);
    });
    expect_violations(&["vmbus.unknown-relid"], |g| {
        let handle = g.describe(9, 0x100, 100);
        let result = g.expect(number::GPADL_CREATED);
        assert_eq!(result, [9, handle, STATUS_UNSUCCESSFUL]);
        g.expect_nothing();
    });
}

#[test]
fn channel_states() {
    expect_violations(&["vmbus.close-not-open"], |g| g.close(1));
    expect_violations(&["vmbus.open-twice"], |g| {
        let (ring, _) = g.open(1, 0);
        g.post_open(1, ring, 0, 128);
        assert_ne!(g.expect(number::OPENCHANNEL_RESULT)[2], 0);
    });
    expect_violations(&["vmbus.modify-not-open"], |g| {
        g.post(number::MODIFYCHANNEL, &[1, 0]);
        assert_ne!(g.expect(number::MODIFYCHANNEL_RESPONSE)[1], 0);
    });
    expect_violations(&["vmbus.modify-vp"], |g| {
        g.open(1, 0);
        g.post(number::MODIFYCHANNEL, &[1, 4]);
        assert_ne!(g.expect(number::MODIFYCHANNEL_RESPONSE)[1], 0);
    });
    expect_violations(&["vmbus.release-not-rescinded"], |g| {
        g.open(1, 0);
        g.post(number::RELID_RELEASED, &[1]);
        g.server.settle().unwrap();
        assert_eq!(g.server.snapshot().open_channels, 0);
    });
    let mut guest = Guest::new(version::V4_0);
    guest.add_device(1, 1);
    guest.connect(version::V4_0);
    guest.request_offers();
    guest.open(1, 0);
    guest.post(number::MODIFYCHANNEL, &[1, 1]);
    guest.expect_nothing();
    assert_eq!(guest.violations(), ["vmbus.modify-version"]);
}

#[test]
fn openings_that_cannot_be() {
    let refused = |g: &Guest| assert_ne!(g.expect(number::OPENCHANNEL_RESULT)[2], 0);
    expect_violations(&["vmbus.open-gpadl"], |g| {
        g.post_open(1, 0x77, 0, 128);
        refused(g);
    });
    expect_violations(&["vmbus.open-gpadl"], |g| {
        g.add_device(2, 1);
        g.read_all();
        let other = g.establish(2, 0x1000, 256);
        g.post_open(1, other, 0, 128);
        refused(g);
    });
    expect_violations(&["vmbus.open-vp"], |g| {
        let ring = g.establish(1, 0x1000, 256);
        g.post_open(1, ring, 4, 128);
        refused(g);
    });
    for split in [0, 1, 255, 256, u32::MAX] {
        expect_violations(&["vmbus.open-ring"], |g| {
            let ring = g.establish(1, 0x1000, 256);
            g.post_open(1, ring, 0, split);
            refused(g);
        });
    }
    expect_violations(&["vmbus.open-ring"], |g| {
        let rings = g.rings(0x1000);
        rings.poke(rings.to_host, WRITE_INDEX, u32::MAX);
        let ring = g.establish(1, 0x1000, 256);
        g.post_open(1, ring, 0, 128);
        refused(g);
    });
}

#[test]
fn gpadls_that_cannot_be() {
    let refused = |g: &Guest| {
        let created = g.expect(number::GPADL_CREATED);
        assert_eq!(created[2], STATUS_UNSUCCESSFUL);
    };
    // relid, handle, buflen | count << 16, bytes, offset, pfn
    let header = |g: &Guest, lengths: u32, bytes: u32, offset: u32| {
        let words = [1, 0x77, lengths, bytes, offset, 1, 0, 2, 0];
        g.post(number::GPADL_HEADER, &words);
    };
    let cases = [
        (16 | 2 << 16, 4096, 0),
        (16, 4096, 0),
        (16 | 1 << 16, 0, 0),
        (16 | 1 << 16, 4096, 4096),
        (24 | 1 << 16, 4096, 0),
        (16 | 1 << 16, 4096, 1),
        (16 | 1 << 16, 4096, 0),
    ];
    for (lengths, bytes, offset) in cases {
        expect_violations(&["vmbus.gpadl-description"], |g| {
            header(g, lengths, bytes, offset);
            refused(g);
            // The rest of the description is swallowed.
            g.post(number::GPADL_BODY, &[1, 0x77, 5, 0]);
            g.expect_nothing();
        });
    }
    expect_violations(&["vmbus.gpadl-description"], |g| {
        let words = [1, 0x77, 32 | 1 << 16, 3 * 4096, 0, 1, 0, 2, 0];
        g.post(number::GPADL_HEADER, &words);
        g.post(number::GPADL_BODY, &[1, 0x77, 3, 0, 4, 0]);
        refused(g);
    });
    expect_violations(&["vmbus.gpadl-pages"], |g| {
        g.describe(1, 0x3_ffff, 2);
        refused(g);
    });
    expect_violations(&["vmbus.gpadl-body"], |g| {
        g.post(number::GPADL_BODY, &[1, 0x77, 1, 0]);
    });
    expect_violations(&["vmbus.gpadl-exists"], |g| {
        let handle = g.establish(1, 0x1000, 1);
        let words = [1, handle, 16 | 1 << 16, 4096, 0, 1, 0];
        g.post(number::GPADL_HEADER, &words);
        refused(g);
    });
}

#[test]
fn teardowns_that_cannot_be() {
    expect_violations(&["vmbus.gpadl-unknown"], |g| g.teardown(1, 0x77));
    expect_violations(&["vmbus.gpadl-owner"], |g| {
        let handle = g.establish(1, 0x1000, 1);
        g.teardown(2, handle);
        assert_eq!(g.server.snapshot().live_gpadls, 0);
    });
    expect_violations(&["vmbus.gpadl-in-use"], |g| {
        let (ring, _) = g.open(1, 0);
        g.teardown(1, ring);
        assert_eq!(g.server.snapshot().open_channels, 0);
    });
}

#[test]
fn ring_violations_name_the_channel() {
    let (mut guest, device, _) = Guest::with_device(1);
    let (ring, rings) = guest.open(1, 0);
    rings.poke(rings.to_host, WRITE_INDEX, 12);
    device.with_channel(0, |channel| {
        assert_eq!(channel.rings.incoming.next(), None);
        assert!(channel.rings.is_broken());
    });
    let violations = guest.server.violations();
    assert_eq!(violations[0].name, "ring.write-index");
    assert!(violations[0].last.starts_with("relid 1:"));
    guest.close(1);
    guest.teardown(1, ring);
    // The next incarnation has new rings.
    guest.open(1, 0);
    device.with_channel(0, |channel| assert!(!channel.rings.is_broken()));
    device.host().violation("nvsp.test", "a detail".into());
    let violations = guest.server.violations();
    assert_eq!(violations[0].name, "nvsp.test");
    assert_eq!(violations[0].last, "device 1: a detail");
}

#[test]
fn no_message_makes_the_server_panic() {
    let (mut guest, _, _) = Guest::with_device(3);
    guest.open(1, 0);
    let mut state = 1u64;
    let mut random = move || {
        // Numbers that are different enough, the same in every run.
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as u32
    };
    for _ in 0..20_000 {
        let len = random() as usize % 40;
        let words: Vec<u32> = (0..len)
            .map(|_| match random() % 4 {
                0 => random() % 5,
                1 => 0xe1e10 + random() % 3,
                2 => 16 | 1 << 16,
                _ => random(),
            })
            .collect();
        let mut message = vec![random() % 26, 0];
        message.extend(words);
        let bytes: Vec<u8> = message.iter().flat_map(|w| w.to_le_bytes()).collect();
        let len = bytes.len() - random() as usize % 4;
        while guest.server.message(4, 1, &bytes[..len]) == HvStatus::InsufficientBuffers {
            guest.server.settle().unwrap();
        }
    }
    guest.server.reset().unwrap();
    guest.read_all();
    guest.server.clear_violations();
    guest.connect(version::V6_0);
    assert_eq!(guest.request_offers(), [1]);
    guest.assert_clean();
}
