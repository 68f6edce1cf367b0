// SPDX-License-Identifier: GPL-2.0

//! What the driver tells the control-plane state machines, and what they tell it to do.
//!
//! [`crate::rndis::bringup::Bringup`] and [`crate::rndis::exchange::Exchange`] share these types.

pub use crate::rndis::pending::Refusal;
use crate::rndis::transaction::TransactionId;

/// Bytes a caller's message buffer must have: the longest message is RSS parameters with 256 entries.
pub const MESSAGE_BUFFER_LEN: usize = 1152;

/// Something that happened to an operation in progress.
#[derive(Clone, Copy, Debug)]
pub enum Event<'a> {
    /// The last message could not be put into the ring (retries included); it was not sent.
    SendFailed,
    /// A completion packet whose id is of the control kind.
    Completion {
        /// The id in the packet.
        transaction: TransactionId,
        /// Its payload, a private copy.
        payload: &'a [u8],
    },
    /// An RNDIS control message: the range of the receive buffer, a private copy.
    Rndis(&'a [u8]),
    /// The buffer asked for is allocated and shared.
    Shared {
        /// Handle of the shared memory.
        gpadl: u32,
    },
    /// The buffer asked for could not be allocated or shared.
    ShareFailed,
    /// The sub-channels asked for were dealt with.
    SubchannelsOpen {
        /// How many are open, the primary channel not counted.
        count: u16,
    },
    /// The time budget of the operation has run out.
    Deadline,
    /// The host took the channel away.
    Rescinded,
}

/// What the driver shall do next.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Action {
    /// Send the first `len` bytes of the buffer as in-band packet.
    SendNvsp {
        /// Bytes written to the buffer.
        len: usize,
        /// Id for the packet; [`TransactionId::NONE`] if no completion is to be requested.
        transaction: TransactionId,
    },
    /// Send the first `len` bytes of the buffer as one GPA-direct range with
    /// [`crate::rndis::nvsp::rndis_packet`] (control) as payload, and ask for a completion. The bytes
    /// belong to the host until that completion arrives; the state machine waits for it.
    SendRndis {
        /// Bytes written to the buffer.
        len: usize,
        /// Id for the packet.
        transaction: TransactionId,
    },
    /// Allocate and share a receive buffer; answer with `Shared` or `ShareFailed`.
    ShareReceiveBuffer {
        /// Its bytes, a multiple of the page size.
        bytes: u32,
    },
    /// Allocate and share a send buffer; answer with `Shared` or `ShareFailed`.
    ShareSendBuffer {
        /// Its bytes, a multiple of the page size.
        bytes: u32,
    },
    /// Open this many sub-channels as their offers arrive; answer with `SubchannelsOpen`.
    OpenSubchannels {
        /// As granted by the host, 1 to 63.
        count: u16,
    },
    /// Nothing: wait for an event.
    Wait,
    /// The operation is complete.
    Done,
}

impl Action {
    /// Whether the packet to send asks for a completion.
    pub fn wants_completion(&self) -> bool {
        match self {
            Self::SendNvsp { transaction, .. } => *transaction != TransactionId::NONE,
            Self::SendRndis { .. } => true,
            _ => false,
        }
    }
}

/// Numbers the requests of one attach: RNDIS request ids and control transaction ids, from 1.
#[derive(Debug)]
pub struct RequestIds {
    last_request: u32,
    last_transaction: u32,
}

impl RequestIds {
    /// For a new attach.
    pub const fn new() -> Self {
        Self {
            last_request: 0,
            last_transaction: 0,
        }
    }

    /// The next RNDIS request id; never 0.
    pub fn request(&mut self) -> u32 {
        self.last_request = next(self.last_request);
        self.last_request
    }

    /// The next control transaction id.
    pub fn transaction(&mut self) -> TransactionId {
        self.last_transaction = next(self.last_transaction);
        TransactionId::control(self.last_transaction)
    }
}

impl Default for RequestIds {
    fn default() -> Self {
        Self::new()
    }
}

fn next(last: u32) -> u32 {
    last.wrapping_add(1).max(1)
}
