// SPDX-License-Identifier: GPL-2.0

//! The asking side of ICMP echo, for IPv4 and IPv6, on a raw socket.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};

use crate::sweep::Echo;
use crate::udp;

const RECEIVE_WAIT: Duration = Duration::from_millis(20);
/// Type, code, checksum, identifier, sequence number.
const HEADER: usize = 8;

/// Sends ICMP echo requests to one address.
pub struct IcmpEcho {
    socket: Socket,
    v6: bool,
    identifier: u16,
    packet: Vec<u8>,
}

impl IcmpEcho {
    /// Towards `to`; needs CAP_NET_RAW.
    pub fn new(to: IpAddr) -> io::Result<IcmpEcho> {
        let (domain, protocol) = match to {
            IpAddr::V4(_) => (Domain::IPV4, Protocol::ICMPV4),
            IpAddr::V6(_) => (Domain::IPV6, Protocol::ICMPV6),
        };
        let socket = Socket::new(domain, Type::RAW, Some(protocol))?;
        socket.set_recv_buffer_size(1 << 20)?;
        socket.connect(&SocketAddr::new(to, 0).into())?;
        socket.set_read_timeout(Some(RECEIVE_WAIT))?;
        Ok(IcmpEcho {
            socket,
            v6: to.is_ipv6(),
            // Any 16 bits that another pinging process is unlikely to use.
            identifier: std::process::id() as u16 ^ 0x5a5a,
            packet: vec![0; 70_000],
        })
    }

    fn echo_types(&self) -> (u8, u8) {
        if self.v6 {
            (128, 129)
        } else {
            (8, 0)
        }
    }
}

impl Echo for IcmpEcho {
    fn send(&mut self, index: u32, payload: &[u8], _first: Option<usize>) -> io::Result<()> {
        let mut packet = Vec::with_capacity(HEADER + payload.len());
        packet.extend_from_slice(&[self.echo_types().0, 0, 0, 0]);
        packet.extend_from_slice(&self.identifier.to_be_bytes());
        packet.extend_from_slice(&(index as u16).to_be_bytes());
        packet.extend_from_slice(payload);
        if !self.v6 {
            // The kernel computes it for IPv6, where it covers addresses too.
            let sum = internet_checksum(&packet);
            packet[2..4].copy_from_slice(&sum.to_be_bytes());
        }
        self.socket.send(&packet).map(drop)
    }

    fn receive(&mut self, buffer: &mut [u8]) -> io::Result<Option<usize>> {
        let Some(length) = udp::receive(&self.socket, &mut self.packet)? else {
            return Ok(None);
        };
        let packet = &self.packet[..length];
        let message = if self.v6 {
            packet
        } else {
            // An IPv4 raw socket delivers the IP header as well.
            let header = packet.first().map_or(0, |b| usize::from(b & 15) * 4);
            packet.get(header..).unwrap_or_default()
        };
        let Some((header, payload)) = message.split_at_checked(HEADER) else {
            return Ok(None);
        };
        if header[0] != self.echo_types().1 || header[4..6] != self.identifier.to_be_bytes() {
            return Ok(None);
        }
        buffer[..payload.len()].copy_from_slice(payload);
        Ok(Some(payload.len()))
    }
}

/// The ones' complement sum of RFC 1071 over `bytes` (checksum field zero), ready to be stored.
fn internet_checksum(bytes: &[u8]) -> u16 {
    let mut sum: u32 = 0;
    for pair in bytes.chunks(2) {
        let low = pair.get(1).copied().unwrap_or(0);
        sum += u32::from(u16::from_be_bytes([pair[0], low]));
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksum_of_the_rfc_1071_example() {
        let bytes = [0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7];
        assert_eq!(internet_checksum(&bytes), !0xddf2);
        assert_eq!(internet_checksum(&[0x12]), !0x1200);
    }
}
