// SPDX-License-Identifier: GPL-2.0

//! The CMOS clock, as far as Linux reads it at boot: date and time in BCD. Without it the kernel
//! waits five seconds for a clock that never answers.

use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

/// Selects the register.
pub const INDEX: u16 = 0x70;
/// Reads or writes the selected register.
pub const DATA: u16 = 0x71;

/// The clock and its index register.
#[derive(Default)]
pub struct Clock {
    index: AtomicU8,
}

impl Clock {
    /// Whether `port` belongs here.
    pub fn owns(port: u16) -> bool {
        matches!(port, INDEX | DATA)
    }

    /// The guest writes: only the index is kept.
    pub fn write(&self, port: u16, value: u8) {
        if port == INDEX {
            self.index.store(value & 0x7f, Ordering::Relaxed);
        }
    }

    /// The guest reads the selected register.
    pub fn read(&self) -> u8 {
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let seconds = now.map_or(0, |since| since.as_secs());
        register(self.index.load(Ordering::Relaxed), seconds)
    }
}

/// The value of a register at a time in seconds since 1970.
fn register(index: u8, seconds: u64) -> u8 {
    const DIVIDER_32KHZ: u8 = 0x20;
    const MODE_24H: u8 = 2;
    const VALID: u8 = 0x80;
    let (days, second) = (seconds / 86400, seconds % 86400);
    let (year, month, day) = civil(days);
    match index {
        0 => bcd(second % 60),
        2 => bcd(second / 60 % 60),
        4 => bcd(second / 3600),
        6 => bcd((days + 4) % 7 + 1),
        7 => bcd(day),
        8 => bcd(month),
        9 => bcd(year % 100),
        0xa => DIVIDER_32KHZ,
        0xb => MODE_24H,
        0xd => VALID,
        0x32 => bcd(year / 100),
        _ => 0,
    }
}

fn bcd(value: u64) -> u8 {
    (value / 10 * 16 + value % 10) as u8
}

/// Year, month and day of a day number, 0 being 1 January 1970.
fn civil(days: u64) -> (u64, u64, u64) {
    let leap = |year: u64| year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let (mut year, mut left) = (1970, days);
    while left >= 365 + u64::from(leap(year)) {
        left -= 365 + u64::from(leap(year));
        year += 1;
    }
    let mut month = 1;
    let lengths = [
        31,
        28 + u64::from(leap(year)),
        31,
        30,
        31,
        30,
        31,
        31,
        30,
        31,
        30,
        31,
    ];
    for length in lengths {
        if left < length {
            break;
        }
        left -= length;
        month += 1;
    }
    (year, month, left + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_dates() {
        assert_eq!(civil(0), (1970, 1, 1));
        assert_eq!(civil(19782), (2024, 2, 29));
        assert_eq!(civil(19783), (2024, 3, 1));
        assert_eq!(civil(20453), (2025, 12, 31));
    }

    #[test]
    fn registers_are_bcd() {
        // 2024-02-29 23:58:07 UTC
        let now = 19782 * 86400 + 23 * 3600 + 58 * 60 + 7;
        let read = |index| register(index, now);
        assert_eq!([read(4), read(2), read(0)], [0x23, 0x58, 0x07]);
        assert_eq!(
            [read(0x32), read(9), read(8), read(7)],
            [0x20, 0x24, 0x02, 0x29]
        );
        assert_eq!(read(6), 5);
        assert_eq!(read(0xa) & 0x80, 0);
    }
}
