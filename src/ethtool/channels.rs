// SPDX-License-Identifier: GPL-2.0

//! `ethtool --show-channels`, `--set-channels`.

use crate::device::Adapter;
use crate::net::{cpu, ethtool::Channels, Device, Rtnl};
use kernel::prelude::*;

/// Channels in use and the most that host and guest allow. Zeroes when the device is gone.
pub(super) fn get(dev: &Device<Adapter>) -> Channels {
    let control = dev.control.lock();
    match &control.attachment {
        Some(attachment) => Channels {
            // A processor that has left since takes no channel along.
            max_combined: attachment
                .negotiated
                .max_channels(cpu::online())
                .max(attachment.channels()),
            combined: attachment.channels(),
        },
        None => Channels {
            max_combined: 0,
            combined: 0,
        },
    }
}

/// Rebuilds the device with `combined` channels, or leaves it with those it has.
///
/// `EINVAL`: 0, or more than the maximum, or a host without sub-channels (NVSP below 5).
pub(super) fn set(dev: &Device<Adapter>, rtnl: &Rtnl, combined: u32) -> Result {
    let current = get(dev);
    if current.max_combined == 0 {
        return Err(ENODEV);
    }
    let wanted = u16::try_from(combined).unwrap_or(u16::MAX);
    if wanted == 0 || wanted > current.max_combined {
        Adapter::say_err(
            dev,
            format_args!(
                "{combined} channels asked for: choose 1 to {}",
                current.max_combined
            ),
        );
        return Err(EINVAL);
    }
    if wanted == current.combined {
        return Ok(());
    }
    Adapter::reconfigure(dev, rtnl, |settings| settings.channels = wanted)
}
