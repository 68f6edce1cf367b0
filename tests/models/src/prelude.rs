// SPDX-License-Identifier: GPL-2.0

//! What `src/net/published.rs` takes from the kernel's prelude.

pub use crate::pr_err;

/// A box whose memory stays readable when it is dropped, so that a use after that is an assertion and not
/// undefined behaviour. The value's own `drop` runs.
#[derive(Debug)]
pub struct KBox<T>(*mut T);

// SAFETY: It owns its `T`, as a `Box` does.
unsafe impl<T: Send> Send for KBox<T> {}

impl<T> KBox<T> {
    /// A box.
    pub fn new(value: T) -> Self {
        Self(Box::into_raw(Box::new(value)))
    }

    /// Gives the box away.
    pub fn into_raw(this: Self) -> *mut T {
        let raw = this.0;
        core::mem::forget(this);
        raw
    }

    /// Takes it back.
    ///
    /// # Safety
    ///
    /// `raw` is from [`KBox::into_raw`] and has not been taken back.
    pub unsafe fn from_raw(raw: *mut T) -> Self {
        Self(raw)
    }
}

impl<T> Drop for KBox<T> {
    fn drop(&mut self) {
        // SAFETY: The value is ours and dropped once. Its memory is leaked.
        unsafe { core::ptr::drop_in_place(self.0) };
    }
}

/// Says nothing: a model runs a hundred thousand times.
#[macro_export]
macro_rules! pr_err {
    ($($arg:tt)*) => {
        let _ = format_args!($($arg)*);
    };
}
