// SPDX-License-Identifier: GPL-2.0

//! The test host's NIC, and a guest that writes anything to its rings: the host does not panic, says of what it cannot
//! read that the guest broke the protocol, and writes nowhere but to the ring and the buffer that are its to write.

mod guest;

use arbitrary::{Arbitrary, Unstructured};
use guest::{Guest, CONTROL, PRIVATE_LEN};
use hvhost::netvsp::nvsp_wire::GuestMessage;

/// What a guest does in one input.
const MAX_DEEDS: usize = 64;

/// Objects that requests are about.
const OBJECTS: [u32; 14] = [
    0x0001_0106,
    0x0001_0107,
    0x0001_010e,
    0x0001_0114,
    0x0001_0203,
    0x0001_0204,
    0x0001_0202,
    0x0001_0216,
    0x0001_021b,
    0x0101_0101,
    0x0101_0102,
    0x0101_0103,
    0xfc01_020c,
    0xfc01_020d,
];
/// Words of a data message without information or frame: type, length, data offset and length, the rest.
const DATA: [u32; 11] = [1, 44, 36, 0, 0, 0, 0, 0, 0, 0, 0];

/// What the guest does next.
#[derive(Arbitrary, Debug)]
enum Deed {
    /// Attaches as it should.
    Attaches,
    /// Sends an NVSP message: flags, type, words, bytes it is cut to.
    Nvsp(u8, u8, [u32; 4], u8),
    /// Asks for an object, with so many bytes of information.
    Queries(u8, u8),
    /// Sets an object, with so many bytes of information.
    Sets(u8, u8),
    /// Sends a control message with these words in place of length, offset and length of its information.
    Controls(u8, [u32; 5], u8),
    /// Sends a frame: changes to the message's words, bytes of information and of frame, and by which way.
    Sends([u8; 11], u8, u8, Way),
    /// Completes an id with a status.
    Completes(u64, u32),
    /// Any packet: type, flags, bytes of header and payload, lies about both lengths.
    Packet(u16, u16, u8, u8, [i8; 2]),
    /// Writes an index of a ring: which, and the value.
    Index(u8, u32),
    /// Reads what came.
    Reads,
    /// Closes a channel and opens it again.
    Reopens(u8),
    /// A frame comes from outside, of so many bytes.
    Gets(u8),
}

/// How the bytes of an RNDIS message get to the host.
#[derive(Arbitrary, Clone, Copy, Debug)]
enum Way {
    /// In pages, in one range.
    Pages,
    /// In a section of the send buffer.
    Section(u8),
    /// In a section, of which the message says something else.
    WrongSection(u32, u32),
    /// In pages, in ranges of such lengths.
    Ranges(u8, u8),
    /// In a page that is not there.
    NoPage(u64),
}

/// `data` is a script of what the guest does.
pub fn run(data: &[u8]) {
    let mut script = Unstructured::new(data);
    let mut guest = Guest::new();
    if script.arbitrary::<u8>().unwrap_or(0) & 1 == 0 {
        guest.attach();
    }
    for _ in 0..MAX_DEEDS {
        if script.is_empty() {
            break;
        }
        let channel = u16::from(script.arbitrary::<u8>().unwrap_or(0) & 1);
        if let Ok(deed) = Deed::arbitrary(&mut script) {
            act(&mut guest, channel, deed, &mut script);
        }
    }
    guest.finish();
}

fn act(guest: &mut Guest, channel: u16, deed: Deed, script: &mut Unstructured<'_>) {
    let mut bytes = |len: u8| {
        let len = usize::from(len).min(script.len());
        script.bytes(len).unwrap_or(&[]).to_vec()
    };
    match deed {
        Deed::Attaches => guest.attach(),
        Deed::Nvsp(flags, kind, [a, b, c, d], len) => {
            let kind = [1, 100, 101, 103, 104, 106, 107, 110, 125, 126, 133]
                .get(usize::from(kind))
                .copied()
                .unwrap_or(kind.into());
            let mut message = crate::words::bytes(&[kind, a, b, c, d]);
            message.resize(40, 0);
            message.truncate(40usize.saturating_sub(len.into()));
            send(guest, channel, 6, (flags ^ 1).into(), &[], &message);
        }
        Deed::Queries(object, len) => {
            let info = bytes(len);
            control(guest, 4, object, &info);
        }
        Deed::Sets(object, len) => {
            let info = bytes(len);
            control(guest, 5, object, &info);
        }
        Deed::Controls(kind, words, len) => {
            let mut message = crate::words::bytes(&[kind.into()]);
            message.extend(crate::words::bytes(&words));
            message.extend(bytes(len));
            rndis(guest, channel, 1, &message, Way::Pages);
        }
        Deed::Sends(changes, info, frame, way) => {
            let (info, frame) = (bytes(info & !3), bytes(frame));
            let mut words = DATA;
            words[1] += (info.len() + frame.len()) as u32;
            words[2] += info.len() as u32;
            words[3] = frame.len() as u32;
            words[7] = if info.is_empty() { 0 } else { 36 };
            words[8] = info.len() as u32;
            for (word, change) in words.iter_mut().zip(changes) {
                *word = word.wrapping_add(i32::from(change as i8) as u32);
            }
            let message = [crate::words::bytes(&words), info, frame].concat();
            rndis(guest, channel, 0, &message, way);
        }
        Deed::Completes(id, status) => {
            let payload = crate::words::bytes(&[108, status]);
            guest.write(channel, 11, 0, id, &[], &payload, [0, 0]);
        }
        Deed::Packet(kind, flags, header, payload, lies) => {
            let (header, payload) = (bytes(header), bytes(payload));
            guest.write(channel, kind % 16, flags, 7, &header, &payload, lies);
        }
        Deed::Index(which, value) => guest.set_index(channel, which, value),
        Deed::Reads => guest.read_all(channel),
        Deed::Reopens(index) => guest.reopen(u16::from(index & 1)),
        Deed::Gets(len) => guest.deliver(bytes(len)),
    }
    guest.serve();
}

/// Sends a packet that is whole, so that the host must have something to say of a message that it cannot read.
fn send(guest: &mut Guest, channel: u16, kind: u16, flags: u16, header: &[u8], message: &[u8]) {
    let before = guest.violations();
    if guest.listens(channel) && guest.write(channel, kind, flags, 3, header, message, [0, 0]) {
        guest.serve();
        // A ring has units of 8 bytes.
        let mut arrived = message.to_vec();
        arrived.resize(message.len().next_multiple_of(8), 0);
        let unreadable = GuestMessage::parse(&arrived).is_err();
        assert!(!unreadable || guest.violations() > before);
    }
}

fn control(guest: &mut Guest, kind: u32, object: u8, info: &[u8]) {
    let object = OBJECTS[usize::from(object) % OBJECTS.len()];
    let len = info.len() as u32;
    let mut message = crate::words::bytes(&[kind, 28 + len, 9, object, len, 20, 0]);
    message.extend(info);
    rndis(guest, 0, 1, &message, Way::Pages);
}

fn rndis(guest: &mut Guest, channel: u16, channel_type: u32, message: &[u8], way: Way) {
    let message = &message[..message.len().min(PRIVATE_LEN - 4096)];
    let len = message.len() as u32;
    let nvsp = |section, size| {
        let mut nvsp = crate::words::bytes(&[107, channel_type, section, size]);
        nvsp.resize(40, 0);
        nvsp
    };
    let pages = nvsp(u32::MAX, 0);
    let first = CONTROL + 0x88;
    match way {
        Way::Pages => {
            guest.put(first, message);
            let header = ranges(&[(first, len)]);
            send(guest, channel, 9, 1, &header, &pages);
        }
        Way::Section(section) => {
            guest.put_section(section, message);
            send(guest, channel, 6, 1, &[], &nvsp(section.into(), len));
        }
        Way::WrongSection(section, size) => {
            send(guest, channel, 6, 1, &[], &nvsp(section, size));
        }
        Way::Ranges(at, gap) => {
            guest.put(first, message);
            let cut = u32::from(at).min(len);
            let header = ranges(&[
                (first, cut),
                (first + u64::from(cut) + u64::from(gap), len - cut),
            ]);
            send(guest, channel, 9, 1, &header, &pages);
        }
        Way::NoPage(page) => {
            let mut header = ranges(&[(first, len.max(1))]);
            if let Some(place) = header.last_chunk_mut::<8>() {
                *place = page.to_le_bytes();
            }
            send(guest, channel, 9, 1, &header, &pages);
        }
    }
}

/// The header of a packet whose payload lies in these stretches of memory.
fn ranges(stretches: &[(u64, u32)]) -> Vec<u8> {
    let mut header = crate::words::bytes(&[0, stretches.len() as u32]);
    for (start, len) in stretches {
        header.extend(crate::words::bytes(&[*len, (start % 4096) as u32]));
        let end = start + u64::from(*len);
        for page in start / 4096..end.div_ceil(4096).max(start / 4096 + 1) {
            header.extend(page.to_le_bytes());
        }
    }
    header
}
