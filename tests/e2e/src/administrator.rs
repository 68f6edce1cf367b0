// SPDX-License-Identifier: GPL-2.0

//! Somebody who does operations on one interface and looks, after each, at everything that is shown: it must be
//! the configuration that the model predicts, in every field.

use std::time::{Duration, Instant};

use anyhow::{ensure, Context, Result};
use guest_agent::protocol::Outcome;

use crate::configuration::{Baseline, Configuration};
use crate::guest::{End, Guest, SHORT};
use crate::operations::{between, Operation};
use crate::snapshot::{differences, Viewer};

/// What the host lets in; the core does not ask whether it does what it is told.
/// Time that what is shown may take to be what is in force: carrier and its like follow in the background.
const SETTLE: Duration = Duration::from_secs(5);

/// An interface under administration.
pub struct Administrator<'a> {
    guest: &'a Guest,
    end: End,
    viewer: Viewer<'a>,
    baseline: Baseline,
    now: Configuration,
}

impl<'a> Administrator<'a> {
    /// Of the interface of `end`, which must have its default settings, now or soon.
    pub fn new(guest: &'a Guest, end: End) -> Result<Self> {
        guest.shell("modprobe 8021q", SHORT)?;
        let mut viewer = Viewer::new(guest, end)?;
        let began = Instant::now();
        let limit = guest.agent.patient(SETTLE);
        let baseline = loop {
            match Baseline::new(viewer.look()?, guest.driver.get()) {
                Err(_) if began.elapsed() < limit => {}
                baseline => break baseline?,
            }
        };
        Ok(Self {
            guest,
            end,
            viewer,
            now: baseline.configuration.clone(),
            baseline,
        })
    }

    /// What the interface started from, and its limits.
    pub fn baseline(&self) -> &Baseline {
        &self.baseline
    }

    /// Does one operation; what comes of it must be what the model predicts.
    pub fn perform(&mut self, operation: &Operation) -> Result<()> {
        let prediction = operation.predict(&self.now, &self.baseline);
        let outcome = self.command(operation, SHORT)?;
        let said = format!("{}{}", outcome.stdout, outcome.stderr);
        match prediction.refused {
            None => ensure!(outcome.success(), "'{operation}' failed: {}", said.trim()),
            Some(message) => ensure!(
                !outcome.success() && said.contains(message),
                "'{operation}' was to be refused with '{message}': exit code {:?}, {}",
                outcome.code,
                said.trim()
            ),
        }
        self.now = prediction.after;
        self.settled()
            .with_context(|| format!("after '{operation}'"))
    }

    /// Does one operation while the host may not let it be done, within `limit`: either it is, or nothing has
    /// changed and there is an error. Whether it is done. The fields `but` may show either.
    pub fn attempt(
        &mut self,
        operation: &Operation,
        limit: Duration,
        but: &[&str],
    ) -> Result<bool> {
        let done = self.command(operation, limit)?.success();
        self.came_to(operation, done, but)?;
        Ok(done)
    }

    /// An operation was `done`, or has been refused and changed nothing. The fields `but` may show either.
    pub fn came_to(&mut self, operation: &Operation, done: bool, but: &[&str]) -> Result<()> {
        if done {
            self.now = operation.predict(&self.now, &self.baseline).after;
        }
        let how = if done { "done" } else { "refused" };
        self.settled_but(but, SETTLE)
            .with_context(|| format!("after '{operation}', which was {how}"))
    }

    /// Begins an operation in the background.
    pub fn begin(&self, operation: &Operation) -> Result<crate::agent::Job> {
        let argv = operation.argv(self.end.interface());
        let argv: Vec<&str> = argv.iter().map(String::as_str).collect();
        self.guest.spawn_at(self.end, &argv)
    }

    /// The link of the host's end changes.
    pub fn set_link(&mut self, up: bool) -> Result<()> {
        self.guest.host.set_link(self.end.nic(), up)?;
        self.now.link = up;
        self.settled().context("after a change of link")
    }

    /// A channel count that is allowed and not the present one, if there is such.
    pub fn another_channel_count(&self) -> u32 {
        let most = self.baseline.most_channels;
        let lowest = self
            .now
            .table
            .iter()
            .flatten()
            .max()
            .map_or(1, |highest| highest + 1);
        if self.now.channels == most {
            lowest
        } else {
            most
        }
    }

    /// Everything shows what must be in force, at once or soon.
    pub fn settled(&mut self) -> Result<()> {
        self.settled_but(&[], SETTLE)
    }

    /// The same, if a rebuild takes this long.
    pub fn settled_within(&mut self, limit: Duration) -> Result<()> {
        self.settled_but(&[], limit)
    }

    /// The same, apart from some fields.
    fn settled_but(&mut self, but: &[&str], limit: Duration) -> Result<()> {
        let began = Instant::now();
        let limit = self.guest.agent.patient(limit);
        loop {
            let mut shown = self.viewer.look()?;
            self.now.adopt(&shown, self.guest.driver.get());
            let mut wanted = self.baseline.fields(&self.now);
            for path in but {
                shown.remove(*path);
                wanted.remove(*path);
            }
            let wrong = differences(&wanted, &shown);
            if wrong.is_empty() {
                return Ok(());
            }
            let late = began.elapsed() > limit;
            ensure!(!late, "{} after {limit:.0?}", wrong.join("; "));
        }
    }

    /// Undoes everything.
    pub fn go_back(&mut self) -> Result<()> {
        if self.now.link != self.baseline.configuration.link {
            self.set_link(self.baseline.configuration.link)?;
        }
        let way = between(&self.now, &self.baseline.configuration, &self.baseline);
        if way.is_empty() {
            return Ok(());
        }
        let quoted = |word: String| format!("'{word}'");
        let script: Vec<String> = way
            .iter()
            .map(|step| {
                let argv = step.argv(self.end.interface());
                argv.into_iter().map(quoted).collect::<Vec<_>>().join(" ")
            })
            .collect();
        let argv = ["sh", "-ec", &script.join("\n")];
        self.guest.at(self.end, &argv, SHORT * 2)?;
        self.now = self.baseline.configuration.clone();
        self.settled().context("after everything was undone")
    }

    fn command(&self, operation: &Operation, limit: Duration) -> Result<Outcome> {
        let argv = operation.argv(self.end.interface());
        let argv: Vec<&str> = argv.iter().map(String::as_str).collect();
        self.guest.try_at(self.end, &argv, limit)
    }
}
