// SPDX-License-Identifier: GPL-2.0

//! NVSP messages as they lie in ring packets: type word, then a body; little-endian.

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Receive buffer identifier a guest must give (and the pageset id of transfer-page packets).
pub const RECEIVE_BUFFER_ID: u16 = 0xcafe;
/// Send buffer identifier a guest must give.
pub const SEND_BUFFER_ID: u16 = 0;
/// No send section in an RNDIS packet message.
pub const NO_SECTION: u32 = 0xffff_ffff;
/// Entries of the send indirection table.
pub const SEND_TABLE_ENTRIES: usize = 16;

/// Message numbers.
pub mod kind {
    /// Version offer.
    pub const INIT: u32 = 1;
    /// Its answer.
    pub const INIT_COMPLETE: u32 = 2;
    /// NDIS version of the guest.
    pub const SEND_NDIS_VERSION: u32 = 100;
    /// The guest's receive buffer.
    pub const SEND_RECEIVE_BUFFER: u32 = 101;
    /// Its answer.
    pub const SEND_RECEIVE_BUFFER_COMPLETE: u32 = 102;
    /// The receive buffer goes away.
    pub const REVOKE_RECEIVE_BUFFER: u32 = 103;
    /// The guest's send buffer.
    pub const SEND_SEND_BUFFER: u32 = 104;
    /// Its answer.
    pub const SEND_SEND_BUFFER_COMPLETE: u32 = 105;
    /// The send buffer goes away.
    pub const REVOKE_SEND_BUFFER: u32 = 106;
    /// An RNDIS packet, either way.
    pub const SEND_RNDIS_PACKET: u32 = 107;
    /// Its completion.
    pub const SEND_RNDIS_PACKET_COMPLETE: u32 = 108;
    /// MTU and capabilities of the guest.
    pub const SEND_NDIS_CONFIG: u32 = 125;
    /// Move traffic between synthetic path and virtual function.
    pub const SWITCH_DATA_PATH: u32 = 129;
    /// OID query outside RNDIS.
    pub const OID_QUERY_EX: u32 = 131;
    /// Its answer.
    pub const OID_QUERY_EX_COMPLETE: u32 = 132;
    /// Sub-channel request and answer.
    pub const SUBCHANNEL: u32 = 133;
    /// Which channel a guest shall send on, by hash.
    pub const SEND_INDIRECTION_TABLE: u32 = 134;
}

/// Status words.
pub mod status {
    /// No status.
    pub const NONE: u32 = 0;
    /// Done.
    pub const SUCCESS: u32 = 1;
    /// Refused.
    pub const FAIL: u32 = 2;
}

/// Protocol versions, oldest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum NvspVersion {
    /// 1.
    V1,
    /// 2: NDIS configuration, jumbo frames.
    V2,
    /// 4: virtual functions, large receive buffer.
    V4,
    /// 5: sub-channels, RSS, UDP checksums, link speed.
    V5,
    /// 6.
    V6,
    /// 6.1: RSC, 40-byte messages.
    V61,
}

impl NvspVersion {
    /// All, oldest first.
    pub const ALL: [NvspVersion; 6] = [
        NvspVersion::V1,
        NvspVersion::V2,
        NvspVersion::V4,
        NvspVersion::V5,
        NvspVersion::V6,
        NvspVersion::V61,
    ];

    /// Value on the wire.
    pub fn value(self) -> u32 {
        match self {
            NvspVersion::V1 => 0x0000_0002,
            NvspVersion::V2 => 0x0003_0002,
            NvspVersion::V4 => 0x0004_0000,
            NvspVersion::V5 => 0x0005_0000,
            NvspVersion::V6 => 0x0006_0000,
            NvspVersion::V61 => 0x0006_0001,
        }
    }

    /// Name for counters.
    pub fn name(self) -> &'static str {
        match self {
            NvspVersion::V1 => "1",
            NvspVersion::V2 => "2",
            NvspVersion::V4 => "4",
            NvspVersion::V5 => "5",
            NvspVersion::V6 => "6",
            NvspVersion::V61 => "6.1",
        }
    }

    /// By value on the wire.
    pub fn from_value(value: u32) -> Option<Self> {
        Self::ALL.into_iter().find(|v| v.value() == value)
    }

    /// Bytes of a message from the host.
    pub fn message_len(self) -> usize {
        if self >= NvspVersion::V61 {
            MESSAGE_LEN_V61
        } else {
            MESSAGE_LEN
        }
    }
}

/// Bytes of a host message below 6.1.
pub const MESSAGE_LEN: usize = 28;
/// Bytes of a host message at 6.1.
pub const MESSAGE_LEN_V61: usize = 40;

macro_rules! wire {
    ($(#[$meta:meta])* $name:ident { $($(#[$fmeta:meta])* $field:ident: $ty:ty),* $(,)? }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
        #[repr(C)]
        pub struct $name { $($(#[$fmeta])* pub $field: $ty),* }
    };
}

wire! {
    /// Body of INIT: the range of versions offered.
    Init { min: U32, max: U32 }
}
wire! {
    /// Body of INIT_COMPLETE.
    InitComplete { version: U32, max_mdl_chain: U32, status: U32 }
}
wire! {
    /// Body of SEND_NDIS_VERSION.
    NdisVersion { major: U32, minor: U32 }
}
wire! {
    /// Body of SEND_RECEIVE_BUFFER and SEND_SEND_BUFFER.
    SendBuffer { gpadl: U32, id: U16 }
}
wire! {
    /// Body of SEND_RECEIVE_BUFFER_COMPLETE with its one section.
    ReceiveBufferComplete {
        status: U32,
        sections: U32,
        offset: U32,
        /// Bytes of one receive section.
        suballoc_size: U32,
        /// Number of receive sections.
        suballocs: U32,
        end: U32,
    }
}
wire! {
    /// Body of SEND_SEND_BUFFER_COMPLETE.
    SendBufferComplete { status: U32, section_size: U32 }
}
wire! {
    /// Body of both REVOKE messages.
    Revoke { id: U16 }
}
wire! {
    /// Body of SEND_RNDIS_PACKET.
    RndisPacket { channel_type: U32, section_index: U32, section_size: U32 }
}
wire! {
    /// Body of SEND_RNDIS_PACKET_COMPLETE.
    RndisPacketComplete { status: U32 }
}
wire! {
    /// Body of SEND_NDIS_CONFIG.
    NdisConfig {
        /// Largest frame, Ethernet header included.
        mtu: U32,
        reserved: U32,
        capabilities: U64,
    }
}
wire! {
    /// Body of SWITCH_DATA_PATH: 0 synthetic, 1 virtual function.
    SwitchDataPath { path: U32 }
}
wire! {
    /// Body of OID_QUERY_EX_COMPLETE.
    OidQueryComplete { status: U32, bytes: U32 }
}
wire! {
    /// Body of SUBCHANNEL from the guest (operation, count) and back (status, count).
    Subchannel { operation_or_status: U32, count: U32 }
}
wire! {
    /// Body of SEND_INDIRECTION_TABLE.
    SendTable { count: U32, offset: U32, entries: [U32; SEND_TABLE_ENTRIES] }
}

/// `NdisConfig::capabilities`.
pub mod capability {
    /// Virtual function wanted.
    pub const SRIOV: u64 = 1 << 2;
    /// 802.1Q metadata.
    pub const VLAN: u64 = 1 << 3;
    /// Receive segment coalescing.
    pub const RSC: u64 = 1 << 7;
}

/// What a guest sends on a channel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GuestMessage {
    /// INIT.
    Init(Init),
    /// SEND_NDIS_VERSION.
    NdisVersion(NdisVersion),
    /// SEND_NDIS_CONFIG.
    NdisConfig(NdisConfig),
    /// SEND_RECEIVE_BUFFER.
    ReceiveBuffer(SendBuffer),
    /// REVOKE_RECEIVE_BUFFER.
    RevokeReceiveBuffer(Revoke),
    /// SEND_SEND_BUFFER.
    SendBuffer(SendBuffer),
    /// REVOKE_SEND_BUFFER.
    RevokeSendBuffer(Revoke),
    /// SEND_RNDIS_PACKET.
    Rndis(RndisPacket),
    /// SWITCH_DATA_PATH.
    SwitchDataPath(SwitchDataPath),
    /// OID_QUERY_EX.
    OidQueryEx,
    /// SUBCHANNEL.
    Subchannel(Subchannel),
}

impl GuestMessage {
    /// Name in counters.
    pub fn name(&self) -> &'static str {
        match self {
            GuestMessage::Init(_) => "INIT",
            GuestMessage::NdisVersion(_) => "SEND_NDIS_VER",
            GuestMessage::NdisConfig(_) => "SEND_NDIS_CONFIG",
            GuestMessage::ReceiveBuffer(_) => "SEND_RECV_BUF",
            GuestMessage::RevokeReceiveBuffer(_) => "REVOKE_RECV_BUF",
            GuestMessage::SendBuffer(_) => "SEND_SEND_BUF",
            GuestMessage::RevokeSendBuffer(_) => "REVOKE_SEND_BUF",
            GuestMessage::Rndis(_) => "SEND_RNDIS_PKT",
            GuestMessage::SwitchDataPath(_) => "SWITCH_DATA_PATH",
            GuestMessage::OidQueryEx => "OID_QUERY_EX",
            GuestMessage::Subchannel(_) => "SUBCHANNEL",
        }
    }

    /// Name of the fault point, `None` for RNDIS packets (their RNDIS message has its own).
    pub fn fault_point(&self) -> Option<&'static str> {
        Some(match self {
            GuestMessage::Init(_) => "nvsp.init",
            GuestMessage::NdisVersion(_) => "nvsp.ndis-version",
            GuestMessage::NdisConfig(_) => "nvsp.ndis-config",
            GuestMessage::ReceiveBuffer(_) => "nvsp.send-recv-buf",
            GuestMessage::RevokeReceiveBuffer(_) => "nvsp.revoke-recv-buf",
            GuestMessage::SendBuffer(_) => "nvsp.send-send-buf",
            GuestMessage::RevokeSendBuffer(_) => "nvsp.revoke-send-buf",
            GuestMessage::SwitchDataPath(_) => "nvsp.switch-data-path",
            GuestMessage::OidQueryEx => "nvsp.oid-query-ex",
            GuestMessage::Subchannel(_) => "nvsp.subchannel",
            GuestMessage::Rndis(_) => return None,
        })
    }

    /// Reads a message. Bytes behind the fields used are ignored.
    ///
    /// # Errors
    ///
    /// If it is too short for its type, or of no type a guest may send.
    pub fn parse(bytes: &[u8]) -> Result<Self, NvspError> {
        let (kind, body) = U32::read_from_prefix(bytes).map_err(|_| NvspError::Short {
            kind: 0,
            len: bytes.len(),
        })?;
        let kind = kind.get();
        Ok(match kind {
            kind::INIT => GuestMessage::Init(read(kind, body)?),
            kind::SEND_NDIS_VERSION => GuestMessage::NdisVersion(read(kind, body)?),
            kind::SEND_NDIS_CONFIG => GuestMessage::NdisConfig(read(kind, body)?),
            kind::SEND_RECEIVE_BUFFER => GuestMessage::ReceiveBuffer(read(kind, body)?),
            kind::REVOKE_RECEIVE_BUFFER => GuestMessage::RevokeReceiveBuffer(read(kind, body)?),
            kind::SEND_SEND_BUFFER => GuestMessage::SendBuffer(read(kind, body)?),
            kind::REVOKE_SEND_BUFFER => GuestMessage::RevokeSendBuffer(read(kind, body)?),
            kind::SEND_RNDIS_PACKET => GuestMessage::Rndis(read(kind, body)?),
            kind::SWITCH_DATA_PATH => GuestMessage::SwitchDataPath(read(kind, body)?),
            kind::OID_QUERY_EX => GuestMessage::OidQueryEx,
            kind::SUBCHANNEL => GuestMessage::Subchannel(read(kind, body)?),
            _ => return Err(NvspError::UnknownType(kind)),
        })
    }
}

fn read<T: FromBytes>(kind: u32, body: &[u8]) -> Result<T, NvspError> {
    T::read_from_prefix(body)
        .map(|(value, _)| value)
        .map_err(|_| NvspError::Short {
            kind,
            len: body.len() + 4,
        })
}

/// Reads the status of a receive completion (message 108 in a completion packet).
///
/// # Errors
///
/// If it is too short or another message.
pub fn parse_completion(bytes: &[u8]) -> Result<u32, NvspError> {
    let (kind, body) = U32::read_from_prefix(bytes).map_err(|_| NvspError::Short {
        kind: 0,
        len: bytes.len(),
    })?;
    if kind.get() != kind::SEND_RNDIS_PACKET_COMPLETE {
        return Err(NvspError::UnknownType(kind.get()));
    }
    read::<RndisPacketComplete>(kind.get(), body).map(|c| c.status.get())
}

/// A message that cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NvspError {
    /// Fewer bytes than the fields of the type.
    #[error("NVSP message {kind} of {len} bytes is too short")]
    Short {
        /// Message number, 0 if not even that was there.
        kind: u32,
        /// Bytes present.
        len: usize,
    },
    /// Not a message that may arrive here.
    #[error("NVSP message {0} is not one a guest sends here")]
    UnknownType(u32),
}

/// Builds a host message, zero-padded to `len` bytes (or longer if the body needs it).
pub fn build(kind: u32, body: &(impl IntoBytes + Immutable), len: usize) -> Vec<u8> {
    let mut message = Vec::with_capacity(len);
    message.extend_from_slice(&kind.to_le_bytes());
    message.extend_from_slice(body.as_bytes());
    if message.len() < len {
        message.resize(len, 0);
    }
    message
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::mem::offset_of;

    #[test]
    fn sizes_and_offsets() {
        // Offsets count from the start of the message, 4 before the body.
        assert_eq!(offset_of!(InitComplete, status) + 4, 12);
        assert_eq!(offset_of!(SendBuffer, id) + 4, 8);
        assert_eq!(offset_of!(ReceiveBufferComplete, offset) + 4, 12);
        assert_eq!(offset_of!(ReceiveBufferComplete, end) + 4, 24);
        assert_eq!(offset_of!(NdisConfig, capabilities) + 4, 12);
        assert_eq!(offset_of!(RndisPacket, section_size) + 4, 12);
        assert_eq!(offset_of!(SendTable, entries) + 4, 12);
        assert_eq!(size_of::<SendTable>() + 4, 76);
        assert_eq!(size_of::<Init>() + 4, 12);
        assert_eq!(size_of::<Revoke>(), 2);
    }

    #[test]
    fn short_and_unknown_messages_are_named() {
        assert_eq!(
            GuestMessage::parse(&[1, 0, 0, 0, 2]),
            Err(NvspError::Short { kind: 1, len: 5 })
        );
        assert_eq!(
            GuestMessage::parse(&[9, 0, 0, 0]),
            Err(NvspError::UnknownType(9))
        );
        assert_eq!(parse_completion(&[108, 0, 0, 0, 1, 0, 0, 0]), Ok(1));
        assert_eq!(
            parse_completion(&[107, 0, 0, 0, 1, 0, 0, 0]),
            Err(NvspError::UnknownType(107))
        );
    }

    #[test]
    fn versions_are_found_by_value() {
        for version in NvspVersion::ALL {
            assert_eq!(NvspVersion::from_value(version.value()), Some(version));
        }
        assert_eq!(NvspVersion::from_value(3), None);
    }

    proptest! {
        #[test]
        fn parse_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            let _ = GuestMessage::parse(&bytes);
            let _ = parse_completion(&bytes);
        }
    }
}
