// SPDX-License-Identifier: GPL-2.0

//! Waiting for the host with a time limit.
//!
//! C header: `include/linux/completion.h`. `kernel::sync::Completion` can wait only without limit and
//! cannot be used twice. A host may never answer: everything here ends at a [`Deadline`].

use core::ptr::addr_of;
use kernel::{
    bindings,
    prelude::*,
    time::{msecs_to_jiffies, Jiffies, Msecs},
    types::Opaque,
};

/// A point in time at which waiting ends. Several waits can share one, as the budget of an operation.
#[derive(Clone, Copy, Debug)]
pub struct Deadline(Jiffies);

impl Deadline {
    /// `ms` milliseconds from now. Limited to about a day, so that the clock may wrap.
    pub fn after(ms: Msecs) -> Self {
        const DAY: Msecs = 24 * 3600 * 1000;
        Self(now().wrapping_add(msecs_to_jiffies(ms.min(DAY))))
    }

    /// The sooner of two.
    pub fn min(self, other: Self) -> Self {
        if self.left() <= other.left() {
            self
        } else {
            other
        }
    }

    /// Jiffies left; 0 when it has passed.
    pub fn left(self) -> Jiffies {
        let left = self.0.wrapping_sub(now());
        // A deadline lies at most a day ahead; what looks like more is in the past.
        if left > Jiffies::MAX / 2 {
            0
        } else {
            left
        }
    }

    /// Whether it has passed.
    pub fn passed(self) -> bool {
        self.left() == 0
    }
}

/// A point in time that has passed, for people.
#[derive(Clone, Copy, Debug)]
pub struct Moment(Jiffies);

impl Moment {
    /// Now.
    pub fn now() -> Self {
        Self(now())
    }

    /// Milliseconds since then.
    pub fn elapsed(self) -> u64 {
        // SAFETY: Pure arithmetic.
        unsafe { bindings::jiffies64_to_msecs(now().wrapping_sub(self.0) as u64) }
    }
}

fn now() -> Jiffies {
    // SAFETY: The kernel's tick counter is always mapped; an aligned word is read whole.
    unsafe { addr_of!(bindings::jiffies).read_volatile() }
}

/// Something that one party signals and another waits for, any number of times.
#[pin_data]
pub struct Completion {
    #[pin]
    inner: Opaque<bindings::completion>,
}

// SAFETY: A C completion may be used from any task.
unsafe impl Send for Completion {}

// SAFETY: A C completion has its own lock.
unsafe impl Sync for Completion {}

impl Completion {
    /// A completion that has not been signalled.
    pub fn new() -> impl PinInit<Self> {
        pin_init!(Self {
            inner <- Opaque::ffi_init(|slot: *mut bindings::completion| {
                // SAFETY: `slot` is valid for writes.
                unsafe { bindings::init_completion(slot) };
            }),
        })
    }

    /// Signals: one wait, present or future, ends. From any context.
    pub fn complete(&self) {
        // SAFETY: `inner` was initialised in `new`, and is pinned.
        unsafe { bindings::complete(self.inner.get()) };
    }

    /// Ends all waits until [`Completion::reset`]. From any context.
    pub fn complete_all(&self) {
        // SAFETY: As in `complete`.
        unsafe { bindings::complete_all(self.inner.get()) };
    }

    /// Forgets signals that nobody has waited for (C's `reinit_completion`). The caller sees to it that
    /// nobody waits or signals now; a signal that races with this is lost or kept.
    pub fn reset(&self) {
        // SAFETY: An aligned word of an object that was initialised in `new`.
        unsafe { (&raw mut (*self.inner.get()).done).write_volatile(0) };
    }

    /// Takes a signal if there is one, without waiting. From any context.
    pub fn try_wait(&self) -> bool {
        // SAFETY: As in `complete`.
        unsafe { bindings::try_wait_for_completion(self.inner.get()) }
    }

    /// Waits, sleeping and uninterruptible. False if `deadline` passed first.
    pub fn wait(&self, deadline: Deadline) -> bool {
        self.wait_jiffies(deadline.left())
    }

    /// As [`Completion::wait`], but returns false after `slice` milliseconds too.
    pub(super) fn wait_slice(&self, deadline: Deadline, slice: Msecs) -> bool {
        self.wait_jiffies(deadline.left().min(msecs_to_jiffies(slice)))
    }

    fn wait_jiffies(&self, jiffies: Jiffies) -> bool {
        // SAFETY: As in `complete`. A wait of 0 only looks.
        unsafe { bindings::wait_for_completion_timeout(self.inner.get(), jiffies) != 0 }
    }
}
