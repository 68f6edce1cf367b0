// SPDX-License-Identifier: GPL-2.0

//! Frames and RNDIS messages made by hand, right and wrong, for the host to inject.

use crate::guest::End;

const ETHERNET: usize = 14;
const IPV4: usize = 20;
const RNDIS_PACKET: u32 = 1;
const RNDIS_HEADER: usize = 8;
const RNDIS_BODY: usize = 36;

/// A UDP datagram over IPv4 from the other end to `to`, with right checksums.
pub fn udp4(to: End, port: u16, payload: &[u8]) -> Vec<u8> {
    let mut frame = Vec::new();
    frame.extend(mac(to));
    frame.extend(mac(to.other()));
    frame.extend([0x08, 0x00]);
    let length = IPV4 + 8 + payload.len();
    frame.extend([0x45, 0]);
    frame.extend((length as u16).to_be_bytes());
    frame.extend([0, 0, 0x40, 0, 64, 17, 0, 0]);
    frame.extend(v4(to.other()));
    frame.extend(v4(to));
    let checksum = !sum(&frame[ETHERNET..], 0);
    frame[ETHERNET + 10..ETHERNET + 12].copy_from_slice(&checksum.to_be_bytes());

    let udp = frame.len();
    for word in [port, port, (8 + payload.len()) as u16, 0] {
        frame.extend(word.to_be_bytes());
    }
    frame.extend(payload);
    let pseudo = sum(&frame[ETHERNET + 12..udp], 17 + (frame.len() - udp) as u32);
    let checksum = !sum(&frame[udp..], pseudo.into());
    frame[udp + 6..udp + 8].copy_from_slice(&checksum.to_be_bytes());
    frame
}

/// Which piece of a coalesced frame a message is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Piece {
    /// The first of several.
    First,
    /// Neither first nor last.
    Middle,
    /// The last.
    Last,
}

/// An RNDIS PACKET message that carries `data`; with a packet id if it is a piece.
pub fn message(data: &[u8], piece: Option<Piece>) -> Vec<u8> {
    let mut info = Vec::new();
    if let Some(piece) = piece {
        let flags = match piece {
            Piece::First => 3,
            Piece::Middle => 1,
            Piece::Last => 5,
        };
        for word in [16, 0x8000_0001, 12, 1 | flags << 8] {
            info.extend(u32::to_le_bytes(word));
        }
    }
    let data_offset = RNDIS_BODY + info.len();
    let all = RNDIS_HEADER + data_offset + data.len();
    let info_offset = if info.is_empty() { 0 } else { RNDIS_BODY };
    let mut bytes = Vec::with_capacity(all);
    let lengths = [
        data_offset,
        data.len(),
        0,
        0,
        0,
        info_offset,
        info.len(),
        0,
        0,
    ];
    bytes.extend(RNDIS_PACKET.to_le_bytes());
    bytes.extend((all as u32).to_le_bytes());
    for word in lengths {
        bytes.extend((word as u32).to_le_bytes());
    }
    bytes.extend(info);
    bytes.extend(data);
    bytes
}

/// The message with the 32-bit word at `at` replaced.
pub fn with_word(mut message: Vec<u8>, at: usize, word: u32) -> Vec<u8> {
    message[at..at + 4].copy_from_slice(&word.to_le_bytes());
    message
}

/// Words, little-endian, laid end to end.
pub fn words(values: &[u32]) -> Vec<u8> {
    values.iter().flat_map(|word| word.to_le_bytes()).collect()
}

/// The message with three of its bytes or words replaced; which, and by what, grows from `seed`.
pub fn mutated(message: &[u8], seed: u64) -> Vec<u8> {
    const EDGES: [u32; 6] = [0, 1, 8, 0x7fff_ffff, 0xffff_fff8, u32::MAX];
    let mut state = seed;
    let mut below = |end: usize| {
        // Knuth's constants for a linear congruential generator.
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize % end
    };
    let mut bytes = message.to_vec();
    for _ in 0..3 {
        // Where header, body and information are.
        let at = below(bytes.len().min(64));
        if below(2) == 0 && at / 4 * 4 + 4 <= bytes.len() {
            bytes = with_word(bytes, at / 4 * 4, EDGES[below(EDGES.len())]);
        } else {
            bytes[at] = below(256) as u8;
        }
    }
    bytes
}

/// Bytes as hexadecimal digits.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn mac(end: End) -> Vec<u8> {
    let digits = end.mac().split(':');
    digits
        .map(|digits| u8::from_str_radix(digits, 16).unwrap_or(0))
        .collect()
}

fn v4(end: End) -> [u8; 4] {
    let address: Result<std::net::Ipv4Addr, _> = end.v4().parse();
    address.map_or([0; 4], |address| address.octets())
}

/// Internet checksum of `bytes`, not complemented, with `start` added.
fn sum(bytes: &[u8], start: u32) -> u16 {
    let words = bytes.chunks(2).map(|pair| {
        let low = pair.get(1).copied().unwrap_or(0);
        u32::from(u16::from_be_bytes([pair[0], low]))
    });
    let mut total: u32 = words.sum::<u32>() + start;
    while total > 0xffff {
        total = (total & 0xffff) + (total >> 16);
    }
    total as u16
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_datagram_verifies() {
        let frame = udp4(End::Near, 9, b"payload");
        assert_eq!(frame.len(), 14 + 20 + 8 + 7);
        assert_eq!(sum(&frame[14..34], 0), 0xffff);
        let pseudo = sum(&frame[26..34], 17 + 15);
        assert_eq!(sum(&frame[34..], pseudo.into()), 0xffff);
        assert_eq!(frame[..6], [0, 0x15, 0x5d, 0, 0, 1]);
    }

    #[test]
    fn a_seed_is_one_mutation() {
        let whole = message(&[7; 60], None);
        assert_eq!(mutated(&whole, 3), mutated(&whole, 3));
        let changed = (0..50).filter(|seed| mutated(&whole, *seed) != whole);
        assert!(changed.count() > 40);
        assert_eq!(words(&[1, 2]), [1, 0, 0, 0, 2, 0, 0, 0]);
    }

    #[test]
    fn a_message_says_where_its_data_is() {
        let plain = message(&[7; 60], None);
        assert_eq!((plain.len(), plain[4]), (104, 104));
        let piece = message(&[7; 60], Some(Piece::Last));
        assert_eq!((piece.len(), piece[8], piece[12]), (120, 52, 60));
        assert_eq!(
            piece[44..60],
            [16, 0, 0, 0, 1, 0, 0, 0x80, 12, 0, 0, 0, 1, 5, 0, 0]
        );
        assert_eq!(hex(&with_word(piece, 0, 0xab)[..4]), "ab000000");
    }
}
