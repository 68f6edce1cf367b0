// SPDX-License-Identifier: GPL-2.0

//! The ring that the guest writes.

use std::sync::atomic::{fence, Ordering};
use std::sync::Arc;

use super::header::{Field, RingHeader};
use super::packet::{trailer, Descriptor, Packet, PacketType, DESCRIPTOR, TRAILER};
use super::{Link, RingError, COMPLETION_REQUESTED};
use crate::vmbus::gpa::GpaError;

/// Reader of the guest-to-host ring.
pub struct IncomingRing {
    ring: RingHeader,
    link: Arc<Link>,
    /// Where the next packet starts. The copy in guest memory is written, never read.
    read: u32,
    /// The guest's write index as last seen.
    write: u32,
}

/// Why a packet in the ring is not one.
struct Breach(&'static str, String);

impl From<RingError> for Breach {
    fn from(error: RingError) -> Self {
        match error {
            RingError::Index { .. } => Self("ring.write-index", error.to_string()),
            _ => Self("ring.memory", error.to_string()),
        }
    }
}

impl From<GpaError> for Breach {
    fn from(error: GpaError) -> Self {
        Self("ring.memory", error.to_string())
    }
}

impl IncomingRing {
    pub(super) fn new(ring: RingHeader, link: Arc<Link>) -> Result<Self, RingError> {
        let read = ring.load_index(Field::ReadIndex)?;
        let write = ring.load_index(Field::WriteIndex)?;
        Ok(Self {
            ring,
            link,
            read,
            write,
        })
    }

    /// Bytes in the data area.
    pub fn size(&self) -> u32 {
        self.ring.size()
    }

    /// Takes the next packet, `None` if there is none or the ring is broken.
    #[allow(clippy::should_implement_trait)]
    pub fn next(&mut self) -> Option<Packet> {
        let mut packet = Packet::default();
        self.next_into(&mut packet).then_some(packet)
    }

    /// Like [`IncomingRing::next`], but reuses the memory of `packet`. False if there is none.
    ///
    /// The space is given back to the guest before this returns; if the guest waits for space it
    /// is interrupted.
    pub fn next_into(&mut self, packet: &mut Packet) -> bool {
        if self.link.is_broken() {
            return false;
        }
        match self.take(packet) {
            Ok(taken) => taken,
            Err(Breach(name, detail)) => {
                self.link.breach(name, detail);
                false
            }
        }
    }

    /// Whether a packet (or a broken index, which [`IncomingRing::next`] reports) is waiting.
    pub fn has_data(&mut self) -> bool {
        if self.link.is_broken() {
            return false;
        }
        match self.ring.load_index(Field::WriteIndex) {
            Ok(write) => {
                self.write = write;
                self.read != write
            }
            Err(_) => true,
        }
    }

    /// Tells the guest not to signal new packets.
    pub fn mask(&mut self) {
        self.set_mask(1);
    }

    /// Tells the guest to signal again. True if packets came meanwhile, which the guest may not
    /// have signalled: the caller masks and goes on reading.
    #[must_use]
    pub fn unmask(&mut self) -> bool {
        self.set_mask(0);
        self.has_data()
    }

    /// Shows the guest an index of the host's choice, until the next packet is read; and interrupts it.
    pub fn set_index(&self, value: u32) -> Result<(), GpaError> {
        self.ring
            .store(Field::ReadIndex, value, Ordering::Release)?;
        self.link.interrupt();
        Ok(())
    }

    fn set_mask(&self, mask: u32) {
        // Ring memory that is gone shows at the next read.
        let _ = self
            .ring
            .store(Field::InterruptMask, mask, Ordering::SeqCst);
        fence(Ordering::SeqCst);
    }

    fn take(&mut self, packet: &mut Packet) -> Result<bool, Breach> {
        if self.read == self.write {
            self.write = self.ring.load_index(Field::WriteIndex)?;
            if self.read == self.write {
                return Ok(false);
            }
        }
        let descriptor = self.descriptor()?;
        self.copy(&descriptor, packet)?;
        self.check_trailer(&descriptor)?;
        self.release(descriptor.packet_len() + TRAILER)?;
        self.count(packet, descriptor.packet_len());
        Ok(true)
    }

    /// Reads and checks the descriptor of the packet at `read`.
    fn descriptor(&self) -> Result<Descriptor, Breach> {
        let used = self.ring.used(self.write, self.read) as usize;
        if used < DESCRIPTOR + TRAILER {
            let detail = format!("{used} bytes in the ring are less than the smallest packet");
            return Err(Breach("ring.short-packet", detail));
        }
        let mut bytes = [0; DESCRIPTOR];
        self.ring.copy_out(self.read, &mut bytes)?;
        let descriptor = Descriptor::from_bytes(&bytes);
        let (header, len) = (descriptor.header_len(), descriptor.packet_len());
        if header < DESCRIPTOR || len < header || len + TRAILER > used {
            let detail = format!(
                "header of {header} bytes in a packet of {len} with {used} bytes in the ring"
            );
            return Err(Breach("ring.packet-length", detail));
        }
        if descriptor.flags & !COMPLETION_REQUESTED != 0 {
            let detail = format!("packet flags {:#x}", descriptor.flags);
            return Err(Breach("ring.packet-flags", detail));
        }
        Ok(descriptor)
    }

    fn copy(&self, descriptor: &Descriptor, packet: &mut Packet) -> Result<(), Breach> {
        let Some(kind) = PacketType::from_wire(descriptor.kind) else {
            let detail = format!("packet of type {:#x}", descriptor.kind);
            return Err(Breach("ring.packet-type", detail));
        };
        packet.kind = kind;
        packet.flags = descriptor.flags;
        packet.transaction_id = descriptor.transaction_id;
        let (header, len) = (descriptor.header_len(), descriptor.packet_len());
        packet.header.resize(header - DESCRIPTOR, 0);
        packet.payload.resize(len - header, 0);
        let at = self.ring.advance(self.read, DESCRIPTOR);
        self.ring.copy_out(at, &mut packet.header)?;
        let at = self.ring.advance(self.read, header);
        self.ring.copy_out(at, &mut packet.payload)?;
        Ok(())
    }

    fn check_trailer(&self, descriptor: &Descriptor) -> Result<(), Breach> {
        let mut bytes = [0; TRAILER];
        let at = self.ring.advance(self.read, descriptor.packet_len());
        self.ring.copy_out(at, &mut bytes)?;
        if bytes == trailer(self.read) {
            return Ok(());
        }
        let detail = format!(
            "trailer {:#x} behind the packet at {:#x}",
            u64::from_le_bytes(bytes),
            self.read
        );
        Err(Breach("ring.trailer", detail))
    }

    /// Moves the read index on, and interrupts a guest that waits for the space this frees.
    fn release(&mut self, len: usize) -> Result<(), Breach> {
        let before = self.read;
        self.read = self.ring.advance(self.read, len);
        self.ring
            .store(Field::ReadIndex, self.read, Ordering::Release)?;
        // The index must be visible before the request for a signal is looked at: the guest stores
        // the request first and looks at the index then.
        fence(Ordering::SeqCst);
        let pending = self.ring.load(Field::PendingSend, Ordering::Relaxed)?;
        if pending == 0 {
            return Ok(());
        }
        let write = self.ring.load_index(Field::WriteIndex)?;
        let pending = u64::from(pending).next_multiple_of(8);
        let free_before = u64::from(self.ring.free(write, before));
        let free_now = u64::from(self.ring.free(write, self.read));
        if free_before <= pending && free_now > pending {
            self.link.stats.space_interrupts.add(1);
            self.link.interrupt();
        }
        Ok(())
    }

    fn count(&self, packet: &Packet, len: usize) {
        let stats = &self.link.stats;
        stats.packets_in.add(1);
        stats.bytes_in.add(len as u64);
        if packet.kind == PacketType::Completion {
            stats.completions_in.add(1);
        }
    }
}
