// SPDX-License-Identifier: GPL-2.0

//! Link state and speed as the host reports them.

use core::sync::atomic::{AtomicBool, AtomicU32, Ordering};

/// `ethtool` shows this as "Unknown!".
const SPEED_UNKNOWN: u32 = u32::MAX;

/// Written by the primary channel's poll and by attach, read anywhere.
pub(crate) struct LinkState {
    up: AtomicBool,
    speed_mbit: AtomicU32,
    /// Grows with every indication, so that an attach can tell whether its own answer is stale.
    indications: AtomicU32,
}

impl LinkState {
    /// Down, speed unknown.
    pub(crate) const fn new() -> Self {
        Self {
            up: AtomicBool::new(false),
            speed_mbit: AtomicU32::new(SPEED_UNKNOWN),
            indications: AtomicU32::new(0),
        }
    }

    /// Whether the host says that the link is up.
    pub(crate) fn is_up(&self) -> bool {
        self.up.load(Ordering::Relaxed)
    }

    /// Mbit/s, or `u32::MAX`.
    pub(crate) fn speed_mbit(&self) -> u32 {
        self.speed_mbit.load(Ordering::Relaxed)
    }

    /// Number of indications so far.
    pub(crate) fn indications(&self) -> u32 {
        self.indications.load(Ordering::Acquire)
    }

    /// The host says so unasked.
    pub(crate) fn indicate(&self, up: bool) {
        self.up.store(up, Ordering::Relaxed);
        // Release: who sees the count sees the state.
        let count = self.indications.load(Ordering::Relaxed).wrapping_add(1);
        self.indications.store(count, Ordering::Release);
    }

    /// The host says so when asked.
    pub(crate) fn set(&self, up: bool) {
        self.up.store(up, Ordering::Relaxed);
    }

    /// The host reports a speed.
    pub(crate) fn set_speed(&self, mbit: u32) {
        self.speed_mbit.store(mbit, Ordering::Relaxed);
    }
}
