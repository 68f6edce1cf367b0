// SPDX-License-Identifier: GPL-2.0

//! The descriptor every ring packet begins with.
//!
//! A packet is `descriptor | type-specific header | payload`, each part a multiple of 8 bytes; lengths
//! and offsets in the descriptor count 8-byte units. Source: `include/linux/hyperv.h`,
//! `struct vmpacket_descriptor`. Type-specific headers: [`crate::vmbus::transfer_pages`],
//! [`crate::vmbus::gpa_direct`].
#![forbid(unsafe_code)]
// Tests fail by panicking; nothing else may.
#![cfg_attr(
    not(test),
    deny(
        clippy::arithmetic_side_effects,
        clippy::indexing_slicing,
        clippy::unwrap_used,
        clippy::panic
    )
)]

use zerocopy::little_endian::{U16, U64};
use zerocopy::FromBytes as _;

/// Bytes of a [`PacketDescriptor`].
pub const DESCRIPTOR_LEN: usize = 16;
/// Bytes that follow every packet in the ring (where the packet began); not part of its length.
pub const TRAILER_LEN: usize = 8;
/// Guest page size of the protocol; PFNs count these whatever the kernel's page size is.
pub const PAGE_SIZE: u32 = 4096;
/// Descriptor flag: the receiver owes a completion with the same transaction id.
pub const FLAG_COMPLETION_REQUESTED: u16 = 1;
/// Transaction id of packets that want no answer (what `hv_vmbus` uses for them too).
pub const NO_RESPONSE: u64 = u64::MAX - 2;

/// Descriptor of a ring packet, 16 bytes.
#[derive(
    Clone,
    Copy,
    Debug,
    zerocopy_derive::FromBytes,
    zerocopy_derive::IntoBytes,
    zerocopy_derive::Immutable,
    zerocopy_derive::KnownLayout,
    zerocopy_derive::Unaligned,
)]
#[repr(C)]
pub struct PacketDescriptor {
    /// See [`PacketType`].
    pub packet_type: U16,
    /// Where the payload starts, in 8-byte units from the descriptor.
    pub offset8: U16,
    /// Header and payload together, in 8-byte units.
    pub len8: U16,
    /// [`FLAG_COMPLETION_REQUESTED`] or 0.
    pub flags: U16,
    /// Chosen by the sender, echoed by the completion.
    pub transaction_id: U64,
}

/// Kinds of ring packets that a network adapter sees.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PacketType {
    /// Payload follows the descriptor (6).
    DataInBand,
    /// Payload lies in a shared buffer, described by ranges (7).
    DataTransferPages,
    /// Payload lies in guest pages, described by PFNs (9).
    DataGpaDirect,
    /// Answer to a packet that asked for one (0xb).
    Completion,
    /// Anything else; the value as received.
    Other(u16),
}

impl PacketType {
    /// The value on the wire.
    pub const fn value(self) -> u16 {
        match self {
            Self::DataInBand => 6,
            Self::DataTransferPages => 7,
            Self::DataGpaDirect => 9,
            Self::Completion => 0xb,
            Self::Other(value) => value,
        }
    }

    /// Reads the value on the wire.
    pub const fn from_value(value: u16) -> Self {
        match value {
            6 => Self::DataInBand,
            7 => Self::DataTransferPages,
            9 => Self::DataGpaDirect,
            0xb => Self::Completion,
            other => Self::Other(other),
        }
    }
}

/// A packet whose parts were found to lie inside the bytes that hold it.
#[derive(Clone, Copy, Debug)]
pub struct Packet<'a> {
    /// Kind of packet.
    pub packet_type: PacketType,
    /// Whether the sender wants a completion.
    pub completion_requested: bool,
    /// The sender's transaction id.
    pub transaction_id: u64,
    /// Descriptor and type-specific header.
    pub header: &'a [u8],
    /// What follows the header, padded to 8 bytes by the sender.
    pub payload: &'a [u8],
}

/// Why bytes are not a ring packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PacketError {
    /// Fewer than 16 bytes.
    Truncated,
    /// `len8` reaches beyond the bytes, or `offset8` beyond `len8`, or into the descriptor.
    BadLength,
}

impl<'a> Packet<'a> {
    /// Splits a private copy of a packet (trailer excluded) into header and payload.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, PacketError> {
        let (desc, _) =
            PacketDescriptor::ref_from_prefix(bytes).map_err(|_| PacketError::Truncated)?;
        let offset = usize::from(desc.offset8.get()).saturating_mul(8);
        let len = usize::from(desc.len8.get()).saturating_mul(8);
        if offset < DESCRIPTOR_LEN {
            return Err(PacketError::BadLength);
        }
        let whole = bytes.get(..len).ok_or(PacketError::BadLength)?;
        let (header, payload) = whole
            .split_at_checked(offset)
            .ok_or(PacketError::BadLength)?;
        Ok(Self {
            packet_type: PacketType::from_value(desc.packet_type.get()),
            completion_requested: desc.flags.get() & FLAG_COMPLETION_REQUESTED != 0,
            transaction_id: desc.transaction_id.get(),
            header,
            payload,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::mem::{offset_of, size_of};
    use proptest::prelude::*;

    #[test]
    fn descriptor_layout() {
        assert_eq!(size_of::<PacketDescriptor>(), DESCRIPTOR_LEN);
        assert_eq!(offset_of!(PacketDescriptor, offset8), 2);
        assert_eq!(offset_of!(PacketDescriptor, len8), 4);
        assert_eq!(offset_of!(PacketDescriptor, flags), 6);
        assert_eq!(offset_of!(PacketDescriptor, transaction_id), 8);
    }

    #[test]
    fn types_survive_the_wire() {
        for value in 0..=u16::MAX {
            assert_eq!(PacketType::from_value(value).value(), value);
        }
    }

    #[test]
    fn offset_inside_the_descriptor_is_refused() {
        let mut bytes = [0u8; 24];
        bytes[2] = 1;
        bytes[4] = 3;
        assert_eq!(Packet::parse(&bytes).err(), Some(PacketError::BadLength));
    }

    proptest! {
        #[test]
        fn any_bytes_parse_or_fail(bytes in proptest::collection::vec(any::<u8>(), 0..128)) {
            if let Ok(packet) = Packet::parse(&bytes) {
                prop_assert!(packet.header.len() + packet.payload.len() <= bytes.len());
                prop_assert!(packet.header.len() >= DESCRIPTOR_LEN);
            }
        }
    }
}
