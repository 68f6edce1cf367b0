// SPDX-License-Identifier: GPL-2.0

//! Stopping and waking a transmit queue: a model, as the flag is the kernel's. It mirrors `Tx::stop` in `src/tx.rs`
//! (stop, fence, look for room), `Rx::sent` and `Rx::wake` in `src/rx.rs` and `netvsc_txq_completed` in
//! `src/net/helpers.c` (complete, barrier, look at the flag). The table is `rndis/slots.rs` itself.

use loom::sync::atomic::{fence, AtomicBool, Ordering};
use loom::{sync::Arc, thread};
use netvsc_models::rndis::{
    slots::{Cargo, Slot, SlotTable},
    transaction::TransactionId,
};

struct Queue {
    table: SlotTable<Vec<Slot>>,
    stopped: AtomicBool,
}

impl Queue {
    fn has_room(&self) -> bool {
        self.table.in_use() == 0
    }

    fn stop(&self) {
        self.stopped.store(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
        if self.has_room() {
            self.stopped.store(false, Ordering::Relaxed);
        }
    }

    fn poll(&self, id: TransactionId) {
        assert!(self.table.complete(id).is_some());
        fence(Ordering::SeqCst);
        if self.stopped.load(Ordering::Relaxed) && self.has_room() {
            self.stopped.store(false, Ordering::Relaxed);
        }
    }
}

#[test]
fn no_queue_stays_stopped_with_nothing_on_its_way() {
    loom::model(|| {
        let queue = Arc::new(Queue {
            table: SlotTable::new(vec![Slot::default()]).expect("a power of two"),
            stopped: AtomicBool::new(false),
        });
        let id = queue.table.allocate(Cargo::default()).expect("empty");
        let poll = {
            let queue = queue.clone();
            thread::spawn(move || queue.poll(id))
        };
        queue.stop();
        poll.join().unwrap();
        assert!(queue.table.is_idle());
        assert!(!queue.stopped.load(Ordering::Relaxed), "stopped for good");
    });
}
