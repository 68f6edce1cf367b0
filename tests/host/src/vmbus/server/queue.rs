// SPDX-License-Identifier: GPL-2.0

//! The server's queue: everything that happens to the bus, in order.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::bus::Bus;
use super::DeviceId;

/// Guest messages that may wait; more are turned away, and the guest tries again. A GPADL of the
/// largest size is 293 messages.
const MESSAGE_LIMIT: usize = 1024;

/// Work to be done with exclusive access to the bus.
pub(super) type Call = Box<dyn FnOnce(&mut Bus) + Send>;

/// Something that happened.
pub(super) enum Event {
    /// The guest posted a message on a connection.
    Message {
        /// Connection id of the hypercall.
        connection: u32,
        /// The message.
        bytes: Vec<u8>,
    },
    /// The guest's message slot may be free.
    SlotFree,
    /// A device wants sub-channels.
    OfferSubchannels {
        /// Which device.
        device: DeviceId,
        /// Indices 1..=count.
        count: u16,
    },
    /// A device wants a channel rescinded.
    Rescind {
        /// Which device.
        device: DeviceId,
        /// Sub-channel index; 0 is the whole device.
        index: u16,
    },
    /// The control side wants something.
    Call(Call),
}

/// Result of waiting for work.
pub(super) enum Next {
    /// The oldest event.
    Event(Event),
    /// Nothing happened for the time given.
    Idle,
    /// The server is being dropped.
    Stopped,
}

#[derive(Default)]
struct Inner {
    events: VecDeque<Event>,
    messages: usize,
    slot_free: bool,
    stopped: bool,
}

/// A queue with one reader. The lock inside is a leaf.
#[derive(Default)]
pub(super) struct Queue {
    inner: Mutex<Inner>,
    ready: Condvar,
}

impl Queue {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds an event; it is dropped if the server stops.
    pub fn push(&self, event: Event) {
        let mut inner = self.lock();
        if inner.stopped {
            return;
        }
        match event {
            Event::SlotFree if inner.slot_free => return,
            Event::SlotFree => inner.slot_free = true,
            Event::Message { .. } => inner.messages += 1,
            _ => {}
        }
        inner.events.push_back(event);
        self.ready.notify_one();
    }

    /// Adds a message of the guest; false if too many are waiting.
    pub fn push_message(&self, connection: u32, bytes: &[u8]) -> bool {
        if self.lock().messages >= MESSAGE_LIMIT {
            return false;
        }
        self.push(Event::Message {
            connection,
            bytes: bytes.to_vec(),
        });
        true
    }

    /// Takes the oldest event, waiting for one; not longer than `limit` if there is a limit.
    pub fn next(&self, limit: Option<Duration>) -> Next {
        let mut inner = self.lock();
        loop {
            if inner.stopped {
                return Next::Stopped;
            }
            if let Some(event) = inner.events.pop_front() {
                match event {
                    Event::Message { .. } => inner.messages -= 1,
                    Event::SlotFree => inner.slot_free = false,
                    _ => {}
                }
                return Next::Event(event);
            }
            inner = match limit {
                None => self
                    .ready
                    .wait(inner)
                    .unwrap_or_else(PoisonError::into_inner),
                Some(limit) => {
                    let waited = self.ready.wait_timeout(inner, limit);
                    let (inner, timeout) = waited.unwrap_or_else(PoisonError::into_inner);
                    if timeout.timed_out() && inner.events.is_empty() && !inner.stopped {
                        return Next::Idle;
                    }
                    inner
                }
            };
        }
    }

    /// Ends the reader. Events that wait are dropped, and with them the callers' answers.
    pub fn stop(&self) {
        let dropped = {
            let mut inner = self.lock();
            inner.stopped = true;
            self.ready.notify_all();
            std::mem::take(&mut inner.events)
        };
        drop(dropped);
    }
}
