// SPDX-License-Identifier: GPL-2.0

//! `ethtool --show-rxfh`, `--set-rxfh`: which channel the host delivers a flow on.

use crate::device::Adapter;
use crate::net::{
    ethtool::{not_supported, RssChange, RssView},
    Device, Rtnl,
};
use crate::rndis::rss::{Table, KEY_LEN};
use kernel::prelude::*;

/// Buckets of the host's hash; 0 if it cannot spread, or the device is gone.
pub(super) fn table_len(dev: &Device<Adapter>) -> u32 {
    let control = dev.control.lock();
    control
        .attachment
        .as_ref()
        .map_or(0, |attachment| attachment.negotiated.rss_table_len.into())
}

/// Table and key in effect.
pub(super) fn get(dev: &Device<Adapter>, view: RssView<'_>) -> Result {
    let spread = dev.control.lock().spread()?;
    if let (Some(out), Some(table)) = (view.table, &spread.table) {
        for (to, &channel) in out.iter_mut().zip(table.entries()) {
            *to = channel.into();
        }
    }
    if let Some(out) = view.key {
        for (to, &byte) in out.iter_mut().zip(&spread.key) {
            *to = byte;
        }
    }
    Ok(())
}

/// A new table or key; no channel is closed for it.
///
/// `EOPNOTSUPP`: the host cannot spread. `EINVAL`: an entry names a channel that there is not. `EIO`: the
/// host refuses, and the old ones are in effect again. `ETIMEDOUT`: it does not answer.
pub(super) fn set(dev: &Device<Adapter>, rtnl: &Rtnl, change: &RssChange<'_>) -> Result {
    let table = match change.table {
        Some([]) => return Err(not_supported()),
        Some(entries) => Some(parse(entries)?),
        None => None,
    };
    let key: Option<&[u8; KEY_LEN]> = match change.key {
        Some(bytes) => Some(bytes.try_into().map_err(|_| EINVAL)?),
        None => None,
    };
    if table.is_none() && key.is_none() {
        // The hash function alone: there is just the one.
        return Ok(());
    }
    dev.control
        .lock()
        .set_spread(dev, &rtnl.into(), table.as_deref(), key)
}

/// On the heap: it is big for a kernel stack.
#[inline(never)]
fn parse(entries: &[u32]) -> Result<KBox<Table>> {
    let table = Table::from_entries(entries.iter().copied()).ok_or(EINVAL)?;
    Ok(KBox::new(table, GFP_KERNEL)?)
}
