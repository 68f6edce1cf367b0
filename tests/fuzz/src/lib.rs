// SPDX-License-Identifier: GPL-2.0

//! What the fuzz targets do with the bytes they get: one module a target, each with a function `run` that returns
//! if all that the code promises held, and panics if not.
//!
//! Decoders take the bytes as what a host wrote: `rndis_packet`, `rndis_control`, `nvsp`, `vmbus_ring`,
//! `tcp_headers`. The others read a script from them: `receive` (ring packets of messages, up to whole frames),
//! `transmit` (frames to send), `bringup` and `exchange` (what a host answers, and does not), `in_flight` (sends and
//! completions). Scripts end with the bytes; where bytes are missing they are zero, which means "as it should be",
//! so that an empty input is a run without a fault.
//!
//! The test host itself is a parser of what a guest says: `host_bus` (VMBus messages), `host_nic` (rings, NVSP, RNDIS),
//! `host_control` (the control socket). Whatever it is told, it goes on, and says what was wrong.
//!
//! `all` is every one of them, to count what they reach together.
#![forbid(unsafe_code)]

pub mod all;
mod bounds;
pub mod bringup;
mod control_buffer;
pub mod exchange;
mod honest_host;
pub mod host_bus;
pub mod host_control;
pub mod host_nic;
pub mod in_flight;
pub mod nvsp;
pub mod receive;
pub mod rndis_control;
pub mod rndis_packet;
pub mod tcp_headers;
pub mod transmit;
pub mod vmbus_ring;
mod words;
