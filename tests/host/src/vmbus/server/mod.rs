// SPDX-License-Identifier: GPL-2.0

//! The VMBus server.
//!
//! * `bus`: the state of the bus; connection, offers, hot plug.
//! * `channel`, `memory`: the parts of the bus that deal with channels and with GPADLs.
//! * `queue`, `outbox`: what comes in and what goes out.
//! * `shared`: what other threads see.

mod bus;
mod channel;
mod memory;
mod outbox;
mod queue;
mod shared;

#[cfg(test)]
mod tests;

use std::fmt;
use std::sync::mpsc;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use serde::Serialize;
use serde_json::Value;
use thiserror::Error;

use self::bus::Bus;
use self::queue::Event;
use self::shared::{lock, DeviceSlot, Shared};
use super::device::VmbusDevice;
use crate::counters::{DeviceRecord, ServerCounters, ViolationRecord};
use crate::fault::FaultPoints;
use crate::hypervisor::{HvStatus, Hypervisor, MessageSink};

/// How long the control side waits for a picture of the bus.
const SNAPSHOT_LIMIT: Duration = Duration::from_secs(5);

/// Protocol versions as INITIATE_CONTACT carries them: `major << 16 | minor`.
pub mod version {
    /// 4.0, Windows Server 2016.
    pub const V4_0: u32 = 0x0004_0000;
    /// 4.1: MODIFYCHANNEL.
    pub const V4_1: u32 = 0x0004_0001;
    /// 5.0: the host names the message connection.
    pub const V5_0: u32 = 0x0005_0000;
    /// 5.1
    pub const V5_1: u32 = 0x0005_0001;
    /// 5.2
    pub const V5_2: u32 = 0x0005_0002;
    /// 5.3: MODIFYCHANNEL is answered.
    pub const V5_3: u32 = 0x0005_0003;
    /// 6.0: feature flags.
    pub const V6_0: u32 = 0x0006_0000;
    /// All versions this host speaks, ascending.
    pub const ALL: [u32; 7] = [V4_0, V4_1, V5_0, V5_1, V5_2, V5_3, V6_0];
}

/// Names a device behind the bus; displays as `device 3`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct DeviceId(pub u32);

impl fmt::Display for DeviceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "device {}", self.0)
    }
}

/// What can be chosen about the server.
#[derive(Clone, Copy, Debug)]
pub struct ServerConfig {
    /// Highest protocol version granted, one of [`version::ALL`].
    pub max_version: u32,
}

impl Default for ServerConfig {
    fn default() -> Self {
        Self {
            max_version: version::V6_0,
        }
    }
}

/// Why the server cannot do what was asked.
#[derive(Debug, Error)]
pub enum ServerError {
    /// The version is not one of [`version::ALL`].
    #[error("VMBus version {0:#x} is not known: use 4.0, 4.1, 5.0, 5.1, 5.2, 5.3 or 6.0")]
    Version(u32),
    /// The server's thread cannot be started.
    #[error("cannot start the VMBus thread: {0}")]
    Thread(std::io::Error),
    /// The server's thread has ended.
    #[error("the VMBus server has stopped")]
    Stopped,
    /// Two devices with the same instance GUID cannot be told apart by the guest.
    #[error("instance {0} is already on the bus: give each device an instance GUID of its own")]
    DuplicateInstance(String),
    /// The offer is not possible.
    #[error("a device with {0} channels cannot be offered: 1 to 2047 are possible")]
    Channels(u16),
    /// There is no such device, or it is already being removed.
    #[error("{0} is not on the bus")]
    NoDevice(DeviceId),
    /// There is no such channel.
    #[error("{0} has no channel {1}")]
    NoChannel(DeviceId, u16),
}

/// The VMBus server.
///
/// # Threads and locks
///
/// One thread owns the state of the bus ([`Bus`]) and does all protocol work. Everybody else puts
/// events into its queue: virtual CPUs their messages ([`MessageSink`], which therefore never
/// blocks), devices their requests ([`DeviceHost`](super::device::DeviceHost)), the control side
/// its calls. The thread calls into a device with that device's lock held and no other, so a device
/// may wait for its workers, which in turn may use their `DeviceHost` freely. All other locks
/// are leaves (see `shared`). The methods of this type wait for the server's thread: they must not be
/// called from a device or one of its workers.
pub struct VmbusServer {
    shared: Arc<Shared>,
    max_version: u32,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl VmbusServer {
    /// Starts a server without devices.
    pub fn new(
        hypervisor: Arc<dyn Hypervisor>,
        config: ServerConfig,
    ) -> Result<Arc<Self>, ServerError> {
        if !version::ALL.contains(&config.max_version) {
            return Err(ServerError::Version(config.max_version));
        }
        let shared = Arc::new(Shared::new(hypervisor));
        let bus = Bus::new(shared.clone(), config.max_version);
        let thread = std::thread::Builder::new()
            .name("vmbus".into())
            .spawn(move || bus.run())
            .map_err(ServerError::Thread)?;
        Ok(Arc::new(Self {
            shared,
            max_version: config.max_version,
            thread: Mutex::new(Some(thread)),
        }))
    }

    /// Puts a device on the bus; a guest that is connected is offered it at once.
    pub fn add_device(&self, device: Box<dyn VmbusDevice>) -> Result<DeviceId, ServerError> {
        self.call(|bus| bus.add_device(device))?
    }

    /// Takes a device off the bus. Its channels are closed when this returns; the device is freed
    /// once the guest has let go of it, at once if there is no guest.
    pub fn remove_device(&self, id: DeviceId) -> Result<(), ServerError> {
        self.call(move |bus| bus.remove_device(id))?
    }

    /// Takes one sub-channel away from the guest; index 0 is [`VmbusServer::remove_device`].
    pub fn rescind_subchannel(&self, id: DeviceId, index: u16) -> Result<(), ServerError> {
        self.call(move |bus| bus.rescind_subchannel(id, index))?
    }

    /// The guest was reset: closes all channels and forgets the connection. Devices stay, except
    /// those that were being removed.
    pub fn reset(&self) -> Result<(), ServerError> {
        self.call(Bus::reset)
    }

    /// Waits until everything that happened before this call has been dealt with.
    pub fn settle(&self) -> Result<(), ServerError> {
        self.call(|_| ())
    }

    /// The host-wide fault points.
    pub fn faults(&self) -> &FaultPoints {
        &self.shared.faults
    }

    /// What the guest did against the protocol.
    pub fn violations(&self) -> Vec<ViolationRecord> {
        self.shared.ledger.violations()
    }

    /// Forgets the violations.
    pub fn clear_violations(&self) {
        self.shared.ledger.clear_violations();
    }

    /// Records a violation seen by another part of the host.
    pub fn report_violation(&self, name: &'static str, detail: String) {
        self.shared.ledger.violation(name, detail);
    }

    /// All counters as JSON; see [`ServerCounters`].
    pub fn counters(&self) -> Value {
        serde_json::to_value(self.snapshot())
            .unwrap_or_else(|error| Value::String(format!("counters: {error}")))
    }

    /// All counters. If the server's thread does not answer within five seconds the lists of
    /// channels are empty and `responsive` is false.
    pub fn snapshot(&self) -> ServerCounters {
        let (sender, receiver) = mpsc::channel();
        self.shared.queue.push(Event::Call(Box::new(move |bus| {
            // Nobody waits any more if this took too long.
            let _ = sender.send(bus.picture());
        })));
        let answer = receiver.recv_timeout(SNAPSHOT_LIMIT).ok();
        let responsive = answer.is_some();
        let picture = answer.unwrap_or_default();
        let devices = self
            .device_slots()
            .iter()
            .map(|slot| device_record(slot, picture.removing.contains(&slot.id), responsive))
            .collect();
        ServerCounters {
            version: picture.version,
            responsive,
            live_gpadls: lock(&self.shared.gpadls).len(),
            partial_gpadls: picture.partial_gpadls,
            open_channels: picture.open_channels,
            waiting_messages: picture.waiting_messages,
            messages: self.shared.ledger.messages(),
            violations: self.shared.ledger.violations(),
            channels: picture.channels,
            devices,
            faults: self.shared.faults.counters(),
        }
    }

    fn device_slots(&self) -> Vec<Arc<DeviceSlot>> {
        lock(&self.shared.devices).values().cloned().collect()
    }

    /// Runs `work` on the server's thread and waits for its result.
    fn call<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Bus) -> T + Send + 'static,
    ) -> Result<T, ServerError> {
        let (sender, receiver) = mpsc::channel();
        self.shared.queue.push(Event::Call(Box::new(move |bus| {
            // The caller waits for this; if it is gone there is nobody to tell.
            let _ = sender.send(work(bus));
        })));
        receiver.recv().map_err(|_| ServerError::Stopped)
    }
}

impl Drop for VmbusServer {
    fn drop(&mut self) {
        self.shared.queue.stop();
        if let Some(thread) = lock(&self.thread).take() {
            if thread.join().is_err() {
                tracing::error!("the VMBus thread panicked");
            }
        }
        // Devices hold the shared state that holds them.
        let devices = std::mem::take(&mut *lock(&self.shared.devices));
        drop(devices);
    }
}

impl MessageSink for VmbusServer {
    fn message(&self, connection: u32, message_type: u32, payload: &[u8]) -> HvStatus {
        if !bus::is_message_connection(connection, self.max_version) {
            return HvStatus::InvalidConnectionId;
        }
        if message_type != outbox::MESSAGE_TYPE {
            let detail = format!("message of SynIC type {message_type}");
            self.shared.ledger.violation("vmbus.synic-type", detail);
            return HvStatus::InvalidParameter;
        }
        if self.shared.queue.push_message(connection, payload) {
            return HvStatus::Success;
        }
        self.shared.ledger.count(|c| c.turned_away += 1);
        HvStatus::InsufficientBuffers
    }

    fn slot_free(&self, _vp: u32, _sint: u8) {
        self.shared.queue.push(Event::SlotFree);
    }

    fn signal(&self, connection: u32, flag: u16) -> HvStatus {
        self.shared.ledger.count(|c| c.signals_by_exit += 1);
        if flag != 0 {
            let detail = format!("flag {flag} on connection {connection:#x}");
            self.shared.ledger.violation("vmbus.signal-flag", detail);
            return HvStatus::InvalidParameter;
        }
        match lock(&self.shared.doorbells).get(&connection) {
            Some(Some(event)) => {
                // A full counter means that the device has been signalled already.
                let _ = event.write(1);
                return HvStatus::Success;
            }
            Some(None) => {}
            None => return HvStatus::InvalidConnectionId,
        }
        // A signal can cross with a rescind.
        self.shared.ledger.count(|c| c.signals_to_closed += 1);
        HvStatus::Success
    }
}

/// `responsive` is false if the device may be stuck: its own counters are left out then.
fn device_record(slot: &DeviceSlot, removing: bool, responsive: bool) -> DeviceRecord {
    let counters = if responsive {
        lock(&slot.device).counters()
    } else {
        Value::Null
    };
    DeviceRecord {
        id: slot.id.0,
        class: guid_text(&slot.offer.class),
        instance: guid_text(&slot.offer.instance),
        removing,
        channels: slot
            .all_stats()
            .into_iter()
            .map(|(index, stats)| (index, stats.snapshot()))
            .collect(),
        counters,
    }
}

/// A GUID in its usual text form: the first three groups are little-endian on the wire.
pub fn guid_text(guid: &super::device::Guid) -> String {
    const ORDER: [usize; 16] = [3, 2, 1, 0, 5, 4, 7, 6, 8, 9, 10, 11, 12, 13, 14, 15];
    let mut text = String::with_capacity(36);
    for (position, &byte) in ORDER.iter().enumerate() {
        if [4, 6, 8, 10].contains(&position) {
            text.push('-');
        }
        text.push_str(&format!("{:02x}", guid[byte]));
    }
    text
}
