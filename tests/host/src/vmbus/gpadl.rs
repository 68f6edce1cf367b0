// SPDX-License-Identifier: GPL-2.0

//! GPADLs: guest memory that the guest lends to the host under a handle.
//!
//! [`GpadlMemory`] is the memory; [`GpadlBuilder`] collects it from the messages that describe it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;

use thiserror::Error;
use vm_memory::{Bytes, GuestMemoryMmap};

use super::gpa::{pages_covered, pfn_of, GpaError, GpaRange, PAGE_SIZE};

/// Most pages of one GPADL: `range_buflen` is 16 bits, 8 of its bytes precede the page numbers.
pub const MAX_PAGES: usize = (u16::MAX as usize - 8) / 8;

/// The memory of a live GPADL.
///
/// Once the guest tore the GPADL down every access fails, so that a device which holds on to it
/// cannot scribble over memory that the guest uses for something else.
#[derive(Debug)]
pub struct GpadlMemory {
    handle: u32,
    range: GpaRange,
    memory: Arc<GuestMemoryMmap>,
    torn_down: AtomicBool,
}

impl GpadlMemory {
    /// Memory of `range` under `handle`; fails if a page is not guest memory.
    pub fn new(
        memory: Arc<GuestMemoryMmap>,
        handle: u32,
        range: GpaRange,
    ) -> Result<Self, GpaError> {
        range.check(&memory)?;
        Ok(Self {
            handle,
            range,
            memory,
            torn_down: AtomicBool::new(false),
        })
    }

    /// The handle the guest chose.
    pub fn handle(&self) -> u32 {
        self.handle
    }

    /// Bytes in the GPADL.
    pub fn len(&self) -> usize {
        self.range.len()
    }

    /// Never true for a GPADL that was established.
    pub fn is_empty(&self) -> bool {
        self.range.is_empty()
    }

    /// Whether the range starts at a page boundary and ends at one, as ring memory must.
    pub fn is_page_aligned(&self) -> bool {
        self.range.offset == 0 && self.len() % PAGE_SIZE == 0
    }

    /// Whether the guest has taken the memory back.
    pub fn is_torn_down(&self) -> bool {
        self.torn_down.load(Ordering::Acquire)
    }

    /// The guest takes the memory back: every later access fails.
    pub fn tear_down(&self) {
        self.torn_down.store(true, Ordering::Release);
    }

    /// Copies `buf.len()` bytes from byte `offset`.
    pub fn read(&self, offset: usize, buf: &mut [u8]) -> Result<(), GpaError> {
        self.check_live()?;
        self.range.read(&self.memory, offset, buf)
    }

    /// Copies `bytes` to byte `offset`.
    pub fn write(&self, offset: usize, bytes: &[u8]) -> Result<(), GpaError> {
        self.check_live()?;
        self.range.write(&self.memory, offset, bytes)
    }

    /// Atomically loads the u32 at byte `offset` (a multiple of 4) with `ordering`.
    pub fn load_u32(&self, offset: usize, ordering: Ordering) -> Result<u32, GpaError> {
        self.check_live()?;
        let address = self.range.address(offset)?;
        let bad = |_| GpaError::BadPage(address.0 / PAGE_SIZE as u64);
        self.memory
            .load::<u32>(address, ordering)
            .map(u32::from_le)
            .map_err(bad)
    }

    /// Atomically stores a u32 at byte `offset` (a multiple of 4) with `ordering`.
    pub fn store_u32(&self, offset: usize, value: u32, ordering: Ordering) -> Result<(), GpaError> {
        self.check_live()?;
        let address = self.range.address(offset)?;
        let bad = |_| GpaError::BadPage(address.0 / PAGE_SIZE as u64);
        self.memory
            .store(value.to_le(), address, ordering)
            .map_err(bad)
    }

    /// The guest's memory as a whole, for ranges that are not part of a GPADL.
    pub fn guest_memory(&self) -> &Arc<GuestMemoryMmap> {
        &self.memory
    }

    fn check_live(&self) -> Result<(), GpaError> {
        if self.is_torn_down() {
            return Err(GpaError::TornDown(self.handle));
        }
        Ok(())
    }
}

/// Why the messages that describe a GPADL are not acceptable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum DescriptionError {
    /// Not exactly one range.
    #[error("{0} ranges; this host takes one")]
    Ranges(u16),
    /// The range starts beyond its first page, or is empty.
    #[error("{0}")]
    Range(GpaError),
    /// `range_buflen` disagrees with the bytes and the offset of the range.
    #[error("range_buflen is {buflen}, but {byte_count} bytes at {byte_offset} need {need}")]
    BufferLength {
        /// As sent.
        buflen: u16,
        /// As sent.
        byte_count: u32,
        /// As sent.
        byte_offset: u32,
        /// What it ought to be.
        need: usize,
    },
    /// More page numbers than the header announced.
    #[error("{have} page numbers where {need} were announced")]
    TooManyPages {
        /// Page numbers received.
        have: usize,
        /// Page numbers announced.
        need: usize,
    },
}

/// A GPADL whose page numbers are still arriving.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GpadlBuilder {
    offset: u32,
    len: u32,
    need: usize,
    pfns: Vec<u64>,
}

impl GpadlBuilder {
    /// Starts from the fields of GPADL_HEADER; `pfns` are the bytes of the page numbers in it.
    pub fn new(
        range_count: u16,
        range_buflen: u16,
        byte_count: u32,
        byte_offset: u32,
        pfns: &[u8],
    ) -> Result<Self, DescriptionError> {
        if range_count != 1 {
            return Err(DescriptionError::Ranges(range_count));
        }
        if byte_count == 0 {
            return Err(DescriptionError::Range(GpaError::Empty));
        }
        if byte_offset as usize >= PAGE_SIZE {
            return Err(DescriptionError::Range(GpaError::BadOffset(byte_offset)));
        }
        let pages = pages_covered(byte_offset, byte_count);
        let need = 8 + 8 * pages;
        if usize::from(range_buflen) != need {
            return Err(DescriptionError::BufferLength {
                buflen: range_buflen,
                byte_count,
                byte_offset,
                need,
            });
        }
        let mut builder = Self {
            offset: byte_offset,
            len: byte_count,
            need: pages,
            pfns: Vec::with_capacity(pages),
        };
        builder.add(pfns)?;
        Ok(builder)
    }

    /// Adds the page numbers of a GPADL_BODY, 8 bytes each; a rest of fewer than 8 is ignored.
    pub fn add(&mut self, pfns: &[u8]) -> Result<(), DescriptionError> {
        self.pfns.extend(pfns.chunks_exact(8).map(pfn_of));
        if self.pfns.len() > self.need {
            return Err(DescriptionError::TooManyPages {
                have: self.pfns.len(),
                need: self.need,
            });
        }
        Ok(())
    }

    /// Whether all page numbers are there.
    pub fn is_complete(&self) -> bool {
        self.pfns.len() == self.need
    }

    /// Page numbers received so far and announced.
    pub fn progress(&self) -> (usize, usize) {
        (self.pfns.len(), self.need)
    }

    /// The range, once complete.
    pub fn finish(self) -> Option<GpaRange> {
        self.is_complete().then_some(GpaRange {
            offset: self.offset,
            len: self.len,
            pfns: self.pfns,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use vm_memory::GuestAddress;

    fn pfns(range: std::ops::Range<u64>) -> Vec<u8> {
        range.flat_map(u64::to_le_bytes).collect()
    }

    #[test]
    fn collects_from_header_and_bodies() {
        let pages = 100u32;
        let mut builder =
            GpadlBuilder::new(1, 8 + 8 * pages as u16, pages * 4096, 0, &pfns(500..526)).unwrap();
        assert!(!builder.is_complete());
        builder.add(&pfns(526..554)).unwrap();
        assert_eq!(builder.clone().finish(), None);
        builder.add(&pfns(554..582)).unwrap();
        builder.add(&pfns(582..600)).unwrap();
        let range = builder.finish().unwrap();
        assert_eq!(range.pfns, (500..600).collect::<Vec<_>>());
        assert_eq!(range.len(), 100 * 4096);
    }

    #[test]
    fn largest_gpadl_fits_the_length_field() {
        assert_eq!(MAX_PAGES, 8190);
        let len = MAX_PAGES as u32 * 4096;
        assert!(GpadlBuilder::new(1, (8 + 8 * MAX_PAGES) as u16, len, 0, &[]).is_ok());
        assert!(GpadlBuilder::new(1, u16::MAX, len + 1, 0, &[]).is_err());
        assert!(GpadlBuilder::new(1, u16::MAX, u32::MAX, 4095, &[]).is_err());
    }

    #[test]
    fn refuses_bad_descriptions() {
        assert_eq!(
            GpadlBuilder::new(2, 16, 4096, 0, &[]),
            Err(DescriptionError::Ranges(2))
        );
        assert!(matches!(
            GpadlBuilder::new(1, 16, 0, 0, &[]),
            Err(DescriptionError::Range(GpaError::Empty))
        ));
        assert!(matches!(
            GpadlBuilder::new(1, 16, 1, 4096, &[]),
            Err(DescriptionError::Range(GpaError::BadOffset(4096)))
        ));
        assert!(matches!(
            GpadlBuilder::new(1, 24, 4096, 0, &[]),
            Err(DescriptionError::BufferLength { need: 16, .. })
        ));
        assert!(matches!(
            GpadlBuilder::new(1, 16, 4096, 0, &pfns(0..2)),
            Err(DescriptionError::TooManyPages { have: 2, need: 1 })
        ));
    }

    #[test]
    fn torn_down_memory_is_out_of_reach() {
        let memory =
            Arc::new(GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 4 * PAGE_SIZE)]).unwrap());
        let range = GpaRange {
            offset: 0,
            len: 8192,
            pfns: vec![3, 1],
        };
        let gpadl = GpadlMemory::new(memory.clone(), 0xe1e10, range).unwrap();
        assert!(gpadl.is_page_aligned());
        gpadl
            .store_u32(4096, 0x1234_5678, Ordering::Release)
            .unwrap();
        assert_eq!(gpadl.load_u32(4096, Ordering::Acquire), Ok(0x1234_5678));
        let mut bytes = [0; 4];
        memory.read_slice(&mut bytes, GuestAddress(4096)).unwrap();
        assert_eq!(bytes, [0x78, 0x56, 0x34, 0x12]);
        gpadl.tear_down();
        assert_eq!(gpadl.write(0, &[1]), Err(GpaError::TornDown(0xe1e10)));
        assert_eq!(gpadl.read(0, &mut [0]), Err(GpaError::TornDown(0xe1e10)));
        assert!(gpadl.load_u32(0, Ordering::Relaxed).is_err());
    }

    #[test]
    fn pages_outside_guest_memory_are_refused() {
        let memory =
            Arc::new(GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 4 * PAGE_SIZE)]).unwrap());
        let range = GpaRange {
            offset: 0,
            len: 8192,
            pfns: vec![3, 4],
        };
        assert_eq!(
            GpadlMemory::new(memory, 1, range).unwrap_err(),
            GpaError::BadPage(4)
        );
    }
}
