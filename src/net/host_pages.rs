// SPDX-License-Identifier: GPL-2.0

//! Pages that the driver writes and a host reads by physical address.

use crate::bindings;
use kernel::prelude::*;

/// Bytes of a page.
pub(crate) const PAGE_SIZE: usize = 4096;

/// A page, aligned to its size.
#[repr(C, align(4096))]
struct HostPage([u8; PAGE_SIZE]);

// SAFETY: An array of bytes; zero is a value.
unsafe impl pin_init::Zeroable for HostPage {}

/// A number of pages, each physically contiguous in itself.
///
/// The host reads only while a packet that names the page is in flight; what it reads then is what was
/// written before that packet was sent.
pub(crate) struct HostPages {
    pages: KVec<KBox<HostPage>>,
}

impl HostPages {
    /// `count` zeroed pages.
    pub(crate) fn new(count: usize) -> Result<Self> {
        let mut pages = KVec::with_capacity(count, GFP_KERNEL)?;
        for _ in 0..count {
            let page = KBox::init(pin_init::init_zeroed::<HostPage>(), GFP_KERNEL)?;
            pages.push_within_capacity(page)?;
        }
        Ok(Self { pages })
    }

    /// Writes `bytes` at `offset`, counted over all pages, and returns the physical address. `None` if
    /// they would not lie within one page.
    #[inline]
    pub(crate) fn write(&mut self, offset: usize, bytes: &[u8]) -> Option<u64> {
        let page = self.pages.get_mut(offset / PAGE_SIZE)?;
        let within = offset % PAGE_SIZE;
        let end = within.checked_add(bytes.len())?;
        page.0.get_mut(within..end)?.copy_from_slice(bytes);
        // SAFETY: The page is in the linear mapping (kmalloc).
        let number = unsafe { bindings::virt_to_hvpfn((&raw mut page.0).cast()) };
        Some(
            (number as u64)
                .wrapping_mul(PAGE_SIZE as u64)
                .wrapping_add(within as u64),
        )
    }
}
