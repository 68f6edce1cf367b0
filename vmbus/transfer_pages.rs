// SPDX-License-Identifier: GPL-2.0

//! The header of a transfer-page packet: which parts of a shared buffer the host filled.
//!
//! Source: `include/linux/hyperv.h`, `struct vmtransfer_page_packet_header`. The header is host data: it
//! must be a private copy, and no range is handed out before the whole list is known to fit the header.
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

use crate::vmbus::packet::PacketDescriptor;
use zerocopy::little_endian::{U16, U32};
use zerocopy::{FromBytes as _, Immutable, KnownLayout};

/// Transfer-page header up to the first range, 24 bytes.
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
pub struct TransferPageHeader {
    /// The packet's descriptor.
    pub descriptor: PacketDescriptor,
    /// Which shared buffer the ranges index.
    pub pageset_id: U16,
    /// Not used by network adapters.
    pub sender_owns_set: u8,
    /// Must be ignored.
    pub reserved: u8,
    /// Number of [`TransferPageRange`]s that follow.
    pub range_count: U32,
}

/// One range on the wire, 8 bytes.
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
pub struct TransferPageRange {
    /// Bytes in the range.
    pub byte_count: U32,
    /// Where it starts in the shared buffer.
    pub byte_offset: U32,
}

/// A parsed transfer-page header.
#[derive(Clone, Copy, Debug)]
pub struct TransferPages<'a> {
    pageset_id: u16,
    ranges: &'a [TransferPageRange],
}

/// A part of the shared buffer as the host describes it: not yet compared with the buffer's size.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct UncheckedRange {
    /// Where the host says it starts.
    pub offset: u32,
    /// How long the host says it is.
    pub len: u32,
}

/// A part of the shared buffer that is known to lie inside it: `offset + len <= buffer_len`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CheckedRange {
    offset: u32,
    len: u32,
}

/// Why a transfer-page header was refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TransferPageError {
    /// Header shorter than 24 bytes.
    Truncated,
    /// More ranges announced than the header has room for.
    TooManyRanges,
}

impl<'a> TransferPages<'a> {
    /// Parses a packet's header: its first `offset8 * 8` bytes, copied out of the ring.
    pub fn parse(header: &'a [u8]) -> Result<Self, TransferPageError> {
        let (fixed, rest) = TransferPageHeader::ref_from_prefix(header)
            .map_err(|_| TransferPageError::Truncated)?;
        let count = usize::try_from(fixed.range_count.get())
            .map_err(|_| TransferPageError::TooManyRanges)?;
        let ranges = ranges(rest, count).ok_or(TransferPageError::TooManyRanges)?;
        Ok(Self {
            pageset_id: fixed.pageset_id.get(),
            ranges,
        })
    }

    /// Which shared buffer the ranges index.
    pub const fn pageset_id(&self) -> u16 {
        self.pageset_id
    }

    /// Number of ranges; may be 0.
    pub const fn len(&self) -> usize {
        self.ranges.len()
    }

    /// Whether there is no range at all.
    pub const fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    /// The ranges in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = UncheckedRange> + 'a {
        self.ranges.iter().map(|range| UncheckedRange {
            offset: range.byte_offset.get(),
            len: range.byte_count.get(),
        })
    }
}

fn ranges<T>(bytes: &[u8], count: usize) -> Option<&[T]>
where
    T: zerocopy::FromBytes + KnownLayout + Immutable,
{
    <[T]>::ref_from_prefix_with_elems(bytes, count)
        .ok()
        .map(|(ranges, _)| ranges)
}

impl UncheckedRange {
    /// Accepts the range if it lies inside a buffer of `buffer_len` bytes.
    pub fn within(self, buffer_len: u32) -> Option<CheckedRange> {
        let end = self.offset.checked_add(self.len)?;
        (end <= buffer_len).then_some(CheckedRange {
            offset: self.offset,
            len: self.len,
        })
    }
}

impl CheckedRange {
    /// First byte, from the start of the shared buffer.
    pub const fn offset(self) -> u32 {
        self.offset
    }

    /// Bytes in the range.
    pub const fn len(self) -> u32 {
        self.len
    }

    /// Whether the range has no bytes.
    pub const fn is_empty(self) -> bool {
        self.len == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::mem::{offset_of, size_of};
    use proptest::prelude::*;

    fn header(count: u32, ranges: &[(u32, u32)]) -> Vec<u8> {
        let mut bytes = vec![0u8; 16];
        bytes.extend(0xcafe_u16.to_le_bytes());
        bytes.extend([0, 0]);
        bytes.extend(count.to_le_bytes());
        for (len, offset) in ranges {
            bytes.extend(len.to_le_bytes());
            bytes.extend(offset.to_le_bytes());
        }
        bytes
    }

    #[test]
    fn layout() {
        assert_eq!(size_of::<TransferPageHeader>(), 24);
        assert_eq!(offset_of!(TransferPageHeader, pageset_id), 16);
        assert_eq!(offset_of!(TransferPageHeader, range_count), 20);
        assert_eq!(size_of::<TransferPageRange>(), 8);
        assert_eq!(offset_of!(TransferPageRange, byte_offset), 4);
    }

    #[test]
    fn ranges_come_in_order() {
        let bytes = header(2, &[(52, 27090), (10, 0)]);
        let pages = TransferPages::parse(&bytes).unwrap();
        assert_eq!(pages.pageset_id(), 0xcafe);
        let got: Vec<_> = pages.iter().map(|r| (r.len, r.offset)).collect();
        assert_eq!(got, [(52, 27090), (10, 0)]);
    }

    #[test]
    fn count_beyond_the_header_is_refused_even_when_it_would_wrap() {
        for count in [2, 0x2000_0000, 0x2000_0001, u32::MAX] {
            let bytes = header(count, &[(1, 1)]);
            assert_eq!(
                TransferPages::parse(&bytes).err(),
                Some(TransferPageError::TooManyRanges),
                "count {count:#x}"
            );
        }
    }

    #[test]
    fn range_end_is_checked_without_wrapping() {
        let range = |offset, len| UncheckedRange { offset, len };
        assert!(range(0, 100).within(100).is_some());
        assert!(range(100, 0).within(100).is_some());
        assert!(range(1, 100).within(100).is_none());
        assert!(range(u32::MAX, 2).within(100).is_none());
    }

    proptest! {
        #[test]
        fn any_bytes_parse_or_fail(bytes in proptest::collection::vec(any::<u8>(), 0..96), buffer: u32) {
            if let Ok(pages) = TransferPages::parse(&bytes) {
                prop_assert!(24 + pages.len() * 8 <= bytes.len());
                for range in pages.iter() {
                    if let Some(ok) = range.within(buffer) {
                        prop_assert!(u64::from(ok.offset()) + u64::from(ok.len()) <= u64::from(buffer));
                    }
                }
            }
        }
    }
}
