// SPDX-License-Identifier: GPL-2.0

//! `ethtool --show-rxfh` and `--rxfh`: indirection table and hash key, as the guest and the host see
//! them.

use anyhow::{ensure, Context, Result};

use super::echo::set_mtu;
use crate::ethtool::Rss;
use crate::guest::{End, Guest, SHORT};
use crate::host::Action;
use crate::scenario::{Machine, Scenario, Set};
use crate::traffic::{Bulk, Family};

/// The fault point of a change of table or key.
const SET_RSS: &str = "rndis.set.GEN_RECEIVE_SCALE_PARAMETERS";

pub const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "indirection-table-steers-traffic",
        about: "weight, equal, default, key: in force at once at the host, without a re-attach",
        set: Set::Quick,
        machine: Machine::COMMON,
        c_defect: None,
        run: steering,
    },
    Scenario {
        name: "table-and-key-survive-rebuilds",
        about: "MTU, down and up, link loss, one channel and back: the host has what the user set",
        set: Set::Quick,
        machine: Machine::COMMON,
        c_defect: Some("Q1, Q2: a rebuild zeroes the table, one channel zeroes the key"),
        run: survival,
    },
    Scenario {
        name: "refused-table-leaves-the-old-one",
        about: "the host refuses to turn RSS off, which does no harm, or on: the old table in force",
        set: Set::Full,
        machine: Machine::COMMON,
        c_defect: Some("the table that it shows is the refused one, and the host has none"),
        run: refusal,
    },
    Scenario {
        name: "unanswered-table-leaves-the-old-one",
        about: "the host is silent: an error within seconds, and the old table in force",
        set: Set::Full,
        machine: Machine::COMMON,
        c_defect: Some("Q22: it waits for ever"),
        run: silence,
    },
    Scenario {
        name: "table-that-no-longer-fits-is-announced",
        about: "the host grants fewer channels: even spread, and the core is told",
        set: Set::Full,
        machine: Machine::COMMON,
        c_defect: Some("Q1, Q9: the table is zeroed in silence; surplus NAPI contexts stay"),
        run: lost,
    },
    Scenario {
        name: "bad-rss-settings-change-nothing",
        about: "rings, key lengths, functions and contexts that there are not: refused, nothing changed",
        set: Set::Full,
        machine: Machine::COMMON,
        c_defect: None,
        run: bad_values,
    },
];

/// `ethtool --rxfh eth0 ...`, which must succeed.
fn set_rss(guest: &Guest, what: &[&str]) -> Result<()> {
    let argv = [&["ethtool", "--rxfh", "eth0"], what].concat();
    guest.run(&argv).map(drop)
}

/// Guest and host must agree in every field; what they say.
fn agreed(guest: &Guest) -> Result<Rss> {
    let ours = guest.rss(End::Near)?;
    let current = guest.channels(End::Near)?.current;
    ensure!(
        ours.rings == current,
        "{} rings are shown, and {current} channels",
        ours.rings
    );
    ensure!(
        ours.functions == ["toeplitz"],
        "hash functions {:?}",
        ours.functions
    );
    let hosts = guest.host.counters()?.rss(End::Near)?;
    match hosts {
        Some(hosts) => {
            ensure!(
                ours.table == hosts.table,
                "the guest shows table {:?}, the host has {:?}",
                ours.table,
                hosts.table
            );
            ensure!(
                ours.key == hosts.key,
                "the guest shows key {}, the host has {}",
                ours.key,
                hosts.key
            );
        }
        None => ensure!(
            current == 1,
            "{current} channels, and the host does not spread"
        ),
    }
    Ok(ours)
}

fn even(channels: u32) -> Vec<u32> {
    (0..128).map(|bucket| bucket % channels).collect()
}

/// A key that differs from the default in every byte, as ethtool takes it, and as digits.
fn user_key() -> (String, String) {
    let bytes: Vec<String> = (0..40).map(|i| format!("{:02x}", 6 * i + 1)).collect();
    (bytes.join(":"), bytes.concat())
}

fn steering(guest: &Guest) -> Result<()> {
    let most = guest.machine.most_channels();
    let result = steer(guest, most);
    set_rss(guest, &["default"])?;
    result
}

fn steer(guest: &Guest, most: u32) -> Result<()> {
    ensure!(agreed(guest)?.table == even(most), "not the even spread");
    let attaches = guest.host.counters()?.attaches(End::Near)?;
    let traffic = guest.background(End::Near, 2)?;

    set_rss(guest, &["weight", "0", "0", "0", "1"])?;
    ensure!(agreed(guest)?.table == [3; 128], "not all on channel 3");
    traffic.still_runs()?;
    traffic.finish()?;
    only_on_channel(guest, 3)?;

    set_rss(guest, &["equal", "2"])?;
    ensure!(agreed(guest)?.table == even(2), "not on two channels");

    let (key, digits) = user_key();
    set_rss(guest, &["hkey", &key])?;
    let rss = agreed(guest)?;
    ensure!(rss.key == digits, "the key is {}", rss.key);
    ensure!(rss.table == even(2), "the key changed the table");

    set_rss(guest, &["default"])?;
    let rss = agreed(guest)?;
    ensure!(rss.table == even(most), "default is {:?}", rss.table);
    ensure!(rss.key == digits, "the default table changed the key");
    let again = guest.host.counters()?.attaches(End::Near)?;
    ensure!(again == attaches, "RSS settings re-attached the device");
    guest.ping_both_ways()
}

/// Sends TCP to eth0 and asks the host on which channels it went.
fn only_on_channel(guest: &Guest, expected: u32) -> Result<()> {
    let most = guest.machine.most_channels();
    let count = || -> Result<Vec<u64>> {
        let counters = guest.host.counters()?;
        (0..most)
            .map(|i| Ok(counters.channel(End::Near, i)?.to_guest))
            .collect()
    };
    let before = count()?;
    guest.bulk(Bulk {
        from: End::Peer,
        family: Family::V4,
        connections: 8,
        bytes: 1 << 20,
    })?;
    let after = count()?;
    let frames: Vec<u64> = after.iter().zip(&before).map(|(a, b)| a - b).collect();
    for (channel, &frames_there) in (0..).zip(&frames) {
        // Channel 0 also has what is not hashed, such as ARP.
        let fits = match channel {
            channel if channel == expected => frames_there >= 100,
            0 => frames_there < 50,
            _ => frames_there == 0,
        };
        ensure!(
            fits,
            "frames by channel: {frames:?}, all should be on {expected}"
        );
    }
    Ok(())
}

fn survival(guest: &Guest) -> Result<()> {
    let most = guest.machine.most_channels();
    let result = survive(guest, most);
    // The core refuses channel counts that the table does not fit.
    set_rss(guest, &["default"])?;
    guest.set_channels(most, SHORT)?;
    set_mtu(guest, 1500)?;
    guest.configure(most)?;
    result
}

fn survive(guest: &Guest, most: u32) -> Result<()> {
    let (key, digits) = user_key();
    set_rss(guest, &["weight", "1", "0", "0", "3"])?;
    set_rss(guest, &["hkey", &key])?;
    let wanted = agreed(guest)?;
    let kept = |operation: &str| -> Result<()> {
        let now = agreed(guest).with_context(|| format!("after {operation}"))?;
        ensure!(now == wanted, "{operation} changed {wanted:?} into {now:?}");
        Ok(())
    };
    set_mtu(guest, 4000)?;
    kept("an MTU change")?;
    guest.run(&["ip", "link", "set", "eth0", "down"])?;
    kept("setting the interface down")?;
    guest.run(&["ip", "link", "set", "eth0", "mtu", "1500"])?;
    guest.run(&["ip", "link", "set", "eth0", "up"])?;
    kept("an MTU change while down")?;
    guest.host.set_link(End::Near.nic(), false)?;
    guest.host.set_link(End::Near.nic(), true)?;
    kept("a loss of link")?;
    guest.run(&["ethtool", "--set-ring", "eth0", "tx", "100"])?;
    kept("a ring change")?;
    guest.run(&["ethtool", "--set-ring", "eth0", "tx", "170"])?;
    guest.configure(most)?;
    // Its highest entry is 3: the core must refuse to go below 4 channels, and only that.
    let argv = ["ethtool", "--set-channels", "eth0", "combined", "3"];
    guest.refused(&argv, "too low for existing indirection table")?;
    kept("a refused channel count")?;

    // A table that fits one channel goes through it.
    set_rss(guest, &["equal", "1"])?;
    through_one_channel(guest, most)?;
    let rss = agreed(guest)?;
    ensure!(
        rss.table == [0; 128],
        "the user's table came back as {:?}",
        rss.table
    );
    ensure!(rss.key == digits, "the user's key came back as {}", rss.key);

    // The default follows the channel count.
    set_rss(guest, &["default"])?;
    through_one_channel(guest, most)?;
    let rss = agreed(guest)?;
    ensure!(
        rss.table == even(most),
        "the default came back as {:?}",
        rss.table
    );
    ensure!(rss.key == digits, "the user's key came back as {}", rss.key);
    Ok(())
}

fn through_one_channel(guest: &Guest, most: u32) -> Result<()> {
    guest.set_channels(1, SHORT)?;
    let rss = agreed(guest)?;
    ensure!(
        rss.table == [0; 128],
        "table {:?} with one channel",
        rss.table
    );
    guest.set_channels(most, SHORT)
}

fn refusal(guest: &Guest) -> Result<()> {
    // Turning RSS off, and on again.
    fail(guest, 1, Action::Refuse, None)?;
    fail(guest, 2, Action::Refuse, Some("Input/output error"))?;
    guest.ping_both_ways()
}

fn silence(guest: &Guest) -> Result<()> {
    fail(guest, 1, Action::Silent, Some("timed out"))?;
    fail(guest, 2, Action::Silent, Some("timed out"))?;
    guest.ping_both_ways()
}

/// Has the `nth` request of a change fail: with `error`, or without consequences.
fn fail(guest: &Guest, nth: u32, action: Action, error: Option<&str>) -> Result<()> {
    set_rss(guest, &["equal", "2"])?;
    let result = try_to_change(guest, nth, action, error);
    guest.host.clear_faults()?;
    set_rss(guest, &["default"])?;
    result
}

fn try_to_change(guest: &Guest, nth: u32, action: Action, error: Option<&str>) -> Result<()> {
    let old = agreed(guest)?;
    guest.host.add_fault(SET_RSS, nth, 1, action)?;
    let argv = ["ethtool", "--rxfh", "eth0", "weight", "0", "1"];
    match error {
        Some(error) => guest.refused(&argv, error)?,
        None => guest.run(&argv).map(drop)?,
    }
    let fired = guest.host.counters()?.fired(SET_RSS);
    ensure!(fired > 0, "the fault did not fire");
    let now = agreed(guest)?;
    match error {
        Some(_) => ensure!(now == old, "{old:?} became {now:?}"),
        None => ensure!(now.table == [1; 128], "not all on channel 1: {now:?}"),
    }
    Ok(())
}

fn lost(guest: &Guest) -> Result<()> {
    let most = guest.machine.most_channels();
    let result = lose(guest);
    guest.host.clear_faults()?;
    set_mtu(guest, 1500)?;
    set_rss(guest, &["default"])?;
    guest.set_channels(most, SHORT)?;
    result
}

fn lose(guest: &Guest) -> Result<()> {
    set_rss(guest, &["weight", "0", "0", "0", "1"])?;
    guest
        .host
        .add_fault("nvsp.subchannel", 1, 1, Action::Grant(1))?;
    guest.run(&["ip", "link", "set", "eth0", "mtu", "1400"])?;
    let rss = agreed(guest)?;
    ensure!(
        rss.table == even(2),
        "two channels were granted, and the table is {:?}",
        rss.table
    );
    let said = guest.kernel_messages("RSS indirection table lost")?;
    ensure!(said.len() == 1, "the core says of the lost table: {said:?}");
    // Nothing stands in the way of fewer channels any more.
    guest.set_channels(1, SHORT)?;
    guest.ping_both_ways()
}

fn bad_values(guest: &Guest) -> Result<()> {
    let old = agreed(guest)?;
    let (key, _) = user_key();
    let attempts: [(&[&str], &str); 6] = [
        (&["equal", "5"], "Invalid argument"),
        (&["weight", "0", "0", "0", "0", "1"], "Invalid argument"),
        (&["hkey", &key[..key.len() - 3]], ""),
        (&["hkey", &format!("{key}:00")], ""),
        (&["hfunc", "xor"], "not supported"),
        (&["context", "new"], "not supported"),
    ];
    for (what, message) in attempts {
        let argv = [&["ethtool", "--rxfh", "eth0"], what].concat();
        guest.refused(&argv, message)?;
        let now = agreed(guest)?;
        ensure!(now == old, "{what:?} was refused and changed {now:?}");
    }
    set_rss(guest, &["hfunc", "toeplitz"])?;
    ensure!(
        agreed(guest)? == old,
        "the present hash function changed it"
    );
    Ok(())
}
