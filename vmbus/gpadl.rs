// SPDX-License-Identifier: GPL-2.0

//! Buffers that are shared with the host: memory under a GPADL (guest physical address descriptor list).
//!
//! C source: `drivers/hv/channel.c`. The host can read and write such a buffer at any time until it has
//! acknowledged the teardown, so it is reached by pointers and copies, never by references; and if
//! there is no acknowledgement the memory is leaked and counted, never freed.

use crate::{
    bindings,
    vmbus::{
        bounded::bounded, channel::ChannelRef, completion::Deadline, shared_copy::copy_shared,
    },
};
use core::{marker::PhantomData, mem, ptr::NonNull};
use kernel::{
    error::to_result,
    prelude::*,
    sync::atomic::{Atomic, Relaxed},
};

const PAGE: usize = crate::vmbus::packet::PAGE_SIZE as usize;

static LEAKED: Atomic<u64> = Atomic::new(0);

/// Bytes leaked since the module was loaded because the host may still use them.
pub fn leaked_bytes() -> u64 {
    LEAKED.load(Relaxed)
}

/// What `hv_vmbus` makes of a refusal by the host; the kernel crate does not name it.
fn edquot() -> Error {
    Error::from_errno(-(kernel::bindings::EDQUOT as i32))
}

/// Pages that are contiguous to the kernel, not to the host. What is in them the host may know.
///
/// # Invariants
///
/// `start` points at `len` mapped bytes from `vzalloc`, which belong to this object.
pub struct Pages {
    start: NonNull<u8>,
    len: usize,
}

// SAFETY: Plain memory, which can be freed from any thread.
unsafe impl Send for Pages {}

impl Pages {
    /// `len` zeroed bytes.
    pub fn new(len: usize) -> Result<Self> {
        // SAFETY: No preconditions.
        let start = unsafe { bindings::vzalloc_noprof(len) };
        // INVARIANT: Just allocated.
        Ok(Self {
            start: NonNull::new(start.cast()).ok_or(ENOMEM)?,
            len,
        })
    }

    /// Its bytes.
    pub fn bytes(&self) -> usize {
        self.len
    }

    /// Never frees the memory: the host may still use it.
    fn leak(self, channel: &ChannelRef) {
        LEAKED.add(self.len as u64, Relaxed);
        dev_err!(
            channel.device(),
            "leaked {} bytes that the host may still use\n",
            self.len
        );
        mem::forget(self);
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        // SAFETY: By the type invariant.
        unsafe { bindings::vfree(self.start.as_ptr().cast()) };
    }
}

/// A buffer shared with the host. To be ended by [`SharedBuffer::teardown`]; one that is dropped otherwise
/// is leaked.
///
/// # Invariants
///
/// `gpadl` was established over `pages` on `channel`, and not torn down.
pub struct SharedBuffer {
    pages: Option<Pages>,
    gpadl: bindings::vmbus_gpadl,
    channel: ChannelRef,
}

// SAFETY: `gpadl` holds a pointer to `pages` only; everything can be released from any thread.
unsafe impl Send for SharedBuffer {}

// SAFETY: Shared access copies to and from memory that the host changes anyway.
unsafe impl Sync for SharedBuffer {}

impl SharedBuffer {
    /// Most bytes that one GPADL can cover: the message counts the bytes of its page list in 16 bits.
    pub const MAX_LEN: usize = 8190 * PAGE;

    /// Shares `len` bytes over `channel`, open or closed: `kept`, from an earlier buffer of the same device, if
    /// that is as long, with what is in it; else new zeroed memory.
    ///
    /// Errors: `EINVAL` if `len` is 0, not a multiple of 4096 or above [`SharedBuffer::MAX_LEN`], `ENOMEM`,
    /// `EDQUOT` if the host refuses, `ENODEV` if it has taken the channel away, `ETIMEDOUT` if it has not
    /// answered by `deadline`; should it do so later, the buffer is torn down.
    pub fn establish(
        channel: ChannelRef,
        len: usize,
        kept: Option<Pages>,
        deadline: Deadline,
    ) -> Result<Self> {
        bounded(
            deadline,
            move || Self::establish_unlimited(channel, len, kept),
            |late| {
                // What the host does not give back was leaked and counted.
                drop(late.and_then(Self::teardown_unlimited));
            },
        )
        .unwrap_or(Err(ETIMEDOUT))
    }

    /// As [`SharedBuffer::establish`], but waits for the host without limit.
    fn establish_unlimited(channel: ChannelRef, len: usize, kept: Option<Pages>) -> Result<Self> {
        if len == 0 || len % PAGE != 0 || len > Self::MAX_LEN {
            return Err(EINVAL);
        }
        let pages = match kept.filter(|pages| pages.len == len) {
            Some(pages) => pages,
            None => Pages::new(len)?,
        };
        let mut gpadl = bindings::vmbus_gpadl::default();
        // SAFETY: The channel and the pages are valid, and the length is a multiple of the page size
        // that fits `u32`.
        let result = to_result(unsafe {
            bindings::vmbus_establish_gpadl(
                channel.as_raw(),
                pages.start.as_ptr().cast(),
                len as u32,
                &mut gpadl,
            )
        });
        if let Err(error) = result {
            // `decrypted` after an error: the pages could not be made private again. And unless the
            // host was not told yet (ENOMEM), has refused or is gone, part of the list may have
            // reached it.
            if gpadl.decrypted || !(error == ENOMEM || error == edquot() || error == ENODEV) {
                pages.leak(&channel);
            }
            return Err(error);
        }
        // INVARIANT: Just established.
        Ok(Self {
            pages: Some(pages),
            gpadl,
            channel,
        })
    }

    /// Takes the buffer back from the host. What comes back can be shared again.
    ///
    /// If the host cannot be told or does not acknowledge, the memory is leaked and this fails with `EIO`; with
    /// `ETIMEDOUT` if the host has not answered by `deadline`: the memory is freed when it does.
    pub fn teardown(self, deadline: Deadline) -> Result<Pages> {
        bounded(deadline, move || self.teardown_unlimited(), drop).unwrap_or(Err(ETIMEDOUT))
    }

    /// As [`SharedBuffer::teardown`], but waits for the host without limit.
    fn teardown_unlimited(mut self) -> Result<Pages> {
        // There until here, by the type invariant.
        let pages = self.pages.take().ok_or(EINVAL)?;
        // SAFETY: Established by the type invariant, and torn down only here, where `self` ends.
        let result = to_result(unsafe {
            bindings::vmbus_teardown_gpadl(self.channel.as_raw(), &mut self.gpadl)
        });
        // C returns 0 too when it could not post the message; it clears the handle only after the
        // answer. A host that has taken the channel away uses none of its GPADLs any more.
        let acknowledged = self.gpadl.gpadl_handle == 0 || self.channel.rescinded();
        if result.is_err() || self.gpadl.decrypted || !acknowledged {
            pages.leak(&self.channel);
            return result.and(Err(EIO));
        }
        Ok(pages)
    }

    /// The name by which the host is told of the buffer.
    pub fn handle(&self) -> u32 {
        self.gpadl.gpadl_handle
    }

    /// Length in bytes.
    pub fn len(&self) -> usize {
        self.pages.as_ref().map_or(0, |pages| pages.len)
    }

    /// Never true.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The `len` bytes from `offset`; `None` if they are not all within the buffer.
    #[inline]
    pub fn view(&self, offset: usize, len: usize) -> Option<SharedBytes<'_>> {
        let pages = self.pages.as_ref()?;
        if offset.checked_add(len)? > pages.len {
            return None;
        }
        // SAFETY: Just checked: the result points into the same allocation or to its end.
        let start = unsafe { pages.start.add(offset) };
        // INVARIANT: Within the pages, as was just checked.
        Some(SharedBytes {
            start,
            len,
            _buffer: PhantomData,
        })
    }

    /// Copies `to.len()` bytes from `offset` out of the buffer. `EINVAL` if they are not all within it.
    #[inline]
    pub fn copy_out(&self, offset: usize, to: &mut [u8]) -> Result {
        self.view(offset, to.len()).ok_or(EINVAL)?.copy_to(to)
    }

    /// Copies `from` into the buffer at `offset`. `EINVAL` if it does not fit there. The driver has frames copied by the
    /// kernel's `memcpy`.
    #[cfg(netvsc_kunit)]
    pub fn copy_in(&self, offset: usize, from: &[u8]) -> Result {
        let bytes = self.view(offset, from.len()).ok_or(EINVAL)?;
        // SAFETY: By the invariant of `SharedBytes` these are as many mapped bytes as `from` has, and no reference
        // points to them.
        unsafe { copy_shared(from.as_ptr(), bytes.start.as_ptr(), from.len()) };
        Ok(())
    }
}

impl Drop for SharedBuffer {
    fn drop(&mut self) {
        if let Some(pages) = self.pages.take() {
            pages.leak(&self.channel);
        }
    }
}

/// Bytes of a [`SharedBuffer`], which the host may change at any time.
///
/// # Invariants
///
/// `start` points at `len` bytes that stay mapped, readable and writable for `'a`.
#[derive(Clone, Copy)]
pub struct SharedBytes<'a> {
    start: NonNull<u8>,
    len: usize,
    _buffer: PhantomData<&'a SharedBuffer>,
}

impl<'a> SharedBytes<'a> {
    /// Where they lie. Not to be made a reference of.
    #[inline]
    pub fn as_ptr(&self) -> NonNull<u8> {
        self.start
    }

    /// Length in bytes.
    #[inline]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The `len` bytes from `offset` of these; `None` if they are not all within them.
    #[inline]
    pub fn view(&self, offset: usize, len: usize) -> Option<SharedBytes<'a>> {
        if offset.checked_add(len)? > self.len {
            return None;
        }
        // SAFETY: Just checked: the result points into the same allocation or to its end.
        let start = unsafe { self.start.add(offset) };
        // INVARIANT: Within `self`, as was just checked.
        Some(SharedBytes {
            start,
            len,
            _buffer: PhantomData,
        })
    }

    /// Copies all of them out, once. `EINVAL` unless `to` is exactly as long.
    #[inline]
    pub fn copy_to(&self, to: &mut [u8]) -> Result {
        if to.len() != self.len {
            return Err(EINVAL);
        }
        // SAFETY: By the type invariant the bytes are mapped, and no reference points to them; `to` is as long.
        unsafe { copy_shared(self.start.as_ptr(), to.as_mut_ptr(), self.len) };
        Ok(())
    }
}
