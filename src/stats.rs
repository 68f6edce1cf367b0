// SPDX-License-Identifier: GPL-2.0

//! Counters: one for every way a packet can end. They live as long as the interface, so that no
//! reconfiguration makes them go backwards.

use crate::cpu_traffic::Traffic;
use crate::net::{RxQueueStats, Stats64, TxQueueStats};
use core::sync::atomic::{AtomicU64, Ordering};

/// A count with one writer at a time and readers anywhere.
///
/// Not a read-modify-write: the writer is whoever holds the transmit lock of the queue, or the queue's
/// poll, as the struct that holds the counter says.
#[derive(Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    /// Adds `n`. For the one writer.
    #[inline]
    pub(crate) fn add(&self, n: u64) {
        self.0.store(
            self.0.load(Ordering::Relaxed).wrapping_add(n),
            Ordering::Relaxed,
        );
    }

    /// The count so far.
    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Counters written under the transmit lock of the queue.
#[repr(align(64))]
#[derive(Default)]
pub(crate) struct TxStats {
    /// Frames copied into one piece because they touched too many pages.
    pub(crate) scattered: Counter,
    /// Frames dropped for want of memory.
    pub(crate) no_memory: Counter,
    /// Frames dropped because the ring was full.
    pub(crate) no_space: Counter,
    /// Frames dropped because the host cannot take that many pages.
    pub(crate) too_big: Counter,
    /// Frames given back to the stack to try again.
    pub(crate) busy: Counter,
    /// Frames sent from their own memory because no send section was free.
    pub(crate) send_full: Counter,
    /// Frames that the host was asked to segment.
    pub(crate) lso_packets: Counter,
    /// Their bytes.
    pub(crate) lso_bytes: Counter,
    /// Frames on the wire that become of them.
    pub(crate) lso_wire_packets: Counter,
    /// The bytes of those.
    pub(crate) lso_wire_bytes: Counter,
    /// Frames that were redirected to this interface, and taken.
    pub(crate) xdp_xmit: Counter,
    /// Times the queue was stopped.
    pub(crate) stop_queue: Counter,
    /// Frames dropped for a broken VLAN tag.
    pub(crate) vlan_error: Counter,
    /// Times the queue was stopped for so long that the stack complained.
    pub(crate) timeouts: Counter,
    /// Frames dropped on the transmit side, for any of the reasons above or no device.
    pub(crate) dropped: Counter,
}

impl TxStats {
    /// Counts a frame of `len` bytes that the host shall segment.
    #[inline]
    pub(crate) fn add_lso(&self, len: u32, wire_packets: u32, wire_bytes: u32) {
        self.lso_packets.add(1);
        self.lso_bytes.add(len.into());
        self.lso_wire_packets.add(wire_packets.into());
        self.lso_wire_bytes.add(wire_bytes.into());
    }
}

/// Counters written by the queue's poll.
#[repr(align(64))]
#[derive(Default)]
pub(crate) struct PollStats {
    /// Frames received, without those that an XDP program dropped: as `ethtool -S` of the C driver counts.
    pub(crate) rx_packets: Counter,
    /// Their bytes.
    pub(crate) rx_bytes: Counter,
    /// Frames received that were not for one station.
    pub(crate) rx_multicast: Counter,
    /// Frames lost for want of memory.
    pub(crate) rx_no_memory: Counter,
    /// Times the ring had no room for a receive completion; it is sent later.
    pub(crate) rx_comp_busy: Counter,
    /// Messages and frames from the host that broke the protocol; refused.
    pub(crate) rx_bad: Counter,
    /// Frames received that the host had put together from several.
    pub(crate) rx_lro_packets: Counter,
    /// Pieces that they consisted of.
    pub(crate) rx_lro_pieces: Counter,
    /// Frames lost because their pieces did not fit together; among `rx_bad`.
    pub(crate) rx_lro_bad: Counter,
    /// Frames that an XDP program dropped, could not be given, or failed with.
    pub(crate) xdp_drop: Counter,
    /// Their bytes.
    pub(crate) xdp_drop_bytes: Counter,
    /// Frames that an XDP program redirected; among those received.
    pub(crate) xdp_redirect: Counter,
    /// Frames that an XDP program sent back; among those received.
    pub(crate) xdp_tx: Counter,
    /// Frames sent, on completion.
    pub(crate) tx_packets: Counter,
    /// Bytes sent, on completion.
    pub(crate) tx_bytes: Counter,
    /// Packets that the host refused.
    pub(crate) tx_errors: Counter,
    /// Completions for nothing that is in flight.
    pub(crate) bad_completions: Counter,
    /// Times the queue was woken.
    pub(crate) wake_queue: Counter,
    /// Frames in flight when the channel was closed, fate unknown.
    pub(crate) tx_lost: Counter,
}

impl PollStats {
    /// Frames received, by the kernel's definition: also those that a program dropped.
    fn received_packets(&self) -> u64 {
        self.rx_packets.get().wrapping_add(self.xdp_drop.get())
    }

    /// Their bytes.
    fn received_bytes(&self) -> u64 {
        self.rx_bytes.get().wrapping_add(self.xdp_drop_bytes.get())
    }
}

/// Counters of one queue.
#[derive(Default)]
pub(crate) struct QueueStats {
    /// Transmit side.
    pub(crate) tx: TxStats,
    /// Poll side.
    pub(crate) poll: PollStats,
}

impl QueueStats {
    /// Packets and bytes received, packets and bytes sent.
    pub(crate) fn traffic(&self) -> Traffic {
        let poll = &self.poll;
        [
            poll.rx_packets.get(),
            poll.rx_bytes.get(),
            poll.tx_packets.get(),
            poll.tx_bytes.get(),
        ]
    }

    /// Receive counters for netlink.
    pub(crate) fn receive(&self) -> RxQueueStats {
        RxQueueStats {
            packets: self.poll.received_packets(),
            bytes: self.poll.received_bytes(),
            alloc_fail: self.poll.rx_no_memory.get(),
            drops: self.poll.rx_bad.get(),
        }
    }

    /// Transmit counters for netlink.
    pub(crate) fn transmit(&self) -> TxQueueStats {
        let refused = self.poll.tx_errors.get();
        let dropped = self.tx.dropped.get().wrapping_add(self.poll.tx_lost.get());
        TxQueueStats {
            packets: self.poll.tx_packets.get(),
            bytes: self.poll.tx_bytes.get(),
            drops: dropped.wrapping_add(refused),
            drop_errors: refused,
            lso_packets: self.tx.lso_packets.get(),
            lso_bytes: self.tx.lso_bytes.get(),
            lso_wire_packets: self.tx.lso_wire_packets.get(),
            lso_wire_bytes: self.tx.lso_wire_bytes.get(),
            stop: self.tx.stop_queue.get(),
            wake: self.poll.wake_queue.get(),
        }
    }

    /// Adds this queue to interface totals.
    pub(crate) fn add_to(&self, totals: &mut Stats64) {
        let sum = |total: &mut u64, counter: &Counter| *total = total.wrapping_add(counter.get());
        totals.rx_packets = totals.rx_packets.wrapping_add(self.poll.received_packets());
        totals.rx_bytes = totals.rx_bytes.wrapping_add(self.poll.received_bytes());
        sum(&mut totals.multicast, &self.poll.rx_multicast);
        sum(&mut totals.rx_dropped, &self.poll.rx_no_memory);
        sum(&mut totals.rx_errors, &self.poll.rx_bad);
        sum(&mut totals.tx_packets, &self.poll.tx_packets);
        sum(&mut totals.tx_bytes, &self.poll.tx_bytes);
        sum(&mut totals.tx_dropped, &self.tx.dropped);
        sum(&mut totals.tx_dropped, &self.poll.tx_lost);
        sum(&mut totals.tx_errors, &self.poll.tx_errors);
    }
}
