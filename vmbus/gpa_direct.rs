// SPDX-License-Identifier: GPL-2.0

//! Builds the header of a GPA-direct packet: guest pages that the host reads where they lie.
//!
//! Source: `include/linux/hyperv.h`, `struct vmbus_packet_mpb_array`. Hosts drop a packet whose RNDIS
//! header does not lie in exactly one range within one page. [`GpaDirect`] can therefore only be started
//! from a [`RndisHeaderRange`], which cannot cross a page, or with the header known to be elsewhere (in
//! a send section).
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

use crate::vmbus::packet::{PacketDescriptor, PacketType, FLAG_COMPLETION_REQUESTED, PAGE_SIZE};
use zerocopy::little_endian::U32;
use zerocopy::IntoBytes as _;

const PAGE_SHIFT: u32 = PAGE_SIZE.trailing_zeros();
const PAGE_MASK: u64 = 0xfff;

/// GPA-direct header up to the first range, 24 bytes.
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
pub struct GpaDirectHeader {
    /// The packet's descriptor.
    pub descriptor: PacketDescriptor,
    /// Zero.
    pub reserved: U32,
    /// Number of ranges that follow.
    pub range_count: U32,
}

/// Bytes of [`GpaDirectHeader`].
pub const GPA_DIRECT_HEADER_LEN: usize = 24;

/// Bytes of a header with `ranges` ranges that touch `pages` pages in all.
pub const fn header_len(ranges: usize, pages: usize) -> usize {
    GPA_DIRECT_HEADER_LEN
        .saturating_add(ranges.saturating_mul(8))
        .saturating_add(pages.saturating_mul(8))
}

/// Guest-physical bytes of an RNDIS header (with its per-packet info), all within one page.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RndisHeaderRange {
    address: u64,
    len: u32,
}

impl RndisHeaderRange {
    /// Describes `len` bytes at guest-physical `address`; `None` if empty or crossing a 4 KiB page.
    pub const fn new(address: u64, len: u32) -> Option<Self> {
        let in_page = address & PAGE_MASK;
        if len == 0 || in_page.saturating_add(len as u64) > PAGE_SIZE as u64 {
            return None;
        }
        Some(Self { address, len })
    }

    /// Bytes described.
    pub const fn len(&self) -> u32 {
        self.len
    }

    /// Never true: an empty range cannot be made.
    pub const fn is_empty(&self) -> bool {
        false
    }
}

/// Why a range could not be added.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum GpaDirectError {
    /// The caller's buffer is full; the packet must be made of fewer ranges or pages.
    BufferFull,
    /// The range is empty, or its address plus length is not a guest-physical address.
    BadRange,
    /// `push_pages` got more or fewer PFNs than offset and length need.
    PageCount,
}

/// A GPA-direct header under construction in the caller's buffer.
#[derive(Debug)]
pub struct GpaDirect<'a> {
    buffer: &'a mut [u8],
    len: usize,
    ranges: u32,
    bytes: u32,
}

impl<'a> GpaDirect<'a> {
    /// Starts a packet whose first range is the RNDIS header.
    pub fn with_header(
        buffer: &'a mut [u8],
        header: RndisHeaderRange,
    ) -> Result<Self, GpaDirectError> {
        let mut this = Self::header_in_section(buffer)?;
        this.push(header.address, header.len)?;
        Ok(this)
    }

    /// Starts a packet whose RNDIS header was copied to a send section: only frame data follows here.
    pub fn header_in_section(buffer: &'a mut [u8]) -> Result<Self, GpaDirectError> {
        if buffer.len() < GPA_DIRECT_HEADER_LEN {
            return Err(GpaDirectError::BufferFull);
        }
        Ok(Self {
            buffer,
            len: GPA_DIRECT_HEADER_LEN,
            ranges: 0,
            bytes: 0,
        })
    }

    /// Adds `len` guest-physically contiguous bytes as one range, over as many pages as they touch.
    #[inline]
    pub fn push(&mut self, address: u64, len: u32) -> Result<(), GpaDirectError> {
        let end = address
            .checked_add(u64::from(len))
            .filter(|_| len != 0)
            .ok_or(GpaDirectError::BadRange)?;
        let first = address >> PAGE_SHIFT;
        let last = end.saturating_sub(1) >> PAGE_SHIFT;
        let offset = u32::try_from(address & PAGE_MASK).map_err(|_| GpaDirectError::BadRange)?;
        self.push_pages(offset, len, first..last.saturating_add(1))
    }

    /// Adds one range of `len` bytes that starts `offset` bytes into the first of `pfns` and runs
    /// through all of them, which need not be neighbours (vmalloc memory). On error nothing is added.
    #[inline]
    pub fn push_pages(
        &mut self,
        offset: u32,
        len: u32,
        pfns: impl Iterator<Item = u64>,
    ) -> Result<(), GpaDirectError> {
        if len == 0 || offset >= PAGE_SIZE {
            return Err(GpaDirectError::BadRange);
        }
        let end = offset.checked_add(len).ok_or(GpaDirectError::BadRange)?;
        let bytes = self
            .bytes
            .checked_add(len)
            .ok_or(GpaDirectError::BadRange)?;
        self.write_range(offset, len, end.div_ceil(PAGE_SIZE), pfns)?;
        self.ranges = self.ranges.saturating_add(1);
        self.bytes = bytes;
        Ok(())
    }

    #[inline]
    fn write_range(
        &mut self,
        offset: u32,
        len: u32,
        pages: u32,
        mut pfns: impl Iterator<Item = u64>,
    ) -> Result<(), GpaDirectError> {
        let end = self.len.saturating_add(header_len(1, pages as usize));
        let end = end.saturating_sub(GPA_DIRECT_HEADER_LEN);
        let room = self.buffer.get_mut(self.len..end);
        let (range, rest) = room
            .and_then(|room| room.split_first_chunk_mut::<8>())
            .ok_or(GpaDirectError::BufferFull)?;
        *range = (u64::from(offset) << 32 | u64::from(len)).to_le_bytes();
        for place in rest.chunks_exact_mut(8) {
            let pfn = pfns.next().ok_or(GpaDirectError::PageCount)?;
            place.copy_from_slice(&pfn.to_le_bytes());
        }
        if pfns.next().is_some() {
            return Err(GpaDirectError::PageCount);
        }
        self.len = end;
        Ok(())
    }

    /// Ranges added so far, the RNDIS header's included.
    pub const fn ranges(&self) -> u32 {
        self.ranges
    }

    /// Bytes that the ranges cover.
    pub const fn bytes(&self) -> u32 {
        self.bytes
    }

    /// Writes descriptor and range count, and returns the header's length: the packet is these bytes of
    /// the buffer followed by `payload_len` bytes of payload. `None` if there is no range or the
    /// packet is too long for the descriptor's 16-bit lengths.
    pub fn finish(self, payload_len: usize, transaction_id: u64) -> Option<usize> {
        if self.ranges == 0 {
            return None;
        }
        let whole = self.len.checked_add(payload_len)?.div_ceil(8);
        let header = GpaDirectHeader {
            descriptor: PacketDescriptor {
                packet_type: PacketType::DataGpaDirect.value().into(),
                offset8: u16::try_from(self.len.div_ceil(8)).ok()?.into(),
                len8: u16::try_from(whole).ok()?.into(),
                flags: FLAG_COMPLETION_REQUESTED.into(),
                transaction_id: transaction_id.into(),
            },
            reserved: U32::ZERO,
            range_count: self.ranges.into(),
        };
        header.write_to_prefix(self.buffer).ok()?;
        Some(self.len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::mem::{offset_of, size_of};
    use proptest::prelude::*;

    #[test]
    fn layout() {
        assert_eq!(size_of::<GpaDirectHeader>(), GPA_DIRECT_HEADER_LEN);
        assert_eq!(offset_of!(GpaDirectHeader, reserved), 16);
        assert_eq!(offset_of!(GpaDirectHeader, range_count), 20);
    }

    #[test]
    fn a_header_range_never_crosses_a_page() {
        assert!(RndisHeaderRange::new(0xf00, 0x100).is_some());
        assert!(RndisHeaderRange::new(0xf00, 0x101).is_none());
        assert!(RndisHeaderRange::new(0x1000, 0).is_none());
        assert!(RndisHeaderRange::new(u64::MAX, 2).is_none());
    }

    #[test]
    fn too_many_or_too_few_pages_leave_the_header_as_it_was() {
        let mut buffer = [0u8; 64];
        let mut gpa = GpaDirect::header_in_section(&mut buffer).unwrap();
        assert_eq!(
            gpa.push_pages(0, 4097, [1].into_iter()),
            Err(GpaDirectError::PageCount)
        );
        assert_eq!(
            gpa.push_pages(0, 4096, [1, 2].into_iter()),
            Err(GpaDirectError::PageCount)
        );
        assert_eq!(gpa.ranges(), 0);
        assert!(gpa.push(0x1000, 4096).is_ok());
        assert_eq!(gpa.finish(40, 1), Some(header_len(1, 1)));
    }

    #[test]
    fn no_range_is_no_packet() {
        let mut buffer = [0u8; 64];
        let gpa = GpaDirect::header_in_section(&mut buffer).unwrap();
        assert_eq!(gpa.finish(40, 1), None);
    }

    proptest! {
        #[test]
        fn ranges_cover_what_was_pushed(address in 0u64..1 << 40, len in 1u32..200_000) {
            let mut buffer = [0u8; 512];
            let mut gpa = GpaDirect::header_in_section(&mut buffer).unwrap();
            gpa.push(address, len).unwrap();
            let pages = ((address & 0xfff) + u64::from(len)).div_ceil(4096);
            prop_assert_eq!(gpa.bytes(), len);
            prop_assert_eq!(gpa.finish(40, 7), Some(header_len(1, pages as usize)));
        }
    }
}
