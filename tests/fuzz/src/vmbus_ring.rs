// SPDX-License-Identifier: GPL-2.0

//! Ring packets: descriptor, transfer-page header, ranges; and the ring's indices.

use netvsc_proto::vmbus::{
    packet::{Packet, PacketType, DESCRIPTOR_LEN},
    ring::{bytes_free, bytes_used},
    transfer_pages::TransferPages,
};

/// See [`crate::bounds`].
pub fn run(data: &[u8]) {
    crate::bounds::run(data, check);
}

/// `bytes` is the private copy of a ring packet.
fn check(bytes: &[u8]) {
    if let Some(words) = bytes.first_chunk::<12>() {
        check_indices(words);
    }
    match Packet::parse(bytes) {
        Ok(packet) => check_packet(&packet, bytes),
        Err(_) => assert!(refused(bytes)),
    }
}

/// The conditions for a refusal, in other words.
fn refused(bytes: &[u8]) -> bool {
    let Some(descriptor) = bytes.first_chunk::<DESCRIPTOR_LEN>() else {
        return true;
    };
    let unit = |at: usize| usize::from(u16::from_le_bytes([descriptor[at], descriptor[at + 1]]));
    let (offset, len) = (unit(2) * 8, unit(4) * 8);
    offset < DESCRIPTOR_LEN || offset > len || len > bytes.len()
}

fn check_packet(packet: &Packet<'_>, bytes: &[u8]) {
    assert!(!refused(bytes));
    let (header, payload) = (packet.header, packet.payload);
    assert!(header.len() >= DESCRIPTOR_LEN && header.len() % 8 == 0);
    assert_eq!(header, &bytes[..header.len()]);
    assert_eq!(payload, &bytes[header.len()..][..payload.len()]);
    assert_eq!(packet.transaction_id.to_le_bytes(), bytes[8..16]);
    assert_eq!(packet.completion_requested, bytes[6] & 1 == 1);
    assert_eq!(
        packet.packet_type,
        PacketType::from_value(u16::from_le_bytes([bytes[0], bytes[1]]))
    );
    check_ranges(header);
}

fn check_ranges(header: &[u8]) {
    let count = header
        .get(20..24)
        .map(|bytes| u32::from_le_bytes(bytes.try_into().unwrap()));
    let room = (header.len() as u64).saturating_sub(24) / 8;
    let Ok(pages) = TransferPages::parse(header) else {
        return assert!(count.is_none_or(|count| u64::from(count) > room));
    };
    assert_eq!(Some(pages.len() as u32), count);
    assert_eq!(pages.iter().len(), pages.len());
    assert_eq!(pages.pageset_id().to_le_bytes(), header[16..18]);
    for (index, range) in pages.iter().enumerate() {
        let at = 24 + index * 8;
        assert_eq!(range.len.to_le_bytes(), header[at..at + 4]);
        assert_eq!(range.offset.to_le_bytes(), header[at + 4..at + 8]);
        let end = u64::from(range.offset) + u64::from(range.len);
        for buffer in [
            0,
            16 << 20,
            end as u32,
            (end as u32).wrapping_sub(1),
            u32::MAX,
        ] {
            match range.within(buffer) {
                Some(checked) => {
                    assert!(end <= buffer.into());
                    assert_eq!((checked.offset(), checked.len()), (range.offset, range.len));
                }
                None => assert!(end > buffer.into()),
            }
        }
    }
}

fn check_indices(words: &[u8; 12]) {
    let at = |at: usize| u32::from_le_bytes(words[at..at + 4].try_into().unwrap());
    let (write, read, size) = (at(0), at(4), at(8));
    match bytes_used(write, read, size) {
        Some(used) => {
            let (write, read, size) = (u64::from(write), u64::from(read), u64::from(size));
            assert!(write < size && read < size && u64::from(used) < size);
            assert_eq!((read + u64::from(used)) % size, write);
            let free = bytes_free(write as u32, read as u32, size as u32);
            assert_eq!(u64::from(used) + u64::from(free), size);
        }
        None => {
            assert!(write >= size || read >= size);
            assert_eq!(bytes_free(write, read, size), 0);
        }
    }
}
