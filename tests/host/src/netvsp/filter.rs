// SPDX-License-Identifier: GPL-2.0

//! The packet filter: which frames the guest wants, by destination address.

/// Frames to the NIC's own address.
pub const DIRECTED: u32 = 0x01;
/// Frames to the multicast groups of the list.
pub const MULTICAST: u32 = 0x02;
/// Frames to all multicast groups.
pub const ALL_MULTICAST: u32 = 0x04;
/// Frames to the broadcast address.
pub const BROADCAST: u32 = 0x08;
/// All frames.
pub const PROMISCUOUS: u32 = 0x20;

/// The filter in force.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PacketFilter {
    /// Bits as above; 0 receives nothing.
    pub bits: u32,
    /// Groups for [`MULTICAST`].
    pub groups: Vec<[u8; 6]>,
}

impl PacketFilter {
    /// Whether a frame to `destination` passes, for a NIC with address `own`.
    pub fn accepts(&self, destination: &[u8; 6], own: &[u8; 6]) -> bool {
        if self.bits & PROMISCUOUS != 0 {
            return true;
        }
        let wanted = if *destination == [0xff; 6] {
            BROADCAST
        } else if destination[0] & 1 != 0 && self.groups.contains(destination) {
            MULTICAST | ALL_MULTICAST
        } else if destination[0] & 1 != 0 {
            ALL_MULTICAST
        } else if destination == own {
            DIRECTED
        } else {
            0
        };
        self.bits & wanted != 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWN: [u8; 6] = [0, 0x15, 0x5d, 1, 2, 3];
    const OTHER: [u8; 6] = [0, 0x15, 0x5d, 1, 2, 4];
    const GROUP: [u8; 6] = [0x33, 0x33, 0, 0, 0, 1];
    const ALL: [u8; 6] = [0xff; 6];

    #[test]
    fn each_bit_opens_its_kind_only() {
        for (bits, expected) in [
            (0, [false, false, false, false]),
            (DIRECTED, [true, false, false, false]),
            (MULTICAST, [false, false, false, false]),
            (ALL_MULTICAST, [false, false, true, false]),
            (BROADCAST, [false, false, false, true]),
            (PROMISCUOUS, [true, true, true, true]),
            (0x0d, [true, false, true, true]),
        ] {
            let filter = PacketFilter {
                bits,
                groups: Vec::new(),
            };
            let got = [OWN, OTHER, GROUP, ALL].map(|d| filter.accepts(&d, &OWN));
            assert_eq!(got, expected, "{bits:#x}");
        }
    }

    #[test]
    fn listed_groups_pass_the_multicast_bit() {
        let filter = PacketFilter {
            bits: MULTICAST,
            groups: vec![GROUP],
        };
        assert!(filter.accepts(&GROUP, &OWN));
        assert!(!filter.accepts(&[0x33, 0x33, 0, 0, 0, 2], &OWN));
    }
}
