// SPDX-License-Identifier: GPL-2.0

//! Sending on an open channel. From any context, by any number of senders at a time.
//!
//! C source: `drivers/hv/channel.c`, `drivers/hv/ring_buffer.c`. `hv_vmbus` takes the ring's lock, copies the
//! packet, and signals the host if the ring was empty and the host wants to know. Transaction ids are
//! the caller's: the channel is opened without a requestor.

use crate::{
    bindings,
    vmbus::{
        channel::{Interrupt, OpenChannel},
        gpa_direct::GPA_DIRECT_HEADER_LEN,
        packet::{DESCRIPTOR_LEN, FLAG_COMPLETION_REQUESTED, TRAILER_LEN},
        ring::{bytes_free, bytes_used},
        shared_ring::RingIndices,
    },
};
use kernel::{ffi::c_int, prelude::*};

/// Why a packet was not sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SendError {
    /// The ring has no room for it now.
    Full,
    /// The host has taken the channel away. The packet may have been written before that was seen: the
    /// host will not answer it.
    Rescinded,
    /// The packet can never be sent: it is too long, or its header is malformed.
    Invalid,
}

impl From<SendError> for Error {
    fn from(error: SendError) -> Self {
        match error {
            SendError::Full => EAGAIN,
            SendError::Rescinded => ENODEV,
            SendError::Invalid => EINVAL,
        }
    }
}

fn sent(result: c_int) -> Result<(), SendError> {
    match result {
        0 => Ok(()),
        error if error == EAGAIN.to_errno() => Err(SendError::Full),
        error if error == ENODEV.to_errno() => Err(SendError::Rescinded),
        _ => Err(SendError::Invalid),
    }
}

impl<H: Interrupt> OpenChannel<H> {
    /// Sends `payload` in-band under `transaction`. With `want_completion` the host answers with a
    /// completion of the same id, which should not be 0: hosts may take that for none.
    pub fn send_inband(
        &self,
        payload: &[u8],
        transaction: u64,
        want_completion: bool,
    ) -> Result<(), SendError> {
        let flags = if want_completion {
            FLAG_COMPLETION_REQUESTED.into()
        } else {
            0
        };
        let kind = bindings::vmbus_packet_type_VM_PKT_DATA_INBAND;
        self.send(payload, transaction, kind, flags)
    }

    /// Sends the completion that the host asked for in its packet `transaction`.
    pub fn send_completion(&self, transaction: u64, payload: &[u8]) -> Result<(), SendError> {
        let kind = bindings::vmbus_packet_type_VM_PKT_COMP;
        self.send(payload, transaction, kind, 0)
    }

    #[inline]
    fn send(
        &self,
        payload: &[u8],
        transaction: u64,
        kind: bindings::vmbus_packet_type,
        flags: u32,
    ) -> Result<(), SendError> {
        let len = self.payload_len(DESCRIPTOR_LEN, payload)?;
        // SAFETY: The channel is open as long as we have it; C copies `len` bytes of `payload`, which it
        // does not write.
        sent(unsafe {
            bindings::vmbus_sendpacket(
                self.as_raw(),
                payload.as_ptr().cast_mut().cast(),
                len,
                transaction,
                kind,
                flags,
            )
        })
    }

    /// Sends a GPA-direct packet: `header` as [`crate::vmbus::gpa_direct::GpaDirect`] makes it, then
    /// `payload`. The host answers with a completion; until that comes, or the channel is closed, it
    /// may read (and on a host without an IOMMU write) the pages that `header` names, which must not be
    /// used for anything else meanwhile.
    pub fn send_gpa_direct(
        &self,
        header: &mut [u8],
        payload: &[u8],
        transaction: u64,
    ) -> Result<(), SendError> {
        if header.len() <= GPA_DIRECT_HEADER_LEN || header.len() % 8 != 0 {
            return Err(SendError::Invalid);
        }
        let len = self.payload_len(header.len(), payload)?;
        // SAFETY: As in `send`. C also writes the descriptor, within the first 24 bytes of `header`, by a
        // packed structure that needs no alignment; `payload_len` checked that the length fits `u32`.
        sent(unsafe {
            bindings::vmbus_sendpacket_mpb_desc(
                self.as_raw(),
                header.as_mut_ptr().cast(),
                header.len() as u32,
                payload.as_ptr().cast_mut().cast(),
                len,
                transaction,
            )
        })
    }

    /// Length of `payload`, if a packet with it fits into the descriptor's lengths and an empty ring.
    #[inline]
    fn payload_len(&self, header: usize, payload: &[u8]) -> Result<u32, SendError> {
        // SAFETY: The channel is open; its geometry does not change.
        let ring = unsafe { (*self.as_raw()).outbound.ring_datasize } as usize;
        let whole = header
            .saturating_add(payload.len())
            .checked_next_multiple_of(8)
            .filter(|whole| whole / 8 <= usize::from(u16::MAX))
            .ok_or(SendError::Invalid)?;
        if whole.saturating_add(TRAILER_LEN) >= ring {
            return Err(SendError::Invalid);
        }
        u32::try_from(payload.len()).map_err(|_| SendError::Invalid)
    }

    /// Bytes that can be written before the ring is full; changes at any time.
    #[inline]
    pub fn bytes_to_write(&self) -> u32 {
        // SAFETY: The channel is open, so the ring is mapped.
        let ring = unsafe { RingIndices::read(&raw const (*self.as_raw()).outbound) };
        bytes_free(ring.write, ring.read, ring.size)
    }

    /// Whether an index of the ring is nonsense, which only a broken or hostile host writes: nothing can be sent any more
    /// until the channel has been closed and opened.
    pub fn cannot_send(&self) -> bool {
        // SAFETY: As in `bytes_to_write`.
        let ring = unsafe { RingIndices::read(&raw const (*self.as_raw()).outbound) };
        bytes_used(ring.write, ring.read, ring.size).is_none()
    }

    /// Whether more than `percent` per cent of the ring are free.
    #[inline]
    pub fn has_free(&self, percent: u32) -> bool {
        // SAFETY: As in `bytes_to_write`.
        let ring = unsafe { RingIndices::read(&raw const (*self.as_raw()).outbound) };
        let free = u64::from(bytes_free(ring.write, ring.read, ring.size));
        free.wrapping_mul(100) > u64::from(ring.size).wrapping_mul(percent.into())
    }
}
