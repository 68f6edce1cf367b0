// SPDX-License-Identifier: GPL-2.0

//! An interactive shell in a guest with the driver loaded, on a terminal of the guest.

use std::io::{Read, Write};
use std::sync::mpsc::{self, Receiver, TryRecvError};
use std::time::Duration;

use anyhow::{Context, Result};
use hvhost::terminal::RawMode;

use crate::bench::{Bench, Session};
use crate::runner::Options;
use crate::scenario::{Driver, Machine};

/// How long the guest waits for something to show before it asks for more input.
const WAIT: Duration = Duration::from_millis(60);
/// Most bytes typed at once.
const TYPED: usize = 1024;
/// What a terminal sends for Ctrl-D: end of input.
const END_OF_INPUT: u8 = 4;
/// Size where standard input is no terminal.
const ROWS_AND_COLUMNS: (u16, u16) = (24, 80);

/// Boots a guest, loads the driver, and connects standard input and output with a shell there until it ends.
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
         Guest console: {}. 'exit' or Ctrl-D ends.",
        bench.console().display()
    );
    let raw = RawMode::enter().context("terminal")?;
    let done = converse(&session);
    drop(raw);
    done
}

/// Carries what is typed to the guest and what it shows back.
fn converse(session: &Session<'_>) -> Result<()> {
    let size = match rustix::termios::tcgetwinsize(std::io::stdin()) {
        Ok(size) if size.ws_row > 0 && size.ws_col > 0 => (size.ws_row, size.ws_col),
        _ => ROWS_AND_COLUMNS,
    };
    let keys = keys();
    let mut typing = true;
    loop {
        let mut input = Vec::new();
        if typing {
            typing = collect(&keys, &mut input);
        }
        let (output, ended) = session.guest.agent.terminal(size, input, WAIT)?;
        let mut out = std::io::stdout().lock();
        out.write_all(&output)?;
        out.flush()?;
        if ended {
            return Ok(());
        }
        if output.is_empty() {
            session.alive()?;
        }
    }
}

/// What comes from standard input, from a thread that waits for it.
fn keys() -> Receiver<Vec<u8>> {
    let (sender, keys) = mpsc::channel();
    std::thread::spawn(move || {
        let mut buffer = [0; TYPED];
        while let Ok(n @ 1..) = std::io::stdin().lock().read(&mut buffer) {
            if sender.send(buffer[..n].to_vec()).is_err() {
                return;
            }
        }
    });
    keys
}

/// Takes what has been typed; false once there will be no more.
fn collect(keys: &Receiver<Vec<u8>>, input: &mut Vec<u8>) -> bool {
    while input.len() < TYPED {
        match keys.try_recv() {
            Ok(bytes) => input.extend(bytes),
            Err(TryRecvError::Empty) => return true,
            Err(TryRecvError::Disconnected) => {
                input.push(END_OF_INPUT);
                return false;
            }
        }
    }
    true
}
