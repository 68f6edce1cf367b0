// SPDX-License-Identifier: GPL-2.0

//! The two buffers shared with the host for the length of an attach.

use crate::attach::CALL_MS;
use crate::debug_view::HostError;
use crate::device::Adapter;
use crate::net::Device;
use crate::rndis::sections::{lines_needed, SectionLine, Sections};
use crate::vmbus::{ChannelRef, Deadline, Pages, SharedBuffer};
use kernel::prelude::*;

/// The buffers between a detach and the attach that follows.
///
/// A GPADL belongs to the channel, open or closed: a rebuild need not take memory back from the host only to share it
/// again, which is the most messages of all its steps. (VMBus 4.0 and later; `uio_hv_generic` does the same.)
#[derive(Default)]
pub(crate) struct Kept {
    /// The receive buffer.
    pub(crate) receive: Option<KeptBuffer>,
    /// The send buffer.
    pub(crate) send: Option<KeptBuffer>,
}

impl Kept {
    /// Takes back what the host still has, and frees the memory.
    pub(crate) fn release(&mut self, dev: &Device<Adapter>) {
        for kept in [self.receive.take(), self.send.take()] {
            if let Some(KeptBuffer::Shared(buffer)) = kept {
                drop(unshare(dev, buffer));
            }
        }
    }
}

/// One buffer that nobody uses.
pub(crate) enum KeptBuffer {
    /// The host still has it.
    Shared(SharedBuffer),
    /// Only its memory.
    Memory(Pages),
}

impl KeptBuffer {
    /// A buffer of `len` bytes, shared over `channel`: `kept` as it is if it is as long, else new
    /// memory. Errors as of [`SharedBuffer::establish`] and [`SharedBuffer::teardown`].
    pub(crate) fn share(
        kept: Option<Self>,
        channel: &ChannelRef,
        len: u32,
        deadline: Deadline,
    ) -> Result<SharedBuffer> {
        let len = len as usize;
        let memory = match kept {
            Some(Self::Shared(buffer)) if buffer.len() == len => return Ok(buffer),
            Some(Self::Shared(buffer)) => {
                drop(buffer.teardown(deadline)?);
                None
            }
            Some(Self::Memory(pages)) => Some(pages),
            None => None,
        };
        SharedBuffer::establish(channel.clone(), len, memory, deadline)
    }
}

/// Takes `buffer` back from the host; `None`, having said so, if the host does not give it back.
#[inline(never)]
pub(crate) fn unshare(dev: &Device<Adapter>, buffer: SharedBuffer) -> Option<Pages> {
    let result = buffer.teardown(Deadline::after(CALL_MS));
    result
        .inspect_err(|error| {
            dev.history.error(HostError::NotReturned(*error));
            Adapter::say_err(
                dev,
                format_args!("buffer not returned by the host: {error:?}"),
            );
        })
        .ok()
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
