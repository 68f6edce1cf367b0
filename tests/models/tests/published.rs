// SPDX-License-Identifier: GPL-2.0

//! `src/net/published.rs`: what packet paths read without a lock is there as long as they read it.

use netvsc_models::published;

#[test]
fn a_reader_keeps_what_it_found_until_its_section_ends() {
    loom::model(published::a_reader_keeps_what_it_found_until_its_section_ends);
}

#[test]
fn what_is_lent_is_not_dropped() {
    loom::model(published::what_is_lent_is_not_dropped);
}

#[test]
fn a_slot_is_filled_once() {
    loom::model(published::a_slot_is_filled_once);
}
