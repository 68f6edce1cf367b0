// SPDX-License-Identifier: GPL-2.0

//! Programs that send very many frames, while channels change below them.

use anyhow::{ensure, Context, Result};

use super::xdp_redirect::{Chain, ACROSS};
use crate::guest::{End, Guest, SHORT};
use crate::scenario::{Machine, Scenario, Set};
use crate::xdp::{Asking, PORT};

pub const SCENARIOS: &[Scenario] = &[Scenario {
    name: "xdp-forwards-under-load",
    about: "tx and redirect of as many frames as there can be, also while channels change; nothing stays stuck",
    set: Set::Full,
    machine: Machine::COMMON,
    c_defect: None,
    run: under_load,
}];

/// Datagrams of one flood.
const FLOOD: u64 = 20_000;

fn under_load(guest: &Guest) -> Result<()> {
    let most = guest.machine.most_channels();
    let chain = Chain::new(guest)?;
    chain.connect("")?;
    changes(guest, most, &[("eth0", 1), ("eth2", 2)]).context("redirect")?;
    guest.answered(Asking {
        lengths: "0-64,1400-1472",
        ..ACROSS
    })?;
    guest.attach_xdp(End::Near, &format!("--action tx --udp-port {PORT}"))?;
    changes(guest, most, &[("eth0", 1), ("eth0", 2)]).context("tx")?;
    everything_is_accounted_for(guest).context("tx without changes")?;
    guest.answered(Asking {
        to: End::Near.v4(),
        lengths: "0-64,1400-1472",
        ..ACROSS
    })?;
    chain.end()
}

/// Changes channels under a flood: to so many, and back to all.
fn changes(guest: &Guest, most: u32, each: &[(&str, u32)]) -> Result<()> {
    let flood = guest.spawn_at(End::Peer, &["sh", "-ec", &flood(4 * FLOOD)])?;
    for (interface, count) in each {
        for count in [*count, most] {
            let count = count.to_string();
            let argv = ["ethtool", "--set-channels", interface, "combined", &count];
            guest.at(End::Near, &argv, SHORT)?;
        }
    }
    let outcome = guest.ended(flood, SHORT * 5)?;
    ensure!(outcome.success(), "pktgen: {}", outcome.stderr.trim());
    guest.ping_both_ways()
}

/// Has pktgen send datagrams from `eth1` to `eth0`.
fn flood(count: u64) -> String {
    let (interface, address, mac) = (End::Peer.interface(), End::Near.v4(), End::Near.mac());
    format!(
        "modprobe pktgen
cd /proc/net/pktgen
echo rem_device_all >kpktgend_0
echo add_device {interface} >kpktgend_0
for word in 'count {count}' 'pkt_size 100' 'delay 0' 'dst {address}' 'dst_mac {mac}' 'flag UDPSRC_RND' \
    'udp_src_min 1024' 'udp_src_max 2047' 'udp_dst_min {PORT}' 'udp_dst_max {PORT}'; do
    echo \"$word\" >{interface}
done
echo start >pgctrl
echo rem_device_all >kpktgend_0"
    )
}

/// What became of datagrams that go to `eth0` and back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Fate {
    /// Given to `eth0` by the host.
    given: u64,
    /// Sent back by its program, or dropped.
    tx: u64,
    drop: u64,
    /// Not sent because nothing more could be.
    unsent: u64,
    /// Taken from `eth0` by the host.
    taken: u64,
}

fn fate(guest: &Guest) -> Result<Fate> {
    let host = guest.host.counters()?;
    let counts = guest.xdp_counts(End::Near)?;
    let argv = ["ip", "-stats", "-json", "link", "show", "dev", "eth0"];
    let list: serde_json::Value = serde_json::from_str(&guest.run(&argv)?)?;
    let unsent = |key: &str| {
        list[0]["stats64"]["tx"][key]
            .as_u64()
            .with_context(|| format!("ip shows no {key}"))
    };
    Ok(Fate {
        given: host.count(End::Near, "rx_packets")?,
        tx: counts.tx,
        drop: counts.drop,
        unsent: unsent("dropped")? + unsent("errors")?,
        taken: host.count(End::Near, "tx_packets")?,
    })
}

/// The same once nothing is on its way: twice the same.
fn fate_at_rest(guest: &Guest) -> Result<Fate> {
    let mut last = fate(guest)?;
    guest.wait_until("an end of the flood", SHORT, || {
        let again = fate(guest)?;
        let quiet = again == last;
        last = again;
        Ok(quiet)
    })?;
    Ok(last)
}

/// Frames of the stack itself that may be among the others.
const STRAY: u64 = 40;

fn everything_is_accounted_for(guest: &Guest) -> Result<()> {
    let before = fate_at_rest(guest)?;
    let limit = SHORT * 3;
    guest.at(End::Peer, &["sh", "-ec", &flood(FLOOD)], limit)?;
    let after = fate_at_rest(guest)?;
    let grown = |of: fn(&Fate) -> u64| of(&after) - of(&before);
    let (given, tx, drop) = (grown(|f| f.given), grown(|f| f.tx), grown(|f| f.drop));
    ensure!(
        tx > 0 && (tx + drop..=tx + drop + STRAY).contains(&given),
        "{given} frames were given to eth0; its program sent {tx} back, {drop} were dropped"
    );
    let (taken, unsent) = (grown(|f| f.taken), grown(|f| f.unsent));
    ensure!(
        (tx..=tx + STRAY).contains(&(taken + unsent)),
        "the program sent {tx} frames back; the host has taken {taken}, {unsent} were not sent"
    );
    Ok(())
}
