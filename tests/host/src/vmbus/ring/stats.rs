// SPDX-License-Identifier: GPL-2.0

//! Counters of a channel. The device's worker writes them, the control socket reads them.

use std::sync::atomic::{AtomicU64, Ordering};

use serde::Serialize;

/// A counter that only grows.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds `n`.
    pub fn add(&self, n: u64) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }

    /// Present value.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

macro_rules! channel_stats {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// Counters of a channel since its device was added.
        #[derive(Debug, Default)]
        pub struct ChannelStats { $($(#[$doc])* pub $name: Counter,)* }

        /// The values of [`ChannelStats`] at one moment.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
        pub struct StatsSnapshot { $($(#[$doc])* pub $name: u64,)* }

        impl ChannelStats {
            /// The present values.
            pub fn snapshot(&self) -> StatsSnapshot {
                StatsSnapshot { $($name: self.$name.get(),)* }
            }
        }
    };
}

channel_stats! {
    /// Packets read from the guest, completions included.
    packets_in,
    /// Bytes of those packets, headers included, trailers not.
    bytes_in,
    /// Completions among the packets read.
    completions_in,
    /// Packets written to the guest, completions included.
    packets_out,
    /// Bytes of those packets, headers included, trailers not.
    bytes_out,
    /// Completions among the packets written.
    completions_out,
    /// Signals received from the guest.
    doorbells,
    /// Interrupts raised in the guest.
    interrupts,
    /// Those of them that only announced free space in the incoming ring.
    space_interrupts,
    /// Writes that did not fit into the outgoing ring.
    ring_full,
}
