// SPDX-License-Identifier: GPL-2.0

//! The ring packets of the recordings, read and rebuilt with `vmbus/`.

use super::{attach_4_channels, frames, Direction, Line};
use crate::vmbus::gpa_direct::{GpaDirect, RndisHeaderRange};
use crate::vmbus::packet::{Packet, PacketType};
use crate::vmbus::transfer_pages::TransferPages;

const PFN_SHIFT: u32 = 12;

/// Packet lines with the payload that followed them.
fn packets() -> Vec<(Line, Vec<u8>)> {
    let lines: Vec<Line> = attach_4_channels().into_iter().chain(frames()).collect();
    lines
        .iter()
        .filter(|line| line.layer == "pkt")
        .map(|line| {
            let payload = lines
                .iter()
                .find(|other| other.layer == "nvsp" && other.of == Some(line.seq))
                .map_or(Vec::new(), |nvsp| nvsp.bytes.clone());
            (line.clone(), payload)
        })
        .collect()
}

#[test]
fn every_packet_splits_into_its_parts() {
    let packets = packets();
    assert!(packets.len() > 50);
    for (line, payload) in packets {
        let bytes = [line.bytes.clone(), payload.clone()].concat();
        let packet = Packet::parse(&bytes).unwrap();
        assert_eq!(u32::from(packet.packet_type.value()), line.number("type"));
        assert_eq!(packet.header, line.bytes);
        assert_eq!(packet.payload, payload);
        assert_eq!(packet.completion_requested, line.number("flags") == 1);
    }
}

#[test]
fn transfer_pages_are_those_recorded() {
    let mut compared = 0;
    for (line, _) in packets() {
        if line.number("type") != 7 {
            continue;
        }
        let pages = TransferPages::parse(&line.bytes).unwrap();
        assert_eq!(u32::from(pages.pageset_id()), line.number("pageset"));
        let ranges: Vec<String> = pages
            .iter()
            .map(|range| format!("{}@{}", range.len, range.offset))
            .collect();
        let text = format!("{}:{}", pages.len(), ranges.join(","));
        assert_eq!(Some(text.as_str()), line.field("ranges"));
        compared += 1;
    }
    assert!(compared > 10);
}

/// Reads the ranges back: (offset, length, PFNs).
fn ranges(header: &[u8]) -> Vec<(u32, u32, Vec<u64>)> {
    let mut out = Vec::new();
    let mut rest = &header[24..];
    while !rest.is_empty() {
        let len = u32::from_le_bytes(rest[..4].try_into().unwrap());
        let offset = u32::from_le_bytes(rest[4..8].try_into().unwrap());
        let pages = (offset + len).div_ceil(4096) as usize;
        let (pfns, after) = rest[8..].split_at(pages * 8);
        let pfns = pfns
            .chunks(8)
            .map(|pfn| u64::from_le_bytes(pfn.try_into().unwrap()))
            .collect();
        out.push((offset, len, pfns));
        rest = after;
    }
    out
}

#[test]
fn gpa_direct_headers_are_those_of_the_c_driver() {
    let mut compared = 0;
    for (line, payload) in packets() {
        let packet = Packet::parse(&line.bytes);
        if line.direction != Direction::GuestToHost || line.number("type") != 9 {
            continue;
        }
        assert!(packet.is_err(), "a header alone is no packet");
        let ranges = ranges(&line.bytes);
        let mut buffer = [0u8; 512];
        let (first_offset, first_len, first_pfns) = &ranges[0];
        // A partial copy has its RNDIS header in the section: several pages may come first.
        let address = (first_pfns[0] << PFN_SHIFT) + u64::from(*first_offset);
        let mut gpa = match RndisHeaderRange::new(address, *first_len) {
            Some(header) => GpaDirect::with_header(&mut buffer, header).unwrap(),
            None => {
                let mut gpa = GpaDirect::header_in_section(&mut buffer).unwrap();
                gpa.push_pages(*first_offset, *first_len, first_pfns.iter().copied())
                    .unwrap();
                gpa
            }
        };
        for (offset, len, pfns) in &ranges[1..] {
            gpa.push_pages(*offset, *len, pfns.iter().copied()).unwrap();
        }
        let tid = u64::from_le_bytes(line.bytes[8..16].try_into().unwrap());
        let len = gpa.finish(payload.len(), tid).unwrap();
        assert_eq!(&buffer[..len], line.bytes, "line {}", line.seq);
        compared += 1;
    }
    assert!(compared > 10);
    assert_eq!(PacketType::DataGpaDirect.value(), 9);
}
