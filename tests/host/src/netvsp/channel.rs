// SPDX-License-Identifier: GPL-2.0

//! One open channel: its rings, what waits for room in them, and its counters.

use std::collections::VecDeque;

use vmm_sys_util::eventfd::EventFd;

use super::counters::ChannelCounters;
use crate::backend::frame::Frame;
use crate::vmbus::device::OpenChannel;
use crate::vmbus::ring::{PacketType, RingPair, WriteError};

/// Ring packets that may wait for room before the channel's requests wait too.
const OUTBOX_LIMIT: usize = 1024;

/// A ring packet to the guest.
#[derive(Clone)]
pub struct Outgoing {
    /// Kind.
    pub kind: PacketType,
    /// Descriptor flags.
    pub flags: u16,
    /// Transaction id.
    pub id: u64,
    /// Type-specific header.
    pub header: Vec<u8>,
    /// NVSP message.
    pub payload: Vec<u8>,
    /// Send section that the guest may use again when this is written.
    pub releases: Option<u32>,
    /// Counts as completion of a data packet.
    pub data_completion: bool,
}

impl Outgoing {
    /// An answer to the request with this id.
    pub fn completion(id: u64, payload: Vec<u8>) -> Self {
        Outgoing {
            kind: PacketType::Completion,
            flags: 0,
            id,
            header: Vec::new(),
            payload,
            releases: None,
            data_completion: false,
        }
    }

    /// An unsolicited in-band message.
    pub fn in_band(payload: Vec<u8>) -> Self {
        Outgoing {
            kind: PacketType::InBand,
            ..Outgoing::completion(0, payload)
        }
    }
}

/// A frame for the guest, steered to this channel.
pub struct Staged {
    /// The frame.
    pub frame: Frame,
    /// RSS hash.
    pub hash: Option<u32>,
    /// Bytes of each piece of the frame, in order: more than one if it goes over coalesced.
    pub pieces: Vec<usize>,
}

/// An open channel.
pub struct Channel {
    /// Sub-channel index.
    pub index: u16,
    /// Relid.
    pub relid: u32,
    /// Rings.
    pub rings: RingPair,
    /// Signals of the guest.
    pub kick: EventFd,
    /// The incoming ring is masked and being read.
    pub active: bool,
    /// Packets that wait for room.
    pub outbox: VecDeque<Outgoing>,
    /// Frames that wait for sections and room.
    pub staged: VecDeque<Staged>,
    /// Counters.
    pub counters: ChannelCounters,
}

impl Channel {
    /// Takes a channel over. It starts active: the guest may have written before.
    pub fn new(open: OpenChannel) -> Self {
        let mut channel = Channel {
            index: open.index,
            relid: open.relid,
            rings: open.rings,
            kick: open.kick,
            active: true,
            outbox: VecDeque::new(),
            staged: VecDeque::new(),
            counters: ChannelCounters::default(),
        };
        channel.rings.incoming.mask();
        channel
    }

    /// The guest signalled: read the ring until it is empty.
    pub fn wake(&mut self) {
        if let Ok(count) = self.kick.read() {
            self.rings.note_doorbells(count);
        }
        if !self.active {
            self.active = true;
            self.rings.incoming.mask();
        }
    }

    /// The ring was found empty: ask for signals again, unless something came meanwhile.
    pub fn sleep(&mut self) {
        if self.rings.incoming.unmask() {
            self.rings.incoming.mask();
        } else {
            self.active = false;
        }
    }

    /// Whether so much waits for room that no more requests should be taken.
    pub fn is_clogged(&self) -> bool {
        self.outbox.len() >= OUTBOX_LIMIT
    }

    /// Whether something waits for room in the ring.
    pub fn waits_for_room(&self) -> bool {
        !self.outbox.is_empty() || !self.staged.is_empty()
    }

    /// Writes waiting packets. Returns the send sections the guest may use again; stops when the
    /// ring is full.
    pub fn flush_outbox(&mut self, released: &mut Vec<u32>) {
        while let Some(packet) = self.outbox.front() {
            let written = self.rings.outgoing.try_write(
                packet.kind,
                packet.flags,
                packet.id,
                &packet.header,
                &[&packet.payload],
            );
            match written {
                Ok(()) => {}
                Err(WriteError::Full) => {
                    self.counters.ring_full += 1;
                    return;
                }
                Err(error) => {
                    tracing::debug!(channel = self.index, "{error}");
                    self.outbox.clear();
                    return;
                }
            }
            self.counters.tx_completions += u64::from(packet.data_completion);
            released.extend(packet.releases);
            self.outbox.pop_front();
        }
    }
}
