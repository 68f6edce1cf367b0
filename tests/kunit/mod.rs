// SPDX-License-Identifier: GPL-2.0

//! The module `hv_netvsc_kunit`: the driver's own sources, not registered with the VMBus, and KUnit suites for
//! what needs a kernel.
//!
//! A suite is a module with `#[kunit_tests(name)]`; its name is counted by `scripts/kunit`, which fails if one did not
//! run. What a suite is about stands in the file's first lines:
//!
//! * `net/`: the abstractions over kernel networking, each by itself;
//! * `ring`, `memory`, `waiting`: the kernel half of `vmbus/`, over rings and buffers in ordinary memory (`bus`);
//! * `attach`, `traffic`, `xdp`: the whole driver against a scripted host (`host`);
//! * `protocol`: RSS, headers and ids as this compiler makes them for the kernel;
//! * `statistics`: names and values of `ethtool -S`.
//!
//! An assertion that fails ends its thread without running destructors: the suites after it still run, but what they
//! say of leaks is worth nothing.

mod attach;
mod bus;
mod host;
mod memory;
mod protocol;
mod ring;
mod statistics;
mod traffic;
mod waiting;
mod xdp;

use crate::{net::debugfs::Root, vmbus::CallQueue};
use kernel::prelude::*;

/// The loaded module: what a driver needs of it.
pub(crate) struct Suites {
    _calls: CallQueue,
    _debugfs: Root,
}

impl kernel::Module for Suites {
    fn init(_module: &'static ThisModule) -> Result<Self> {
        Ok(Self {
            _calls: CallQueue::new()?,
            _debugfs: Root::new(c"hv_netvsc_kunit")?,
        })
    }
}
