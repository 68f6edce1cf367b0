// SPDX-License-Identifier: GPL-2.0

//! See `netvsc_fuzz::exchange`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| netvsc_fuzz::exchange::run(data));
