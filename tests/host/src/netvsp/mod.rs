// SPDX-License-Identifier: GPL-2.0

//! The network device: what a Hyper-V parent partition does for a synthetic NIC.
//!
//! * `device`: the NIC as the VMBus server and the control socket see it; `worker`: its thread.
//! * `nic`, `session`, `channel`, `buffers`: the state.
//! * `nvsp`, `rndis`, `query`: handshake, control messages, OIDs.
//! * `tx`, `tx_message`: frames from the guest; `rx`, `rx_message`: frames to it.
//! * `offload`, `rss`, `toeplitz`, `filter`: what the guest configures.
//! * `nvsp_wire`, `rndis_wire`, `oid`: layouts, read independently of the driver's.
//! * `attack`: what a hostile host does, on request.
//! * `config`, `counters`, `report`: what goes in from and out to the command line.

mod attack;
mod buffers;
mod channel;
pub mod config;
mod counters;
pub mod device;
pub mod filter;
pub mod nic;
mod nvsp;
pub mod nvsp_wire;
pub mod offload;
pub mod oid;
mod query;
mod report;
mod rndis;
pub mod rndis_wire;
pub mod rss;
mod rx;
mod rx_message;
mod session;
pub mod toeplitz;
mod tx;
mod tx_message;
mod worker;

#[cfg(test)]
mod tests;

pub use attack::RingIndex;
pub use config::{NicConfig, OffloadSupport, RxOverload};
pub use device::{Netvsp, NicHandle};
pub use nvsp_wire::NvspVersion;
