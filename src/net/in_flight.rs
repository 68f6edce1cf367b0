// SPDX-License-Identifier: GPL-2.0

//! Socket buffers that wait for their transmit completion, by transaction id.
//!
//! Ownership of the buffer goes into a slot of [`SlotTable`] and comes out exactly once; the table is
//! portable code without unsafe, which holds a number where this file knows an owned buffer.

use super::SkBuff;
use crate::rndis::{
    sections::Section,
    slots::{Cargo, Slot, SlotTable},
    transaction::TransactionId,
};
use kernel::prelude::*;

/// What was sent in one packet.
pub(crate) struct Sent {
    /// The buffer to release, if the packet holds one.
    pub(crate) skb: Option<SkBuff>,
    /// The send section to free.
    pub(crate) section: Option<Section>,
    /// Bytes on the wire.
    pub(crate) bytes: u32,
    /// Frames on the wire.
    pub(crate) packets: u16,
}

/// Packets of one queue on their way to the host. See [`SlotTable`] for who may call what.
///
/// # Invariants
///
/// The token of each cargo in the table is 0 or an [`SkBuff`] given away by `into_raw`, and the table
/// hands each cargo out once.
pub(crate) struct InFlight {
    table: SlotTable<KVec<Slot>>,
}

impl InFlight {
    /// Room for `slots` packets, a power of two.
    pub(crate) fn new(slots: usize) -> Result<Self> {
        let mut storage = KVec::with_capacity(slots, GFP_KERNEL)?;
        for _ in 0..slots {
            storage.push_within_capacity(Slot::default())?;
        }
        // INVARIANT: Empty.
        Ok(Self {
            table: SlotTable::new(storage).ok_or(EINVAL)?,
        })
    }

    /// Takes `sent` in and gives an id to send it under; gives it back if there is no room.
    #[inline]
    pub(crate) fn insert(&self, sent: Sent) -> Result<TransactionId, Sent> {
        let Sent {
            skb,
            section,
            bytes,
            packets,
        } = sent;
        let token = skb.map_or(core::ptr::null_mut(), SkBuff::into_raw) as u64;
        let cargo = Cargo {
            token,
            section,
            bytes,
            packets,
        };
        // INVARIANT: `token` was given away just now.
        self.table
            .allocate(cargo)
            .ok_or_else(|| Self::unpack(cargo))
    }

    /// The packet inserted last was not sent after all.
    #[inline]
    pub(crate) fn cancel(&self, id: TransactionId) -> Option<Sent> {
        self.table.cancel(id).map(Self::unpack)
    }

    /// The host completed `id`. `None` if no such packet is on its way.
    #[inline]
    pub(crate) fn complete(&self, id: TransactionId) -> Option<Sent> {
        self.table.complete(id).map(Self::unpack)
    }

    /// Packets on their way.
    #[inline]
    pub(crate) fn count(&self) -> u32 {
        self.table.in_use()
    }

    /// Gives up on every packet, when the channel is closed.
    pub(crate) fn drain(&self, mut release: impl FnMut(Sent)) {
        self.table.drain(|cargo| release(Self::unpack(cargo)));
    }

    fn unpack(cargo: Cargo) -> Sent {
        let skb = core::ptr::NonNull::new(cargo.token as *mut crate::bindings::sk_buff);
        Sent {
            // SAFETY: By the type invariant the token is an `SkBuff` that was given away, and since the
            // table hands a cargo out once, nobody else has it.
            skb: skb.map(|skb| unsafe { SkBuff::from_raw(skb.as_ptr()) }),
            section: cargo.section,
            bytes: cargo.bytes,
            packets: cargo.packets,
        }
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.drain(drop);
    }
}
