// SPDX-License-Identifier: GPL-2.0

//! Link state and speed: what the host answers when asked, and what it says unasked.

use crate::rndis::message::HostMessage;
use crate::rndis::wire::u32_at;

const MEDIA_CONNECT: u32 = 0x4001_000b;
const MEDIA_DISCONNECT: u32 = 0x4001_000c;
const LINK_SPEED_CHANGE: u32 = 0x4001_0013;
const NETWORK_CHANGE: u32 = 0x4001_0018;

/// Link speed in the protocol's unit of 100 bit/s.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
#[repr(transparent)]
pub struct LinkSpeed(pub u32);

impl LinkSpeed {
    /// In Mbit/s, rounded down, as ethtool shows it.
    pub const fn mbit(self) -> u32 {
        self.0 / 10_000
    }
}

/// An indication that concerns the link.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LinkEvent {
    /// The link came up.
    Up,
    /// The link went down.
    Down,
    /// The speed changed.
    Speed(LinkSpeed),
    /// The network behind the link changed: the carrier shall drop and return, so that DHCP runs again.
    NetworkChange,
}

impl LinkEvent {
    /// Reads an indication; `None` for those that do not concern the link, and for a speed change
    /// without a speed.
    pub fn from_indication(status: u32, buffer: &[u8]) -> Option<Self> {
        match status {
            MEDIA_CONNECT => Some(Self::Up),
            MEDIA_DISCONNECT => Some(Self::Down),
            LINK_SPEED_CHANGE => u32_at(buffer, 0).map(LinkSpeed).map(Self::Speed),
            NETWORK_CHANGE => Some(Self::NetworkChange),
            _ => None,
        }
    }

    /// Reads a control message; `None` if it is no indication of the link.
    pub fn from_message(message: &HostMessage<'_>) -> Option<Self> {
        match *message {
            HostMessage::Indicate { status, buffer } => Self::from_indication(status, buffer),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn indications_become_events() {
        let speed = 100_000_000u32.to_le_bytes();
        let read = |status, buffer: &[u8]| LinkEvent::from_indication(status, buffer);
        assert_eq!(read(MEDIA_CONNECT, &[]), Some(LinkEvent::Up));
        assert_eq!(read(MEDIA_DISCONNECT, &[]), Some(LinkEvent::Down));
        assert_eq!(read(NETWORK_CHANGE, &[]), Some(LinkEvent::NetworkChange));
        assert_eq!(
            read(LINK_SPEED_CHANGE, &speed),
            Some(LinkEvent::Speed(LinkSpeed(100_000_000)))
        );
        assert_eq!(read(LINK_SPEED_CHANGE, &speed[..3]), None);
        assert_eq!(read(0x4002_0006, &speed), None);
    }

    #[test]
    fn speed_is_rounded_to_mbit() {
        assert_eq!(LinkSpeed(100_000_000).mbit(), 10_000);
        assert_eq!(LinkSpeed(9_999).mbit(), 0);
    }
}
