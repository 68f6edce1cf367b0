// SPDX-License-Identifier: GPL-2.0

//! State that belongs to the holder of a transmit queue's lock.

use super::{device::tx_queue, Device, SkBuff, SkbList};
use crate::bindings;
use core::{cell::UnsafeCell, marker::PhantomData};
use kernel::types::NotThreadSafe;

/// Proof of holding the lock of one transmit queue of one device: what `ndo_start_xmit` runs under.
pub(crate) struct TxQueueGuard<'a> {
    dev: *mut bindings::net_device,
    queue: u16,
    /// Taken here and to be given back, rather than by the core around `ndo_start_xmit`.
    owned: bool,
    _dev: PhantomData<&'a ()>,
    _thread: NotThreadSafe,
}

impl<'a> TxQueueGuard<'a> {
    /// The lock that the core holds around `ndo_start_xmit`.
    ///
    /// # Safety
    ///
    /// The lock of `queue` of `dev` is held by this CPU for `'a`, bottom halves disabled.
    pub(super) unsafe fn assume_held(dev: *mut bindings::net_device, queue: u16) -> Self {
        Self {
            dev,
            queue,
            owned: false,
            _dev: PhantomData,
            _thread: NotThreadSafe,
        }
    }

    /// Takes the lock of `queue`; `None` if the device has no such queue.
    pub(crate) fn lock<T>(dev: &'a Device<T>, queue: u16) -> Option<Self> {
        if u32::from(queue) >= dev.tx_queues() {
            return None;
        }
        // SAFETY: `dev` lives for `'a` and has the queue.
        unsafe { bindings::__netif_tx_lock_bh(tx_queue(dev.as_raw(), queue)) };
        Some(Self {
            dev: dev.as_raw(),
            queue,
            owned: true,
            _dev: PhantomData,
            _thread: NotThreadSafe,
        })
    }

    /// Sends frames, past the queueing discipline; returns how many were lost because the queue is stopped or took them
    /// not.
    pub(crate) fn send(&mut self, mut frames: SkbList) -> u32 {
        let mut lost = 0u32;
        while let Some(skb) = frames.pop() {
            let more = frames.len() > 0;
            // SAFETY: The device lives as long as the guard, which holds the queue's lock, bottom halves disabled. The
            // guard that `ndo_start_xmit` makes takes the place of this one meanwhile. A buffer that it does not take
            // stays ours.
            unsafe {
                let txq = tx_queue(self.dev, self.queue);
                if bindings::netif_xmit_frozen_or_drv_stopped(txq) {
                    return lost.wrapping_add(frames.len()).wrapping_add(1);
                }
                let skb = skb.into_raw_for(self.queue);
                if bindings::netdev_start_xmit(skb, self.dev, txq, more)
                    != bindings::netdev_tx_NETDEV_TX_OK
                {
                    drop(SkBuff::from_raw(skb));
                    lost = lost.wrapping_add(1);
                }
            }
        }
        lost
    }

    /// The queue whose lock is held.
    pub(crate) fn queue(&self) -> u16 {
        self.queue
    }
}

impl Drop for TxQueueGuard<'_> {
    fn drop(&mut self) {
        if self.owned {
            // SAFETY: Taken in `lock` by this thread (the guard is not `Send`).
            unsafe { bindings::__netif_tx_unlock_bh(tx_queue(self.dev, self.queue)) };
        }
    }
}

/// Says that a transmit queue's lock is held, beside the state that the lock protects.
#[derive(Clone, Copy)]
pub(crate) struct TxLocked<'a> {
    dev: *mut bindings::net_device,
    queue: u16,
    _guard: PhantomData<&'a TxQueueGuard<'a>>,
}

impl TxLocked<'_> {
    /// Byte queue limits: `bytes` are about to go out. They must come back by [`Device::tx_completed`] or be
    /// forgotten by [`TxLocked::reset_limits`].
    #[inline]
    pub(crate) fn sent(self, bytes: u32) {
        // SAFETY: The device and its queue live as long as the guard, which holds the queue's lock.
        unsafe { bindings::netdev_tx_sent_queue(tx_queue(self.dev, self.queue), bytes) };
    }

    /// Byte queue limits: nothing is on its way any more, and no poll runs.
    pub(crate) fn reset_limits(self) {
        // SAFETY: As in `sent`.
        unsafe { bindings::netdev_tx_reset_queue(tx_queue(self.dev, self.queue)) };
    }
}

/// A value that only the holder of a certain transmit queue's lock can reach.
pub(crate) struct TxCell<S> {
    dev: *const bindings::net_device,
    queue: u16,
    value: UnsafeCell<S>,
}

// SAFETY: The value may move with the cell; the device pointer is only compared.
unsafe impl<S: Send> Send for TxCell<S> {}
// SAFETY: `get` gives the value to one lock holder at a time, on any CPU.
unsafe impl<S: Send> Sync for TxCell<S> {}

impl<S> TxCell<S> {
    /// A value for the lock of `queue` of `dev`.
    pub(crate) fn new<T>(dev: &Device<T>, queue: u16, value: S) -> Self {
        Self {
            dev: dev.as_raw(),
            queue,
            value: UnsafeCell::new(value),
        }
    }

    /// The value, for as long as the lock is held, and the proof that it is; `None` if the lock is another
    /// queue's.
    #[inline]
    pub(crate) fn get<'a>(
        &'a self,
        guard: &'a mut TxQueueGuard<'_>,
    ) -> Option<(&'a mut S, TxLocked<'a>)> {
        if !core::ptr::eq(self.dev, guard.dev) || self.queue != guard.queue {
            return None;
        }
        let locked = TxLocked {
            dev: guard.dev,
            queue: guard.queue,
            _guard: PhantomData,
        };
        // SAFETY: `guard` proves that this CPU holds the lock that this cell was made for, and is
        // borrowed mutably for as long as the result: nobody else has a reference to the value, and
        // a guard for the same lock cannot exist twice, since the lock excludes it.
        let value = unsafe { &mut *self.value.get() };
        Some((value, locked))
    }
}
