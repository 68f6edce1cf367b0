// SPDX-License-Identifier: GPL-2.0

//! RNDIS messages and per-packet information. Offsets inside a message count from its body, that is
//! from byte 8.

use zerocopy::little_endian::U32;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Bytes of the header before every body.
pub const HEADER_LEN: usize = size_of::<Header>();
/// Bytes of header and PACKET body.
pub const PACKET_LEN: usize = HEADER_LEN + size_of::<PacketBody>();
/// Bytes of the header of one per-packet information element.
pub const PPI_LEN: usize = size_of::<PpiHeader>();
/// Protocol version 1.0.
pub const MAJOR: u32 = 1;

/// Message numbers.
pub mod kind {
    /// Data.
    pub const PACKET: u32 = 1;
    /// Initialise.
    pub const INITIALIZE: u32 = 2;
    /// Stop; not answered.
    pub const HALT: u32 = 3;
    /// Read an OID.
    pub const QUERY: u32 = 4;
    /// Write an OID.
    pub const SET: u32 = 5;
    /// Reset.
    pub const RESET: u32 = 6;
    /// Unsolicited status.
    pub const INDICATE: u32 = 7;
    /// Liveness probe.
    pub const KEEPALIVE: u32 = 8;
    /// Added to the number of the request.
    pub const COMPLETION: u32 = 0x8000_0000;
}

/// Status words.
pub mod status {
    /// Done.
    pub const SUCCESS: u32 = 0;
    /// Refused.
    pub const FAILURE: u32 = 0xc000_0001;
    /// Offload that the device does not have.
    pub const NOT_SUPPORTED: u32 = 0xc000_00bb;
    /// Information buffer of a wrong shape.
    pub const INVALID_DATA: u32 = 0xc001_0015;
    /// Indication: link up.
    pub const MEDIA_CONNECT: u32 = 0x4001_000b;
    /// Indication: link down.
    pub const MEDIA_DISCONNECT: u32 = 0x4001_000c;
    /// Indication: new link speed, a u32 in units of 100 bit/s.
    pub const LINK_SPEED_CHANGE: u32 = 0x4001_0013;
    /// Indication: the network behind the link is another one.
    pub const NETWORK_CHANGE: u32 = 0x4001_0018;
    /// Indication: offloads now in force.
    pub const TASK_OFFLOAD_CURRENT_CONFIG: u32 = 0x4002_0006;
}

macro_rules! wire {
    ($(#[$meta:meta])* $name:ident { $($(#[$fmeta:meta])* $field:ident: $ty:ty),* $(,)? }) => {
        $(#[$meta])*
        #[derive(
            Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
        )]
        #[repr(C)]
        pub struct $name { $($(#[$fmeta])* pub $field: $ty),* }
    };
}

wire! {
    /// Before every body. `len` includes this header.
    Header { kind: U32, len: U32 }
}
wire! {
    /// INITIALIZE.
    Initialize { id: U32, major: U32, minor: U32, max_transfer: U32 }
}
wire! {
    /// Answer to INITIALIZE.
    InitializeComplete {
        id: U32,
        status: U32,
        major: U32,
        minor: U32,
        flags: U32,
        medium: U32,
        max_packets: U32,
        max_transfer: U32,
        /// Power of two.
        alignment: U32,
        af_offset: U32,
        af_size: U32,
    }
}
wire! {
    /// QUERY and SET.
    Request { id: U32, oid: U32, len: U32, offset: U32, vc: U32 }
}
wire! {
    /// Answer to QUERY.
    QueryComplete { id: U32, status: U32, len: U32, offset: U32 }
}
wire! {
    /// Answer to SET and KEEPALIVE.
    Complete { id: U32, status: U32 }
}
wire! {
    /// Answer to RESET.
    ResetComplete { status: U32, addressing_reset: U32 }
}
wire! {
    /// INDICATE.
    Indicate { status: U32, len: U32, offset: U32 }
}
wire! {
    /// PACKET.
    PacketBody {
        data_offset: U32,
        data_len: U32,
        oob_offset: U32,
        oob_len: U32,
        oob_count: U32,
        ppi_offset: U32,
        ppi_len: U32,
        vc: U32,
        reserved: U32,
    }
}
wire! {
    /// Before every per-packet information payload. `size` includes this header.
    PpiHeader { size: U32, kind: U32, offset: U32 }
}

/// Types of per-packet information.
pub mod ppi {
    /// Checksum request or verdict.
    pub const CHECKSUM: u32 = 0;
    /// Large send request.
    pub const LSO: u32 = 2;
    /// 802.1Q tag.
    pub const VLAN: u32 = 6;
    /// RSS hash value.
    pub const HASH: u32 = 8;
    /// What the hash value was computed over.
    pub const HASH_INFO: u32 = 9;
    /// Set in the type word of elements private to host and guest.
    pub const INTERNAL: u32 = 1 << 31;
    /// Which piece of a coalesced frame this is.
    pub const PACKET_ID: u32 = INTERNAL | 1;
}

/// Checksum request of a guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TxChecksum(pub u32);

impl TxChecksum {
    /// Frame is IPv4.
    pub fn ipv4(self) -> bool {
        self.0 & 1 != 0
    }
    /// Frame is IPv6.
    pub fn ipv6(self) -> bool {
        self.0 & 2 != 0
    }
    /// Compute the TCP checksum.
    pub fn tcp(self) -> bool {
        self.0 & 4 != 0
    }
    /// Compute the UDP checksum.
    pub fn udp(self) -> bool {
        self.0 & 8 != 0
    }
    /// Compute the IPv4 header checksum.
    pub fn ip_header(self) -> bool {
        self.0 & 16 != 0
    }
    /// Start of the L4 header in the frame, in bytes.
    pub fn l4_offset(self) -> u16 {
        ((self.0 >> 16) & 0x3ff) as u16
    }
}

/// Checksum verdict for a guest, by bit.
pub mod rx_checksum {
    /// TCP checksum wrong.
    pub const TCP_FAILED: u32 = 1 << 0;
    /// UDP checksum wrong.
    pub const UDP_FAILED: u32 = 1 << 1;
    /// IPv4 header checksum wrong.
    pub const IP_FAILED: u32 = 1 << 2;
    /// TCP checksum right.
    pub const TCP_OK: u32 = 1 << 3;
    /// UDP checksum right.
    pub const UDP_OK: u32 = 1 << 4;
    /// IPv4 header checksum right.
    pub const IP_OK: u32 = 1 << 5;
    /// The TCP checksum field of a coalesced frame is not filled in.
    pub const TCP_VALUE_INVALID: u32 = 1 << 7;
    /// The IPv4 header checksum field of a coalesced frame is not filled in.
    pub const IP_VALUE_INVALID: u32 = 1 << 8;
}

/// Payload of a packet id: version 1, flags, id.
pub fn packet_id(first: bool, last: bool, id: u16) -> u32 {
    const PIECE: u8 = 1;
    let flags = PIECE | u8::from(first) << 1 | u8::from(last) << 2;
    let [low, high] = id.to_le_bytes();
    u32::from_le_bytes([1, flags, low, high])
}

/// Large send (version 2) request of a guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lso(pub u32);

impl Lso {
    /// Payload bytes per segment.
    pub fn mss(self) -> u32 {
        self.0 & 0xf_ffff
    }
    /// Start of the TCP header in the frame, in bytes.
    pub fn l4_offset(self) -> u16 {
        ((self.0 >> 20) & 0x3ff) as u16
    }
    /// Type bit: must be 1 for version 2.
    pub fn version2(self) -> bool {
        self.0 & (1 << 30) != 0
    }
    /// Frame is IPv6.
    pub fn ipv6(self) -> bool {
        self.0 & (1 << 31) != 0
    }
}

/// Converts 802.1Q per-packet information to tag control information.
pub fn vlan_to_tci(info: u32) -> u16 {
    let priority = (info & 7) as u16;
    let dei = ((info >> 3) & 1) as u16;
    let vid = ((info >> 4) & 0xfff) as u16;
    priority << 13 | dei << 12 | vid
}

/// The reverse of [`vlan_to_tci`].
pub fn tci_to_vlan(tci: u16) -> u32 {
    let tci = u32::from(tci);
    (tci >> 13) | (tci >> 12 & 1) << 3 | (tci & 0xfff) << 4
}

/// Builds a control message: header, body, information buffer.
pub fn build(kind: u32, body: &(impl IntoBytes + Immutable), info: &[u8]) -> Vec<u8> {
    let body = body.as_bytes();
    let len = HEADER_LEN + body.len() + info.len();
    let header = Header {
        kind: U32::new(kind),
        len: U32::new(len as u32),
    };
    let mut message = Vec::with_capacity(len);
    message.extend_from_slice(header.as_bytes());
    message.extend_from_slice(body);
    message.extend_from_slice(info);
    message
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::mem::offset_of;

    #[test]
    fn sizes_and_offsets() {
        assert_eq!(PACKET_LEN, 44);
        assert_eq!(offset_of!(PacketBody, ppi_offset), 20);
        assert_eq!(offset_of!(PacketBody, vc), 28);
        assert_eq!(size_of::<Request>(), 20);
        assert_eq!(size_of::<QueryComplete>(), 16);
        assert_eq!(size_of::<Indicate>(), 12);
        assert_eq!(size_of::<InitializeComplete>() + HEADER_LEN, 52);
        assert_eq!(offset_of!(InitializeComplete, max_packets), 24);
        assert_eq!(offset_of!(InitializeComplete, alignment), 32);
        assert_eq!(PPI_LEN, 12);
    }

    #[test]
    fn recorded_bit_fields() {
        // From the recording: TCP over IPv4 at offset 34, and LSO at 34 with mss 1448.
        let csum = TxChecksum(u32::from_le_bytes([0x05, 0x00, 0x22, 0x00]));
        assert!(csum.ipv4() && csum.tcp() && !csum.udp() && !csum.ipv6() && !csum.ip_header());
        assert_eq!(csum.l4_offset(), 34);
        let lso = Lso(u32::from_le_bytes([0xa8, 0x05, 0x20, 0x42]));
        assert_eq!((lso.mss(), lso.l4_offset()), (1448, 34));
        assert!(lso.version2() && !lso.ipv6());
        // VLAN 5.
        assert_eq!(vlan_to_tci(0x50), 5);
    }

    #[test]
    fn vlan_round_trip() {
        for tci in 0..=u16::MAX {
            assert_eq!(vlan_to_tci(tci_to_vlan(tci)), tci);
        }
    }
}
