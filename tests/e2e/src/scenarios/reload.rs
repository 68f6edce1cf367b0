// SPDX-License-Identifier: GPL-2.0

//! The module is removed and inserted, over and over.

use anyhow::{ensure, Context, Result};

use crate::guest::{End, Guest, SHORT};
use crate::scenario::{Driver, Machine, Scenario, Set};

pub const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "module-is-reloaded-under-traffic",
        about: "three times; nothing stays open at the host, and traffic comes back",
        set: Set::Quick,
        machine: Machine::COMMON,
        c_defect: None,
        run: thrice,
    },
    Scenario {
        name: "drivers-take-turns-twenty-times",
        about: "ours and the C driver alternately on the same NICs, under traffic",
        set: Set::Full,
        machine: Machine::COMMON,
        c_defect: Some("needs both drivers; run with --driver rust"),
        run: alternately,
    },
];

fn thrice(guest: &Guest) -> Result<()> {
    let driver = guest.driver.get();
    for _ in 0..3 {
        turn(guest, driver)?;
    }
    Ok(())
}

fn alternately(guest: &Guest) -> Result<()> {
    let own = guest.driver.get();
    for round in 0..10 {
        for driver in [Driver::C, Driver::Rust] {
            let result = turn(guest, driver);
            guest.driver.set(own);
            result.with_context(|| format!("round {round}, {driver} driver"))?;
        }
    }
    ensure!(own == Driver::Rust, "the last turn was the Rust driver's");
    Ok(())
}

/// Once, with the driver under test.
pub(super) fn once(guest: &Guest) -> Result<()> {
    turn(guest, guest.driver.get())
}

/// Unloads whatever is loaded under a flood of packets, checks that the host is left clean, and has
/// `driver` carry traffic.
fn turn(guest: &Guest, driver: Driver) -> Result<()> {
    let flood = guest.spawn_at(End::Near, &["ping", "-f", "-q", "-w", "60", End::Peer.v4()])?;
    guest.unload()?;
    guest.agent.kill(flood, 2)?;
    guest.ended(flood, SHORT)?;
    let counters = guest.host.counters()?;
    ensure!(
        counters.all_open_channels() == 0 && counters.live_gpadls() == 0,
        "after unloading, the host has {} channels open and {} GPADLs live",
        counters.all_open_channels(),
        counters.live_gpadls()
    );
    guest.driver.set(driver);
    guest.load()?;
    guest.configure(guest.machine.most_channels())?;
    guest.ping_both_ways()
}
