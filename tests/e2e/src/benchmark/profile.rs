// SPDX-License-Identifier: GPL-2.0

//! Where the guest spends its time, or its instructions, in a cell, with the C driver and with ours: why a ratio is what
//! it is.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::time::Duration;

use anyhow::{bail, Context, Result};

use super::cells::{self, Cell};
use super::measure::Quantity;
use super::network::{Network, PROGRAM};
use super::{bench, machine, results, Arguments};
use crate::runner::Options;
use crate::scenario::Driver;

/// How long each cell is sampled.
const WINDOW: Duration = Duration::from_secs(5);
/// Functions that are shown.
const SHOWN: usize = 60;
/// Addresses that are named: the line to the guest is slow, and the others have next to no share.
const NAMED: usize = 2000;
const SAMPLES_PATH: &str = "/tmp/samples";

/// Prints the profiles of the cells whose names begin like one of `wanted`.
pub fn run(options: &Options, arguments: &Arguments) -> Result<()> {
    let wanted = &arguments.cell;
    let chosen: Vec<&Cell> = cells::ALL
        .iter()
        .filter(|cell| wanted.iter().any(|w| cell.name.starts_with(w.as_str())))
        .collect();
    if chosen.is_empty() {
        let names: Vec<&str> = cells::ALL.iter().map(|cell| cell.name).collect();
        bail!(
            "--cell: no cell begins with '{}' (cells: {})",
            wanted.join("', '"),
            names.join(", ")
        );
    }
    let bench = bench(options, arguments)?;
    let session = bench.boot(machine(options.acceleration), options.kernel, Driver::C)?;
    let network = Network::prepare(&bench, &session.guest)?;
    network.profile.set(true);
    for driver in [Driver::C, Driver::Rust] {
        session.guest.driver.set(driver);
        network.begin(0);
        network.load()?;
        for cell in &chosen {
            let found = (cell.measure)(&network, cell.name, WINDOW)
                .with_context(|| format!("cell {}", cell.name))?;
            let samples = match bench.instructions() {
                Some(counter) => counter.profile()?,
                None => session.guest.host.finish_profile()?,
            };
            println!("\n== {driver} driver");
            for one in &found {
                println!("{}", results::line(one));
            }
            let per_unit = found
                .first()
                .and_then(|one| one.values.get(&Quantity::Instructions).copied());
            let within = arguments.within.as_deref();
            let functions = named(&network, &samples, within)?;
            print!("{}", shown(&functions, &samples, per_unit));
        }
        network.unload()?;
    }
    network.end()
}

/// Functions and their samples, most first, or the places `within` functions of that name; the guest knows its own
/// symbols.
fn named(
    network: &Network<'_>,
    samples: &BTreeMap<String, u64>,
    within: Option<&str>,
) -> Result<Vec<(String, u64)>> {
    let mut most_first: Vec<(&String, &u64)> = samples.iter().collect();
    most_first.sort_by_key(|(_, count)| std::cmp::Reverse(**count));
    let mut lines = String::new();
    for (address, count) in most_first.into_iter().take(NAMED) {
        // Writing to a string cannot fail.
        let _ = writeln!(lines, "{address} {count}");
    }
    network.guest.agent.write(SAMPLES_PATH, lines.as_bytes())?;
    let most = SHOWN.to_string();
    let mut argv = vec![
        PROGRAM,
        "symbols",
        "--samples",
        SAMPLES_PATH,
        "--most",
        &most,
    ];
    argv.extend(within.iter().flat_map(|part| ["--within", part]));
    let text = network.run(&argv)?;
    serde_json::from_str(&text).with_context(|| format!("the guest printed '{text}'"))
}

/// `per_unit`: instructions per unit of work, if they were counted; else `samples` are of time.
fn shown(
    functions: &[(String, u64)],
    samples: &BTreeMap<String, u64>,
    per_unit: Option<f64>,
) -> String {
    let all: u64 = samples.values().sum();
    let mut out = match per_unit {
        None => format!("{all} samples\n"),
        Some(_) => format!("{all} instructions; share, instructions per unit, function\n"),
    };
    for (name, count) in functions {
        let share = *count as f64 / all.max(1) as f64;
        let _ = write!(out, "{:6.1} %", share * 100.0);
        if let Some(per_unit) = per_unit {
            let _ = write!(out, " {:8.1}", share * per_unit);
        }
        let _ = writeln!(out, "  {name}");
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_of_all_samples() {
        let samples = BTreeMap::from([("10".to_owned(), 3), ("20".to_owned(), 1)]);
        let text = shown(&[("f".into(), 3)], &samples, None);
        assert!(
            text.contains("4 samples") && text.contains("75.0 %  f"),
            "{text}"
        );
        let text = shown(&[("f".into(), 3)], &samples, Some(200.0));
        assert!(text.contains("75.0 %    150.0  f"), "{text}");
    }
}
