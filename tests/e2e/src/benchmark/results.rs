// SPDX-License-Identifier: GPL-2.0

//! What all rounds found: the table for people, `results.json` for programs.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::time::SystemTime;

use anyhow::{Context, Result};
use serde::Serialize;

use super::measure::{Measured, Quantity};
use super::statistics::{geometric_mean, median, Ratio};
use super::Effort;
use crate::scenario::Driver;

/// Under which conditions was measured.
#[derive(Clone, Debug, Serialize)]
pub struct Conditions {
    /// Release of the guest's kernel.
    pub kernel: String,
    /// The guest, and what is below it, was emulated.
    pub emulated: bool,
    /// Work was judged by the guest's instructions, not by its CPU time.
    pub instructions: bool,
    /// The machine's load before the first round: runnable processes over the last minute.
    pub load_at_begin: Option<f64>,
    /// Processors of the machine.
    pub processors: usize,
    /// Seconds since 1970.
    pub time: u64,
    /// Rounds asked for.
    pub rounds: u32,
    /// Seconds that each cell was measured for.
    pub window_seconds: f64,
}

impl Conditions {
    /// Of this machine, now.
    pub fn now(kernel: String, emulated: bool, instructions: bool, effort: Effort) -> Conditions {
        let load = std::fs::read_to_string("/proc/loadavg").ok();
        let load = load.and_then(|text| text.split(' ').next()?.parse().ok());
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        Conditions {
            kernel,
            emulated,
            instructions,
            load_at_begin: load,
            processors: std::thread::available_parallelism().map_or(1, usize::from),
            time: now.map_or(0, |since| since.as_secs()),
            rounds: effort.rounds,
            window_seconds: effort.window.as_secs_f64(),
        }
    }
}

/// One quantity of one cell, round by round.
#[derive(Clone, Debug, Default)]
struct Series {
    c: BTreeMap<u32, f64>,
    ours: BTreeMap<u32, f64>,
}

/// One quantity of one cell, summed up.
#[derive(Clone, Debug, Serialize)]
pub struct Comparison {
    /// The C driver's values, by round.
    pub c: Vec<f64>,
    /// Ours.
    pub ours: Vec<f64>,
    /// Ratio, above one if ours is better; `None` where a driver has nothing to count.
    pub ratio: Option<Ratio>,
}

impl Series {
    fn compare(&self, quantity: Quantity) -> Comparison {
        let ratios: Option<Vec<f64>> = self
            .c
            .iter()
            .filter_map(|(round, c)| Some((c, self.ours.get(round)?)))
            .map(|(c, ours)| quantity.ratio(*ours, *c))
            .collect();
        Comparison {
            c: self.c.values().copied().collect(),
            ours: self.ours.values().copied().collect(),
            ratio: ratios.and_then(|ratios| Ratio::of(&ratios)),
        }
    }
}

/// Everything measured.
#[derive(Debug)]
pub struct Results {
    conditions: Conditions,
    /// Cells in the order they were first measured in.
    cells: Vec<(&'static str, BTreeMap<Quantity, Series>)>,
}

/// A cell, summed up: the ratio that the verdict is made from is its headline.
#[derive(Clone, Debug, Serialize)]
pub struct Cell {
    /// Its name.
    pub name: &'static str,
    /// The quantity of the headline.
    pub headline: Quantity,
    /// All quantities.
    pub quantities: BTreeMap<Quantity, Comparison>,
}

impl Cell {
    /// The headline's ratio.
    pub fn ratio(&self) -> Option<Ratio> {
        self.quantities.get(&self.headline)?.ratio
    }
}

impl Results {
    /// Nothing yet.
    pub fn new(conditions: Conditions) -> Results {
        Results {
            conditions,
            cells: Vec::new(),
        }
    }

    /// Adds what a driver's turn found.
    pub fn add(&mut self, round: u32, driver: Driver, measured: Vec<Measured>) {
        for one in measured {
            let at = match self.cells.iter().position(|(name, _)| *name == one.cell) {
                Some(at) => at,
                None => {
                    self.cells.push((one.cell, BTreeMap::new()));
                    self.cells.len() - 1
                }
            };
            for (quantity, value) in one.values {
                let series = self.cells[at].1.entry(quantity).or_default();
                match driver {
                    Driver::C => series.c.insert(round, value),
                    Driver::Rust => series.ours.insert(round, value),
                };
            }
        }
    }

    /// Where it was measured.
    pub fn conditions(&self) -> &Conditions {
        &self.conditions
    }

    /// All cells, summed up.
    pub fn cells(&self) -> Vec<Cell> {
        self.cells
            .iter()
            .filter_map(|(name, quantities)| {
                Some(Cell {
                    name,
                    // Their order puts instructions first, then work per CPU time; the other cells have one quantity.
                    headline: *quantities.keys().next()?,
                    quantities: quantities
                        .iter()
                        .map(|(quantity, series)| (*quantity, series.compare(*quantity)))
                        .collect(),
                })
            })
            .collect()
    }

    /// `geomean R worst R` over the headlines.
    pub fn summary(&self) -> Result<String> {
        let ratios: Vec<f64> = self
            .cells()
            .iter()
            .filter_map(|cell| Some(cell.ratio()?.median))
            .collect();
        let mean = geometric_mean(&ratios).context("no cell gave a ratio")?;
        let worst = ratios.iter().copied().fold(f64::INFINITY, f64::min);
        Ok(format!("geomean {mean:.2} worst {worst:.2}"))
    }

    /// The table for people.
    pub fn table(&self) -> String {
        let mut out = String::new();
        let c = &self.conditions;
        // Writing to a string cannot fail.
        let _ = writeln!(
            out,
            "ours/C{}, above 1 is better for ours; median of {} rounds (95 % interval; ! all of it below 1); kernel {}{}",
            if c.instructions {
                ", work by instructions"
            } else {
                ""
            },
            c.rounds,
            c.kernel,
            if c.emulated { ", emulated" } else { "" }
        );
        let _ = writeln!(
            out,
            "{:<20} {:>22} {:>9} {:>9} {:<10} {:>6} {:>15} {:>15} {:>13}",
            "cell",
            "ratio",
            "C",
            "ours",
            "unit",
            "rate",
            "doorbells C>us",
            "interrupts",
            "ring bytes"
        );
        for cell in self.cells() {
            let _ = writeln!(out, "{}", row(&cell));
        }
        out
    }

    /// Everything, for programs.
    pub fn json(&self) -> Result<String> {
        #[derive(Serialize)]
        struct File<'a> {
            conditions: &'a Conditions,
            cells: Vec<Cell>,
            summary: String,
        }
        Ok(serde_json::to_string_pretty(&File {
            conditions: &self.conditions,
            cells: self.cells(),
            summary: self.summary()?,
        })?)
    }
}

fn row(cell: &Cell) -> String {
    let headline = cell.quantities.get(&cell.headline);
    let middle = |values: Option<&Vec<f64>>| {
        values
            .and_then(|v| median(v))
            .map_or("-".into(), |m| shown(cell.headline, m))
    };
    let rate = cell
        .quantities
        .get(&Quantity::PerSecond)
        .and_then(|c| c.ratio);
    let mut line = format!(
        "{:<20} {:>22} {:>9} {:>9} {:<10} {:>6}",
        cell.name,
        interval(cell.ratio()),
        middle(headline.map(|h| &h.c)),
        middle(headline.map(|h| &h.ours)),
        unit(cell.headline),
        rate.map_or(String::new(), |r| format!("{:.2}", r.median)),
    );
    for (quantity, width) in [
        (Quantity::Doorbells, 15),
        (Quantity::Interrupts, 15),
        (Quantity::RingBytes, 13),
    ] {
        let text = cell
            .quantities
            .get(&quantity)
            .map_or(String::new(), |c| both(quantity, c));
        let _ = write!(line, " {text:>width$}");
    }
    line.trim_end().to_owned()
}

/// The C driver's median and ours.
fn both(quantity: Quantity, comparison: &Comparison) -> String {
    let show = |values: &Vec<f64>| median(values).map_or("-".into(), |m| shown(quantity, m));
    format!("{} > {}", show(&comparison.c), show(&comparison.ours))
}

fn interval(ratio: Option<Ratio>) -> String {
    match ratio {
        None => "-".into(),
        Some(ratio) => match (ratio.low, ratio.high) {
            (Some(low), Some(high)) => {
                let mark = if ratio.is_below_one() { "!" } else { "" };
                format!("{mark}{:.2} ({low:.2}..{high:.2})", ratio.median)
            }
            _ => format!("{:.2}", ratio.median),
        },
    }
}

fn shown(quantity: Quantity, value: f64) -> String {
    match quantity {
        Quantity::Microseconds => format!("{:.1}", value / 1000.0),
        Quantity::Doorbells | Quantity::Interrupts => format!("{value:.3}"),
        _ => format!("{value:.0}"),
    }
}

fn unit(quantity: Quantity) -> &'static str {
    match quantity {
        Quantity::Instructions => "insn/unit",
        Quantity::PerCpuSecond => "1/CPU s",
        Quantity::PerSecond => "1/s",
        Quantity::Doorbells | Quantity::Interrupts | Quantity::RingBytes => "1/unit",
        Quantity::Microseconds => "ms",
        Quantity::Kibibytes => "KiB",
    }
}

/// One measurement, for the progress of a run.
pub fn line(measured: &Measured) -> String {
    let values: Vec<String> = measured
        .values
        .iter()
        .map(|(quantity, value)| {
            let name = match quantity {
                Quantity::Doorbells => "doorbells ",
                Quantity::Interrupts => "interrupts ",
                Quantity::RingBytes => "ring bytes ",
                _ => "",
            };
            format!("{name}{} {}", shown(*quantity, *value), unit(*quantity))
        })
        .collect();
    format!("{}: {}", measured.cell, values.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::benchmark::Effort;

    fn results() -> Results {
        let mut results = Results::new(Conditions::now("7.2.0".into(), true, false, Effort::QUICK));
        for (round, c, ours) in [(0, 100.0, 110.0), (1, 50.0, 60.0), (2, 80.0, 80.0)] {
            for (driver, value) in [(Driver::C, c), (Driver::Rust, ours)] {
                let work = Measured {
                    cell: "work",
                    values: BTreeMap::from([
                        (Quantity::PerSecond, 1.0),
                        (Quantity::PerCpuSecond, value),
                        (Quantity::Doorbells, 0.0),
                    ]),
                };
                let cost = Measured::cost("cost", Quantity::Microseconds, value);
                results.add(round, driver, vec![work, cost]);
            }
        }
        results
    }

    #[test]
    fn ratios_are_taken_round_by_round() {
        let cells = results().cells();
        let names: Vec<&str> = cells.iter().map(|c| c.name).collect();
        assert_eq!(names, ["work", "cost"]);
        assert_eq!(cells[0].headline, Quantity::PerCpuSecond);
        assert!((cells[0].ratio().expect("ratio").median - 1.1).abs() < 1e-9);
        assert!((cells[1].ratio().expect("ratio").median - 1.0 / 1.1).abs() < 1e-9);
        assert!(cells[0].quantities[&Quantity::Doorbells].ratio.is_none());
    }

    #[test]
    fn the_summary_is_over_the_headlines() {
        assert_eq!(
            results().summary().expect("summary"),
            "geomean 1.00 worst 0.91"
        );
        let empty = Results::new(Conditions::now("7.2.0".into(), true, false, Effort::QUICK));
        assert!(empty.summary().is_err());
    }

    #[test]
    fn the_table_has_a_line_for_each_cell() {
        let table = results().table();
        assert!(table.contains("7.2.0"), "{table}");
        let work = table.lines().find(|l| l.starts_with("work")).expect("row");
        assert!(work.contains("1.10 (") && work.contains(" 80 "), "{work}");
        let json: serde_json::Value =
            serde_json::from_str(&results().json().expect("json")).expect("parses");
        assert_eq!(
            json["cells"][0]["quantities"]["per_cpu_second"]["c"][1],
            50.0
        );
    }
}
