// SPDX-License-Identifier: GPL-2.0

//! The terminal on standard input, while the guest's console owns it.

use std::io::{self, IsTerminal};
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};

use vmm_sys_util::terminal::Terminal;

/// A terminal by a descriptor of its own: `Stdin`'s lock is held by whoever waits for input.
struct Descriptor(OwnedFd);

// SAFETY: the descriptor stays open and the same as long as `self` exists.
unsafe impl Terminal for Descriptor {
    fn tty_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

/// Raw mode: every key goes to the guest, at once and without an echo. Ends when dropped.
pub struct RawMode(Descriptor);

impl RawMode {
    /// Puts standard input into raw mode; `None` if it is no terminal.
    pub fn enter() -> io::Result<Option<Self>> {
        let stdin = io::stdin();
        if !stdin.is_terminal() {
            return Ok(None);
        }
        let descriptor = Descriptor(stdin.as_fd().try_clone_to_owned()?);
        descriptor.set_raw_mode()?;
        Ok(Some(RawMode(descriptor)))
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        if let Err(error) = self.0.set_canon_mode() {
            tracing::warn!("the terminal stays in raw mode: {error}");
        }
    }
}
