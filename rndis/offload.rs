// SPDX-License-Identifier: GPL-2.0

//! Offloads: what the host can do, what of it is used, and how it is told so.
//!
//! Source: specification 3.4; Microsoft's `NDIS_OFFLOAD` and `NDIS_OFFLOAD_PARAMETERS`.

use crate::rndis::version::NvspVersion;
use core::fmt;
use zerocopy::little_endian::{U16, U32};
use zerocopy::{FromBytes as _, IntoBytes as _};

const TYPE_OFFLOAD: u8 = 0xa7;
const TYPE_DEFAULT: u8 = 0x80;
const PARAMETERS_REVISION: u8 = 3;
const MIN_CAPABILITIES_LEN: u16 = 112;
const ENCAPSULATION_802_3: u32 = 2;
/// Offset of the two RSC bytes in [`OffloadCapabilitiesBody`]'s extension.
const RSC_OFFSET: usize = 144;
const RSC_REVISION: u8 = 3;
/// Largest frame the stack builds for segmentation, before the host's limits.
const GSO_MAX: u32 = 65536;
/// Below this a segmentation limit is not worth having, and may be a host's mistake.
const MIN_GSO_MAX: u32 = 4096;

/// Bytes of the longest capabilities query and of the longest parameters.
pub const MAX_CAPABILITIES_LEN: usize = 156;
/// Bytes of the longest parameters.
pub const MAX_PARAMETERS_LEN: usize = 28;

/// Bits of a checksum capability.
mod checksum {
    /// IPv4 options, or IPv6 extension headers.
    pub(super) const IP_OPTIONS: u32 = 0x001;
    pub(super) const TCP_OPTIONS: u32 = 0x004;
    pub(super) const TCP: u32 = 0x010;
    pub(super) const UDP: u32 = 0x040;
}

/// Values of the fields of [`ParametersBody`].
mod setting {
    pub(super) const OFF: u8 = 1;
    pub(super) const CHECKSUM_TRANSMIT: u8 = 2;
    pub(super) const CHECKSUM_BOTH_WAYS: u8 = 4;
    pub(super) const LSO_ON: u8 = 2;
    pub(super) const RSC_ON: u8 = 2;
}

/// Header of an NDIS object, 4 bytes.
#[derive(
    zerocopy_derive::FromBytes,
    zerocopy_derive::IntoBytes,
    zerocopy_derive::Immutable,
    zerocopy_derive::KnownLayout,
    zerocopy_derive::Unaligned,
)]
#[repr(C)]
pub struct ObjectHeader {
    /// Kind of object.
    pub object_type: u8,
    /// Revision of its layout.
    pub revision: u8,
    /// Its bytes, this header included.
    pub size: U16,
}

/// `NDIS_OFFLOAD` up to what every revision has, 112 bytes.
#[derive(
    zerocopy_derive::FromBytes,
    zerocopy_derive::IntoBytes,
    zerocopy_derive::Immutable,
    zerocopy_derive::KnownLayout,
    zerocopy_derive::Unaligned,
)]
#[repr(C)]
pub struct OffloadCapabilitiesBody {
    /// Type 0xa7.
    pub header: ObjectHeader,
    /// Encapsulations with transmit checksums, IPv4.
    pub ip4_tx_encapsulation: U32,
    /// Transmit checksums, IPv4.
    pub ip4_tx_checksum: U32,
    /// Encapsulations with receive checksums, IPv4.
    pub ip4_rx_encapsulation: U32,
    /// Receive checksums, IPv4.
    pub ip4_rx_checksum: U32,
    /// Encapsulations with transmit checksums, IPv6.
    pub ip6_tx_encapsulation: U32,
    /// Transmit checksums, IPv6.
    pub ip6_tx_checksum: U32,
    /// Encapsulations with receive checksums, IPv6.
    pub ip6_rx_encapsulation: U32,
    /// Receive checksums, IPv6.
    pub ip6_rx_checksum: U32,
    /// Segmentation offload version 1: not used.
    pub lso_v1: [U32; 4],
    /// IPsec version 1: not used.
    pub ipsec_v1: [U32; 7],
    /// Encapsulations with segmentation, IPv4.
    pub lso4_encapsulation: U32,
    /// Largest segmentable frame, IPv4.
    pub lso4_max_size: U32,
    /// Fewest segments, IPv4.
    pub lso4_min_segments: U32,
    /// Encapsulations with segmentation, IPv6.
    pub lso6_encapsulation: U32,
    /// Largest segmentable frame, IPv6.
    pub lso6_max_size: U32,
    /// Fewest segments, IPv6.
    pub lso6_min_segments: U32,
    /// What IPv6 segmentation copes with.
    pub lso6_options: U32,
    /// Not used.
    pub flags: U32,
}

/// `NDIS_OFFLOAD_PARAMETERS`, 28 bytes (22 up to version 4).
#[derive(
    zerocopy_derive::FromBytes,
    zerocopy_derive::IntoBytes,
    zerocopy_derive::Immutable,
    zerocopy_derive::KnownLayout,
    zerocopy_derive::Unaligned,
)]
#[repr(C)]
pub struct ParametersBody {
    /// Type 0x80, revision 3.
    pub header: ObjectHeader,
    /// IPv4 header checksum.
    pub ip4_checksum: u8,
    /// TCP over IPv4.
    pub tcp4_checksum: u8,
    /// UDP over IPv4.
    pub udp4_checksum: u8,
    /// TCP over IPv6.
    pub tcp6_checksum: u8,
    /// UDP over IPv6.
    pub udp6_checksum: u8,
    /// Segmentation version 1.
    pub lso_v1: u8,
    /// IPsec version 1.
    pub ipsec_v1: u8,
    /// Segmentation, IPv4.
    pub lso4: u8,
    /// Segmentation, IPv6.
    pub lso6: u8,
    /// Not used.
    pub tcp_connection: [u8; 2],
    /// Zero (not a field: keeps `flags` aligned in C).
    pub padding: u8,
    /// Not used.
    pub flags: U32,
    /// Not used.
    pub ipsec_v2: [u8; 2],
    /// Receive coalescing, IPv4.
    pub rsc4: u8,
    /// Receive coalescing, IPv6.
    pub rsc6: u8,
    /// Not used.
    pub encapsulation: [u8; 4],
}

/// Writes the information buffer of the capabilities query (which form of answer is wanted); returns its
/// length, `None` if `out` is too small.
pub fn encode_capabilities_query(version: NvspVersion, out: &mut [u8]) -> Option<usize> {
    let (revision, size): (u8, u16) = if version >= NvspVersion::V5 {
        (3, 156)
    } else if version >= NvspVersion::V4 {
        (2, 144)
    } else {
        (1, 112)
    };
    let len = usize::from(size);
    let query = out.get_mut(..len)?;
    query.fill(0);
    let header = ObjectHeader {
        object_type: TYPE_OFFLOAD,
        revision,
        size: size.into(),
    };
    header.write_to_prefix(query).ok()?;
    Some(len)
}

/// Why an offload answer was refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum OffloadError {
    /// Shorter than 112 bytes.
    Truncated(usize),
    /// Another NDIS object than offload capabilities.
    ObjectType(u8),
    /// Revision 0.
    Revision,
    /// The object's size is below 112 or beyond the answer.
    Size(u16),
}

impl fmt::Display for OffloadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Truncated(len) => write!(f, "offload capabilities are cut to {len} bytes"),
            Self::ObjectType(kind) => write!(f, "offload capabilities have type {kind:#x}"),
            Self::Revision => write!(f, "offload capabilities have revision 0"),
            Self::Size(size) => write!(f, "offload capabilities claim {size} bytes"),
        }
    }
}

/// The offloads in use, after negotiation.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Offloads {
    /// The host completes TCP checksums over IPv4.
    pub tcp4_checksum: bool,
    /// The host completes UDP checksums over IPv4.
    pub udp4_checksum: bool,
    /// The host completes TCP checksums over IPv6.
    pub tcp6_checksum: bool,
    /// The host completes UDP checksums over IPv6.
    pub udp6_checksum: bool,
    /// The host segments TCP over IPv4.
    pub tso4: bool,
    /// The host segments TCP over IPv6.
    pub tso6: bool,
    /// Largest frame to hand to segmentation; 65536 if the host sets no limit.
    pub gso_max: u32,
    /// The host verifies checksums of received frames, of the protocols whose checksums it completes.
    pub rx_checksum: bool,
    /// The host can coalesce received segments.
    pub rsc_offered: bool,
    /// The host is told to do so, where it can.
    pub rsc: bool,
}

impl Offloads {
    /// Decides from the answer to the capabilities query.
    pub fn negotiate(info: &[u8]) -> Result<Self, OffloadError> {
        let (caps, _) = OffloadCapabilitiesBody::ref_from_prefix(info)
            .map_err(|_| OffloadError::Truncated(info.len()))?;
        let size = caps.header.size.get();
        if caps.header.object_type != TYPE_OFFLOAD {
            return Err(OffloadError::ObjectType(caps.header.object_type));
        }
        if caps.header.revision == 0 {
            return Err(OffloadError::Revision);
        }
        if size < MIN_CAPABILITIES_LEN || usize::from(size) > info.len() {
            return Err(OffloadError::Size(size));
        }
        let mut this = Self {
            gso_max: GSO_MAX,
            rx_checksum: true,
            ..Self::default()
        };
        this.take_ipv4(caps);
        this.take_ipv6(caps);
        this.rsc_offered = caps.header.revision >= RSC_REVISION && offers_rsc(info, size);
        Ok(this)
    }

    fn take_ipv4(&mut self, caps: &OffloadCapabilitiesBody) {
        let sums = caps.ip4_tx_checksum.get();
        let needed = checksum::TCP | checksum::TCP_OPTIONS;
        if sums & needed != needed {
            return;
        }
        self.tcp4_checksum = true;
        self.udp4_checksum = sums & checksum::UDP != 0;
        let max = caps.lso4_max_size.get();
        if caps.lso4_encapsulation.get() & ENCAPSULATION_802_3 != 0 && max >= MIN_GSO_MAX {
            self.tso4 = true;
            self.gso_max = self.gso_max.min(max);
        }
    }

    fn take_ipv6(&mut self, caps: &OffloadCapabilitiesBody) {
        let sums = caps.ip6_tx_checksum.get();
        let needed = checksum::TCP | checksum::TCP_OPTIONS | checksum::IP_OPTIONS;
        if sums & needed != needed {
            return;
        }
        self.tcp6_checksum = true;
        self.udp6_checksum = sums & checksum::UDP != 0;
        let max = caps.lso6_max_size.get();
        let options = checksum::IP_OPTIONS | checksum::TCP_OPTIONS;
        if caps.lso6_encapsulation.get() & ENCAPSULATION_802_3 != 0
            && caps.lso6_options.get() & options == options
            && max >= MIN_GSO_MAX
        {
            self.tso6 = true;
            self.gso_max = self.gso_max.min(max);
        }
    }

    /// Writes the information buffer that sets these offloads; returns its length, `None` if `out` is
    /// too small. Up to version 4 the object is shorter and has no UDP.
    pub fn encode_parameters(&self, version: NvspVersion, out: &mut [u8]) -> Option<usize> {
        let old = version <= NvspVersion::V4;
        let size: u16 = if old { 22 } else { 28 };
        let rsc = match (self.rsc_offered, self.rsc) {
            (false, _) => 0,
            (true, false) => setting::OFF,
            (true, true) => setting::RSC_ON,
        };
        let sums = |on| checksum_setting(on, self.rx_checksum);
        let body = ParametersBody {
            header: ObjectHeader {
                object_type: TYPE_DEFAULT,
                revision: PARAMETERS_REVISION,
                size: size.into(),
            },
            ip4_checksum: setting::OFF,
            tcp4_checksum: sums(self.tcp4_checksum),
            udp4_checksum: sums(self.udp4_checksum && !old),
            tcp6_checksum: sums(self.tcp6_checksum),
            udp6_checksum: sums(self.udp6_checksum && !old),
            lso_v1: 0,
            ipsec_v1: 0,
            lso4: lso_setting(self.tso4),
            lso6: lso_setting(self.tso6),
            tcp_connection: [0; 2],
            padding: 0,
            flags: U32::ZERO,
            ipsec_v2: [0; 2],
            rsc4: rsc,
            rsc6: rsc,
            encapsulation: [0; 4],
        };
        let len = usize::from(size);
        let bytes = body.as_bytes().get(..len)?;
        out.get_mut(..len)?.copy_from_slice(bytes);
        Some(len)
    }
}

fn offers_rsc(info: &[u8], size: u16) -> bool {
    let object = info.get(..usize::from(size)).unwrap_or(&[]);
    matches!(object.get(RSC_OFFSET..), Some([ip4, ip6, ..]) if *ip4 != 0 && *ip6 != 0)
}

const fn checksum_setting(on: bool, receive: bool) -> u8 {
    match (on, receive) {
        (false, _) => 0,
        (true, false) => setting::CHECKSUM_TRANSMIT,
        (true, true) => setting::CHECKSUM_BOTH_WAYS,
    }
}

const fn lso_setting(on: bool) -> u8 {
    if on {
        setting::LSO_ON
    } else {
        0
    }
}

#[cfg(test)]
mod tests;
