// SPDX-License-Identifier: GPL-2.0

//! XPS: the administrator assigns processors to transmit queues in sysfs.

use anyhow::{ensure, Result};

use super::ethtool_flow_hash::channels_used;
use crate::guest::{Guest, SHORT};
use crate::scenario::{Machine, Scenario, Set};

pub const SCENARIOS: &[Scenario] = &[Scenario {
    name: "xps-map-decides-the-channel",
    about: "all processors assigned to one transmit queue: every flow leaves there, also after an MTU change",
    set: Set::Full,
    machine: Machine::COMMON,
    c_defect: Some("L13: it asks the host's table and not the map"),
    run: xps,
}];

fn xps(guest: &Guest) -> Result<()> {
    let last = guest.machine.most_channels() as usize - 1;
    spread(guest)?;
    let result = assigned(guest, last);
    assign(guest, "0", last)?;
    result?;
    spread(guest)
}

/// Assigns a mask of processors to transmit queue `queue`.
fn assign(guest: &Guest, mask: &str, queue: usize) -> Result<()> {
    let script = format!("echo {mask} >/sys/class/net/eth0/queues/tx-{queue}/xps_cpus");
    guest.shell(&script, SHORT).map(drop)
}

fn spread(guest: &Guest) -> Result<()> {
    let used = channels_used(guest)?;
    ensure!(
        used.len() > 1,
        "without a map, eight flows leave on {used:?}"
    );
    Ok(())
}

fn assigned(guest: &Guest, queue: usize) -> Result<()> {
    assign(guest, "f", queue)?;
    follows(guest, queue)?;
    guest.run(&["ip", "link", "set", "eth0", "mtu", "1400"])?;
    let result = follows(guest, queue);
    guest.run(&["ip", "link", "set", "eth0", "mtu", "1500"])?;
    result
}

fn follows(guest: &Guest, queue: usize) -> Result<()> {
    let used = channels_used(guest)?;
    ensure!(
        used == [queue],
        "all processors belong to transmit queue {queue}, but flows leave on {used:?}"
    );
    Ok(())
}
