// SPDX-License-Identifier: GPL-2.0

//! The RNDIS messages of a frame to the guest: one, or one for each piece of a coalesced frame.

use super::buffers::{ReceiveBuffer, RX_DATA_OFFSET};
use super::channel::Staged;
use super::offload::Offloads;
use super::rndis_wire::{self as wire, kind, ppi, rx_checksum, HEADER_LEN, PACKET_LEN, PPI_LEN};
use crate::backend::checksum::{self, Verdict};
use crate::backend::frame::{Checksum, Frame, L4};
use crate::backend::headers::{Addresses, IpHeaders};
use crate::vmbus::gpa::GpaError;
use crate::vmbus::ring::TransferRange;
use zerocopy::IntoBytes;

/// Where the checksum field lies in an IPv4 header.
const IP_CHECKSUM: usize = 10;

/// Writes the messages of a frame into as many of the `free` sections as it has pieces, and appends
/// where they are to `ranges`.
pub(super) fn write(
    receive: &ReceiveBuffer,
    free: &mut impl Iterator<Item = u32>,
    staged: &Staged,
    offloads: &Offloads,
    ranges: &mut Vec<TransferRange>,
) -> Result<(), GpaError> {
    let last = staged.pieces.len().saturating_sub(1);
    let mut at = 0;
    for ((index, len), section) in staged.pieces.iter().enumerate().zip(free) {
        let mut ppis = Vec::with_capacity(5 * (PPI_LEN + 4));
        if index == 0 {
            put_frame_infos(&mut ppis, staged, offloads);
        }
        if last > 0 {
            let id = wire::packet_id(index == 0, index == last, 0);
            put_ppi(&mut ppis, ppi::PACKET_ID, id);
        }
        let piece = &staged.frame.bytes[at..at + len];
        at += len;
        let message_len = if last > 0 && index == 0 {
            write_message(receive, section, &ppis, &without_ip_checksum(piece))?
        } else {
            write_message(receive, section, &ppis, piece)?
        };
        ranges.push(TransferRange {
            len: message_len as u32,
            offset: receive.offset(section) as u32,
        });
    }
    Ok(())
}

/// What is said about a frame as a whole.
fn put_frame_infos(ppis: &mut Vec<u8>, staged: &Staged, offloads: &Offloads) {
    let frame = &staged.frame;
    let verdict = if staged.pieces.len() > 1 {
        coalesced_checksums(frame)
    } else {
        checksum_info(frame, offloads)
    };
    put_ppi(ppis, ppi::CHECKSUM, verdict);
    if let Some(tci) = frame.vlan {
        put_ppi(ppis, ppi::VLAN, wire::tci_to_vlan(tci));
    }
    if let Some(hash) = staged.hash {
        put_ppi(ppis, ppi::HASH, hash);
    }
}

/// Writes one message into a section. Returns its length.
fn write_message(
    receive: &ReceiveBuffer,
    section: u32,
    ppis: &[u8],
    data: &[u8],
) -> Result<usize, GpaError> {
    let len = RX_DATA_OFFSET + data.len();
    let body = wire::PacketBody {
        data_offset: ((RX_DATA_OFFSET - HEADER_LEN) as u32).into(),
        data_len: (data.len() as u32).into(),
        ppi_offset: ((PACKET_LEN - HEADER_LEN) as u32).into(),
        ppi_len: (ppis.len() as u32).into(),
        ..wire::PacketBody::default()
    };
    let mut message = wire::build(kind::PACKET, &body, ppis);
    message[4..8].copy_from_slice(&(len as u32).to_le_bytes());
    receive.write(section, 0, &message)?;
    receive.write(section, RX_DATA_OFFSET, data)?;
    Ok(len)
}

/// The start of a coalesced frame: its IPv4 header has no checksum, as its TCP header has none.
fn without_ip_checksum(piece: &[u8]) -> Vec<u8> {
    let mut bytes = piece.to_vec();
    if piece.get(12..14) == Some(&[0x08, 0x00]) {
        let field = 14 + IP_CHECKSUM;
        if let Some(checksum) = bytes.get_mut(field..field + 2) {
            checksum.fill(0);
        }
    }
    bytes
}

/// What the host says of a coalesced frame: it verified every segment, and did not fill in the sums of
/// the whole.
fn coalesced_checksums(frame: &Frame) -> u32 {
    let tcp = rx_checksum::TCP_OK | rx_checksum::TCP_VALUE_INVALID;
    let ip = rx_checksum::IP_OK | rx_checksum::IP_VALUE_INVALID;
    match frame.segmentation {
        Some(request) if request.v6 => tcp,
        _ => tcp | ip,
    }
}

fn put_ppi(out: &mut Vec<u8>, kind: u32, payload: u32) {
    let header = wire::PpiHeader {
        size: ((PPI_LEN + size_of::<u32>()) as u32).into(),
        kind: kind.into(),
        offset: (PPI_LEN as u32).into(),
    };
    out.extend_from_slice(header.as_bytes());
    out.extend_from_slice(&payload.to_le_bytes());
}

/// Checksum verdict of a frame, for the offloads the guest turned on.
fn checksum_info(frame: &Frame, offloads: &Offloads) -> u32 {
    let Some(headers) = IpHeaders::parse(&frame.bytes) else {
        return 0;
    };
    let v6 = matches!(headers.addresses, Addresses::V6(..));
    let wanted = headers.l4().is_some_and(|l4| offloads.l4(l4, v6).rx);
    if !wanted && (v6 || !offloads.ip4.rx) {
        return 0;
    }
    let verdict = match (frame.checksum, headers.l4()) {
        (Checksum::Verified, Some(l4)) => Verdict {
            l4: Some((l4, true)),
            ip: checksum::verify_ipv4_header(&frame.bytes),
        },
        _ => checksum::verify(&frame.bytes),
    };
    let mut bits = 0;
    if let Some((l4, ok)) = verdict.l4.filter(|_| wanted) {
        bits |= match (l4, ok) {
            (L4::Tcp, true) => rx_checksum::TCP_OK,
            (L4::Tcp, false) => rx_checksum::TCP_FAILED,
            (L4::Udp, true) => rx_checksum::UDP_OK,
            (L4::Udp, false) => rx_checksum::UDP_FAILED,
        };
    }
    if let Some(ok) = verdict.ip.filter(|_| offloads.ip4.rx) {
        bits |= if ok {
            rx_checksum::IP_OK
        } else {
            rx_checksum::IP_FAILED
        };
    }
    bits
}
