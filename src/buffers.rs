// SPDX-License-Identifier: GPL-2.0

//! The two buffers shared with the host for the length of an attach.

use crate::attach::CALL_MS;
use crate::debug_view::HostError;
use crate::device::Adapter;
use crate::net::Device;
use crate::rndis::bringup::Negotiated;
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
    pub(crate) receive: Store,
    /// The send buffer.
    pub(crate) send: Store,
}

impl Kept {
    /// Gets memory for buffers of `receive` and `send` bytes where those of the attached device have other sizes. To be
    /// called before that is taken down: then a lack of memory changes nothing, and nobody waits for zeros to be written.
    pub(crate) fn prepare(&mut self, negotiated: &Negotiated, receive: u32, send: u32) -> Result {
        let result = self
            .receive
            .prepare(negotiated.receive_buffer, receive)
            .and_then(|()| self.send.prepare(negotiated.send_buffer, send));
        if result.is_err() {
            self.tidy();
        }
        result
    }

    /// Frees memory that is not needed after all, or no longer.
    pub(crate) fn tidy(&mut self) {
        self.receive.spare = None;
        self.send.spare = None;
    }

    /// Takes back what the host still has, and frees the memory.
    pub(crate) fn release(&mut self, dev: &Device<Adapter>) {
        self.tidy();
        for kept in [self.receive.kept.take(), self.send.kept.take()] {
            if let Some(KeptBuffer::Shared(buffer)) = kept {
                drop(unshare(dev, buffer));
            }
        }
    }
}

/// One of the two buffers between a detach and the attach that follows.
#[derive(Default)]
pub(crate) struct Store {
    /// What the device had.
    pub(crate) kept: Option<KeptBuffer>,
    /// Memory of another size: before the buffer is shared what it will need, afterwards what it had.
    spare: Option<Pages>,
}

impl Store {
    fn prepare(&mut self, now: u32, wanted: u32) -> Result {
        if now != wanted {
            self.spare = Some(Pages::new(wanted as usize)?);
        }
        Ok(())
    }

    /// A buffer of `len` bytes, shared over `channel`: what was kept as it is if it is as long, else memory that is at hand
    /// or new. The `deadline` is asked for when all of that is done. Errors as of [`SharedBuffer::establish`].
    pub(crate) fn share(
        &mut self,
        dev: &Device<Adapter>,
        channel: &ChannelRef,
        len: u32,
        deadline: impl FnOnce() -> Deadline,
    ) -> Result<SharedBuffer> {
        let len = len as usize;
        let kept = match self.kept.take() {
            Some(KeptBuffer::Shared(buffer)) if buffer.len() == len => return Ok(buffer),
            // One that does not come back is not missed.
            Some(KeptBuffer::Shared(buffer)) => unshare(dev, buffer),
            Some(KeptBuffer::Memory(pages)) => Some(pages),
            None => None,
        };
        let memory = match kept {
            Some(pages) if pages.bytes() == len => Some(pages),
            // Freed once there is traffic again.
            other => core::mem::replace(&mut self.spare, other),
        };
        // Zeroing takes its time, which is not the host's.
        let memory = match memory {
            Some(pages) if pages.bytes() == len => pages,
            _ => Pages::new(len)?,
        };
        SharedBuffer::establish(channel.clone(), len, Some(memory), deadline())
    }
}

/// One buffer that nobody uses.
pub(crate) enum KeptBuffer {
    /// The host still has it.
    Shared(SharedBuffer),
    /// Only its memory.
    Memory(Pages),
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
