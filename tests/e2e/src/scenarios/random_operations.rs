// SPDX-License-Identifier: GPL-2.0

//! Random sequences of everything an administrator can do, under traffic; after each operation every field that
//! can be shown is what the model says.
//!
//! The seed is printed. `SEED=n` repeats a run; a failure is shrunk to the shortest sequence that still fails.

use std::cell::{Cell, RefCell};

use anyhow::{Context, Error, Result};
use proptest::collection::vec;
use proptest::strategy::Strategy;
use proptest::test_runner::{Config, RngAlgorithm, TestCaseError, TestError, TestRng, TestRunner};

use crate::administrator::Administrator;
use crate::fault::Infrastructure;
use crate::guest::{End, Guest, SHORT};
use crate::operations::{any_operation, Operation};
use crate::scenario::{Machine, Scenario, Set};
use crate::traffic::Background;

const DEFECTS: Option<&str> =
    Some("Q1 to Q5, Q20: a rebuild forgets tables, keys, promiscuous mode and addresses");

pub const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "some-random-operations-show-what-was-set",
        about: "a short sequence, the same each time: every field as the model says, under traffic",
        set: Set::Quick,
        machine: Machine::COMMON,
        c_defect: DEFECTS,
        run: |guest| run(guest, 2026, 1, 5, |_| true),
    },
    Scenario {
        name: "random-operations-show-what-was-set",
        about: "sequences of twenty: every field as the model says, under traffic; SEED=n repeats a run",
        set: Set::Full,
        machine: Machine::COMMON,
        c_defect: DEFECTS,
        run: |guest| run(guest, seed()?, 10, 20, |_| true),
    },
    Scenario {
        name: "random-operations-without-those-the-c-driver-forgets",
        about: "the same with what the C driver keeps: shows that the model is right",
        set: Set::Full,
        machine: Machine::COMMON,
        c_defect: None,
        run: |guest| run(guest, seed()?, 3, 20, Operation::kept_by_c),
    },
];

/// Most attempts to find a shorter sequence, and their time.
const SHRINK_ATTEMPTS: u32 = 32;
const SHRINK_MS: u32 = 240_000;

/// The seed asked for, or another one each time.
pub(super) fn seed() -> Result<u64> {
    match std::env::var("SEED") {
        Ok(text) if !text.is_empty() => text
            .parse()
            .with_context(|| format!("SEED='{text}' is not a number")),
        _ => {
            let now = std::time::UNIX_EPOCH.elapsed().unwrap_or_default();
            Ok(u64::from(now.subsec_nanos()))
        }
    }
}

/// A generator that draws the same for the same seed.
pub(super) fn generator(seed: u64) -> TestRng {
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    TestRng::from_seed(RngAlgorithm::ChaCha, &bytes)
}

/// Has peers learn a new address at once.
pub(super) const ANNOUNCE: &str = "echo 1 >/proc/sys/net/ipv4/conf/eth0/arp_notify";

/// Runs `cases` sequences of up to `length` of the operations that are `allowed`.
fn run(
    guest: &Guest,
    seed: u64,
    cases: u32,
    length: usize,
    allowed: fn(&Operation) -> bool,
) -> Result<()> {
    println!("      random operations: SEED={seed}");
    guest.reload()?;
    guest.shell(ANNOUNCE, SHORT)?;
    let administrator = Administrator::new(guest, End::Near)?;
    let limits = administrator.baseline();
    let sections = limits.most_sections(limits.configuration.mtu);
    let operation =
        any_operation(limits.most_channels, sections).prop_filter("kept by the driver", allowed);
    let sequences = vec(operation, length.div_ceil(2)..=length);
    let config = Config {
        cases,
        failure_persistence: None,
        max_shrink_iters: SHRINK_ATTEMPTS,
        max_shrink_time: SHRINK_MS,
        ..Config::default()
    };
    let traffic = guest.trickle(End::Near, 2)?;
    let session = Session {
        administrator: RefCell::new(administrator),
        traffic: &traffic,
        failure: RefCell::default(),
        over: Cell::new(false),
    };
    let mut runner = TestRunner::new_with_rng(config, generator(seed));
    let result = runner.run(&sequences, |sequence| session.case(&sequence));
    if let Err(error) = result {
        return Err(session.explain(seed, error));
    }
    drop(session);
    traffic.finish()?;
    guest.configure(guest.machine.most_channels())?;
    guest.ping_both_ways()
}

/// One guest that all sequences of a run share.
struct Session<'a> {
    administrator: RefCell<Administrator<'a>>,
    traffic: &'a Background<'a>,
    /// The first failure.
    failure: RefCell<Option<Error>>,
    /// The interface cannot be had back: nothing more can be learnt.
    over: Cell<bool>,
}

impl Session<'_> {
    fn case(&self, sequence: &[Operation]) -> Result<(), TestCaseError> {
        if self.over.get() {
            // While a failure is being shrunk: what is not tried does not fail.
            return Ok(());
        }
        let result = self.attempt(sequence);
        let restored = self.administrator.borrow_mut().go_back();
        self.over.set(restored.is_err());
        result.and(restored).map_err(|error| {
            let text = format!("{error:#}");
            if Infrastructure::caused(&error) {
                self.over.set(true);
            }
            self.failure.borrow_mut().get_or_insert(error);
            TestCaseError::fail(text)
        })
    }

    fn attempt(&self, sequence: &[Operation]) -> Result<()> {
        let mut administrator = self.administrator.borrow_mut();
        for operation in sequence {
            administrator.perform(operation)?;
            self.traffic.still_runs()?;
        }
        Ok(())
    }

    fn explain(&self, seed: u64, error: TestError<Vec<Operation>>) -> Error {
        let first = self.failure.take();
        match (first, error) {
            (Some(error), _) if Infrastructure::caused(&error) => error,
            (Some(first), TestError::Fail(reason, sequence)) => {
                let steps: Vec<String> = sequence.iter().map(ToString::to_string).collect();
                first.context(format!(
                    "SEED={seed}; the shortest sequence found:\n  {}\nfails with: {reason}\nat first",
                    steps.join("\n  ")
                ))
            }
            (_, error) => anyhow::anyhow!("SEED={seed}: {error}"),
        }
    }
}
