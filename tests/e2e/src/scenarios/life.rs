// SPDX-License-Identifier: GPL-2.0

//! From load to unload in one go, a little of everything: for a kernel on which all scenarios take hours.

use std::time::Duration;

use anyhow::{ensure, Context, Result};

use crate::guest::{End, Guest, SHORT};
use crate::scenario::{Machine, Scenario, Set};
use crate::scenarios::echo::set_mtu;
use crate::scenarios::hotplug::replace_peer;
use crate::traffic::Family;

pub const SCENARIOS: &[Scenario] = &[Scenario {
    name: "whole-life-of-an-interface",
    about: "attach, traffic, channels, MTU, down and up, remove and add, unload; nothing leaks",
    set: Set::Full,
    machine: Machine {
        processors: 2,
        ..Machine::COMMON
    },
    c_defect: None,
    run: life,
}];

/// Time that the kernel lets pass before it calls an object leaked.
const LEAK_AGE: Duration = Duration::from_secs(6);

fn life(guest: &Guest) -> Result<()> {
    // What was there before is not ours.
    kmemleak(guest, "echo scan >$1; echo clear >$1")?;
    traffic(guest).context("after attach")?;
    guest.set_channels(1, SHORT)?;
    guest.ping_both_ways().context("with one channel")?;
    guest.set_channels(guest.machine.most_channels(), SHORT)?;
    set_mtu(guest, 4000)?;
    traffic(guest).context("with MTU 4000")?;
    set_mtu(guest, 1500)?;
    for state in ["down", "up"] {
        guest.run(&["ip", "link", "set", "eth0", state])?;
    }
    guest.configure(guest.machine.most_channels())?;
    guest.ping_both_ways().context("after down and up")?;
    replace_peer(guest).context("peer removed and added")?;
    guest.unload()?;
    let counters = guest.host.counters()?;
    ensure!(
        counters.all_open_channels() == 0 && counters.live_gpadls() == 0,
        "after unloading, the host has {} channels open and {} GPADLs live",
        counters.all_open_channels(),
        counters.live_gpadls()
    );
    no_leak(guest)
}

fn traffic(guest: &Guest) -> Result<()> {
    guest.ping_both_ways()?;
    guest.bulk_each_way()?;
    guest.udp_sweep(End::Near, Family::V6, "0-3,700,1452", Some("0-3,500"))
}

/// The kernel's leak detector finds nothing, where there is one.
fn no_leak(guest: &Guest) -> Result<()> {
    kmemleak(guest, "echo scan >$1")?;
    std::thread::sleep(LEAK_AGE);
    let found = kmemleak(guest, "echo scan >$1; cat $1")?;
    ensure!(
        found.trim().is_empty(),
        "memory is leaked:\n{}",
        found.lines().take(40).collect::<Vec<_>>().join("\n")
    );
    Ok(())
}

fn kmemleak(guest: &Guest, script: &str) -> Result<String> {
    let script = format!(
        "set -- /sys/kernel/debug/kmemleak; mount -t debugfs none /sys/kernel/debug 2>/dev/null || true; \
         if [ -e $1 ]; then {script}; fi"
    );
    guest.shell(&script, SHORT * 4)
}
