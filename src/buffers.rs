// SPDX-License-Identifier: GPL-2.0

//! The two buffers shared with the host for the length of an attach.

use crate::rndis::sections::{lines_needed, SectionLine, Sections};
use crate::vmbus::{Pages, SharedBuffer};
use kernel::prelude::*;

/// Memory of the buffers between a detach and the attach that follows, so that a rebuild need not allocate and
/// zero them again.
#[derive(Default)]
pub(crate) struct Kept {
    /// Of the receive buffer.
    pub(crate) receive: Option<Pages>,
    /// Of the send buffer.
    pub(crate) send: Option<Pages>,
}

/// Where the host writes frames and control messages, cut into sections by the host.
pub(crate) struct ReceiveArea {
    /// The memory.
    pub(crate) buffer: SharedBuffer,
    /// Its bytes.
    pub(crate) len: u32,
}

/// Where the driver copies small frames to.
pub(crate) struct SendArea {
    /// The memory.
    pub(crate) buffer: SharedBuffer,
    /// Which sections are in use.
    pub(crate) sections: Sections<KVec<SectionLine>>,
    /// Bytes of a section.
    pub(crate) section_len: u32,
}

impl SendArea {
    /// Deals `count` sections of `section_len` bytes out to `queues` queues. Gives the memory back if
    /// there is none for the book-keeping, or the sections do not lie in the buffer.
    pub(crate) fn new(
        buffer: SharedBuffer,
        count: u32,
        section_len: u32,
        queues: u16,
    ) -> Result<Self, (SharedBuffer, Error)> {
        let fits = u64::from(count)
            .checked_mul(section_len.into())
            .is_some_and(|bytes| bytes <= buffer.len() as u64);
        if !fits {
            return Err((buffer, EINVAL));
        }
        match Self::book(count, queues) {
            Ok(sections) => Ok(Self {
                buffer,
                sections,
                section_len,
            }),
            Err(error) => Err((buffer, error)),
        }
    }

    fn book(count: u32, queues: u16) -> Result<Sections<KVec<SectionLine>>> {
        let lines = lines_needed(count, queues);
        let mut storage = KVec::with_capacity(lines, GFP_KERNEL)?;
        for _ in 0..lines {
            storage.push_within_capacity(SectionLine::default())?;
        }
        Sections::new(storage, count, queues).ok_or(EINVAL)
    }

    /// Where section `index` begins in the buffer.
    #[inline]
    pub(crate) fn offset(&self, index: u32) -> usize {
        (index as usize).wrapping_mul(self.section_len as usize)
    }
}
