// SPDX-License-Identifier: GPL-2.0

//! Delayed work that is cancelled before what it works on goes away.

use crate::bindings;
use core::{marker::PhantomPinned, pin::Pin};
use kernel::{container_of, prelude::*, time::msecs_to_jiffies, types::Opaque};

/// Runs `fn(&T)` in process context after a delay. Dropping it cancels and waits.
///
/// # Invariants
///
/// `work` is initialised; `data` outlives every run because drop cancels synchronously first.
#[pin_data(PinnedDrop)]
pub(crate) struct DelayedWork<T: Send + Sync + 'static> {
    #[pin]
    work: Opaque<bindings::delayed_work>,
    run: fn(&T),
    data: T,
    #[pin]
    _pin: PhantomPinned,
}

// SAFETY: `data` is `Send + Sync`; the C object may be queued and cancelled from any thread.
unsafe impl<T: Send + Sync> Send for DelayedWork<T> {}
// SAFETY: As above.
unsafe impl<T: Send + Sync> Sync for DelayedWork<T> {}

impl<T: Send + Sync + 'static> DelayedWork<T> {
    /// Work that calls `run(&data)`.
    pub(crate) fn new(data: T, run: fn(&T)) -> impl PinInit<Self> {
        Self::with_timer(data, run, false)
    }

    /// The same, but a processor that sleeps is not woken for it: the work waits for the next cause.
    pub(crate) fn deferrable(data: T, run: fn(&T)) -> impl PinInit<Self> {
        Self::with_timer(data, run, true)
    }

    fn with_timer(data: T, run: fn(&T), deferrable: bool) -> impl PinInit<Self> {
        pin_init!(Self {
            // SAFETY: `slot` is valid for writes; the function matches the work's place in `Self`.
            work <- Opaque::ffi_init(|slot| unsafe {
                bindings::netvsc_delayed_work_init(slot, Some(Self::trampoline), deferrable)
            }),
            run,
            data,
            _pin: PhantomPinned,
        })
    }

    /// Queues the work to run in `msecs` milliseconds; nothing if it is queued already. Any context.
    pub(crate) fn queue(&self, msecs: u32) {
        // SAFETY: `work` is initialised and pinned.
        unsafe { bindings::schedule_delayed_work(self.work.get(), msecs_to_jiffies(msecs)) };
    }

    /// Cancels the work and waits for a running one. Sleeps.
    pub(crate) fn cancel(&self) {
        // SAFETY: `work` is initialised and pinned.
        unsafe { bindings::cancel_delayed_work_sync(self.work.get()) };
    }

    extern "C" fn trampoline(work: *mut bindings::work_struct) {
        // SAFETY: The core calls with the `work` member of our `delayed_work`.
        let delayed = unsafe { container_of!(work, bindings::delayed_work, work) };
        // SAFETY: That lies in a `Self` (`Opaque` is transparent), which is pinned and, because drop
        // cancels synchronously, alive.
        let this = unsafe {
            &*container_of!(delayed.cast::<Opaque<bindings::delayed_work>>(), Self, work)
        };
        (this.run)(&this.data);
    }
}

#[pinned_drop]
impl<T: Send + Sync + 'static> PinnedDrop for DelayedWork<T> {
    fn drop(self: Pin<&mut Self>) {
        self.cancel();
    }
}
