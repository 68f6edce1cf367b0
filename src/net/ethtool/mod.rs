// SPDX-License-Identifier: GPL-2.0

//! `ethtool_ops`: the driver's trait and the C table that leads to it.
//!
//! C header: `include/linux/ethtool.h`. All operations run under RTNL.

mod flow_hash;
mod link;
mod registers;
mod rings;
mod rss;

pub(crate) use flow_hash::FlowKind;
pub(crate) use link::{Duplex, Link};
pub(crate) use rings::{RingSizes, Rings};
pub(crate) use rss::{RssChange, RssView};

use super::{ops, Device, Rtnl};
use crate::bindings;
use core::marker::PhantomData;
use kernel::{error::from_result, ffi::c_int, prelude::*};

/// `EOPNOTSUPP`: the device cannot do that.
pub(crate) fn not_supported() -> Error {
    Error::from_errno(-(kernel::bindings::EOPNOTSUPP as c_int))
}

/// Counts of `--show-channels`. Only combined channels exist for the drivers we have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Channels {
    /// Largest number that can be set.
    pub(crate) max_combined: u16,
    /// Number in use.
    pub(crate) combined: u16,
}

/// Writes statistic names, 32 bytes each, into the core's buffer.
pub(crate) struct Strings<'a> {
    buffer: &'a mut [u8],
    at: usize,
}

impl Strings<'_> {
    /// The next name. More names than were announced are left out.
    pub(crate) fn put(&mut self, name: core::fmt::Arguments<'_>) {
        let size = bindings::ETH_GSTRING_LEN as usize;
        if let Some(slot) = self.buffer.get_mut(self.at..self.at.saturating_add(size)) {
            slot.fill(0);
            let room = size.saturating_sub(1);
            let mut text = Truncating {
                slot: slot.get_mut(..room).unwrap_or(&mut []),
                at: 0,
            };
            // A name that is too long is cut: `Truncating` does not fail.
            let _ = core::fmt::write(&mut text, name);
            self.at = self.at.saturating_add(size);
        }
    }
}

/// A writer that keeps what fits.
struct Truncating<'a> {
    slot: &'a mut [u8],
    at: usize,
}

impl core::fmt::Write for Truncating<'_> {
    fn write_str(&mut self, text: &str) -> core::fmt::Result {
        for &byte in text.as_bytes() {
            if let Some(place) = self.slot.get_mut(self.at) {
                *place = byte;
                self.at = self.at.saturating_add(1);
            }
        }
        Ok(())
    }
}

/// Writes statistic values into the core's buffer, in the order of the names.
pub(crate) struct Values<'a> {
    buffer: &'a mut [u64],
    at: usize,
}

impl Values<'_> {
    /// The next value. More values than were announced are left out.
    pub(crate) fn put(&mut self, value: u64) {
        if let Some(place) = self.buffer.get_mut(self.at) {
            *place = value;
            self.at = self.at.saturating_add(1);
        }
    }
}

/// The ethtool side of a driver.
pub(crate) trait Operations: Sized + 'static {
    /// Name shown by `ethtool -i`.
    const DRIVER: &'static CStr;
    /// Bytes of the hash key.
    const RSS_KEY_LEN: u32;
    /// Words of a register dump.
    const REGISTERS: usize;
    /// Version of their layout.
    const REGISTERS_VERSION: u32;

    /// Speed and duplex.
    fn link(dev: &Device<Self>, rtnl: &Rtnl) -> Link;

    /// Sets what `link` tells. It need not have any other effect.
    fn set_link(dev: &Device<Self>, rtnl: &Rtnl, link: Link);

    /// Fills in a register dump.
    fn registers(dev: &Device<Self>, rtnl: &Rtnl, values: &mut [u32]);

    /// `--show-channels`.
    fn channels(dev: &Device<Self>, rtnl: &Rtnl) -> Channels;

    /// `--set-channels combined N`. On error the old number is in effect.
    fn set_channels(dev: &Device<Self>, rtnl: &Rtnl, combined: u32) -> Result;

    /// `--show-ring`.
    fn rings(dev: &Device<Self>, rtnl: &Rtnl) -> Rings;

    /// `--set-ring`; no more than the most that `rings` says. On error the old sizes are in effect.
    fn set_rings(dev: &Device<Self>, rtnl: &Rtnl, wanted: RingSizes) -> Result;

    /// Buckets of the receive hash; 0 without receive-side scaling.
    fn rss_table_len(dev: &Device<Self>, rtnl: &Rtnl) -> u32;

    /// `--show-rxfh`.
    fn rss(dev: &Device<Self>, rtnl: &Rtnl, view: RssView<'_>) -> Result;

    /// `--set-rxfh`; the hash function is Toeplitz. On error the old settings are in effect.
    fn set_rss(dev: &Device<Self>, rtnl: &Rtnl, change: &RssChange<'_>) -> Result;

    /// Whether ports are part of the hash of such flows, beside addresses.
    fn hashes_ports(dev: &Device<Self>, rtnl: &Rtnl, kind: FlowKind) -> bool;

    /// Makes them part of it, or not. On error nothing has changed.
    fn set_hashes_ports(dev: &Device<Self>, rtnl: &Rtnl, kind: FlowKind, ports: bool) -> Result;

    /// Number of statistics.
    fn statistics_count(dev: &Device<Self>, rtnl: &Rtnl) -> usize;

    /// Their names, for as many as were counted.
    fn statistics_names(dev: &Device<Self>, rtnl: &Rtnl, names: &mut Strings<'_>);

    /// Their values, in the order of the names.
    fn statistics(dev: &Device<Self>, rtnl: &Rtnl, values: &mut Values<'_>);

    /// `msglvl`, a mask of `NETIF_MSG_*`.
    fn message_level(dev: &Device<Self>) -> u32;

    /// Sets the message level.
    fn set_message_level(dev: &Device<Self>, level: u32);
}

/// The table, for a device whose private area holds a `T`.
pub(super) fn vtable<T: ops::Operations>() -> &'static bindings::ethtool_ops {
    &Vtable::<T>::OPS
}

struct Vtable<T>(PhantomData<T>);

impl<T: ops::Operations> Vtable<T> {
    const OPS: bindings::ethtool_ops = {
        // SAFETY: Numbers and optional function pointers: all zeroes is "none".
        let mut ops: bindings::ethtool_ops = unsafe { core::mem::zeroed() };
        ops.get_drvinfo = Some(Self::get_drvinfo);
        ops.get_link = Some(bindings::ethtool_op_get_link);
        ops.get_ts_info = Some(bindings::ethtool_op_get_ts_info);
        ops.get_link_ksettings = Some(Self::get_link_ksettings);
        ops.set_link_ksettings = Some(Self::set_link_ksettings);
        ops.get_regs_len = Some(Self::get_regs_len);
        ops.get_regs = Some(Self::get_regs);
        ops.get_ringparam = Some(Self::get_ringparam);
        ops.set_ringparam = Some(Self::set_ringparam);
        ops.get_channels = Some(Self::get_channels);
        ops.set_channels = Some(Self::set_channels);
        ops.get_rx_ring_count = Some(Self::get_rx_ring_count);
        ops.get_rxfh_key_size = Some(Self::get_rxfh_key_size);
        ops.get_rxfh_indir_size = Some(Self::get_rxfh_indir_size);
        ops.get_rxfh = Some(Self::get_rxfh);
        ops.set_rxfh = Some(Self::set_rxfh);
        ops.get_rxfh_fields = Some(Self::get_rxfh_fields);
        ops.set_rxfh_fields = Some(Self::set_rxfh_fields);
        ops.get_sset_count = Some(Self::get_sset_count);
        ops.get_strings = Some(Self::get_strings);
        ops.get_ethtool_stats = Some(Self::get_ethtool_stats);
        ops.get_msglevel = Some(Self::get_msglevel);
        ops.set_msglevel = Some(Self::set_msglevel);
        ops
    };

    /// What every operation gets: our device, under RTNL.
    ///
    /// # Safety
    ///
    /// Called by the core for a device that this table belongs to, with RTNL held during `'a`.
    unsafe fn enter<'a>(dev: *mut bindings::net_device) -> (&'a Device<T>, Rtnl) {
        // SAFETY: The caller's promise.
        unsafe { (Device::from_raw(dev), Rtnl::assume_held()) }
    }

    extern "C" fn get_drvinfo(
        _dev: *mut bindings::net_device,
        info: *mut bindings::ethtool_drvinfo,
    ) {
        // SAFETY: `info` is valid for the call.
        let info = unsafe { &mut *info };
        copy_text(&mut info.driver, T::DRIVER.to_bytes());
        copy_text(&mut info.fw_version, b"N/A");
    }

    extern "C" fn get_channels(
        dev: *mut bindings::net_device,
        channels: *mut bindings::ethtool_channels,
    ) {
        // SAFETY: Called by the core; `channels` is valid for the call.
        let ((dev, rtnl), channels) = unsafe { (Self::enter(dev), &mut *channels) };
        let counts = T::channels(dev, &rtnl);
        channels.max_combined = counts.max_combined.into();
        channels.combined_count = counts.combined.into();
    }

    extern "C" fn set_channels(
        dev: *mut bindings::net_device,
        channels: *mut bindings::ethtool_channels,
    ) -> c_int {
        // SAFETY: Called by the core; `channels` is valid for the call.
        let ((dev, rtnl), channels) = unsafe { (Self::enter(dev), &*channels) };
        from_result(|| {
            if channels.rx_count != 0 || channels.tx_count != 0 || channels.other_count != 0 {
                return Err(EINVAL);
            }
            T::set_channels(dev, &rtnl, channels.combined_count).map(|()| 0)
        })
    }

    extern "C" fn get_sset_count(dev: *mut bindings::net_device, set: c_int) -> c_int {
        if set != bindings::ethtool_stringset_ETH_SS_STATS as c_int {
            return -(kernel::bindings::EOPNOTSUPP as c_int);
        }
        // SAFETY: Called by the core.
        let (dev, rtnl) = unsafe { Self::enter(dev) };
        c_int::try_from(T::statistics_count(dev, &rtnl)).unwrap_or(0)
    }

    extern "C" fn get_strings(dev: *mut bindings::net_device, set: u32, data: *mut u8) {
        if set != bindings::ethtool_stringset_ETH_SS_STATS {
            return;
        }
        // SAFETY: Called by the core.
        let (dev, rtnl) = unsafe { Self::enter(dev) };
        let size =
            T::statistics_count(dev, &rtnl).saturating_mul(bindings::ETH_GSTRING_LEN as usize);
        // SAFETY: The core allocated the buffer for the count that we gave it; the count does not
        // change while RTNL is held.
        let buffer = unsafe { core::slice::from_raw_parts_mut(data, size) };
        T::statistics_names(dev, &rtnl, &mut Strings { buffer, at: 0 });
    }

    extern "C" fn get_ethtool_stats(
        dev: *mut bindings::net_device,
        stats: *mut bindings::ethtool_stats,
        data: *mut u64,
    ) {
        // SAFETY: Called by the core; `stats` is valid for the call.
        let ((dev, rtnl), stats) = unsafe { (Self::enter(dev), &*stats) };
        // SAFETY: The core allocated `n_stats` values.
        let buffer = unsafe { core::slice::from_raw_parts_mut(data, stats.n_stats as usize) };
        T::statistics(dev, &rtnl, &mut Values { buffer, at: 0 });
    }

    extern "C" fn get_msglevel(dev: *mut bindings::net_device) -> u32 {
        // SAFETY: Called by the core.
        T::message_level(unsafe { Device::from_raw(dev) })
    }

    extern "C" fn set_msglevel(dev: *mut bindings::net_device, level: u32) {
        // SAFETY: Called by the core.
        T::set_message_level(unsafe { Device::from_raw(dev) }, level);
    }
}

/// Copies `text` into a fixed C string field, cut to leave room for the terminator.
fn copy_text<C: From<u8> + Copy>(field: &mut [C], text: &[u8]) {
    let Some(room) = field.len().checked_sub(1) else {
        return;
    };
    for (to, &from) in field.iter_mut().zip(text.iter().take(room)) {
        *to = C::from(from);
    }
}
