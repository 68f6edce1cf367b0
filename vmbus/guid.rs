// SPDX-License-Identifier: GPL-2.0

//! Globally unique identifiers as VMBus puts them on the wire, and the class this driver serves.
#![forbid(unsafe_code)]
// Tests fail by panicking; nothing else may.
#![cfg_attr(
    not(test),
    deny(
        clippy::arithmetic_side_effects,
        clippy::indexing_slicing,
        clippy::unwrap_used,
        clippy::panic
    )
)]

use core::fmt;

/// A GUID in wire order: the first three fields little-endian, the rest as bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(transparent)]
pub struct Guid(pub [u8; 16]);

impl Guid {
    /// Builds the wire form of `{d1-d2-d3-d4...}` as it is written in text.
    pub const fn new(d1: u32, d2: u16, d3: u16, d4: [u8; 8]) -> Self {
        let [a0, a1, a2, a3] = d1.to_le_bytes();
        let [b0, b1] = d2.to_le_bytes();
        let [c0, c1] = d3.to_le_bytes();
        let [e0, e1, e2, e3, e4, e5, e6, e7] = d4;
        Self([
            a0, a1, a2, a3, b0, b1, c0, c1, e0, e1, e2, e3, e4, e5, e6, e7,
        ])
    }
}

/// As it is written in text, and as `hv_vmbus` names its devices.
impl fmt::Display for Guid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a0, a1, a2, a3, b0, b1, c0, c1, e0, e1, rest @ ..] = self.0;
        let d1 = u32::from_le_bytes([a0, a1, a2, a3]);
        let (d2, d3) = (u16::from_le_bytes([b0, b1]), u16::from_le_bytes([c0, c1]));
        write!(f, "{d1:08x}-{d2:04x}-{d3:04x}-{e0:02x}{e1:02x}-")?;
        rest.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// Class of synthetic network adapters, `{f8615163-df3e-46c5-913f-f2d2f965ed0e}`.
pub const NIC_CLASS: Guid = Guid::new(
    0xf861_5163,
    0xdf3e,
    0x46c5,
    [0x91, 0x3f, 0xf2, 0xd2, 0xf9, 0x65, 0xed, 0x0e],
);

#[cfg(test)]
mod tests {
    use super::NIC_CLASS;

    #[test]
    fn nic_class_has_the_bytes_of_the_module_alias() {
        let hex: String = NIC_CLASS.0.iter().map(|b| format!("{b:02x}")).collect();
        assert_eq!(hex, "635161f83edfc546913ff2d2f965ed0e");
    }

    #[test]
    fn nic_class_reads_as_it_is_written() {
        let text = NIC_CLASS.to_string();
        assert_eq!(text, "f8615163-df3e-46c5-913f-f2d2f965ed0e");
    }
}
