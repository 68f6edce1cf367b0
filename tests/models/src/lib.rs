// SPDX-License-Identifier: GPL-2.0

//! The driver's structures that several contexts use without a lock, compiled from the driver's own sources with
//! Loom's atomics in place of the processor's. Loom then runs each model in `tests/` in every order of events that
//! the memory model allows.
//!
//! `crate::atomic` is what those sources import; in the kernel module and in `netvsc-proto` it is
//! `core::sync::atomic`. What `src/net/published.rs` needs of the kernel besides is in `prelude` and `net`.
// The included sources have tests of their own, which are not for Loom.
#![cfg(not(test))]

extern crate self as kernel;

pub mod atomic;
pub mod net;
pub mod prelude;
pub mod published;
#[path = "../../../rndis/mod.rs"]
pub mod rndis;
#[path = "../../../vmbus/mod.rs"]
pub mod vmbus;
