// SPDX-License-Identifier: GPL-2.0

//! What the user wants of an interface. Outlives every attach, and is replayed to each.

use crate::net::cpu;
use crate::params;
use crate::rndis::{
    address::MacAddress,
    bringup::{self, OnRefusal},
    rss,
    version::NvspVersion,
};
use crate::vmbus::OpenConfig;

/// Bytes of receive buffer: 9709 sections of 1728 bytes, rounded up to a page. The C driver's default.
const RECEIVE_BUFFER: u32 = 16 << 20;
/// Bytes of send buffer: 170 sections of 6144 bytes. The C driver's default.
const SEND_BUFFER: u32 = 170 * 6144;
/// Fewest channels to ask for by default, if there are as many CPUs.
const MIN_DEFAULT_CHANNELS: u32 = 16;
/// Largest packet in the ring: a transfer-page header with 562 ranges, and an NVSP message.
const MAX_PACKET: u32 = 4624;

/// A configuration. Cheap enough to copy for a transaction.
#[derive(Clone)]
pub(crate) struct Settings {
    /// Largest frame payload.
    pub(crate) mtu: u32,
    /// Channels wanted.
    pub(crate) channels: u16,
    /// Address that the user set, if it is not the host's.
    pub(crate) address: Option<MacAddress>,
    /// The host shall verify checksums of received frames.
    pub(crate) rx_checksum: bool,
    /// Have the host coalesce received segments.
    pub(crate) coalesce: bool,
    /// Hash key.
    pub(crate) rss_key: [u8; rss::KEY_LEN],
    /// Indirection table that the user set.
    pub(crate) rss_table: Option<rss::Table>,
    /// What flows are hashed over, for both directions.
    pub(crate) flow_hash: rss::FlowHash,
    /// Bytes of receive buffer.
    pub(crate) receive_buffer: u32,
    /// Bytes of send buffer.
    pub(crate) send_buffer: u32,
}

impl Settings {
    /// What a new interface gets.
    pub(crate) fn new(mtu: u32) -> Self {
        let channels = cpu::default_queues()
            .max(MIN_DEFAULT_CHANNELS)
            .min(rss::MAX_CHANNELS.into());
        Self {
            mtu,
            // At most 64.
            channels: channels as u16,
            address: None,
            rx_checksum: true,
            coalesce: true,
            rss_key: rss::DEFAULT_KEY,
            rss_table: None,
            flow_hash: rss::FlowHash::ALL,
            receive_buffer: RECEIVE_BUFFER,
            send_buffer: SEND_BUFFER,
        }
    }

    /// For the state machine of an attach.
    pub(crate) fn bringup(&self, on_refusal: OnRefusal) -> bringup::Config {
        bringup::Config {
            mtu: self.mtu,
            max_version: NvspVersion::NEWEST,
            receive_buffer: self.receive_buffer,
            send_buffer: self.send_buffer,
            channels: self.channels,
            online_cpus: cpu::online(),
            on_refusal,
            rx_checksum: self.rx_checksum,
            coalesce: self.coalesce,
            rss_key: self.rss_key,
            rss_table: self.rss_table,
            flow_hash: self.flow_hash,
        }
    }

    /// For opening a channel.
    pub(crate) fn open_config() -> OpenConfig {
        OpenConfig {
            ring_bytes: params::ring_bytes(),
            max_packet: MAX_PACKET,
        }
    }
}
