// SPDX-License-Identifier: GPL-2.0

//! Ranges of guest memory given as page lists, as GPADL messages and GPA-direct packets carry them.

use thiserror::Error;
use vm_memory::{Bytes, GuestAddress, GuestMemory, GuestMemoryMmap, Permissions};

/// Bytes in a guest page, as the hypervisor counts them.
pub const PAGE_SIZE: usize = 4096;

/// Bytes in front of the page numbers of a range: `byte_count u32`, `byte_offset u32`.
const RANGE_HEADER: usize = 8;

/// Why a range of guest memory cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum GpaError {
    /// The access leaves the range.
    #[error("access to {len} bytes at {offset} leaves a range of {size}")]
    OutOfRange {
        /// First byte wanted.
        offset: usize,
        /// Bytes wanted.
        len: usize,
        /// Bytes in the range.
        size: usize,
    },
    /// A page is not guest memory.
    #[error("page {0:#x} is not guest memory")]
    BadPage(u64),
    /// The first byte does not lie in the first page.
    #[error("range starts at byte {0}, beyond its first page")]
    BadOffset(u32),
    /// The range is empty.
    #[error("range of 0 bytes")]
    Empty,
    /// The list ends before the range does.
    #[error("range list of {have} bytes where {need} are needed")]
    Truncated {
        /// Bytes present.
        have: usize,
        /// Bytes the ranges take.
        need: usize,
    },
    /// The memory was given back to the guest.
    #[error("GPADL {0:#x} was torn down")]
    TornDown(u32),
}

/// A run of bytes in guest memory: `len` bytes from byte `offset` of the first of `pfns`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GpaRange {
    /// Byte in the first page where the range starts, below 4096.
    pub offset: u32,
    /// Bytes in the range, never 0.
    pub len: u32,
    /// Guest page numbers, exactly as many as the range covers.
    pub pfns: Vec<u64>,
}

/// Pages covered by `len` bytes from byte `offset` of a page.
pub fn pages_covered(offset: u32, len: u32) -> usize {
    (offset as usize + len as usize).div_ceil(PAGE_SIZE)
}

impl GpaRange {
    /// Bytes in the range.
    pub fn len(&self) -> usize {
        self.len as usize
    }

    /// Whether the range has no bytes; never so for a range that was parsed.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Checks that every page is memory of the guest.
    pub fn check(&self, memory: &GuestMemoryMmap) -> Result<(), GpaError> {
        for &pfn in &self.pfns {
            let address = page_address(pfn).ok_or(GpaError::BadPage(pfn))?;
            if !memory.check_range(address, PAGE_SIZE, Permissions::ReadWrite) {
                return Err(GpaError::BadPage(pfn));
            }
        }
        Ok(())
    }

    /// Copies `buf.len()` bytes from byte `offset` of the range.
    pub fn read(
        &self,
        memory: &GuestMemoryMmap,
        offset: usize,
        buf: &mut [u8],
    ) -> Result<(), GpaError> {
        let mut rest = buf;
        self.for_each_run(offset, rest.len(), |address, len| {
            let (now, later) = std::mem::take(&mut rest).split_at_mut(len);
            rest = later;
            memory
                .read_slice(now, address)
                .map_err(|_| GpaError::BadPage(address.0 / PAGE_SIZE as u64))
        })
    }

    /// Copies `bytes` to byte `offset` of the range.
    pub fn write(
        &self,
        memory: &GuestMemoryMmap,
        offset: usize,
        bytes: &[u8],
    ) -> Result<(), GpaError> {
        let mut rest = bytes;
        self.for_each_run(offset, rest.len(), |address, len| {
            let (now, later) = rest.split_at(len);
            rest = later;
            memory
                .write_slice(now, address)
                .map_err(|_| GpaError::BadPage(address.0 / PAGE_SIZE as u64))
        })
    }

    /// Guest address of byte `offset`.
    pub fn address(&self, offset: usize) -> Result<GuestAddress, GpaError> {
        self.bound(offset, 1)?;
        self.address_of(self.offset as usize + offset)
    }

    /// Calls `f(address, len)` for each stretch of guest memory that is contiguous.
    fn for_each_run(
        &self,
        offset: usize,
        len: usize,
        mut f: impl FnMut(GuestAddress, usize) -> Result<(), GpaError>,
    ) -> Result<(), GpaError> {
        self.bound(offset, len)?;
        let mut at = self.offset as usize + offset;
        let end = at + len;
        while at < end {
            let mut page = at / PAGE_SIZE;
            let mut stop = (page + 1) * PAGE_SIZE;
            while stop < end && self.follows(page) {
                page += 1;
                stop += PAGE_SIZE;
            }
            let stop = stop.min(end);
            f(self.address_of(at)?, stop - at)?;
            at = stop;
        }
        Ok(())
    }

    fn follows(&self, page: usize) -> bool {
        match (self.pfns.get(page), self.pfns.get(page + 1)) {
            (Some(&this), Some(&next)) => this.checked_add(1) == Some(next),
            _ => false,
        }
    }

    fn bound(&self, offset: usize, len: usize) -> Result<(), GpaError> {
        match offset.checked_add(len) {
            Some(end) if end <= self.len() => Ok(()),
            _ => Err(GpaError::OutOfRange {
                offset,
                len,
                size: self.len(),
            }),
        }
    }

    /// Address of byte `at`, counted from the start of the first page.
    fn address_of(&self, at: usize) -> Result<GuestAddress, GpaError> {
        let pfn = *self.pfns.get(at / PAGE_SIZE).ok_or(GpaError::OutOfRange {
            offset: at,
            len: 1,
            size: self.len(),
        })?;
        let page = page_address(pfn).ok_or(GpaError::BadPage(pfn))?;
        Ok(GuestAddress(page.0 + (at % PAGE_SIZE) as u64))
    }
}

fn page_address(pfn: u64) -> Option<GuestAddress> {
    let address = pfn.checked_mul(PAGE_SIZE as u64)?;
    address.checked_add(PAGE_SIZE as u64)?;
    Some(GuestAddress(address))
}

/// Total bytes of a list of ranges.
pub fn total_len(ranges: &[GpaRange]) -> usize {
    ranges.iter().map(GpaRange::len).sum()
}

/// Copies `buf.len()` bytes from byte `offset` of the ranges laid end to end.
pub fn read_ranges(
    ranges: &[GpaRange],
    memory: &GuestMemoryMmap,
    offset: usize,
    buf: &mut [u8],
) -> Result<(), GpaError> {
    let out_of_range = GpaError::OutOfRange {
        offset,
        len: buf.len(),
        size: total_len(ranges),
    };
    let mut skip = offset;
    let mut rest = buf;
    for range in ranges {
        if rest.is_empty() {
            break;
        }
        if skip >= range.len() {
            skip -= range.len();
            continue;
        }
        let len = rest.len().min(range.len() - skip);
        let (now, later) = rest.split_at_mut(len);
        range.read(memory, skip, now)?;
        skip = 0;
        rest = later;
    }
    if rest.is_empty() {
        Ok(())
    } else {
        Err(out_of_range)
    }
}

/// Reads `count` ranges, each `byte_count u32, byte_offset u32, pfn u64 * pages`, laid end to end
/// at the start of `bytes`. Returns them and the bytes they took. The pages are not checked against
/// guest memory: reading from a page that is none fails later.
pub fn parse_ranges(bytes: &[u8], count: u32) -> Result<(Vec<GpaRange>, usize), GpaError> {
    let mut ranges = Vec::new();
    let mut at = 0usize;
    for _ in 0..count {
        let (range, size) = parse_range(&bytes[at..]).map_err(|error| match error {
            GpaError::Truncated { need, .. } => GpaError::Truncated {
                have: bytes.len(),
                need: at.saturating_add(need),
            },
            other => other,
        })?;
        ranges.push(range);
        at += size;
    }
    Ok((ranges, at))
}

fn parse_range(bytes: &[u8]) -> Result<(GpaRange, usize), GpaError> {
    let truncated = |need| GpaError::Truncated {
        have: bytes.len(),
        need,
    };
    let (len, offset) = match (u32_at(bytes, 0), u32_at(bytes, 4)) {
        (Some(len), Some(offset)) => (len, offset),
        _ => return Err(truncated(RANGE_HEADER)),
    };
    if len == 0 {
        return Err(GpaError::Empty);
    }
    if offset as usize >= PAGE_SIZE {
        return Err(GpaError::BadOffset(offset));
    }
    let size = RANGE_HEADER + 8 * pages_covered(offset, len);
    let list = bytes.get(RANGE_HEADER..size).ok_or(truncated(size))?;
    let pfns = list.chunks_exact(8).map(pfn_of).collect();
    Ok((GpaRange { offset, len, pfns }, size))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    let field = bytes.get(at..at.checked_add(4)?)?;
    Some(u32::from_le_bytes(field.try_into().ok()?))
}

/// The page number in a chunk of eight bytes.
pub(super) fn pfn_of(chunk: &[u8]) -> u64 {
    chunk
        .iter()
        .rev()
        .fold(0, |value, &byte| value << 8 | u64::from(byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn memory() -> GuestMemoryMmap {
        GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 16 * PAGE_SIZE)]).unwrap()
    }

    fn range(offset: u32, len: u32, pfns: &[u64]) -> GpaRange {
        GpaRange {
            offset,
            len,
            pfns: pfns.to_vec(),
        }
    }

    #[test]
    fn reads_and_writes_across_scattered_pages() {
        let memory = memory();
        let range = range(4000, 5000, &[7, 3, 4]);
        let bytes: Vec<u8> = (0..5000u32).map(|i| i as u8).collect();
        range.write(&memory, 0, &bytes).unwrap();
        let mut back = vec![0; 5000];
        range.read(&memory, 0, &mut back).unwrap();
        assert_eq!(back, bytes);
        let mut first = [0; 96];
        memory
            .read_slice(&mut first, GuestAddress(7 * 4096 + 4000))
            .unwrap();
        assert_eq!(first[..], bytes[..96]);
        let mut last = [0; 808];
        memory
            .read_slice(&mut last, GuestAddress(4 * 4096))
            .unwrap();
        assert_eq!(last[..], bytes[96 + 4096..]);
    }

    #[test]
    fn bounds_are_kept() {
        let memory = memory();
        let range = range(0, 100, &[1]);
        assert!(range.read(&memory, 90, &mut [0; 10]).is_ok());
        assert!(range.read(&memory, 91, &mut [0; 10]).is_err());
        assert!(range.read(&memory, usize::MAX, &mut [0; 2]).is_err());
        assert_eq!(
            super::GpaRange {
                offset: 0,
                len: 1,
                pfns: vec![16]
            }
            .check(&memory),
            Err(GpaError::BadPage(16))
        );
        let far = super::GpaRange {
            offset: 0,
            len: 1,
            pfns: vec![u64::MAX],
        };
        assert_eq!(far.check(&memory), Err(GpaError::BadPage(u64::MAX)));
        assert!(far.read(&memory, 0, &mut [0]).is_err());
    }

    #[test]
    fn parses_a_list_and_refuses_bad_ones() {
        let mut bytes = Vec::new();
        for (len, offset, pfns) in [(100u32, 4050u32, vec![5u64, 6]), (8, 0, vec![9])] {
            bytes.extend(len.to_le_bytes());
            bytes.extend(offset.to_le_bytes());
            for pfn in pfns {
                bytes.extend(pfn.to_le_bytes());
            }
        }
        let (ranges, used) = parse_ranges(&bytes, 2).unwrap();
        assert_eq!(used, bytes.len());
        assert_eq!(ranges, [range(4050, 100, &[5, 6]), range(0, 8, &[9])]);
        assert_eq!(total_len(&ranges), 108);
        assert!(matches!(
            parse_ranges(&bytes, 3),
            Err(GpaError::Truncated { need: 48, .. })
        ));
        assert_eq!(parse_ranges(&[0; 16], 1), Err(GpaError::Empty));
        bytes[4..8].copy_from_slice(&4096u32.to_le_bytes());
        assert_eq!(parse_ranges(&bytes, 1), Err(GpaError::BadOffset(4096)));
    }

    #[test]
    fn a_huge_range_is_not_allocated() {
        let mut bytes = [0u8; 16];
        bytes[..4].copy_from_slice(&u32::MAX.to_le_bytes());
        assert!(matches!(
            parse_ranges(&bytes, u32::MAX),
            Err(GpaError::Truncated { .. })
        ));
    }

    #[test]
    fn reads_ranges_end_to_end() {
        let memory = memory();
        let ranges = [range(10, 20, &[1]), range(4090, 10, &[2, 5])];
        ranges[0].write(&memory, 0, &[1; 20]).unwrap();
        ranges[1].write(&memory, 0, &[2; 10]).unwrap();
        let mut buf = [0; 12];
        read_ranges(&ranges, &memory, 18, &mut buf).unwrap();
        assert_eq!(buf, [1, 1, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2]);
        assert!(read_ranges(&ranges, &memory, 19, &mut buf).is_err());
    }
}
