// SPDX-License-Identifier: GPL-2.0

//! Messages on their way to the guest. The guest has one message slot; what does not fit waits.

use std::collections::VecDeque;

use crate::counters::Ledger;
use crate::hypervisor::{Hypervisor, Posted, VMBUS_SINT};
use crate::vmbus::message;

/// SynIC message type of VMBus control messages.
pub(super) const MESSAGE_TYPE: u32 = 1;

/// Why the message slot is looked at.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Reason {
    /// There may be a new message.
    NewMessage,
    /// The guest says that the slot is free.
    SlotFree,
    /// The guest has said nothing for a while.
    Waited,
}

/// The queue towards the guest, in order.
#[derive(Default)]
pub(super) struct Outbox {
    waiting: VecDeque<Vec<u8>>,
    vp: u32,
    stuck: bool,
}

impl Outbox {
    /// Messages go to the message page of this virtual processor from now on.
    pub fn direct_to(&mut self, vp: u32) {
        self.vp = vp;
    }

    /// Adds a message; [`Outbox::pump`] delivers it.
    pub fn push(&mut self, bytes: Vec<u8>) {
        self.waiting.push_back(bytes);
    }

    /// Forgets what waits: the guest that should have got it is no more.
    pub fn clear(&mut self) {
        self.waiting.clear();
        self.stuck = false;
    }

    /// Messages that wait.
    pub fn len(&self) -> usize {
        self.waiting.len()
    }

    /// Delivers as many messages as the slot takes: one, until the guest has read it. A slot that
    /// was occupied is tried again if there is reason to.
    pub fn pump(&mut self, hypervisor: &dyn Hypervisor, ledger: &Ledger, reason: Reason) {
        if self.stuck && reason == Reason::NewMessage {
            return;
        }
        while let Some(bytes) = self.waiting.front() {
            let name = message::name(message::number_of(bytes).unwrap_or(0));
            match hypervisor.post_message(self.vp, VMBUS_SINT, MESSAGE_TYPE, bytes) {
                Posted::Delivered => {
                    let late = self.stuck && reason == Reason::Waited;
                    ledger.count(|c| {
                        *c.messages_out.entry(name).or_default() += 1;
                        c.slot_polled += u64::from(late);
                    });
                    tracing::debug!(name, "message to the guest");
                }
                Posted::Busy => {
                    if !self.stuck {
                        ledger.count(|c| c.slot_busy += 1);
                    }
                    self.stuck = true;
                    return;
                }
                Posted::Disabled => {
                    ledger.count(|c| c.undeliverable += 1);
                    tracing::warn!(name, vp = self.vp, "message dropped: slot is disabled");
                }
            }
            self.stuck = false;
            self.waiting.pop_front();
        }
    }
}
