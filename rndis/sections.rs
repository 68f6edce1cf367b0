// SPDX-License-Identifier: GPL-2.0

//! Who owns which section of the send buffer.
//!
//! One bit a section, set while in use. Sections are dealt out to the queues in equal regions, each on
//! cache lines of its own, so that queues do not disturb each other; a queue whose region is used up takes
//! from the others before it gives up. Any context may allocate and free.

use crate::atomic::{AtomicU64, Ordering};
use core::num::NonZeroU32;
use core::ops::Deref;

const WORDS: usize = 8;
const BITS: u32 = 512;

/// 512 sections on one cache line.
#[derive(Debug, Default)]
#[repr(align(64))]
pub struct SectionLine([AtomicU64; WORDS]);

/// Index of a section of the send buffer that was allocated.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(transparent)]
pub struct Section(u32);

impl Section {
    /// Index on the wire.
    pub const fn index(self) -> u32 {
        self.0
    }

    /// First byte in the send buffer, given the bytes of one section.
    pub const fn offset(self, section_len: u32) -> u64 {
        // Two 32-bit factors fit in 64 bits.
        (self.0 as u64).wrapping_mul(section_len as u64)
    }

    /// For storing in a [`crate::rndis::slots::Cargo`] and taking out again.
    pub(super) const fn from_index(index: u32) -> Self {
        Self(index)
    }
}

/// The allocator, in storage given by the caller.
#[derive(Debug)]
pub struct Sections<S> {
    lines: S,
    count: u32,
    layout: Layout,
}

/// How sections are dealt out.
#[derive(Clone, Copy, Debug)]
struct Layout {
    /// Sections in each region; the last may have fewer.
    region: NonZeroU32,
    regions: u32,
    /// Lines of each region.
    lines: usize,
}

impl Layout {
    const fn new(count: u32, queues: u16) -> Self {
        let region = div_ceil(count, at_least_one(queues as u32));
        let region = at_least_one(region);
        Self {
            region,
            regions: div_ceil(count, region),
            lines: (region.get().saturating_sub(1) / BITS).saturating_add(1) as usize,
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
        Some(Self {
            lines,
            count,
            layout: Layout::new(count, queues),
        })
    }

    /// Number of sections.
    pub const fn count(&self) -> u32 {
        self.count
    }

    /// Takes a free section, from the region of `queue` if there is one. `None` if all are in use.
    pub fn allocate(&self, queue: u16) -> Option<Section> {
        let regions = self.layout.regions;
        let own = u32::from(queue).checked_rem(regions)?;
        (own..regions)
            .chain(0..own)
            .find_map(|region| self.allocate_in(region))
    }

    fn allocate_in(&self, region: u32) -> Option<Section> {
        let region_len = self.layout.region.get();
        let start = region.checked_mul(region_len)?;
        let len = self.count.checked_sub(start)?.min(region_len);
        let first_line = usize::try_from(region)
            .ok()?
            .checked_mul(self.layout.lines)?;
        let words = self.lines.get(first_line..)?.iter().flat_map(|l| &l.0);
        let mut base = 0u32;
        for word in words {
            if base >= len {
                break;
            }
            let valid = valid_bits(len.saturating_sub(base));
            if let Some(bit) = take_bit(word, valid) {
                return start.checked_add(base)?.checked_add(bit).map(Section);
            }
            base = base.saturating_add(64);
        }
        None
    }

    /// Gives a section back. False if it was not in use, or is none of these: then nothing changes.
    pub fn free(&self, section: Section) -> bool {
        let Some((word, bit)) = self.locate(section.0) else {
            return false;
        };
        let mask = 1u64 << bit;
        word.fetch_and(!mask, Ordering::Release) & mask != 0
    }

    /// Word and bit (below 64) of a section.
    fn locate(&self, index: u32) -> Option<(&AtomicU64, u32)> {
        if index >= self.count {
            return None;
        }
        let region_len = self.layout.region.get();
        let region = usize::try_from(index.checked_div(region_len)?).ok()?;
        let within = index.checked_rem(region_len)?;
        let line = usize::try_from(within / BITS)
            .ok()?
            .checked_add(region.checked_mul(self.layout.lines)?)?;
        let word = usize::try_from((within % BITS) / 64).ok()?;
        let word = self.lines.get(line)?.0.get(word)?;
        Some((word, within % 64))
    }

    /// Sections in use now; exact only when nobody allocates or frees.
    pub fn in_use(&self) -> u32 {
        self.lines
            .iter()
            .flat_map(|line| &line.0)
            .map(|word| word.load(Ordering::Relaxed).count_ones())
            .fold(0, u32::wrapping_add)
    }
}

/// The lowest `len` bits (all for 64 and more).
const fn valid_bits(len: u32) -> u64 {
    match 1u64.checked_shl(len) {
        Some(bit) => bit.wrapping_sub(1),
        None => u64::MAX,
    }
}

/// Sets the lowest clear bit among `valid`; returns its number.
fn take_bit(word: &AtomicU64, valid: u64) -> Option<u32> {
    let mut seen = word.load(Ordering::Relaxed);
    loop {
        let free = !seen & valid;
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
