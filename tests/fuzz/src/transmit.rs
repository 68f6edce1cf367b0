// SPDX-License-Identifier: GPL-2.0

//! Frames on their way out: what is written into a section or a page list, read back as a host reads it.

use crate::words::word;
use arbitrary::{Arbitrary, Unstructured};
use netvsc_proto::rndis::{
    packet::{self, RxMessage, TxMeta, TxOffload, MAX_TX_HEADER},
    ppi::Transport,
};
use netvsc_proto::vmbus::gpa_direct::{GpaDirect, GpaDirectError, RndisHeaderRange};

/// A frame, and what is said about it.
#[derive(Arbitrary)]
struct Sent {
    len: u16,
    hash: Option<u32>,
    vlan: Option<u16>,
    /// None, checksum, segmentation; TCP or UDP; version of IP.
    offload: u8,
    l4_offset: u16,
    mss: u16,
}

impl Sent {
    fn meta(&self) -> TxMeta {
        let (ipv6, l4_offset) = (self.offload & 8 != 0, self.l4_offset % 1024);
        let transport = if self.offload & 4 != 0 {
            Transport::Udp
        } else {
            Transport::Tcp
        };
        TxMeta {
            len: 14 + u32::from(self.len) % 3000,
            hash: self.hash,
            vlan: self.vlan,
            offload: match self.offload & 3 {
                1 => TxOffload::Checksum {
                    ipv6,
                    transport,
                    l4_offset,
                },
                2 => TxOffload::Lso {
                    ipv6,
                    mss: self.mss.into(),
                    l4_offset,
                },
                _ => TxOffload::None,
            },
        }
    }
}

/// `data` is a script: an alignment, frames of a batch, then ranges of a page list.
pub fn run(data: &[u8]) {
    let mut script = Unstructured::new(data);
    let alignment = 1 << (script.arbitrary::<u8>().unwrap_or(0) % 13);
    let count = script.arbitrary::<u8>().unwrap_or(0) % 16;
    let mut batch = Vec::new();
    let mut metas = Vec::new();
    for index in 0..count {
        let Ok(sent) = Sent::arbitrary(&mut script) else {
            break;
        };
        let meta = sent.meta();
        append(
            &mut batch,
            &meta,
            if index + 1 < count { alignment } else { 1 },
        );
        metas.push(meta);
    }
    check_batch(&batch, &metas, alignment);
    check_pages(&mut script);
}

/// Adds a message to a batch, as `src/tx.rs` does.
fn append(batch: &mut Vec<u8>, meta: &TxMeta, alignment: u32) {
    let mut header = [0; MAX_TX_HEADER];
    let header_len = meta.write_header(&mut header);
    let total = header_len as u32 + meta.len;
    let pad = packet::padding(total, alignment);
    assert!(pad < alignment && (total + pad) % alignment == 0);
    assert!(packet::extend_message(&mut header[..header_len], pad));
    batch.extend(&header[..header_len]);
    batch.resize(batch.len() + (meta.len + pad) as usize, 0x5a);
}

fn check_batch(mut batch: &[u8], metas: &[TxMeta], alignment: u32) {
    for (index, meta) in metas.iter().enumerate() {
        let len = word(batch, 1).unwrap() as usize;
        assert!(index + 1 == metas.len() || len % alignment as usize == 0);
        let (message, rest) = batch.split_at(len);
        check_message(message, meta);
        batch = rest;
    }
    assert!(batch.is_empty());
}

fn check_message(message: &[u8], meta: &TxMeta) {
    let copied = &message[..message.len().min(packet::MAX_RX_HEADER)];
    let Ok(RxMessage::Data(data)) = packet::parse(copied, message.len() as u32) else {
        panic!("not understood");
    };
    assert_eq!(data.data_len, meta.len);
    assert_eq!((data.hash, data.vlan), (meta.hash, meta.vlan));
    assert!(data.data_offset as usize <= MAX_TX_HEADER);
    let frame = &message[data.data_offset as usize..];
    assert!(frame.iter().all(|byte| *byte == 0x5a));
    assert!(data.fragment.is_none());
    if let TxOffload::Lso { mss, .. } = meta.offload {
        // The last record; its payload's low bits are the segment size.
        let payload = word(message, data.data_offset as usize / 4 - 1).unwrap();
        assert_eq!(payload & 0xf_ffff, u64::from(mss));
    }
}

/// Ranges of guest memory, in bytes.
fn check_pages(script: &mut Unstructured<'_>) {
    let room = 24 + usize::from(script.arbitrary::<u16>().unwrap_or(0)) % 1024;
    let mut buffer = vec![0; room];
    let Ok((address, len)) = script.arbitrary::<(u64, u16)>() else {
        return;
    };
    let mut pushed = Vec::new();
    let started = match RndisHeaderRange::new(address, len.into()) {
        Some(range) => {
            assert!(len > 0 && address % 4096 + u64::from(len) <= 4096);
            pushed.push((address, range.len()));
            GpaDirect::with_header(&mut buffer, range)
        }
        None => GpaDirect::header_in_section(&mut buffer),
    };
    let Ok(mut packet) = started else {
        return;
    };
    while let Ok((address, len)) = script.arbitrary::<(u64, u32)>() {
        if script.is_empty() {
            break;
        }
        let address = address >> 12;
        let len = len % 200_000;
        match packet.push(address, len) {
            Ok(()) => pushed.push((address, len)),
            Err(GpaDirectError::BufferFull) => break,
            Err(error) => assert!(len == 0, "{error:?}"),
        }
    }
    let (ranges, bytes) = (packet.ranges(), packet.bytes());
    assert_eq!(ranges as usize, pushed.len());
    assert_eq!(
        u64::from(bytes),
        pushed.iter().map(|range| u64::from(range.1)).sum::<u64>()
    );
    if let Some(len) = packet.finish(40, 9) {
        check_list(&buffer[..len], &pushed);
    } else {
        assert_eq!(ranges, 0);
    }
}

/// Reads the page list as a host does.
fn check_list(header: &[u8], pushed: &[(u64, u32)]) {
    let unit = |at: usize| usize::from(u16::from_le_bytes([header[at], header[at + 1]]));
    assert_eq!((unit(0), unit(6)), (9, 1));
    assert_eq!(unit(2) * 8, header.len());
    assert_eq!(unit(4) * 8, header.len() + 40);
    assert_eq!(word(header, 5), Some(pushed.len() as u64));
    let mut rest = &header[24..];
    for &(address, len) in pushed {
        assert_eq!(word(rest, 0), Some(len.into()));
        assert_eq!(word(rest, 1), Some(address % 4096));
        let pages = (address % 4096 + u64::from(len)).div_ceil(4096) as usize;
        rest = &rest[8..];
        for index in 0..pages {
            let pfn = u64::from_le_bytes(rest[..8].try_into().unwrap());
            assert_eq!(pfn, address / 4096 + index as u64);
            rest = &rest[8..];
        }
    }
    assert!(rest.is_empty());
}
