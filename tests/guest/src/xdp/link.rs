// SPDX-License-Identifier: GPL-2.0

//! Which program an interface has, changed by netlink: what the kernel says of a refusal comes with it.

use std::os::fd::{AsRawFd, BorrowedFd};

use anyhow::{bail, Context, Result};
use netlink_packet_core::{
    ErrorMessage, NetlinkMessage, NetlinkPayload, NlasIterator, NLM_F_ACK, NLM_F_REQUEST,
};
use netlink_packet_route::link::{LinkAttribute, LinkMessage, LinkXdp};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{Socket, SocketAddr};

/// Who runs the program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// The driver.
    Driver,
    /// The stack.
    Generic,
}

// `include/uapi/linux/if_link.h` and `netlink.h`.
const XDP_FLAGS_SKB_MODE: u32 = 1 << 1;
const XDP_FLAGS_DRV_MODE: u32 = 1 << 2;
const NLMSGERR_ATTR_MSG: u16 = 1;
/// An error repeats the header of the request; what it says of it is behind that.
const REQUEST_HEADER: usize = 16;
/// In place of a descriptor: no program.
const NONE: i32 = -1;

impl Mode {
    fn flags(self) -> u32 {
        match self {
            Mode::Driver => XDP_FLAGS_DRV_MODE,
            Mode::Generic => XDP_FLAGS_SKB_MODE,
        }
    }
}

/// Gives an interface a program, or none.
pub fn set_program(interface: u32, program: Option<BorrowedFd<'_>>, mode: Mode) -> Result<()> {
    let mut link = LinkMessage::default();
    link.header.index = interface;
    link.attributes.push(LinkAttribute::Xdp(vec![
        LinkXdp::Fd(program.map_or(NONE, |program| program.as_raw_fd())),
        LinkXdp::Flags(mode.flags()),
    ]));
    let mut request = NetlinkMessage::from(RouteNetlinkMessage::SetLink(link));
    request.header.flags = NLM_F_REQUEST | NLM_F_ACK;
    request.finalize();
    let mut bytes = vec![0; request.buffer_len()];
    request.serialize(&mut bytes);

    let socket = Socket::new(NETLINK_ROUTE).context("netlink socket")?;
    socket.connect(&SocketAddr::new(0, 0))?;
    socket.set_ext_ack(true)?;
    socket.set_cap_ack(true)?;
    socket.send(&bytes, 0).context("netlink request")?;
    let (answer, _) = socket.recv_from_full().context("netlink answer")?;
    let answer = NetlinkMessage::<RouteNetlinkMessage>::deserialize(&answer)
        .map_err(|e| anyhow::anyhow!("netlink answer: {e}"))?;
    match answer.payload {
        NetlinkPayload::Error(error) if error.code.is_none() => Ok(()),
        NetlinkPayload::Error(error) => match reason(&error) {
            Some(reason) => bail!("{}: {reason}", error.to_io()),
            None => bail!("{}", error.to_io()),
        },
        other => bail!("netlink answers with {other:?}"),
    }
}

/// What the kernel says of it, in words.
fn reason(error: &ErrorMessage) -> Option<String> {
    let attributes = error.header.get(REQUEST_HEADER..)?;
    let message = NlasIterator::new(attributes)
        .filter_map(Result::ok)
        .find(|attribute| attribute.kind() == NLMSGERR_ATTR_MSG)?;
    let text = message.value().split(|&byte| byte == 0).next()?;
    Some(String::from_utf8_lossy(text).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reason_is_found_behind_the_header() {
        let mut error = ErrorMessage::default();
        assert_eq!(reason(&error), None);
        error.header = vec![0; REQUEST_HEADER];
        assert_eq!(reason(&error), None);
        // An offset, and a text of 3 characters, filled up to a multiple of 4.
        error.header.extend([8, 0, 2, 0, 1, 2, 3, 4]);
        error.header.extend([8, 0, 1, 0, b'w', b'h', b'y', 0]);
        assert_eq!(reason(&error).as_deref(), Some("why"));
    }
}
