// SPDX-License-Identifier: GPL-2.0

//! `ethtool --show-ring` and `--set-ring`: sections of the buffers, as the guest and the host count them.

use anyhow::{ensure, Context, Result};

use super::echo::set_mtu;
use crate::ethtool::{RingSizes, Rings};
use crate::guest::{End, Guest, SHORT};
use crate::host::Action;
use crate::scenario::{Driver, Machine, Scenario, Set};
use crate::traffic::{Bulk, Family};

/// Bytes of the buffers of a new interface, and the most that NVSP 4 and later allow.
const RECEIVE_BUFFER: u32 = 16 << 20;
const MOST_RECEIVE_BUFFER: u32 = 31 << 20;
/// Sections of the send buffer are 6144 bytes at this host.
const MOST_SEND_SECTIONS: u32 = (15 << 20) / 6144;
/// Fewest sections that can be set.
const FEWEST: u32 = 10;

pub const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "ring-sizes-read-back",
        about: "less and more by 2 MiB, the least, too few, too much: what the host has is what is shown",
        set: Set::Full,
        machine: Machine::COMMON,
        c_defect: None,
        run: sizes,
    },
    Scenario {
        name: "ring-sizes-survive-rebuilds",
        about: "MTU and channel changes keep the buffers that the user chose",
        set: Set::Full,
        machine: Machine::COMMON,
        c_defect: None,
        run: survival,
    },
    Scenario {
        name: "refused-ring-size-leaves-the-old-one",
        about: "the host refuses the new buffer: an error, the old sizes, and traffic",
        set: Set::Full,
        machine: Machine::COMMON,
        c_defect: None,
        run: refusal,
    },
];

/// Guest and host must agree; what they say.
fn agreed(guest: &Guest) -> Result<Rings> {
    let ours = guest.rings(End::Near)?;
    let hosts = guest.host.counters()?.sections(End::Near)?;
    ensure!(
        ours.current == hosts,
        "the guest shows {:?}, the host has {hosts:?}",
        ours.current
    );
    Ok(ours)
}

fn set(guest: &Guest, what: &[&str]) -> Result<()> {
    let argv = [&["ethtool", "--set-ring", "eth0"], what].concat();
    guest.at(End::Near, &argv, SHORT).map(drop)
}

/// Sets both sizes and asks what came of it. A buffer is whole pages, so there may be a few more.
fn change(guest: &Guest, wanted: RingSizes) -> Result<()> {
    let (rx, tx) = (wanted.rx.to_string(), wanted.tx.to_string());
    set(guest, &["rx", &rx, "tx", &tx])?;
    let now = agreed(guest)?.current;
    ensure!(
        (wanted.rx..wanted.rx + 3).contains(&now.rx)
            && (wanted.tx..wanted.tx + 2).contains(&now.tx),
        "{wanted:?} was set, and {now:?} is in force"
    );
    Ok(())
}

fn sizes(guest: &Guest) -> Result<()> {
    let old = agreed(guest)?;
    let result = resize(guest, &old);
    change(guest, old.current)?;
    guest.configure(guest.machine.most_channels())?;
    result?;
    guest.ping_both_ways()
}

fn resize(guest: &Guest, old: &Rings) -> Result<()> {
    let section = RECEIVE_BUFFER / old.current.rx;
    ensure!(
        old.maximum.rx == MOST_RECEIVE_BUFFER / section && old.maximum.tx == MOST_SEND_SECTIONS,
        "maximums {:?} with sections of {section} bytes",
        old.maximum
    );
    let step = (2 << 20) / section;
    for rx in [old.current.rx - step, old.current.rx + step] {
        let tx = old.current.tx;
        change(guest, RingSizes { rx, tx })?;
    }
    let attaches = guest.host.counters()?.attaches(End::Near)?;
    let now = agreed(guest)?.current;
    set(guest, &["tx", &now.tx.to_string()])
        .or_else(|error| nothing_to_do(&error).then_some(()).ok_or(error))?;
    let argv = ["ethtool", "--set-ring", "eth0", "rx"];
    let too_much = (old.maximum.rx + 1).to_string();
    guest.refused(&[&argv[..], &[&too_much]].concat(), "Invalid argument")?;
    guest.refused(
        &[&argv[..3], &["rx-mini", "1"]].concat(),
        "Invalid argument",
    )?;
    ensure!(
        agreed(guest)?.current == now,
        "a refused size changed {now:?}"
    );
    let again = guest.host.counters()?.attaches(End::Near)?;
    ensure!(
        again == attaches,
        "the present or a refused size re-attached the device"
    );
    if guest.driver.get() == Driver::Rust {
        // The C driver sets the least instead.
        for ring in ["rx", "tx"] {
            let argv = ["ethtool", "--set-ring", "eth0", ring, "9"];
            guest.refused(&argv, "Invalid argument")?;
        }
        ensure!(agreed(guest)?.current == now, "too few changed {now:?}");
    }
    let (rx, tx) = (FEWEST, FEWEST);
    change(guest, RingSizes { rx, tx })?;
    guest.configure(guest.machine.most_channels())?;
    guest.bulk(Bulk {
        from: End::Near,
        family: Family::V4,
        connections: 4,
        bytes: 1 << 20,
    })?;
    Ok(())
}

/// Some versions of ethtool take it for an error that there is nothing to change.
fn nothing_to_do(error: &anyhow::Error) -> bool {
    format!("{error:#}").contains("no ring parameters changed")
}

fn survival(guest: &Guest) -> Result<()> {
    let most = guest.machine.most_channels();
    let old = agreed(guest)?.current;
    let wanted = RingSizes { rx: 4000, tx: 300 };
    change(guest, wanted)?;
    let chosen = agreed(guest)?.current;
    let result = (|| {
        set_mtu(guest, 1400)?;
        set_mtu(guest, 1500)?;
        let now = agreed(guest)?.current;
        ensure!(now == chosen, "MTU changes made {now:?} of {chosen:?}");
        guest.set_channels(1, SHORT)?;
        guest.set_channels(most, SHORT)?;
        let now = agreed(guest)?.current;
        ensure!(now == chosen, "channel changes made {now:?} of {chosen:?}");
        Ok(())
    })();
    change(guest, old)?;
    guest.configure(most)?;
    result
}

fn refusal(guest: &Guest) -> Result<()> {
    let old = agreed(guest)?;
    for point in ["nvsp.send-recv-buf", "nvsp.send-send-buf"] {
        guest.host.add_fault(point, 1, 1, Action::Refuse)?;
        let argv = ["ethtool", "--set-ring", "eth0", "rx", "4000", "tx", "100"];
        let outcome = guest.try_at(End::Near, &argv, SHORT)?;
        guest.host.clear_faults()?;
        ensure!(
            !outcome.success(),
            "the host refused {point}, and ethtool succeeded"
        );
        let now = agreed(guest).with_context(|| format!("after a refused {point}"))?;
        ensure!(now == old, "a refused {point} changed {old:?} into {now:?}");
        guest.configure(guest.machine.most_channels())?;
    }
    guest.ping_both_ways()
}
