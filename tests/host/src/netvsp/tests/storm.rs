// SPDX-License-Identifier: GPL-2.0

//! Arbitrary bytes from the guest: the device reports, survives, and works after a re-open.

use proptest::prelude::*;

use super::super::tx_message::parse_message;
use super::guest::*;
use super::memory::source;
use crate::netvsp::rss::samples::parameters;
use crate::netvsp::toeplitz::MICROSOFT_KEY;

/// Messages that get far into the device before a change of theirs shows.
fn seeds() -> Vec<Vec<u8>> {
    let rss = parameters(0, 0x1701, &[0, 1, 2, 3], &MICROSOFT_KEY);
    vec![
        words(&[2, 24, 1, 1, 0, 0x4000]),
        words(&[4, 28, 1, 0x10106, 0, 20, 0]),
        set_message(1, 0x10204, &rss),
        set_message(2, 0x1010e, &word(0x0d)),
        set_message(
            3,
            0xfc01_020c,
            &[
                0x80, 3, 20, 0, 1, 4, 4, 4, 4, 0, 0, 2, 2, 0, 0, 0, 0, 0, 0, 0,
            ],
        ),
        set_message(
            4,
            0x1021b,
            &words(&[20, 4, 2, 24, 4, 0x0041_0042, 0x0043_0044]),
        ),
        words(&[8, 12, 1]),
        packet_message(&[(0, 0x5 | 34 << 16), (6, 0x50)], &frame(100)),
        packet_message(&[(2, 1448 | 34 << 20 | 1 << 30)], &frame(300)).repeat(3),
    ]
}

/// A message with bytes overwritten and its end cut off.
fn mutated() -> impl Strategy<Value = Vec<u8>> {
    let changes = prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6);
    let seed = prop::sample::select(seeds());
    (
        seed,
        changes,
        any::<prop::sample::Index>(),
        prop::bool::weighted(0.2),
    )
        .prop_map(|(mut message, changes, end, cut)| {
            for (at, value) in changes {
                let at = at.index(message.len());
                message[at] = value;
            }
            if cut {
                message.truncate(end.index(message.len()));
            }
            message
        })
}

/// One ring packet: kind, flags, id, NVSP words.
fn nvsp_words() -> impl Strategy<Value = Vec<u32>> {
    let kind = prop_oneof![
        Just(107u32),
        Just(107),
        prop::sample::select(vec![1, 100, 101, 103, 104, 106, 108, 125, 129, 131, 133]),
        any::<u32>(),
    ];
    let field = prop_oneof![0u32..4, Just(0xffff_ffff), Just(0xcafe), any::<u32>()];
    (kind, prop::collection::vec(field, 0..9)).prop_map(|(kind, mut fields)| {
        fields.insert(0, kind);
        fields
    })
}

/// Empties the ring from the host and gives all sections back, so that nothing stands still.
fn drain(guest: &Guest) {
    while let Some(packet) = guest.try_receive(0) {
        if packet.kind == TRANSFER_PAGES {
            guest.complete(0, packet.transaction_id, 1);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn messages_never_panic(message in mutated(), cut in any::<prop::sample::Index>()) {
        let cut = cut.index(message.len() + 1);
        let pieces = [&message[..cut], &message[cut..]];
        let pieces: Vec<&[u8]> = pieces.into_iter().filter(|p| !p.is_empty()).collect();
        if !pieces.is_empty() {
            let _ = parse_message(&source(&pieces), 0);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    #[test]
    fn device_survives_a_storm(
        packets in prop::collection::vec((nvsp_words(), mutated(), any::<u16>()), 200)
    ) {
        let mut guest = Guest::running(config(4));
        for (fields, message, choice) in packets {
            match choice % 4 {
                0 => { guest.post_control(&message); }
                1 if !message.is_empty() => { guest.send_pages(0, &[&message]); }
                2 => { guest.send_section(0, u32::from(choice) % 172, &message); }
                _ => {
                    let kind = [IN_BAND, GPA_DIRECT, COMPLETION, TRANSFER_PAGES][usize::from(choice / 4 % 4)];
                    let header = &words(&fields)[..fields.len() * 4 / 8 * 8];
                    guest.send(0, kind, choice >> 8 & 1, header, &words(&fields));
                }
            }
            drain(&guest);
        }
        let report = guest.report();
        prop_assert!(report["error"].is_null(), "{}", report);
        guest.close(0);
        guest.bring_up();
        let id = guest.send_section(0, 0, &packet_message(&[], &frame(100)));
        prop_assert_eq!(guest.completion(0, id), 1);
    }
}
