// SPDX-License-Identifier: GPL-2.0

//! IP and TCP headers of a received packet whose checksums the host verified but did not fill in, as it
//! does when it coalesces segments.
//!
//! Works on a private copy of the headers. The packet becomes what the stack's own segmentation makes: lengths
//! of the whole, the pseudo-header's sum in the TCP checksum field, and a segment size, so that it can be
//! sent on.

const IPV4_LEN: usize = 20;
const IPV6_LEN: usize = 40;
const TCP_LEN: usize = 20;
const PROTOCOL_TCP: u8 = 6;
/// Checksum field in an IPv4 header, in a TCP header.
const IPV4_CHECKSUM: usize = 10;
const TCP_CHECKSUM: usize = 16;
/// More fragments, and the fragment's offset.
const FRAGMENT: u16 = 0x3fff;
const CWR: u8 = 0x80;

/// How a TCP packet is to be cut, and where its checksum is to be completed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Segments {
    /// TCP header, from the start of the IP header.
    pub tcp_offset: u16,
    /// Payload bytes of a segment; 0 if the packet is one.
    pub size: u16,
    /// Segments; at least 1.
    pub count: u16,
    /// IPv6 rather than IPv4.
    pub ipv6: bool,
    /// The first segment reduced the congestion window.
    pub cwr: bool,
}

/// Makes a packet of `packet_len` bytes, whose first bytes are `headers`, ready for segmentation: writes the
/// pseudo-header's sum. `None`, and nothing changed, if it is no TCP packet of that length.
///
/// `first_len` is the bytes of the packet in the first piece: the host does not say how long the segments
/// were, but that piece is one of them, and none was longer than `mtu`.
pub fn prepare(headers: &mut [u8], packet_len: u32, first_len: u32, mtu: u32) -> Option<Segments> {
    let ip = Ip::parse(headers, packet_len)?;
    let tcp = headers.get(ip.len..)?.first_chunk::<TCP_LEN>()?;
    let [.., offset, flags, _, _, _, _, _, _] = *tcp;
    let tcp_len = usize::from(offset >> 4).wrapping_mul(4);
    let headers_len = u32::try_from(ip.len.checked_add(tcp_len)?).ok()?;
    let payload = packet_len
        .checked_sub(headers_len)
        .filter(|_| tcp_len >= TCP_LEN)?;

    let sum = ip.pseudo_header(headers, packet_len)?;
    let field = ip.len.checked_add(TCP_CHECKSUM)?;
    *headers.get_mut(field..)?.first_chunk_mut::<2>()? = sum.to_be_bytes();

    let size = first_len.min(mtu).saturating_sub(headers_len);
    let cut = u16::try_from(size)
        .ok()
        .filter(|size| u32::from(*size) < payload)
        .and_then(|size| Some((size, segments_of(payload, size.into())?)));
    let (size, count) = cut.unwrap_or((0, 1));
    Some(Segments {
        tcp_offset: u16::try_from(ip.len).ok()?,
        size,
        count,
        ipv6: ip.ipv6,
        cwr: flags & CWR != 0,
    })
}

/// Segments of `size` bytes, the last one shorter; `None` if `size` is 0 or there are too many.
fn segments_of(payload: u32, size: u32) -> Option<u16> {
    let rounded = payload.checked_add(size)?.checked_sub(1)?;
    u16::try_from(rounded.checked_div(size)?).ok()
}

/// Fills in the checksum of an IPv4 header; false if these bytes hold none.
pub fn fill_ipv4_checksum(headers: &mut [u8]) -> bool {
    let Some(len) = ipv4_len(headers) else {
        return false;
    };
    let Some(header) = headers.get_mut(..len) else {
        return false;
    };
    if let Some(field) = header
        .get_mut(IPV4_CHECKSUM..)
        .and_then(|rest| rest.first_chunk_mut::<2>())
    {
        *field = [0; 2];
    }
    let checksum = !fold(sum(header));
    if let Some(field) = header
        .get_mut(IPV4_CHECKSUM..)
        .and_then(|rest| rest.first_chunk_mut::<2>())
    {
        *field = checksum.to_be_bytes();
    }
    true
}

/// Fills in the checksum of a TCP packet, all of which `packet` is from its IP header on; false, and nothing changed, if
/// it is none.
pub fn fill_tcp_checksum(packet: &mut [u8]) -> bool {
    fill_tcp(packet).is_some()
}

fn fill_tcp(packet: &mut [u8]) -> Option<()> {
    let packet_len = u32::try_from(packet.len()).ok()?;
    let ip = Ip::parse(packet, packet_len)?;
    let pseudo_header = ip.pseudo_header(packet, packet_len)?;
    let tcp = packet
        .get_mut(ip.len..)
        .filter(|tcp| tcp.len() >= TCP_LEN)?;
    // With the pseudo-header's sum in its place, the sum of all is that of both.
    *tcp.get_mut(TCP_CHECKSUM..)?.first_chunk_mut::<2>()? = pseudo_header.to_be_bytes();
    let checksum = !fold(sum(tcp));
    *tcp.get_mut(TCP_CHECKSUM..)?.first_chunk_mut::<2>()? = checksum.to_be_bytes();
    Some(())
}

/// An IP header in front of TCP.
struct Ip {
    /// Its bytes.
    len: usize,
    ipv6: bool,
}

impl Ip {
    /// `None` unless the packet is whole, as long as the header says, and TCP follows the header.
    fn parse(headers: &[u8], packet_len: u32) -> Option<Self> {
        let u16_at = |at: usize| {
            let bytes = headers.get(at..)?.first_chunk::<2>()?;
            Some(u16::from_be_bytes(*bytes))
        };
        if let Some(len) = ipv4_len(headers) {
            let whole = u16_at(6)? & FRAGMENT == 0 && u32::from(u16_at(2)?) == packet_len;
            let tcp = *headers.get(9)? == PROTOCOL_TCP;
            return (whole && tcp).then_some(Self { len, ipv6: false });
        }
        let version = headers.first()? >> 4;
        let payload = packet_len.checked_sub(IPV6_LEN as u32)?;
        let whole = u32::from(u16_at(4)?) == payload;
        let tcp = *headers.get(6)? == PROTOCOL_TCP;
        (version == 6 && whole && tcp).then_some(Self {
            len: IPV6_LEN,
            ipv6: true,
        })
    }

    /// Folded sum of the pseudo-header, not complemented.
    fn pseudo_header(&self, headers: &[u8], packet_len: u32) -> Option<u16> {
        let addresses = if self.ipv6 { 8..IPV6_LEN } else { 12..IPV4_LEN };
        let tcp_len = packet_len.checked_sub(u32::try_from(self.len).ok()?)?;
        let sum = sum(headers.get(addresses)?)
            .wrapping_add(PROTOCOL_TCP.into())
            .wrapping_add(tcp_len);
        Some(fold(sum))
    }
}

/// Bytes of an IPv4 header that is all there.
fn ipv4_len(headers: &[u8]) -> Option<usize> {
    let first = *headers.first()?;
    let len = usize::from(first & 0xf).wrapping_mul(4);
    (first >> 4 == 4 && len >= IPV4_LEN && headers.len() >= len).then_some(len)
}

/// Sum of 16-bit words; far from overflow for a packet of up to 64 KiB, whose words are 2^15 below 2^16.
fn sum(bytes: &[u8]) -> u32 {
    bytes.chunks(2).fold(0, |sum, pair| {
        let word = match *pair {
            [high, low] => u16::from_be_bytes([high, low]),
            [high] => u16::from_be_bytes([high, 0]),
            _ => 0,
        };
        sum.wrapping_add(word.into())
    })
}

fn fold(sum: u32) -> u16 {
    let once = (sum & 0xffff).wrapping_add(sum >> 16);
    (once & 0xffff).wrapping_add(once >> 16) as u16
}

#[cfg(test)]
mod tests;
