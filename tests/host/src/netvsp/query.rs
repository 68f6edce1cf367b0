// SPDX-License-Identifier: GPL-2.0

//! OIDs: what the guest reads and writes.

use zerocopy::little_endian::U32;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::config::ETHERNET_HEADER;
use super::filter::PacketFilter;
use super::nic::Nic;
use super::nvsp_wire::NvspVersion;
use super::offload::OffloadError;
use super::oid;
use super::rndis::OidResult;
use super::rndis_wire::status;
use super::rss::{self, Rss};

/// Bytes of the friendly name, padded with zeros.
const FRIENDLY_NAME_LEN: usize = 512;
/// Name of the parameter that holds the MAC address.
const NETWORK_ADDRESS: &str = "NetworkAddress";
/// Value type: UTF-16 string.
const VALUE_STRING: u32 = 2;
const MAC_DIGITS: usize = 12;

/// GEN_RNDIS_CONFIG_PARAMETER; offsets count from its start.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct ConfigParameter {
    name_offset: U32,
    name_len: U32,
    value_type: U32,
    value_offset: U32,
    value_len: U32,
}

impl Nic {
    /// Answers a query.
    pub(super) fn query(&mut self, oid: u32, _info: &[u8]) -> OidResult {
        let version = self.session.version.unwrap_or(NvspVersion::V1);
        Ok(match oid {
            oid::GEN_MAXIMUM_FRAME_SIZE => word(self.session.frame_len - ETHERNET_HEADER),
            oid::GEN_LINK_SPEED => word(self.link_speed()),
            oid::GEN_MEDIA_CONNECT_STATUS => word(u32::from(!self.link_up)),
            oid::GEN_CURRENT_PACKET_FILTER => word(self.session.filter.bits),
            oid::GEN_FRIENDLY_NAME => friendly_name(&self.config.friendly_name),
            oid::PERMANENT_ADDRESS => self.config.mac.to_vec(),
            oid::CURRENT_ADDRESS => self.mac.to_vec(),
            oid::TCP_OFFLOAD_HARDWARE_CAPABILITIES => self.session.supported.describe(version),
            oid::TCP_OFFLOAD_CURRENT_CONFIG => self.session.offloads.describe(version),
            oid::GEN_RECEIVE_SCALE_CAPABILITIES if version >= NvspVersion::V5 => {
                rss::capabilities(self.config.max_queues, self.config.rss_entries)
            }
            _ => return Err(status::NOT_SUPPORTED),
        })
    }

    /// Carries out a set.
    pub(super) fn set(&mut self, oid: u32, info: &[u8]) -> Result<(), u32> {
        match oid {
            oid::GEN_CURRENT_PACKET_FILTER => self.set_filter(info),
            oid::MULTICAST_LIST => self.set_groups(info),
            oid::TCP_OFFLOAD_PARAMETERS => self.set_offloads(info),
            oid::GEN_RECEIVE_SCALE_PARAMETERS if self.session.at_least(NvspVersion::V5) => {
                self.set_rss(info)
            }
            oid::GEN_RNDIS_CONFIG_PARAMETER => self.set_parameter(info),
            _ => Err(status::NOT_SUPPORTED),
        }
    }

    /// Link speed in units of 100 bit/s, as far as 32 bits go.
    pub(super) fn link_speed(&self) -> u32 {
        self.speed_mbps.saturating_mul(10_000)
    }

    fn malformed<T>(
        &mut self,
        name: &'static str,
        detail: impl std::fmt::Display,
    ) -> Result<T, u32> {
        self.violation(name, detail);
        Err(status::INVALID_DATA)
    }

    fn set_filter(&mut self, info: &[u8]) -> Result<(), u32> {
        let Ok((bits, _)) = U32::read_from_prefix(info) else {
            return self.malformed("rndis.filter", format!("filter of {} bytes", info.len()));
        };
        self.session.filter.bits = bits.get();
        if bits.get() == 0 {
            self.drop_staged("filter-closed");
        }
        Ok(())
    }

    fn set_groups(&mut self, info: &[u8]) -> Result<(), u32> {
        let chunks = info.chunks_exact(6);
        if !chunks.remainder().is_empty() {
            return self.malformed("rndis.multicast", format!("list of {} bytes", info.len()));
        }
        let groups = chunks.filter_map(|c| c.try_into().ok()).collect();
        self.session.filter = PacketFilter {
            bits: self.session.filter.bits,
            groups,
        };
        Ok(())
    }

    fn set_offloads(&mut self, info: &[u8]) -> Result<(), u32> {
        match self.session.offloads.set(info, &self.session.supported) {
            Ok(offloads) => {
                self.session.offloads = offloads;
                Ok(())
            }
            Err(OffloadError::NotSupported(name)) => {
                tracing::debug!(nic = self.config.name, "offload {name} refused");
                Err(status::NOT_SUPPORTED)
            }
            Err(error) => self.malformed("rndis.offload-parameters", error),
        }
    }

    fn set_rss(&mut self, info: &[u8]) -> Result<(), u32> {
        let current = self.session.rss.as_ref();
        let (queues, entries) = (self.config.max_queues, self.config.rss_entries);
        match Rss::parse(info, current, queues, entries) {
            Ok(rss) => {
                self.session.rss = rss;
                Ok(())
            }
            Err(error) => self.malformed("rndis.rss-parameters", error),
        }
    }

    fn set_parameter(&mut self, info: &[u8]) -> Result<(), u32> {
        let Some((name, kind, value)) = read_parameter(info) else {
            let detail = format!("configuration parameter of {} bytes", info.len());
            return self.malformed("rndis.config-parameter", detail);
        };
        if name != NETWORK_ADDRESS {
            tracing::debug!(nic = self.config.name, "parameter {name} ignored");
            return Ok(());
        }
        match parse_mac(&value).filter(|_| kind == VALUE_STRING) {
            Some(mac) => {
                self.mac = mac;
                Ok(())
            }
            None => {
                let detail = format!("address {value:?} with value type {kind}");
                self.malformed("rndis.config-parameter", detail)
            }
        }
    }
}

fn word(value: u32) -> Vec<u8> {
    value.to_le_bytes().to_vec()
}

fn friendly_name(name: &str) -> Vec<u8> {
    let mut bytes: Vec<u8> = name.encode_utf16().flat_map(u16::to_le_bytes).collect();
    bytes.resize(FRIENDLY_NAME_LEN, 0);
    bytes
}

fn read_parameter(info: &[u8]) -> Option<(String, u32, String)> {
    let (p, _) = ConfigParameter::read_from_prefix(info).ok()?;
    let name = utf16(info, p.name_offset, p.name_len)?;
    let value = utf16(info, p.value_offset, p.value_len)?;
    Some((name, p.value_type.get(), value))
}

fn utf16(info: &[u8], offset: U32, len: U32) -> Option<String> {
    let start = offset.get() as usize;
    let bytes = info.get(start..start.checked_add(len.get() as usize)?)?;
    let units = bytes.chunks_exact(2);
    if !units.remainder().is_empty() {
        return None;
    }
    let units: Vec<u16> = units.map(|u| u16::from_le_bytes([u[0], u[1]])).collect();
    String::from_utf16(&units).ok()
}

/// A unicast address other than zero, from 12 hexadecimal digits.
fn parse_mac(digits: &str) -> Option<[u8; 6]> {
    let hex = digits.len() == MAC_DIGITS && digits.bytes().all(|b| b.is_ascii_hexdigit());
    let value = u64::from_str_radix(digits, 16).ok().filter(|_| hex)?;
    let mac: [u8; 6] = value.to_be_bytes()[2..].try_into().ok()?;
    (mac[0] & 1 == 0 && value != 0).then_some(mac)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn addresses() {
        assert_eq!(
            parse_mac("aA1122334455"),
            Some([0xaa, 0x11, 0x22, 0x33, 0x44, 0x55])
        );
        for bad in [
            "",
            "0211223344",
            "021122334455aa",
            "01005e000001",
            "+21122334455",
            "000000000000",
        ] {
            assert_eq!(parse_mac(bad), None, "{bad}");
        }
    }

    #[test]
    fn friendly_name_is_padded() {
        let name = friendly_name("Network Device");
        assert_eq!(name.len(), 512);
        assert_eq!(name[..4], [b'N', 0, b'e', 0]);
        assert_eq!(name[28..], [0; 484]);
    }

    proptest! {
        #[test]
        fn read_parameter_never_panics(info in proptest::collection::vec(any::<u8>(), 0..80)) {
            let _ = read_parameter(&info);
        }
    }
}
