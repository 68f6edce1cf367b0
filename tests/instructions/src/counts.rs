// SPDX-License-Identifier: GPL-2.0

//! Counts by address, which translated code adds to without calling anybody.

use std::collections::HashMap;
use std::mem::size_of;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use crate::qemu::{qemu_plugin_scoreboard_find, qemu_plugin_scoreboard_new, Number, Scoreboard};

/// Addresses that are told apart; what begins elsewhere is counted under address 0.
const PLACES: usize = 1 << 18;

/// Counts of the first processor.
pub struct Counts {
    score: *mut Scoreboard,
    /// Places of addresses; the place of 0 is 0.
    places: Mutex<HashMap<u64, usize>>,
    /// The sum at the last mark.
    marked: AtomicU64,
}

// SAFETY: QEMU's functions for scoreboards may be called from any thread, and the pointer never changes.
unsafe impl Send for Counts {}
// SAFETY: As above; counts are read as atomics.
unsafe impl Sync for Counts {}

impl Counts {
    /// All zero.
    pub fn new() -> Counts {
        Counts {
            // SAFETY: May be called from `qemu_plugin_install` on; it is never freed.
            score: unsafe { qemu_plugin_scoreboard_new(PLACES * size_of::<u64>()) },
            places: Mutex::new(HashMap::from([(0, 0)])),
            marked: AtomicU64::new(0),
        }
    }

    /// What to add to for code that begins at `address`.
    pub fn entry(&self, address: u64) -> Option<Number> {
        let mut places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
        let next = places.len();
        let place = match places.get(&address) {
            Some(place) => *place,
            None if next < PLACES => {
                places.insert(address, next);
                next
            }
            None => 0,
        };
        Some(Number {
            score: self.score,
            offset: place.checked_mul(size_of::<u64>())?,
        })
    }

    /// Notes the sum of all counts.
    pub fn mark(&self) {
        self.marked
            .store(self.read().iter().sum(), Ordering::Release);
    }

    /// The sum as of the last mark.
    pub fn marked(&self) -> u64 {
        self.marked.load(Ordering::Acquire)
    }

    /// All counts by place, as of now.
    pub fn read(&self) -> Vec<u64> {
        let used = self
            .places
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .len();
        // SAFETY: The machine has a processor, which is number 0; the result moves only when it gets more.
        let first = unsafe { qemu_plugin_scoreboard_find(self.score, 0) }.cast::<u64>();
        (0..used)
            .map(|place| {
                // SAFETY: There are `PLACES` aligned words, of which `used` are in use, and translated code writes
                // each whole.
                unsafe { AtomicU64::from_ptr(first.add(place)) }.load(Ordering::Relaxed)
            })
            .collect()
    }

    /// The address of each place.
    pub fn addresses(&self) -> Vec<u64> {
        let places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
        let mut addresses = vec![0; places.len()];
        for (address, place) in places.iter() {
            if let Some(slot) = addresses.get_mut(*place) {
                *slot = *address;
            }
        }
        addresses
    }
}
