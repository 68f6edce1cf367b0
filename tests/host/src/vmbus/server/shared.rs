// SPDX-License-Identifier: GPL-2.0

//! What the server's thread shares with the rest of the host.
//!
//! Each mutex in here is a leaf: under it nothing is called that takes another lock or waits. The
//! one exception, the lock around a device, is never taken together with any other.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use vm_memory::GuestMemoryMmap;
use vmm_sys_util::eventfd::EventFd;

use super::queue::{Event, Queue};
use super::DeviceId;
use crate::counters::Ledger;
use crate::fault::FaultPoints;
use crate::hypervisor::{Hypervisor, VMBUS_SINT};
use crate::vmbus::device::{DeviceHost, Offer, VmbusDevice};
use crate::vmbus::gpadl::GpadlMemory;
use crate::vmbus::ring::{ChannelStats, RingOwner};

/// A target VP that gets no interrupts.
pub(super) const NO_VP: u32 = u32::MAX;

/// Locks a mutex; a panic elsewhere does not make its data unusable here.
pub(super) fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A GPADL that is established.
pub(super) struct Gpadl {
    pub relid: u32,
    pub device: DeviceId,
    pub memory: Arc<GpadlMemory>,
}

/// A device behind the bus.
pub(super) struct DeviceSlot {
    pub id: DeviceId,
    pub offer: Offer,
    pub device: Mutex<Box<dyn VmbusDevice>>,
    stats: Mutex<BTreeMap<u16, Arc<ChannelStats>>>,
}

impl DeviceSlot {
    pub fn new(id: DeviceId, offer: Offer, device: Box<dyn VmbusDevice>) -> Self {
        Self {
            id,
            offer,
            device: Mutex::new(device),
            stats: Mutex::default(),
        }
    }

    /// Statistics of the channel with this index, over all its incarnations.
    pub fn stats(&self, index: u16) -> Arc<ChannelStats> {
        lock(&self.stats).entry(index).or_default().clone()
    }

    /// Statistics of all channels that were ever opened.
    pub fn all_stats(&self) -> BTreeMap<u16, Arc<ChannelStats>> {
        lock(&self.stats).clone()
    }
}

/// Shared state of the server.
pub(super) struct Shared {
    pub hypervisor: Arc<dyn Hypervisor>,
    pub memory: Arc<GuestMemoryMmap>,
    pub faults: FaultPoints,
    pub ledger: Ledger,
    pub queue: Queue,
    pub devices: Mutex<BTreeMap<DeviceId, Arc<DeviceSlot>>>,
    pub gpadls: Mutex<BTreeMap<u32, Gpadl>>,
    /// By connection id: the events of open channels, `None` for channels that are only offered.
    pub doorbells: Mutex<BTreeMap<u32, Option<EventFd>>>,
}

impl Shared {
    pub fn new(hypervisor: Arc<dyn Hypervisor>) -> Self {
        let memory = Arc::new(hypervisor.memory().clone());
        Self {
            hypervisor,
            memory,
            faults: FaultPoints::new(),
            ledger: Ledger::default(),
            queue: Queue::default(),
            devices: Mutex::default(),
            gpadls: Mutex::default(),
            doorbells: Mutex::default(),
        }
    }
}

/// The server as one device sees it.
pub(super) struct Host {
    pub shared: Arc<Shared>,
    pub device: DeviceId,
}

impl DeviceHost for Host {
    fn gpadl(&self, handle: u32) -> Option<Arc<GpadlMemory>> {
        lock(&self.shared.gpadls)
            .get(&handle)
            .filter(|gpadl| gpadl.device == self.device)
            .map(|gpadl| gpadl.memory.clone())
    }

    fn offer_subchannels(&self, count: u16) {
        self.shared.queue.push(Event::OfferSubchannels {
            device: self.device,
            count,
        });
    }

    fn rescind_subchannel(&self, index: u16) {
        self.shared.queue.push(Event::Rescind {
            device: self.device,
            index,
        });
    }

    fn violation(&self, name: &'static str, detail: String) {
        let detail = format!("{}: {detail}", self.device);
        self.shared.ledger.violation(name, detail);
    }

    fn faults(&self) -> &FaultPoints {
        &self.shared.faults
    }
}

/// An open channel as its rings see it: where interrupts go.
pub(super) struct ChannelOwner {
    shared: Arc<Shared>,
    relid: u32,
    /// Held while an interrupt is raised, so that none reaches the old processor after the guest
    /// was told that interrupts have moved.
    target: Mutex<u32>,
}

impl ChannelOwner {
    pub fn new(shared: Arc<Shared>, relid: u32, target_vp: u32) -> Self {
        Self {
            shared,
            relid,
            target: Mutex::new(target_vp),
        }
    }

    /// Moves the interrupts; [`NO_VP`] turns them off.
    pub fn retarget(&self, vp: u32) {
        *lock(&self.target) = vp;
    }

    pub fn target(&self) -> u32 {
        *lock(&self.target)
    }
}

impl RingOwner for ChannelOwner {
    fn interrupt(&self) {
        let target = lock(&self.target);
        let hypervisor = &self.shared.hypervisor;
        if *target < hypervisor.vp_count() {
            // Relids stay below 2048.
            hypervisor.signal_event(*target, VMBUS_SINT, self.relid as u16);
        }
    }

    fn violation(&self, name: &'static str, detail: String) {
        let detail = format!("relid {}: {detail}", self.relid);
        self.shared.ledger.violation(name, detail);
    }
}
