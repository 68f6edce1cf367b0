// SPDX-License-Identifier: GPL-2.0

//! Reads the console of the machine that ran the KUnit suites (`scripts/kunit`, `scripts/init-kunit`): results in KTAP
//! form among the kernel's own messages, and whatever the kernel complained of.

use std::path::PathBuf;

use anyhow::{Context, Result};

use crate::kernel_log;

/// What the machine's first process prints last.
const DONE: &str = "init: done";
/// Other lines that mean that not everything was tested.
const TROUBLE: [&str; 3] = [
    "init: the module does not",
    "kmemleak: Kernel memory leak detector disabled",
    "INFO: lockdep is turned off",
];

/// What is to be summed up.
#[derive(clap::Args)]
pub struct Arguments {
    /// What the console printed.
    console: PathBuf,
    /// A suite that the sources declare, and how many tests it has; may be repeated.
    #[arg(long = "suite", value_name = "NAME:TESTS", value_parser = declaration)]
    suites: Vec<Declared>,
}

/// A suite as the sources declare it.
#[derive(Clone, Debug, PartialEq)]
struct Declared {
    name: String,
    tests: usize,
}

fn declaration(text: &str) -> Result<Declared, String> {
    let (name, tests) = text.split_once(':').ok_or("NAME:TESTS is needed")?;
    Ok(Declared {
        name: name.into(),
        tests: tests.parse().map_err(|e| format!("'{tests}' tests: {e}"))?,
    })
}

/// A suite as it ran.
#[derive(Debug, Default, PartialEq)]
struct Suite {
    name: String,
    passed: usize,
    /// Names of the tests that did not pass, with what was said about them.
    failed: Vec<(String, Vec<String>)>,
    seconds: f64,
    ended: bool,
}

/// Prints a line a suite, details of failures, and the sum; true if everything passed.
pub fn run(arguments: &Arguments) -> Result<bool> {
    let path = &arguments.console;
    let bytes = std::fs::read(path).with_context(|| format!("console '{}'", path.display()))?;
    let text = String::from_utf8_lossy(&bytes);
    let suites = suites(&text);
    let mut passed = 0;
    let mut failed = 0;
    for suite in &suites {
        passed += suite.passed;
        failed += suite.failed.len();
        tell(suite);
    }
    for fault in faults(&text, &suites, &arguments.suites) {
        failed += 1;
        println!("FAIL {fault}");
    }
    println!("{passed} passed, {failed} failed");
    Ok(failed == 0 && passed > 0)
}

fn tell(suite: &Suite) {
    let all = suite.passed + suite.failed.len();
    let seconds = suite.seconds;
    if suite.failed.is_empty() {
        println!("ok {}: {all} tests ({seconds:.1}s)", suite.name);
        return;
    }
    let name = &suite.name;
    println!(
        "FAIL {name}: {} of {all} tests ({seconds:.1}s)",
        suite.failed.len()
    );
    for (test, said) in &suite.failed {
        println!("     {test}");
        for line in said {
            println!("       {line}");
        }
    }
}

/// What is wrong beside tests that failed.
fn faults(text: &str, suites: &[Suite], declared: &[Declared]) -> Vec<String> {
    let mut faults = Vec::new();
    for Declared { name, tests } in declared {
        match suites.iter().find(|suite| suite.name == *name) {
            None => faults.push(format!("{name}: the suite did not run")),
            Some(suite) => {
                let ran = suite.passed + suite.failed.len();
                if ran != *tests || !suite.ended {
                    faults.push(format!("{name}: {ran} of {tests} tests came to an end"));
                }
            }
        }
    }
    if !text.contains(DONE) {
        faults.push("the machine died, or did not come to an end in time".into());
    }
    let lines: Vec<&str> = text.lines().map(message).collect();
    for line in &lines {
        if TROUBLE.iter().any(|trouble| line.contains(trouble)) {
            faults.push((*line).into());
        }
    }
    if let Some(first) = lines.iter().position(|line| kernel_log::is_report(line)) {
        let shown = lines.iter().skip(first).take(kernel_log::SHOWN as usize);
        let shown: Vec<&str> = shown.copied().collect();
        faults.push(format!(
            "the kernel reports a defect:\n     {}",
            shown.join("\n     ")
        ));
    }
    faults
}

/// A line without its time stamp.
fn message(line: &str) -> &str {
    split(line).1
}

/// Time and text of a line.
fn split(line: &str) -> (Option<f64>, &str) {
    let stamped = line
        .strip_prefix('[')
        .and_then(|rest| rest.split_once("] "))
        .and_then(|(time, text)| Some((time.trim().parse().ok()?, text)));
    match stamped {
        Some((time, text)) => (Some(time), text),
        None => (None, line),
    }
}

/// The suites in the console's text, in their order.
fn suites(text: &str) -> Vec<Suite> {
    let mut suites: Vec<Suite> = Vec::new();
    let mut began = 0.0;
    let mut said: Vec<String> = Vec::new();
    for line in text.lines() {
        let (time, line) = split(line.trim_end());
        if let Some(name) = line.strip_prefix("    # Subtest: ") {
            began = time.unwrap_or(began);
            said.clear();
            suites.push(Suite {
                name: name.into(),
                ..Suite::default()
            });
            continue;
        }
        let Some(suite) = suites.last_mut().filter(|suite| !suite.ended) else {
            continue;
        };
        if let Some((good, name)) = line.strip_prefix("    ").and_then(result) {
            if good {
                suite.passed += 1;
            } else {
                suite.failed.push((name.into(), std::mem::take(&mut said)));
            }
            said.clear();
        } else if result(line).is_some_and(|(_, name)| name == suite.name) {
            suite.ended = true;
            suite.seconds = time.map_or(0.0, |time| time - began);
        } else if line.contains("ASSERTION FAILED") || line.starts_with("    Expected ") {
            said.push(line.trim().trim_start_matches("# ").into());
        }
    }
    suites
}

/// "ok 3 name" or "not ok 3 name". A test that was skipped has not passed.
fn result(line: &str) -> Option<(bool, &str)> {
    let (good, rest) = match line.strip_prefix("not ok ") {
        Some(rest) => (false, rest),
        None => (true, line.strip_prefix("ok ")?),
    };
    let (number, name) = rest.split_once(' ')?;
    number.parse::<u32>().ok()?;
    match name.split_once(" # SKIP") {
        Some((name, _)) => Some((false, name)),
        None => Some((good, name)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "\
[    1.000000] KTAP version 1
[    1.000000] 1..1
[    2.000000]     KTAP version 1
[    2.000000]     # Subtest: ring
[    2.000000]     # module: hv_netvsc_kunit
[    2.000000]     1..2
[    2.100000]     ok 1 first
[    2.100000] hv_netvsc: a message of the driver
[    2.200000]     ok 2 second
[    2.300000] # ring: pass:2 fail:0 skip:0 total:2
[    3.500000] ok 1 ring
init: done
";

    fn declared(name: &str, tests: usize) -> Vec<Declared> {
        vec![Declared {
            name: name.into(),
            tests,
        }]
    }

    /// Faults of a console's text, where the suite "ring" with two tests is declared.
    fn found(text: &str) -> Vec<String> {
        faults(text, &suites(text), &declared("ring", 2))
    }

    #[test]
    fn a_good_console_has_no_fault() {
        let ran = suites(GOOD);
        assert_eq!(ran.len(), 1);
        assert_eq!((ran[0].passed, ran[0].failed.len()), (2, 0));
        assert!((ran[0].seconds - 1.5).abs() < 1e-6);
        assert_eq!(found(GOOD), Vec::<String>::new());
    }

    #[test]
    fn a_failure_is_told_with_its_reason() {
        let text = GOOD.replace(
            "    ok 2 second",
            "    # second: ASSERTION FAILED at ring.rs:7\n    Expected a == b to be true\n    not ok 2 second",
        );
        let ran = suites(&text);
        assert_eq!(ran[0].passed, 1);
        let said = [
            "second: ASSERTION FAILED at ring.rs:7",
            "Expected a == b to be true",
        ];
        assert_eq!(
            ran[0].failed,
            [("second".into(), said.map(Into::into).into())]
        );
    }

    #[test]
    fn a_skipped_test_has_not_passed() {
        let text = GOOD.replace("ok 1 first", "ok 1 first # SKIP not here");
        assert_eq!(suites(&text)[0].failed[0].0, "first");
    }

    #[test]
    fn a_suite_that_is_missing_or_cut_short_is_named() {
        assert_eq!(
            faults(GOOD, &suites(GOOD), &declared("napi", 3)),
            ["napi: the suite did not run"]
        );
        let cut = GOOD.replace("[    2.200000]     ok 2 second\n", "");
        assert_eq!(found(&cut), ["ring: 1 of 2 tests came to an end"]);
    }

    #[test]
    fn a_machine_that_dies_is_a_fault() {
        let dead = GOOD.replace(DONE, "");
        assert_eq!(found(&dead).len(), 1);
        assert!(found(&dead)[0].contains("died"));
    }

    #[test]
    fn reports_and_trouble_are_faults() {
        for line in [
            "[    2.2] BUG: KASAN: slab-out-of-bounds in f+0x1/0x2",
            "[    2.2] WARNING: net/core/dev.c:1 at g",
            "unreferenced object 0xffff888003e45c00 (size 1024):",
            "[    2.2] kmemleak: Kernel memory leak detector disabled",
            "init: the module does not unload",
        ] {
            let bad = GOOD.replace(DONE, &format!("{line}\n{DONE}"));
            assert_eq!(found(&bad).len(), 1, "{line}");
        }
    }

    #[test]
    fn declarations_are_name_and_number() {
        assert_eq!(declaration("ring:2"), Ok(declared("ring", 2).remove(0)));
        assert!(declaration("ring").is_err() && declaration("ring:two").is_err());
    }
}
