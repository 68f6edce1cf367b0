// SPDX-License-Identifier: GPL-2.0

//! Link state and speed as the host reports them.

use crate::net::ethtool::Duplex;
use core::sync::atomic::{AtomicBool, AtomicU32, Ordering};

/// `ethtool` shows this as "Unknown!".
const SPEED_UNKNOWN: u32 = u32::MAX;
/// In [`LinkState::state`]: the link is up. The other bits count indications.
const UP: u32 = 1;
const INDICATION: u32 = 2;

/// Written by the primary channel's poll and by attach, read anywhere. The carrier is set from it in one
/// place, under RTNL.
pub(crate) struct LinkState {
    /// [`UP`], and the number of indications in units of [`INDICATION`]: one word, so that an attach can
    /// tell whether its own answer is stale.
    state: AtomicU32,
    /// The network behind the link is changing: the carrier stays away meanwhile.
    away: AtomicBool,
    speed_mbit: AtomicU32,
    /// The speed is what the user set; the host has not said anything since.
    users_speed: AtomicBool,
    duplex: AtomicU32,
}

impl LinkState {
    /// Down, speed unknown.
    pub(crate) const fn new() -> Self {
        Self {
            state: AtomicU32::new(0),
            away: AtomicBool::new(false),
            speed_mbit: AtomicU32::new(SPEED_UNKNOWN),
            users_speed: AtomicBool::new(false),
            duplex: AtomicU32::new(Duplex::Full as u32),
        }
    }

    /// Whether the interface may show a carrier.
    pub(crate) fn has_carrier(&self) -> bool {
        self.state.load(Ordering::Relaxed) & UP != 0 && !self.away.load(Ordering::Relaxed)
    }

    /// Mbit/s, or `u32::MAX`.
    pub(crate) fn speed_mbit(&self) -> u32 {
        self.speed_mbit.load(Ordering::Relaxed)
    }

    /// Half, full, or unknown.
    pub(crate) fn duplex(&self) -> Duplex {
        match self.duplex.load(Ordering::Relaxed) {
            0 => Duplex::Half,
            1 => Duplex::Full,
            _ => Duplex::Unknown,
        }
    }

    /// Shows what the user wants to see, for bonds and their like, until the host reports a change.
    pub(crate) fn set_by_user(&self, mbit: u32, duplex: Duplex) {
        self.speed_mbit.store(mbit, Ordering::Relaxed);
        self.users_speed.store(true, Ordering::Relaxed);
        self.duplex.store(duplex as u32, Ordering::Relaxed);
    }

    /// State now, for [`LinkState::set_if_unchanged`].
    pub(crate) fn snapshot(&self) -> u32 {
        self.state.load(Ordering::Relaxed)
    }

    /// The host says so unasked. Returns whether that was the state already.
    pub(crate) fn indicate(&self, up: bool) -> bool {
        let mut now = self.state.load(Ordering::Relaxed);
        loop {
            let next = (now & !UP).wrapping_add(INDICATION) | u32::from(up);
            let swap = self
                .state
                .compare_exchange(now, next, Ordering::Relaxed, Ordering::Relaxed);
            match swap {
                Ok(_) => return (now & UP != 0) == up,
                Err(seen) => now = seen,
            }
        }
    }

    /// The host says so when asked; what it has indicated since `snapshot` is newer.
    pub(crate) fn set_if_unchanged(&self, snapshot: u32, up: bool) {
        let next = (snapshot & !UP) | u32::from(up);
        // Failure means that there was an indication.
        let _ = self
            .state
            .compare_exchange(snapshot, next, Ordering::Relaxed, Ordering::Relaxed);
    }

    /// Keeps the carrier away, or lets it return.
    pub(crate) fn set_away(&self, away: bool) {
        self.away.store(away, Ordering::Relaxed);
    }

    /// The host reports a speed unasked: it has changed.
    pub(crate) fn set_speed(&self, mbit: u32) {
        self.speed_mbit.store(mbit, Ordering::Relaxed);
        self.users_speed.store(false, Ordering::Relaxed);
    }

    /// The host says its speed when asked, as at every rebuild: what the user set stays.
    pub(crate) fn set_speed_asked(&self, mbit: u32) {
        if !self.users_speed.load(Ordering::Relaxed) {
            self.speed_mbit.store(mbit, Ordering::Relaxed);
        }
    }
}
