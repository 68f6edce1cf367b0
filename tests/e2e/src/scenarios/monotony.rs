// SPDX-License-Identifier: GPL-2.0

//! Counters grow, or stay: no change of configuration takes them back.

use std::collections::BTreeMap;

use anyhow::{ensure, Context, Result};
use serde_json::Value;

use crate::guest::{End, Guest, SHORT};
use crate::scenario::{Machine, Scenario, Set};

pub const SCENARIOS: &[Scenario] = &[Scenario {
    name: "counters-never-go-back",
    about: "ip -s and ethtool -S over MTU, ring and channel changes, down and up",
    set: Set::Full,
    machine: Machine::COMMON,
    c_defect: Some("Q6: each rebuild sets packet counters to zero"),
    run: monotony,
}];

/// Everything that is counted of eth0.
fn counters(guest: &Guest) -> Result<BTreeMap<String, u64>> {
    let argv = ["ip", "-json", "-s", "-s", "link", "show", "dev", "eth0"];
    let text = guest.at(End::Near, &argv, SHORT)?;
    let link: Value = serde_json::from_str(&text).with_context(|| format!("ip says {text:?}"))?;
    let mut counters: BTreeMap<String, u64> = guest.statistics(End::Near)?.into_iter().collect();
    for direction in ["rx", "tx"] {
        let members = link[0]["stats64"][direction].as_object();
        for (name, value) in members.context("ip shows no counters")? {
            // Not counted by the driver, and not of its rebuilds.
            if name != "carrier_changes" {
                let value = value.as_u64().context("a counter that is no number")?;
                counters.insert(format!("{direction} {name}"), value);
            }
        }
    }
    Ok(counters)
}

fn monotony(guest: &Guest) -> Result<()> {
    let most = guest.machine.most_channels().to_string();
    let changes: [&[&str]; 8] = [
        &["ip", "link", "set", "eth0", "mtu", "4000"],
        &["ethtool", "-L", "eth0", "combined", "1"],
        &["ethtool", "-G", "eth0", "tx", "100"],
        &["ip", "link", "set", "eth0", "down"],
        &["ip", "link", "set", "eth0", "up"],
        &["ethtool", "-L", "eth0", "combined", &most],
        &["ethtool", "-G", "eth0", "tx", "170"],
        &["ip", "link", "set", "eth0", "mtu", "1500"],
    ];
    guest.bulk_each_way()?;
    // A queue that is not there shows no counters; they come back with it.
    let mut highest = counters(guest)?;
    for change in changes {
        guest.run(change)?;
        for (name, now) in counters(guest)? {
            let before = highest.entry(name.clone()).or_default();
            ensure!(
                now >= *before,
                "'{}' took {name} from {before} to {now}",
                change.join(" ")
            );
            *before = now;
        }
    }
    guest.configure(guest.machine.most_channels())?;
    guest.ping_both_ways()
}
