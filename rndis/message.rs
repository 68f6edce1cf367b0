// SPDX-License-Identifier: GPL-2.0

//! RNDIS control messages: requests of the guest, answers and indications of the host.
//!
//! A message is an 8-byte header (type, length with header) and a body; every offset inside counts from
//! the body. Source: specification 3.1; Microsoft's RNDIS reference. Data messages: [`crate::rndis::packet`].

use crate::rndis::oid::Oid;
use crate::rndis::wire::{part, Writer};
use core::fmt;
use zerocopy::little_endian::U32;
use zerocopy::{FromBytes, Immutable, KnownLayout, Unaligned};

/// Bytes of [`Header`].
pub const HEADER_LEN: usize = 8;
/// Bytes of a QUERY or SET before its information buffer.
pub const REQUEST_LEN: usize = 28;
/// Where the information buffer of QUERY and SET begins, from the body.
const REQUEST_INFO_OFFSET: u32 = 20;
/// Smallest allowed offset of the information buffer in a QUERY completion.
const MIN_REPLY_INFO_OFFSET: u32 = 16;
/// Smallest allowed offset of the status buffer in an indication.
const MIN_INDICATION_OFFSET: u32 = 12;
/// Largest transfer that INITIALIZE announces (what the C driver says).
const MAX_TRANSFER_SIZE: u32 = 0x4000;

/// Message type numbers.
pub mod kind {
    /// PACKET
    pub const PACKET: u32 = 1;
    /// INITIALIZE
    pub const INITIALIZE: u32 = 2;
    /// HALT
    pub const HALT: u32 = 3;
    /// QUERY
    pub const QUERY: u32 = 4;
    /// SET
    pub const SET: u32 = 5;
    /// RESET
    pub const RESET: u32 = 6;
    /// INDICATE
    pub const INDICATE: u32 = 7;
    /// KEEPALIVE
    pub const KEEPALIVE: u32 = 8;
    /// Added to a request's type by its completion.
    pub const COMPLETION: u32 = 0x8000_0000;
}

/// Result of an RNDIS request (an NTSTATUS-like number; 0 is success).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(transparent)]
pub struct RndisStatus(pub u32);

impl RndisStatus {
    /// The request was carried out.
    pub const SUCCESS: Self = Self(0);

    /// Whether this is [`Self::SUCCESS`].
    pub const fn is_success(self) -> bool {
        self.0 == 0
    }
}

impl fmt::Display for RndisStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match self.0 {
            0 => "success",
            0xc000_0001 => "failure",
            0xc000_0010 => "invalid device request",
            0xc000_009a => "out of resources",
            0xc000_00bb => "not supported",
            0xc001_0015 => "invalid data",
            0xc001_0014 => "invalid length",
            0xc001_0017 => "invalid OID",
            _ => "RNDIS status",
        };
        write!(f, "{name} ({:#010x})", self.0)
    }
}

/// Type and length of any RNDIS message, 8 bytes.
#[derive(
    Clone,
    Copy,
    Debug,
    zerocopy_derive::FromBytes,
    zerocopy_derive::IntoBytes,
    zerocopy_derive::Immutable,
    zerocopy_derive::KnownLayout,
    zerocopy_derive::Unaligned,
)]
#[repr(C)]
pub struct Header {
    /// See [`kind`].
    pub message_type: U32,
    /// Bytes of the message, this header included.
    pub message_len: U32,
}

/// Body of INITIALIZE's completion.
#[derive(
    zerocopy_derive::FromBytes,
    zerocopy_derive::IntoBytes,
    zerocopy_derive::Immutable,
    zerocopy_derive::KnownLayout,
    zerocopy_derive::Unaligned,
)]
#[repr(C)]
pub struct InitializeCompleteBody {
    /// The request's id.
    pub request_id: U32,
    /// See [`RndisStatus`].
    pub status: U32,
    /// RNDIS version.
    pub major: U32,
    /// RNDIS version.
    pub minor: U32,
    /// Connectionless, connection-oriented.
    pub device_flags: U32,
    /// 802.3
    pub medium: U32,
    /// PACKET messages that one transfer may carry.
    pub max_packets_per_message: U32,
    /// Bytes that one transfer may carry.
    pub max_transfer_size: U32,
    /// Messages in a transfer start at multiples of 2 to this power.
    pub alignment_factor: U32,
    /// Reserved.
    pub address_list_offset: U32,
    /// Reserved.
    pub address_list_len: U32,
}

/// Body of QUERY and SET, without the information buffer.
#[derive(
    zerocopy_derive::FromBytes,
    zerocopy_derive::IntoBytes,
    zerocopy_derive::Immutable,
    zerocopy_derive::KnownLayout,
    zerocopy_derive::Unaligned,
)]
#[repr(C)]
pub struct RequestBody {
    /// Echoed by the completion.
    pub request_id: U32,
    /// See [`Oid`].
    pub oid: U32,
    /// Bytes of the information buffer.
    pub info_len: U32,
    /// Where it starts, from the body.
    pub info_offset: U32,
    /// Zero.
    pub device_vc: U32,
}

/// Body of a QUERY completion, without the information buffer.
#[derive(
    zerocopy_derive::FromBytes,
    zerocopy_derive::IntoBytes,
    zerocopy_derive::Immutable,
    zerocopy_derive::KnownLayout,
    zerocopy_derive::Unaligned,
)]
#[repr(C)]
pub struct QueryCompleteBody {
    /// The request's id.
    pub request_id: U32,
    /// See [`RndisStatus`].
    pub status: U32,
    /// Bytes of the information buffer.
    pub info_len: U32,
    /// Where it starts, from the body.
    pub info_offset: U32,
}

/// Body of a SET or KEEPALIVE completion.
#[derive(
    zerocopy_derive::FromBytes,
    zerocopy_derive::IntoBytes,
    zerocopy_derive::Immutable,
    zerocopy_derive::KnownLayout,
    zerocopy_derive::Unaligned,
)]
#[repr(C)]
pub struct StatusBody {
    /// The request's id.
    pub request_id: U32,
    /// See [`RndisStatus`].
    pub status: U32,
}

/// Body of an indication, without the status buffer.
#[derive(
    zerocopy_derive::FromBytes,
    zerocopy_derive::IntoBytes,
    zerocopy_derive::Immutable,
    zerocopy_derive::KnownLayout,
    zerocopy_derive::Unaligned,
)]
#[repr(C)]
pub struct IndicateBody {
    /// What happened; see [`crate::rndis::link`].
    pub status: U32,
    /// Bytes of the status buffer.
    pub buffer_len: U32,
    /// Where it starts, from the body.
    pub buffer_offset: U32,
}

/// Writes INITIALIZE; returns its length, `None` if `out` is too small.
pub fn encode_initialize(request_id: u32, out: &mut [u8]) -> Option<usize> {
    Writer::new(out)
        .u32(kind::INITIALIZE)
        .u32(24)
        .u32(request_id)
        .u32(1)
        .u32(0)
        .u32(MAX_TRANSFER_SIZE)
        .finish()
}

/// Writes HALT; returns its length. The host does not answer it.
pub fn encode_halt(request_id: u32, out: &mut [u8]) -> Option<usize> {
    Writer::new(out)
        .u32(kind::HALT)
        .u32(12)
        .u32(request_id)
        .finish()
}

/// Writes the answer to a host's KEEPALIVE; returns its length.
pub fn encode_keepalive_complete(request_id: u32, out: &mut [u8]) -> Option<usize> {
    Writer::new(out)
        .u32(kind::KEEPALIVE | kind::COMPLETION)
        .u32(16)
        .u32(request_id)
        .u32(RndisStatus::SUCCESS.0)
        .finish()
}

/// Writes a QUERY whose information buffer `info` tells the host which form of answer is wanted.
pub fn encode_query(request_id: u32, oid: Oid, info: &[u8], out: &mut [u8]) -> Option<usize> {
    encode_request(kind::QUERY, request_id, oid, out, |w| {
        w.bytes(info);
    })
}

/// Writes a SET of `info`.
pub fn encode_set(request_id: u32, oid: Oid, info: &[u8], out: &mut [u8]) -> Option<usize> {
    encode_request(kind::SET, request_id, oid, out, |w| {
        w.bytes(info);
    })
}

/// Writes a SET whose information buffer is written in place.
pub(super) fn encode_set_with(
    request_id: u32,
    oid: Oid,
    out: &mut [u8],
    info: impl FnOnce(&mut Writer<'_>),
) -> Option<usize> {
    encode_request(kind::SET, request_id, oid, out, info)
}

fn encode_request(
    message_type: u32,
    request_id: u32,
    oid: Oid,
    out: &mut [u8],
    info: impl FnOnce(&mut Writer<'_>),
) -> Option<usize> {
    let (head, rest) = out.split_at_mut_checked(REQUEST_LEN)?;
    let mut writer = Writer::new(rest);
    info(&mut writer);
    let info_len = writer.finish()?;
    let len = REQUEST_LEN.checked_add(info_len)?;
    Writer::new(head)
        .u32(message_type)
        .u32(u32::try_from(len).ok()?)
        .u32(request_id)
        .u32(oid.0)
        .u32(u32::try_from(info_len).ok()?)
        .u32(REQUEST_INFO_OFFSET)
        .u32(0)
        .finish()?;
    Some(len)
}

/// Why an RNDIS control message was refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MessageError {
    /// Fewer bytes than a header, or than the type needs.
    Truncated {
        /// The message's type, if it has one.
        message_type: Option<u32>,
    },
    /// The header's length is below 8 or beyond the bytes received.
    Length(u32),
    /// The information buffer of an answer lies outside its message.
    Buffer {
        /// The request that was answered.
        request_id: u32,
        /// Where it should start.
        offset: u32,
        /// How long it should be.
        len: u32,
    },
}

impl fmt::Display for MessageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Truncated {
                message_type: Some(message_type),
            } => write!(f, "RNDIS message {message_type:#x} is cut short"),
            Self::Truncated { message_type: None } => write!(f, "RNDIS message has no header"),
            Self::Length(len) => write!(f, "RNDIS message claims {len} bytes"),
            Self::Buffer { offset, len, .. } => {
                write!(
                    f,
                    "RNDIS buffer of {len} bytes at {offset} leaves its message"
                )
            }
        }
    }
}

/// A control message from the host.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum HostMessage<'a> {
    /// INITIALIZE was answered.
    InitializeComplete {
        /// The request's id.
        request_id: u32,
        /// Whether it succeeded; the rest counts only then.
        status: RndisStatus,
        /// PACKET messages that one transfer may carry.
        max_packets_per_message: u32,
        /// Bytes that one transfer may carry.
        max_transfer_size: u32,
        /// Messages in a transfer start at multiples of 2 to this power.
        alignment_factor: u32,
    },
    /// QUERY was answered.
    QueryComplete {
        /// The request's id.
        request_id: u32,
        /// Whether it succeeded.
        status: RndisStatus,
        /// The answer; empty if the request failed.
        info: &'a [u8],
    },
    /// SET was answered.
    SetComplete {
        /// The request's id.
        request_id: u32,
        /// Whether it succeeded.
        status: RndisStatus,
    },
    /// Something happened; see [`crate::rndis::link::LinkEvent::from_indication`].
    Indicate {
        /// What.
        status: u32,
        /// Details; empty if absent or outside the transfer.
        buffer: &'a [u8],
    },
    /// The host asks for a sign of life ([`encode_keepalive_complete`]).
    Keepalive {
        /// To be echoed.
        request_id: u32,
    },
    /// A message this driver has no use for.
    Other(u32),
}

/// Checks the header of the message at the start of `received` (the whole range that the host filled).
/// Returns the type and the body.
pub fn split(received: &[u8]) -> Result<(u32, &[u8]), MessageError> {
    let (header, rest) = Header::ref_from_prefix(received)
        .map_err(|_| MessageError::Truncated { message_type: None })?;
    let len = header.message_len.get();
    let body = usize::try_from(len)
        .ok()
        .and_then(|len| len.checked_sub(HEADER_LEN))
        .and_then(|body_len| rest.get(..body_len))
        .ok_or(MessageError::Length(len))?;
    Ok((header.message_type.get(), body))
}

impl<'a> HostMessage<'a> {
    /// Decodes the message at the start of `received`, the whole range that the host filled: old hosts
    /// leave the status buffer of an indication out of the message's length.
    pub fn decode(received: &'a [u8]) -> Result<Self, MessageError> {
        const INITIALIZE_C: u32 = kind::INITIALIZE | kind::COMPLETION;
        const QUERY_C: u32 = kind::QUERY | kind::COMPLETION;
        const SET_C: u32 = kind::SET | kind::COMPLETION;
        let (message_type, body) = split(received)?;
        match message_type {
            INITIALIZE_C => initialize_complete(message_type, body),
            QUERY_C => query_complete(message_type, body),
            SET_C => {
                fixed(message_type, body).map(|(set, _): (&StatusBody, _)| Self::SetComplete {
                    request_id: set.request_id.get(),
                    status: RndisStatus(set.status.get()),
                })
            }
            kind::INDICATE => indicate(message_type, body, received),
            kind::KEEPALIVE => {
                fixed(message_type, body).map(|(id, _): (&U32, _)| Self::Keepalive {
                    request_id: id.get(),
                })
            }
            other => Ok(Self::Other(other)),
        }
    }

    /// The request this message answers, if it answers one.
    pub const fn answers(&self) -> Option<u32> {
        match *self {
            Self::InitializeComplete { request_id, .. }
            | Self::QueryComplete { request_id, .. }
            | Self::SetComplete { request_id, .. } => Some(request_id),
            Self::Indicate { .. } | Self::Keepalive { .. } | Self::Other(_) => None,
        }
    }
}

fn fixed<T>(message_type: u32, body: &[u8]) -> Result<(&T, &[u8]), MessageError>
where
    T: FromBytes + KnownLayout + Immutable + Unaligned,
{
    T::ref_from_prefix(body).map_err(|_| MessageError::Truncated {
        message_type: Some(message_type),
    })
}

/// A refusal may be cut after its status: the rest is read only on success.
fn initialize_complete(
    message_type: u32,
    body: &[u8],
) -> Result<HostMessage<'static>, MessageError> {
    let (short, _): (&StatusBody, _) = fixed(message_type, body)?;
    let request_id = short.request_id.get();
    let status = RndisStatus(short.status.get());
    if !status.is_success() {
        return Ok(HostMessage::InitializeComplete {
            request_id,
            status,
            max_packets_per_message: 0,
            max_transfer_size: 0,
            alignment_factor: 0,
        });
    }
    let (full, _): (&InitializeCompleteBody, _) = fixed(message_type, body)?;
    Ok(HostMessage::InitializeComplete {
        request_id,
        status,
        max_packets_per_message: full.max_packets_per_message.get(),
        max_transfer_size: full.max_transfer_size.get(),
        alignment_factor: full.alignment_factor.get(),
    })
}

fn query_complete(message_type: u32, body: &[u8]) -> Result<HostMessage<'_>, MessageError> {
    let (short, _): (&StatusBody, _) = fixed(message_type, body)?;
    let request_id = short.request_id.get();
    let status = RndisStatus(short.status.get());
    if !status.is_success() {
        return Ok(HostMessage::QueryComplete {
            request_id,
            status,
            info: &[],
        });
    }
    let (full, _): (&QueryCompleteBody, _) = fixed(message_type, body)?;
    let (offset, len) = (full.info_offset.get(), full.info_len.get());
    let info = if len == 0 {
        &[]
    } else {
        Some(offset)
            .filter(|offset| *offset >= MIN_REPLY_INFO_OFFSET)
            .and_then(|offset| part(body, offset, len))
            .ok_or(MessageError::Buffer {
                request_id,
                offset,
                len,
            })?
    };
    Ok(HostMessage::QueryComplete {
        request_id,
        status,
        info,
    })
}

fn indicate<'a>(
    message_type: u32,
    body: &[u8],
    received: &'a [u8],
) -> Result<HostMessage<'a>, MessageError> {
    let (fixed, _): (&IndicateBody, _) = fixed(message_type, body)?;
    let (offset, len) = (fixed.buffer_offset.get(), fixed.buffer_len.get());
    let buffer = Some(offset)
        .filter(|offset| *offset >= MIN_INDICATION_OFFSET)
        .and_then(|offset| part(received.get(HEADER_LEN..)?, offset, len))
        .unwrap_or(&[]);
    Ok(HostMessage::Indicate {
        status: fixed.status.get(),
        buffer,
    })
}

#[cfg(test)]
mod tests;
