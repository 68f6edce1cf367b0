// SPDX-License-Identifier: GPL-2.0

//! `hvhost`: a small Hyper-V compatible test host on KVM.
//!
//! * `machine`: virtual machine, vCPUs, Hyper-V CPUID/MSRs/SynIC, ACPI, serial ports, boot.
//! * `vmbus`: the VMBus server: versions, offers, GPADLs, channels, rings.
//! * `netvsp`: the network device: NVSP, RNDIS, RSS, back ends.
//! * `control`: the control socket: counters, fault points, hot plug, link state.
//!
//! `hypervisor` is the seam between `machine` and `vmbus`; `vmbus::device` the one between `vmbus`
//! and `netvsp`.

pub mod hypervisor;
