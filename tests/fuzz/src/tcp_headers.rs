// SPDX-License-Identifier: GPL-2.0

//! The headers of coalesced packets: what the host wrote there must not lead outside them, nor make segments that
//! the stack's own segmentation would not make.

use netvsc_proto::rndis::tcp_headers::{fill_ipv4_checksum, prepare, Segments};

/// Three lengths, then the headers.
pub fn run(data: &[u8]) {
    let Some((lengths, headers)) = data.split_first_chunk::<8>() else {
        return;
    };
    let [l0, l1, l2, wide, f0, f1, m0, m1] = *lengths;
    // Packets are mostly as long as their header says, so that more than the first check is reached.
    let said = said_len(headers).filter(|_| wide & 0x80 == 0);
    let packet_len = said.unwrap_or(u32::from_le_bytes([l0, l1, l2, wide & 0x7f]));
    let first_len = u16::from_le_bytes([f0, f1]).into();
    let mtu = u16::from_le_bytes([m0, m1]).into();
    let mut after = headers.to_vec();
    match prepare(&mut after, packet_len, first_len, mtu) {
        Some(segments) => check(headers, &after, packet_len, first_len.min(mtu), &segments),
        None => assert_eq!(headers, after, "nothing changed"),
    }
    check_ipv4_checksum(headers);
}

fn said_len(headers: &[u8]) -> Option<u32> {
    let at = |at: usize| {
        Some(u32::from(u16::from_be_bytes([
            *headers.get(at)?,
            *headers.get(at + 1)?,
        ])))
    };
    match headers.first()? >> 4 {
        4 => at(2),
        6 => at(4).map(|payload| payload + 40),
        _ => None,
    }
}

fn check(before: &[u8], after: &[u8], packet_len: u32, limit: u32, segments: &Segments) {
    let tcp = usize::from(segments.tcp_offset);
    let field = tcp + 16..tcp + 18;
    assert!(tcp + 20 <= after.len());
    assert!(
        before[..field.start] == after[..field.start] && before[field.end..] == after[field.end..]
    );
    assert_eq!(before[0] >> 4, if segments.ipv6 { 6 } else { 4 });
    assert_eq!(
        after[field].to_vec(),
        pseudo_header_sum(before, packet_len, segments).to_be_bytes()
    );

    let headers = tcp as u32 + u32::from(before[tcp + 12] >> 4) * 4;
    assert!(headers <= packet_len);
    let payload = packet_len - headers;
    let (size, count) = (u32::from(segments.size), u32::from(segments.count));
    if size == 0 {
        assert_eq!(count, 1, "not cut");
    } else {
        assert!(
            size + headers <= limit,
            "a segment is no longer than the MTU"
        );
        assert!((count - 1) * size < payload && payload <= count * size);
        assert!(count > 1);
    }
}

fn pseudo_header_sum(headers: &[u8], packet_len: u32, segments: &Segments) -> u16 {
    let addresses = if segments.ipv6 { 8..40 } else { 12..20 };
    let words = headers[addresses].chunks_exact(2);
    let addresses: u32 = words
        .map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]])))
        .sum();
    let mut sum = addresses + 6 + packet_len - u32::from(segments.tcp_offset);
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

fn check_ipv4_checksum(headers: &[u8]) {
    let mut filled = headers.to_vec();
    if !fill_ipv4_checksum(&mut filled) {
        return assert_eq!(headers, filled);
    }
    let len = usize::from(filled[0] & 0xf) * 4;
    assert!(filled[..10] == headers[..10] && filled[12..] == headers[12..]);
    let words = filled[..len].chunks_exact(2);
    let mut sum: u32 = words
        .map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]])))
        .sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    assert_eq!(sum, 0xffff);
}
