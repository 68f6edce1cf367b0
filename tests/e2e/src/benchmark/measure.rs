// SPDX-License-Identifier: GPL-2.0

//! What is measured of each cell, how good it is to have more of it, and how two drivers compare.

use std::collections::BTreeMap;

use anyhow::{ensure, Result};
use serde::Serialize;

use super::moment::Span;

/// A quantity.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Quantity {
    /// Instructions of the guest per unit of work.
    Instructions,
    /// Units of work per second of guest CPU time.
    PerCpuSecond,
    /// Units of work per second.
    PerSecond,
    /// Doorbells per unit of work.
    Doorbells,
    /// Interrupts per unit of work.
    Interrupts,
    /// Ring bytes per unit of work.
    RingBytes,
    /// A time, in microseconds.
    Microseconds,
    /// Memory, in KiB.
    Kibibytes,
}

impl Quantity {
    /// More is better.
    fn is_gain(self) -> bool {
        matches!(self, Quantity::PerCpuSecond | Quantity::PerSecond)
    }

    /// The ratio of ours to the C driver's, above one if ours is better. `None` where one of them is
    /// nothing, so that there is no ratio.
    pub fn ratio(self, ours: f64, c: f64) -> Option<f64> {
        if ours <= 0.0 || c <= 0.0 {
            return None;
        }
        Some(if self.is_gain() { ours / c } else { c / ours })
    }
}

/// A cell of the table, measured once.
#[derive(Clone, Debug, PartialEq)]
pub struct Measured {
    /// Name of the cell.
    pub cell: &'static str,
    /// What was found.
    pub values: BTreeMap<Quantity, f64>,
}

impl Measured {
    /// `units` of work done in a span.
    pub fn work(cell: &'static str, units: f64, span: &Span) -> Result<Measured> {
        ensure!(
            units >= 1.0 && span.cpu_seconds > 0.0,
            "nothing was carried in {:.1} s",
            span.seconds
        );
        let per_unit = |count: u64| count as f64 / units;
        let instructions = span
            .instructions
            .map(|count| (Quantity::Instructions, count / units));
        let values = [
            (Quantity::PerCpuSecond, units / span.cpu_seconds),
            (Quantity::PerSecond, units / span.seconds),
            (Quantity::Doorbells, per_unit(span.all.doorbells)),
            (Quantity::Interrupts, per_unit(span.all.interrupts)),
            (Quantity::RingBytes, per_unit(span.all.ring_bytes)),
        ];
        Ok(Measured {
            cell,
            values: values.into_iter().chain(instructions).collect(),
        })
    }

    /// A cell that is one cost.
    pub fn cost(cell: &'static str, quantity: Quantity, value: f64) -> Measured {
        Measured {
            cell,
            values: BTreeMap::from([(quantity, value)]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ratio_above_one_is_better_for_ours_whatever_is_measured() {
        assert_eq!(Quantity::PerSecond.ratio(20.0, 10.0), Some(2.0));
        assert_eq!(Quantity::Doorbells.ratio(1.0, 4.0), Some(4.0));
        assert_eq!(Quantity::Microseconds.ratio(10.0, 5.0), Some(0.5));
        assert_eq!(Quantity::Interrupts.ratio(0.0, 1.0), None);
        assert_eq!(Quantity::Interrupts.ratio(1.0, 0.0), None);
    }
}
