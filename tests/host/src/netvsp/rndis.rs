// SPDX-License-Identifier: GPL-2.0

//! RNDIS control messages: initialise, query, set, halt, keepalive, reset; and indications.

use zerocopy::little_endian::U32;
use zerocopy::FromBytes;

use super::channel::Outgoing;
use super::nic::{Fault, Nic};
use super::nvsp_wire::{self, kind as nvsp_kind, NvspVersion, RECEIVE_BUFFER_ID};
use super::oid;
use super::rndis_wire::{self as wire, kind, status};
use super::session::RndisState;
use crate::vmbus::ring::{
    transfer_page_header, PacketType, TransferRange, WriteError, COMPLETION_REQUESTED,
};

/// Connection-less device.
const FLAG_CONNECTIONLESS: u32 = 1;
/// Frames a guest may put into one buffer.
pub const MAX_PACKETS: u32 = 8;
const MAX_TRANSFER: u32 = 0xefff_ffff;
/// Frames in one buffer start at multiples of 8.
const ALIGNMENT_SHIFT: u32 = 3;
/// Offset of the information buffer behind each fixed part, counted from the body.
const QUERY_INFO_OFFSET: u32 = size_of::<wire::QueryComplete>() as u32;
const INDICATE_INFO_OFFSET: u32 = size_of::<wire::Indicate>() as u32;

/// NVSP channel type of control messages.
pub const CHANNEL_CONTROL: u32 = 1;
/// NVSP channel type of frames.
pub const CHANNEL_DATA: u32 = 0;

/// Outcome of a query or set: status, and the information buffer of a query.
pub(super) type OidResult = Result<Vec<u8>, u32>;

impl Nic {
    /// Serves a control message. Answers are queued.
    pub(super) fn on_control(&mut self, message: &[u8]) {
        let (header, body) = match wire::Header::read_from_prefix(message) {
            Ok(parts) => parts,
            Err(_) => return self.violation("rndis.length", "control message without header"),
        };
        if header.len.get() as usize != message.len() {
            let detail = format!("length {} in {} bytes", header.len, message.len());
            return self.violation("rndis.length", detail);
        }
        match header.kind.get() {
            kind::INITIALIZE => self.on_initialize(body),
            kind::HALT => self.on_halt(body),
            kind::QUERY | kind::SET => self.on_request(header.kind.get(), body),
            kind::KEEPALIVE => self.on_keepalive(body),
            kind::RESET => self.on_reset(),
            other => self.violation("rndis.type", format!("control message {other:#x}")),
        }
    }

    fn count_rndis(&mut self, name: String) {
        *self.counters.rndis.entry(name).or_default() += 1;
    }

    fn on_initialize(&mut self, body: &[u8]) {
        self.count_rndis("INITIALIZE".to_owned());
        let Ok((m, _)) = wire::Initialize::read_from_prefix(body) else {
            return self.violation("rndis.length", "short INITIALIZE");
        };
        let status = match self.fault("rndis.initialize") {
            Fault::Silent => return,
            Fault::Refuse => status::FAILURE,
            Fault::Status(status) => status,
            Fault::None | Fault::Grant(_) => {
                if m.major.get() != wire::MAJOR {
                    let detail = format!("INITIALIZE with version {}.{}", m.major, m.minor);
                    self.violation("rndis.version", detail);
                }
                if self.session.rndis == RndisState::Initialized {
                    self.violation("rndis.order", "second INITIALIZE");
                }
                self.session.rndis = RndisState::Initialized;
                status::SUCCESS
            }
        };
        let answer = wire::InitializeComplete {
            id: m.id,
            status: status.into(),
            major: wire::MAJOR.into(),
            minor: 0.into(),
            flags: FLAG_CONNECTIONLESS.into(),
            medium: 0.into(),
            max_packets: MAX_PACKETS.into(),
            max_transfer: MAX_TRANSFER.into(),
            alignment: ALIGNMENT_SHIFT.into(),
            af_offset: 0.into(),
            af_size: 0.into(),
        };
        self.reply(wire::build(
            kind::INITIALIZE | kind::COMPLETION,
            &answer,
            &[],
        ));
    }

    fn on_halt(&mut self, body: &[u8]) {
        self.count_rndis("HALT".to_owned());
        if body.len() < size_of::<U32>() {
            self.violation("rndis.length", "short HALT");
        }
        // There is no answer that could be refused: a fault makes the host ignore the message.
        if self.fault("rndis.halt") == Fault::None {
            self.session.rndis = RndisState::Halted;
            self.session.filter = Default::default();
            self.session.rss = None;
            self.drop_staged("filter-closed");
        }
    }

    fn on_keepalive(&mut self, body: &[u8]) {
        self.count_rndis("KEEPALIVE".to_owned());
        let Ok((id, _)) = U32::read_from_prefix(body) else {
            return self.violation("rndis.length", "short KEEPALIVE");
        };
        let status = match self.fault("rndis.keepalive") {
            Fault::Silent => return,
            Fault::Refuse => status::FAILURE,
            Fault::Status(status) => status,
            Fault::None | Fault::Grant(_) => status::SUCCESS,
        };
        self.complete(kind::KEEPALIVE, id.get(), status);
    }

    fn on_reset(&mut self) {
        self.count_rndis("RESET".to_owned());
        let status = match self.fault("rndis.reset") {
            Fault::Silent => return,
            Fault::Status(status) => status,
            Fault::None | Fault::Grant(_) | Fault::Refuse => status::FAILURE,
        };
        let answer = wire::ResetComplete {
            status: status.into(),
            addressing_reset: 0.into(),
        };
        self.reply(wire::build(kind::RESET | kind::COMPLETION, &answer, &[]));
    }

    fn on_request(&mut self, kind: u32, body: &[u8]) {
        let Ok((request, _)) = wire::Request::read_from_prefix(body) else {
            return self.violation("rndis.length", "short QUERY or SET");
        };
        let query = kind == kind::QUERY;
        let name = oid::name(request.oid.get());
        let (verb, point) = if query {
            ("QUERY", format!("rndis.query.{name}"))
        } else {
            ("SET", format!("rndis.set.{name}"))
        };
        self.count_rndis(format!("{verb}.{name}"));
        let result = match self.fault(&point) {
            Fault::Silent => return,
            Fault::Refuse => Err(status::FAILURE),
            Fault::Status(status) => Err(status),
            Fault::None | Fault::Grant(_) => self.serve(query, &request, body),
        };
        if query {
            self.complete_query(request.id.get(), result);
        } else {
            let status = result.err().unwrap_or(status::SUCCESS);
            self.complete(kind::SET, request.id.get(), status);
            if status == status::SUCCESS && request.oid.get() == oid::TCP_OFFLOAD_PARAMETERS {
                self.indicate_offloads();
            }
        }
    }

    fn serve(&mut self, query: bool, request: &wire::Request, body: &[u8]) -> OidResult {
        if self.session.rndis != RndisState::Initialized {
            let detail = format!("request while {}", self.session.rndis.name());
            self.violation("rndis.order", detail);
            return Err(status::FAILURE);
        }
        let info = info_buffer(request, body);
        let Some(info) = info.filter(|_| request.vc.get() == 0) else {
            let detail = format!(
                "{}: information of {} bytes at {} in a body of {}, vc {}",
                oid::name(request.oid.get()),
                request.len,
                request.offset,
                body.len(),
                request.vc
            );
            self.violation("rndis.request", detail);
            return Err(status::INVALID_DATA);
        };
        if query {
            self.query(request.oid.get(), info)
        } else {
            self.set(request.oid.get(), info).map(|()| Vec::new())
        }
    }

    fn complete_query(&mut self, id: u32, result: OidResult) {
        let (status, info) = match result {
            Ok(info) => (status::SUCCESS, info),
            Err(status) => (status, Vec::new()),
        };
        let answer = wire::QueryComplete {
            id: id.into(),
            status: status.into(),
            len: (info.len() as u32).into(),
            offset: QUERY_INFO_OFFSET.into(),
        };
        self.reply(wire::build(kind::QUERY | kind::COMPLETION, &answer, &info));
    }

    fn complete(&mut self, kind: u32, id: u32, status: u32) {
        let answer = wire::Complete {
            id: id.into(),
            status: status.into(),
        };
        self.reply(wire::build(kind | kind::COMPLETION, &answer, &[]));
    }

    /// Tells the guest something it did not ask for, if it listens.
    pub(super) fn indicate(&mut self, status: u32, name: &str, info: &[u8]) {
        if self.session.rndis != RndisState::Initialized {
            return;
        }
        *self
            .counters
            .indications
            .entry(name.to_owned())
            .or_default() += 1;
        let indication = wire::Indicate {
            status: status.into(),
            len: (info.len() as u32).into(),
            offset: INDICATE_INFO_OFFSET.into(),
        };
        self.reply(wire::build(kind::INDICATE, &indication, info));
    }

    fn indicate_offloads(&mut self) {
        let version = self.session.version.unwrap_or(NvspVersion::V1);
        let config = self.session.offloads.describe(version);
        let status = status::TASK_OFFLOAD_CURRENT_CONFIG;
        self.indicate(status, "TASK_OFFLOAD_CURRENT_CONFIG", &config);
    }

    /// Queues a control message to the guest.
    fn reply(&mut self, message: Vec<u8>) {
        match self.corruption.take() {
            Some(corruption) => self.reply_spoilt(message, corruption),
            None => self.session.control.push_back(message),
        }
    }

    /// Sends waiting control messages, each in a receive section of its own.
    pub(super) fn flush_control(&mut self) {
        let Some(primary) = self.channels.get_mut(&0) else {
            return;
        };
        if !primary.outbox.is_empty() || self.session.control.is_empty() {
            return;
        }
        let nvsp = rndis_packet(CHANNEL_CONTROL, self.session.message_len());
        let session = &mut self.session;
        let Some(receive) = &mut session.receive else {
            return;
        };
        while let Some(message) = session.control.front() {
            let Some(section) = receive.take_control() else {
                return;
            };
            let written = receive.write(section, 0, message).map_err(|error| {
                tracing::debug!("receive buffer: {error}");
                WriteError::Broken
            });
            let range = TransferRange {
                len: message.len() as u32,
                offset: receive.offset(section) as u32,
            };
            let header = transfer_page_header(RECEIVE_BUFFER_ID, &[range]);
            let written = written.and_then(|()| {
                primary.rings.outgoing.try_write(
                    PacketType::TransferPages,
                    COMPLETION_REQUESTED,
                    u64::from(section),
                    &header,
                    &[&nvsp],
                )
            });
            match written {
                Ok(()) => {
                    receive.sent(0, vec![section]);
                    session.control.pop_front();
                }
                Err(WriteError::Full) => {
                    primary.counters.ring_full += 1;
                    receive.put_back(&[section]);
                    return;
                }
                Err(_) => {
                    receive.put_back(&[section]);
                    session.control.clear();
                }
            }
        }
    }

    /// Reads and serves the control message of a ring packet; its completion goes first.
    pub(super) fn control_packet(&mut self, id: u64, wants_completion: bool, message: &[u8]) {
        if wants_completion {
            let completion =
                rndis_completion(nvsp_wire::status::SUCCESS, self.session.message_len());
            self.queue(0, Outgoing::completion(id, completion));
        }
        self.on_control(message);
    }
}

/// The information buffer of a request, `None` if it does not lie in the body.
fn info_buffer<'a>(request: &wire::Request, body: &'a [u8]) -> Option<&'a [u8]> {
    let (offset, len) = (request.offset.get() as usize, request.len.get() as usize);
    if len == 0 {
        return Some(&[]);
    }
    if offset < size_of::<wire::Request>() {
        return None;
    }
    body.get(offset..offset.checked_add(len)?)
}

/// The NVSP message in front of RNDIS messages to the guest.
pub(super) fn rndis_packet(channel_type: u32, len: usize) -> Vec<u8> {
    let body = nvsp_wire::RndisPacket {
        channel_type: channel_type.into(),
        section_index: nvsp_wire::NO_SECTION.into(),
        section_size: 0.into(),
    };
    nvsp_wire::build(nvsp_kind::SEND_RNDIS_PACKET, &body, len)
}

/// The NVSP message that completes a ring packet with RNDIS messages.
pub(super) fn rndis_completion(status: u32, len: usize) -> Vec<u8> {
    let body = nvsp_wire::RndisPacketComplete {
        status: status.into(),
    };
    nvsp_wire::build(nvsp_kind::SEND_RNDIS_PACKET_COMPLETE, &body, len)
}
