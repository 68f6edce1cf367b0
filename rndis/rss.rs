// SPDX-License-Identifier: GPL-2.0

//! Receive-side scaling: how the host spreads received flows over channels.
//!
//! Source: specification 3.6; Microsoft's `NDIS_RECEIVE_SCALE_CAPABILITIES` and `.._PARAMETERS`.

use crate::rndis::message::encode_set_with;
use crate::rndis::oid::Oid;
use crate::rndis::wire::Writer;
use zerocopy::little_endian::{U16, U32};
use zerocopy::{FromBytes as _, IntoBytes as _};

/// Bytes of a hash key.
pub const KEY_LEN: usize = 40;
/// Largest indirection table.
pub const MAX_TABLE_LEN: u16 = 256;
/// Table size when the host names none, or an impossible one.
pub const DEFAULT_TABLE_LEN: u16 = 128;
/// Most channels of one adapter, the primary included.
pub const MAX_CHANNELS: u16 = 64;
/// Bytes of the information buffer of the capabilities query.
pub const CAPABILITIES_LEN: usize = 18;
/// Fixed part of the parameters, before table and key.
const PARAMETERS_LEN: u16 = 40;

const TYPE_CAPABILITIES: u8 = 0x88;
const TYPE_PARAMETERS: u8 = 0x89;
const REVISION: u8 = 2;
const FLAG_DISABLE: u16 = 0x10;

/// The hash key of Microsoft's verification suite, the C driver's default.
pub const DEFAULT_KEY: [u8; KEY_LEN] = [
    0x6d, 0x5a, 0x56, 0xda, 0x25, 0x5b, 0x0e, 0xc2, 0x41, 0x67, 0x25, 0x3d, 0x43, 0xa3, 0x8f, 0xb0,
    0xd0, 0xca, 0x2b, 0xcb, 0xae, 0x7b, 0x30, 0xb4, 0x77, 0xcb, 0x2d, 0xa3, 0x80, 0x30, 0xf2, 0x0c,
    0x6a, 0x42, 0xb7, 0x3b, 0xbe, 0xac, 0x01, 0xfa,
];

/// `NDIS_RECEIVE_SCALE_CAPABILITIES`, 18 bytes.
#[derive(
    zerocopy_derive::FromBytes,
    zerocopy_derive::IntoBytes,
    zerocopy_derive::Immutable,
    zerocopy_derive::KnownLayout,
    zerocopy_derive::Unaligned,
)]
#[repr(C)]
pub struct CapabilitiesBody {
    /// 0x88
    pub object_type: u8,
    /// 2
    pub revision: u8,
    /// 18
    pub size: U16,
    /// Hash types and functions.
    pub flags: U32,
    /// Not used.
    pub interrupt_messages: U32,
    /// Receive queues the host has.
    pub receive_queues: U32,
    /// Entries of its indirection table.
    pub table_len: U16,
}

/// `NDIS_RECEIVE_SCALE_PARAMETERS`, 40 bytes, followed by table and key.
#[derive(
    zerocopy_derive::FromBytes,
    zerocopy_derive::IntoBytes,
    zerocopy_derive::Immutable,
    zerocopy_derive::KnownLayout,
    zerocopy_derive::Unaligned,
)]
#[repr(C)]
pub struct ParametersBody {
    /// 0x89
    pub object_type: u8,
    /// 2
    pub revision: u8,
    /// 40
    pub size: U16,
    /// 0x10: disable; 0: all fields count.
    pub flags: U16,
    /// Not used.
    pub base_cpu: U16,
    /// Hash function and what it covers.
    pub hash_information: U32,
    /// Bytes of the table.
    pub table_bytes: U16,
    /// Zero (keeps the next field aligned in C).
    pub padding: U16,
    /// Where the table starts, from this structure.
    pub table_offset: U32,
    /// Bytes of the key.
    pub key_bytes: U16,
    /// Zero.
    pub padding2: U16,
    /// Where the key starts.
    pub key_offset: U32,
    /// Not used: processor masks.
    pub masks: [U32; 3],
}

/// What the host can do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Capabilities {
    /// Receive queues.
    pub receive_queues: u32,
    /// Entries of the indirection table, 1 to 256.
    pub table_len: u16,
    /// What it can hash beyond what every host can.
    pub hashes: OfferedHashes,
}

impl Capabilities {
    /// Writes the information buffer of the query; returns its length, `None` if `out` is too small.
    pub fn encode_query(out: &mut [u8]) -> Option<usize> {
        let body = CapabilitiesBody {
            object_type: TYPE_CAPABILITIES,
            revision: REVISION,
            size: U16::new(18),
            flags: U32::ZERO,
            interrupt_messages: U32::ZERO,
            receive_queues: U32::ZERO,
            table_len: U16::ZERO,
        };
        body.write_to_prefix(out).ok()?;
        Some(CAPABILITIES_LEN)
    }

    /// Reads the answer; `None` if it is short or another object.
    pub fn decode(info: &[u8]) -> Option<Self> {
        let (body, _) = CapabilitiesBody::ref_from_prefix(info).ok()?;
        if body.object_type != TYPE_CAPABILITIES {
            return None;
        }
        let table_len = match body.table_len.get() {
            len @ 1..=MAX_TABLE_LEN => len,
            _ => DEFAULT_TABLE_LEN,
        };
        Some(Self {
            receive_queues: body.receive_queues.get(),
            table_len,
            hashes: OfferedHashes(body.flags.get()),
        })
    }
}

/// A protocol whose ports may be part of a flow's hash. The values are the C driver's.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Flow {
    /// TCP over IPv4.
    Tcp4 = 1,
    /// TCP over IPv6.
    Tcp6 = 2,
    /// UDP over IPv4.
    Udp4 = 4,
    /// UDP over IPv6.
    Udp6 = 8,
}

/// The protocols whose ports are part of a flow's hash, beside its addresses.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FlowHash(u8);

impl FlowHash {
    /// Ports count for all of them.
    pub const ALL: Self = Self(0xf);

    /// A mask of [`Flow`] values.
    pub const fn mask(self) -> u8 {
        self.0
    }

    /// Whether ports of this protocol count.
    pub const fn has_ports(self, flow: Flow) -> bool {
        self.0 & flow as u8 != 0
    }

    /// The same but for this protocol.
    #[must_use]
    pub const fn with_ports(self, flow: Flow, ports: bool) -> Self {
        if ports {
            Self(self.0 | flow as u8)
        } else {
            Self(self.0 & !(flow as u8))
        }
    }

    /// What the host is told: Toeplitz, over addresses always, and over the ports that it can hash.
    pub const fn types(self, offered: OfferedHashes) -> HashTypes {
        const TOEPLITZ: u32 = 0x1;
        const IPV4: u32 = 0x100;
        const IPV6: u32 = 0x400;
        let mut types = TOEPLITZ | IPV4 | IPV6;
        if self.has_ports(Flow::Tcp4) {
            types |= 0x200;
        }
        if self.has_ports(Flow::Tcp6) {
            types |= 0x1000;
        }
        if self.has_ports(Flow::Udp4) && offered.0 & OfferedHashes::UDP4 != 0 {
            types |= 0x4000;
        }
        if self.has_ports(Flow::Udp6) && offered.0 & OfferedHashes::UDP6 != 0 {
            types |= 0x8000;
        }
        HashTypes(types)
    }
}

/// Flags of the host's capabilities. Every host hashes TCP; UDP only some.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct OfferedHashes(u32);

impl OfferedHashes {
    const UDP4: u32 = 0x800;
    const UDP6: u32 = 0x1000;
}

/// Hash function and hash types as on the wire.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct HashTypes(u32);

/// Everything that the host is told about spreading.
#[derive(Clone, Copy, Debug)]
pub struct Parameters<'a> {
    /// Indirection table.
    pub table: &'a Table,
    /// Hash key.
    pub key: &'a [u8; KEY_LEN],
    /// What is hashed.
    pub types: HashTypes,
}

/// An indirection table: the channel for each bucket of the hash. 1 to 256 entries below 64.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Table {
    entries: [u8; MAX_TABLE_LEN as usize],
    len: u16,
}

impl Table {
    /// The even spread of `len` buckets over `channels`. Both are brought into range (1 to 256, 1 to 64).
    pub fn spread(len: u16, channels: u16) -> Self {
        let channels = channels.clamp(1, MAX_CHANNELS);
        let mut this = Self {
            entries: [0; MAX_TABLE_LEN as usize],
            len: len.clamp(1, MAX_TABLE_LEN),
        };
        // Entries beyond `len` stay 0, so that equality is that of the tables.
        for (entry, index) in this.entries.iter_mut().zip(0..this.len) {
            let channel = index.checked_rem(channels).unwrap_or(0);
            *entry = u8::try_from(channel).unwrap_or(0);
        }
        this
    }

    /// A table of the user's; `None` if it is empty, has more than 256 entries, or one of 64 or more.
    pub fn from_entries(entries: impl IntoIterator<Item = u32>) -> Option<Self> {
        let mut this = Self::spread(1, 1);
        let mut len: u16 = 0;
        for channel in entries {
            let channel = u8::try_from(channel).ok()?;
            if u16::from(channel) >= MAX_CHANNELS {
                return None;
            }
            *this.entries.get_mut(usize::from(len))? = channel;
            len = len.checked_add(1)?;
        }
        this.len = len;
        (len > 0).then_some(this)
    }

    /// The channels, bucket by bucket.
    pub fn entries(&self) -> &[u8] {
        self.entries.get(..usize::from(self.len)).unwrap_or(&[])
    }

    /// Number of buckets.
    pub const fn len(&self) -> u16 {
        self.len
    }

    /// Never true: a table has at least one bucket.
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Whether every entry is below `channels`.
    pub fn fits(&self, channels: u16) -> bool {
        self.entries()
            .iter()
            .all(|entry| u16::from(*entry) < channels)
    }
}

impl core::fmt::Debug for Table {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_list().entries(self.entries()).finish()
    }
}

/// The two forms of setting RSS parameters. A change is always both, in this order.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mode {
    /// Stop spreading; the host may refuse, which does not matter.
    Disable,
    /// Spread by the table and key given.
    Enable,
}

/// Writes the SET message of RSS parameters; returns its length (at most 1132), `None` if `out` is too
/// small.
pub fn encode_set(
    request_id: u32,
    mode: Mode,
    parameters: &Parameters<'_>,
    out: &mut [u8],
) -> Option<usize> {
    encode_set_with(request_id, Oid::GEN_RECEIVE_SCALE_PARAMETERS, out, |w| {
        write_parameters(w, mode, parameters);
    })
}

fn write_parameters(out: &mut Writer<'_>, mode: Mode, parameters: &Parameters<'_>) {
    let Parameters { table, key, types } = *parameters;
    let table_bytes = table.len().saturating_mul(4);
    let body = ParametersBody {
        object_type: TYPE_PARAMETERS,
        revision: REVISION,
        size: U16::new(PARAMETERS_LEN),
        flags: U16::new(match mode {
            Mode::Disable => FLAG_DISABLE,
            Mode::Enable => 0,
        }),
        base_cpu: U16::ZERO,
        hash_information: U32::new(types.0),
        table_bytes: table_bytes.into(),
        padding: U16::ZERO,
        table_offset: u32::from(PARAMETERS_LEN).into(),
        key_bytes: U16::new(40),
        padding2: U16::ZERO,
        key_offset: u32::from(PARAMETERS_LEN.saturating_add(table_bytes)).into(),
        masks: [U32::ZERO; 3],
    };
    out.bytes(body.as_bytes());
    for channel in table.entries() {
        out.u32(u32::from(*channel));
    }
    out.bytes(key);
}

#[cfg(test)]
mod tests;
