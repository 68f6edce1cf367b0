// SPDX-License-Identifier: GPL-2.0

//! From the guest: fetches frames from send sections and guest pages, carries out what their
//! per-packet information asks for, and passes them to the back end.

use std::sync::Arc;

use vm_memory::GuestMemoryMmap;

use super::buffers::SEND_SECTION;
use super::channel::Outgoing;
use super::nic::{Fault, Nic};
use super::nvsp_wire::{status, RndisPacket, NO_SECTION};
use super::rndis::{rndis_completion, CHANNEL_CONTROL, CHANNEL_DATA, MAX_PACKETS};
use super::session::RndisState;
use super::tx_message::{parse_message, TxError};
use crate::backend::checksum;
use crate::backend::frame::{Checksum, Frame};
use crate::backend::segment;
use crate::vmbus::gpa::{read_ranges, total_len, GpaError, GpaRange};
use crate::vmbus::gpadl::GpadlMemory;
use crate::vmbus::ring::{Packet, PacketType};

/// Longest control message.
const CONTROL_MAX: usize = 100 << 10;
/// An inner VLAN tag that stays in the frame does not count against the frame length.
const INNER_TAG: usize = 4;

/// Where the RNDIS messages of a ring packet lie: the send section first, then guest pages.
pub(super) struct Source {
    section: Option<(Arc<GpadlMemory>, usize, usize)>,
    ranges: Vec<GpaRange>,
    memory: Arc<GuestMemoryMmap>,
}

impl Source {
    /// `section` is buffer, start and length of what lies in a send section.
    pub fn new(
        section: Option<(Arc<GpadlMemory>, usize, usize)>,
        ranges: Vec<GpaRange>,
        memory: Arc<GuestMemoryMmap>,
    ) -> Self {
        Source {
            section,
            ranges,
            memory,
        }
    }

    fn section_len(&self) -> usize {
        self.section.as_ref().map_or(0, |(_, _, len)| *len)
    }

    /// Bytes in all.
    pub fn len(&self) -> usize {
        self.section_len() + total_len(&self.ranges)
    }

    /// Copies bytes out.
    pub fn read(&self, at: usize, buf: &mut [u8]) -> Result<(), GpaError> {
        let section_len = self.section_len();
        let in_section = buf.len().min(section_len.saturating_sub(at));
        let (head, tail) = buf.split_at_mut(in_section);
        if let Some((memory, start, _)) = self.section.as_ref().filter(|_| in_section > 0) {
            memory.read(start + at, head)?;
        }
        if tail.is_empty() {
            return Ok(());
        }
        let at = (at + in_section) - section_len;
        read_ranges(&self.ranges, &self.memory, at, tail)
    }

    /// Whether bytes `at..at + len` lie in one range (the send section counts as one).
    pub fn is_contiguous(&self, at: usize, len: usize) -> bool {
        let mut start = 0;
        let section = std::iter::once(self.section_len());
        for piece in section.chain(self.ranges.iter().map(GpaRange::len)) {
            let end = start + piece;
            if at < end {
                return at + len <= end;
            }
            start = end;
        }
        false
    }
}

impl Nic {
    /// Serves a ring packet with RNDIS messages.
    pub(super) fn on_rndis_packet(&mut self, index: u16, packet: &Packet, m: &RndisPacket) {
        if !self.session.is_ready() {
            if !self.session.refused {
                self.violation("nvsp.order", "RNDIS packet before the device is ready");
            }
            return;
        }
        if self
            .session
            .receive
            .as_ref()
            .is_some_and(|r| r.is_revoked())
        {
            self.violation("nvsp.order", "RNDIS packet after REVOKE_RECV_BUF");
        }
        let source = match self.source(index, packet, m) {
            Ok(source) => source,
            Err(error) => {
                self.violation(error.name(), &error);
                return self.complete_data(index, packet, None, false);
            }
        };
        match m.channel_type.get() {
            CHANNEL_CONTROL => self.fetch_control(index, packet, &source),
            CHANNEL_DATA => self.on_data(index, packet, m, &source),
            other => {
                self.violation("nvsp.channel-type", format!("RNDIS channel type {other}"));
                self.complete_data(index, packet, None, false);
            }
        }
    }

    fn source(&mut self, index: u16, packet: &Packet, m: &RndisPacket) -> Result<Source, TxError> {
        let memory = match self.channels.get(&index) {
            Some(channel) => Arc::clone(channel.rings.memory()),
            None => return Err(TxError::Empty),
        };
        let (section, size) = (m.section_index.get(), m.section_size.get() as usize);
        let section = match (section, &self.session.send) {
            (NO_SECTION, _) => None,
            (section, Some(send)) if section < send.sections() && size <= SEND_SECTION => {
                let (memory, start) = send.section(section);
                Some((memory, start, size))
            }
            _ => return Err(TxError::Section { section, size }),
        };
        let ranges = match packet.kind {
            PacketType::GpaDirect => packet.gpa_ranges()?,
            _ => Vec::new(),
        };
        let source = Source::new(section, ranges, memory);
        if source.len() == 0 {
            return Err(TxError::Empty);
        }
        Ok(source)
    }

    fn fetch_control(&mut self, index: u16, packet: &Packet, source: &Source) {
        if index != 0 {
            let detail = format!("control message on sub-channel {index}");
            self.violation("nvsp.wrong-channel", detail);
            return self.complete_data(index, packet, None, false);
        }
        let len = source.len();
        let mut message = vec![0; len.min(CONTROL_MAX)];
        if len > CONTROL_MAX {
            self.violation("rndis.length", format!("control message of {len} bytes"));
            return self.complete_data(index, packet, None, false);
        }
        if let Err(error) = source.read(0, &mut message) {
            self.violation("rndis.memory", error);
            return self.complete_data(index, packet, None, false);
        }
        self.control_packet(packet.transaction_id, packet.wants_completion(), &message);
    }

    fn on_data(&mut self, index: u16, packet: &Packet, m: &RndisPacket, source: &Source) {
        let section = Some(m.section_index.get()).filter(|s| *s != NO_SECTION);
        if let (Some(section), Some(send)) = (section, &mut self.session.send) {
            if !send.occupy(section) {
                let detail = format!("send section {section} used again before its completion");
                self.violation("nvsp.send-section-busy", detail);
            }
        }
        if let Some(channel) = self.channels.get_mut(&index) {
            channel.counters.tx_ring_packets += 1;
            channel.counters.tx_section += u64::from(section.is_some());
            channel.counters.tx_gpa_direct += u64::from(packet.kind == PacketType::GpaDirect);
        }
        let frames = match self.fetch_frames(source) {
            Ok(frames) => frames,
            Err(error) => {
                self.violation(error.name(), &error);
                self.counters.drop_tx("refused");
                return self.complete_data(index, packet, section, false);
            }
        };
        for frame in frames {
            self.send_frame(index, frame);
        }
        self.complete_data(index, packet, section, true);
    }

    /// All frames of a ring packet: if one is refused, all are.
    fn fetch_frames(&mut self, source: &Source) -> Result<Vec<Frame>, TxError> {
        let mut frames = Vec::with_capacity(1);
        let mut at = 0;
        while at < source.len() {
            if frames.len() == MAX_PACKETS as usize {
                return Err(TxError::TooMany);
            }
            let (frame, len) = parse_message(source, at)?;
            if frame.segmentation.is_none() {
                let limit = self.session.frame_len as usize + INNER_TAG;
                if frame.bytes.len() > limit {
                    let len = frame.bytes.len();
                    return Err(TxError::Oversize { len, limit });
                }
            }
            self.check_offloads(&frame);
            frames.push(frame);
            at += len;
        }
        Ok(frames)
    }

    /// Reports offloads that are used without being in force. The frame is served all the same.
    fn check_offloads(&mut self, frame: &Frame) {
        let offloads = &self.session.offloads;
        let v6 = frame.bytes.get(12..14) == Some(&[0x86, 0xdd]);
        if let Some(request) = frame.segmentation {
            let on = if request.v6 {
                offloads.lso6
            } else {
                offloads.lso4
            };
            if !on {
                self.violation("rndis.offload-disabled", "large send that is not in force");
            }
        } else if let Checksum::Partial { l4, .. } = frame.checksum {
            if !offloads.l4(l4, v6).tx {
                let detail = format!("{l4:?} checksum that is not in force, IPv6: {v6}");
                self.violation("rndis.offload-disabled", detail);
            }
        }
    }

    fn complete_data(&mut self, index: u16, packet: &Packet, section: Option<u32>, ok: bool) {
        let message_len = self.session.message_len();
        if let Some(channel) = self.channels.get_mut(&index) {
            channel.counters.tx_refused += u64::from(!ok);
            if !packet.wants_completion() {
                return;
            }
            let status = if ok { status::SUCCESS } else { status::FAIL };
            let completion = Outgoing {
                releases: section,
                data_completion: true,
                ..Outgoing::completion(packet.transaction_id, rndis_completion(status, message_len))
            };
            if !self.host.faults().is_armed() {
                return channel.outbox.push_back(completion);
            }
            if self.fault("nvsp.rndis-completion") != Fault::Silent {
                self.queue(index, completion);
            }
        }
    }

    /// Finishes what the back end does not take, and sends.
    fn send_frame(&mut self, index: u16, frame: Frame) {
        let bytes = frame.bytes.len() as u64;
        if let Some(channel) = self.channels.get_mut(&index) {
            channel.counters.tx_packets += 1;
            channel.counters.tx_bytes += bytes;
        }
        self.counters.tx_packets += 1;
        self.counters.tx_bytes += bytes;
        self.counters.tx_lso += u64::from(frame.segmentation.is_some());
        self.counters.tx_vlan += u64::from(frame.vlan.is_some());
        let partial = matches!(frame.checksum, Checksum::Partial { .. });
        self.counters.tx_checksum += u64::from(partial);
        if self.session.rndis != RndisState::Initialized {
            return self.counters.drop_tx("not-initialized");
        }
        if !self.link_up {
            return self.counters.drop_tx("link-down");
        }
        if self.capture.is_some() {
            self.record(&frame);
        }
        let takes = self.backend.takes();
        let frames = if takes.segmentation {
            vec![frame]
        } else {
            // Requests were validated when the frame was read.
            segment::segment(frame).unwrap_or_default()
        };
        for mut frame in frames {
            if !takes.partial_checksum {
                checksum::complete(&mut frame);
            }
            if !takes.vlan_metadata {
                frame.insert_vlan();
            }
            if let Err(reason) = self.backend.transmit(frame) {
                self.counters.drop_tx(reason.name());
            }
        }
    }
}
