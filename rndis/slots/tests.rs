// SPDX-License-Identifier: GPL-2.0

//! The table against a model, and with both sides at once.

use super::*;
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::sync::mpsc;

fn table(len: usize) -> SlotTable<Vec<Slot>> {
    SlotTable::new((0..len).map(|_| Slot::default()).collect()).unwrap()
}

fn cargo(token: u64) -> Cargo {
    Cargo {
        token,
        section: (token % 2 == 0).then_some(Section::from_parts(token as u32, token as u32)),
        bytes: token as u32 ^ 0x55,
        packets: token as u16,
    }
}

#[test]
fn a_slot_is_half_a_cache_line() {
    assert_eq!(size_of::<Slot>(), 32);
}

#[test]
fn only_powers_of_two_make_a_table() {
    for len in [0, 3, 100, (1 << 16) + 1, 1 << 17] {
        let slots: Vec<Slot> = (0..len).map(|_| Slot::default()).collect();
        assert!(SlotTable::new(slots).is_none(), "{len}");
    }
    assert_eq!(table(1).capacity(), 1);
}

#[test]
fn an_id_is_good_once() {
    let table = table(4);
    let id = table.allocate(cargo(7)).unwrap();
    assert_eq!(table.in_use(), 1);
    assert_eq!(table.complete(id), Some(cargo(7)));
    assert_eq!(table.complete(id), None);
    assert_eq!(table.cancel(id), None);
    assert!(table.is_idle());
}

#[test]
fn foreign_ids_find_nothing() {
    let table = table(4);
    let id = table.allocate(cargo(7)).unwrap();
    for foreign in [
        TransactionId::control(0),
        TransactionId::NONE,
        TransactionId::from_wire(0),
        TransactionId::from_wire(id.value() + 1),
        TransactionId::frame(0, 1),
        TransactionId::frame(1, 0),
        TransactionId::frame(4, 0),
        TransactionId::frame(u32::MAX, 0),
    ] {
        assert_eq!(table.complete(foreign), None, "{foreign:?}");
    }
    assert_eq!(table.complete(id), Some(cargo(7)));
}

#[test]
fn a_cancelled_packet_gives_its_slot_and_its_id_back() {
    let table = table(2);
    let first = table.allocate(cargo(1)).unwrap();
    let second = table.allocate(cargo(2)).unwrap();
    assert_eq!(table.cancel(first), None, "not the last");
    assert_eq!(table.cancel(second), Some(cargo(2)));
    assert_eq!(table.complete(second), None);
    assert_eq!(table.complete(first), Some(cargo(1)));
    assert!(table.allocate(cargo(3)).is_some());
    assert!(table.allocate(cargo(4)).is_some());
    assert!(table.allocate(cargo(5)).is_none());
}

#[test]
fn generations_wrap() {
    let table = table(1);
    table.slots[0]
        .state
        .store(GENERATION_MASK, Ordering::Relaxed);
    let last = table.allocate(cargo(1)).unwrap();
    assert!(table.complete(last).is_some());
    let first = table.allocate(cargo(2)).unwrap();
    assert_eq!(first, TransactionId::frame(0, 0));
    assert_eq!(table.complete(first), Some(cargo(2)));
}

#[test]
fn free_list_positions_wrap() {
    let table = table(4);
    table.taken.0.store(u32::MAX - 3, Ordering::Relaxed);
    table.returned.0.store(0, Ordering::Relaxed);
    for round in 0..20 {
        let ids: Vec<_> = (0..4)
            .map(|i| table.allocate(cargo(round * 4 + i)).unwrap())
            .collect();
        assert!(table.allocate(cargo(0)).is_none());
        for id in ids {
            assert!(table.complete(id).is_some());
        }
    }
}

#[test]
fn drain_releases_what_is_left() {
    let table = table(4);
    let ids: Vec<_> = (1..=3).map(|t| table.allocate(cargo(t)).unwrap()).collect();
    table.complete(ids[1]).unwrap();
    let mut tokens = Vec::new();
    table.drain(|cargo| tokens.push(cargo.token));
    tokens.sort_unstable();
    assert_eq!(tokens, [1, 3]);
    assert!(table.is_idle());
    table.drain(|_| panic!("drained twice"));
}

proptest! {
    #[test]
    fn behaves_as_a_map(
        bits in 0u32..5,
        steps in proptest::collection::vec((0u8..4, any::<u64>()), 0..300),
    ) {
        let capacity = 1usize << bits;
        let table = table(capacity);
        let mut model: BTreeMap<u64, Cargo> = BTreeMap::new();
        let mut used = Vec::new();
        let mut last = None;
        for (step, value) in steps {
            match step {
                0 | 1 => {
                    let id = table.allocate(cargo(value));
                    prop_assert_eq!(id.is_some(), model.len() < capacity);
                    if let Some(id) = id {
                        prop_assert!(model.insert(id.value(), cargo(value)).is_none());
                        used.push(id);
                        last = Some(id);
                    }
                }
                2 if !used.is_empty() => {
                    let id = used[value as usize % used.len()];
                    prop_assert_eq!(table.complete(id), model.remove(&id.value()));
                }
                _ => {
                    if let Some(id) = last.take() {
                        prop_assert_eq!(table.cancel(id), model.remove(&id.value()));
                        // A cancelled id was never seen by the host, so it may be used again.
                        used.retain(|other| *other != id);
                    }
                }
            }
            prop_assert_eq!(table.in_use() as usize, model.len());
        }
        let mut left = 0;
        table.drain(|_| left += 1);
        prop_assert_eq!(left, model.len());
    }
}

#[test]
fn both_sides_at_once_lose_and_repeat_nothing() {
    const PACKETS: u64 = 100_000;
    let table = table(64);
    let (send, receive) = mpsc::channel::<(TransactionId, u64)>();
    std::thread::scope(|scope| {
        let table = &table;
        scope.spawn(move || {
            let mut token = 0;
            while token < PACKETS {
                match table.allocate(cargo(token)) {
                    Some(id) if token % 5 == 4 => {
                        assert_eq!(table.cancel(id), Some(cargo(token)));
                        token += 1;
                    }
                    Some(id) => {
                        send.send((id, token)).unwrap();
                        token += 1;
                    }
                    None => std::thread::yield_now(),
                }
            }
        });
        scope.spawn(move || {
            let mut completed = 0;
            for (id, token) in receive {
                assert_eq!(table.complete(id), Some(cargo(token)));
                assert_eq!(table.complete(id), None);
                completed += 1;
            }
            assert_eq!(completed, PACKETS / 5 * 4);
        });
    });
    assert!(table.is_idle());
}
