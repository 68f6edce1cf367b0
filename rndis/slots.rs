// SPDX-License-Identifier: GPL-2.0

//! Frames on their way to the host, by transaction id.
//!
//! A slot holds what is to be released when the host completes the packet. Its id carries the slot and a
//! generation that changes with every use, so an id is good for one completion; a foreign, stale or
//! repeated one finds nothing. The table belongs to one queue:
//!
//! * [`SlotTable::allocate`] and [`SlotTable::cancel`]: one caller at a time (the transmit lock);
//! * [`SlotTable::complete`]: one caller at a time (the queue's poll), concurrently with the above;
//! * [`SlotTable::drain`]: alone, when both have been stopped.
//!
//! Breaking these rules may lose slots, but no cargo is ever handed out twice: taking a slot is one atomic
//! exchange of its state.

use crate::atomic::{AtomicU32, AtomicU64, Ordering};
use crate::rndis::sections::Section;
use crate::rndis::transaction::{Transaction, TransactionId, GENERATION_MASK};
use core::ops::Deref;

const BUSY: u32 = 1 << 31;
const NO_SECTION: u32 = u32::MAX;

/// What a slot keeps for one packet.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Cargo {
    /// The driver's reference, for instance an skb; 0 for none.
    pub token: u64,
    /// Send section to free.
    pub section: Option<Section>,
    /// Bytes to count when the host is done.
    pub bytes: u32,
    /// Packets to count when the host is done.
    pub packets: u16,
}

/// Storage of one slot, and of one place in the free list. 32 bytes.
#[derive(Debug, Default)]
pub struct Slot {
    /// [`BUSY`] and the generation.
    state: AtomicU32,
    /// Free list: a ring of slot indices, kept in the slots' places but unrelated to their use.
    free: AtomicU32,
    token: AtomicU64,
    bytes: AtomicU32,
    packets: AtomicU32,
    section: AtomicU32,
    section_place: AtomicU32,
}

#[derive(Debug, Default)]
#[repr(align(64))]
struct Padded(AtomicU32);

/// The table of one queue, in storage given by the caller.
#[derive(Debug)]
pub struct SlotTable<S> {
    slots: S,
    mask: u32,
    /// Free-list position to take from; only the allocating side writes it.
    taken: Padded,
    /// Free-list position to return to; only the completing side writes it.
    returned: Padded,
}

impl<S: Deref<Target = [Slot]>> SlotTable<S> {
    /// A table with every slot free; `None` unless the number of slots is a power of two up to 2^16.
    pub fn new(slots: S) -> Option<Self> {
        let len = u32::try_from(slots.len()).ok()?;
        if !len.is_power_of_two() || len > 1 << 16 {
            return None;
        }
        for (slot, index) in slots.iter().zip(0..len) {
            slot.free.store(index, Ordering::Relaxed);
            slot.state.store(0, Ordering::Relaxed);
        }
        Some(Self {
            slots,
            mask: len.wrapping_sub(1),
            taken: Padded::default(),
            returned: Padded(AtomicU32::new(len)),
        })
    }

    /// Slots in all.
    pub fn capacity(&self) -> u32 {
        self.mask.wrapping_add(1)
    }

    /// Slots in use, as seen now. Exact for either side with respect to its own calls.
    pub fn in_use(&self) -> u32 {
        let taken = self.taken.0.load(Ordering::Acquire);
        let returned = self.returned.0.load(Ordering::Acquire);
        let free = returned.wrapping_sub(taken);
        self.capacity().saturating_sub(free)
    }

    /// Whether no packet is on its way.
    pub fn is_idle(&self) -> bool {
        self.in_use() == 0
    }

    fn place(&self, position: u32) -> Option<&Slot> {
        self.slots.get(usize::try_from(position & self.mask).ok()?)
    }

    /// Puts `cargo` into a free slot and returns the id for the packet; `None` if all are in use.
    pub fn allocate(&self, cargo: Cargo) -> Option<TransactionId> {
        let taken = self.taken.0.load(Ordering::Relaxed);
        if self.returned.0.load(Ordering::Acquire) == taken {
            return None;
        }
        let index = self.place(taken)?.free.load(Ordering::Relaxed);
        let slot = self.place(index)?;
        slot.token.store(cargo.token, Ordering::Relaxed);
        slot.bytes.store(cargo.bytes, Ordering::Relaxed);
        slot.packets.store(cargo.packets.into(), Ordering::Relaxed);
        let (section, place) = cargo.section.map_or((NO_SECTION, 0), Section::to_parts);
        slot.section.store(section, Ordering::Relaxed);
        slot.section_place.store(place, Ordering::Relaxed);
        let generation = slot.state.load(Ordering::Relaxed) & GENERATION_MASK;
        // Release: whoever finds the slot busy finds the cargo in it.
        slot.state.store(BUSY | generation, Ordering::Release);
        self.taken.0.store(taken.wrapping_add(1), Ordering::Release);
        Some(TransactionId::frame(index, generation))
    }

    /// Takes back the cargo of the packet allocated last, when the ring did not take it. `None` if the id
    /// is not that packet's.
    pub fn cancel(&self, id: TransactionId) -> Option<Cargo> {
        let last = self.taken.0.load(Ordering::Relaxed).wrapping_sub(1);
        let Transaction::Frame { slot, .. } = id.decode() else {
            return None;
        };
        // The place it was taken from still names it: returned slots fill at most the places before.
        if self.place(last)?.free.load(Ordering::Relaxed) != slot {
            return None;
        }
        let (_, cargo) = self.take(id)?;
        self.taken.0.store(last, Ordering::Release);
        Some(cargo)
    }

    /// Takes the cargo of a packet that the host completed. `None` if the id names no packet on its way.
    pub fn complete(&self, id: TransactionId) -> Option<Cargo> {
        let (index, cargo) = self.take(id)?;
        let returned = self.returned.0.load(Ordering::Relaxed);
        if let Some(place) = self.place(returned) {
            place.free.store(index, Ordering::Relaxed);
        }
        self.returned
            .0
            .store(returned.wrapping_add(1), Ordering::Release);
        Some(cargo)
    }

    /// Takes every packet still on its way, when the channel is closed and neither side runs any more.
    pub fn drain(&self, mut release: impl FnMut(Cargo)) {
        for (slot, index) in self.slots.iter().zip(0..=self.mask) {
            let state = slot.state.load(Ordering::Acquire);
            if state & BUSY == 0 {
                continue;
            }
            if let Some(cargo) = self.complete(TransactionId::frame(index, state)) {
                release(cargo);
            }
        }
    }

    /// Marks the slot of `id` free and hands its cargo to exactly one caller.
    fn take(&self, id: TransactionId) -> Option<(u32, Cargo)> {
        let Transaction::Frame {
            slot: index,
            generation,
        } = id.decode()
        else {
            return None;
        };
        let slot = self.slots.get(usize::try_from(index).ok()?)?;
        let busy = BUSY | generation;
        if slot.state.load(Ordering::Acquire) != busy {
            return None;
        }
        // Read before the slot is given up: afterwards it may be filled again.
        let cargo = slot.cargo();
        let next = generation.wrapping_add(1) & GENERATION_MASK;
        slot.state
            .compare_exchange(busy, next, Ordering::AcqRel, Ordering::Relaxed)
            .ok()?;
        Some((index, cargo))
    }
}

impl Slot {
    fn cargo(&self) -> Cargo {
        let section = self.section.load(Ordering::Relaxed);
        let place = self.section_place.load(Ordering::Relaxed);
        // Written by `allocate` from a `u16`.
        let packets = self.packets.load(Ordering::Relaxed) as u16;
        Cargo {
            token: self.token.load(Ordering::Relaxed),
            section: (section != NO_SECTION).then_some(Section::from_parts(section, place)),
            bytes: self.bytes.load(Ordering::Relaxed),
            packets,
        }
    }
}

#[cfg(test)]
mod tests;
