// SPDX-License-Identifier: GPL-2.0

//! `ethtool DEV`, `-s`, `-d`, `-T`: what is shown of link and registers, and what may be set.

use anyhow::{ensure, Context, Result};

use crate::ethtool;
use crate::guest::{End, Guest, SHORT};
use crate::scenario::{Machine, Scenario, Set};

pub const SCENARIOS: &[Scenario] = &[Scenario {
    name: "link-settings-and-registers-as-in-the-stock-driver",
    about:
        "speed and duplex shown and set, message level, registers, time stamps; bad values refused",
    set: Set::Quick,
    machine: Machine::COMMON,
    c_defect: None,
    run: settings,
}];

fn shown(guest: &Guest, name: &str) -> Result<String> {
    let text = guest.run(&["ethtool", "eth0"])?;
    ethtool::field(&text, name)
        .map(str::to_owned)
        .with_context(|| format!("no '{name}' in {text:?}"))
}

fn link(guest: &Guest) -> Result<(String, String)> {
    Ok((shown(guest, "Speed")?, shown(guest, "Duplex")?))
}

fn settings(guest: &Guest) -> Result<()> {
    let old = link(guest)?;
    ensure!(old.1 == "Full", "duplex is {}", old.1);
    let megabits = old
        .0
        .strip_suffix("Mb/s")
        .with_context(|| format!("speed {}", old.0))?;

    guest.run(&["ethtool", "-s", "eth0", "speed", "100", "duplex", "half"])?;
    let set = link(guest)?;
    ensure!(
        set == ("100Mb/s".into(), "Half".into()),
        "100 half became {set:?}"
    );
    for bad in [["port", "tp"], ["autoneg", "on"], ["phyad", "3"]] {
        let argv = [&["ethtool", "-s", "eth0"], &bad[..]].concat();
        let outcome = guest.try_at(End::Near, &argv, SHORT)?;
        ensure!(!outcome.success(), "'{}' succeeded", argv.join(" "));
        let now = link(guest)?;
        ensure!(now == set, "{bad:?} was refused and made {now:?}");
    }
    guest.run(&["ethtool", "-s", "eth0", "speed", megabits, "duplex", "full"])?;
    ensure!(link(guest)? == old, "the old speed did not come back");

    guest.run(&["ethtool", "-s", "eth0", "msglvl", "0x7fff"])?;
    ensure!(
        shown(guest, "Current message level")?.starts_with("0x00007fff"),
        "message level 0x7fff is not shown"
    );
    guest.run(&["ethtool", "-s", "eth0", "msglvl", "rx_err", "off"])?;
    let level = shown(guest, "Current message level")?;
    ensure!(level.starts_with("0x00007fbf"), "without rx_err: {level}");
    guest.run(&["ethtool", "-s", "eth0", "msglvl", "0xf7"])?;

    registers(guest)?;
    let stamps = guest.run(&["ethtool", "--show-time-stamping", "eth0"])?;
    ensure!(
        stamps.contains("software-transmit") && stamps.contains("software-receive"),
        "time stamps: {stamps:?}"
    );
    Ok(())
}

/// The send indirection table: sixteen words, each a channel.
fn registers(guest: &Guest) -> Result<()> {
    let path = "/tmp/registers";
    guest.shell(
        &format!("ethtool --register-dump eth0 raw on >{path}"),
        SHORT,
    )?;
    let dump = guest.run(&["od", "-An", "-v", "-tu4", "-w4", path])?;
    let words: Vec<u32> = dump
        .split_whitespace()
        .map(str::parse)
        .collect::<Result<_, _>>()
        .with_context(|| format!("registers {dump:?}"))?;
    let most = guest.machine.most_channels();
    let even: Vec<u32> = (0..16).map(|i| i % most).collect();
    ensure!(words == even, "registers {words:?}, not {even:?}");
    Ok(())
}
