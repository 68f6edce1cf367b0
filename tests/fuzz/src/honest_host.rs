// SPDX-License-Identifier: GPL-2.0

//! A host that answers every control message as it should; others bend its answers.

#[path = "../../scripted/answers.rs"]
mod answers;
#[path = "../../scripted/owned.rs"]
mod owned;

use crate::words::{bytes, word};
use answers::{Answers, MAX_ANSWER, NVSP_LEN};
use netvsc_proto::rndis::event::{Action, Event};
use netvsc_proto::rndis::transaction::TransactionId;
pub(crate) use owned::Owned;

impl Owned {
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

impl HonestHost {
    /// What happens after `action`, whose message is `message`; with `refuse`, no is the answer.
    pub fn react(&mut self, action: Action, message: &[u8], refuse: bool) -> Vec<Owned> {
        match action {
            Action::SendNvsp { transaction, .. } if action.wants_completion() => {
                vec![Owned::Completion(transaction, self.nvsp(message, refuse))]
            }
            Action::SendNvsp { .. } | Action::Wait | Action::Done => Vec::new(),
            Action::SendRndis { transaction, .. } => {
                let completion = Answers::rndis_packet(true).to_vec();
                let mut events = vec![Owned::Completion(transaction, completion)];
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

    fn answers(&self) -> Answers {
        let (len, send_section) = self.sections;
        let count = self.receive_buffer / len.max(1) + self.too_many;
        Answers {
            newest: self.newest,
            queues: self.queues,
            mtu: self.mtu,
            receive_sections: [1, 0, len, count],
            send_section,
            coalesces: true,
            ..Answers::default()
        }
    }

    fn nvsp(&self, message: &[u8], refuse: bool) -> Vec<u8> {
        let answer = self.answers().nvsp(message, refuse);
        answer.expect("an NVSP message needs no answer").to_vec()
    }

    fn rndis(&self, message: &[u8], refuse: bool) -> Option<Vec<u8>> {
        // HALT.
        if word(message, 0) == Some(3) {
            return None;
        }
        let mut answer = [0; MAX_ANSWER];
        let len = self.answers().rndis(message, refuse, &mut answer);
        Some(answer[..len.expect("an RNDIS message needs no answer")].to_vec())
    }
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
    message.resize(NVSP_LEN, 0);
    message
}
