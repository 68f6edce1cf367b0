// SPDX-License-Identifier: GPL-2.0

//! What the driver wants from an attach, and what it got.

use super::step::{Step, Steps};
use crate::rndis::address::MacAddress;
use crate::rndis::link::{LinkEvent, LinkSpeed};
use crate::rndis::offload::Offloads;
use crate::rndis::rss::{self, KEY_LEN};
use crate::rndis::version::{NvspVersion, MAX_SEND_BUFFER};
use crate::vmbus::packet::PAGE_SIZE;

/// Whether an attach goes on when the host refuses more than one channel.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum OnRefusal {
    /// Run with one channel, or without RSS: for probe, where a slow device is better than none.
    Continue,
    /// Fail: for reconfiguration, where the old configuration comes back instead. Being granted fewer
    /// channels than asked for is not a refusal.
    Fail,
}

/// What the driver wants.
#[derive(Clone, Debug)]
pub struct Config {
    /// MTU without the Ethernet header.
    pub mtu: u32,
    /// Newest version to offer.
    pub max_version: NvspVersion,
    /// Bytes of receive buffer; rounded up to a page, and down to what the version allows.
    pub receive_buffer: u32,
    /// Bytes of send buffer; rounded up to a page, and down to 15 MiB.
    pub send_buffer: u32,
    /// Channels wanted, the primary included (0 counts as 1).
    pub channels: u16,
    /// Processors online: there are never more channels than these.
    pub online_cpus: u16,
    /// What to do when sub-channels or RSS are refused.
    pub on_refusal: OnRefusal,
    /// Have the host verify checksums of received frames.
    pub rx_checksum: bool,
    /// Have the host coalesce received segments, if it can.
    pub coalesce: bool,
    /// Hash key for RSS.
    pub rss_key: [u8; KEY_LEN],
    /// The user's indirection table; used if it has the host's size and fits the channels.
    pub rss_table: Option<rss::Table>,
    /// What is hashed.
    pub flow_hash: rss::FlowHash,
}

impl Config {
    /// Bytes of receive buffer to share with a host of that version.
    pub fn receive_buffer_len(&self, version: NvspVersion) -> u32 {
        buffer_len(self.receive_buffer, version.max_receive_buffer())
    }

    /// Bytes of send buffer to share.
    pub fn send_buffer_len(&self) -> u32 {
        buffer_len(self.send_buffer, MAX_SEND_BUFFER)
    }
}

/// Rounds up to whole pages; at least one page, at most `max` (a multiple of the page size).
fn buffer_len(wanted: u32, max: u32) -> u32 {
    wanted
        .clamp(PAGE_SIZE, max)
        .checked_next_multiple_of(PAGE_SIZE)
        .unwrap_or(max)
}

/// What the driver got.
#[derive(Clone, Debug)]
pub struct Negotiated {
    /// NVSP version.
    pub version: NvspVersion,
    /// MTU to run with: the one wanted, or the host's if that is lower.
    pub mtu: u32,
    /// Largest MTU the host handles, if it said so.
    pub host_mtu: Option<u32>,
    /// Permanent address.
    pub mac: MacAddress,
    /// Whether the link is up (assumed if the host did not say).
    pub link_up: bool,
    /// Link speed, if the host said.
    pub link_speed: Option<LinkSpeed>,
    /// Offloads in use.
    pub offloads: Offloads,
    /// Bytes of the receive buffer.
    pub receive_buffer: u32,
    /// Bytes of one section of it.
    pub receive_section_len: u32,
    /// Number of its sections.
    pub receive_section_count: u32,
    /// Bytes of the send buffer.
    pub send_buffer: u32,
    /// Bytes of one section of it.
    pub send_section_len: u32,
    /// Number of its sections.
    pub send_section_count: u32,
    /// RNDIS messages that one packet may carry, 1 to 255.
    pub max_packets_per_message: u32,
    /// RNDIS messages in a packet start at multiples of this, a power of two up to 4096.
    pub alignment: u32,
    /// Channels open, the primary included.
    pub channels: u16,
    /// Most channels that the host allows, 1 to 64; processors may allow fewer.
    pub host_channels: u16,
    /// Sub-channels asked for; compare with `channels - 1` to see whether the host gave fewer.
    pub subchannels_requested: u16,
    /// Entries of the indirection table; 0 if the host has no RSS.
    pub rss_table_len: u16,
    /// What the host can hash.
    pub rss_hashes: rss::OfferedHashes,
    /// Whether the host accepted table and key.
    pub rss_enabled: bool,
    /// Whether the user's table is in use. False after the attach means that it did not fit.
    pub user_table: bool,
    /// Requests that the host refused without ending the attach.
    pub refused_steps: u32,
    /// Which requests those were.
    pub refused: Steps,
}

impl Negotiated {
    /// Most channels there can be while `online_cpus` processors are online: one for each.
    pub fn max_channels(&self, online_cpus: u16) -> u16 {
        self.host_channels.min(online_cpus).max(1)
    }

    pub(super) fn new(config: &Config) -> Self {
        Self {
            version: config.max_version,
            mtu: config.mtu,
            host_mtu: None,
            mac: MacAddress::default(),
            link_up: true,
            link_speed: None,
            offloads: Offloads::default(),
            receive_buffer: 0,
            receive_section_len: 0,
            receive_section_count: 0,
            send_buffer: 0,
            send_section_len: 0,
            send_section_count: 0,
            max_packets_per_message: 8,
            alignment: 8,
            channels: 1,
            host_channels: 1,
            subchannels_requested: 0,
            rss_table_len: 0,
            rss_hashes: rss::OfferedHashes::default(),
            rss_enabled: false,
            user_table: false,
            refused_steps: 0,
            refused: Steps::default(),
        }
    }

    /// The indirection table in use: the user's if it fits this attach, else the even spread.
    pub fn rss_table(&self, user: Option<&rss::Table>) -> rss::Table {
        match user {
            Some(table) if self.user_table => *table,
            _ => rss::Table::spread(self.rss_table_len, self.channels),
        }
    }

    /// Notes a request that the host did not grant.
    pub(super) fn refuse(&mut self, step: Step) {
        self.refused_steps = self.refused_steps.saturating_add(1);
        self.refused.add(step);
    }

    /// Takes a link event that came during the attach.
    pub(super) fn apply(&mut self, event: LinkEvent) {
        match event {
            LinkEvent::Up => self.link_up = true,
            LinkEvent::Down => self.link_up = false,
            LinkEvent::Speed(speed) => self.link_speed = Some(speed),
            // Nothing is running yet that would have to ask for its address again.
            LinkEvent::NetworkChange => {}
        }
    }
}
