// SPDX-License-Identifier: GPL-2.0

//! Writing packets to the ring of an open channel.
//!
//! C source: `drivers/hv/ring_buffer.c`, `hv_ringbuffer_write`: the same lock, layout, order and counters. Several
//! packets can be written under one lock, and the host hears of them together; packets are copied by moves; and
//! the indices, which the host can change, are checked before use.

use crate::{
    bindings,
    vmbus::{
        channel::{Interrupt, OpenChannel},
        packet::{DESCRIPTOR_LEN, TRAILER_LEN},
        ring::bytes_free,
        send::SendError,
        shared_ring::RingIndices,
    },
};
use core::{
    marker::PhantomData,
    sync::atomic::{fence, Ordering},
};
use kernel::{
    ffi::c_ulong,
    sync::atomic::{Atomic, Full},
};

/// Where `struct hv_ring_buffer` has its fields, in units of 4 bytes.
const WRITE_INDEX: usize = 0;
const READ_INDEX: usize = 1;
const INTERRUPT_MASK: usize = 2;

impl<H: Interrupt> OpenChannel<H> {
    /// Lets `write` put packets into the ring, and then tells the host of all that it put, with one signal at most, and
    /// none if the host is reading anyway. Interrupts are off while `write` runs: it should be short.
    ///
    /// `Rescinded`: the host has taken the channel away, before or meanwhile; what was written has no reader.
    /// Otherwise the result of `write`.
    #[inline(always)]
    pub fn write(
        &self,
        write: impl FnOnce(&mut Writer<'_>) -> Result<(), SendError>,
    ) -> Result<(), SendError> {
        if self.reference().rescinded() {
            return Err(SendError::Rescinded);
        }
        // SAFETY: The channel is open as long as it is borrowed.
        let mut writer = unsafe { Writer::lock(self.as_raw()) };
        let result = write(&mut writer);
        writer.finish();
        if self.reference().rescinded() {
            return Err(SendError::Rescinded);
        }
        result
    }
}

/// Puts packets into a channel's outbound ring. The host does not see them before [`OpenChannel::write`] ends.
///
/// # Invariants
///
/// `raw` is open, and we hold the lock of its outbound ring. `data` is the ring's memory, `size` bytes that are mapped
/// twice in a row; `next` is below `size` and a multiple of 8; `free` is at most `size`.
pub struct Writer<'a> {
    raw: *mut bindings::vmbus_channel,
    /// Interrupt state from before the lock.
    flags: c_ulong,
    data: *mut u8,
    size: u32,
    /// Where the first packet begins.
    first: u32,
    /// Where the next packet begins.
    next: u32,
    /// Bytes that the host is not reading.
    free: u32,
    _channel: PhantomData<&'a ()>,
}

impl Writer<'_> {
    /// Takes the ring's lock.
    ///
    /// # Safety
    ///
    /// `raw` is open, and stays so until [`Self::finish`], which must be called.
    #[inline]
    unsafe fn lock(raw: *mut bindings::vmbus_channel) -> Self {
        // SAFETY: By the requirements of this function; an open channel has its rings mapped. The data follow a header of
        // one page.
        let (flags, ring, data) = unsafe {
            let outbound = &raw mut (*raw).outbound;
            let flags = bindings::netvsc_spin_lock_irqsave(&raw mut (*outbound).ring_lock);
            let header = (*outbound).ring_buffer.cast::<u8>();
            let data = header.add(size_of::<bindings::hv_ring_buffer>());
            (flags, RingIndices::read(outbound), data)
        };
        // With an index that no honest host leaves there is no room: see `RingIndices::is_nonsense`.
        let (next, free) = if ring.is_nonsense() {
            (0, 0)
        } else {
            (ring.write, bytes_free(ring.write, ring.read, ring.size))
        };
        // INVARIANT: Checked or locked above; hv_vmbus maps the data twice.
        Self {
            raw,
            flags,
            data,
            size: ring.size,
            first: next,
            next,
            free,
            _channel: PhantomData,
        }
    }

    /// Puts a packet: `head`, which begins with a descriptor that tells the packet's length, is a multiple of 8 bytes
    /// long; `payload` is filled up with zeros to a multiple of 8.
    ///
    /// `Full`: there is no room. `Invalid`: the packet is longer than its descriptor can say or the ring is.
    #[inline(always)]
    pub(super) fn put(&mut self, head: &[u8], payload: &[u8]) -> Result<(), SendError> {
        let len = packet_len(head, payload, self.size).ok_or(SendError::Invalid)?;
        let total = len.wrapping_add(TRAILER_LEN as u32);
        // Equal indices would mean an empty ring.
        if self.free <= total {
            self.count_full();
            return Err(SendError::Full);
        }
        // What the protocol wants behind each packet: where it began.
        let trailer = u64::from(self.next) << 32;
        // SAFETY: By the type invariants `next < size`, and `total < free <= size`, so all that is written lies within the
        // ring, which is mapped twice. `len` is head and payload rounded up to 8. All are words at words: the ring begins
        // with a page, and `next`, the length of `head` and `len` are multiples of 8.
        unsafe {
            let at = self.data.add(self.next as usize);
            put_words(head, at.cast());
            put_words(payload, at.add(head.len()).cast());
            at.add(len as usize).cast::<u64>().write_volatile(trailer);
        }
        let next = self.next.wrapping_add(total);
        // INVARIANT: `total` is a multiple of 8, below `free` and so below `size`.
        self.next = if next >= self.size {
            next.wrapping_sub(self.size)
        } else {
            next
        };
        self.free = self.free.wrapping_sub(total);
        Ok(())
    }

    /// The counters in the channel's folder of sysfs, as `hv_vmbus` keeps them.
    #[cold]
    #[inline(never)]
    fn count_full(&mut self) {
        // SAFETY: Open by the type invariant; the counters are written under the ring's lock, which we hold.
        unsafe {
            let channel = self.raw;
            (*channel).out_full_total = (*channel).out_full_total.wrapping_add(1);
            if !(*channel).out_full_flag {
                (*channel).out_full_first = (*channel).out_full_first.wrapping_add(1);
                (*channel).out_full_flag = true;
            }
        }
    }

    /// Shows the host what was put, gives the lock back, and signals the host if it may have seen an empty ring.
    #[inline]
    fn finish(self) {
        let (raw, written) = (self.raw, self.next != self.first);
        // SAFETY: Open by the type invariant, so the ring and its header are mapped, and the lock is ours.
        let header = unsafe { (*raw).outbound.ring_buffer.cast::<u32>() };
        if written {
            // SAFETY: The header begins with the write index, which is aligned, and which we reach by pointer only. The
            // exchange orders: packets before it, what is read below after it.
            unsafe {
                (*raw).out_full_flag = false;
                Atomic::<u32>::from_ptr(header.add(WRITE_INDEX)).xchg(self.next, Full);
            }
        }
        // SAFETY: We hold the lock and took it with these flags.
        unsafe {
            bindings::spin_unlock_irqrestore(&raw mut (*raw).outbound.ring_lock, self.flags);
        }
        if written {
            // SAFETY: The channel is open as long as this lives.
            unsafe { signal_if_wanted(raw, header, self.first) };
        }
    }
}

/// Copies `bytes`, filled up with zeros to whole words. Volatile, so that the compiler never reads back what the host may
/// have changed.
///
/// # Safety
///
/// `to` is writable for so many words.
#[inline(always)]
unsafe fn put_words(bytes: &[u8], to: *mut u64) {
    let mut words = bytes.chunks_exact(8);
    let mut to = to;
    for word in &mut words {
        let mut whole = [0; 8];
        whole.copy_from_slice(word);
        // SAFETY: By the requirements of this function.
        unsafe {
            to.write_volatile(u64::from_ne_bytes(whole));
            to = to.add(1);
        }
    }
    let rest = words.remainder();
    if !rest.is_empty() {
        let mut last = [0; 8];
        for (to, from) in last.iter_mut().zip(rest) {
            *to = *from;
        }
        // SAFETY: By the requirements of this function.
        unsafe { to.write_volatile(u64::from_ne_bytes(last)) };
    }
}

/// Signals the host, if it wants that and had read everything before `first`.
///
/// # Safety
///
/// `raw` is open, `header` is the header of its outbound ring, and a full barrier lies between the last change of the write
/// index and this.
#[inline]
unsafe fn signal_if_wanted(raw: *mut bindings::vmbus_channel, header: *const u32, first: u32) {
    // SAFETY: By the requirements of this function; both words lie in the header.
    unsafe {
        if header.add(INTERRUPT_MASK).read_volatile() != 0 {
            return;
        }
        // The mask is read before the index.
        fence(Ordering::Acquire);
        if header.add(READ_INDEX).read_volatile() == first {
            signal(raw);
        }
    }
}

/// Signals the host, which takes an exit to it or a monitor page.
///
/// # Safety
///
/// `raw` is open.
#[inline(never)]
unsafe fn signal(raw: *mut bindings::vmbus_channel) {
    // SAFETY: By the requirements of this function. The count is a statistic for sysfs, which `hv_vmbus` does not lock
    // either.
    unsafe {
        let signals = &raw mut (*raw).intr_out_empty;
        signals.write_volatile(signals.read_volatile().wrapping_add(1));
        bindings::vmbus_setevent(raw);
    }
}

/// Bytes of a packet without its trailer; `None` if it is longer than a descriptor can say, or than an empty ring holds.
#[inline(always)]
fn packet_len(head: &[u8], payload: &[u8], ring: u32) -> Option<u32> {
    if head.len() < DESCRIPTOR_LEN || head.len() % 8 != 0 {
        return None;
    }
    let len = head.len().checked_add(payload.len())?;
    let len = u32::try_from(len.checked_next_multiple_of(8)?).ok()?;
    let fits =
        len <= u32::from(u16::MAX).wrapping_mul(8) && len < ring.saturating_sub(TRAILER_LEN as u32);
    fits.then_some(len)
}
