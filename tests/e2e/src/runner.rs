// SPDX-License-Identifier: GPL-2.0

//! Running scenarios: which one next, on which guest, and what its end means.
//!
//! Each worker has a bench of its own and takes the next item from a common queue, preferring one
//! for the guest it has booted. A failed scenario's guest is thrown away.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use anyhow::{Context, Result};

use crate::artifacts::{Acceleration, Artifacts};
use crate::bench::{Bench, Session};
use crate::fault::{Infrastructure, Proof};
use crate::guest::Guest;
use crate::report::{Report, Verdict};
use crate::scenario::{Item, Kernel, Machine};

/// What a run is made of.
#[derive(Clone, Debug)]
pub struct Options {
    /// Kernels, images, programs.
    pub artifacts: Artifacts,
    /// Where guests run.
    pub acceleration: Acceleration,
    /// What they run.
    pub kernel: Kernel,
    /// Benches side by side.
    pub jobs: usize,
    /// Folder for sockets and consoles.
    pub folder: PathBuf,
    /// Folder for the details of failures.
    pub details: PathBuf,
}

/// Items that nobody has taken yet, in order.
struct Queue(Mutex<Vec<Item>>);

impl Queue {
    /// The next item for a guest that is booted as `current`, else the first of all.
    fn take(&self, current: Option<Machine>) -> Option<Item> {
        let mut items = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let at = items
            .iter()
            .position(|item| Some(item.scenario.machine) == current)
            .or(if items.is_empty() { None } else { Some(0) })?;
        Some(items.remove(at))
    }

    /// Puts an item behind all others.
    fn put_back(&self, item: Item) {
        let mut items = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        items.push(item);
    }
}

/// The end of `item`: whoever failed may get a second attempt, after all others.
fn end(queue: &Queue, report: &Report, item: Item, began: Instant, verdict: Verdict) {
    if report.verdict(&item, began.elapsed(), verdict) {
        queue.put_back(item);
    }
}

/// Runs all items; returns when the last one has its verdict.
pub fn run(options: &Options, items: Vec<Item>, report: &Report) {
    let queue = Queue(Mutex::new(items));
    std::thread::scope(|scope| {
        for number in 0..options.jobs.max(1) {
            let folder = options.folder.join(format!("bench{number}"));
            let queue = &queue;
            scope.spawn(move || work(options, &folder, queue, report));
        }
    });
}

/// One worker, until the queue is empty.
fn work(options: &Options, folder: &Path, queue: &Queue, report: &Report) {
    let mut next = queue.take(None);
    let mut boots = 0;
    let mut failures_in_a_row = 0;
    while let Some(item) = next.take() {
        let folder = folder.join(boots.to_string());
        boots += 1;
        match Bench::new(&options.artifacts, options.acceleration, &folder) {
            Err(e) => {
                failures_in_a_row += 1;
                if failures_in_a_row > 1 {
                    return give_up(item, e, queue, report);
                }
                next = after_bench_fault(item, e, queue, report);
            }
            Ok(bench) => {
                failures_in_a_row = 0;
                let mut current = Some(item);
                while let Some(item) = current.take() {
                    match guest_life(options, &bench, item, queue, report) {
                        Next::Boot(item) => current = item,
                        Next::NewBench(item) => {
                            next = item;
                            break;
                        }
                    }
                }
            }
        }
    }
}

enum Next {
    /// Boot another guest on this bench, for this item; or the queue is empty.
    Boot(Option<Item>),
    /// The bench is broken.
    NewBench(Option<Item>),
}

/// Boots a guest for `item` and runs all that the queue has for it, until one fails.
fn guest_life(
    options: &Options,
    bench: &Bench,
    item: Item,
    queue: &Queue,
    report: &Report,
) -> Next {
    let began = Instant::now();
    let machine = item.scenario.machine;
    let session = match bench.boot(machine, options.kernel, item.driver) {
        Ok(session) => session,
        Err(e) if bench.alive().is_err() || Infrastructure::caused(&e) => {
            return Next::NewBench(after_bench_fault(item, e, queue, report));
        }
        Err(e) => {
            end(
                queue,
                report,
                item,
                began,
                Verdict::Failed(e, String::new()),
            );
            return Next::Boot(queue.take(None));
        }
    };
    report.progress(&format!("booted {machine} in {:.1?}", began.elapsed()));
    let mut current = Some(item);
    while let Some(item) = current {
        let began = Instant::now();
        match run_one(&session, item) {
            Ok(()) => end(queue, report, item, began, Verdict::Passed),
            Err(e) if bench.alive().is_err() => {
                return Next::NewBench(after_bench_fault(item, e, queue, report));
            }
            Err(e) => {
                let e = better_cause(&session, e);
                let details = session.diagnosis();
                end(queue, report, item, began, Verdict::Failed(e, details));
                drop(session);
                return Next::Boot(queue.take(Some(machine)));
            }
        }
        current = queue.take(Some(machine));
        let fresh =
            |next: Item| next.scenario.machine != machine || report.is_second_attempt(&next);
        if current.is_some_and(fresh) {
            break;
        }
    }
    Next::Boot(current)
}

/// The guest's own end, or a report of its kernel, is a better cause than what followed from it.
fn better_cause(session: &Session<'_>, error: anyhow::Error) -> anyhow::Error {
    if let Err(end) = session.alive() {
        return Proof::wrap(end.context(format!("{error:#}")));
    }
    match session.guest.no_kernel_report() {
        Err(report) if Proof::caused(&report) => report.context(format!("{error:#}")),
        _ => error,
    }
}

/// No bench comes up here: nothing that is left can be run.
fn give_up(item: Item, error: anyhow::Error, queue: &Queue, report: &Report) {
    let why = format!("{error:#}");
    let fail = |item, error| {
        let verdict = Verdict::Failed(error, String::new());
        end(queue, report, item, Instant::now(), verdict);
    };
    fail(item, error);
    while let Some(item) = queue.take(None) {
        fail(item, anyhow::anyhow!("not run, there is no bench: {why}"));
    }
}

/// What follows when the bench broke under `item`: once more the same, the second time the next.
fn after_bench_fault(
    item: Item,
    error: anyhow::Error,
    queue: &Queue,
    report: &Report,
) -> Option<Item> {
    if report.infrastructure_fault(&item, &error) {
        return Some(item);
    }
    end(
        queue,
        report,
        item,
        Instant::now(),
        Verdict::Failed(error, String::new()),
    );
    queue.take(None)
}

/// One scenario on a booted guest: prepare, run, and look whether anything broke on the way.
fn run_one(session: &Session<'_>, item: Item) -> Result<()> {
    let guest = &session.guest;
    prepare(guest, item).context("preparing")?;
    (item.scenario.run)(guest)?;
    guest.no_kernel_report()?;
    let counters = guest.host.counters()?;
    let violations = counters.violations();
    if violations.is_empty() {
        return Ok(());
    }
    let what = violations.join("; ");
    Err(Proof::wrap(format!(
        "the driver broke the protocol: {what}"
    )))
}

/// Brings the guest into the state every scenario starts from.
fn prepare(guest: &Guest, item: Item) -> Result<()> {
    guest.host.clear_faults()?;
    let mut loaded = guest.begin()?;
    if loaded && guest.driver.get() != item.driver {
        guest.unload()?;
        loaded = false;
    }
    guest.driver.set(item.driver);
    if !loaded {
        guest.load()?;
    }
    guest.configure(item.scenario.machine.most_channels())?;
    guest.host.clear_violations()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenario::{Driver, Scenario, Set};

    fn item(name: &'static str, machine: Machine) -> Item {
        Item {
            scenario: Scenario {
                name,
                about: "",
                set: Set::Quick,
                machine,
                c_defect: None,
                run: |_| Ok(()),
            },
            driver: Driver::C,
        }
    }

    #[test]
    fn the_queue_prefers_the_booted_machine_and_then_goes_on() {
        let other = Machine {
            processors: 2,
            ..Machine::COMMON
        };
        let queue = Queue(Mutex::new(vec![
            item("a", Machine::COMMON),
            item("b", other),
            item("c", Machine::COMMON),
        ]));
        let taken: Vec<&str> = [Some(other), Some(other), None, None]
            .into_iter()
            .filter_map(|current| queue.take(current))
            .map(|i| i.scenario.name)
            .collect();
        assert_eq!(taken, ["b", "a", "c"]);
    }
}
