// SPDX-License-Identifier: GPL-2.0

//! Who owns which section of the send buffer.
//!
//! One bit a section, set while in use; the bits that are left over stay set. Sections are dealt out to the queues in
//! equal regions, each on cache lines of its own, so that queues do not disturb each other; a queue whose region is used
//! up takes from the others before it gives up. Any context may allocate and free.

use crate::atomic::{AtomicU64, Ordering};
use core::num::NonZeroU32;
use core::ops::Deref;

const WORDS: usize = 8;
const BITS: u32 = 512;

/// 512 sections on one cache line.
#[derive(Debug, Default)]
#[repr(align(64))]
pub struct SectionLine([AtomicU64; WORDS]);

/// A section of the send buffer that was allocated.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Section {
    index: u32,
    /// Number of its bit among those of all lines.
    place: u32,
}

impl Section {
    /// Index on the wire.
    pub const fn index(self) -> u32 {
        self.index
    }

    /// First byte in the send buffer, given the bytes of one section.
    pub const fn offset(self, section_len: u32) -> u64 {
        // Two 32-bit factors fit in 64 bits.
        (self.index as u64).wrapping_mul(section_len as u64)
    }

    /// For storing in a [`crate::rndis::slots::Cargo`] and taking out again.
    pub(super) const fn to_parts(self) -> (u32, u32) {
        (self.index, self.place)
    }

    /// What [`Self::to_parts`] gave.
    pub(super) const fn from_parts(index: u32, place: u32) -> Self {
        Self { index, place }
    }
}

/// The allocator, in storage given by the caller.
#[derive(Debug)]
pub struct Sections<S> {
    lines: S,
    count: u32,
    /// Bits that belong to no section; they are set for ever.
    idle: u32,
    layout: Layout,
}

/// How sections are dealt out.
#[derive(Clone, Copy, Debug)]
struct Layout {
    /// Sections in each region; the last may have fewer.
    region: NonZeroU32,
    regions: u32,
    /// Words of each region that have bits of sections.
    words: usize,
    /// Lines of each region.
    lines: usize,
}

impl Layout {
    const fn new(count: u32, queues: u16) -> Self {
        let region = div_ceil(count, at_least_one(queues as u32));
        let region = at_least_one(region);
        let last = region.get().saturating_sub(1);
        Self {
            region,
            regions: div_ceil(count, region),
            words: (last / 64).saturating_add(1) as usize,
            lines: (last / BITS).saturating_add(1) as usize,
        }
    }
}

const fn at_least_one(value: u32) -> NonZeroU32 {
    match NonZeroU32::new(value) {
        Some(value) => value,
        None => NonZeroU32::MIN,
    }
}

/// Rounds up, without a division that could panic.
const fn div_ceil(value: u32, by: NonZeroU32) -> u32 {
    match value.checked_sub(1) {
        Some(less) => match less.checked_div(by.get()) {
            Some(quotient) => quotient.saturating_add(1),
            None => 0,
        },
        None => 0,
    }
}

/// Lines of storage that `count` sections for `queues` queues (0 counts as 1) need.
pub const fn lines_needed(count: u32, queues: u16) -> usize {
    let layout = Layout::new(count, queues);
    (layout.regions as usize).saturating_mul(layout.lines)
}

impl<S: Deref<Target = [SectionLine]>> Sections<S> {
    /// All sections free; `None` if `lines` has fewer than [`lines_needed`] lines, or one is not zero.
    pub fn new(lines: S, count: u32, queues: u16) -> Option<Self> {
        let zero = |line: &SectionLine| line.0.iter().all(|w| w.load(Ordering::Relaxed) == 0);
        if lines.len() < lines_needed(count, queues) || !lines.iter().all(zero) {
            return None;
        }
        let mut sections = Self {
            lines,
            count,
            idle: 0,
            layout: Layout::new(count, queues),
        };
        sections.idle = sections.set_idle_bits();
        Some(sections)
    }

    /// Sets the bits behind each region's last section; returns how many these are.
    fn set_idle_bits(&self) -> u32 {
        let region_len = self.layout.region.get();
        let mut idle = 0u32;
        for region in 0..self.layout.regions {
            let before = region.saturating_mul(region_len);
            let mut left = self.count.saturating_sub(before).min(region_len);
            for number in 0..self.layout.words {
                let bits = !valid_bits(left);
                left = left.saturating_sub(64);
                if let Some(word) = self.word(self.first_place(region), number) {
                    word.store(bits, Ordering::Relaxed);
                    idle = idle.wrapping_add(bits.count_ones());
                }
            }
        }
        idle
    }

    /// Number of sections.
    pub const fn count(&self) -> u32 {
        self.count
    }

    /// Takes a free section, from the region of `queue` if there is one. `None` if all are in use.
    #[inline]
    pub fn allocate(&self, queue: u16) -> Option<Section> {
        let (queue, regions) = (u32::from(queue), self.layout.regions);
        let own = if queue < regions {
            queue
        } else {
            queue.checked_rem(regions)?
        };
        self.allocate_in(own)
            .or_else(|| self.allocate_elsewhere(own))
    }

    #[cold]
    fn allocate_elsewhere(&self, own: u32) -> Option<Section> {
        (own.saturating_add(1)..self.layout.regions)
            .chain(0..own)
            .find_map(|region| self.allocate_in(region))
    }

    #[inline]
    fn allocate_in(&self, region: u32) -> Option<Section> {
        let first = self.first_place(region);
        for number in 0..self.layout.words {
            if let Some(bit) = take_bit(self.word(first, number)?) {
                // All below the number of bits in the storage, or, for the index, below the number of sections.
                let within = (number as u32).wrapping_mul(64).wrapping_add(bit);
                let before = region.wrapping_mul(self.layout.region.get());
                return Some(Section {
                    index: before.wrapping_add(within),
                    place: first.wrapping_add(within),
                });
            }
        }
        None
    }

    /// Number of a region's first bit.
    #[inline]
    fn first_place(&self, region: u32) -> u32 {
        let lines = (self.layout.lines as u32).wrapping_mul(region);
        lines.wrapping_mul(BITS)
    }

    /// The word `number` words behind that with the bit `first`.
    #[inline]
    fn word(&self, first: u32, number: usize) -> Option<&AtomicU64> {
        let word = (first as usize / 64).wrapping_add(number);
        self.lines.get(word / WORDS)?.0.get(word % WORDS)
    }

    /// Gives a section back. False if it was not in use: then nothing changes.
    #[inline]
    pub fn free(&self, section: Section) -> bool {
        let Some(word) = self.word(section.place, 0) else {
            return false;
        };
        let mask = 1u64 << (section.place % 64);
        word.fetch_and(!mask, Ordering::Release) & mask != 0
    }

    /// Sections in use now; exact only when nobody allocates or frees.
    pub fn in_use(&self) -> u32 {
        self.lines
            .iter()
            .flat_map(|line| &line.0)
            .map(|word| word.load(Ordering::Relaxed).count_ones())
            .fold(0, u32::wrapping_add)
            .wrapping_sub(self.idle)
    }
}

/// The lowest `len` bits (all for 64 and more).
const fn valid_bits(len: u32) -> u64 {
    match 1u64.checked_shl(len) {
        Some(bit) => bit.wrapping_sub(1),
        None => u64::MAX,
    }
}

/// Sets the lowest clear bit; returns its number.
#[inline]
fn take_bit(word: &AtomicU64) -> Option<u32> {
    let mut seen = word.load(Ordering::Relaxed);
    loop {
        let free = !seen;
        if free == 0 {
            return None;
        }
        let bit = free.trailing_zeros();
        let mask = 1u64 << bit;
        // Acquire pairs with the release in `free`: the former owner is done with the section's bytes.
        match word.compare_exchange_weak(seen, seen | mask, Ordering::Acquire, Ordering::Relaxed) {
            Ok(_) => return Some(bit),
            Err(now) => seen = now,
        }
    }
}

#[cfg(test)]
mod tests;
