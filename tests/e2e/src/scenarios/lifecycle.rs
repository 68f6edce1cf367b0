// SPDX-License-Identifier: GPL-2.0

//! Down and up, MTU, MAC address, promiscuous mode, link state.

use anyhow::{ensure, Result};

use super::echo::set_mtu;
use crate::guest::{End, Guest, SHORT};
use crate::scenario::{Machine, Scenario, Set};
use crate::traffic::{Bulk, Family};

pub const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "interface-goes-down-and-up",
        about: "four times; the device stays attached and traffic comes back each time",
        set: Set::Full,
        machine: Machine::COMMON,
        c_defect: None,
        run: down_and_up,
    },
    Scenario {
        name: "mtu-changes-from-68-to-9000",
        about: "each new MTU carries packets of exactly its size",
        set: Set::Full,
        machine: Machine::COMMON,
        c_defect: None,
        run: mtu,
    },
    Scenario {
        name: "mac-address-changes",
        about: "packets leave with the new address and answers come back to it",
        set: Set::Quick,
        machine: Machine::COMMON,
        c_defect: Some(
            "it refuses a new address while the interface is up, which the host would take",
        ),
        run: mac,
    },
    Scenario {
        name: "carrier-follows-the-host-link",
        about: "link down and up at the host, seen by ip and ethtool; traffic comes back",
        set: Set::Quick,
        machine: Machine::COMMON,
        c_defect: None,
        run: link,
    },
    Scenario {
        name: "user-mac-survives-a-channel-change",
        about: "the host is told the user's address again after the device was rebuilt",
        set: Set::Full,
        machine: Machine::COMMON,
        c_defect: Some("Q4: the user's MAC address is not sent again after a rebuild"),
        run: mac_survives,
    },
];

fn down_and_up(guest: &Guest) -> Result<()> {
    let attaches = guest.host.counters()?.attaches(End::Near)?;
    for _ in 0..4 {
        guest.run(&["ip", "link", "set", "eth0", "down"])?;
        ensure!(!guest.carrier(End::Near)?, "eth0 is down and has carrier");
        guest.run(&["ip", "link", "set", "eth0", "up"])?;
        guest.configure(guest.machine.most_channels())?;
        guest.ping_both_ways()?;
    }
    let again = guest.host.counters()?.attaches(End::Near)?;
    ensure!(again == attaches, "down and up re-attached the device");
    Ok(())
}

fn mtu(guest: &Guest) -> Result<()> {
    for mtu in [68, 1499, 1500, 1501, 4000, 9000] {
        set_mtu(guest, mtu)?;
        let link = guest.link(End::Near)?;
        ensure!(
            link["mtu"] == mtu,
            "MTU {mtu} was set, ip says {}",
            link["mtu"]
        );
        let payload = Family::V4.longest_payload(mtu).to_string();
        guest.icmp_sweep(End::Near, Family::V4, &payload)?;
        guest.icmp_sweep(End::Peer, Family::V4, &payload)?;
    }
    guest.refused(
        &["ip", "link", "set", "eth0", "mtu", "67"],
        "less than device minimum",
    )?;
    set_mtu(guest, 1500)?;
    guest.configure(guest.machine.most_channels())?;
    guest.bulk(Bulk {
        from: End::Near,
        family: Family::V4,
        connections: 4,
        bytes: 8 << 20,
    })?;
    guest.ping_both_ways()
}

// The first digit of the last three bytes is decimal: some hosts refuse others (section 9.3).
const USER_MAC: &str = "02:15:5d:33:44:55";

fn mac(guest: &Guest) -> Result<()> {
    set_mac(guest, USER_MAC)?;
    let result = answers_come_back(guest, USER_MAC);
    set_mac(guest, End::Near.mac())?;
    result?;
    answers_come_back(guest, End::Near.mac())
}

fn set_mac(guest: &Guest, mac: &str) -> Result<()> {
    guest.run(&["ip", "link", "set", "eth0", "address", mac])?;
    let link = guest.link(End::Near)?;
    ensure!(
        link["address"] == mac,
        "address {mac} was set, ip says {}",
        link["address"]
    );
    Ok(())
}

fn answers_come_back(guest: &Guest, mac: &str) -> Result<()> {
    guest.at(End::Peer, &["ip", "neighbour", "flush", "all"], SHORT)?;
    guest.at(
        End::Peer,
        &[
            "ping",
            "-c",
            "3",
            "-i",
            "0.2",
            "-W",
            "10",
            "-q",
            End::Near.v4(),
        ],
        SHORT,
    )?;
    let seen = guest.at(
        End::Peer,
        &["ip", "neighbour", "show", End::Near.v4()],
        SHORT,
    )?;
    ensure!(
        seen.contains(mac),
        "the other end sees {seen:?} instead of {mac}"
    );
    Ok(())
}

fn mac_survives(guest: &Guest) -> Result<()> {
    set_mac(guest, USER_MAC)?;
    let told = guest.host.counters()?.point(CONFIG_PARAMETER);
    guest.set_channels(1, SHORT)?;
    let again = guest.host.counters()?.point(CONFIG_PARAMETER);
    guest.set_channels(guest.machine.most_channels(), SHORT)?;
    let result = answers_come_back(guest, USER_MAC);
    set_mac(guest, End::Near.mac())?;
    ensure!(
        again > told,
        "the host was not told the user's address after the rebuild"
    );
    result
}

const CONFIG_PARAMETER: &str = "rndis.set.GEN_RNDIS_CONFIG_PARAMETER";

fn link(guest: &Guest) -> Result<()> {
    for _ in 0..2 {
        guest.host.set_link(End::Near.nic(), false)?;
        guest.wait_until("loss of carrier", SHORT, || Ok(!guest.carrier(End::Near)?))?;
        let detected = guest.run(&["cat", "/sys/class/net/eth0/carrier"])?;
        ensure!(detected.trim() == "0", "sysfs says carrier {detected:?}");
        guest.host.set_link(End::Near.nic(), true)?;
        guest.wait_until("carrier", SHORT, || guest.carrier(End::Near))?;
        guest.ping_both_ways()?;
    }
    Ok(())
}
