// SPDX-License-Identifier: GPL-2.0

//! A host whose answers to the handshake are wrong: cut short, too long, twice, late, for nobody, of another
//! kind, with values out of range.
//!
//! Each case spoils one answer of one re-attach. The change of channels may succeed or fail, but must end
//! within its budget and say why; after the next re-attach, with a host that behaves, all is well.

use std::time::{Duration, Instant};

use anyhow::{ensure, Context, Result};

use super::attach_faults::{steps, Step};
use crate::guest::{End, Guest};
use crate::host::{Action, Corruption};
use crate::scenario::{Machine, Scenario, Set};

/// What the driver documents for one change of channels against a host that falls silent.
const BUDGET: Duration = Duration::from_secs(106);
/// Cases between two looks at the kernel's messages.
const GROUP: usize = 8;

pub const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "some-spoilt-answers-to-a-re-attach-do-no-harm",
        about: "one spoilt answer of each kind and layer, at the step where it matters most",
        set: Set::Quick,
        machine: Machine::COMMON,
        c_defect: Some("weaknesses 3, 5, 10, 15 of 8.2: answers are taken without a look at id, length, value"),
        run: some,
    },
    Scenario {
        name: "spoilt-answers-to-nvsp-do-no-harm",
        about: "every answer of NVSP, spoilt in every way",
        set: Set::Full,
        machine: Machine::COMMON,
        c_defect: Some("weaknesses 3, 4, 5 of 8.2: any completion ends the wait, whatever its id and length"),
        run: |guest| every(guest, "nvsp."),
    },
    Scenario {
        name: "spoilt-answers-to-rndis-do-no-harm",
        about: "every answer of RNDIS, spoilt in every way",
        set: Set::Full,
        machine: Machine::COMMON,
        c_defect: Some("weaknesses 10, 11, 16 of 8.2: lengths and factors unchecked, a second answer is a use after free"),
        run: |guest| every(guest, "rndis."),
    },
    Scenario {
        name: "mutated-answers-to-a-re-attach-do-no-harm",
        about: "forty answers with random bytes and words replaced",
        set: Set::Full,
        machine: Machine::COMMON,
        c_defect: Some("weaknesses 5, 10, 11 of 8.2: answers are taken without a look at length and value"),
        run: mutated,
    },
    Scenario {
        name: "wrong-offers-of-sub-channels-do-no-harm",
        about: "an index that comes twice, and one out of range",
        set: Set::Full,
        machine: Machine::COMMON,
        c_defect: Some("weakness 15 of 8.2: an index that comes twice is a BUG"),
        run: offers,
    },
];

/// One answer, and what becomes of it.
struct Case {
    step: Step,
    how: Corruption,
}

/// Where in OFFERCHANNEL the index of the sub-channel is.
const OFFER_INDEX: u32 = 180;

/// Whether there is an answer to spoil at this point.
fn is_answered(point: &str) -> bool {
    const UNANSWERED: [&str; 5] = [
        "nvsp.ndis-version",
        "nvsp.ndis-config",
        "nvsp.revoke-recv-buf",
        "nvsp.revoke-send-buf",
        "rndis.halt",
    ];
    (point.starts_with("nvsp.") || point.starts_with("rndis.")) && !UNANSWERED.contains(&point)
}

/// Ways that cost no wait: the driver sees at once what is wrong, or nothing is.
fn quick_ways(point: &str) -> Vec<Corruption> {
    const VALUES: [u32; 2] = [0, u32::MAX];
    // Behind number (and length and id, for RNDIS) of the message.
    let fields: &[u32] = match point {
        "nvsp.send-recv-buf" => &[4, 8, 12, 16, 20, 24],
        "nvsp.send-table" => &[4, 8, 12],
        "rndis.initialize" => &[12, 16, 20, 28, 32, 36, 40],
        _ if point.starts_with("nvsp.") => &[4, 8],
        _ if point.starts_with("rndis.query.") => &[12, 16, 20, 24],
        _ => &[12],
    };
    let set = fields
        .iter()
        .flat_map(|&offset| VALUES.map(|value| Corruption::Set(offset, value)));
    [
        Corruption::Extend(64),
        Corruption::Duplicate,
        Corruption::Late(300),
        Corruption::Unsolicited,
    ]
    .into_iter()
    .chain(set)
    .collect()
}

/// Ways after which there is no answer that the driver could know as such: it waits for its budget.
const SLOW_WAYS: [Corruption; 5] = [
    Corruption::Truncate(0),
    Corruption::Truncate(6),
    Corruption::Truncate(14),
    Corruption::WrongId,
    Corruption::WrongType,
];
/// At these steps they are tried.
const SLOW_STEPS: [&str; 6] = [
    "nvsp.init",
    "nvsp.send-recv-buf",
    "nvsp.subchannel",
    "rndis.initialize",
    "rndis.query.802_3_PERMANENT_ADDRESS",
    "rndis.set.GEN_RECEIVE_SCALE_PARAMETERS",
];

fn every(guest: &Guest, layer: &str) -> Result<()> {
    let mut cases = Vec::new();
    for step in steps(guest)? {
        let point = step.point.as_str();
        if step.nth != 1 || !point.starts_with(layer) || !is_answered(point) {
            continue;
        }
        let slow = SLOW_WAYS
            .into_iter()
            .filter(|_| SLOW_STEPS.contains(&point));
        for how in quick_ways(point).into_iter().chain(slow) {
            let step = step.clone();
            cases.push(Case { step, how });
        }
    }
    try_all(guest, &cases)
}

fn first(point: &str) -> Step {
    Step {
        point: point.to_owned(),
        nth: 1,
    }
}

fn some(guest: &Guest) -> Result<()> {
    let cases = [
        ("nvsp.init", Corruption::Truncate(0)),
        ("nvsp.send-recv-buf", Corruption::Set(16, u32::MAX)),
        ("nvsp.subchannel", Corruption::Set(8, u32::MAX)),
        ("nvsp.send-table", Corruption::Set(8, u32::MAX)),
        ("rndis.initialize", Corruption::Set(36, 200)),
        ("rndis.query.*", Corruption::Set(20, u32::MAX)),
    ];
    let cases = cases.map(|(point, how)| Case {
        step: first(point),
        how,
    });
    try_all(guest, &cases)
}

fn mutated(guest: &Guest) -> Result<()> {
    const SEEDS: u64 = 40;
    let steps: Vec<Step> = steps(guest)?
        .into_iter()
        .filter(|step| is_answered(&step.point))
        .collect();
    ensure!(!steps.is_empty(), "no step of a re-attach has an answer");
    let cases: Vec<Case> = (0..SEEDS)
        .zip(steps.iter().cycle())
        .map(|(seed, step)| Case {
            step: step.clone(),
            how: Corruption::Mutate(seed),
        })
        .collect();
    try_all(guest, &cases)
}

fn offers(guest: &Guest) -> Result<()> {
    // The word holds the index and 16 reserved bits.
    let cases = [(1, 2), (2, 1), (3, 9), (1, 64), (3, 0xffff)].map(|(nth, index)| Case {
        step: Step {
            point: "vmbus.offer-subchannel".to_owned(),
            nth,
        },
        how: Corruption::Set(OFFER_INDEX, index),
    });
    try_all(guest, &cases)
}

fn try_all(guest: &Guest, cases: &[Case]) -> Result<()> {
    ensure!(!cases.is_empty(), "nothing to spoil");
    let (mut refused, mut longest) = (0, Duration::ZERO);
    for (number, case) in cases.iter().enumerate() {
        let context = || {
            let number = number + 1;
            let (point, nth) = (&case.step.point, case.step.nth);
            let how = case.how;
            format!(
                "case {number} of {}: {how:?} at {point} ({nth})",
                cases.len()
            )
        };
        let (accepted, took) = try_one(guest, case).with_context(context)?;
        refused += usize::from(!accepted);
        longest = longest.max(took);
        if (number + 1) % GROUP == 0 {
            guest.no_kernel_report().with_context(context)?;
        }
    }
    println!(
        "      {} spoilt answers: {refused} changes refused, the longest took {longest:.1?}",
        cases.len()
    );
    // An MTU that the host made small cost the interface its IPv6 address.
    guest.set_channels(guest.machine.most_channels(), BUDGET)?;
    guest.configure(guest.machine.most_channels())?;
    guest.ping_both_ways()
}

/// Whether the change went through nevertheless, and how long it took.
fn try_one(guest: &Guest, case: &Case) -> Result<(bool, Duration)> {
    let most = guest.machine.most_channels().to_string();
    if guest.channels(End::Near)?.current != 2 {
        guest.set_channels(2, BUDGET)?;
    }
    guest.host.take_log()?;
    let Step { point, nth } = &case.step;
    let action = Action::Corrupt(case.how);
    guest.host.add_fault(point, *nth, 1, action)?;
    let argv = ["ethtool", "--set-channels", "eth0", "combined", &most];
    let began = Instant::now();
    let outcome = guest.try_at(End::Near, &argv, BUDGET)?;
    let took = began.elapsed();
    let fired = guest.host.counters()?.fired_in_all();
    guest.host.clear_faults()?;
    ensure!(fired == 1, "{fired} answers were spoilt");
    ensure!(took < BUDGET, "ethtool took {took:.1?}");
    if !outcome.success() {
        let said = guest.kernel_messages("eth0.*(failed|refused)")?;
        ensure!(!said.is_empty(), "ethtool failed, and no message says why");
    }
    // A host that behaves: whatever was agreed on is agreed on again.
    guest.set_channels(if outcome.success() { 2 } else { 3 }, BUDGET)?;
    guest.wait_until("carrier", Duration::from_secs(10), || {
        guest.carrier(End::Near)
    })?;
    let ping = ["ping", "-c1", "-W10", "-q", End::Peer.v4()];
    guest.run(&ping)?;
    Ok((outcome.success(), took))
}
