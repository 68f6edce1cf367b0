// SPDX-License-Identifier: GPL-2.0

//! The poll of one channel: received frames, transmit completions, control messages.
//!
//! Everything the host wrote is looked at in private copies only: ring packets are copied by VMBus, the
//! headers of frames here, frames themselves into socket buffers. What does not check out is counted and
//! completed with failure; each received packet gets exactly one completion, at the latest when the ring
//! has room again.

use crate::buffers::ReceiveArea;
use crate::device::{ANNOUNCE, LINK};
use crate::mailbox::{Mail, MAX_MESSAGE};
use crate::net::{Completed, PollContext, Progress, RxFrame, XdpProgram, XdpVerdict};
use crate::queue::{OpenChannel, Queue};
use crate::rndis::{
    coalesce::{Coalescer, Frame, Piece, Step, MAX_PIECES},
    link::LinkEvent,
    message::{kind, HostMessage},
    nvsp::{self, Notice, RECEIVE_BUFFER_ID},
    packet::{self, RxMessage, MAX_RX_HEADER, PACKET_HEADER_LEN},
    rss::MAX_CHANNELS,
    rx_completions::{RxCompletion, RxCompletions},
    send_table::SendTable,
    transaction::{Transaction, TransactionId},
    version::NvspVersion,
};
use crate::stats::PollStats;
use crate::trace;
use crate::vmbus::{
    packet::{Packet, PacketType},
    transfer_pages::{CheckedRange, TransferPages},
    SendError,
};
use crate::xdp;
use core::sync::atomic::Ordering;
use kernel::prelude::*;

/// Receive completions that may wait for room in the ring.
const MAX_OWED: usize = 256;
/// Completions are sent at the latest when this many wait.
const FLUSH_AT: usize = 64;
/// Ring packets of any kind in one poll, for a unit of budget: transmit completions cost little, but not
/// nothing.
const PACKETS_PER_BUDGET: u32 = 4;
/// Milliseconds that the carrier is away after a change of network.
const NETWORK_CHANGE_MS: u32 = 2000;
/// Bytes of an indication that are looked at.
const MAX_INDICATION: usize = 64;

/// What only the poll touches.
pub(crate) struct RxState {
    owed: RxCompletions<KVec<RxCompletion>>,
    coalescer: Coalescer<KVec<Piece>>,
    /// Private copy of the header that is being looked at.
    header: KVec<u8>,
}

impl RxState {
    /// Nothing owed, no frame begun.
    pub(crate) fn new() -> Result<Self> {
        Ok(Self {
            owed: RxCompletions::new(filled(MAX_OWED)?),
            coalescer: Coalescer::new(filled(MAX_PIECES)?),
            header: filled(MAX_RX_HEADER + WORD)?,
        })
    }
}

fn filled<T: Copy + Default>(count: usize) -> Result<KVec<T>> {
    let mut storage = KVec::with_capacity(count, GFP_KERNEL)?;
    storage.resize(count, T::default(), GFP_KERNEL)?;
    Ok(storage)
}

/// A poll in progress: everything it needs, looked up once.
struct Rx<'a> {
    queue: &'a Queue,
    poll: &'a PollContext<'a>,
    channel: &'a OpenChannel,
    stats: &'a PollStats,
    program: Option<XdpProgram<'a>>,
}

/// One poll of up to `budget` frames.
pub(crate) fn poll(
    queue: &Queue,
    poll: &PollContext<'_>,
    state: &mut RxState,
    budget: u32,
) -> Progress {
    let channel = queue.channel.get(poll.section());
    let (Some(channel), Some(stats)) = (channel, queue.stats()) else {
        // Closed already: there is nothing to read.
        return Progress::Done(0);
    };
    let rx = Rx {
        queue,
        poll,
        channel,
        stats: &stats.poll,
        program: queue.dev().xdp.program(poll.section()),
    };
    let mut sent = Completed::default();
    let (work, more) = if budget == 0 {
        rx.reap(&mut sent);
        (0, false)
    } else {
        rx.drain(state, budget, &mut sent)
    };
    if rx.program.is_some() {
        xdp::finish_poll(queue, poll);
    }
    rx.wake(sent);
    if more || work >= budget {
        Progress::More
    } else {
        Progress::Done(work)
    }
}

impl Rx<'_> {
    /// Takes packets from the ring until budget or ring end. Returns frames received, and whether to
    /// come back at once.
    fn drain(&self, state: &mut RxState, budget: u32, sent: &mut Completed) -> (u32, bool) {
        let Some(mut reader) = self.channel.reader() else {
            return (0, true);
        };
        let mut work = 0u32;
        let mut left = budget.saturating_mul(PACKETS_PER_BUDGET);
        while work < budget && left > 0 {
            if state.owed.len() >= FLUSH_AT && !self.settle(state) && state.owed.is_full() {
                break;
            }
            let Some(packet) = reader.next_packet() else {
                break;
            };
            left = left.saturating_sub(1);
            work = work.saturating_add(self.packet(state, &packet, budget, sent));
        }
        if reader.malformed() > 0 {
            self.stats.rx_bad.add(reader.malformed());
            if self.channel.is_broken() {
                self.queue.shared.lost_channel();
            }
        }
        reader.publish();
        let settled = self.settle(state);
        (work.min(budget), left == 0 || !settled)
    }

    /// For netpoll: takes transmit completions from the ring, up to the first packet of another kind.
    fn reap(&self, sent: &mut Completed) {
        let Some(mut reader) = self.channel.reader() else {
            return;
        };
        while let Some(packet) = reader.next_packet() {
            let id = TransactionId::from_wire(packet.transaction_id).decode();
            if packet.packet_type != PacketType::Completion
                || !matches!(id, Transaction::Frame { .. })
            {
                reader.put_back();
                break;
            }
            self.completion(&packet, 0, sent);
        }
    }

    /// Handles one ring packet; returns the frames in it.
    fn packet(
        &self,
        state: &mut RxState,
        packet: &Packet<'_>,
        budget: u32,
        sent: &mut Completed,
    ) -> u32 {
        match packet.packet_type {
            PacketType::Completion => {
                self.completion(packet, budget, sent);
                0
            }
            PacketType::DataTransferPages => {
                let (bad, frames) = self.receive(state, packet);
                if bad > 0 {
                    self.stats.rx_bad.add(bad);
                }
                let owed = RxCompletion {
                    transaction_id: packet.transaction_id,
                    ok: bad == 0,
                };
                // There is room: `drain` looked before it took the packet.
                if state.owed.push(owed).is_err() {
                    self.stats.rx_comp_busy.add(1);
                }
                frames
            }
            PacketType::DataInBand => {
                self.notice(packet);
                0
            }
            _ => {
                self.stats.rx_bad.add(1);
                0
            }
        }
    }

    /// Sends the completions owed; false if the ring had no room for all.
    fn settle(&self, state: &mut RxState) -> bool {
        if state.owed.is_empty() {
            return true;
        }
        let sent = self.channel.write(|ring| {
            while let Some(owed) = state.owed.peek() {
                let message = nvsp::rndis_completion(owed.status());
                ring.completion(owed.transaction_id, &message)?;
                state.owed.pop();
            }
            Ok(())
        });
        match sent {
            Ok(()) => true,
            Err(SendError::Full) => {
                self.stats.rx_comp_busy.add(1);
                false
            }
            // A host that has taken the channel away wants no completions.
            Err(_) => {
                state.owed.clear();
                true
            }
        }
    }

    /// The host is done with a packet of ours.
    fn completion(&self, packet: &Packet<'_>, budget: u32, sent: &mut Completed) {
        let id = TransactionId::from_wire(packet.transaction_id);
        match id.decode() {
            Transaction::Frame { .. } => self.sent(id, packet, budget, sent),
            Transaction::Control(_) if self.queue.index == 0 => {
                let payload = packet.payload;
                let len = payload.len().min(nvsp::MESSAGE_LEN);
                let mailbox = &self.queue.shared.mailbox;
                if !mailbox.put(Mail::Completion(id), len, |to| copy(to, payload)) {
                    self.stats.bad_completions.add(1);
                }
            }
            _ => self.stats.bad_completions.add(1),
        }
    }

    fn sent(&self, id: TransactionId, packet: &Packet<'_>, budget: u32, completed: &mut Completed) {
        let Some(sent) = self.queue.in_flight.complete(id) else {
            self.stats.bad_completions.add(1);
            return;
        };
        completed.packets = completed.packets.wrapping_add(sent.packets.into());
        completed.bytes = completed.bytes.wrapping_add(sent.bytes);
        if let Some(section) = sent.section {
            if let Some(send) = self.queue.shared.send.get(self.poll.section()) {
                send.sections.free(section);
            }
        }
        if nvsp::packet_succeeded(packet.payload) {
            self.stats.tx_packets.add(sent.packets.into());
            self.stats.tx_bytes.add(sent.bytes.into());
        } else {
            self.stats.tx_errors.add(sent.packets.into());
        }
        if let Some(skb) = sent.skb {
            skb.consume(budget);
        }
    }

    /// A received packet: how many messages of it were refused, and how many frames it held.
    fn receive(&self, state: &mut RxState, packet: &Packet<'_>) -> (u64, u32) {
        let Some(area) = self.queue.shared.receive.get(self.poll.section()) else {
            return (1, 0);
        };
        let pages = TransferPages::parse(packet.header)
            .ok()
            .filter(|pages| pages.pageset_id() == RECEIVE_BUFFER_ID);
        let (Some(pages), Ok(_)) = (pages, nvsp::decode_rndis_packet(packet.payload)) else {
            return (1, 0);
        };
        let lost_before = state.coalescer.lost();
        let mut bad = 0u64;
        let mut frames = 0u32;
        for range in pages.iter() {
            match self.message(state, area, range.within(area.len)) {
                Some(received) => frames = frames.wrapping_add(received),
                None => {
                    bad = bad.wrapping_add(1);
                    state.coalescer.gap();
                }
            }
        }
        // Already counted, with what was lost on the way.
        let _ = state.coalescer.end_of_packet();
        let lost = state.coalescer.lost().wrapping_sub(lost_before);
        if lost > 0 {
            self.stats.rx_lro_bad.add(lost);
        }
        (bad.wrapping_add(lost), frames)
    }

    /// The RNDIS message of one range; returns the frames that it makes whole, `None` if it is bad. What does
    /// not fit a coalesced frame is for the coalescer to count.
    fn message(
        &self,
        state: &mut RxState,
        area: &ReceiveArea,
        range: Option<CheckedRange>,
    ) -> Option<u32> {
        let range = range?;
        let RxState {
            coalescer, header, ..
        } = state;
        match packet::parse(copy_header(header, area, range)?, range.len()).ok()? {
            RxMessage::Data(data) if data.fragment.is_some() && !self.coalesces() => None,
            RxMessage::Data(data) => {
                let offset = range.offset().checked_add(data.data_offset)?;
                match coalescer.push(offset, &data) {
                    Ok(Step::Frame(frame)) => self.frame(area, &frame).map(|()| 1),
                    Ok(Step::More) | Err(_) => Some(0),
                }
            }
            RxMessage::Control { message_type, .. } if self.queue.index == 0 => {
                self.control(area, range, message_type)?;
                Some(0)
            }
            RxMessage::Control { .. } => None,
        }
    }

    /// Whether the host was told that it may coalesce. Frames that it put together before it was told to
    /// stop still come.
    fn coalesces(&self) -> bool {
        self.queue.shared.version() >= Some(NvspVersion::V61)
    }

    fn frame(&self, area: &ReceiveArea, whole: &Frame<'_>) -> Option<()> {
        let mut frame = RxFrame::new(&area.buffer, whole.pieces, self.queue.index)?;
        let checksum = whole.data.checksum;
        if checksum.transport_ok() {
            frame.checksum_ok();
            if checksum.is_tcp() && checksum.transport_value_invalid() {
                frame.tcp_checksum_missing();
            }
        }
        if checksum.ip_ok() && checksum.ip_value_invalid() {
            frame.ip_checksum_missing();
        }
        if let Some(hash) = whole.data.hash {
            frame.hash(hash, whole.data.hash_has_ports);
        }
        if let Some(tci) = whole.data.vlan {
            frame.vlan(tci);
        }
        let delivered = match self.program {
            None => frame.deliver(self.poll, self.queue.dev()),
            Some(program) => match self.filter(program, &mut frame) {
                Ok(Some(group)) => Ok(group),
                Ok(None) => return Some(()),
                Err(error) => Err(error),
            },
        };
        match delivered {
            Ok(group) => self.stats.rx_multicast.add(group.into()),
            Err(error) => {
                // The host is not to blame: its section goes back as good.
                if error == ENOMEM {
                    self.stats.rx_no_memory.add(1);
                }
                return Some(());
            }
        }
        self.stats.rx_packets.add(1);
        self.stats.rx_bytes.add(whole.len.into());
        if whole.pieces.len() > 1 {
            self.stats.rx_lro_packets.add(1);
            self.stats.rx_lro_pieces.add(whole.pieces.len() as u64);
        }
        Some(())
    }

    /// Has an XDP program decide: whether the stack has the frame, and it was for a group; or `None` if it took another
    /// way, which is counted.
    fn filter(&self, program: XdpProgram<'_>, frame: &mut RxFrame<'_>) -> Result<Option<bool>> {
        let count = match frame.filter(program, self.poll, self.queue.dev())? {
            XdpVerdict::Passed(group) => return Ok(Some(group)),
            XdpVerdict::SentBack => &self.stats.xdp_tx,
            XdpVerdict::Redirected => &self.stats.xdp_redirect,
            XdpVerdict::Dropped => {
                self.stats.xdp_drop.add(1);
                self.stats.xdp_drop_bytes.add(frame.len().into());
                return Ok(None);
            }
        };
        count.add(1);
        self.stats.rx_packets.add(1);
        self.stats.rx_bytes.add(frame.len().into());
        Ok(None)
    }

    /// A control message: an answer goes to whoever waits for it, an indication is acted on. Rare, and kept
    /// apart so that the path of frames needs little stack.
    #[inline(never)]
    fn control(&self, area: &ReceiveArea, range: CheckedRange, message_type: u32) -> Option<()> {
        let offset = range.offset() as usize;
        if message_type == kind::INDICATE {
            return self.indication(area, range);
        }
        if message_type & kind::COMPLETION == 0 {
            return None;
        }
        let bytes = area
            .buffer
            .view(offset, MAX_MESSAGE.min(range.len() as usize))?;
        let taken = self
            .queue
            .shared
            .mailbox
            .put(Mail::Rndis, bytes.len(), |to| {
                // The lengths are equal.
                let _ = bytes.copy_to(to);
            });
        if !taken {
            self.stats.bad_completions.add(1);
        }
        Some(())
    }

    fn indication(&self, area: &ReceiveArea, range: CheckedRange) -> Option<()> {
        let mut bytes = [0u8; MAX_INDICATION];
        let bytes = bytes.get_mut(..MAX_INDICATION.min(range.len() as usize))?;
        area.buffer.copy_out(range.offset() as usize, bytes).ok()?;
        trace::rndis_received(self.queue.dev(), bytes);
        let message = HostMessage::decode(bytes);
        // Longer indications than we look at concern something else.
        if let Some(event) = message.ok().as_ref().and_then(LinkEvent::from_message) {
            self.link_event(event);
        }
        Some(())
    }

    fn link_event(&self, event: LinkEvent) {
        let dev = self.queue.dev();
        match event {
            LinkEvent::Up | LinkEvent::Down => {
                let up = event == LinkEvent::Up;
                // A host that says "up" twice has moved the machine: its peers must learn where.
                let again = dev.link.indicate(up) && up;
                dev.schedule_work(if again { LINK | ANNOUNCE } else { LINK });
            }
            LinkEvent::Speed(speed) => dev.link.set_speed(speed.mbit()),
            LinkEvent::NetworkChange => {
                dev.link.set_away(true);
                dev.schedule_work(LINK);
                self.queue.shared.carrier_return.queue(NETWORK_CHANGE_MS);
            }
        }
    }

    /// The host tells something in-band. Rare, see [`Rx::control`].
    #[inline(never)]
    fn notice(&self, packet: &Packet<'_>) {
        trace::nvsp_received(self.queue.dev(), packet.payload, None);
        let shared = &self.queue.shared;
        let notice = shared
            .version()
            .filter(|_| self.queue.index == 0)
            .and_then(|version| Notice::decode(packet.payload, version).ok());
        match notice {
            Some(Notice::SendTable(entries)) => {
                shared.set_send_table(&SendTable::from_host(&entries, MAX_CHANNELS));
            }
            // There is no virtual function that could be used yet.
            Some(Notice::VfAssociation { .. } | Notice::Other(_)) => {}
            None => self.stats.rx_bad.add(1),
        }
    }

    /// Reports what was completed, and wakes the queue if it is stopped and there is room again. See
    /// `Tx::stop` for the other half: a stopped queue has packets on its way, and it is their completion
    /// that makes room, so a poll without any need not look.
    fn wake(&self, sent: Completed) {
        let unsent = match self.queue.unsent_bytes.load(Ordering::Relaxed) {
            0 => 0,
            _ => self.queue.unsent_bytes.swap(0, Ordering::Relaxed),
        };
        let sent = Completed {
            packets: sent.packets,
            bytes: sent.bytes.wrapping_add(unsent),
        };
        if sent.packets == 0 && unsent == 0 {
            return;
        }
        let dev = self.queue.dev();
        if dev.tx_completed(self.poll, self.queue.index, sent)
            && dev.path.get(self.poll.section()).is_some()
            && self.queue.has_room(self.channel)
        {
            self.stats.wake_queue.add(1);
            dev.wake_queue(self.queue.index);
        }
    }
}

/// Bytes that are copied at once, from the word on in which a message begins: its header, and the per-packet info that
/// hosts send.
const USUAL_HEADER: usize = 120;
const WORD: usize = size_of::<u64>();

/// Copies a message's header and per-packet info, each once, and maybe a few bytes more.
#[inline]
fn copy_header<'a>(to: &'a mut [u8], area: &ReceiveArea, range: CheckedRange) -> Option<&'a [u8]> {
    let offset = range.offset() as usize;
    let (to, begun) = if range.len() as usize >= USUAL_HEADER {
        // Whole words, as messages may begin anywhere; and a length that the compiler knows: no loop.
        let before = offset % WORD;
        let first = to.first_chunk_mut::<USUAL_HEADER>()?;
        area.buffer.copy_out(offset & !(WORD - 1), first).ok()?;
        (to.get_mut(before..)?, USUAL_HEADER.wrapping_sub(before))
    } else {
        let first = to.get_mut(..range.len() as usize)?;
        area.buffer.copy_out(offset, first).ok()?;
        let begun = first.len();
        (to, begun)
    };
    let fixed = to.get(..PACKET_HEADER_LEN.min(begun))?;
    let len = packet::header_len(fixed, range.len());
    if begun < len {
        let rest = to.get_mut(begun..len)?;
        area.buffer
            .copy_out(offset.checked_add(begun)?, rest)
            .ok()?;
    }
    to.get(..len)
}

fn copy(to: &mut [u8], from: &[u8]) {
    for (to, from) in to.iter_mut().zip(from) {
        *to = *from;
    }
}
