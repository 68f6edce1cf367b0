// SPDX-License-Identifier: GPL-2.0

//! Checksum and segmentation offloads on and off, by the guest and by the host, with and without VLAN
//! and jumbo frames: what arrives is what was sent, and the host sees the offloads that are in force.

use anyhow::{bail, ensure, Result};
use guest_agent::tcp;

use super::echo::set_mtu;
use crate::guest::{End, Guest, SHORT};
use crate::scenario::{Machine, Scenario, Set};
use crate::traffic::{until_listening, Family};

const MIB: u64 = 1 << 20;

pub const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "offloads-on-and-off-carry-the-same",
        about: "'ethtool -K tx/tso/rx' on and off, TCP and UDP, IPv4 and IPv6; the host counts requests",
        set: Set::Full,
        machine: Machine::COMMON,
        c_defect: None,
        run: on_and_off,
    },
    Scenario {
        name: "vlan-carries-every-kind-of-packet",
        about: "a VLAN interface on each end, TCP and UDP, IPv4 and IPv6, with offloads",
        set: Set::Full,
        machine: Machine::COMMON,
        c_defect: None,
        run: vlan,
    },
    Scenario {
        name: "offloads-the-host-lacks-are-made-up-for",
        about: "a host that offers nothing, or only one IP version: the stack does the rest in software",
        set: Set::Full,
        machine: Machine::COMMON,
        c_defect: None,
        run: host_lacks,
    },
    Scenario {
        name: "offloads-with-vlan-and-jumbo-frames-at-every-channel-count",
        about: "on and off x VLAN or not x MTU 1500 and 9000 x one and all channels",
        set: Set::Full,
        machine: Machine::COMMON,
        c_defect: None,
        run: matrix,
    },
];

/// Where the two ends are reached.
#[derive(Clone, Copy, Debug)]
struct Wire {
    near: [&'static str; 2],
    peer: [&'static str; 2],
}

const PLAIN: Wire = Wire {
    near: [End::Near.v4(), End::Near.v6()],
    peer: [End::Peer.v4(), End::Peer.v6()],
};
const TAGGED: Wire = Wire {
    near: ["10.0.5.1", "fd05::1"],
    peer: ["10.0.5.2", "fd05::2"],
};

/// What the host saw of the near end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Seen {
    lso: u64,
    checksum: u64,
    vlan: u64,
}

fn seen(guest: &Guest) -> Result<Seen> {
    let counters = guest.host.counters()?;
    let count = |name| counters.count(End::Near, name);
    Ok(Seen {
        lso: count("tx_lso")?,
        checksum: count("tx_checksum")?,
        vlan: count("tx_vlan")?,
    })
}

fn set_offloads(guest: &Guest, on: bool) -> Result<()> {
    let state = if on { "on" } else { "off" };
    for end in [End::Near, End::Peer] {
        let argv = [
            "ethtool",
            "-K",
            end.interface(),
            "tx",
            state,
            "tso",
            state,
            "rx",
            state,
        ];
        guest.at(end, &argv, SHORT)?;
    }
    Ok(())
}

fn family_name(family: Family) -> usize {
    match family {
        Family::V4 => 0,
        Family::V6 => 1,
    }
}

fn socket(address: &str, port: u16) -> String {
    if address.contains(':') {
        format!("[{address}]:{port}")
    } else {
        format!("{address}:{port}")
    }
}

/// TCP each way, every byte compared.
fn tcp_each_way(guest: &Guest, wire: Wire, family: Family, bytes: u64) -> Result<()> {
    let index = family_name(family);
    for from in [End::Near, End::Peer] {
        let to = match from {
            End::Near => wire.peer[index],
            End::Peer => wire.near[index],
        };
        let to = socket(to, 5011);
        let (sender, receiver) = match from {
            End::Near => ("", "ip netns exec peer "),
            End::Peer => ("ip netns exec peer ", ""),
        };
        let listening = until_listening(receiver, 5011);
        let script = format!(
            "{receiver}/agent tcp-receive --listen {to} --patience 60 >/tmp/received &\n\
             {listening}\n\
             {sender}/agent tcp-send --to {to} --bytes {bytes}\nwait\ncat /tmp/received"
        );
        let printed = guest.shell(&script, SHORT)?;
        let reports: Vec<tcp::Report> = serde_json::Deserializer::from_str(&printed)
            .into_iter()
            .collect::<Result<_, _>>()?;
        let [sent, received] = &reports[..] else {
            bail!("not two reports: {printed}");
        };
        ensure!(
            sent.streams == received.streams && received.streams.iter().all(|s| s.intact),
            "data to {to} was damaged: sent {sent:?}, received {received:?}"
        );
    }
    Ok(())
}

/// UDP echoes of a few lengths.
fn udp_echoes(guest: &Guest, wire: Wire, family: Family) -> Result<()> {
    let to = socket(wire.peer[family_name(family)], 5012);
    let listening = until_listening("ip netns exec peer ", 5012);
    let script = format!(
        "ip netns exec peer /agent udp-echo --listen {to} &\necho=$!\n{listening}\ncode=0\n\
         /agent udp-sweep --to {to} --lengths 1-3,100,1000-1003,1400 >/tmp/swept || code=$?\n\
         kill $echo\n[ $code = 0 ] || cat /tmp/swept >&2\nexit $code"
    );
    guest.shell(&script, SHORT).map(drop)
}

fn all_kinds(guest: &Guest, wire: Wire, bytes: u64) -> Result<()> {
    for family in [Family::V4, Family::V6] {
        tcp_each_way(guest, wire, family, bytes)?;
        udp_echoes(guest, wire, family)?;
    }
    Ok(())
}

/// Runs all kinds of traffic with the guest's offloads on or off, and looks at what the host saw.
fn check(guest: &Guest, wire: Wire, on: bool, bytes: u64) -> Result<()> {
    set_offloads(guest, on)?;
    let before = seen(guest)?;
    all_kinds(guest, wire, bytes)?;
    let after = seen(guest)?;
    let (lso, checksum) = (after.lso > before.lso, after.checksum > before.checksum);
    ensure!(
        (lso, checksum) == (on, on),
        "offloads on: {on}; the host saw {before:?} and then {after:?}"
    );
    Ok(())
}

fn on_and_off(guest: &Guest) -> Result<()> {
    let result = check(guest, PLAIN, false, MIB / 2).and_then(|()| check(guest, PLAIN, true, MIB));
    set_offloads(guest, true)?;
    result
}

const ADD_VLAN: &str = "
modprobe 8021q
ip link add link eth0 name tagged0 type vlan id 5
ip -n peer link add link eth1 name tagged1 type vlan id 5
ip address add 10.0.5.1/24 dev tagged0
ip address add fd05::1/64 dev tagged0 nodad
ip -n peer address add 10.0.5.2/24 dev tagged1
ip -n peer address add fd05::2/64 dev tagged1 nodad
ip link set tagged0 up
ip -n peer link set tagged1 up";
const REMOVE_VLAN: &str = "ip link del tagged0; ip -n peer link del tagged1";

/// Runs `work` while there is a VLAN interface on each end.
fn with_vlan(guest: &Guest, work: impl FnOnce() -> Result<()>) -> Result<()> {
    guest.shell(ADD_VLAN, SHORT)?;
    let result = work();
    guest.shell(REMOVE_VLAN, SHORT)?;
    result
}

fn vlan(guest: &Guest) -> Result<()> {
    let before = seen(guest)?;
    with_vlan(guest, || check(guest, TAGGED, true, MIB))?;
    let after = seen(guest)?;
    ensure!(after.vlan > before.vlan, "the host saw no tag: {after:?}");
    Ok(())
}

fn host_lacks(guest: &Guest) -> Result<()> {
    let mut result = Ok(());
    for offers in ["none", "csum4+lso4", "csum6+udp+lso6", "csum4+csum6"] {
        guest.host.set_offloads(End::Near, offers)?;
        guest.reload()?;
        let before = seen(guest)?;
        result = all_kinds(guest, PLAIN, MIB);
        let after = seen(guest)?;
        if result.is_ok() {
            let expected = (offers.contains("lso"), offers.contains("csum"));
            let found = (after.lso > before.lso, after.checksum > before.checksum);
            if found != expected {
                result = Err(anyhow::anyhow!(
                    "the host offers {offers} and saw {before:?} and then {after:?}"
                ));
            }
        }
        if result.is_err() {
            break;
        }
    }
    guest.host.set_offloads(End::Near, "all")?;
    guest.reload()?;
    result
}

fn matrix(guest: &Guest) -> Result<()> {
    let result = every_combination(guest);
    set_offloads(guest, true)?;
    set_mtu(guest, 1500)?;
    guest.configure(guest.machine.most_channels())?;
    result
}

fn every_combination(guest: &Guest) -> Result<()> {
    for channels in [1, guest.machine.most_channels()] {
        guest.set_channels(channels, SHORT)?;
        for mtu in [1500, 9000] {
            set_mtu(guest, mtu)?;
            for on in [false, true] {
                check(guest, PLAIN, on, MIB)?;
                with_vlan(guest, || check(guest, TAGGED, on, MIB))?;
            }
        }
    }
    Ok(())
}
