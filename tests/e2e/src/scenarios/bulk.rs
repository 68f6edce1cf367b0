// SPDX-License-Identifier: GPL-2.0

//! Bulk data arrives complete and unchanged, over all channels.

use anyhow::{ensure, Context, Result};
use serde_json::Value;

use crate::guest::{End, Guest, SHORT};
use crate::scenario::{Machine, Scenario, Set};
use crate::traffic::{until_listening, Bulk, Family};

const MIB: u64 = 1 << 20;

pub const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "tcp-carries-2-mib-each-way",
        about: "one connection and then eight, checksums compared",
        set: Set::Quick,
        machine: Machine::COMMON,
        c_defect: None,
        run: small_transfers,
    },
    Scenario {
        name: "tcp-carries-64-mib-each-way",
        about: "one connection, checksums compared",
        set: Set::Full,
        machine: Machine::COMMON,
        c_defect: None,
        run: one_connection,
    },
    Scenario {
        name: "tcp-carries-64-mib-each-way-over-8-connections",
        about: "eight connections in parallel, IPv4 and IPv6, checksums compared",
        set: Set::Full,
        machine: Machine::COMMON,
        c_defect: None,
        run: eight_connections,
    },
    Scenario {
        name: "all-channels-carry-packets",
        about:
            "many connections spread over every channel, in both directions, by the host's count",
        set: Set::Quick,
        machine: Machine::COMMON,
        c_defect: None,
        run: all_channels,
    },
    Scenario {
        name: "iperf3-runs-both-ways",
        about: "stock iperf3, forward and reverse",
        set: Set::Full,
        machine: Machine::COMMON,
        c_defect: None,
        run: iperf3,
    },
];

fn small_transfers(guest: &Guest) -> Result<()> {
    each_way(guest, 1, Family::V4, 2 * MIB)?;
    each_way(guest, 8, Family::V6, 2 * MIB)
}

fn one_connection(guest: &Guest) -> Result<()> {
    each_way(guest, 1, Family::V4, 64 * MIB)
}

fn eight_connections(guest: &Guest) -> Result<()> {
    each_way(guest, 8, Family::V6, 64 * MIB)
}

fn each_way(guest: &Guest, connections: u32, family: Family, bytes: u64) -> Result<()> {
    for from in [End::Near, End::Peer] {
        guest.bulk(Bulk {
            from,
            family,
            connections,
            bytes,
        })?;
    }
    Ok(())
}

fn all_channels(guest: &Guest) -> Result<()> {
    let before = guest.host.counters()?;
    // Enough connections that none of a few channels is left out by chance: 8 channels miss one
    // with probability 8 * (7/8)^96, about two in a hundred thousand.
    for from in [End::Near, End::Peer] {
        guest.bulk(Bulk {
            from,
            family: Family::V4,
            connections: 96,
            bytes: 96 * 64 * 1024,
        })?;
    }
    let after = guest.host.counters()?;
    for channel in 0..guest.machine.most_channels() {
        let moved = |counters: &crate::host::Counters| -> Result<[u64; 2]> {
            let channel = counters.channel(End::Near, channel)?;
            Ok([channel.to_host, channel.to_guest])
        };
        let (old, new) = (moved(&before)?, moved(&after)?);
        ensure!(
            new[0] > old[0] && new[1] > old[1],
            "channel {channel} of eth0 carried {} packets to the host and {} to the guest",
            new[0] - old[0],
            new[1] - old[1]
        );
    }
    Ok(())
}

fn iperf3(guest: &Guest) -> Result<()> {
    for reverse in [false, true] {
        let rate = iperf3_mbit(guest, reverse, 5)?;
        ensure!(rate > 1.0, "iperf3 (reverse: {reverse}) made {rate} Mbit/s");
    }
    Ok(())
}

/// Runs stock iperf3 for some seconds; Mbit/s received.
pub fn iperf3_mbit(guest: &Guest, reverse: bool, seconds: u32) -> Result<f64> {
    let server = guest.spawn_at(End::Peer, &["iperf3", "--server", "--one-off"])?;
    let time = seconds.to_string();
    let listening = until_listening("", 5201);
    guest.at(End::Peer, &["sh", "-c", &listening], SHORT)?;
    let mut argv = vec![
        "iperf3",
        "--json",
        "--time",
        &time,
        "--client",
        End::Peer.v4(),
    ];
    if reverse {
        argv.push("--reverse");
    }
    let text = guest.at(End::Near, &argv, SHORT * 2)?;
    guest.ended(server, SHORT)?;
    let result: Value = serde_json::from_str(&text).context("iperf3's output")?;
    result["end"]["sum_received"]["bits_per_second"]
        .as_f64()
        .map(|bits| bits / 1e6)
        .context("iperf3 gives no received rate")
}
