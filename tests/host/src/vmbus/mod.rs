// SPDX-License-Identifier: GPL-2.0

//! The VMBus server: what a Hyper-V parent partition does on the bus.
//!
//! * `server`: the server: versions, offers, channels, hot plug.
//! * `message`: layouts of the control messages, read independently of the driver's.
//! * `gpa`, `gpadl`: guest memory described by page lists, and the collection of GPADLs.
//! * `ring`: the ring buffers of a channel, seen from the host.
//! * `device`: the seam to the devices behind the bus.

pub mod device;
pub mod gpa;
pub mod gpadl;
pub mod message;
pub mod ring;
pub mod server;
