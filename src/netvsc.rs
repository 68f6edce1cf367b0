// SPDX-License-Identifier: GPL-2.0

//! Root of the kernel module `hv_netvsc`: the network driver of guests on Hyper-V and Azure.
//!
//! Three layers, each a folder: `vmbus/` (channels, rings, shared memory), `rndis/` (the protocol, as state
//! machines without I/O), and this one, the network device. `net/` holds safe abstractions over the
//! kernel's networking API; nothing outside it and `vmbus/` has unsafe code.

// Without a driver that is registered, much has no user.
#![cfg_attr(netvsc_kunit, allow(dead_code))]

pub mod bindings;
#[path = "../rndis/mod.rs"]
pub mod rndis;
#[path = "../vmbus/mod.rs"]
pub mod vmbus;

mod attach;
mod buffers;
mod control;
mod cpu_traffic;
mod debug_view;
mod device;
#[cfg(not(netvsc_kunit))]
mod driver;
mod ethtool;
#[cfg(netvsc_kunit)]
#[path = "../tests/kunit/mod.rs"]
mod kunit;
mod link;
mod mailbox;
mod net;
mod params;
mod queue;
mod reconfigure;
mod rx;
mod settings;
mod stats;
mod trace;
mod tx;
mod tx_timeout;
mod xdp;

// Of the structures that `tests/models` compiles with other ones.
use core::sync::atomic;
use kernel::prelude::*;

#[cfg(not(netvsc_kunit))]
module! {
    type: driver::HvNetvsc,
    name: "hv_netvsc",
    description: "Microsoft Hyper-V network driver",
    license: "GPL",
}

// The same sources with KUnit suites instead of the registration; see tests/kunit.
#[cfg(netvsc_kunit)]
module! {
    type: kunit::Suites,
    name: "hv_netvsc_kunit",
    description: "KUnit suites of the Hyper-V network driver",
    license: "GPL",
}
