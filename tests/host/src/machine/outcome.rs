// SPDX-License-Identifier: GPL-2.0

//! How a run of the machine ends, and the exit code that says so.

use std::fmt;

/// Why the machine stopped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The guest switched itself off.
    PowerOff,
    /// The guest reset itself, by the named means.
    Reset(&'static str),
    /// The guest reported a crash through the crash MSRs (Linux: error code, guest OS id,
    /// instruction pointer, AX, stack pointer).
    Crash([u64; 5]),
    /// A virtual processor shut down after a triple fault.
    TripleFault {
        /// which one
        vp: u32,
        /// where it was
        rip: u64,
    },
    /// KVM could not go on.
    Fault(String),
    /// `quit` on the control socket.
    Quit,
    /// The host program got a signal to stop.
    Signal(i32),
}

/// For `--help`.
pub const EXIT_CODES: &str = "\
Exit codes:
  0  the guest switched itself off
  1  hvhost could not set the machine up (one line on standard error says why)
  2  the command line is wrong
  3  the guest reset itself
  4  the guest crashed (it wrote the Hyper-V crash registers)
  5  triple fault of a virtual processor
  6  KVM could not go on (internal error, failed entry)
  7  'quit' on the control socket
  8  SIGTERM or SIGINT";

impl Outcome {
    /// The process exit code, as listed in [`EXIT_CODES`].
    pub fn exit_code(&self) -> u8 {
        match self {
            Outcome::PowerOff => 0,
            Outcome::Reset(_) => 3,
            Outcome::Crash(_) => 4,
            Outcome::TripleFault { .. } => 5,
            Outcome::Fault(_) => 6,
            Outcome::Quit => 7,
            Outcome::Signal(_) => 8,
        }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Outcome::PowerOff => f.write_str("the guest switched itself off"),
            Outcome::Reset(how) => write!(f, "the guest reset itself ({how})"),
            Outcome::Crash(p) => write!(
                f,
                "the guest crashed: error {:#x}, os {:#x}, ip {:#x}, ax {:#x}, sp {:#x}",
                p[0], p[1], p[2], p[3], p[4]
            ),
            Outcome::TripleFault { vp, rip } => {
                write!(f, "triple fault of vCPU {vp}, rip {rip:#x}")
            }
            Outcome::Fault(text) => write!(f, "KVM could not go on: {text}"),
            Outcome::Quit => f.write_str("stopped by the control socket"),
            Outcome::Signal(number) => write!(f, "stopped by signal {number}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exit_codes_differ_and_are_documented() {
        let all = [
            Outcome::PowerOff,
            Outcome::Reset("x"),
            Outcome::Crash([0; 5]),
            Outcome::TripleFault { vp: 0, rip: 0 },
            Outcome::Fault(String::new()),
            Outcome::Quit,
            Outcome::Signal(15),
        ];
        let mut codes: Vec<u8> = all.iter().map(Outcome::exit_code).collect();
        for code in &codes {
            assert!(EXIT_CODES.contains(&format!("\n  {code}  ")), "{code}");
        }
        codes.dedup();
        assert_eq!(codes.len(), all.len());
    }
}
