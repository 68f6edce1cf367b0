// SPDX-License-Identifier: GPL-2.0

//! Control messages of VMBus (specification section 9.7).
//!
//! These layouts are the host's own reading of the protocol and deliberately not those of the
//! driver: were both to share a structure, both could be wrong together.
//!
//! Every message starts with `type u32, reserved u32`; the structures here describe what follows.

use thiserror::Error;
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::device::Guid;

/// Bytes in front of every message's body.
pub const HEADER: usize = 8;
/// Most bytes of a message.
pub const MAX_MESSAGE: usize = 240;

/// Status of success in the answers of the host.
pub const STATUS_SUCCESS: u32 = 0;
/// STATUS_UNSUCCESSFUL of Windows, for everything that was refused.
pub const STATUS_UNSUCCESSFUL: u32 = 0xc000_0001;

/// Message numbers.
pub mod number {
    #![allow(missing_docs)]
    pub const OFFERCHANNEL: u32 = 1;
    pub const RESCIND_CHANNELOFFER: u32 = 2;
    pub const REQUESTOFFERS: u32 = 3;
    pub const ALLOFFERS_DELIVERED: u32 = 4;
    pub const OPENCHANNEL: u32 = 5;
    pub const OPENCHANNEL_RESULT: u32 = 6;
    pub const CLOSECHANNEL: u32 = 7;
    pub const GPADL_HEADER: u32 = 8;
    pub const GPADL_BODY: u32 = 9;
    pub const GPADL_CREATED: u32 = 10;
    pub const GPADL_TEARDOWN: u32 = 11;
    pub const GPADL_TORNDOWN: u32 = 12;
    pub const RELID_RELEASED: u32 = 13;
    pub const INITIATE_CONTACT: u32 = 14;
    pub const VERSION_RESPONSE: u32 = 15;
    pub const UNLOAD: u32 = 16;
    pub const UNLOAD_RESPONSE: u32 = 17;
    pub const MODIFYCHANNEL: u32 = 22;
    pub const MODIFYCHANNEL_RESPONSE: u32 = 24;
}

/// The name of a message number, for counters and logs.
pub fn name(message: u32) -> &'static str {
    match message {
        number::OFFERCHANNEL => "OFFERCHANNEL",
        number::RESCIND_CHANNELOFFER => "RESCIND_CHANNELOFFER",
        number::REQUESTOFFERS => "REQUESTOFFERS",
        number::ALLOFFERS_DELIVERED => "ALLOFFERS_DELIVERED",
        number::OPENCHANNEL => "OPENCHANNEL",
        number::OPENCHANNEL_RESULT => "OPENCHANNEL_RESULT",
        number::CLOSECHANNEL => "CLOSECHANNEL",
        number::GPADL_HEADER => "GPADL_HEADER",
        number::GPADL_BODY => "GPADL_BODY",
        number::GPADL_CREATED => "GPADL_CREATED",
        number::GPADL_TEARDOWN => "GPADL_TEARDOWN",
        number::GPADL_TORNDOWN => "GPADL_TORNDOWN",
        number::RELID_RELEASED => "RELID_RELEASED",
        number::INITIATE_CONTACT => "INITIATE_CONTACT",
        number::VERSION_RESPONSE => "VERSION_RESPONSE",
        number::UNLOAD => "UNLOAD",
        number::UNLOAD_RESPONSE => "UNLOAD_RESPONSE",
        number::MODIFYCHANNEL => "MODIFYCHANNEL",
        number::MODIFYCHANNEL_RESPONSE => "MODIFYCHANNEL_RESPONSE",
        _ => "unknown",
    }
}

macro_rules! wire {
    ($($(#[$doc:meta])* $name:ident { $($(#[$field_doc:meta])* $field:ident: $type:ty,)* })*) => {
        $($(#[$doc])*
        #[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
        #[repr(C)]
        #[allow(missing_docs)]
        pub struct $name { $($(#[$field_doc])* pub $field: $type,)* })*
    };
}

wire! {
    /// OPENCHANNEL without the 120 bytes of user data.
    OpenChannel {
        relid: U32,
        open_id: U32,
        ring_gpadl: U32,
        target_vp: U32,
        /// Page at which the host-to-guest ring begins.
        downstream_page: U32,
        user_data: [u8; 120],
    }

    /// CLOSECHANNEL and RELID_RELEASED.
    Relid {
        relid: U32,
    }

    /// GPADL_HEADER up to the page numbers of the first range.
    GpadlHeader {
        relid: U32,
        gpadl: U32,
        /// Bytes of all range descriptors: 8 and 8 for each page.
        range_buflen: U16,
        range_count: U16,
        byte_count: U32,
        byte_offset: U32,
    }

    /// GPADL_BODY up to the page numbers.
    GpadlBody {
        message_number: U32,
        gpadl: U32,
    }

    /// GPADL_TEARDOWN.
    GpadlTeardown {
        relid: U32,
        gpadl: U32,
    }

    /// INITIATE_CONTACT.
    InitiateContact {
        version: U32,
        target_vp: U32,
        /// From 5.0: SINT, VTL, 2 bytes reserved, feature flags u32. Below: the address of the
        /// interrupt page.
        target: [u8; 8],
        monitor_page_1: U64,
        monitor_page_2: U64,
    }

    /// MODIFYCHANNEL.
    ModifyChannel {
        relid: U32,
        target_vp: U32,
    }

    /// OFFERCHANNEL.
    OfferChannel {
        class: Guid,
        instance: Guid,
        reserved: [U64; 2],
        flags: U16,
        mmio_megabytes: U16,
        user_data: [u8; 120],
        sub_channel_index: U16,
        reserved_2: U16,
        relid: U32,
        monitor_id: u8,
        monitor_allocated: u8,
        dedicated_interrupt: U16,
        connection_id: U32,
    }

    /// RESCIND_CHANNELOFFER.
    Rescind {
        relid: U32,
    }

    /// OPENCHANNEL_RESULT.
    OpenResult {
        relid: U32,
        open_id: U32,
        status: U32,
    }

    /// GPADL_CREATED.
    GpadlCreated {
        relid: U32,
        gpadl: U32,
        status: U32,
    }

    /// GPADL_TORNDOWN.
    GpadlTorndown {
        gpadl: U32,
    }

    /// VERSION_RESPONSE below 6.0.
    VersionResponse {
        supported: u8,
        connection_state: u8,
        reserved: U16,
        /// From 5.0 the connection for all later messages; below the version.
        connection_id: U32,
    }

    /// VERSION_RESPONSE from 6.0 on, when the version is accepted.
    VersionResponse6 {
        response: VersionResponse,
        features: U32,
    }

    /// MODIFYCHANNEL_RESPONSE.
    ModifyResponse {
        relid: U32,
        status: U32,
    }

    /// Messages that consist of their header: ALLOFFERS_DELIVERED, UNLOAD_RESPONSE.
    Empty {
    }
}

/// A message to the guest.
pub fn encode(message: u32, body: &(impl IntoBytes + Immutable)) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(HEADER + size_of_val(body));
    bytes.extend(message.to_le_bytes());
    bytes.extend([0; 4]);
    bytes.extend(body.as_bytes());
    bytes
}

/// A message from the guest, taken apart.
#[derive(Clone, Copy, Debug)]
pub enum GuestMessage<'a> {
    /// REQUESTOFFERS
    RequestOffers,
    /// OPENCHANNEL
    Open(&'a OpenChannel),
    /// CLOSECHANNEL
    Close(u32),
    /// GPADL_HEADER and its page numbers
    GpadlHeader(&'a GpadlHeader, &'a [u8]),
    /// GPADL_BODY and its page numbers
    GpadlBody(&'a GpadlBody, &'a [u8]),
    /// GPADL_TEARDOWN
    GpadlTeardown(&'a GpadlTeardown),
    /// RELID_RELEASED
    RelidReleased(u32),
    /// INITIATE_CONTACT
    InitiateContact(&'a InitiateContact),
    /// UNLOAD
    Unload,
    /// MODIFYCHANNEL
    ModifyChannel(&'a ModifyChannel),
}

/// A message that cannot be taken apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum ParseError {
    /// Shorter than its fixed part.
    #[error("{name} of {have} bytes; at least {need} are needed")]
    Short {
        /// The message.
        name: &'static str,
        /// Bytes received.
        have: usize,
        /// Bytes of the fixed part.
        need: usize,
    },
    /// Not a message that a guest sends to this host.
    #[error("message number {0}")]
    Unknown(u32),
}

/// The number in a message's header.
pub fn number_of(bytes: &[u8]) -> Option<u32> {
    U32::read_from_prefix(bytes).ok().map(|(n, _)| n.get())
}

impl<'a> GuestMessage<'a> {
    /// Takes a message apart. Bytes behind the fixed part are allowed, as later versions of the
    /// protocol append fields.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, ParseError> {
        let short = |name, need| ParseError::Short {
            name,
            have: bytes.len(),
            need,
        };
        let message = number_of(bytes).ok_or(short("message", HEADER))?;
        let body = bytes.get(HEADER..).ok_or(short(name(message), HEADER))?;
        Ok(match message {
            number::REQUESTOFFERS => Self::RequestOffers,
            number::OPENCHANNEL => Self::Open(fixed(message, body)?.0),
            number::CLOSECHANNEL => Self::Close(fixed::<Relid>(message, body)?.0.relid.get()),
            number::GPADL_HEADER => {
                let (header, pfns) = fixed(message, body)?;
                Self::GpadlHeader(header, pfns)
            }
            number::GPADL_BODY => {
                let (body, pfns) = fixed(message, body)?;
                Self::GpadlBody(body, pfns)
            }
            number::GPADL_TEARDOWN => Self::GpadlTeardown(fixed(message, body)?.0),
            number::RELID_RELEASED => {
                Self::RelidReleased(fixed::<Relid>(message, body)?.0.relid.get())
            }
            number::INITIATE_CONTACT => Self::InitiateContact(fixed(message, body)?.0),
            number::UNLOAD => Self::Unload,
            number::MODIFYCHANNEL => Self::ModifyChannel(fixed(message, body)?.0),
            other => return Err(ParseError::Unknown(other)),
        })
    }
}

fn fixed<T>(message: u32, body: &[u8]) -> Result<(&T, &[u8]), ParseError>
where
    T: FromBytes + Immutable + KnownLayout + Unaligned,
{
    T::ref_from_prefix(body).map_err(|_| ParseError::Short {
        name: name(message),
        have: HEADER + body.len(),
        need: HEADER + size_of::<T>(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::mem::offset_of;

    #[test]
    fn sizes_are_those_of_the_specification() {
        assert_eq!(HEADER + size_of::<OfferChannel>(), 196);
        assert_eq!(HEADER + size_of::<OpenChannel>(), 148);
        assert_eq!(HEADER + size_of::<OpenResult>(), 20);
        assert_eq!(HEADER + size_of::<Relid>(), 12);
        assert_eq!(HEADER + size_of::<GpadlHeader>(), 28);
        assert_eq!(HEADER + size_of::<GpadlBody>(), 16);
        assert_eq!(HEADER + size_of::<GpadlCreated>(), 20);
        assert_eq!(HEADER + size_of::<GpadlTeardown>(), 16);
        assert_eq!(HEADER + size_of::<GpadlTorndown>(), 12);
        assert_eq!(HEADER + size_of::<InitiateContact>(), 40);
        assert_eq!(HEADER + size_of::<VersionResponse>(), 16);
        assert_eq!(HEADER + size_of::<VersionResponse6>(), 20);
        assert_eq!(HEADER + size_of::<ModifyChannel>(), 16);
        assert_eq!(HEADER + size_of::<ModifyResponse>(), 16);
        assert_eq!(HEADER + offset_of!(OfferChannel, sub_channel_index), 180);
        assert_eq!(HEADER + offset_of!(OfferChannel, relid), 184);
        assert_eq!(HEADER + offset_of!(OfferChannel, connection_id), 192);
        assert_eq!(HEADER + offset_of!(InitiateContact, target), 16);
    }

    #[test]
    fn short_and_unknown_messages_are_errors() {
        assert!(matches!(
            GuestMessage::parse(&[5, 0]),
            Err(ParseError::Short { have: 2, .. })
        ));
        let mut open = vec![0; 147];
        open[0] = number::OPENCHANNEL as u8;
        assert_eq!(
            GuestMessage::parse(&open).unwrap_err(),
            ParseError::Short {
                name: "OPENCHANNEL",
                have: 147,
                need: 148
            }
        );
        open.push(0);
        assert!(matches!(
            GuestMessage::parse(&open),
            Ok(GuestMessage::Open(_))
        ));
        let mut connect = [0; 8];
        connect[0] = 21;
        assert_eq!(
            GuestMessage::parse(&connect).unwrap_err(),
            ParseError::Unknown(21)
        );
    }

    #[test]
    fn no_bytes_make_the_parser_panic() {
        for first in 0..=255u8 {
            for len in 0..64 {
                let mut bytes = vec![0xa5; len];
                if let Some(byte) = bytes.first_mut() {
                    *byte = first;
                }
                if len >= 4 {
                    bytes[1..4].fill(0);
                }
                let _ = GuestMessage::parse(&bytes);
            }
        }
    }
}
