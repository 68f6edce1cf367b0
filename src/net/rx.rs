// SPDX-License-Identifier: GPL-2.0

//! Handing a received frame to the stack.

use super::{PollContext, SharedMemory};
use crate::bindings;
use kernel::prelude::*;

/// A received frame that still lies in memory which someone else may write.
pub(crate) struct RxFrame<'a> {
    raw: bindings::netvsc_rx_frame,
    _data: core::marker::PhantomData<&'a ()>,
}

impl<'a> RxFrame<'a> {
    /// A frame of `len` bytes at `offset` of `memory`, received on `queue`; `None` if that is not
    /// all within `memory`.
    #[inline]
    pub(crate) fn new(
        memory: &'a impl SharedMemory,
        offset: usize,
        len: u32,
        queue: u16,
    ) -> Option<Self> {
        let data = memory.region(offset, len as usize)?;
        Some(Self {
            raw: bindings::netvsc_rx_frame {
                data: data.as_ptr().cast(),
                len,
                hash: 0,
                vlan_tci: 0,
                queue,
                flags: 0,
            },
            _data: core::marker::PhantomData,
        })
    }

    /// The sender's transport checksum was found right.
    pub(crate) fn checksum_ok(&mut self) {
        self.raw.flags |= bindings::NETVSC_RX_CSUM_OK as u8;
    }

    /// The receive hash; `l4` if it covers ports.
    pub(crate) fn hash(&mut self, hash: u32, l4: bool) {
        self.raw.hash = hash;
        self.raw.flags |= bindings::NETVSC_RX_HASH as u8;
        if l4 {
            self.raw.flags |= bindings::NETVSC_RX_HASH_L4 as u8;
        }
    }

    /// The 802.1Q tag that was taken out of the frame, in host byte order.
    pub(crate) fn vlan(&mut self, tci: u16) {
        self.raw.vlan_tci = tci;
        self.raw.flags |= bindings::NETVSC_RX_VLAN as u8;
    }

    /// Copies the frame into a socket buffer and passes it to GRO. `ENOMEM` if there is no
    /// buffer, `ENETDOWN` if the interface is down.
    pub(crate) fn deliver(&self, poll: &PollContext<'_>) -> Result {
        // SAFETY: `PollContext` is proof of running in the poll of this NAPI, whose device lives;
        // `raw.data` is readable for `raw.len` bytes: `region` promised that in `new`.
        let result = unsafe { bindings::netvsc_rx_deliver(poll.as_napi(), &self.raw) };
        kernel::error::to_result(result)
    }
}
