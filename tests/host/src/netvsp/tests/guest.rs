// SPDX-License-Identifier: GPL-2.0

//! The scripted guest: memory, channels, a server that hands out GPADLs, and short names for what a
//! driver does. It is written against the specification and knows none of the device's types.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::Value;
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};
use vmm_sys_util::eventfd::{EventFd, EFD_NONBLOCK};

use super::memory::range;
use crate::backend::frame::Frame;
use crate::backend::switch::{Forwarding, Switch, SwitchPort};
use crate::backend::Backend;
use crate::fault::{FaultAction, FaultPoints, FaultSpec};
use crate::netvsp::{Netvsp, NicConfig, NicHandle};
use crate::vmbus::device::{DeviceHost, OpenChannel, VmbusDevice};
use crate::vmbus::gpadl::GpadlMemory;
use crate::vmbus::ring::guest::{GuestPacket, GuestRings};
use crate::vmbus::ring::{ChannelStats, RingOwner, RingPair};

pub const MAC: [u8; 6] = [0x00, 0x15, 0x5d, 0x35, 0xd4, 0x0a];
/// Linux: the id of messages that are not answered.
const NO_ANSWER: u64 = 0xffff_ffff_ffff_fffd;
const MEMORY: usize = 64 << 20;
const RINGS: u64 = 1 << 20;
const RING_STRIDE: u64 = 1 << 18;
/// Where control messages are put.
const CONTROL: u64 = 8 << 20;
/// Where frames in guest pages are put.
pub const PAGES: u64 = 9 << 20;
pub const SEND_BUFFER: u64 = 12 << 20;
pub const RECEIVE_BUFFER: u64 = 16 << 20;
const SEND_GPADL: u32 = 2;
const RECEIVE_GPADL: u32 = 1;
const WAIT: Duration = Duration::from_secs(5);

pub const IN_BAND: u16 = 6;
pub const TRANSFER_PAGES: u16 = 7;
pub const GPA_DIRECT: u16 = 9;
pub const COMPLETION: u16 = 11;

/// The server as the device sees it.
#[derive(Default)]
pub struct Server {
    gpadls: Mutex<HashMap<u32, Arc<GpadlMemory>>>,
    pub violations: Mutex<Vec<(&'static str, String)>>,
    pub offered: Mutex<Vec<u16>>,
    pub rescinded: Mutex<Vec<u16>>,
    faults: FaultPoints,
}

impl DeviceHost for Server {
    fn gpadl(&self, handle: u32) -> Option<Arc<GpadlMemory>> {
        self.gpadls.lock().unwrap().get(&handle).cloned()
    }
    fn offer_subchannels(&self, count: u16) {
        self.offered.lock().unwrap().push(count);
    }
    fn rescind_subchannel(&self, index: u16) {
        self.rescinded.lock().unwrap().push(index);
    }
    fn violation(&self, name: &'static str, detail: String) {
        self.violations.lock().unwrap().push((name, detail));
    }
    fn faults(&self) -> &FaultPoints {
        &self.faults
    }
}

struct Owner(Arc<Server>);

impl RingOwner for Owner {
    fn interrupt(&self) {}
    fn violation(&self, name: &'static str, detail: String) {
        self.0.violation(name, detail);
    }
}

struct GuestChannel {
    rings: GuestRings,
    kick: EventFd,
}

/// Guest, server and device; and the other end of the NIC's wire.
pub struct Guest {
    pub server: Arc<Server>,
    pub device: Netvsp,
    pub handle: NicHandle,
    pub wire: SwitchPort,
    memory: Arc<GuestMemoryMmap>,
    channels: BTreeMap<u16, GuestChannel>,
    next_id: u64,
    request_id: u32,
}

/// Sizes of the buffers the guest lends, in bytes.
#[derive(Clone, Copy)]
pub struct Buffers {
    pub receive: usize,
    pub send: usize,
}

impl Default for Buffers {
    fn default() -> Self {
        Buffers {
            receive: 1 << 20,
            send: 1 << 20,
        }
    }
}

pub fn config(queues: u16) -> NicConfig {
    NicConfig {
        max_queues: queues,
        ..NicConfig::new("nic0", MAC)
    }
}

pub fn word(value: u32) -> [u8; 4] {
    value.to_le_bytes()
}

/// Words laid end to end.
pub fn words(values: &[u32]) -> Vec<u8> {
    values.iter().flat_map(|v| v.to_le_bytes()).collect()
}

pub fn word_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap())
}

/// An NVSP message of 40 bytes, as Linux sends it.
pub fn nvsp(fields: &[u32]) -> Vec<u8> {
    let mut message = words(fields);
    message.resize(40, 0);
    message
}

impl Guest {
    pub fn new(config: NicConfig, buffers: Buffers) -> Self {
        let switch = Switch::new(Forwarding::Flooding, 4096);
        let wire = switch.port().unwrap();
        let backend = switch.port().unwrap();
        let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), MEMORY)]).unwrap();
        let memory = Arc::new(memory);
        let server = Arc::new(Server::default());
        let mut device = Netvsp::new(config, Box::new(backend)).unwrap();
        device.attach(server.clone());
        let guest = Guest {
            handle: device.handle(),
            server,
            device,
            wire,
            memory,
            channels: BTreeMap::new(),
            next_id: 1,
            request_id: 1,
        };
        guest.lend(RECEIVE_GPADL, RECEIVE_BUFFER, buffers.receive);
        guest.lend(SEND_GPADL, SEND_BUFFER, buffers.send);
        guest
    }

    /// A guest that has attached at NVSP 6.1 and opened its filter.
    pub fn running(config: NicConfig) -> Self {
        let mut guest = Guest::new(config, Buffers::default());
        guest.bring_up();
        guest
    }

    pub fn bring_up(&mut self) {
        self.open(0);
        self.handshake(0x60001, 1514);
        self.rndis_initialize();
        assert_eq!(self.set(0x1010e, &word(0x0d)), 0);
    }

    pub fn lend(&self, handle: u32, base: u64, len: usize) {
        let gpadl = GpadlMemory::new(self.memory.clone(), handle, range(base, len)).unwrap();
        let gpadls = &self.server.gpadls;
        gpadls.lock().unwrap().insert(handle, Arc::new(gpadl));
    }

    pub fn open(&mut self, index: u16) {
        self.open_sized(index, 32, 32);
    }

    /// Opens a channel with rings of so many pages.
    pub fn open_sized(&mut self, index: u16, to_host: u32, from_host: u32) {
        let base = RINGS + u64::from(index) * RING_STRIDE;
        let rings = GuestRings::new(self.memory.clone(), base, to_host, from_host);
        let gpadl = GpadlMemory::new(self.memory.clone(), 100 + u32::from(index), rings.range());
        let pair = RingPair::new(
            Arc::new(gpadl.unwrap()),
            rings.split(),
            Arc::new(Owner(self.server.clone())),
            Arc::new(ChannelStats::default()),
        );
        let kick = EventFd::new(EFD_NONBLOCK).unwrap();
        self.device.open(OpenChannel {
            index,
            relid: 5 + u32::from(index),
            rings: pair.unwrap(),
            kick: kick.try_clone().unwrap(),
        });
        self.channels.insert(index, GuestChannel { rings, kick });
    }

    pub fn close(&mut self, index: u16) {
        self.channels.remove(&index);
        self.device.close(index);
    }

    pub fn fault(&self, point: &str, nth: u32, action: FaultAction) {
        let spec = FaultSpec {
            point: point.to_owned(),
            nth,
            count: 1,
            action,
        };
        self.server.faults.add(spec).unwrap();
    }

    // Ring packets.

    pub fn send(&mut self, channel: u16, kind: u16, flags: u16, header: &[u8], m: &[u8]) -> u64 {
        let id = self.next_id;
        self.next_id += 1;
        self.send_as(id, channel, kind, flags, header, m);
        id
    }

    pub fn send_as(&self, id: u64, channel: u16, kind: u16, flags: u16, header: &[u8], m: &[u8]) {
        let c = &self.channels[&channel];
        let end = Instant::now() + WAIT;
        let signal = loop {
            match c.rings.send(kind, flags, id, header, m) {
                Some(signal) => break signal,
                None => assert!(Instant::now() < end, "ring to the host stays full"),
            }
        };
        if signal {
            c.kick.write(1).unwrap();
        }
    }

    pub fn try_receive(&self, channel: u16) -> Option<GuestPacket> {
        let c = &self.channels[&channel];
        let (packet, signal) = c.rings.receive()?;
        if signal {
            c.kick.write(1).unwrap();
        }
        Some(packet)
    }

    /// The next packet from the host.
    pub fn receive(&self, channel: u16) -> GuestPacket {
        let end = Instant::now() + WAIT;
        loop {
            if let Some(packet) = self.try_receive(channel) {
                return packet;
            }
            assert!(
                Instant::now() < end,
                "nothing from the host on channel {channel}; violations: {:?}",
                self.violation_names()
            );
            std::thread::sleep(Duration::from_micros(50));
        }
    }

    /// Makes sure that everything sent so far was served, and nothing is waiting for the guest.
    pub fn expect_silence(&self, channel: u16) {
        std::thread::sleep(Duration::from_millis(20));
        let _ = self.report();
        if let Some(packet) = self.try_receive(channel) {
            panic!("unexpected packet {packet:?}");
        }
    }

    // NVSP.

    /// Sends a message and returns the payload of its completion.
    pub fn ask(&mut self, message: &[u8]) -> Vec<u8> {
        let id = self.send(0, IN_BAND, 1, &[], message);
        let packet = self.receive(0);
        assert_eq!((packet.kind, packet.transaction_id), (COMPLETION, id));
        assert_eq!((packet.flags, packet.header.len()), (0, 0));
        packet.payload
    }

    /// Sends a message that has no answer.
    pub fn tell(&mut self, message: &[u8]) {
        self.send_as(NO_ANSWER, 0, IN_BAND, 0, &[], message);
    }

    pub fn tell_configuration(&mut self, version: u32, mtu: u32) {
        if version > 2 {
            self.tell(&nvsp(&[125, mtu, 0, 0xac, 0]));
        }
        let minor = if version >= 0x50000 { 30 } else { 1 };
        self.tell(&nvsp(&[100, 6, minor]));
    }

    /// INIT to SEND_SEND_BUF. Returns the completion of SEND_RECV_BUF.
    pub fn handshake(&mut self, version: u32, mtu: u32) -> Vec<u8> {
        let answer = self.ask(&nvsp(&[1, version, version]));
        assert_eq!((word_at(&answer, 0), word_at(&answer, 12)), (2, 1));
        self.tell_configuration(version, mtu);
        let receive = self.ask(&nvsp(&[101, RECEIVE_GPADL, 0xcafe]));
        assert_eq!((word_at(&receive, 0), word_at(&receive, 4)), (102, 1));
        let send = self.ask(&nvsp(&[104, SEND_GPADL, 0]));
        assert_eq!(word_at(&send, 8), 6144);
        receive
    }

    // RNDIS.

    /// Sends a control message the way Linux does, without waiting for anything.
    pub fn post_control(&mut self, message: &[u8]) -> u64 {
        let ranges = [(CONTROL + 0x88, message.len())];
        self.memory
            .write_slice(message, GuestAddress(ranges[0].0))
            .unwrap();
        let header = gpa_header(&ranges);
        self.send(0, GPA_DIRECT, 1, &header, &nvsp(&[107, 1, 0xffff_ffff, 0]))
    }

    /// Sends a control message and takes its completion.
    pub fn send_control(&mut self, message: &[u8]) {
        let id = self.post_control(message);
        self.expect_control_completion(id);
    }

    /// Signals a channel whatever its indices say.
    pub fn signal(&self, channel: u16) {
        self.channels[&channel].kick.write(1).unwrap();
    }

    /// Takes the completion of a control message.
    pub fn expect_control_completion(&self, id: u64) {
        let packet = self.receive(0);
        assert_eq!((packet.kind, packet.transaction_id), (COMPLETION, id));
        let head = (word_at(&packet.payload, 0), word_at(&packet.payload, 4));
        assert_eq!(head, (108, 1));
    }

    /// Takes a control message and completes it.
    pub fn receive_control(&mut self) -> Vec<u8> {
        let packet = self.receive(0);
        assert_eq!(packet.kind, TRANSFER_PAGES, "{packet:?}");
        let nvsp = [0, 4, 8, 12].map(|at| word_at(&packet.payload, at));
        assert_eq!(nvsp, [107, 1, 0xffff_ffff, 0]);
        let messages = self.ranges(&packet);
        assert_eq!(messages.len(), 1);
        self.complete(0, packet.transaction_id, 1);
        messages.into_iter().next().unwrap()
    }

    /// The bytes behind a transfer-page packet.
    pub fn ranges(&self, packet: &GuestPacket) -> Vec<Vec<u8>> {
        assert_eq!(packet.header[..4], [0xfe, 0xca, 0, 0]);
        let count = word_at(&packet.header, 4) as usize;
        (0..count)
            .map(|i| {
                let len = word_at(&packet.header, 8 + i * 8) as usize;
                let offset = word_at(&packet.header, 12 + i * 8);
                let mut bytes = vec![0; len];
                let address = GuestAddress(RECEIVE_BUFFER + u64::from(offset));
                self.memory.read_slice(&mut bytes, address).unwrap();
                bytes
            })
            .collect()
    }

    /// Gives receive sections back.
    pub fn complete(&self, channel: u16, id: u64, status: u32) {
        self.send_as(id, channel, COMPLETION, 0, &[], &words(&[108, status]));
    }

    pub fn rndis_initialize(&mut self) -> Vec<u8> {
        let id = self.take_request_id();
        self.send_control(&words(&[2, 24, id, 1, 0, 0x4000]));
        let answer = self.receive_control();
        assert_eq!(word_at(&answer, 0), 0x8000_0002);
        assert_eq!((word_at(&answer, 8), word_at(&answer, 12)), (id, 0));
        answer
    }

    pub fn take_request_id(&mut self) -> u32 {
        self.request_id += 1;
        self.request_id - 1
    }

    /// Status and information of a query.
    pub fn query(&mut self, oid: u32) -> (u32, Vec<u8>) {
        let id = self.take_request_id();
        self.send_control(&words(&[4, 28, id, oid, 0, 20, 0]));
        let answer = self.receive_control();
        assert_eq!(word_at(&answer, 0), 0x8000_0004);
        assert_eq!(word_at(&answer, 4) as usize, answer.len());
        assert_eq!((word_at(&answer, 8), word_at(&answer, 20)), (id, 16));
        let len = word_at(&answer, 16) as usize;
        assert_eq!(answer.len(), 24 + len);
        (word_at(&answer, 12), answer[24..].to_vec())
    }

    /// Status of a set.
    pub fn set(&mut self, oid: u32, info: &[u8]) -> u32 {
        let id = self.take_request_id();
        self.send_control(&set_message(id, oid, info));
        let answer = self.receive_control();
        let head = (
            word_at(&answer, 0),
            word_at(&answer, 4),
            word_at(&answer, 8),
        );
        assert_eq!(head, (0x8000_0005, 16, id));
        word_at(&answer, 12)
    }

    // Data.

    /// Writes to guest memory.
    pub fn write(&self, address: u64, bytes: &[u8]) {
        self.memory
            .write_slice(bytes, GuestAddress(address))
            .unwrap();
    }

    /// Puts RNDIS messages into a send section and sends it. Returns the transaction id.
    pub fn send_section(&mut self, channel: u16, section: u32, messages: &[u8]) -> u64 {
        self.write(SEND_BUFFER + u64::from(section) * 6144, messages);
        let nvsp = nvsp(&[107, 0, section, messages.len() as u32]);
        self.send(channel, IN_BAND, 1, &[], &nvsp)
    }

    /// Sends RNDIS messages that lie in guest pages, cut into ranges of these lengths.
    pub fn send_pages(&mut self, channel: u16, pieces: &[&[u8]]) -> u64 {
        let mut at = PAGES;
        let mut ranges = Vec::new();
        for piece in pieces {
            self.write(at + 100, piece);
            ranges.push((at + 100, piece.len()));
            at += 0x10_0000 / 8;
        }
        let header = gpa_header(&ranges);
        let nvsp = nvsp(&[107, 0, 0xffff_ffff, 0]);
        self.send(channel, GPA_DIRECT, 1, &header, &nvsp)
    }

    /// Status of the completion of a data packet.
    pub fn completion(&self, channel: u16, id: u64) -> u32 {
        let packet = self.receive(channel);
        assert_eq!((packet.kind, packet.transaction_id), (COMPLETION, id));
        assert_eq!(word_at(&packet.payload, 0), 108);
        word_at(&packet.payload, 4)
    }

    /// The frames that arrive at the other end of the wire, at least `count`.
    pub fn wire_frames(&mut self, count: usize) -> Vec<Frame> {
        let end = Instant::now() + WAIT;
        let mut frames = Vec::new();
        while frames.len() < count {
            self.wire.receive(1024, &mut frames).unwrap();
            assert!(Instant::now() < end, "{} frames of {count}", frames.len());
        }
        frames
    }

    // What was observed.

    pub fn report(&self) -> Value {
        self.handle.report()
    }

    pub fn violation_names(&self) -> Vec<&'static str> {
        let violations = self.server.violations.lock().unwrap();
        violations.iter().map(|(name, _)| *name).collect()
    }

    /// Everything sent so far was served, and the guest did nothing wrong.
    pub fn assert_clean(&self) {
        let _ = self.report();
        let violations = self.server.violations.lock().unwrap();
        assert!(violations.is_empty(), "{violations:?}");
    }
}

/// The type-specific header of a GPA-direct packet with these (address, length) ranges.
fn gpa_header(ranges: &[(u64, usize)]) -> Vec<u8> {
    let mut header = words(&[0, ranges.len() as u32]);
    for (address, len) in ranges {
        let offset = (address % 4096) as u32;
        header.extend(words(&[*len as u32, offset]));
        let first = address / 4096;
        let last = (address + *len as u64 - 1) / 4096;
        header.extend((first..=last).flat_map(u64::to_le_bytes));
    }
    header
}

pub fn set_message(id: u32, oid: u32, info: &[u8]) -> Vec<u8> {
    let len = 28 + info.len() as u32;
    let mut message = words(&[5, len, id, oid, info.len() as u32, 20, 0]);
    message.extend_from_slice(info);
    message
}

/// An RNDIS PACKET message with (type, payload) elements.
pub fn packet_message(ppis: &[(u32, u32)], frame: &[u8]) -> Vec<u8> {
    let ppi_len = ppis.len() as u32 * 16;
    let data_offset = 36 + ppi_len;
    let len = 8 + data_offset + frame.len() as u32;
    let ppi_offset = if ppis.is_empty() { 0 } else { 36 };
    let mut message = words(&[1, len, data_offset, frame.len() as u32]);
    message.extend(words(&[0, 0, 0, ppi_offset, ppi_len, 0, 0]));
    for (kind, payload) in ppis {
        message.extend(words(&[16, *kind, 12, *payload]));
    }
    message.extend_from_slice(frame);
    message
}

/// A frame from the guest to the other end of the wire.
pub fn frame(len: usize) -> Vec<u8> {
    let mut frame: Vec<u8> = (0..len).map(|i| (i * 7) as u8).collect();
    frame[..6].copy_from_slice(&[2, 0, 0, 0, 0, 9]);
    frame[6..12].copy_from_slice(&MAC);
    frame[12..14].copy_from_slice(&[0x88, 0xb5]);
    frame
}

/// A frame to the guest.
pub fn frame_to_guest(len: usize) -> Vec<u8> {
    let mut frame = frame(len);
    frame[..6].copy_from_slice(&MAC);
    frame[6..12].copy_from_slice(&[2, 0, 0, 0, 0, 9]);
    frame
}
