// SPDX-License-Identifier: GPL-2.0

//! UDP echo, both sides.

use std::io::{self, Read};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};

use crate::sweep::Echo;

/// How long one receive waits.
const RECEIVE_WAIT: Duration = Duration::from_millis(20);
const BUFFER: usize = 1 << 20;

/// Sends everything that arrives at `address` back to where it came from. Does not return.
pub fn echo_server(address: SocketAddr) -> io::Result<()> {
    let socket = socket(address)?;
    socket.bind(&address.into())?;
    let socket = UdpSocket::from(socket);
    let mut buffer = vec![0; 70_000];
    loop {
        let (length, from) = socket.recv_from(&mut buffer)?;
        // An echo that cannot be sent is seen by the other side as lost.
        let _ = socket.send_to(&buffer[..length], from);
    }
}

/// The asking side of a UDP echo.
pub struct UdpEcho(Socket);

impl UdpEcho {
    /// Towards the echo server at `to`, from local port `port`, any if 0.
    pub fn new(to: SocketAddr, port: u16) -> io::Result<UdpEcho> {
        let socket = socket(to)?;
        if port != 0 {
            let any: IpAddr = match to {
                SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
                SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
            };
            socket.bind(&SocketAddr::new(any, port).into())?;
        }
        socket.connect(&to.into())?;
        socket.set_read_timeout(Some(RECEIVE_WAIT))?;
        Ok(UdpEcho(socket))
    }
}

impl Echo for UdpEcho {
    fn send(&mut self, _index: u32, payload: &[u8], first: Option<usize>) -> io::Result<()> {
        match first {
            None => self.0.send(payload)?,
            // The kernel makes one datagram of both: the first part becomes its linear data, and on
            // a device with scatter-gather the second a page fragment.
            Some(at) => {
                let (head, tail) = payload.split_at(at.min(payload.len()));
                self.0.send_with_flags(head, nix::libc::MSG_MORE)?;
                self.0.send(tail)?
            }
        };
        Ok(())
    }

    fn receive(&mut self, buffer: &mut [u8]) -> io::Result<Option<usize>> {
        receive(&self.0, buffer)
    }
}

fn socket(address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::DGRAM,
        Some(Protocol::UDP),
    )?;
    socket.set_recv_buffer_size(BUFFER)?;
    Ok(socket)
}

/// One datagram, or `None` when the socket's timeout has passed.
pub(crate) fn receive(socket: &Socket, buffer: &mut [u8]) -> io::Result<Option<usize>> {
    let mut socket = socket;
    match socket.read(buffer) {
        Ok(length) => Ok(Some(length)),
        Err(e) if would_block(&e) => Ok(None),
        // An ICMP error for an earlier datagram: it shows as a loss.
        Err(e) if e.kind() == io::ErrorKind::ConnectionRefused => Ok(None),
        Err(e) => Err(e),
    }
}

fn would_block(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut | io::ErrorKind::Interrupted
    )
}
