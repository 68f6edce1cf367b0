// SPDX-License-Identifier: GPL-2.0

//! From the primary channel's poll to whoever waits for the host: control messages, copied.
//!
//! The poll never waits for the reader: a message for which there is no room is lost (the poll counts it), and the
//! operation that wanted it runs into its deadline. Closed while no operation is in progress, so that
//! late answers to an operation that gave up do not reach the next one.

use crate::net::SpinLockBh;
use crate::rndis::transaction::TransactionId;
use crate::vmbus::{Completion, Deadline};
use kernel::prelude::*;

/// Messages held.
const SLOTS: usize = 16;
/// Longest message held, in bytes: no reply that the driver asks for is longer.
pub(crate) const MAX_MESSAGE: usize = 640;

/// What a message is.
#[derive(Clone, Copy)]
pub(crate) enum Mail {
    /// A completion of the control kind.
    Completion(TransactionId),
    /// An RNDIS control message.
    Rndis,
}

struct Slot {
    mail: Mail,
    len: usize,
    bytes: [u8; MAX_MESSAGE],
}

struct Inbox {
    slots: KBox<[Slot; SLOTS]>,
    first: usize,
    used: usize,
    open: bool,
}

/// The messages, and the bell.
#[pin_data]
pub(crate) struct Mailbox {
    #[pin]
    inbox: SpinLockBh<Inbox>,
    #[pin]
    arrived: Completion,
}

impl Mailbox {
    /// A closed mailbox.
    pub(crate) fn new() -> impl PinInit<Self, Error> {
        try_pin_init!(Self {
            inbox <- SpinLockBh::new(
                Inbox { slots: Self::slots()?, first: 0, used: 0, open: false },
                c"hv_netvsc::Mailbox",
                kernel::static_lock_class!(),
            ),
            arrived <- Completion::new(),
        })
    }

    fn slots() -> Result<KBox<[Slot; SLOTS]>> {
        KBox::init(
            pin_init::init_array_from_fn(|_| {
                init!(Slot {
                    mail: Mail::Rndis,
                    len: 0,
                    bytes <- pin_init::init_zeroed(),
                })
            }),
            GFP_KERNEL,
        )
    }

    /// An operation begins: forgets what lies here and takes messages from now on.
    pub(crate) fn open(&self) {
        let mut inbox = self.inbox.lock();
        inbox.used = 0;
        inbox.open = true;
    }

    /// The operation is over.
    pub(crate) fn close(&self) {
        self.inbox.lock().open = false;
    }

    /// Puts a message of `len` bytes in, which `fill` writes, and rings. For the poll. False if nobody waits
    /// for messages, or there is no room.
    pub(crate) fn put(&self, mail: Mail, len: usize, fill: impl FnOnce(&mut [u8])) -> bool {
        let mut inbox = self.inbox.lock();
        let place = inbox.first.wrapping_add(inbox.used) % SLOTS;
        let room = inbox.used < SLOTS;
        if !inbox.open {
            return false;
        }
        let Some((slot, len)) = inbox
            .slots
            .get_mut(place)
            .filter(|_| room)
            .zip(Some(len).filter(|len| *len <= MAX_MESSAGE))
        else {
            return false;
        };
        slot.mail = mail;
        slot.len = len;
        if let Some(bytes) = slot.bytes.get_mut(..len) {
            fill(bytes);
        }
        inbox.used = inbox.used.wrapping_add(1);
        drop(inbox);
        self.arrived.complete();
        true
    }

    /// The oldest message, copied to the start of `buffer`; waits until `deadline`. `None` if none
    /// came.
    pub(crate) fn take(
        &self,
        buffer: &mut [u8; MAX_MESSAGE],
        deadline: Deadline,
    ) -> Option<(Mail, usize)> {
        if let Some(mail) = self.pop(buffer) {
            return Some(mail);
        }
        self.arrived.wait(deadline);
        self.pop(buffer)
    }

    fn pop(&self, buffer: &mut [u8; MAX_MESSAGE]) -> Option<(Mail, usize)> {
        let mut inbox = self.inbox.lock();
        inbox.used = inbox.used.checked_sub(1)?;
        let place = inbox.first;
        inbox.first = place.wrapping_add(1) % SLOTS;
        let slot = inbox.slots.get(place)?;
        let (mail, len) = (slot.mail, slot.len);
        buffer
            .get_mut(..len)?
            .copy_from_slice(slot.bytes.get(..len)?);
        Some((mail, len))
    }
}
