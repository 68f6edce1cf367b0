// SPDX-License-Identifier: GPL-2.0

//! Every protocol version a host may speak.

use anyhow::{ensure, Result};

use crate::guest::{End, Guest};
use crate::scenario::{Machine, Scenario, Set};
use crate::traffic::{Bulk, Family};

const fn nvsp(name: &'static str, version: &'static str) -> Scenario {
    Scenario {
        name,
        about: "a host that speaks no newer NVSP: attach, every kind of traffic, channel count",
        set: Set::Full,
        machine: Machine {
            nvsp: Some(version),
            ..Machine::COMMON
        },
        c_defect: None,
        run: traffic_flows,
    }
}

const fn vmbus(name: &'static str, version: &'static str) -> Scenario {
    Scenario {
        name,
        about: "a host that speaks no newer VMBus: attach, every kind of traffic, channel count",
        set: Set::Full,
        machine: Machine {
            vmbus: Some(version),
            processors: 2,
            ..Machine::COMMON
        },
        c_defect: None,
        run: traffic_flows,
    }
}

pub const SCENARIOS: &[Scenario] = &[
    nvsp("nvsp-1-carries-traffic", "1"),
    nvsp("nvsp-2-carries-traffic", "2"),
    nvsp("nvsp-4-carries-traffic", "4"),
    nvsp("nvsp-5-carries-traffic", "5"),
    nvsp("nvsp-6-carries-traffic", "6"),
    nvsp("nvsp-6-1-carries-traffic", "6.1"),
    vmbus("vmbus-4-0-carries-traffic", "4.0"),
    vmbus("vmbus-4-1-carries-traffic", "4.1"),
    vmbus("vmbus-5-0-carries-traffic", "5.0"),
    vmbus("vmbus-5-3-carries-traffic", "5.3"),
    vmbus("vmbus-6-0-carries-traffic", "6.0"),
];

fn traffic_flows(guest: &Guest) -> Result<()> {
    let counters = guest.host.counters()?;
    if let Some(expected) = guest.machine.vmbus {
        let found = counters.vmbus_version();
        ensure!(
            found.as_deref() == Some(expected),
            "the guest speaks VMBus {found:?}"
        );
    }
    if let Some(expected) = guest.machine.nvsp {
        let found = counters.nvsp_version(End::Near);
        ensure!(
            found.as_deref() == Some(expected),
            "the driver speaks NVSP {found:?}"
        );
    }
    guest.ping_both_ways()?;
    guest.icmp_sweep(End::Near, Family::V4, "0-1472")?;
    for from in [End::Near, End::Peer] {
        guest.bulk(Bulk {
            from,
            family: Family::V4,
            connections: 4,
            bytes: 8 << 20,
        })?;
    }
    let most = guest.machine.most_channels();
    let shown = guest.channels(End::Near)?.current;
    ensure!(shown == most, "{shown} channels, {most} expected");
    if most == 1 {
        let argv = ["ethtool", "--set-channels", "eth0", "combined", "2"];
        return guest.refused(&argv, "Invalid argument");
    }
    Ok(())
}
