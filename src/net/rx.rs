// SPDX-License-Identifier: GPL-2.0

//! Handing a received frame to the stack.

use super::{PollContext, SharedMemory};
use crate::bindings;
use crate::rndis::coalesce::Piece;
use core::mem::{align_of, offset_of, size_of};
use kernel::prelude::*;

/// A received frame that still lies in memory which someone else may write.
pub(crate) struct RxFrame<'a> {
    raw: bindings::netvsc_rx_frame,
    _data: core::marker::PhantomData<&'a ()>,
}

// The portable type is what C reads.
const _: () = {
    type Raw = bindings::netvsc_rx_piece;
    assert!(size_of::<Piece>() == size_of::<Raw>() && align_of::<Piece>() == align_of::<Raw>());
    assert!(offset_of!(Piece, offset) == offset_of!(Raw, offset));
    assert!(offset_of!(Piece, len) == offset_of!(Raw, len));
};

impl<'a> RxFrame<'a> {
    /// A frame that consists of these pieces of `memory`, received on `queue`; `None` if there are none,
    /// one is empty or they are not all within `memory`.
    #[inline]
    pub(crate) fn new(
        memory: &'a impl SharedMemory,
        pieces: &'a [Piece],
        queue: u16,
    ) -> Option<Self> {
        let mut len = 0u32;
        for piece in pieces {
            memory.region(piece.offset as usize, piece.len as usize)?;
            len = len.checked_add(piece.len).filter(|_| piece.len > 0)?;
        }
        if len == 0 {
            return None;
        }
        let base = memory.region(0, 0)?;
        Some(Self {
            raw: bindings::netvsc_rx_frame {
                base: base.as_ptr().cast(),
                pieces: pieces.as_ptr().cast(),
                nr_pieces: u32::try_from(pieces.len()).ok()?,
                len,
                hash: 0,
                vlan_tci: 0,
                queue,
                flags: 0,
            },
            _data: core::marker::PhantomData,
        })
    }

    fn set(&mut self, flag: u32) {
        self.raw.flags |= flag as u8;
    }

    /// The sender's transport checksum was found right.
    pub(crate) fn checksum_ok(&mut self) {
        self.set(bindings::NETVSC_RX_CSUM_OK);
    }

    /// The TCP checksum was found right, but its field is not filled in.
    pub(crate) fn tcp_checksum_missing(&mut self) {
        self.set(bindings::NETVSC_RX_TCP_CSUM_MISSING);
    }

    /// The IPv4 header's checksum was found right, but its field is not filled in.
    pub(crate) fn ip_checksum_missing(&mut self) {
        self.set(bindings::NETVSC_RX_IP_CSUM_MISSING);
    }

    /// The receive hash; `l4` if it covers ports.
    pub(crate) fn hash(&mut self, hash: u32, l4: bool) {
        self.raw.hash = hash;
        self.set(bindings::NETVSC_RX_HASH);
        if l4 {
            self.set(bindings::NETVSC_RX_HASH_L4);
        }
    }

    /// The 802.1Q tag that was taken out of the frame, in host byte order.
    pub(crate) fn vlan(&mut self, tci: u16) {
        self.raw.vlan_tci = tci;
        self.set(bindings::NETVSC_RX_VLAN);
    }

    /// Copies the frame into a socket buffer and passes it to GRO; returns whether it was for a group of
    /// stations. `ENOMEM` if there is no buffer, `ENETDOWN` if the interface is down.
    pub(crate) fn deliver(&self, poll: &PollContext<'_>) -> Result<bool> {
        // SAFETY: `PollContext` is proof of running in the poll of this NAPI, whose device lives, and which the
        // pool belongs to. The pieces live for `'a`, are `len` bytes in all, and are each readable: `region`
        // promised that in `new`.
        let result = unsafe {
            bindings::netvsc_rx_deliver(poll.as_napi(), poll.page_pool(), &self.raw)
        };
        kernel::error::to_result(result).map(|()| result > 0)
    }
}
