// SPDX-License-Identifier: GPL-2.0

//! See `netvsc_fuzz::in_flight`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| netvsc_fuzz::in_flight::run(data));
