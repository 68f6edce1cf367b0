// SPDX-License-Identifier: GPL-2.0

//! What a network adapter says over its VMBus channel: NVSP around RNDIS, wire formats and state machines.
//!
//! Sans-I/O: messages go in, messages or decisions come out. No locks, no sleeping, no allocation, no
//! unsafe code. Whatever the host wrote is copied first, then checked here once, into types that can be
//! believed; nothing the host can write makes this code panic.
//!
//! * wire formats: [`nvsp`], [`message`] (RNDIS control), [`oid`], [`offload`], [`rss`], [`filter`],
//!   [`address`], [`name`], [`link`], [`ppi`] and [`packet`] (RNDIS data, the hot path), [`send_table`],
//!   [`tcp_headers`];
//! * control plane: [`bringup`] (one attach), [`exchange`] (one request afterwards), [`teardown`];
//! * bookkeeping of what is in flight: [`sections`], [`slots`], [`rx_completions`], [`coalesce`].
#![forbid(unsafe_code)]
// Tests fail by panicking; nothing else may.
#![cfg_attr(
    not(test),
    deny(
        clippy::arithmetic_side_effects,
        clippy::indexing_slicing,
        clippy::unwrap_used,
        clippy::panic
    )
)]

pub mod address;
pub mod bringup;
pub mod coalesce;
pub mod event;
pub mod exchange;
pub mod filter;
pub mod link;
pub mod message;
pub mod name;
pub mod nvsp;
pub mod offload;
pub mod oid;
pub mod packet;
mod pending;
pub mod ppi;
pub mod rss;
pub mod rx_completions;
pub mod sections;
pub mod send_table;
pub mod slots;
pub mod tcp_headers;
pub mod teardown;
pub mod transaction;
pub mod version;
mod wire;

#[cfg(test)]
mod recorded;
