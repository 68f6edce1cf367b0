// SPDX-License-Identifier: GPL-2.0

//! Raw bindings to the C API that the kernel crate does not bind itself: VMBus, networking, ethtool,
//! and the C helpers of this module.
//!
//! Made by bindgen when the module is built (`Kbuild`, `bindgen_parameters`, `inline_parameters`,
//! `bindings_helper.h`). Only
//! the kernel half of `vmbus/` and `src/net/` may name this module; everything above them is safe
//! code. Types that the kernel crate binds too and that its abstractions take are its own, see the
//! imports below.

// The lints do not apply to what bindgen writes.
#[allow(
    clippy::all,
    clippy::as_underscore,
    clippy::cast_lossless,
    clippy::ptr_as_ptr,
    clippy::ref_as_ptr,
    clippy::undocumented_unsafe_blocks,
    dead_code,
    improper_ctypes,
    missing_docs,
    non_camel_case_types,
    non_snake_case,
    non_upper_case_globals,
    unnecessary_transmutes,
    unreachable_pub,
    unsafe_op_in_unsafe_fn
)]
mod generated {
    pub use kernel::bindings::{device, device_driver, module};
    use pin_init::MaybeZeroable;

    // C's `size_t` and its relatives are the width of a pointer on every kernel.
    type __kernel_size_t = usize;
    type __kernel_ssize_t = isize;
    type __kernel_ptrdiff_t = isize;

    include!(env!("HV_NETVSC_BINDINGS"));
    include!(env!("HV_NETVSC_INLINE"));
}

pub use generated::*;

// In the module with the KUnit suites, what would wait for a host goes to `tests/kunit/bus.c`.
#[cfg(netvsc_kunit)]
pub use generated::{
    netvsc_kunit_close as vmbus_close, netvsc_kunit_establish_gpadl as vmbus_establish_gpadl,
    netvsc_kunit_open as vmbus_open, netvsc_kunit_teardown_gpadl as vmbus_teardown_gpadl,
};
