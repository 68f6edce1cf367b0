// SPDX-License-Identifier: GPL-2.0

//! Traffic by CPU, for `ethtool -S`: what queues carry counts for the CPU that their channel interrupts, and stays there
//! when the channel is closed or moves to another one.
//!
//! Packet paths know nothing of it: now and then somebody looks how far the queues' own counters have come since the last
//! look. That is whoever shows the counters, each attach, and the watch over the channels, so that little is ever
//! counted for a CPU that the user took the channel away from meanwhile.

use crate::stats::QueueStats;
use kernel::prelude::*;

/// Packets and bytes received, packets and bytes sent.
pub(crate) type Traffic = [u64; 4];

/// A queue at the last look.
#[derive(Clone, Copy, Default)]
struct Seen {
    carried: Traffic,
    /// The CPU that its channel interrupted.
    cpu: Option<u32>,
}

/// The traffic of all CPUs.
pub(crate) struct CpuTraffic {
    queues: KVec<Seen>,
    cpus: KVec<(u32, Traffic)>,
}

fn add(to: &mut Traffic, from: impl Iterator<Item = u64>) {
    for (sum, more) in to.iter_mut().zip(from) {
        *sum = sum.wrapping_add(more);
    }
}

impl CpuTraffic {
    /// Nothing carried yet, by `queues` queues, for `cpus`.
    pub(crate) fn new(queues: u16, cpus: &[u32]) -> Result<Self> {
        let mut this = Self {
            queues: KVec::with_capacity(queues.into(), GFP_KERNEL)?,
            cpus: KVec::with_capacity(cpus.len(), GFP_KERNEL)?,
        };
        for _ in 0..queues {
            this.queues.push_within_capacity(Seen::default())?;
        }
        for cpu in cpus {
            this.cpus.push_within_capacity((*cpu, Traffic::default()))?;
        }
        Ok(this)
    }

    /// Counts what the queues have carried since the last look: each for the CPU that `cpu_of` says its channel
    /// interrupts, or without a channel, for the last one that it did.
    pub(crate) fn look<'a>(
        &mut self,
        queues: impl Iterator<Item = &'a QueueStats>,
        cpu_of: impl Fn(u16) -> Option<u32>,
    ) {
        for ((seen, queue), index) in self.queues.iter_mut().zip(queues).zip(0..=u16::MAX) {
            let carried = queue.traffic();
            seen.cpu = cpu_of(index).or(seen.cpu);
            let counted = self.cpus.iter_mut().find(|(cpu, _)| Some(*cpu) == seen.cpu);
            if let Some((_, sums)) = counted {
                let before = seen.carried.iter();
                add(
                    sums,
                    carried
                        .iter()
                        .zip(before)
                        .map(|(now, before)| now.wrapping_sub(*before)),
                );
                seen.carried = carried;
            }
        }
    }

    /// What was counted for each CPU, in the order that they were given in.
    pub(crate) fn cpus(&self) -> impl Iterator<Item = &Traffic> {
        self.cpus.iter().map(|(_, traffic)| traffic)
    }
}
