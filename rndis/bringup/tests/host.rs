// SPDX-License-Identifier: GPL-2.0

//! A host that answers an attach, and misbehaves where it is told to.

use super::super::*;
use crate::rndis::nvsp::MESSAGE_LEN;
use crate::rndis::rss::DEFAULT_KEY;
use crate::rndis::version::NvspVersion;

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

/// An event that owns its bytes.
#[derive(Clone, Debug)]
pub(super) enum Owned {
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
    pub(super) fn borrow(&self) -> Event<'_> {
        match self {
            Self::Completion(transaction, payload) => Event::Completion {
                transaction: *transaction,
                payload,
            },
            Self::Rndis(bytes) => Event::Rndis(bytes),
            Self::Shared(gpadl) => Event::Shared { gpadl: *gpadl },
            Self::ShareFailed => Event::ShareFailed,
            Self::SubchannelsOpen(count) => Event::SubchannelsOpen { count: *count },
            Self::SendFailed => Event::SendFailed,
            Self::Deadline => Event::Deadline,
            Self::Rescinded => Event::Rescinded,
        }
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

pub(super) struct Host {
    pub(super) newest: NvspVersion,
    pub(super) queues: u32,
    pub(super) grant: Option<u32>,
    pub(super) open: Option<u16>,
    pub(super) mtu: u32,
    pub(super) media: u32,
    pub(super) mac: Vec<u8>,
    pub(super) receive_sections: [u32; 4],
    pub(super) send_section: u32,
    pub(super) alignment_factor: u32,
    pub(super) max_packets: u32,
    pub(super) answer_first: bool,
    /// Link-down, foreign and repeated messages arrive before this step is answered.
    pub(super) unasked_at: Option<Step>,
    pub(super) fault: Option<(Step, Fault)>,
    /// NVSP messages received.
    pub(super) nvsp: Vec<Vec<u8>>,
    pub(super) steps: Vec<Step>,
}

impl Default for Host {
    fn default() -> Self {
        Self {
            newest: NvspVersion::NEWEST,
            queues: 4,
            grant: None,
            open: None,
            mtu: 9000,
            media: 0,
            mac: vec![0, 0x15, 0x5d, 1, 2, 3],
            receive_sections: [1, 0, 1728, 0],
            send_section: 6144,
            alignment_factor: 3,
            max_packets: 8,
            answer_first: false,
            unasked_at: None,
            fault: None,
            nvsp: Vec::new(),
            steps: Vec::new(),
        }
    }
}

pub(super) fn words(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

fn word(bytes: &[u8], index: usize) -> u32 {
    u32::from_le_bytes(bytes[index * 4..index * 4 + 4].try_into().unwrap())
}

pub(super) fn rndis_message(kind: u32, body: &[u8]) -> Vec<u8> {
    [words(&[kind, body.len() as u32 + 8]), body.to_vec()].concat()
}

fn padded(mut message: Vec<u8>) -> Vec<u8> {
    message.resize(MESSAGE_LEN, 0);
    message
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
                let mut answer = self.nvsp_answer(&message[..len], refuse);
                if wrong {
                    answer[0] = 108;
                }
                vec![Owned::Completion(transaction, answer)]
            }
            Action::SendRndis { len, transaction } => {
                self.rndis_events(step, transaction, &message[..len], refuse, wrong)
            }
            Action::ShareReceiveBuffer { bytes } => {
                self.receive_sections[3] = match self.receive_sections[3] {
                    0 => bytes / self.receive_sections[2],
                    given => given,
                };
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

    fn nvsp_answer(&self, message: &[u8], refuse: bool) -> Vec<u8> {
        let status = if refuse { 2 } else { 1 };
        padded(match word(message, 0) {
            1 => {
                let known = NvspVersion::from_value(word(message, 1)).unwrap();
                let status = if known <= self.newest { status } else { 3 };
                words(&[2, 0xffff_ffff, 34, status])
            }
            101 => {
                let [groups, offset, len, count] = self.receive_sections;
                words(&[
                    102,
                    status,
                    groups,
                    offset,
                    len,
                    count,
                    len.wrapping_mul(count),
                ])
            }
            104 => words(&[105, status, self.send_section]),
            133 => words(&[133, status, self.grant.unwrap_or(word(message, 2))]),
            other => panic!("NVSP message {other}"),
        })
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
            return vec![Owned::Completion(transaction, padded(words(&[108, 5])))];
        }
        let completion = Owned::Completion(transaction, padded(words(&[108, 1])));
        let mut answer = self.rndis_answer(request, refuse);
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

    fn rndis_answer(&self, request: &[u8], refuse: bool) -> Vec<u8> {
        let (kind, id) = (word(request, 0), word(request, 2));
        let status = if refuse { 0xc000_00bb } else { 0 };
        let kind_c = kind | 0x8000_0000;
        match kind {
            2 => rndis_message(
                kind_c,
                &words(&[
                    id,
                    status,
                    1,
                    0,
                    1,
                    0,
                    self.max_packets,
                    0x4000,
                    self.alignment_factor,
                    0,
                    0,
                ]),
            ),
            4 => {
                let info = self.info(word(request, 3));
                let len = info.len() as u32;
                rndis_message(kind_c, &[words(&[id, status, len, 16]), info].concat())
            }
            5 => rndis_message(kind_c, &words(&[id, status])),
            other => panic!("RNDIS message {other}"),
        }
    }

    fn info(&self, oid: u32) -> Vec<u8> {
        match oid {
            0x0001_0106 => words(&[self.mtu]),
            0x0101_0101 => self.mac.clone(),
            0xfc01_020d => offload_capabilities(),
            0x0001_0114 => words(&[self.media]),
            0x0001_0107 => words(&[100_000_000]),
            0x0001_0203 => [
                words(&[0x0012_0288, 0, 0, self.queues]),
                128u16.to_le_bytes().to_vec(),
            ]
            .concat(),
            other => panic!("OID {other:#x}"),
        }
    }
}

fn offload_capabilities() -> Vec<u8> {
    let mut info = vec![0; 156];
    for (offset, value) in [
        (0, 0x009c_03a7u32),
        (8, 0x155),
        (24, 0x55),
        (80, 2),
        (84, 0xf53c),
        (92, 2),
        (96, 0xf53c),
        (104, 5),
    ] {
        info[offset..offset + 4].copy_from_slice(&value.to_le_bytes());
    }
    info
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
