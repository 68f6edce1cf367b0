// SPDX-License-Identifier: GPL-2.0

//! What guest and host agreed on since the guest opened the primary channel.

use std::collections::{BTreeSet, VecDeque};

use super::attack::Late;
use super::buffers::{ReceiveBuffer, SendBuffer};
use super::config::{NicConfig, DEFAULT_FRAME};
use super::filter::PacketFilter;
use super::nvsp_wire::NvspVersion;
use super::offload::Offloads;
use super::rss::Rss;

/// How far the RNDIS device is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RndisState {
    /// Before INITIALIZE.
    #[default]
    Uninitialized,
    /// Between INITIALIZE and HALT.
    Initialized,
    /// After HALT.
    Halted,
}

impl RndisState {
    /// Name in counters.
    pub fn name(self) -> &'static str {
        match self {
            RndisState::Uninitialized => "uninitialized",
            RndisState::Initialized => "initialized",
            RndisState::Halted => "halted",
        }
    }
}

/// One incarnation of the device, from open to close of the primary channel.
#[derive(Default)]
pub struct Session {
    /// Agreed version.
    pub version: Option<NvspVersion>,
    /// Longest frame, Ethernet header included.
    pub frame_len: u32,
    /// Capabilities the guest announced, `None` before NDIS_CONFIG.
    pub capabilities: Option<u64>,
    /// NDIS version of the guest.
    pub ndis: Option<(u32, u32)>,
    /// Receive buffer.
    pub receive: Option<ReceiveBuffer>,
    /// Send buffer.
    pub send: Option<SendBuffer>,
    /// RNDIS device.
    pub rndis: RndisState,
    /// Sub-channels granted.
    pub granted: u16,
    /// The send indirection table went out.
    pub table_sent: bool,
    /// Receive filter.
    pub filter: PacketFilter,
    /// Receive side scaling, `None` while off.
    pub rss: Option<Rss>,
    /// Offloads in force.
    pub offloads: Offloads,
    /// Offloads the guest may turn on.
    pub supported: Offloads,
    /// Control messages that wait for a receive section or room in the ring.
    pub control: VecDeque<Vec<u8>>,
    /// A fault refused a step that has no answer: what builds on it is refused, not reported.
    pub refused: bool,
    /// A fault made the host deaf.
    pub deaf: bool,
    /// Answers that are kept back.
    pub late: Vec<Late>,
    /// Ids of injected packets that the guest has to complete.
    pub injected: BTreeSet<u64>,
}

impl Session {
    /// A fresh incarnation.
    pub fn new() -> Self {
        Session {
            frame_len: DEFAULT_FRAME,
            ..Session::default()
        }
    }

    /// The guest and the host agree on `version`.
    pub fn agree(&mut self, version: NvspVersion, config: &NicConfig) {
        self.version = Some(version);
        self.supported = Offloads::supported(&config.offloads, version);
        self.offloads = self.supported;
    }

    /// Whether the agreed version is at least this one.
    pub fn at_least(&self, version: NvspVersion) -> bool {
        self.version.is_some_and(|v| v >= version)
    }

    /// Bytes of messages to the guest.
    pub fn message_len(&self) -> usize {
        self.version.unwrap_or(NvspVersion::V1).message_len()
    }

    /// Whether NDIS configuration (if the version has it) and version are there.
    pub fn is_configured(&self) -> bool {
        let config = !self.at_least(NvspVersion::V2) || self.capabilities.is_some();
        self.version.is_some() && config && self.ndis.is_some()
    }

    /// Whether RNDIS packets may be sent.
    pub fn is_ready(&self) -> bool {
        self.is_configured() && self.receive.is_some()
    }

    /// Whether frames go to the guest.
    pub fn receives(&self) -> bool {
        self.is_ready() && self.rndis == RndisState::Initialized && self.filter.bits != 0
    }
}
