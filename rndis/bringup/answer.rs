// SPDX-License-Identifier: GPL-2.0

//! What the answer to each step changes.

use super::step::Step;
use super::{Bringup, BringupError, OnRefusal, Phase};
use crate::rndis::address::MacAddress;
use crate::rndis::link::LinkSpeed;
use crate::rndis::message::HostMessage;
use crate::rndis::nvsp::{Completion, Status, MIN_SECTION_LEN};
use crate::rndis::offload::Offloads;
use crate::rndis::pending::Refusal;
use crate::rndis::rss::{self, MAX_CHANNELS};
use crate::rndis::version::NvspVersion;
use crate::rndis::wire::u32_at;

/// Smallest MTU of an Ethernet device; a host that names less is not believed.
const MIN_MTU: u32 = 68;
/// Largest alignment of RNDIS messages: a page.
const MAX_ALIGNMENT_FACTOR: u32 = 12;
/// A batch counts its packets in a byte.
const MAX_PACKETS_PER_MESSAGE: u32 = 255;

/// Why an NVSP answer is no success.
pub(super) enum NvspFailure {
    /// The attach cannot go on.
    Fatal(BringupError),
    /// The step's policy decides.
    Refused(Refusal),
}

impl From<BringupError> for NvspFailure {
    fn from(error: BringupError) -> Self {
        Self::Fatal(error)
    }
}

fn accepted(status: Status) -> Result<(), NvspFailure> {
    if status.is_success() {
        Ok(())
    } else {
        Err(NvspFailure::Refused(Refusal::Nvsp(status)))
    }
}

impl Bringup {
    /// The completion of the current step's NVSP message.
    pub(super) fn nvsp_outcome(&mut self, completion: Completion) -> Result<(), NvspFailure> {
        match (self.step, completion) {
            (Step::Init, Completion::Init { status }) => accepted(status),
            (
                Step::SendReceiveBuffer,
                Completion::ReceiveBuffer {
                    status,
                    section_groups,
                    offset,
                    section_len,
                    section_count,
                },
            ) => {
                accepted(status)?;
                self.established.receive_buffer = true;
                self.receive_sections(section_groups, offset, section_len, section_count)
                    .map_err(NvspFailure::Fatal)
            }
            (
                Step::SendSendBuffer,
                Completion::SendBuffer {
                    status,
                    section_len,
                },
            ) => {
                accepted(status)?;
                self.established.send_buffer = true;
                self.send_sections(section_len).map_err(NvspFailure::Fatal)
            }
            (Step::Subchannels, Completion::Subchannels { status, count }) => {
                accepted(status)?;
                self.granted(count).map_err(NvspFailure::Fatal)
            }
            _ => Err(NvspFailure::Refused(Refusal::MalformedCompletion)),
        }
    }

    fn receive_sections(
        &mut self,
        groups: u32,
        offset: u32,
        len: u32,
        count: u32,
    ) -> Result<(), BringupError> {
        let fits = len
            .checked_mul(count)
            .is_some_and(|bytes| bytes <= self.negotiated.receive_buffer);
        if groups != 1 || offset != 0 || len < MIN_SECTION_LEN || count == 0 || !fits {
            return Err(BringupError::ReceiveSections {
                groups,
                offset,
                len,
                count,
            });
        }
        self.negotiated.receive_section_len = len;
        self.negotiated.receive_section_count = count;
        Ok(())
    }

    fn send_sections(&mut self, len: u32) -> Result<(), BringupError> {
        let count = self.negotiated.send_buffer.checked_div(len).unwrap_or(0);
        if len < MIN_SECTION_LEN || count == 0 {
            return Err(BringupError::SendSection(len));
        }
        self.negotiated.send_section_len = len;
        self.negotiated.send_section_count = count;
        Ok(())
    }

    fn granted(&mut self, count: u32) -> Result<(), BringupError> {
        let asked = self.negotiated.subchannels_requested;
        self.subchannels_granted = u16::try_from(count)
            .ok()
            .filter(|granted| *granted <= asked)
            .ok_or(BringupError::TooManySubchannels {
                asked,
                granted: count,
            })?;
        Ok(())
    }

    /// The successful answer to the current step's RNDIS message. The outer error ends the attach, the
    /// inner one is treated as a refusal.
    pub(super) fn rndis_answer(
        &mut self,
        message: &HostMessage<'_>,
    ) -> Result<Result<(), Refusal>, BringupError> {
        match *message {
            HostMessage::InitializeComplete {
                max_packets_per_message,
                alignment_factor,
                ..
            } => self
                .initialized(max_packets_per_message, alignment_factor)
                .map(Ok),
            HostMessage::QueryComplete { info, .. } => self.query_answer(info),
            _ => {
                if self.step == Step::RssEnable {
                    self.negotiated.rss_enabled = true;
                }
                Ok(Ok(()))
            }
        }
    }

    fn initialized(&mut self, max_packets: u32, factor: u32) -> Result<(), BringupError> {
        self.established.rndis = true;
        if factor > MAX_ALIGNMENT_FACTOR {
            return Err(BringupError::Alignment(factor));
        }
        self.negotiated.max_packets_per_message = max_packets.clamp(1, MAX_PACKETS_PER_MESSAGE);
        self.negotiated.alignment = 1 << factor;
        Ok(())
    }

    fn query_answer(&mut self, info: &[u8]) -> Result<Result<(), Refusal>, BringupError> {
        let understood = match self.step {
            Step::MaxFrameSize => self.max_frame_size(info),
            Step::Address => self.address(info)?,
            Step::OffloadCapabilities => {
                let mut offloads = Offloads::negotiate(info).map_err(BringupError::Offload)?;
                // Only a host that has the promise may be told to.
                offloads.rsc_offered &= self.negotiated.version >= NvspVersion::V61;
                offloads.rx_checksum = self.config.rx_checksum;
                offloads.rsc = offloads.rsc_offered && self.config.coalesce;
                self.negotiated.offloads = offloads;
                Some(())
            }
            Step::MediaStatus => u32_at(info, 0).map(|status| {
                self.negotiated.link_up = status == 0;
            }),
            Step::LinkSpeed => u32_at(info, 0).map(|speed| {
                self.negotiated.link_speed = Some(LinkSpeed(speed));
            }),
            Step::RssCapabilities => self.rss_capabilities(info),
            _ => None,
        };
        Ok(understood.ok_or(Refusal::MalformedAnswer))
    }

    fn max_frame_size(&mut self, info: &[u8]) -> Option<()> {
        let mtu = u32_at(info, 0).filter(|mtu| info.len() == 4 && *mtu >= MIN_MTU)?;
        self.negotiated.host_mtu = Some(mtu);
        self.negotiated.mtu = self.negotiated.mtu.min(mtu);
        Some(())
    }

    fn address(&mut self, info: &[u8]) -> Result<Option<()>, BringupError> {
        let Ok(bytes) = <[u8; 6]>::try_from(info) else {
            return Ok(None);
        };
        let mac = MacAddress(bytes);
        if !mac.is_valid() {
            return Err(BringupError::Address(mac));
        }
        self.negotiated.mac = mac;
        Ok(Some(()))
    }

    fn rss_capabilities(&mut self, info: &[u8]) -> Option<()> {
        let capabilities = rss::Capabilities::decode(info)?;
        if capabilities.receive_queues < 2 {
            return Some(());
        }
        let queues = u16::try_from(capabilities.receive_queues).unwrap_or(MAX_CHANNELS);
        self.negotiated.rss_table_len = capabilities.table_len;
        self.negotiated.rss_hashes = capabilities.hashes;
        self.negotiated.host_channels = queues.clamp(1, MAX_CHANNELS);
        // Of one channel, unless sub-channels open.
        self.negotiated.user_table = self.user_table_fits();
        Some(())
    }

    /// A buffer that was asked for is shared.
    pub(super) fn shared(&mut self, gpadl: u32) -> Result<(), BringupError> {
        match (self.step, self.phase) {
            (Step::ShareReceiveBuffer, Phase::Waiting) => {
                self.established.receive_gpadl = Some(gpadl);
                self.advance();
            }
            (Step::ShareSendBuffer, Phase::Waiting) => {
                self.established.send_gpadl = Some(gpadl);
                self.advance();
            }
            _ => self.ignore(),
        }
        Ok(())
    }

    /// The sub-channels that were asked for are open, or as many as could be.
    pub(super) fn subchannels_open(&mut self, count: u16) -> Result<(), BringupError> {
        if (self.step, self.phase) != (Step::OpenSubchannels, Phase::Waiting) {
            self.ignore();
            return Ok(());
        }
        let granted = self.subchannels_granted;
        let open = count.min(granted);
        if open < granted {
            if self.config.on_refusal == OnRefusal::Fail {
                return Err(BringupError::SubchannelsNotOpen { granted, open });
            }
            self.negotiated.refuse(Step::OpenSubchannels);
        }
        self.negotiated.channels = open.saturating_add(1);
        self.negotiated.user_table = self.user_table_fits();
        self.advance();
        Ok(())
    }

    fn user_table_fits(&self) -> bool {
        self.config.rss_table.as_ref().is_some_and(|table| {
            table.len() == self.negotiated.rss_table_len && table.fits(self.negotiated.channels)
        })
    }

    /// The host refused a version: try the next older one.
    pub(super) fn lower_version(&mut self) -> Result<(), BringupError> {
        let lower = self.negotiated.version.lower();
        self.negotiated.version = lower.ok_or(BringupError::NoVersion)?;
        self.phase = Phase::Ready;
        Ok(())
    }
}
