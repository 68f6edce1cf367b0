// SPDX-License-Identifier: GPL-2.0

//! `ethtool -g`, `-G`: ring sizes.

use super::Vtable;
use crate::bindings;
use crate::net::ops;
use kernel::{error::from_result, ffi::c_int};

/// One number for each direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct RingSizes {
    /// Receive.
    pub(crate) rx: u32,
    /// Transmit.
    pub(crate) tx: u32,
}

/// Numbers of `--show-ring`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Rings {
    /// Largest that can be set.
    pub(crate) max: RingSizes,
    /// In use.
    pub(crate) current: RingSizes,
}

impl<T: ops::Operations> Vtable<T> {
    pub(super) extern "C" fn get_ringparam(
        dev: *mut bindings::net_device,
        param: *mut bindings::ethtool_ringparam,
        _kernel: *mut bindings::kernel_ethtool_ringparam,
        _extack: *mut bindings::netlink_ext_ack,
    ) {
        // SAFETY: Called by the core; `param` is valid for the call.
        let ((dev, rtnl), param) = unsafe { (Self::enter(dev), &mut *param) };
        let rings = T::rings(dev, &rtnl);
        param.rx_max_pending = rings.max.rx;
        param.tx_max_pending = rings.max.tx;
        param.rx_pending = rings.current.rx;
        param.tx_pending = rings.current.tx;
    }

    pub(super) extern "C" fn set_ringparam(
        dev: *mut bindings::net_device,
        param: *mut bindings::ethtool_ringparam,
        _kernel: *mut bindings::kernel_ethtool_ringparam,
        _extack: *mut bindings::netlink_ext_ack,
    ) -> c_int {
        // SAFETY: Called by the core; `param` is valid for the call.
        let ((dev, rtnl), param) = unsafe { (Self::enter(dev), &*param) };
        let wanted = RingSizes {
            rx: param.rx_pending,
            tx: param.tx_pending,
        };
        from_result(|| T::set_rings(dev, &rtnl, wanted).map(|()| 0))
    }
}
