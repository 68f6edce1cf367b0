// SPDX-License-Identifier: GPL-2.0

//! RNDIS control messages, OIDs, indications and the link.

use super::guest::*;
use crate::netvsp::rss::samples::parameters;
use crate::netvsp::toeplitz::MICROSOFT_KEY;
use crate::netvsp::NicConfig;

const UNSUPPORTED: u32 = 0xc000_00bb;
const INVALID_DATA: u32 = 0xc001_0015;

fn utf16(text: &str) -> Vec<u8> {
    text.encode_utf16().flat_map(u16::to_le_bytes).collect()
}

/// The MAC address parameter as Linux builds it.
fn address_parameter(digits: &str) -> Vec<u8> {
    let (name, value) = (utf16("NetworkAddress"), utf16(digits));
    let mut info = words(&[20, name.len() as u32, 2, 48, value.len() as u32]);
    info.extend(name);
    info.extend(value);
    info
}

#[test]
fn queries_with_fixed_answers() {
    let mut guest = Guest::running(config(8));
    assert_eq!(guest.query(0x1010101), (0, MAC.to_vec()));
    assert_eq!(guest.query(0x1010102), (0, MAC.to_vec()));
    assert_eq!(guest.query(0x10107), (0, word(100_000_000).to_vec()));
    assert_eq!(guest.query(0x10114), (0, word(0).to_vec()));
    let (status, name) = guest.query(0x20216);
    assert_eq!((status, name.len()), (0, 512));
    assert!(name.starts_with(&utf16("Network Device")));
    let rss = [0x88, 2, 18, 0, 1, 3, 0, 0, 1, 0, 0, 0, 8, 0, 0, 0, 128, 0];
    assert_eq!(guest.query(0x10203), (0, rss.to_vec()));
    assert_eq!(guest.query(0xfc01_020d).1.len(), 156);
    assert_eq!(guest.query(0x10105), (UNSUPPORTED, vec![]));
    assert_eq!(guest.set(0x10105, &[0; 4]), UNSUPPORTED);
    guest.assert_clean();
}

#[test]
fn address_may_start_with_any_digit() {
    let mut guest = Guest::running(config(1));
    for (digits, mac) in [
        ("021122334455", [0x02, 0x11, 0x22, 0x33, 0x44, 0x55]),
        ("AABBCCDDEEF0", [0xaa, 0xbb, 0xcc, 0xdd, 0xee, 0xf0]),
        ("eedd00000001", [0xee, 0xdd, 0, 0, 0, 1]),
    ] {
        assert_eq!(guest.set(0x1021b, &address_parameter(digits)), 0);
        assert_eq!(guest.query(0x1010102).1, mac);
        assert_eq!(guest.query(0x1010101).1, MAC);
    }
    guest.assert_clean();
    // It outlives a re-open of the channel.
    guest.close(0);
    guest.bring_up();
    assert_eq!(guest.report()["mac"], "ee:dd:00:00:00:01");
    assert_eq!(
        guest.set(0x1021b, &address_parameter("01005e000001")),
        INVALID_DATA
    );
    assert_eq!(guest.violation_names(), ["rndis.config-parameter"]);
}

#[test]
fn forgetful_hosts_forget_the_address() {
    let mut guest = Guest::running(NicConfig {
        mac_outlives_close: false,
        ..config(1)
    });
    assert_eq!(guest.set(0x1021b, &address_parameter("021122334455")), 0);
    guest.close(0);
    guest.bring_up();
    assert_eq!(guest.query(0x1010102).1, MAC);
}

#[test]
fn offloads_are_indicated_after_they_are_set() {
    let mut guest = Guest::running(config(1));
    let mut info = vec![0x80, 3, 28, 0, 1, 4, 1, 4, 1, 0, 0, 2, 1];
    info.resize(28, 0);
    assert_eq!(guest.set(0xfc01_020c, &info), 0);
    let indication = guest.receive_control();
    assert_eq!(
        [0, 8, 12, 16].map(|at| word_at(&indication, at)),
        [7, 0x4002_0006, 156, 12]
    );
    let expected = ["tx-tcp4", "rx-tcp4", "tx-tcp6", "rx-tcp6", "lso4"];
    assert_eq!(guest.report()["offloads"], serde_json::json!(expected));
    // LSOv1 does not exist: nothing changes.
    info[9] = 2;
    assert_eq!(guest.set(0xfc01_020c, &info), UNSUPPORTED);
    guest.expect_silence(0);
    guest.assert_clean();
}

#[test]
fn rss_is_reported_as_set() {
    let mut guest = Guest::running(config(4));
    let table: Vec<u32> = (0..128).map(|i| i % 4).collect();
    let info = parameters(0, 0x1701, &table, &MICROSOFT_KEY);
    assert_eq!(guest.set(0x10204, &info), 0);
    let rss = guest.report()["rss"].clone();
    assert_eq!(rss["table"][127], 3);
    assert!(rss["key"].as_str().unwrap().starts_with("6d5a56da255b0ec2"));
    assert_eq!(
        guest.set(0x10204, &parameters(0x10, 0x1701, &table, &MICROSOFT_KEY)),
        0
    );
    assert!(guest.report()["rss"].is_null());
    guest.assert_clean();
    let info = parameters(0, 0x1701, &[4], &MICROSOFT_KEY);
    assert_eq!(guest.set(0x10204, &info), INVALID_DATA);
    assert_eq!(guest.violation_names(), ["rndis.rss-parameters"]);
}

#[test]
fn link_changes_are_indicated_and_answered() {
    let mut guest = Guest::running(config(1));
    guest.handle.set_link(false);
    let indication = guest.receive_control();
    assert_eq!(
        [0, 4, 8, 12].map(|at| word_at(&indication, at)),
        [7, 20, 0x4001_000c, 0]
    );
    assert_eq!(guest.query(0x10114).1, word(1));
    guest.handle.set_link(true);
    assert_eq!(word_at(&guest.receive_control(), 8), 0x4001_000b);
    assert_eq!(guest.query(0x10114).1, word(0));
    guest.handle.set_speed(2500);
    let indication = guest.receive_control();
    assert_eq!(
        [8, 12, 16, 20].map(|at| word_at(&indication, at)),
        [0x4001_0013, 4, 12, 25_000_000]
    );
    assert_eq!(guest.query(0x10107).1, word(25_000_000));
    guest.handle.network_change();
    assert_eq!(word_at(&guest.receive_control(), 8), 0x4001_0018);
    // Nothing changed: nothing to say.
    guest.handle.set_link(true);
    guest.expect_silence(0);
    guest.assert_clean();
}

#[test]
fn link_state_at_the_start_is_answered_not_indicated() {
    let mut guest = Guest::new(
        NicConfig {
            link_up: false,
            ..config(1)
        },
        Buffers::default(),
    );
    guest.handle.set_speed(100);
    guest.bring_up();
    assert_eq!(guest.query(0x10114).1, word(1));
    assert_eq!(guest.query(0x10107).1, word(1_000_000));
    guest.expect_silence(0);
}

#[test]
fn keepalive_reset_and_halt() {
    let mut guest = Guest::running(config(1));
    guest.send_control(&words(&[8, 12, 77]));
    assert_eq!(guest.receive_control(), words(&[0x8000_0008, 16, 77, 0]));
    guest.send_control(&words(&[6, 12, 0]));
    assert_eq!(
        guest.receive_control(),
        words(&[0x8000_0006, 16, 0xc000_0001, 0])
    );
    guest.send_control(&words(&[3, 12, 78]));
    guest.expect_silence(0);
    assert_eq!(guest.report()["rndis"], "halted");
    assert_eq!(guest.report()["packet_filter"], "0x0");
    guest.assert_clean();
}

#[test]
fn more_requests_than_control_sections_are_answered_in_turn() {
    let mut guest = Guest::running(config(1));
    let ids: Vec<u64> = (0..40)
        .map(|i| guest.post_control(&words(&[8, 12, i])))
        .collect();
    let mut completed = Vec::new();
    let mut waiting = Vec::new();
    let mut answers = 0;
    while completed.len() < ids.len() || answers < 16 {
        let packet = guest.receive(0);
        match packet.kind {
            COMPLETION => completed.push(packet.transaction_id),
            _ => {
                answers += 1;
                waiting.push(packet.transaction_id);
            }
        }
    }
    assert_eq!(completed, ids);
    guest.expect_silence(0);
    // The guest holds all 16 control sections; each one given back brings one more answer.
    while let Some(id) = waiting.pop() {
        guest.complete(0, id, 1);
        if answers < 40 {
            waiting.push(guest.receive(0).transaction_id);
            answers += 1;
        }
    }
    assert_eq!(answers, 40);
    guest.assert_clean();
}
