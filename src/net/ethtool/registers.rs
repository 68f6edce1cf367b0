// SPDX-License-Identifier: GPL-2.0

//! `ethtool -d`: a register dump.

use super::Vtable;
use crate::bindings;
use crate::net::ops;
use core::slice;
use kernel::ffi::{c_int, c_void};

impl<T: ops::Operations> Vtable<T> {
    pub(super) extern "C" fn get_regs_len(_dev: *mut bindings::net_device) -> c_int {
        T::REGISTERS.saturating_mul(size_of::<u32>()) as c_int
    }

    pub(super) extern "C" fn get_regs(
        dev: *mut bindings::net_device,
        info: *mut bindings::ethtool_regs,
        data: *mut c_void,
    ) {
        // SAFETY: Called by the core; `info` is valid for the call.
        let ((dev, rtnl), info) = unsafe { (Self::enter(dev), &mut *info) };
        info.version = T::REGISTERS_VERSION;
        // SAFETY: The core has allocated, with `vzalloc`, the length that `get_regs_len` says.
        let values = unsafe { slice::from_raw_parts_mut(data.cast::<u32>(), T::REGISTERS) };
        T::registers(dev, &rtnl, values);
    }
}
