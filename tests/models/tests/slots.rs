// SPDX-License-Identifier: GPL-2.0

//! `rndis/slots.rs`: the transmit path allocates and cancels while the poll completes what a host says, which may
//! be ids that were never sent.

use loom::{sync::Arc, thread};
use netvsc_models::rndis::{
    slots::{Cargo, Slot, SlotTable},
    transaction::TransactionId,
};

type Table = SlotTable<Vec<Slot>>;

fn table(slots: usize) -> Arc<Table> {
    let slots = (0..slots).map(|_| Slot::default()).collect();
    Arc::new(SlotTable::new(slots).expect("a power of two"))
}

fn cargo(token: u64) -> Cargo {
    Cargo {
        token,
        section: None,
        bytes: token as u32 * 3,
        packets: token as u16 * 5,
    }
}

/// All slots can be had again, and no more.
fn is_whole(table: &Table) {
    assert!(table.is_idle());
    let count = table.capacity();
    assert!((0..count).all(|token| table.allocate(cargo(token.into())).is_some()));
    assert!(table.allocate(cargo(0)).is_none());
}

#[test]
fn a_cancelled_packet_that_the_host_completes_has_one_taker() {
    loom::model(|| {
        let table = table(2);
        let host = {
            let table = table.clone();
            thread::spawn(move || table.complete(TransactionId::frame(0, 0)))
        };
        let id = table.allocate(cargo(1)).expect("empty");
        let cancelled = table.cancel(id);
        let completed = host.join().unwrap();
        assert!(cancelled.is_none() || completed.is_none(), "two takers");
        let left = table.complete(id);
        let taken: Vec<Cargo> = [cancelled, completed, left].into_iter().flatten().collect();
        assert_eq!(taken, [cargo(1)], "lost or torn");
        is_whole(&table);
    });
}

#[test]
fn a_completion_hands_out_what_was_sent_under_its_id() {
    loom::model(|| {
        let table = table(2);
        let host = {
            let table = table.clone();
            thread::spawn(move || {
                // The first slot twice, the second time by the id of its next use.
                let first = table.complete(TransactionId::frame(0, 0));
                let again = table.complete(TransactionId::frame(0, 1));
                (first, again)
            })
        };
        let sent: Vec<_> = (1..=3).map(|token| table.allocate(cargo(token))).collect();
        let (first, again) = host.join().unwrap();
        assert!(
            first.is_none_or(|taken| taken == cargo(1)),
            "another's cargo"
        );
        assert!(
            again.is_none_or(|taken| taken == cargo(3)),
            "another's cargo"
        );
        let mut taken = usize::from(first.is_some()) + usize::from(again.is_some());
        table.drain(|_| taken += 1);
        assert_eq!(taken, sent.iter().flatten().count());
        is_whole(&table);
    });
}

#[test]
fn a_slot_given_back_is_seen_free() {
    loom::model(|| {
        let table = table(1);
        let id = table.allocate(cargo(1)).expect("empty");
        let poll = {
            let table = table.clone();
            thread::spawn(move || table.complete(id))
        };
        let second = table.allocate(cargo(2));
        assert_eq!(poll.join().unwrap(), Some(cargo(1)));
        if let Some(second) = second {
            assert_ne!(second, id);
            assert_eq!(table.complete(second), Some(cargo(2)));
        }
        is_whole(&table);
    });
}
