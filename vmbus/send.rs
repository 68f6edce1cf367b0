// SPDX-License-Identifier: GPL-2.0

//! Sending on an open channel. From any context, by any number of senders at a time.
//!
//! Transaction ids are the caller's: the channel is opened without a requestor.

use crate::vmbus::{
    channel::{Interrupt, OpenChannel},
    gpa_direct::GPA_DIRECT_HEADER_LEN,
    packet::{PacketDescriptor, PacketType, DESCRIPTOR_LEN, FLAG_COMPLETION_REQUESTED},
    ring::bytes_free,
    shared_ring::RingIndices,
    writer::Writer,
};
use kernel::prelude::*;

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

impl<H: Interrupt> OpenChannel<H> {
    /// Sends `payload` in-band under `transaction`. With `want_completion` the host answers with a
    /// completion of the same id, which should not be 0: hosts may take that for none.
    #[inline(always)]
    pub fn send_inband(
        &self,
        payload: &[u8],
        transaction: u64,
        want_completion: bool,
    ) -> Result<(), SendError> {
        let flags = if want_completion {
            FLAG_COMPLETION_REQUESTED
        } else {
            0
        };
        let descriptor = descriptor(PacketType::DataInBand, flags, transaction, payload);
        self.write(|ring| ring.put(descriptor.ok_or(SendError::Invalid)?.as_bytes(), payload))
    }

    /// Sends a GPA-direct packet: `header` as [`crate::vmbus::gpa_direct::GpaDirect`] makes it for this `payload`, then
    /// `payload`. The host answers with a completion; until that comes, or the channel is closed, it
    /// may read (and on a host without an IOMMU write) the pages that `header` names, which must not be
    /// used for anything else meanwhile.
    #[inline(always)]
    pub fn send_gpa_direct(&self, header: &[u8], payload: &[u8]) -> Result<(), SendError> {
        if header.len() <= GPA_DIRECT_HEADER_LEN {
            return Err(SendError::Invalid);
        }
        self.write(|ring| ring.put(header, payload))
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
        ring.is_nonsense()
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

impl Writer<'_> {
    /// Puts the completion that the host asked for in its packet `transaction`.
    #[inline(always)]
    pub fn completion(&mut self, transaction: u64, payload: &[u8]) -> Result<(), SendError> {
        let descriptor = descriptor(PacketType::Completion, 0, transaction, payload);
        self.put(descriptor.ok_or(SendError::Invalid)?.as_bytes(), payload)
    }
}

/// The descriptor of a packet in which `payload` follows the descriptor; `None` if that is too long.
#[inline(always)]
fn descriptor(
    packet_type: PacketType,
    flags: u16,
    transaction: u64,
    payload: &[u8],
) -> Option<PacketDescriptor> {
    let len8 = payload.len().div_ceil(8).checked_add(DESCRIPTOR_LEN / 8)?;
    Some(PacketDescriptor {
        packet_type: packet_type.value().into(),
        offset8: (DESCRIPTOR_LEN as u16 / 8).into(),
        len8: u16::try_from(len8).ok()?.into(),
        flags: flags.into(),
        transaction_id: transaction.into(),
    })
}
