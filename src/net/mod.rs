// SPDX-License-Identifier: GPL-2.0

//! Safe abstractions over the kernel's networking API, written as if they were `kernel::net`.
//!
//! Everything here is generic: nothing names VMBus, NVSP or RNDIS. Driver logic above has no unsafe
//! code because the arguments about contexts, locks and lifetimes are made here, once:
//!
//! * [`Device`], [`UniqueDevice`], [`Registration`]: a network device and its life.
//! * [`Operations`] and [`ethtool::Operations`]: what the core calls.
//! * [`Napi`]: a poll context with state that only its poll can touch.
//! * [`Published`]: an object that packet paths read without a lock and configuration replaces.
//! * [`TxCell`]: state that only the holder of a transmit queue's lock can touch.
//! * [`SkBuff`]: an owned socket buffer, which has to end somewhere.
//! * [`XdpSlot`]: the XDP program of an interface, which polls run.
//! * [`Rtnl`], [`Config`], [`SoftIrq`]: tokens that say in which context code runs.
//!
//! # The lock model
//!
//! The device is not ops-locked: configuration (open, stop, MTU, channels, ...) runs under RTNL, before
//! registration under the exclusive [`UniqueDevice`]. Both give a [`Config`]. This file and [`token`]
//! are the place to change that.

mod device;
mod grace_period;
mod host_pages;
mod in_flight;
#[cfg(netvsc_kunit)]
#[path = "../../tests/kunit/net/mod.rs"]
mod kunit;
mod napi;
mod ops;
mod published;
mod queue_stats;
mod rx;
mod shared_memory;
mod skb;
mod skb_list;
mod spinlock_bh;
mod token;
mod tx_cell;
mod work;
mod xdp;

pub(crate) mod cpu;
pub(crate) mod debugfs;
pub(crate) mod ethtool;
pub(crate) mod trace;

pub(crate) use device::{
    net_down, Completed, Device, DeviceRef, Granted, Registration, UniqueDevice,
};
pub(crate) use host_pages::{HostPages, PAGE_SIZE};
pub(crate) use in_flight::{InFlight, Sent};
pub(crate) use napi::{DeletedNapi, Napi, NapiRegistration, Poll, PollContext, Progress};
pub(crate) use ops::{Operations, ReceiveOffloads, Stats64, TxVerdict};
pub(crate) use published::{Published, Unpublished};
pub(crate) use queue_stats::{RxQueueStats, TxQueueStats};
pub(crate) use rx::RxFrame;
pub(crate) use shared_memory::SharedMemory;
pub(crate) use skb::{Pieces, SkBuff, TxPrepared};
pub(crate) use skb_list::SkbList;
pub(crate) use spinlock_bh::SpinLockBh;
pub(crate) use token::{Config, Rtnl, SoftIrq};
pub(crate) use tx_cell::{TxCell, TxLocked, TxQueueGuard};
pub(crate) use work::DelayedWork;
pub(crate) use xdp::{
    BpfProgram, ExtAck, XdpFrames, XdpProgram, XdpSlot, XdpVerdict, LARGEST_FRAME,
};
