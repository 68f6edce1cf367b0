// SPDX-License-Identifier: GPL-2.0

//! Ring packets: descriptor, type-specific header, payload (specification section 1.4).

use crate::vmbus::gpa::{parse_ranges, GpaError, GpaRange};

/// Bytes of a packet descriptor.
pub(super) const DESCRIPTOR: usize = 16;
/// Bytes of the trailer that follows a packet.
pub(super) const TRAILER: usize = 8;

/// Descriptor flag: the receiver shall answer with a completion.
pub const COMPLETION_REQUESTED: u16 = 1;

/// Kind of a packet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(u16)]
pub enum PacketType {
    /// The payload is the message.
    #[default]
    InBand = 6,
    /// Data lies in ranges of a buffer that both sides know.
    TransferPages = 7,
    /// Data lies in pages listed in the header.
    GpaDirect = 9,
    /// Answer to a packet that asked for one.
    Completion = 0xb,
}

impl PacketType {
    /// The kind with this number, if packets of it occur on network channels.
    pub fn from_wire(value: u16) -> Option<Self> {
        match value {
            6 => Some(Self::InBand),
            7 => Some(Self::TransferPages),
            9 => Some(Self::GpaDirect),
            0xb => Some(Self::Completion),
            _ => None,
        }
    }
}

/// A packet copied out of the incoming ring.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Packet {
    /// Kind.
    pub kind: PacketType,
    /// Descriptor flags; see [`COMPLETION_REQUESTED`].
    pub flags: u16,
    /// Transaction id; a completion echoes that of the request.
    pub transaction_id: u64,
    /// The type-specific header: what lies between the descriptor and the payload.
    pub header: Vec<u8>,
    /// The payload, with the padding to a multiple of 8 bytes that the ring adds.
    pub payload: Vec<u8>,
}

impl Packet {
    /// Whether the guest wants a completion.
    pub fn wants_completion(&self) -> bool {
        self.flags & COMPLETION_REQUESTED != 0
    }

    /// The page ranges of a GPA-direct packet: `reserved u32, range_cnt u32, ranges` in the header.
    pub fn gpa_ranges(&self) -> Result<Vec<GpaRange>, GpaError> {
        let truncated = GpaError::Truncated {
            have: self.header.len(),
            need: 8,
        };
        let count = self.header.get(4..8).ok_or(truncated)?;
        let count = count.iter().rev().fold(0, |n, &b| n << 8 | u32::from(b));
        parse_ranges(&self.header[8..], count).map(|(ranges, _)| ranges)
    }
}

/// A piece of the receive buffer in a transfer-page packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TransferRange {
    /// Bytes.
    pub len: u32,
    /// Where they start in the buffer.
    pub offset: u32,
}

/// The header extension of a transfer-page packet:
/// `pageset_id u16, sender_owns u8, reserved u8, range_cnt u32`, then the ranges.
pub fn transfer_page_header(page_set: u16, ranges: &[TransferRange]) -> Vec<u8> {
    let mut header = Vec::with_capacity(8 + 8 * ranges.len());
    header.extend(page_set.to_le_bytes());
    header.extend([0, 0]);
    header.extend((ranges.len() as u32).to_le_bytes());
    for range in ranges {
        header.extend(range.len.to_le_bytes());
        header.extend(range.offset.to_le_bytes());
    }
    header
}

/// A packet to be written as it is, right or wrong.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RawPacket {
    /// Kind, as in the descriptor.
    pub kind: u16,
    /// Descriptor flags.
    pub flags: u16,
    /// Transaction id.
    pub id: u64,
    /// Type-specific header.
    pub header: Vec<u8>,
    /// Payload.
    pub payload: Vec<u8>,
    /// What the descriptor says of the length of descriptor and header, in units of 8 bytes; the truth if
    /// `None`.
    pub offset8: Option<u16>,
    /// What the descriptor says of the length of the packet, in units of 8 bytes; the truth if `None`.
    pub len8: Option<u16>,
}

/// The first 16 bytes of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Descriptor {
    pub kind: u16,
    /// Length of descriptor and type-specific header, in units of 8 bytes.
    pub offset8: u16,
    /// Length of the whole packet, in units of 8 bytes.
    pub len8: u16,
    pub flags: u16,
    pub transaction_id: u64,
}

impl Descriptor {
    pub fn from_bytes(bytes: &[u8; DESCRIPTOR]) -> Self {
        let u16_at = |at: usize| u16::from_le_bytes([bytes[at], bytes[at + 1]]);
        Self {
            kind: u16_at(0),
            offset8: u16_at(2),
            len8: u16_at(4),
            flags: u16_at(6),
            transaction_id: bytes[8..]
                .iter()
                .rev()
                .fold(0, |id, &byte| id << 8 | u64::from(byte)),
        }
    }

    pub fn to_bytes(self) -> [u8; DESCRIPTOR] {
        let mut bytes = [0; DESCRIPTOR];
        bytes[0..2].copy_from_slice(&self.kind.to_le_bytes());
        bytes[2..4].copy_from_slice(&self.offset8.to_le_bytes());
        bytes[4..6].copy_from_slice(&self.len8.to_le_bytes());
        bytes[6..8].copy_from_slice(&self.flags.to_le_bytes());
        bytes[8..].copy_from_slice(&self.transaction_id.to_le_bytes());
        bytes
    }

    pub fn header_len(&self) -> usize {
        usize::from(self.offset8) * 8
    }

    pub fn packet_len(&self) -> usize {
        usize::from(self.len8) * 8
    }
}

/// The trailer of a packet that began at `start`.
pub(super) fn trailer(start: u32) -> [u8; TRAILER] {
    (u64::from(start) << 32).to_le_bytes()
}

/// `len` rounded up to a multiple of 8.
pub(super) fn padded(len: usize) -> usize {
    len.next_multiple_of(8)
}
