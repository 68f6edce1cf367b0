// SPDX-License-Identifier: GPL-2.0

//! Opening the byte stream to the runner: a virtio-serial port or a serial line.

use std::fs::{File, OpenOptions};
use std::io::{IsTerminal, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use nix::sys::termios::{cfmakeraw, tcgetattr, tcsetattr, ControlFlags, SetArg};

/// Opens `path` for reading and writing. A terminal is put into raw mode: no echo, no line editing,
/// no character has a meaning.
pub fn open(path: &Path) -> Result<File> {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(nix::fcntl::OFlag::O_NOCTTY.bits())
        .open(path)
        .with_context(|| format!("cannot open device '{}'", path.display()))?;
    if file.is_terminal() {
        let mut settings = tcgetattr(&file).context("terminal settings")?;
        cfmakeraw(&mut settings);
        settings.control_flags |= ControlFlags::CLOCAL | ControlFlags::CREAD;
        settings.control_flags &= !ControlFlags::CRTSCTS;
        tcsetattr(&file, SetArg::TCSAFLUSH, &settings).context("terminal settings")?;
    }
    Ok(file)
}

/// A reader for a virtio-serial port, which reports end of file while nobody is connected on the
/// other side: it waits for somebody instead.
pub struct Patient(pub File);

impl Read for Patient {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        loop {
            match self.0.read(buffer) {
                Ok(0) => std::thread::sleep(Duration::from_millis(100)),
                other => return other,
            }
        }
    }
}
