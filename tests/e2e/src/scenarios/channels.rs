// SPDX-License-Identifier: GPL-2.0

//! `ethtool --show-channels` and `--set-channels`.

use std::time::Duration;

use anyhow::{ensure, Result};

use crate::guest::{End, Guest, SHORT};
use crate::scenario::{Driver, Machine, Scenario, Set};

/// Longest that one change of the channel count may take.
const CHANGE: Duration = Duration::from_secs(30);

pub const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "set-channels-does-what-the-manual-says",
        about: "1, the same again, 0, above the maximum, back to the maximum; traffic goes on",
        set: Set::Quick,
        machine: Machine::COMMON,
        c_defect: None,
        run: session,
    },
    Scenario {
        name: "channels-change-twenty-times-under-traffic",
        about: "from 1 to the maximum and back, over and over, while verified data flows both ways",
        set: Set::Full,
        machine: Machine::COMMON,
        c_defect: None,
        run: under_traffic,
    },
    Scenario {
        name: "channels-change-while-the-interface-is-down",
        about: "the new count is in force when the interface comes up",
        set: Set::Full,
        machine: Machine::COMMON,
        c_defect: None,
        run: while_down,
    },
];

fn session(guest: &Guest) -> Result<()> {
    let most = guest.machine.most_channels();
    shows(guest, most, most)?;
    let traffic = guest.background(End::Near, 2)?;
    change(guest, 1)?;
    shows(guest, most, 1)?;
    traffic.still_runs()?;

    let attaches = guest.host.counters()?.attaches(End::Near)?;
    change(guest, 1)?;
    let again = guest.host.counters()?.attaches(End::Near)?;
    ensure!(
        again == attaches,
        "setting the present count re-attached the device ({attaches} -> {again} attaches)"
    );

    let above = (most + 1).to_string();
    for count in ["0", &above, "99"] {
        refuse(guest, count)?;
        shows(guest, most, 1)?;
    }
    let untouched = guest.host.counters()?.attaches(End::Near)?;
    ensure!(
        untouched == attaches,
        "a refused count re-attached the device"
    );

    let lent = guest.host.counters()?.gpadls(End::Near)?;
    change(guest, most)?;
    shows(guest, most, most)?;
    let kept = guest
        .host
        .counters()?
        .gpadls(End::Near)?
        .intersection(&lent)
        .count();
    ensure!(
        guest.driver.get() != Driver::Rust || kept == 2,
        "the host kept {kept} of the two buffers over the change"
    );
    traffic.finish()?;
    guest.ping_both_ways()
}

fn refuse(guest: &Guest, count: &str) -> Result<()> {
    let argv = ["ethtool", "--set-channels", "eth0", "combined", count];
    guest.refused(&argv, "Invalid argument")
}

/// Sets the count and asks the host how many channels are open.
fn change(guest: &Guest, count: u32) -> Result<()> {
    guest.set_channels(count, CHANGE)?;
    let open = guest.host.counters()?.open_channels(End::Near)?;
    ensure!(
        open == u64::from(count),
        "{count} channels were set, and the host has {open} open"
    );
    // Q5: the C driver leaves the stack's number of queues alone when it goes to one channel.
    if !(guest.driver.get() == Driver::C && count == 1) {
        for kind in ["tx", "rx"] {
            let list = format!("ls -d /sys/class/net/eth0/queues/{kind}-* | wc -l");
            let queues = guest.shell(&list, SHORT)?;
            ensure!(
                queues.trim() == count.to_string(),
                "{count} channels were set, and the stack has {} {kind} queues",
                queues.trim()
            );
        }
    }
    Ok(())
}

fn shows(guest: &Guest, maximum: u32, current: u32) -> Result<()> {
    let channels = guest.channels(End::Near)?;
    ensure!(
        (channels.maximum, channels.current) == (maximum, current),
        "--show-channels says {channels:?}, not {current} of {maximum}"
    );
    Ok(())
}

fn under_traffic(guest: &Guest) -> Result<()> {
    let most = guest.machine.most_channels();
    let there = guest.background(End::Near, 2)?;
    let back = guest.background(End::Peer, 2)?;
    for round in 0..10 {
        for count in [1 + round % (most - 1), most] {
            change(guest, count)?;
            there.still_runs()?;
            back.still_runs()?;
        }
    }
    there.finish()?;
    back.finish()?;
    shows(guest, most, most)
}

fn while_down(guest: &Guest) -> Result<()> {
    let most = guest.machine.most_channels();
    guest.run(&["ip", "link", "set", "eth0", "down"])?;
    guest.set_channels(2, CHANGE)?;
    shows(guest, most, 2)?;
    guest.run(&["ip", "link", "set", "eth0", "up"])?;
    guest.wait_until("carrier", SHORT, || guest.carrier(End::Near))?;
    // Going down has dropped the IPv6 address.
    guest.configure(2)?;
    guest.ping_both_ways()?;
    change(guest, most)
}
