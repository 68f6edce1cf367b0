// SPDX-License-Identifier: GPL-2.0

//! `ethtool -x`, `-X`: indirection table and hash key.

use super::{not_supported, Vtable};
use crate::bindings;
use crate::net::{ops, Config, Device, Rtnl};
use core::slice;
use kernel::{error::from_result, ffi::c_int};

/// The bit of the one hash function that there is.
const TOEPLITZ: u32 = 1 << bindings::ETH_RSS_HASH_TOP_BIT;

/// What to change of receive-side scaling; `None` leaves it as it is.
pub(crate) struct RssChange<'a> {
    /// A queue for each bucket of the hash.
    pub(crate) table: Option<&'a [u32]>,
    /// The hash key.
    pub(crate) key: Option<&'a [u8]>,
}

/// Where to write the settings in effect; `None` if the core does not ask.
pub(crate) struct RssView<'a> {
    /// A queue for each bucket of the hash.
    pub(crate) table: Option<&'a mut [u32]>,
    /// The hash key.
    pub(crate) key: Option<&'a mut [u8]>,
}

impl<T: ops::Operations> Device<T> {
    /// Whether the indirection table is one that the user set, rather than the default.
    pub(crate) fn rss_table_is_users(&self, _config: &Config<'_>) -> bool {
        // SAFETY: The device is alive.
        unsafe { bindings::netif_is_rxfh_configured(self.as_raw()) }
    }

    /// The table that the user had set is no more: the default is in effect. Calls [`super::Operations::rss`].
    pub(crate) fn rss_table_lost(&self, _rtnl: &Rtnl) {
        // SAFETY: The device is registered, since there is an `Rtnl` for it, and RTNL is held.
        unsafe { bindings::ethtool_rxfh_indir_lost(self.as_raw()) };
    }
}

impl<T: ops::Operations> Vtable<T> {
    pub(super) extern "C" fn get_rx_ring_count(dev: *mut bindings::net_device) -> u32 {
        // SAFETY: Called by the core.
        let (dev, rtnl) = unsafe { Self::enter(dev) };
        T::channels(dev, &rtnl).combined.into()
    }

    pub(super) extern "C" fn get_rxfh_key_size(_dev: *mut bindings::net_device) -> u32 {
        T::RSS_KEY_LEN
    }

    pub(super) extern "C" fn get_rxfh_indir_size(dev: *mut bindings::net_device) -> u32 {
        // SAFETY: Called by the core.
        let (dev, rtnl) = unsafe { Self::enter(dev) };
        T::rss_table_len(dev, &rtnl)
    }

    pub(super) extern "C" fn get_rxfh(
        dev: *mut bindings::net_device,
        param: *mut bindings::ethtool_rxfh_param,
    ) -> c_int {
        // SAFETY: Called by the core; `param` is valid for the call.
        let ((dev, rtnl), param) = unsafe { (Self::enter(dev), &mut *param) };
        let table_len = T::rss_table_len(dev, &rtnl) as usize;
        // SAFETY: Where there is a table or key, the core has allocated it for the sizes that it asked
        // for before; they do not change while RTNL is held. Some callers leave the sizes in `param` zero.
        let view = unsafe {
            RssView {
                table: slice_mut(param.indir, table_len),
                key: slice_mut(param.key, T::RSS_KEY_LEN as usize),
            }
        };
        param.hfunc = TOEPLITZ as u8;
        from_result(|| T::rss(dev, &rtnl, view).map(|()| 0))
    }

    pub(super) extern "C" fn set_rxfh(
        dev: *mut bindings::net_device,
        param: *mut bindings::ethtool_rxfh_param,
        _extack: *mut bindings::netlink_ext_ack,
    ) -> c_int {
        // SAFETY: Called by the core; `param` is valid for the call.
        let ((dev, rtnl), param) = unsafe { (Self::enter(dev), &*param) };
        from_result(|| {
            match u32::from(param.hfunc) {
                bindings::ETH_RSS_HASH_NO_CHANGE | TOEPLITZ => {}
                _ => return Err(not_supported()),
            }
            let table_len = T::rss_table_len(dev, &rtnl) as usize;
            // SAFETY: As in `get_rxfh`.
            let change = unsafe {
                RssChange {
                    table: slice_mut(param.indir, table_len).map(|table| &*table),
                    key: slice_mut(param.key, T::RSS_KEY_LEN as usize).map(|key| &*key),
                }
            };
            T::set_rss(dev, &rtnl, &change).map(|()| 0)
        })
    }
}

/// What `start` points to, unless it is null.
///
/// # Safety
///
/// If `start` is not null, `len` values can be written there, and nobody else uses them during `'a`.
unsafe fn slice_mut<'a, V>(start: *mut V, len: usize) -> Option<&'a mut [V]> {
    // SAFETY: The caller's promise.
    (!start.is_null()).then(|| unsafe { slice::from_raw_parts_mut(start, len) })
}
