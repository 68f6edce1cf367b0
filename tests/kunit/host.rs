// SPDX-License-Identifier: GPL-2.0

//! A host that follows a script: answers what the driver sends over the rings of a [`TestDevice`], in a thread of its
//! own, and goes wrong at the point that it was told to.
//!
//! What it answers is in `tests/scripted/answers.rs`.

#[path = "../scripted/answers.rs"]
mod answers;

use self::answers::{put, word, Answers, MAX_ANSWER, NVSP_LEN};
use super::bus::{HostEnd, TestDevice, MAX_PACKET};
use crate::vmbus::{
    packet::{Packet, PacketType},
    Completion, Deadline,
};
use core::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use kernel::{
    new_mutex,
    prelude::*,
    sync::{Arc, Mutex},
    time::{delay::fsleep, Delta},
    workqueue,
};

/// Bytes of a section of the receive buffer.
const RECEIVE_SECTION: usize = 1728;
/// Bytes of a section of the send buffer.
pub(crate) const SEND_SECTION: usize = 6144;
/// Per-packet information: 802.1Q.
const VLAN: u32 = 6;
/// Most bytes of an RNDIS packet that the guest sends here.
const MAX_MESSAGE: usize = 16 * 1024;
/// The address of the adapter.
pub(crate) const MAC: [u8; 6] = [0x00, 0x15, 0x5d, 1, 2, 3];

/// Something that the guest asks for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Request {
    /// An NVSP message, by its type.
    Nvsp(u32),
    /// RNDIS INITIALIZE.
    Initialize,
    /// A query for an object.
    Query(u32),
    /// A setting of an object.
    Set(u32),
    /// RNDIS HALT.
    Halt,
}

/// How a request is answered wrongly.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// With a failure.
    Refuse,
    /// By taking the device away.
    Rescind,
}

/// What the host is and does.
#[derive(Clone, Copy)]
pub(crate) struct Script {
    /// The newest NVSP version that it knows.
    pub(crate) newest: u32,
    /// Receive queues that it has: the most channels.
    pub(crate) queues: u16,
    /// Sub-channels that it offers of those asked for.
    pub(crate) offers: u16,
    /// Where it goes wrong.
    pub(crate) fault: Option<(Request, Fault)>,
}

impl Default for Script {
    fn default() -> Self {
        Self {
            newest: 0x6_0001,
            queues: 1,
            offers: u16::MAX,
            fault: None,
        }
    }
}

/// What the host has seen, and what it needs to know.
#[pin_data]
struct State {
    device: Arc<TestDevice>,
    script: Script,
    stop: AtomicBool,
    receive: AtomicU32,
    send: AtomicU32,
    next_section: AtomicU32,
    requests: AtomicU32,
    halts: AtomicU32,
    revokes: AtomicU32,
    completed: AtomicU32,
    refused: AtomicU32,
    frames: AtomicU32,
    /// Channels that frames came on, a mask.
    channels: AtomicU32,
    complete_frames: AtomicBool,
    /// How many frames were the one expected.
    matching: AtomicU32,
    /// The 802.1Q information of the last of them; 0 if it had none.
    tag: AtomicU32,
    #[pin]
    expected: Mutex<KVec<u8>>,
}

/// A running host. Dropping it ends it.
pub(crate) struct Host {
    state: Arc<State>,
    /// Signalled when its thread has let go of the state.
    ended: Arc<Completion>,
}

impl Host {
    /// Starts a host for `device`.
    pub(crate) fn start(device: &Arc<TestDevice>, script: Script) -> Result<Self> {
        let state = Arc::pin_init(
            try_pin_init!(State {
                device: device.clone(),
                script,
                stop: AtomicBool::new(false),
                receive: AtomicU32::new(0),
                send: AtomicU32::new(0),
                next_section: AtomicU32::new(0),
                requests: AtomicU32::new(0),
                halts: AtomicU32::new(0),
                revokes: AtomicU32::new(0),
                completed: AtomicU32::new(0),
                refused: AtomicU32::new(0),
                frames: AtomicU32::new(0),
                channels: AtomicU32::new(0),
                complete_frames: AtomicBool::new(true),
                matching: AtomicU32::new(0),
                tag: AtomicU32::new(0),
                expected <- new_mutex!(KVec::new()),
            }),
            GFP_KERNEL,
        )?;
        let buffers = Buffers {
            packet: KBox::new([0; MAX_PACKET], GFP_KERNEL)?,
            message: KVec::from_elem(0, MAX_MESSAGE, GFP_KERNEL)?,
        };
        let ended = Arc::pin_init(Completion::new(), GFP_KERNEL)?;
        let (running, end) = (state.clone(), ended.clone());
        workqueue::system_unbound().try_spawn(GFP_KERNEL, move || {
            running.run(buffers);
            drop(running);
            end.complete();
        })?;
        device.set_running(true);
        Ok(Self { state, ended })
    }

    /// Requests that the guest made.
    pub(crate) fn requests(&self) -> u32 {
        self.state.requests.load(Ordering::SeqCst)
    }

    /// How often it said HALT, and how many buffers it took back.
    pub(crate) fn farewells(&self) -> (u32, u32) {
        let read = |counter: &AtomicU32| counter.load(Ordering::SeqCst);
        (read(&self.state.halts), read(&self.state.revokes))
    }

    /// Packets from here that the guest has completed, and how many of them as bad.
    pub(crate) fn completed(&self) -> (u32, u32) {
        let read = |counter: &AtomicU32| counter.load(Ordering::SeqCst);
        (read(&self.state.completed), read(&self.state.refused))
    }

    /// Frames that the guest has sent.
    pub(crate) fn frames(&self) -> u32 {
        self.state.frames.load(Ordering::SeqCst)
    }

    /// Channels that they came on, a mask.
    pub(crate) fn channels(&self) -> u32 {
        self.state.channels.load(Ordering::SeqCst)
    }

    /// From here on.
    pub(crate) fn forget_channels(&self) {
        self.state.channels.store(0, Ordering::SeqCst);
    }

    /// From here on counts frames that are `expected`, for [`Host::matching`].
    pub(crate) fn expect(&self, expected: KVec<u8>) {
        let mut place = self.state.expected.lock();
        *place = expected;
        self.state.matching.store(0, Ordering::SeqCst);
    }

    /// How often the guest has sent what is expected.
    pub(crate) fn matching(&self) -> u32 {
        self.state.matching.load(Ordering::SeqCst)
    }

    /// The 802.1Q information, as on the wire, of the last frame that was expected; 0 if it had none.
    pub(crate) fn tag(&self) -> u32 {
        self.state.tag.load(Ordering::SeqCst)
    }

    /// From here on frames that the guest sends are completed, or are not.
    pub(crate) fn complete_frames(&self, complete: bool) {
        self.state.complete_frames.store(complete, Ordering::SeqCst);
    }

    /// Sends a frame to the guest. False if the ring or the buffer has no room.
    pub(crate) fn deliver(&self, frame: &[u8]) -> bool {
        let len = frame.len() as u32;
        self.deliver_with(&[1, 44 + len, 36, len, 0, 0, 0, 0, 0, 0, 0], frame)
    }

    /// The same with 802.1Q information, as on the wire.
    pub(crate) fn deliver_tagged(&self, frame: &[u8], tag: u32) -> bool {
        let len = frame.len() as u32;
        let fixed = [1, 60 + len, 52, len, 0, 0, 0, 36, 16, 0, 0];
        let mut words = [16, VLAN, 12, tag].into_iter();
        let header: [u32; 15] = core::array::from_fn(|index| match fixed.get(index) {
            Some(word) => *word,
            None => words.next().unwrap_or(0),
        });
        self.deliver_with(&header, frame)
    }

    fn deliver_with(&self, header: &[u32], frame: &[u8]) -> bool {
        let mut message = [0u8; RECEIVE_SECTION];
        let header = put(&mut message, header);
        let whole = header + frame.len();
        message[header..whole].copy_from_slice(frame);
        self.indicate(&message[..whole], 0)
    }

    /// Sends an RNDIS message to the guest.
    pub(crate) fn indicate(&self, message: &[u8], channel: u32) -> bool {
        let device = &self.state.device;
        device
            .with_rings(0, |end| self.state.receive_message(&end, message, channel))
            .unwrap_or(false)
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        self.state.device.set_running(false);
        self.state.stop.store(true, Ordering::SeqCst);
        if !self.ended.wait(Deadline::after(30_000)) {
            pr_err!("a test's host does not end\n");
        }
    }
}

struct Buffers {
    packet: KBox<[u8; MAX_PACKET]>,
    message: KVec<u8>,
}

impl State {
    fn run(&self, mut buffers: Buffers) {
        while !self.stop.load(Ordering::SeqCst) {
            let mut busy = false;
            for index in 0..self.script.queues {
                let step = |end: HostEnd| self.step(&end, index, &mut buffers);
                busy |= self.device.with_rings(index, step).unwrap_or(false);
            }
            if !busy {
                fsleep(Delta::from_micros(500));
            }
        }
    }

    /// Handles one packet on channel `index`; false if there is none.
    fn step(&self, end: &HostEnd, index: u16, buffers: &mut Buffers) -> bool {
        let Some(len) = end.read(&mut buffers.packet) else {
            return false;
        };
        let Ok(packet) = Packet::parse(&buffers.packet[..len]) else {
            pr_err!("a packet of the guest makes no sense\n");
            return true;
        };
        let id = packet.transaction_id;
        match packet.packet_type {
            PacketType::Completion => {
                self.completed.fetch_add(1, Ordering::SeqCst);
                if word(packet.payload, 0) != 108 || word(packet.payload, 1) != 1 {
                    self.refused.fetch_add(1, Ordering::SeqCst);
                }
            }
            PacketType::DataInBand if word(packet.payload, 0) != 107 => {
                self.nvsp(end, packet.payload, id, packet.completion_requested);
            }
            PacketType::DataInBand | PacketType::DataGpaDirect => {
                match self.gather(&packet, &mut buffers.message) {
                    Some(len) if word(packet.payload, 1) == 1 => {
                        self.control(end, &buffers.message[..len], id);
                    }
                    Some(len) => {
                        self.channels.fetch_or(1 << index, Ordering::SeqCst);
                        self.sent(end, &buffers.message[..len], id);
                    }
                    None => pr_err!("an RNDIS packet of the guest leads nowhere\n"),
                }
            }
            _ => pr_err!("a packet of the guest is of a kind of its own\n"),
        }
        true
    }

    /// The fault that the script has for `request`.
    fn fault(&self, request: Request) -> Option<Fault> {
        self.requests.fetch_add(1, Ordering::SeqCst);
        let (at, fault) = self.script.fault?;
        (at == request).then_some(fault)
    }

    fn complete(&self, end: &HostEnd, id: u64, payload: &[u8; NVSP_LEN]) {
        if !end.write(0xb, id, false, &[], payload) {
            pr_err!("a guest that does not read gets no answers\n");
        }
        end.interrupt();
    }

    /// Bytes of the receive buffer, 0 before it is there.
    fn receive_buffer(&self) -> usize {
        let handle = self.receive.load(Ordering::SeqCst);
        self.device.buffer(handle).map_or(0, |(_, len)| len)
    }

    /// What it answers to requests.
    fn answers(&self) -> Answers {
        let count = self.receive_buffer() / RECEIVE_SECTION;
        Answers {
            newest: self.script.newest,
            queues: self.script.queues.into(),
            mac: &MAC,
            receive_sections: [1, 0, RECEIVE_SECTION as u32, count as u32],
            send_section: SEND_SECTION as u32,
            name: "kunit",
            ..Answers::default()
        }
    }

    fn nvsp(&self, end: &HostEnd, message: &[u8], id: u64, wants_completion: bool) {
        let kind = word(message, 0);
        let fault = self.fault(Request::Nvsp(kind));
        if fault == Some(Fault::Rescind) {
            self.device.rescind(true);
            return;
        }
        let handle = word(message, 1);
        let mut granted = 0;
        match kind {
            101 => self.receive.store(handle, Ordering::SeqCst),
            104 => self.send.store(handle, Ordering::SeqCst),
            133 if fault.is_none() => granted = (word(message, 2) as u16).min(self.script.offers),
            103 | 106 => {
                self.revokes.fetch_add(1, Ordering::SeqCst);
                return;
            }
            100 | 125 if !wants_completion => return,
            _ => {}
        }
        let answers = Answers {
            grant: Some(granted.into()),
            ..self.answers()
        };
        match answers.nvsp(message, fault.is_some()) {
            Some(answer) => self.complete(end, id, &answer),
            None => pr_err!("NVSP message {kind} is not in the script\n"),
        }
        if kind == 133 && self.device.offer(granted).is_err() {
            pr_err!("no memory for sub-channels\n");
        }
    }

    /// The bytes of an RNDIS packet: those in a section of the send buffer, then those in pages.
    fn gather(&self, packet: &Packet<'_>, to: &mut [u8]) -> Option<usize> {
        let mut at = 0;
        let (section, size) = (word(packet.payload, 2), word(packet.payload, 3) as usize);
        if section != u32::MAX {
            let (start, len) = self.device.buffer(self.send.load(Ordering::SeqCst))?;
            let offset = (section as usize).checked_mul(SEND_SECTION)?;
            let place = to.get_mut(..size).filter(|_| offset + size <= len)?;
            // SAFETY: So many bytes lie there while the buffer is shared.
            unsafe {
                place
                    .as_mut_ptr()
                    .copy_from(start.as_ptr().add(offset), size)
            };
            at = size;
        }
        let mut ranges = packet.header.get(24..).unwrap_or(&[]);
        if packet.packet_type != PacketType::DataGpaDirect {
            ranges = &[];
        }
        while ranges.len() >= 16 {
            let (mut len, mut offset) = (word(ranges, 0) as usize, word(ranges, 1) as usize);
            ranges = &ranges[8..];
            while len > 0 {
                let pfn = u64::from_le_bytes(*ranges.first_chunk()?);
                ranges = &ranges[8..];
                let part = len.min(4096 - offset);
                let place = to.get_mut(at..at + part)?;
                let address = pfn * 4096 + offset as u64;
                if !super::memory::read_gpa(address, place) {
                    return None;
                }
                (at, len, offset) = (at + part, len - part, 0);
            }
        }
        Some(at)
    }

    /// An RNDIS control message.
    fn control(&self, end: &HostEnd, message: &[u8], id: u64) {
        let what = match word(message, 0) {
            2 => Request::Initialize,
            3 => Request::Halt,
            4 => Request::Query(word(message, 3)),
            _ => Request::Set(word(message, 3)),
        };
        let fault = self.fault(what);
        if fault == Some(Fault::Rescind) {
            self.device.rescind(true);
            return;
        }
        self.complete(end, id, &Answers::rndis_packet(true));
        if what == Request::Halt {
            self.halts.fetch_add(1, Ordering::SeqCst);
            return;
        }
        let mut answer = [0u8; MAX_ANSWER];
        let Some(len) = self.answers().rndis(message, fault.is_some(), &mut answer) else {
            pr_err!("an RNDIS request is not in the script\n");
            return;
        };
        if !self.receive_message(end, &answer[..len], 1) {
            pr_err!("a guest that does not read gets no answers\n");
        }
    }

    /// Writes a message to the next section of the receive buffer and tells the guest.
    fn receive_message(&self, end: &HostEnd, message: &[u8], channel: u32) -> bool {
        let Some((start, len)) = self.device.buffer(self.receive.load(Ordering::SeqCst)) else {
            return false;
        };
        let number = self.next_section.fetch_add(1, Ordering::SeqCst);
        let offset = number as usize % (len / RECEIVE_SECTION) * RECEIVE_SECTION;
        // SAFETY: A section of the buffer, which is shared as long as the host is at it.
        unsafe {
            start
                .as_ptr()
                .add(offset)
                .copy_from(message.as_ptr(), message.len().min(RECEIVE_SECTION))
        };
        let mut header = [0u8; 16];
        put(
            &mut header,
            &[0xcafe, 1, message.len() as u32, offset as u32],
        );
        let mut payload = [0u8; 40];
        put(&mut payload, &[107, channel, u32::MAX, 0]);
        let written = end.write(7, 0x1000 + u64::from(number), true, &header, &payload);
        end.interrupt();
        written
    }

    /// Frames of the guest's.
    fn sent(&self, end: &HostEnd, messages: &[u8], id: u64) {
        let mut rest = messages;
        while word(rest, 0) == 1 {
            let len = word(rest, 1) as usize;
            let (offset, data) = (8 + word(rest, 2) as usize, word(rest, 3) as usize);
            let Some(frame) = rest.get(offset..offset + data) else {
                pr_err!("a frame of the guest ends outside its packet\n");
                break;
            };
            let same = *self.expected.lock() == frame;
            if same {
                // What there is of per-packet info begins behind the header; its first element is looked at.
                let tagged = word(rest, 8) > 0 && word(rest, 12) == VLAN;
                let tag = if tagged { word(rest, 14) } else { 0 };
                self.tag.store(tag, Ordering::SeqCst);
                self.matching.fetch_add(1, Ordering::SeqCst);
            }
            self.frames.fetch_add(1, Ordering::SeqCst);
            rest = rest.get(len..).unwrap_or(&[]);
        }
        if self.complete_frames.load(Ordering::SeqCst) {
            self.complete(end, id, &Answers::rndis_packet(true));
        }
    }
}
