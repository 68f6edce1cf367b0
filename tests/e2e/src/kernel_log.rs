// SPDX-License-Identifier: GPL-2.0

//! The guest kernel's messages, and which of them mean that something is broken.

use std::cell::RefCell;

use anyhow::{bail, Result};

/// What the kernel prints when it finds itself wrong.
const REPORTS: [&str; 18] = [
    "BUG:",
    "WARNING:",
    "------------[ cut here ]------------",
    "Oops",
    "general protection fault",
    "kernel BUG at",
    "Call Trace:",
    "Kernel panic",
    "possible circular locking",
    "possible recursive locking",
    "INFO: task ",
    "rcu: INFO:",
    "suspicious RCU usage",
    "sleeping function called from invalid context",
    "KASAN:",
    "UBSAN:",
    "unreferenced object",
    "panicked at",
];

/// Messages of one scenario.
#[derive(Debug, Default)]
pub struct KernelLog(RefCell<String>);

impl KernelLog {
    /// Adds messages; returns all so far.
    pub fn add(&self, new: &str) -> String {
        let mut all = self.0.borrow_mut();
        all.push_str(new);
        all.clone()
    }

    /// Forgets them.
    pub fn clear(&self) {
        self.0.borrow_mut().clear();
    }

    /// An error with the first report and the lines after it, if there is one.
    pub fn no_report(&self) -> Result<()> {
        match first_report(&self.0.borrow()) {
            None => Ok(()),
            Some(report) => bail!("the guest kernel reports a defect:\n{report}"),
        }
    }
}

/// The first report in a text, with up to 40 lines that follow it.
pub fn first_report(text: &str) -> Option<String> {
    let mut lines = text
        .lines()
        .skip_while(|line| !REPORTS.iter().any(|report| line.contains(report)))
        .peekable();
    lines.peek()?;
    Some(lines.take(40).collect::<Vec<_>>().join("\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ordinary_messages_are_no_report() {
        let text = "[ 1.0] hv_vmbus: Vmbus version:5.3\n[ 2.0] hv_netvsc: VF slot 1 added\n";
        assert_eq!(first_report(text), None);
    }

    #[test]
    fn a_report_is_returned_with_what_follows() {
        let log = KernelLog::default();
        log.add("[ 1.0] fine\n");
        assert!(log.no_report().is_ok());
        log.add("[ 2.0] WARNING: CPU: 0 PID: 1 at net/core/dev.c\n[ 2.1] Modules linked in\n");
        let error = log.no_report().expect_err("a report").to_string();
        assert!(error.contains("net/core/dev.c") && error.contains("Modules linked in"));
        assert!(!error.contains("fine"));
        log.clear();
        assert!(log.no_report().is_ok());
    }
}
