// SPDX-License-Identifier: GPL-2.0

//! Every target in one: the first byte says which, in the order of their names.

/// `data` is the number of a target, and its input.
pub fn run(data: &[u8]) {
    let Some((target, input)) = data.split_first() else {
        return;
    };
    match target {
        0 => crate::bringup::run(input),
        1 => crate::exchange::run(input),
        2 => crate::host_bus::run(input),
        3 => crate::host_control::run(input),
        4 => crate::host_nic::run(input),
        5 => crate::in_flight::run(input),
        6 => crate::nvsp::run(input),
        7 => crate::receive::run(input),
        8 => crate::rndis_control::run(input),
        9 => crate::rndis_packet::run(input),
        10 => crate::tcp_headers::run(input),
        11 => crate::transmit::run(input),
        12 => crate::vmbus_ring::run(input),
        _ => {}
    }
}
