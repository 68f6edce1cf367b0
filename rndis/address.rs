// SPDX-License-Identifier: GPL-2.0

//! Ethernet addresses, and the named parameter by which a guest changes its own.

use crate::rndis::wire::Writer;
use core::fmt;

/// Bytes of the parameter that [`MacAddress`] is set by: header, name, value.
pub const NETWORK_ADDRESS_PARAMETER_LEN: usize = 72;

const NAME: &[u8; 14] = b"NetworkAddress";
const HEADER_LEN: u32 = 20;
const NAME_LEN: u32 = 28;
const VALUE_LEN: u32 = 24;
const TYPE_STRING: u32 = 2;
const HEX: &[u8; 16] = b"0123456789abcdef";

/// An Ethernet address.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
#[repr(transparent)]
pub struct MacAddress(pub [u8; 6]);

impl MacAddress {
    /// Whether an adapter can have it: neither zero nor a group address.
    pub const fn is_valid(self) -> bool {
        let [first, b, c, d, e, f] = self.0;
        first & 1 == 0 && (first | b | c | d | e | f) != 0
    }

    /// Writes the information buffer of `OID_GEN_RNDIS_CONFIG_PARAMETER` that sets this address.
    pub(super) fn write_parameter(self, out: &mut Writer<'_>) {
        out.u32(HEADER_LEN)
            .u32(NAME_LEN)
            .u32(TYPE_STRING)
            .u32(HEADER_LEN.saturating_add(NAME_LEN))
            .u32(VALUE_LEN);
        for letter in NAME {
            out.u16(u16::from(*letter));
        }
        for byte in self.0 {
            out.u16(hex_digit(byte >> 4)).u16(hex_digit(byte));
        }
    }
}

fn hex_digit(nibble: u8) -> u16 {
    HEX.get(usize::from(nibble & 0xf))
        .map_or(0, |digit| u16::from(*digit))
}

impl fmt::Display for MacAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parameter_is_utf16_hex() {
        let mut out = [0u8; NETWORK_ADDRESS_PARAMETER_LEN];
        let mut writer = Writer::new(&mut out);
        MacAddress([0x02, 0x11, 0x22, 0xab, 0xcd, 0xef]).write_parameter(&mut writer);
        assert_eq!(writer.finish(), Some(NETWORK_ADDRESS_PARAMETER_LEN));
        let text: Vec<u16> = out[20..]
            .chunks(2)
            .map(|c| u16::from_le_bytes([c[0], c[1]]))
            .collect();
        assert_eq!(
            String::from_utf16(&text).unwrap(),
            "NetworkAddress021122abcdef"
        );
    }

    #[test]
    fn zero_and_group_addresses_are_not_valid() {
        assert!(!MacAddress([0; 6]).is_valid());
        assert!(!MacAddress([0xff; 6]).is_valid());
        assert!(!MacAddress([1, 0, 0x5e, 0, 0, 1]).is_valid());
        assert!(MacAddress([0, 0x15, 0x5d, 0, 0, 0]).is_valid());
    }
}
