// SPDX-License-Identifier: GPL-2.0

//! Attaches against random events: they must not panic, must end, and must not believe impossible things.

use super::super::*;
use super::host::{config, rndis_message, words, Host, Owned};
use proptest::prelude::*;

/// What a host (or a driver) may do at random after an action.
#[derive(Clone, Debug)]
enum Noise {
    /// Answer properly.
    Proper,
    /// Answer properly, with one byte of one message changed.
    Bent(usize, usize, u8),
    /// A completion of the last transaction with these bytes.
    Completion(Vec<u8>),
    /// A completion with any id.
    Foreign(u64, Vec<u8>),
    /// RNDIS bytes.
    Rndis(Vec<u8>),
    /// An RNDIS message with the last request's id.
    Answer(u32, Vec<u32>),
    /// Something local.
    Local(u8, u16),
}

fn noise() -> impl Strategy<Value = Noise> {
    let bytes = || proptest::collection::vec(any::<u8>(), 0..64);
    let kind = prop_oneof![0u32..10, (0u32..10).prop_map(|k| k | 0x8000_0000)];
    prop_oneof![
        12 => Just(Noise::Proper),
        3 => (any::<usize>(), any::<usize>(), any::<u8>())
            .prop_map(|(m, i, b)| Noise::Bent(m, i, b)),
        1 => bytes().prop_map(Noise::Completion),
        1 => (any::<u64>(), bytes()).prop_map(|(id, b)| Noise::Foreign(id, b)),
        1 => bytes().prop_map(Noise::Rndis),
        1 => (kind, proptest::collection::vec(any::<u32>(), 0..12))
            .prop_map(|(k, b)| Noise::Answer(k, b)),
        1 => (0u8..5, any::<u16>()).prop_map(|(k, n)| Noise::Local(k, n)),
    ]
}

fn bend(events: &mut [Owned], which: usize, index: usize, byte: u8) {
    let len = events.len().max(1);
    if let Some(Owned::Completion(_, bytes) | Owned::Rndis(bytes)) = events.get_mut(which % len) {
        let len = bytes.len().max(1);
        if let Some(place) = bytes.get_mut(index % len) {
            *place = byte;
        }
    }
}

fn events(noise: Noise, host: &mut Host, step: Step, action: Action, buffer: &[u8]) -> Vec<Owned> {
    let last = match action {
        Action::SendNvsp { transaction, .. } | Action::SendRndis { transaction, .. } => transaction,
        _ => TransactionId::NONE,
    };
    match noise {
        Noise::Proper => host.react(step, action, buffer),
        Noise::Bent(which, index, byte) => {
            let mut events = host.react(step, action, buffer);
            bend(&mut events, which, index, byte);
            events
        }
        Noise::Completion(bytes) => vec![Owned::Completion(last, bytes)],
        Noise::Foreign(id, bytes) => {
            vec![Owned::Completion(TransactionId::from_wire(id), bytes)]
        }
        Noise::Rndis(bytes) => vec![Owned::Rndis(bytes)],
        Noise::Answer(kind, mut body) => {
            if let Some(id) = body.first_mut() {
                *id = u32::from_le_bytes(buffer[8..12].try_into().unwrap());
            }
            vec![Owned::Rndis(rndis_message(kind, &words(&body)))]
        }
        Noise::Local(0, n) => vec![Owned::Shared(u32::from(n))],
        Noise::Local(1, n) => vec![Owned::SubchannelsOpen(n)],
        Noise::Local(2, _) => vec![Owned::SendFailed],
        Noise::Local(3, _) => vec![Owned::Rescinded],
        Noise::Local(..) => vec![Owned::ShareFailed],
    }
}

fn check(got: &Negotiated) -> Result<(), TestCaseError> {
    prop_assert!((1..=64).contains(&got.channels));
    prop_assert!(got.channels <= got.host_channels);
    let bytes = u64::from(got.receive_section_len) * u64::from(got.receive_section_count);
    prop_assert!(bytes <= u64::from(got.receive_buffer) && bytes > 0);
    let bytes = u64::from(got.send_section_len) * u64::from(got.send_section_count);
    prop_assert!(bytes <= u64::from(got.send_buffer) && bytes > 0);
    prop_assert!(got.alignment.is_power_of_two() && got.alignment <= 4096);
    prop_assert!((1..=255).contains(&got.max_packets_per_message));
    prop_assert!(got.mac.is_valid());
    prop_assert!((68..=1500).contains(&got.mtu));
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]
    #[test]
    fn random_events_end_in_success_or_an_error(script in proptest::collection::vec(noise(), 0..60)) {
        let mut host = Host::default();
        let mut bringup = Bringup::new(config());
        let mut buffer = [0u8; MESSAGE_BUFFER_LEN];
        let mut last = Action::Wait;
        let mut script = script.into_iter();
        // Every turn takes one piece of the script; after it the host is silent.
        let mut turns = 0;
        loop {
            turns += 1;
            prop_assert!(turns < 200, "does not end");
            let action = bringup.next(&mut buffer);
            match action {
                Action::Done => {
                    check(bringup.negotiated())?;
                    break;
                }
                Action::Wait => {}
                _ => last = action,
            }
            let step = bringup.step();
            let arriving = match script.next() {
                Some(noise) => events(noise, &mut host, step, last, &buffer),
                None if action.wants_completion() || action == Action::Wait => vec![Owned::Deadline],
                None => events(Noise::Proper, &mut host, step, last, &buffer),
            };
            let failed = arriving
                .iter()
                .find_map(|event| bringup.event(event.borrow()).err());
            if let Some(error) = failed {
                prop_assert!(!bringup.is_done());
                prop_assert!(!error.to_string().is_empty());
                prop_assert_eq!(bringup.next(&mut buffer), Action::Wait);
                break;
            }
        }
    }
}
