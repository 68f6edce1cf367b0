// SPDX-License-Identifier: GPL-2.0

//! The two ring buffers of a channel, from the host's side.
//!
//! The guest lends one GPADL for both rings: first the one it writes (incoming here), then the one
//! the host writes (outgoing). Each starts with a page of header and goes on with the data area
//! (specification section 1.3).
//!
//! # How a device polls
//!
//! ```text
//! rings.incoming.mask();
//! loop {
//!     while let Some(packet) = rings.incoming.next() { serve it }
//!     if rings.incoming.unmask() { rings.incoming.mask(); continue; }   // something came meanwhile
//!     let signals = kick.read()?;                                       // blocks or polls
//!     rings.note_doorbells(signals);
//!     rings.incoming.mask();
//! }
//! ```
//!
//! Whatever the guest writes is checked. The first thing that is wrong is reported by name through
//! [`RingOwner::violation`] and breaks both rings for good: reading gives nothing, writing gives
//! [`WriteError::Broken`], until the guest closes the channel and opens it again.

mod header;
mod incoming;
mod outgoing;
mod packet;
mod stats;

#[cfg(test)]
pub(crate) mod guest;
#[cfg(test)]
mod tests;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;

use thiserror::Error;
use vm_memory::GuestMemoryMmap;

pub use incoming::IncomingRing;
pub use outgoing::{OutgoingRing, WriteError};
pub use packet::{
    transfer_page_header, Packet, PacketType, RawPacket, TransferRange, COMPLETION_REQUESTED,
};
pub use stats::{ChannelStats, StatsSnapshot};

use super::gpa::PAGE_SIZE;
use super::gpadl::GpadlMemory;
use header::RingHeader;

/// What a ring needs from the channel it belongs to.
pub trait RingOwner: Send + Sync {
    /// Raises the channel's interrupt in the guest.
    fn interrupt(&self);
    /// Records a violation of the protocol by the guest; see
    /// [`DeviceHost::violation`](super::device::DeviceHost::violation).
    fn violation(&self, name: &'static str, detail: String);
}

/// Ring memory that cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum RingError {
    /// The GPADL does not consist of whole pages.
    #[error("ring GPADL is not made of whole pages")]
    NotPages,
    /// There is no room for two rings of a header page and a data page each.
    #[error("rings of {pages} pages cannot be split at page {split}")]
    Split {
        /// Pages in the GPADL.
        pages: usize,
        /// Where the second ring is said to begin.
        split: u32,
    },
    /// An index lies outside the data area or is no multiple of 8.
    #[error("{which} is {value:#x} in a ring of {size:#x} bytes")]
    Index {
        /// Name of the field.
        which: &'static str,
        /// Its value.
        value: u32,
        /// Bytes in the data area.
        size: u32,
    },
    /// The memory is gone.
    #[error("ring memory is gone")]
    Gone,
}

/// State shared by the two rings of a channel.
struct Link {
    owner: Arc<dyn RingOwner>,
    stats: Arc<ChannelStats>,
    broken: AtomicBool,
}

impl Link {
    /// Reports what the guest did wrong and stops both rings.
    fn breach(&self, name: &'static str, detail: String) {
        if !self.broken.swap(true, Ordering::AcqRel) {
            self.owner.violation(name, detail);
        }
    }

    fn is_broken(&self) -> bool {
        self.broken.load(Ordering::Acquire)
    }

    fn interrupt(&self) {
        self.stats.interrupts.add(1);
        self.owner.interrupt();
    }
}

/// Both rings of an open channel.
pub struct RingPair {
    /// What the guest sends.
    pub incoming: IncomingRing,
    /// What the host sends.
    pub outgoing: OutgoingRing,
    memory: Arc<GuestMemoryMmap>,
    link: Arc<Link>,
}

impl RingPair {
    /// Takes the rings of a channel into use. The outgoing ring begins at page `outgoing_page` of
    /// `gpadl`, as OPENCHANNEL says.
    pub fn new(
        gpadl: Arc<GpadlMemory>,
        outgoing_page: u32,
        owner: Arc<dyn RingOwner>,
        stats: Arc<ChannelStats>,
    ) -> Result<Self, RingError> {
        if !gpadl.is_page_aligned() {
            return Err(RingError::NotPages);
        }
        let pages = gpadl.len() / PAGE_SIZE;
        let split = outgoing_page as usize;
        if split < 2 || pages < split.saturating_add(2) {
            return Err(RingError::Split {
                pages,
                split: outgoing_page,
            });
        }
        let memory = gpadl.guest_memory().clone();
        let first = RingHeader::new(gpadl.clone(), 0, split * PAGE_SIZE);
        let second = RingHeader::new(gpadl, split * PAGE_SIZE, (pages - split) * PAGE_SIZE);
        let link = Arc::new(Link {
            owner,
            stats,
            broken: AtomicBool::new(false),
        });
        Ok(Self {
            incoming: IncomingRing::new(first, link.clone())?,
            outgoing: OutgoingRing::new(second, link.clone())?,
            memory,
            link,
        })
    }

    /// Statistics of the channel; they go on over re-opening.
    pub fn stats(&self) -> &Arc<ChannelStats> {
        &self.link.stats
    }

    /// The guest's memory, for the ranges of GPA-direct packets.
    pub fn memory(&self) -> &Arc<GuestMemoryMmap> {
        &self.memory
    }

    /// Counts signals of the guest: the value read from the channel's event.
    pub fn note_doorbells(&self, count: u64) {
        self.link.stats.doorbells.add(count);
    }

    /// Whether a violation stopped the rings.
    pub fn is_broken(&self) -> bool {
        self.link.is_broken()
    }
}
