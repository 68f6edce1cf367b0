// SPDX-License-Identifier: GPL-2.0

//! `ethtool -n` and `-N` with `rx-flow-hash`: whether ports decide on which channel a flow goes.

use anyhow::{ensure, Result};

use crate::guest::{End, Guest, SHORT};
use crate::scenario::{Driver, Machine, Scenario, Set};
use crate::traffic::{Bulk, Family};

/// Flow types whose fields can be chosen, and the bit of ports in the host's hash types; this host
/// hashes no UDP.
const FLOWS: [(&str, u32); 4] = [("tcp4", 0x200), ("tcp6", 0x1000), ("udp4", 0), ("udp6", 0)];

pub const SCENARIOS: &[Scenario] = &[Scenario {
    name: "flow-hash-decides-the-channel",
    about: "with addresses only, all flows between two hosts share a channel; the host is told",
    set: Set::Full,
    machine: Machine::COMMON,
    c_defect: None,
    run: flow_hash,
}];

/// Whether ports are hashed, flow type by flow type, by what ethtool prints.
fn shown(guest: &Guest) -> Result<Vec<bool>> {
    let names = FLOWS.map(|(flow, _)| flow).join(" ");
    let script =
        format!("for flow in {names}; do ethtool -n eth0 rx-flow-hash $flow; echo ---; done");
    let text = guest.shell(&script, SHORT)?;
    let answers: Vec<&str> = text.split("---\n").filter(|a| !a.is_empty()).collect();
    ensure!(
        answers.len() == FLOWS.len() && answers.iter().all(|a| a.contains("IP SA\nIP DA")),
        "hashed fields: {text:?}"
    );
    Ok(answers
        .iter()
        .map(|a| a.contains("L4 bytes 0 & 1") && a.contains("L4 bytes 2 & 3"))
        .collect())
}

/// Sets the hashed fields of all flow types.
fn set_all(guest: &Guest, fields: &str) -> Result<()> {
    let names = FLOWS.map(|(flow, _)| flow).join(" ");
    let script =
        format!("for flow in {names}; do ethtool -N eth0 rx-flow-hash $flow {fields}; done");
    guest.shell(&script, SHORT).map(drop)
}

/// Guest and host must agree on what is hashed.
fn agreed(guest: &Guest, ports: bool) -> Result<()> {
    let shown = shown(guest)?;
    ensure!(shown == [ports; 4], "ports are shown as {shown:?}");
    let hosts = guest.host.counters()?.rss(End::Near)?;
    let hosts = hosts.map_or("0".into(), |rss| rss.hash_info);
    let types = u32::from_str_radix(hosts.trim_start_matches("0x"), 16)?;
    for (flow, bit) in FLOWS {
        // Q20: the C driver does not tell the host.
        let told = guest.driver.get() == Driver::C || (types & bit != 0) == (ports && bit != 0);
        ensure!(told, "{flow}: the host hashes {types:#x}");
    }
    Ok(())
}

fn flow_hash(guest: &Guest) -> Result<()> {
    agreed(guest, true)?;
    ensure!(
        channels_used(guest)?.len() > 1,
        "with ports, eight flows share one channel"
    );
    let result = addresses_only(guest);
    set_all(guest, "sdfn")?;
    result?;
    agreed(guest, true)?;
    guest.ping_both_ways()
}

fn addresses_only(guest: &Guest) -> Result<()> {
    let attaches = guest.host.counters()?.attaches(End::Near)?;
    set_all(guest, "sd")?;
    agreed(guest, false)?;
    ensure!(
        channels_used(guest)?.len() == 1,
        "with addresses only, eight flows use several channels"
    );
    for bad in [
        ["tcp4", "s"],
        ["tcp4", "sdf"],
        ["esp4", "sd"],
        ["sctp4", "sdfn"],
    ] {
        let argv = [&["ethtool", "-N", "eth0", "rx-flow-hash"], &bad[..]].concat();
        guest.refused(&argv, "not supported")?;
    }
    agreed(guest, false)?;
    let again = guest.host.counters()?.attaches(End::Near)?;
    ensure!(again == attaches, "the flow hash re-attached the device");
    guest.run(&["ip", "link", "set", "eth0", "mtu", "1400"])?;
    guest.run(&["ip", "link", "set", "eth0", "mtu", "1500"])?;
    guest.configure(guest.machine.most_channels())?;
    agreed(guest, false)
}

/// The channels that eight TCP flows are sent on.
pub fn channels_used(guest: &Guest) -> Result<Vec<usize>> {
    let count = || -> Result<Vec<u64>> {
        let counters = guest.host.counters()?;
        (0..guest.machine.most_channels())
            .map(|i| Ok(counters.channel(End::Near, i)?.to_host))
            .collect()
    };
    let before = count()?;
    guest.bulk(Bulk {
        from: End::Near,
        family: Family::V4,
        connections: 8,
        bytes: 2 << 20,
    })?;
    let after = count()?;
    // A few frames elsewhere are other traffic.
    let sent = after.iter().zip(&before).map(|(a, b)| a - b);
    let used = sent.enumerate().filter(|(_, sent)| *sent > 4);
    Ok(used.map(|(channel, _)| channel).collect())
}
