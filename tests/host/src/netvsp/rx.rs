// SPDX-License-Identifier: GPL-2.0

//! To the guest: filters frames, steers them to a channel, and puts them into receive sections.

use super::buffers::ReceiveBuffer;
use super::channel::{Channel, Staged};
use super::config::RxOverload;
use super::nic::Nic;
use super::nvsp_wire::RECEIVE_BUFFER_ID;
use super::offload::Offloads;
use super::rndis::{rndis_packet, CHANNEL_DATA};
use super::rss::Steering;
use super::rx_message;
use crate::backend::checksum;
use crate::backend::frame::{Frame, L4};
use crate::backend::segment;
use crate::vmbus::ring::{
    transfer_page_header, PacketType, TransferRange, WriteError, COMPLETION_REQUESTED,
};

/// Frames taken from the back end at a time.
const BACKEND_BUDGET: usize = 256;
/// Frames that may wait for the guest, all channels.
const STAGED_LIMIT: usize = 1024;
/// A frame may be longer than announced by a VLAN tag that stays in it.
const INNER_TAG: usize = 4;

/// Most pieces of a coalesced frame that a Linux guest puts together.
const MAX_PIECES: usize = 562;
/// Capability of the guest: it puts coalesced frames together.
const CAPABILITY_RSC: u64 = 1 << 7;

/// What became of an attempt to hand frames over.
enum Handed {
    /// So many frames went.
    Frames(usize),
    /// No receive section is free.
    NoSection,
    /// The ring is full.
    RingFull,
    /// The channel is broken.
    Broken,
}

impl Nic {
    /// Whether there is room for more frames from the back end.
    pub fn takes_frames(&self) -> bool {
        let staged: usize = self.channels.values().map(|c| c.staged.len()).sum();
        staged < STAGED_LIMIT
    }

    /// Takes frames from the back end and delivers them.
    pub fn receive(&mut self, frames: &mut Vec<Frame>) {
        frames.clear();
        if let Err(error) = self.backend.receive(BACKEND_BUDGET, frames) {
            tracing::warn!(nic = self.config.name, "back end: {error}");
        }
        for frame in frames.drain(..) {
            self.deliver(frame);
        }
    }

    /// Delivers one frame, cutting it up if it came as a large one.
    pub fn deliver(&mut self, frame: Frame) {
        if !self.link_up {
            return self.counters.drop_rx("link-down", 1);
        }
        if self.capture.is_some() {
            self.record(&frame);
        }
        if frame.segmentation.is_none() || self.coalesces(&frame) {
            return self.stage(frame);
        }
        match segment::segment(frame) {
            Ok(segments) => segments.into_iter().for_each(|s| self.stage(s)),
            Err(_) => self.counters.drop_rx("malformed", 1),
        }
    }

    /// Whether the guest takes this large frame whole: it has promised to and has turned it on, and the
    /// segments that the frame would be cut into fit the guest's sections.
    fn coalesces(&self, frame: &Frame) -> bool {
        let Some(request) = frame.segmentation else {
            return false;
        };
        let promised = self.session.capabilities.unwrap_or(0) & CAPABILITY_RSC != 0;
        let offloads = &self.session.offloads;
        let on = if request.v6 {
            offloads.rsc6
        } else {
            offloads.rsc4
        };
        let pieces = segment::pieces(frame).unwrap_or_default();
        let first = pieces.first().copied().unwrap_or(0);
        let receive = self.session.receive.as_ref();
        let sections = receive.map_or(0, ReceiveBuffer::data_sections);
        promised
            && on
            && offloads.l4(L4::Tcp, request.v6).rx
            && first <= self.session.frame_len as usize
            && (2..=self.config.rx_batch.min(MAX_PIECES).min(sections)).contains(&pieces.len())
    }

    fn stage(&mut self, mut frame: Frame) {
        if !self.session.receives() {
            let reason = if self.session.is_ready() {
                "filter-closed"
            } else {
                "not-ready"
            };
            return self.counters.drop_rx(reason, 1);
        }
        frame.strip_vlan();
        let Some(destination) = frame.destination().filter(|_| frame.bytes.len() >= 14) else {
            return self.counters.drop_rx("malformed", 1);
        };
        if !self.session.filter.accepts(&destination, &self.mac) {
            self.counters.rx_filtered += 1;
            return;
        }
        let pieces = if frame.segmentation.is_some() {
            segment::pieces(&frame).unwrap_or_default()
        } else {
            vec![frame.bytes.len()]
        };
        let longest = pieces.iter().copied().max().unwrap_or(usize::MAX);
        if longest > self.session.frame_len as usize + INNER_TAG {
            return self.counters.drop_rx("oversize", 1);
        }
        if segment::prepare(&mut frame).is_err() {
            return self.counters.drop_rx("malformed", 1);
        }
        if pieces.len() == 1 {
            checksum::complete(&mut frame);
        }
        let steering = match &self.session.rss {
            Some(rss) => rss.steer(&frame.bytes),
            None => Steering {
                hash: None,
                queue: 0,
            },
        };
        let mut index = steering.queue as u16;
        if !self.channels.contains_key(&index) {
            self.counters.rx_unopened_channel += 1;
            index = 0;
        }
        if let Some(channel) = self.channels.get_mut(&index) {
            let hash = steering.hash;
            channel.staged.push_back(Staged {
                frame,
                hash,
                pieces,
            });
        }
    }

    /// Hands the waiting frames of a channel over, as far as there is room.
    pub(super) fn flush_frames(&mut self, index: u16) {
        let Some(channel) = self.channels.get_mut(&index) else {
            return;
        };
        if channel.staged.is_empty() {
            return;
        }
        let nvsp = rndis_packet(CHANNEL_DATA, self.session.message_len());
        while !channel.staged.is_empty() {
            // Completions and messages that wait for room come first.
            if !channel.outbox.is_empty() {
                return;
            }
            let Some(receive) = &mut self.session.receive else {
                self.counters.drop_rx("not-ready", channel.staged.len());
                channel.staged.clear();
                return;
            };
            let offloads = &self.session.offloads;
            let batch = self.config.rx_batch;
            let reason = match hand_over(channel, receive, offloads, batch, &nvsp) {
                Handed::Frames(count) => {
                    let mut bytes = 0;
                    for staged in channel.staged.drain(..count) {
                        bytes += staged.frame.bytes.len();
                        let pieces = staged.pieces.len() as u64;
                        self.counters.rx_coalesced += u64::from(pieces > 1);
                        self.counters.rx_coalesced_pieces += if pieces > 1 { pieces } else { 0 };
                    }
                    channel.counters.rx_packets += count as u64;
                    channel.counters.rx_bytes += bytes as u64;
                    channel.counters.rx_ring_packets += 1;
                    self.counters.rx_packets += count as u64;
                    self.counters.rx_bytes += bytes as u64;
                    continue;
                }
                Handed::NoSection => "no-receive-section",
                Handed::RingFull => "ring-full",
                Handed::Broken => "channel-broken",
            };
            let waits = self.config.rx_overload == RxOverload::Wait;
            if waits && reason != "channel-broken" {
                return;
            }
            self.counters.drop_rx(reason, channel.staged.len());
            channel.staged.clear();
        }
    }
}

impl Nic {
    /// Writes RNDIS messages as they are, each into a section of its own, and one ring packet for all of
    /// them on the primary channel.
    ///
    /// # Errors
    ///
    /// If that is not possible now; the text says why.
    pub(super) fn inject_messages(&mut self, messages: &[Vec<u8>]) -> Result<(), String> {
        let nvsp = rndis_packet(CHANNEL_DATA, self.session.message_len());
        let (Some(channel), Some(receive)) = (self.channels.get_mut(&0), &mut self.session.receive)
        else {
            return Err("the guest's driver is not attached".to_owned());
        };
        let section_size = receive.section_size();
        if let Some(long) = messages.iter().find(|m| m.len() > section_size) {
            let len = long.len();
            return Err(format!(
                "a message of {len} bytes: sections have {section_size}"
            ));
        }
        let sections = receive.take_data(messages.len());
        let Some(first) = sections
            .first()
            .copied()
            .filter(|_| sections.len() == messages.len())
        else {
            receive.put_back(&sections);
            return Err(format!(
                "no receive sections for {} messages",
                messages.len()
            ));
        };
        let mut ranges = Vec::with_capacity(sections.len());
        for (section, message) in sections.iter().zip(messages) {
            receive
                .write(*section, 0, message)
                .map_err(|error| format!("receive buffer: {error}"))?;
            ranges.push(TransferRange {
                len: message.len() as u32,
                offset: receive.offset(*section) as u32,
            });
        }
        let written = write_pages(channel, first, &ranges, &nvsp);
        if let Err(error) = written {
            receive.put_back(&sections);
            return Err(format!("ring to the guest: {error}"));
        }
        receive.sent(0, sections);
        channel.counters.rx_ring_packets += 1;
        self.counters.rx_injected += messages.len() as u64;
        Ok(())
    }
}

/// Writes the ring packet that hands over what lies at `ranges` of the receive buffer. Its transaction is the first
/// section.
fn write_pages(
    channel: &mut Channel,
    first: u32,
    ranges: &[TransferRange],
    nvsp: &[u8],
) -> Result<(), WriteError> {
    channel.rings.outgoing.try_write(
        PacketType::TransferPages,
        COMPLETION_REQUESTED,
        u64::from(first),
        &transfer_page_header(RECEIVE_BUFFER_ID, ranges),
        &[nvsp],
    )
}

/// Puts frames of up to `batch` pieces into sections and writes one ring packet for them.
fn hand_over(
    channel: &mut Channel,
    receive: &mut ReceiveBuffer,
    offloads: &Offloads,
    batch: usize,
    nvsp: &[u8],
) -> Handed {
    let mut count = 0;
    let mut pieces = 0;
    for staged in &channel.staged {
        if pieces + staged.pieces.len() > batch.min(receive.free_data()) {
            break;
        }
        pieces += staged.pieces.len();
        count += 1;
    }
    let sections = receive.take_data(pieces);
    let Some(first) = sections.first().copied() else {
        return Handed::NoSection;
    };
    let mut ranges = Vec::with_capacity(sections.len());
    let mut free = sections.iter().copied();
    for staged in channel.staged.iter().take(count) {
        let written = rx_message::write(receive, &mut free, staged, offloads, &mut ranges);
        if let Err(error) = written {
            tracing::debug!(channel = channel.index, "receive buffer: {error}");
            receive.put_back(&sections);
            return Handed::Broken;
        }
    }
    let written = write_pages(channel, first, &ranges, nvsp);
    match written {
        Ok(()) => {
            receive.sent(channel.index, sections);
            Handed::Frames(count)
        }
        Err(error) => {
            receive.put_back(&sections);
            if error == WriteError::Full {
                channel.counters.ring_full += 1;
                Handed::RingFull
            } else {
                Handed::Broken
            }
        }
    }
}
