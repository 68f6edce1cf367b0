// SPDX-License-Identifier: GPL-2.0

//! See `netvsc_fuzz::nvsp`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| netvsc_fuzz::nvsp::run(data));
