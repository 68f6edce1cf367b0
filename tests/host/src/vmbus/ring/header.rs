// SPDX-License-Identifier: GPL-2.0

//! One ring in guest memory: the header page and the data area behind it.

use std::sync::atomic::Ordering;
use std::sync::Arc;

use super::RingError;
use crate::vmbus::gpa::{GpaError, PAGE_SIZE};
use crate::vmbus::gpadl::GpadlMemory;

/// Feature bit: `pending_send_sz` is honoured.
const FEATURE_PENDING_SEND: u32 = 1;

/// Byte offsets in the header page.
#[derive(Clone, Copy)]
pub(super) enum Field {
    WriteIndex = 0,
    ReadIndex = 4,
    InterruptMask = 8,
    PendingSend = 12,
    Features = 64,
}

/// A ring. Positions are byte offsets in the data area, multiples of 8 below `size`.
pub(super) struct RingHeader {
    gpadl: Arc<GpadlMemory>,
    /// Offset of the header page in the GPADL.
    base: usize,
    /// Bytes in the data area.
    size: u32,
}

impl RingHeader {
    /// The ring of `len` bytes (whole pages, two or more) at `base` of `gpadl`.
    pub fn new(gpadl: Arc<GpadlMemory>, base: usize, len: usize) -> Self {
        // A GPADL has fewer than 8192 pages, so the size fits.
        let size = (len - PAGE_SIZE) as u32;
        Self { gpadl, base, size }
    }

    pub fn size(&self) -> u32 {
        self.size
    }

    pub fn load(&self, field: Field, ordering: Ordering) -> Result<u32, GpaError> {
        self.gpadl.load_u32(self.base + field as usize, ordering)
    }

    pub fn store(&self, field: Field, value: u32, ordering: Ordering) -> Result<(), GpaError> {
        self.gpadl
            .store_u32(self.base + field as usize, value, ordering)
    }

    /// Loads a position that the guest wrote, with acquire ordering, and checks it.
    pub fn load_index(&self, field: Field) -> Result<u32, RingError> {
        let value = self
            .load(field, Ordering::Acquire)
            .map_err(|_| RingError::Gone)?;
        if value >= self.size || value % 8 != 0 {
            let which = match field {
                Field::WriteIndex => "write_index",
                _ => "read_index",
            };
            return Err(RingError::Index {
                which,
                value,
                size: self.size,
            });
        }
        Ok(value)
    }

    /// Whether the guest set the feature bit for `pending_send_sz`.
    pub fn has_pending_send(&self) -> bool {
        self.load(Field::Features, Ordering::Relaxed)
            .is_ok_and(|bits| bits & FEATURE_PENDING_SEND != 0)
    }

    /// Bytes that can be read when the indices are these.
    pub fn used(&self, write: u32, read: u32) -> u32 {
        if write >= read {
            write - read
        } else {
            self.size - (read - write)
        }
    }

    /// Bytes not in use when the indices are these. A writer must leave at least one of them, for
    /// equal indices mean an empty ring.
    pub fn free(&self, write: u32, read: u32) -> u32 {
        self.size - self.used(write, read)
    }

    /// `position` moved on by `len` (at most the ring's size).
    pub fn advance(&self, position: u32, len: usize) -> u32 {
        let next = position as usize + len;
        let size = self.size as usize;
        (if next >= size { next - size } else { next }) as u32
    }

    /// Copies bytes out of the data area, going on at its start when it ends.
    pub fn copy_out(&self, position: u32, buf: &mut [u8]) -> Result<(), GpaError> {
        let position = position as usize;
        let first = buf.len().min(self.size as usize - position);
        let (head, tail) = buf.split_at_mut(first);
        self.gpadl.read(self.data() + position, head)?;
        if !tail.is_empty() {
            self.gpadl.read(self.data(), tail)?;
        }
        Ok(())
    }

    /// Copies bytes into the data area, going on at its start when it ends.
    pub fn copy_in(&self, position: u32, bytes: &[u8]) -> Result<(), GpaError> {
        let position = position as usize;
        let first = bytes.len().min(self.size as usize - position);
        let (head, tail) = bytes.split_at(first);
        self.gpadl.write(self.data() + position, head)?;
        if !tail.is_empty() {
            self.gpadl.write(self.data(), tail)?;
        }
        Ok(())
    }

    fn data(&self) -> usize {
        self.base + PAGE_SIZE
    }
}
