// SPDX-License-Identifier: GPL-2.0

//! Handing a received frame to the stack.

use super::{device::net_down, Device, PollContext, SharedMemory, SkBuff};
use crate::bindings;
use crate::rndis::{
    coalesce::Piece,
    tcp_headers::{self, Segments},
};
use core::mem::{align_of, offset_of, size_of};
use kernel::prelude::*;

/// A received frame that still lies in memory which someone else may write.
pub(crate) struct RxFrame<'a> {
    raw: bindings::netvsc_rx_frame,
    first_len: u32,
    ip_checksum_missing: bool,
    tcp_checksum_missing: bool,
    _data: core::marker::PhantomData<&'a [Piece]>,
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
            first_len: pieces.first()?.len,
            ip_checksum_missing: false,
            tcp_checksum_missing: pieces.len() > 1,
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
        self.tcp_checksum_missing = true;
    }

    /// The IPv4 header's checksum was found right, but its field is not filled in.
    pub(crate) fn ip_checksum_missing(&mut self) {
        self.ip_checksum_missing = true;
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

    /// Its bytes.
    pub(crate) fn len(&self) -> u32 {
        self.raw.len
    }

    /// Copies `len` bytes of the frame, from byte `from` on.
    ///
    /// # Safety
    ///
    /// The frame has so many, and `to` is writable for them.
    pub(super) unsafe fn copy_to(&self, from: u32, to: *mut u8, len: u32) {
        // SAFETY: The pieces live for `'a` and are each readable, see `new`; the rest is the caller's promise.
        unsafe { bindings::netvsc_rx_copy(&self.raw, from, to.cast(), len) };
    }

    /// Fills in the checksums that the sender has not, in a private copy of the frame's first bytes. That of TCP only if
    /// these are the whole frame.
    pub(super) fn fill_checksums(&mut self, frame: &mut [u8]) {
        let whole = frame.len() == self.raw.len as usize;
        let Some(packet) = frame.get_mut(bindings::ETH_HLEN as usize..) else {
            return;
        };
        if self.ip_checksum_missing {
            tcp_headers::fill_ipv4_checksum(packet);
            self.ip_checksum_missing = false;
        }
        if self.tcp_checksum_missing && whole && self.is_verified() {
            tcp_headers::fill_tcp_checksum(packet);
            self.tcp_checksum_missing = false;
        }
    }

    /// Gives a socket buffer that holds the frame the tag that was taken out of it.
    pub(super) fn put_vlan_tag(&self, skb: &mut SkBuff) {
        if u32::from(self.raw.flags) & bindings::NETVSC_RX_VLAN != 0 {
            skb.put_vlan_tag(self.raw.vlan_tci);
        }
    }

    fn is_verified(&self) -> bool {
        u32::from(self.raw.flags) & bindings::NETVSC_RX_CSUM_OK != 0
    }

    /// Passes a socket buffer that holds the frame, its data at the network header, to GRO; returns whether it was for a
    /// group of stations.
    pub(super) fn pass<T>(&self, skb: SkBuff, poll: &PollContext<'_>, dev: &Device<T>) -> bool {
        let skb = skb.into_raw();
        // SAFETY: The buffer is ours alone; `len - data_len` bytes from `data` are its linear part.
        let (headers, packet_len) = unsafe {
            let linear = (*skb).len.saturating_sub((*skb).data_len);
            let headers = core::slice::from_raw_parts_mut((*skb).data, linear as usize);
            (headers, (*skb).len)
        };
        if self.ip_checksum_missing {
            tcp_headers::fill_ipv4_checksum(headers);
        }
        let segments = if self.is_verified() && self.tcp_checksum_missing {
            let first = self.first_len.saturating_sub(bindings::ETH_HLEN);
            tcp_headers::prepare(headers, packet_len, first, dev.mtu())
        } else {
            None
        };
        let (tcp_offset, size, count) = segments.map_or((0, 0, 0), |segments| {
            (segments.tcp_offset, segments.size, segments.count)
        });
        let kind = segments.map_or(0, |segments| gso_type(&segments));
        // SAFETY: `PollContext` is proof of running in the poll of this NAPI; the buffer is given away here. What is
        // said of segments was checked against the headers.
        unsafe {
            let napi = poll.as_napi();
            bindings::netvsc_rx_finish(napi, skb, &self.raw, tcp_offset, size, count, kind)
        }
    }

    /// Copies the frame into a socket buffer and passes it to GRO; returns whether it was for a group of
    /// stations. `ENOMEM` if there is no buffer, `ENETDOWN` if the interface is down.
    #[inline]
    pub(crate) fn deliver<T>(&self, poll: &PollContext<'_>, dev: &Device<T>) -> Result<bool> {
        if self.ip_checksum_missing || self.tcp_checksum_missing {
            return self.deliver_unfilled(poll, dev);
        }
        // SAFETY: `PollContext` is proof of running in the poll of this NAPI, whose device lives, and which the
        // pool belongs to. The pieces live for `'a`, are `len` bytes in all, and are each readable: `region`
        // promised that in `new`.
        let result =
            unsafe { bindings::netvsc_rx_receive(poll.as_napi(), poll.page_pool(), &self.raw) };
        if result < 0 {
            return Err(Error::from_errno(result));
        }
        Ok(result > 0)
    }

    /// The same for a frame whose checksum fields the sender has not filled in.
    #[inline(never)]
    fn deliver_unfilled<T>(&self, poll: &PollContext<'_>, dev: &Device<T>) -> Result<bool> {
        if !dev.is_running() {
            return Err(net_down());
        }
        // SAFETY: As in `deliver`.
        let skb = unsafe { bindings::netvsc_rx_build(poll.as_napi(), poll.page_pool(), &self.raw) };
        if skb.is_null() {
            return Err(ENOMEM);
        }
        // SAFETY: New and ours.
        let skb = unsafe { SkBuff::from_raw(skb) };
        Ok(self.pass(skb, poll, dev))
    }
}

fn gso_type(segments: &Segments) -> u32 {
    let version = if segments.ipv6 {
        bindings::SKB_GSO_TCPV6
    } else {
        bindings::SKB_GSO_TCPV4
    };
    let cwr = if segments.cwr {
        bindings::SKB_GSO_TCP_ACCECN
    } else {
        0
    };
    (version | cwr) as u32
}
