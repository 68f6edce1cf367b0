// SPDX-License-Identifier: GPL-2.0

//! See `netvsc_fuzz::host_bus`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| netvsc_fuzz::host_bus::run(data));
