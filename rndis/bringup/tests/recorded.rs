// SPDX-License-Identifier: GPL-2.0

//! Our attach, answered with what the recorded host answered the C driver, byte by byte.
//!
//! What differs on purpose, and nothing else:
//! * SEND_NDIS_CONFIG does not announce SR-IOV (bit 2), which is not implemented;
//! * the friendly name is not queried, so RNDIS request ids after it are lower by one;
//! * transaction ids are ours.

use super::super::*;
use super::host::config;
use crate::rndis::nvsp::kind;
use crate::rndis::recorded::{attach_4_channels, reattach_2_channels, select, Direction, Line};

struct Recording {
    nvsp_sent: Vec<Line>,
    rndis_sent: Vec<Line>,
    nvsp_received: Vec<Line>,
    rndis_received: Vec<Line>,
}

impl Recording {
    fn new(lines: &[Line]) -> Self {
        // What precedes INIT undoes an earlier attach.
        let start = lines.iter().position(|line| line.name == "INIT").unwrap();
        let lines = &lines[start..];
        let control = |line: &Line| !line.name.starts_with("SEND_RNDIS_PKT");
        let mut nvsp_sent = select(lines, Direction::GuestToHost, "nvsp");
        let mut nvsp_received = select(lines, Direction::HostToGuest, "nvsp");
        nvsp_sent.retain(control);
        nvsp_received.retain(|line| control(line) && line.name != "SEND_INDIRECTION_TABLE");
        let mut rndis_sent = select(lines, Direction::GuestToHost, "rndis");
        rndis_sent.retain(|line| {
            !line
                .field("oid")
                .is_some_and(|oid| oid.starts_with("0x20216"))
        });
        rndis_sent.retain(|line| line.field("oid").is_none_or(|oid| !oid.contains("FILTER")));
        let rndis_received = select(lines, Direction::HostToGuest, "rndis");
        Self {
            nvsp_sent: reversed(nvsp_sent),
            rndis_sent: reversed(rndis_sent),
            nvsp_received: reversed(nvsp_received),
            rndis_received,
        }
    }

    fn sent_nvsp(&mut self, message: &[u8]) {
        let mut recorded = self.nvsp_sent.pop().expect("one NVSP message too many");
        if recorded.bytes[0] == kind::NDIS_CONFIG as u8 {
            assert_eq!(recorded.bytes[12], 0xac);
            recorded.bytes[12] = 0xa8;
        }
        assert_eq!(message, recorded.bytes, "{}", recorded.name);
    }

    fn sent_rndis(&mut self, message: &[u8]) -> u32 {
        let mut recorded = self.rndis_sent.pop().expect("one RNDIS message too many");
        recorded.bytes[8..12].copy_from_slice(&message[8..12]);
        assert_eq!(
            message,
            recorded.bytes,
            "{} {:?}",
            recorded.name,
            recorded.field("oid")
        );
        recorded.number("reqid")
    }

    /// The recorded answer to a recorded request, with our request's id.
    fn rndis_answer(&self, recorded_id: u32, our_id: &[u8]) -> Vec<u8> {
        let answer = self
            .rndis_received
            .iter()
            .find(|line| line.field("reqid") == Some(&recorded_id.to_string()))
            .unwrap();
        let mut bytes = answer.bytes.clone();
        bytes[8..12].copy_from_slice(our_id);
        bytes
    }
}

fn reversed(mut lines: Vec<Line>) -> Vec<Line> {
    lines.reverse();
    lines
}

/// Replays an attach; the handles are the ones the C driver got.
fn replay(lines: &[Line], config: Config, gpadls: [u32; 2]) -> Bringup {
    let mut recording = Recording::new(lines);
    let mut gpadls = gpadls.into_iter();
    let mut bringup = Bringup::new(config);
    let mut buffer = [0u8; MESSAGE_BUFFER_LEN];
    loop {
        let action = bringup.next(&mut buffer);
        match action {
            Action::SendNvsp { len, transaction } => {
                recording.sent_nvsp(&buffer[..len]);
                if action.wants_completion() {
                    let answer = recording.nvsp_received.pop().unwrap();
                    let payload = &answer.bytes;
                    bringup
                        .event(Event::Completion {
                            transaction,
                            payload,
                        })
                        .unwrap();
                }
            }
            Action::SendRndis { len, transaction } => {
                let recorded_id = recording.sent_rndis(&buffer[..len]);
                let payload = [108, 0, 0, 0, 1, 0, 0, 0];
                bringup
                    .event(Event::Completion {
                        transaction,
                        payload: &payload,
                    })
                    .unwrap();
                let answer = recording.rndis_answer(recorded_id, &buffer[8..12]);
                bringup.event(Event::Rndis(&answer)).unwrap();
            }
            Action::ShareReceiveBuffer { .. } | Action::ShareSendBuffer { .. } => {
                let gpadl = gpadls.next().unwrap();
                bringup.event(Event::Shared { gpadl }).unwrap();
            }
            Action::OpenSubchannels { count } => {
                bringup.event(Event::SubchannelsOpen { count }).unwrap();
            }
            Action::Wait => panic!("waits at {:?}", bringup.step()),
            Action::Done => break,
        }
    }
    assert!(recording.nvsp_sent.is_empty(), "{:?}", recording.nvsp_sent);
    assert!(
        recording.rndis_sent.is_empty(),
        "{:?}",
        recording.rndis_sent
    );
    bringup
}

#[test]
fn the_attach_with_4_channels_is_the_c_drivers() {
    let bringup = replay(&attach_4_channels(), config(), [0xe1e11, 0xe1e12]);
    let got = bringup.negotiated();
    assert_eq!((got.channels, got.max_channels(4)), (4, 4));
    assert_eq!(
        (got.receive_section_len, got.receive_section_count),
        (1806, 9289)
    );
    assert_eq!((got.mtu, got.host_mtu), (1500, Some(1500)));
    assert_eq!(got.mac.0, [0, 0x15, 0x5d, 0x35, 0xd4, 0x0a]);
    assert_eq!(got.link_speed, Some(LinkSpeed(100_000_000)));
}

use crate::rndis::link::LinkSpeed;

#[test]
fn the_attach_with_2_channels_is_the_c_drivers() {
    let lines = reattach_2_channels();
    let gpadls = ["SEND_RECV_BUF", "SEND_SEND_BUF"].map(|name| {
        lines
            .iter()
            .find(|line| line.name == name)
            .unwrap()
            .number("gpadl")
    });
    let config = Config {
        channels: 2,
        ..config()
    };
    let bringup = replay(&lines, config, gpadls);
    assert_eq!(bringup.negotiated().channels, 2);
}
