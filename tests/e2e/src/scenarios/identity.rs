// SPDX-License-Identifier: GPL-2.0

//! What cloud tools, udev rules and operators match on: names, addresses, link, statistics.

use anyhow::{ensure, Context, Result};

use crate::ethtool;
use crate::guest::{module_path, End, Guest, SHORT};
use crate::host::Action;
use crate::scenario::{Machine, Scenario, Set};

pub const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "nic-appears-under-its-stock-names",
        about: "driver name, module, alias, sysfs link, MAC address, MTU, carrier",
        set: Set::Quick,
        machine: Machine::COMMON,
        c_defect: None,
        run: names,
    },
    Scenario {
        name: "friendly-name-becomes-the-alias",
        about: "ip link shows the host's name of the NIC; a host that tells none does no harm",
        set: Set::Quick,
        machine: Machine::COMMON,
        c_defect: None,
        run: alias,
    },
    Scenario {
        name: "statistics-have-the-stock-names-and-order",
        about: "ethtool -S lists what the C driver lists, in the same order",
        set: Set::Quick,
        machine: Machine::COMMON,
        c_defect: None,
        run: statistics,
    },
    Scenario {
        name: "module-parameters-read-as-in-the-stock-module",
        about: "ring_size and debug in /sys/module/hv_netvsc/parameters, read-only",
        set: Set::Quick,
        machine: Machine::COMMON,
        c_defect: None,
        run: parameters,
    },
];

fn names(guest: &Guest) -> Result<()> {
    for end in [End::Near, End::Peer] {
        let info = guest.at(end, &["ethtool", "--driver", end.interface()], SHORT)?;
        let driver = ethtool::field(&info, "driver");
        ensure!(driver == Some("hv_netvsc"), "ethtool -i says {info:?}");
        let link = guest.link(end)?;
        ensure!(
            link["address"] == end.mac(),
            "{end:?} has address {}, the host gave it {}",
            link["address"],
            end.mac()
        );
        ensure!(link["mtu"] == 1500, "{end:?} has MTU {}", link["mtu"]);
        ensure!(guest.carrier(end)?, "{end:?} has no carrier");
    }
    let driver = guest.run(&["readlink", "/sys/class/net/eth0/device/driver"])?;
    ensure!(
        driver.trim().ends_with("/bus/vmbus/drivers/hv_netvsc"),
        "the sysfs driver link of eth0 leads to {driver:?}"
    );
    let class = guest.run(&["cat", "/sys/class/net/eth0/device/class_id"])?;
    ensure!(
        class.trim() == "{f8615163-df3e-46c5-913f-f2d2f965ed0e}",
        "eth0 hangs on a device of class {class:?}"
    );
    let alias = guest.run(&["modinfo", "-F", "alias", module_path(guest.driver.get())])?;
    ensure!(
        alias
            .lines()
            .any(|a| a == "vmbus:635161f83edfc546913ff2d2f965ed0e"),
        "the module's aliases are {alias:?}"
    );
    Ok(())
}

/// What this host calls every NIC.
const FRIENDLY_NAME: &str = "Network Device";
const FRIENDLY_NAME_QUERY: &str = "rndis.query.GEN_FRIENDLY_NAME";

fn alias(guest: &Guest) -> Result<()> {
    for end in [End::Near, End::Peer] {
        // The peer's was lost when it moved to its network namespace, or not.
        let alias = &guest.link(end)?["ifalias"];
        ensure!(
            alias == FRIENDLY_NAME || (end == End::Peer && alias.is_null()),
            "{end:?} has alias {alias}"
        );
    }
    guest
        .host
        .add_fault(FRIENDLY_NAME_QUERY, 1, 1, Action::Refuse)?;
    let result = third_nic(guest);
    guest.host.clear_faults()?;
    guest.host.remove_nic("nic2")?;
    guest.wait_until("end of the third interface", SHORT, || {
        Ok(third_interface(guest)?.is_empty())
    })?;
    result
}

const THIRD_MAC: &str = "00:15:5d:00:00:03";

/// The name of the interface with the third NIC's address.
fn third_interface(guest: &Guest) -> Result<String> {
    let script = format!("grep -l {THIRD_MAC} /sys/class/net/*/address 2>/dev/null || true");
    Ok(guest.shell(&script, SHORT)?.trim().to_owned())
}

fn third_nic(guest: &Guest) -> Result<()> {
    guest
        .host
        .add_nic(&format!("name=nic2,mac={THIRD_MAC},queues=4,backend=null"))?;
    guest.wait_until("the third interface", SHORT, || {
        Ok(!third_interface(guest)?.is_empty())
    })?;
    let fired = guest.host.counters()?.fired(FRIENDLY_NAME_QUERY);
    ensure!(fired == 1, "the fault fired {fired} times");
    let path = third_interface(guest)?.replace("/address", "/ifalias");
    let alias = guest.run(&["cat", &path])?;
    ensure!(alias.trim().is_empty(), "the alias is {alias:?}");
    Ok(())
}

fn statistics(guest: &Guest) -> Result<()> {
    let found: Vec<String> = guest
        .statistics(End::Near)?
        .into_iter()
        .map(|(name, _)| name)
        .collect();
    let expected =
        ethtool::statistic_names(guest.machine.most_channels(), guest.machine.processors);
    // What is new may stand behind, never between.
    let head = found.get(..expected.len()).unwrap_or(&found);
    let first_difference = head.iter().zip(&expected).find(|(f, e)| f != e);
    ensure!(
        head.len() == expected.len() && first_difference.is_none(),
        "{} statistics, {} expected; first difference (found, expected): {first_difference:?}",
        found.len(),
        expected.len()
    );
    Ok(())
}

fn parameters(guest: &Guest) -> Result<()> {
    for (name, value) in [("ring_size", "128"), ("debug", "-1")] {
        let path = format!("/sys/module/hv_netvsc/parameters/{name}");
        let found = guest.run(&["cat", &path]).context("module parameter")?;
        ensure!(found.trim() == value, "{name} is {found:?}, not {value}");
        let mode = guest.run(&["stat", "-c", "%a", &path])?;
        ensure!(mode.trim() == "444", "{path} has mode {mode:?}, not 444");
    }
    Ok(())
}
