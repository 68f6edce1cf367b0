// SPDX-License-Identifier: GPL-2.0

//! A host that answers an attach, and misbehaves where it is told to.

#[path = "../../../tests/scripted/answers.rs"]
mod answers;
#[path = "../../../tests/scripted/owned.rs"]
mod owned;

use super::super::*;
use crate::rndis::rss::DEFAULT_KEY;
use crate::rndis::version::NvspVersion;
pub(super) use answers::Answers;
use answers::{word, MAX_ANSWER};
pub(super) use owned::Owned;

pub(super) fn config() -> Config {
    Config {
        mtu: 1500,
        max_version: NvspVersion::NEWEST,
        receive_buffer: 16 << 20,
        send_buffer: 1 << 20,
        channels: 4,
        online_cpus: 4,
        on_refusal: OnRefusal::Continue,
        rx_checksum: true,
        coalesce: true,
        rss_key: DEFAULT_KEY,
        rss_table: None,
        flow_hash: rss::FlowHash::ALL,
    }
}

/// How a step goes wrong.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Fault {
    /// A failure status, or failed sharing or opening.
    Refuse,
    /// The packet that carries an RNDIS request is completed with failure.
    RefusePacket,
    /// No answer until the deadline.
    Silence,
    /// The device is removed.
    Rescind,
    /// The ring does not take the message.
    NotSent,
    /// The right completion or request id, but another type of message.
    WrongType,
}

#[derive(Default)]
pub(super) struct Host {
    pub(super) answers: Answers,
    /// Sub-channels that open, if not as many as were granted.
    pub(super) open: Option<u16>,
    pub(super) answer_first: bool,
    /// Link-down, foreign and repeated messages arrive before this step is answered.
    pub(super) unasked_at: Option<Step>,
    pub(super) fault: Option<(Step, Fault)>,
    /// NVSP messages received.
    pub(super) nvsp: Vec<Vec<u8>>,
    pub(super) steps: Vec<Step>,
}

pub(super) fn words(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

pub(super) fn rndis_message(kind: u32, body: &[u8]) -> Vec<u8> {
    [words(&[kind, body.len() as u32 + 8]), body.to_vec()].concat()
}

impl Host {
    pub(super) fn saw(&self, step: Step) -> bool {
        self.steps.contains(&step)
    }

    /// What happens after `action`, which is `step`'s.
    pub(super) fn react(&mut self, step: Step, action: Action, message: &[u8]) -> Vec<Owned> {
        self.steps.push(step);
        match self.fault {
            Some((at, Fault::Silence)) if at == step => return vec![Owned::Deadline],
            Some((at, Fault::Rescind)) if at == step => return vec![Owned::Rescinded],
            Some((at, Fault::NotSent)) if at == step => return vec![Owned::SendFailed],
            _ => {}
        }
        let refuse = self.fault == Some((step, Fault::Refuse));
        let wrong = self.fault == Some((step, Fault::WrongType));
        match action {
            Action::SendNvsp { len, transaction } => {
                self.nvsp.push(message[..len].to_vec());
                if !action.wants_completion() {
                    return Vec::new();
                }
                let answer = self.answers.nvsp(&message[..len], refuse);
                let mut answer = answer.expect("an NVSP message without an answer").to_vec();
                if wrong {
                    answer[0] = 108;
                }
                vec![Owned::Completion(transaction, answer)]
            }
            Action::SendRndis { len, transaction } => {
                self.rndis_events(step, transaction, &message[..len], refuse, wrong)
            }
            Action::ShareReceiveBuffer { bytes } => {
                let [_, _, len, count] = &mut self.answers.receive_sections;
                if *count == 0 {
                    *count = bytes / *len;
                }
                vec![if refuse {
                    Owned::ShareFailed
                } else {
                    Owned::Shared(101)
                }]
            }
            Action::ShareSendBuffer { .. } => {
                vec![if refuse {
                    Owned::ShareFailed
                } else {
                    Owned::Shared(102)
                }]
            }
            Action::OpenSubchannels { count } => {
                vec![Owned::SubchannelsOpen(self.open.unwrap_or(count))]
            }
            Action::Wait | Action::Done => Vec::new(),
        }
    }

    fn rndis_events(
        &self,
        step: Step,
        transaction: TransactionId,
        request: &[u8],
        refuse: bool,
        wrong: bool,
    ) -> Vec<Owned> {
        if self.fault == Some((step, Fault::RefusePacket)) {
            let completion = Answers::rndis_packet(false).to_vec();
            return vec![Owned::Completion(transaction, completion)];
        }
        let completion = Owned::Completion(transaction, Answers::rndis_packet(true).to_vec());
        let mut answer = [0; MAX_ANSWER];
        let len = self.answers.rndis(request, refuse, &mut answer);
        let mut answer = answer[..len.expect("an RNDIS message without an answer")].to_vec();
        if wrong {
            // KEEPALIVE's completion never answers anything.
            answer[..4].copy_from_slice(&0x8000_0008u32.to_le_bytes());
        }
        let answer = Owned::Rndis(answer);
        let mut events = self.unasked(step, transaction, request);
        if self.answer_first {
            events.extend([answer, completion]);
        } else {
            events.extend([completion, answer]);
        }
        events
    }

    /// Messages that concern the link, or answer something else.
    fn unasked(&self, step: Step, transaction: TransactionId, request: &[u8]) -> Vec<Owned> {
        if self.unasked_at != Some(step) {
            return Vec::new();
        }
        let id = word(request, 2);
        let kind = word(request, 0) | 0x8000_0000;
        let other_kind = if kind == 0x8000_0005 {
            0x8000_0004
        } else {
            0x8000_0005
        };
        vec![
            Owned::Rndis(rndis_message(7, &words(&[0x4001_000c, 0, 0]))),
            Owned::Rndis(rndis_message(kind, &words(&[id.wrapping_sub(1), 0, 0, 0]))),
            Owned::Rndis(rndis_message(kind, &words(&[id + 1, 0, 0, 0]))),
            Owned::Rndis(rndis_message(other_kind, &words(&[id, 0, 0, 0]))),
            Owned::Rndis(vec![1, 2, 3]),
            Owned::Completion(
                TransactionId::from_wire(transaction.value() - 1),
                words(&[108, 1]),
            ),
            Owned::Completion(TransactionId::from_wire(0), words(&[2, 0, 0, 1])),
            Owned::Shared(7),
            Owned::SubchannelsOpen(9),
        ]
    }
}

/// Runs an attach to its end. On failure the state is returned too.
pub(super) fn attach(
    config: Config,
    host: &mut Host,
) -> Result<Bringup, (BringupError, Box<Bringup>)> {
    let mut bringup = Bringup::new(config);
    let mut buffer = [0u8; MESSAGE_BUFFER_LEN];
    for _ in 0..100 {
        let step_before = bringup.step();
        let action = bringup.next(&mut buffer);
        let step = bringup.step();
        match action {
            Action::Done => return Ok(bringup),
            Action::Wait => panic!("nothing to do at {step_before:?}"),
            _ => {}
        }
        for event in host.react(step, action, &buffer) {
            if let Err(error) = bringup.event(event.borrow()) {
                return Err((error, Box::new(bringup)));
            }
        }
    }
    panic!("attach does not end");
}
