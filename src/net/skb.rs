// SPDX-License-Identifier: GPL-2.0

//! Socket buffers: owned, and made ready for a host that reads them from guest memory.
//!
//! C header: `include/linux/skbuff.h`.

use super::SharedMemory;
use crate::bindings;
use crate::rndis::{
    packet::{TxMeta, TxOffload},
    ppi::Transport,
};
use core::{mem::ManuallyDrop, ptr::NonNull};
use kernel::prelude::*;

/// An owned socket buffer. Dropping it is the loss of a packet (`kfree_skb`, seen by drop monitors):
/// a packet that arrived ends in [`SkBuff::consume`].
///
/// # Invariants
///
/// The pointer is valid and this is its only owner.
pub(crate) struct SkBuff(NonNull<bindings::sk_buff>);

// SAFETY: A socket buffer may be freed from any thread and context (`_any`).
unsafe impl Send for SkBuff {}
// SAFETY: `&SkBuff` gives read access only.
unsafe impl Sync for SkBuff {}

/// What [`SkBuff::prepare_tx`] found out about a frame.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TxPrepared {
    /// What the host must know of the frame.
    pub(crate) meta: TxMeta,
    /// Frames on the wire, counting segments.
    pub(crate) packets: u32,
    /// Bytes on the wire, counting the headers of segments.
    pub(crate) wire_bytes: u32,
    /// Another frame follows at once on this queue (`netdev_xmit_more`).
    pub(crate) more: bool,
    /// The frame was in too many pieces and has been copied into one.
    pub(crate) linearized: bool,
}

impl SkBuff {
    /// Takes over a buffer.
    ///
    /// # Safety
    ///
    /// `raw` is valid and the caller gives its ownership away.
    #[inline]
    pub(super) unsafe fn from_raw(raw: *mut bindings::sk_buff) -> Self {
        // SAFETY: Valid means not null.
        // INVARIANT: The caller's promise.
        Self(unsafe { NonNull::new_unchecked(raw) })
    }

    /// Gives the buffer away.
    #[inline]
    pub(super) fn into_raw(self) -> *mut bindings::sk_buff {
        ManuallyDrop::new(self).0.as_ptr()
    }

    /// Has an 802.1Q tag put into the frame when it is sent; `tci` in host byte order.
    pub(super) fn put_vlan_tag(&mut self, tci: u16) {
        let protocol = (bindings::ETH_P_8021Q as u16).to_be();
        // SAFETY: The buffer is ours.
        unsafe { bindings::__vlan_hwaccel_put_tag(self.0.as_ptr(), protocol, tci) };
    }

    /// Gives the buffer away to be sent on `queue`.
    pub(super) fn into_raw_for(self, queue: u16) -> *mut bindings::sk_buff {
        let skb = self.into_raw();
        // SAFETY: The buffer is ours.
        unsafe { (*skb).queue_mapping = queue };
        skb
    }

    /// Whether this is the buffer `raw`.
    #[inline]
    pub(super) fn is(&self, raw: *mut bindings::sk_buff) -> bool {
        self.0.as_ptr() == raw
    }

    /// A frame that was received, ready to be sent: from its link-layer header on.
    pub(super) fn with_link_header(self) -> Self {
        // SAFETY: `eth_type_trans` took the header off, so there is room for it.
        unsafe { bindings::skb_push(self.0.as_ptr(), bindings::ETH_HLEN) };
        self
    }

    /// Makes the frame ready for the host: takes a VLAN tag out of it, prepares segmentation, computes
    /// in software a checksum that `csum_mask` (`NETVSC_CSUM_*`) lacks, linearises it if it touches
    /// more than `max_pages` pages. May be repeated on the same frame.
    ///
    /// `ENOMEM`: no memory. `E2BIG`: cannot be sent at all. Other errors: its VLAN tag is broken.
    #[inline]
    pub(crate) fn prepare_tx(&mut self, max_pages: u32, csum_mask: u32) -> Result<TxPrepared> {
        let mut meta = core::mem::MaybeUninit::<bindings::netvsc_tx_meta>::zeroed();
        // SAFETY: We own the buffer; the transmit path runs with bottom halves disabled.
        let error = unsafe {
            bindings::netvsc_tx_prepare(self.0.as_ptr(), max_pages, csum_mask, meta.as_mut_ptr())
        };
        if error != 0 {
            return Err(Error::from_errno(error));
        }
        // SAFETY: A struct of integers, zeroed and then filled.
        Ok(TxPrepared::from_raw(unsafe { meta.assume_init_ref() }))
    }

    /// Writes `header`, the frame, which has `len` bytes, and `pad` zeros to `offset` of memory that a host may read
    /// meanwhile.
    #[inline]
    pub(crate) fn copy_to(
        &self,
        memory: &impl SharedMemory,
        offset: usize,
        header: &[u8],
        len: u32,
        pad: u32,
    ) -> Result {
        let whole = u64::from(len).wrapping_add(u64::from(pad)) as usize;
        let whole = whole.checked_add(header.len()).ok_or(EINVAL)?;
        let to = memory.region(offset, whole).ok_or(EINVAL)?;
        // SAFETY: `self` is valid; `region` gave as many writable bytes as C writes, no fewer than `header` has, so its
        // length fits wherever the region's does. C checks `len` against the frame.
        let copied = unsafe {
            bindings::netvsc_tx_copy(
                self.0.as_ptr(),
                to.as_ptr().cast(),
                header.as_ptr().cast(),
                header.len() as u32,
                len,
                pad,
            )
        };
        if copied {
            Ok(())
        } else {
            Err(EFAULT)
        }
    }

    /// The buffer has served its purpose. `budget` is the NAPI budget, 0 outside a poll.
    #[inline]
    pub(crate) fn consume(self, budget: u32) {
        // SAFETY: We own the buffer. A budget of 0 means any context.
        unsafe { bindings::napi_consume_skb(self.into_raw(), budget as i32) };
    }
}

impl Drop for SkBuff {
    fn drop(&mut self) {
        // SAFETY: We own the buffer; this form is for any context.
        unsafe {
            bindings::dev_kfree_skb_any_reason(
                self.0.as_ptr(),
                bindings::skb_drop_reason_SKB_DROP_REASON_NOT_SPECIFIED,
            )
        };
    }
}

impl TxPrepared {
    #[inline]
    fn from_raw(meta: &bindings::netvsc_tx_meta) -> Self {
        let has = |flag: u32| u32::from(meta.flags) & flag != 0;
        let ipv6 = has(bindings::NETVSC_TX_IPV6);
        let offload = if has(bindings::NETVSC_TX_LSO) {
            TxOffload::Lso {
                ipv6,
                mss: meta.mss.into(),
                l4_offset: meta.l4_offset,
            }
        } else if has(bindings::NETVSC_TX_CSUM) {
            TxOffload::Checksum {
                ipv6,
                transport: if has(bindings::NETVSC_TX_UDP) {
                    Transport::Udp
                } else {
                    Transport::Tcp
                },
                l4_offset: meta.l4_offset,
            }
        } else {
            TxOffload::None
        };
        Self {
            meta: TxMeta {
                len: meta.len,
                hash: has(bindings::NETVSC_TX_HASH).then_some(meta.hash),
                vlan: has(bindings::NETVSC_TX_VLAN).then_some(meta.vlan_tci),
                offload,
            },
            packets: meta.packets,
            wire_bytes: meta.wire_bytes,
            more: has(bindings::NETVSC_TX_MORE),
            linearized: has(bindings::NETVSC_TX_LINEARIZED),
        }
    }
}

/// Most pieces that a frame can have: its linear part and every fragment.
pub(crate) const MAX_PIECES: usize = bindings::MAX_SKB_FRAGS as usize + 1;

/// Where the bytes of a frame lie in guest-physical memory, in order.
pub(crate) struct Pieces {
    pieces: [bindings::netvsc_tx_piece; MAX_PIECES],
    count: usize,
}

impl Pieces {
    /// None yet.
    #[inline]
    pub(crate) const fn new() -> Self {
        Self {
            pieces: [bindings::netvsc_tx_piece { address: 0, len: 0 }; MAX_PIECES],
            count: 0,
        }
    }

    /// Becomes the pieces of `skb`. In place: returned by value they would be on the stack twice.
    #[inline]
    pub(crate) fn find(&mut self, skb: &SkBuff) -> Result {
        // SAFETY: `skb` is valid, `pieces` is writable for `MAX_PIECES` elements.
        let count = unsafe {
            bindings::netvsc_tx_pieces(skb.0.as_ptr(), self.pieces.as_mut_ptr(), MAX_PIECES as u32)
        };
        self.count = usize::try_from(count).map_err(|_| Error::from_errno(count))?;
        Ok(())
    }

    /// Physical address and bytes of each piece.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (u64, u32)> + '_ {
        self.pieces
            .iter()
            .take(self.count)
            .map(|piece| (piece.address, piece.len))
    }
}
