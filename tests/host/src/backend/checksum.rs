// SPDX-License-Identifier: GPL-2.0

//! Internet checksums: IPv4 header, TCP and UDP; finished or verified in place of NIC hardware.

use super::frame::{Checksum, Frame, L4};
use super::headers::{Addresses, IpHeaders};

/// Outcome of verifying a received frame, in the terms of the RNDIS checksum information.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    /// IPv4 header checksum, if there is an IPv4 header.
    pub ip: Option<bool>,
    /// L4 header kind and whether its checksum is right, if there is a whole one.
    pub l4: Option<(L4, bool)>,
}

/// One's complement sum of 16-bit big-endian words, not folded.
fn sum(bytes: &[u8]) -> u64 {
    let mut total = 0u64;
    let mut words = bytes.chunks_exact(4);
    for w in &mut words {
        total += u64::from(u32::from_be_bytes([w[0], w[1], w[2], w[3]]));
    }
    match *words.remainder() {
        [a] => total += u64::from(a) << 24,
        [a, b] => total += u64::from(u32::from_be_bytes([a, b, 0, 0])),
        [a, b, c] => total += u64::from(u32::from_be_bytes([a, b, c, 0])),
        _ => {}
    }
    total
}

fn fold(mut total: u64) -> u16 {
    while total > 0xffff {
        total = (total & 0xffff) + (total >> 16);
    }
    total as u16
}

/// Folded sum of the pseudo header with `length` as the L4 length, not complemented: what a stack
/// leaves in the checksum field for the NIC to finish.
pub fn pseudo_header(addresses: &Addresses, l4: L4, length: u32) -> u16 {
    let addresses = match addresses {
        Addresses::V4(src, dst) => sum(src) + sum(dst),
        Addresses::V6(src, dst) => sum(src) + sum(dst),
    };
    fold(addresses + u64::from(l4.protocol()) + u64::from(length))
}

/// Computes the IPv4 header checksum. False if the frame has no IPv4 header.
pub fn fill_ipv4_header(frame: &mut [u8]) -> bool {
    let Some(h) = IpHeaders::parse(frame) else {
        return false;
    };
    if !matches!(h.addresses, Addresses::V4(..)) {
        return false;
    }
    frame[h.l3_offset + 10..h.l3_offset + 12].fill(0);
    let value = !fold(sum(&frame[h.l3_offset..h.l4_offset]));
    frame[h.l3_offset + 10..h.l3_offset + 12].copy_from_slice(&value.to_be_bytes());
    true
}

/// Computes the TCP or UDP checksum from scratch; the old value of the field does not matter.
/// False if the frame has no whole header of that kind at `l4_offset`.
pub fn fill_l4(frame: &mut [u8], l4: L4, l4_offset: usize) -> bool {
    let Some(h) = IpHeaders::parse(frame) else {
        return false;
    };
    if h.l4() != Some(l4) || h.l4_offset != l4_offset || h.end < l4_offset + l4.header_len() {
        return false;
    }
    let field = l4_offset + l4.checksum_offset();
    frame[field..field + 2].fill(0);
    let mut value = !l4_sum(frame, &h, l4);
    if value == 0 && l4 == L4::Udp {
        value = 0xffff;
    }
    frame[field..field + 2].copy_from_slice(&value.to_be_bytes());
    true
}

fn l4_sum(frame: &[u8], h: &IpHeaders, l4: L4) -> u16 {
    let body = &frame[h.l4_offset..h.end];
    let pseudo = pseudo_header(&h.addresses, l4, body.len() as u32);
    fold(u64::from(pseudo) + sum(body))
}

/// Finishes a partial checksum. True if the frame is now complete.
pub fn complete(frame: &mut Frame) -> bool {
    let Checksum::Partial { l4_offset, l4 } = frame.checksum else {
        return true;
    };
    let done = fill_l4(&mut frame.bytes, l4, usize::from(l4_offset));
    frame.checksum = if done {
        Checksum::Verified
    } else {
        Checksum::Unverified
    };
    done
}

/// Verifies the checksums of a frame as receive hardware does.
pub fn verify(frame: &[u8]) -> Verdict {
    let Some(h) = IpHeaders::parse(frame) else {
        return Verdict::default();
    };
    let ip = verify_ipv4_header(frame);
    let l4 = h.l4().and_then(|l4| {
        if h.end < h.l4_offset + l4.header_len() {
            return None;
        }
        let field = h.l4_offset + l4.checksum_offset();
        // A UDP sender over IPv4 may leave the checksum out: nothing to verify.
        if l4 == L4::Udp && frame[field..field + 2] == [0, 0] {
            return None;
        }
        Some((l4, l4_sum(frame, &h, l4) == 0xffff))
    });
    Verdict { ip, l4 }
}

/// Verifies the IPv4 header checksum, `None` if there is no IPv4 header.
pub fn verify_ipv4_header(frame: &[u8]) -> Option<bool> {
    let h = IpHeaders::parse(frame)?;
    matches!(h.addresses, Addresses::V4(..))
        .then(|| fold(sum(&frame[h.l3_offset..h.l4_offset])) == 0xffff)
}

#[cfg(test)]
mod tests {
    use super::super::headers::samples;
    use super::*;

    /// RFC 1071 over 16-bit words, written as plainly as possible.
    fn reference(bytes: &[u8]) -> u16 {
        let mut total = 0u32;
        for pair in bytes.chunks(2) {
            let lo = pair.get(1).copied().unwrap_or(0);
            total += u32::from(u16::from_be_bytes([pair[0], lo]));
            total = (total & 0xffff) + (total >> 16);
        }
        total as u16
    }

    #[test]
    fn sum_matches_the_reference_at_every_length() {
        let bytes: Vec<u8> = (0..200u32).map(|i| (i * 37 + 11) as u8).collect();
        for len in 0..bytes.len() {
            assert_eq!(fold(sum(&bytes[..len])), reference(&bytes[..len]), "{len}");
        }
    }

    #[test]
    fn known_ipv4_header() {
        // Header of the recorded TCP frame: 4500 05dc 8a4e 4000 4006 96b9 0a090002 0a090001.
        let mut frame = vec![0u8; 12];
        frame.extend_from_slice(&[
            0x08, 0x00, 0x45, 0x00, 0x05, 0xdc, 0x8a, 0x4e, 0x40, 0x00, 0x40, 0x06, 0, 0, 0x0a,
            0x09, 0x00, 0x02, 0x0a, 0x09, 0x00, 0x01,
        ]);
        frame.resize(14 + 0x5dc, 0);
        assert!(fill_ipv4_header(&mut frame));
        assert_eq!(frame[24..26], [0x96, 0xb9]);
    }

    #[test]
    fn completed_frames_verify_and_flipped_bits_do_not() {
        for (mut frame, l4, at) in [
            (samples::tcp4(b"payload"), L4::Tcp, 34u16),
            (samples::tcp6(b"payload!"), L4::Tcp, 54),
            (samples::udp4(b"p"), L4::Udp, 34),
        ] {
            fill_ipv4_header(&mut frame);
            let mut frame = Frame::new(frame);
            frame.checksum = Checksum::Partial { l4_offset: at, l4 };
            assert!(complete(&mut frame));
            assert_eq!(frame.checksum, Checksum::Verified);
            let verdict = verify(&frame.bytes);
            assert_eq!(verdict.l4, Some((l4, true)));
            assert_ne!(verdict.ip, Some(false));
            let last = frame.bytes.len() - 1;
            frame.bytes[last] ^= 1;
            assert_eq!(verify(&frame.bytes).l4, Some((l4, false)));
        }
    }

    #[test]
    fn udp_without_checksum_is_not_judged() {
        let frame = samples::udp4(b"x");
        assert_eq!(verify(&frame).l4, None);
    }

    #[test]
    fn wrong_offset_is_refused() {
        let mut frame = samples::tcp4(b"x");
        assert!(!fill_l4(&mut frame, L4::Tcp, 38));
        assert!(!fill_l4(&mut frame, L4::Udp, 34));
        assert!(!fill_l4(&mut [0; 10], L4::Udp, 34));
    }
}
