// SPDX-License-Identifier: GPL-2.0

//! Events of a state machine that own their bytes, so that a scripted host can keep them for later, say them twice, or
//! spoil them.

use super::{Event, TransactionId};

/// An [`Event`] that owns its bytes.
#[derive(Clone, Debug)]
pub(crate) enum Owned {
    Completion(TransactionId, Vec<u8>),
    Rndis(Vec<u8>),
    Shared(u32),
    ShareFailed,
    SubchannelsOpen(u16),
    SendFailed,
    Deadline,
    Rescinded,
}

impl Owned {
    /// For the state machines.
    pub(crate) fn borrow(&self) -> Event<'_> {
        match self {
            Self::Completion(transaction, payload) => Event::Completion {
                transaction: *transaction,
                payload,
            },
            Self::Rndis(message) => Event::Rndis(message),
            Self::Shared(gpadl) => Event::Shared { gpadl: *gpadl },
            Self::ShareFailed => Event::ShareFailed,
            Self::SubchannelsOpen(count) => Event::SubchannelsOpen { count: *count },
            Self::SendFailed => Event::SendFailed,
            Self::Deadline => Event::Deadline,
            Self::Rescinded => Event::Rescinded,
        }
    }
}
