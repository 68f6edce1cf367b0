// SPDX-License-Identifier: GPL-2.0

//! A command line in a guest with the driver loaded: each line is run by the guest's shell.

use std::io::{BufRead, Write};
use std::time::Duration;

use anyhow::Result;

use crate::bench::{Bench, Session};
use crate::guest::{End, SHORT};
use crate::runner::Options;
use crate::scenario::{Driver, Machine};

/// Longest that one line may run.
const LIMIT: Duration = Duration::from_secs(600);

/// Boots a guest, loads the driver, and runs what is typed until end of input or `exit`.
pub fn run(options: &Options, driver: Driver) -> Result<()> {
    let bench = Bench::new(
        &options.artifacts,
        options.acceleration,
        &options.folder.join("shell"),
    )?;
    let session = bench.boot(Machine::COMMON, options.kernel, driver)?;
    let guest = &session.guest;
    if !guest.begin()? {
        guest.load()?;
    }
    guest.configure(guest.machine.most_channels())?;
    println!(
        "eth0 is 10.0.0.1 and fd00::1; its peer is 10.0.0.2 and fd00::2 in namespace 'peer'.\n\
         Guest console: {}. Each line is a shell of its own; 'cd' lasts; '!' runs it below, next\n\
         to the test host. 'exit' ends.",
        bench.console().display()
    );
    converse(&bench, &session)
}

fn converse(bench: &Bench, session: &Session<'_>) -> Result<()> {
    let guest = &session.guest;
    let mut folder = "/root".to_owned();
    let mut line = String::new();
    loop {
        print!("guest:{folder}# ");
        std::io::stdout().flush()?;
        line.clear();
        if std::io::stdin().lock().read_line(&mut line)? == 0 || line.trim() == "exit" {
            println!();
            return Ok(());
        }
        // The new folder goes to a file, so that the output stays what the commands printed.
        let script = format!(
            "cd '{folder}' && {{ {}\n}}; code=$?; pwd >/tmp/shell-folder; exit $code",
            line.trim()
        );
        if line.trim().is_empty() {
            continue;
        }
        if let Some(below) = line.trim().strip_prefix('!') {
            print!("{}", bench.run_below(below, LIMIT)?);
            continue;
        }
        match guest.try_at(End::Near, &["sh", "-c", &script], LIMIT) {
            Ok(outcome) => print!("{}{}", outcome.stdout, outcome.stderr),
            Err(e) => eprintln!("{e:#}"),
        }
        session.alive()?;
        if let Ok(text) = guest.at(End::Near, &["cat", "/tmp/shell-folder"], SHORT) {
            text.trim().clone_into(&mut folder);
        }
    }
}
