// SPDX-License-Identifier: GPL-2.0

//! Runs every file of the folders given through `netvsc_fuzz::all`, without libFuzzer: for measuring coverage.

use std::{env, fs, io};

fn main() -> io::Result<()> {
    for folder in env::args_os().skip(1) {
        for entry in fs::read_dir(folder)? {
            netvsc_fuzz::all::run(&fs::read(entry?.path())?);
        }
    }
    Ok(())
}
