// SPDX-License-Identifier: GPL-2.0

//! Object identifiers that are queried or set. Source: specification 3.3; Microsoft's NDIS reference.

/// An NDIS object identifier.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(transparent)]
pub struct Oid(pub u32);

impl Oid {
    /// Largest MTU the host handles (u32).
    pub const GEN_MAXIMUM_FRAME_SIZE: Self = Self(0x0001_0106);
    /// Link speed in units of 100 bit/s (u32).
    pub const GEN_LINK_SPEED: Self = Self(0x0001_0107);
    /// Which frames to deliver (u32, see [`crate::rndis::filter`]).
    pub const GEN_CURRENT_PACKET_FILTER: Self = Self(0x0001_010e);
    /// 0 when the link is up (u32).
    pub const GEN_MEDIA_CONNECT_STATUS: Self = Self(0x0001_0114);
    /// Named device parameter, used for the MAC address ([`crate::rndis::address`]).
    pub const GEN_RNDIS_CONFIG_PARAMETER: Self = Self(0x0001_021b);
    /// RSS abilities ([`crate::rndis::rss`]).
    pub const GEN_RECEIVE_SCALE_CAPABILITIES: Self = Self(0x0001_0203);
    /// RSS table and key ([`crate::rndis::rss`]).
    pub const GEN_RECEIVE_SCALE_PARAMETERS: Self = Self(0x0001_0204);
    /// Name the administrator gave the adapter (UTF-16, at most 512 bytes).
    pub const GEN_FRIENDLY_NAME: Self = Self(0x0002_0216);
    /// Permanent MAC address (6 bytes).
    pub const ETHERNET_PERMANENT_ADDRESS: Self = Self(0x0101_0101);
    /// Which offloads to do ([`crate::rndis::offload`]).
    pub const TCP_OFFLOAD_PARAMETERS: Self = Self(0xfc01_020c);
    /// Which offloads there are ([`crate::rndis::offload`]).
    pub const TCP_OFFLOAD_HARDWARE_CAPABILITIES: Self = Self(0xfc01_020d);
}
