// SPDX-License-Identifier: GPL-2.0

//! A spin lock shared between process context and softirq: `spin_lock_bh`.

use crate::bindings;
use kernel::{
    ffi::c_char,
    sync::lock::{Backend, Lock},
};

/// A lock that disables bottom halves while held, so that the softirq side of the same CPU cannot
/// spin on it. Not for hard interrupts.
pub(crate) type SpinLockBh<T> = Lock<T, SpinLockBhBackend>;

/// [`Backend`] of [`SpinLockBh`].
pub(crate) struct SpinLockBhBackend;

// SAFETY: `spinlock_t` gives mutual exclusion; every path locks and unlocks with the `_bh` pair.
unsafe impl Backend for SpinLockBhBackend {
    type State = kernel::bindings::spinlock_t;
    type GuardState = ();

    unsafe fn init(
        ptr: *mut Self::State,
        name: *const c_char,
        key: *mut kernel::bindings::lock_class_key,
    ) {
        // SAFETY: The caller guarantees that `ptr` is valid for writes, `name` and `key` for ever.
        unsafe { kernel::bindings::__spin_lock_init(ptr, name, key) }
    }

    #[inline]
    unsafe fn lock(ptr: *mut Self::State) -> Self::GuardState {
        // SAFETY: The caller guarantees an initialised lock.
        unsafe { bindings::spin_lock_bh(ptr.cast()) }
    }

    #[inline]
    unsafe fn try_lock(ptr: *mut Self::State) -> Option<Self::GuardState> {
        // SAFETY: The caller guarantees an initialised lock.
        unsafe { bindings::spin_trylock_bh(ptr.cast()) != 0 }.then_some(())
    }

    #[inline]
    unsafe fn unlock(ptr: *mut Self::State, _state: &Self::GuardState) {
        // SAFETY: The caller owns the lock.
        unsafe { bindings::spin_unlock_bh(ptr.cast()) }
    }

    unsafe fn assert_is_held(ptr: *mut Self::State) {
        // SAFETY: The caller guarantees an initialised lock.
        unsafe { kernel::bindings::spin_assert_is_held(ptr) }
    }
}
