// SPDX-License-Identifier: GPL-2.0

//! The message, or other action, of each step.

use super::step::Step;
use super::{Bringup, BringupError};
use crate::rndis::event::{Action, MESSAGE_BUFFER_LEN};
use crate::rndis::message;
use crate::rndis::nvsp::{capability, GuestMessage, MESSAGE_LEN};
use crate::rndis::offload::{self, MAX_CAPABILITIES_LEN, MAX_PARAMETERS_LEN};
use crate::rndis::oid::Oid;
use crate::rndis::pending::{Pending, RequestKind};
use crate::rndis::rss;
use crate::rndis::transaction::TransactionId;
use crate::rndis::version::NvspVersion;

/// Bytes of the Ethernet header, which the host counts as part of the MTU.
const ETHERNET_HEADER_LEN: u32 = 14;

impl Bringup {
    /// Hands out the current step's action.
    pub(super) fn request(&mut self, buffer: &mut [u8; MESSAGE_BUFFER_LEN]) -> Action {
        match self.step {
            Step::Init => self.nvsp(GuestMessage::Init(self.negotiated.version), true, buffer),
            Step::NdisConfig => self.nvsp(self.ndis_config(), false, buffer),
            Step::NdisVersion => {
                let message = GuestMessage::NdisVersion(self.negotiated.version);
                self.nvsp(message, false, buffer)
            }
            Step::ShareReceiveBuffer => {
                let bytes = self.config.receive_buffer_len(self.negotiated.version);
                self.negotiated.receive_buffer = bytes;
                Action::ShareReceiveBuffer { bytes }
            }
            Step::ShareSendBuffer => {
                let bytes = self.config.send_buffer_len();
                self.negotiated.send_buffer = bytes;
                Action::ShareSendBuffer { bytes }
            }
            Step::SendReceiveBuffer => {
                let gpadl = self.established.receive_gpadl.unwrap_or(0);
                self.nvsp(GuestMessage::SendReceiveBuffer { gpadl }, true, buffer)
            }
            Step::SendSendBuffer => {
                let gpadl = self.established.send_gpadl.unwrap_or(0);
                self.nvsp(GuestMessage::SendSendBuffer { gpadl }, true, buffer)
            }
            Step::Subchannels => {
                let count = self.subchannels_wanted();
                self.negotiated.subchannels_requested = count;
                let message = GuestMessage::AllocateSubchannels {
                    count: u32::from(count),
                };
                self.nvsp(message, true, buffer)
            }
            Step::OpenSubchannels => Action::OpenSubchannels {
                count: self.subchannels_granted,
            },
            Step::Done => Action::Done,
            _ => self.rndis_request(buffer),
        }
    }

    /// Sub-channels to ask for, given what is known about the host.
    pub(super) fn subchannels_wanted(&self) -> u16 {
        self.config
            .channels
            .min(self.negotiated.max_channels(self.config.online_cpus))
            .saturating_sub(1)
    }

    pub(super) fn effective_table(&self) -> rss::Table {
        self.negotiated.rss_table(self.config.rss_table.as_ref())
    }

    /// Only what this driver can handle: hosts act on these bits.
    fn ndis_config(&self) -> GuestMessage {
        let version = self.negotiated.version;
        let since = |first, bit| if version >= first { bit } else { 0 };
        let teaming = since(NvspVersion::V5, capability::TEAMING);
        let rsc = since(NvspVersion::V61, capability::RSC);
        GuestMessage::NdisConfig {
            frame_len: self.config.mtu.saturating_add(ETHERNET_HEADER_LEN),
            capabilities: capability::VLAN | teaming | rsc,
        }
    }

    fn nvsp(
        &mut self,
        message: GuestMessage,
        answered: bool,
        buffer: &mut [u8; MESSAGE_BUFFER_LEN],
    ) -> Action {
        let Some(room) = buffer.first_chunk_mut::<MESSAGE_LEN>() else {
            return self.too_long();
        };
        *room = message.encode();
        let mut transaction = TransactionId::NONE;
        if answered {
            transaction = self.ids.transaction();
            self.pending = Some(Pending::Nvsp { transaction });
        }
        Action::SendNvsp {
            len: MESSAGE_LEN,
            transaction,
        }
    }

    fn rndis_request(&mut self, buffer: &mut [u8; MESSAGE_BUFFER_LEN]) -> Action {
        let request_id = self.ids.request();
        let Some((kind, len)) = self.encode_rndis(request_id, buffer) else {
            return self.too_long();
        };
        let transaction = self.ids.transaction();
        self.pending = Some(Pending::rndis(transaction, request_id, kind));
        Action::SendRndis { len, transaction }
    }

    fn too_long(&mut self) -> Action {
        self.failure = Some(BringupError::MessageTooLong { step: self.step });
        Action::Wait
    }

    fn encode_rndis(&self, id: u32, out: &mut [u8]) -> Option<(RequestKind, usize)> {
        let query = |oid, out| message::encode_query(id, oid, &[], out);
        let (kind, len) = match self.step {
            Step::Initialize => (RequestKind::Initialize, message::encode_initialize(id, out)),
            Step::MaxFrameSize => (RequestKind::Query, query(Oid::GEN_MAXIMUM_FRAME_SIZE, out)),
            Step::Address => (
                RequestKind::Query,
                query(Oid::ETHERNET_PERMANENT_ADDRESS, out),
            ),
            Step::MediaStatus => (
                RequestKind::Query,
                query(Oid::GEN_MEDIA_CONNECT_STATUS, out),
            ),
            Step::LinkSpeed => (RequestKind::Query, query(Oid::GEN_LINK_SPEED, out)),
            Step::OffloadCapabilities => (RequestKind::Query, self.encode_offload_query(id, out)),
            Step::OffloadParameters => (RequestKind::Set, self.encode_offload_set(id, out)),
            Step::RssCapabilities => (RequestKind::Query, encode_rss_query(id, out)),
            Step::RssDisable => (
                RequestKind::Set,
                self.encode_rss_set(id, rss::Mode::Disable, out),
            ),
            Step::RssEnable => (
                RequestKind::Set,
                self.encode_rss_set(id, rss::Mode::Enable, out),
            ),
            _ => return None,
        };
        Some((kind, len?))
    }

    fn encode_offload_query(&self, id: u32, out: &mut [u8]) -> Option<usize> {
        let mut info = [0; MAX_CAPABILITIES_LEN];
        let len = offload::encode_capabilities_query(self.negotiated.version, &mut info)?;
        message::encode_query(
            id,
            Oid::TCP_OFFLOAD_HARDWARE_CAPABILITIES,
            info.get(..len)?,
            out,
        )
    }

    fn encode_offload_set(&self, id: u32, out: &mut [u8]) -> Option<usize> {
        let mut info = [0; MAX_PARAMETERS_LEN];
        let version = self.negotiated.version;
        let len = self
            .negotiated
            .offloads
            .encode_parameters(version, &mut info)?;
        message::encode_set(id, Oid::TCP_OFFLOAD_PARAMETERS, info.get(..len)?, out)
    }

    fn encode_rss_set(&self, id: u32, mode: rss::Mode, out: &mut [u8]) -> Option<usize> {
        let parameters = rss::Parameters {
            table: &self.effective_table(),
            key: &self.config.rss_key,
            types: self.config.flow_hash.types(self.negotiated.rss_hashes),
        };
        rss::encode_set(id, mode, &parameters, out)
    }
}

fn encode_rss_query(id: u32, out: &mut [u8]) -> Option<usize> {
    let mut info = [0; rss::CAPABILITIES_LEN];
    let len = rss::Capabilities::encode_query(&mut info)?;
    message::encode_query(
        id,
        Oid::GEN_RECEIVE_SCALE_CAPABILITIES,
        info.get(..len)?,
        out,
    )
}
