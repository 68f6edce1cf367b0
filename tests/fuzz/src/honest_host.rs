// SPDX-License-Identifier: GPL-2.0

//! A host that answers every control message as it should; others bend its answers.

use crate::words::{bytes, word};
use netvsc_proto::rndis::event::{Action, Event};
use netvsc_proto::rndis::transaction::TransactionId;

/// An event that owns its bytes.
#[derive(Clone, Debug)]
pub enum Owned {
    Completion(TransactionId, Vec<u8>),
    Rndis(Vec<u8>),
    Shared(u32),
    ShareFailed,
    SubchannelsOpen(u16),
    SendFailed,
    Deadline,
    Rescinded,
}

impl Owned {
    /// For the state machines.
    pub fn borrow(&self) -> Event<'_> {
        match self {
            Self::Completion(transaction, payload) => Event::Completion {
                transaction: *transaction,
                payload,
            },
            Self::Rndis(message) => Event::Rndis(message),
            Self::Shared(gpadl) => Event::Shared { gpadl: *gpadl },
            Self::ShareFailed => Event::ShareFailed,
            Self::SubchannelsOpen(count) => Event::SubchannelsOpen { count: *count },
            Self::SendFailed => Event::SendFailed,
            Self::Deadline => Event::Deadline,
            Self::Rescinded => Event::Rescinded,
        }
    }

    /// Its bytes, if it came over the ring.
    pub fn bytes_mut(&mut self) -> Option<&mut Vec<u8>> {
        match self {
            Self::Completion(_, bytes) | Self::Rndis(bytes) => Some(bytes),
            _ => None,
        }
    }
}

/// What the host has and can do.
#[derive(Clone, Debug)]
pub struct HonestHost {
    /// Newest NVSP version, as on the wire.
    pub newest: u32,
    /// Receive queues.
    pub queues: u32,
    /// Largest MTU.
    pub mtu: u32,
    /// Bytes of a receive and of a send section.
    pub sections: (u32, u32),
    /// Bytes of the receive buffer, when it knows.
    pub receive_buffer: u32,
    /// Receive sections more than there is room for, if it is not that honest.
    pub too_many: u32,
    /// Answers come before the completion of the request's packet.
    pub answer_first: bool,
}

/// NVSP statuses.
const SUCCESS: u32 = 1;
const FAILURE: u32 = 2;
const TOO_NEW: u32 = 3;
const NOT_SUPPORTED: u32 = 0xc000_00bb;

impl HonestHost {
    /// What happens after `action`, whose message is `message`; with `refuse`, no is the answer.
    pub fn react(&mut self, action: Action, message: &[u8], refuse: bool) -> Vec<Owned> {
        match action {
            Action::SendNvsp { transaction, .. } if action.wants_completion() => {
                vec![Owned::Completion(transaction, self.nvsp(message, refuse))]
            }
            Action::SendNvsp { .. } | Action::Wait | Action::Done => Vec::new(),
            Action::SendRndis { transaction, .. } => {
                let mut events = vec![Owned::Completion(transaction, padded(&[108, SUCCESS]))];
                if let Some(answer) = self.rndis(message, refuse) {
                    events.push(Owned::Rndis(answer));
                }
                if self.answer_first {
                    events.reverse();
                }
                events
            }
            Action::ShareReceiveBuffer { .. } | Action::ShareSendBuffer { .. } if refuse => {
                vec![Owned::ShareFailed]
            }
            Action::ShareReceiveBuffer { bytes } => {
                self.receive_buffer = bytes;
                vec![Owned::Shared(101)]
            }
            Action::ShareSendBuffer { .. } => vec![Owned::Shared(102)],
            Action::OpenSubchannels { count } => {
                vec![Owned::SubchannelsOpen(if refuse {
                    count / 2
                } else {
                    count
                })]
            }
        }
    }

    fn nvsp(&self, message: &[u8], refuse: bool) -> Vec<u8> {
        let status = if refuse { FAILURE } else { SUCCESS };
        let field = |index| word(message, index).unwrap_or(0) as u32;
        match field(0) {
            1 if field(1) > self.newest => padded(&[2, field(1), 34, TOO_NEW]),
            1 => padded(&[2, field(1), 34, status]),
            101 => {
                let len = self.sections.0;
                let count = self.receive_buffer / len.max(1) + self.too_many;
                padded(&[102, status, 1, 0, len, count, len.wrapping_mul(count)])
            }
            104 => padded(&[105, status, self.sections.1]),
            133 => padded(&[133, status, field(2).min(self.queues.saturating_sub(1))]),
            other => panic!("NVSP message {other} needs no answer"),
        }
    }

    fn rndis(&self, message: &[u8], refuse: bool) -> Option<Vec<u8>> {
        let field = |index| word(message, index).unwrap_or(0) as u32;
        let (kind, id) = (field(0), field(2));
        let status = if refuse { NOT_SUPPORTED } else { 0 };
        let mut body = vec![id, status];
        let mut info = Vec::new();
        match kind {
            2 => body.extend([1, 0, 1, 0, 8, 0x4000, 3, 0, 0]),
            3 => return None,
            4 => {
                info = self.information(field(3));
                body.extend([info.len() as u32, 16]);
            }
            5 => {}
            other => panic!("RNDIS message {other} needs no answer"),
        }
        Some(rndis_message(kind | 0x8000_0000, &body, &info))
    }

    fn information(&self, oid: u32) -> Vec<u8> {
        match oid {
            0x0001_0106 => bytes(&[self.mtu]),
            0x0001_0107 => bytes(&[100_000_000]),
            0x0001_0114 => bytes(&[0]),
            0x0001_0203 => {
                let mut info = bytes(&[0x0012_0288, 0x1800, 0, self.queues]);
                info.extend(128u16.to_le_bytes());
                info
            }
            0x0002_0216 => "eth".encode_utf16().flat_map(u16::to_le_bytes).collect(),
            0x0101_0101 => vec![0, 0x15, 0x5d, 1, 2, 3],
            0xfc01_020d => offloads(),
            other => panic!("query of {other:#x}"),
        }
    }
}

/// `NDIS_OFFLOAD` of a host that can do everything.
fn offloads() -> Vec<u8> {
    let mut info = vec![0; 156];
    for (at, value) in [
        (0, 0x009c_03a7u32),
        (8, 0x155),
        (24, 0x55),
        (80, 2),
        (84, 0xf53c),
        (92, 2),
        (96, 0xf53c),
        (104, 5),
        (144, 0x0101),
    ] {
        info[at..at + 4].copy_from_slice(&value.to_le_bytes());
    }
    info
}

/// An RNDIS message with header.
pub fn rndis_message(kind: u32, body: &[u32], info: &[u8]) -> Vec<u8> {
    let len = 8 + body.len() * 4 + info.len();
    let mut message = bytes(&[kind, len as u32]);
    message.extend(bytes(body));
    message.extend(info);
    message
}

/// An NVSP message of the usual length.
pub fn padded(words: &[u32]) -> Vec<u8> {
    let mut message = bytes(words);
    message.resize(40, 0);
    message
}
