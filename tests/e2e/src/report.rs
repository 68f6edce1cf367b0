// SPDX-License-Identifier: GPL-2.0

//! What a run says: one line a scenario, details of failures, and the sum at the end.

use std::io::Write;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::Error;

use crate::fault::Proof;
use crate::scenario::Item;

/// How a scenario ended.
pub enum Verdict {
    /// As it should.
    Passed,
    /// Not so: why, and what is known about it.
    Failed(Error, String),
}

/// Collects verdicts and prints them.
pub struct Report {
    folder: PathBuf,
    verbose: bool,
    retries: usize,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    passed: u32,
    failed: u32,
    known: u32,
    infrastructure: u32,
    retried: Vec<String>,
    /// Scenarios that failed at first and were put back into the queue.
    second_attempts: Vec<String>,
    /// Those of them that then passed.
    flaky: Vec<String>,
}

impl State {
    /// Whether `item` may run again, which is noted.
    fn second_attempt(&mut self, item: &Item, retries: usize) -> bool {
        let name = item.to_string();
        let again = self.second_attempts.len() < retries && !self.second_attempts.contains(&name);
        if again {
            self.second_attempts.push(name);
        }
        again
    }
}

impl Report {
    /// Details of failures also go to files in `folder`; progress is printed if `verbose`. At most `retries` scenarios
    /// that fail get a second attempt.
    pub fn new(folder: PathBuf, verbose: bool, retries: usize) -> Report {
        Report {
            folder,
            verbose,
            retries,
            state: Mutex::default(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Prints and counts the end of a scenario; true if it should run again, in a fresh guest.
    pub fn verdict(&self, item: &Item, took: Duration, verdict: Verdict) -> bool {
        let mut state = self.state();
        match verdict {
            Verdict::Passed => {
                state.passed += 1;
                let name = item.to_string();
                let again = state.second_attempts.contains(&name);
                let how = if again { ", at the second attempt" } else { "" };
                say(&format!("ok {item} ({:.1}s{how})", took.as_secs_f64()));
                if again {
                    state.flaky.push(name);
                }
                false
            }
            Verdict::Failed(cause, details) => {
                let again = !Proof::caused(&cause) && state.second_attempt(item, self.retries);
                state.failed += u32::from(!again);
                let word = if again { "AGAIN" } else { "FAIL" };
                say(&format!(
                    "{word} {item}: {}",
                    one_line(&format!("{cause:#}"))
                ));
                self.keep(word, item, &format!("{item}: {cause:#}\n{details}"));
                again
            }
        }
    }

    /// Prints the details of a failure, and writes them to a file.
    fn keep(&self, word: &str, item: &Item, details: &str) {
        let name = format!("{word}-{}-{}.log", item.scenario.name, item.driver);
        let path = self.folder.join(name);
        match std::fs::write(&path, details) {
            Ok(()) => eprintln!("{details}---- also in {}", path.display()),
            Err(e) => eprintln!("{details}---- cannot write {}: {e}", path.display()),
        }
    }

    /// Whether `item` has failed once and is to run again.
    pub fn is_second_attempt(&self, item: &Item) -> bool {
        self.state().second_attempts.contains(&item.to_string())
    }

    /// Names a difference that is a known defect of the C driver: neither passed nor failed.
    pub fn known(&self, item: &Item, defect: &str) {
        self.state().known += 1;
        say(&format!("known {item}: {defect}"));
    }

    /// Counts a fault of the bench under `item`; true if the item should be tried once more.
    pub fn infrastructure_fault(&self, item: &Item, error: &Error) -> bool {
        let mut state = self.state();
        state.infrastructure += 1;
        let name = item.to_string();
        let again = !state.retried.contains(&name);
        let what = if again {
            "booting again"
        } else {
            "for the second time"
        };
        say(&format!(
            "infrastructure fault {} under {name}, {what}: {}",
            state.infrastructure,
            one_line(&format!("{error:#}"))
        ));
        state.retried.push(name);
        again
    }

    /// Tells what happens between scenarios, if wanted.
    pub fn progress(&self, text: &str) {
        if self.verbose {
            eprintln!("      {text}");
        }
    }

    /// Prints the sum; true if everything passed and something ran.
    pub fn finish(&self) -> bool {
        let state = self.state();
        if state.infrastructure > 0 {
            say(&format!(
                "{} infrastructure faults (the machine below the guest died and was booted again)",
                state.infrastructure
            ));
        }
        if state.known > 0 {
            say(&format!(
                "{} not run with the C driver: known defects",
                state.known
            ));
        }
        if !state.flaky.is_empty() {
            let names = state.flaky.join(", ");
            say(&format!(
                "{} passed only at the second attempt: {names}",
                state.flaky.len()
            ));
        }
        say(&format!("{} passed, {} failed", state.passed, state.failed));
        state.failed == 0 && state.passed > 0
    }
}

fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    // Nobody reads any more: the exit code still tells.
    let _ = writeln!(out, "{line}").and_then(|()| out.flush());
}

fn one_line(text: &str) -> String {
    text.lines().map(str::trim).collect::<Vec<_>>().join(" | ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenario::{Driver, Machine, Scenario, Set};

    fn nothing_to_do(name: &'static str) -> Item {
        Item {
            scenario: Scenario {
                name,
                about: "",
                set: Set::Quick,
                machine: Machine::COMMON,
                c_defect: None,
                run: |_| Ok(()),
            },
            driver: Driver::C,
        }
    }

    #[test]
    fn a_second_attempt_is_given_once_and_to_so_many() {
        let mut state = State::default();
        let (a, b) = (nothing_to_do("a"), nothing_to_do("b"));
        assert!(state.second_attempt(&a, 1));
        assert!(!state.second_attempt(&a, 1));
        assert!(!state.second_attempt(&b, 1));
    }

    #[test]
    fn causes_become_one_line() {
        assert_eq!(one_line("a\n  b\n"), "a | b");
    }
}
