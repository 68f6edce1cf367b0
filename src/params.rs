// SPDX-License-Identifier: GPL-2.0

//! Module parameters, of the C driver's names and types.

use crate::vmbus::{params, OpenConfig};

/// Messages of these kinds by default: driver, probe, link, interface up and down, errors.
const DEFAULT_MESSAGES: u32 = 0x1 | 0x2 | 0x4 | 0x10 | 0x20 | 0x40 | 0x80;
const PAGE: u32 = 4096;
/// Fewest pages a ring may have, as in the C driver.
const MIN_RING_PAGES: u32 = 64;

/// Bytes of each ring, header page included: `ring_size` pages, within the limits.
pub(crate) fn ring_bytes() -> u32 {
    params::ring_size()
        .clamp(MIN_RING_PAGES, OpenConfig::MAX_RING / PAGE)
        .wrapping_mul(PAGE)
}

/// Message level of a new interface: `debug`, a number of low bits, or the default if negative.
pub(crate) fn message_level() -> u32 {
    match u32::try_from(params::debug()) {
        Ok(0) => 0,
        Ok(bits) => 1u32
            .checked_shl(bits)
            .map_or(DEFAULT_MESSAGES, |bit| bit.wrapping_sub(1)),
        Err(_) => DEFAULT_MESSAGES,
    }
}
