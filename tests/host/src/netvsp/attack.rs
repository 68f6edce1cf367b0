// SPDX-License-Identifier: GPL-2.0

//! The host as an attacker: spoilt answers on their way to the guest, ring packets written as they are, ring
//! indices moved at will.

use std::time::Instant;

use serde::{Deserialize, Serialize};

use super::channel::Outgoing;
use super::nic::Nic;
use super::nvsp_wire::status;
use crate::corruption::{Corruption, Message, Spoilt};
use crate::vmbus::ring::{RawPacket, WriteError, COMPLETION_REQUESTED};

/// Added to the number of a request to get one that no guest uses.
const NEVER_USED: u32 = 0x0bad_0000;

/// Which index of a channel the host writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RingIndex {
    /// How far the host has written to the guest.
    Write,
    /// How far the host has read what the guest wrote.
    Read,
}

/// An answer that is kept back.
pub struct Late {
    due: Instant,
    what: Kept,
}

enum Kept {
    Packet(u16, Outgoing),
    Control(Vec<u8>),
}

impl Message for Outgoing {
    fn bytes(&mut self) -> &mut Vec<u8> {
        &mut self.payload
    }

    fn disown(&mut self) {
        self.id = self.id.wrapping_add(NEVER_USED.into());
    }
}

/// An RNDIS control message.
#[derive(Clone)]
struct Control(Vec<u8>);

impl Message for Control {
    fn bytes(&mut self) -> &mut Vec<u8> {
        &mut self.0
    }

    fn disown(&mut self) {
        // The request id follows number and length; RESET_COMPLETE has none, and ends up with another status.
        if let Some(id) = self.0.get_mut(8..12).and_then(|id| id.first_chunk_mut()) {
            *id = u32::from_le_bytes(*id)
                .wrapping_add(NEVER_USED)
                .to_le_bytes();
        }
    }
}

impl Nic {
    /// Queues what corruption makes of a packet. Its section is released with the last of them.
    pub(super) fn queue_spoilt(&mut self, channel: u16, packet: Outgoing, how: Corruption) {
        let Spoilt {
            mut messages,
            delay,
        } = how.apply(packet);
        if let Some((_, extra)) = messages.split_last_mut() {
            for packet in extra {
                packet.releases = None;
                packet.data_completion = false;
            }
        }
        let due = Instant::now() + delay;
        for packet in messages {
            if delay.is_zero() {
                self.queue_now(channel, packet);
            } else {
                let what = Kept::Packet(channel, packet);
                self.session.late.push(Late { due, what });
            }
        }
    }

    /// Queues what corruption makes of a control message.
    pub(super) fn reply_spoilt(&mut self, message: Vec<u8>, how: Corruption) {
        let Spoilt { messages, delay } = how.apply(Control(message));
        let due = Instant::now() + delay;
        for Control(message) in messages {
            if delay.is_zero() {
                self.session.control.push_back(message);
            } else {
                let what = Kept::Control(message);
                self.session.late.push(Late { due, what });
            }
        }
    }

    /// Queues the answers that have been kept back long enough.
    pub fn release_late(&mut self) {
        if self.session.late.is_empty() {
            return;
        }
        let now = Instant::now();
        let late = std::mem::take(&mut self.session.late);
        let (due, rest) = late.into_iter().partition(|one| one.due <= now);
        self.session.late = rest;
        let due: Vec<Late> = due;
        for one in due {
            match one.what {
                Kept::Packet(channel, packet) => self.queue_now(channel, packet),
                Kept::Control(message) => self.session.control.push_back(message),
            }
        }
    }

    /// Writes a ring packet, unchecked. If it asks for a completion, the guest's is expected.
    ///
    /// # Errors
    ///
    /// If that is not possible now; the text says why.
    pub(super) fn inject_packet(&mut self, index: u16, packet: &RawPacket) -> Result<(), String> {
        let Some(channel) = self.channels.get_mut(&index) else {
            return Err(format!("channel {index} is not open"));
        };
        let written = channel.rings.outgoing.write_raw(packet);
        written.map_err(|error: WriteError| format!("ring to the guest: {error}"))?;
        if packet.flags & COMPLETION_REQUESTED != 0 {
            self.session.injected.insert(packet.id);
        }
        self.counters.injected_packets += 1;
        Ok(())
    }

    /// The guest completed an injected packet.
    pub(super) fn count_injected(&mut self, outcome: u32) {
        self.counters.injected_completed += 1;
        self.counters.injected_refused += u64::from(outcome != status::SUCCESS);
    }

    /// Writes an index of a channel's rings and interrupts the guest. The host itself goes on from where it
    /// was, and so does the index with the next packet.
    ///
    /// # Errors
    ///
    /// If the channel is not open.
    pub(super) fn set_index(
        &mut self,
        index: u16,
        which: RingIndex,
        value: u32,
    ) -> Result<(), String> {
        let Some(channel) = self.channels.get_mut(&index) else {
            return Err(format!("channel {index} is not open"));
        };
        let written = match which {
            RingIndex::Write => channel.rings.outgoing.set_index(value),
            RingIndex::Read => channel.rings.incoming.set_index(value),
        };
        written.map_err(|error| format!("ring: {error}"))
    }
}
