// SPDX-License-Identifier: GPL-2.0

//! A long week in short: random operations on two NICs under traffic both ways, with everything that can happen to
//! them meanwhile, drawn from a seed that is printed. `SEED=n` repeats a run; `SOAK_SECONDS=n` says how long.
//!
//! | what happens | must |
//! |---|---|
//! | an operation | show the old or the new configuration, in every field |
//! | link flaps, a channel moves to another processor, a processor leaves and returns | let verified data through |
//! | the host refuses a request, takes a sub-channel away | be overcome |
//! | failing allocations (a kernel with fault injection) | fail the operation at most |
//! | the other NIC is replaced, the module is reloaded | leave nothing at the host |
//!
//! At the end every packet is accounted for, nothing is open at the host once the module is gone, and memory is
//! back where it was.

use std::time::{Duration, Instant};

use anyhow::{ensure, Context, Result};
use proptest::prelude::*;
use proptest::sample::select;
use proptest::strategy::ValueTree;
use proptest::test_runner::{Config, TestRunner};

use super::overload::overload;
use super::random_operations::{generator, seed, ANNOUNCE};
use crate::administrator::Administrator;
use crate::guest::{End, Guest, SHORT};
use crate::host::Action;
use crate::operations::{any_operation, Operation};
use crate::scenario::{Machine, Scenario, Set};

pub const SCENARIOS: &[Scenario] = &[Scenario {
    name: "soak",
    about: "random operations and mishaps on two NICs under traffic; SEED=n, SOAK_SECONDS=n (default 120)",
    set: Set::Full,
    machine: Machine::COMMON,
    c_defect: Some("Q1 to Q11, Q20, Q22: it forgets settings, and hangs with such hosts"),
    run: soak,
}];

/// Time of a run that is not told how long.
const BRIEF: Duration = Duration::from_secs(120);
/// Mishaps and operations between two looks at the data.
const ROUND: usize = 8;
/// Longest that a command may take while the host refuses something.
const LIMIT: Duration = Duration::from_secs(120);
/// Memory, in KiB, that the rest of the system may have taken meanwhile.
const SLACK_KIB: u64 = 24 << 10;
/// Packets that are counted one by one at the end.
const COUNTED: u64 = 2000;

/// Requests of a channel change that the host may refuse.
const REFUSED: [&str; 6] = [
    "nvsp.send-recv-buf",
    "nvsp.subchannel",
    "rndis.initialize",
    "rndis.query.TCP_OFFLOAD_HARDWARE_CAPABILITIES",
    "vmbus.open",
    "vmbus.gpadl",
];

/// Something that happens.
#[derive(Clone, Debug)]
enum Event {
    /// On eth0.
    Operation(Operation),
    /// The host's link goes down and up.
    LinkFlap,
    /// A channel's interrupts move to another processor.
    Retarget { channel: usize, cpu: u32 },
    /// A processor is taken away, if the kernel lets it go, and given back.
    Processor(u32),
    /// The host refuses the next such request, and eth0's channels change.
    Refusal(&'static str),
    /// The host takes a sub-channel away.
    Loss(u32),
    /// Allocations fail now and then while eth0's MTU changes.
    Shortage,
}

fn events(administrator: &Administrator<'_>, most: u32) -> impl Strategy<Value = Event> {
    let limits = administrator.baseline();
    let sections = limits.most_sections(limits.configuration.mtu);
    prop_oneof![
        12 => any_operation(limits.most_channels, sections).prop_map(Event::Operation),
        2 => Just(Event::LinkFlap),
        2 => (0..most as usize, 0..most).prop_map(|(channel, cpu)| Event::Retarget { channel, cpu }),
        1 => (1..most).prop_map(Event::Processor),
        2 => select(&REFUSED[..]).prop_map(Event::Refusal),
        1 => (1..most).prop_map(Event::Loss),
        1 => Just(Event::Shortage),
    ]
}

fn time() -> Result<Duration> {
    match std::env::var("SOAK_SECONDS") {
        Ok(text) if !text.is_empty() => {
            let seconds = text.parse();
            let seconds = seconds.with_context(|| format!("SOAK_SECONDS='{text}' is no number"))?;
            Ok(Duration::from_secs(seconds))
        }
        _ => Ok(BRIEF),
    }
}

fn soak(guest: &Guest) -> Result<()> {
    let (seed, time) = (seed()?, time()?);
    println!("      soak: SEED={seed} SOAK_SECONDS={}", time.as_secs());
    let before = without_module(guest)?;
    let mut runner = TestRunner::new_with_rng(Config::default(), generator(seed));
    let began = Instant::now();
    let (mut rounds, mut bytes) = (0, 0);
    while rounds == 0 || began.elapsed() < time {
        let context = || format!("SEED={seed}, round {rounds}");
        bytes += round(guest, &mut runner).with_context(context)?;
        // NICs and module come and go between the rounds, under a flood.
        let whole = rounds % 2 == 1;
        let replaced = if whole {
            super::reload::once(guest)
        } else {
            replace_peer(guest)
        };
        replaced.with_context(context)?;
        guest.no_kernel_report().with_context(context)?;
        rounds += 1;
    }
    overload(guest, End::Near, COUNTED).context("after the soak")?;
    let after = without_module(guest)?;
    println!("      soak: {rounds} rounds, {bytes} bytes verified, KiB of memory free before {before} and after {after}");
    ensure!(
        after + SLACK_KIB >= before,
        "{before} KiB of memory were free before, {after} after {rounds} rounds"
    );
    Ok(())
}

/// KiB of memory that can be had while the module is not there; nothing may be left at the host.
fn without_module(guest: &Guest) -> Result<u64> {
    guest.unload()?;
    let counters = guest.host.counters()?;
    ensure!(
        counters.all_open_channels() == 0 && counters.live_gpadls() == 0,
        "without the module, the host has {} channels open and {} GPADLs live",
        counters.all_open_channels(),
        counters.live_gpadls()
    );
    let script = "sync; echo 3 >/proc/sys/vm/drop_caches; sed -n 's/MemAvailable: *\\([0-9]*\\) kB/\\1/p' /proc/meminfo";
    let available = guest.shell(script, SHORT)?;
    guest.load()?;
    guest.configure(guest.machine.most_channels())?;
    available.trim().parse().context("MemAvailable")
}

fn replace_peer(guest: &Guest) -> Result<()> {
    let flood = ["ping", "-f", "-q", "-w", "60", End::Peer.v4()];
    let flood = guest.spawn_at(End::Near, &flood)?;
    let replaced = super::hotplug::replace_peer(guest);
    guest.agent.kill(flood, 2)?;
    guest.ended(flood, SHORT)?;
    replaced
}

/// Some events under traffic both ways; how many bytes were verified.
fn round(guest: &Guest, runner: &mut TestRunner) -> Result<u64> {
    guest.shell(ANNOUNCE, SHORT)?;
    let mut administrator = Administrator::new(guest, End::Near)?;
    let there = guest.background(End::Near, 2)?;
    let back = guest.background(End::Peer, 2)?;
    let events = events(&administrator, guest.machine.most_channels());
    for _ in 0..ROUND {
        let tree = events.new_tree(runner);
        let event = tree.map_err(|why| anyhow::anyhow!("{why}"))?.current();
        happen(guest, &mut administrator, &event).with_context(|| format!("{event:?}"))?;
        there.still_runs()?;
        back.still_runs()?;
    }
    administrator.go_back()?;
    Ok(there.finish()? + back.finish()?)
}

fn happen(guest: &Guest, administrator: &mut Administrator<'_>, event: &Event) -> Result<()> {
    match event {
        Event::Operation(operation) => administrator.perform(operation),
        Event::LinkFlap => {
            administrator.set_link(false)?;
            administrator.set_link(true)
        }
        Event::Retarget { channel, cpu } => retarget(guest, *channel, *cpu),
        Event::Processor(cpu) => processor(guest, *cpu),
        Event::Refusal(point) => {
            guest.host.add_fault(point, 1, 1, Action::Refuse)?;
            let to = administrator.another_channel_count();
            let result = administrator.attempt(&Operation::Channels(to), LIMIT, &[]);
            guest.host.clear_faults()?;
            result.map(drop)
        }
        Event::Loss(channel) => {
            // Fewer may be open just now.
            if guest.host.rescind(End::Near.nic(), *channel).is_ok() {
                administrator.settled_within(SHORT)?;
            }
            Ok(())
        }
        Event::Shortage => {
            guest.shell(FAIL_ALLOCATIONS, SHORT)?;
            let result = administrator.attempt(&Operation::Mtu(2000), LIMIT, &[]);
            guest.shell(ALLOCATE_AGAIN, SHORT)?;
            result.map(drop)
        }
    }
}

fn retarget(guest: &Guest, channel: usize, cpu: u32) -> Result<()> {
    let script = format!(
        "set -- /sys/class/net/eth0/device/channels/*/cpu; shift {channel} 2>/dev/null || exit 0; \
         [ -z \"$1\" ] || echo {cpu} >$1"
    );
    guest.shell(&script, SHORT).map(drop)
}

/// The kernel keeps a processor that a channel interrupts.
fn processor(guest: &Guest, cpu: u32) -> Result<()> {
    let script = format!(
        "cd /sys/devices/system/cpu/cpu{cpu}; echo 0 >online 2>/dev/null || true; sleep 0.2; \
         [ $(cat online) = 1 ] || echo 1 >online"
    );
    guest.shell(&script, SHORT).map(drop)
}

/// One allocation in fifty fails, in any context, where the kernel can do that.
const FAIL_ALLOCATIONS: &str = "
for kind in failslab fail_page_alloc; do
    cd /sys/kernel/debug/$kind 2>/dev/null || continue
    echo N >ignore-gfp-wait
    echo 50 >times; echo 1 >interval; echo 0 >verbose; echo 2 >probability
done";
const ALLOCATE_AGAIN: &str = "
for kind in failslab fail_page_alloc; do
    cd /sys/kernel/debug/$kind 2>/dev/null || continue
    echo 0 >probability
done";
