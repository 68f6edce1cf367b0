// SPDX-License-Identifier: GPL-2.0

//! A guest in memory of our own: two channels, their rings as the specification has them, buffers lent to the host. No
//! thread runs: the host's side is called in turn.

use std::cell::RefCell;
use std::collections::HashMap;
use std::io;
use std::os::fd::RawFd;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use hvhost::backend::frame::Frame;
use hvhost::backend::{Backend, TxDrop};
use hvhost::fault::FaultPoints;
use hvhost::netvsp::nic::Nic;
use hvhost::netvsp::NicConfig;
use hvhost::vmbus::device::{DeviceHost, OpenChannel};
use hvhost::vmbus::gpa::GpaRange;
use hvhost::vmbus::gpadl::GpadlMemory;
use hvhost::vmbus::ring::{ChannelStats, RingOwner, RingPair};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};
use vmm_sys_util::eventfd::{EventFd, EFD_NONBLOCK};

use crate::words::bytes;

const PAGE: u64 = 4096;
/// Pages of a ring, with its header.
const RING_PAGES: u64 = 4;
/// Bytes of a ring's data.
const RING_LEN: u32 = (RING_PAGES as u32 - 1) * PAGE as u32;
/// From one channel's rings to the next one's.
const STRIDE: u64 = 2 * RING_PAGES * PAGE;
const CHANNELS: u16 = 2;
/// Where the guest puts messages, and behind that its send buffer: nothing that the host may write.
pub const CONTROL: u64 = 0x1_0000;
/// Bytes of both.
pub const PRIVATE_LEN: usize = 0x1_0000;
const SEND: u64 = 0x2_0000;
const SEND_LEN: u64 = 0x1_0000;
const SECTION_LEN: u64 = 6144;
const RECEIVE: u64 = 0x4_0000;
const RECEIVE_LEN: u64 = 0x8_0000;
const MEMORY: usize = 0x10_0000;
const RECEIVE_HANDLE: u32 = 1;
const SEND_HANDLE: u32 = 2;
const MAC: [u8; 6] = [0, 0x15, 0x5d, 1, 2, 3];

/// The bus as the NIC sees it.
#[derive(Default)]
struct Bus {
    gpadls: Mutex<HashMap<u32, Arc<GpadlMemory>>>,
    violations: AtomicUsize,
    faults: FaultPoints,
}

impl Bus {
    fn note(&self, name: &str, detail: &str) {
        assert!(!name.is_empty() && !detail.is_empty());
        self.violations.fetch_add(1, Ordering::Relaxed);
    }
}

impl DeviceHost for Bus {
    fn gpadl(&self, handle: u32) -> Option<Arc<GpadlMemory>> {
        self.gpadls
            .lock()
            .expect("nobody panics")
            .get(&handle)
            .cloned()
    }
    fn offer_subchannels(&self, _count: u16) {}
    fn rescind_subchannel(&self, _index: u16) {}
    fn violation(&self, name: &'static str, detail: String) {
        self.note(name, &detail);
    }
    fn faults(&self) -> &FaultPoints {
        &self.faults
    }
}

struct Owner(Arc<Bus>);

impl RingOwner for Owner {
    fn interrupt(&self) {}
    fn violation(&self, name: &'static str, detail: String) {
        self.0.note(name, &detail);
    }
}

/// A wire that finishes nothing by itself: the NIC computes checksums and cuts segments.
struct Wire;

impl Backend for Wire {
    fn kind(&self) -> &'static str {
        "fuzz"
    }
    fn readiness(&self) -> Option<RawFd> {
        None
    }
    fn transmit(&mut self, frame: Frame) -> Result<(), TxDrop> {
        assert!(frame.bytes.len() <= 0x1_0000 + 18);
        Ok(())
    }
    fn receive(&mut self, _budget: usize, _out: &mut Vec<Frame>) -> io::Result<()> {
        Ok(())
    }
    fn counters(&self) -> serde_json::Value {
        serde_json::Value::Null
    }
}

thread_local! {
    /// Mapped once.
    static MEMORY_OF_ALL: RefCell<Option<Arc<GuestMemoryMmap>>> = const { RefCell::new(None) };
}

fn memory() -> Arc<GuestMemoryMmap> {
    MEMORY_OF_ALL.with_borrow_mut(|memory| {
        let map = || GuestMemoryMmap::from_ranges(&[(GuestAddress(0), MEMORY)]).expect("memory");
        memory.get_or_insert_with(|| Arc::new(map())).clone()
    })
}

pub struct Guest {
    memory: Arc<GuestMemoryMmap>,
    bus: Arc<Bus>,
    nic: Nic,
    /// What the guest has put from [`CONTROL`] on.
    private: Vec<u8>,
    /// Where each channel is written next.
    written: [u32; CHANNELS as usize],
    links: HashMap<u16, Arc<ChannelStats>>,
    /// The guest has set an index of the ring to the host: what it sends may be lost.
    twisted: [bool; CHANNELS as usize],
}

impl Guest {
    /// With two open channels.
    pub fn new() -> Self {
        let memory = memory();
        let zeros = vec![0; (SEND + SEND_LEN) as usize];
        memory.write_slice(&zeros, GuestAddress(0)).expect("memory");
        let bus = Arc::new(Bus::default());
        for (handle, base, len) in [
            (RECEIVE_HANDLE, RECEIVE, RECEIVE_LEN),
            (SEND_HANDLE, SEND, SEND_LEN),
        ] {
            let lent = gpadl(&memory, handle, base, len);
            let mut gpadls = bus.gpadls.lock().expect("nobody panics");
            gpadls.insert(handle, lent);
        }
        let config = NicConfig::new("fuzz", MAC);
        let nic = Nic::new(config, bus.clone(), Box::new(Wire), None);
        let private = vec![0; (SEND + SEND_LEN - CONTROL) as usize];
        let mut guest = Self {
            memory,
            bus,
            nic,
            private,
            written: [0; CHANNELS as usize],
            links: HashMap::new(),
            twisted: [false; CHANNELS as usize],
        };
        for channel in 0..CHANNELS {
            guest.open(channel);
        }
        guest
    }

    fn open(&mut self, channel: u16) {
        let base = u64::from(channel) * STRIDE;
        for ring in [base, base + RING_PAGES * PAGE] {
            let header = [0; PAGE as usize];
            self.memory
                .write_slice(&header, GuestAddress(ring))
                .expect("memory");
            // The guest signals when there is room.
            self.store(ring + 64, 1);
        }
        self.written[usize::from(channel)] = 0;
        self.twisted[usize::from(channel)] = false;
        let stats = Arc::new(ChannelStats::default());
        self.links.insert(channel, stats.clone());
        let rings = RingPair::new(
            gpadl(&self.memory, 100 + u32::from(channel), base, STRIDE),
            RING_PAGES as u32,
            Arc::new(Owner(self.bus.clone())),
            stats,
        );
        self.nic.open(OpenChannel {
            index: channel,
            relid: 5 + u32::from(channel),
            rings: rings.expect("rings that are as they should be"),
            kick: EventFd::new(EFD_NONBLOCK).expect("an eventfd"),
        });
    }

    /// Closes a channel and opens it again.
    pub fn reopen(&mut self, channel: u16) {
        if channel == 0 {
            self.nic.close(1);
        }
        self.nic.close(channel);
        self.open(channel);
        if channel == 0 {
            self.open(1);
        }
    }

    /// INIT to INITIALIZE, as Linux does it.
    pub fn attach(&mut self) {
        for (flags, words) in [
            (1, [1, 0x6_0001, 0x6_0001, 0, 0]),
            (0, [125, 1514, 0, 0xac, 0]),
            (0, [100, 6, 30, 0, 0]),
            (1, [101, RECEIVE_HANDLE, 0xcafe, 0, 0]),
            (1, [104, SEND_HANDLE, 0, 0, 0]),
        ] {
            let mut message = bytes(&words);
            message.resize(40, 0);
            self.write(0, 6, flags, 1, &[], &message, [0, 0]);
            self.serve();
            self.read_all(0);
        }
        super::rndis(
            self,
            0,
            1,
            &bytes(&[2, 24, 1, 1, 0, 0x4000]),
            super::Way::Pages,
        );
        self.read_all(0);
    }

    fn load(&self, at: u64) -> u32 {
        self.memory
            .load(GuestAddress(at), Ordering::SeqCst)
            .expect("memory")
    }

    fn store(&self, at: u64, value: u32) {
        self.memory
            .store(value, GuestAddress(at), Ordering::SeqCst)
            .expect("memory");
    }

    /// Puts bytes where the guest keeps messages, as far as there is room.
    pub fn put(&mut self, at: u64, bytes: &[u8]) {
        let from = (at - CONTROL) as usize;
        let len = bytes.len().min(self.private.len() - from);
        self.private[from..from + len].copy_from_slice(&bytes[..len]);
        self.memory
            .write_slice(&bytes[..len], GuestAddress(at))
            .expect("memory");
    }

    /// Puts bytes into a section of the send buffer, if there is such a section.
    pub fn put_section(&mut self, section: u8, bytes: &[u8]) {
        let at = u64::from(section) * SECTION_LEN;
        if at + bytes.len() as u64 <= SEND_LEN {
            self.put(SEND + at, bytes);
        }
    }

    /// Writes a packet to the ring, with `lies` added to the lengths in its descriptor, in units of 8 bytes. False if
    /// there is no room.
    #[allow(clippy::too_many_arguments)]
    pub fn write(
        &mut self,
        channel: u16,
        kind: u16,
        flags: u16,
        id: u64,
        header: &[u8],
        payload: &[u8],
        lies: [i8; 2],
    ) -> bool {
        let ring = u64::from(channel) * STRIDE;
        let pad = |len: usize| len.div_ceil(8) * 8;
        let offset = 16 + pad(header.len());
        let len = offset + pad(payload.len());
        let write = self.written[usize::from(channel)];
        let read = self.load(ring + 4) % RING_LEN;
        let used = (write + RING_LEN - read) % RING_LEN;
        if len + 8 >= (RING_LEN - used) as usize {
            return false;
        }
        let lie = |value: usize, lie: i8| ((value / 8) as i32 + i32::from(lie)) as u16;
        let mut packet = Vec::with_capacity(len + 8);
        packet.extend(kind.to_le_bytes());
        packet.extend(lie(offset, lies[0]).to_le_bytes());
        packet.extend(lie(len, lies[1]).to_le_bytes());
        packet.extend(flags.to_le_bytes());
        packet.extend(id.to_le_bytes());
        packet.extend(header);
        packet.resize(offset, 0);
        packet.extend(payload);
        packet.resize(len, 0);
        packet.extend(bytes(&[0, write]));
        let data = ring + PAGE;
        let first = packet.len().min((RING_LEN - write) as usize);
        let (head, tail) = packet.split_at(first);
        let at = GuestAddress(data + u64::from(write));
        self.memory.write_slice(head, at).expect("memory");
        self.memory
            .write_slice(tail, GuestAddress(data))
            .expect("memory");
        let next = (write + packet.len() as u32) % RING_LEN;
        self.written[usize::from(channel)] = next;
        self.store(ring, next);
        true
    }

    /// Writes an index: of the ring to the host, where it is written or read; of the one from it, where it is read or
    /// written.
    pub fn set_index(&mut self, channel: u16, which: u8, value: u32) {
        let ring = u64::from(channel) * STRIDE;
        let from_host = ring + RING_PAGES * PAGE;
        let at = [ring, ring + 4, from_host + 4, from_host, from_host + 12][usize::from(which) % 5];
        self.store(at, value);
        self.twisted[usize::from(channel)] = true;
    }

    /// Takes everything that the host wrote as read.
    pub fn read_all(&mut self, channel: u16) {
        let ring = u64::from(channel) * STRIDE + RING_PAGES * PAGE;
        let written = self.load(ring);
        self.store(ring + 4, written);
    }

    /// A frame comes from the wire.
    pub fn deliver(&mut self, bytes: Vec<u8>) {
        self.nic.deliver(Frame::new(bytes));
    }

    /// The host's turn.
    pub fn serve(&mut self) {
        for channel in 0..CHANNELS {
            self.nic.service(channel, 64);
        }
        self.nic.release_late();
        self.nic.flush();
    }

    /// Violations so far.
    pub fn violations(&self) -> usize {
        self.bus.violations.load(Ordering::Relaxed)
    }

    /// Whether what is sent on a channel is read: its rings are as the guest believes, and nobody waits for room.
    pub fn listens(&mut self, channel: u16) -> bool {
        self.read_all(channel);
        self.serve();
        let ring = u64::from(channel) * STRIDE;
        let all_read = self.load(ring) == self.load(ring + 4);
        !self.twisted[usize::from(channel)] && all_read && self.violations() == 0
    }

    /// The host wrote nothing where it must not.
    pub fn finish(mut self) {
        self.serve();
        let mut now = vec![0; self.private.len()];
        self.memory
            .read_slice(&mut now, GuestAddress(CONTROL))
            .expect("memory");
        assert!(
            now == self.private,
            "the host wrote to memory that is not its to write"
        );
        assert!(self.nic.report().is_object());
    }
}

/// Contiguous memory under a handle.
fn gpadl(memory: &Arc<GuestMemoryMmap>, handle: u32, base: u64, len: u64) -> Arc<GpadlMemory> {
    let range = GpaRange {
        offset: 0,
        len: len as u32,
        pfns: (base / PAGE..(base + len) / PAGE).collect(),
    };
    Arc::new(GpadlMemory::new(memory.clone(), handle, range).expect("memory of the guest's"))
}
