// SPDX-License-Identifier: GPL-2.0

//! The line to QEMU's plugin that counts the guest's instructions (`tests/instructions`).

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::{ensure, Context, Result};

/// Time for an answer.
const LIMIT: Duration = Duration::from_secs(30);

/// A connection to the plugin.
pub struct Instructions(Mutex<BufReader<UnixStream>>);

impl Instructions {
    /// Connects to the socket that the plugin was told to serve.
    pub fn connect(path: &Path) -> Result<Instructions> {
        let stream = UnixStream::connect(path)
            .with_context(|| format!("cannot connect to {}", path.display()))?;
        stream.set_read_timeout(Some(LIMIT))?;
        Ok(Instructions(Mutex::new(BufReader::new(stream))))
    }

    /// Instructions that the guest had executed, on all its processors, when the test host last read its counters.
    pub fn count(&self) -> Result<u64> {
        let lines = self.ask("count", 1)?;
        let line = lines.concat();
        line.parse()
            .with_context(|| format!("the plugin counts '{line}' instructions"))
    }

    /// Begins a profile.
    pub fn begin_profile(&self) -> Result<()> {
        let lines = self.ask("begin", 1)?;
        ensure!(lines == ["ok"], "the plugin answers '{}'", lines.concat());
        Ok(())
    }

    /// Instructions executed since the profile was begun, by the address (hexadecimal) of the block of code that they are in.
    pub fn profile(&self) -> Result<BTreeMap<String, u64>> {
        self.ask("profile", usize::MAX)?
            .iter()
            .map(|line| {
                let parts = line.split_once(' ');
                let (address, count) =
                    parts.with_context(|| format!("'{line}' is no line of a profile"))?;
                Ok((address.to_owned(), count.parse()?))
            })
            .collect()
    }

    /// Up to `most` lines of answer, or those before an empty one.
    fn ask(&self, request: &str, most: usize) -> Result<Vec<String>> {
        let mut reader = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        reader
            .get_mut()
            .write_all(format!("{request}\n").as_bytes())?;
        let mut lines = Vec::new();
        while lines.len() < most {
            let mut line = String::new();
            let read = reader.read_line(&mut line).context("plugin of QEMU")?;
            ensure!(read > 0, "the plugin of QEMU has closed the line");
            let line = line.trim_end();
            if line.is_empty() {
                break;
            }
            lines.push(line.to_owned());
        }
        Ok(lines)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixListener;

    #[test]
    fn counts_and_profiles_are_read() {
        let folder = std::env::temp_dir().join(format!("instructions-{}", std::process::id()));
        std::fs::create_dir_all(&folder).expect("folder");
        let path = folder.join("s");
        let listener = UnixListener::bind(&path).expect("binds");
        let plugin = std::thread::spawn(move || {
            let (stream, _) = listener.accept().expect("accepts");
            let mut lines = BufReader::new(stream.try_clone().expect("clones")).lines();
            let mut answers = &stream;
            let mut asked = Vec::new();
            for answer in ["42\n", "ok\n", "ffff 7\n10 1\n\n", "what\n"] {
                asked.push(lines.next().expect("a line").expect("reads"));
                answers.write_all(answer.as_bytes()).expect("answers");
            }
            asked
        });
        let line = Instructions::connect(&path).expect("connects");
        assert_eq!(line.count().expect("counts"), 42);
        line.begin_profile().expect("begins");
        let profile = line.profile().expect("profile");
        let expected = BTreeMap::from([("ffff".to_owned(), 7), ("10".to_owned(), 1)]);
        assert_eq!(profile, expected);
        let error = line.count().expect_err("no number");
        assert!(error.to_string().contains("'what'"), "{error}");
        let asked = plugin.join().expect("plugin");
        assert_eq!(asked, ["count", "begin", "profile", "count"]);
        std::fs::remove_dir_all(&folder).expect("removes");
    }
}
