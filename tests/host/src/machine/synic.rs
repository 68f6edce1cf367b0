// SPDX-License-Identifier: GPL-2.0

//! The pages of Hyper-V's synthetic interrupt controller (SynIC): message slots and event flags.
//!
//! KVM keeps the registers and delivers the interrupts; the pages are guest memory that the host
//! writes. Layout (specification 9.8, TLFS "SynIC"): 16 slots of 256 bytes in each page, one a
//! source. A message slot is `type u32, payload size u8, flags u8, 2 reserved, origin u64,
//! payload 240`; it is busy while `type` is not zero. An event slot is 2048 bits.

use std::sync::atomic::{fence, AtomicU32, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryMmap, VolatileMemory};

use crate::hypervisor::Posted;

/// Bytes of one source in either page.
const SLOT: u64 = 256;
/// Largest payload of a message.
pub const PAYLOAD: usize = 240;
const PAGE: usize = 4096;
const ENABLE: u64 = 1;
const TYPE: u64 = 0;
/// The 32-bit word with payload size (byte 0) and flags (byte 1) of a message.
const SIZE_AND_FLAGS: u64 = 4;
const ORIGIN: u64 = 8;
const BODY: u64 = 16;
/// In that word: another message is waiting, so the guest has to write EOM.
const PENDING: u32 = 1 << 8;

/// One virtual processor's registers as the guest last wrote them.
#[derive(Clone, Copy, Debug, Default)]
struct Registers {
    enabled: bool,
    message_page: Option<u64>,
    event_page: Option<u64>,
}

/// The SynIC pages of one virtual processor.
pub struct Synic {
    registers: Mutex<Registers>,
}

/// What became of an event flag.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flagged {
    /// The flag was clear: an interrupt is due.
    Raise,
    /// The flag was set already: an interrupt is under way.
    AlreadySet,
    /// The guest has not enabled its event page.
    Disabled,
}

impl Default for Synic {
    fn default() -> Self {
        Self::new()
    }
}

impl Synic {
    /// Enabled (as KVM is told at creation), with no pages.
    pub fn new() -> Self {
        let registers = Registers {
            enabled: true,
            ..Registers::default()
        };
        Synic {
            registers: Mutex::new(registers),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Registers> {
        self.registers
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// The guest wrote a SynIC register. A page that becomes enabled, or moves, is zeroed.
    pub fn update(&self, memory: &GuestMemoryMmap, control: u64, event: u64, message: u64) {
        let mut guard = self.lock();
        let registers = &mut *guard;
        registers.enabled = control & ENABLE != 0;
        for (old, new) in [
            (&mut registers.event_page, page(event)),
            (&mut registers.message_page, page(message)),
        ] {
            if let Some(at) = new.filter(|_| *old != new) {
                if memory.write_slice(&[0; PAGE], GuestAddress(at)).is_err() {
                    tracing::warn!("the guest put a SynIC page at {at:#x}, where it has no memory");
                }
            }
            *old = new;
        }
    }

    /// Puts a message into the slot of `sint`; `Delivered` means that the interrupt is now due.
    /// A payload longer than 240 bytes is cut.
    pub fn post(&self, memory: &GuestMemoryMmap, sint: u8, kind: u32, payload: &[u8]) -> Posted {
        let registers = self.lock();
        let Some(slot) = Slot::of(&registers, memory, sint) else {
            return Posted::Disabled;
        };
        if slot.kind().load(Ordering::Acquire) != 0 {
            slot.size_and_flags().fetch_or(PENDING, Ordering::SeqCst);
            fence(Ordering::SeqCst);
            // The guest may have emptied the slot before it could see the flag: look again.
            if slot.kind().load(Ordering::Acquire) != 0 {
                return Posted::Busy;
            }
        }
        slot.fill(kind, &payload[..payload.len().min(PAYLOAD)]);
        Posted::Delivered
    }

    /// Whether the slot of `sint` can take a message. A slot without a page counts as free: what
    /// waits for it will be told that it is disabled.
    pub fn is_free(&self, memory: &GuestMemoryMmap, sint: u8) -> bool {
        let registers = self.lock();
        let slot = Slot::of(&registers, memory, sint);
        slot.is_none_or(|slot| slot.kind().load(Ordering::Acquire) == 0)
    }

    /// Sets event flag `flag` (0..2048) of `sint`.
    pub fn set_flag(&self, memory: &GuestMemoryMmap, sint: u8, flag: u16) -> Flagged {
        let registers = self.lock();
        let flags_page = registers.event_page.filter(|_| registers.enabled);
        let (Some(base), true) = (flags_page, flag < 2048 && sint < 16) else {
            return Flagged::Disabled;
        };
        let word = base + u64::from(sint) * SLOT + u64::from(flag / 32) * 4;
        let Ok(slice) = memory.get_slice(GuestAddress(word), 4) else {
            return Flagged::Disabled;
        };
        let Ok(word) = slice.get_atomic_ref::<AtomicU32>(0) else {
            return Flagged::Disabled;
        };
        let bit = 1 << (flag % 32);
        match word.fetch_or(bit, Ordering::SeqCst) & bit {
            0 => Flagged::Raise,
            _ => Flagged::AlreadySet,
        }
    }
}

/// The page a SIEFP or SIMP value enables.
fn page(register: u64) -> Option<u64> {
    (register & ENABLE != 0).then_some(register & !(PAGE as u64 - 1))
}

/// A message slot in guest memory.
struct Slot<'a> {
    bytes: vm_memory::VolatileSlice<'a>,
}

impl<'a> Slot<'a> {
    fn of(registers: &Registers, memory: &'a GuestMemoryMmap, sint: u8) -> Option<Self> {
        let base = registers.message_page.filter(|_| registers.enabled)?;
        let at = base + u64::from(sint & 15) * SLOT;
        let bytes = memory.get_slice(GuestAddress(at), SLOT as usize).ok()?;
        // Checked once: the fields below are then within the slice and aligned.
        bytes.get_atomic_ref::<AtomicU64>(ORIGIN as usize).ok()?;
        Some(Slot { bytes })
    }

    fn word(&self, offset: u64) -> &AtomicU32 {
        self.bytes
            .get_atomic_ref(offset as usize)
            .expect("slot is 256 bytes long and aligned to them")
    }

    fn kind(&self) -> &AtomicU32 {
        self.word(TYPE)
    }

    fn size_and_flags(&self) -> &AtomicU32 {
        self.word(SIZE_AND_FLAGS)
    }

    /// Writes the message; its type last, which hands the slot to the guest.
    fn fill(&self, kind: u32, payload: &[u8]) {
        self.size_and_flags()
            .store(payload.len() as u32, Ordering::Relaxed);
        self.word(ORIGIN).store(0, Ordering::Relaxed);
        self.word(ORIGIN + 4).store(0, Ordering::Relaxed);
        self.bytes
            .subslice(BODY as usize, payload.len())
            .expect("payload was cut to 240 bytes")
            .copy_from(payload);
        self.kind().store(kind, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MESSAGES: u64 = 0x3000;
    const EVENTS: u64 = 0x5000;

    fn enabled() -> (GuestMemoryMmap, Synic) {
        let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 0x10000)]).unwrap();
        memory
            .write_slice(&[0xff; 0x8000], GuestAddress(0x1000))
            .unwrap();
        let synic = Synic::new();
        synic.update(&memory, 1, EVENTS | 1, MESSAGES | 1);
        (memory, synic)
    }

    fn read(memory: &GuestMemoryMmap, at: u64) -> u32 {
        memory.read_obj(GuestAddress(at)).unwrap()
    }

    #[test]
    fn message_is_laid_out_and_the_next_one_waits() {
        let (memory, synic) = enabled();
        assert_eq!(synic.post(&memory, 2, 1, b"hello"), Posted::Delivered);
        let slot = MESSAGES + 512;
        assert_eq!(read(&memory, slot), 1);
        assert_eq!(read(&memory, slot + 4), 5);
        assert_eq!(read(&memory, slot + 16).to_le_bytes(), *b"hell");
        assert!(!synic.is_free(&memory, 2));
        assert_eq!(synic.post(&memory, 2, 1, b"again"), Posted::Busy);
        assert_eq!(read(&memory, slot + 4), 5 | PENDING);
        memory.write_obj(0u32, GuestAddress(slot)).unwrap();
        assert!(synic.is_free(&memory, 2));
        assert_eq!(synic.post(&memory, 2, 1, b"again!"), Posted::Delivered);
        assert_eq!(read(&memory, slot + 4), 6);
    }

    #[test]
    fn other_slots_are_left_alone() {
        let (memory, synic) = enabled();
        synic.post(&memory, 2, 1, &[0xaa; 300]);
        assert_eq!(read(&memory, MESSAGES + 512 + 252), 0xaaaa_aaaa);
        assert_eq!(read(&memory, MESSAGES + 768), 0);
        assert_eq!(read(&memory, MESSAGES + 508), 0);
    }

    #[test]
    fn flags_raise_once() {
        let (memory, synic) = enabled();
        assert_eq!(synic.set_flag(&memory, 2, 37), Flagged::Raise);
        assert_eq!(read(&memory, EVENTS + 512 + 4), 1 << 5);
        assert_eq!(synic.set_flag(&memory, 2, 37), Flagged::AlreadySet);
        assert_eq!(synic.set_flag(&memory, 2, 2047), Flagged::Raise);
        assert_eq!(synic.set_flag(&memory, 2, 2048), Flagged::Disabled);
    }

    #[test]
    fn nothing_happens_while_disabled() {
        let (memory, synic) = enabled();
        synic.update(&memory, 0, EVENTS | 1, MESSAGES | 1);
        assert_eq!(synic.post(&memory, 2, 1, b"x"), Posted::Disabled);
        assert_eq!(synic.set_flag(&memory, 2, 1), Flagged::Disabled);
        synic.update(&memory, 1, 0, 0);
        assert_eq!(synic.post(&memory, 2, 1, b"x"), Posted::Disabled);
        assert_eq!(synic.set_flag(&memory, 2, 1), Flagged::Disabled);
        synic.update(&memory, 1, 1, 0xffff_f001);
        assert_eq!(synic.post(&memory, 2, 1, b"x"), Posted::Disabled);
    }

    #[test]
    fn page_is_cleared_only_when_it_becomes_enabled() {
        let (memory, synic) = enabled();
        synic.post(&memory, 2, 1, b"x");
        synic.update(&memory, 1, 0, MESSAGES | 1);
        assert_eq!(read(&memory, MESSAGES + 512), 1);
        synic.update(&memory, 1, 0, 0);
        synic.update(&memory, 1, 0, MESSAGES | 1);
        assert_eq!(read(&memory, MESSAGES + 512), 0);
    }
}
