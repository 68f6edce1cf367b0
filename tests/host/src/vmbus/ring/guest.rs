// SPDX-License-Identifier: GPL-2.0

//! The guest's side of the rings, for tests: written against the specification, not against the
//! host's code, so that the two check each other.

use std::sync::atomic::{fence, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use super::{ChannelStats, RingOwner, RingPair};
use crate::vmbus::gpa::GpaRange;
use crate::vmbus::gpadl::GpadlMemory;

/// Field offsets in a ring's header page.
pub(crate) const WRITE_INDEX: u64 = 0;
pub(crate) const READ_INDEX: u64 = 4;
pub(crate) const INTERRUPT_MASK: u64 = 8;
pub(crate) const PENDING_SEND: u64 = 12;
const FEATURES: u64 = 64;

/// A packet as the guest reads it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct GuestPacket {
    pub kind: u16,
    pub flags: u16,
    pub transaction_id: u64,
    pub header: Vec<u8>,
    pub payload: Vec<u8>,
}

/// Both rings in guest memory, physically contiguous.
pub(crate) struct GuestRings {
    memory: Arc<GuestMemoryMmap>,
    /// Header of the ring the guest writes.
    pub to_host: u64,
    /// Header of the ring the guest reads.
    pub from_host: u64,
    to_host_size: u32,
    from_host_size: u32,
}

impl GuestRings {
    /// Rings of `out_pages` and `in_pages` pages (headers included) at `base`, initialised as
    /// Linux does it.
    pub fn new(memory: Arc<GuestMemoryMmap>, base: u64, out_pages: u32, in_pages: u32) -> Self {
        let rings = Self {
            memory,
            to_host: base,
            from_host: base + u64::from(out_pages) * 4096,
            to_host_size: (out_pages - 1) * 4096,
            from_host_size: (in_pages - 1) * 4096,
        };
        for ring in [rings.to_host, rings.from_host] {
            let zeros = [0; 4096];
            rings
                .memory
                .write_slice(&zeros, GuestAddress(ring))
                .unwrap();
            rings.poke(ring, FEATURES, 1);
        }
        rings
    }

    /// The memory of both rings, for a GPADL.
    pub fn range(&self) -> GpaRange {
        let end = self.from_host + 4096 + u64::from(self.from_host_size);
        GpaRange {
            offset: 0,
            len: (end - self.to_host) as u32,
            pfns: (self.to_host / 4096..end / 4096).collect(),
        }
    }

    /// The page at which the ring from the host starts.
    pub fn split(&self) -> u32 {
        ((self.from_host - self.to_host) / 4096) as u32
    }

    pub fn peek(&self, ring: u64, field: u64) -> u32 {
        self.memory
            .load(GuestAddress(ring + field), Ordering::SeqCst)
            .unwrap()
    }

    pub fn poke(&self, ring: u64, field: u64, value: u32) {
        self.memory
            .store(value, GuestAddress(ring + field), Ordering::SeqCst)
            .unwrap();
    }

    /// Masks or unmasks interrupts for packets from the host.
    pub fn mask(&self, masked: bool) {
        self.poke(self.from_host, INTERRUPT_MASK, masked.into());
        fence(Ordering::SeqCst);
    }

    fn put(&self, position: u32, bytes: &[u8]) {
        let data = self.to_host + 4096;
        let first = bytes.len().min((self.to_host_size - position) as usize);
        let (head, tail) = bytes.split_at(first);
        let at = GuestAddress(data + u64::from(position));
        self.memory.write_slice(head, at).unwrap();
        self.memory.write_slice(tail, GuestAddress(data)).unwrap();
    }

    fn get(&self, position: u32, len: usize) -> Vec<u8> {
        let data = self.from_host + 4096;
        let position = position % self.from_host_size;
        let mut bytes = vec![0; len];
        let first = len.min((self.from_host_size - position) as usize);
        let (head, tail) = bytes.split_at_mut(first);
        let at = GuestAddress(data + u64::from(position));
        self.memory.read_slice(head, at).unwrap();
        self.memory.read_slice(tail, GuestAddress(data)).unwrap();
        bytes
    }

    /// Free bytes in the ring to the host.
    pub fn room(&self) -> u32 {
        let write = self.peek(self.to_host, WRITE_INDEX);
        let read = self.peek(self.to_host, READ_INDEX);
        (read + self.to_host_size - write - 1) % self.to_host_size + 1
    }

    /// Puts arbitrary bytes into the ring and moves the write index by their number.
    pub fn send_raw(&self, bytes: &[u8]) {
        let write = self.peek(self.to_host, WRITE_INDEX);
        self.put(write, bytes);
        let next = (write + bytes.len() as u32) % self.to_host_size;
        self.poke(self.to_host, WRITE_INDEX, next);
    }

    /// Sends a packet. `None` if there is no room, otherwise whether the host must be signalled.
    pub fn send(
        &self,
        kind: u16,
        flags: u16,
        transaction_id: u64,
        header: &[u8],
        payload: &[u8],
    ) -> Option<bool> {
        let pad = |len: usize| len.div_ceil(8) * 8;
        let header_len = 16 + pad(header.len());
        let len = header_len + pad(payload.len());
        if self.room() as usize <= len + 8 {
            return None;
        }
        let write = self.peek(self.to_host, WRITE_INDEX);
        let mut bytes = Vec::new();
        bytes.extend(kind.to_le_bytes());
        bytes.extend((header_len as u16 / 8).to_le_bytes());
        bytes.extend((len as u16 / 8).to_le_bytes());
        bytes.extend(flags.to_le_bytes());
        bytes.extend(transaction_id.to_le_bytes());
        bytes.extend(header);
        bytes.resize(header_len, 0);
        bytes.extend(payload);
        bytes.resize(len, 0);
        bytes.extend([0; 4]);
        bytes.extend(write.to_le_bytes());
        self.send_raw(&bytes);
        let masked = self.peek(self.to_host, INTERRUPT_MASK) != 0;
        Some(!masked && self.peek(self.to_host, READ_INDEX) == write)
    }

    /// Reads one packet. The second value says whether the host waits for the space and must be
    /// signalled.
    pub fn receive(&self) -> Option<(GuestPacket, bool)> {
        let write = self.peek(self.from_host, WRITE_INDEX);
        let read = self.peek(self.from_host, READ_INDEX);
        if write == read {
            return None;
        }
        let descriptor = self.get(read, 16);
        let word = |at: usize| u16::from_le_bytes([descriptor[at], descriptor[at + 1]]);
        let (header_len, len) = (usize::from(word(2)) * 8, usize::from(word(4)) * 8);
        let packet = GuestPacket {
            kind: word(0),
            flags: word(6),
            transaction_id: u64::from_le_bytes(descriptor[8..16].try_into().unwrap()),
            header: self.get(read + 16, header_len - 16),
            payload: self.get(read + header_len as u32, len - header_len),
        };
        let trailer = self.get(read + len as u32, 8);
        assert_eq!(trailer[..4], [0; 4], "trailer");
        assert_eq!(trailer[4..], read.to_le_bytes(), "trailer");
        let free = |read: u32| (read + self.from_host_size - write - 1) % self.from_host_size + 1;
        let next = (read + len as u32 + 8) % self.from_host_size;
        self.poke(self.from_host, READ_INDEX, next);
        let pending = self.peek(self.from_host, PENDING_SEND);
        let signal = pending != 0 && free(read) <= pending && free(next) > pending;
        Some((packet, signal))
    }
}

/// An owner that remembers what the rings told it.
#[derive(Default)]
pub(crate) struct Recorder {
    pub interrupts: AtomicU64,
    pub violations: Mutex<Vec<(&'static str, String)>>,
}

impl Recorder {
    pub fn interrupts(&self) -> u64 {
        self.interrupts.load(Ordering::SeqCst)
    }

    pub fn violation_names(&self) -> Vec<&'static str> {
        let violations = self.violations.lock().unwrap();
        violations.iter().map(|(name, _)| *name).collect()
    }
}

impl RingOwner for Recorder {
    fn interrupt(&self) {
        self.interrupts.fetch_add(1, Ordering::SeqCst);
    }

    fn violation(&self, name: &'static str, detail: String) {
        self.violations.lock().unwrap().push((name, detail));
    }
}

/// Both ends of a channel with rings of the given sizes, at 1 MiB of 4 MiB of guest memory.
pub(crate) fn channel(out_pages: u32, in_pages: u32) -> (RingPair, GuestRings, Arc<Recorder>) {
    let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 4 << 20)]).unwrap();
    let memory = Arc::new(memory);
    let guest = GuestRings::new(memory.clone(), 1 << 20, out_pages, in_pages);
    let recorder = Arc::new(Recorder::default());
    let gpadl = GpadlMemory::new(memory, 1, guest.range()).unwrap();
    let rings = RingPair::new(
        Arc::new(gpadl),
        guest.split(),
        recorder.clone(),
        Arc::new(ChannelStats::default()),
    )
    .unwrap();
    (rings, guest, recorder)
}
