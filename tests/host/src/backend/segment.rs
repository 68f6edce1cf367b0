// SPDX-License-Identifier: GPL-2.0

//! Large send offload: cuts a TCP frame into segments, or prepares it for a consumer that will.

use super::checksum;
use super::frame::{Checksum, Frame, Segmentation, L4};
use super::headers::{Addresses, IpHeaders};

const FLAG_FIN: u8 = 0x01;
const FLAG_PSH: u8 = 0x08;
const FLAG_CWR: u8 = 0x80;

/// Why a frame cannot be segmented.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SegmentError {
    /// The frame is not TCP over the IP version the request names.
    #[error("large send request on a frame that is not TCP at offset {0}")]
    NotTcp(u16),
    /// The TCP header reaches beyond the frame.
    #[error("TCP data offset {0} beyond the frame")]
    BadDataOffset(usize),
    /// A maximum segment size of 0.
    #[error("large send request with a segment size of 0")]
    ZeroMss,
}

/// The frame's headers, checked against the request.
struct Large {
    headers: IpHeaders,
    /// Start of the TCP payload.
    payload: usize,
}

fn check(frame: &[u8], request: &Segmentation) -> Result<Large, SegmentError> {
    let not_tcp = SegmentError::NotTcp(request.l4_offset);
    if request.mss == 0 {
        return Err(SegmentError::ZeroMss);
    }
    let headers = IpHeaders::parse(frame).ok_or(not_tcp)?;
    let v6 = matches!(headers.addresses, Addresses::V6(..));
    let at = usize::from(request.l4_offset);
    if headers.l4() != Some(L4::Tcp) || headers.l4_offset != at || v6 != request.v6 {
        return Err(not_tcp);
    }
    let offset_byte = *frame.get(at + 12).ok_or(not_tcp)?;
    let tcp_len = usize::from(offset_byte >> 4) * 4;
    if tcp_len < 20 || at + tcp_len > frame.len() {
        return Err(SegmentError::BadDataOffset(tcp_len));
    }
    Ok(Large {
        headers,
        payload: at + tcp_len,
    })
}

/// Validates a request without carrying it out. Returns the number of segments it makes.
pub fn count(frame: &[u8], request: &Segmentation) -> Result<usize, SegmentError> {
    let large = check(frame, request)?;
    let payload = frame.len() - large.payload;
    Ok(payload.div_ceil(request.mss as usize).max(1))
}

/// Bytes of the pieces that a large frame is handed over in without being cut up: the headers with the
/// payload of the first segment, then the payload of each other segment.
pub fn pieces(frame: &Frame) -> Result<Vec<usize>, SegmentError> {
    let Some(request) = frame.segmentation else {
        return Ok(vec![frame.bytes.len()]);
    };
    let large = check(&frame.bytes, &request)?;
    let payload = &frame.bytes[large.payload..];
    let mut pieces: Vec<usize> = payload
        .chunks(request.mss as usize)
        .map(<[u8]>::len)
        .collect();
    match pieces.first_mut() {
        Some(first) => *first += large.payload,
        None => pieces.push(large.payload),
    }
    Ok(pieces)
}

/// Cuts `frame` into segments with complete IP and TCP checksums. A frame without a request comes
/// back alone, unchanged.
pub fn segment(frame: Frame) -> Result<Vec<Frame>, SegmentError> {
    let Some(request) = frame.segmentation else {
        return Ok(vec![frame]);
    };
    let large = check(&frame.bytes, &request)?;
    let payload = &frame.bytes[large.payload..];
    let mss = request.mss as usize;
    let total = payload.len().div_ceil(mss).max(1);
    let mut segments = Vec::with_capacity(total);
    for index in 0..total {
        let start = index * mss;
        let end = payload.len().min(start + mss);
        let mut bytes = Vec::with_capacity(large.payload + mss);
        bytes.extend_from_slice(&frame.bytes[..large.payload]);
        bytes.extend_from_slice(&payload[start..end]);
        patch_headers(&mut bytes, &large, index, start as u32, index + 1 == total);
        segments.push(Frame {
            bytes,
            vlan: frame.vlan,
            checksum: Checksum::Verified,
            segmentation: None,
        });
    }
    Ok(segments)
}

fn patch_headers(bytes: &mut [u8], large: &Large, index: usize, start: u32, last: bool) {
    let h = &large.headers;
    set_lengths(bytes, h, index as u16);
    let tcp = h.l4_offset;
    let sequence = be32(bytes, tcp + 4).wrapping_add(start);
    bytes[tcp + 4..tcp + 8].copy_from_slice(&sequence.to_be_bytes());
    if !last {
        bytes[tcp + 13] &= !(FLAG_FIN | FLAG_PSH);
    }
    if index > 0 {
        bytes[tcp + 13] &= !FLAG_CWR;
    }
    checksum::fill_l4(bytes, L4::Tcp, tcp);
}

/// Sets the IP length to that of the frame, adds `id_step` to the IPv4 identification, and
/// computes the IPv4 header checksum.
fn set_lengths(bytes: &mut [u8], h: &IpHeaders, id_step: u16) {
    let l3 = h.l3_offset;
    match h.addresses {
        Addresses::V4(..) => {
            let total = (bytes.len() - l3).min(0xffff) as u16;
            bytes[l3 + 2..l3 + 4].copy_from_slice(&total.to_be_bytes());
            let id = u16::from_be_bytes([bytes[l3 + 4], bytes[l3 + 5]]).wrapping_add(id_step);
            bytes[l3 + 4..l3 + 6].copy_from_slice(&id.to_be_bytes());
            checksum::fill_ipv4_header(bytes);
        }
        Addresses::V6(..) => {
            let payload = (bytes.len() - l3 - 40).min(0xffff) as u16;
            bytes[l3 + 4..l3 + 6].copy_from_slice(&payload.to_be_bytes());
        }
    }
}

/// Turns the guest's large frame (IP length 0, pseudo header sum without length) into the form a
/// `virtio_net_hdr` consumer expects: real lengths, and the pseudo header sum with the length.
/// Returns the length of all headers, in bytes.
pub fn prepare(frame: &mut Frame) -> Result<usize, SegmentError> {
    let Some(request) = frame.segmentation else {
        return Ok(0);
    };
    let large = check(&frame.bytes, &request)?;
    let h = &large.headers;
    set_lengths(&mut frame.bytes, h, 0);
    let tcp_len = (frame.bytes.len() - h.l4_offset) as u32;
    let pseudo = checksum::pseudo_header(&h.addresses, L4::Tcp, tcp_len);
    let field = h.l4_offset + L4::Tcp.checksum_offset();
    frame.bytes[field..field + 2].copy_from_slice(&pseudo.to_be_bytes());
    frame.checksum = Checksum::Partial {
        l4_offset: request.l4_offset,
        l4: L4::Tcp,
    };
    Ok(large.payload)
}

fn be32(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

#[cfg(test)]
mod tests {
    use super::super::headers::samples;
    use super::*;
    use proptest::prelude::*;

    fn large(v6: bool, payload: &[u8], mss: u32) -> Frame {
        let mut bytes = if v6 {
            samples::tcp6(payload)
        } else {
            samples::tcp4(payload)
        };
        // As a driver hands it over: lengths zero.
        let length = if v6 { 18 } else { 16 };
        bytes[length..length + 2].fill(0);
        let l4_offset = if v6 { 54 } else { 34 };
        bytes[usize::from(l4_offset) + 13] = 0x19 | FLAG_CWR;
        Frame {
            bytes,
            vlan: Some(5),
            checksum: Checksum::Unverified,
            segmentation: Some(Segmentation { mss, l4_offset, v6 }),
        }
    }

    proptest! {
        #[test]
        fn segments_carry_the_payload_in_order(
            v6: bool, len in 0usize..9000, mss in 1u32..3000, seed: u8
        ) {
            let payload: Vec<u8> = (0..len).map(|i| (i as u8).wrapping_mul(31) ^ seed).collect();
            let frame = large(v6, &payload, mss);
            let expected = count(&frame.bytes, &frame.segmentation.expect("request"));
            let segments = segment(frame).expect("segments");
            prop_assert_eq!(Ok(segments.len()), expected);
            let mut joined = Vec::new();
            for (i, s) in segments.iter().enumerate() {
                let h = IpHeaders::parse(&s.bytes).expect("headers");
                let verdict = checksum::verify(&s.bytes);
                prop_assert_eq!(verdict.l4, Some((L4::Tcp, true)));
                prop_assert_ne!(verdict.ip, Some(false));
                prop_assert_eq!(h.end, s.bytes.len());
                prop_assert_eq!(s.vlan, Some(5));
                let sequence = be32(&s.bytes, h.l4_offset + 4);
                prop_assert_eq!(sequence, 100 + joined.len() as u32);
                let flags = s.bytes[h.l4_offset + 13];
                prop_assert_eq!(flags & FLAG_CWR != 0, i == 0);
                prop_assert_eq!(flags & (FLAG_FIN | FLAG_PSH) != 0, i + 1 == segments.len());
                joined.extend_from_slice(&s.bytes[h.l4_offset + 20..]);
            }
            prop_assert_eq!(joined, payload);
        }

        #[test]
        fn pieces_are_the_segments_without_their_headers(
            v6: bool, len in 0usize..9000, mss in 1u32..3000
        ) {
            let frame = large(v6, &vec![7; len], mss);
            let pieces = pieces(&frame).expect("pieces");
            prop_assert_eq!(pieces.iter().sum::<usize>(), frame.bytes.len());
            let headers = frame.bytes.len() - len;
            let segments = segment(frame).expect("segments");
            let cut: Vec<usize> = segments.iter().map(|s| s.bytes.len() - headers).collect();
            prop_assert_eq!(pieces[0] - headers, cut[0]);
            prop_assert_eq!(&pieces[1..], &cut[1..]);
        }
    }

    #[test]
    fn prepared_frame_has_lengths_and_full_pseudo_header() {
        for v6 in [false, true] {
            let mut frame = large(v6, &[7; 5000], 1448);
            let headers = prepare(&mut frame).expect("prepare");
            assert_eq!(headers, if v6 { 74 } else { 54 });
            let h = IpHeaders::parse(&frame.bytes).expect("headers");
            assert_eq!(h.end, frame.bytes.len());
            // Finishing the sum the way a consumer does must give a right checksum.
            assert!(checksum::complete(&mut frame));
            assert_eq!(checksum::verify(&frame.bytes).l4, Some((L4::Tcp, true)));
        }
    }

    #[test]
    fn bad_requests_are_refused() {
        let mut frame = large(false, &[0; 100], 0);
        assert_eq!(segment(frame.clone()), Err(SegmentError::ZeroMss));
        frame.segmentation = Some(Segmentation {
            mss: 10,
            l4_offset: 34,
            v6: true,
        });
        assert_eq!(segment(frame.clone()), Err(SegmentError::NotTcp(34)));
        frame.segmentation = Some(Segmentation {
            mss: 10,
            l4_offset: 34,
            v6: false,
        });
        frame.bytes[34 + 12] = 0x40;
        assert_eq!(segment(frame), Err(SegmentError::BadDataOffset(16)));
    }
}
