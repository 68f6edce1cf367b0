// SPDX-License-Identifier: GPL-2.0

//! What runs inside the test machines.
//!
//! The runner outside talks to the agent over one byte stream (a virtio-serial port, a serial line):
//! * `frame`: how messages are found in a byte stream that may also carry noise;
//! * `protocol`: the requests and answers;
//! * `device`: opening the byte stream;
//! * `server`: the agent itself; `process`, `files`, `terminal`: what its requests do.
//!
//! Built-in traffic, run as subcommands of the same program (stock tools are too slow where every
//! instruction is emulated twice, or do not verify content):
//! * `pattern`: reproducible bytes and their checksum;
//! * `tcp`: checked bulk transfer;
//! * `sweep`: every payload length, echoed and compared, over `udp` or `icmp`.
//!
//! `xdp`: programs on an interface, without a compiler.
//!
//! For measurements: `load`, unchecked TCP; `rebind`, how long an attach takes; `symbols`, names for samples.

pub mod device;
pub mod files;
pub mod frame;
pub mod icmp;
pub mod load;
pub mod pattern;
pub mod process;
pub mod protocol;
pub mod rebind;
pub mod server;
pub mod sweep;
pub mod symbols;
pub mod tcp;
pub mod terminal;
pub mod udp;
pub mod xdp;
