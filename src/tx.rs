// SPDX-License-Identifier: GPL-2.0

//! Transmit: frames become RNDIS messages, copied to a send section (several to a batch while the stack
//! says that more follow) or named page by page.
//!
//! A frame is consumed only once the ring has taken the packet that carries it; before that it is either
//! given back to the stack (the queue is stopped then) or dropped and counted.

use crate::buffers::SendArea;
use crate::device::{Adapter, DataPath};
use crate::net::{
    Device, HostPages, Napi, Pieces, Sent, SkBuff, SoftIrq, TxLocked, TxPrepared, TxQueueGuard,
    TxVerdict, PAGE_SIZE,
};
use crate::queue::{OpenChannel, Queue, MAX_IN_FLIGHT};
use crate::rndis::{
    nvsp::{self, RndisChannel},
    packet::{extend_message, padding, TxOffload, MAX_TX_HEADER},
    sections::Section,
    transaction::{Transaction, TransactionId},
};
use crate::stats::TxStats;
use crate::vmbus::{
    gpa_direct::{GpaDirect, RndisHeaderRange},
    SendError,
};
use core::sync::atomic::{fence, Ordering};
use kernel::prelude::*;

/// Most guest pages in one packet.
const MAX_PAGES: u32 = 32;
/// Room for an RNDIS header, so that none crosses a page.
const HEADER_ROOM: usize = 128;
/// Longest GPA-direct header: fixed part, and for header, linear part and 17 fragments a range each, and
/// a page number for each of the pages.
const MAX_DESCRIPTOR: usize = 24 + (8 * 19) + 8 * (MAX_PAGES as usize + 1);
/// The queue stops below this share of free ring, in percent...
const STOP_PERCENT: u32 = 10;
/// ...and is woken above this.
pub(crate) const WAKE_PERCENT: u32 = 20;

/// Messages in one send section that have not been sent.
struct Batch {
    section: Section,
    /// Bytes filled.
    len: u32,
    /// RNDIS messages.
    messages: u32,
    /// Frames on the wire, counting segments.
    packets: u32,
    /// Bytes on the wire.
    bytes: u32,
    /// The frame added last, kept until the host is done, which is what paces its socket.
    last: SkBuff,
}

/// Bytes of ring that a packet takes at most: descriptor, ranges, NVSP message and trailer.
const MAX_RING_PACKET: u32 = 16 + MAX_DESCRIPTOR as u32 + 40 + 8;

/// Packets in flight from which on a ring of `ring_bytes` may be short of room. The other half of the ring is
/// left for receive completions; what exceeds that finds the ring full, which is seen to as well.
pub(crate) fn may_fill_ring(ring_bytes: u32) -> u32 {
    (ring_bytes / 2).wrapping_div(MAX_RING_PACKET)
}

/// Room for a message's header, aligned for moves by the word.
#[repr(align(8))]
struct Header([u8; MAX_TX_HEADER]);

/// What belongs to the holder of the queue's lock.
pub(crate) struct TxState {
    /// RNDIS headers of the frames that are sent from their own memory, one place a slot.
    headers: HostPages,
    /// Where GPA-direct headers are built; what is sent of it was written for that packet.
    descriptor: KBox<[u8; MAX_DESCRIPTOR]>,
    /// Where the frame lies that is being sent from its own memory.
    pieces: KBox<Pieces>,
    batch: Option<Batch>,
}

impl TxState {
    /// Nothing pending.
    #[inline(never)]
    pub(crate) fn new() -> Result<Self> {
        Ok(Self {
            headers: HostPages::new(MAX_IN_FLIGHT.wrapping_mul(HEADER_ROOM) / PAGE_SIZE)?,
            descriptor: KBox::init(pin_init::init_zeroed(), GFP_KERNEL)?,
            pieces: KBox::new(Pieces::new(), GFP_KERNEL)?,
            batch: None,
        })
    }

    /// Gives up what was not sent; returns how many frames that were. For teardown.
    pub(crate) fn discard(&mut self) -> u32 {
        self.batch.take().map_or(0, |batch| batch.packets)
    }
}

/// What a transmit needs of an attached device, looked up once.
struct Attached<'a> {
    path: &'a DataPath,
    queue: &'a Napi<Queue>,
    channel: &'a OpenChannel,
    send: &'a SendArea,
}

/// A transmit in progress.
struct Tx<'a> {
    dev: &'a Device<Adapter>,
    stats: &'a TxStats,
    locked: TxLocked<'a>,
    path: &'a DataPath,
    queue: &'a Napi<Queue>,
    channel: &'a OpenChannel,
    send: &'a SendArea,
}

/// Why a packet was not sent.
enum Unsent {
    /// No room in the ring or in the table of packets in flight: later.
    Later(SkBuff),
    /// Never; the frame is gone and counted.
    Dropped,
}

/// `ndo_start_xmit`.
pub(crate) fn start_xmit(
    dev: &Device<Adapter>,
    mut skb: SkBuff,
    guard: &mut TxQueueGuard<'_>,
    section: SoftIrq<'_>,
) -> TxVerdict {
    let index = guard.queue();
    let Some(stats) = dev.queue_stat(index).map(|stats| &stats.tx) else {
        return TxVerdict::Taken;
    };
    let Some(attached) = Attached::get(dev, index, section) else {
        // Being rebuilt: the stack keeps the frame until the queue is woken.
        dev.stop_queue(index);
        return TxVerdict::Busy(skb);
    };
    let Some((state, locked)) = attached.queue.tx.get(guard) else {
        stats.dropped.add(1);
        return TxVerdict::Taken;
    };
    let tx = Tx::new(dev, stats, locked, &attached);
    let mut prepared = match skb.prepare_tx(MAX_PAGES, tx.path.checksums) {
        Ok(prepared) => prepared,
        Err(error) => {
            tx.count_drop(error);
            // What this frame was announced to follow must not wait for it.
            tx.flush(state);
            return TxVerdict::Taken;
        }
    };
    if tx.path.channels() <= 1 {
        prepared.meta.hash = None;
    }
    if prepared.linearized {
        stats.scattered.add(1);
    }
    let verdict = match tx.transmit(state, skb, &prepared) {
        Ok(()) => {
            if matches!(prepared.meta.offload, TxOffload::Lso { .. }) {
                stats.add_lso(prepared.meta.len, prepared.packets, prepared.wire_bytes);
            }
            TxVerdict::Taken
        }
        Err(Unsent::Dropped) => TxVerdict::Taken,
        Err(Unsent::Later(skb)) => {
            stats.busy.add(1);
            TxVerdict::Busy(skb)
        }
    };
    tx.stop_if_full();
    if state.batch.is_some() && (!prepared.more || dev.queue_stopped(index)) {
        tx.flush(state);
        tx.stop_if_full();
    }
    verdict
}

impl<'a> Attached<'a> {
    fn get(dev: &'a Device<Adapter>, index: u16, section: SoftIrq<'a>) -> Option<Self> {
        let path = dev.path.get(section)?;
        let queue = path.napi(index)?;
        Some(Self {
            path,
            queue,
            channel: queue.channel.get(section)?,
            send: queue.shared.send.get(section)?,
        })
    }
}

impl<'a> Tx<'a> {
    fn new(
        dev: &'a Device<Adapter>,
        stats: &'a TxStats,
        locked: TxLocked<'a>,
        attached: &Attached<'a>,
    ) -> Self {
        Self {
            dev,
            stats,
            locked,
            path: attached.path,
            queue: attached.queue,
            channel: attached.channel,
            send: attached.send,
        }
    }

    fn transmit(
        &self,
        state: &mut TxState,
        skb: SkBuff,
        prepared: &TxPrepared,
    ) -> Result<(), Unsent> {
        let mut header = Header([0; MAX_TX_HEADER]);
        let header_len = prepared.meta.write_header(&mut header.0);
        let header = header.0.get_mut(..header_len).unwrap_or(&mut []);
        let total = (header_len as u32).wrapping_add(prepared.meta.len);
        // A pending batch will want a slot too; the caller sends it.
        let wanted = 1u32.wrapping_add(state.batch.is_some().into());
        if self.queue.in_flight.count().saturating_add(wanted) > MAX_IN_FLIGHT as u32 {
            self.stop();
            return Err(Unsent::Later(skb));
        }
        if total.wrapping_add(self.path.alignment) < self.send.section_len {
            match self.copy(state, skb, prepared, header, total) {
                Ok(()) => return Ok(()),
                Err(skb) => {
                    self.stats.send_full.add(1);
                    return self.send_direct(state, skb, prepared, header);
                }
            }
        }
        self.flush(state);
        self.send_direct(state, skb, prepared, header)
    }

    /// Adds the frame to the batch, or begins one with it. Gives the frame back when no section is free.
    fn copy(
        &self,
        state: &mut TxState,
        skb: SkBuff,
        prepared: &TxPrepared,
        header: &mut [u8],
        total: u32,
    ) -> Result<(), SkBuff> {
        // While more frames follow, each message is padded so that the next one is aligned.
        let pad = if prepared.more {
            padding(total, self.path.alignment)
        } else {
            0
        };
        let joins = state.batch.as_ref().is_some_and(|batch| {
            batch.messages < self.path.max_messages
                && batch.len.wrapping_add(total).wrapping_add(pad) < self.send.section_len
        });
        if !joins {
            self.flush(state);
        }
        let start = state.batch.as_ref().map_or(0, |batch| batch.len);
        let section = match &state.batch {
            Some(batch) => batch.section,
            None => match self.send.sections.allocate(self.queue.index) {
                Some(section) => section,
                None => return Err(skb),
            },
        };
        if pad == 0 || extend_message(header, pad) {
            self.write(section, start, header, &skb, prepared.meta.len, pad);
        }
        let len = total.wrapping_add(pad);
        match &mut state.batch {
            Some(batch) => {
                batch.len = batch.len.wrapping_add(len);
                batch.messages = batch.messages.wrapping_add(1);
                batch.packets = batch.packets.wrapping_add(prepared.packets);
                batch.bytes = batch.bytes.wrapping_add(prepared.wire_bytes);
                core::mem::replace(&mut batch.last, skb).consume(0);
            }
            None => {
                state.batch = Some(Batch {
                    section,
                    len,
                    messages: 1,
                    packets: prepared.packets,
                    bytes: prepared.wire_bytes,
                    last: skb,
                });
            }
        }
        Ok(())
    }

    /// Writes header, frame and padding into a section. The sizes were checked against the section, and
    /// sections lie in the buffer, so this cannot fail.
    #[inline(always)]
    fn write(&self, section: Section, start: u32, header: &[u8], skb: &SkBuff, len: u32, pad: u32) {
        let at = self
            .send
            .offset(section.index())
            .wrapping_add(start as usize);
        let written = skb.copy_to(&self.send.buffer, at, header, len, pad);
        debug_assert!(written.is_ok());
    }

    /// Sends the batch, if there is one.
    #[inline(always)]
    fn flush(&self, state: &mut TxState) {
        if let Some(batch) = state.batch.take() {
            self.send_batch(batch);
        }
    }

    #[inline(never)]
    fn send_batch(&self, batch: Batch) {
        let packets = u64::from(batch.packets);
        let sent = Sent {
            skb: Some(batch.last),
            section: Some(batch.section),
            bytes: batch.bytes,
            packets: u16::try_from(batch.packets).unwrap_or(u16::MAX),
        };
        let message =
            nvsp::rndis_packet(RndisChannel::Data, Some(batch.section.index()), batch.len);
        let result = match self.queue.in_flight.insert(sent) {
            Ok(id) => {
                // Before the host can complete it.
                self.locked.sent(batch.bytes);
                self.channel
                    .send_inband(&message, id.value(), true)
                    .map_err(|error| (error, self.cancel(id)))
            }
            Err(sent) => Err((SendError::Full, Some(sent))),
        };
        if let Err((error, sent)) = result {
            // A host that has answered an id before it was sent has had the section freed by that.
            if sent.is_some() {
                self.send.sections.free(batch.section);
            }
            self.unsent(error);
            // The earlier frames of the batch were consumed; they and this one are lost, and said so.
            self.stats.dropped.add(packets);
            drop(sent);
        }
    }

    /// Sends a frame from the memory it lies in.
    fn send_direct(
        &self,
        state: &mut TxState,
        skb: SkBuff,
        prepared: &TxPrepared,
        header: &[u8],
    ) -> Result<(), Unsent> {
        if state.pieces.find(&skb).is_err() {
            return Err(self.dropped(E2BIG));
        }
        let sent = Sent {
            skb: Some(skb),
            section: None,
            bytes: prepared.wire_bytes,
            packets: u16::try_from(prepared.packets).unwrap_or(u16::MAX),
        };
        let id = match self.queue.in_flight.insert(sent) {
            Ok(id) => id,
            Err(sent) => return Err(self.later(SendError::Full, sent.skb)),
        };
        self.locked.sent(prepared.wire_bytes);
        let result = put_header(state, id, header)
            .ok_or(SendError::Invalid)
            .and_then(|header| self.send_pieces(&mut state.descriptor, header, &state.pieces, id));
        result.map_err(|error| {
            let skb = self.cancel(id).and_then(|sent| sent.skb);
            self.later(error, skb)
        })
    }

    /// Takes back what was not sent. A host that has answered an id before it was sent has had it.
    fn cancel(&self, id: TransactionId) -> Option<Sent> {
        let sent = self.queue.in_flight.cancel(id)?;
        self.queue
            .unsent_bytes
            .fetch_add(sent.bytes, Ordering::Relaxed);
        // Nothing else may be on its way, and the byte queue limits must hear of it.
        self.queue.schedule();
        Some(sent)
    }

    fn send_pieces(
        &self,
        buffer: &mut [u8; MAX_DESCRIPTOR],
        header: RndisHeaderRange,
        pieces: &Pieces,
        id: TransactionId,
    ) -> Result<(), SendError> {
        let message = nvsp::rndis_packet(RndisChannel::Data, None, 0);
        let build = |buffer| {
            let mut packet = GpaDirect::with_header(buffer, header).ok()?;
            for (address, len) in pieces.iter() {
                packet.push(address, len).ok()?;
            }
            packet.finish(message.len(), id.value())
        };
        let len = build(&mut buffer[..]).ok_or(SendError::Invalid)?;
        let descriptor = buffer.get(..len).ok_or(SendError::Invalid)?;
        self.channel.send_gpa_direct(descriptor, &message)
    }

    /// The frame was not sent: it goes back to the stack, or is dropped if waiting cannot help.
    fn later(&self, error: SendError, skb: Option<SkBuff>) -> Unsent {
        match (error, skb) {
            // With nothing on its way, no completion would wake the queue.
            (SendError::Full, Some(skb))
                if self.queue.in_flight.count() > 0 && !self.channel.cannot_send() =>
            {
                self.stop();
                Unsent::Later(skb)
            }
            (_, skb) => {
                self.unsent(error);
                self.stats.dropped.add(1);
                drop(skb);
                Unsent::Dropped
            }
        }
    }

    fn unsent(&self, error: SendError) {
        if error == SendError::Full {
            self.stats.no_space.add(1);
            if self.channel.cannot_send() {
                self.queue.shared.lost_channel();
            }
            self.stop();
        } else if error == SendError::Rescinded {
            self.queue.shared.lost_channel();
        }
    }

    fn dropped(&self, error: Error) -> Unsent {
        self.count_drop(error);
        Unsent::Dropped
    }

    fn count_drop(&self, error: Error) {
        let cause = if error == ENOMEM {
            &self.stats.no_memory
        } else if error == E2BIG {
            &self.stats.too_big
        } else {
            &self.stats.vlan_error
        };
        cause.add(1);
        self.stats.dropped.add(1);
    }

    /// Stops the queue, unless the poll has made room meanwhile: it looks for stopped queues after it made
    /// room, and this looks for room after it stopped, with a full barrier between both.
    fn stop(&self) {
        self.dev.stop_queue(self.queue.index);
        self.stats.stop_queue.add(1);
        fence(Ordering::SeqCst);
        if self.queue.has_room(self.channel) {
            self.dev.wake_queue(self.queue.index);
        }
    }

    /// The ring is looked at only when what is in flight may fill it: its read index is on a cache line that
    /// the host writes.
    fn stop_if_full(&self) {
        let in_flight = self.queue.in_flight.count();
        if in_flight >= MAX_IN_FLIGHT as u32
            || (in_flight >= self.path.may_fill_ring && !self.channel.has_free(STOP_PERCENT))
        {
            self.stop();
        }
    }
}

/// Writes the RNDIS header of the packet `id` to the place of its slot, which is its own until the host
/// completes it.
fn put_header(state: &mut TxState, id: TransactionId, header: &[u8]) -> Option<RndisHeaderRange> {
    let Transaction::Frame { slot, .. } = id.decode() else {
        return None;
    };
    let offset = (slot as usize).wrapping_mul(HEADER_ROOM);
    let address = state.headers.write(offset, header)?;
    RndisHeaderRange::new(address, header.len() as u32)
}

impl Queue {
    /// Whether a stopped queue may go on.
    pub(crate) fn has_room(&self, channel: &OpenChannel) -> bool {
        let in_flight = self.in_flight.count();
        in_flight == 0 || (in_flight < MAX_IN_FLIGHT as u32 / 2 && channel.has_free(WAKE_PERCENT))
    }
}
