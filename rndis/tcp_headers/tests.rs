// SPDX-License-Identifier: GPL-2.0

//! Packets as a coalescing host leaves them, and anything else.

use super::*;
use proptest::prelude::*;

/// Headers of a TCP packet: `payload` bytes, 12 bytes of TCP options.
fn headers(ipv6: bool, payload: u16) -> Vec<u8> {
    let mut bytes = vec![0; if ipv6 { 40 } else { 20 }];
    let ip_len = bytes.len() as u16;
    if ipv6 {
        bytes[0] = 0x60;
        bytes[4..6].copy_from_slice(&(32 + payload).to_be_bytes());
        bytes[6] = 6;
        bytes[8..40].fill(0x21);
    } else {
        bytes[0] = 0x45;
        bytes[2..4].copy_from_slice(&(ip_len + 32 + payload).to_be_bytes());
        bytes[6] = 0x40;
        bytes[9] = 6;
        bytes[12..20].copy_from_slice(&[10, 0, 0, 1, 10, 0, 0, 2]);
    }
    let mut tcp = [0x11; 32];
    tcp[12] = 0x80;
    tcp[13] = 0x90;
    bytes.extend(tcp);
    bytes
}

fn len(bytes: &[u8], payload: u16) -> u32 {
    bytes.len() as u32 + u32::from(payload)
}

#[test]
fn segments_are_those_of_the_first_piece() {
    for ipv6 in [false, true] {
        let mut bytes = headers(ipv6, 4000);
        let (all, first) = (len(&bytes, 4000), len(&bytes, 1448));
        let segments = prepare(&mut bytes, all, first, 9000).unwrap();
        let expected = Segments {
            tcp_offset: if ipv6 { 40 } else { 20 },
            size: 1448,
            count: 3,
            ipv6,
            cwr: true,
        };
        assert_eq!(segments, expected);
        // No segment is longer than the MTU, whatever the pieces are.
        let segments = prepare(&mut bytes, all, 3000, 1500).unwrap();
        let headers_len = bytes.len() as u16;
        assert_eq!(segments.size, 1500 - headers_len);
        // One piece: nothing to cut.
        let segments = prepare(&mut bytes, all, all, 9000).unwrap();
        assert_eq!((segments.size, segments.count), (0, 1));
    }
}

#[test]
fn the_pseudo_header_is_summed() {
    let mut bytes = headers(false, 8);
    prepare(&mut bytes, 60, 60, 1500).unwrap();
    // 10.0.0.1 + 10.0.0.2 + protocol 6 + length 40.
    let expected: u16 = 0x0a00 + 1 + 0x0a00 + 2 + 6 + 40;
    assert_eq!(bytes[36..38], expected.to_be_bytes());
}

#[test]
fn what_is_no_whole_tcp_packet_stays_as_it_is() {
    for ipv6 in [false, true] {
        let protocol = if ipv6 { 6 } else { 9 };
        let change = |at: usize, value: u8| {
            let mut bytes = headers(ipv6, 100);
            bytes[at] = value;
            let before = bytes.clone();
            let all = len(&bytes, 100);
            assert_eq!(prepare(&mut bytes, all, all, 1500), None);
            assert_eq!(bytes, before);
        };
        change(0, 0x30);
        change(protocol, 17);
        change(if ipv6 { 5 } else { 3 }, 1);
        // TCP header of 16 bytes.
        change(if ipv6 { 52 } else { 32 }, 0x40);
        let mut short = headers(ipv6, 100);
        let all = len(&short, 100);
        short.truncate(short.len() - 20);
        assert_eq!(prepare(&mut short, all, all, 1500), None);
    }
    let mut fragment = headers(false, 100);
    fragment[7] = 1;
    assert_eq!(prepare(&mut fragment, 152, 152, 1500), None);
}

#[test]
fn ipv4_checksums_are_filled_in() {
    let mut bytes = headers(false, 0);
    bytes[10] = 0xaa;
    assert!(fill_ipv4_checksum(&mut bytes));
    assert_eq!(fold(sum(&bytes[..20])), 0xffff);
    assert!(!fill_ipv4_checksum(&mut headers(true, 0)));
    assert!(!fill_ipv4_checksum(&mut bytes[..19]));
}

#[test]
fn tcp_checksums_are_filled_in() {
    for ipv6 in [false, true] {
        let mut packet = headers(ipv6, 101);
        packet.extend((0..101).map(|byte| byte as u8));
        let ip = Ip::parse(&packet, packet.len() as u32).unwrap();
        let pseudo_header = ip.pseudo_header(&packet, packet.len() as u32).unwrap();
        assert!(fill_tcp_checksum(&mut packet));
        // What a receiver sums up.
        let whole = sum(&packet[ip.len..]) + u32::from(pseudo_header);
        assert_eq!(fold(whole), 0xffff);
        // Again, over what is there now.
        let before = packet.clone();
        assert!(fill_tcp_checksum(&mut packet));
        assert_eq!(packet, before);
        packet.pop();
        assert!(!fill_tcp_checksum(&mut packet));
    }
    assert!(!fill_tcp_checksum(&mut []));
}

proptest! {
    #[test]
    fn any_bytes_are_segments_or_not(
        mut bytes in proptest::collection::vec(any::<u8>(), 0..130),
        start in prop_oneof![Just(0x45u8), Just(0x60), Just(0x4f), any::<u8>()],
        lengths: [u32; 3],
    ) {
        if let Some(first) = bytes.first_mut() {
            *first = start;
        }
        fill_ipv4_checksum(&mut bytes);
        let [all, first, mtu] = lengths;
        let real = bytes.get(2..4).map_or(0, |b| u32::from(u16::from_be_bytes([b[0], b[1]])));
        for all in [all, real, real.wrapping_add(40)] {
            if let Some(segments) = prepare(&mut bytes, all, first, mtu) {
                prop_assert!(segments.count >= 1);
                prop_assert!(segments.size == 0 || segments.count >= 2);
                let cut = u32::from(segments.size) * u32::from(segments.count);
                prop_assert!(segments.size == 0 || (cut < all + u32::from(segments.size)));
                prop_assert!(usize::from(segments.tcp_offset) + 20 <= bytes.len());
            }
        }
    }
}
