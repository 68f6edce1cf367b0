// SPDX-License-Identifier: GPL-2.0

//! What a run says: one line a scenario, details of failures, and the sum at the end.

use std::io::Write;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::Error;

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
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    passed: u32,
    failed: u32,
    known: u32,
    infrastructure: u32,
    retried: Vec<String>,
}

impl Report {
    /// Details of failures also go to files in `folder`; progress is printed if `verbose`.
    pub fn new(folder: PathBuf, verbose: bool) -> Report {
        Report {
            folder,
            verbose,
            state: Mutex::default(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Prints and counts the end of a scenario.
    pub fn verdict(&self, item: &Item, took: Duration, verdict: Verdict) {
        let mut state = self.state();
        match verdict {
            Verdict::Passed => {
                state.passed += 1;
                say(&format!("ok {item} ({:.1}s)", took.as_secs_f64()));
            }
            Verdict::Failed(cause, details) => {
                state.failed += 1;
                say(&format!("FAIL {item}: {}", one_line(&format!("{cause:#}"))));
                let details = format!("{item}: {cause:#}\n{details}");
                let name = format!("FAIL-{}-{}.log", item.scenario.name, item.driver);
                let path = self.folder.join(name);
                match std::fs::write(&path, &details) {
                    Ok(()) => eprintln!("{details}---- also in {}", path.display()),
                    Err(e) => eprintln!("{details}---- cannot write {}: {e}", path.display()),
                }
            }
        }
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

    #[test]
    fn causes_become_one_line() {
        assert_eq!(one_line("a\n  b\n"), "a | b");
    }
}
