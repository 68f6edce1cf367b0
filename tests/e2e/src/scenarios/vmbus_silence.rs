// SPDX-License-Identifier: GPL-2.0

//! A host that does not answer what `hv_vmbus` itself waits for: an open, a GPADL, a teardown.
//!
//! The operation ends with an error when its time is over; the interface is lost until the host answers or takes
//! the device away, and everything else goes on.

use std::time::{Duration, Instant};

use anyhow::{ensure, Context, Result};

use crate::guest::{End, Guest, SHORT};
use crate::host::Action;
use crate::scenario::{Machine, Scenario, Set};
use crate::scenarios::hotplug::replace_peer;

pub const SCENARIOS: &[Scenario] = &[Scenario {
    name: "silence-inside-vmbus-costs-an-error-not-the-machine",
    about: "an unanswered open, GPADL or teardown: other NICs work, unload is refused, removal cures it",
    set: Set::Full,
    machine: Machine {
        processors: 2,
        ..Machine::COMMON
    },
    c_defect: Some("Q22: a wait without an answer from the host never ends"),
    run: silence,
}];

/// What one operation may take: two attaches and what they wait for in vain.
const BUDGET: Duration = Duration::from_secs(90);

fn silence(guest: &Guest) -> Result<()> {
    let points = rebuild(guest)?;
    let last = |point: &str| points.iter().filter(|p| *p == point).count() as u32;
    let cases = [
        // The ring's own.
        ("vmbus.gpadl", 1),
        // The send buffer's.
        ("vmbus.gpadl", 3),
        ("vmbus.open", 1),
        // Of a buffer that the device had.
        ("vmbus.gpadl-teardown", last("vmbus.gpadl-teardown")),
    ];
    for (point, nth) in cases {
        one(guest, point, nth).with_context(|| format!("{point}, occurrence {nth}"))?;
    }
    Ok(())
}

/// The fault points that a rebuild of the peer reaches, in order.
fn rebuild(guest: &Guest) -> Result<Vec<String>> {
    guest.host.take_log()?;
    set_peer_rings(guest, SMALL)?;
    let points = guest.host.take_log()?;
    set_peer_rings(guest, USUAL)?;
    Ok(points)
}

/// Other sizes of both buffers: these are shared anew then, and the channels opened as by every rebuild.
const SMALL: [&str; 4] = ["rx", "4096", "tx", "100"];
const USUAL: [&str; 4] = ["rx", "9709", "tx", "170"];

fn set_peer_rings(guest: &Guest, sizes: [&str; 4]) -> Result<()> {
    let mut argv = vec!["ethtool", "-G", End::Peer.interface()];
    argv.extend(sizes);
    guest.at(End::Peer, &argv, BUDGET).map(drop)
}

fn one(guest: &Guest, point: &str, nth: u32) -> Result<()> {
    guest.host.take_log()?;
    guest.host.add_fault(point, nth, 1, Action::Silent)?;
    let began = Instant::now();
    let change = set_peer_rings(guest, SMALL);
    let took = began.elapsed();
    let fired = guest.host.counters()?.fired(point);
    guest.host.clear_faults()?;
    ensure!(fired == 1, "the fault fired {fired} times");
    ensure!(took < BUDGET, "the change took {took:.1?}");
    // A buffer that does not come back is not missed.
    let missed = point != "vmbus.gpadl-teardown";
    ensure!(
        change.is_err() == missed,
        "the change of rings ended with {change:?}"
    );

    // The other interface can be reconfigured, and the machine be looked at.
    guest.set_channels(1, SHORT)?;
    guest.set_channels(guest.machine.most_channels(), SHORT)?;
    guest.at(End::Peer, &["ip", "-s", "link"], SHORT)?;
    guest.refused(&["rmmod", "hv_netvsc"], "in use")?;

    // What the host takes away it need not answer for any more.
    replace_peer(guest).context("removing and adding the device")?;
    guest
        .unload()
        .context("unloading when nothing is waited for")?;
    guest.load()?;
    guest.configure(guest.machine.most_channels())?;
    guest.ping_both_ways()
}
