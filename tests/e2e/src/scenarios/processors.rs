// SPDX-License-Identifier: GPL-2.0

//! Processors that channels interrupt: the user moves a channel to another one, and takes one away, which has the kernel
//! move its channels. Traffic goes on, and every packet is counted for some processor.

use anyhow::{ensure, Context, Result};

use crate::guest::{End, Guest, SHORT};
use crate::scenario::{Machine, Scenario, Set};

pub const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "channels-follow-their-processors",
        about: "channels move by sysfs, a processor leaves and returns, while verified data flows both ways",
        set: Set::Full,
        machine: Machine::COMMON,
        c_defect: None,
        run: follow,
    },
    Scenario {
        name: "processor-that-returns-may-have-a-channel-again",
        about: "a rebuild while a processor is away does not lower the maximum for ever",
        set: Set::Full,
        machine: Machine::COMMON,
        c_defect: Some("the maximum is that of the processors at the last rebuild"),
        run: return_of_a_processor,
    },
];

/// Times that the kernel may say that a processor is busy: an interrupt of the host's may just be on its way.
const TRIES: u32 = 20;

/// The processors of eth0's channels, in the order of the host's names for them.
fn targets(guest: &Guest) -> Result<Vec<u32>> {
    let list = guest.shell("cat /sys/class/net/eth0/device/channels/*/cpu", SHORT)?;
    let numbers: Result<Vec<u32>, _> = list.split_whitespace().map(str::parse).collect();
    numbers.with_context(|| format!("channels are on processors {list:?}"))
}

/// Moves all channels to `cpu`.
fn gather(guest: &Guest, cpu: u32) -> Result<()> {
    let script = format!(
        "for file in /sys/class/net/eth0/device/channels/*/cpu; do echo {cpu} >$file; done"
    );
    guest.shell(&script, SHORT)?;
    let now = targets(guest)?;
    ensure!(
        now.iter().all(|target| *target == cpu),
        "all channels were moved to processor {cpu}, and are on {now:?}"
    );
    Ok(())
}

/// Takes a processor away, or gives it back.
fn set_online(guest: &Guest, cpu: u32, online: bool) -> Result<()> {
    let value = u32::from(online);
    let script = format!(
        "cd /sys/devices/system/cpu/cpu{cpu}; for try in $(seq {TRIES}); do \
         echo {value} >online 2>/dev/null && break; sleep 0.1; done; cat online"
    );
    let now = guest.shell(&script, SHORT)?;
    ensure!(
        now.trim() == value.to_string(),
        "processor {cpu} is still {}",
        if online { "away" } else { "there" }
    );
    Ok(())
}

/// What is counted by processor is what is counted by queue.
fn accounted(guest: &Guest) -> Result<()> {
    let counters = guest.statistics(End::Near)?;
    let sum = |of: &str, what: &str| -> u64 {
        let named = counters
            .iter()
            .filter(|(name, _)| name.starts_with(of) && name.ends_with(what));
        named
            .filter(|(name, _)| !name.contains("_vf_"))
            .map(|(_, value)| value)
            .sum()
    };
    for (queues, what) in [("rx_queue_", "_packets"), ("tx_queue_", "_packets")] {
        let by_queue = sum(queues, what);
        let by_processor = sum("cpu", &format!("_{}{what}", &queues[..2]));
        ensure!(
            by_queue == by_processor && by_queue > 0,
            "{queues}*{what} are {by_queue}, and those by processor {by_processor}"
        );
    }
    Ok(())
}

fn follow(guest: &Guest) -> Result<()> {
    let last = guest.machine.most_channels() - 1;
    let spread = targets(guest)?;
    let there = guest.background(End::Near, 2)?;
    let back = guest.background(End::Peer, 2)?;
    let flows = || there.still_runs().and_then(|()| back.still_runs());
    for cpu in [last, 0, last] {
        gather(guest, cpu)?;
        flows().with_context(|| format!("all channels on processor {cpu}"))?;
    }
    // The kernel finds other places for the channels, and then lets the processor go.
    set_online(guest, last, false)?;
    let moved = targets(guest)?;
    ensure!(
        !moved.contains(&last),
        "processor {last} is away, and channels are on {moved:?}"
    );
    flows().context("without a processor")?;
    set_online(guest, last, true)?;
    gather(guest, last)?;
    flows().context("with all processors again")?;
    there.finish()?;
    back.finish()?;
    let script = format!(
        "set -- {}; for file in /sys/class/net/eth0/device/channels/*/cpu; do echo $1 >$file; shift; done",
        spread.iter().map(u32::to_string).collect::<Vec<_>>().join(" ")
    );
    guest.shell(&script, SHORT)?;
    accounted(guest)?;
    guest.ping_both_ways()
}

fn return_of_a_processor(guest: &Guest) -> Result<()> {
    let most = guest.machine.most_channels();
    let shown = |combined: u32, max: u32, when: &str| -> Result<()> {
        let channels = guest.channels(End::Near)?;
        ensure!(
            (channels.current, channels.maximum) == (combined, max),
            "{when}: {} channels of at most {}, not {combined} of {max}",
            channels.current,
            channels.maximum
        );
        Ok(())
    };
    set_online(guest, most - 1, false)?;
    guest.set_channels(1, SHORT)?;
    shown(1, most - 1, "without a processor")?;
    set_online(guest, most - 1, true)?;
    shown(1, most, "with all processors again")?;
    guest.set_channels(most, SHORT)?;
    shown(most, most, "with all channels")?;
    guest.ping_both_ways()
}
