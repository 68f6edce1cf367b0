// SPDX-License-Identifier: GPL-2.0

//! NVSP: takes packets off a channel's ring, does the handshake, and hands RNDIS on.

use super::buffers::{BadCompletion, ReceiveBuffer, SendBuffer, SEND_SECTION};
use super::channel::Outgoing;
use super::nic::{Fault, Nic};
use super::nvsp_wire::{
    self as wire, kind, status, GuestMessage, NvspVersion, RECEIVE_BUFFER_ID, SEND_BUFFER_ID,
};
use crate::vmbus::ring::{Packet, PacketType};

/// Reported length of MDL chains; guests ignore it.
const MAX_MDL_CHAIN: u32 = 34;
/// "Not telling": the version in INIT_COMPLETE, which guests ignore.
const VERSION_UNUSED: u32 = 0xffff_ffff;
const MIB: usize = 1 << 20;
/// Largest receive buffer below and from NVSP 4.
const RECEIVE_MAX: (usize, usize) = (15 * MIB, 31 * MIB);
const SEND_MAX: usize = 15 * MIB;
/// Sub-channel request: allocate.
const SUBCHANNEL_ALLOCATE: u32 = 1;
/// `OidQueryComplete::status`: NDIS_STATUS_NOT_SUPPORTED.
const OID_NOT_SUPPORTED: u32 = 0xc000_00bb;

/// Why a handshake step is refused: violation name and detail, or no violation at all.
type Refusal = Option<(&'static str, String)>;

fn refusal<T>(name: &'static str, detail: String) -> Result<T, Refusal> {
    Err(Some((name, detail)))
}

impl Nic {
    /// Serves up to `budget` packets of a channel. Returns how many there were.
    pub fn service(&mut self, index: u16, budget: usize) -> usize {
        let mut packet = Packet::default();
        for served in 0..budget {
            let Some(channel) = self.channels.get_mut(&index) else {
                return served;
            };
            if channel.is_clogged() || !channel.rings.incoming.next_into(&mut packet) {
                return served;
            }
            self.on_packet(index, &packet);
        }
        budget
    }

    /// Serves one packet.
    fn on_packet(&mut self, index: u16, packet: &Packet) {
        if self.session.deaf {
            return;
        }
        self.take_packet(index, packet);
        // A request without answer leaves it behind.
        self.corruption = None;
    }

    fn take_packet(&mut self, index: u16, packet: &Packet) {
        match packet.kind {
            PacketType::Completion => self.on_completion(index, packet),
            PacketType::InBand | PacketType::GpaDirect => self.on_message(index, packet),
            PacketType::TransferPages => {
                self.violation("nvsp.packet-type", "transfer-page packet from the guest");
            }
        }
    }

    fn on_message(&mut self, index: u16, packet: &Packet) {
        let message = match GuestMessage::parse(&packet.payload) {
            Ok(message) => message,
            Err(error) => return self.violation("nvsp.bad-message", error),
        };
        *self.counters.nvsp.entry(message.name()).or_default() += 1;
        if let GuestMessage::Rndis(rndis) = message {
            return self.on_rndis_packet(index, packet, &rndis);
        }
        if packet.kind != PacketType::InBand {
            let detail = format!("{} not in band", message.name());
            return self.violation("nvsp.packet-type", detail);
        }
        if index != 0 {
            let detail = format!("{} on sub-channel {index}", message.name());
            return self.violation("nvsp.wrong-channel", detail);
        }
        self.on_primary(packet, &message);
    }

    fn on_primary(&mut self, packet: &Packet, message: &GuestMessage) {
        let fault = message
            .fault_point()
            .map_or(Fault::None, |point| self.fault(point));
        if fault == Fault::Silent {
            // Nothing follows a request that has no answer: the host stops listening instead.
            self.session.deaf = !answered(message);
            return;
        }
        if answered(message) && !packet.wants_completion() {
            let detail = format!("{} without asking for a completion", message.name());
            return self.violation("nvsp.no-completion-flag", detail);
        }
        let id = packet.transaction_id;
        match message {
            GuestMessage::Init(m) => self.on_init(id, m, fault),
            GuestMessage::ReceiveBuffer(m) => self.on_receive_buffer(id, m, fault),
            GuestMessage::SendBuffer(m) => self.on_send_buffer(id, m, fault),
            GuestMessage::Subchannel(m) => self.on_subchannel(id, m, fault),
            GuestMessage::OidQueryEx => self.on_oid_query(id),
            GuestMessage::SwitchDataPath(m) => self.on_switch_data_path(id, m),
            unanswered => {
                self.on_unanswered(unanswered, fault);
                if packet.wants_completion() {
                    self.queue(0, Outgoing::completion(id, Vec::new()));
                }
            }
        }
    }

    fn on_unanswered(&mut self, message: &GuestMessage, fault: Fault) {
        if fault != Fault::None {
            self.session.refused = true;
            return;
        }
        let checked = match message {
            GuestMessage::NdisConfig(m) => self.on_ndis_config(m),
            GuestMessage::NdisVersion(m) => self.on_ndis_version(m),
            GuestMessage::RevokeReceiveBuffer(m) => self.on_revoke_receive(m.id.get()),
            GuestMessage::RevokeSendBuffer(m) => self.on_revoke_send(m.id.get()),
            _ => Ok(()),
        };
        self.note_refusal(checked.err().flatten());
    }

    fn note_refusal(&mut self, refusal: Refusal) {
        if let Some((name, detail)) = refusal {
            if !self.session.refused {
                self.violation(name, detail);
            }
        }
    }

    /// Status word for the outcome of a step, after reporting it.
    fn conclude(&mut self, outcome: Result<(), Refusal>, fault: Fault) -> u32 {
        if let Fault::Status(status) = fault {
            return status;
        }
        match outcome {
            Ok(()) => status::SUCCESS,
            Err(refusal) => {
                self.note_refusal(refusal);
                status::FAIL
            }
        }
    }

    fn on_init(&mut self, id: u64, m: &wire::Init, fault: Fault) {
        let (min, max) = (m.min.get(), m.max.get());
        let outcome = self.try_init(min, max, fault);
        let status = match (outcome, fault) {
            (Ok(Some(version)), _) => {
                tracing::debug!(nic = self.config.name, "NVSP {}", version.name());
                status::SUCCESS
            }
            (_, Fault::Status(status)) => status,
            (_, Fault::Refuse) => status::FAIL,
            (Ok(None), _) => status::NONE,
            (Err(refusal), _) => {
                self.note_refusal(refusal);
                status::FAIL
            }
        };
        let version = match self.session.version {
            Some(NvspVersion::V1) => NvspVersion::V1.value(),
            _ => VERSION_UNUSED,
        };
        let body = wire::InitComplete {
            version: version.into(),
            max_mdl_chain: MAX_MDL_CHAIN.into(),
            status: status.into(),
        };
        // The length of messages changes with the version, but not for this one.
        let message = wire::build(kind::INIT_COMPLETE, &body, wire::MESSAGE_LEN);
        self.queue(0, Outgoing::completion(id, message));
    }

    /// `Ok(None)` if host and guest have no version in common.
    fn try_init(
        &mut self,
        min: u32,
        max: u32,
        fault: Fault,
    ) -> Result<Option<NvspVersion>, Refusal> {
        if self.session.version.is_some() {
            return refusal("nvsp.order", "INIT after a version was agreed".to_owned());
        }
        if fault != Fault::None || min > max {
            return Ok(None);
        }
        let highest = self.config.max_nvsp;
        let version = NvspVersion::ALL
            .into_iter()
            .rfind(|v| *v <= highest && (min..=max).contains(&v.value()));
        if let Some(version) = version {
            self.session.agree(version, &self.config);
        }
        Ok(version)
    }

    fn on_ndis_config(&mut self, m: &wire::NdisConfig) -> Result<(), Refusal> {
        let mtu = m.mtu.get();
        let s = &mut self.session;
        if !s.at_least(NvspVersion::V2) {
            return refusal(
                "nvsp.order",
                "SEND_NDIS_CONFIG before NVSP 2 was agreed".to_owned(),
            );
        }
        if s.capabilities.is_some() {
            return refusal("nvsp.order", "second SEND_NDIS_CONFIG".to_owned());
        }
        if s.receive.is_some() {
            return refusal(
                "nvsp.order",
                "SEND_NDIS_CONFIG after SEND_RECV_BUF".to_owned(),
            );
        }
        s.capabilities = Some(m.capabilities.get());
        s.frame_len = self.config.frame_len(mtu);
        Ok(())
    }

    fn on_ndis_version(&mut self, m: &wire::NdisVersion) -> Result<(), Refusal> {
        let (major, minor) = (m.major.get(), m.minor.get());
        let s = &mut self.session;
        let Some(version) = s.version else {
            return refusal("nvsp.order", "SEND_NDIS_VER before INIT".to_owned());
        };
        if s.ndis.is_some() {
            return refusal("nvsp.order", "second SEND_NDIS_VER".to_owned());
        }
        s.ndis = Some((major, minor));
        let wanted = if version >= NvspVersion::V5 { 30 } else { 1 };
        if (major, minor) != (6, wanted) {
            let detail = format!("NDIS {major}.{minor} at NVSP {}", version.name());
            return refusal("nvsp.ndis-version", detail);
        }
        Ok(())
    }

    fn on_receive_buffer(&mut self, id: u64, m: &wire::SendBuffer, fault: Fault) {
        let outcome = self.try_receive_buffer(m, fault);
        let status = self.conclude(outcome, fault);
        let mut body = wire::ReceiveBufferComplete {
            status: status.into(),
            sections: 0.into(),
            offset: 0.into(),
            suballoc_size: 0.into(),
            suballocs: 0.into(),
            end: 0.into(),
        };
        if let Some(receive) = self.session.receive.as_ref().filter(|_| status == 1) {
            let size = receive.section_size() as u32;
            body.sections = 1.into();
            body.suballoc_size = size.into();
            body.suballocs = receive.sections().into();
            body.end = (size * receive.sections()).into();
        }
        self.answer(0, id, kind::SEND_RECEIVE_BUFFER_COMPLETE, &body);
    }

    fn try_receive_buffer(&mut self, m: &wire::SendBuffer, fault: Fault) -> Result<(), Refusal> {
        let s = &self.session;
        if fault != Fault::None || s.refused {
            return Err(None);
        }
        if !s.is_configured() {
            return refusal(
                "nvsp.order",
                "SEND_RECV_BUF before configuration".to_owned(),
            );
        }
        if s.receive.is_some() {
            return refusal("nvsp.order", "second SEND_RECV_BUF".to_owned());
        }
        let limit = if s.at_least(NvspVersion::V4) {
            RECEIVE_MAX.1
        } else {
            RECEIVE_MAX.0
        };
        let memory = self.buffer_memory("receive", m, RECEIVE_BUFFER_ID, limit)?;
        let len = memory.len();
        match ReceiveBuffer::new(memory, s.frame_len) {
            Some(receive) => self.session.receive = Some(receive),
            None => {
                let detail = format!("receive buffer of {len} bytes is too small");
                return refusal("nvsp.buffer-size", detail);
            }
        }
        Ok(())
    }

    fn buffer_memory(
        &self,
        what: &str,
        m: &wire::SendBuffer,
        id: u16,
        limit: usize,
    ) -> Result<std::sync::Arc<crate::vmbus::gpadl::GpadlMemory>, Refusal> {
        let (handle, got) = (m.gpadl.get(), m.id.get());
        if got != id {
            return refusal("nvsp.buffer-id", format!("{what} buffer with id {got:#x}"));
        }
        let Some(memory) = self.host.gpadl(handle) else {
            return refusal(
                "nvsp.buffer-gpadl",
                format!("{what} buffer: no GPADL {handle:#x}"),
            );
        };
        if !memory.is_page_aligned() {
            return refusal(
                "nvsp.buffer-gpadl",
                format!("{what} buffer not of whole pages"),
            );
        }
        if memory.len() > limit {
            let detail = format!("{what} buffer of {} bytes, limit {limit}", memory.len());
            return refusal("nvsp.buffer-size", detail);
        }
        Ok(memory)
    }

    fn on_send_buffer(&mut self, id: u64, m: &wire::SendBuffer, fault: Fault) {
        let outcome = self.try_send_buffer(m, fault);
        let status = self.conclude(outcome, fault);
        let size = if status == status::SUCCESS {
            SEND_SECTION
        } else {
            0
        };
        let body = wire::SendBufferComplete {
            status: status.into(),
            section_size: (size as u32).into(),
        };
        self.answer(0, id, kind::SEND_SEND_BUFFER_COMPLETE, &body);
    }

    fn try_send_buffer(&mut self, m: &wire::SendBuffer, fault: Fault) -> Result<(), Refusal> {
        let s = &self.session;
        if fault != Fault::None || s.refused {
            return Err(None);
        }
        if !s.is_configured() {
            return refusal(
                "nvsp.order",
                "SEND_SEND_BUF before configuration".to_owned(),
            );
        }
        if s.send.is_some() {
            return refusal("nvsp.order", "second SEND_SEND_BUF".to_owned());
        }
        let memory = self.buffer_memory("send", m, SEND_BUFFER_ID, SEND_MAX)?;
        let len = memory.len();
        match SendBuffer::new(memory) {
            Some(send) => self.session.send = Some(send),
            None => {
                let detail = format!("send buffer of {len} bytes is too small");
                return refusal("nvsp.buffer-size", detail);
            }
        }
        Ok(())
    }

    fn on_revoke_receive(&mut self, id: u16) -> Result<(), Refusal> {
        if id != RECEIVE_BUFFER_ID {
            return refusal("nvsp.buffer-id", format!("REVOKE_RECV_BUF of id {id:#x}"));
        }
        match &mut self.session.receive {
            Some(receive) => receive.revoke(),
            None => return refusal("nvsp.order", "REVOKE_RECV_BUF without a buffer".to_owned()),
        }
        self.session.control.clear();
        Ok(())
    }

    fn on_revoke_send(&mut self, id: u16) -> Result<(), Refusal> {
        if id != SEND_BUFFER_ID {
            return refusal("nvsp.buffer-id", format!("REVOKE_SEND_BUF of id {id:#x}"));
        }
        match self.session.send.take() {
            Some(_) => Ok(()),
            None => refusal("nvsp.order", "REVOKE_SEND_BUF without a buffer".to_owned()),
        }
    }

    fn on_subchannel(&mut self, id: u64, m: &wire::Subchannel, fault: Fault) {
        let outcome = self.check_subchannel(m, fault);
        let status = self.conclude(outcome, fault);
        let asked = m.count.get();
        let count = match (status, fault) {
            (status::SUCCESS, Fault::Grant(limit)) => asked.min(limit),
            (status::SUCCESS, _) => asked,
            _ => 0,
        };
        let body = wire::Subchannel {
            operation_or_status: status.into(),
            count: count.into(),
        };
        self.answer(0, id, kind::SUBCHANNEL, &body);
        if count == 0 {
            return;
        }
        // The answer must be in the ring before the guest sees the offers.
        self.flush();
        self.session.granted = count as u16;
        self.host.offer_subchannels(self.session.granted);
    }

    fn check_subchannel(&self, m: &wire::Subchannel, fault: Fault) -> Result<(), Refusal> {
        let s = &self.session;
        if matches!(fault, Fault::Refuse | Fault::Status(_)) || s.refused {
            return Err(None);
        }
        let (operation, count) = (m.operation_or_status.get(), m.count.get());
        if !s.at_least(NvspVersion::V5) || !s.is_ready() {
            return refusal(
                "nvsp.order",
                "SUBCHANNEL before the device is ready".to_owned(),
            );
        }
        if operation != SUBCHANNEL_ALLOCATE || s.granted != 0 {
            let detail = format!("SUBCHANNEL operation {operation}, {} granted", s.granted);
            return refusal("nvsp.subchannel", detail);
        }
        if count == 0 || count >= u32::from(self.config.max_queues) {
            let detail = format!(
                "{count} sub-channels of a NIC with {}",
                self.config.max_queues
            );
            return refusal("nvsp.subchannel", detail);
        }
        Ok(())
    }

    fn on_oid_query(&mut self, id: u64) {
        let body = wire::OidQueryComplete {
            status: OID_NOT_SUPPORTED.into(),
            bytes: 0.into(),
        };
        self.answer(0, id, kind::OID_QUERY_EX_COMPLETE, &body);
    }

    fn on_switch_data_path(&mut self, id: u64, m: &wire::SwitchDataPath) {
        if m.path.get() > 1 || !self.session.at_least(NvspVersion::V4) {
            let detail = format!("SWITCH_DATA_PATH to {}", m.path.get());
            self.violation("nvsp.data-path", detail);
        }
        // There is no virtual function: traffic stays where it is, and the guest is told so.
        self.queue(0, Outgoing::completion(id, Vec::new()));
    }

    /// The guest gives receive sections back.
    fn on_completion(&mut self, index: u16, packet: &Packet) {
        let status = match wire::parse_completion(&packet.payload) {
            Ok(status) => status,
            Err(error) => return self.violation("nvsp.bad-completion", error),
        };
        let id = packet.transaction_id;
        if self.session.injected.remove(&id) {
            return self.count_injected(status);
        }
        let outcome = match &mut self.session.receive {
            Some(receive) => receive.complete(index, id),
            None => Err(BadCompletion::Unknown),
        };
        match outcome {
            Ok(()) => {}
            Err(BadCompletion::Unknown) => {
                let detail =
                    format!("channel {index}: completion of {id:#x}, which it does not have");
                return self.violation("nvsp.unknown-completion", detail);
            }
            Err(BadCompletion::OtherChannel(other)) => {
                let detail = format!("completion of {id:#x} on channel {index} instead of {other}");
                return self.violation("nvsp.completion-channel", detail);
            }
        }
        if status != status::SUCCESS && status != status::FAIL {
            self.violation(
                "nvsp.bad-completion",
                format!("receive completion status {status}"),
            );
        }
        let receive = self.session.receive.as_ref();
        let control = receive.is_some_and(|receive| receive.is_control(id));
        if let Some(channel) = self.channels.get_mut(&index).filter(|_| !control) {
            channel.counters.rx_completions += 1;
            channel.counters.rx_completions_failed += u64::from(status != status::SUCCESS);
        }
    }
}

/// Whether the protocol has an answer to this message.
fn answered(message: &GuestMessage) -> bool {
    matches!(
        message,
        GuestMessage::Init(_)
            | GuestMessage::ReceiveBuffer(_)
            | GuestMessage::SendBuffer(_)
            | GuestMessage::Subchannel(_)
            | GuestMessage::OidQueryEx
            | GuestMessage::SwitchDataPath(_)
    )
}
