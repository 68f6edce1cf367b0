// SPDX-License-Identifier: GPL-2.0

//! End-to-end scenarios: a Hyper-V guest is booted on the test host, and a driver of its NIC is put
//! through what its users put it through.
//!
//! * `scenario`, `scenarios`: what is tested; `guest`, `traffic`, `ethtool`, `xdp`, `kernel_log`: with what;
//! * `operations`, `configuration`, `snapshot`, `administrator`: what an administrator can do, and what must come
//!   of it;
//! * `runner`, `report`: in which order, and what comes of it; `demo`, `shell`: for people;
//! * `benchmark`: the C driver and ours side by side;
//! * `bench`, `l1`, `artifacts`: booting; `agent`, `host`, `instructions`: the lines to the guest, to the host and to
//!   the emulator;
//! * `kunit`: what the console of the machine with the KUnit suites says;
//! * `fault`: telling a broken bench from a broken driver.

mod administrator;
mod agent;
mod artifacts;
mod bench;
mod benchmark;
mod configuration;
mod demo;
mod ethtool;
mod fault;
mod guest;
mod host;
mod instructions;
mod kernel_log;
mod kunit;
mod l1;
mod operations;
mod packets;
mod report;
mod runner;
mod scenario;
mod scenarios;
mod selftests;
mod shell;
mod snapshot;
mod traffic;
mod xdp;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{bail, Context, Result};
use clap::{Args, Parser, Subcommand};

use crate::artifacts::Artifacts;
use crate::report::Report;
use crate::runner::Options;
use crate::scenario::{Driver, Drivers, Item, Kernel, Scenario, Set};

/// Boot Hyper-V guests and put a driver of their NIC through scenarios.
///
/// Exit code 0: all passed; 1: some failed; 2: nothing could be run.
#[derive(Parser)]
#[command(version)]
struct Cli {
    #[command(subcommand)]
    command: Option<Task>,
    #[command(flatten)]
    selection: Selection,
    #[command(flatten)]
    bench: BenchOptions,
}

#[derive(Subcommand)]
enum Task {
    /// Show an administrator's session on a guest with the driver.
    Demo,
    /// Open a console in a guest with the driver loaded.
    Shell,
    /// Measure the C driver and ours side by side.
    Bench(benchmark::Arguments),
    /// Run the kernel's own tests for network drivers.
    Selftests(selftests::Arguments),
    /// Sum up what a machine with the KUnit suites printed.
    Kunit(kunit::Arguments),
}

#[derive(Args)]
struct Selection {
    /// Driver under test: rust, c or both.
    #[arg(long, env = "DRIVER", default_value = "rust", global = true)]
    driver: Drivers,
    /// Run this scenario only; may be repeated. A trailing * stands for anything.
    #[arg(long, env = "SCENARIO", value_delimiter = ' ')]
    scenario: Vec<String>,
    /// Run the scenarios that take long, too.
    #[arg(long)]
    full: bool,
    /// List the scenarios and what each shows.
    #[arg(long)]
    list: bool,
}

#[derive(Args)]
struct BenchOptions {
    #[command(flatten)]
    artifacts: Artifacts,
    /// Kernel of the guest.
    #[arg(long, value_enum, default_value = "stock", global = true)]
    kernel: Kernel,
    /// Guests side by side (one processor each under TCG).
    #[arg(long, default_value_t = 2)]
    jobs: usize,
    /// Let this many of the scenarios that fail run once more, in a fresh guest; whoever then passes is named.
    #[arg(long, default_value_t = 0)]
    retries: usize,
    /// Folder for sockets, consoles and the details of failures; in the temporary folder and removed
    /// at the end if not given.
    #[arg(long, env = "E2E_FOLDER", global = true)]
    folder: Option<PathBuf>,
    /// Tell about boots too.
    #[arg(long, short)]
    verbose: bool,
}

fn main() -> ExitCode {
    match run(Cli::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(e) => {
            eprintln!("e2e: {e:#}");
            ExitCode::from(2)
        }
    }
}

fn run(cli: Cli) -> Result<bool> {
    if let Some(Task::Kunit(arguments)) = &cli.command {
        return kunit::run(arguments);
    }
    let selected = select(&cli.selection)?;
    if cli.selection.list {
        list(&selected);
        return Ok(true);
    }
    let options = options(&cli.bench)?;
    let done = run_task(&cli, selected, &options);
    if cli.bench.folder.is_none() {
        // Where there is no cache to keep them in, the details of failures stay.
        let keep = options.details == options.folder && !matches!(done, Ok(true));
        if !keep {
            std::fs::remove_dir_all(&options.folder)
                .context("cannot remove the folder of this run")?;
        }
    }
    done
}

fn run_task(cli: &Cli, selected: Vec<Scenario>, options: &Options) -> Result<bool> {
    let driver = cli.selection.driver.0.last().copied();
    match &cli.command {
        Some(Task::Demo) => {
            // A step that differs from what is expected is a failure, not a usage error.
            match demo::run(options, driver.unwrap_or(Driver::Rust)) {
                Ok(()) => Ok(true),
                Err(e) => {
                    eprintln!("e2e: {e:#}");
                    Ok(false)
                }
            }
        }
        Some(Task::Shell) => shell::run(options, driver.unwrap_or(Driver::Rust)).map(|()| true),
        Some(Task::Bench(arguments)) => benchmark::run(options, arguments).map(|()| true),
        Some(Task::Selftests(arguments)) => {
            selftests::run(options, driver.unwrap_or(Driver::Rust), arguments)
        }
        Some(Task::Kunit(arguments)) => kunit::run(arguments),
        None => {
            let report = Report::new(
                options.details.clone(),
                cli.bench.verbose,
                cli.bench.retries,
            );
            let items = items(&cli.selection.driver, selected, &report);
            runner::run(options, items, &report);
            Ok(report.finish())
        }
    }
}

fn options(bench: &BenchOptions) -> Result<Options> {
    let folder = match &bench.folder {
        Some(folder) => folder.clone(),
        None => std::env::temp_dir().join(format!("hv-netvsc-e2e-{}", std::process::id())),
    };
    std::fs::create_dir_all(&folder)
        .with_context(|| format!("--folder: cannot make '{}'", folder.display()))?;
    let folder = folder
        .canonicalize()
        .with_context(|| format!("--folder: '{}'", folder.display()))?;
    let details = match &bench.folder {
        Some(_) => folder.clone(),
        None => cached_logs().unwrap_or_else(|| folder.clone()),
    };
    Ok(Options {
        details,
        artifacts: bench.artifacts.clone(),
        acceleration: artifacts::acceleration()?,
        kernel: bench.kernel,
        jobs: bench.jobs,
        folder,
    })
}

/// Where `scripts/` keeps logs.
fn cached_logs() -> Option<PathBuf> {
    let cache = PathBuf::from(std::env::var_os("XDG_CACHE_HOME")?);
    let logs = cache.join("hv-netvsc/logs");
    logs.is_dir().then_some(logs)
}

/// The scenarios asked for: by name, or by set.
fn select(selection: &Selection) -> Result<Vec<Scenario>> {
    let all = scenarios::all();
    if selection.scenario.is_empty() {
        let everything = selection.full || selection.list;
        return Ok(all
            .into_iter()
            .filter(|s| everything || s.set == Set::Quick)
            .collect());
    }
    let mut selected: Vec<Scenario> = Vec::new();
    for pattern in &selection.scenario {
        let matching: Vec<Scenario> = all
            .iter()
            .filter(|s| matches(pattern, s.name) && !selected.iter().any(|o| o.name == s.name))
            .copied()
            .collect();
        if matching.is_empty() && !all.iter().any(|s| matches(pattern, s.name)) {
            bail!("--scenario: there is no '{pattern}' (--list shows all)");
        }
        selected.extend(matching);
    }
    Ok(selected)
}

fn matches(pattern: &str, name: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some(beginning) => name.starts_with(beginning),
        None => name == pattern,
    }
}

fn list(scenarios: &[Scenario]) {
    for scenario in scenarios {
        let set = match scenario.set {
            Set::Quick => "quick",
            Set::Full => "full ",
        };
        println!("{set} {}\n        {}", scenario.name, scenario.about);
        if let Some(defect) = scenario.c_defect {
            println!("        not with the C driver: {defect}");
        }
    }
}

/// Each scenario with each driver, those of one driver together.
fn items(drivers: &Drivers, scenarios: Vec<Scenario>, report: &Report) -> Vec<Item> {
    let mut items = Vec::new();
    for &driver in &drivers.0 {
        for &scenario in &scenarios {
            let item = Item { scenario, driver };
            match (driver, scenario.c_defect) {
                (Driver::C, Some(defect)) => report.known(&item, defect),
                _ => items.push(item),
            }
        }
    }
    items
}

#[cfg(test)]
mod tests {
    use super::*;

    fn selection(arguments: &[&str]) -> Selection {
        let all = ["e2e"].iter().chain(arguments);
        Cli::try_parse_from(all).expect("parses").selection
    }

    #[test]
    fn the_quick_set_is_smaller_than_all() {
        let quick = select(&selection(&[])).expect("selects");
        let full = select(&selection(&["--full"])).expect("selects");
        assert!(!quick.is_empty() && quick.len() < full.len());
    }

    #[test]
    fn names_and_patterns_select_and_unknown_ones_are_named() {
        let one = select(&selection(&["--scenario", "ping-answers"])).expect("selects");
        assert_eq!(one.len(), 1);
        let some = select(&selection(&["--scenario", "nvsp-*"])).expect("selects");
        assert_eq!(some.len(), 6);
        let error = select(&selection(&["--scenario", "no-such"])).expect_err("unknown");
        assert!(error.to_string().contains("no-such"));
    }
}
