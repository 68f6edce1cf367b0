// SPDX-License-Identifier: GPL-2.0

//! Looking at the indices of a mapped ring. What they mean is in [`crate::vmbus::ring`].

use crate::{bindings, vmbus::ring::bytes_used};

/// A ring's indices as they were at one moment, and its size.
#[derive(Clone, Copy, Debug)]
pub(super) struct RingIndices {
    pub(super) write: u32,
    pub(super) read: u32,
    pub(super) size: u32,
}

impl RingIndices {
    /// Reads the indices, which the host may change at any time, once.
    ///
    /// # Safety
    ///
    /// `info` belongs to an open channel.
    #[inline]
    pub(super) unsafe fn read(info: *const bindings::hv_ring_buffer_info) -> Self {
        // SAFETY: The channel is open, so `ring_buffer` is the mapped ring, whose header begins with the
        // two indices; they are only ever reached by pointer.
        unsafe {
            let header = (*info).ring_buffer.cast::<u32>();
            Self {
                write: header.read_volatile(),
                read: header.add(1).read_volatile(),
                size: (*info).ring_datasize,
            }
        }
    }

    /// Whether these are indices that no honest host leaves: outside the ring, or, as all packets are whole words, not at a
    /// word.
    #[inline]
    pub(super) fn is_nonsense(&self) -> bool {
        self.write % 8 != 0 || bytes_used(self.write, self.read, self.size).is_none()
    }
}
