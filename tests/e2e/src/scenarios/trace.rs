// SPDX-License-Identifier: GPL-2.0

//! NVSP and RNDIS control messages as tracepoints show them, under the stock driver's names.

use anyhow::{ensure, Result};

use crate::guest::{Guest, SHORT};
use crate::scenario::{Driver, Machine, Scenario, Set};

pub const SCENARIOS: &[Scenario] = &[Scenario {
    name: "tracepoints-show-control-messages",
    about: "netvsc:nvsp_send, nvsp_recv, rndis_send, rndis_recv: each message of a channel change",
    set: Set::Quick,
    machine: Machine::COMMON,
    c_defect: None,
    run: messages,
}];

const EVENTS: [&str; 4] = ["nvsp_send", "nvsp_recv", "rndis_send", "rndis_recv"];
const BEGIN: &str = "cd /sys/kernel/tracing; echo >trace; \
    for event in nvsp_send nvsp_recv rndis_send rndis_recv; do echo 1 >events/netvsc/$event/enable; done";
/// Prints what was seen as `EVENT: dev=...`.
const END: &str = "cd /sys/kernel/tracing; echo 0 >events/netvsc/enable; \
    sed -n 's/.*: \\([a-z_]*: dev=.*\\)/\\1/p' trace";

/// What a channel change is made of, with our driver: HALT, a handshake, an initialisation with its answer, a
/// request for sub-channels, and a table that the host sends unasked.
const EXPECTED: [(&str, &str); 8] = [
    ("rndis_send", "0x3"),
    ("nvsp_send", "0x1"),
    ("nvsp_recv", "0x2"),
    ("rndis_send", "0x2"),
    ("rndis_recv", "0x80000002"),
    ("nvsp_send", "0x85"),
    ("nvsp_recv", "0x85"),
    ("nvsp_recv", "0x86"),
];

fn messages(guest: &Guest) -> Result<()> {
    let most = guest.machine.most_channels();
    guest.shell(BEGIN, SHORT)?;
    let changed = guest.set_channels(2, SHORT);
    let seen = guest.shell(END, SHORT)?;
    changed?;
    guest.set_channels(most, SHORT)?;
    for event in EVENTS {
        let start = format!("{event}: dev=eth0 ");
        let found = seen.lines().any(|line| line.starts_with(&start));
        ensure!(found, "no '{start}' among\n{seen}");
    }
    if guest.driver.get() == Driver::Rust {
        in_detail(&seen)?;
    }
    guest.ping_both_ways()
}

fn in_detail(seen: &str) -> Result<()> {
    for (event, kind) in EXPECTED {
        let start = format!("{event}: dev=eth0 type={kind} len=");
        let found = seen.lines().any(|line| line.starts_with(&start));
        ensure!(found, "no '{start}' among\n{seen}");
    }
    // Each answer has the number of a request.
    let ids = |start: &str| -> Vec<&str> {
        let lines = seen.lines().filter(|line| line.starts_with(start));
        lines.filter_map(|line| line.split(" id=").nth(1)).collect()
    };
    let asked = ids("rndis_send: dev=eth0 ");
    for answer in ids("rndis_recv: dev=eth0 type=0x8000") {
        ensure!(
            asked.contains(&answer),
            "an answer to {answer}, which was not asked:\n{seen}"
        );
    }
    Ok(())
}
