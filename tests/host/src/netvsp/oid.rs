// SPDX-License-Identifier: GPL-2.0

//! Object identifiers the NIC knows.

/// Largest payload, Ethernet header excluded.
pub const GEN_MAXIMUM_FRAME_SIZE: u32 = 0x0001_0106;
/// Link speed in units of 100 bit/s.
pub const GEN_LINK_SPEED: u32 = 0x0001_0107;
/// Which frames to receive.
pub const GEN_CURRENT_PACKET_FILTER: u32 = 0x0001_010e;
/// 0 while the link is up.
pub const GEN_MEDIA_CONNECT_STATUS: u32 = 0x0001_0114;
/// RSS capabilities.
pub const GEN_RECEIVE_SCALE_CAPABILITIES: u32 = 0x0001_0203;
/// RSS parameters.
pub const GEN_RECEIVE_SCALE_PARAMETERS: u32 = 0x0001_0204;
/// Name for people, UTF-16.
pub const GEN_FRIENDLY_NAME: u32 = 0x0002_0216;
/// Named parameter; a MAC address is set with it.
pub const GEN_RNDIS_CONFIG_PARAMETER: u32 = 0x0001_021b;
/// MAC address the NIC was made with.
pub const PERMANENT_ADDRESS: u32 = 0x0101_0101;
/// MAC address in use.
pub const CURRENT_ADDRESS: u32 = 0x0101_0102;
/// Multicast groups that the filter bit for listed groups lets in.
pub const MULTICAST_LIST: u32 = 0x0101_0103;
/// Offloads now in force.
pub const TCP_OFFLOAD_CURRENT_CONFIG: u32 = 0xfc01_020b;
/// Offloads wanted.
pub const TCP_OFFLOAD_PARAMETERS: u32 = 0xfc01_020c;
/// Offloads possible.
pub const TCP_OFFLOAD_HARDWARE_CAPABILITIES: u32 = 0xfc01_020d;

const NAMES: [(u32, &str); 14] = [
    (GEN_MAXIMUM_FRAME_SIZE, "GEN_MAXIMUM_FRAME_SIZE"),
    (GEN_LINK_SPEED, "GEN_LINK_SPEED"),
    (GEN_CURRENT_PACKET_FILTER, "GEN_CURRENT_PACKET_FILTER"),
    (GEN_MEDIA_CONNECT_STATUS, "GEN_MEDIA_CONNECT_STATUS"),
    (
        GEN_RECEIVE_SCALE_CAPABILITIES,
        "GEN_RECEIVE_SCALE_CAPABILITIES",
    ),
    (GEN_RECEIVE_SCALE_PARAMETERS, "GEN_RECEIVE_SCALE_PARAMETERS"),
    (GEN_FRIENDLY_NAME, "GEN_FRIENDLY_NAME"),
    (GEN_RNDIS_CONFIG_PARAMETER, "GEN_RNDIS_CONFIG_PARAMETER"),
    (PERMANENT_ADDRESS, "802_3_PERMANENT_ADDRESS"),
    (CURRENT_ADDRESS, "802_3_CURRENT_ADDRESS"),
    (MULTICAST_LIST, "802_3_MULTICAST_LIST"),
    (TCP_OFFLOAD_CURRENT_CONFIG, "TCP_OFFLOAD_CURRENT_CONFIG"),
    (TCP_OFFLOAD_PARAMETERS, "TCP_OFFLOAD_PARAMETERS"),
    (
        TCP_OFFLOAD_HARDWARE_CAPABILITIES,
        "TCP_OFFLOAD_HARDWARE_CAPABILITIES",
    ),
];

/// Name of a known OID, or its number in hexadecimal.
pub fn name(oid: u32) -> String {
    match NAMES.iter().find(|(known, _)| *known == oid) {
        Some((_, name)) => (*name).to_owned(),
        None => format!("{oid:#010x}"),
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn names() {
        assert_eq!(super::name(0x0101_0101), "802_3_PERMANENT_ADDRESS");
        assert_eq!(super::name(0x42), "0x00000042");
    }
}
