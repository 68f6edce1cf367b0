// SPDX-License-Identifier: GPL-2.0

//! The Toeplitz hash of receive side scaling.

/// Bytes of a key.
pub const KEY_LEN: usize = 40;
/// Longest input: two IPv6 addresses and two ports.
const INPUT_MAX: usize = 36;

/// A key expanded to one table per input byte.
#[derive(Clone)]
pub struct Toeplitz {
    tables: Box<[[u32; 256]; INPUT_MAX]>,
}

impl Toeplitz {
    /// Expands `key`.
    pub fn new(key: &[u8; KEY_LEN]) -> Self {
        let mut tables = Box::new([[0; 256]; INPUT_MAX]);
        for (position, table) in tables.iter_mut().enumerate() {
            let windows: [u32; 8] = std::array::from_fn(|bit| window(key, position * 8 + bit));
            for (value, entry) in table.iter_mut().enumerate() {
                for (bit, window) in windows.iter().enumerate() {
                    if value & (0x80 >> bit) != 0 {
                        *entry ^= window;
                    }
                }
            }
        }
        Toeplitz { tables }
    }

    /// Hash of the fields laid end to end, in wire order; bytes beyond 36 are ignored.
    pub fn hash(&self, fields: &[&[u8]]) -> u32 {
        let input = fields.iter().flat_map(|field| field.iter());
        input
            .zip(self.tables.iter())
            .fold(0, |hash, (byte, table)| hash ^ table[usize::from(*byte)])
    }
}

/// 32 bits of the key from bit `at`.
fn window(key: &[u8; KEY_LEN], at: usize) -> u32 {
    let byte = at / 8;
    let mut eight = [0u8; 8];
    for (i, b) in eight.iter_mut().enumerate() {
        *b = key.get(byte + i).copied().unwrap_or(0);
    }
    (u64::from_be_bytes(eight) << (at % 8) >> 32) as u32
}

#[cfg(test)]
pub(crate) const MICROSOFT_KEY: [u8; KEY_LEN] = [
    0x6d, 0x5a, 0x56, 0xda, 0x25, 0x5b, 0x0e, 0xc2, 0x41, 0x67, 0x25, 0x3d, 0x43, 0xa3, 0x8f, 0xb0,
    0xd0, 0xca, 0x2b, 0xcb, 0xae, 0x7b, 0x30, 0xb4, 0x77, 0xcb, 0x2d, 0xa3, 0x80, 0x30, 0xf2, 0x0c,
    0x6a, 0x42, 0xb7, 0x3b, 0xbe, 0xac, 0x01, 0xfa,
];

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{Ipv4Addr, Ipv6Addr};

    /// The suite Microsoft publishes with the definition of RSS hash types:
    /// destination, source, hash of addresses, hash of addresses and ports.
    const IPV4: [(&str, u16, &str, u16, u32, u32); 5] = [
        (
            "161.142.100.80",
            1766,
            "66.9.149.187",
            2794,
            0x323e_8fc2,
            0x51cc_c178,
        ),
        (
            "65.69.140.83",
            4739,
            "199.92.111.2",
            14230,
            0xd718_262a,
            0xc626_b0ea,
        ),
        (
            "12.22.207.184",
            38024,
            "24.19.198.95",
            12898,
            0xd2d0_a5de,
            0x5c2b_394a,
        ),
        (
            "209.142.163.6",
            2217,
            "38.27.205.30",
            48228,
            0x8298_9176,
            0xafc7_327f,
        ),
        (
            "202.188.127.2",
            1303,
            "153.39.163.191",
            44251,
            0x5d18_09c5,
            0x10e8_28a2,
        ),
    ];
    const IPV6: [(&str, u16, &str, u16, u32, u32); 3] = [
        (
            "3ffe:2501:200:3::1",
            1766,
            "3ffe:2501:200:1fff::7",
            2794,
            0x2cc1_8cd5,
            0x4020_7d3d,
        ),
        (
            "ff02::1",
            4739,
            "3ffe:501:8::260:97ff:fe40:efab",
            14230,
            0x0f0c_461c,
            0xdde5_1bbf,
        ),
        (
            "fe80::200:f8ff:fe21:67cf",
            38024,
            "3ffe:1900:4545:3:200:f8ff:fe21:67cf",
            44251,
            0x4b61_e985,
            0x02d1_feef,
        ),
    ];

    #[test]
    fn published_ipv4_vectors() {
        let toeplitz = Toeplitz::new(&MICROSOFT_KEY);
        for (dst, dport, src, sport, addresses, all) in IPV4 {
            let dst: Ipv4Addr = dst.parse().expect("address");
            let src: Ipv4Addr = src.parse().expect("address");
            let (src, dst) = (src.octets(), dst.octets());
            assert_eq!(toeplitz.hash(&[&src, &dst]), addresses);
            let ports = [sport.to_be_bytes(), dport.to_be_bytes()];
            assert_eq!(toeplitz.hash(&[&src, &dst, &ports[0], &ports[1]]), all);
        }
    }

    #[test]
    fn published_ipv6_vectors() {
        let toeplitz = Toeplitz::new(&MICROSOFT_KEY);
        for (dst, dport, src, sport, addresses, all) in IPV6 {
            let dst: Ipv6Addr = dst.parse().expect("address");
            let src: Ipv6Addr = src.parse().expect("address");
            let (src, dst) = (src.octets(), dst.octets());
            assert_eq!(toeplitz.hash(&[&src, &dst]), addresses);
            let ports = [sport.to_be_bytes(), dport.to_be_bytes()];
            assert_eq!(toeplitz.hash(&[&src, &dst, &ports[0], &ports[1]]), all);
        }
    }

    #[test]
    fn zero_key_hashes_to_zero() {
        let toeplitz = Toeplitz::new(&[0; KEY_LEN]);
        assert_eq!(toeplitz.hash(&[&[0xff; 36]]), 0);
    }
}
