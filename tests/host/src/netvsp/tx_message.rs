// SPDX-License-Identifier: GPL-2.0

//! Reads one RNDIS PACKET message of a guest into a frame, refusing what a Hyper-V host refuses.

use zerocopy::FromBytes;

use super::rndis_wire::{
    self as wire, kind, ppi, Lso, TxChecksum, HEADER_LEN, PACKET_LEN, PPI_LEN,
};
use super::tx::Source;
use crate::backend::checksum;
use crate::backend::frame::{Checksum, Frame, Segmentation, L4};
use crate::backend::headers::{Addresses, IpHeaders};
use crate::backend::segment::{self, SegmentError};
use crate::vmbus::gpa::GpaError;

/// Smallest frame: an Ethernet header.
const FRAME_MIN: usize = 14;
/// Longest per-packet information taken.
const PPI_MAX: usize = 1024;
const BODY_LEN: usize = PACKET_LEN - HEADER_LEN;

/// Why a ring packet with frames is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TxError {
    /// No bytes.
    #[error("RNDIS packet without data")]
    Empty,
    /// The send section does not exist or is smaller than what it holds.
    #[error("{size} bytes in send section {section}")]
    Section {
        /// Index.
        section: u32,
        /// Bytes said to be in it.
        size: usize,
    },
    /// The page list, or the memory it names.
    #[error("guest memory: {0}")]
    Memory(#[from] GpaError),
    /// Less than a header is left.
    #[error("{left} bytes left at {at}, less than an RNDIS header")]
    Trailing {
        /// Where.
        at: usize,
        /// Bytes left.
        left: usize,
    },
    /// Not a PACKET message.
    #[error("RNDIS message {0:#x} among frames")]
    NotPacket(u32),
    /// The length of a message does not fit.
    #[error("RNDIS message of {len} bytes in {left}")]
    MessageLength {
        /// Length it claims.
        len: usize,
        /// Bytes left.
        left: usize,
    },
    /// Header and per-packet information lie in more than one range.
    #[error("RNDIS header of {len} bytes at {at} is split over ranges")]
    SplitHeader {
        /// Where.
        at: usize,
        /// Bytes of header and per-packet information.
        len: usize,
    },
    /// Out-of-band fields, virtual circuit or reserved field not 0.
    #[error("RNDIS packet with out-of-band data or virtual circuit")]
    OutOfBand,
    /// The per-packet information does not lie in the message.
    #[error("per-packet information of {len} bytes at {offset}")]
    PpiBounds {
        /// From the body.
        offset: usize,
        /// Bytes.
        len: usize,
    },
    /// An element of it is malformed.
    #[error("per-packet information element {kind:#x} of size {size}, payload at {offset}")]
    PpiElement {
        /// Type word.
        kind: u32,
        /// Size it claims.
        size: usize,
        /// Where its payload starts.
        offset: usize,
    },
    /// The frame does not lie in the message, or is shorter than an Ethernet header.
    #[error("frame of {len} bytes at {offset} in an RNDIS message of {message}")]
    DataBounds {
        /// From the body.
        offset: usize,
        /// Bytes.
        len: usize,
        /// Bytes of the message.
        message: usize,
    },
    /// Longer than the MTU allows.
    #[error("frame of {len} bytes, limit {limit}")]
    Oversize {
        /// Bytes.
        len: usize,
        /// Most bytes.
        limit: usize,
    },
    /// More messages than the host said it takes.
    #[error("more RNDIS messages in one buffer than the host takes")]
    TooMany,
    /// A checksum request that does not fit the frame.
    #[error("checksum request {0:#010x} does not fit the frame")]
    Checksum(u32),
    /// A large send request that is not one.
    #[error("large send request {0:#010x} is not version 2")]
    LsoVersion(u32),
    /// A large send request that does not fit the frame.
    #[error("{0}")]
    Lso(#[from] SegmentError),
    /// The stack's part of the checksum is wrong.
    #[error("checksum field {found:#06x} instead of the pseudo header sum {expected:#06x}")]
    PseudoHeader {
        /// In the frame.
        found: u16,
        /// As it should be.
        expected: u16,
    },
}

impl TxError {
    /// Name of the violation.
    pub fn name(&self) -> &'static str {
        match self {
            TxError::Empty => "rndis.empty",
            TxError::Section { .. } => "nvsp.send-section",
            TxError::Memory(_) => "rndis.memory",
            TxError::Trailing { .. } => "rndis.trailing-bytes",
            TxError::NotPacket(_) => "rndis.type",
            TxError::MessageLength { .. } => "rndis.length",
            TxError::SplitHeader { .. } => "rndis.split-header",
            TxError::OutOfBand => "rndis.out-of-band",
            TxError::PpiBounds { .. } | TxError::PpiElement { .. } => "rndis.ppi",
            TxError::DataBounds { .. } => "rndis.data-bounds",
            TxError::Oversize { .. } => "rndis.oversize",
            TxError::TooMany => "rndis.too-many-messages",
            TxError::Checksum(_) => "rndis.checksum-request",
            TxError::LsoVersion(_) | TxError::Lso(_) => "rndis.lso-request",
            TxError::PseudoHeader { .. } => "rndis.pseudo-header",
        }
    }
}

/// What the per-packet information of a frame asks for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Requests {
    checksum: Option<TxChecksum>,
    lso: Option<Lso>,
    vlan: Option<u16>,
}

/// Reads the message at `at`. Returns the frame and the bytes of the message.
pub(super) fn parse_message(source: &Source, at: usize) -> Result<(Frame, usize), TxError> {
    let left = source.len() - at;
    if left < HEADER_LEN {
        return Err(TxError::Trailing { at, left });
    }
    let (len, body) = read_fixed(source, at, left)?;
    check_body(&body, len)?;
    let ppi_len = body.ppi_len.get() as usize;
    let ppi_offset = body.ppi_offset.get() as usize;
    let header_len = if ppi_len == 0 {
        PACKET_LEN
    } else {
        HEADER_LEN + ppi_offset + ppi_len
    };
    if !source.is_contiguous(at, header_len) {
        return Err(TxError::SplitHeader {
            at,
            len: header_len,
        });
    }
    let mut elements = vec![0; ppi_len];
    source.read(at + HEADER_LEN + ppi_offset, &mut elements)?;
    let requests = read_ppis(&elements)?;
    let mut bytes = vec![0; body.data_len.get() as usize];
    source.read(
        at + HEADER_LEN + body.data_offset.get() as usize,
        &mut bytes,
    )?;
    let mut frame = Frame {
        vlan: requests.vlan,
        ..Frame::new(bytes)
    };
    apply(&mut frame, &requests)?;
    Ok((frame, len))
}

/// Reads the header and the fixed part of the body.
fn read_fixed(
    source: &Source,
    at: usize,
    left: usize,
) -> Result<(usize, wire::PacketBody), TxError> {
    let mut fixed = [0; PACKET_LEN];
    let available = left.min(PACKET_LEN);
    source.read(at, &mut fixed[..available])?;
    let (header, body) = wire::Header::read_from_prefix(&fixed).map_err(|_| TxError::Empty)?;
    let len = header.len.get() as usize;
    if header.kind.get() != kind::PACKET {
        return Err(TxError::NotPacket(header.kind.get()));
    }
    if len < PACKET_LEN || len > left {
        return Err(TxError::MessageLength { len, left });
    }
    let (body, _) = wire::PacketBody::read_from_prefix(body).map_err(|_| TxError::Empty)?;
    Ok((len, body))
}

/// Checks the fields of the body against the length of the message.
fn check_body(body: &wire::PacketBody, len: usize) -> Result<(), TxError> {
    let zeros = [
        body.oob_offset,
        body.oob_len,
        body.oob_count,
        body.vc,
        body.reserved,
    ];
    if zeros.iter().any(|field| field.get() != 0) {
        return Err(TxError::OutOfBand);
    }
    let body_len = len - HEADER_LEN;
    let ppi = (body.ppi_offset.get() as usize, body.ppi_len.get() as usize);
    let ppi_end = ppi.0 + ppi.1;
    let ppi_outside = ppi.0 < BODY_LEN || ppi_end > body_len || ppi.1 > PPI_MAX;
    if ppi.1 != 0 && ppi_outside {
        return Err(TxError::PpiBounds {
            offset: ppi.0,
            len: ppi.1,
        });
    }
    let data = (
        body.data_offset.get() as usize,
        body.data_len.get() as usize,
    );
    let overlap = ppi.1 != 0 && data.0 < ppi_end && ppi.0 < data.0 + data.1;
    if data.0 < BODY_LEN || data.0 + data.1 > body_len || data.1 < FRAME_MIN || overlap {
        return Err(TxError::DataBounds {
            offset: data.0,
            len: data.1,
            message: len,
        });
    }
    Ok(())
}

fn read_ppis(mut elements: &[u8]) -> Result<Requests, TxError> {
    let mut requests = Requests::default();
    while !elements.is_empty() {
        let whole = elements;
        let (header, _) =
            wire::PpiHeader::read_from_prefix(whole).map_err(|_| TxError::PpiElement {
                kind: 0,
                size: whole.len(),
                offset: 0,
            })?;
        let (size, kind) = (header.size.get() as usize, header.kind.get());
        let offset = header.offset.get() as usize;
        let malformed = TxError::PpiElement { kind, size, offset };
        if size < PPI_LEN || size > whole.len() || size % 4 != 0 || offset < PPI_LEN {
            return Err(malformed);
        }
        let payload = whole.get(offset..size).ok_or(malformed.clone())?;
        let payload = payload.get(..4).and_then(|p| p.try_into().ok());
        let payload = payload.map(u32::from_le_bytes);
        match kind {
            ppi::CHECKSUM => requests.checksum = Some(TxChecksum(payload.ok_or(malformed)?)),
            ppi::LSO => requests.lso = Some(Lso(payload.ok_or(malformed)?)),
            ppi::VLAN => {
                requests.vlan = Some(wire::vlan_to_tci(payload.ok_or(malformed)?));
            }
            // The hash is for the host's own use, and hosts skip what they do not know.
            _ => {}
        }
        elements = &whole[size..];
    }
    Ok(requests)
}

/// Turns requests into the state of the frame, checking them against its headers.
fn apply(frame: &mut Frame, requests: &Requests) -> Result<(), TxError> {
    if let Some(lso) = requests.lso {
        return apply_lso(frame, lso);
    }
    let Some(request) = requests.checksum else {
        return Ok(());
    };
    if request.ip_header() && !checksum::fill_ipv4_header(&mut frame.bytes) {
        return Err(TxError::Checksum(request.0));
    }
    let l4 = match (request.tcp(), request.udp()) {
        (false, false) => return Ok(()),
        (true, false) => L4::Tcp,
        (false, true) => L4::Udp,
        (true, true) => return Err(TxError::Checksum(request.0)),
    };
    apply_checksum(frame, request, l4)
}

fn apply_checksum(frame: &mut Frame, request: TxChecksum, l4: L4) -> Result<(), TxError> {
    let bad = TxError::Checksum(request.0);
    let headers = IpHeaders::parse(&frame.bytes).ok_or(bad.clone())?;
    let v6 = matches!(headers.addresses, Addresses::V6(..));
    let at = usize::from(request.l4_offset());
    let fits = headers.l4() == Some(l4)
        && headers.l4_offset == at
        && at + l4.header_len() <= headers.end
        && request.ipv6() == v6
        && request.ipv4() != v6;
    if !fits {
        return Err(bad);
    }
    let length = (headers.end - at) as u32;
    check_pseudo_header(&frame.bytes, &headers, l4, length)?;
    frame.checksum = Checksum::Partial {
        l4_offset: request.l4_offset(),
        l4,
    };
    Ok(())
}

fn apply_lso(frame: &mut Frame, lso: Lso) -> Result<(), TxError> {
    if !lso.version2() {
        return Err(TxError::LsoVersion(lso.0));
    }
    let request = Segmentation {
        mss: lso.mss(),
        l4_offset: lso.l4_offset(),
        v6: lso.ipv6(),
    };
    segment::count(&frame.bytes, &request)?;
    if let Some(headers) = IpHeaders::parse(&frame.bytes) {
        check_pseudo_header(&frame.bytes, &headers, L4::Tcp, 0)?;
    }
    frame.segmentation = Some(request);
    Ok(())
}

/// The stack must have left the sum of the pseudo header in the checksum field: without length for
/// a large send, with it otherwise.
fn check_pseudo_header(
    frame: &[u8],
    headers: &IpHeaders,
    l4: L4,
    length: u32,
) -> Result<(), TxError> {
    let field = headers.l4_offset + l4.checksum_offset();
    let found = match frame.get(field..field + 2) {
        Some(bytes) => u16::from_be_bytes([bytes[0], bytes[1]]),
        None => return Ok(()),
    };
    let expected = checksum::pseudo_header(&headers.addresses, l4, length);
    // 0 and 0xffff are the same number in one's complement.
    if found % 0xffff != expected % 0xffff {
        return Err(TxError::PseudoHeader { found, expected });
    }
    Ok(())
}
