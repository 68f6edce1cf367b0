// SPDX-License-Identifier: GPL-2.0

//! Cargo's view of the driver: the portable half of `vmbus/` and all of `rndis/`, compiled as an
//! ordinary `no_std` library so that tests, fuzzers and the test host run the code the kernel runs.
//!
//! The kernel module's root is `netvsc.rs`; it names the same two folders.
#![cfg_attr(not(test), no_std)]

/// The processor's. `tests/models` compiles the same sources with others.
use core::sync::atomic;

#[path = "../rndis/mod.rs"]
pub mod rndis;
#[path = "../vmbus/mod.rs"]
pub mod vmbus;
