// SPDX-License-Identifier: GPL-2.0

//! The receive filter: which frames the host shall deliver. Source: specification 3.7.

/// Value of `OID_GEN_CURRENT_PACKET_FILTER`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(transparent)]
pub struct PacketFilter(u32);

const DIRECTED: u32 = 0x01;
const ALL_MULTICAST: u32 = 0x04;
const BROADCAST: u32 = 0x08;
const PROMISCUOUS: u32 = 0x20;

/// What the network stack wants to see.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Wanted {
    /// `IFF_PROMISC`.
    pub promiscuous: bool,
    /// `IFF_ALLMULTI`, or any multicast address is subscribed.
    pub multicast: bool,
    /// `IFF_BROADCAST`.
    pub broadcast: bool,
}

impl PacketFilter {
    /// Nothing: the interface is down.
    pub const NONE: Self = Self(0);
    /// What `open` sets, until the receive mode is known: own frames, multicast, broadcast.
    pub const OPEN: Self = Self(DIRECTED | ALL_MULTICAST | BROADCAST);

    /// The filter for a receive mode. The host's address lists are never programmed, so one subscribed
    /// group means all of them.
    pub const fn new(wanted: Wanted) -> Self {
        if wanted.promiscuous {
            return Self(PROMISCUOUS);
        }
        let multicast = if wanted.multicast { ALL_MULTICAST } else { 0 };
        let broadcast = if wanted.broadcast { BROADCAST } else { 0 };
        Self(DIRECTED | multicast | broadcast)
    }

    /// The number on the wire.
    pub const fn value(self) -> u32 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_of_the_c_driver() {
        let filter = |promiscuous, multicast, broadcast| {
            PacketFilter::new(Wanted {
                promiscuous,
                multicast,
                broadcast,
            })
            .value()
        };
        assert_eq!(PacketFilter::OPEN.value(), 0x0d);
        assert_eq!(filter(false, true, true), 0x0d);
        assert_eq!(filter(false, false, true), 0x09);
        assert_eq!(filter(true, true, true), 0x20);
    }
}
