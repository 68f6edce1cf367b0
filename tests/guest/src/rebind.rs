// SPDX-License-Identifier: GPL-2.0

//! How long a VMBus network device takes from its driver being bound to all its channels being in use.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

const DRIVER: &str = "/sys/bus/vmbus/drivers/hv_netvsc";
const DEVICES: &str = "/sys/bus/vmbus/devices";
/// How often the kernel is asked.
const STEP: Duration = Duration::from_millis(2);

/// How long each part took.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rebinding {
    /// The driver letting go, in microseconds.
    pub detach_us: u64,
    /// The driver taking the device, until its interface is registered, in microseconds.
    pub attach_us: u64,
    /// The same until all queues are in use, in microseconds.
    pub complete_us: u64,
}

/// Takes the `device` (a name in `/sys/bus/vmbus/devices`) from its driver and gives it back; waits, at
/// most `limit`, until its interface has `queues` receive and transmit queues.
pub fn rebind(device: &str, queues: usize, limit: Duration) -> io::Result<Rebinding> {
    let driver = Path::new(DRIVER);
    let began = Instant::now();
    write(&driver.join("unbind"), device)?;
    let detach_us = micros(began);
    let began = Instant::now();
    write(&driver.join("bind"), device)?;
    let attach_us = micros(began);
    let net = Path::new(DEVICES).join(device).join("net");
    loop {
        let found = queues_of(&net)?;
        if found == (queues, queues) {
            return Ok(Rebinding {
                detach_us,
                attach_us,
                complete_us: micros(began),
            });
        }
        if began.elapsed() > limit {
            let (receive, transmit) = found;
            return Err(io::Error::new(
                io::ErrorKind::TimedOut,
                format!("{device} has {receive} receive and {transmit} transmit queues after {limit:?}, not {queues}"),
            ));
        }
        thread::sleep(STEP);
    }
}

fn micros(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_micros()).unwrap_or(u64::MAX)
}

fn write(path: &Path, text: &str) -> io::Result<()> {
    fs::write(path, text).map_err(|e| {
        io::Error::new(
            e.kind(),
            format!("cannot write '{text}' to {}: {e}", path.display()),
        )
    })
}

/// How many queues the one interface in the folder `net` has; none if it is not there yet.
fn queues_of(net: &Path) -> io::Result<(usize, usize)> {
    let Some(interface) = only_entry(net)? else {
        return Ok((0, 0));
    };
    let (mut receive, mut transmit) = (0, 0);
    for entry in fs::read_dir(interface.join("queues"))? {
        let name = entry?.file_name();
        let name = name.to_string_lossy();
        receive += usize::from(name.starts_with("rx-"));
        transmit += usize::from(name.starts_with("tx-"));
    }
    Ok((receive, transmit))
}

fn only_entry(folder: &Path) -> io::Result<Option<PathBuf>> {
    match fs::read_dir(folder) {
        Ok(mut entries) => entries.next().transpose().map(|e| e.map(|e| e.path())),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queues_are_counted_by_direction() {
        let folder = std::env::temp_dir().join(format!("guest-agent-net-{}", std::process::id()));
        let net = folder.join("net");
        assert_eq!(queues_of(&net).expect("missing is none"), (0, 0));
        for queue in ["rx-0", "rx-1", "tx-0"] {
            fs::create_dir_all(net.join("eth7/queues").join(queue)).expect("makes");
        }
        assert_eq!(queues_of(&net).expect("counts"), (2, 1));
        fs::remove_dir_all(folder).expect("removes");
    }

    #[test]
    fn a_device_that_is_not_there_is_named() {
        let error = rebind("no-such-device", 1, Duration::ZERO).expect_err("fails");
        assert!(error.to_string().contains("no-such-device"), "{error}");
    }
}
