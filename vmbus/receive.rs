// SPDX-License-Identifier: GPL-2.0

//! Receiving from an open channel: packets as private copies, ring space given back, interrupts masked
//! and unmasked.
//!
//! C source: `drivers/hv/ring_buffer.c`. The packet at the private read index is copied to a buffer of the
//! channel, so that the host cannot change what was checked; lengths are those of the copy. This is what
//! `hv_pkt_iter_first` does, but a length that cannot be true is an error here, and short packets are copied
//! by moves. The host writes its index whenever and however it likes: here it is checked before use.

use crate::{
    bindings,
    vmbus::{
        channel::{Interrupt, OpenChannel},
        packet::{Packet, DESCRIPTOR_LEN, TRAILER_LEN},
        ring::bytes_used,
        shared_copy::copy_shared,
        shared_ring::RingIndices,
    },
};
use core::{
    slice,
    sync::atomic::{fence, AtomicBool, Ordering},
};
use kernel::sync::atomic::{Acquire, AtomicFlag, Release};

impl<H: Interrupt> OpenChannel<H> {
    /// The reader of the channel; `None` while there is one already.
    pub fn reader(&self) -> Option<Reader<'_>> {
        if self.reading.xchg(true, Acquire) {
            return None;
        }
        // INVARIANT: The channel is open as long as it is borrowed, and `reading` was false.
        Some(Reader {
            raw: self.as_raw(),
            reading: &self.reading,
            broken: &self.broken,
            current: None,
            unpublished: false,
            malformed: 0,
        })
    }

    /// Asks the host for no interrupts, as [`crate::vmbus::channel::InterruptedChannel::mask`] does.
    #[inline]
    pub fn mask(&self) {
        // SAFETY: The channel is open.
        unsafe { bindings::hv_begin_read(&raw mut (*self.as_raw()).inbound) };
    }

    /// Bytes that the host has written and nobody has read; changes at any time.
    pub fn bytes_to_read(&self) -> u32 {
        // SAFETY: The channel is open, so the ring is mapped.
        unsafe { readable(self.as_raw()) }
    }

    /// Whether the host wrote a packet longer than what it says it has written. Where the next one begins
    /// is not known then: nothing is read any more until the channel has been closed and opened.
    #[inline]
    pub fn is_broken(&self) -> bool {
        self.broken.load(Ordering::Relaxed)
    }

    /// Lets the host interrupt again. True if packets came while it could not: then the reader must
    /// mask and read once more, as the host may not interrupt for them.
    #[inline]
    pub fn unmask(&self) -> bool {
        if self.is_broken() {
            return false;
        }
        // SAFETY: The channel is open, so the ring is mapped.
        unsafe {
            if bindings::hv_end_read(&raw mut (*self.as_raw()).inbound) == 0 {
                return false;
            }
            readable(self.as_raw()) >= DESCRIPTOR_LEN as u32
        }
    }
}

/// Bytes between the private read index and the host's write index; 0 if that index is nonsense, which
/// only a broken or hostile host writes.
///
/// # Safety
///
/// `raw` is a valid, open channel.
unsafe fn readable(raw: *mut bindings::vmbus_channel) -> u32 {
    // SAFETY: By the requirements of this function.
    let (ring, read) = unsafe {
        let inbound = &raw const (*raw).inbound;
        (RingIndices::read(inbound), (*inbound).priv_read_index)
    };
    // What the host wrote before its index is read after it.
    fence(Ordering::Acquire);
    bytes_used(ring.write, read, ring.size).unwrap_or(0)
}

/// Reads a channel's packets in order. There is one at a time.
///
/// Dropping it gives the space of what was read back to the host.
///
/// # Invariants
///
/// `raw` is open, and `reading` is true for us: nobody else touches the ring's private read index and the
/// packet buffer.
pub struct Reader<'a> {
    raw: *mut bindings::vmbus_channel,
    reading: &'a AtomicFlag,
    broken: &'a AtomicBool,
    /// Bytes in the ring of the packet that was returned last.
    current: Option<u32>,
    unpublished: bool,
    malformed: u64,
}

// SAFETY: The reader can move between CPUs: the C object is not bound to one.
unsafe impl Send for Reader<'_> {}

impl Reader<'_> {
    /// The next packet, as a copy that lives until the next call. `None` if there is none.
    #[inline]
    pub fn next_packet(&mut self) -> Option<Packet<'_>> {
        loop {
            self.advance();
            // SAFETY: Open by the type invariant.
            let written = unsafe { readable(self.raw) };
            if written < DESCRIPTOR_LEN as u32 || self.broken.load(Ordering::Relaxed) {
                return None;
            }
            let Some((len, copied)) = self.copy_packet(written) else {
                self.broken.store(true, Ordering::Relaxed);
                self.malformed = self.malformed.wrapping_add(1);
                return None;
            };
            self.current = Some(len);
            // SAFETY: Open by the type invariant; `copy_packet` wrote so many bytes of the packet buffer, which
            // changes only in the next call.
            let bytes = unsafe {
                slice::from_raw_parts((*self.raw).inbound.pkt_buffer.cast::<u8>(), copied)
            };
            match Packet::parse(bytes) {
                Ok(packet) => return Some(packet),
                Err(_) => self.malformed = self.malformed.wrapping_add(1),
            }
        }
    }

    /// Copies the packet at the private read index to the channel's packet buffer, each byte once. Returns its
    /// bytes in the ring without the trailer, and how many were copied: fewer if the buffer is too small. `None`
    /// if the packet is longer than the `written` bytes, or than none: where the next begins is not known then.
    #[inline]
    fn copy_packet(&self, written: u32) -> Option<(u32, usize)> {
        // SAFETY: Open by the type invariant, so ring and packet buffer are there and do not move. Data follow the
        // ring's header. The private read index is within them, and their pages are mapped twice in a row: `written`
        // bytes are readable from it, as `readable` found no more than the ring has. The packet buffer has `pkt_buffer_size` bytes, is ours
        // while we read, and is aligned for a descriptor, which it is large enough for.
        unsafe {
            let inbound = &raw const (*self.raw).inbound;
            let to = (*inbound).pkt_buffer.cast::<u8>();
            let data = (*inbound).ring_buffer.cast::<u8>();
            let from = data
                .add(size_of::<bindings::hv_ring_buffer>())
                .add((*inbound).priv_read_index as usize);
            copy_shared(from, to, DESCRIPTOR_LEN);
            let len = u32::from((*to.cast::<bindings::vmpacket_descriptor>()).len8).wrapping_mul(8);
            if len < DESCRIPTOR_LEN as u32 || len.saturating_add(TRAILER_LEN as u32) > written {
                return None;
            }
            let copied = len.min((*inbound).pkt_buffer_size) as usize;
            let rest = copied.saturating_sub(DESCRIPTOR_LEN);
            copy_shared(from.add(DESCRIPTOR_LEN), to.add(DESCRIPTOR_LEN), rest);
            Some((len, copied))
        }
    }

    /// The packet returned last counts as not read: it comes again.
    pub fn put_back(&mut self) {
        self.current = None;
    }

    /// Gives the space of what was read back to the host, and signals it if it waits for that. To be
    /// called now and then during a long poll. The packet returned last counts as read.
    #[inline]
    pub fn publish(&mut self) {
        self.advance();
        if self.unpublished {
            self.unpublished = false;
            // SAFETY: Open by the type invariant; sets the shared read index to the private one.
            unsafe { bindings::hv_pkt_iter_close(self.raw) };
        }
    }

    /// Whether there is nothing to read now.
    pub fn is_empty(&mut self) -> bool {
        self.advance();
        // SAFETY: Open by the type invariant.
        unsafe { readable(self.raw) < DESCRIPTOR_LEN as u32 }
    }

    /// Packets that were skipped because their descriptor made no sense.
    pub fn malformed(&self) -> u64 {
        self.malformed
    }

    /// Steps over the packet returned last, as `__hv_pkt_iter_next` does, but without copying another.
    #[inline]
    fn advance(&mut self) {
        let Some(len) = self.current.take() else {
            return;
        };
        // SAFETY: Open by the type invariant; the geometry does not change while it is.
        let size = unsafe { (*self.raw).inbound.ring_datasize };
        // SAFETY: Open by the type invariant, and the index is ours alone.
        let index = unsafe { &mut (*self.raw).inbound.priv_read_index };
        let next = index.wrapping_add(len).wrapping_add(TRAILER_LEN as u32);
        *index = if next >= size {
            next.wrapping_sub(size)
        } else {
            next
        };
        self.unpublished = true;
    }
}

impl Drop for Reader<'_> {
    fn drop(&mut self) {
        self.publish();
        // After all that touches the ring.
        self.reading.store(false, Release);
    }
}
