// SPDX-License-Identifier: GPL-2.0

//! What a NIC is made with.

use std::path::PathBuf;

use super::nvsp_wire::NvspVersion;
use crate::vmbus::device::Guid;

/// Bytes of an Ethernet header: the difference between MTU and frame length.
pub const ETHERNET_HEADER: u32 = 14;
/// Frame length for guests that do not announce one that this host accepts.
pub const DEFAULT_FRAME: u32 = 1514;
/// Most channels of a NIC.
pub const MAX_QUEUES: u16 = 64;
/// Most frames in one ring packet.
pub const MAX_RX_BATCH: usize = 375;

/// Offloads the NIC announces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OffloadSupport {
    /// IPv4 header, TCP and UDP checksums over IPv4.
    pub checksum_v4: bool,
    /// TCP and UDP checksums over IPv6.
    pub checksum_v6: bool,
    /// UDP among the checksums (guests below NVSP 5 are never told).
    pub checksum_udp: bool,
    /// Large sends over IPv4.
    pub lso_v4: bool,
    /// Large sends over IPv6.
    pub lso_v6: bool,
    /// Coalesced receives: large frames that another NIC sends are not cut up for a guest that agrees.
    pub rsc: bool,
}

type Field = fn(&mut OffloadSupport) -> &mut bool;

/// Names of the offloads, and the fields that they stand for.
const OFFLOADS: [(&str, Field); 6] = [
    ("csum4", |s| &mut s.checksum_v4),
    ("csum6", |s| &mut s.checksum_v6),
    ("udp", |s| &mut s.checksum_udp),
    ("lso4", |s| &mut s.lso_v4),
    ("lso6", |s| &mut s.lso_v6),
    ("rsc", |s| &mut s.rsc),
];

impl OffloadSupport {
    /// Nothing at all.
    pub const NONE: Self = OffloadSupport {
        checksum_v4: false,
        checksum_v6: false,
        checksum_udp: false,
        lso_v4: false,
        lso_v6: false,
        rsc: false,
    };
    /// Everything this host can do.
    pub const ALL: Self = OffloadSupport {
        checksum_v4: true,
        checksum_v6: true,
        checksum_udp: true,
        lso_v4: true,
        lso_v6: true,
        rsc: true,
    };
}

impl std::str::FromStr for OffloadSupport {
    type Err = String;

    /// Names joined by `+`, or `all`, or `none`.
    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "all" => return Ok(Self::ALL),
            "none" => return Ok(Self::NONE),
            _ => {}
        }
        let mut support = Self::NONE;
        for name in text.split('+') {
            let Some((_, field)) = OFFLOADS.iter().find(|(known, _)| *known == name) else {
                let known: Vec<&str> = OFFLOADS.iter().map(|(name, _)| *name).collect();
                let known = known.join(", ");
                return Err(format!(
                    "offloads: '{name}' is none of {known} (joined by +), all, none"
                ));
            };
            *field(&mut support) = true;
        }
        Ok(support)
    }
}

impl Default for OffloadSupport {
    fn default() -> Self {
        OffloadSupport {
            checksum_v4: true,
            checksum_v6: true,
            checksum_udp: true,
            lso_v4: true,
            lso_v6: true,
            rsc: false,
        }
    }
}

/// What happens to a frame for the guest that has no place.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RxOverload {
    /// It waits, and the back end keeps what comes behind it.
    #[default]
    Wait,
    /// It is dropped and counted.
    Drop,
}

/// Description of one NIC.
#[derive(Clone, Debug)]
pub struct NicConfig {
    /// Name in logs and counters.
    pub name: String,
    /// Instance GUID of the VMBus device.
    pub instance: Guid,
    /// Permanent MAC address.
    pub mac: [u8; 6],
    /// Most channels, the primary included: 1..=64.
    pub max_queues: u16,
    /// Highest NVSP version to agree to.
    pub max_nvsp: NvspVersion,
    /// Highest MTU the guest may choose, in bytes without Ethernet header; not below 1500.
    pub max_mtu: u32,
    /// Link speed in Mbit/s.
    pub speed_mbps: u32,
    /// Link state at the start.
    pub link_up: bool,
    /// Answer to the friendly-name query.
    pub friendly_name: String,
    /// Offloads to announce.
    pub offloads: OffloadSupport,
    /// Entries of the RSS table to announce: 1..=128.
    pub rss_entries: u16,
    /// Most frames in one ring packet: 1..=375.
    pub rx_batch: usize,
    /// What to do when the guest has no room.
    pub rx_overload: RxOverload,
    /// A MAC address the guest set outlives the closing of the channel.
    pub mac_outlives_close: bool,
    /// Where to record the frames.
    pub pcap: Option<PathBuf>,
}

impl NicConfig {
    /// A NIC with the properties Azure shows, one for each `mac`.
    pub fn new(name: impl Into<String>, mac: [u8; 6]) -> Self {
        NicConfig {
            name: name.into(),
            instance: instance_for(mac),
            mac,
            max_queues: 8,
            max_nvsp: NvspVersion::V61,
            max_mtu: 9000,
            speed_mbps: 10_000,
            link_up: true,
            friendly_name: "Network Device".to_owned(),
            offloads: OffloadSupport::default(),
            rss_entries: 128,
            rx_batch: MAX_RX_BATCH,
            rx_overload: RxOverload::Wait,
            mac_outlives_close: true,
            pcap: None,
        }
    }

    /// Puts values that are out of range at the end of the range.
    pub(super) fn clamped(mut self) -> Self {
        self.max_queues = self.max_queues.clamp(1, MAX_QUEUES);
        self.max_mtu = self.max_mtu.max(DEFAULT_FRAME - ETHERNET_HEADER);
        self.rss_entries = self.rss_entries.clamp(1, 128);
        self.rx_batch = self.rx_batch.clamp(1, MAX_RX_BATCH);
        self
    }

    /// Frame length in force for a guest that announces `wanted`.
    pub(super) fn frame_len(&self, wanted: u32) -> u32 {
        if (DEFAULT_FRAME..=self.max_mtu + ETHERNET_HEADER).contains(&wanted) {
            wanted
        } else {
            DEFAULT_FRAME
        }
    }
}

/// An instance GUID that holds the MAC address in its node part, as Hyper-V does.
fn instance_for(mac: [u8; 6]) -> Guid {
    let mut guid = [
        0x00, 0x00, 0x00, 0x00, 0x43, 0xda, 0xed, 0x41, 0x93, 0x6a, 0, 0, 0, 0, 0, 0,
    ];
    guid[10..].copy_from_slice(&mac);
    guid
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offloads_are_named() {
        let lso: OffloadSupport = "csum4+lso4".parse().expect("names");
        assert_eq!((lso.checksum_v4, lso.lso_v4, lso.rsc), (true, true, false));
        assert_eq!("all".parse(), Ok(OffloadSupport::ALL));
        assert_eq!("none".parse(), Ok(OffloadSupport::NONE));
        let error = "csum4+tso".parse::<OffloadSupport>().expect_err("unknown");
        assert!(error.contains("'tso'") && error.contains("lso6"), "{error}");
    }

    #[test]
    fn frame_length_follows_the_guest_within_limits() {
        let config = NicConfig::new("nic0", [0; 6]);
        assert_eq!(config.frame_len(1514), 1514);
        assert_eq!(config.frame_len(9014), 9014);
        assert_eq!(config.frame_len(9015), 1514);
        assert_eq!(config.frame_len(1414), 1514);
    }
}
