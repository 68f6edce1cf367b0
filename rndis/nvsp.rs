// SPDX-License-Identifier: GPL-2.0

//! NVSP messages: what guest and host say to each other outside RNDIS.
//!
//! Source: specification 2.2; `hyperv_net.h`. Every guest message is 40 bytes, zero-padded, except the
//! 8-byte completion of a received packet. Host messages may have any length that holds the fields used.

use crate::rndis::version::NvspVersion;
use crate::rndis::wire::u32_at;
use core::fmt;
use zerocopy::little_endian::{U16, U32};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

pub mod body;

use body::{
    IndirectionTableBody, InitBody, InitCompleteBody, NdisConfigBody, NdisVersionBody,
    ReceiveBufferCompleteBody, RndisPacketBody, SendBufferCompleteBody, ShareBufferBody,
    SubchannelBody, VfAssociationBody,
};

/// Bytes of a guest message.
pub const MESSAGE_LEN: usize = 40;
/// Bytes of the completion of a received RNDIS packet.
pub const RNDIS_COMPLETION_LEN: usize = 8;
/// Id of the receive buffer, and page set of every transfer-page packet.
pub const RECEIVE_BUFFER_ID: u16 = 0xcafe;
/// Id of the send buffer.
pub const SEND_BUFFER_ID: u16 = 0;
/// Section index that says "not in the send buffer".
pub const NO_SECTION: u32 = 0xffff_ffff;
/// Smallest section either side may use, in bytes.
pub const MIN_SECTION_LEN: u32 = 68;
/// Entries of a send indirection table.
pub const SEND_TABLE_LEN: usize = 16;

/// Capability bits of SEND_NDIS_CONFIG: promises of what the guest can handle.
pub mod capability {
    /// SR-IOV virtual functions (not announced: not implemented yet).
    pub const SRIOV: u64 = 1 << 2;
    /// 802.1Q tags in per-packet info.
    pub const VLAN: u64 = 1 << 3;
    /// Needed for link-speed updates, from version 5.
    pub const TEAMING: u64 = 1 << 5;
    /// Receive segment coalescing, from version 6.1.
    pub const RSC: u64 = 1 << 7;
}

/// Message type numbers.
pub mod kind {
    /// INIT
    pub const INIT: u32 = 1;
    /// INIT_COMPLETE
    pub const INIT_COMPLETE: u32 = 2;
    /// SEND_NDIS_VER
    pub const NDIS_VERSION: u32 = 100;
    /// SEND_RECV_BUF
    pub const SEND_RECEIVE_BUFFER: u32 = 101;
    /// SEND_RECV_BUF_COMPLETE
    pub const SEND_RECEIVE_BUFFER_COMPLETE: u32 = 102;
    /// REVOKE_RECV_BUF
    pub const REVOKE_RECEIVE_BUFFER: u32 = 103;
    /// SEND_SEND_BUF
    pub const SEND_SEND_BUFFER: u32 = 104;
    /// SEND_SEND_BUF_COMPLETE
    pub const SEND_SEND_BUFFER_COMPLETE: u32 = 105;
    /// REVOKE_SEND_BUF
    pub const REVOKE_SEND_BUFFER: u32 = 106;
    /// SEND_RNDIS_PKT
    pub const RNDIS_PACKET: u32 = 107;
    /// SEND_RNDIS_PKT_COMPLETE
    pub const RNDIS_PACKET_COMPLETE: u32 = 108;
    /// SEND_NDIS_CONFIG
    pub const NDIS_CONFIG: u32 = 125;
    /// SEND_VF_ASSOCIATION
    pub const VF_ASSOCIATION: u32 = 128;
    /// SWITCH_DATA_PATH
    pub const SWITCH_DATA_PATH: u32 = 129;
    /// SUBCHANNEL, request and completion
    pub const SUBCHANNEL: u32 = 133;
    /// SEND_INDIRECTION_TABLE
    pub const INDIRECTION_TABLE: u32 = 134;
}

/// How a host (or guest) says a message ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Status {
    /// 0: never a result.
    None,
    /// 1
    Success,
    /// 2
    Failure,
    /// 3: protocol too new for the host.
    TooNew,
    /// 4: protocol too old for the host.
    TooOld,
    /// 5
    InvalidRndisPacket,
    /// 6
    Busy,
    /// 7
    Unsupported,
    /// Not a value of the protocol.
    Other(u32),
}

impl Status {
    /// The number on the wire.
    pub const fn value(self) -> u32 {
        match self {
            Self::None => 0,
            Self::Success => 1,
            Self::Failure => 2,
            Self::TooNew => 3,
            Self::TooOld => 4,
            Self::InvalidRndisPacket => 5,
            Self::Busy => 6,
            Self::Unsupported => 7,
            Self::Other(value) => value,
        }
    }

    /// Reads the number on the wire.
    pub const fn from_value(value: u32) -> Self {
        match value {
            0 => Self::None,
            1 => Self::Success,
            2 => Self::Failure,
            3 => Self::TooNew,
            4 => Self::TooOld,
            5 => Self::InvalidRndisPacket,
            6 => Self::Busy,
            7 => Self::Unsupported,
            other => Self::Other(other),
        }
    }

    /// Whether this is success.
    pub const fn is_success(self) -> bool {
        matches!(self, Self::Success)
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = match self {
            Self::None => "none",
            Self::Success => "success",
            Self::Failure => "failure",
            Self::TooNew => "protocol too new",
            Self::TooOld => "protocol too old",
            Self::InvalidRndisPacket => "invalid RNDIS packet",
            Self::Busy => "busy",
            Self::Unsupported => "unsupported",
            Self::Other(_) => "unknown status",
        };
        write!(f, "{text} ({})", self.value())
    }
}

/// Which of the two streams an RNDIS packet belongs to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RndisChannel {
    /// 0: frames.
    Data,
    /// 1: control messages.
    Control,
}

/// A message from guest to host.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum GuestMessage {
    /// Offer exactly one version.
    Init(NvspVersion),
    /// Announce MTU and capabilities.
    NdisConfig {
        /// MTU plus 14.
        frame_len: u32,
        /// See [`capability`].
        capabilities: u64,
    },
    /// Announce the NDIS version that belongs to an NVSP version.
    NdisVersion(NvspVersion),
    /// Hand over the receive buffer.
    SendReceiveBuffer {
        /// Handle of the shared memory.
        gpadl: u32,
    },
    /// Take the receive buffer back.
    RevokeReceiveBuffer,
    /// Hand over the send buffer.
    SendSendBuffer {
        /// Handle of the shared memory.
        gpadl: u32,
    },
    /// Take the send buffer back.
    RevokeSendBuffer,
    /// An RNDIS packet, in a send section, in the packet's pages, or both.
    RndisPacket {
        /// Frames or control.
        channel: RndisChannel,
        /// Section of the send buffer, if any.
        section: Option<u32>,
        /// Bytes in the section (0 without one).
        section_size: u32,
    },
    /// Ask for sub-channels.
    AllocateSubchannels {
        /// How many, the primary channel not counted.
        count: u32,
    },
    /// Choose who carries the traffic.
    SwitchDataPath {
        /// Virtual function (true) or synthetic path.
        virtual_function: bool,
    },
}

impl GuestMessage {
    /// The message as 40 bytes.
    pub fn encode(&self) -> [u8; MESSAGE_LEN] {
        match *self {
            Self::Init(version) => encode(
                kind::INIT,
                &InitBody {
                    min: version.value().into(),
                    max: version.value().into(),
                },
            ),
            Self::NdisConfig {
                frame_len,
                capabilities,
            } => encode(
                kind::NDIS_CONFIG,
                &NdisConfigBody {
                    frame_len: frame_len.into(),
                    reserved: U32::ZERO,
                    capabilities: capabilities.into(),
                },
            ),
            Self::NdisVersion(version) => {
                let (major, minor) = version.ndis_version();
                encode(
                    kind::NDIS_VERSION,
                    &NdisVersionBody {
                        major: major.into(),
                        minor: minor.into(),
                    },
                )
            }
            Self::SendReceiveBuffer { gpadl } => {
                share(kind::SEND_RECEIVE_BUFFER, gpadl, RECEIVE_BUFFER_ID)
            }
            Self::RevokeReceiveBuffer => {
                encode(kind::REVOKE_RECEIVE_BUFFER, &U16::new(RECEIVE_BUFFER_ID))
            }
            Self::SendSendBuffer { gpadl } => share(kind::SEND_SEND_BUFFER, gpadl, SEND_BUFFER_ID),
            Self::RevokeSendBuffer => encode(kind::REVOKE_SEND_BUFFER, &U16::new(SEND_BUFFER_ID)),
            Self::RndisPacket {
                channel,
                section,
                section_size,
            } => rndis_packet(channel, section, section_size),
            Self::AllocateSubchannels { count } => encode(
                kind::SUBCHANNEL,
                &SubchannelBody {
                    operation_or_status: U32::new(1),
                    count: count.into(),
                },
            ),
            Self::SwitchDataPath { virtual_function } => encode(
                kind::SWITCH_DATA_PATH,
                &U32::new(u32::from(virtual_function)),
            ),
        }
    }
}

fn encode<T: IntoBytes + Immutable>(message_type: u32, body: &T) -> [u8; MESSAGE_LEN] {
    let mut message = [0; MESSAGE_LEN];
    let [t0, t1, t2, t3, rest @ ..] = &mut message;
    [*t0, *t1, *t2, *t3] = message_type.to_le_bytes();
    // Every body fits in the 36 bytes left; `bodies_fit` in the tests holds it.
    let _ = body.write_to_prefix(rest);
    message
}

fn share(message_type: u32, gpadl: u32, id: u16) -> [u8; MESSAGE_LEN] {
    let body = ShareBufferBody {
        gpadl: gpadl.into(),
        id: id.into(),
    };
    encode(message_type, &body)
}

/// SEND_RNDIS_PKT, for the transmit path.
pub fn rndis_packet(
    channel: RndisChannel,
    section: Option<u32>,
    section_size: u32,
) -> [u8; MESSAGE_LEN] {
    let body = RndisPacketBody {
        channel_type: U32::new(match channel {
            RndisChannel::Data => 0,
            RndisChannel::Control => 1,
        }),
        section_index: section.unwrap_or(NO_SECTION).into(),
        section_size: section_size.into(),
    };
    encode(kind::RNDIS_PACKET, &body)
}

/// The completion of a received RNDIS packet.
pub fn rndis_completion(status: Status) -> [u8; RNDIS_COMPLETION_LEN] {
    let mut message = [0; RNDIS_COMPLETION_LEN];
    let [t0, t1, t2, t3, s0, s1, s2, s3] = &mut message;
    [*t0, *t1, *t2, *t3] = kind::RNDIS_PACKET_COMPLETE.to_le_bytes();
    [*s0, *s1, *s2, *s3] = status.value().to_le_bytes();
    message
}

/// Why a host message was refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NvspError {
    /// Shorter than its type needs.
    Truncated {
        /// The message's type, if it has one.
        message_type: Option<u32>,
        /// Its length in bytes.
        len: usize,
    },
    /// A type that may not come this way.
    UnexpectedType(u32),
    /// Send table with another number of entries than 16.
    SendTableCount(u32),
    /// Send table that begins outside the message.
    SendTableOffset(u32),
}

impl fmt::Display for NvspError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Truncated {
                message_type: Some(message_type),
                len,
            } => write!(f, "NVSP message {message_type} is cut to {len} bytes"),
            Self::Truncated { len, .. } => write!(f, "NVSP message of {len} bytes has no type"),
            Self::UnexpectedType(message_type) => {
                write!(f, "NVSP message {message_type} is not expected here")
            }
            Self::SendTableCount(count) => {
                write!(
                    f,
                    "send indirection table has {count} entries instead of 16"
                )
            }
            Self::SendTableOffset(offset) => {
                write!(
                    f,
                    "send indirection table at offset {offset} leaves its message"
                )
            }
        }
    }
}

/// The payload of a completion packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Completion {
    /// No payload: the answer to SWITCH_DATA_PATH.
    Empty,
    /// INIT was answered.
    Init {
        /// Whether the version is accepted.
        status: Status,
    },
    /// SEND_RECV_BUF was answered; not yet compared with the buffer.
    ReceiveBuffer {
        /// Whether the buffer is accepted.
        status: Status,
        /// Number of section descriptions; the others count only if it is 1.
        section_groups: u32,
        /// Where sections start.
        offset: u32,
        /// Bytes of a section.
        section_len: u32,
        /// Number of sections.
        section_count: u32,
    },
    /// SEND_SEND_BUF was answered.
    SendBuffer {
        /// Whether the buffer is accepted.
        status: Status,
        /// Bytes of a section.
        section_len: u32,
    },
    /// An RNDIS packet was consumed.
    RndisPacket {
        /// Whether the host liked it.
        status: Status,
    },
    /// SUBCHANNEL was answered.
    Subchannels {
        /// Whether any are granted.
        status: Status,
        /// How many.
        count: u32,
    },
}

/// Whether the payload of a completion packet says that the host consumed an RNDIS packet and liked it: of
/// [`Completion::decode`] what the packet path needs.
#[inline]
pub fn packet_succeeded(payload: &[u8]) -> bool {
    u32_at(payload, 0) == Some(kind::RNDIS_PACKET_COMPLETE)
        && u32_at(payload, 4).is_some_and(|status| Status::from_value(status).is_success())
}

fn body_of<T: FromBytes + KnownLayout + Immutable + zerocopy::Unaligned>(
    message: &[u8],
) -> Result<&T, NvspError> {
    let truncated = || NvspError::Truncated {
        message_type: u32_at(message, 0),
        len: message.len(),
    };
    let rest = message.get(4..).ok_or_else(truncated)?;
    T::ref_from_prefix(rest)
        .map(|(body, _)| body)
        .map_err(|_| truncated())
}

fn message_type(message: &[u8]) -> Result<u32, NvspError> {
    u32_at(message, 0).ok_or(NvspError::Truncated {
        message_type: None,
        len: message.len(),
    })
}

impl Completion {
    /// Decodes a completion's payload.
    pub fn decode(payload: &[u8]) -> Result<Self, NvspError> {
        if payload.is_empty() {
            return Ok(Self::Empty);
        }
        match message_type(payload)? {
            kind::INIT_COMPLETE => body_of(payload).map(|b: &InitCompleteBody| Self::Init {
                status: Status::from_value(b.status.get()),
            }),
            kind::SEND_RECEIVE_BUFFER_COMPLETE => receive_buffer(payload),
            kind::SEND_SEND_BUFFER_COMPLETE => send_buffer(payload),
            kind::RNDIS_PACKET_COMPLETE => body_of(payload).map(|status: &U32| Self::RndisPacket {
                status: Status::from_value(status.get()),
            }),
            kind::SUBCHANNEL => body_of(payload).map(|b: &SubchannelBody| Self::Subchannels {
                status: Status::from_value(b.operation_or_status.get()),
                count: b.count.get(),
            }),
            other => Err(NvspError::UnexpectedType(other)),
        }
    }
}

/// Refusals may be cut after the status: the rest is read only on success.
fn receive_buffer(payload: &[u8]) -> Result<Completion, NvspError> {
    let status = Status::from_value(body_of::<U32>(payload)?.get());
    if !status.is_success() {
        return Ok(Completion::ReceiveBuffer {
            status,
            section_groups: 0,
            offset: 0,
            section_len: 0,
            section_count: 0,
        });
    }
    body_of(payload).map(|b: &ReceiveBufferCompleteBody| Completion::ReceiveBuffer {
        status,
        section_groups: b.section_groups.get(),
        offset: b.offset.get(),
        section_len: b.section_len.get(),
        section_count: b.section_count.get(),
    })
}

fn send_buffer(payload: &[u8]) -> Result<Completion, NvspError> {
    let status = Status::from_value(body_of::<U32>(payload)?.get());
    if !status.is_success() {
        return Ok(Completion::SendBuffer {
            status,
            section_len: 0,
        });
    }
    body_of(payload).map(|b: &SendBufferCompleteBody| Completion::SendBuffer {
        status,
        section_len: b.section_len.get(),
    })
}

/// An in-band message from the host that answers nothing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Notice {
    /// Which channel to send on, by flow hash modulo 16; entries are not checked against the number of
    /// channels ([`crate::rndis::send_table::SendTable`] does that).
    SendTable([u32; SEND_TABLE_LEN]),
    /// A virtual function came or went.
    VfAssociation {
        /// Whether it is there.
        allocated: bool,
        /// Its PCI slot serial.
        serial: u32,
    },
    /// A message this driver has no use for.
    Other(u32),
}

impl Notice {
    /// Decodes the payload of an in-band packet from the host.
    pub fn decode(payload: &[u8], version: NvspVersion) -> Result<Self, NvspError> {
        match message_type(payload)? {
            kind::INDIRECTION_TABLE => send_table(payload, version),
            kind::VF_ASSOCIATION => {
                body_of(payload).map(|b: &VfAssociationBody| Self::VfAssociation {
                    allocated: b.allocated.get() != 0,
                    serial: b.serial.get(),
                })
            }
            other => Ok(Self::Other(other)),
        }
    }
}

/// Offset of the table in messages of hosts before 6.1 that are this long, whatever they claim.
const OLD_TABLE_OFFSET: u32 = 40;
const OLD_TABLE_END: usize = 104;

fn send_table(payload: &[u8], version: NvspVersion) -> Result<Notice, NvspError> {
    let fixed: &IndirectionTableBody = body_of(payload)?;
    let count = fixed.count.get();
    if usize::try_from(count) != Ok(SEND_TABLE_LEN) {
        return Err(NvspError::SendTableCount(count));
    }
    let old = version <= NvspVersion::V6 && payload.len() >= OLD_TABLE_END;
    let offset = if old {
        OLD_TABLE_OFFSET
    } else {
        fixed.offset.get()
    };
    let outside = || NvspError::SendTableOffset(offset);
    let start = usize::try_from(offset).map_err(|_| outside())?;
    let rest = payload.get(start..).ok_or_else(outside)?;
    let (entries, _) = <[U32; SEND_TABLE_LEN]>::ref_from_prefix(rest).map_err(|_| outside())?;
    Ok(Notice::SendTable(entries.map(U32::get)))
}

/// Checks that the payload of a transfer-page packet is SEND_RNDIS_PKT and says which stream it is of.
/// Hosts may put other values than 1 for data; Linux looks at the RNDIS type only, so this is a hint.
pub fn decode_rndis_packet(payload: &[u8]) -> Result<RndisChannel, NvspError> {
    match message_type(payload)? {
        kind::RNDIS_PACKET => {
            let control = u32_at(payload, 4) == Some(1);
            Ok(if control {
                RndisChannel::Control
            } else {
                RndisChannel::Data
            })
        }
        other => Err(NvspError::UnexpectedType(other)),
    }
}

#[cfg(test)]
mod tests;
