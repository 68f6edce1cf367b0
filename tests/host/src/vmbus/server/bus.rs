// SPDX-License-Identifier: GPL-2.0

//! The state of the bus: connection, offers, hot plug. Owned by the server's thread.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use super::channel::Channel;
use super::memory::Partial;
use super::outbox::{Outbox, Reason};
use super::queue::{Event, Next};
use super::shared::{lock, DeviceSlot, Host, Shared};
use super::{guid_text, version, DeviceId, ServerError};
use crate::counters::ChannelRecord;
use crate::fault::FaultAction;
use crate::hypervisor::VMBUS_SINT;
use crate::vmbus::device::VmbusDevice;
use crate::vmbus::message::{
    self, encode, number, Empty, GuestMessage, InitiateContact, OfferChannel, VersionResponse,
    VersionResponse6,
};

/// Largest channel number; the guest's event flags are 2048 bits, and 0 is not used.
const MAX_RELID: u32 = 2047;
/// Message connection below 5.0.
const OLD_CONNECTION: u32 = 1;
/// Message connection from 5.0 on.
const NEW_CONNECTION: u32 = 4;
/// Signal connections are numbered from here by relid.
const SIGNAL_BASE: u32 = 0x2000;
/// How long a message waits for the guest to report its slot free before the slot is tried anyway.
const SLOT_POLL: Duration = Duration::from_millis(500);

/// Whether messages are taken on this connection. A host below 5.0 only has the old one; the guest
/// learns from that, and tries an older version.
pub(super) fn is_message_connection(connection: u32, max_version: u32) -> bool {
    connection == OLD_CONNECTION || (connection == NEW_CONNECTION && max_version >= version::V5_0)
}

/// The connection id by which the guest signals a channel.
pub(super) fn signal_connection(relid: u32) -> u32 {
    SIGNAL_BASE + relid
}

/// An agreed version.
pub(super) struct Connection {
    pub version: u32,
    message_connection: u32,
    offers_requested: bool,
}

/// A picture of the bus for the control side.
#[derive(Default)]
pub(super) struct Picture {
    pub version: Option<String>,
    pub partial_gpadls: usize,
    pub open_channels: usize,
    pub waiting_messages: usize,
    pub channels: Vec<ChannelRecord>,
    pub removing: BTreeSet<DeviceId>,
}

/// The bus.
pub(super) struct Bus {
    pub shared: Arc<Shared>,
    max_version: u32,
    pub connection: Option<Connection>,
    pub channels: BTreeMap<u32, Channel>,
    pub partial: BTreeMap<u32, Partial>,
    /// Handles of GPADLs refused while page numbers were still to come.
    pub refused: BTreeSet<u32>,
    removing: BTreeSet<DeviceId>,
    outbox: Outbox,
    next_device: u32,
}

impl Bus {
    pub fn new(shared: Arc<Shared>, max_version: u32) -> Self {
        Self {
            shared,
            max_version,
            connection: None,
            channels: BTreeMap::new(),
            partial: BTreeMap::new(),
            refused: BTreeSet::new(),
            removing: BTreeSet::new(),
            outbox: Outbox::default(),
            next_device: 1,
        }
    }

    /// Serves the queue until the server stops, then closes all channels.
    pub fn run(mut self) {
        loop {
            let limit = (self.outbox.len() > 0).then_some(SLOT_POLL);
            let reason = match self.shared.queue.next(limit) {
                Next::Event(Event::SlotFree) => Reason::SlotFree,
                Next::Event(event) => {
                    self.handle(event);
                    Reason::NewMessage
                }
                Next::Idle => Reason::Waited,
                Next::Stopped => break,
            };
            let shared = &self.shared;
            self.outbox
                .pump(&*shared.hypervisor, &shared.ledger, reason);
        }
        self.disconnect();
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Message { connection, bytes } => self.message(connection, &bytes),
            Event::SlotFree => {}
            Event::OfferSubchannels { device, count } => self.offer_subchannels(device, count),
            Event::Rescind { device, index } => {
                if let Err(error) = self.rescind_subchannel(device, index) {
                    tracing::info!(%error, "nothing to rescind");
                }
            }
            Event::Call(work) => work(self),
        }
    }

    fn message(&mut self, connection: u32, bytes: &[u8]) {
        let number = message::number_of(bytes).unwrap_or(0);
        let name = message::name(number);
        tracing::debug!(name, len = bytes.len(), "message from the guest");
        let ledger = &self.shared.ledger;
        ledger.count(|c| *c.messages_in.entry(name).or_default() += 1);
        let parsed = match GuestMessage::parse(bytes) {
            Ok(parsed) => parsed,
            Err(error @ message::ParseError::Short { .. }) => {
                return self.violation("vmbus.message-length", error.to_string());
            }
            Err(error @ message::ParseError::Unknown(_)) => {
                return self.violation("vmbus.message-type", error.to_string());
            }
        };
        if let GuestMessage::InitiateContact(contact) = parsed {
            return self.initiate_contact(connection, contact);
        }
        match &self.connection {
            None if matches!(parsed, GuestMessage::Unload) => {}
            None => {
                let detail = format!("{name} before a version was agreed");
                return self.violation("vmbus.not-connected", detail);
            }
            Some(known) if known.message_connection != connection => {
                let expected = known.message_connection;
                let detail = format!("{name} on connection {connection} instead of {expected}");
                self.violation("vmbus.message-connection", detail);
            }
            Some(_) => {}
        }
        self.dispatch(parsed);
    }

    fn dispatch(&mut self, parsed: GuestMessage<'_>) {
        match parsed {
            GuestMessage::InitiateContact(_) => {}
            GuestMessage::RequestOffers => self.request_offers(),
            GuestMessage::Open(open) => self.open(open),
            GuestMessage::Close(relid) => self.close(relid),
            GuestMessage::GpadlHeader(header, pfns) => self.gpadl_header(header, pfns),
            GuestMessage::GpadlBody(body, pfns) => self.gpadl_body(body, pfns),
            GuestMessage::GpadlTeardown(teardown) => self.gpadl_teardown(teardown),
            GuestMessage::RelidReleased(relid) => self.relid_released(relid),
            GuestMessage::ModifyChannel(modify) => self.modify_channel(modify),
            GuestMessage::Unload => self.unload(),
        }
    }

    /// Records a violation by the guest.
    pub fn violation(&self, name: &'static str, detail: String) {
        self.shared.ledger.violation(name, detail);
    }

    /// Asks whether a fault is to be played at `point`.
    pub fn fault(&self, point: &str) -> Option<FaultAction> {
        let action = self.shared.faults.check(point);
        // Answers on VMBus are for `hv_vmbus`, not for the driver: they are never spoilt.
        action.filter(|action| !matches!(action, FaultAction::Corrupt(_)))
    }

    /// Puts a message to the guest into the queue.
    pub fn send(&mut self, bytes: Vec<u8>) {
        self.outbox.push(bytes);
    }

    fn initiate_contact(&mut self, connection: u32, contact: &InitiateContact) {
        self.disconnect();
        self.outbox.clear();
        let wanted = contact.version.get();
        let vp = contact.target_vp.get();
        if vp >= self.shared.hypervisor.vp_count() {
            let detail = format!("INITIATE_CONTACT names VP {vp}, which does not exist");
            return self.violation("vmbus.contact-vp", detail);
        }
        self.outbox.direct_to(vp);
        let expected = self.check_contact(connection, contact);
        let fault = self.fault("vmbus.initiate-contact");
        if matches!(fault, Some(FaultAction::Silent | FaultAction::Rescind)) {
            return;
        }
        let known = version::ALL.contains(&wanted) && wanted <= self.max_version;
        let granted = known && fault.is_none();
        if granted {
            self.connection = Some(Connection {
                version: wanted,
                message_connection: expected,
                offers_requested: false,
            });
        }
        tracing::info!(version = %version_text(wanted), granted, "guest contacts the bus");
        let response = VersionResponse {
            supported: u8::from(granted),
            connection_state: 0,
            reserved: 0.into(),
            connection_id: if wanted >= version::V5_0 {
                expected
            } else {
                wanted
            }
            .into(),
        };
        // A version that is refused is answered in the old form: whoever asked for it may know no
        // other.
        self.send(if granted && wanted >= version::V6_0 {
            let features = 0.into();
            encode(
                number::VERSION_RESPONSE,
                &VersionResponse6 { response, features },
            )
        } else {
            encode(number::VERSION_RESPONSE, &response)
        });
    }

    /// Checks the fields that depend on the version; returns the connection it goes with.
    fn check_contact(&self, connection: u32, contact: &InitiateContact) -> u32 {
        let wanted = contact.version.get();
        let is_new = wanted >= version::V5_0;
        let expected = if is_new {
            NEW_CONNECTION
        } else {
            OLD_CONNECTION
        };
        if connection != expected {
            let text = version_text(wanted);
            let detail = format!("INITIATE_CONTACT for {text} on connection {connection}");
            self.violation("vmbus.message-connection", detail);
        }
        let [sint, vtl, ..] = contact.target;
        if is_new && (sint != VMBUS_SINT || vtl != 0) {
            let detail = format!("INITIATE_CONTACT wants messages on SINT {sint}, VTL {vtl}");
            self.violation("vmbus.contact-sint", detail);
        }
        expected
    }

    fn request_offers(&mut self) {
        match &mut self.connection {
            Some(connection) if !connection.offers_requested => connection.offers_requested = true,
            _ => {
                let detail = "REQUESTOFFERS twice on one connection".to_owned();
                return self.violation("vmbus.offers-twice", detail);
            }
        }
        if self.fault("vmbus.request-offers").is_some() {
            return;
        }
        for slot in self.device_slots() {
            self.offer(&slot, 0);
        }
        self.send(encode(number::ALLOFFERS_DELIVERED, &Empty {}));
    }

    fn device_slots(&self) -> Vec<Arc<DeviceSlot>> {
        lock(&self.shared.devices).values().cloned().collect()
    }

    /// Offers channel `index` of a device.
    pub fn offer(&mut self, slot: &Arc<DeviceSlot>, index: u16) {
        let point = if index == 0 {
            "vmbus.offer"
        } else {
            "vmbus.offer-subchannel"
        };
        let spoil = match self.shared.faults.check(point) {
            None => None,
            Some(FaultAction::Corrupt(corruption)) => (index != 0).then_some(corruption),
            Some(_) => return,
        };
        let Some(relid) = (1..=MAX_RELID).find(|relid| !self.channels.contains_key(relid)) else {
            tracing::error!(device = %slot.id, index, "no channel number left");
            return;
        };
        let offer = OfferChannel {
            class: slot.offer.class,
            instance: slot.offer.instance,
            reserved: [0.into(); 2],
            flags: 0.into(),
            mmio_megabytes: 0.into(),
            user_data: [0; 120],
            sub_channel_index: index.into(),
            reserved_2: 0.into(),
            relid: relid.into(),
            monitor_id: 0xff,
            monitor_allocated: 0,
            dedicated_interrupt: 1.into(),
            connection_id: signal_connection(relid).into(),
        };
        lock(&self.shared.doorbells).insert(signal_connection(relid), None);
        self.channels
            .insert(relid, Channel::new(slot.clone(), index));
        let mut message = encode(number::OFFERCHANNEL, &offer);
        if let Some(corruption) = spoil {
            corruption.spoil(&mut message);
        }
        self.send(message);
    }

    fn offers_requested(&self) -> bool {
        self.connection.as_ref().is_some_and(|c| c.offers_requested)
    }

    /// Puts a device on the bus.
    pub fn add_device(
        &mut self,
        mut device: Box<dyn VmbusDevice>,
    ) -> Result<DeviceId, ServerError> {
        let offer = device.offer();
        if offer.max_channels == 0 || u32::from(offer.max_channels) > MAX_RELID {
            return Err(ServerError::Channels(offer.max_channels));
        }
        let taken = self
            .device_slots()
            .iter()
            .any(|slot| slot.offer.instance == offer.instance);
        if taken {
            return Err(ServerError::DuplicateInstance(guid_text(&offer.instance)));
        }
        let id = DeviceId(self.next_device);
        self.next_device += 1;
        device.attach(Arc::new(Host {
            shared: self.shared.clone(),
            device: id,
        }));
        let slot = Arc::new(DeviceSlot::new(id, offer, device));
        lock(&self.shared.devices).insert(id, slot.clone());
        if self.offers_requested() {
            self.offer(&slot, 0);
        }
        Ok(id)
    }

    /// Takes a device off the bus.
    pub fn remove_device(&mut self, id: DeviceId) -> Result<(), ServerError> {
        if !lock(&self.shared.devices).contains_key(&id) || !self.removing.insert(id) {
            return Err(ServerError::NoDevice(id));
        }
        let mut relids = self.relids_of(id);
        // Sub-channels first.
        relids.reverse();
        for relid in relids {
            self.rescind(relid);
        }
        self.forget_removed();
        Ok(())
    }

    /// Takes a sub-channel away; index 0 is the device.
    pub fn rescind_subchannel(&mut self, id: DeviceId, index: u16) -> Result<(), ServerError> {
        if index == 0 {
            return self.remove_device(id);
        }
        match self.offered(id, index) {
            Some(relid) => {
                self.rescind(relid);
                Ok(())
            }
            None => Err(ServerError::NoChannel(id, index)),
        }
    }

    /// Drops removed devices that the guest has let go of.
    pub fn forget_removed(&mut self) {
        let gone: Vec<DeviceId> = self
            .removing
            .iter()
            .copied()
            .filter(|&id| self.relids_of(id).is_empty())
            .collect();
        for id in gone {
            self.removing.remove(&id);
            let slot = lock(&self.shared.devices).remove(&id);
            drop(slot);
            tracing::info!(device = %id, "device is gone");
        }
    }

    fn unload(&mut self) {
        if self.fault("vmbus.unload").is_some() {
            return;
        }
        self.disconnect();
        self.outbox.clear();
        self.shared.ledger.count(|c| c.unloads += 1);
        self.send(encode(number::UNLOAD_RESPONSE, &Empty {}));
    }

    /// The guest was reset.
    pub fn reset(&mut self) {
        self.disconnect();
        self.outbox.clear();
    }

    /// Ends the connection: closes every channel, takes back all that was offered or lent.
    fn disconnect(&mut self) {
        let relids: Vec<u32> = self.channels.keys().copied().collect();
        let open = relids.iter().filter(|&&relid| self.is_open(relid)).count() as u64;
        self.shared.ledger.count(|c| c.open_at_disconnect += open);
        // Sub-channels have not always higher numbers than their primary: close them first.
        let (primaries, subs): (Vec<u32>, Vec<u32>) = relids
            .iter()
            .copied()
            .partition(|relid| self.channels.get(relid).is_some_and(|c| c.index == 0));
        for relid in subs.into_iter().chain(primaries) {
            self.stop_channel(relid);
            lock(&self.shared.doorbells).remove(&signal_connection(relid));
        }
        self.channels.clear();
        self.drop_all_gpadls();
        self.connection = None;
        self.forget_removed();
    }

    /// A picture for the control side.
    pub fn picture(&self) -> Picture {
        Picture {
            version: self.connection.as_ref().map(|c| version_text(c.version)),
            partial_gpadls: self.partial.len(),
            open_channels: self.channels.values().filter(|c| c.is_open()).count(),
            waiting_messages: self.outbox.len(),
            channels: self.channel_records(),
            removing: self.removing.clone(),
        }
    }
}

fn version_text(version: u32) -> String {
    format!("{}.{}", version >> 16, version & 0xffff)
}
