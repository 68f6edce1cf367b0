// SPDX-License-Identifier: GPL-2.0

//! The ring that the host writes.

use std::sync::atomic::{fence, Ordering};
use std::sync::Arc;

use thiserror::Error;

use super::header::{Field, RingHeader};
use super::packet::{padded, trailer, Descriptor, PacketType, RawPacket, DESCRIPTOR, TRAILER};
use super::{Link, RingError};
use crate::vmbus::gpa::GpaError;

/// Why a packet was not written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum WriteError {
    /// There is no room now. The guest was asked to signal the channel when there is; see
    /// [`OutgoingRing::guest_signals_space`].
    #[error("ring is full")]
    Full,
    /// The packet can never fit: it is longer than the ring or its length field.
    #[error("packet of {0} bytes is too long for the ring")]
    TooLong(usize),
    /// The guest broke the rings of this channel, or took their memory back.
    #[error("ring is broken")]
    Broken,
}

/// Writer of the host-to-guest ring.
pub struct OutgoingRing {
    ring: RingHeader,
    link: Arc<Link>,
    /// Where the next packet goes. The copy in guest memory is written, never read.
    write: u32,
    /// Whether `pending_send_sz` in guest memory is not 0.
    waiting: bool,
}

/// Lengths of a packet to be written, in bytes.
struct Layout {
    header: usize,
    packet: usize,
}

impl OutgoingRing {
    pub(super) fn new(ring: RingHeader, link: Arc<Link>) -> Result<Self, RingError> {
        let write = ring.load_index(Field::WriteIndex)?;
        ring.load_index(Field::ReadIndex)?;
        Ok(Self {
            ring,
            link,
            write,
            waiting: false,
        })
    }

    /// Bytes in the data area.
    pub fn size(&self) -> u32 {
        self.ring.size()
    }

    /// Whether the guest signals the channel when there is space again after
    /// [`WriteError::Full`]. If not the device has to try again by itself.
    pub fn guest_signals_space(&self) -> bool {
        self.ring.has_pending_send()
    }

    /// Writes one packet and interrupts the guest if it must be told.
    ///
    /// `header` is the type-specific header, `payload` is laid end to end; both are padded with
    /// zeros to a multiple of 8 bytes. Nothing is written on an error.
    pub fn try_write(
        &mut self,
        kind: PacketType,
        flags: u16,
        transaction_id: u64,
        header: &[u8],
        payload: &[&[u8]],
    ) -> Result<(), WriteError> {
        if self.link.is_broken() {
            return Err(WriteError::Broken);
        }
        let layout = self.layout(header, payload)?;
        self.reserve(layout.packet + TRAILER)?;
        let descriptor = Descriptor {
            kind: kind as u16,
            offset8: (layout.header / 8) as u16,
            len8: (layout.packet / 8) as u16,
            flags,
            transaction_id,
        };
        let written = self.copy(&descriptor, header, payload);
        let signal = written.and_then(|()| self.publish(layout.packet + TRAILER));
        let signal = signal.map_err(|error| self.gone(error))?;
        self.count(kind, layout.packet);
        if signal {
            self.link.interrupt();
        }
        Ok(())
    }

    /// Writes bytes as one packet whose descriptor says whatever it says, and interrupts the guest. The
    /// host goes on behind these bytes, the guest behind what the descriptor says.
    ///
    /// # Errors
    ///
    /// As [`OutgoingRing::try_write`].
    pub fn write_raw(&mut self, packet: &RawPacket) -> Result<(), WriteError> {
        let header = DESCRIPTOR + padded(packet.header.len());
        let len = header + padded(packet.payload.len());
        if self.link.is_broken() {
            return Err(WriteError::Broken);
        }
        if len + TRAILER >= self.ring.size() as usize {
            return Err(WriteError::TooLong(len));
        }
        self.reserve(len + TRAILER)?;
        let descriptor = Descriptor {
            kind: packet.kind,
            offset8: packet.offset8.unwrap_or((header / 8) as u16),
            len8: packet.len8.unwrap_or((len / 8) as u16),
            flags: packet.flags,
            transaction_id: packet.id,
        };
        let written = self.copy(&descriptor, &packet.header, &[&packet.payload]);
        let signal = written.and_then(|()| self.publish(len + TRAILER));
        if signal.map_err(|error| self.gone(error))? {
            self.link.interrupt();
        }
        Ok(())
    }

    /// Shows the guest an index of the host's choice, until the next packet is written; and interrupts it.
    pub fn set_index(&self, value: u32) -> Result<(), GpaError> {
        self.ring
            .store(Field::WriteIndex, value, Ordering::Release)?;
        self.link.interrupt();
        Ok(())
    }

    fn layout(&self, header: &[u8], payload: &[&[u8]]) -> Result<Layout, WriteError> {
        let header = DESCRIPTOR + padded(header.len());
        let payload: usize = payload.iter().map(|part| part.len()).sum();
        let packet = header + padded(payload);
        let too_long = packet / 8 > usize::from(u16::MAX);
        if too_long || packet + TRAILER >= self.ring.size() as usize {
            return Err(WriteError::TooLong(packet));
        }
        Ok(Layout { header, packet })
    }

    /// Makes sure that `need` bytes and one more are free.
    fn reserve(&mut self, need: usize) -> Result<(), WriteError> {
        if self.free()? > need {
            return self.stop_waiting();
        }
        self.link.stats.ring_full.add(1);
        self.ring
            .store(Field::PendingSend, need as u32, Ordering::SeqCst)
            .map_err(|error| self.gone(error))?;
        self.waiting = true;
        // The guest moves its index first and looks at the request then; whatever it had not seen
        // shows in the index now.
        fence(Ordering::SeqCst);
        if self.free()? > need {
            return self.stop_waiting();
        }
        Err(WriteError::Full)
    }

    fn stop_waiting(&mut self) -> Result<(), WriteError> {
        if self.waiting {
            self.waiting = false;
            self.ring
                .store(Field::PendingSend, 0, Ordering::SeqCst)
                .map_err(|error| self.gone(error))?;
        }
        Ok(())
    }

    fn free(&self) -> Result<usize, WriteError> {
        match self.ring.load_index(Field::ReadIndex) {
            Ok(read) => Ok(self.ring.free(self.write, read) as usize),
            Err(error) => {
                let name = match error {
                    RingError::Index { .. } => "ring.read-index",
                    _ => "ring.memory",
                };
                self.link.breach(name, error.to_string());
                Err(WriteError::Broken)
            }
        }
    }

    fn copy(
        &self,
        descriptor: &Descriptor,
        header: &[u8],
        payload: &[&[u8]],
    ) -> Result<(), GpaError> {
        let zeros = [0u8; 8];
        let pad = |len: usize| &zeros[..padded(len) - len];
        let payload_len = payload.iter().map(|part| part.len()).sum();
        let mut at = self.write;
        let mut put = |bytes: &[u8]| {
            let done = self.ring.copy_in(at, bytes);
            at = self.ring.advance(at, bytes.len());
            done
        };
        put(&descriptor.to_bytes())?;
        put(header)?;
        put(pad(header.len()))?;
        for part in payload {
            put(part)?;
        }
        put(pad(payload_len))?;
        put(&trailer(self.write))
    }

    /// Shows the packet to the guest. True if the guest must be interrupted: the ring was empty
    /// and the guest has not masked.
    fn publish(&mut self, len: usize) -> Result<bool, GpaError> {
        let before = self.write;
        self.write = self.ring.advance(self.write, len);
        self.ring
            .store(Field::WriteIndex, self.write, Ordering::Release)?;
        // The guest unmasks first and looks at the index then.
        fence(Ordering::SeqCst);
        if self.ring.load(Field::InterruptMask, Ordering::Relaxed)? != 0 {
            return Ok(false);
        }
        Ok(self.ring.load(Field::ReadIndex, Ordering::Relaxed)? == before)
    }

    fn gone(&self, error: GpaError) -> WriteError {
        self.link.breach("ring.memory", error.to_string());
        WriteError::Broken
    }

    fn count(&self, kind: PacketType, len: usize) {
        let stats = &self.link.stats;
        stats.packets_out.add(1);
        stats.bytes_out.add(len as u64);
        if kind == PacketType::Completion {
            stats.completions_out.add(1);
        }
    }
}
