// SPDX-License-Identifier: GPL-2.0

//! The test host's bus, and a guest that posts anything: its thread lives on, and a message that cannot be read is a
//! violation with a name.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, OnceLock};

use arbitrary::{Arbitrary, Unstructured};
use hvhost::hypervisor::{HvStatus, Hypervisor, MessageSink, Posted};
use hvhost::vmbus::device::{DeviceHost, Offer, OpenChannel, VmbusDevice};
use hvhost::vmbus::message::{number, GuestMessage};
use hvhost::vmbus::server::{ServerConfig, VmbusServer};
use vm_memory::{GuestAddress, GuestMemoryMmap};
use vmm_sys_util::eventfd::EventFd;

use crate::words::bytes;

/// What a guest says in one input.
const MAX_DEEDS: usize = 48;
/// Virtual processors.
const PROCESSORS: u32 = 2;
/// Pages of memory.
const PAGES: u64 = 64;
/// Channels of the device, and the host's name for the first.
const CHANNELS: u16 = 4;
const RELID: u32 = 1;
/// Most bytes of a message.
const MAX_MESSAGE: usize = 240;

/// What the guest does next. All zero is as it should be.
#[derive(Arbitrary, Debug)]
enum Deed {
    /// Asks for a version.
    Contact(u8, u32),
    /// Asks for offers.
    Offers,
    /// Shares pages: handle, channel, first page, number of pages less 8, lies about count and length of the list.
    Share(u8, u8, u8, u8, u8, u8),
    /// Goes on with a page list.
    GoesOn(u8, u8),
    /// Opens a channel: which, with which memory, where the second ring begins, processor.
    Opens(u8, u8, u8, u8),
    /// Closes a channel.
    Closes(u8),
    /// Takes memory back.
    TakesBack(u8, u8),
    /// Lets go of a channel.
    Releases(u8),
    /// Moves a channel's interrupts.
    Moves(u8, u32),
    /// Leaves.
    Unloads,
    /// Any number and words.
    Says(u8, [u32; 5]),
    /// So many bytes of the input.
    Raw(u8),
    /// Signals a connection.
    Signals(u32, u16),
    /// Reads the message in its slot.
    Reads,
    /// The host takes a channel away.
    Rescinded(u8),
}

/// `data` is a script of what the guest does.
pub fn run(data: &[u8]) {
    let mut script = Unstructured::new(data);
    let machine = Arc::new(Machine::default());
    let server = VmbusServer::new(machine.clone(), ServerConfig::default()).expect("a thread");
    let guest = Guest { machine, server };
    let device = guest.server.add_device(Box::new(Device)).expect("a device");
    guest.act(Deed::Contact(0, 0), &mut Unstructured::new(&[]));
    guest.act(Deed::Offers, &mut Unstructured::new(&[]));
    for _ in 0..MAX_DEEDS {
        if script.is_empty() {
            break;
        }
        match Deed::arbitrary(&mut script) {
            Ok(Deed::Rescinded(index)) => {
                let _ = guest.server.rescind_subchannel(device, index.into());
            }
            Ok(deed) => guest.act(deed, &mut script),
            Err(_) => break,
        }
    }
    guest.act(Deed::Reads, &mut script);
    guest.server.settle().expect("the bus goes on");
    assert!(guest.server.counters().is_object());
}

struct Guest {
    machine: Arc<Machine>,
    server: Arc<VmbusServer>,
}

impl Guest {
    fn act(&self, deed: Deed, script: &mut Unstructured<'_>) {
        let relid = |which: u8| RELID + u32::from(which);
        let handle = |which: u8| 0xe1e10 + u32::from(which);
        let (kind, body) = match deed {
            Deed::Contact(older, target) => {
                let version = [0x6_0000, 0x5_0003, 0x5_0002, 0x5_0000, 0x4_0001, 0x4_0000]
                    [usize::from(older) % 6];
                let body = vec![version, target, 2, 0, 0, 0, 0, 0];
                (number::INITIATE_CONTACT, body)
            }
            Deed::Offers => (number::REQUESTOFFERS, vec![]),
            Deed::Share(memory, channel, first, more, lie, cut) => {
                let count = 8u64.wrapping_add(more.into());
                let list = 8 + 8 * count as u32;
                let list = list.wrapping_add(i32::from(lie as i8) as u32);
                let len = 4096 * count as u32;
                let shape =
                    u32::from(u16::from_le_bytes([list as u8, (list >> 8) as u8])) | 1 << 16;
                let mut body = vec![relid(channel), handle(memory), shape, len, 0];
                for page in 0..count {
                    let pfn = u64::from(first).wrapping_add(page);
                    body.extend([pfn as u32, (pfn >> 32) as u32]);
                }
                body.truncate(body.len().saturating_sub(cut.into()));
                (number::GPADL_HEADER, body)
            }
            Deed::GoesOn(memory, pages) => {
                let mut body = vec![0, handle(memory)];
                body.extend((0..u32::from(pages)).flat_map(|page| [page % 64, 0]));
                (number::GPADL_BODY, body)
            }
            Deed::Opens(channel, memory, split, processor) => {
                let mut body = vec![relid(channel), 7, handle(memory)];
                body.extend([u32::from(processor), u32::from(split ^ 4)]);
                body.resize(35, 0);
                (number::OPENCHANNEL, body)
            }
            Deed::Closes(channel) => (number::CLOSECHANNEL, vec![relid(channel)]),
            Deed::TakesBack(channel, memory) => {
                let body = vec![relid(channel), handle(memory)];
                (number::GPADL_TEARDOWN, body)
            }
            Deed::Releases(channel) => (number::RELID_RELEASED, vec![relid(channel)]),
            Deed::Moves(channel, processor) => {
                (number::MODIFYCHANNEL, vec![relid(channel), processor])
            }
            Deed::Unloads => (number::UNLOAD, vec![]),
            Deed::Says(kind, words) => (kind.into(), words.to_vec()),
            Deed::Raw(len) => {
                let len = usize::from(len).min(MAX_MESSAGE).min(script.len());
                return self.post(script.bytes(len).unwrap_or(&[]));
            }
            Deed::Signals(connection, flag) => {
                self.server.signal(connection, flag);
                return;
            }
            Deed::Reads => return self.read_all(),
            Deed::Rescinded(_) => return,
        };
        let mut message = bytes(&[kind, 0]);
        message.extend(bytes(&body));
        message.truncate(MAX_MESSAGE);
        self.post(&message);
    }

    fn post(&self, message: &[u8]) {
        let before = self.violations();
        let connection = 4;
        if self.server.message(connection, 1, message) != HvStatus::Success {
            return;
        }
        self.server.settle().expect("the bus goes on");
        let unreadable = GuestMessage::parse(message).is_err();
        assert!(!unreadable || self.violations() > before);
    }

    /// How many there were, each with a name.
    fn violations(&self) -> u64 {
        let all = self.server.violations();
        assert!(all.iter().all(|violation| !violation.name.is_empty()));
        all.iter().map(|violation| violation.count).sum()
    }

    fn read_all(&self) {
        for _ in 0..MAX_DEEDS {
            self.server.settle().expect("the bus goes on");
            let slots = std::mem::take(&mut *self.machine.slots.lock().expect("nobody panics"));
            for processor in slots.into_keys() {
                self.server.slot_free(processor, 2);
            }
        }
    }
}

/// A virtual machine of memory and message slots.
#[derive(Default)]
struct Machine {
    slots: Mutex<BTreeMap<u32, usize>>,
}

impl Hypervisor for Machine {
    fn memory(&self) -> &GuestMemoryMmap {
        static MEMORY: OnceLock<GuestMemoryMmap> = OnceLock::new();
        MEMORY.get_or_init(|| {
            let range = (GuestAddress(0), PAGES as usize * 4096);
            GuestMemoryMmap::from_ranges(&[range]).expect("memory")
        })
    }

    fn vp_count(&self) -> u32 {
        PROCESSORS
    }

    fn post_message(&self, vp: u32, _sint: u8, _message_type: u32, payload: &[u8]) -> Posted {
        assert!(vp < PROCESSORS && payload.len() <= MAX_MESSAGE);
        let mut slots = self.slots.lock().expect("nobody panics");
        if slots.contains_key(&vp) {
            return Posted::Busy;
        }
        slots.insert(vp, payload.len());
        Posted::Delivered
    }

    fn signal_event(&self, vp: u32, _sint: u8, flag: u16) {
        assert!(vp < PROCESSORS && flag < 2048);
    }

    fn bind_connection(&self, _connection: u32, _event: &EventFd) -> io::Result<()> {
        Ok(())
    }

    fn unbind_connection(&self, _connection: u32, _event: &EventFd) -> io::Result<()> {
        Ok(())
    }
}

/// A device that takes channels and does nothing with them.
struct Device;

impl VmbusDevice for Device {
    fn offer(&self) -> Offer {
        Offer {
            class: [1; 16],
            instance: [2; 16],
            max_channels: CHANNELS,
        }
    }
    fn attach(&mut self, _host: Arc<dyn DeviceHost>) {}
    fn open(&mut self, _channel: OpenChannel) {}
    fn close(&mut self, _index: u16) {}
    fn counters(&self) -> serde_json::Value {
        serde_json::Value::Null
    }
}
