// SPDX-License-Identifier: GPL-2.0

//! The way of received packets up to whole frames: ring packet, transfer-page ranges, RNDIS messages, coalescing,
//! headers; and the completions owed. The checks are made in the order of `src/rx.rs` (`Rx::receive`,
//! `Rx::message`) and of `src/net/rx.rs`.
//!
//! No frame has a byte that the host did not put in a range of its packet, no packet goes without completion, no
//! segment is longer than the MTU.

use arbitrary::{Arbitrary, Unstructured};
use netvsc_proto::rndis::{
    coalesce::{Coalescer, Frame, Piece, Step, MAX_FRAME_LEN, MAX_PIECES},
    nvsp::{self, RECEIVE_BUFFER_ID},
    packet::{self, RxData, RxMessage, MAX_RX_HEADER},
    rx_completions::{RxCompletion, RxCompletions},
    tcp_headers,
};
use netvsc_proto::vmbus::{
    packet::{Packet, PacketType},
    transfer_pages::{CheckedRange, TransferPages},
};
use std::collections::VecDeque;

/// Bytes of the receive buffer.
const AREA: usize = 1 << 14;
/// Bytes of the linear part of a frame that is not small: no headers lie beyond.
const LINEAR: usize = 256;
const ETHERNET: usize = 14;
/// What a host does in one script.
const MAX_DEEDS: usize = 24;
/// Completions that may wait.
const OWED: usize = 8;

/// A message as a host may write it. All zero: a frame of 60 bytes.
#[derive(Arbitrary)]
struct Message {
    /// Bits: a piece; first; last; checksum found right; IPv6; another version of IP.
    flags: u8,
    /// Bytes of the frame, from 60.
    len: u16,
    /// A byte of the message that is something else, and a range that is something else.
    bent: u8,
    at: u8,
    byte: u8,
    offset: u16,
}

/// What the host does next with the ring.
#[derive(Arbitrary)]
enum Deed {
    /// A packet of as many messages, one after the other in the list.
    Packet(u8),
    /// The same message very often.
    Flood(u16),
    /// A packet with a bent byte.
    Bent(u8, u8, u8),
    /// Room for as many completions.
    Room(u8),
}

/// `data` is a script: the MTU, messages, and what the host does with them.
pub fn run(data: &[u8]) {
    let mut script = Unstructured::new(data);
    let mtu = 576 + u32::from(script.arbitrary::<u16>().unwrap_or(0)) % 9000;
    let mut host = Host::new(&mut script);
    let mut driver = Driver {
        coalescer: Coalescer::new(vec![Piece::default(); MAX_PIECES]),
        owed: RxCompletions::new(vec![RxCompletion::default(); OWED]),
        expected: VecDeque::new(),
        mtu,
    };
    for _ in 0..MAX_DEEDS {
        let Ok(deed) = Deed::arbitrary(&mut script) else {
            break;
        };
        if script.is_empty() {
            break;
        }
        if let Deed::Room(count) = deed {
            driver.settle(count.into());
        } else if !driver.owed.is_full() {
            let bytes = host.packet(&deed);
            driver.take(&host.area, &bytes);
        }
    }
    driver.settle(usize::MAX);
    assert!(driver.owed.is_empty() && driver.expected.is_empty());
}

/// Writes messages into the receive buffer, and packets that name them.
struct Host {
    area: Vec<u8>,
    /// Offset and length of each message, as the host says.
    ranges: Vec<(u32, u32)>,
    next: usize,
    transaction: u64,
}

impl Host {
    fn new(script: &mut Unstructured<'_>) -> Self {
        let mut this = Self {
            area: vec![0; AREA],
            ranges: Vec::new(),
            next: 0,
            transaction: 0,
        };
        let count = 1 + script.arbitrary::<u8>().unwrap_or(0) % 16;
        let mut at = 0;
        for _ in 0..count {
            let Ok(message) = Message::arbitrary(script) else {
                break;
            };
            at = this.write(&message, at);
        }
        this
    }

    /// Returns where the next message may begin.
    fn write(&mut self, message: &Message, at: usize) -> usize {
        let len = 60 + usize::from(message.len) % (AREA - 256);
        let infos: [[u32; 4]; 2] = [
            [16, 0, 12, if message.flags & 8 == 0 { 0 } else { 0x1a8 }],
            [16, 0x8000_0001, 12, 1 | u32::from(message.flags & 7) << 8],
        ];
        let infos = &infos[..1 + usize::from(message.flags & 1)];
        let info_len = infos.len() * 16;
        let total = 44 + info_len + len;
        let at = if at + total > AREA { 0 } else { at };
        let words = [
            1,
            total as u32,
            36 + info_len as u32,
            len as u32,
            0,
            0,
            0,
            36,
            info_len as u32,
            0,
            0,
        ];
        let mut bytes = crate::words::bytes(&words);
        bytes.extend(crate::words::bytes(infos.as_flattened()));
        bytes.extend(frame(message.flags, len));
        if message.bent & 1 != 0 {
            let index = usize::from(message.at) % bytes.len();
            bytes[index] = message.byte;
        }
        self.area[at..at + total].copy_from_slice(&bytes);
        let said = match message.bent & 6 {
            2 => (u32::from(message.offset) << 3, total as u32),
            4 => (at as u32, u32::from(message.offset)),
            6 => (
                at as u32 ^ u32::from(message.offset) << 16,
                u32::MAX << (message.at & 31),
            ),
            _ => (at as u32, total as u32),
        };
        self.ranges.push(said);
        at + total
    }

    fn packet(&mut self, deed: &Deed) -> Vec<u8> {
        let count = match deed {
            Deed::Packet(count) => usize::from(*count) + 1,
            Deed::Flood(count) => usize::from(*count) % (MAX_PIECES + 40),
            _ => 2,
        };
        let mut ranges = Vec::new();
        for _ in 0..count {
            let (offset, len) = self.ranges.get(self.next).copied().unwrap_or((0, 104));
            ranges.extend([len, offset]);
            if !matches!(deed, Deed::Flood(_)) {
                self.next = (self.next + 1) % self.ranges.len().max(1);
            }
        }
        self.transaction += 1;
        let offset8 = 3 + count as u16;
        let mut bytes = Vec::new();
        bytes.extend([7, 0]);
        bytes.extend(offset8.to_le_bytes());
        bytes.extend((offset8 + 5).to_le_bytes());
        bytes.extend([1, 0]);
        bytes.extend(self.transaction.to_le_bytes());
        bytes.extend(RECEIVE_BUFFER_ID.to_le_bytes());
        bytes.extend([0, 0]);
        bytes.extend((count as u32).to_le_bytes());
        bytes.extend(crate::words::bytes(&ranges));
        bytes.extend(crate::words::bytes(&[
            107,
            0,
            u32::MAX,
            0,
            0,
            0,
            0,
            0,
            0,
            0,
        ]));
        if let Deed::Bent(at, high, byte) = deed {
            let index = (usize::from(*high) << 8 | usize::from(*at)) % bytes.len();
            bytes[index] = *byte;
        }
        bytes
    }
}

/// An Ethernet frame of `len` bytes that holds TCP.
fn frame(flags: u8, len: usize) -> Vec<u8> {
    let mut frame = vec![0; len];
    let ip_len = (len - ETHERNET) as u16;
    if flags & 0x10 == 0 {
        frame[12..14].copy_from_slice(&[0x08, 0x00]);
        frame[14] = 0x45;
        frame[16..18].copy_from_slice(&ip_len.to_be_bytes());
        frame[23] = 6;
        frame[46] = 0x50;
    } else {
        frame[12..14].copy_from_slice(&[0x86, 0xdd]);
        frame[14] = 0x60;
        frame[18..20].copy_from_slice(&ip_len.saturating_sub(40).to_be_bytes());
        frame[20] = 6;
        if let Some(offset) = frame.get_mut(66) {
            *offset = 0x50;
        }
    }
    if flags & 0x20 != 0 {
        frame[14] ^= flags;
    }
    frame
}

/// The receive path.
struct Driver {
    coalescer: Coalescer<Vec<Piece>>,
    owed: RxCompletions<Vec<RxCompletion>>,
    /// Which completions the host may expect, oldest first.
    expected: VecDeque<u64>,
    mtu: u32,
}

impl Driver {
    fn take(&mut self, area: &[u8], bytes: &[u8]) {
        let Ok(packet) = Packet::parse(bytes) else {
            return;
        };
        if packet.packet_type != PacketType::DataTransferPages {
            return;
        }
        let ok = self.receive(area, &packet);
        self.expected.push_back(packet.transaction_id);
        let owed = RxCompletion {
            transaction_id: packet.transaction_id,
            ok,
        };
        assert_eq!(self.owed.push(owed), Ok(()), "there was room");
    }

    /// Sends up to `room` completions, in order.
    fn settle(&mut self, room: usize) {
        for _ in 0..room {
            let Some(owed) = self.owed.peek() else {
                return;
            };
            assert_eq!(self.expected.pop_front(), Some(owed.transaction_id));
            assert_eq!(self.owed.pop(), Some(owed));
        }
    }

    /// Whether all of the packet was good.
    fn receive(&mut self, area: &[u8], packet: &Packet<'_>) -> bool {
        let pages = TransferPages::parse(packet.header).ok();
        let pages = pages.filter(|pages| pages.pageset_id() == RECEIVE_BUFFER_ID);
        let (Some(pages), Ok(_)) = (pages, nvsp::decode_rndis_packet(packet.payload)) else {
            return false;
        };
        let lost_before = self.coalescer.lost();
        let mut row = Row::default();
        let mut bad = false;
        for range in pages.iter() {
            let range = range.within(area.len() as u32);
            if range.is_none_or(|range| !self.message(area, range, &mut row)) {
                bad = true;
                row.gap = true;
                self.coalescer.gap();
            }
        }
        let lost = self.coalescer.lost();
        let ended = self.coalescer.end_of_packet();
        assert_eq!(self.coalescer.lost(), lost + u64::from(ended.is_err()));
        assert_eq!(self.coalescer.end_of_packet(), Ok(()), "nothing is left");
        assert!(row.delivered <= row.received, "more bytes out than in");
        !bad && self.coalescer.lost() == lost_before
    }

    fn message(&mut self, area: &[u8], range: CheckedRange, row: &mut Row) -> bool {
        let bytes = &area[range.offset() as usize..][..range.len() as usize];
        let copied = &bytes[..bytes.len().min(MAX_RX_HEADER)];
        let Ok(RxMessage::Data(data)) = packet::parse(copied, range.len()) else {
            return false;
        };
        assert!(data.data_offset + data.data_len <= range.len());
        row.received += u64::from(range.len());
        row.message(range.offset() + data.data_offset, &data);
        match self
            .coalescer
            .push(range.offset() + data.data_offset, &data)
        {
            Ok(Step::Frame(frame)) => {
                row.delivered += u64::from(frame.len);
                row.check(&frame);
                check_headers(&frame, area, self.mtu);
                true
            }
            Ok(Step::More) => {
                assert!(data.fragment.is_some_and(|fragment| !fragment.last));
                true
            }
            Err(_) => {
                row.pieces.clear();
                true
            }
        }
    }
}

/// What a frame may consist of: the messages in a row since the last first piece.
#[derive(Default)]
struct Row {
    pieces: Vec<Piece>,
    /// A message was refused since.
    gap: bool,
    received: u64,
    delivered: u64,
}

impl Row {
    fn message(&mut self, offset: u32, data: &RxData) {
        if data.fragment.is_none_or(|fragment| fragment.first) {
            self.pieces.clear();
            self.gap = false;
        }
        let len = data.data_len;
        self.pieces.push(Piece { offset, len });
    }

    fn check(&mut self, frame: &Frame<'_>) {
        assert!(!self.gap, "a frame with a hole");
        assert_eq!(frame.pieces, self.pieces);
        assert!((1..=MAX_PIECES).contains(&frame.pieces.len()));
        let len: u64 = frame.pieces.iter().map(|piece| u64::from(piece.len)).sum();
        assert_eq!(len, u64::from(frame.len));
        assert!(frame.len <= MAX_FRAME_LEN);
        self.pieces.clear();
    }
}

/// What becomes of the headers of a frame whose checksum is not filled in.
fn check_headers(frame: &Frame<'_>, area: &[u8], mtu: u32) {
    let checksum = frame.data.checksum;
    let missing = frame.pieces.len() > 1 || checksum.transport_value_invalid();
    if !checksum.transport_ok() || !missing {
        return;
    }
    let parts = frame
        .pieces
        .iter()
        .map(|piece| &area[piece.offset as usize..][..piece.len as usize]);
    let all: Vec<u8> = parts.flatten().take(ETHERNET + LINEAR).copied().collect();
    let mut headers = all[ETHERNET..].to_vec();
    if checksum.ip_ok() && checksum.ip_value_invalid() {
        tcp_headers::fill_ipv4_checksum(&mut headers);
    }
    let packet_len = frame.len - ETHERNET as u32;
    let first_len = frame.pieces[0].len - ETHERNET as u32;
    let Some(segments) = tcp_headers::prepare(&mut headers, packet_len, first_len, mtu) else {
        return;
    };
    let tcp = usize::from(segments.tcp_offset);
    let before_payload = tcp as u32 + u32::from(headers[tcp + 12] >> 4) * 4;
    if segments.size > 0 {
        let size = u32::from(segments.size);
        assert!(before_payload + size <= mtu, "a segment above the MTU");
        let payload = packet_len - before_payload;
        assert!(u32::from(segments.count) * size >= payload);
    }
}
