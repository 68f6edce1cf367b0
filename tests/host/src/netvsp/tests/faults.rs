// SPDX-License-Identifier: GPL-2.0

//! Fault points: each refuses, stays silent or takes the device away.

use super::guest::*;
use crate::fault::FaultAction::{Grant, Refuse, Rescind, Silent, Status};

const FAILURE: u32 = 0xc000_0001;

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

fn ready() -> Guest {
    let mut guest = fresh();
    guest.handshake(0x60001, 1514);
    guest
}

/// The requests of an attach that have an answer: how to get there, message, offset of the status.
type Step = (&'static str, fn() -> Guest, [u32; 3], usize);

const STEPS: [Step; 4] = [
    ("nvsp.init", fresh, [1, 0x60001, 0x60001], 12),
    ("nvsp.send-recv-buf", configured, [101, 1, 0xcafe], 4),
    ("nvsp.send-send-buf", configured, [104, 2, 0], 4),
    ("nvsp.subchannel", ready, [133, 1, 3], 4),
];

#[test]
fn refused_steps_say_so_and_may_be_repeated() {
    for (point, prepare, message, status) in STEPS {
        let mut guest = prepare();
        guest.fault(point, 1, Refuse);
        guest.fault(point, 2, Status(7));
        for expected in [2, 7, 1] {
            let answer = guest.ask(&nvsp(&message));
            assert_eq!(word_at(&answer, status), expected, "{point}");
        }
        guest.assert_clean();
    }
}

#[test]
fn silent_steps_get_no_answer() {
    for (point, prepare, message, status) in STEPS {
        let mut guest = prepare();
        guest.fault(point, 1, Silent);
        guest.send(0, IN_BAND, 1, &[], &nvsp(&message));
        guest.expect_silence(0);
        // Only this one is lost.
        let answer = guest.ask(&nvsp(&message));
        assert_eq!(word_at(&answer, status), 1, "{point}");
        guest.assert_clean();
    }
}

#[test]
fn steps_without_answer_spoil_what_follows() {
    for point in ["nvsp.ndis-config", "nvsp.ndis-version"] {
        let mut guest = agreed();
        guest.fault(point, 1, Refuse);
        guest.tell_configuration(0x60001, 1514);
        let answer = guest.ask(&nvsp(&[101, 1, 0xcafe]));
        assert_eq!(word_at(&answer, 4), 2, "{point}");
        guest.assert_clean();
        let mut guest = agreed();
        guest.fault(point, 1, Silent);
        guest.tell_configuration(0x60001, 1514);
        guest.send(0, IN_BAND, 1, &[], &nvsp(&[101, 1, 0xcafe]));
        guest.expect_silence(0);
        // A new incarnation is heard again.
        guest.close(0);
        guest.bring_up();
        guest.assert_clean();
    }
}

#[test]
fn fewer_subchannels_are_granted() {
    for (grant, expected) in [(1, 1), (9, 3)] {
        let mut guest = ready();
        guest.fault("nvsp.subchannel", 1, Grant(grant));
        let answer = guest.ask(&nvsp(&[133, 1, 3]));
        assert_eq!([4, 8].map(|at| word_at(&answer, at)), [1, expected]);
        assert_eq!(*guest.server.offered.lock().unwrap(), [expected as u16]);
    }
    let mut guest = ready();
    guest.fault("nvsp.subchannel", 1, Grant(0));
    let answer = guest.ask(&nvsp(&[133, 1, 3]));
    assert_eq!([4, 8].map(|at| word_at(&answer, at)), [1, 0]);
    assert!(guest.server.offered.lock().unwrap().is_empty());
}

#[test]
fn rescind_takes_the_device_away() {
    for (point, prepare, message, _) in STEPS {
        let mut guest = prepare();
        guest.fault(point, 1, Rescind);
        guest.send(0, IN_BAND, 1, &[], &nvsp(&message));
        guest.expect_silence(0);
        assert_eq!(*guest.server.rescinded.lock().unwrap(), [0], "{point}");
    }
}

#[test]
fn rndis_requests_fail_by_name() {
    let mut guest = Guest::running(config(1));
    guest.fault("rndis.query.GEN_LINK_SPEED", 1, Refuse);
    guest.fault("rndis.query.GEN_LINK_SPEED", 2, Status(0xc001_000c));
    assert_eq!(guest.query(0x10107), (FAILURE, vec![]));
    assert_eq!(guest.query(0x10107), (0xc001_000c, vec![]));
    assert_eq!(guest.query(0x10107).0, 0);
    guest.fault("rndis.set.GEN_CURRENT_PACKET_FILTER", 1, Refuse);
    assert_eq!(guest.set(0x1010e, &word(0x20)), FAILURE);
    assert_eq!(guest.report()["packet_filter"], "0xd");
    guest.fault("rndis.query.802_3_PERMANENT_ADDRESS", 1, Silent);
    guest.send_control(&words(&[4, 28, 900, 0x1010101, 0, 20, 0]));
    guest.expect_silence(0);
    guest.fault("rndis.keepalive", 1, Silent);
    guest.send_control(&words(&[8, 12, 901]));
    guest.expect_silence(0);
    guest.fault("rndis.halt", 1, Silent);
    guest.send_control(&words(&[3, 12, 902]));
    guest.expect_silence(0);
    assert_eq!(guest.report()["rndis"], "initialized");
    guest.assert_clean();
}

#[test]
fn rndis_initialize_may_fail() {
    let mut guest = ready();
    guest.fault("rndis.initialize", 1, Refuse);
    guest.fault("rndis.initialize", 2, Silent);
    guest.send_control(&words(&[2, 24, 1, 1, 0, 0x4000]));
    assert_eq!(word_at(&guest.receive_control(), 12), FAILURE);
    guest.send_control(&words(&[2, 24, 2, 1, 0, 0x4000]));
    guest.expect_silence(0);
    guest.rndis_initialize();
    guest.assert_clean();
}

#[test]
fn log_names_every_request_of_an_attach() {
    let mut guest = Guest::running(config(4));
    guest.query(0x10106);
    guest.ask(&nvsp(&[133, 1, 3]));
    guest.send_control(&words(&[3, 12, 78]));
    guest.tell(&nvsp(&[103, 0xcafe]));
    guest.tell(&nvsp(&[106, 0]));
    guest.expect_silence(0);
    use crate::vmbus::device::DeviceHost;
    let expected = [
        "nvsp.init",
        "nvsp.ndis-config",
        "nvsp.ndis-version",
        "nvsp.send-recv-buf",
        "nvsp.send-send-buf",
        "rndis.initialize",
        "rndis.set.GEN_CURRENT_PACKET_FILTER",
        "rndis.query.GEN_MAXIMUM_FRAME_SIZE",
        "nvsp.subchannel",
        "rndis.halt",
        "nvsp.revoke-recv-buf",
        "nvsp.revoke-send-buf",
    ];
    assert_eq!(guest.server.faults().log(), expected);
    guest.assert_clean();
}
