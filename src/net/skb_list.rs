// SPDX-License-Identifier: GPL-2.0

//! Socket buffers that wait together.

use super::SkBuff;
use crate::bindings;
use core::ptr;

/// Owned socket buffers, first in, first out. Those left when it is dropped are lost packets.
///
/// # Invariants
///
/// `first` begins a chain of owned buffers, linked by `next`, that ends with `last`; both are null if there are none.
pub(crate) struct SkbList {
    first: *mut bindings::sk_buff,
    last: *mut bindings::sk_buff,
    len: u32,
}

// SAFETY: Owns its buffers, which may go to any thread.
unsafe impl Send for SkbList {}

impl SkbList {
    /// None.
    pub(crate) const fn new() -> Self {
        Self {
            first: ptr::null_mut(),
            last: ptr::null_mut(),
            len: 0,
        }
    }

    /// How many there are.
    pub(crate) fn len(&self) -> u32 {
        self.len
    }

    /// Adds a buffer at the end.
    pub(crate) fn push(&mut self, skb: SkBuff) {
        let skb = skb.into_raw();
        // SAFETY: The buffer is ours and on no other list; the chain's last one is ours by the invariant.
        unsafe {
            *next(skb) = ptr::null_mut();
            match self.last.is_null() {
                true => self.first = skb,
                false => *next(self.last) = skb,
            }
        }
        // INVARIANT: It is linked behind the one that was last, and nothing comes behind it.
        self.last = skb;
        self.len = self.len.wrapping_add(1);
    }

    /// Takes the first buffer.
    pub(crate) fn pop(&mut self) -> Option<SkBuff> {
        let skb = self.first;
        if skb.is_null() {
            return None;
        }
        // SAFETY: Ours by the invariant, which the change of `first` keeps.
        unsafe {
            self.first = *next(skb);
            *next(skb) = ptr::null_mut();
        }
        if self.first.is_null() {
            self.last = ptr::null_mut();
        }
        self.len = self.len.wrapping_sub(1);
        // SAFETY: It has left the list, which owned it.
        Some(unsafe { SkBuff::from_raw(skb) })
    }
}

impl Default for SkbList {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for SkbList {
    fn drop(&mut self) {
        while let Some(skb) = self.pop() {
            drop(skb);
        }
    }
}

/// The link to the next buffer of a list.
///
/// # Safety
///
/// `skb` is valid.
unsafe fn next(skb: *mut bindings::sk_buff) -> *mut *mut bindings::sk_buff {
    // SAFETY: The caller's promise; the union's members all begin with the links.
    unsafe { &raw mut (*skb).__bindgen_anon_1.__bindgen_anon_1.next }
}
