// SPDX-License-Identifier: GPL-2.0

//! Memory that another party may read and write while we use it.

use core::ptr::NonNull;

/// A block of memory shared with a party that follows no rules of ours.
///
/// # Safety
///
/// `region` returns `Some` only for bytes that stay mapped, readable and writable for as long as `self` is
/// borrowed. They are reached through raw pointers only, never through references, because the other
/// party may change them at any time.
pub(crate) unsafe trait SharedMemory {
    /// The `len` bytes from `offset`; `None` if they are not all within the block.
    fn region(&self, offset: usize, len: usize) -> Option<NonNull<u8>>;
}

// SAFETY: A view lies within pages that stay mapped while the buffer is borrowed, and is handed out as
// pointer only.
unsafe impl SharedMemory for crate::vmbus::SharedBuffer {
    #[inline]
    fn region(&self, offset: usize, len: usize) -> Option<NonNull<u8>> {
        self.view(offset, len).map(|bytes| bytes.as_ptr())
    }
}
