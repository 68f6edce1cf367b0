// SPDX-License-Identifier: GPL-2.0

//! Receive side scaling: reads the guest's parameters and picks the channel of each frame.

use zerocopy::little_endian::{U16, U32};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::toeplitz::{Toeplitz, KEY_LEN};
use crate::backend::headers::{Addresses, IpHeaders};

const CAPABILITIES_TYPE: u8 = 0x88;
const CAPABILITIES_REVISION: u8 = 2;
const PARAMETERS_TYPE: u8 = 0x89;
/// Hash over IPv4/TCP, IPv6/TCP; Toeplitz function.
const CAPABILITY_FLAGS: u32 = 0x0000_0301;
const FLAG_DISABLE: u16 = 0x10;
const FLAG_INFO_UNCHANGED: u16 = 0x02;
const FLAG_TABLE_UNCHANGED: u16 = 0x04;
const FLAG_KEY_UNCHANGED: u16 = 0x08;
const FUNCTION_MASK: u32 = 0xff;
const FUNCTION_TOEPLITZ: u32 = 1;

/// Hash types of `Parameters::hash_info`.
mod hash_type {
    pub const IPV4: u32 = 0x0000_0100;
    pub const TCP_IPV4: u32 = 0x0000_0200;
    pub const IPV6: u32 = 0x0000_0400;
    pub const IPV6_EX: u32 = 0x0000_0800;
    pub const TCP_IPV6: u32 = 0x0000_1000;
    pub const TCP_IPV6_EX: u32 = 0x0000_2000;
    pub const UDP_IPV4: u32 = 0x0000_4000;
    pub const UDP_IPV6: u32 = 0x0000_8000;
    pub const UDP_IPV6_EX: u32 = 0x0001_0000;
}

/// NDIS object header.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct ObjectHeader {
    kind: u8,
    revision: u8,
    size: U16,
}

/// Answer to the capabilities query; 18 bytes count, the two behind are padding.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct Capabilities {
    header: ObjectHeader,
    flags: U32,
    interrupt_messages: U32,
    receive_queues: U32,
    table_entries: U16,
}

/// Fixed part of the parameters.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct Parameters {
    header: ObjectHeader,
    flags: U16,
    base_cpu: U16,
    hash_info: U32,
    table_bytes: U16,
    reserved: U16,
    table_offset: U32,
    key_bytes: U16,
    reserved2: U16,
    key_offset: U32,
    masks_offset: U32,
    masks: U32,
    mask_size: U32,
}

/// Why parameters are refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RssError {
    /// Too short for the fixed part, or for the table or key it points to.
    #[error("RSS parameters of {0} bytes do not hold what they describe")]
    Short(usize),
    /// Wrong object header.
    #[error("RSS parameters with object type {0:#x}, size {1}: expected 0x89, 40 or more")]
    Header(u8, u16),
    /// Only 40-byte keys exist.
    #[error("RSS key of {0} bytes instead of 40")]
    KeyLength(u16),
    /// Not a multiple of 4, or 0, or more than offered.
    #[error("RSS table of {0} bytes")]
    TableLength(u16),
    /// An entry names a queue that the NIC does not have.
    #[error("RSS table entry {index} names queue {value}, the NIC has {queues}")]
    Entry {
        /// Which entry.
        index: usize,
        /// What it says.
        value: u32,
        /// Queues of the NIC.
        queues: u16,
    },
    /// Only Toeplitz is offered.
    #[error("RSS hash function {0:#x} instead of Toeplitz")]
    Function(u32),
}

/// The 18-byte answer to the capabilities query.
pub fn capabilities(queues: u16, table_entries: u16) -> Vec<u8> {
    let capabilities = Capabilities {
        header: ObjectHeader {
            kind: CAPABILITIES_TYPE,
            revision: CAPABILITIES_REVISION,
            size: U16::new(size_of::<Capabilities>() as u16),
        },
        flags: U32::new(CAPABILITY_FLAGS),
        interrupt_messages: U32::new(1),
        receive_queues: U32::new(u32::from(queues)),
        table_entries: U16::new(table_entries),
    };
    capabilities.as_bytes().to_vec()
}

/// RSS in force.
#[derive(Clone)]
pub struct Rss {
    /// Key as the guest gave it.
    pub key: [u8; KEY_LEN],
    /// Queue by hash.
    pub table: Vec<u32>,
    /// Hash types and function.
    pub hash_info: u32,
    toeplitz: Toeplitz,
}

/// Outcome of a frame: hash, and the queue it leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Steering {
    /// Toeplitz hash, `None` if no enabled hash type fits the frame.
    pub hash: Option<u32>,
    /// Queue, 0 without a hash.
    pub queue: u32,
}

impl Rss {
    /// Reads the guest's parameters. `Ok(None)` turns RSS off.
    ///
    /// # Errors
    ///
    /// If they are not well-formed; the parameters in force then stay.
    pub fn parse(
        info: &[u8],
        current: Option<&Rss>,
        queues: u16,
        max_entries: u16,
    ) -> Result<Option<Rss>, RssError> {
        let short = RssError::Short(info.len());
        let (p, _) = Parameters::read_from_prefix(info).map_err(|_| short.clone())?;
        let size = p.header.size.get();
        if p.header.kind != PARAMETERS_TYPE || usize::from(size) < size_of::<Parameters>() {
            return Err(RssError::Header(p.header.kind, size));
        }
        let flags = p.flags.get();
        let unchanged = |flag| current.filter(|_| flags & flag != 0);
        let hash_info = match unchanged(FLAG_INFO_UNCHANGED) {
            Some(rss) => rss.hash_info,
            None => p.hash_info.get(),
        };
        if flags & FLAG_DISABLE != 0 || hash_info & FUNCTION_MASK == 0 {
            return Ok(None);
        }
        if hash_info & FUNCTION_MASK != FUNCTION_TOEPLITZ {
            return Err(RssError::Function(hash_info & FUNCTION_MASK));
        }
        let key = match unchanged(FLAG_KEY_UNCHANGED) {
            Some(rss) => rss.key,
            None => read_key(info, &p)?,
        };
        let table = match unchanged(FLAG_TABLE_UNCHANGED) {
            Some(rss) => rss.table.clone(),
            None => read_table(info, &p, queues, max_entries)?,
        };
        Ok(Some(Rss {
            key,
            table,
            hash_info,
            toeplitz: Toeplitz::new(&key),
        }))
    }

    /// Hash and queue of an Ethernet frame.
    pub fn steer(&self, frame: &[u8]) -> Steering {
        let hash = IpHeaders::parse(frame).and_then(|h| self.hash(frame, &h));
        let queue = match hash {
            Some(hash) => self.table[hash as usize % self.table.len()],
            None => 0,
        };
        Steering { hash, queue }
    }

    fn hash(&self, frame: &[u8], h: &IpHeaders) -> Option<u32> {
        let with_ports = self.hash_info & ports_type(h) != 0;
        let ports = h.ports(frame).filter(|_| with_ports);
        let ports: &[u8] = ports.as_ref().map_or(&[], |p| p.as_slice());
        if ports.is_empty() && self.hash_info & addresses_type(h) == 0 {
            return None;
        }
        Some(match &h.addresses {
            Addresses::V4(src, dst) => self.toeplitz.hash(&[src, dst, ports]),
            Addresses::V6(src, dst) => self.toeplitz.hash(&[src, dst, ports]),
        })
    }
}

/// Hash types that cover ports of the frame.
fn ports_type(h: &IpHeaders) -> u32 {
    let v6 = matches!(h.addresses, Addresses::V6(..));
    match (h.protocol, v6) {
        (6, false) => hash_type::TCP_IPV4,
        (6, true) => hash_type::TCP_IPV6 | hash_type::TCP_IPV6_EX,
        (17, false) => hash_type::UDP_IPV4,
        (17, true) => hash_type::UDP_IPV6 | hash_type::UDP_IPV6_EX,
        _ => 0,
    }
}

/// Hash types that cover the addresses only.
fn addresses_type(h: &IpHeaders) -> u32 {
    match h.addresses {
        Addresses::V4(..) => hash_type::IPV4,
        Addresses::V6(..) => hash_type::IPV6 | hash_type::IPV6_EX,
    }
}

fn read_key(info: &[u8], p: &Parameters) -> Result<[u8; KEY_LEN], RssError> {
    let bytes = p.key_bytes.get();
    if usize::from(bytes) != KEY_LEN {
        return Err(RssError::KeyLength(bytes));
    }
    let key = slice(info, p.key_offset, bytes)?;
    key.try_into().map_err(|_| RssError::Short(info.len()))
}

fn read_table(
    info: &[u8],
    p: &Parameters,
    queues: u16,
    max_entries: u16,
) -> Result<Vec<u32>, RssError> {
    let bytes = p.table_bytes.get();
    if bytes == 0 || bytes % 4 != 0 || bytes / 4 > max_entries {
        return Err(RssError::TableLength(bytes));
    }
    let table = slice(info, p.table_offset, bytes)?;
    let entry = |c: &[u8]| u32::from_le_bytes([c[0], c[1], c[2], c[3]]);
    let table: Vec<u32> = table.chunks_exact(4).map(entry).collect();
    match table.iter().position(|v| *v >= u32::from(queues)) {
        None => Ok(table),
        Some(index) => Err(RssError::Entry {
            index,
            value: table[index],
            queues,
        }),
    }
}

fn slice(info: &[u8], offset: U32, bytes: u16) -> Result<&[u8], RssError> {
    let start = offset.get() as usize;
    info.get(start..start + usize::from(bytes))
        .ok_or(RssError::Short(info.len()))
}

#[cfg(test)]
pub(crate) mod samples {
    /// Parameters as a Linux guest sends them: table behind the fixed part, key behind the table.
    pub fn parameters(flags: u16, hash_info: u32, table: &[u32], key: &[u8]) -> Vec<u8> {
        let table_bytes = table.len() as u16 * 4;
        let mut info = vec![0x89, 2, 40, 0];
        info.extend_from_slice(&flags.to_le_bytes());
        info.extend_from_slice(&[0, 0]);
        info.extend_from_slice(&hash_info.to_le_bytes());
        info.extend_from_slice(&table_bytes.to_le_bytes());
        info.extend_from_slice(&[0, 0, 40, 0, 0, 0]);
        info.extend_from_slice(&(key.len() as u16).to_le_bytes());
        info.extend_from_slice(&[0, 0]);
        info.extend_from_slice(&(40 + u32::from(table_bytes)).to_le_bytes());
        info.extend_from_slice(&[0; 12]);
        for entry in table {
            info.extend_from_slice(&entry.to_le_bytes());
        }
        info.extend_from_slice(key);
        info
    }
}

#[cfg(test)]
mod tests {
    use super::super::toeplitz::MICROSOFT_KEY;
    use super::samples::parameters;
    use super::*;
    use crate::backend::headers::samples::{tcp4, tcp6, udp4};
    use proptest::prelude::*;

    const LINUX_HASH_INFO: u32 = 0x1701;

    fn parse(info: &[u8]) -> Result<Option<Rss>, RssError> {
        Rss::parse(info, None, 8, 128)
    }

    fn sample(hash_info: u32) -> Rss {
        let table: Vec<u32> = (0..128).map(|i| i % 8).collect();
        parse(&parameters(0, hash_info, &table, &MICROSOFT_KEY))
            .expect("well-formed")
            .expect("on")
    }

    #[test]
    fn layout() {
        assert_eq!(size_of::<Parameters>(), 40);
        assert_eq!(std::mem::offset_of!(Parameters, key_offset), 24);
        assert_eq!(size_of::<Capabilities>(), 18);
        let expected = [
            0x88, 2, 0x12, 0, 1, 3, 0, 0, 1, 0, 0, 0, 4, 0, 0, 0, 0x80, 0,
        ];
        assert_eq!(capabilities(4, 128), expected);
    }

    #[test]
    fn tcp_uses_ports_and_udp_only_addresses() {
        let rss = sample(LINUX_HASH_INFO);
        let toeplitz = Toeplitz::new(&MICROSOFT_KEY);
        let (a, b) = ([10, 0, 0, 1], [10, 0, 0, 2]);
        let tcp = toeplitz.hash(&[&a, &b, &[0x10, 0, 0x20, 0]]);
        assert_eq!(rss.steer(&tcp4(b"x")).hash, Some(tcp));
        assert_eq!(rss.steer(&tcp4(b"x")).queue, tcp % 128 % 8);
        let udp = toeplitz.hash(&[&a, &b]);
        assert_eq!(rss.steer(&udp4(b"x")).hash, Some(udp));
        assert!(rss.steer(&tcp6(b"x")).hash.is_some());
    }

    #[test]
    fn udp_bits_add_the_ports() {
        let with = sample(LINUX_HASH_INFO | hash_type::UDP_IPV4);
        let without = sample(LINUX_HASH_INFO);
        assert_ne!(with.steer(&udp4(b"x")), without.steer(&udp4(b"x")));
    }

    #[test]
    fn frames_without_hash_go_to_queue_0() {
        let rss = sample(LINUX_HASH_INFO);
        let mut arp = vec![0xff; 60];
        arp[12..14].copy_from_slice(&[8, 6]);
        assert_eq!(
            rss.steer(&arp),
            Steering {
                hash: None,
                queue: 0
            }
        );
        let only_v6 = sample(0x1 | hash_type::IPV6);
        assert_eq!(only_v6.steer(&tcp4(b"x")).hash, None);
    }

    #[test]
    fn disable_and_no_function_turn_rss_off() {
        let on = parameters(0, LINUX_HASH_INFO, &[0], &MICROSOFT_KEY);
        assert!(parse(&on).expect("well-formed").is_some());
        for (flags, info) in [(FLAG_DISABLE, LINUX_HASH_INFO), (0, 0x1700)] {
            let off = parameters(flags, info, &[0], &MICROSOFT_KEY);
            assert!(parse(&off).expect("well-formed").is_none());
        }
    }

    #[test]
    fn unchanged_flags_keep_the_old_values() {
        let old = sample(LINUX_HASH_INFO);
        let info = parameters(FLAG_KEY_UNCHANGED, LINUX_HASH_INFO, &[3], &[0; 40]);
        let new = Rss::parse(&info, Some(&old), 8, 128)
            .expect("well-formed")
            .expect("on");
        assert_eq!((new.key, new.table), (MICROSOFT_KEY, vec![3]));
    }

    #[test]
    fn bad_parameters_are_refused() {
        let key = &MICROSOFT_KEY;
        let cases = [
            (
                parameters(0, LINUX_HASH_INFO, &[0, 8], key),
                RssError::Entry {
                    index: 1,
                    value: 8,
                    queues: 8,
                },
            ),
            (
                parameters(0, LINUX_HASH_INFO, &[0], &key[..32]),
                RssError::KeyLength(32),
            ),
            (
                parameters(0, LINUX_HASH_INFO, &[], key),
                RssError::TableLength(0),
            ),
            (
                parameters(0, LINUX_HASH_INFO, &[0; 129], key),
                RssError::TableLength(516),
            ),
            (parameters(0, 0x1702, &[0], key), RssError::Function(2)),
            (vec![0; 39], RssError::Short(39)),
            (vec![0; 40], RssError::Header(0, 0)),
        ];
        for (info, expected) in cases {
            assert_eq!(parse(&info).err(), Some(expected));
        }
        let mut cut = parameters(0, LINUX_HASH_INFO, &[0], key);
        cut.pop();
        assert_eq!(parse(&cut).err(), Some(RssError::Short(83)));
    }

    proptest! {
        #[test]
        fn parse_never_panics(
            mut info in proptest::collection::vec(any::<u8>(), 0..200), fix: bool
        ) {
            if fix && info.len() > 12 {
                info[..4].copy_from_slice(&[0x89, 2, 40, 0]);
                info[8] = 1;
            }
            let _ = parse(&info);
        }
    }
}
