// SPDX-License-Identifier: GPL-2.0

//! Completions owed for received packets: a queue that never loses one.
//!
//! A lost completion leaks the host's receive sections for good. So a poll asks [`RxCompletions::is_full`]
//! before it takes another packet out of the ring, and stops while it is; an honest host can never fill a
//! queue that has one entry for each receive section. Used by one poll at a time.

use crate::rndis::nvsp::Status;
use core::ops::DerefMut;

/// One completion owed.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct RxCompletion {
    /// Transaction id of the received packet, to be echoed exactly.
    pub transaction_id: u64,
    /// Whether every range of the packet was good.
    pub ok: bool,
}

impl RxCompletion {
    /// The status to send.
    pub const fn status(&self) -> Status {
        if self.ok {
            Status::Success
        } else {
            Status::Failure
        }
    }
}

/// The queue of one channel, in storage given by the caller.
#[derive(Debug)]
pub struct RxCompletions<S> {
    storage: S,
    first: usize,
    len: usize,
}

impl<S: DerefMut<Target = [RxCompletion]>> RxCompletions<S> {
    /// An empty queue of as many entries as `storage` has.
    pub const fn new(storage: S) -> Self {
        Self {
            storage,
            first: 0,
            len: 0,
        }
    }

    /// Entries in the queue.
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Whether nothing is owed.
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Whether nothing can be added: no further packet may be taken from the ring.
    pub fn is_full(&self) -> bool {
        self.len >= self.storage.len()
    }

    /// Adds a completion; gives it back if the queue is full.
    pub fn push(&mut self, completion: RxCompletion) -> Result<(), RxCompletion> {
        if self.is_full() {
            return Err(completion);
        }
        let index = self.wrap(self.first.wrapping_add(self.len));
        match self.storage.get_mut(index) {
            Some(entry) => {
                *entry = completion;
                self.len = self.len.wrapping_add(1);
                Ok(())
            }
            None => Err(completion),
        }
    }

    /// The oldest completion; it stays until [`Self::pop`], so that a full ring loses nothing.
    pub fn peek(&self) -> Option<RxCompletion> {
        if self.is_empty() {
            return None;
        }
        self.storage.get(self.first).copied()
    }

    /// Removes the oldest completion, once it was sent.
    pub fn pop(&mut self) -> Option<RxCompletion> {
        let oldest = self.peek()?;
        self.first = self.wrap(self.first.wrapping_add(1));
        self.len = self.len.saturating_sub(1);
        Some(oldest)
    }

    /// Forgets what is owed: nobody waits for it any more.
    pub const fn clear(&mut self) {
        self.first = 0;
        self.len = 0;
    }

    /// `index` is below twice the capacity.
    fn wrap(&self, index: usize) -> usize {
        index.checked_sub(self.storage.len()).unwrap_or(index)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::VecDeque;

    proptest! {
        #[test]
        fn behaves_as_a_bounded_queue(
            capacity in 0usize..6,
            pushes in proptest::collection::vec(any::<Option<u64>>(), 0..60),
        ) {
            let mut model = VecDeque::new();
            let mut queue = RxCompletions::new(vec![RxCompletion::default(); capacity]);
            for push in pushes {
                if let Some(transaction_id) = push {
                    let entry = RxCompletion { transaction_id, ok: transaction_id % 2 == 0 };
                    prop_assert_eq!(queue.is_full(), model.len() == capacity);
                    let room = model.len() < capacity;
                    prop_assert_eq!(queue.push(entry).is_ok(), room);
                    if room {
                        model.push_back(entry);
                    }
                } else {
                    prop_assert_eq!(queue.peek(), model.front().copied());
                    prop_assert_eq!(queue.pop(), model.pop_front());
                }
                prop_assert_eq!(queue.len(), model.len());
            }
            queue.clear();
            prop_assert_eq!(queue.peek(), None);
        }
    }

    #[test]
    fn status_tells_whether_every_range_was_good() {
        let status = |ok| {
            RxCompletion {
                transaction_id: 1,
                ok,
            }
            .status()
        };
        assert_eq!(status(true), Status::Success);
        assert_eq!(status(false), Status::Failure);
    }
}
