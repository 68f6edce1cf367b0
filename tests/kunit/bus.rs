// SPDX-License-Identifier: GPL-2.0

//! Devices on a VMBus without a hypervisor (`bus.c`), and the host's end of their rings.

use crate::bindings;
use crate::vmbus::{
    self,
    packet::{DESCRIPTOR_LEN, TRAILER_LEN},
};
use core::{
    ptr::NonNull,
    slice,
    sync::atomic::{fence, Ordering},
};
use kernel::{device::Core, prelude::*};

/// Bytes in front of a ring's data.
const HEADER: usize = 4096;
/// Longest packet that the host's end handles.
pub(crate) const MAX_PACKET: usize = 2048;

/// Devices that somebody still refers to, of all tests.
pub(crate) fn devices() -> i32 {
    // SAFETY: Reads a counter.
    unsafe { bindings::netvsc_kunit_devices() }
}

/// Sub-channels that somebody still refers to, of all tests.
pub(crate) fn subchannels() -> i32 {
    // SAFETY: Reads a counter.
    unsafe { bindings::netvsc_kunit_subchannels() }
}

/// How many references keep this module from being unloaded.
pub(crate) fn module_references() -> i32 {
    // SAFETY: Reads a counter of the module whose code this is.
    unsafe { bindings::netvsc_kunit_module_references() }
}

/// A device of the test's. Dropping it takes it away.
///
/// # Invariants
///
/// From `netvsc_kunit_device_new`, and not removed.
pub(crate) struct TestDevice(NonNull<bindings::hv_device>);

// SAFETY: A pointer to a C object that lives as long as this; tests share it between threads on purpose.
unsafe impl Send for TestDevice {}
// SAFETY: As above.
unsafe impl Sync for TestDevice {}

impl TestDevice {
    /// With a closed primary channel.
    pub(crate) fn new() -> Result<Self> {
        // SAFETY: No preconditions.
        let raw = unsafe { bindings::netvsc_kunit_device_new() };
        // INVARIANT: Just made.
        NonNull::new(raw).map(Self).ok_or(ENOMEM)
    }

    /// As the driver's probe gets it.
    pub(crate) fn core(&self) -> &vmbus::Device<Core<'_>> {
        // SAFETY: By the type invariant it is a valid device; `vmbus::Device` is transparent over it. Nobody binds or
        // unbinds it, so the test may say that it is in the core's context.
        unsafe { self.0.cast().as_ref() }
    }

    /// The primary channel, closed.
    pub(crate) fn channel(&self) -> Result<vmbus::Channel> {
        self.core().channel()
    }

    /// The host's end of the primary channel.
    pub(crate) fn host(&self) -> HostEnd {
        // SAFETY: By the type invariant; the device has a channel from the start.
        HostEnd(unsafe { NonNull::new_unchecked((*self.0.as_ptr()).channel) })
    }

    /// Runs `f` with the host's end of channel `index`, 0 for the primary, whose rings cannot go away meanwhile;
    /// `None` if it is not open.
    pub(crate) fn with_rings<R>(&self, index: u16, f: impl FnOnce(HostEnd) -> R) -> Option<R> {
        // SAFETY: By the type invariant.
        let channel = unsafe { bindings::netvsc_kunit_rings_hold(self.0.as_ptr(), index.into()) };
        let result = f(HostEnd(NonNull::new(channel)?));
        // SAFETY: Held since.
        unsafe { bindings::netvsc_kunit_rings_release(self.0.as_ptr()) };
        Some(result)
    }

    /// Offers sub-channels `1..=count`, which the driver is told of. For a host at the rings, as in
    /// [`TestDevice::with_rings`].
    pub(crate) fn offer(&self, count: u16) -> Result {
        for index in 1..=count {
            // SAFETY: By the type invariant; the caller holds the rings.
            let offered = unsafe { bindings::netvsc_kunit_offer(self.0.as_ptr(), index) };
            kernel::error::to_result(offered)?;
        }
        Ok(())
    }

    fn state(&self) -> *mut bindings::netvsc_kunit_host {
        // SAFETY: By the type invariant.
        unsafe { bindings::netvsc_kunit_host_of(self.0.as_ptr()) }
    }

    /// The next opening ends with this error; 0 for none.
    pub(crate) fn refuse_open(&self, errno: i32) {
        // SAFETY: Lives with the device; the driver's calls read it later.
        unsafe { (*self.state()).open_error = errno };
    }

    /// The next buffers cannot be shared, with this error; 0 for none.
    pub(crate) fn refuse_gpadl(&self, errno: i32) {
        // SAFETY: As in `refuse_open`.
        unsafe { (*self.state()).gpadl_error = errno };
    }

    /// Whether the host ignores that buffers are taken back.
    pub(crate) fn keep_gpadls(&self, keep: bool) {
        // SAFETY: As in `refuse_open`.
        unsafe { (*self.state()).keeps_gpadls = keep };
    }

    /// Frees buffers that the driver has leaked; returns how many. None of those that are shared may be in use.
    pub(crate) fn free_leaked(&self) -> i32 {
        // SAFETY: By the type invariant; what is still shared has no other owner, by the caller's word.
        unsafe { bindings::netvsc_kunit_free_leaked(self.0.as_ptr()) }
    }

    /// Whether somebody reads what the guest sends.
    pub(crate) fn set_running(&self, running: bool) {
        // SAFETY: As in `refuse_open`.
        unsafe { (*self.state()).running = running };
    }

    /// How often the channel was opened and closed.
    pub(crate) fn opened_closed(&self) -> (u32, u32) {
        // SAFETY: As in `refuse_open`; both are written under calls that have returned.
        unsafe { ((*self.state()).opened, (*self.state()).closed) }
    }

    /// Buffers that are shared now.
    pub(crate) fn shared(&self) -> usize {
        // SAFETY: As in `opened_closed`.
        let gpadls = unsafe { (*self.state()).gpadls };
        gpadls.iter().filter(|gpadl| gpadl.handle != 0).count()
    }

    /// The shared buffer `handle`: where it lies and its bytes.
    pub(crate) fn buffer(&self, handle: u32) -> Option<(NonNull<u8>, usize)> {
        // SAFETY: As in `opened_closed`.
        let gpadls = unsafe { (*self.state()).gpadls };
        let found = gpadls.iter().find(|gpadl| gpadl.handle == handle)?;
        Some((NonNull::new(found.start.cast())?, found.len as usize))
    }

    /// The host takes the device away, or brings it back.
    pub(crate) fn rescind(&self, rescinded: bool) {
        // SAFETY: The channel lives with the device; a byte that others read whole.
        unsafe { (&raw mut (*self.host().0.as_ptr()).rescind).write_volatile(rescinded) };
    }

    /// Signals that the guest has sent to the host.
    pub(crate) fn signals(&self) -> u64 {
        // SAFETY: The channel lives with the device; an aligned word is read whole.
        unsafe { (&raw const (*self.host().0.as_ptr()).sig_events).read_volatile() }
    }
}

impl Drop for TestDevice {
    fn drop(&mut self) {
        // SAFETY: By the type invariant; removed once, here.
        unsafe { bindings::netvsc_kunit_device_remove(self.0.as_ptr()) };
    }
}

/// A ring, by who writes it.
#[derive(Clone, Copy)]
pub(crate) enum Ring {
    /// The guest.
    Outbound,
    /// The host.
    Inbound,
}

/// The host's end of an open channel. For as long as the device is there, which its user sees to.
#[derive(Clone, Copy)]
pub(crate) struct HostEnd(NonNull<bindings::vmbus_channel>);

// SAFETY: A pointer to a C object that tests share between threads on purpose.
unsafe impl Send for HostEnd {}
// SAFETY: As above.
unsafe impl Sync for HostEnd {}

/// Word 0 of a ring's header.
const WRITE_INDEX: usize = 0;
/// Word 1.
const READ_INDEX: usize = 1;
/// Word 2.
const INTERRUPT_MASK: usize = 2;
/// Word 3.
const PENDING_SEND: usize = 3;

impl HostEnd {
    fn info(&self, ring: Ring) -> *const bindings::hv_ring_buffer_info {
        let channel = self.0.as_ptr();
        // SAFETY: The channel lives, as the type says.
        unsafe {
            match ring {
                Ring::Outbound => &raw const (*channel).outbound,
                Ring::Inbound => &raw const (*channel).inbound,
            }
        }
    }

    fn start(&self, ring: Ring) -> *mut u8 {
        // SAFETY: The channel lives; its mapping does not change while it is open.
        unsafe { (*self.info(ring)).ring_buffer.cast() }
    }

    fn word(&self, ring: Ring, index: usize) -> *mut u32 {
        self.start(ring).cast::<u32>().wrapping_add(index)
    }

    fn load(&self, ring: Ring, index: usize) -> u32 {
        // SAFETY: Within the header of a mapped ring.
        unsafe { self.word(ring, index).read_volatile() }
    }

    fn store(&self, ring: Ring, index: usize, value: u32) {
        // SAFETY: As in `load`.
        unsafe { self.word(ring, index).write_volatile(value) };
    }

    fn data(&self, ring: Ring, offset: u32) -> *mut u8 {
        self.start(ring)
            .wrapping_add(HEADER)
            .wrapping_add(offset as usize)
    }

    /// Bytes of a ring's data.
    pub(crate) fn size(&self, ring: Ring) -> u32 {
        // SAFETY: The channel lives; its geometry does not change while it is open.
        unsafe { (*self.info(ring)).ring_datasize }
    }

    /// Whether the guest wants no interrupts.
    pub(crate) fn is_masked(&self) -> bool {
        self.load(Ring::Inbound, INTERRUPT_MASK) != 0
    }

    /// The host wants no signals.
    pub(crate) fn mask_signals(&self, masked: bool) {
        self.store(Ring::Outbound, INTERRUPT_MASK, masked.into());
    }

    /// The host waits for so many bytes of room in the ring that it writes.
    pub(crate) fn wait_for_room(&self, bytes: u32) {
        self.store(Ring::Inbound, PENDING_SEND, bytes);
    }

    /// Indices of a ring: written and read.
    pub(crate) fn indices(&self, ring: Ring) -> (u32, u32) {
        (self.load(ring, WRITE_INDEX), self.load(ring, READ_INDEX))
    }

    /// Writes nonsense.
    pub(crate) fn set_write_index(&self, ring: Ring, index: u32) {
        self.store(ring, WRITE_INDEX, index);
    }

    /// Writes nonsense.
    pub(crate) fn set_read_index(&self, ring: Ring, index: u32) {
        self.store(ring, READ_INDEX, index);
    }

    /// What the guest has sent, as it stands in the ring: descriptor, header, payload. Returns its bytes; `None`
    /// if there is nothing.
    pub(crate) fn read(&self, to: &mut [u8; MAX_PACKET]) -> Option<usize> {
        let (written, read) = self.indices(Ring::Outbound);
        if written == read {
            return None;
        }
        fence(Ordering::Acquire);
        // SAFETY: The guest wrote a descriptor there, and the data is mapped twice in a row.
        let len8 = unsafe {
            self.data(Ring::Outbound, read)
                .add(4)
                .cast::<u16>()
                .read_unaligned()
        };
        let len = usize::from(len8) * 8;
        let out = to.get_mut(..len)?;
        // SAFETY: As above, and the packet is not longer than the ring, or `out` would be.
        out.copy_from_slice(unsafe { slice::from_raw_parts(self.data(Ring::Outbound, read), len) });
        fence(Ordering::SeqCst);
        let next = (read + len as u32 + TRAILER_LEN as u32) % self.size(Ring::Outbound);
        self.store(Ring::Outbound, READ_INDEX, next);
        Some(len)
    }

    /// Writes a packet: descriptor of `kind`, `header` behind it, `payload`. False if there is no room.
    pub(crate) fn write(
        &self,
        kind: u16,
        transaction: u64,
        want_completion: bool,
        header: &[u8],
        payload: &[u8],
    ) -> bool {
        let mut packet = [0u8; MAX_PACKET];
        let offset = (DESCRIPTOR_LEN + header.len()).next_multiple_of(8);
        let len = (offset + payload.len()).next_multiple_of(8);
        packet[0..2].copy_from_slice(&kind.to_le_bytes());
        packet[2..4].copy_from_slice(&((offset / 8) as u16).to_le_bytes());
        packet[4..6].copy_from_slice(&((len / 8) as u16).to_le_bytes());
        packet[6..8].copy_from_slice(&u16::from(want_completion).to_le_bytes());
        packet[8..16].copy_from_slice(&transaction.to_le_bytes());
        packet[16..16 + header.len()].copy_from_slice(header);
        packet[offset..offset + payload.len()].copy_from_slice(payload);
        self.write_raw(&packet[..len])
    }

    /// Writes bytes as a packet, whatever they say. False if there is no room.
    pub(crate) fn write_raw(&self, packet: &[u8]) -> bool {
        let (written, read) = self.indices(Ring::Inbound);
        let size = self.size(Ring::Inbound);
        let used = (written + size - read) % size;
        let whole = (packet.len() + TRAILER_LEN) as u32;
        if size - used <= whole {
            return false;
        }
        // SAFETY: There is room, and the data is mapped twice in a row.
        unsafe {
            let place = self.data(Ring::Inbound, written);
            place.copy_from_nonoverlapping(packet.as_ptr(), packet.len());
            place
                .add(packet.len())
                .cast::<u64>()
                .write_unaligned(u64::from(written) << 32);
        }
        fence(Ordering::SeqCst);
        self.store(Ring::Inbound, WRITE_INDEX, (written + whole) % size);
        true
    }

    /// Interrupts the guest, whether or not it wants that.
    pub(crate) fn interrupt(&self) {
        // SAFETY: The channel lives, as the type says.
        unsafe { bindings::netvsc_kunit_interrupt(self.0.as_ptr()) };
    }
}
