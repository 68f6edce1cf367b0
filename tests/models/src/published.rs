// SPDX-License-Identifier: GPL-2.0

//! Models of `src/net/published.rs`, which is not visible outside this crate: what packet paths read without a lock is there as long as they read it.

use crate::net::published::Published;
use crate::net::{Config, Readers};
use crate::prelude::KBox;
use loom::sync::atomic::{AtomicBool, Ordering};
use loom::thread;
use std::sync::Arc;

/// Something published, which knows whether it was dropped. (Not by an `Arc` of Loom's, which must not be leaked.)
struct Object {
    dropped: Arc<AtomicBool>,
}

impl Object {
    fn new() -> (KBox<Self>, Arc<AtomicBool>) {
        let dropped = Arc::new(AtomicBool::new(false));
        let object = Self {
            dropped: dropped.clone(),
        };
        (KBox::new(object), dropped)
    }
}

impl Drop for Object {
    fn drop(&mut self) {
        self.dropped.store(true, Ordering::Relaxed);
    }
}

/// A slot with an object in it, and whether that was dropped.
fn published() -> (Arc<Published<Object>>, Arc<AtomicBool>) {
    let (object, dropped) = Object::new();
    let slot = Arc::new(Published::new());
    assert!(slot.publish(&Config::only_one(), object).is_ok());
    (slot, dropped)
}

/// A poll reads while the object is taken back.
pub fn a_reader_keeps_what_it_found_until_its_section_ends() {
    let (slot, dropped) = published();
    let poll = {
        let (slot, dropped) = (slot.clone(), dropped.clone());
        thread::spawn(move || {
            Readers::section(|section| {
                if slot.get(section).is_some() {
                    thread::yield_now();
                    assert!(!dropped.load(Ordering::Relaxed), "read after its end");
                }
            });
        })
    };
    let taken = slot
        .unpublish(&Config::only_one())
        .expect("nobody borrowed it");
    drop(taken.take());
    assert!(dropped.load(Ordering::Relaxed));
    Readers::section(|section| assert!(slot.get(section).is_none()));
    poll.join().unwrap();
}

/// The configuration side borrows while the object is taken back, which would be its own defect.
pub fn what_is_lent_is_not_dropped() {
    let (slot, dropped) = published();
    let borrower = {
        let (slot, dropped) = (slot.clone(), dropped.clone());
        thread::spawn(move || {
            if let Some(lent) = slot.get_config(&Config::only_one()) {
                thread::yield_now();
                assert!(!dropped.load(Ordering::Relaxed), "lent and dropped");
                assert!(Arc::ptr_eq(&lent.dropped, &dropped));
            }
        })
    };
    // Lent at this moment, it is given up instead.
    let taken = slot.unpublish(&Config::only_one());
    let given_up = taken.is_none();
    drop(taken);
    borrower.join().unwrap();
    assert_eq!(dropped.load(Ordering::Relaxed), !given_up);
}

/// An object too many comes back to who published it.
pub fn a_slot_is_filled_once() {
    let (slot, first) = published();
    let (second, dropped) = Object::new();
    let refused = slot.publish(&Config::only_one(), second);
    assert!(refused.is_err() && !dropped.load(Ordering::Relaxed));
    drop(refused);
    drop(slot);
    assert!(first.load(Ordering::Relaxed) && dropped.load(Ordering::Relaxed));
}
