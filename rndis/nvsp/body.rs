// SPDX-License-Identifier: GPL-2.0

//! Wire layout of NVSP messages, each without its leading type. Source: specification 2.2; `hyperv_net.h`.

use zerocopy::little_endian::{U16, U32, U64};

/// Body of INIT.
#[derive(
    zerocopy_derive::FromBytes,
    zerocopy_derive::IntoBytes,
    zerocopy_derive::Immutable,
    zerocopy_derive::KnownLayout,
    zerocopy_derive::Unaligned,
)]
#[repr(C)]
pub struct InitBody {
    /// Lowest version offered.
    pub min: U32,
    /// Highest version offered.
    pub max: U32,
}

/// Body of INIT_COMPLETE.
#[derive(
    zerocopy_derive::FromBytes,
    zerocopy_derive::IntoBytes,
    zerocopy_derive::Immutable,
    zerocopy_derive::KnownLayout,
    zerocopy_derive::Unaligned,
)]
#[repr(C)]
pub struct InitCompleteBody {
    /// Hosts put anything here.
    pub negotiated: U32,
    /// Not used.
    pub max_mdl_chain: U32,
    /// See [`super::Status`].
    pub status: U32,
}

/// Body of SEND_NDIS_VER.
#[derive(
    zerocopy_derive::FromBytes,
    zerocopy_derive::IntoBytes,
    zerocopy_derive::Immutable,
    zerocopy_derive::KnownLayout,
    zerocopy_derive::Unaligned,
)]
#[repr(C)]
pub struct NdisVersionBody {
    /// 6
    pub major: U32,
    /// 1 or 30
    pub minor: U32,
}

/// Body of SEND_RECV_BUF and SEND_SEND_BUF.
#[derive(
    zerocopy_derive::FromBytes,
    zerocopy_derive::IntoBytes,
    zerocopy_derive::Immutable,
    zerocopy_derive::KnownLayout,
    zerocopy_derive::Unaligned,
)]
#[repr(C)]
pub struct ShareBufferBody {
    /// Handle of the shared memory.
    pub gpadl: U32,
    /// [`super::RECEIVE_BUFFER_ID`] or [`super::SEND_BUFFER_ID`].
    pub id: U16,
}

/// Body of SEND_RECV_BUF_COMPLETE with the one section description that is accepted.
#[derive(
    zerocopy_derive::FromBytes,
    zerocopy_derive::IntoBytes,
    zerocopy_derive::Immutable,
    zerocopy_derive::KnownLayout,
    zerocopy_derive::Unaligned,
)]
#[repr(C)]
pub struct ReceiveBufferCompleteBody {
    /// See [`super::Status`].
    pub status: U32,
    /// Number of section descriptions.
    pub section_groups: U32,
    /// Where the sections start.
    pub offset: U32,
    /// Bytes of one section.
    pub section_len: U32,
    /// Number of sections.
    pub section_count: U32,
    /// Where they end.
    pub end_offset: U32,
}

/// Body of SEND_SEND_BUF_COMPLETE.
#[derive(
    zerocopy_derive::FromBytes,
    zerocopy_derive::IntoBytes,
    zerocopy_derive::Immutable,
    zerocopy_derive::KnownLayout,
    zerocopy_derive::Unaligned,
)]
#[repr(C)]
pub struct SendBufferCompleteBody {
    /// See [`super::Status`].
    pub status: U32,
    /// Bytes of one section.
    pub section_len: U32,
}

/// Body of SEND_RNDIS_PKT.
#[derive(
    zerocopy_derive::FromBytes,
    zerocopy_derive::IntoBytes,
    zerocopy_derive::Immutable,
    zerocopy_derive::KnownLayout,
    zerocopy_derive::Unaligned,
)]
#[repr(C)]
pub struct RndisPacketBody {
    /// 0 data, 1 control.
    pub channel_type: U32,
    /// Section of the send buffer, or [`super::NO_SECTION`].
    pub section_index: U32,
    /// Bytes used in the section.
    pub section_size: U32,
}

/// Body of SEND_NDIS_CONFIG.
#[derive(
    zerocopy_derive::FromBytes,
    zerocopy_derive::IntoBytes,
    zerocopy_derive::Immutable,
    zerocopy_derive::KnownLayout,
    zerocopy_derive::Unaligned,
)]
#[repr(C)]
pub struct NdisConfigBody {
    /// MTU with the Ethernet header.
    pub frame_len: U32,
    /// Zero.
    pub reserved: U32,
    /// See [`super::capability`].
    pub capabilities: U64,
}

/// Body of SEND_VF_ASSOCIATION.
#[derive(
    zerocopy_derive::FromBytes,
    zerocopy_derive::IntoBytes,
    zerocopy_derive::Immutable,
    zerocopy_derive::KnownLayout,
    zerocopy_derive::Unaligned,
)]
#[repr(C)]
pub struct VfAssociationBody {
    /// Whether a VF is there.
    pub allocated: U32,
    /// PCI slot serial of the VF.
    pub serial: U32,
}

/// Body of SUBCHANNEL, request.
#[derive(
    zerocopy_derive::FromBytes,
    zerocopy_derive::IntoBytes,
    zerocopy_derive::Immutable,
    zerocopy_derive::KnownLayout,
    zerocopy_derive::Unaligned,
)]
#[repr(C)]
pub struct SubchannelBody {
    /// Request: 1 (allocate). Completion: see [`super::Status`].
    pub operation_or_status: U32,
    /// Sub-channels wanted or granted.
    pub count: U32,
}

/// Fixed part of SEND_INDIRECTION_TABLE.
#[derive(
    zerocopy_derive::FromBytes,
    zerocopy_derive::IntoBytes,
    zerocopy_derive::Immutable,
    zerocopy_derive::KnownLayout,
    zerocopy_derive::Unaligned,
)]
#[repr(C)]
pub struct IndirectionTableBody {
    /// Entries.
    pub count: U32,
    /// Where they start, from the start of the message.
    pub offset: U32,
}
