// SPDX-License-Identifier: GPL-2.0

//! `ethtool --show-features` and `--features`: what the stack is shown, and what the host is told.

use anyhow::{bail, ensure, Result};

use super::echo::set_mtu;
use crate::ethtool;
use crate::guest::{End, Guest, SHORT};
use crate::host::Action;
use crate::scenario::{Machine, Scenario, Set};

/// The fault point of a change of offloads.
const SET_OFFLOADS: &str = "rndis.set.TCP_OFFLOAD_PARAMETERS";

pub const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "features-switch-off-and-on",
        about:
            "checksums, segmentation, scatter-gather, hash, GRO: shown, in force, traffic intact",
        set: Set::Full,
        machine: Machine::COMMON,
        c_defect: None,
        run: toggles,
    },
    Scenario {
        name: "receive-checksum-follows-the-feature",
        about:
            "the host is told, again after a rebuild; if it refuses, the feature stays as it was",
        set: Set::Full,
        machine: Machine::COMMON,
        c_defect: Some("it leaves receive checksums on at the host"),
        run: receive_checksum,
    },
];

/// Features on by default that can be switched, as `--show-features` names them.
const SWITCHED: [(&str, &str); 7] = [
    ("rx", "rx-checksumming"),
    ("tx", "tx-checksumming"),
    ("sg", "scatter-gather"),
    ("tso", "tcp-segmentation-offload"),
    ("gso", "generic-segmentation-offload"),
    ("gro", "generic-receive-offload"),
    ("rxhash", "receive-hashing"),
];

/// Whether a feature is shown as on.
fn is_on(guest: &Guest, feature: &str) -> Result<bool> {
    let text = guest.run(&["ethtool", "--show-features", "eth0"])?;
    match ethtool::field(&text, feature) {
        Some(state) if state.starts_with("on") => Ok(true),
        Some(state) if state.starts_with("off") => Ok(false),
        state => bail!("{feature} is shown as {state:?}"),
    }
}

fn switch(guest: &Guest, name: &str, on: bool) -> Result<()> {
    let state = if on { "on" } else { "off" };
    guest
        .run(&["ethtool", "--features", "eth0", name, state])
        .map(drop)
}

fn toggles(guest: &Guest) -> Result<()> {
    let before = features(guest)?;
    let result = switch_all(guest);
    switch_all_on(guest)?;
    result?;
    let after = features(guest)?;
    ensure!(before == after, "features were {before}, and are {after}");
    guest.bulk_each_way()
}

/// All features as they are shown, but for one that `tso on` switches on, too.
fn features(guest: &Guest) -> Result<String> {
    let text = guest.run(&["ethtool", "--show-features", "eth0"])?;
    let lines = text.lines();
    let kept: Vec<_> = lines
        .filter(|line| !line.contains("tx-tcp-mangleid-segmentation"))
        .collect();
    Ok(kept.join("\n"))
}

fn switch_all_on(guest: &Guest) -> Result<()> {
    let names = SWITCHED.map(|(name, _)| format!("{name} on")).join(" ");
    let script = format!("ethtool --features eth0 {names}");
    guest.shell(&script, SHORT).map(drop)
}

fn switch_all(guest: &Guest) -> Result<()> {
    let attaches = guest.host.counters()?.attaches(End::Near)?;
    for (_, feature) in SWITCHED {
        ensure!(is_on(guest, feature)?, "{feature} is off by default");
    }
    // The last first: segmentation goes by itself when scatter-gather does.
    for (name, feature) in SWITCHED.into_iter().rev() {
        switch(guest, name, false)?;
        ensure!(!is_on(guest, feature)?, "{feature} stays on");
    }
    let counters = guest.host.counters()?;
    let large = counters.number(End::Near, "tx_lso")?;
    let unfinished = counters.number(End::Near, "tx_checksum")?;
    guest.bulk_each_way()?;
    let counters = guest.host.counters()?;
    ensure!(
        counters.number(End::Near, "tx_lso")? == large,
        "frames to be segmented came without TSO"
    );
    ensure!(
        counters.number(End::Near, "tx_checksum")? == unfinished,
        "frames without checksum came without transmit checksums"
    );
    // Nobody can switch those.
    for fixed in ["rx-fcs", "loopback", "tx-vlan-stag-hw-insert"] {
        let argv = ["ethtool", "--features", "eth0", fixed, "on"];
        let outcome = guest.try_at(End::Near, &argv, SHORT)?;
        ensure!(!outcome.success(), "'{}' succeeded", argv.join(" "));
    }
    let again = counters.attaches(End::Near)?;
    ensure!(again == attaches, "features re-attached the device");
    Ok(())
}

fn receive_checksum(guest: &Guest) -> Result<()> {
    let all = told(guest)?;
    ensure!(
        all.iter().any(|name| name == "rx-tcp4"),
        "by default the host is told {all:?}"
    );
    let result = without_receive_checksum(guest, &all);
    guest.host.clear_faults()?;
    switch_all_on(guest)?;
    set_mtu(guest, 1500)?;
    guest.configure(guest.machine.most_channels())?;
    result?;
    let now = told(guest)?;
    ensure!(now == all, "the host was told {all:?}, and is told {now:?}");
    guest.bulk_each_way()
}

fn without_receive_checksum(guest: &Guest, all: &[String]) -> Result<()> {
    guest.host.add_fault(SET_OFFLOADS, 1, 1, Action::Refuse)?;
    let argv = ["ethtool", "--features", "eth0", "rx", "off"];
    let outcome = guest.try_at(End::Near, &argv, SHORT)?;
    guest.host.clear_faults()?;
    ensure!(
        !outcome.success(),
        "the host refused, and ethtool succeeded"
    );
    ensure!(
        is_on(guest, "rx-checksumming")? && told(guest)? == all,
        "a refused change is shown, or in force"
    );

    // The core remembers what was wanted, and does not ask for it twice.
    switch(guest, "rx", true)?;
    switch(guest, "rx", false)?;
    let transmit = only_transmit(all);
    let now = told(guest)?;
    ensure!(now == transmit, "without rx the host is told {now:?}");
    set_mtu(guest, 1400)?;
    let now = told(guest)?;
    ensure!(now == transmit, "after a rebuild it is told {now:?}");
    ensure!(
        !is_on(guest, "rx-checksumming")?,
        "a rebuild switched it on"
    );
    guest.bulk_each_way()
}

/// Without receive checksums, and without what depends on them.
fn only_transmit(all: &[String]) -> Vec<String> {
    all.iter()
        .filter(|name| !name.starts_with("rx-") && !name.starts_with("rsc"))
        .cloned()
        .collect()
}

/// The offloads in force at the host.
fn told(guest: &Guest) -> Result<Vec<String>> {
    guest.host.counters()?.offloads(End::Near)
}
