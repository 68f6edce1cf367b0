// SPDX-License-Identifier: GPL-2.0

//! The NIC as its worker thread sees it: channels, session, back end, link. The protocol is in
//! `nvsp` and `rndis`, the data path in `tx` and `rx`; all of them are methods of [`Nic`].

use std::collections::BTreeMap;
use std::sync::Arc;

use super::channel::{Channel, Outgoing};
use super::config::NicConfig;
use super::counters::NicCounters;
use super::nvsp_wire::{self, kind};
use super::session::Session;
use crate::backend::frame::Frame;
use crate::backend::pcap::Capture;
use crate::backend::Backend;
use crate::corruption::Corruption;
use crate::fault::FaultAction;
use crate::vmbus::device::{DeviceHost, OpenChannel};

/// What a fault point says about a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// Serve it.
    None,
    /// Serve it, but grant at most so many.
    Grant(u32),
    /// Answer with the usual failure status.
    Refuse,
    /// Answer with this status.
    Status(u32),
    /// No answer.
    Silent,
}

/// A NIC with its open channels.
pub struct Nic {
    pub(super) config: NicConfig,
    pub(super) host: Arc<dyn DeviceHost>,
    pub(super) backend: Box<dyn Backend>,
    pub(super) capture: Option<Capture>,
    pub(super) channels: BTreeMap<u16, Channel>,
    pub(super) session: Session,
    pub(super) mac: [u8; 6],
    pub(super) link_up: bool,
    pub(super) speed_mbps: u32,
    pub(super) counters: NicCounters,
    /// What becomes of the answer to the request being served.
    pub(super) corruption: Option<Corruption>,
}

impl Nic {
    /// A NIC without channels.
    pub fn new(
        config: NicConfig,
        host: Arc<dyn DeviceHost>,
        backend: Box<dyn Backend>,
        capture: Option<Capture>,
    ) -> Self {
        Nic {
            mac: config.mac,
            link_up: config.link_up,
            speed_mbps: config.speed_mbps,
            config,
            host,
            backend,
            capture,
            channels: BTreeMap::new(),
            session: Session::new(),
            counters: NicCounters::default(),
            corruption: None,
        }
    }

    /// The guest opened a channel.
    pub fn open(&mut self, open: OpenChannel) {
        let index = open.index;
        if index == 0 {
            self.session = Session::new();
            self.counters.attaches += 1;
            if !self.config.mac_outlives_close {
                self.mac = self.config.mac;
            }
        }
        self.channels.insert(index, Channel::new(open));
        self.send_table_when_complete();
    }

    /// The guest closed a channel, or the server took it away.
    pub fn close(&mut self, index: u16) {
        let Some(channel) = self.channels.remove(&index) else {
            return;
        };
        self.counters
            .drop_rx("channel-closed", channel.staged.len());
        if index == 0 {
            self.session = Session::new();
        } else if let Some(receive) = &mut self.session.receive {
            receive.forget_channel(index);
        }
    }

    /// Asks the fault points. A fault that takes the device away is carried out here, one that spoils the
    /// answer is noted for the answer.
    pub(super) fn fault(&mut self, point: &str) -> Fault {
        match self.host.faults().check(point) {
            None => Fault::None,
            Some(FaultAction::Grant(count)) => Fault::Grant(count),
            Some(FaultAction::Refuse) => Fault::Refuse,
            Some(FaultAction::Status(status)) => Fault::Status(status),
            Some(FaultAction::Silent) => Fault::Silent,
            Some(FaultAction::Corrupt(corruption)) => {
                self.corruption = Some(corruption);
                Fault::None
            }
            Some(FaultAction::Rescind) => {
                self.host.rescind_subchannel(0);
                Fault::Silent
            }
        }
    }

    /// Reports that the guest broke the protocol.
    pub(super) fn violation(&mut self, name: &'static str, detail: impl std::fmt::Display) {
        let detail = format!("{}: {detail}", self.config.name);
        tracing::warn!(violation = name, "{detail}");
        *self.counters.violations.entry(name).or_default() += 1;
        self.host.violation(name, detail);
    }

    /// Queues a packet for a channel, if it is open.
    pub(super) fn queue(&mut self, channel: u16, packet: Outgoing) {
        if let Some(corruption) = self.corruption.take() {
            return self.queue_spoilt(channel, packet, corruption);
        }
        self.queue_now(channel, packet);
    }

    /// Queues a packet as it is.
    pub(super) fn queue_now(&mut self, channel: u16, packet: Outgoing) {
        if let Some(channel) = self.channels.get_mut(&channel) {
            channel.outbox.push_back(packet);
        }
    }

    /// Queues an NVSP message as the answer to request `id`.
    pub(super) fn answer(
        &mut self,
        channel: u16,
        id: u64,
        kind: u32,
        body: &(impl zerocopy::IntoBytes + zerocopy::Immutable),
    ) {
        let message = nvsp_wire::build(kind, body, self.session.message_len());
        self.queue(channel, Outgoing::completion(id, message));
    }

    /// Sends the send indirection table once all granted sub-channels are open.
    pub(super) fn send_table_when_complete(&mut self) {
        let granted = self.session.granted;
        let complete = (0..=granted).all(|index| self.channels.contains_key(&index));
        if granted == 0 || self.session.table_sent || !complete {
            return;
        }
        self.session.table_sent = true;
        let channels = u32::from(granted) + 1;
        let mut table = nvsp_wire::SendTable {
            count: (nvsp_wire::SEND_TABLE_ENTRIES as u32).into(),
            // From the start of the message: right behind type, count and offset.
            offset: 12.into(),
            entries: [0.into(); nvsp_wire::SEND_TABLE_ENTRIES],
        };
        for (entry, index) in table.entries.iter_mut().zip(0u32..) {
            *entry = (index % channels).into();
        }
        let message = nvsp_wire::build(kind::SEND_INDIRECTION_TABLE, &table, 0);
        if self.fault("nvsp.send-table") != Fault::Silent {
            self.queue(0, Outgoing::in_band(message));
        }
    }

    /// Records a frame in the capture file.
    pub(super) fn record(&mut self, frame: &Frame) {
        if let Some(capture) = &mut self.capture {
            if let Err(error) = capture.record(frame) {
                tracing::warn!(nic = self.config.name, "capture stops: {error}");
                self.counters.capture_errors += 1;
                self.capture = None;
            }
        }
    }

    /// Writes what waits for room in a channel: completions and messages, then control messages,
    /// then frames.
    pub fn flush_channel(&mut self, index: u16) {
        let Some(channel) = self.channels.get_mut(&index) else {
            return;
        };
        let mut released = Vec::new();
        channel.flush_outbox(&mut released);
        if let Some(send) = &mut self.session.send {
            for section in released {
                send.release(section);
            }
        }
        if index == 0 {
            self.flush_control();
        }
        self.flush_frames(index);
    }

    /// Writes what waits for room in any channel.
    pub fn flush(&mut self) {
        let control = !self.session.control.is_empty();
        let waits = |(index, c): (&u16, &Channel)| {
            (c.waits_for_room() || (control && *index == 0)).then_some(*index)
        };
        let indices: Vec<u16> = self.channels.iter().filter_map(waits).collect();
        for index in indices {
            self.flush_channel(index);
        }
    }

    /// Drops the frames that wait for the guest: it does not want them any more.
    pub(super) fn drop_staged(&mut self, reason: &'static str) {
        for channel in self.channels.values_mut() {
            self.counters.drop_rx(reason, channel.staged.len());
            channel.staged.clear();
        }
    }

    /// Whether anything waits for the guest to make room.
    pub fn waits_for_room(&self) -> bool {
        !self.session.control.is_empty()
            || !self.session.late.is_empty()
            || self.channels.values().any(Channel::waits_for_room)
    }
}
