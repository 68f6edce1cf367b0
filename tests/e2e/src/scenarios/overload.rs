// SPDX-License-Identifier: GPL-2.0

//! More packets than can be carried: each one arrives or is found in a counter.

use anyhow::{ensure, Context, Result};

use crate::guest::{End, Guest, SHORT};
use crate::scenario::{Machine, Scenario, Set};

/// pktgen's bursts hand one buffer over several times, as the C driver's interface flags allow.
const C_DEFECT: Option<&str> =
    Some("it keeps its state in a buffer that pktgen hands over more than once, and stops sending");

pub const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "every-packet-of-an-overload-is-accounted-for",
        about: "pktgen as fast as it can: sent = received + every drop counter, guest and host",
        set: Set::Quick,
        machine: Machine::COMMON,
        c_defect: C_DEFECT,
        run: short,
    },
    Scenario {
        name: "every-packet-of-a-long-overload-is-accounted-for",
        about: "the same with a million packets, both ways",
        set: Set::Full,
        machine: Machine::COMMON,
        c_defect: C_DEFECT,
        run: long,
    },
];

/// Packets of the stack itself (neighbour discovery, multicast reports) that may be among the others.
const STRAY: u64 = 40;

fn short(guest: &Guest) -> Result<()> {
    overload(guest, End::Near, 50_000)
}

fn long(guest: &Guest) -> Result<()> {
    overload(guest, End::Near, 1_000_000)?;
    overload(guest, End::Peer, 1_000_000)
}

/// What was counted of packets from one end to the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Counts {
    /// By the sending interface: sent, and not sent.
    sent: u64,
    unsent: u64,
    /// By the host: taken from the guest, lost, given to the guest.
    taken: u64,
    lost: u64,
    given: u64,
    /// By the receiving interface: received, and lost.
    received: u64,
    unreceived: u64,
}

fn counts(guest: &Guest, from: End) -> Result<Counts> {
    let to = from.other();
    let host = guest.host.counters()?;
    let standard = |end: End, name: &str| -> Result<u64> {
        let argv = [
            "ip",
            "-stats",
            "-json",
            "link",
            "show",
            "dev",
            end.interface(),
        ];
        let list: serde_json::Value = serde_json::from_str(&guest.at(end, &argv, SHORT)?)?;
        let (way, key) = name.split_once('_').context("no direction")?;
        list[0]["stats64"][way][key]
            .as_u64()
            .with_context(|| format!("ip shows no {name}"))
    };
    let sum = |names: &[&str], end: End| -> Result<u64> {
        names.iter().map(|name| standard(end, name)).sum()
    };
    Ok(Counts {
        sent: standard(from, "tx_packets")?,
        unsent: sum(&["tx_dropped", "tx_errors"], from)?,
        taken: host.count(from, "tx_packets")?,
        lost: host.losses(from, "tx_dropped")?
            + host.losses(to, "rx_dropped")?
            + host.count(to, "rx_filtered")?,
        given: host.count(to, "rx_packets")?,
        received: standard(to, "rx_packets")?,
        unreceived: guest.statistic(to, "rx_no_memory")? + standard(to, "rx_errors")?,
    })
}

/// The counters once nothing is on its way: twice the same.
fn counts_at_rest(guest: &Guest, from: End) -> Result<Counts> {
    let mut last = counts(guest, from)?;
    guest.wait_until("an end of the traffic", SHORT, || {
        let again = counts(guest, from)?;
        let quiet = again == last;
        last = again;
        Ok(quiet)
    })?;
    Ok(last)
}

/// Has pktgen send `packets` from one end, one flow, and holds every counter against the others.
pub(super) fn overload(guest: &Guest, from: End, packets: u64) -> Result<()> {
    // What the stack itself sends may be on its way, given by the host and not yet received.
    let before = counts_at_rest(guest, from)?;
    let generated = generate(guest, from, packets)?;
    let after = counts_at_rest(guest, from)?;
    let grown = |of: fn(&Counts) -> u64| of(&after) - of(&before);
    let (sent, unsent) = (grown(|c| c.sent), grown(|c| c.unsent));
    ensure!(
        (generated..=generated + STRAY).contains(&(sent + unsent)),
        "pktgen handed {generated} packets over; the interface counts {sent} sent and {unsent} not"
    );
    let taken = grown(|c| c.taken);
    ensure!(
        sent == taken,
        "{sent} packets were sent, and the host has taken {taken}"
    );
    let (lost, given) = (grown(|c| c.lost), grown(|c| c.given));
    ensure!(
        taken == lost + given,
        "the host has taken {taken} packets, lost {lost} and given {given}"
    );
    let (received, unreceived) = (grown(|c| c.received), grown(|c| c.unreceived));
    ensure!(
        given == received + unreceived,
        "the host has given {given} packets; {received} were received and {unreceived} lost"
    );
    limits_are_at_rest(guest)
}

/// Nothing is on its way, so byte queue limits must not think otherwise: the queue would stall.
fn limits_are_at_rest(guest: &Guest) -> Result<()> {
    let script = "cat /sys/class/net/eth0/queues/tx-*/byte_queue_limits/inflight";
    let inflight = guest.shell(script, SHORT)?;
    ensure!(
        inflight.lines().all(|bytes| bytes == "0"),
        "bytes in flight by the queues' limits, at rest: {inflight:?}"
    );
    Ok(())
}

/// Packets that pktgen handed over to the driver.
fn generate(guest: &Guest, from: End, packets: u64) -> Result<u64> {
    let (interface, to) = (from.interface(), from.other());
    let (address, mac) = (to.v4(), to.mac());
    let script = format!(
        "modprobe pktgen
cd /proc/net/pktgen
echo rem_device_all >kpktgend_0
echo add_device {interface} >kpktgend_0
for word in 'count {packets}' 'pkt_size 60' 'delay 0' 'burst 8' 'dst {address}' 'dst_mac {mac}' \
    'udp_dst_min 9' 'udp_dst_max 9'; do
    echo \"$word\" >{interface}
done
echo start >pgctrl
sed -n 's/.*pkts-sofar: \\([0-9]*\\).*/\\1/p' {interface}
echo rem_device_all >kpktgend_0"
    );
    let limit = SHORT + std::time::Duration::from_millis(packets / 2);
    let text = guest.at(from, &["sh", "-ec", &script], limit)?;
    text.trim()
        .parse()
        .with_context(|| format!("pktgen says {text:?}"))
}
