// SPDX-License-Identifier: GPL-2.0

//! What an XDP program says becomes of a frame, is what becomes of it, and is counted.

use anyhow::{ensure, Context, Result};

use crate::agent::Job;
use crate::guest::{End, Guest, SHORT};
use crate::scenario::{Machine, Scenario, Set};
use crate::traffic::{until_listening, Family};
use crate::xdp::{Asking, Counts, PORT};

pub const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "xdp-actions-do-what-they-say",
        about: "pass, drop, aborted, a number that is no action, tx: payloads verified, every frame in its counter",
        set: Set::Quick,
        machine: Machine::COMMON,
        c_defect: None,
        run: actions,
    },
    Scenario {
        name: "xdp-programs-resize-frames",
        about: "a program grows frames at their end or in front, another shrinks them again; payloads verified",
        set: Set::Full,
        machine: Machine::COMMON,
        c_defect: None,
        run: resized,
    },
];

/// From the other end to `eth0`, around the lengths at which something may change.
const ASKING: Asking<'static> = Asking {
    from: End::Peer,
    to: End::Near.v4(),
    lengths: "0-64,470-480,1460-1472",
};

fn actions(guest: &Guest) -> Result<()> {
    guest.permit_xdp(End::Near)?;
    pass(guest).context("XDP_PASS")?;
    let echo = answer(guest)?;
    for action in ["aborted", "invalid", "drop"] {
        dropped(guest, action).with_context(|| format!("action {action}"))?;
    }
    guest.ping_both_ways()?;
    // With another program, and without, they come through at once.
    guest.attach_xdp(End::Near, "--action pass")?;
    guest.answered(ASKING)?;
    guest.detach_xdp(End::Near)?;
    guest.answered(ASKING)?;
    guest.agent.kill(echo, 15)?;
    guest.ended(echo, SHORT)?;
    pings(guest).context("pings dropped")?;
    tx(guest).context("XDP_TX")?;
    guest.forget_xdp(End::Near)?;
    guest.ping_both_ways()
}

/// Answers at `eth0`, as far as datagrams come through.
fn answer(guest: &Guest) -> Result<Job> {
    let listen = format!("{}:{PORT}", End::Near.v4());
    let echo = guest.spawn_at(End::Near, &["/agent", "udp-echo", "--listen", &listen])?;
    guest.shell(&until_listening("", PORT), SHORT)?;
    Ok(echo)
}

fn pass(guest: &Guest) -> Result<()> {
    guest.attach_xdp(End::Near, "--action pass")?;
    let before = guest.xdp_counts(End::Near)?;
    guest.udp_sweep(End::Peer, Family::V4, ASKING.lengths, None)?;
    guest.udp_sweep(End::Near, Family::V6, "0-64,1400-1452", None)?;
    guest.bulk_each_way()?;
    counted(guest, before, Counts::default())
}

/// What `eth0` has counted since.
fn counted(guest: &Guest, before: Counts, expected: Counts) -> Result<()> {
    let counts = guest.xdp_counts(End::Near)?.since(before);
    ensure!(
        counts == expected,
        "eth0 has counted {counts:?}, not {expected:?}"
    );
    Ok(())
}

/// Datagrams vanish with this action, and are counted.
fn dropped(guest: &Guest, action: &str) -> Result<()> {
    guest.attach_xdp(End::Near, &format!("--action {action} --udp-port {PORT}"))?;
    let before = guest.xdp_counts(End::Near)?;
    let lost = guest.unanswered(ASKING)?;
    counted(
        guest,
        before,
        Counts {
            drop: lost,
            ..Counts::default()
        },
    )
}

/// Five pings, five drops.
fn pings(guest: &Guest) -> Result<()> {
    guest.attach_xdp(End::Near, "--action drop --ping")?;
    let before = guest.xdp_counts(End::Near)?;
    let argv = ["ping", "-c", "5", "-i", "0.2", "-W", "2", "-q", ASKING.to];
    let outcome = guest.try_at(End::Peer, &argv, SHORT)?;
    ensure!(
        outcome.code == Some(1) && outcome.stdout.contains(" 0 received"),
        "pings were dropped, and ping says {:?}",
        outcome.stdout
    );
    counted(
        guest,
        before,
        Counts {
            drop: 5,
            ..Counts::default()
        },
    )?;
    guest.detach_xdp(End::Near)
}

/// The sender gets its own datagrams back: nobody listens.
fn tx(guest: &Guest) -> Result<()> {
    guest.attach_xdp(End::Near, &format!("--action tx --udp-port {PORT}"))?;
    let before = guest.xdp_counts(End::Near)?;
    let tx = guest.answered(ASKING)?;
    counted(
        guest,
        before,
        Counts {
            tx,
            ..Counts::default()
        },
    )?;
    guest.detach_xdp(End::Near)
}

fn resized(guest: &Guest) -> Result<()> {
    for end in [End::Near, End::Peer] {
        guest.permit_xdp(end)?;
    }
    grown_and_shrunk(guest)?;
    tagged(guest)?;
    for end in [End::Near, End::Peer] {
        guest.forget_xdp(end)?;
    }
    guest.bulk_each_way()
}

/// By how many bytes frames grow.
const TAIL: u64 = 24;

/// `eth0` sends datagrams back with something behind them, `eth1` cuts that off.
fn grown_and_shrunk(guest: &Guest) -> Result<()> {
    // A frame that has grown must still fit the MTU.
    let asking = Asking {
        lengths: "0-64,1400-1440",
        ..ASKING
    };
    let arrived = |guest: &Guest| guest.host.counters()?.number(End::Peer, "rx_bytes");
    let only = format!("--udp-port {PORT}");
    guest.attach_xdp(End::Near, &format!("--action tx {only}"))?;
    let (before, bytes) = (guest.xdp_counts(End::Near)?, arrived(guest)?);
    let sent = guest.answered(asking)?;
    let plain = arrived(guest)? - bytes;

    guest.attach_xdp(End::Near, &format!("--action tx --tail {TAIL} {only}"))?;
    guest.attach_xdp(End::Peer, &format!("--action pass --tail -{TAIL} {only}"))?;
    let bytes = arrived(guest)?;
    let again = guest.answered(asking)?;
    let grown = arrived(guest)? - bytes;
    counted(
        guest,
        before,
        Counts {
            tx: sent + again,
            ..Counts::default()
        },
    )?;
    // The stack of either end may have sent something of its own, a few hundred bytes.
    ensure!(
        grown.abs_diff(plain + TAIL * again) < TAIL * again / 4,
        "{again} frames that grow by {TAIL} bytes each are {grown} bytes on the wire, and {plain} without"
    );

    // Cut short without having grown, they are no datagrams.
    guest.attach_xdp(End::Near, &format!("--action tx {only}"))?;
    guest.unanswered(Asking {
        lengths: "100-140",
        ..asking
    })?;
    guest.detach_xdp(End::Peer)?;
    guest.detach_xdp(End::Near)
}

/// `eth0` puts a tag in front: datagrams come in at the VLAN's interface, and are answered from there.
fn tagged(guest: &Guest) -> Result<()> {
    const RECEIVED: &str = "cat /sys/class/net/eth0.77/statistics/rx_packets";
    guest.shell(
        "modprobe 8021q; ip link add link eth0 name eth0.77 type vlan id 77; ip link set eth0.77 up",
        SHORT,
    )?;
    let echo = answer(guest)?;
    guest.attach_xdp(
        End::Near,
        &format!("--action pass --push-vlan 77 --udp-port {PORT}"),
    )?;
    let before = guest.run(&["sh", "-c", RECEIVED])?;
    let sent = guest.answered(Asking {
        lengths: "0-64,1400-1440",
        ..ASKING
    })?;
    let after = guest.run(&["sh", "-c", RECEIVED])?;
    let number = |text: &str| text.trim().parse::<u64>().context("packets of eth0.77");
    let received = number(&after)? - number(&before)?;
    ensure!(
        received == sent,
        "{sent} datagrams were answered, {received} came over VLAN 77"
    );
    guest.detach_xdp(End::Near)?;
    guest.agent.kill(echo, 15)?;
    guest.ended(echo, SHORT)?;
    // The core may have switched coalescing off for the VLAN.
    guest
        .shell("ip link del eth0.77; ethtool --features eth0 lro on", SHORT)
        .map(drop)
}
