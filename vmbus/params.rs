// SPDX-License-Identifier: GPL-2.0

//! The module parameters, which C declares (`src/helpers.c`) because Rust's `module!` knows neither C's
//! types nor permissions. Set when the module is loaded, read-only afterwards.

use crate::bindings;

/// `ring_size`: pages of each ring.
pub fn ring_size() -> u32 {
    // SAFETY: Written before the module's init runs, never again (permissions 0444).
    unsafe { (&raw const bindings::netvsc_ring_size).read() }
}

/// `debug`: message level, or -1.
pub fn debug() -> i32 {
    // SAFETY: As for `ring_size`.
    unsafe { (&raw const bindings::netvsc_debug).read() }
}
