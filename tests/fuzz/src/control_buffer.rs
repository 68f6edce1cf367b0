// SPDX-License-Identifier: GPL-2.0

//! The memory of control messages, with a record of who may touch it and of every id ever sent.

use crate::words::word;
use netvsc_proto::rndis::{
    event::{Action, Event, MESSAGE_BUFFER_LEN},
    transaction::{Transaction, TransactionId},
};
use std::collections::HashSet;

/// The buffer.
pub struct ControlBuffer {
    /// What messages are written to.
    pub bytes: [u8; MESSAGE_BUFFER_LEN],
    /// The packet whose message the host may still read, and the message.
    lent: Option<(TransactionId, Vec<u8>)>,
    transactions: HashSet<u64>,
    requests: HashSet<u64>,
}

impl ControlBuffer {
    /// Nothing sent yet.
    pub fn new() -> Self {
        Self {
            bytes: [0; MESSAGE_BUFFER_LEN],
            lent: None,
            transactions: HashSet::new(),
            requests: HashSet::new(),
        }
    }

    /// A message was written and is sent: its ids are new, and nothing was overwritten that the host reads.
    /// Returns the request's id, of an RNDIS message.
    pub fn sent(&mut self, action: Action) -> Option<u32> {
        let (len, transaction) = match action {
            Action::SendNvsp { len, transaction } | Action::SendRndis { len, transaction } => {
                (len, transaction)
            }
            _ => return None,
        };
        assert!(self.lent.is_none(), "sent while the host may read the last");
        if action.wants_completion() {
            assert!(matches!(transaction.decode(), Transaction::Control(1..)));
            assert!(self.transactions.insert(transaction.value()), "id reused");
        }
        if !matches!(action, Action::SendRndis { .. }) {
            return None;
        }
        let message = &self.bytes[..len];
        assert_eq!(word(message, 1), Some(len as u64));
        let id = word(message, 2).unwrap();
        assert!(id != 0 && self.requests.insert(id), "request id reused");
        self.lent = Some((transaction, message.to_vec()));
        Some(id as u32)
    }

    /// The host did what `event` says; what it is done with is ours again.
    pub fn heard(&mut self, event: &Event<'_>) {
        let lent = self.lent.as_ref().map(|(transaction, _)| *transaction);
        match event {
            Event::Completion { transaction, .. } if Some(*transaction) == lent => self.lent = None,
            Event::SendFailed => self.lent = None,
            _ => {}
        }
    }

    /// Whether the host may read a message; it is as it was sent.
    pub fn is_lent(&self) -> bool {
        if let Some((_, message)) = &self.lent {
            assert_eq!(
                self.bytes[..message.len()],
                message[..],
                "changed under the host"
            );
        }
        self.lent.is_some()
    }

    /// The host has closed the channel, or the message moved to memory that is kept until it has.
    pub fn withhold(&mut self) {
        self.lent = None;
    }
}
