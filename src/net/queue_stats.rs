// SPDX-License-Identifier: GPL-2.0

//! Statistics of single queues, over netlink (`netdev` family, `qstats-get`).
//!
//! C header: `include/net/netdev_queues.h`. The sum over the queues in use and the base is the total of the
//! interface; the base holds what queues counted that are not in use now.

use super::{ops, Device};
use crate::bindings;
use core::marker::PhantomData;
use kernel::ffi::c_int;

/// Receive counters of a queue.
#[derive(Clone, Copy, Default)]
pub(crate) struct RxQueueStats {
    /// Frames.
    pub(crate) packets: u64,
    /// Their bytes.
    pub(crate) bytes: u64,
    /// Frames lost for want of memory.
    pub(crate) alloc_fail: u64,
    /// Frames and messages that were refused.
    pub(crate) drops: u64,
}

/// Transmit counters of a queue.
#[derive(Clone, Copy, Default)]
pub(crate) struct TxQueueStats {
    /// Frames.
    pub(crate) packets: u64,
    /// Their bytes.
    pub(crate) bytes: u64,
    /// Frames that were not sent.
    pub(crate) drops: u64,
    /// Frames that the host refused; among `drops`.
    pub(crate) drop_errors: u64,
    /// Frames that the host was asked to segment.
    pub(crate) lso_packets: u64,
    /// Their bytes.
    pub(crate) lso_bytes: u64,
    /// Frames that become of them on the wire.
    pub(crate) lso_wire_packets: u64,
    /// The bytes of those, with a header each.
    pub(crate) lso_wire_bytes: u64,
    /// Times the queue was stopped.
    pub(crate) stop: u64,
    /// Times it was woken.
    pub(crate) wake: u64,
}

impl RxQueueStats {
    fn add(&mut self, other: &Self) {
        let add = |sum: &mut u64, value: u64| *sum = sum.wrapping_add(value);
        add(&mut self.packets, other.packets);
        add(&mut self.bytes, other.bytes);
        add(&mut self.alloc_fail, other.alloc_fail);
        add(&mut self.drops, other.drops);
    }

    /// Fields that are not set stay "not available".
    fn write(&self, out: &mut bindings::netdev_queue_stats_rx) {
        out.packets = self.packets;
        out.bytes = self.bytes;
        out.alloc_fail = self.alloc_fail;
        out.hw_drops = self.drops;
    }
}

impl TxQueueStats {
    fn add(&mut self, other: &Self) {
        let add = |sum: &mut u64, value: u64| *sum = sum.wrapping_add(value);
        add(&mut self.packets, other.packets);
        add(&mut self.bytes, other.bytes);
        add(&mut self.drops, other.drops);
        add(&mut self.drop_errors, other.drop_errors);
        add(&mut self.lso_packets, other.lso_packets);
        add(&mut self.lso_bytes, other.lso_bytes);
        add(&mut self.lso_wire_packets, other.lso_wire_packets);
        add(&mut self.lso_wire_bytes, other.lso_wire_bytes);
        add(&mut self.stop, other.stop);
        add(&mut self.wake, other.wake);
    }

    /// Fields that are not set stay "not available".
    fn write(&self, out: &mut bindings::netdev_queue_stats_tx) {
        out.packets = self.packets;
        out.bytes = self.bytes;
        out.hw_drops = self.drops;
        out.hw_drop_errors = self.drop_errors;
        out.hw_gso_packets = self.lso_packets;
        out.hw_gso_bytes = self.lso_bytes;
        out.hw_gso_wire_packets = self.lso_wire_packets;
        out.hw_gso_wire_bytes = self.lso_wire_bytes;
        out.stop = self.stop;
        out.wake = self.wake;
    }
}

/// The table, for a device whose private area holds a `T`.
pub(super) fn vtable<T: ops::Operations>() -> &'static bindings::netdev_stat_ops {
    &Vtable::<T>::OPS
}

struct Vtable<T>(PhantomData<T>);

impl<T: ops::Operations> Vtable<T> {
    const OPS: bindings::netdev_stat_ops = bindings::netdev_stat_ops {
        get_queue_stats_rx: Some(Self::rx),
        get_queue_stats_tx: Some(Self::tx),
        get_base_stats: Some(Self::base),
    };

    extern "C" fn rx(
        dev: *mut bindings::net_device,
        index: c_int,
        stats: *mut bindings::netdev_queue_stats_rx,
    ) {
        // SAFETY: The core passes our device, and `stats` for the call.
        let (dev, stats) = unsafe { (Device::<T>::from_raw(dev), &mut *stats) };
        if let Ok(index) = u16::try_from(index) {
            T::rx_queue_stats(dev, index).write(stats);
        }
    }

    extern "C" fn tx(
        dev: *mut bindings::net_device,
        index: c_int,
        stats: *mut bindings::netdev_queue_stats_tx,
    ) {
        // SAFETY: As in `rx`.
        let (dev, stats) = unsafe { (Device::<T>::from_raw(dev), &mut *stats) };
        if let Ok(index) = u16::try_from(index) {
            T::tx_queue_stats(dev, index).write(stats);
        }
    }

    extern "C" fn base(
        dev: *mut bindings::net_device,
        rx: *mut bindings::netdev_queue_stats_rx,
        tx: *mut bindings::netdev_queue_stats_tx,
    ) {
        // SAFETY: As in `rx`; numbers of queues change under RTNL, which the core holds.
        let (used_rx, used_tx) = unsafe { ((*dev).real_num_rx_queues, (*dev).real_num_tx_queues) };
        // SAFETY: As in `rx`.
        let (dev, rx, tx) = unsafe { (Device::<T>::from_raw(dev), &mut *rx, &mut *tx) };
        let idle = |from: u32, all: u32| (from..all).filter_map(|index| u16::try_from(index).ok());
        let mut sum = RxQueueStats::default();
        for index in idle(used_rx, dev.rx_queues()) {
            sum.add(&T::rx_queue_stats(dev, index));
        }
        sum.write(rx);
        let mut sum = TxQueueStats::default();
        for index in idle(used_tx, dev.tx_queues()) {
            sum.add(&T::tx_queue_stats(dev, index));
        }
        sum.write(tx);
    }
}
