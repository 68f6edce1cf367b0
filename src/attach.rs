// SPDX-License-Identifier: GPL-2.0

//! Attach: from a closed primary channel to a device that carries traffic; and detach, the way back.
//!
//! The protocol's part is a state machine (`rndis::bringup`); here is what it needs from the kernel: queues,
//! buffers, sub-channels, time. Whatever step fails, what was established before it is undone in the
//! order of `rndis::teardown`, and the closed channel comes back for another try.

mod setup;

use self::setup::Setup;
use crate::buffers::{unshare, Kept, KeptBuffer, ReceiveArea, SendArea};
use crate::control::{Buffers, Line};
use crate::debug_view::HostError;
use crate::device::{Adapter, DataPath};
use crate::net::{Config, DeletedNapi, Device, Napi, TxQueueGuard, Unpublished};
use crate::queue::{OpenChannel, Queue, Registration, Shared};
use crate::rndis::{
    bringup::{Bringup, BringupError, Negotiated, OnRefusal},
    event::{Action, RequestIds},
    rss::MAX_CHANNELS,
    teardown::{self, Established, Step},
};
use crate::settings::Settings;
use crate::trace;
use crate::vmbus::{self, Channel, Deadline, SharedBuffer};
use core::{mem::MaybeUninit, ops::Deref};
use kernel::{prelude::*, sync::Arc, time::Msecs};

/// Time that an attach has for all its waits together.
pub(crate) const ATTACH_MS: Msecs = 30_000;
/// Of that, what the arrival of sub-channels may take.
const SUBCHANNELS_MS: Msecs = 8_000;
/// Time that a detach waits for what is in flight.
const DRAIN_MS: Msecs = 1_000;
/// Time for each of the calls into `hv_vmbus` that wait for the host: open, close, and the two that share
/// a buffer and take it back.
pub(crate) const CALL_MS: Msecs = 15_000;

/// What comes of opening a channel: on failure the channel, closed, unless it is lost.
type Opened<T> = Result<T, (Option<Channel>, Error)>;

/// What becomes of the buffers shared with the host when all else is undone.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Sharing {
    /// They wait for the next attach as they are, if the channel does.
    Keep,
    /// They are taken back: the host refused something, perhaps because of them.
    End,
}

/// A device that is attached to its host: owns the channels and all that depends on them.
pub(crate) struct Attachment {
    /// What host and driver agreed on.
    pub(crate) negotiated: Negotiated,
    parts: Parts,
    /// Request numbering, for exchanges.
    pub(crate) ids: RequestIds,
}

/// What has been set up so far.
struct Parts {
    queues: KVec<Registration>,
    shared: Arc<Shared>,
    /// Room for the queues when they are closed.
    closed: KVec<DeletedNapi<Queue>>,
    /// Room for their channels.
    closing: KVec<Unpublished<OpenChannel>>,
    /// The areas that polls used, once none runs any more.
    receive: Option<Unpublished<ReceiveArea>>,
    send: Option<Unpublished<SendArea>>,
    /// Until the primary channel is closed.
    buffers: Option<Buffers>,
    /// The send buffer before its sections are known.
    unsectioned: Option<SharedBuffer>,
    established: Established,
}

impl Attachment {
    /// Brings the device up on `channel`. On failure the channel comes back, closed, unless it is lost.
    #[inline(never)]
    pub(crate) fn new(
        dev: &Device<Adapter>,
        config: &Config<'_>,
        channel: Channel,
        settings: &Settings,
        on_refusal: OnRefusal,
        kept: &mut Kept,
    ) -> Opened<Self> {
        let deadline = Deadline::after(ATTACH_MS);
        let mut parts = Parts::open(dev, config, channel, deadline)?;
        let mut bringup = match KBox::new(Bringup::new(settings.bringup(on_refusal)), GFP_KERNEL) {
            Ok(bringup) => bringup,
            Err(error) => {
                let mut ids = RequestIds::new();
                let channel = parts.undo(dev, config, &mut ids, Sharing::End, kept);
                return Err((channel, error.into()));
            }
        };
        let result = parts.bring_up(dev, config, &mut bringup, deadline, kept);
        let negotiated = bringup.negotiated().clone();
        parts.established = *bringup.established();
        if bringup.buffer_in_flight() && parts.withhold_page().is_err() {
            // There is no page to write HALT to: the host hears of the end when the channel closes.
            parts.established.rndis = false;
        }
        let mut ids = KBox::into_inner(bringup).into_ids();
        match result.and_then(|()| parts.complete(config, &negotiated)) {
            Ok(()) => Ok(Self {
                negotiated,
                parts,
                ids,
            }),
            Err(error) => {
                let channel = parts.undo(dev, config, &mut ids, Sharing::End, kept);
                Err((channel, error))
            }
        }
    }

    /// Takes the device down. Sends nothing more to the host afterwards. `None` if the channel is lost; if
    /// not, the buffers stay shared, in `kept`, where the host's version allows it.
    pub(crate) fn detach(
        mut self,
        dev: &Device<Adapter>,
        config: &Config<'_>,
        kept: &mut Kept,
    ) -> Option<Channel> {
        self.parts
            .undo(dev, config, &mut self.ids, Sharing::Keep, kept)
    }

    /// Channels in use.
    pub(crate) fn channels(&self) -> u16 {
        // One queue a channel, at most 64.
        self.parts.queues.len() as u16
    }

    /// Whether the host took a sub-channel away, or broke the ring of a channel, but has not taken the device.
    pub(crate) fn lost_channel(&self, config: &Config<'_>) -> bool {
        let queues = self.parts.queues.iter();
        any_lost(queues.filter_map(|queue| queue.napi().channel.get_config(config)))
    }

    /// Looks, from now on, whether the host takes a sub-channel away or breaks a ring.
    pub(crate) fn watch(&self) {
        self.parts.shared.watch_channels();
    }

    /// The CPU that channel `index` interrupts.
    pub(crate) fn target_cpu(&self, config: &Config<'_>, index: usize) -> Option<u32> {
        let queue = self.parts.queues.get(index)?;
        let channel = queue.napi().channel.get_config(config)?;
        Some(channel.reference().target_cpu())
    }

    /// What the packet paths need.
    pub(crate) fn data_path(&self) -> Result<DataPath> {
        let mut queues = KVec::with_capacity(self.parts.queues.len(), GFP_KERNEL)?;
        for queue in &self.parts.queues {
            queues.push_within_capacity(queue.napi().clone())?;
        }
        DataPath::new(queues, &self.negotiated)
    }

    /// Tells netlink which NAPI serves which queue.
    pub(crate) fn link_queues(&self, config: &Config<'_>) {
        for queue in &self.parts.queues {
            queue.link(config);
        }
    }

    /// Begins a control operation.
    pub(crate) fn with_line<R>(
        &mut self,
        config: &Config<'_>,
        deadline: Deadline,
        run: impl FnOnce(&mut RequestIds, Line<'_>) -> R,
    ) -> Result<R> {
        let primary = self.parts.queues.first().ok_or(ENODEV)?.napi().clone();
        let channel = primary.channel.get_config(config).ok_or(ENODEV)?;
        let line = Line::new(
            &channel,
            &self.parts.shared.mailbox,
            self.parts.buffers.as_mut().ok_or(ENODEV)?,
            deadline,
        );
        Ok(run(&mut self.ids, line))
    }

    /// The host may still read the page of control messages: later ones get another.
    pub(crate) fn withhold_page(&mut self) -> Result {
        self.parts.withhold_page()
    }
}

impl Parts {
    /// Opens the primary channel.
    #[inline(never)]
    fn open(
        dev: &Device<Adapter>,
        config: &Config<'_>,
        channel: Channel,
        deadline: Deadline,
    ) -> Opened<Self> {
        let mut parts = match Self::empty(dev) {
            Ok(parts) => parts,
            Err(error) => return Err((Some(channel), error)),
        };
        let shared = parts.shared.clone();
        let late = dev.returned.clone();
        let late = move |channel| late.put(channel);
        let primary = begin_queue(dev, config, &shared, 0, channel, late)?(deadline)?;
        let served = primary.serve(config);
        // There is room: the capacity is 64, and this is the first.
        match served.and_then(|primary| Ok(parts.queues.push_within_capacity(primary)?)) {
            Ok(()) => Ok(parts),
            Err(error) => Err((None, error)),
        }
    }

    fn empty(dev: &Device<Adapter>) -> Result<Self> {
        Ok(Self {
            queues: KVec::with_capacity(MAX_CHANNELS.into(), GFP_KERNEL)?,
            shared: Shared::new(dev)?,
            closed: KVec::with_capacity(MAX_CHANNELS.into(), GFP_KERNEL)?,
            closing: KVec::with_capacity(MAX_CHANNELS.into(), GFP_KERNEL)?,
            receive: None,
            send: None,
            buffers: Some(Buffers::new()?),
            unsectioned: None,
            established: Established::default(),
        })
    }

    fn withhold_page(&mut self) -> Result {
        self.buffers.as_mut().ok_or(ENODEV)?.withhold_page()
    }

    #[inline(never)]
    fn bring_up(
        &mut self,
        dev: &Device<Adapter>,
        config: &Config<'_>,
        bringup: &mut Bringup,
        deadline: Deadline,
        kept: &mut Kept,
    ) -> Result {
        let primary = self.queues.first().ok_or(ENODEV)?.napi().clone();
        let channel = primary.channel.get_config(config).ok_or(ENODEV)?;
        let mut subchannels = channel.expect_subchannels(MAX_CHANNELS.wrapping_sub(1))?;
        let Self {
            queues,
            shared,
            buffers,
            unsectioned,
            ..
        } = self;
        let mut line = Line::new(
            &channel,
            &shared.mailbox,
            buffers.as_mut().ok_or(ENODEV)?,
            deadline,
        );
        let mut setup = Setup {
            dev,
            config,
            channel: &channel,
            shared,
            queues,
            unsectioned,
            subchannels: &mut subchannels,
            deadline,
            kept,
            not_shared: None,
        };
        let result = line.run(bringup, |action, bringup| {
            // The host may send its table as soon as the sub-channels are open.
            shared.set_version(bringup.negotiated().version);
            setup.perform(action)
        });
        result.map_err(|error| {
            dev.history.error(HostError::Attach(error));
            Adapter::say_err(dev, format_args!("attach failed: {error}"));
            setup.not_shared.unwrap_or_else(|| errno(&error))
        })
    }

    /// What remains when the state machine is done: cutting the send buffer into sections.
    #[inline(never)]
    fn complete(&mut self, config: &Config<'_>, negotiated: &Negotiated) -> Result {
        let buffer = self.unsectioned.take().ok_or(EIO)?;
        let area = SendArea::new(
            buffer,
            negotiated.send_section_count,
            negotiated.send_section_len,
            negotiated.channels,
        );
        let area = match area {
            Ok(area) => area,
            Err((buffer, error)) => {
                self.unsectioned = Some(buffer);
                return Err(error);
            }
        };
        // A new attach's slot is empty; the box is made first so that the buffer cannot be lost.
        let place = match KBox::<SendArea>::new_uninit(GFP_KERNEL) {
            Ok(place) => place,
            Err(error) => {
                self.unsectioned = Some(area.buffer);
                return Err(error.into());
            }
        };
        self.shared
            .send
            .publish(config, place.write(area))
            .map_err(|_| EBUSY)
    }

    /// Undoes what is established and gives the closed primary channel back.
    #[inline(never)]
    fn undo(
        &mut self,
        dev: &Device<Adapter>,
        config: &Config<'_>,
        ids: &mut RequestIds,
        sharing: Sharing,
        kept: &mut Kept,
    ) -> Option<Channel> {
        let mut channel = None;
        for step in teardown::steps(vmbus::device::protocol_version(), &self.established) {
            match step {
                Step::Halt => self.halt(config, ids),
                Step::RevokeReceiveBuffer | Step::RevokeSendBuffer => self.revoke(config, step),
                Step::StopPolling => self.queues.iter_mut().for_each(Registration::disable),
                Step::Close => channel = self.close(dev, config),
                Step::UnshareReceiveBuffer { .. } => {
                    self.unpublish_areas(config);
                    let area = self.receive.take().map(Unpublished::take);
                    let buffer = area.map(|area| KBox::into_inner(area).buffer);
                    let keep = sharing == Sharing::Keep && channel.is_some();
                    kept.receive.kept = buffer.and_then(|buffer| put_away(dev, buffer, keep));
                }
                Step::UnshareSendBuffer { .. } => {
                    self.unpublish_areas(config);
                    let area = self.send.take().map(Unpublished::take);
                    let buffer = area.map(|area| KBox::into_inner(area).buffer);
                    let buffer = buffer.or_else(|| self.unsectioned.take());
                    let keep = sharing == Sharing::Keep && channel.is_some();
                    kept.send.kept = buffer.and_then(|buffer| put_away(dev, buffer, keep));
                }
            }
        }
        self.shared.cancel_work();
        channel
    }

    /// Halts the RNDIS device and waits, within a second, for all that is in flight.
    fn halt(&mut self, config: &Config<'_>, ids: &mut RequestIds) {
        let Some(primary) = self.queues.first().map(|queue| queue.napi().clone()) else {
            return;
        };
        let channel = primary.channel.get_config(config);
        let (Some(channel), Some(buffers)) = (channel, &mut self.buffers) else {
            return;
        };
        let action = teardown::halt(ids, &mut buffers.message);
        let deadline = Deadline::after(DRAIN_MS);
        let mut line = Line::new(&channel, &self.shared.mailbox, buffers, deadline);
        if let Action::SendRndis { len, transaction } = action {
            let queues = &self.queues;
            let idle = || {
                queues
                    .iter()
                    .all(|queue| queue.napi().in_flight.count() == 0)
            };
            if line.send_rndis(len, transaction).is_ok() {
                line.settle(transaction, idle);
            }
        }
    }

    fn revoke(&self, config: &Config<'_>, step: Step) {
        let channel = self
            .queues
            .first()
            .and_then(|queue| queue.napi().channel.get_config(config));
        if let (Some(channel), Some((message, id))) = (channel, teardown::revoke(step)) {
            trace::nvsp_sent(channel.handler().dev(), &message, id);
            // Fails only when the channel is gone or its ring full of what the host ignores.
            let _ = channel.send_inband(&message, id.value(), false);
        }
    }

    /// Nobody finds the two areas from here on.
    fn unpublish_areas(&mut self, config: &Config<'_>) {
        if self.receive.is_none() {
            self.receive = self.shared.receive.unpublish(config);
        }
        if self.send.is_none() {
            self.send = self.shared.send.unpublish(config);
        }
    }

    /// Closes the sub-channels, then the primary, and gives up what was in flight. Polls are stopped.
    ///
    /// If the host does not let go of the primary in time, what it may still read is kept until it does.
    #[inline(never)]
    fn close(&mut self, dev: &Device<Adapter>, config: &Config<'_>) -> Option<Channel> {
        // First everything is made unreachable, so that there is one wait for whoever still sees any of it.
        self.unpublish_areas(config);
        // The queues come off from the last to the first.
        while let Some(queue) = self.queues.pop() {
            let channel = queue.napi().channel.unpublish(config);
            // There is room for both: the capacity is 64.
            let kept = self.closed.push_within_capacity(queue.delete());
            kept.unwrap_or_else(core::mem::forget);
            if let Some(channel) = channel {
                let kept = self.closing.push_within_capacity(channel);
                kept.unwrap_or_else(core::mem::forget);
            }
        }
        let read_by_host = (core::mem::take(&mut self.closed), self.buffers.take());
        let mut primary = None;
        for channel in core::mem::take(&mut self.closing) {
            let channel = KBox::into_inner(channel.take());
            if channel.reference().is_primary() {
                primary = Some(channel);
            }
            // Only lets go of the others: the host learns of it when the primary is closed.
        }
        let returned = dev.returned.clone();
        let late = move |channel| returned.put(channel);
        let (channel, (queues, _)) = primary?
            .close(Deadline::after(CALL_MS), read_by_host, late)
            .inspect_err(|error| {
                dev.history.error(HostError::NotReturned(*error));
                let text = format_args!("host does not let go of the channel: {error:?}");
                Adapter::say_err(dev, text);
            })
            .ok()?;
        queues.iter().for_each(|queue| forget_packets(dev, queue));
        Some(channel)
    }
}

/// Whether the host broke one of the channel's rings.
pub(crate) fn has_broken_ring(channel: &OpenChannel) -> bool {
    channel.is_broken() || channel.cannot_send()
}

/// Whether the host broke a ring of one of a device's channels, or took a sub-channel away. A device whose primary
/// channel, the first of `channels`, is gone is beyond repair.
pub(crate) fn any_lost<C: Deref<Target = OpenChannel>>(
    mut channels: impl Iterator<Item = C>,
) -> bool {
    let rescinded = |channel: &OpenChannel| channel.reference().rescinded();
    channels.next().is_some_and(|primary| {
        !rescinded(&primary)
            && (has_broken_ring(&primary)
                || channels.any(|channel| has_broken_ring(&channel) || rescinded(&channel)))
    })
}

/// Makes the queue `index` and begins to open its channel; the result waits until it is open. `late` gets the
/// channel if that takes longer.
fn begin_queue(
    dev: &Device<Adapter>,
    config: &Config<'_>,
    shared: &Arc<Shared>,
    index: u16,
    channel: Channel,
    late: impl FnOnce(Channel) + Send + Unpin + 'static,
) -> Opened<impl FnOnce(Deadline) -> Opened<OpenedQueue>> {
    let prepared = Queue::register(dev, shared, index, config)
        .and_then(|queue| Ok((queue, KBox::new_uninit(GFP_KERNEL)?)));
    let (queue, place) = match prepared {
        Ok(prepared) => prepared,
        Err(error) => return Err((Some(channel), error)),
    };
    let opened = channel.begin_open(Settings::open_config(), queue.napi().clone(), late);
    Ok(move |deadline: Deadline| {
        Ok(OpenedQueue {
            channel: opened(Deadline::after(CALL_MS).min(deadline))?,
            queue,
            place,
        })
    })
}

/// A queue whose channel is open, but not polled yet. If it is dropped, the channel goes first.
struct OpenedQueue {
    channel: OpenChannel,
    queue: Registration,
    place: KBox<MaybeUninit<OpenChannel>>,
}

impl OpenedQueue {
    /// From here on the channel is served.
    fn serve(self, config: &Config<'_>) -> Result<Registration> {
        let Self {
            channel,
            mut queue,
            place,
        } = self;
        // A new queue's slot is empty.
        if let Err(occupied) = queue.napi().channel.publish(config, place.write(channel)) {
            drop(occupied);
            return Err(EBUSY);
        }
        // Only now may the poll run: while the channel was being opened its ring was not there yet. Interrupts
        // that came since are made up for.
        queue.enable();
        queue.napi().schedule();
        Ok(queue)
    }
}

/// Counts what the host never completed, and what was never sent.
fn forget_packets(dev: &Device<Adapter>, queue: &Napi<Queue>) {
    let Some(stats) = queue.stats() else {
        return;
    };
    queue
        .in_flight
        .drain(|sent| stats.poll.tx_lost.add(sent.packets.into()));
    if let Some(mut guard) = TxQueueGuard::lock(dev, queue.index) {
        if let Some((state, locked)) = queue.tx.get(&mut guard) {
            stats.tx.dropped.add(state.discard().into());
            locked.reset_limits();
        }
    }
}

/// Has the next attach use `buffer` again: as it is if it is to `keep` being shared, else its memory.
fn put_away(dev: &Device<Adapter>, buffer: SharedBuffer, keep: bool) -> Option<KeptBuffer> {
    if keep {
        Some(KeptBuffer::Shared(buffer))
    } else {
        unshare(dev, buffer).map(KeptBuffer::Memory)
    }
}

/// The error number for a failed attach.
fn errno(error: &BringupError) -> Error {
    match error {
        BringupError::Rescinded { .. } => ENODEV,
        BringupError::Deadline { .. } => ETIMEDOUT,
        BringupError::ShareFailed { .. } => ENOMEM,
        BringupError::SendFailed { .. } => EAGAIN,
        BringupError::NoVersion => Error::from_errno(-(kernel::bindings::EPROTO as i32)),
        _ => EIO,
    }
}
