// SPDX-License-Identifier: GPL-2.0

//! RNDIS PACKET messages: the header before every frame, sent and received. The hot path.
//!
//! `8-byte header | 36-byte body | per-packet info | frame`; offsets count from the body. Transmit writes
//! header and info into a caller's fixed-size buffer; receive checks a private copy of the first bytes
//! of a range and says where the frame lies. Source: specification 3.5, 4.2, 5.3.

use crate::rndis::message::{kind, HEADER_LEN};
use crate::rndis::ppi::{Fragment, PpiError, RxChecksum, RxInfo, Transport, TxRecord, RECORD_LEN};
use crate::rndis::wire::u32_at;
use core::fmt;
use zerocopy::little_endian::U32;
use zerocopy::FromBytes as _;

/// Bytes of [`PacketBody`].
pub const BODY_LEN: usize = 36;
/// Bytes of header and body.
pub const PACKET_HEADER_LEN: usize = 44;
/// Longest header this driver sends: hash, VLAN, and LSO or checksum.
pub const MAX_TX_HEADER: usize = 92;
/// Head room to reserve in front of a frame, as the C driver does.
pub const TX_HEADROOM: usize = 116;
/// Most bytes of a range that [`parse`] looks at: header and per-packet info must lie within them.
pub const MAX_RX_HEADER: usize = 256;
/// Shortest frame: an Ethernet header.
pub const MIN_FRAME_LEN: u32 = 14;

/// Body of a PACKET message, 36 bytes.
#[derive(
    Clone,
    Copy,
    zerocopy_derive::FromBytes,
    zerocopy_derive::IntoBytes,
    zerocopy_derive::Immutable,
    zerocopy_derive::KnownLayout,
    zerocopy_derive::Unaligned,
)]
#[repr(C)]
pub struct PacketBody {
    /// Where the frame starts.
    pub data_offset: U32,
    /// Bytes of the frame.
    pub data_len: U32,
    /// Not used.
    pub oob_offset: U32,
    /// Not used.
    pub oob_len: U32,
    /// Not used.
    pub oob_count: U32,
    /// Where per-packet info starts; 0 if there is none.
    pub ppi_offset: U32,
    /// Its bytes.
    pub ppi_len: U32,
    /// Not used.
    pub vc_handle: U32,
    /// Zero.
    pub reserved: U32,
}

/// What the host shall do with a frame.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum TxOffload {
    /// Nothing.
    #[default]
    None,
    /// Complete a TCP or UDP checksum whose field holds the pseudo-header's sum.
    Checksum {
        /// IPv6 rather than IPv4.
        ipv6: bool,
        /// TCP or UDP.
        transport: Transport,
        /// Transport header, from the frame's first byte; below 1024.
        l4_offset: u16,
    },
    /// Cut a TCP frame into segments.
    Lso {
        /// IPv6 rather than IPv4.
        ipv6: bool,
        /// Payload bytes of a segment.
        mss: u32,
        /// Transport header, from the frame's first byte; below 1024.
        l4_offset: u16,
    },
}

/// What is to be said about a frame to send.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct TxMeta {
    /// Bytes of the frame.
    pub len: u32,
    /// Flow hash, if there is more than one channel and the stack has one.
    pub hash: Option<u32>,
    /// VLAN tag (`vlan_tci`) that is not in the frame.
    pub vlan: Option<u16>,
    /// What the host shall do.
    pub offload: TxOffload,
}

impl TxMeta {
    /// Writes the message's header and per-packet info (in the order hash, VLAN, LSO or checksum) to the
    /// start of `out`; returns its length, 44 to 92.
    ///
    /// Lengths wrap beyond 4 GiB; a frame is at most 64 KiB and its headers.
    #[inline]
    pub fn write_header(&self, out: &mut [u8; MAX_TX_HEADER]) -> usize {
        let mut end = PACKET_HEADER_LEN;
        if let Some(hash) = self.hash {
            append(out, &mut end, TxRecord::hash(hash));
        }
        if let Some(tci) = self.vlan {
            append(out, &mut end, TxRecord::vlan(tci));
        }
        match self.offload {
            TxOffload::None => {}
            TxOffload::Checksum {
                ipv6,
                transport,
                l4_offset,
            } => append(
                out,
                &mut end,
                TxRecord::checksum(ipv6, transport, l4_offset),
            ),
            TxOffload::Lso {
                ipv6,
                mss,
                l4_offset,
            } => append(out, &mut end, TxRecord::lso(ipv6, mss, l4_offset)),
        }
        // At most 3 records: 48 bytes.
        self.write_fixed(out, end.wrapping_sub(PACKET_HEADER_LEN) as u32);
        end
    }

    #[inline]
    fn write_fixed(&self, out: &mut [u8; MAX_TX_HEADER], ppi_len: u32) {
        let header_len = ppi_len.wrapping_add(PACKET_HEADER_LEN as u32);
        let data_offset = ppi_len.wrapping_add(BODY_LEN as u32);
        let words: [u32; PACKET_HEADER_LEN / 4] = [
            kind::PACKET,
            header_len.wrapping_add(self.len),
            data_offset,
            self.len,
            0,
            0,
            0,
            BODY_LEN as u32,
            ppi_len,
            0,
            0,
        ];
        for (field, word) in out.chunks_exact_mut(4).zip(words) {
            field.copy_from_slice(&word.to_le_bytes());
        }
    }
}

/// Writes `record` to `end` and moves that on; nothing if there is no room, of which there is enough for one of each kind.
#[inline]
fn append(out: &mut [u8; MAX_TX_HEADER], end: &mut usize, record: TxRecord) {
    let room = out.get_mut(*end..);
    if let Some(room) = room.and_then(|rest| rest.first_chunk_mut::<RECORD_LEN>()) {
        *room = record.encode();
        *end = end.wrapping_add(RECORD_LEN);
    }
}

/// Zero bytes to put behind a message of `len` bytes so that the next one starts at a multiple of
/// `alignment` (a power of two; any other number means no padding).
pub const fn padding(len: u32, alignment: u32) -> u32 {
    if !alignment.is_power_of_two() {
        return 0;
    }
    len.wrapping_neg() & alignment.wrapping_sub(1)
}

/// Counts `pad` bytes of padding as part of the message whose header is given: all but the last message
/// of a batch are padded. Returns false if these are not 8 bytes, or the length would overflow.
#[must_use]
pub fn extend_message(header: &mut [u8], pad: u32) -> bool {
    let padded = u32_at(header, 4).and_then(|len| len.checked_add(pad));
    match (padded, header.get_mut(4..8)) {
        (Some(len), Some(field)) => {
            field.copy_from_slice(&len.to_le_bytes());
            true
        }
        _ => false,
    }
}

/// A received message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RxMessage {
    /// A frame.
    Data(RxData),
    /// A control message: copy `len` bytes of the range (at least; the whole range for old hosts'
    /// indications) and give them to the control plane.
    Control {
        /// See [`crate::rndis::message::kind`].
        message_type: u32,
        /// Bytes of the message, at most the range's.
        len: u32,
    },
}

/// Where a frame lies, and what the host says about it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RxData {
    /// First byte of the frame, from the start of the range.
    pub data_offset: u32,
    /// Bytes of the frame: at least 14 (1 in later pieces of a coalesced frame), all within the range.
    pub data_len: u32,
    /// VLAN tag that the host took out of the frame, as `vlan_tci`.
    pub vlan: Option<u16>,
    /// Checksum findings.
    pub checksum: RxChecksum,
    /// Flow hash.
    pub hash: Option<u32>,
    /// The hash covers ports. Where the host does not say, TCP is what its ports were asked to be hashed of.
    pub hash_has_ports: bool,
    /// Piece of a coalesced frame; only hosts that were promised RSC may send these.
    pub fragment: Option<Fragment>,
}

/// Why a received message was refused; the range is completed with failure.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RxError {
    /// The range, or the message, is shorter than its headers.
    Truncated,
    /// The message claims fewer than 8 bytes, or more than the range.
    MessageLength,
    /// The frame does not lie in the message, or lies over its header.
    DataRange,
    /// The frame is too short for an Ethernet header.
    FrameTooShort,
    /// Per-packet info does not lie in the message, or overlaps header or frame.
    InfoRange,
    /// Per-packet info reaches beyond [`MAX_RX_HEADER`].
    InfoTooLong,
    /// Some record of per-packet info is malformed.
    InfoRecord,
}

impl RxError {
    /// Every error, in the order of [`Self::index`].
    pub const ALL: [Self; 7] = [
        Self::Truncated,
        Self::MessageLength,
        Self::DataRange,
        Self::FrameTooShort,
        Self::InfoRange,
        Self::InfoTooLong,
        Self::InfoRecord,
    ];

    /// Stable name for counters.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Truncated => "rx_rndis_truncated",
            Self::MessageLength => "rx_rndis_bad_length",
            Self::DataRange => "rx_rndis_bad_data_range",
            Self::FrameTooShort => "rx_rndis_short_frame",
            Self::InfoRange => "rx_rndis_bad_info_range",
            Self::InfoTooLong => "rx_rndis_info_too_long",
            Self::InfoRecord => "rx_rndis_bad_info_record",
        }
    }

    /// Position in [`Self::ALL`], for a counter array.
    pub const fn index(self) -> usize {
        self as usize
    }
}

impl fmt::Display for RxError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl From<PpiError> for RxError {
    fn from(_: PpiError) -> Self {
        Self::InfoRecord
    }
}

/// How many bytes of a range [`parse`] needs: up to the end of per-packet info. `fixed` is a private copy of the
/// range's first `min(range_len, PACKET_HEADER_LEN)` bytes. At least as long as `fixed`, at most [`MAX_RX_HEADER`] and
/// `range_len`.
#[inline]
pub fn header_len(fixed: &[u8], range_len: u32) -> usize {
    let body = fixed
        .get(HEADER_LEN..)
        .and_then(|body| PacketBody::ref_from_bytes(body).ok());
    let is_packet = u32_at(fixed, 0) == Some(kind::PACKET);
    let Some(body) = body.filter(|body| is_packet && body.ppi_offset.get() > 0) else {
        return fixed.len();
    };
    let offset = body.ppi_offset.get().saturating_add(HEADER_LEN as u32);
    let end = offset.saturating_add(body.ppi_len.get()).min(range_len);
    (end as usize).min(MAX_RX_HEADER).max(fixed.len())
}

/// Checks the message at the start of a range. `header` is a private copy of the range's first
/// [`header_len`] bytes; `range_len` is the length of the whole range.
#[inline]
pub fn parse(header: &[u8], range_len: u32) -> Result<RxMessage, RxError> {
    let message_type = u32_at(header, 0).ok_or(RxError::Truncated)?;
    let message_len = u32_at(header, 4).ok_or(RxError::Truncated)?;
    if message_len < HEADER_LEN as u32 || message_len > range_len {
        return Err(RxError::MessageLength);
    }
    if message_type != kind::PACKET {
        return Ok(RxMessage::Control {
            message_type,
            len: message_len,
        });
    }
    parse_packet(header, message_len).map(RxMessage::Data)
}

#[inline]
fn parse_packet(header: &[u8], message_len: u32) -> Result<RxData, RxError> {
    let after_header = header.get(HEADER_LEN..).ok_or(RxError::Truncated)?;
    let (body, _) = PacketBody::ref_from_prefix(after_header).map_err(|_| RxError::Truncated)?;
    let body_len = message_len
        .checked_sub(HEADER_LEN as u32)
        .filter(|len| *len >= BODY_LEN as u32)
        .ok_or(RxError::Truncated)?;

    let data_offset = body.data_offset.get();
    let data_len = body.data_len.get();
    let data_end = data_offset
        .checked_add(data_len)
        .filter(|end| *end <= body_len && data_offset >= BODY_LEN as u32)
        .ok_or(RxError::DataRange)?;

    let info = match info_range(body, body_len, data_offset, data_end)? {
        Some((start, end)) => {
            let records = after_header.get(start..end).ok_or(RxError::InfoTooLong)?;
            RxInfo::parse(records)?
        }
        None => RxInfo::default(),
    };
    let min_len = match info.fragment {
        Some(Fragment { first: false, .. }) => 1,
        _ => MIN_FRAME_LEN,
    };
    if data_len < min_len {
        return Err(RxError::FrameTooShort);
    }
    let checksum = info.checksum.unwrap_or_default();
    Ok(RxData {
        // `data_offset + 8 <= message_len`, so this is exact.
        data_offset: data_offset.saturating_add(HEADER_LEN as u32),
        data_len,
        vlan: info.vlan,
        checksum,
        hash: info.hash,
        hash_has_ports: match info.hash_info {
            Some(hash_info) => hash_info.has_ports(),
            None => checksum.is_tcp(),
        },
        fragment: info.fragment,
    })
}

/// Start and end of per-packet info from the body; `None` if there is none.
fn info_range(
    body: &PacketBody,
    body_len: u32,
    data_offset: u32,
    data_end: u32,
) -> Result<Option<(usize, usize)>, RxError> {
    let offset = body.ppi_offset.get();
    let len = body.ppi_len.get();
    if offset == 0 || len == 0 {
        return Ok(None);
    }
    let end = offset
        .checked_add(len)
        .filter(|end| *end <= body_len && offset >= BODY_LEN as u32)
        .filter(|end| *end <= data_offset || offset >= data_end)
        .ok_or(RxError::InfoRange)?;
    match (usize::try_from(offset), usize::try_from(end)) {
        (Ok(offset), Ok(end)) => Ok(Some((offset, end))),
        _ => Err(RxError::InfoRange),
    }
}

#[cfg(test)]
mod tests;
