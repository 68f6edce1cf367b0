// SPDX-License-Identifier: GPL-2.0

//! Loom's atomics, made sequentially consistent where that is asked for: Loom itself treats `SeqCst` as `AcqRel` but
//! in fences, so there is a fence on both sides.

pub use loom::sync::atomic::{fence, Ordering};

fn ordered<R>(order: Ordering, access: impl FnOnce() -> R) -> R {
    if order == Ordering::SeqCst {
        fence(Ordering::SeqCst);
    }
    let result = access();
    if order == Ordering::SeqCst {
        fence(Ordering::SeqCst);
    }
    result
}

macro_rules! integers {
    ($($name:ident: $value:ty),*) => {$(
        /// An atomic integer.
        #[derive(Debug, Default)]
        pub struct $name(loom::sync::atomic::$name);

        #[allow(missing_docs)]
        impl $name {
            pub fn new(value: $value) -> Self {
                Self(loom::sync::atomic::$name::new(value))
            }

            pub fn load(&self, order: Ordering) -> $value {
                ordered(order, || self.0.load(order))
            }

            pub fn store(&self, value: $value, order: Ordering) {
                ordered(order, || self.0.store(value, order));
            }

            pub fn swap(&self, value: $value, order: Ordering) -> $value {
                ordered(order, || self.0.swap(value, order))
            }

            pub fn fetch_add(&self, value: $value, order: Ordering) -> $value {
                ordered(order, || self.0.fetch_add(value, order))
            }

            pub fn fetch_sub(&self, value: $value, order: Ordering) -> $value {
                ordered(order, || self.0.fetch_sub(value, order))
            }

            pub fn fetch_and(&self, value: $value, order: Ordering) -> $value {
                ordered(order, || self.0.fetch_and(value, order))
            }

            pub fn compare_exchange(
                &self,
                now: $value,
                next: $value,
                order: Ordering,
                failed: Ordering,
            ) -> Result<$value, $value> {
                ordered(order, || self.0.compare_exchange(now, next, order, failed))
            }

            pub fn compare_exchange_weak(
                &self,
                now: $value,
                next: $value,
                order: Ordering,
                failed: Ordering,
            ) -> Result<$value, $value> {
                ordered(order, || self.0.compare_exchange_weak(now, next, order, failed))
            }
        }
    )*};
}

integers!(AtomicU32: u32, AtomicU64: u64);

/// An atomic pointer.
#[derive(Debug)]
pub struct AtomicPtr<T>(loom::sync::atomic::AtomicPtr<T>);

#[allow(missing_docs)]
impl<T> AtomicPtr<T> {
    pub fn new(value: *mut T) -> Self {
        Self(loom::sync::atomic::AtomicPtr::new(value))
    }

    pub fn load(&self, order: Ordering) -> *mut T {
        ordered(order, || self.0.load(order))
    }

    pub fn swap(&self, value: *mut T, order: Ordering) -> *mut T {
        ordered(order, || self.0.swap(value, order))
    }

    pub fn compare_exchange(
        &self,
        now: *mut T,
        next: *mut T,
        order: Ordering,
        failed: Ordering,
    ) -> Result<*mut T, *mut T> {
        ordered(order, || self.0.compare_exchange(now, next, order, failed))
    }
}
