// SPDX-License-Identifier: GPL-2.0

//! The seam between the VMBus server and a device behind it.
//!
//! The server owns protocol state (offers, GPADLs, channels); a device gets opened channels and a
//! [`DeviceHost`] through which it asks for sub-channel offers.
//!
//! # Threads and locks
//!
//! All protocol work is done by one thread of the server. It calls [`VmbusDevice`] methods with no
//! lock held but the one around that device, so `close` may wait for the device's worker. Calls of
//! [`DeviceHost`] only take locks under which nothing else is called, or put a request into the
//! server's queue: they never wait for the server, and are allowed from any thread at any time,
//! from within device callbacks too.
//!
//! Requests take effect in the order in which they were made. One that comes too late (sub-channels
//! wanted by an incarnation that the guest has closed meanwhile) is dropped.

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
    /// Written when the guest signals the channel. Non-blocking; the value read is the number of
    /// signals, to be passed to [`RingPair::note_doorbells`].
    pub kick: EventFd,
}

/// What a device may ask of the server.
pub trait DeviceHost: Send + Sync {
    /// The memory behind a live GPADL of one of this device's channels, `None` if the guest never
    /// established it or has torn it down. Access to memory that was torn down fails later on.
    fn gpadl(&self, handle: u32) -> Option<Arc<GpadlMemory>>;
    /// Offers sub-channels 1..=count; those that are offered already stay as they are. Does
    /// nothing unless the primary channel is open.
    fn offer_subchannels(&self, count: u16);
    /// Rescinds one sub-channel. Index 0 takes the whole device away, as hot removal does: the
    /// server closes its channels, and drops the device once the guest released them.
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
    /// The guest must not be interrupted before, so nothing should be written to the rings yet
    /// except in answer to a packet.
    fn open(&mut self, channel: OpenChannel);
    /// The guest closed channel `index`, or the server tore it down. After this returns the device
    /// must not touch the rings: it waits for its worker to let go of them. When the primary goes,
    /// open sub-channels are closed first.
    fn close(&mut self, index: u16);
    /// Counters of the device as JSON, for the control socket.
    fn counters(&self) -> serde_json::Value;
}
