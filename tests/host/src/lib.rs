// SPDX-License-Identifier: GPL-2.0

//! `hvhost`: a small Hyper-V compatible test host on KVM.
//!
//! * `options`, `config`: the command line and the values in it; `host`: everything put together.
//! * `machine`: virtual machine, vCPUs, Hyper-V CPUID/MSRs/SynIC, ACPI, serial ports, boot.
//! * `vmbus`: the VMBus server: versions, offers, GPADLs, channels, rings.
//! * `netvsp`: the network device: NVSP, RNDIS, RSS; `backend`: where its frames go.
//! * `control`: the control socket: counters, fault points, hot plug, link state.
//! * `stream`: byte streams to the outside: sockets, character devices, files; `terminal`: raw mode.
//!
//! `hypervisor` is the seam between `machine` and `vmbus`; `vmbus::device` the one between `vmbus`
//! and `netvsp`.

pub mod backend;
pub mod config;
pub mod control;
pub mod corruption;
pub mod counters;
pub mod fault;
pub mod host;
pub mod hypervisor;
pub mod machine;
pub mod netvsp;
pub mod options;
pub mod stream;
pub mod terminal;
pub mod vmbus;
