// SPDX-License-Identifier: GPL-2.0

//! The C driver and ours side by side: both in one boot of one guest, loaded alternately, doing the same.
//!
//! * `cells`: what is measured, and how; `network`: the guest's interfaces for it;
//! * `moment`: the host's counters; `steal`: what other programs took from an emulated machine;
//! * `measure`: quantities; `statistics`: ratios of many rounds;
//! * `results`: the table and `results.json`; `plot`: the picture; `profile`: where the guest spends its time.
//!
//! A round is one turn of each driver. The order changes from round to round (C, ours, ours, C, ...), so
//! that whatever drifts in the machine meets both alike.

mod cells;
mod measure;
mod moment;
mod network;
mod plot;
mod profile;
mod reconfiguration;
mod results;
mod statistics;
mod steal;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{ensure, Context, Result};

use crate::artifacts::{required, Acceleration};
use crate::bench::{Bench, Session};
use crate::runner::Options;
use crate::scenario::{Driver, Machine, Wiring};

use measure::Measured;
use network::Network;
use results::{Conditions, Results};
pub use steal::Schedule;

/// The NICs of the guest. Each has its own task, so that what one direction costs is not mixed with the
/// other's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Port {
    /// To the machine below, whose TCP is the peer.
    Tcp,
    /// From the host's packet generator.
    Generator,
    /// To the host's sink.
    Sink,
}

impl Port {
    /// All of them, in the order of their numbers.
    pub const ALL: [Port; 3] = [Port::Tcp, Port::Generator, Port::Sink];

    /// Its name at the host, and its interface's name in the guest.
    pub fn name(self) -> &'static str {
        match self {
            Port::Tcp => "tcp0",
            Port::Generator => "gen0",
            Port::Sink => "sink0",
        }
    }

    /// Its permanent address.
    pub fn mac(self) -> &'static str {
        match self {
            Port::Tcp => "00:15:5d:00:00:11",
            Port::Generator => "00:15:5d:00:00:12",
            Port::Sink => "00:15:5d:00:00:13",
        }
    }

    /// Its description in the host's notation.
    pub fn specification(self, machine: Machine) -> String {
        let backend = match self {
            Port::Tcp => format!("tap:{}", network::TAP),
            Port::Generator => "gen".into(),
            Port::Sink => "sink".into(),
        };
        format!(
            "name={},mac={},queues={},backend={backend}",
            self.name(),
            self.mac(),
            machine.queues
        )
    }
}

/// The guest. Where it is emulated, all its processors share one: with more than two, most time would go
/// into waiting for a processor that does not run.
fn machine(acceleration: Acceleration) -> Machine {
    Machine {
        wiring: Wiring::Benchmark,
        processors: match acceleration {
            Acceleration::Kvm => 4,
            Acceleration::Tcg => 2,
        },
        ..Machine::COMMON
    }
}

/// How long and how often.
#[derive(Clone, Copy, Debug)]
pub struct Effort {
    /// Rounds of one turn for each driver.
    pub rounds: u32,
    /// How long each cell is measured.
    pub window: Duration,
}

impl Effort {
    /// Under ten minutes on two emulating processors.
    pub const QUICK: Effort = Effort {
        rounds: 5,
        window: Duration::from_millis(900),
    };
    /// What figures are published from.
    pub const FULL: Effort = Effort {
        rounds: 10,
        window: Duration::from_millis(3000),
    };
}

/// What the command line says.
#[derive(clap::Args, Clone, Debug)]
pub struct Arguments {
    /// Five short rounds instead of ten long ones.
    #[arg(long)]
    quick: bool,
    /// Rounds, each one turn of both drivers (default: 10, with --quick 5).
    #[arg(long)]
    rounds: Option<u32>,
    /// Measure these cells only, by the beginning of their names; may be repeated.
    #[arg(long)]
    cell: Vec<String>,
    /// Tell in which functions the guest spends its time with each driver, instead of measuring (needs --cell).
    #[arg(long, requires = "cell")]
    profile: bool,
    /// Tell it for each block of code of the functions whose name contains this.
    #[arg(long, requires = "profile")]
    within: Option<String>,
    /// Judge work by the guest's instructions instead of its CPU time (where the guest is emulated): what else runs on
    /// the machine does not matter then.
    #[arg(long)]
    instructions: bool,
    /// The plugin of QEMU that counts them.
    #[arg(long, env = "E2E_INSTRUCTIONS_PLUGIN")]
    instructions_plugin: Option<PathBuf>,
    /// Folder for results.json and plot.svg.
    #[arg(long, env = "E2E_BENCH_OUT", default_value = "build/bench")]
    out: PathBuf,
}

impl Arguments {
    /// The plugin, if instructions are to be counted.
    fn plugin(&self, acceleration: Acceleration) -> Result<Option<&Path>> {
        if !self.instructions {
            return Ok(None);
        }
        ensure!(
            acceleration == Acceleration::Tcg,
            "--instructions: the guest is not emulated, so nobody counts them (HVHOST_ACCEL=tcg emulates it)"
        );
        required(&self.instructions_plugin, "instructions-plugin").map(Some)
    }

    fn effort(&self) -> Effort {
        let effort = if self.quick {
            Effort::QUICK
        } else {
            Effort::FULL
        };
        Effort {
            rounds: self.rounds.unwrap_or(effort.rounds).max(1),
            ..effort
        }
    }
}

/// Measures, prints the table, and writes results and plot.
pub fn run(options: &Options, arguments: &Arguments) -> Result<()> {
    let effort = arguments.effort();
    if arguments.profile {
        return profile::run(options, arguments);
    }
    let results = measure_all(options, effort, arguments)?;
    print!("{}", results.table());
    write(&results, &arguments.out)?;
    println!("{}", results.summary()?);
    Ok(())
}

fn write(results: &Results, out: &Path) -> Result<()> {
    std::fs::create_dir_all(out)
        .with_context(|| format!("--out: cannot make folder '{}'", out.display()))?;
    let json = out.join("results.json");
    std::fs::write(&json, results.json()? + "\n")
        .with_context(|| format!("cannot write {}", json.display()))?;
    let picture = out.join("plot.svg");
    plot::draw(results, &picture)?;
    println!("results: {}, plot: {}", json.display(), picture.display());
    Ok(())
}

/// Says on standard error what is going on, with the time since the beginning.
struct Progress(Instant);

impl Progress {
    fn say(&self, text: &str) {
        eprintln!("[{:4.0} s] bench: {text}", self.0.elapsed().as_secs_f64());
    }
}

fn measure_all(options: &Options, effort: Effort, arguments: &Arguments) -> Result<Results> {
    let progress = Progress(Instant::now());
    progress.say("booting a guest");
    let bench = bench(options, arguments)?;
    let session = bench.boot(machine(options.acceleration), options.kernel, Driver::C)?;
    let measured = rounds(&bench, &session, effort, &arguments.cell, &progress);
    if measured.is_err() {
        eprint!("{}", session.diagnosis());
    }
    measured
}

fn bench(options: &Options, arguments: &Arguments) -> Result<Bench> {
    Bench::counting(
        &options.artifacts,
        options.acceleration,
        &options.folder.join("benchmark"),
        arguments.plugin(options.acceleration)?,
    )
}

fn rounds(
    bench: &Bench,
    session: &Session<'_>,
    effort: Effort,
    cells: &[String],
    progress: &Progress,
) -> Result<Results> {
    let guest = &session.guest;
    let network = Network::prepare(bench, guest)?;
    let kernel = guest.run(&["uname", "-r"])?.trim().to_owned();
    let mut results = Results::new(Conditions::now(
        kernel,
        bench.is_emulated(),
        bench.instructions().is_some(),
        effort,
    ));
    for round in 0..effort.rounds {
        for driver in order(round) {
            let say = |text: &str| {
                progress.say(&format!(
                    "round {} of {}, {driver} driver: {text}",
                    round + 1,
                    effort.rounds
                ));
            };
            network.begin(round);
            let measured = turn(&network, driver, effort, cells, &say)
                .with_context(|| format!("round {}, {driver} driver", round + 1))?;
            results.add(round, driver, measured);
        }
        if round + 1 < effort.rounds {
            progress.say(&format!("so far: {}", results.summary()?));
        }
    }
    network.end()?;
    Ok(results)
}

/// Who goes first changes each time.
fn order(round: u32) -> [Driver; 2] {
    if round % 2 == 0 {
        [Driver::C, Driver::Rust]
    } else {
        [Driver::Rust, Driver::C]
    }
}

/// Loads a driver, measures every cell with it, and unloads it.
fn turn(
    network: &Network<'_>,
    driver: Driver,
    effort: Effort,
    cells: &[String],
    say: &dyn Fn(&str),
) -> Result<Vec<Measured>> {
    let guest = network.guest;
    guest.driver.set(driver);
    guest.host.clear_violations()?;
    let wanted = |name: &str| cells.is_empty() || cells.iter().any(|c| name.starts_with(c));
    let memory = network.load().context("loading the driver")?;
    let mut measured = Vec::new();
    if wanted(cells::MEMORY) {
        measured.push(memory);
    }
    for cell in cells::ALL.iter().filter(|cell| wanted(cell.name)) {
        let found = (cell.measure)(network, cell.name, effort.window)
            .with_context(|| format!("cell {}", cell.name))?;
        for one in &found {
            say(&results::line(one));
        }
        measured.extend(found);
    }
    network.unload().context("unloading the driver")?;
    guest.no_kernel_report()?;
    let counters = guest.host.counters()?;
    let violations = counters.violations();
    ensure!(
        violations.is_empty(),
        "the driver broke the protocol: {}",
        violations.join("; ")
    );
    ensure!(
        counters.all_open_channels() == 0 && counters.live_gpadls() == 0,
        "after unloading, the host has {} channels open and {} GPADLs live",
        counters.all_open_channels(),
        counters.live_gpadls()
    );
    Ok(measured)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_order_is_abba() {
        let drivers: Vec<Driver> = (0..2).flat_map(order).collect();
        assert_eq!(drivers, [Driver::C, Driver::Rust, Driver::Rust, Driver::C]);
    }

    #[test]
    fn ports_are_numbered_as_listed() {
        for (number, port) in Port::ALL.iter().enumerate() {
            assert_eq!(*port as usize, number);
        }
    }
}
