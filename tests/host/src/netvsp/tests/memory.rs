// SPDX-License-Identifier: GPL-2.0

//! Guest memory for the tests of this directory.

use std::sync::Arc;

use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use super::super::tx::Source;
use crate::vmbus::gpa::GpaRange;
use crate::vmbus::gpadl::GpadlMemory;

/// A range of `len` bytes at guest address `base` (page aligned).
pub fn range(base: u64, len: usize) -> GpaRange {
    let pages = len.div_ceil(4096) as u64;
    GpaRange {
        offset: 0,
        len: len as u32,
        pfns: (base / 4096..base / 4096 + pages).collect(),
    }
}

/// A GPADL of `len` bytes in memory of its own.
pub fn gpadl(handle: u32, base: u64, len: usize) -> Arc<GpadlMemory> {
    let size = base as usize + len.next_multiple_of(4096);
    let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), size)]).expect("memory");
    Arc::new(GpadlMemory::new(Arc::new(memory), handle, range(base, len)).expect("GPADL"))
}

/// RNDIS messages in guest pages, one range for each piece.
pub fn source(pieces: &[&[u8]]) -> Source {
    const STRIDE: u64 = 1 << 17;
    let size = STRIDE as usize * (pieces.len() + 1);
    let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), size)]).expect("memory");
    let mut ranges = Vec::new();
    for (piece, index) in pieces.iter().zip(0u64..) {
        let base = index * STRIDE;
        memory
            .write_slice(piece, GuestAddress(base))
            .expect("piece in memory");
        ranges.push(range(base, piece.len()));
    }
    Source::new(None, ranges, Arc::new(memory))
}
