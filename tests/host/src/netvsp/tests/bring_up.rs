// SPDX-License-Identifier: GPL-2.0

//! Attach: replayed from the recording, and at every version.

use super::guest::*;
use super::recorded::{attach, Line};
use crate::netvsp::{NicConfig, NvspVersion};

/// Plays the guest's side of the recording and compares what the device says with what the recorded
/// host said, byte for byte.
struct Replay {
    guest: Guest,
    lines: Vec<Line>,
    /// Receive sections whose completion the recording still owes.
    owed: Vec<u64>,
    compared: usize,
}

impl Replay {
    fn run(&mut self) {
        let mut at = 0;
        while at < self.lines.len() {
            let packet_line = at;
            at += 1;
            while at < self.lines.len() && self.lines[at].layer != "pkt" {
                at += 1;
            }
            self.packet(packet_line, at);
        }
    }

    /// One ring packet: lines `from..to`, the first of layer `pkt`.
    fn packet(&mut self, from: usize, to: usize) {
        let kind = self.lines[from].bytes[0];
        let id = u64::from_le_bytes(self.lines[from].bytes[8..16].try_into().unwrap());
        let nvsp = self.lines[from + 1].bytes.clone();
        let rndis = self.lines[from + 2..to].first().map(|l| l.bytes.clone());
        if self.lines[from].to_host {
            let flags = u16::from(self.lines[from].bytes[6]);
            self.guest_sends(u16::from(kind), id, flags, &nvsp, rndis);
        } else {
            self.host_answers(u16::from(kind), id, &nvsp, rndis);
        }
    }

    fn guest_sends(&mut self, kind: u16, id: u64, flags: u16, nvsp: &[u8], rndis: Option<Vec<u8>>) {
        match (kind, rndis) {
            (COMPLETION, _) => {
                let id = self.owed.remove(0);
                self.guest.send_as(id, 0, COMPLETION, 0, &[], nvsp);
            }
            (_, Some(message)) => {
                self.guest.post_control(&message);
            }
            (kind, None) => {
                let mut nvsp = nvsp.to_vec();
                match word_at(&nvsp, 0) {
                    101 => nvsp[4..8].copy_from_slice(&word(1)),
                    104 => nvsp[4..8].copy_from_slice(&word(2)),
                    _ => {}
                }
                self.guest.send_as(id, 0, kind, flags, &[], &nvsp);
            }
        }
    }

    fn host_answers(&mut self, kind: u16, id: u64, nvsp: &[u8], rndis: Option<Vec<u8>>) {
        let name = word_at(nvsp, 0);
        if name == 134 {
            for index in 1..4 {
                self.guest.open(index);
            }
        }
        let packet = self.guest.receive(0);
        assert_eq!(packet.kind, kind);
        assert_eq!(packet.payload, nvsp, "NVSP {name}");
        if kind == COMPLETION && rndis.is_none() && name != 108 {
            assert_eq!(packet.transaction_id, id);
        }
        if let Some(message) = rndis {
            assert_eq!(packet.flags, 1);
            assert_eq!(self.guest.ranges(&packet), [message]);
            self.owed.push(packet.transaction_id);
        }
        self.compared += 1;
    }
}

#[test]
fn recorded_attach_gets_the_recorded_answers() {
    let mut guest = Guest::new(
        config(4),
        Buffers {
            receive: 16 << 20,
            send: 1_044_480,
        },
    );
    guest.open(0);
    let lines = attach();
    assert!(lines.iter().all(|l| l.channel == "0"));
    let mut replay = Replay {
        guest,
        lines,
        owed: Vec::new(),
        compared: 0,
    };
    replay.run();
    assert_eq!(replay.compared, 33);
    let guest = replay.guest;
    guest.assert_clean();
    assert_eq!(*guest.server.offered.lock().unwrap(), [3]);
    let report = guest.report();
    assert_eq!(report["nvsp_version"], "6.1");
    assert_eq!(report["rndis"], "halted");
    assert_eq!(report["counters"]["nvsp"]["REVOKE_RECV_BUF"], 1);
    assert_eq!(report["receive_buffer"]["sections"], 9289);
    assert_eq!(report["receive_buffer"]["in_flight"], 0);
}

fn versioned(version: NvspVersion) -> NicConfig {
    NicConfig {
        max_nvsp: version,
        ..config(4)
    }
}

#[test]
fn every_version_attaches() {
    for version in NvspVersion::ALL {
        let mut guest = Guest::new(versioned(version), Buffers::default());
        guest.open(0);
        // As Linux does: newest first, until one is accepted.
        for newer in NvspVersion::ALL.into_iter().rev() {
            let answer = guest.ask(&nvsp(&[1, newer.value(), newer.value()]));
            assert_eq!(answer.len(), 32);
            let accepted = word_at(&answer, 12) == 1;
            assert_eq!(accepted, newer <= version);
            if accepted {
                let reported = if newer == NvspVersion::V1 {
                    2
                } else {
                    u32::MAX
                };
                assert_eq!(word_at(&answer, 4), reported);
                break;
            }
        }
        guest.tell_configuration(version.value(), 1514);
        let receive = guest.ask(&nvsp(&[101, 1, 0xcafe]));
        let len = if version == NvspVersion::V61 { 40 } else { 32 };
        assert_eq!(receive.len(), len, "{version:?}");
        assert_eq!([12, 16, 20].map(|at| word_at(&receive, at)), [0, 1806, 580]);
        guest.rndis_initialize();
        assert_eq!(guest.query(0x10106), (0, word(1500).to_vec()));
        let rss = if version >= NvspVersion::V5 {
            0
        } else {
            0xc000_00bb
        };
        assert_eq!(guest.query(0x10203).0, rss);
        guest.assert_clean();
        assert_eq!(guest.report()["nvsp_version"], version.name());
    }
}

#[test]
fn mtu_of_the_guest_sizes_the_sections() {
    for (announced, frame_len) in [(1514, 1514), (9014, 9014), (9015, 1514), (600, 1514)] {
        let mut guest = Guest::new(config(1), Buffers::default());
        guest.open(0);
        let receive = guest.handshake(0x60001, announced);
        assert_eq!(word_at(&receive, 16), 256 + frame_len + 36);
        guest.rndis_initialize();
        assert_eq!(guest.query(0x10106).1, word(frame_len - 14));
        guest.assert_clean();
    }
}

#[test]
fn close_and_open_start_anew() {
    let mut guest = Guest::running(config(4));
    assert_eq!(guest.report()["packet_filter"], "0xd");
    for attach in 2..5 {
        guest.close(0);
        assert_eq!(guest.report()["nvsp_version"], serde_json::Value::Null);
        guest.bring_up();
        assert_eq!(guest.report()["counters"]["attaches"], attach);
    }
    guest.assert_clean();
}

#[test]
fn table_follows_the_last_subchannel_at_every_version_that_has_it() {
    for version in [0x50000, 0x60000, 0x60001] {
        let mut guest = Guest::new(config(8), Buffers::default());
        guest.open(0);
        guest.handshake(version, 1514);
        guest.rndis_initialize();
        let answer = guest.ask(&nvsp(&[133, 1, 2]));
        assert_eq!([0, 4, 8].map(|at| word_at(&answer, at)), [133, 1, 2]);
        guest.open(2);
        guest.expect_silence(0);
        guest.open(1);
        let table = guest.receive(0);
        assert_eq!((table.kind, table.flags), (IN_BAND, 0));
        let head = [0, 4, 8].map(|at| word_at(&table.payload, at));
        assert_eq!(head, [134, 16, 12]);
        let entries: Vec<u32> = (0..16)
            .map(|i| word_at(&table.payload, 12 + i * 4))
            .collect();
        let expected: Vec<u32> = (0..16).map(|i| i % 3).collect();
        assert_eq!(entries, expected);
        guest.expect_silence(0);
        guest.assert_clean();
    }
}

#[test]
fn data_path_switch_and_oid_query_are_answered() {
    let mut guest = Guest::running(config(1));
    assert!(guest.ask(&nvsp(&[129, 0])).is_empty());
    let answer = guest.ask(&nvsp(&[131, 0, 0]));
    assert_eq!(
        [0, 4, 8].map(|at| word_at(&answer, at)),
        [132, 0xc000_00bb, 0]
    );
    guest.assert_clean();
}
