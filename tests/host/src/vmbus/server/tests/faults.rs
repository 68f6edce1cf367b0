// SPDX-License-Identifier: GPL-2.0

//! Fault points of the server.

use super::super::version;
use super::machine::{offered, Guest};
use crate::fault::{FaultAction, FaultSpec};
use crate::vmbus::message::{number, STATUS_UNSUCCESSFUL};

fn fail(guest: &Guest, point: &str, action: FaultAction) {
    guest
        .server
        .faults()
        .add(FaultSpec {
            point: point.into(),
            nth: 1,
            count: 1,
            action,
        })
        .unwrap();
}

#[test]
fn open_is_refused_ignored_or_given_a_status() {
    let (mut guest, device, _) = Guest::with_device(1);
    let ring = guest.establish(1, 0x1000, 256);
    for (action, status) in [
        (FaultAction::Refuse, Some(STATUS_UNSUCCESSFUL)),
        (FaultAction::Status(5), Some(5)),
        (FaultAction::Silent, None),
    ] {
        fail(&guest, "vmbus.open", action);
        guest.post_open(1, ring, 0, 128);
        match status {
            Some(status) => {
                let result = guest.expect(number::OPENCHANNEL_RESULT);
                assert_eq!(result, [1, 1, status]);
            }
            None => guest.expect_nothing(),
        }
        assert!(device.log().is_empty());
    }
    guest.post_open(1, ring, 0, 128);
    assert_eq!(guest.expect(number::OPENCHANNEL_RESULT), [1, 1, 0]);
    let counters = guest.server.counters();
    assert_eq!(counters["faults"]["fired"]["vmbus.open"], 3);
    assert_eq!(counters["faults"]["points"]["vmbus.open"], 4);
    guest.close(1);
    guest.teardown(1, ring);
    guest.assert_clean();
}

#[test]
fn gpadl_is_refused_or_ignored() {
    let (mut guest, _, _) = Guest::with_device(1);
    fail(&guest, "vmbus.gpadl", FaultAction::Refuse);
    let handle = guest.describe(1, 0x1000, 100);
    let created = guest.expect(number::GPADL_CREATED);
    assert_eq!(created, [1, handle, STATUS_UNSUCCESSFUL]);
    fail(&guest, "vmbus.gpadl", FaultAction::Silent);
    guest.describe(1, 0x1000, 100);
    guest.expect_nothing();
    guest.assert_clean();
    let handle = guest.establish(1, 0x1000, 100);
    fail(&guest, "vmbus.gpadl-teardown", FaultAction::Silent);
    guest.post(number::GPADL_TEARDOWN, &[1, handle]);
    guest.expect_nothing();
    assert_eq!(guest.server.snapshot().live_gpadls, 1);
    guest.teardown(1, handle);
    guest.assert_clean();
}

#[test]
fn modify_channel_is_refused_or_ignored() {
    let (mut guest, _, _) = Guest::with_device(1);
    guest.open(1, 0);
    fail(&guest, "vmbus.modify-channel", FaultAction::Refuse);
    guest.post(number::MODIFYCHANNEL, &[1, 2]);
    let response = guest.expect(number::MODIFYCHANNEL_RESPONSE);
    assert_eq!(response, [1, STATUS_UNSUCCESSFUL]);
    fail(&guest, "vmbus.modify-channel", FaultAction::Silent);
    guest.post(number::MODIFYCHANNEL, &[1, 2]);
    guest.expect_nothing();
    assert_eq!(guest.server.snapshot().channels[0].target_vp, Some(0));
}

#[test]
fn rescind_takes_the_device_away() {
    for point in ["vmbus.gpadl", "vmbus.open", "vmbus.modify-channel"] {
        let (mut guest, device, _) = Guest::with_device(1);
        fail(&guest, point, FaultAction::Rescind);
        let ring = guest.describe(1, 0x1000, 256);
        guest.read_all();
        if point != "vmbus.gpadl" {
            guest.post_open(1, ring, 0, 128);
            guest.post(number::MODIFYCHANNEL, &[1, 2]);
            guest.read_all();
        }
        guest.post(number::RELID_RELEASED, &[1]);
        guest.server.settle().unwrap();
        assert_eq!(device.log().last().unwrap(), "drop", "{point}");
        guest.server.reset().unwrap();
        guest.assert_clean();
    }
}

#[test]
fn offers_can_be_held_back() {
    let mut guest = Guest::new(version::V6_0);
    let (device, _) = guest.add_device(1, 4);
    guest.add_device(2, 1);
    guest.connect(version::V6_0);
    fail(&guest, "vmbus.offer", FaultAction::Refuse);
    assert_eq!(guest.request_offers(), [1]);
    guest.connect(version::V6_0);
    guest.request_offers();
    guest.open(1, 0);
    guest
        .server
        .faults()
        .add(FaultSpec {
            point: "vmbus.offer-subchannel".into(),
            nth: 2,
            count: 1,
            action: FaultAction::Silent,
        })
        .unwrap();
    device.host().offer_subchannels(3);
    let indices: Vec<u16> = guest.read_all().iter().map(|m| offered(m).1).collect();
    assert_eq!(indices, [1, 3]);
}

#[test]
fn contact_offers_and_unload_can_fail() {
    let mut guest = Guest::new(version::V6_0);
    fail(&guest, "vmbus.initiate-contact", FaultAction::Refuse);
    guest.initiate(version::V6_0);
    assert_eq!(guest.expect(number::VERSION_RESPONSE)[0], 0);
    guest.connect(version::V5_3);
    fail(&guest, "vmbus.request-offers", FaultAction::Silent);
    guest.post(number::REQUESTOFFERS, &[]);
    guest.expect_nothing();
    fail(&guest, "vmbus.unload", FaultAction::Silent);
    guest.post(number::UNLOAD, &[]);
    guest.expect_nothing();
    guest.post(number::UNLOAD, &[]);
    guest.expect(number::UNLOAD_RESPONSE);
    assert!(guest.violations().is_empty());
}

#[test]
fn the_log_tells_what_a_re_attach_needs() {
    let (mut guest, _, _) = Guest::with_device(1);
    guest.server.faults().reset_log();
    let (ring, _) = guest.open(1, 0);
    guest.close(1);
    guest.teardown(1, ring);
    assert_eq!(
        guest.server.faults().log(),
        [
            "vmbus.gpadl",
            "vmbus.open",
            "vmbus.close",
            "vmbus.gpadl-teardown"
        ]
    );
}
