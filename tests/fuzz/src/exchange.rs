// SPDX-License-Identifier: GPL-2.0

//! Single requests, one after the other, against a host that does anything: each ends, at the latest at its
//! deadline; it succeeds only by the answer and the completion that are its own; its message is not touched while
//! the host may read it.

use crate::control_buffer::ControlBuffer;
use crate::honest_host::{padded, rndis_message, HonestHost, Owned};
use crate::words::word;
use arbitrary::{Arbitrary, Unstructured};
use netvsc_proto::rndis::{
    address::MacAddress,
    event::{Action, Event, RequestIds},
    exchange::{Exchange, ExchangeError, Reply, Request},
    filter::{PacketFilter, Wanted},
    name::FriendlyName,
    offload::Offloads,
    rss,
    transaction::TransactionId,
    version::NvspVersion,
};
use std::cell::Cell;

/// What the guest asks for.
#[derive(Arbitrary)]
enum Asked {
    LinkSpeed,
    LinkState,
    Name,
    Filter(u8),
    Address([u8; 6]),
    Rss(bool, u16, u8),
    Offloads(u8),
}

/// What the host does next.
#[derive(Arbitrary)]
enum Deed {
    /// The next thing that it should.
    Proper,
    /// That, with a byte changed.
    Bent(u8, u8),
    /// That, cut short.
    Cut(u8),
    /// That, twice.
    Twice,
    /// Refuses.
    Refuses,
    /// Says something that it said earlier, of this request or another.
    Again(u8),
    /// Completes an id near the one in use.
    Completes(u8, [u8; 2]),
    /// Answers with another type, id, or words.
    Answers(u8, u8, [u32; 3]),
    /// What the ring does not take, from the first message on.
    NotSent,
    /// Something that concerns an attach.
    Unasked(u8),
    Silent,
    Rescinds,
}

/// `data` is a script: requests, and for each what the host does.
pub fn run(data: &[u8]) {
    let mut script = Unstructured::new(data);
    let mut ids = RequestIds::new();
    let mut buffer = ControlBuffer::new();
    let mut said = Vec::new();
    for _ in 0..64 {
        let Ok(asked) = Asked::arbitrary(&mut script) else {
            return;
        };
        ask(&asked, &mut script, &mut ids, &mut buffer, &mut said);
        if script.is_empty() {
            return;
        }
    }
}

fn ask(
    asked: &Asked,
    script: &mut Unstructured<'_>,
    ids: &mut RequestIds,
    buffer: &mut ControlBuffer,
    said: &mut Vec<Owned>,
) {
    let name = Cell::new(FriendlyName::decode(&[]));
    let table = match asked {
        Asked::Rss(_, len, channels) => rss::Table::spread(*len, u16::from(*channels)),
        _ => rss::Table::spread(1, 1),
    };
    let request = request(asked, &table, &name);
    let (exchange, action) = Exchange::start(ids, &request, &mut buffer.bytes).expect("it fits");
    let id = buffer.sent(action).expect("a request has an id");
    let Action::SendRndis { transaction, len } = action else {
        panic!("{action:?}");
    };
    let mut host = honest();
    let message = buffer.bytes[..len].to_vec();
    let mut under_way = UnderWay {
        exchange,
        transaction,
        id,
        kind: word(&buffer.bytes, 0).unwrap() | 0x8000_0000,
        proper: host.react(action, &message, false),
        refusal: host.react(action, &message, true),
        completed: false,
        answered: false,
        buffer,
        said,
    };
    let result = under_way.go_on(script);
    under_way.check_end(asked, result);
}

fn request<'a>(asked: &Asked, table: &'a rss::Table, name: &'a Cell<FriendlyName>) -> Request<'a> {
    let offloads = |flags: u8| Offloads {
        tcp4_checksum: flags & 1 != 0,
        tso4: flags & 2 != 0,
        rx_checksum: flags & 4 != 0,
        rsc_offered: flags & 8 != 0,
        rsc: flags & 16 != 0,
        ..Offloads::default()
    };
    match *asked {
        Asked::LinkSpeed => Request::QueryLinkSpeed,
        Asked::LinkState => Request::QueryLinkState,
        Asked::Name => Request::QueryFriendlyName(name),
        Asked::Filter(flags) => Request::SetPacketFilter(PacketFilter::new(Wanted {
            promiscuous: flags & 1 != 0,
            multicast: flags & 2 != 0,
            broadcast: flags & 4 != 0,
        })),
        Asked::Address(bytes) => Request::SetAddress(MacAddress(bytes)),
        Asked::Rss(enable, ..) => Request::SetRss {
            mode: if enable {
                rss::Mode::Enable
            } else {
                rss::Mode::Disable
            },
            parameters: rss::Parameters {
                table,
                key: &rss::DEFAULT_KEY,
                types: rss::FlowHash::ALL.types(rss::OfferedHashes::default()),
            },
        },
        Asked::Offloads(flags) => Request::SetOffloads {
            offloads: offloads(flags),
            version: NvspVersion::NEWEST_FIRST[usize::from(flags >> 5) % 6],
        },
    }
}

fn honest() -> HonestHost {
    HonestHost {
        newest: NvspVersion::NEWEST.value(),
        queues: 8,
        mtu: 9000,
        sections: (1728, 6144),
        receive_buffer: 0,
        too_many: 0,
        answer_first: false,
    }
}

/// A request, and what we know about it without asking it.
struct UnderWay<'a, 'b> {
    exchange: Exchange<'b>,
    transaction: TransactionId,
    id: u32,
    /// Type of its answer.
    kind: u64,
    /// What the host should still say, the next last.
    proper: Vec<Owned>,
    refusal: Vec<Owned>,
    completed: bool,
    answered: bool,
    buffer: &'a mut ControlBuffer,
    said: &'a mut Vec<Owned>,
}

impl UnderWay<'_, '_> {
    fn go_on(&mut self, script: &mut Unstructured<'_>) -> Result<Reply, ExchangeError> {
        for turn in 0..40 {
            if let Some(reply) = self.exchange.reply() {
                return Ok(reply);
            }
            let deed = if script.is_empty() || turn > 30 {
                Deed::Proper
            } else {
                Deed::arbitrary(script).unwrap_or(Deed::Proper)
            };
            for event in self.events(deed, turn == 0) {
                self.deliver(event)?;
            }
        }
        panic!("the request does not end");
    }

    fn events(&mut self, deed: Deed, first: bool) -> Vec<Owned> {
        let mut next = if self.proper.is_empty() {
            Owned::Deadline
        } else {
            self.proper.remove(0)
        };
        match deed {
            Deed::Proper => vec![next],
            Deed::Bent(at, byte) => {
                if let Some(bytes) = next.bytes_mut() {
                    let len = bytes.len().max(1);
                    bytes[usize::from(at) % len] = byte;
                }
                vec![next]
            }
            Deed::Cut(len) => {
                if let Some(bytes) = next.bytes_mut() {
                    bytes.truncate(len.into());
                }
                vec![next]
            }
            Deed::Twice => vec![next.clone(), next],
            Deed::Refuses => self.refusal.clone(),
            Deed::Again(which) => {
                self.proper.insert(0, next);
                let index = usize::from(which) % self.said.len().max(1);
                self.said.get(index).cloned().into_iter().collect()
            }
            Deed::Completes(near, words) => {
                self.proper.insert(0, next);
                let id = self
                    .transaction
                    .value()
                    .wrapping_add(near.into())
                    .wrapping_sub(1);
                let payload = padded(&words.map(u32::from));
                vec![Owned::Completion(TransactionId::from_wire(id), payload)]
            }
            Deed::Answers(kind, near, [a, b, c]) => {
                self.proper.insert(0, next);
                let kind = u32::from(kind & 0xf) | 0x8000_0000;
                let id = self.id.wrapping_add((near & 1).into());
                vec![Owned::Rndis(rndis_message(kind, &[id, a, b, c], &[0; 8]))]
            }
            Deed::NotSent if first => vec![Owned::SendFailed],
            Deed::NotSent | Deed::Silent => vec![Owned::Deadline],
            Deed::Unasked(0) => vec![Owned::Shared(5)],
            Deed::Unasked(1) => vec![Owned::SubchannelsOpen(5)],
            Deed::Unasked(_) => vec![Owned::ShareFailed],
            Deed::Rescinds => vec![Owned::Rescinded],
        }
    }

    fn deliver(&mut self, event: Owned) -> Result<(), ExchangeError> {
        let over = self.exchange.reply().is_some();
        let concerns = self.concerns(&event);
        if !over {
            self.note(&event);
        }
        self.buffer.heard(&event.borrow());
        let result = self.exchange.event(event.borrow());
        if let Owned::Completion(..) | Owned::Rndis(_) = event {
            self.said.push(event.clone());
        }
        if let Err(ExchangeError::Refused(refusal)) = result {
            assert!(
                concerns && !refusal.to_string().is_empty(),
                "refused by something else"
            );
        }
        // No reply without both.
        assert!(self.exchange.reply().is_none() || self.completed && self.answered);
        assert_eq!(self.exchange.buffer_in_flight(), self.buffer.is_lent());
        if matches!(
            event,
            Owned::Deadline | Owned::Rescinded | Owned::SendFailed
        ) {
            assert_eq!(result.is_err(), !over, "these end it");
        }
        result
    }

    /// Whether this may end the request: its packet's first completion, or a message with its id.
    fn concerns(&self, event: &Owned) -> bool {
        match event {
            Owned::Completion(id, _) => *id == self.transaction && !self.completed,
            Owned::Rndis(message) => word(message, 2) == Some(self.id.into()),
            _ => false,
        }
    }

    /// Completion and answer, by their ids alone.
    fn note(&mut self, event: &Owned) {
        match event {
            Owned::Completion(id, _) => self.completed |= *id == self.transaction,
            Owned::Rndis(message) => {
                let field = |index| word(message, index);
                let ours = field(0) == Some(self.kind) && field(2) == Some(self.id.into());
                self.answered |= ours && field(3) == Some(0);
            }
            _ => {}
        }
    }

    fn check_end(mut self, asked: &Asked, result: Result<Reply, ExchangeError>) {
        match result {
            Ok(reply) => {
                let right = match asked {
                    Asked::LinkSpeed => matches!(reply, Reply::LinkSpeed(_)),
                    Asked::LinkState => matches!(reply, Reply::LinkState(_)),
                    Asked::Name => reply == Reply::FriendlyName,
                    _ => reply == Reply::Set,
                };
                assert!(right, "{reply:?}");
                assert_eq!(self.exchange.event(Event::Deadline), Ok(()), "it is over");
                assert!(!self.buffer.is_lent());
            }
            Err(error) => {
                assert!(!error.to_string().is_empty());
                assert_eq!(self.exchange.event(Event::Deadline), Err(error));
                assert!(self.exchange.reply().is_none());
                self.give_back();
            }
        }
    }

    /// A late completion gives the message back; nothing else does.
    fn give_back(&mut self) {
        if !self.buffer.is_lent() {
            return;
        }
        let other = Event::Completion {
            transaction: TransactionId::from_wire(self.transaction.value() + 1),
            payload: &[],
        };
        assert!(!self.exchange.acknowledge(other));
        assert!(!self.exchange.acknowledge(Event::Deadline));
        let late = Event::Completion {
            transaction: self.transaction,
            payload: &[],
        };
        assert!(self.exchange.acknowledge(late));
        self.buffer.heard(&late);
        assert!(!self.buffer.is_lent());
    }
}
