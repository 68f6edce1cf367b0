// SPDX-License-Identifier: GPL-2.0

//! An object that packet paths read without a lock and that configuration publishes and takes back.

use super::{grace_period::GracePeriod, Config, SoftIrq};
use crate::atomic::{AtomicPtr, AtomicU32, Ordering};
use core::{
    marker::PhantomData,
    mem::ManuallyDrop,
    ops::Deref,
    ptr::{self, NonNull},
};
use kernel::prelude::*;

/// A slot for one `T`: readers borrow it for the length of their softirq section, one acquire load;
/// the configuration side fills it, and takes it back after the last reader has gone.
///
/// # Invariants
///
/// `slot` is null or came from `KBox::into_raw`, and this slot owns it. What left the slot is dropped only
/// if `lent` was zero after that, and only after the softirq sections that may have seen it.
pub(crate) struct Published<T> {
    slot: AtomicPtr<T>,
    /// How many [`Lent`] there are.
    lent: AtomicU32,
    _owns: PhantomData<KBox<T>>,
}

// SAFETY: Ownership of the `T` moves with the slot.
unsafe impl<T: Send> Send for Published<T> {}
// SAFETY: Readers on any CPU get `&T`, and `unpublish` may hand the `T` to another thread than the one
// that published it.
unsafe impl<T: Send + Sync> Sync for Published<T> {}

impl<T> Published<T> {
    /// An empty slot.
    pub(crate) fn new() -> Self {
        // INVARIANT: Null is allowed.
        Self {
            slot: AtomicPtr::new(ptr::null_mut()),
            lent: AtomicU32::new(0),
            _owns: PhantomData,
        }
    }

    /// What is published, for as long as the softirq section lasts.
    #[inline]
    pub(crate) fn get<'a>(&'a self, _section: SoftIrq<'a>) -> Option<&'a T> {
        // SAFETY: By the invariant the pointer is null or a live `T`. It is dropped only after it
        // left the slot and a grace period ended, which waits for this section.
        unsafe { self.slot.load(Ordering::Acquire).as_ref() }
    }

    /// What is published, for the configuration side: for longer than a softirq section, across sleeps.
    pub(crate) fn get_config<'a>(&'a self, _config: &Config<'_>) -> Option<Lent<'a, T>> {
        // Before the slot is read: see `unpublish`.
        let count = Count::raise(&self.lent);
        let value = NonNull::new(self.slot.load(Ordering::SeqCst))?;
        // INVARIANT: Counted first, read then.
        Some(Lent {
            value,
            _count: count,
        })
    }

    /// Publishes `value`. An already published object is left alone and `value` comes back.
    pub(crate) fn publish(&self, _config: &Config<'_>, value: KBox<T>) -> Result<(), KBox<T>> {
        let new = KBox::into_raw(value);
        // INVARIANT: The slot was empty if this succeeds; it then owns `value`.
        self.slot
            .compare_exchange(ptr::null_mut(), new, Ordering::Release, Ordering::Relaxed)
            .map(drop)
            // SAFETY: From `into_raw` above; the slot has not taken it.
            .map_err(|_| unsafe { KBox::from_raw(new) })
    }

    /// Keeps new readers from the object; it is had back by [`Unpublished::take`].
    ///
    /// While the configuration side itself borrows it, which would be a defect of the caller, it is given up:
    /// it is never freed, and `None` comes back as if nothing had been published.
    pub(crate) fn unpublish(&self, _config: &Config<'_>) -> Option<Unpublished<T>> {
        let value = NonNull::new(self.slot.swap(ptr::null_mut(), Ordering::SeqCst))?;
        // Both sides write one variable and then look at the other, all in one total order: whoever still
        // found `value` in the slot had raised the count before, so it shows here.
        if self.lent.load(Ordering::SeqCst) != 0 {
            pr_err!("a published object is taken back while it is in use: leaked\n");
            return None;
        }
        // INVARIANT: By the slot's invariant it came from `into_raw` and was the slot's; it has left it, and
        // nobody had borrowed it then.
        Some(Unpublished {
            value,
            readers: GracePeriod::from_now(),
        })
    }
}

/// An object that no new reader finds. Dropping it waits for the old ones, as [`Unpublished::take`] does.
///
/// # Invariants
///
/// `value` came from `KBox::into_raw` and belongs to this object. It left its slot before the moment of
/// `readers`.
pub(crate) struct Unpublished<T> {
    value: NonNull<T>,
    readers: GracePeriod,
}

// SAFETY: Ownership of the `T` moves along.
unsafe impl<T: Send> Send for Unpublished<T> {}

impl<T> Unpublished<T> {
    /// The object, once no reader is left. Sleeps, unless another wait for readers that came later has ended.
    pub(crate) fn take(self) -> KBox<T> {
        let mut this = ManuallyDrop::new(self);
        this.readers.wait();
        // SAFETY: By the type invariant it is ours. Readers that could have seen it are gone, later ones saw an
        // empty slot.
        unsafe { KBox::from_raw(this.value.as_ptr()) }
    }
}

impl<T> Drop for Unpublished<T> {
    fn drop(&mut self) {
        self.readers.wait();
        // SAFETY: As in `take`.
        drop(unsafe { KBox::from_raw(self.value.as_ptr()) });
    }
}

/// One that is counted, until it is dropped.
struct Count<'a>(&'a AtomicU32);

impl<'a> Count<'a> {
    fn raise(count: &'a AtomicU32) -> Self {
        count.fetch_add(1, Ordering::SeqCst);
        Self(count)
    }
}

impl Drop for Count<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

/// A borrow of the configuration side, see [`Published::get_config`].
///
/// # Invariants
///
/// `value` was read from the slot after this was counted in the slot's `lent`; so it is not dropped.
pub(crate) struct Lent<'a, T> {
    value: NonNull<T>,
    _count: Count<'a>,
}

impl<T> Deref for Lent<'_, T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        // SAFETY: By the type invariant it is alive as long as `self` is.
        unsafe { self.value.as_ref() }
    }
}

impl<T> Drop for Published<T> {
    fn drop(&mut self) {
        // Nobody else is there to write it.
        if let Some(old) = NonNull::new(self.slot.load(Ordering::Relaxed)) {
            // SAFETY: By the invariant it came from `into_raw`; `&mut self` means no reader.
            drop(unsafe { KBox::from_raw(old.as_ptr()) });
        }
    }
}
