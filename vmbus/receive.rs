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
        let raw = self.as_raw();
        // SAFETY: The channel is open as long as it is borrowed, so ring and packet buffer are there and do not move. Data
        // follow the ring's header, of one page.
        unsafe {
            let inbound = &raw const (*raw).inbound;
            let header = (*inbound).ring_buffer.cast::<u8>();
            // INVARIANT: `reading` was false; hv_vmbus maps the data twice, and only readers move the private index.
            Some(Reader {
                raw,
                data: header.add(size_of::<bindings::hv_ring_buffer>()),
                size: (*inbound).ring_datasize,
                index: (*inbound).priv_read_index,
                written: 0,
                buffer: (*inbound).pkt_buffer.cast(),
                buffer_len: (*inbound).pkt_buffer_size & !7,
                current: 0,
                unpublished: false,
                malformed: 0,
                reading: &self.reading,
                broken: &self.broken,
            })
        }
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
/// packet buffer. `data` is the ring's memory, `size` bytes that are mapped twice in a row; `index` is below `size` and a
/// multiple of 8; `written` and `current` are at most `size`. `buffer` is the channel's packet buffer, of at least `buffer_len`
/// bytes, a multiple of 8 and enough for a descriptor.
pub struct Reader<'a> {
    raw: *mut bindings::vmbus_channel,
    data: *const u8,
    size: u32,
    /// Where the next packet begins, or the one that was returned last.
    index: u32,
    /// Bytes from there on that the host has written, as was seen last: its index lies on a cache line that it writes.
    written: u32,
    buffer: *mut u64,
    buffer_len: u32,
    /// Bytes in the ring of the packet that was returned last, with its trailer; 0 if there is none.
    current: u32,
    unpublished: bool,
    malformed: u64,
    reading: &'a AtomicFlag,
    broken: &'a AtomicBool,
}

// SAFETY: The reader can move between CPUs: the C object is not bound to one.
unsafe impl Send for Reader<'_> {}

impl Reader<'_> {
    /// The next packet, as a copy that lives until the next call. `None` if there is none.
    #[inline(always)]
    pub fn next_packet(&mut self) -> Option<Packet<'_>> {
        loop {
            self.advance();
            if self.written < DESCRIPTOR_LEN as u32 && !self.look() {
                return None;
            }
            let Some(copied) = self.copy_packet() else {
                self.broken.store(true, Ordering::Relaxed);
                self.written = 0;
                self.malformed = self.malformed.wrapping_add(1);
                return None;
            };
            // SAFETY: `copy_packet` wrote so many bytes of the packet buffer, which changes only in the next call.
            let bytes = unsafe { slice::from_raw_parts(self.buffer.cast::<u8>(), copied) };
            match Packet::parse(bytes) {
                Ok(packet) => return Some(packet),
                Err(_) => self.malformed = self.malformed.wrapping_add(1),
            }
        }
    }

    /// Whether the host has written another packet, or more than it had.
    #[inline]
    fn look(&mut self) -> bool {
        // SAFETY: Open by the type invariant, so the ring is mapped.
        let ring = unsafe { RingIndices::read(&raw const (*self.raw).inbound) };
        // What the host wrote before its index is read after it.
        fence(Ordering::Acquire);
        // INVARIANT: No more than the ring has.
        self.written = bytes_used(ring.write, self.index, self.size).unwrap_or(0);
        self.written >= DESCRIPTOR_LEN as u32 && !self.broken.load(Ordering::Relaxed)
    }

    /// Copies the packet at `index` to the packet buffer, each byte once, and makes it the current one. Returns how many
    /// bytes were copied: fewer than it has if the buffer is too small. `None` if the packet is longer than what
    /// the host has written, or than none: where the next begins is not known then.
    #[inline(always)]
    fn copy_packet(&mut self) -> Option<usize> {
        // SAFETY: The buffer is ours by the type invariant. `index` is below `size`, and `written` bytes from it on lie within
        // the ring, which is mapped twice: at least a descriptor, as the caller has found; then `len`, as is checked here. All
        // are words at words: ring and buffer begin with pages or as kmalloc aligns, `index`, `len` and `buffer_len` are
        // multiples of 8.
        unsafe {
            let from = self.data.add(self.index as usize).cast::<u64>();
            let descriptor = from.read_volatile();
            self.buffer.write(descriptor);
            self.buffer.add(1).write(from.add(1).read_volatile());
            let len = len_of(descriptor);
            let whole = len.wrapping_add(TRAILER_LEN as u32);
            if len < DESCRIPTOR_LEN as u32 || whole > self.written {
                return None;
            }
            let copied = len.min(self.buffer_len) as usize;
            for word in (DESCRIPTOR_LEN / 8)..(copied / 8) {
                self.buffer.add(word).write(from.add(word).read_volatile());
            }
            self.current = whole;
            Some(copied)
        }
    }

    /// The packet returned last counts as not read: it comes again.
    pub fn put_back(&mut self) {
        self.current = 0;
    }

    /// Gives the space of what was read back to the host, and signals it if it waits for that. To be
    /// called now and then during a long poll. The packet returned last counts as read.
    #[inline]
    pub fn publish(&mut self) {
        self.advance();
        if self.unpublished {
            self.unpublished = false;
            // SAFETY: Open by the type invariant, and the private index is ours; C sets the shared one to it.
            unsafe {
                (*self.raw).inbound.priv_read_index = self.index;
                bindings::hv_pkt_iter_close(self.raw);
            }
        }
    }

    /// Whether there is nothing to read now.
    pub fn is_empty(&mut self) -> bool {
        self.advance();
        !self.look()
    }

    /// Packets that were skipped because their descriptor made no sense.
    pub fn malformed(&self) -> u64 {
        self.malformed
    }

    /// Steps over the packet returned last, as `__hv_pkt_iter_next` does, but without copying another.
    #[inline]
    fn advance(&mut self) {
        if self.current == 0 {
            return;
        }
        let next = self.index.wrapping_add(self.current);
        // INVARIANT: `current` is a multiple of 8 and no more than `written`.
        self.index = if next >= self.size {
            next.wrapping_sub(self.size)
        } else {
            next
        };
        self.written = self.written.wrapping_sub(self.current);
        self.current = 0;
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

/// Bytes of a packet, by the first word of its descriptor.
#[inline]
fn len_of(descriptor: u64) -> u32 {
    let [_, _, _, _, low, high, _, _] = descriptor.to_le_bytes();
    u32::from(u16::from_le_bytes([low, high])).wrapping_mul(8)
}
