// SPDX-License-Identifier: GPL-2.0

//! What an attach does when its state machine asks for more than a message: shared memory and sub-channels.

use super::{begin_queue, CALL_MS, SUBCHANNELS_MS};
use crate::buffers::{Kept, ReceiveArea};
use crate::device::Adapter;
use crate::net::{Config, Device};
use crate::queue::{OpenChannel, Registration, Shared};
use crate::rndis::event::{Action, Event};
use crate::vmbus::{Deadline, SharedBuffer, Subchannels};
use kernel::{prelude::*, sync::Arc};

/// What an attach does on behalf of its state machine.
pub(super) struct Setup<'a> {
    pub(super) dev: &'a Device<Adapter>,
    pub(super) config: &'a Config<'a>,
    pub(super) channel: &'a OpenChannel,
    pub(super) shared: &'a Arc<Shared>,
    pub(super) queues: &'a mut KVec<Registration>,
    pub(super) unsectioned: &'a mut Option<SharedBuffer>,
    pub(super) subchannels: &'a mut Subchannels,
    pub(super) deadline: Deadline,
    pub(super) kept: &'a mut Kept,
    /// Why a buffer could not be shared.
    pub(super) not_shared: Option<Error>,
}

impl Setup<'_> {
    /// Does what `action` asks for, if it is no message.
    pub(super) fn perform(&mut self, action: Action) -> Event<'static> {
        match action {
            Action::ShareReceiveBuffer { bytes } => {
                let result = self.share_receive(bytes);
                self.shared_or_not(result)
            }
            Action::ShareSendBuffer { bytes } => {
                let result = self.share_send(bytes);
                self.shared_or_not(result)
            }
            Action::OpenSubchannels { count } => Event::SubchannelsOpen {
                count: self.open_subchannels(count),
            },
            _ => Event::SendFailed,
        }
    }

    fn shared_or_not(&mut self, result: Result<u32>) -> Event<'static> {
        match result {
            Ok(gpadl) => Event::Shared { gpadl },
            Err(error) => {
                self.not_shared = Some(error);
                Event::ShareFailed
            }
        }
    }

    fn share_receive(&mut self, bytes: u32) -> Result<u32> {
        let place = KBox::<ReceiveArea>::new_uninit(GFP_KERNEL)?;
        let deadline = self.call_deadline();
        let buffer =
            self.kept
                .receive
                .share(self.dev, self.channel.reference(), bytes, deadline)?;
        let handle = buffer.handle();
        let area = place.write(ReceiveArea { buffer, len: bytes });
        self.shared
            .receive
            .publish(self.config, area)
            .map_err(|_| EBUSY)?;
        Ok(handle)
    }

    fn share_send(&mut self, bytes: u32) -> Result<u32> {
        let deadline = self.call_deadline();
        let buffer = self
            .kept
            .send
            .share(self.dev, self.channel.reference(), bytes, deadline)?;
        let handle = buffer.handle();
        *self.unsectioned = Some(buffer);
        Ok(handle)
    }

    /// Opens sub-channels as they arrive; returns how many are open.
    fn open_subchannels(&mut self, count: u16) -> u16 {
        let deadline = Deadline::after(SUBCHANNELS_MS).min(self.deadline);
        let arrived = self.subchannels.wait(count, deadline);
        if arrived < count {
            Adapter::say_err(
                self.dev,
                format_args!("{arrived} of {count} sub-channels arrived in time"),
            );
        }
        self.open_arrived(count).unwrap_or_else(|error| {
            Adapter::say_err(self.dev, format_args!("no sub-channel opened: {error:?}"));
            0
        })
    }

    /// Opens up to `count` sub-channels, all at the same time; returns how many are open without a gap.
    #[inline(never)]
    fn open_arrived(&mut self, count: u16) -> Result<u16> {
        let mut opening = KVec::with_capacity(count.into(), GFP_KERNEL)?;
        for (index, channel) in (1..=count).zip(self.subchannels.take()) {
            // The host offers a new one next time.
            let begun = begin_queue(self.dev, self.config, self.shared, index, channel, drop);
            // There is room for `count`.
            opening.push_within_capacity(begun)?;
        }
        let mut open = 0u16;
        for (index, begun) in (1..=count).zip(opening) {
            // Waited for in any case: a queue is not dropped while its channel is being opened.
            match begun.and_then(|opened| opened(self.deadline)) {
                Ok(queue) if open.wrapping_add(1) == index => {
                    // There is room: the capacity is 64, and so is the number of channels.
                    self.queues
                        .push_within_capacity(queue.serve(self.config)?)?;
                    open = index;
                }
                // After a gap.
                Ok(queue) => drop(queue),
                Err((_, error)) => {
                    let text = format_args!("sub-channel {index} does not open: {error:?}");
                    Adapter::say_err(self.dev, text);
                }
            }
        }
        Ok(open)
    }

    /// Tells the deadline of a call into the host that begins now.
    fn call_deadline(&self) -> impl Fn() -> Deadline {
        let overall = self.deadline;
        move || Deadline::after(CALL_MS).min(overall)
    }
}
