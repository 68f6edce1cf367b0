// SPDX-License-Identifier: GPL-2.0

//! What a scenario is: a name a user would recognise, the machine it needs, and what it does there.

use std::fmt;
use std::str::FromStr;

use anyhow::Result;

use crate::guest::Guest;

/// Which implementation of `hv_netvsc` is under test.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, clap::ValueEnum)]
pub enum Driver {
    /// This project's.
    Rust,
    /// The stock kernel's: the control experiment.
    C,
}

impl fmt::Display for Driver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Driver::Rust => "rust",
            Driver::C => "c",
        })
    }
}

/// How often a scenario is run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Set {
    /// By `make check`, and whenever the full set is.
    Quick,
    /// By `make check-full` only: it takes minutes, or needs a boot of its own.
    Full,
}

/// What the NICs of a machine are wired to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Wiring {
    /// Two NICs to each other.
    Pair,
    /// One NIC to the machine below, one to a packet generator, one to a sink.
    Benchmark,
}

/// The virtual machine a scenario needs. Scenarios with equal machines share boots.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Machine {
    /// Virtual processors, 1 to 8.
    pub processors: u32,
    /// Largest number of channels the host offers on each NIC.
    pub queues: u16,
    /// Highest VMBus version the host accepts, as hvhost writes it; its highest if `None`.
    pub vmbus: Option<&'static str>,
    /// Highest NVSP version the host accepts, as hvhost writes it; its highest if `None`.
    pub nvsp: Option<&'static str>,
    /// Its NICs.
    pub wiring: Wiring,
}

impl Machine {
    /// Four processors, NICs of up to eight queues, highest versions: what most scenarios use.
    pub const COMMON: Machine = Machine {
        processors: 4,
        queues: 8,
        vmbus: None,
        nvsp: None,
        wiring: Wiring::Pair,
    };

    /// Channels a driver gets at most: one per processor, and no more than the host offers.
    /// Sub-channels came with NVSP 5.
    pub fn most_channels(&self) -> u32 {
        if matches!(self.nvsp, Some("1" | "2" | "4")) {
            return 1;
        }
        self.processors.min(u32::from(self.queues))
    }
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} CPUs, {} queues", self.processors, self.queues)?;
        if let Some(version) = self.vmbus {
            write!(f, ", VMBus {version}")?;
        }
        if let Some(version) = self.nvsp {
            write!(f, ", NVSP {version}")?;
        }
        Ok(())
    }
}

/// One scenario.
#[derive(Clone, Copy)]
pub struct Scenario {
    /// Its name on the command line and in reports.
    pub name: &'static str,
    /// What it shows, in a phrase.
    pub about: &'static str,
    /// How often it is run.
    pub set: Set,
    /// Where it is run.
    pub machine: Machine,
    /// Why the C driver cannot pass it: a known defect by its number in the specification.
    pub c_defect: Option<&'static str>,
    /// The scenario itself. It finds the driver loaded and the two NICs configured.
    pub run: fn(&Guest) -> Result<()>,
}

impl fmt::Debug for Scenario {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

/// A scenario to be run with one driver.
#[derive(Clone, Copy, Debug)]
pub struct Item {
    /// What to run.
    pub scenario: Scenario,
    /// With which driver.
    pub driver: Driver,
}

impl fmt::Display for Item {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} [{}]", self.scenario.name, self.driver)
    }
}

/// A kernel the guest can run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Kernel {
    /// The distribution's kernel.
    Stock,
    /// The kernel with KASAN, lockdep and leak detection.
    Debug,
}

/// Drivers as chosen on the command line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Drivers(pub Vec<Driver>);

impl FromStr for Drivers {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "rust" => Ok(Drivers(vec![Driver::Rust])),
            "c" => Ok(Drivers(vec![Driver::C])),
            "both" => Ok(Drivers(vec![Driver::C, Driver::Rust])),
            _ => Err(format!("'{text}' is none of rust, c, both")),
        }
    }
}
