// SPDX-License-Identifier: GPL-2.0

//! The seam between the VMBus server and a device behind it.
//!
//! The server owns protocol state (offers, GPADLs, channels); a device gets opened channels and a
//! [`DeviceHost`] through which it asks for sub-channel offers. Calls into the device come from the
//! server while it holds its lock: they must not block and must not call back into the server;
//! a device with a worker thread forwards them over a queue.

use std::sync::Arc;

use vmm_sys_util::eventfd::EventFd;

use super::gpadl::GpadlMemory;
use super::ring::RingPair;
use crate::fault::FaultPoints;

/// 16 bytes of a GUID in wire order.
pub type Guid = [u8; 16];

/// What the server puts into a device's OFFERCHANNEL.
#[derive(Clone, Debug)]
pub struct Offer {
    /// Class GUID (for a NIC `f8615163-df3e-46c5-913f-f2d2f965ed0e`).
    pub class: Guid,
    /// Instance GUID: names the device in sysfs.
    pub instance: Guid,
    /// Largest number of channels, the primary included.
    pub max_channels: u16,
}

/// One opened channel, handed to the device.
pub struct OpenChannel {
    /// Sub-channel index, 0 for the primary.
    pub index: u16,
    /// Relid, for logs and counters.
    pub relid: u32,
    /// Both rings and the interrupt towards the guest.
    pub rings: RingPair,
    /// Written when the guest signals the channel.
    pub kick: EventFd,
}

/// What a device may ask of the server. Cheap to clone; all calls are asynchronous and safe from
/// any thread but the server's own callbacks.
pub trait DeviceHost: Send + Sync {
    /// The memory behind a live GPADL of this device, `None` if the guest never established it.
    fn gpadl(&self, handle: u32) -> Option<Arc<GpadlMemory>>;
    /// Offers sub-channels 1..=count (replacing earlier ones that were rescinded).
    fn offer_subchannels(&self, count: u16);
    /// Rescinds one sub-channel.
    fn rescind_subchannel(&self, index: u16);
    /// Records that the guest broke the protocol: `name` is a stable identifier such as
    /// `nvsp.bad-length`, `detail` a sentence for a person. Any violation fails a scenario.
    fn violation(&self, name: &'static str, detail: String);
    /// The host-wide fault points.
    fn faults(&self) -> &FaultPoints;
}

/// A device behind the VMBus server.
pub trait VmbusDevice: Send {
    /// What to offer.
    fn offer(&self) -> Offer;
    /// Called once, before the device is offered.
    fn attach(&mut self, host: Arc<dyn DeviceHost>);
    /// The guest opened a channel; the rings are mapped. OPEN_RESULT is sent after this returns.
    fn open(&mut self, channel: OpenChannel);
    /// The guest closed channel `index`, or the server tore it down. After this returns the device
    /// must not touch the rings: it waits for its worker to let go of them.
    fn close(&mut self, index: u16);
    /// Counters of the device as JSON, for the control socket.
    fn counters(&self) -> serde_json::Value;
}
