// SPDX-License-Identifier: GPL-2.0

//! What a NIC of the test host is wired to: another NIC ([`switch`]), a TAP interface of the
//! machine ([`tap`]), a packet generator ([`generator`]), a counter ([`sink`]) or nothing
//! ([`null`]). [`pcap`] records the frames of any NIC.
//!
//! Frames cross this seam as [`frame::Frame`]: Ethernet bytes without FCS plus the metadata that a
//! NIC passes beside them (VLAN tag, checksum state, segmentation request).

pub mod checksum;
pub mod frame;
pub mod generator;
pub mod headers;
pub mod null;
pub mod pcap;
pub mod segment;
pub mod sink;
pub mod switch;
pub mod tap;

use std::io;
use std::os::fd::RawFd;

use frame::Frame;

/// What a back end finishes itself; everything else the NIC finishes before [`Backend::transmit`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Takes {
    /// Frames whose TCP or UDP checksum is still to be computed.
    pub partial_checksum: bool,
    /// TCP frames larger than the MTU, to be cut into segments.
    pub segmentation: bool,
    /// The VLAN tag as metadata instead of in the frame.
    pub vlan_metadata: bool,
}

/// Why a back end did not take a frame. The name is the counter it appears under.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TxDrop {
    /// The peer's queue is full.
    QueueFull,
    /// There is no peer.
    NoPeer,
    /// The operating system refused the frame.
    Error,
}

impl TxDrop {
    /// Name of the counter.
    pub fn name(self) -> &'static str {
        match self {
            TxDrop::QueueFull => "backend-queue-full",
            TxDrop::NoPeer => "backend-no-peer",
            TxDrop::Error => "backend-error",
        }
    }
}

/// One end of a wire. Used by the worker thread of one NIC only.
pub trait Backend: Send {
    /// Short name for counters, as in a NIC's description: `switch`, `tap`, `gen`, `sink`, `null`.
    fn kind(&self) -> &'static str;
    /// What the back end finishes itself.
    fn takes(&self) -> Takes {
        Takes::default()
    }
    /// A descriptor that polls readable while frames wait, if the back end ever receives.
    fn readiness(&self) -> Option<RawFd>;
    /// Sends one frame from the guest. Never blocks.
    fn transmit(&mut self, frame: Frame) -> Result<(), TxDrop>;
    /// Appends up to `budget` waiting frames to `out`. Never blocks. Frames left behind keep the
    /// descriptor of [`Backend::readiness`] readable.
    fn receive(&mut self, budget: usize, out: &mut Vec<Frame>) -> io::Result<()>;
    /// The link of the NIC changed; a back end may mirror it.
    fn set_link(&mut self, _up: bool) {}
    /// Counters of the back end itself.
    fn counters(&self) -> serde_json::Value;
}
