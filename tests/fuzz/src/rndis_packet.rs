// SPDX-License-Identifier: GPL-2.0

//! RNDIS PACKET messages with per-packet info, compared with a second reading of them in 64-bit arithmetic.

use crate::words::word;
use netvsc_proto::rndis::packet::{self, RxData, RxError, RxMessage, MAX_RX_HEADER, MIN_FRAME_LEN};

const PACKET: u64 = 1;
const HEADER: u64 = 8;
const BODY: u64 = 36;
const RECORD: u64 = 12;

/// See [`crate::bounds`].
pub fn run(data: &[u8]) {
    crate::bounds::run(data, check);
}

/// `range` is what the host wrote to a range of the receive buffer.
fn check(range: &[u8]) {
    let len = range.len() as u32;
    let copied = &range[..range.len().min(MAX_RX_HEADER)];
    let parsed = packet::parse(copied, len);
    match parsed {
        Ok(RxMessage::Data(data)) => check_frame(&data, len),
        Ok(RxMessage::Control { len: message, .. }) => assert!((8..=len).contains(&message)),
        Err(error) => {
            assert_eq!(RxError::ALL[error.index()], error);
            assert_eq!(error.to_string(), error.name());
        }
    }
    assert_eq!(parsed.ok(), read(copied, len.into()), "two readings");
}

/// What the receive path relies on.
fn check_frame(data: &RxData, range_len: u32) {
    let end = u64::from(data.data_offset) + u64::from(data.data_len);
    assert!(
        end <= range_len.into(),
        "frame ends at {end} of {range_len}"
    );
    assert!(u64::from(data.data_offset) >= HEADER + BODY);
    let later_piece = data.fragment.is_some_and(|fragment| !fragment.first);
    assert!(data.data_len >= if later_piece { 1 } else { MIN_FRAME_LEN });
}

/// The second reading.
fn read(copied: &[u8], range_len: u64) -> Option<RxMessage> {
    let (kind, message_len) = (word(copied, 0)?, word(copied, 1)?);
    if message_len < HEADER || message_len > range_len {
        return None;
    }
    if kind != PACKET {
        return Some(RxMessage::Control {
            message_type: kind as u32,
            len: message_len as u32,
        });
    }
    let body_len = message_len - HEADER;
    if body_len < BODY || copied.len() < 44 {
        return None;
    }
    let (at, len) = (word(copied, 2)?, word(copied, 3)?);
    if at < BODY || at + len > body_len {
        return None;
    }
    let (info_at, info_len) = (word(copied, 7)?, word(copied, 8)?);
    let mut infos = Infos::default();
    if info_at != 0 && info_len != 0 {
        let info_end = info_at + info_len;
        let apart = info_end <= at || info_at >= at + len;
        if info_at < BODY || info_end > body_len || !apart {
            return None;
        }
        let start = (HEADER + info_at) as usize;
        infos.read(copied.get(start..start + info_len as usize)?)?;
    }
    infos.frame(at + HEADER, len).map(RxMessage::Data)
}

/// The words of the records that are known, by type.
#[derive(Default)]
struct Infos {
    checksum: Option<u32>,
    vlan: Option<u32>,
    hash: Option<u32>,
    hash_info: Option<u32>,
    piece: Option<u32>,
}

impl Infos {
    fn read(&mut self, mut records: &[u8]) -> Option<()> {
        while !records.is_empty() {
            let (size, kind, at) = (word(records, 0)?, word(records, 1)?, word(records, 2)?);
            if size < RECORD || size > records.len() as u64 {
                return None;
            }
            let (record, rest) = records.split_at(size as usize);
            let place = match kind {
                0 => Some(&mut self.checksum),
                6 => Some(&mut self.vlan),
                8 => Some(&mut self.hash),
                9 => Some(&mut self.hash_info),
                0x8000_0001 => Some(&mut self.piece),
                _ => None,
            };
            if let Some(place) = place {
                if at < RECORD || at + 4 > size {
                    return None;
                }
                let payload = record[at as usize..].first_chunk::<4>()?;
                let value = u32::from_le_bytes(*payload);
                // A piece record without the piece flag says nothing.
                if kind != 0x8000_0001 || value & 0x100 != 0 {
                    place.get_or_insert(value);
                }
            }
            records = rest;
        }
        Some(())
    }

    fn frame(&self, at: u64, len: u64) -> Option<RxData> {
        use netvsc_proto::rndis::ppi::{Fragment, RxChecksum};
        let fragment = self.piece.map(|word| Fragment {
            first: word & 0x200 != 0,
            last: word & 0x400 != 0,
            id: (word >> 16) as u16,
        });
        let later_piece = fragment.is_some_and(|fragment| !fragment.first);
        if len < if later_piece { 1 } else { 14 } {
            return None;
        }
        let checksum = RxChecksum(self.checksum.unwrap_or(0));
        Some(RxData {
            data_offset: at as u32,
            data_len: len as u32,
            vlan: self
                .vlan
                .map(|word| ((word & 7) << 13 | (word & 8) << 9 | (word >> 4) & 0xfff) as u16),
            checksum,
            hash: self.hash,
            hash_has_ports: self
                .hash_info
                .map_or(checksum.0 & 0x9 != 0, |word| word & 0x1_f200 != 0),
            fragment,
        })
    }
}
