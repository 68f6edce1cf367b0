// SPDX-License-Identifier: GPL-2.0

//! NVSP versions and what each of them allows. Source: specification 2.1; `hyperv_net.h`.

/// A version of the network virtual service protocol. Order is age.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum NvspVersion {
    /// Buffers and RNDIS packets.
    V1,
    /// Adds SEND_NDIS_CONFIG (MTU, capabilities) and jumbo frames.
    V2,
    /// Adds VF association and the large receive buffer.
    V4,
    /// Adds sub-channels, receive-side scaling, link speed, NDIS 6.30.
    V5,
    /// Adds messages that Linux does not use.
    V6,
    /// Adds RSC and a correct offset in the send indirection table.
    V61,
}

impl NvspVersion {
    /// What a negotiation tries, newest first.
    pub const NEWEST_FIRST: [Self; 6] =
        [Self::V61, Self::V6, Self::V5, Self::V4, Self::V2, Self::V1];
    /// The newest version known here.
    pub const NEWEST: Self = Self::V61;

    /// The number on the wire.
    pub const fn value(self) -> u32 {
        match self {
            Self::V1 => 0x0000_0002,
            Self::V2 => 0x0003_0002,
            Self::V4 => 0x0004_0000,
            Self::V5 => 0x0005_0000,
            Self::V6 => 0x0006_0000,
            Self::V61 => 0x0006_0001,
        }
    }

    /// Reads the number on the wire.
    pub fn from_value(value: u32) -> Option<Self> {
        Self::NEWEST_FIRST
            .into_iter()
            .find(|version| version.value() == value)
    }

    /// The next version to try when this one was refused.
    pub fn lower(self) -> Option<Self> {
        Self::NEWEST_FIRST
            .into_iter()
            .find(|version| *version < self)
    }

    /// Whether SEND_NDIS_CONFIG exists.
    pub fn has_ndis_config(self) -> bool {
        self >= Self::V2
    }

    /// Whether sub-channels, RSS and link speed queries exist.
    pub fn has_subchannels(self) -> bool {
        self >= Self::V5
    }

    /// NDIS version to announce: (major, minor).
    pub fn ndis_version(self) -> (u32, u32) {
        if self >= Self::V5 {
            (6, 30)
        } else {
            (6, 1)
        }
    }

    /// Largest receive buffer the host accepts, in bytes.
    pub fn max_receive_buffer(self) -> u32 {
        if self >= Self::V4 {
            31 << 20
        } else {
            15 << 20
        }
    }

    /// Largest MTU (without Ethernet header) the driver may offer to the network stack.
    pub fn max_mtu(self) -> u32 {
        if self >= Self::V2 {
            65521
        } else {
            1500
        }
    }
}

/// Largest send buffer in bytes, any version.
pub const MAX_SEND_BUFFER: u32 = 15 << 20;

#[cfg(test)]
mod tests {
    use super::NvspVersion;

    #[test]
    fn lower_walks_down_to_the_first_version() {
        let mut version = NvspVersion::NEWEST;
        let mut seen = vec![version];
        while let Some(lower) = version.lower() {
            version = lower;
            seen.push(version);
        }
        assert_eq!(seen, NvspVersion::NEWEST_FIRST);
    }

    #[test]
    fn values_survive_the_wire() {
        for version in NvspVersion::NEWEST_FIRST {
            assert_eq!(NvspVersion::from_value(version.value()), Some(version));
        }
        assert_eq!(NvspVersion::from_value(0x0006_0002), None);
    }
}
