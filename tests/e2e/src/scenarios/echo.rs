// SPDX-License-Identifier: GPL-2.0

//! Every packet length arrives, whole, in both directions.

use anyhow::Result;

use crate::guest::{End, Guest, SHORT};
use crate::scenario::{Machine, Scenario, Set};
use crate::traffic::Family;

pub const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "ping-answers",
        about: "stock ping, both ways, IPv4 and IPv6, small and full-sized",
        set: Set::Quick,
        machine: Machine::COMMON,
        c_defect: None,
        run: stock_ping,
    },
    Scenario {
        name: "ping-answers-at-every-length",
        about: "ICMP echo with each payload of 0 to 1472 bytes (IPv6: 1452), every byte compared",
        set: Set::Full,
        machine: Machine::COMMON,
        c_defect: None,
        run: every_length,
    },
    Scenario {
        name: "udp-arrives-however-a-packet-is-divided",
        about: "each division of a full packet between linear part and fragment",
        set: Set::Quick,
        machine: Machine::COMMON,
        c_defect: None,
        run: every_division,
    },
    Scenario {
        name: "jumbo-packets-arrive-around-page-and-section-boundaries",
        about: "MTU 9000, payloads around 4096, 6144 and 8192 bytes and every division near them",
        set: Set::Full,
        machine: Machine::COMMON,
        c_defect: None,
        run: jumbo,
    },
];

fn stock_ping(guest: &Guest) -> Result<()> {
    guest.ping_both_ways()?;
    for (end, size) in [(End::Near, "1472"), (End::Peer, "1452")] {
        let family = if size == "1472" {
            Family::V4
        } else {
            Family::V6
        };
        let address = family.address(end.other());
        let argv = [
            "ping", "-c", "5", "-i", "0.2", "-W", "10", "-M", "do", "-s", size, address,
        ];
        guest.at(end, &argv, SHORT)?;
    }
    Ok(())
}

fn every_length(guest: &Guest) -> Result<()> {
    for end in [End::Near, End::Peer] {
        guest.icmp_sweep(end, Family::V4, "0-1472")?;
        guest.icmp_sweep(end, Family::V6, "0-1452")?;
    }
    Ok(())
}

fn every_division(guest: &Guest) -> Result<()> {
    guest.udp_sweep(End::Near, Family::V4, "1472", Some("0-1472"))?;
    guest.udp_sweep(End::Near, Family::V6, "1452", Some("0-1452"))?;
    guest.udp_sweep(End::Peer, Family::V4, "100,700", Some("0-700"))
}

fn jumbo(guest: &Guest) -> Result<()> {
    set_mtu(guest, 9000)?;
    let result = jumbo_sweeps(guest);
    set_mtu(guest, 1500)?;
    result
}

fn jumbo_sweeps(guest: &Guest) -> Result<()> {
    // What goes over the wire has up to 14 + 40 + 8 bytes of headers before the payload and up to
    // 116 of RNDIS before those: each boundary may be met anywhere in this distance.
    // Not over ICMP: what answers is one kernel socket for each CPU, and it drops answers when a few
    // of this size wait for their completion.
    const AROUND: &str = "3880-4110,5930-6160,7980-8210,8900-8952";
    guest.udp_sweep(End::Near, Family::V4, AROUND, None)?;
    guest.udp_sweep(End::Peer, Family::V6, AROUND, None)?;
    guest.udp_sweep(
        End::Near,
        Family::V4,
        "6000,8972",
        Some("0-300,3800-4200,5900-6000"),
    )
}

/// Sets the MTU of both ends.
pub fn set_mtu(guest: &Guest, mtu: u32) -> Result<()> {
    let mtu = mtu.to_string();
    for end in [End::Near, End::Peer] {
        let argv = ["ip", "link", "set", end.interface(), "mtu", &mtu];
        guest.at(end, &argv, SHORT)?;
    }
    Ok(())
}
