// SPDX-License-Identifier: GPL-2.0

//! A shell on a pseudo-terminal, for people.

use std::fs::File;
use std::io::{Read, Write};
use std::process::{Command, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, TryRecvError};
use std::time::Duration;

use anyhow::{Context, Result};
use nix::pty::{openpty, Winsize};

/// What is run: `setsid -c` makes the terminal its controlling one, so that Ctrl-C interrupts.
const SHELL: [&str; 4] = ["setsid", "-c", "bash", "-il"];

/// A program on a terminal of its own, which ends with the program.
pub struct Terminal {
    master: File,
    output: Receiver<Vec<u8>>,
}

impl Terminal {
    /// A login shell on a terminal of so many rows and columns.
    pub fn shell(rows: u16, columns: u16) -> Result<Terminal> {
        Terminal::open(&SHELL, rows, columns)
    }

    fn open(argv: &[&str], rows: u16, columns: u16) -> Result<Terminal> {
        let size = Winsize {
            ws_row: rows,
            ws_col: columns,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        let pty = openpty(&size, None).context("cannot open a terminal")?;
        let (program, arguments) = argv.split_first().context("an empty command")?;
        let stdio = || pty.slave.try_clone().map(Stdio::from);
        let mut child = Command::new(program)
            .args(arguments)
            .current_dir("/")
            .stdin(stdio()?)
            .stdout(stdio()?)
            .stderr(stdio()?)
            .spawn()
            .with_context(|| format!("cannot run '{program}'"))?;
        let master = File::from(pty.master);
        let mut reader = master.try_clone()?;
        let (sender, output) = mpsc::channel();
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            // Reading fails once nobody has the terminal open any more.
            while let Ok(n @ 1..) = reader.read(&mut buffer) {
                if sender.send(buffer[..n].to_vec()).is_err() {
                    break;
                }
            }
            // Its exit code interests nobody, but it must not stay a zombie.
            let _ = child.wait();
        });
        Ok(Terminal { master, output })
    }

    /// Types `input`, and returns what the terminal shows: what is there once there is something, after `wait` at the
    /// latest, and about `most` bytes. `None` once the program has ended and all has been shown.
    pub fn exchange(
        &mut self,
        input: &[u8],
        wait: Duration,
        most: usize,
    ) -> Result<Option<Vec<u8>>> {
        self.master
            .write_all(input)
            .context("the terminal takes no input")?;
        let mut shown = match self.output.recv_timeout(wait) {
            Ok(bytes) => bytes,
            Err(RecvTimeoutError::Timeout) => return Ok(Some(Vec::new())),
            Err(RecvTimeoutError::Disconnected) => return Ok(None),
        };
        while shown.len() < most {
            match self.output.try_recv() {
                Ok(bytes) => shown.extend_from_slice(&bytes),
                Err(TryRecvError::Empty | TryRecvError::Disconnected) => break,
            }
        }
        Ok(Some(shown))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_reads_and_writes_a_terminal_until_it_ends() {
        let script = "test -t 0 && stty size && read line && echo \"<$line>\"";
        let mut terminal = Terminal::open(&["sh", "-c", script], 30, 90).expect("opens");
        let mut shown = Vec::new();
        let mut input: &[u8] = b"typed\n";
        while let Some(bytes) = terminal
            .exchange(input, Duration::from_secs(20), 100)
            .expect("exchanges")
        {
            input = b"";
            shown.extend(bytes);
        }
        let shown = String::from_utf8(shown).expect("utf-8");
        assert!(
            shown.contains("30 90") && shown.contains("<typed>"),
            "{shown}"
        );
    }
}
