// SPDX-License-Identifier: GPL-2.0

//! Reads Ethernet, IPv4 and IPv6 headers as far as RSS, checksums and segmentation need them.

use super::frame::L4;

const ETHERTYPE_IPV4: u16 = 0x0800;
const ETHERTYPE_IPV6: u16 = 0x86dd;
const ETHERTYPE_VLAN: u16 = 0x8100;
const ETHERNET_LEN: usize = 14;
const IPV6_LEN: usize = 40;

/// Source and destination address in wire order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Addresses {
    /// IPv4.
    V4([u8; 4], [u8; 4]),
    /// IPv6.
    V6([u8; 16], [u8; 16]),
}

/// Where the headers of an IP frame lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IpHeaders {
    /// Start of the IP header in the frame.
    pub l3_offset: usize,
    /// Start of the L4 header: behind IPv4 options and IPv6 extension headers.
    pub l4_offset: usize,
    /// End of the IP packet; bytes behind it are Ethernet padding. Never beyond the frame.
    pub end: usize,
    /// IP protocol of the L4 header.
    pub protocol: u8,
    /// Part of a fragmented packet: L4 header absent or its checksum not checkable.
    pub fragment: bool,
    /// IPv6 extension headers were skipped.
    pub extension_headers: bool,
    /// Addresses.
    pub addresses: Addresses,
}

impl IpHeaders {
    /// Reads the headers of an Ethernet frame. `None` if it carries no well-formed IP packet.
    pub fn parse(frame: &[u8]) -> Option<Self> {
        let mut l3 = ETHERNET_LEN;
        let mut ethertype = be16(frame, 12)?;
        while ethertype == ETHERTYPE_VLAN {
            ethertype = be16(frame, l3 + 2)?;
            l3 += 4;
        }
        match ethertype {
            ETHERTYPE_IPV4 => Self::parse_v4(frame, l3),
            ETHERTYPE_IPV6 => Self::parse_v6(frame, l3),
            _ => None,
        }
    }

    /// TCP or UDP, unless the packet is a fragment or something else.
    pub fn l4(&self) -> Option<L4> {
        if self.fragment {
            return None;
        }
        match self.protocol {
            6 => Some(L4::Tcp),
            17 => Some(L4::Udp),
            _ => None,
        }
    }

    /// Source and destination port in wire order, if there is a whole L4 header.
    pub fn ports(&self, frame: &[u8]) -> Option<[u8; 4]> {
        self.l4()?;
        frame
            .get(self.l4_offset..self.l4_offset + 4)?
            .try_into()
            .ok()
    }

    fn parse_v4(frame: &[u8], l3: usize) -> Option<Self> {
        let header = frame.get(l3..l3 + 20)?;
        let ihl = usize::from(header[0] & 0x0f) * 4;
        if header[0] >> 4 != 4 || ihl < 20 || frame.len() < l3 + ihl {
            return None;
        }
        let total = usize::from(be16(header, 2)?);
        // An LSO frame carries 0: the length is that of the frame.
        let end = if total == 0 { frame.len() } else { l3 + total };
        if end < l3 + ihl || end > frame.len() {
            return None;
        }
        Some(IpHeaders {
            l3_offset: l3,
            l4_offset: l3 + ihl,
            end,
            protocol: header[9],
            fragment: be16(header, 6)? & 0x3fff != 0,
            extension_headers: false,
            addresses: Addresses::V4(array(header, 12)?, array(header, 16)?),
        })
    }

    fn parse_v6(frame: &[u8], l3: usize) -> Option<Self> {
        let header = frame.get(l3..l3 + IPV6_LEN)?;
        if header[0] >> 4 != 6 {
            return None;
        }
        let payload = usize::from(be16(header, 4)?);
        let end = if payload == 0 {
            frame.len()
        } else {
            l3 + IPV6_LEN + payload
        };
        if end > frame.len() {
            return None;
        }
        let mut headers = IpHeaders {
            l3_offset: l3,
            l4_offset: l3 + IPV6_LEN,
            end,
            protocol: header[6],
            fragment: false,
            extension_headers: false,
            addresses: Addresses::V6(array(header, 8)?, array(header, 24)?),
        };
        headers.skip_extensions(frame)?;
        Some(headers)
    }

    fn skip_extensions(&mut self, frame: &[u8]) -> Option<()> {
        loop {
            let at = self.l4_offset;
            let len = match self.protocol {
                // Hop-by-hop, routing, destination options.
                0 | 43 | 60 => (usize::from(*frame.get(at + 1)?) + 1) * 8,
                // Fragment.
                44 => {
                    self.fragment = true;
                    8
                }
                _ => return Some(()),
            };
            self.extension_headers = true;
            self.protocol = *frame.get(at)?;
            self.l4_offset = at + len;
            if self.l4_offset > self.end {
                return None;
            }
            if self.fragment {
                return Some(());
            }
        }
    }
}

fn be16(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(array(bytes, at)?))
}

fn array<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at.checked_add(N)?)?.try_into().ok()
}

#[cfg(test)]
pub(crate) mod samples {
    //! Frames for the tests of this directory and of the NIC.

    /// IPv4 TCP frame with `payload` bytes of payload, flags PSH|ACK, checksums zero.
    pub fn tcp4(payload: &[u8]) -> Vec<u8> {
        let mut f = ethernet(0x0800);
        let total = 40 + payload.len();
        f.extend_from_slice(&[0x45, 0]);
        f.extend_from_slice(&(total as u16).to_be_bytes());
        f.extend_from_slice(&[0x12, 0x34, 0x40, 0, 64, 6, 0, 0]);
        f.extend_from_slice(&[10, 0, 0, 1, 10, 0, 0, 2]);
        tcp(&mut f);
        f.extend_from_slice(payload);
        f
    }

    /// IPv6 TCP frame, as [`tcp4`].
    pub fn tcp6(payload: &[u8]) -> Vec<u8> {
        let mut f = ethernet(0x86dd);
        f.extend_from_slice(&[0x60, 0, 0, 0]);
        f.extend_from_slice(&((20 + payload.len()) as u16).to_be_bytes());
        f.extend_from_slice(&[6, 64]);
        f.extend_from_slice(&[0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
        f.extend_from_slice(&[0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2]);
        tcp(&mut f);
        f.extend_from_slice(payload);
        f
    }

    /// IPv4 UDP frame.
    pub fn udp4(payload: &[u8]) -> Vec<u8> {
        let mut f = ethernet(0x0800);
        f.extend_from_slice(&[0x45, 0]);
        f.extend_from_slice(&((28 + payload.len()) as u16).to_be_bytes());
        f.extend_from_slice(&[0x12, 0x34, 0x40, 0, 64, 17, 0, 0]);
        f.extend_from_slice(&[10, 0, 0, 1, 10, 0, 0, 2]);
        f.extend_from_slice(&[0x10, 0x00, 0x20, 0x00]);
        f.extend_from_slice(&((8 + payload.len()) as u16).to_be_bytes());
        f.extend_from_slice(&[0, 0]);
        f.extend_from_slice(payload);
        f
    }

    fn ethernet(ethertype: u16) -> Vec<u8> {
        let mut f = vec![2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1];
        f.extend_from_slice(&ethertype.to_be_bytes());
        f
    }

    fn tcp(f: &mut Vec<u8>) {
        f.extend_from_slice(&[0x10, 0x00, 0x20, 0x00]);
        f.extend_from_slice(&[0, 0, 0, 100, 0, 0, 0, 7]);
        f.extend_from_slice(&[0x50, 0x18, 1, 0, 0, 0, 0, 0]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn reads_tcp_over_ipv4_and_ipv6() {
        let frame = samples::tcp4(b"hello");
        let h = IpHeaders::parse(&frame).expect("IPv4");
        assert_eq!((h.l3_offset, h.l4_offset, h.end), (14, 34, frame.len()));
        assert_eq!(h.l4(), Some(L4::Tcp));
        assert_eq!(h.ports(&frame), Some([0x10, 0, 0x20, 0]));
        let frame = samples::tcp6(b"hello");
        let h = IpHeaders::parse(&frame).expect("IPv6");
        assert_eq!((h.l3_offset, h.l4_offset, h.end), (14, 54, frame.len()));
        assert_eq!(h.l4(), Some(L4::Tcp));
    }

    #[test]
    fn padding_is_not_payload() {
        let mut frame = samples::udp4(b"x");
        let end = frame.len();
        frame.resize(60, 0);
        assert_eq!(IpHeaders::parse(&frame).map(|h| h.end), Some(end));
    }

    #[test]
    fn fragments_have_no_l4() {
        let mut frame = samples::udp4(&[0; 100]);
        frame[20] = 0x20;
        let h = IpHeaders::parse(&frame).expect("fragment");
        assert!(h.fragment);
        assert_eq!(h.l4(), None);
        assert_eq!(h.ports(&frame), None);
    }

    #[test]
    fn extension_headers_are_skipped() {
        let mut frame = samples::tcp6(&[0; 10]);
        frame[20] = 60;
        frame.splice(54..54, [6, 0, 1, 4, 0, 0, 0, 0]);
        frame[19] += 8;
        let h = IpHeaders::parse(&frame).expect("destination options");
        assert_eq!((h.protocol, h.l4_offset), (6, 62));
        assert!(h.extension_headers);
    }

    #[test]
    fn tagged_frames_are_read_behind_the_tag() {
        let mut frame = samples::tcp4(b"hello");
        frame.splice(12..12, [0x81, 0, 0, 5]);
        assert_eq!(IpHeaders::parse(&frame).map(|h| h.l4_offset), Some(38));
    }

    proptest! {
        #[test]
        fn never_panics(mut bytes in proptest::collection::vec(any::<u8>(), 0..200), v6: bool) {
            if bytes.len() > 14 {
                bytes[12..14].copy_from_slice(if v6 { &[0x86, 0xdd] } else { &[0x08, 0x00] });
                bytes[14] = if v6 { 0x60 } else { 0x45 };
            }
            if let Some(h) = IpHeaders::parse(&bytes) {
                prop_assert!(h.l4_offset <= h.end && h.end <= bytes.len());
                let _ = h.ports(&bytes);
            }
        }
    }
}
