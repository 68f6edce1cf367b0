// SPDX-License-Identifier: GPL-2.0

//! `ethtool DEVICE`, `-s`: speed and duplex.

use super::Vtable;
use crate::bindings;
use crate::net::ops;
use kernel::{error::from_result, ffi::c_int, prelude::*};

/// Link settings of `ethtool DEVICE`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Link {
    /// Mbit/s; `u32::MAX` if unknown.
    pub(crate) speed: u32,
    /// Duplex.
    pub(crate) duplex: Duplex,
}

/// Whether both ends may send at a time. The values are those of the C interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Duplex {
    /// No.
    Half = 0,
    /// Yes.
    Full = 1,
    /// Nobody knows.
    Unknown = 0xff,
}

impl<T: ops::Operations> Vtable<T> {
    pub(super) extern "C" fn get_link_ksettings(
        dev: *mut bindings::net_device,
        settings: *mut bindings::ethtool_link_ksettings,
    ) -> c_int {
        // SAFETY: Called by the core; `settings` is valid for the call.
        let ((dev, rtnl), settings) = unsafe { (Self::enter(dev), &mut *settings) };
        let link = T::link(dev, &rtnl);
        settings.base.speed = link.speed;
        settings.base.duplex = link.duplex as u8;
        settings.base.port = bindings::PORT_OTHER as u8;
        0
    }

    pub(super) extern "C" fn set_link_ksettings(
        dev: *mut bindings::net_device,
        settings: *const bindings::ethtool_link_ksettings,
    ) -> c_int {
        let (mut speed, mut duplex) = (0, 0);
        // SAFETY: Called by the core; it checks what a virtual device may have, and writes what to set.
        let checked = unsafe {
            bindings::ethtool_virtdev_set_link_ksettings(dev, settings, &mut speed, &mut duplex)
        };
        if checked != 0 {
            return checked;
        }
        // SAFETY: Called by the core.
        let (dev, rtnl) = unsafe { Self::enter(dev) };
        from_result(|| {
            let duplex = match duplex {
                0 => Duplex::Half,
                1 => Duplex::Full,
                0xff => Duplex::Unknown,
                _ => return Err(EINVAL),
            };
            T::set_link(dev, &rtnl, Link { speed, duplex });
            Ok(0)
        })
    }
}
