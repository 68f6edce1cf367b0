// SPDX-License-Identifier: GPL-2.0

//! The end of a wire that only counts: frames, bytes, and the longest time in which none came.
//!
//! The counts are behind [`SinkHandle`], so that the control socket can ask for a new measurement of
//! the gap while the NIC's worker goes on counting.

use std::io;
use std::os::fd::RawFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::Arc;
use std::time::Instant;

use serde_json::{json, Value};

use super::frame::Frame;
use super::{Backend, Takes, TxDrop};

struct Counts {
    start: Instant,
    packets: AtomicU64,
    bytes: AtomicU64,
    /// When the last frame came or the measurement began, in nanoseconds since `start`.
    last: AtomicU64,
    longest_gap: AtomicU64,
}

/// What came out of the guest. Clones are handles to the same counts.
#[derive(Clone)]
pub struct SinkHandle(Arc<Counts>);

impl Default for SinkHandle {
    fn default() -> Self {
        SinkHandle(Arc::new(Counts {
            start: Instant::now(),
            packets: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            last: AtomicU64::new(0),
            longest_gap: AtomicU64::new(0),
        }))
    }
}

impl SinkHandle {
    fn now(&self) -> u64 {
        u64::try_from(self.0.start.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    /// Counts a frame of `bytes` bytes.
    pub fn count(&self, bytes: usize) {
        self.count_at(self.now(), bytes);
    }

    fn count_at(&self, now: u64, bytes: usize) {
        let counts = &self.0;
        counts.packets.fetch_add(1, Ordering::Relaxed);
        counts.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
        let before = counts.last.swap(now, Ordering::Relaxed);
        let gap = now.saturating_sub(before);
        counts.longest_gap.fetch_max(gap, Ordering::Relaxed);
    }

    /// Measures the longest gap anew, from now on.
    pub fn restart_gap(&self) {
        self.0.last.store(self.now(), Ordering::Relaxed);
        self.0.longest_gap.store(0, Ordering::Relaxed);
    }

    /// The longest time without a frame since the measurement began, the present one included, in
    /// nanoseconds.
    fn longest_gap_at(&self, now: u64) -> u64 {
        let present = now.saturating_sub(self.0.last.load(Ordering::Relaxed));
        self.0.longest_gap.load(Ordering::Relaxed).max(present)
    }

    /// The counts as JSON.
    pub fn counters(&self) -> Value {
        json!({
            "sunk_packets": self.0.packets.load(Ordering::Relaxed),
            "sunk_bytes": self.0.bytes.load(Ordering::Relaxed),
            "longest_gap_us": self.longest_gap_at(self.now()) / 1000,
        })
    }
}

/// Counts and discards every frame.
#[derive(Default)]
pub struct Sink(SinkHandle);

impl Sink {
    /// Its counts.
    pub fn handle(&self) -> SinkHandle {
        self.0.clone()
    }
}

/// Whoever only counts takes frames as they are: nothing has to be finished for it.
pub const TAKES_ALL: Takes = Takes {
    partial_checksum: true,
    segmentation: true,
    vlan_metadata: true,
};

impl Backend for Sink {
    fn kind(&self) -> &'static str {
        "sink"
    }

    fn takes(&self) -> Takes {
        TAKES_ALL
    }

    fn readiness(&self) -> Option<RawFd> {
        None
    }

    fn transmit(&mut self, frame: Frame) -> Result<(), TxDrop> {
        self.0.count(frame.bytes.len());
        Ok(())
    }

    fn receive(&mut self, _budget: usize, _out: &mut Vec<Frame>) -> io::Result<()> {
        Ok(())
    }

    fn counters(&self) -> Value {
        self.0.counters()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_and_bytes_are_counted() {
        let mut sink = Sink::default();
        for len in [60, 1514] {
            sink.transmit(Frame::new(vec![0; len])).expect("takes all");
        }
        let counters = sink.handle().counters();
        assert_eq!(counters["sunk_packets"], 2);
        assert_eq!(counters["sunk_bytes"], 1574);
    }

    #[test]
    fn the_longest_gap_is_the_longest_since_the_restart() {
        let handle = SinkHandle::default();
        handle.restart_gap();
        let t0 = handle.0.last.load(Ordering::Relaxed);
        handle.count_at(t0 + 5_000, 60);
        handle.count_at(t0 + 95_000, 60);
        handle.count_at(t0 + 100_000, 60);
        assert_eq!(handle.longest_gap_at(t0 + 110_000), 90_000);
        assert_eq!(
            handle.longest_gap_at(t0 + 300_000),
            200_000,
            "the gap that has not ended counts"
        );
        handle.restart_gap();
        let t1 = handle.0.last.load(Ordering::Relaxed);
        assert_eq!(handle.longest_gap_at(t1 + 7_000), 7_000);
    }
}
