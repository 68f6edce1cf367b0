// SPDX-License-Identifier: GPL-2.0

//! Offload capabilities, and the offloads a guest turned on.

use zerocopy::little_endian::{U16, U32};
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout};

use super::config::OffloadSupport;
use super::nvsp_wire::NvspVersion;
use crate::backend::frame::L4;

const OFFLOAD_TYPE: u8 = 0xa7;
const PARAMETERS_TYPE: u8 = 0x80;
/// Ethernet frames.
const ENCAPSULATION_ETHERNET: u32 = 2;
/// Largest LSO frame announced, in bytes.
const LSO_MAX: u32 = 0xf53c;
const LSO_MIN_SEGMENTS: u32 = 2;

/// Bits of a checksum capability word.
mod cap {
    pub const IP_OPTIONS: u32 = 0x001;
    pub const TCP_OPTIONS: u32 = 0x004;
    pub const TCP: u32 = 0x010;
    pub const UDP: u32 = 0x040;
    pub const IP_HEADER: u32 = 0x100;
}
/// Bits of `lso6_options`: extension headers, TCP options.
const LSO6_OPTIONS: u32 = 0x005;

/// NDIS_OFFLOAD, revision 3.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct NdisOffload {
    kind: u8,
    revision: u8,
    size: U16,
    ip4_tx_encapsulation: U32,
    ip4_tx: U32,
    ip4_rx_encapsulation: U32,
    ip4_rx: U32,
    ip6_tx_encapsulation: U32,
    ip6_tx: U32,
    ip6_rx_encapsulation: U32,
    ip6_rx: U32,
    lso1: [U32; 4],
    ipsec1: [U32; 7],
    lso4_encapsulation: U32,
    lso4_max: U32,
    lso4_min_segments: U32,
    lso6_encapsulation: U32,
    lso6_max: U32,
    lso6_min_segments: U32,
    lso6_options: U32,
    flags: U32,
    ipsec2: [u8; 32],
    rsc4: u8,
    rsc6: u8,
    padding: [u8; 2],
    encapsulation_flags: U32,
    encapsulation: U32,
}

/// Offload parameters a guest sets.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct Parameters {
    kind: u8,
    revision: u8,
    size: U16,
    ip4: u8,
    tcp4: u8,
    udp4: u8,
    tcp6: u8,
    udp6: u8,
    lso1: u8,
    ipsec: u8,
    lso4: u8,
    lso6: u8,
    tcp_connection4: u8,
    tcp_connection6: u8,
    padding: u8,
    flags: U32,
    ipsec2: u8,
    ipsec2_v4: u8,
    rsc4: u8,
    rsc6: u8,
    encapsulation: u8,
    encapsulation_types: u8,
    padding2: [u8; 2],
}

/// Smallest parameters: up to and including `flags`.
const PARAMETERS_MIN: usize = 20;

/// One checksum offload, by direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Directions {
    /// Computed for frames from the guest.
    pub tx: bool,
    /// Verified for frames to the guest.
    pub rx: bool,
}

impl Directions {
    fn both(on: bool) -> Self {
        Directions { tx: on, rx: on }
    }
}

/// Offloads in force.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Offloads {
    /// IPv4 header checksum.
    pub ip4: Directions,
    /// TCP over IPv4.
    pub tcp4: Directions,
    /// UDP over IPv4.
    pub udp4: Directions,
    /// TCP over IPv6.
    pub tcp6: Directions,
    /// UDP over IPv6.
    pub udp6: Directions,
    /// Large sends over IPv4.
    pub lso4: bool,
    /// Large sends over IPv6.
    pub lso6: bool,
    /// Coalesced receives allowed over IPv4.
    pub rsc4: bool,
    /// Coalesced receives allowed over IPv6.
    pub rsc6: bool,
}

/// Why parameters are refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OffloadError {
    /// Bad header or length.
    #[error(
        "offload parameters of {len} bytes with type {kind:#x}, revision {revision}, size {size}"
    )]
    Header {
        /// Bytes received.
        len: usize,
        /// Object type.
        kind: u8,
        /// Object revision.
        revision: u8,
        /// Object size.
        size: u16,
    },
    /// A value without meaning.
    #[error("offload parameter {0} has the value {1}")]
    Value(&'static str, u8),
    /// Something this NIC does not do.
    #[error("offload {0} is not supported")]
    NotSupported(&'static str),
}

impl Offloads {
    /// Everything the NIC can do for a guest of this version: what is in force until the guest
    /// sets parameters.
    pub fn supported(support: &OffloadSupport, version: NvspVersion) -> Self {
        let udp = support.checksum_udp && version >= NvspVersion::V5;
        let rsc = support.rsc && version >= NvspVersion::V61;
        Offloads {
            ip4: Directions::both(support.checksum_v4),
            tcp4: Directions::both(support.checksum_v4),
            udp4: Directions::both(support.checksum_v4 && udp),
            tcp6: Directions::both(support.checksum_v6),
            udp6: Directions::both(support.checksum_v6 && udp),
            lso4: support.lso_v4,
            lso6: support.lso_v6,
            rsc4: rsc,
            rsc6: rsc,
        }
    }

    /// The NDIS_OFFLOAD structure that says so, in the revision the guest's version knows.
    pub fn describe(&self, version: NvspVersion) -> Vec<u8> {
        let mut o = NdisOffload::new_zeroed();
        let (revision, size) = match version {
            NvspVersion::V1 | NvspVersion::V2 => (1, 112),
            NvspVersion::V4 => (2, 144),
            _ => (3, size_of::<NdisOffload>()),
        };
        o.kind = OFFLOAD_TYPE;
        o.revision = revision;
        o.size = U16::new(size as u16);
        o.ip4_tx = checksum_bits(self.ip4.tx, self.tcp4.tx, self.udp4.tx);
        o.ip4_rx = checksum_bits(self.ip4.rx, self.tcp4.rx, self.udp4.rx);
        o.ip6_tx = checksum_bits(false, self.tcp6.tx, self.udp6.tx);
        o.ip6_rx = checksum_bits(false, self.tcp6.rx, self.udp6.rx);
        o.ip4_tx_encapsulation = encapsulation(o.ip4_tx.get() != 0);
        o.ip4_rx_encapsulation = encapsulation(o.ip4_rx.get() != 0);
        o.ip6_tx_encapsulation = encapsulation(o.ip6_tx.get() != 0);
        o.ip6_rx_encapsulation = encapsulation(o.ip6_rx.get() != 0);
        self.describe_lso(&mut o);
        o.rsc4 = u8::from(self.rsc4);
        o.rsc6 = u8::from(self.rsc6);
        o.as_bytes()[..size].to_vec()
    }

    fn describe_lso(&self, o: &mut NdisOffload) {
        if self.lso4 {
            o.lso4_encapsulation = encapsulation(true);
            o.lso4_max = U32::new(LSO_MAX);
            o.lso4_min_segments = U32::new(LSO_MIN_SEGMENTS);
        }
        if self.lso6 {
            o.lso6_encapsulation = encapsulation(true);
            o.lso6_max = U32::new(LSO_MAX);
            o.lso6_min_segments = U32::new(LSO_MIN_SEGMENTS);
            o.lso6_options = U32::new(LSO6_OPTIONS);
        }
    }

    /// Offloads after the guest set `info`; `supported` bounds what it may ask for.
    ///
    /// # Errors
    ///
    /// If the parameters are malformed or ask for more; then nothing changes.
    pub fn set(&self, info: &[u8], supported: &Offloads) -> Result<Offloads, OffloadError> {
        let p = read_parameters(info)?;
        if p.lso1 > 1 {
            return Err(OffloadError::NotSupported("LSOv1"));
        }
        let mut new = *self;
        checksum("IPv4 checksum", p.ip4, &mut new.ip4, supported.ip4)?;
        checksum("TCP4 checksum", p.tcp4, &mut new.tcp4, supported.tcp4)?;
        checksum("UDP4 checksum", p.udp4, &mut new.udp4, supported.udp4)?;
        checksum("TCP6 checksum", p.tcp6, &mut new.tcp6, supported.tcp6)?;
        checksum("UDP6 checksum", p.udp6, &mut new.udp6, supported.udp6)?;
        switch("LSOv2 IPv4", p.lso4, &mut new.lso4, supported.lso4)?;
        switch("LSOv2 IPv6", p.lso6, &mut new.lso6, supported.lso6)?;
        switch("RSC IPv4", p.rsc4, &mut new.rsc4, supported.rsc4)?;
        switch("RSC IPv6", p.rsc6, &mut new.rsc6, supported.rsc6)?;
        Ok(new)
    }

    /// Whether the checksum of such a frame is to be handled, by direction.
    pub fn l4(&self, l4: L4, v6: bool) -> Directions {
        match (l4, v6) {
            (L4::Tcp, false) => self.tcp4,
            (L4::Tcp, true) => self.tcp6,
            (L4::Udp, false) => self.udp4,
            (L4::Udp, true) => self.udp6,
        }
    }
}

fn encapsulation(on: bool) -> U32 {
    U32::new(if on { ENCAPSULATION_ETHERNET } else { 0 })
}

fn checksum_bits(ip: bool, tcp: bool, udp: bool) -> U32 {
    let mut bits = 0;
    if ip {
        bits |= cap::IP_HEADER;
    }
    if tcp {
        bits |= cap::TCP | cap::TCP_OPTIONS;
    }
    if udp {
        bits |= cap::UDP;
    }
    if bits != 0 {
        bits |= cap::IP_OPTIONS;
    }
    U32::new(bits)
}

fn read_parameters(info: &[u8]) -> Result<Parameters, OffloadError> {
    let mut p = Parameters::new_zeroed();
    let len = info.len().min(size_of::<Parameters>());
    p.as_mut_bytes()[..len].copy_from_slice(&info[..len]);
    let size = usize::from(p.size.get());
    let header_ok = p.kind == PARAMETERS_TYPE && p.revision >= 1;
    if !header_ok || size < PARAMETERS_MIN || size > info.len() {
        return Err(OffloadError::Header {
            len: info.len(),
            kind: p.kind,
            revision: p.revision,
            size: p.size.get(),
        });
    }
    if size < size_of::<Parameters>() {
        p.as_mut_bytes()[size..].fill(0);
    }
    Ok(p)
}

fn checksum(
    name: &'static str,
    value: u8,
    state: &mut Directions,
    supported: Directions,
) -> Result<(), OffloadError> {
    let (tx, rx) = match value {
        0 => return Ok(()),
        1 => (false, false),
        2 => (true, false),
        3 => (false, true),
        4 => (true, true),
        _ => return Err(OffloadError::Value(name, value)),
    };
    if (tx && !supported.tx) || (rx && !supported.rx) {
        return Err(OffloadError::NotSupported(name));
    }
    *state = Directions { tx, rx };
    Ok(())
}

fn switch(
    name: &'static str,
    value: u8,
    state: &mut bool,
    supported: bool,
) -> Result<(), OffloadError> {
    match value {
        0 => {}
        1 => *state = false,
        2 if supported => *state = true,
        2 => return Err(OffloadError::NotSupported(name)),
        _ => return Err(OffloadError::Value(name, value)),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::mem::offset_of;

    fn all() -> Offloads {
        Offloads::supported(&OffloadSupport::default(), NvspVersion::V61)
    }

    /// As in the recording: TCP and UDP on, IPv4 header off, LSOv2 on.
    const LINUX: [u8; 28] = [
        0x80, 3, 0x1c, 0, 1, 4, 4, 4, 4, 0, 0, 2, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
    ];

    #[test]
    fn layout() {
        assert_eq!(size_of::<NdisOffload>(), 156);
        assert_eq!(offset_of!(NdisOffload, lso1), 36);
        assert_eq!(offset_of!(NdisOffload, ipsec1), 52);
        assert_eq!(offset_of!(NdisOffload, lso4_encapsulation), 80);
        assert_eq!(offset_of!(NdisOffload, flags), 108);
        assert_eq!(offset_of!(NdisOffload, rsc4), 144);
        assert_eq!(offset_of!(NdisOffload, encapsulation_flags), 148);
        assert_eq!(size_of::<Parameters>(), 28);
        assert_eq!(offset_of!(Parameters, lso4), 11);
        assert_eq!(offset_of!(Parameters, flags), 16);
        assert_eq!(offset_of!(Parameters, rsc4), 22);
    }

    #[test]
    fn linux_parameters_are_accepted() {
        let new = all().set(&LINUX, &all()).expect("recorded parameters");
        let expected = Offloads {
            ip4: Directions::default(),
            ..all()
        };
        assert_eq!(new, expected);
    }

    #[test]
    fn older_versions_get_shorter_descriptions_without_udp() {
        for (version, revision, len) in [
            (NvspVersion::V1, 1, 112),
            (NvspVersion::V4, 2, 144),
            (NvspVersion::V5, 3, 156),
        ] {
            let offloads = Offloads::supported(&OffloadSupport::default(), version);
            let bytes = offloads.describe(version);
            assert_eq!((bytes[1], bytes.len()), (revision, len));
            assert_eq!(usize::from(bytes[2]), len);
            let udp = bytes[8] & 0x40 != 0;
            assert_eq!(udp, version >= NvspVersion::V5);
        }
        let v4 = Offloads::supported(&OffloadSupport::default(), NvspVersion::V4);
        let mut short = LINUX[..22].to_vec();
        (short[2], short[6], short[8]) = (22, 0, 0);
        assert!(v4.set(&short, &v4).is_ok());
    }

    #[test]
    fn bad_parameters_are_refused() {
        let refuse = |at: usize, value: u8| {
            let mut info = LINUX;
            info[at] = value;
            all().set(&info, &all()).expect_err("refused")
        };
        assert!(matches!(refuse(0, 0x81), OffloadError::Header { .. }));
        assert!(matches!(refuse(1, 0), OffloadError::Header { .. }));
        assert!(matches!(refuse(2, 19), OffloadError::Header { .. }));
        assert!(matches!(refuse(2, 29), OffloadError::Header { .. }));
        assert_eq!(refuse(5, 5), OffloadError::Value("TCP4 checksum", 5));
        assert_eq!(refuse(9, 2), OffloadError::NotSupported("LSOv1"));
        assert_eq!(refuse(22, 2), OffloadError::NotSupported("RSC IPv4"));
        assert_eq!(refuse(11, 3), OffloadError::Value("LSOv2 IPv4", 3));
    }

    proptest! {
        #[test]
        fn set_never_panics(info in proptest::collection::vec(any::<u8>(), 0..40)) {
            let _ = all().set(&info, &all());
        }
    }
}
