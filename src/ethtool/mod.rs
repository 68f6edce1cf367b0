// SPDX-License-Identifier: GPL-2.0

//! ethtool operations, one file a subject.

mod channels;
mod statistics;

use crate::device::Adapter;
use crate::net::{ethtool, Device, Rtnl};
use kernel::prelude::*;

impl ethtool::Operations for Adapter {
    const DRIVER: &'static CStr = c"hv_netvsc";

    fn link(dev: &Device<Self>, _rtnl: &Rtnl) -> ethtool::Link {
        ethtool::Link {
            speed: dev.link.speed_mbit(),
            full_duplex: true,
        }
    }

    fn channels(dev: &Device<Self>, _rtnl: &Rtnl) -> ethtool::Channels {
        channels::get(dev)
    }

    fn set_channels(dev: &Device<Self>, rtnl: &Rtnl, combined: u32) -> Result {
        channels::set(dev, rtnl, combined)
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
