// SPDX-License-Identifier: GPL-2.0

//! An object that packet paths read without a lock and that configuration publishes and retires.

use super::{Config, SoftIrq};
use crate::bindings;
use core::{
    marker::PhantomData,
    ptr::{self, NonNull},
    sync::atomic::{AtomicPtr, Ordering},
};
use kernel::prelude::*;

/// A slot for one `T`: readers borrow it for the length of their softirq section, one acquire load;
/// the configuration side fills it, and takes it back after the last reader has gone.
///
/// # Invariants
///
/// `slot` is null or came from `KBox::into_raw`, and this slot owns it. It changes only under a
/// [`Config`] (or `&mut self`).
pub(crate) struct Published<T> {
    slot: AtomicPtr<T>,
    _owns: PhantomData<KBox<T>>,
}

// SAFETY: Ownership of the `T` moves with the slot.
unsafe impl<T: Send> Send for Published<T> {}
// SAFETY: Readers on any CPU get `&T`, and `retire` may hand the `T` to another thread than the one
// that published it.
unsafe impl<T: Send + Sync> Sync for Published<T> {}

impl<T> Published<T> {
    /// An empty slot.
    pub(crate) const fn new() -> Self {
        // INVARIANT: Null is allowed.
        Self {
            slot: AtomicPtr::new(ptr::null_mut()),
            _owns: PhantomData,
        }
    }

    /// What is published, for as long as the softirq section lasts.
    #[inline]
    pub(crate) fn get<'a>(&'a self, _section: SoftIrq<'a>) -> Option<&'a T> {
        // SAFETY: By the invariant the pointer is null or a live `T`. It is dropped only after it
        // left the slot and `synchronize_net` returned, which waits for this section.
        unsafe { self.slot.load(Ordering::Acquire).as_ref() }
    }

    /// What is published, for as long as configuration cannot change.
    pub(crate) fn get_config<'a>(&'a self, _config: &'a Config<'_>) -> Option<&'a T> {
        // SAFETY: As above; only a holder of `Config` empties the slot, and the caller is the one.
        unsafe { self.slot.load(Ordering::Acquire).as_ref() }
    }

    /// Publishes `value`. An already published object is left alone and `value` comes back.
    pub(crate) fn publish(&self, _config: &Config<'_>, value: KBox<T>) -> Result<(), KBox<T>> {
        if !self.slot.load(Ordering::Relaxed).is_null() {
            return Err(value);
        }
        // INVARIANT: The slot was empty and only we may change it; it now owns `value`.
        self.slot.store(KBox::into_raw(value), Ordering::Release);
        Ok(())
    }

    /// Takes the object back once no reader is left. Sleeps.
    pub(crate) fn retire(&self, _config: &Config<'_>) -> Option<KBox<T>> {
        let old = NonNull::new(self.slot.swap(ptr::null_mut(), Ordering::AcqRel))?;
        // SAFETY: No argument; configuration may sleep.
        unsafe { bindings::netvsc_synchronize_net() };
        // SAFETY: By the invariant it came from `into_raw` and was ours; readers that could have
        // seen it are gone, later ones see null.
        Some(unsafe { KBox::from_raw(old.as_ptr()) })
    }
}

impl<T> Drop for Published<T> {
    fn drop(&mut self) {
        if let Some(old) = NonNull::new(*self.slot.get_mut()) {
            // SAFETY: By the invariant it came from `into_raw`; `&mut self` means no reader.
            drop(unsafe { KBox::from_raw(old.as_ptr()) });
        }
    }
}
