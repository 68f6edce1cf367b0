// SPDX-License-Identifier: GPL-2.0

//! To the guest: filters frames, steers them to a channel, and puts them into receive sections.

use super::buffers::{ReceiveBuffer, RX_DATA_OFFSET};
use super::channel::{Channel, Staged};
use super::config::RxOverload;
use super::nic::Nic;
use super::nvsp_wire::RECEIVE_BUFFER_ID;
use super::offload::Offloads;
use super::rndis::{rndis_packet, CHANNEL_DATA};
use super::rndis_wire::{self as wire, kind, ppi, rx_checksum, HEADER_LEN, PACKET_LEN, PPI_LEN};
use super::rss::Steering;
use crate::backend::checksum::{self, Verdict};
use crate::backend::frame::{Checksum, Frame, L4};
use crate::backend::headers::{Addresses, IpHeaders};
use crate::backend::segment;
use crate::vmbus::gpa::GpaError;
use crate::vmbus::ring::{
    transfer_page_header, PacketType, TransferRange, WriteError, COMPLETION_REQUESTED,
};
use zerocopy::IntoBytes;

/// Frames taken from the back end at a time.
const BACKEND_BUDGET: usize = 256;
/// Frames that may wait for the guest, all channels.
const STAGED_LIMIT: usize = 1024;
/// A frame may be longer than announced by a VLAN tag that stays in it.
const INNER_TAG: usize = 4;

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
        if frame.segmentation.is_none() {
            return self.stage(frame);
        }
        match segment::segment(frame) {
            Ok(segments) => segments.into_iter().for_each(|s| self.stage(s)),
            Err(_) => self.counters.drop_rx("malformed", 1),
        }
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
        if frame.bytes.len() > self.session.frame_len as usize + INNER_TAG {
            return self.counters.drop_rx("oversize", 1);
        }
        checksum::complete(&mut frame);
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
            channel.staged.push_back(Staged { frame, hash });
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
                    let bytes: usize = channel
                        .staged
                        .drain(..count)
                        .map(|s| s.frame.bytes.len())
                        .sum();
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

/// Puts up to `batch` frames into sections and writes one ring packet for them.
fn hand_over(
    channel: &mut Channel,
    receive: &mut ReceiveBuffer,
    offloads: &Offloads,
    batch: usize,
    nvsp: &[u8],
) -> Handed {
    let sections = receive.take_data(channel.staged.len().min(batch));
    let Some(first) = sections.first().copied() else {
        return Handed::NoSection;
    };
    let mut ranges = Vec::with_capacity(sections.len());
    for (section, staged) in sections.iter().zip(&channel.staged) {
        match fill(receive, *section, staged, offloads) {
            Ok(len) => ranges.push(TransferRange {
                len: len as u32,
                offset: receive.offset(*section) as u32,
            }),
            Err(error) => {
                tracing::debug!(channel = channel.index, "receive buffer: {error}");
                receive.put_back(&sections);
                return Handed::Broken;
            }
        }
    }
    let header = transfer_page_header(RECEIVE_BUFFER_ID, &ranges);
    let written = channel.rings.outgoing.try_write(
        PacketType::TransferPages,
        COMPLETION_REQUESTED,
        u64::from(first),
        &header,
        &[nvsp],
    );
    match written {
        Ok(()) => {
            receive.sent(channel.index, sections);
            Handed::Frames(ranges.len())
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

/// Writes the RNDIS message of a frame into a section. Returns its length.
fn fill(
    receive: &ReceiveBuffer,
    section: u32,
    staged: &Staged,
    offloads: &Offloads,
) -> Result<usize, GpaError> {
    let frame = &staged.frame;
    let mut ppis = Vec::with_capacity(3 * (PPI_LEN + 4));
    put_ppi(&mut ppis, ppi::CHECKSUM, checksum_info(frame, offloads));
    if let Some(tci) = frame.vlan {
        put_ppi(&mut ppis, ppi::VLAN, wire::tci_to_vlan(tci));
    }
    if let Some(hash) = staged.hash {
        put_ppi(&mut ppis, ppi::HASH, hash);
    }
    let len = RX_DATA_OFFSET + frame.bytes.len();
    let body = wire::PacketBody {
        data_offset: ((RX_DATA_OFFSET - HEADER_LEN) as u32).into(),
        data_len: (frame.bytes.len() as u32).into(),
        ppi_offset: ((PACKET_LEN - HEADER_LEN) as u32).into(),
        ppi_len: (ppis.len() as u32).into(),
        ..wire::PacketBody::default()
    };
    let mut message = wire::build(kind::PACKET, &body, &ppis);
    message[4..8].copy_from_slice(&(len as u32).to_le_bytes());
    receive.write(section, 0, &message)?;
    receive.write(section, RX_DATA_OFFSET, &frame.bytes)?;
    Ok(len)
}

fn put_ppi(out: &mut Vec<u8>, kind: u32, payload: u32) {
    let header = wire::PpiHeader {
        size: ((PPI_LEN + size_of::<u32>()) as u32).into(),
        kind: kind.into(),
        offset: (PPI_LEN as u32).into(),
    };
    out.extend_from_slice(header.as_bytes());
    out.extend_from_slice(&payload.to_le_bytes());
}

/// Checksum verdict of a frame, for the offloads the guest turned on.
fn checksum_info(frame: &Frame, offloads: &Offloads) -> u32 {
    let Some(headers) = IpHeaders::parse(&frame.bytes) else {
        return 0;
    };
    let v6 = matches!(headers.addresses, Addresses::V6(..));
    let wanted = headers.l4().is_some_and(|l4| offloads.l4(l4, v6).rx);
    if !wanted && (v6 || !offloads.ip4.rx) {
        return 0;
    }
    let verdict = match (frame.checksum, headers.l4()) {
        (Checksum::Verified, Some(l4)) => Verdict {
            l4: Some((l4, true)),
            ip: checksum::verify_ipv4_header(&frame.bytes),
        },
        _ => checksum::verify(&frame.bytes),
    };
    let mut bits = 0;
    if let Some((l4, ok)) = verdict.l4.filter(|_| wanted) {
        bits |= match (l4, ok) {
            (L4::Tcp, true) => rx_checksum::TCP_OK,
            (L4::Tcp, false) => rx_checksum::TCP_FAILED,
            (L4::Udp, true) => rx_checksum::UDP_OK,
            (L4::Udp, false) => rx_checksum::UDP_FAILED,
        };
    }
    if let Some(ok) = verdict.ip.filter(|_| offloads.ip4.rx) {
        bits |= if ok {
            rx_checksum::IP_OK
        } else {
            rx_checksum::IP_FAILED
        };
    }
    bits
}
