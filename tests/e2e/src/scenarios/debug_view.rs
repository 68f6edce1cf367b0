// SPDX-License-Identifier: GPL-2.0

//! `/sys/kernel/debug/hv_netvsc/DEVICE/state`: what host and driver agreed on, and what went wrong.

use std::time::Duration;

use anyhow::{ensure, Context, Result};

use crate::ethtool;
use crate::guest::{End, Guest, SHORT};
use crate::host::Action;
use crate::scenario::{Machine, Scenario, Set};

const NOT_IN_C: Option<&str> = Some("the C driver has no such view");

pub const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "debugfs-shows-what-was-negotiated",
        about:
            "versions, MTU, buffers, channels, refusals, last error, rebuilds: as the host has them",
        set: Set::Quick,
        machine: Machine::COMMON,
        c_defect: NOT_IN_C,
        run: shows,
    },
    Scenario {
        name: "debugfs-is-read-while-devices-come-and-go",
        about: "readers without a pause during rebuilds, hot plug and a reload of the module",
        set: Set::Full,
        machine: Machine::COMMON,
        c_defect: NOT_IN_C,
        run: readers,
    },
];

/// The view of eth0.
fn view(guest: &Guest) -> Result<String> {
    let script =
        "cat /sys/kernel/debug/hv_netvsc/$(basename $(readlink /sys/class/net/eth0/device))/state";
    guest.shell(script, SHORT)
}

/// A line of the view must say this.
fn says(text: &str, key: &str, value: &str) -> Result<()> {
    let found = ethtool::field(text, key);
    ensure!(
        found == Some(value),
        "'{key}' is {found:?}, not '{value}', in\n{text}"
    );
    Ok(())
}

fn shows(guest: &Guest) -> Result<()> {
    let text = view(guest)?;
    let counters = guest.host.counters()?;
    let nic = &counters.0["nics"][End::Near.nic()]["counters"];
    says(&text, "interface", "eth0")?;
    says(
        &text,
        "VMBus version",
        &counters.vmbus_version().context("VMBus version")?,
    )?;
    says(
        &text,
        "NVSP version",
        &counters.nvsp_version(End::Near).context("NVSP version")?,
    )?;
    says(
        &text,
        "NDIS version",
        nic["ndis_version"].as_str().context("NDIS version")?,
    )?;
    says(&text, "MTU", "1500")?;
    for (key, name) in [
        ("receive buffer", "receive_buffer"),
        ("send buffer", "send_buffer"),
    ] {
        let buffer = &nic[name];
        let (bytes, sections) = (&buffer["bytes"], &buffer["sections"]);
        let expected = format!(
            "{bytes} bytes, {sections} sections of {}",
            buffer["section_size"]
        );
        says(&text, key, &expected)?;
    }
    let most = guest.machine.most_channels();
    says(&text, "channels", &format!("{most} of at most {most}"))?;
    says(&text, "refused", "nothing")?;
    for channel in 0..most {
        let shown = ethtool::field(&text, &format!("channel {channel}")).unwrap_or_default();
        let id = format!("id {},", nic["channels"][channel.to_string()]["relid"]);
        let whole = shown.starts_with(&id) && shown.contains("bytes free to the host");
        ensure!(whole, "channel {channel}: {shown:?}, not {id}");
    }
    let result = follows(guest, &text);
    guest.host.clear_faults()?;
    guest.set_channels(most, SHORT)?;
    guest.configure(most)?;
    result?;
    guest.ping_both_ways()
}

/// Rebuilds and refusals show.
fn follows(guest: &Guest, before: &str) -> Result<()> {
    let attaches = |text: &str| -> Result<(u32, u32)> {
        let shown = ethtool::field(text, "attaches").unwrap_or_default();
        let numbers = shown
            .strip_suffix(" failed")
            .and_then(|s| s.split_once(", "));
        let (all, failed) = numbers.with_context(|| format!("'attaches' is '{shown}'"))?;
        Ok((all.parse()?, failed.parse()?))
    };
    let (all, failed) = attaches(before)?;
    // Without the answer to this question a device works, and one channel change fails before one is made.
    let host = &guest.host;
    host.add_fault("rndis.query.GEN_LINK_SPEED", 1, 1, Action::Refuse)?;
    guest.set_channels(2, SHORT)?;
    let text = view(guest)?;
    says(&text, "refused", "link speed")?;
    ensure!(
        attaches(&text)? == (all + 1, failed),
        "after one rebuild:\n{text}"
    );
    host.add_fault("nvsp.send-recv-buf", 1, 1, Action::Refuse)?;
    let argv = ["ethtool", "--set-channels", "eth0", "combined", "3"];
    guest.refused(&argv, "")?;
    let text = view(guest)?;
    ensure!(
        attaches(&text)? == (all + 2, failed + 1),
        "after one that failed:\n{text}"
    );
    let error = ethtool::field(&text, "last host error").unwrap_or_default();
    ensure!(
        error.starts_with("attach: receive buffer: host says"),
        "the last error is '{error}'"
    );
    ensure!(
        ethtool::field(&text, "channel 2").is_none(),
        "a channel that is not open:\n{text}"
    );
    Ok(())
}

/// Reads all views again and again until it is told to stop; counts how often it found one.
const READER: &str = "found=0; until [ -e /tmp/stop-readers ]; do \
    cat /sys/kernel/debug/hv_netvsc/*/state >/tmp/view-$1 2>/dev/null && found=$((found + 1)); done; echo $found";

fn readers(guest: &Guest) -> Result<()> {
    guest.run(&["rm", "-f", "/tmp/stop-readers"])?;
    let mut jobs = Vec::new();
    for number in ["1", "2"] {
        jobs.push(guest.spawn_at(End::Near, &["sh", "-c", READER, "reader", number])?);
    }
    let result = disturb(guest);
    guest.run(&["touch", "/tmp/stop-readers"])?;
    for job in jobs {
        let outcome = guest.ended(job, Duration::from_secs(30))?;
        let found: u32 = outcome.stdout.trim().parse().context("a reader's count")?;
        ensure!(found > 3, "a reader found a view {found} times");
    }
    result?;
    guest.ping_both_ways()
}

fn disturb(guest: &Guest) -> Result<()> {
    let most = guest.machine.most_channels();
    for count in [1, most, 2, most] {
        guest.set_channels(count, SHORT)?;
    }
    super::hotplug::replace_peer(guest)?;
    guest.unload()?;
    let left = guest.try_at(End::Near, &["ls", "/sys/kernel/debug/hv_netvsc"], SHORT)?;
    ensure!(
        !left.success(),
        "without the module there is {}",
        left.stdout
    );
    guest.load()?;
    guest.configure(most)
}
