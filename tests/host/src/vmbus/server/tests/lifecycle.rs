// SPDX-License-Identifier: GPL-2.0

//! What a well-behaved guest sees: versions, offers, channels, hot plug, unload.

use std::sync::atomic::Ordering;
use std::sync::{mpsc, Arc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::super::{guid_text, version, ServerConfig, ServerError, VmbusServer};
use super::machine::{offered, set, words, Guest, NIC_CLASS};
use crate::hypervisor::{HvStatus, MessageSink};
use crate::vmbus::device::{DeviceHost, Offer, OpenChannel, VmbusDevice};
use crate::vmbus::message::number;
use crate::vmbus::ring::PacketType;

#[test]
fn every_version_is_negotiated() {
    for max in version::ALL {
        let mut guest = Guest::new(max);
        guest.add_device(1, 4);
        // As Linux does it: from the highest known down.
        for wanted in version::ALL.into_iter().rev().chain([0x3_0000, 0x2_0004]) {
            if wanted > max && max < version::V5_0 && wanted >= version::V5_0 {
                let status = guest.server.message(4, 1, &[14, 0, 0, 0]);
                assert_eq!(status, HvStatus::InvalidConnectionId);
                continue;
            }
            guest.initiate(wanted);
            let bytes = guest.read().unwrap();
            let response = words(&bytes);
            assert_eq!(response[0], number::VERSION_RESPONSE);
            let supported = response[2] & 0xff == 1;
            assert_eq!(supported, wanted <= max, "{wanted:#x} of {max:#x}");
            if !supported {
                assert_eq!(bytes.len(), 16);
                continue;
            }
            assert_eq!(bytes.len(), if max >= version::V6_0 { 20 } else { 16 });
            assert_eq!(response[3], if max >= version::V5_0 { 4 } else { max });
            break;
        }
        let text = format!("{}.{}", max >> 16, max & 0xffff);
        assert_eq!(guest.server.snapshot().version, Some(text));
        assert_eq!(guest.request_offers(), [1]);
        let (ring, _) = guest.open(1, 2);
        guest.close(1);
        guest.teardown(1, ring);
        guest.assert_clean();
    }
}

#[test]
fn versions_below_4_are_refused() {
    let mut guest = Guest::new(version::V4_0);
    for wanted in [0x3_0000, 0x2_0004, 0xd, 0] {
        guest.initiate(wanted);
        assert_eq!(guest.expect(number::VERSION_RESPONSE)[0], 0);
    }
    assert_eq!(guest.server.snapshot().version, None);
}

#[test]
fn unknown_maximum_is_an_error() {
    let guest = Guest::new(version::V4_0);
    let config = ServerConfig {
        max_version: 0x5_0004,
    };
    let error = VmbusServer::new(guest.machine.clone(), config).err();
    assert!(matches!(error, Some(ServerError::Version(0x5_0004))));
}

#[test]
fn offers_name_the_device() {
    let mut guest = Guest::new(version::V5_3);
    guest.add_device(7, 4);
    guest.connect(version::V5_3);
    guest.post(number::REQUESTOFFERS, &[]);
    let offer = guest.read().unwrap();
    assert_eq!(offered(&offer), (1, 0));
    assert_eq!(offer[8..24], NIC_CLASS);
    assert_eq!(offer[24..40], [7; 16]);
    guest.expect(number::ALLOFFERS_DELIVERED);
    guest.expect_nothing();
}

#[test]
fn packets_go_both_ways() {
    let (mut guest, device, _) = Guest::with_device(1);
    let (handle, rings) = guest.open(1, 3);
    assert_eq!(device.log(), ["open 0"]);
    assert_eq!(rings.send(6, 1, 9, &[], b"question"), Some(true));
    guest.ring_doorbell(1);
    guest.ring_doorbell(1);
    device.with_channel(0, |channel| {
        assert_eq!(channel.relid, 1);
        channel.rings.note_doorbells(channel.kick.read().unwrap());
        let packet = channel.rings.incoming.next().unwrap();
        assert_eq!(packet.payload, b"question");
        let answer: &[&[u8]] = &[b"answer"];
        channel
            .rings
            .outgoing
            .try_write(
                PacketType::Completion,
                0,
                packet.transaction_id,
                &[],
                answer,
            )
            .unwrap();
    });
    assert_eq!(guest.events(), [(3, 1)]);
    let (packet, _) = rings.receive().unwrap();
    assert_eq!((packet.kind, packet.transaction_id), (0xb, 9));

    let counters = guest.server.counters();
    let stats = &counters["devices"][0]["channels"]["0"];
    assert_eq!(stats["doorbells"], 2);
    assert_eq!(stats["packets_in"], 1);
    assert_eq!(stats["completions_out"], 1);
    assert_eq!(stats["interrupts"], 1);
    assert_eq!(counters["devices"][0]["counters"]["open"], 1);
    assert_eq!(counters["channels"][0]["state"], "open");
    assert_eq!(counters["channels"][0]["gpadls"][0], handle);
    assert_eq!(counters["open_channels"], 1);
    assert_eq!(counters["messages_in"]["OPENCHANNEL"], 1);
    assert_eq!(counters["messages_out"]["OPENCHANNEL_RESULT"], 1);
    guest.close(1);
    guest.teardown(1, handle);
    guest.assert_clean();
    assert_eq!(device.log(), ["close 0"]);
}

#[test]
fn closed_channels_do_not_interrupt() {
    let (mut guest, device, _) = Guest::with_device(1);
    let (ring, _) = guest.open(1, 0);
    guest.close(1);
    guest.server.settle().unwrap();
    let mut channel = device.0.lock().unwrap().closed.pop().unwrap();
    let mut write = || {
        let ring = &mut channel.rings.outgoing;
        ring.try_write(PacketType::InBand, 0, 0, &[], &[]).is_ok()
    };
    assert!(write());
    assert_eq!(guest.events(), []);
    guest.teardown(1, ring);
    assert!(!write(), "the memory is the guest's again");
}

#[test]
fn reopening_keeps_relid_and_statistics() {
    let (mut guest, device, _) = Guest::with_device(1);
    for round in 0..20 {
        let (ring, rings) = guest.open(1, round % 4);
        let buffer = guest.establish(1, 0x8000, 8000);
        assert!(device.host().gpadl(buffer).is_some());
        rings.send(6, 0, 0, &[], &[]).unwrap();
        device.with_channel(0, |channel| channel.rings.incoming.next().unwrap());
        guest.close(1);
        guest.teardown(1, ring);
        guest.teardown(1, buffer);
        assert!(device.host().gpadl(buffer).is_none());
    }
    guest.assert_clean();
    let counters = guest.server.counters();
    assert_eq!(counters["devices"][0]["channels"]["0"]["packets_in"], 20);
    assert_eq!(counters["channels"][0]["opens"], 20);
}

#[test]
fn subchannels_follow_their_primary() {
    let (mut guest, device, _) = Guest::with_device(4);
    device.0.lock().unwrap().subchannels = 3;
    for round in 0..3 {
        let (primary, _) = guest.open(1, 0);
        let offers: Vec<_> = guest.read_all().iter().map(|m| offered(m)).collect();
        assert_eq!(offers, [(2, 1), (3, 2), (4, 3)], "round {round}");
        let mut rings = Vec::new();
        for (relid, index) in offers {
            rings.push((relid, guest.open(relid, u32::from(index)).0));
        }
        // Asking again changes nothing.
        device.host().offer_subchannels(3);
        guest.expect_nothing();
        // Linux closes the sub-channels first, one of them is left to the host.
        for &(relid, handle) in &rings[..2] {
            guest.close(relid);
            guest.teardown(relid, handle);
        }
        guest.close(1);
        let gone: Vec<_> = guest.read_all().iter().map(|m| words(m)).collect();
        assert_eq!(gone, [[2, 0, 2], [2, 0, 3], [2, 0, 4]]);
        guest.teardown(1, primary);
        assert_eq!(
            device.log(),
            ["open 0", "open 1", "open 2", "open 3", "close 1", "close 2", "close 3", "close 0"]
        );
        // Closing what the host closed is no violation; the relids come back.
        guest.close(4);
        for relid in [3, 2, 4] {
            guest.post(number::RELID_RELEASED, &[relid]);
        }
        guest.assert_clean();
    }
}

#[test]
fn relids_in_use_are_not_given_out_again() {
    let (mut guest, device, id) = Guest::with_device(3);
    guest.open(1, 0);
    device.host().offer_subchannels(2);
    assert_eq!(guest.read_all().len(), 2);
    device.host().rescind_subchannel(1);
    assert_eq!(guest.expect(number::RESCIND_CHANNELOFFER), [2]);
    device.host().offer_subchannels(2);
    assert_eq!(offered(&guest.read().unwrap()), (4, 1));
    guest.post(number::RELID_RELEASED, &[2]);
    guest.server.rescind_subchannel(id, 1).unwrap();
    assert_eq!(guest.expect(number::RESCIND_CHANNELOFFER), [4]);
    device.host().offer_subchannels(9);
    assert_eq!(offered(&guest.read().unwrap()), (2, 1));
    guest.expect_nothing();
    assert!(guest.server.rescind_subchannel(id, 7).is_err());
    assert!(guest.violations().is_empty());
}

#[test]
fn subchannels_of_a_closed_device_are_not_offered() {
    let (mut guest, device, _) = Guest::with_device(4);
    device.host().offer_subchannels(2);
    guest.expect_nothing();
    guest.open(1, 0);
    guest.close(1);
    device.host().offer_subchannels(2);
    guest.expect_nothing();
}

#[test]
fn interrupts_follow_modify_channel() {
    for (max, answered) in [
        (version::V4_1, false),
        (version::V5_2, false),
        (version::V5_3, true),
    ] {
        let mut guest = Guest::new(max);
        let (device, _) = guest.add_device(1, 1);
        guest.connect(max);
        guest.request_offers();
        let (_, rings) = guest.open(1, 0);
        guest.post(number::MODIFYCHANNEL, &[1, 2]);
        if answered {
            assert_eq!(guest.expect(number::MODIFYCHANNEL_RESPONSE), [1, 0]);
        }
        guest.expect_nothing();
        let write = || {
            device.with_channel(0, |channel| {
                let ring = &mut channel.rings.outgoing;
                ring.try_write(PacketType::InBand, 0, 0, &[], &[]).unwrap();
            })
        };
        write();
        assert_eq!(guest.events(), [(2, 1)]);
        rings.receive().unwrap();
        // No processor: no interrupts.
        guest.post(number::MODIFYCHANNEL, &[1, u32::MAX]);
        guest.read_all();
        write();
        assert_eq!(guest.events(), []);
        assert!(guest.violations().is_empty());
    }
}

#[test]
fn hot_removal_waits_for_the_guest() {
    let (mut guest, device, id) = Guest::with_device(2);
    device.0.lock().unwrap().subchannels = 1;
    guest.open(1, 0);
    assert_eq!(offered(&guest.read().unwrap()), (2, 1));
    let (sub_ring, _) = guest.open(2, 1);
    let buffer = guest.establish(1, 0x9000, 30);
    let memory = device.host().gpadl(buffer).unwrap();
    device.log();
    guest.server.remove_device(id).unwrap();
    assert_eq!(device.log(), ["close 1", "close 0"]);
    assert!(memory.write(0, &[1]).is_err(), "no access any more");
    assert!(guest.server.remove_device(id).is_err());
    assert!(guest.server.snapshot().devices[0].removing);
    let gone: Vec<_> = guest.read_all().iter().map(|m| words(m)).collect();
    assert_eq!(gone, [[2, 0, 2], [2, 0, 1]]);
    // What crossed with the rescind is answered, but does nothing.
    guest.close(2);
    guest.teardown(2, sub_ring);
    let late = guest.describe(1, 0x5000, 256);
    assert_eq!(guest.expect(number::GPADL_CREATED)[..2], [1, late]);
    guest.post_open(1, late, 0, 128);
    assert_ne!(guest.expect(number::OPENCHANNEL_RESULT)[2], 0);
    device.host().offer_subchannels(1);
    guest.expect_nothing();
    guest.post(number::RELID_RELEASED, &[2]);
    guest.server.settle().unwrap();
    assert!(device.log().is_empty());
    guest.post(number::RELID_RELEASED, &[1]);
    guest.server.settle().unwrap();
    assert_eq!(device.log(), ["drop"]);
    guest.assert_clean();
    assert!(guest.server.snapshot().devices.is_empty());
}

#[test]
fn hot_add_offers_at_once() {
    let (mut guest, _, id) = Guest::with_device(1);
    let (second, _) = guest.add_device(2, 1);
    assert_eq!(offered(&guest.read().unwrap()), (2, 0));
    guest.server.remove_device(id).unwrap();
    assert_eq!(guest.expect(number::RESCIND_CHANNELOFFER), [1]);
    // The relid is free once the guest says so, the instance as well.
    guest.add_device(3, 1);
    assert_eq!(offered(&guest.read().unwrap()), (3, 0));
    guest.post(number::RELID_RELEASED, &[1]);
    guest.server.settle().unwrap();
    guest.add_device(1, 1);
    assert_eq!(offered(&guest.read().unwrap()), (1, 0));
    let (ring, _) = guest.open(2, 0);
    assert_eq!(second.log(), ["open 0"]);
    guest.close(2);
    guest.teardown(2, ring);
    guest.assert_clean();
}

#[test]
fn devices_come_and_go_without_a_guest() {
    let mut guest = Guest::new(version::V6_0);
    let (device, id) = guest.add_device(1, 1);
    guest.server.remove_device(id).unwrap();
    assert_eq!(device.log(), ["drop"]);
    guest.add_device(1, 1);
    guest.add_device(2, 1);
    guest.connect(version::V6_0);
    assert_eq!(guest.request_offers(), [1, 2]);
}

#[test]
fn impossible_devices_are_refused() {
    use super::machine::{Device, TestDevice};
    let mut guest = Guest::new(version::V6_0);
    guest.add_device(1, 1);
    let add = |instance: u8, max_channels: u16| {
        guest.server.add_device(Box::new(TestDevice {
            offer: Offer {
                class: NIC_CLASS,
                instance: [instance; 16],
                max_channels,
            },
            state: Device::default(),
        }))
    };
    let error = add(1, 1).unwrap_err().to_string();
    assert!(error.contains("01010101-0101-0101-0101-010101010101"));
    assert!(matches!(add(2, 0), Err(ServerError::Channels(0))));
    assert!(matches!(add(2, 2048), Err(ServerError::Channels(2048))));
    assert_eq!(
        guid_text(&NIC_CLASS),
        "f8615163-df3e-46c5-913f-f2d2f965ed0e"
    );
}

#[test]
fn unload_ends_everything_and_contact_starts_anew() {
    let (mut guest, device, _) = Guest::with_device(3);
    device.0.lock().unwrap().subchannels = 2;
    for round in 1..=3 {
        guest.open(1, 0);
        assert_eq!(guest.read_all().len(), 2);
        guest.open(2, 1);
        guest.describe(1, 0x9000, 20);
        guest.read_all();
        device.log();
        guest.post(number::UNLOAD, &[]);
        guest.expect(number::UNLOAD_RESPONSE);
        guest.expect_nothing();
        assert_eq!(device.log(), ["close 1", "close 0"]);
        guest.assert_clean();
        let counters = guest.server.snapshot();
        assert_eq!(counters.version, None);
        assert!(counters.channels.is_empty());
        assert_eq!(counters.messages.unloads, round);
        assert_eq!(counters.messages.open_at_disconnect, 2 * round);
        guest.connect(version::V6_0);
        assert_eq!(guest.request_offers(), [1]);
    }
}

#[test]
fn contact_without_unload_starts_anew_too() {
    let (mut guest, device, id) = Guest::with_device(1);
    guest.open(1, 0);
    guest.server.remove_device(id).unwrap();
    guest.add_device(2, 1);
    guest.read_all();
    // The guest crashed; its second kernel knows nothing, and will not release anything.
    guest.vp = 2;
    guest.connect(version::V5_2);
    assert_eq!(device.log(), ["open 0", "close 0", "drop"]);
    assert_eq!(guest.request_offers(), [1]);
    guest.assert_clean();
}

#[test]
fn guest_reset_frees_all_but_the_devices() {
    let (mut guest, device, _) = Guest::with_device(1);
    guest.open(1, 0);
    guest.describe(1, 0x9000, 20);
    guest.server.reset().unwrap();
    guest.machine.recorded.lock().unwrap().events.clear();
    assert_eq!(device.log(), ["open 0", "close 0"]);
    while guest.read().is_some() {}
    guest.assert_clean();
    guest.connect(version::V6_0);
    assert_eq!(guest.request_offers(), [1]);
    guest.open(1, 0);
}

#[test]
fn messages_wait_for_the_slot() {
    let mut guest = Guest::new(version::V6_0);
    for instance in 1..=10 {
        guest.add_device(instance, 1);
    }
    guest.connect(version::V6_0);
    guest.post(number::REQUESTOFFERS, &[]);
    guest.server.settle().unwrap();
    assert_eq!(guest.server.snapshot().waiting_messages, 10);
    let relids: Vec<u32> = (1..=10)
        .map(|_| offered(&guest.read().unwrap()).0)
        .collect();
    assert_eq!(relids, (1..=10).collect::<Vec<_>>());
    guest.expect(number::ALLOFFERS_DELIVERED);
    let counters = guest.server.snapshot().messages;
    assert!(counters.slot_busy >= 1);
    assert_eq!(counters.messages_out["OFFERCHANNEL"], 10);
}

#[test]
fn a_slot_that_is_never_reported_free_is_tried_anyway() {
    let mut guest = Guest::new(version::V6_0);
    guest.add_device(1, 1);
    guest.connect(version::V6_0);
    guest.post(number::REQUESTOFFERS, &[]);
    guest.server.settle().unwrap();
    let offer = guest.machine.take_message(0).unwrap();
    assert_eq!(offered(&offer), (1, 0));
    let deadline = Instant::now() + Duration::from_secs(20);
    let last = loop {
        if let Some(message) = guest.machine.take_message(0) {
            break message;
        }
        assert!(Instant::now() < deadline, "the message got stuck");
        std::thread::sleep(Duration::from_millis(10));
    };
    assert_eq!(words(&last), [number::ALLOFFERS_DELIVERED, 0]);
    assert_eq!(guest.server.snapshot().messages.slot_polled, 1);
}

#[test]
fn messages_to_a_switched_off_slot_are_dropped() {
    let mut guest = Guest::new(version::V6_0);
    guest.machine.disabled.store(true, Ordering::SeqCst);
    guest.initiate(version::V6_0);
    guest.expect_nothing();
    assert_eq!(guest.server.snapshot().messages.undeliverable, 1);
}

#[test]
fn signals_arrive_without_event_binding() {
    let (mut guest, device, _) = Guest::with_device(1);
    assert_eq!(guest.server.signal(0x2001, 0), HvStatus::Success);
    guest.machine.cannot_bind.store(true, Ordering::SeqCst);
    guest.open(1, 0);
    guest.ring_doorbell(1);
    let count = device.with_channel(0, |channel| channel.kick.read());
    assert_eq!(count.unwrap(), 1);
    guest.close(1);
    guest.server.settle().unwrap();
    assert_eq!(guest.server.signal(0x2001, 0), HvStatus::Success);
    assert_eq!(
        guest.server.signal(0x2002, 0),
        HvStatus::InvalidConnectionId
    );
    let counters = guest.server.snapshot().messages;
    assert_eq!(
        (counters.signals_by_exit, counters.signals_to_closed),
        (4, 2)
    );
}

#[test]
fn largest_gpadl() {
    let (mut guest, device, _) = Guest::with_device(1);
    let handle = guest.establish(1, 0, 8190);
    let memory = device.host().gpadl(handle).unwrap();
    assert_eq!(memory.len(), 8190 * 4096);
    assert_eq!(memory.write(memory.len() - 1, &[1]), Ok(()));
    guest.teardown(1, handle);
    guest.assert_clean();
}

#[test]
fn gpadls_of_another_device_are_out_of_reach() {
    let mut guest = Guest::new(version::V6_0);
    let (first, _) = guest.add_device(1, 1);
    let (second, _) = guest.add_device(2, 1);
    guest.connect(version::V6_0);
    guest.request_offers();
    let one = guest.establish(1, 0x100, 1);
    let two = guest.establish(2, 0x200, 40);
    assert!(first.host().gpadl(one).is_some() && first.host().gpadl(two).is_none());
    assert!(second.host().gpadl(two).is_some() && second.host().gpadl(one).is_none());
    let live: Vec<u32> = guest
        .server
        .snapshot()
        .channels
        .iter()
        .flat_map(|c| c.gpadls.clone())
        .collect();
    assert_eq!(set(live), set([one, two]));
}

#[test]
fn a_flood_of_messages_is_turned_away() {
    let (mut guest, device, _) = Guest::with_device(1);
    let ring = guest.establish(1, 0x1000, 256);
    // The server's thread is kept in the device's `open` by the lock around the device's state.
    let state = device.0.lock().unwrap();
    guest.post_open(1, ring, 0, 128);
    let mut turned_away = 0;
    for _ in 0..2000 {
        match guest
            .server
            .message(4, 1, &[11, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 9, 0, 0, 0])
        {
            HvStatus::Success => {}
            HvStatus::InsufficientBuffers => turned_away += 1,
            other => panic!("{other:?}"),
        }
    }
    drop(state);
    assert!((900..1000).contains(&turned_away), "{turned_away}");
    assert_eq!(guest.server.snapshot().messages.turned_away, turned_away);
    guest.expect(number::OPENCHANNEL_RESULT);
    assert_eq!(guest.read_all().len() as u64, 2000 - turned_away);
}

/// A device whose `close` waits for a worker that uses its [`DeviceHost`] to the last.
struct Busy {
    host: Option<Arc<dyn DeviceHost>>,
    worker: Option<(mpsc::Sender<()>, JoinHandle<u32>)>,
}

impl VmbusDevice for Busy {
    fn offer(&self) -> Offer {
        Offer {
            class: NIC_CLASS,
            instance: [9; 16],
            max_channels: 8,
        }
    }

    fn attach(&mut self, host: Arc<dyn DeviceHost>) {
        self.host = Some(host);
    }

    fn open(&mut self, mut channel: OpenChannel) {
        let host = self.host.clone().unwrap();
        let (stop, stopped) = mpsc::channel::<()>();
        let worker = std::thread::spawn(move || {
            let mut rounds = 0;
            while stopped.try_recv() == Err(mpsc::TryRecvError::Empty) {
                let ring = &mut channel.rings.outgoing;
                let _ = ring.try_write(PacketType::InBand, 0, 0, &[], &[]);
                assert!(host.gpadl(0x1234).is_none());
                host.faults().check("nvsp.test");
                host.offer_subchannels(0);
                rounds += 1;
            }
            rounds
        });
        self.worker = Some((stop, worker));
    }

    fn close(&mut self, _: u16) {
        let (stop, worker) = self.worker.take().unwrap();
        drop(stop);
        worker.join().unwrap();
    }

    fn counters(&self) -> serde_json::Value {
        self.worker.is_some().into()
    }
}

#[test]
fn closing_waits_for_a_busy_worker_without_deadlock() {
    let mut guest = Guest::new(version::V6_0);
    let device = Busy {
        host: None,
        worker: None,
    };
    guest.server.add_device(Box::new(device)).unwrap();
    guest.connect(version::V6_0);
    guest.request_offers();
    for _ in 0..10 {
        let (ring, _) = guest.open(1, 0);
        assert_eq!(guest.server.counters()["devices"][0]["counters"], true);
        guest.post(number::MODIFYCHANNEL, &[1, 3]);
        assert_eq!(guest.expect(number::MODIFYCHANNEL_RESPONSE), [1, 0]);
        guest.close(1);
        guest.teardown(1, ring);
    }
    guest.open(1, 0);
    guest.server.faults().reset_log();
    guest.server.reset().unwrap();
    guest.assert_clean();
}
