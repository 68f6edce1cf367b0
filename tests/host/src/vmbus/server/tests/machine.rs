// SPDX-License-Identifier: GPL-2.0

//! The virtual machine of the tests: memory, one message slot per processor, event flags; a guest
//! that speaks in raw messages; and a device that does what it is told.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use serde_json::json;
use vm_memory::{GuestAddress, GuestMemoryMmap};
use vmm_sys_util::eventfd::EventFd;

use super::super::{version, DeviceId, ServerConfig, VmbusServer};
use crate::hypervisor::{HvStatus, Hypervisor, MessageSink, Posted};
use crate::vmbus::device::{DeviceHost, Guid, Offer, OpenChannel, VmbusDevice};
use crate::vmbus::message::number;
use crate::vmbus::ring::guest::GuestRings;

pub(super) const VPS: u32 = 4;
const MEMORY: usize = 1 << 30;

/// What the virtual machine remembers.
#[derive(Default)]
pub(super) struct Recorded {
    /// The message in the slot of each processor.
    slots: BTreeMap<u32, Vec<u8>>,
    /// Processor and flag of each event.
    pub events: Vec<(u32, u16)>,
    /// Bound connections.
    pub bound: BTreeMap<u32, EventFd>,
}

/// The virtual machine.
pub(super) struct Machine {
    memory: GuestMemoryMmap,
    pub recorded: Mutex<Recorded>,
    /// The guest has switched its message page off.
    pub disabled: AtomicBool,
    /// Event descriptors cannot be bound.
    pub cannot_bind: AtomicBool,
}

impl Machine {
    /// Reads the slot of a processor and frees it, without a word to the server.
    pub fn take_message(&self, vp: u32) -> Option<Vec<u8>> {
        self.recorded.lock().unwrap().slots.remove(&vp)
    }
}

impl Hypervisor for Machine {
    fn memory(&self) -> &GuestMemoryMmap {
        &self.memory
    }

    fn vp_count(&self) -> u32 {
        VPS
    }

    fn post_message(&self, vp: u32, sint: u8, message_type: u32, payload: &[u8]) -> Posted {
        assert_eq!((sint, message_type), (2, 1));
        assert!(payload.len() <= 240);
        if self.disabled.load(Ordering::SeqCst) {
            return Posted::Disabled;
        }
        let mut recorded = self.recorded.lock().unwrap();
        if recorded.slots.contains_key(&vp) {
            return Posted::Busy;
        }
        recorded.slots.insert(vp, payload.to_vec());
        Posted::Delivered
    }

    fn signal_event(&self, vp: u32, sint: u8, flag: u16) {
        assert_eq!(sint, 2);
        self.recorded.lock().unwrap().events.push((vp, flag));
    }

    fn bind_connection(&self, connection: u32, event: &EventFd) -> std::io::Result<()> {
        if self.cannot_bind.load(Ordering::SeqCst) {
            return Err(std::io::ErrorKind::Unsupported.into());
        }
        let old = self
            .recorded
            .lock()
            .unwrap()
            .bound
            .insert(connection, event.try_clone().unwrap());
        assert!(old.is_none(), "bound twice");
        Ok(())
    }

    fn unbind_connection(&self, connection: u32, _: &EventFd) -> std::io::Result<()> {
        let old = self.recorded.lock().unwrap().bound.remove(&connection);
        assert!(old.is_some(), "not bound");
        Ok(())
    }
}

/// What the device of the tests was asked to do.
#[derive(Default)]
pub(super) struct DeviceState {
    pub host: Option<Arc<dyn DeviceHost>>,
    pub open: BTreeMap<u16, OpenChannel>,
    /// `open 0`, `close 0`, `drop` in order.
    pub log: Vec<String>,
    /// Channels that were closed; a device ought to drop them.
    pub closed: Vec<OpenChannel>,
    /// Offer so many sub-channels when the primary is opened.
    pub subchannels: u16,
}

/// A handle on the device's state for the test.
#[derive(Clone, Default)]
pub(super) struct Device(pub Arc<Mutex<DeviceState>>);

impl Device {
    pub fn log(&self) -> Vec<String> {
        std::mem::take(&mut self.0.lock().unwrap().log)
    }

    pub fn host(&self) -> Arc<dyn DeviceHost> {
        self.0.lock().unwrap().host.clone().unwrap()
    }

    pub fn with_channel<T>(&self, index: u16, f: impl FnOnce(&mut OpenChannel) -> T) -> T {
        f(self.0.lock().unwrap().open.get_mut(&index).unwrap())
    }
}

pub(super) struct TestDevice {
    pub offer: Offer,
    pub state: Device,
}

impl VmbusDevice for TestDevice {
    fn offer(&self) -> Offer {
        self.offer.clone()
    }

    fn attach(&mut self, host: Arc<dyn DeviceHost>) {
        self.state.0.lock().unwrap().host = Some(host);
    }

    fn open(&mut self, channel: OpenChannel) {
        let mut state = self.state.0.lock().unwrap();
        state.log.push(format!("open {}", channel.index));
        if channel.index == 0 && state.subchannels > 0 {
            let count = state.subchannels;
            state.host.as_ref().unwrap().offer_subchannels(count);
        }
        assert!(state.open.insert(channel.index, channel).is_none());
    }

    fn close(&mut self, index: u16) {
        let mut state = self.state.0.lock().unwrap();
        state.log.push(format!("close {index}"));
        let channel = state.open.remove(&index).expect("channel is open");
        state.closed.push(channel);
    }

    fn counters(&self) -> serde_json::Value {
        json!({"open": self.state.0.lock().unwrap().open.len()})
    }
}

impl Drop for TestDevice {
    fn drop(&mut self) {
        self.state.0.lock().unwrap().log.push("drop".into());
    }
}

pub(super) const NIC_CLASS: Guid = [
    0x63, 0x51, 0x61, 0xf8, 0x3e, 0xdf, 0xc5, 0x46, 0x91, 0x3f, 0xf2, 0xd2, 0xf9, 0x65, 0xed, 0x0e,
];

/// A server and the guest that talks to it.
pub(super) struct Guest {
    pub machine: Arc<Machine>,
    pub server: Arc<VmbusServer>,
    pub connection: u32,
    pub vp: u32,
    next_gpadl: u32,
}

impl Guest {
    pub fn new(max_version: u32) -> Self {
        let machine = Arc::new(Machine {
            memory: GuestMemoryMmap::from_ranges(&[(GuestAddress(0), MEMORY)]).unwrap(),
            recorded: Mutex::default(),
            disabled: AtomicBool::new(false),
            cannot_bind: AtomicBool::new(false),
        });
        let server = VmbusServer::new(machine.clone(), ServerConfig { max_version }).unwrap();
        Self {
            machine,
            server,
            connection: 4,
            vp: 0,
            next_gpadl: 0xe1e10,
        }
    }

    /// A guest connected with the highest version, after all offers; one device with up to
    /// `channels` channels.
    pub fn with_device(channels: u16) -> (Self, Device, DeviceId) {
        let mut guest = Self::new(version::V6_0);
        let (device, id) = guest.add_device(1, channels);
        guest.connect(version::V6_0);
        assert_eq!(guest.request_offers(), [1]);
        (guest, device, id)
    }

    pub fn add_device(&mut self, instance: u8, max_channels: u16) -> (Device, DeviceId) {
        let state = Device::default();
        let device = TestDevice {
            offer: Offer {
                class: NIC_CLASS,
                instance: [instance; 16],
                max_channels,
            },
            state: state.clone(),
        };
        let id = self.server.add_device(Box::new(device)).unwrap();
        (state, id)
    }

    /// Posts a message: its number and the rest of its words.
    pub fn post(&self, number: u32, words: &[u32]) {
        let bytes: Vec<u8> = [number, 0]
            .iter()
            .chain(words)
            .flat_map(|word| word.to_le_bytes())
            .collect();
        self.post_bytes(&bytes);
    }

    pub fn post_bytes(&self, bytes: &[u8]) {
        let status = self.server.message(self.connection, 1, bytes);
        assert_eq!(status, HvStatus::Success);
    }

    /// The next message in the slot; `None` if the server has nothing to say.
    pub fn read(&self) -> Option<Vec<u8>> {
        // Devices' requests may be behind what the first call waits for.
        self.server.settle().unwrap();
        self.server.settle().unwrap();
        let message = self.machine.take_message(self.vp);
        if message.is_some() {
            self.server.slot_free(self.vp, 2);
        }
        message
    }

    /// All messages that are there.
    pub fn read_all(&self) -> Vec<Vec<u8>> {
        std::iter::from_fn(|| self.read()).collect()
    }

    /// The next message, which must have this number; as words after the header.
    #[track_caller]
    pub fn expect(&self, number: u32) -> Vec<u32> {
        let message = self.read().expect("a message");
        let words = words(&message);
        assert_eq!(words[0], number, "{message:02x?}");
        words[2..].to_vec()
    }

    #[track_caller]
    pub fn expect_nothing(&self) {
        assert_eq!(self.read(), None);
    }

    /// INITIATE_CONTACT for a version, on the connection that belongs to it.
    pub fn initiate(&mut self, wanted: u32) {
        self.connection = if wanted >= version::V5_0 { 4 } else { 1 };
        let target = if wanted >= version::V5_0 { 2 } else { 0x1000 };
        let words = [wanted, self.vp, target, 0, 0x2000, 0, 0x3000, 0];
        self.post(number::INITIATE_CONTACT, &words);
    }

    #[track_caller]
    pub fn connect(&mut self, wanted: u32) {
        self.initiate(wanted);
        let response = self.expect(number::VERSION_RESPONSE);
        assert_eq!(response[0] & 0xff, 1, "version is supported");
        if wanted >= version::V5_0 {
            self.connection = response[1];
        }
    }

    /// Relids of all offers.
    #[track_caller]
    pub fn request_offers(&self) -> Vec<u32> {
        self.post(number::REQUESTOFFERS, &[]);
        let mut messages = self.read_all();
        assert_eq!(
            words(&messages.pop().unwrap()),
            [number::ALLOFFERS_DELIVERED, 0]
        );
        messages.iter().map(|offer| offered(offer).0).collect()
    }

    /// Describes `pages` pages from page `first` as a new GPADL, in as many messages as Linux
    /// uses. Returns the handle.
    pub fn describe(&mut self, relid: u32, first: u64, pages: u32) -> u32 {
        let handle = self.next_gpadl;
        self.next_gpadl += 1;
        let pfns: Vec<u64> = (first..first + u64::from(pages)).collect();
        let (head, rest) = pfns.split_at(pfns.len().min(26));
        let mut words = vec![relid, handle, (8 + 8 * pages) | 1 << 16, pages * 4096, 0];
        words.extend(halves(head));
        self.post(number::GPADL_HEADER, &words);
        for (i, part) in rest.chunks(28).enumerate() {
            let mut words = vec![i as u32 + 1, handle];
            words.extend(halves(part));
            self.post(number::GPADL_BODY, &words);
        }
        handle
    }

    #[track_caller]
    pub fn establish(&mut self, relid: u32, first: u64, pages: u32) -> u32 {
        let handle = self.describe(relid, first, pages);
        assert_eq!(self.expect(number::GPADL_CREATED), [relid, handle, 0]);
        handle
    }

    pub fn rings(&self, first: u64) -> GuestRings {
        let memory = Arc::new(self.machine.memory.clone());
        GuestRings::new(memory, first * 4096, 128, 128)
    }

    pub fn post_open(&self, relid: u32, handle: u32, vp: u32, split: u32) {
        let mut words = vec![relid, relid, handle, vp, split];
        words.resize(35, 0);
        self.post(number::OPENCHANNEL, &words);
    }

    /// Establishes rings at page `0x1000 * relid`, and opens the channel on processor `vp`.
    #[track_caller]
    pub fn open(&mut self, relid: u32, vp: u32) -> (u32, GuestRings) {
        let first = 0x1000 * u64::from(relid);
        let rings = self.rings(first);
        let handle = self.establish(relid, first, 256);
        self.post_open(relid, handle, vp, 128);
        let result = self.expect(number::OPENCHANNEL_RESULT);
        assert_eq!(result, [relid, relid, 0]);
        (handle, rings)
    }

    pub fn close(&self, relid: u32) {
        self.post(number::CLOSECHANNEL, &[relid]);
    }

    #[track_caller]
    pub fn teardown(&self, relid: u32, handle: u32) {
        self.post(number::GPADL_TEARDOWN, &[relid, handle]);
        assert_eq!(self.expect(number::GPADL_TORNDOWN), [handle]);
    }

    /// Signals the host as the hypercall would.
    pub fn ring_doorbell(&self, relid: u32) {
        let recorded = self.machine.recorded.lock().unwrap();
        match recorded.bound.get(&(0x2000 + relid)) {
            Some(event) => event.write(1).unwrap(),
            None => {
                drop(recorded);
                assert_eq!(self.server.signal(0x2000 + relid, 0), HvStatus::Success);
            }
        }
    }

    pub fn events(&self) -> Vec<(u32, u16)> {
        std::mem::take(&mut self.machine.recorded.lock().unwrap().events)
    }

    /// Names of the violations so far.
    pub fn violations(&self) -> Vec<&'static str> {
        self.server.settle().unwrap();
        self.server.violations().iter().map(|v| v.name).collect()
    }

    /// Nothing was wrong, and nothing of the guest is left.
    #[track_caller]
    pub fn assert_clean(&self) {
        let counters = self.server.snapshot();
        assert!(counters.violations.is_empty(), "{:?}", counters.violations);
        assert_eq!((counters.open_channels, counters.live_gpadls), (0, 0));
        assert_eq!(counters.partial_gpadls, 0);
        assert!(self.machine.recorded.lock().unwrap().bound.is_empty());
    }
}

pub(super) fn words(bytes: &[u8]) -> Vec<u32> {
    bytes
        .chunks(4)
        .map(|word| {
            let mut le = [0; 4];
            le[..word.len()].copy_from_slice(word);
            u32::from_le_bytes(le)
        })
        .collect()
}

fn halves(pfns: &[u64]) -> impl Iterator<Item = u32> + '_ {
    pfns.iter()
        .flat_map(|&pfn| [pfn as u32, (pfn >> 32) as u32])
}

/// Relid and sub-channel index of an OFFERCHANNEL.
#[track_caller]
pub(super) fn offered(message: &[u8]) -> (u32, u16) {
    assert_eq!(message.len(), 196);
    assert_eq!(message[0], number::OFFERCHANNEL as u8);
    let relid = u32::from_le_bytes(message[184..188].try_into().unwrap());
    let connection = u32::from_le_bytes(message[192..196].try_into().unwrap());
    assert_eq!(connection, 0x2000 + relid);
    assert_eq!(message[189], 0, "no monitor");
    assert_eq!(message[190], 1, "dedicated interrupt");
    let index = u16::from_le_bytes([message[180], message[181]]);
    (relid, index)
}

/// The handles that a set of tests must have seen, for comparing without order.
pub(super) fn set<T: Ord>(items: impl IntoIterator<Item = T>) -> BTreeSet<T> {
    items.into_iter().collect()
}
