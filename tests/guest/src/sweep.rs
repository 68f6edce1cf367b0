// SPDX-License-Identifier: GPL-2.0

//! Sweeps: one echo for each payload length (and each way of dividing a payload between the linear
//! part and the fragments of a packet), with every byte of the answer compared.

use std::collections::BTreeMap;
use std::io;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::pattern::Pattern;

/// One packet to be echoed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Probe {
    /// Payload length in bytes.
    pub length: usize,
    /// How many of them the sender hands over first; the rest follows as a fragment.
    pub first: Option<usize>,
}

/// Sends probes and receives their echoes.
pub trait Echo {
    /// Sends `payload` as packet number `index`, divided after `first` bytes if given.
    fn send(&mut self, index: u32, payload: &[u8], first: Option<usize>) -> io::Result<()>;
    /// Receives one payload into `buffer`, waiting a short while; `None` if nothing came.
    fn receive(&mut self, buffer: &mut [u8]) -> io::Result<Option<usize>>;
}

/// How a sweep went.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// Probes of the sweep.
    pub probes: usize,
    /// Probes whose echo came, each byte as sent.
    pub answered: usize,
    /// Payload lengths of probes that had to be sent again.
    pub repeated: Vec<usize>,
    /// Further echoes of probes that were answered already: as many of the repeated ones were late, not
    /// lost.
    pub late: usize,
    /// Payload lengths of probes that were never answered.
    pub lost: Vec<usize>,
    /// Payload lengths whose echo differed from what was sent.
    pub corrupt: Vec<usize>,
    /// How long it took, in milliseconds.
    pub elapsed_ms: u64,
}

/// How a sweep is made.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Most probes waiting for their echo at a time.
    pub window: usize,
    /// How long to wait for an echo.
    pub patience: Duration,
    /// How often a probe is sent in all before it counts as lost.
    pub attempts: u32,
}

struct Waiting {
    sent: Instant,
    attempts: u32,
}

struct Sweep<'a, E> {
    probes: &'a [Probe],
    settings: Settings,
    echo: &'a mut E,
    waiting: BTreeMap<u32, Waiting>,
    report: Report,
}

/// Sends all probes and waits for all echoes.
pub fn sweep<E: Echo>(probes: &[Probe], settings: Settings, echo: &mut E) -> io::Result<Report> {
    let began = Instant::now();
    let mut sweep = Sweep {
        probes,
        settings,
        echo,
        waiting: BTreeMap::new(),
        report: Report {
            probes: probes.len(),
            ..Report::default()
        },
    };
    let mut next = 0;
    let mut buffer = vec![0; 70_000];
    while next < probes.len() || !sweep.waiting.is_empty() {
        while next < probes.len() && sweep.waiting.len() < settings.window && sweep.may_send(next) {
            sweep.send(next as u32, 1)?;
            next += 1;
        }
        if let Some(length) = sweep.echo.receive(&mut buffer)? {
            sweep.take(&buffer[..length]);
        }
        sweep.repeat_late()?;
    }
    sweep.collect_late(&mut buffer)?;
    let mut report = sweep.report;
    report.elapsed_ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
    Ok(report)
}

/// Payloads too short to carry their number are recognised by their length.
const NUMBERED_FROM: usize = 4;

fn payload(index: u32, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    Pattern::new(u64::from(index) << 20 | length as u64).fill(&mut bytes);
    if length >= NUMBERED_FROM {
        bytes[..NUMBERED_FROM].copy_from_slice(&index.to_le_bytes());
    }
    bytes
}

impl<E: Echo> Sweep<'_, E> {
    /// Two short probes of one length must not wait at the same time.
    fn may_send(&self, next: usize) -> bool {
        let length = self.probes[next].length;
        length >= NUMBERED_FROM
            || !self
                .waiting
                .keys()
                .any(|&i| self.probes[i as usize].length == length)
    }

    fn send(&mut self, index: u32, attempts: u32) -> io::Result<()> {
        let probe = self.probes[index as usize];
        let bytes = payload(index, probe.length);
        self.echo.send(index, &bytes, probe.first)?;
        let sent = Instant::now();
        self.waiting.insert(index, Waiting { sent, attempts });
        Ok(())
    }

    fn take(&mut self, bytes: &[u8]) {
        let index = match bytes.get(..NUMBERED_FROM) {
            Some(number) => u32::from_le_bytes([number[0], number[1], number[2], number[3]]),
            None => {
                let Some(index) = self
                    .waiting
                    .keys()
                    .copied()
                    .find(|&i| self.probes[i as usize].length == bytes.len())
                else {
                    return;
                };
                index
            }
        };
        let Some(probe) = self.probes.get(index as usize) else {
            // The number itself is damaged: the probe will be missed as well.
            self.report.corrupt.push(bytes.len());
            return;
        };
        if bytes != payload(index, probe.length) {
            self.report.corrupt.push(probe.length);
        } else if self.waiting.remove(&index).is_some() {
            self.report.answered += 1;
        } else if !self.report.lost.contains(&probe.length) {
            self.report.late += 1;
        }
    }

    /// Waits for the second echo of each probe that was sent again: if it comes, the first was only late.
    fn collect_late(&mut self, buffer: &mut [u8]) -> io::Result<()> {
        let began = Instant::now();
        while self.report.late < self.report.repeated.len()
            && began.elapsed() < self.settings.patience * 2
        {
            if let Some(length) = self.echo.receive(buffer)? {
                self.take(&buffer[..length]);
            }
        }
        Ok(())
    }

    fn repeat_late(&mut self) -> io::Result<()> {
        let patience = self.settings.patience;
        let late: Vec<(u32, u32)> = self
            .waiting
            .iter()
            .filter(|(_, w)| w.sent.elapsed() > patience)
            .map(|(&index, w)| (index, w.attempts))
            .collect();
        for (index, attempts) in late {
            let length = self.probes[index as usize].length;
            if attempts >= self.settings.attempts {
                self.waiting.remove(&index);
                self.report.lost.push(length);
            } else {
                self.report.repeated.push(length);
                self.send(index, attempts + 1)?;
            }
        }
        Ok(())
    }
}

/// Lengths written as `0-1472,4000-4200,9000`.
pub fn parse_lengths(text: &str) -> Result<Vec<usize>, String> {
    let mut lengths = Vec::new();
    for part in text.split(',') {
        let number = |t: &str| {
            t.parse::<usize>()
                .map_err(|_| format!("'{part}' is not a length or a range such as 0-1472"))
        };
        match part.split_once('-') {
            Some((from, to)) => lengths.extend(number(from)?..=number(to)?),
            None => lengths.push(number(part)?),
        }
    }
    Ok(lengths)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::VecDeque;

    /// Echoes in memory, dropping and damaging what it is told to.
    #[derive(Default)]
    struct Mirror {
        queue: VecDeque<Vec<u8>>,
        drop_once: Vec<usize>,
        drop_always: Vec<usize>,
        damage: Vec<usize>,
    }

    impl Echo for Mirror {
        fn send(&mut self, _: u32, payload: &[u8], _: Option<usize>) -> io::Result<()> {
            let length = payload.len();
            if let Some(at) = self.drop_once.iter().position(|&l| l == length) {
                self.drop_once.remove(at);
                return Ok(());
            }
            if self.drop_always.contains(&length) {
                return Ok(());
            }
            let mut bytes = payload.to_vec();
            if self.damage.contains(&length) {
                bytes[length - 1] ^= 1;
            }
            self.queue.push_back(bytes);
            Ok(())
        }

        fn receive(&mut self, buffer: &mut [u8]) -> io::Result<Option<usize>> {
            let Some(bytes) = self.queue.pop_front() else {
                std::thread::sleep(Duration::from_millis(1));
                return Ok(None);
            };
            buffer[..bytes.len()].copy_from_slice(&bytes);
            Ok(Some(bytes.len()))
        }
    }

    const QUICK: Settings = Settings {
        window: 16,
        patience: Duration::from_millis(20),
        attempts: 3,
    };

    fn probes(lengths: impl Iterator<Item = usize>) -> Vec<Probe> {
        lengths
            .map(|length| Probe {
                length,
                first: None,
            })
            .collect()
    }

    #[test]
    fn a_faithful_echo_answers_every_length() {
        // An echo in memory loses nothing, however slow the machine is.
        let settings = Settings {
            patience: Duration::from_secs(60),
            ..QUICK
        };
        let report = sweep(&probes(0..=1472), settings, &mut Mirror::default()).expect("sweeps");
        assert_eq!((report.probes, report.answered), (1473, 1473));
        assert!(report.lost.is_empty() && report.repeated.is_empty() && report.corrupt.is_empty());
    }

    #[test]
    fn loss_and_damage_are_named_by_length() {
        let mut mirror = Mirror {
            drop_once: vec![3],
            drop_always: vec![700],
            damage: vec![64],
            ..Mirror::default()
        };
        let report = sweep(&probes(0..=800), QUICK, &mut mirror).expect("sweeps");
        assert_eq!(report.lost, [64, 700]);
        assert!(report.repeated.contains(&3), "{report:?}");
        assert_eq!(report.corrupt, [64, 64, 64]);
        assert_eq!(report.answered, 799);
    }

    #[test]
    fn an_echo_that_is_late_is_not_lost() {
        /// Holds each echo back until the probe was sent twice.
        #[derive(Default)]
        struct Slow(VecDeque<Vec<u8>>, usize);
        impl Echo for Slow {
            fn send(&mut self, _: u32, payload: &[u8], _: Option<usize>) -> io::Result<()> {
                self.0.push_back(payload.to_vec());
                self.1 += 1;
                Ok(())
            }
            fn receive(&mut self, buffer: &mut [u8]) -> io::Result<Option<usize>> {
                let echo = (self.1 >= 2).then(|| self.0.pop_front()).flatten();
                if echo.is_none() {
                    std::thread::sleep(Duration::from_millis(1));
                }
                Ok(echo.map(|bytes| {
                    buffer[..bytes.len()].copy_from_slice(&bytes);
                    bytes.len()
                }))
            }
        }
        let report = sweep(&probes(100..=100), QUICK, &mut Slow::default()).expect("sweeps");
        assert_eq!((report.answered, report.late), (1, 1));
        assert_eq!(report.repeated, [100]);
        assert!(report.lost.is_empty());
    }

    #[test]
    fn lengths_are_ranges_and_numbers() {
        assert_eq!(parse_lengths("0-2,9"), Ok(vec![0, 1, 2, 9]));
        assert!(parse_lengths("1-x").is_err_and(|e| e.contains("1-x")));
    }
}
