// SPDX-License-Identifier: GPL-2.0

//! A host that refuses, or does not answer, one step of a re-attach.
//!
//! The steps are not listed here: a re-attach without faults is observed first, at the host's fault
//! points, and then each of its steps is made to fail in turn.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{bail, ensure, Context, Result};

use crate::guest::{End, Guest};
use crate::host::Action;
use crate::scenario::{Machine, Scenario, Set};

/// The budget of one reconfiguration: what the driver documents, and some for a slow machine.
const BUDGET: Duration = Duration::from_secs(60);

pub const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "re-attach-survives-a-refusal-at-every-step",
        about: "each message of a channel change is refused once: the change or the old count is in force",
        set: Set::Full,
        machine: Machine::COMMON,
        c_defect: Some("Q10, Q11: a failed step leaves NAPI contexts behind or hangs"),
        run: refuse_each,
    },
    Scenario {
        name: "re-attach-survives-silence-at-every-step",
        about: "each message of a channel change stays unanswered once: back within the budget",
        set: Set::Full,
        machine: Machine::COMMON,
        c_defect: Some("Q22: a wait without an answer from the host never ends"),
        run: silence_each,
    },
    Scenario {
        name: "re-attach-survives-some-refusals",
        about: "one refused step of each layer: NVSP, RNDIS query, RNDIS set, channel open",
        set: Set::Quick,
        machine: Machine::COMMON,
        c_defect: Some("Q10, Q11: a failed step leaves NAPI contexts behind or hangs"),
        run: refuse_some,
    },
    Scenario {
        name: "fewer-channels-granted-than-asked",
        about: "the device runs with what it got, and says so",
        set: Set::Quick,
        machine: Machine::COMMON,
        c_defect: Some("Q9: surplus NAPI contexts stay on the list after they are freed"),
        run: fewer_granted,
    },
];

/// One step of a re-attach: the n-th time that a fault point is reached.
#[derive(Clone, Debug)]
pub(super) struct Step {
    pub(super) point: String,
    pub(super) nth: u32,
}

/// Observes a re-attach of eth0 without faults.
pub(super) fn steps(guest: &Guest) -> Result<Vec<Step>> {
    let most = guest.machine.most_channels();
    guest.set_channels(2, BUDGET)?;
    guest.host.take_log()?;
    guest.set_channels(most, BUDGET)?;
    let mut seen: BTreeMap<String, u32> = BTreeMap::new();
    let steps: Vec<Step> = guest
        .host
        .take_log()?
        .into_iter()
        .map(|point| {
            let nth = seen.entry(point.clone()).or_default();
            *nth += 1;
            Step { nth: *nth, point }
        })
        .collect();
    ensure!(
        steps.iter().any(|s| s.point == "nvsp.init"),
        "the host saw no re-attach, only {steps:?}"
    );
    Ok(steps)
}

fn refuse_each(guest: &Guest) -> Result<()> {
    // The answer to a teardown carries no status: a host cannot refuse it.
    fail_each(guest, Action::Refuse, |step| {
        step.point != "vmbus.gpadl-teardown"
    })
}

fn silence_each(guest: &Guest) -> Result<()> {
    // What hv_vmbus itself waits for without limit is not the driver's to survive yet.
    fail_each(guest, Action::Silent, |step| {
        !step.point.starts_with("vmbus.")
    })
}

fn refuse_some(guest: &Guest) -> Result<()> {
    const SOME: [&str; 5] = [
        "nvsp.init",
        "nvsp.send-recv-buf",
        "nvsp.subchannel",
        "rndis.initialize",
        "vmbus.open",
    ];
    fail_each(guest, Action::Refuse, |step| {
        step.nth == 1 && SOME.contains(&step.point.as_str())
    })
}

fn fail_each(guest: &Guest, action: Action, wanted: impl Fn(&Step) -> bool) -> Result<()> {
    let steps: Vec<Step> = steps(guest)?.into_iter().filter(wanted).collect();
    ensure!(!steps.is_empty(), "no step of a re-attach is one of those");
    for (number, step) in steps.iter().enumerate() {
        fail_one(guest, action, step).with_context(|| {
            format!(
                "step {} of {}: {:?} at {} (occurrence {})",
                number + 1,
                steps.len(),
                action,
                step.point,
                step.nth
            )
        })?;
    }
    // As other scenarios of this boot expect it.
    guest.set_channels(guest.machine.most_channels(), BUDGET)
}

fn fail_one(guest: &Guest, action: Action, step: &Step) -> Result<()> {
    let most = guest.machine.most_channels();
    if guest.channels(End::Near)?.current != 2 {
        guest.set_channels(2, BUDGET)?;
    }
    guest.host.take_log()?;
    guest.host.add_fault(&step.point, step.nth, 1, action)?;
    let count = most.to_string();
    let argv = ["ethtool", "--set-channels", "eth0", "combined", &count];
    let began = Instant::now();
    let outcome = guest.try_at(End::Near, &argv, BUDGET)?;
    let took = began.elapsed();
    let fired = guest.host.counters()?.fired(&step.point);
    guest.host.clear_faults()?;
    ensure!(fired == 1, "the fault fired {fired} times");
    ensure!(took < BUDGET, "ethtool took {took:.1?}");
    let now = guest.channels(End::Near)?.current;
    match (outcome.success(), now) {
        // A refusal of something the device can do without changes nothing.
        (true, now) if now == most => {}
        // A sub-channel was not to be had: the device runs with those it got.
        (true, 1..) if step.point.starts_with("vmbus.") => {}
        (false, 2) => {}
        (success, now) => bail!(
            "ethtool {}, and {now} channels are in force",
            if success { "succeeded" } else { "failed" }
        ),
    }
    let open = guest.host.counters()?.open_channels(End::Near)?;
    ensure!(
        open == u64::from(now),
        "{now} channels are in force, and the host has {open} open"
    );
    guest.wait_until("carrier", Duration::from_secs(10), || {
        guest.carrier(End::Near)
    })?;
    guest.ping_both_ways()
}

fn fewer_granted(guest: &Guest) -> Result<()> {
    let most = guest.machine.most_channels();
    guest.set_channels(1, BUDGET)?;
    guest.no_kernel_report()?;
    guest.forget_kernel_log()?;
    guest
        .host
        .add_fault("nvsp.subchannel", 1, 1, Action::Grant(1))?;
    guest.set_channels(most, BUDGET)?;
    guest.host.clear_faults()?;
    let now = guest.channels(End::Near)?.current;
    ensure!(
        now == 2,
        "one sub-channel was granted, and {now} channels are shown"
    );
    let said = guest.kernel_messages("eth0.*channel")?;
    ensure!(
        said.iter().any(|line| line.contains('2')),
        "the kernel log does not say that fewer channels were granted: {said:?}"
    );
    guest.ping_both_ways()?;
    guest.set_channels(most, BUDGET)?;
    guest.ping_both_ways()
}
