// SPDX-License-Identifier: GPL-2.0

//! The guest kernel's messages, and which of them mean that something is broken.
//!
//! The guest looks for reports itself: its line to the runner is too slow for all it logs.

use anyhow::Result;

use crate::fault::Proof;

/// What the kernel prints when it finds itself wrong; each is found as it stands, and by `grep -E` too.
const REPORTS: &[&str] = &[
    "BUG:",
    "WARNING:",
    "cut here",
    "Oops",
    "general protection fault",
    "kernel BUG at",
    "Call Trace:",
    "Kernel panic",
    "possible circular locking",
    "possible recursive locking",
    "inconsistent lock state",
    "INFO: task ",
    "INFO: trying to register non-static key",
    "rcu: INFO:",
    "suspicious RCU usage",
    "sleeping function called",
    "KASAN:",
    "UBSAN:",
    "unreferenced object",
    "panicked at",
    "NETDEV WATCHDOG",
    "refcount_t:",
    "list_add corruption",
    "list_del corruption",
    "hung for",
];

/// Lines of a report that are shown.
pub const SHOWN: u32 = 40;

/// A script that moves new messages to `/tmp/kernel-log` and prints the first report among them.
pub fn script() -> String {
    let reports = REPORTS.join("|");
    format!(
        "dmesg -c >/tmp/kernel-new; cat /tmp/kernel-new >>/tmp/kernel-log; \
         grep -m1 -A{SHOWN} -E '{reports}' /tmp/kernel-new || true"
    )
}

/// Whether a report begins, or goes on, with this line.
pub fn is_report(line: &str) -> bool {
    REPORTS.iter().any(|report| line.contains(report))
}

/// An error with the report, if the script printed one.
pub fn check(printed: &str) -> Result<()> {
    if printed.trim().is_empty() {
        return Ok(());
    }
    let report = printed.trim_end();
    Err(Proof::wrap(format!(
        "the guest kernel reports a defect:\n{report}"
    )))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    /// What the script prints for a log, with `dmesg` replaced.
    fn run(log: &str) -> String {
        let folder =
            std::env::temp_dir().join(format!("e2e-log-{}-{}", std::process::id(), log.len()));
        std::fs::create_dir_all(&folder).expect("folder");
        let script = script().replace("/tmp", folder.to_str().expect("utf-8"));
        let script = format!("dmesg() {{ printf '%s' \"$LOG\"; }}\n{script}");
        let output = Command::new("sh")
            .args(["-ec", &script])
            .env("LOG", log)
            .output()
            .expect("runs");
        assert!(output.status.success(), "{output:?}");
        std::fs::remove_dir_all(folder).expect("removes");
        String::from_utf8(output.stdout).expect("utf-8")
    }

    #[test]
    fn ordinary_messages_are_no_report() {
        let log = "[ 1.0] hv_vmbus: Vmbus version:5.3\n[ 2.0] hv_netvsc: VF slot 1 added\n";
        assert!(check(&run(log)).is_ok());
    }

    #[test]
    fn a_report_is_returned_with_what_follows() {
        let log =
            "[ 1.0] fine\n[ 2.0] WARNING: CPU: 0 at net/core/dev.c\n[ 2.1] Modules linked in\n";
        let error = check(&run(log)).expect_err("a report").to_string();
        assert!(error.contains("net/core/dev.c") && error.contains("Modules linked in"));
        assert!(!error.contains("fine"));
    }
}
