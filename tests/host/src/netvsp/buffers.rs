// SPDX-License-Identifier: GPL-2.0

//! The two buffers a guest lends to the host: receive sections, which the host fills and the guest
//! gives back, and send sections, which the guest fills.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;

use crate::vmbus::gpa::GpaError;
use crate::vmbus::gpadl::GpadlMemory;

/// Bytes of a send section.
pub const SEND_SECTION: usize = 6144;
/// Receive sections kept for control messages; half of them in a buffer of fewer than twice as many.
const CONTROL_SECTIONS: u32 = 16;
/// Where frame data starts in a receive section.
pub const RX_DATA_OFFSET: usize = 256;
/// A receive buffer of fewer sections is refused.
const FEWEST_SECTIONS: u32 = 4;
/// Added to frame length and data offset: what a receive section has in reserve.
const SECTION_RESERVE: u32 = 36;

/// Sections of a ring packet that the guest has not given back yet.
struct Outstanding {
    channel: u16,
    sections: Vec<u32>,
}

/// A receive completion that does not fit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BadCompletion {
    /// No ring packet with this id is with the guest.
    Unknown,
    /// It is, but it went out on this other channel.
    OtherChannel(u16),
}

/// The guest's receive buffer.
pub struct ReceiveBuffer {
    memory: Arc<GpadlMemory>,
    section_size: usize,
    sections: u32,
    /// How many of them, the first, are for control messages.
    control: u32,
    free_control: VecDeque<u32>,
    free_data: VecDeque<u32>,
    outstanding: HashMap<u64, Outstanding>,
    revoked: bool,
}

impl ReceiveBuffer {
    /// Cuts `memory` into sections for frames of `frame_len` bytes. `None` if not even one remains
    /// beside those for control messages.
    pub fn new(memory: Arc<GpadlMemory>, frame_len: u32) -> Option<Self> {
        let section_size = RX_DATA_OFFSET + (frame_len + SECTION_RESERVE) as usize;
        let sections = (memory.len() / section_size) as u32;
        if sections < FEWEST_SECTIONS {
            return None;
        }
        let control = CONTROL_SECTIONS.min(sections / 2);
        Some(ReceiveBuffer {
            memory,
            section_size,
            sections,
            control,
            free_control: (0..control).collect(),
            free_data: (control..sections).collect(),
            outstanding: HashMap::new(),
            revoked: false,
        })
    }

    /// Bytes of a section.
    pub fn section_size(&self) -> usize {
        self.section_size
    }

    /// Number of sections.
    pub fn sections(&self) -> u32 {
        self.sections
    }

    /// Bytes of the whole buffer.
    pub fn len(&self) -> usize {
        self.memory.len()
    }

    /// Whether the ring packet of this transaction carries a control message.
    pub fn is_control(&self, transaction: u64) -> bool {
        transaction < self.control.into()
    }

    /// Sections for frames, free or not.
    pub fn data_sections(&self) -> usize {
        (self.sections - self.control) as usize
    }

    /// Sections that wait for frames.
    pub fn free_data(&self) -> usize {
        if self.revoked {
            0
        } else {
            self.free_data.len()
        }
    }

    /// Sections the guest has.
    pub fn in_flight(&self) -> usize {
        self.outstanding.values().map(|o| o.sections.len()).sum()
    }

    /// The guest takes the buffer back: nothing is written any more, completions still count.
    pub fn revoke(&mut self) {
        self.revoked = true;
    }

    /// Whether the guest took the buffer back.
    pub fn is_revoked(&self) -> bool {
        self.revoked
    }

    /// Takes a section for a control message.
    pub fn take_control(&mut self) -> Option<u32> {
        if self.revoked {
            return None;
        }
        self.free_control.pop_front()
    }

    /// Takes `count` sections for frames; fewer if there are fewer. Sections are used in turn, so
    /// that one given back twice is noticed.
    pub fn take_data(&mut self, count: usize) -> Vec<u32> {
        let count = count.min(self.free_data());
        self.free_data.drain(..count).collect()
    }

    /// Puts sections back that were not sent.
    pub fn put_back(&mut self, sections: &[u32]) {
        for section in sections.iter().rev() {
            if *section < self.control {
                self.free_control.push_front(*section);
            } else {
                self.free_data.push_front(*section);
            }
        }
    }

    /// Offset of a section in the buffer.
    pub fn offset(&self, section: u32) -> usize {
        section as usize * self.section_size
    }

    /// Writes into a section.
    ///
    /// # Errors
    ///
    /// If the guest took the memory back.
    pub fn write(&self, section: u32, at: usize, bytes: &[u8]) -> Result<(), GpaError> {
        self.memory.write(self.offset(section) + at, bytes)
    }

    /// Notes that the guest has the sections, in a ring packet on `channel`. The id of the packet
    /// is that of its first section.
    pub fn sent(&mut self, channel: u16, sections: Vec<u32>) {
        if let Some(first) = sections.first() {
            let id = u64::from(*first);
            self.outstanding
                .insert(id, Outstanding { channel, sections });
        }
    }

    /// Takes the sections of ring packet `id` back.
    ///
    /// # Errors
    ///
    /// If the guest does not have such a packet of this channel.
    pub fn complete(&mut self, channel: u16, id: u64) -> Result<(), BadCompletion> {
        match self.outstanding.get(&id) {
            None => return Err(BadCompletion::Unknown),
            Some(o) if o.channel != channel => {
                return Err(BadCompletion::OtherChannel(o.channel));
            }
            Some(_) => {}
        }
        if let Some(o) = self.outstanding.remove(&id) {
            self.release(&o.sections);
        }
        Ok(())
    }

    /// Takes everything back that went out on a channel which is now closed.
    pub fn forget_channel(&mut self, channel: u16) {
        let ids: Vec<u64> = self
            .outstanding
            .iter()
            .filter(|(_, o)| o.channel == channel)
            .map(|(id, _)| *id)
            .collect();
        for id in ids {
            if let Some(o) = self.outstanding.remove(&id) {
                self.release(&o.sections);
            }
        }
    }

    fn release(&mut self, sections: &[u32]) {
        for section in sections {
            if *section < self.control {
                self.free_control.push_back(*section);
            } else {
                self.free_data.push_back(*section);
            }
        }
    }
}

/// The guest's send buffer.
pub struct SendBuffer {
    memory: Arc<GpadlMemory>,
    /// Sections whose completion has not been written yet.
    busy: HashSet<u32>,
}

impl SendBuffer {
    /// Takes the buffer into use. `None` if it holds no section.
    pub fn new(memory: Arc<GpadlMemory>) -> Option<Self> {
        (memory.len() >= SEND_SECTION).then(|| SendBuffer {
            memory,
            busy: HashSet::new(),
        })
    }

    /// Number of sections.
    pub fn sections(&self) -> u32 {
        (self.memory.len() / SEND_SECTION) as u32
    }

    /// Bytes of the whole buffer.
    pub fn len(&self) -> usize {
        self.memory.len()
    }

    /// The memory and where a section starts in it.
    pub fn section(&self, index: u32) -> (Arc<GpadlMemory>, usize) {
        (Arc::clone(&self.memory), index as usize * SEND_SECTION)
    }

    /// Notes that the host has a section. False if it had it already.
    pub fn occupy(&mut self, index: u32) -> bool {
        self.busy.insert(index)
    }

    /// Notes that the guest may use a section again.
    pub fn release(&mut self, index: u32) {
        self.busy.remove(&index);
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::memory::gpadl;
    use super::*;

    #[test]
    fn sections_as_the_reference_host_cuts_them() {
        let buffer = ReceiveBuffer::new(gpadl(1, 0, 16 << 20), 1514).expect("sections");
        assert_eq!((buffer.section_size(), buffer.sections()), (1806, 9289));
        assert_eq!(buffer.free_data(), 9289 - 16);
        let send = SendBuffer::new(gpadl(2, 0, 1_044_480)).expect("sections");
        assert_eq!(send.sections(), 170);
    }

    #[test]
    fn too_small_for_frames() {
        assert!(ReceiveBuffer::new(gpadl(1, 0, 4096), 1514).is_none());
        assert!(SendBuffer::new(gpadl(1, 0, 4096)).is_none());
    }

    #[test]
    fn a_small_buffer_serves_control_messages_and_frames() {
        let mut buffer = ReceiveBuffer::new(gpadl(1, 0, 5 * 4096), 1514).expect("sections");
        assert_eq!((buffer.sections(), buffer.data_sections()), (11, 6));
        let (control, data) = (buffer.take_control(), buffer.take_data(99));
        assert!(buffer.is_control(control.expect("a section").into()));
        assert_eq!(data.len(), 6);
        assert!(data
            .iter()
            .all(|section| !buffer.is_control((*section).into())));
    }

    #[test]
    fn completions_are_matched_by_id_and_channel() {
        let mut buffer = ReceiveBuffer::new(gpadl(1, 0, 1 << 20), 1514).expect("sections");
        let free = buffer.free_data();
        let sections = buffer.take_data(3);
        assert_eq!(sections, [16, 17, 18]);
        buffer.sent(2, sections);
        assert_eq!(buffer.in_flight(), 3);
        assert_eq!(buffer.complete(2, 17), Err(BadCompletion::Unknown));
        assert_eq!(buffer.complete(1, 16), Err(BadCompletion::OtherChannel(2)));
        assert_eq!(buffer.complete(2, 16), Ok(()));
        assert_eq!(buffer.complete(2, 16), Err(BadCompletion::Unknown));
        assert_eq!(buffer.free_data(), free);
    }

    #[test]
    fn closing_a_channel_frees_its_sections() {
        let mut buffer = ReceiveBuffer::new(gpadl(1, 0, 1 << 20), 1514).expect("sections");
        let free = buffer.free_data();
        for channel in [1, 2] {
            let sections = buffer.take_data(5);
            buffer.sent(channel, sections);
        }
        buffer.forget_channel(1);
        assert_eq!((buffer.in_flight(), buffer.free_data()), (5, free - 5));
    }

    #[test]
    fn revoked_buffer_takes_completions_only() {
        let mut buffer = ReceiveBuffer::new(gpadl(1, 0, 1 << 20), 1514).expect("sections");
        let sections = buffer.take_data(1);
        buffer.sent(0, sections);
        buffer.revoke();
        assert_eq!(buffer.take_control(), None);
        assert!(buffer.take_data(1).is_empty());
        assert_eq!(buffer.complete(0, 16), Ok(()));
    }
}
