// SPDX-License-Identifier: GPL-2.0

//! Channels: open, close, retarget, rescind, release, and the offer of sub-channels.

use std::sync::Arc;

use vmm_sys_util::eventfd::{EventFd, EFD_NONBLOCK};

use super::bus::{signal_connection, Bus};
use super::shared::{lock, ChannelOwner, DeviceSlot, NO_VP};
use super::{version, DeviceId};
use crate::counters::ChannelRecord;
use crate::fault::FaultAction;
use crate::vmbus::device;
use crate::vmbus::gpadl::GpadlMemory;
use crate::vmbus::message::{
    encode, number, ModifyChannel, ModifyResponse, OpenChannel, OpenResult, Rescind,
    STATUS_SUCCESS, STATUS_UNSUCCESSFUL,
};
use crate::vmbus::ring::RingPair;

/// A channel that was offered and not released.
pub(super) struct Channel {
    pub slot: Arc<DeviceSlot>,
    pub index: u16,
    open: Option<Opened>,
    pub rescinded: bool,
    opens: u64,
}

/// What an open channel has more.
struct Opened {
    ring_gpadl: u32,
    owner: Arc<ChannelOwner>,
    kick: EventFd,
    bound: bool,
}

/// Why OPENCHANNEL fails: a violation's name and detail.
struct Refusal(&'static str, String);

impl Channel {
    pub fn new(slot: Arc<DeviceSlot>, index: u16) -> Self {
        Self {
            slot,
            index,
            open: None,
            rescinded: false,
            opens: 0,
        }
    }

    pub fn is_open(&self) -> bool {
        self.open.is_some()
    }

    fn state(&self) -> &'static str {
        match (self.rescinded, self.is_open()) {
            (true, _) => "rescinded",
            (false, true) => "open",
            (false, false) => "offered",
        }
    }
}

impl Bus {
    pub fn is_open(&self, relid: u32) -> bool {
        self.channels.get(&relid).is_some_and(Channel::is_open)
    }

    /// Relids of a device's channels, in the order of their indices.
    pub fn relids_of(&self, id: DeviceId) -> Vec<u32> {
        let mut found: Vec<(u16, u32)> = self
            .channels
            .iter()
            .filter(|(_, channel)| channel.slot.id == id)
            .map(|(&relid, channel)| (channel.index, relid))
            .collect();
        found.sort_unstable();
        found.into_iter().map(|(_, relid)| relid).collect()
    }

    /// The channel of a device that is offered under `index`, rescinded ones left out.
    pub fn offered(&self, id: DeviceId, index: u16) -> Option<u32> {
        self.channels
            .iter()
            .find(|(_, c)| c.slot.id == id && c.index == index && !c.rescinded)
            .map(|(&relid, _)| relid)
    }

    /// Whether the guest may name this channel; if not that is a violation.
    pub fn known(&self, relid: u32, message: &str) -> bool {
        let known = self.channels.contains_key(&relid);
        if !known {
            let detail = format!("{message} names relid {relid}, which is not offered");
            self.violation("vmbus.unknown-relid", detail);
        }
        known
    }

    /// Offers the sub-channels 1..=count that are not offered yet.
    pub fn offer_subchannels(&mut self, id: DeviceId, count: u16) {
        let primary = self.offered(id, 0).and_then(|relid| {
            let channel = self.channels.get(&relid)?;
            channel.is_open().then(|| channel.slot.clone())
        });
        let Some(slot) = primary else {
            tracing::info!(device = %id, count, "sub-channels of a closed device are not offered");
            return;
        };
        let most = slot.offer.max_channels.saturating_sub(1);
        if count > most {
            tracing::warn!(device = %id, count, most, "device asks for too many sub-channels");
        }
        for index in 1..=count.min(most) {
            if self.offered(id, index).is_none() {
                self.offer(&slot, index);
            }
        }
    }

    pub fn open(&mut self, open: &OpenChannel) {
        let relid = open.relid.get();
        let status = match self.fault("vmbus.open") {
            Some(FaultAction::Silent) => return,
            Some(FaultAction::Rescind) => return self.rescind_device_of(relid),
            Some(FaultAction::Status(status)) => status,
            Some(_) => STATUS_UNSUCCESSFUL,
            None => self.try_open(relid, open),
        };
        self.send(encode(
            number::OPENCHANNEL_RESULT,
            &OpenResult {
                relid: open.relid,
                open_id: open.open_id,
                status: status.into(),
            },
        ));
    }

    fn try_open(&mut self, relid: u32, open: &OpenChannel) -> u32 {
        if !self.known(relid, "OPENCHANNEL") {
            return STATUS_UNSUCCESSFUL;
        }
        match self.prepare_open(relid, open) {
            Ok(true) => STATUS_SUCCESS,
            Ok(false) => STATUS_UNSUCCESSFUL,
            Err(Refusal(name, detail)) => {
                self.violation(name, format!("relid {relid}: {detail}"));
                STATUS_UNSUCCESSFUL
            }
        }
    }

    /// Opens a known channel. False if it was rescinded, which the guest need not know yet.
    fn prepare_open(&mut self, relid: u32, open: &OpenChannel) -> Result<bool, Refusal> {
        let Some(channel) = self.channels.get(&relid).filter(|c| !c.rescinded) else {
            return Ok(false);
        };
        let (slot, index) = (channel.slot.clone(), channel.index);
        let memory = self.check_open(relid, open)?;
        let vp = open.target_vp.get();
        let owner = Arc::new(ChannelOwner::new(self.shared.clone(), relid, vp));
        let page = open.downstream_page.get();
        let rings = RingPair::new(memory, page, owner.clone(), slot.stats(index))
            .map_err(|error| Refusal("vmbus.open-ring", error.to_string()))?;
        let (opened, device_kick) = match self.doorbell(relid, open.ring_gpadl.get(), owner) {
            Ok(done) => done,
            Err(error) => {
                tracing::error!(relid, %error, "cannot make an event for the channel");
                return Ok(false);
            }
        };
        if let Some(channel) = self.channels.get_mut(&relid) {
            channel.opens += 1;
            channel.open = Some(opened);
        }
        lock(&slot.device).open(device::OpenChannel {
            index,
            relid,
            rings,
            kick: device_kick,
        });
        tracing::info!(relid, device = %slot.id, vp, "channel is open");
        Ok(true)
    }

    /// Checks that the channel can be opened; returns the memory of its rings.
    fn check_open(&self, relid: u32, open: &OpenChannel) -> Result<Arc<GpadlMemory>, Refusal> {
        if self.is_open(relid) {
            return Err(Refusal("vmbus.open-twice", "channel is open".into()));
        }
        let vp = open.target_vp.get();
        if !self.is_target(vp) {
            let detail = format!("VP {vp} does not exist");
            return Err(Refusal("vmbus.open-vp", detail));
        }
        let handle = open.ring_gpadl.get();
        lock(&self.shared.gpadls)
            .get(&handle)
            .filter(|gpadl| gpadl.relid == relid)
            .map(|gpadl| gpadl.memory.clone())
            .ok_or_else(|| {
                let detail = format!("ring GPADL {handle:#x} is not one of the channel's");
                Refusal("vmbus.open-gpadl", detail)
            })
    }

    /// Whether interrupts can be sent to `vp`, or to nobody if it says so.
    fn is_target(&self, vp: u32) -> bool {
        vp < self.shared.hypervisor.vp_count() || vp == NO_VP
    }

    /// Makes the event by which the guest signals the channel, and binds it to the hypercall. The
    /// second value is the device's end.
    fn doorbell(
        &self,
        relid: u32,
        ring_gpadl: u32,
        owner: Arc<ChannelOwner>,
    ) -> std::io::Result<(Opened, EventFd)> {
        let kick = EventFd::new(EFD_NONBLOCK)?;
        let (for_device, for_signals) = (kick.try_clone()?, kick.try_clone()?);
        let connection = signal_connection(relid);
        let bound = self.shared.hypervisor.bind_connection(connection, &kick);
        if let Err(error) = &bound {
            // Signals still come through the exit path.
            tracing::warn!(connection, %error, "signals of this channel will be slow");
        }
        lock(&self.shared.doorbells).insert(connection, Some(for_signals));
        let opened = Opened {
            ring_gpadl,
            owner,
            kick,
            bound: bound.is_ok(),
        };
        Ok((opened, for_device))
    }

    pub fn close(&mut self, relid: u32) {
        self.fault("vmbus.close");
        if !self.known(relid, "CLOSECHANNEL") {
            return;
        }
        let Some(channel) = self.channels.get(&relid) else {
            return;
        };
        // The host closed a rescinded channel already; the guest may not have known.
        if channel.rescinded {
            return;
        }
        if !channel.is_open() {
            let detail = format!("CLOSECHANNEL for relid {relid}, which is not open");
            return self.violation("vmbus.close-not-open", detail);
        }
        let (id, index) = (channel.slot.id, channel.index);
        if index > 0 {
            return self.stop_channel(relid);
        }
        // The sub-channels of an incarnation go with it.
        let subs: Vec<u32> = self
            .relids_of(id)
            .into_iter()
            .filter(|&other| other != relid)
            .collect();
        for &sub in &subs {
            self.stop_channel(sub);
        }
        self.stop_channel(relid);
        for sub in subs {
            self.rescind(sub);
        }
    }

    /// Takes an open channel away from its device; nothing if it is not open.
    pub fn stop_channel(&mut self, relid: u32) {
        let Some(channel) = self.channels.get_mut(&relid) else {
            return;
        };
        let Some(opened) = channel.open.take() else {
            return;
        };
        let (slot, index) = (channel.slot.clone(), channel.index);
        let connection = signal_connection(relid);
        if opened.bound {
            let hypervisor = &self.shared.hypervisor;
            if let Err(error) = hypervisor.unbind_connection(connection, &opened.kick) {
                tracing::warn!(relid, %error, "cannot unbind the channel's event");
            }
        }
        lock(&self.shared.doorbells).insert(connection, None);
        lock(&slot.device).close(index);
        opened.owner.retarget(NO_VP);
        tracing::info!(relid, device = %slot.id, index, "channel is closed");
    }

    /// The ring memory of an open channel.
    pub fn ring_gpadl(&self, relid: u32) -> Option<u32> {
        let opened = self.channels.get(&relid)?.open.as_ref()?;
        Some(opened.ring_gpadl)
    }

    /// Takes an offer back: closes the channel, stops using memory lent on it, tells the guest.
    pub fn rescind(&mut self, relid: u32) {
        self.stop_channel(relid);
        let Some(channel) = self.channels.get_mut(&relid) else {
            return;
        };
        if channel.rescinded {
            return;
        }
        channel.rescinded = true;
        self.stop_using_gpadls(relid);
        self.send(encode(
            number::RESCIND_CHANNELOFFER,
            &Rescind {
                relid: relid.into(),
            },
        ));
    }

    /// Plays the removal of the device that a channel belongs to.
    pub fn rescind_device_of(&mut self, relid: u32) {
        if let Some(id) = self.channels.get(&relid).map(|c| c.slot.id) {
            if let Err(error) = self.remove_device(id) {
                tracing::info!(%error, "nothing to rescind");
            }
        }
    }

    pub fn relid_released(&mut self, relid: u32) {
        self.fault("vmbus.relid-released");
        if !self.known(relid, "RELID_RELEASED") {
            return;
        }
        if self.channels.get(&relid).is_some_and(|c| !c.rescinded) {
            let detail = format!("RELID_RELEASED for relid {relid}, which was not rescinded");
            self.violation("vmbus.release-not-rescinded", detail);
            self.stop_channel(relid);
        }
        self.channels.remove(&relid);
        lock(&self.shared.doorbells).remove(&signal_connection(relid));
        self.drop_gpadls(relid);
        self.forget_removed();
    }

    pub fn modify_channel(&mut self, modify: &ModifyChannel) {
        let relid = modify.relid.get();
        let status = match self.fault("vmbus.modify-channel") {
            Some(FaultAction::Silent) => return,
            Some(FaultAction::Rescind) => return self.rescind_device_of(relid),
            Some(FaultAction::Status(status)) => status,
            Some(_) => STATUS_UNSUCCESSFUL,
            None => self.retarget(relid, modify.target_vp.get()),
        };
        if self.version() >= version::V5_3 {
            self.send(encode(
                number::MODIFYCHANNEL_RESPONSE,
                &ModifyResponse {
                    relid: modify.relid,
                    status: status.into(),
                },
            ));
        }
    }

    fn version(&self) -> u32 {
        self.connection.as_ref().map_or(0, |c| c.version)
    }

    fn retarget(&self, relid: u32, vp: u32) -> u32 {
        if self.version() < version::V4_1 {
            let detail = "MODIFYCHANNEL needs version 4.1".to_owned();
            self.violation("vmbus.modify-version", detail);
            return STATUS_UNSUCCESSFUL;
        }
        if !self.known(relid, "MODIFYCHANNEL") {
            return STATUS_UNSUCCESSFUL;
        }
        if !self.is_target(vp) {
            let detail = format!("MODIFYCHANNEL for relid {relid}: VP {vp} does not exist");
            self.violation("vmbus.modify-vp", detail);
            return STATUS_UNSUCCESSFUL;
        }
        let Some(channel) = self.channels.get(&relid) else {
            return STATUS_UNSUCCESSFUL;
        };
        match &channel.open {
            Some(opened) => {
                opened.owner.retarget(vp);
                STATUS_SUCCESS
            }
            None => {
                if !channel.rescinded {
                    let detail = format!("MODIFYCHANNEL for relid {relid}, which is not open");
                    self.violation("vmbus.modify-not-open", detail);
                }
                STATUS_UNSUCCESSFUL
            }
        }
    }

    /// Channels for the control side.
    pub fn channel_records(&self) -> Vec<ChannelRecord> {
        let lent: Vec<(u32, u32)> = lock(&self.shared.gpadls)
            .iter()
            .map(|(&handle, gpadl)| (gpadl.relid, handle))
            .collect();
        let gpadls_of = |relid| lent.iter().filter(move |(owner, _)| *owner == relid);
        self.channels
            .iter()
            .map(|(&relid, channel)| ChannelRecord {
                relid,
                device: channel.slot.id.0,
                index: channel.index,
                state: channel.state(),
                target_vp: channel.open.as_ref().map(|o| o.owner.target()),
                opens: channel.opens,
                gpadls: gpadls_of(relid).map(|&(_, handle)| handle).collect(),
            })
            .collect()
    }
}
