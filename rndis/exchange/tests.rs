// SPDX-License-Identifier: GPL-2.0

//! Single requests: the C driver's bytes, answers, and everything that is no answer.

use super::*;
use crate::rndis::filter::Wanted;
use crate::rndis::message::RndisStatus;
use crate::rndis::nvsp::Status;
use crate::rndis::recorded::{self, select, Direction};
use crate::rndis::rss::{Table, DEFAULT_KEY};
use crate::rndis::transaction::TransactionId;
use proptest::prelude::*;

const ACK: [u8; 8] = [108, 0, 0, 0, 1, 0, 0, 0];

fn words(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

fn start<'a>(request: &Request<'a>) -> (Exchange<'a>, TransactionId, Vec<u8>) {
    let mut buffer = [0; MESSAGE_BUFFER_LEN];
    let (exchange, action) = Exchange::start(&mut RequestIds::new(), request, &mut buffer).unwrap();
    let Action::SendRndis { len, transaction } = action else {
        panic!("{action:?}");
    };
    (exchange, transaction, buffer[..len].to_vec())
}

fn acknowledge(exchange: &mut Exchange<'_>, transaction: TransactionId) {
    exchange
        .event(Event::Completion {
            transaction,
            payload: &ACK,
        })
        .unwrap();
}

#[test]
fn requests_are_those_of_the_c_driver() {
    let promiscuous = PacketFilter::new(Wanted {
        promiscuous: true,
        ..Wanted::default()
    });
    let multicast = PacketFilter::new(Wanted {
        promiscuous: false,
        multicast: true,
        broadcast: true,
    });
    // Up, down, promiscuous on and off.
    let filters = [
        PacketFilter::OPEN,
        PacketFilter::NONE,
        promiscuous,
        multicast,
    ];
    let mut filters = filters.into_iter();
    let mut compared = 0;
    for line in select(&recorded::requests(), Direction::GuestToHost, "rndis") {
        let oid = line.field("oid").unwrap();
        let request = if oid.contains("FILTER") {
            Request::SetPacketFilter(filters.next().unwrap())
        } else if oid.contains("CONFIG_PARAMETER") {
            Request::SetAddress(MacAddress([0x02, 0x11, 0x22, 0x33, 0x44, 0x55]))
        } else {
            continue;
        };
        let (_, _, mut message) = start(&request);
        message[8..12].copy_from_slice(&line.bytes[8..12]);
        assert_eq!(message, line.bytes, "line {}", line.seq);
        compared += 1;
    }
    assert_eq!(compared, 5);
}

#[test]
fn a_setting_is_done_after_completion_and_answer_in_any_order() {
    for answer_first in [false, true] {
        let (mut exchange, id, message) = start(&Request::SetPacketFilter(PacketFilter::NONE));
        assert!(exchange.buffer_in_flight());
        let answer = words(&[0x8000_0005, 16, 1, 0]);
        assert_eq!(message[8], 1);
        if answer_first {
            exchange.event(Event::Rndis(&answer)).unwrap();
            assert_eq!(
                exchange.reply(),
                None,
                "the host may still read the message"
            );
            acknowledge(&mut exchange, id);
        } else {
            acknowledge(&mut exchange, id);
            assert_eq!(exchange.reply(), None);
            exchange.event(Event::Rndis(&answer)).unwrap();
        }
        assert_eq!(exchange.reply(), Some(Reply::Set));
        assert!(!exchange.buffer_in_flight());
    }
}

#[test]
fn queries_return_what_they_ask_for() {
    let ask = |request, value: u32| {
        let (mut exchange, id, _) = start(&request);
        acknowledge(&mut exchange, id);
        let answer = words(&[0x8000_0004, 28, 1, 0, 4, 16, value]);
        exchange.event(Event::Rndis(&answer)).unwrap();
        exchange.reply()
    };
    assert_eq!(
        ask(Request::QueryLinkSpeed, 10_000),
        Some(Reply::LinkSpeed(LinkSpeed(10_000)))
    );
    assert_eq!(
        ask(Request::QueryLinkState, 0),
        Some(Reply::LinkState(true))
    );
    assert_eq!(
        ask(Request::QueryLinkState, 1),
        Some(Reply::LinkState(false))
    );
}

#[test]
fn the_friendly_name_is_asked_for_as_by_the_c_driver() {
    let recorded = recorded::attach_4_channels();
    let line = select(&recorded, Direction::GuestToHost, "rndis")
        .into_iter()
        .find(|line| line.field("oid").is_some_and(|oid| oid.contains("20216")))
        .unwrap();
    let name = Cell::new(FriendlyName::decode(&[]));
    let (mut exchange, id, mut message) = start(&Request::QueryFriendlyName(&name));
    message[8..12].copy_from_slice(&line.bytes[8..12]);
    assert_eq!(message, line.bytes);
    acknowledge(&mut exchange, id);
    let answer = words(&[0x8000_0004, 32, 1, 0, 8, 16, 0x0065_004e, 0x0074]);
    exchange.event(Event::Rndis(&answer)).unwrap();
    assert_eq!(exchange.reply(), Some(Reply::FriendlyName));
    assert_eq!(name.get().given(), Some(&b"Net"[..]));
}

#[test]
fn refusals_name_the_status() {
    let (mut exchange, id, _) = start(&Request::SetAddress(MacAddress([2; 6])));
    acknowledge(&mut exchange, id);
    let answer = words(&[0x8000_0005, 16, 1, 0xc001_0015]);
    let error = ExchangeError::Refused(Refusal::Rndis(RndisStatus(0xc001_0015)));
    assert_eq!(exchange.event(Event::Rndis(&answer)), Err(error));
    assert_eq!(error.to_string(), "host says invalid data (0xc0010015)");
    assert_eq!(exchange.reply(), None);
}

#[test]
fn a_refused_packet_is_a_refused_request() {
    let (mut exchange, transaction, _) = start(&Request::QueryLinkSpeed);
    let payload = words(&[108, 5]);
    assert_eq!(
        exchange.event(Event::Completion {
            transaction,
            payload: &payload
        }),
        Err(ExchangeError::Refused(Refusal::Nvsp(
            Status::InvalidRndisPacket
        )))
    );
    assert!(!exchange.buffer_in_flight());
}

#[test]
fn short_answers_are_refused() {
    let (mut exchange, id, _) = start(&Request::QueryLinkSpeed);
    acknowledge(&mut exchange, id);
    let answer = words(&[0x8000_0004, 24, 1, 0, 0, 0]);
    assert_eq!(
        exchange.event(Event::Rndis(&answer)),
        Err(ExchangeError::Refused(Refusal::MalformedAnswer))
    );
}

#[test]
fn other_messages_are_ignored_and_counted() {
    let table = Table::spread(128, 4);
    let (mut exchange, id, _) = start(&Request::SetRss {
        mode: rss::Mode::Enable,
        parameters: rss::Parameters {
            table: &table,
            key: &DEFAULT_KEY,
            types: rss::FlowHash::ALL.types(rss::OfferedHashes::default()),
        },
    });
    let foreign: [&[u32]; 4] = [
        &[0x8000_0005, 16, 2, 0],
        &[0x8000_0004, 24, 1, 0, 0, 0],
        &[7, 20, 0x4001_000b, 0, 0],
        &[0x8000_0005, 12, 1],
    ];
    for message in foreign {
        exchange.event(Event::Rndis(&words(message))).unwrap();
    }
    exchange
        .event(Event::Completion {
            transaction: TransactionId::control(99),
            payload: &ACK,
        })
        .unwrap();
    exchange.event(Event::Shared { gpadl: 1 }).unwrap();
    acknowledge(&mut exchange, id);
    acknowledge(&mut exchange, id);
    assert_eq!(exchange.ignored(), 7);
    assert_eq!(exchange.reply(), None);
}

#[test]
fn the_buffer_stays_the_hosts_after_a_deadline() {
    let (mut exchange, transaction, _) = start(&Request::QueryLinkState);
    assert_eq!(
        exchange.event(Event::Deadline),
        Err(ExchangeError::Deadline)
    );
    assert!(exchange.buffer_in_flight());
    assert!(!exchange.acknowledge(Event::Deadline));
    assert!(exchange.acknowledge(Event::Completion {
        transaction,
        payload: &ACK
    }));
    let (mut unsent, _, _) = start(&Request::QueryLinkState);
    assert_eq!(
        unsent.event(Event::SendFailed),
        Err(ExchangeError::SendFailed)
    );
    assert!(!unsent.buffer_in_flight());
}

proptest! {
    #[test]
    fn random_messages_do_no_harm(
        messages in proptest::collection::vec(
            (any::<bool>(), 0u32..9, any::<bool>(), proptest::collection::vec(any::<u32>(), 0..8)),
            0..20,
        )
    ) {
        let (mut exchange, transaction, _) = start(&Request::QueryLinkSpeed);
        for (completion, kind, reply, body) in messages {
            let kind = if reply { kind | 0x8000_0000 } else { kind };
            let len = body.len() as u32 * 4 + 8;
            let bytes = [words(&[kind, len]), words(&body)].concat();
            let event = if completion {
                Event::Completion { transaction, payload: &bytes }
            } else {
                Event::Rndis(&bytes)
            };
            if exchange.event(event).is_err() {
                prop_assert_eq!(exchange.reply(), None);
                return Ok(());
            }
        }
    }
}
