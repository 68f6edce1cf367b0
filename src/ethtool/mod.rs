// SPDX-License-Identifier: GPL-2.0

//! ethtool operations, one file a subject.

mod channels;
mod flow_hash;
mod rings;
mod rss;
mod statistics;

use crate::device::Adapter;
use crate::net::{ethtool, Config, Device, Rtnl};
use crate::rndis::{nvsp::SEND_TABLE_LEN, rss::KEY_LEN};
use kernel::prelude::*;

impl ethtool::Operations for Adapter {
    const DRIVER: &'static CStr = c"hv_netvsc";
    const RSS_KEY_LEN: u32 = KEY_LEN as u32;
    const REGISTERS: usize = SEND_TABLE_LEN;
    const REGISTERS_VERSION: u32 = 1;

    fn link(dev: &Device<Self>, _rtnl: &Rtnl) -> ethtool::Link {
        ethtool::Link {
            speed: dev.link.speed_mbit(),
            duplex: dev.link.duplex(),
        }
    }

    fn set_link(dev: &Device<Self>, _rtnl: &Rtnl, link: ethtool::Link) {
        dev.link.set_by_user(link.speed, link.duplex);
    }

    fn registers(dev: &Device<Self>, rtnl: &Rtnl, values: &mut [u32]) {
        // The send indirection table, as the C driver shows it.
        let path = dev.path.get_config(&Config::from(rtnl));
        let Some(queue) = path.as_ref().and_then(|path| path.queue(0)) else {
            return;
        };
        for (value, index) in values.iter_mut().zip(0..SEND_TABLE_LEN as u32) {
            *value = queue.shared.channel_of(index).into();
        }
    }

    fn channels(dev: &Device<Self>, _rtnl: &Rtnl) -> ethtool::Channels {
        channels::get(dev)
    }

    fn set_channels(dev: &Device<Self>, rtnl: &Rtnl, combined: u32) -> Result {
        channels::set(dev, rtnl, combined)
    }

    fn rings(dev: &Device<Self>, _rtnl: &Rtnl) -> ethtool::Rings {
        rings::get(dev)
    }

    fn set_rings(dev: &Device<Self>, rtnl: &Rtnl, wanted: ethtool::RingSizes) -> Result {
        rings::set(dev, rtnl, wanted)
    }

    fn rss_table_len(dev: &Device<Self>, _rtnl: &Rtnl) -> u32 {
        rss::table_len(dev)
    }

    fn rss(dev: &Device<Self>, _rtnl: &Rtnl, view: ethtool::RssView<'_>) -> Result {
        rss::get(dev, view)
    }

    fn set_rss(dev: &Device<Self>, rtnl: &Rtnl, change: &ethtool::RssChange<'_>) -> Result {
        rss::set(dev, rtnl, change)
    }

    fn hashes_ports(dev: &Device<Self>, _rtnl: &Rtnl, kind: ethtool::FlowKind) -> bool {
        flow_hash::has_ports(dev, kind)
    }

    fn set_hashes_ports(
        dev: &Device<Self>,
        rtnl: &Rtnl,
        kind: ethtool::FlowKind,
        ports: bool,
    ) -> Result {
        flow_hash::set_ports(dev, rtnl, kind, ports)
    }

    fn statistics_count(dev: &Device<Self>, _rtnl: &Rtnl) -> usize {
        statistics::count(dev)
    }

    fn statistics_names(dev: &Device<Self>, _rtnl: &Rtnl, names: &mut ethtool::Strings<'_>) {
        statistics::names(dev, names);
    }

    fn statistics(dev: &Device<Self>, rtnl: &Rtnl, values: &mut ethtool::Values<'_>) {
        statistics::values(dev, rtnl, values);
    }

    fn message_level(dev: &Device<Self>) -> u32 {
        dev.message_level()
    }

    fn set_message_level(dev: &Device<Self>, level: u32) {
        dev.set_message_level(level);
    }
}
