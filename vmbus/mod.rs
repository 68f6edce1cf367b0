// SPDX-License-Identifier: GPL-2.0

//! VMBus as a network driver sees it: packets in a channel's ring, and who may put them there.
//!
//! This folder has two halves. The portable half is formats only: no I/O, no unsafe code, compiled by
//! Cargo and by Kbuild. The kernel half drives `hv_vmbus` and exists only inside the module.
//!
//! Layer rule: nothing here knows NVSP or RNDIS; `rndis/` and `src/` sit above.

// Portable half: ring packet formats.
pub mod gpa_direct;
pub mod guid;
pub mod packet;
pub mod ring;
pub mod transfer_pages;
pub mod version;

// Kernel half: as if it were `kernel::vmbus`.
#[cfg(MODULE)]
pub mod bounded;
#[cfg(MODULE)]
pub mod channel;
#[cfg(MODULE)]
pub mod completion;
#[cfg(MODULE)]
pub mod device;
#[cfg(MODULE)]
pub mod driver;
#[cfg(MODULE)]
pub mod gpadl;
#[cfg(MODULE)]
pub mod params;
#[cfg(MODULE)]
pub mod receive;
#[cfg(MODULE)]
pub mod send;
#[cfg(MODULE)]
mod shared_copy;
#[cfg(MODULE)]
mod shared_ring;
#[cfg(MODULE)]
pub mod subchannel;
#[cfg(MODULE)]
pub mod writer;

#[cfg(MODULE)]
pub use self::{
    bounded::{bounded, CallQueue},
    channel::{Channel, ChannelRef, Interrupt, InterruptedChannel, OpenChannel, OpenConfig},
    completion::{Completion, Deadline, Moment},
    device::Device,
    driver::{Adapter, DeviceId, Driver, IdTable},
    gpadl::{Pages, SharedBuffer, SharedBytes},
    receive::Reader,
    send::SendError,
    subchannel::Subchannels,
    writer::Writer,
};
