// SPDX-License-Identifier: GPL-2.0

//! The send indirection table: which channel a flow is sent on.
//!
//! The host may send one at any time; until it does, and after sub-channels were opened, flows are spread
//! evenly. Entries of the host are reduced once, when the table is stored, so that a lookup is one load.

use crate::rndis::nvsp::SEND_TABLE_LEN;

const MASK: usize = 0xf;

/// Channel by flow hash; every entry is below the number of channels it was made for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SendTable([u8; SEND_TABLE_LEN]);

impl SendTable {
    /// The even spread over `channels` (0 counts as 1; at most 256).
    pub fn spread(channels: u16) -> Self {
        let mut entries = [0; SEND_TABLE_LEN];
        for (entry, index) in entries.iter_mut().zip(0u32..) {
            *entry = reduce(index, channels);
        }
        Self(entries)
    }

    /// The host's table, each entry modulo `channels`.
    pub fn from_host(host: &[u32; SEND_TABLE_LEN], channels: u16) -> Self {
        Self(host.map(|entry| reduce(entry, channels)))
    }

    /// The channel for a flow.
    pub fn channel(&self, hash: u32) -> u16 {
        let index = usize::try_from(hash).unwrap_or(0) & MASK;
        self.0.get(index).map_or(0, |entry| u16::from(*entry))
    }

    /// The entries, for `ethtool -d`.
    pub const fn entries(&self) -> &[u8; SEND_TABLE_LEN] {
        &self.0
    }
}

fn reduce(entry: u32, channels: u16) -> u8 {
    let rest = entry.checked_rem(u32::from(channels)).unwrap_or(0);
    u8::try_from(rest).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn spread_is_round_robin() {
        let table = SendTable::spread(3);
        assert_eq!(&table.entries()[..7], &[0, 1, 2, 0, 1, 2, 0]);
        assert_eq!(SendTable::spread(0), SendTable::spread(1));
    }

    proptest! {
        #[test]
        fn no_flow_leaves_the_channels(host: [u32; 16], channels in 1u16..=256, hash: u32) {
            let table = SendTable::from_host(&host, channels);
            prop_assert!(table.channel(hash) < channels);
        }
    }
}
