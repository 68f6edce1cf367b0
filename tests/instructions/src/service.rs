// SPDX-License-Identifier: GPL-2.0

//! The count for whoever asks, on a Unix socket: a line in, lines out.
//!
//! | request | answer |
//! |---|---|
//! | `count` | instructions of the guest up to the last mark |
//! | `begin` | `ok`; what was executed before is not in the next profile |
//! | `profile` | a line `ADDRESS COUNT` (hexadecimal, decimal) for each block of code executed since `begin`, then an empty line |

use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::{UnixListener, UnixStream};

use crate::counts::Counts;

/// Serves one connection after the other.
pub fn serve(listener: &UnixListener, counts: &Counts) {
    for stream in listener.incoming().flatten() {
        // A peer that has gone wants no answer.
        let _ = converse(&stream, counts);
    }
}

fn converse(stream: &UnixStream, counts: &Counts) -> std::io::Result<()> {
    let mut answers = stream;
    let mut before = Vec::new();
    for request in BufReader::new(stream).lines() {
        let answer = match request?.as_str() {
            "count" => format!("{}\n", counts.marked()),
            "begin" => {
                before = counts.read();
                "ok\n".into()
            }
            "profile" => profile(&before, counts),
            other => format!("'{other}' is neither count, begin nor profile\n"),
        };
        answers.write_all(answer.as_bytes())?;
    }
    Ok(())
}

fn profile(before: &[u64], counts: &Counts) -> String {
    let mut out = String::new();
    let now = counts.read();
    let before = before.iter().chain(std::iter::repeat(&0));
    for ((address, now), before) in counts.addresses().iter().zip(&now).zip(before) {
        if now != before {
            // Writing to a string cannot fail.
            let _ = writeln!(out, "{address:x} {}", now.wrapping_sub(*before));
        }
    }
    out + "\n"
}
