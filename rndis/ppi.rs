// SPDX-License-Identifier: GPL-2.0

//! Per-packet information: what travels beside a frame in an RNDIS PACKET message.
//!
//! Each record is `size | type and internal bit | payload offset | payload`; the offset counts from the
//! record. Source: specification 3.5; `hyperv_net.h`.

use zerocopy::little_endian::U32;
use zerocopy::FromBytes as _;

/// Bytes of [`RecordHeader`].
pub const RECORD_HEADER_LEN: usize = 12;
/// Bytes of every record this driver writes.
pub const RECORD_LEN: usize = 16;

const INTERNAL: u32 = 1 << 31;
const CHECKSUM: u32 = 0;
const PACKET_ID: u32 = INTERNAL | 1;
const LSO: u32 = 2;
const VLAN: u32 = 6;
const HASH: u32 = 8;
const HASH_INFO: u32 = 9;

/// Header of a record, 12 bytes.
#[derive(
    Clone,
    Copy,
    zerocopy_derive::FromBytes,
    zerocopy_derive::IntoBytes,
    zerocopy_derive::Immutable,
    zerocopy_derive::KnownLayout,
    zerocopy_derive::Unaligned,
)]
#[repr(C)]
pub struct RecordHeader {
    /// Bytes of the record, this header included.
    pub size: U32,
    /// Type in bits 0-30, "internal" in bit 31.
    pub record_type: U32,
    /// Where the payload starts.
    pub payload_offset: U32,
}

/// Transport protocol of a checksum request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Transport {
    /// TCP
    Tcp,
    /// UDP
    Udp,
}

/// A record of the transmit path, 16 bytes: type and payload.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TxRecord {
    record_type: u32,
    payload: u32,
}

impl TxRecord {
    /// The flow hash.
    pub const fn hash(hash: u32) -> Self {
        Self {
            record_type: HASH,
            payload: hash,
        }
    }

    /// The VLAN tag, as `skb->vlan_tci` has it.
    pub const fn vlan(tci: u16) -> Self {
        Self {
            record_type: VLAN,
            payload: vlan_from_tci(tci),
        }
    }

    /// Asks the host to complete a checksum. `l4_offset` counts from the frame's first byte.
    pub const fn checksum(ipv6: bool, transport: Transport, l4_offset: u16) -> Self {
        let version = if ipv6 { 2 } else { 1 };
        let transport = match transport {
            Transport::Tcp => 4,
            Transport::Udp => 8,
        };
        Self {
            record_type: CHECKSUM,
            payload: version | transport | ((l4_offset as u32 & 0x3ff) << 16),
        }
    }

    /// Asks the host to segment TCP. `l4_offset` counts from the frame's first byte.
    pub const fn lso(ipv6: bool, mss: u32, l4_offset: u16) -> Self {
        let version = if ipv6 { 1 << 31 } else { 0 };
        Self {
            record_type: LSO,
            payload: (mss & 0x000f_ffff) | ((l4_offset as u32 & 0x3ff) << 20) | (1 << 30) | version,
        }
    }

    /// The record's 16 bytes.
    pub const fn encode(self) -> [u8; RECORD_LEN] {
        let [s0, s1, s2, s3] = (RECORD_LEN as u32).to_le_bytes();
        let [t0, t1, t2, t3] = self.record_type.to_le_bytes();
        let [o0, o1, o2, o3] = (RECORD_HEADER_LEN as u32).to_le_bytes();
        let [p0, p1, p2, p3] = self.payload.to_le_bytes();
        [
            s0, s1, s2, s3, t0, t1, t2, t3, o0, o1, o2, o3, p0, p1, p2, p3,
        ]
    }
}

/// The wire's VLAN word has the priority in bits 0-2, DEI in 3, the id in 4-15.
const fn vlan_from_tci(tci: u16) -> u32 {
    let tci = tci as u32;
    (tci >> 13) | ((tci >> 9) & 0x8) | ((tci & 0xfff) << 4)
}

const fn tci_from_vlan(word: u32) -> u16 {
    (((word & 0x7) << 13) | ((word & 0x8) << 9) | ((word >> 4) & 0xfff)) as u16
}

/// What the host found out about a received frame's checksums.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
#[repr(transparent)]
pub struct RxChecksum(pub u32);

impl RxChecksum {
    /// The host checked the TCP or UDP checksum and it is right.
    pub const fn transport_ok(self) -> bool {
        self.0 & (1 << 3 | 1 << 4) != 0
    }

    /// The host checked the TCP or UDP checksum and it is wrong.
    pub const fn transport_failed(self) -> bool {
        self.0 & (1 << 0 | 1 << 1) != 0
    }

    /// It was a TCP checksum that the host checked.
    pub const fn is_tcp(self) -> bool {
        self.0 & (1 << 0 | 1 << 3) != 0
    }

    /// The transport checksum field was not filled in (coalesced frames): it is right only in name.
    pub const fn transport_value_invalid(self) -> bool {
        self.0 & (1 << 7) != 0
    }

    /// The host checked the IPv4 header checksum and it is right.
    pub const fn ip_ok(self) -> bool {
        self.0 & (1 << 5) != 0
    }

    /// The IPv4 header checksum field was not filled in: the receiver must recompute it.
    pub const fn ip_value_invalid(self) -> bool {
        self.0 & (1 << 8) != 0
    }
}

/// What a flow hash was computed over, as NDIS says it: hash function in the low byte, one bit above it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(transparent)]
pub struct HashInfo(pub u32);

impl HashInfo {
    /// TCP and UDP over IPv4 and IPv6, with and without extension headers (`NDIS_HASH_TCP_IPV4` and so on).
    const WITH_PORTS: u32 = 0x0200 | 0x1000 | 0x2000 | 0x4000 | 0x8000 | 0x1_0000;

    /// The hash covers ports, not only addresses.
    pub const fn has_ports(self) -> bool {
        self.0 & Self::WITH_PORTS != 0
    }
}

/// A received frame is one piece of a longer one (receive segment coalescing).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Fragment {
    /// First piece.
    pub first: bool,
    /// Last piece.
    pub last: bool,
    /// Which frame the piece belongs to.
    pub id: u16,
}

/// Everything the records of a received frame say. Of several records of one type, the first counts.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct RxInfo {
    /// VLAN tag that the host took out of the frame, as `vlan_tci`.
    pub vlan: Option<u16>,
    /// Checksum findings.
    pub checksum: Option<RxChecksum>,
    /// Flow hash.
    pub hash: Option<u32>,
    /// What the hash was computed over.
    pub hash_info: Option<HashInfo>,
    /// Piece of a coalesced frame.
    pub fragment: Option<Fragment>,
}

/// Why per-packet information was refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PpiError {
    /// 1 to 11 bytes are left where a record should be.
    Truncated,
    /// A record is smaller than its header (0 included) or larger than what is left.
    Size,
    /// The payload of a known record does not fit in it.
    Payload,
}

impl RxInfo {
    /// Walks the records once, front to back.
    #[inline(always)]
    pub fn parse(mut records: &[u8]) -> Result<Self, PpiError> {
        let mut this = Self::default();
        while !records.is_empty() {
            let (header, _) =
                RecordHeader::ref_from_prefix(records).map_err(|_| PpiError::Truncated)?;
            let size = usize::try_from(header.size.get()).map_err(|_| PpiError::Size)?;
            if size < RECORD_HEADER_LEN {
                return Err(PpiError::Size);
            }
            let (record, rest) = records.split_at_checked(size).ok_or(PpiError::Size)?;
            this.take(header, record)?;
            records = rest;
        }
        Ok(this)
    }

    #[inline]
    fn take(&mut self, header: &RecordHeader, record: &[u8]) -> Result<(), PpiError> {
        match header.record_type.get() {
            VLAN => {
                let word = payload(header, record)?;
                self.vlan.get_or_insert(tci_from_vlan(word));
            }
            CHECKSUM => {
                let word = payload(header, record)?;
                self.checksum.get_or_insert(RxChecksum(word));
            }
            HASH => {
                let word = payload(header, record)?;
                self.hash.get_or_insert(word);
            }
            HASH_INFO => {
                let word = payload(header, record)?;
                self.hash_info.get_or_insert(HashInfo(word));
            }
            PACKET_ID => {
                let word = payload(header, record)?;
                if self.fragment.is_none() {
                    self.fragment = fragment(word);
                }
            }
            _ => {}
        }
        Ok(())
    }
}

#[inline]
fn payload(header: &RecordHeader, record: &[u8]) -> Result<u32, PpiError> {
    let offset = usize::try_from(header.payload_offset.get()).map_err(|_| PpiError::Payload)?;
    if offset < RECORD_HEADER_LEN {
        return Err(PpiError::Payload);
    }
    let word = record
        .get(offset..)
        .and_then(|payload| payload.first_chunk::<4>())
        .ok_or(PpiError::Payload)?;
    Ok(u32::from_le_bytes(*word))
}

/// Version in byte 0, flags in byte 1 (1 piece, 2 first, 4 last), id in bytes 2-3.
const fn fragment(word: u32) -> Option<Fragment> {
    let [_, flags, id0, id1] = word.to_le_bytes();
    if flags & 1 == 0 {
        return None;
    }
    Some(Fragment {
        first: flags & 2 != 0,
        last: flags & 4 != 0,
        id: u16::from_le_bytes([id0, id1]),
    })
}

#[cfg(test)]
mod tests;
