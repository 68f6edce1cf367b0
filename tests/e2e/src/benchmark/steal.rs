// SPDX-License-Identifier: GPL-2.0

//! The time in which an emulated machine wanted to run and other programs had the processor.
//!
//! Inside the emulated machine that time looks like work: its clocks go on. The scheduler of this machine knows
//! it, as the time that the emulator's thread waited.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::bench::Bench;

/// How long a thread has run and has waited for a processor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Schedule {
    /// On a processor.
    pub ran: Duration,
    /// Runnable, but not on a processor.
    pub waited: Duration,
}

impl Schedule {
    /// From `/proc/PID/task/TID/schedstat`: both times in nanoseconds, then the number of turns.
    pub fn parse(text: &str) -> Result<Schedule> {
        let mut numbers = text.split_whitespace().map(str::parse);
        let mut next = || {
            let number = numbers.next().transpose().ok().flatten();
            number
                .map(Duration::from_nanos)
                .with_context(|| format!("'{}' is no schedstat", text.trim()))
        };
        Ok(Schedule {
            ran: next()?,
            waited: next()?,
        })
    }
}

/// What was taken from the machine during a measurement, as factors to multiply with.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Steal {
    /// For times by the clock.
    pub clock: f64,
    /// For times on a processor.
    pub processor: f64,
}

impl Steal {
    /// Nothing was.
    pub const NONE: Steal = Steal {
        clock: 1.0,
        processor: 1.0,
    };

    fn between(before: Schedule, after: Schedule, wall: Duration) -> Steal {
        let ran = after.ran.saturating_sub(before.ran).as_secs_f64();
        let waited = after.waited.saturating_sub(before.waited).as_secs_f64();
        let wall = wall.as_secs_f64();
        if ran <= 0.0 || wall <= waited {
            return Steal::NONE;
        }
        Steal {
            clock: 1.0 - waited / wall,
            processor: ran / (ran + waited),
        }
    }
}

/// A measurement in progress.
pub struct StealWatch<'a> {
    bench: &'a Bench,
    began: Instant,
    before: Option<Schedule>,
}

impl<'a> StealWatch<'a> {
    /// Begins.
    pub fn start(bench: &'a Bench) -> Result<StealWatch<'a>> {
        Ok(StealWatch {
            bench,
            before: bench.emulator_schedule()?,
            began: Instant::now(),
        })
    }

    /// What was taken since the beginning; nothing where the guest is not emulated.
    pub fn steal(&self) -> Result<Steal> {
        let after = self.bench.emulator_schedule()?;
        let both = self.before.zip(after);
        Ok(both.map_or(Steal::NONE, |(before, after)| {
            Steal::between(before, after, self.began.elapsed())
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn schedstat_is_read_and_nonsense_named() {
        let schedule = Schedule::parse("2000000000 500000000 77\n").expect("parses");
        assert_eq!(schedule.ran, Duration::from_secs(2));
        assert_eq!(schedule.waited, Duration::from_millis(500));
        let error = Schedule::parse("12").expect_err("one number");
        assert!(error.to_string().contains("'12'"), "{error}");
    }

    #[test]
    fn waiting_is_taken_off_both_clocks() {
        let at = |ran, waited| Schedule {
            ran: Duration::from_millis(ran),
            waited: Duration::from_millis(waited),
        };
        // Ten seconds: six ran, two waited, two idle.
        let steal = Steal::between(at(100, 50), at(6100, 2050), Duration::from_secs(10));
        assert!((steal.clock - 0.8).abs() < 1e-9);
        assert!((steal.processor - 0.75).abs() < 1e-9);
        let idle = Steal::between(at(1, 1), at(1, 1), Duration::from_secs(1));
        assert_eq!(idle, Steal::NONE);
    }
}
