// SPDX-License-Identifier: GPL-2.0

//! The host's counters at one moment, and what happened between two of them.
//!
//! Each moment carries the host's own time, so it does not matter how long the question took.

use anyhow::{ensure, Context, Result};
use serde_json::Value;

use super::network::Network;
use super::steal::Steal;
use super::Port;
use crate::host::Counters;

/// What the host counts of one NIC.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NicCounts {
    /// Frames from the guest, large ones counted once.
    pub from_guest_packets: u64,
    /// Their bytes.
    pub from_guest_bytes: u64,
    /// Frames to the guest.
    pub to_guest_packets: u64,
    /// Their bytes.
    pub to_guest_bytes: u64,
    /// Signals from the guest.
    pub doorbells: u64,
    /// Interrupts raised in the guest.
    pub interrupts: u64,
    /// Bytes of ring packets in both directions.
    pub ring_bytes: u64,
}

/// All counters at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Moment {
    time_us: u64,
    cpu_us: u64,
    instructions: Option<u64>,
    nics: [NicCounts; Port::ALL.len()],
}

/// What happened between two moments.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Span {
    /// How long it was, in seconds.
    pub seconds: f64,
    /// CPU time of the guest's processors, in seconds.
    pub cpu_seconds: f64,
    /// Instructions of the guest, if they are counted.
    pub instructions: Option<f64>,
    /// Doorbells, interrupts and ring bytes of all NICs.
    pub all: NicCounts,
    nics: [NicCounts; Port::ALL.len()],
}

impl Moment {
    /// Now.
    pub fn now(network: &Network<'_>) -> Result<Moment> {
        let mut moment = Moment::read(&network.guest.host.counters()?)?;
        // As of the moment that the host looked.
        if let Some(counter) = network.bench.instructions() {
            moment.instructions = Some(counter.count()?);
        }
        Ok(moment)
    }

    /// From the host's answer.
    fn read(counters: &Counters) -> Result<Moment> {
        let machine = &counters.0["machine"];
        let time_us = number(&machine["uptime_us"], "uptime_us")?;
        let vcpus = machine["vcpus"]
            .as_array()
            .context("the host counts no vCPUs")?;
        let mut cpu_us = 0;
        for vcpu in vcpus {
            cpu_us += number(&vcpu["cpu_time_us"], "cpu_time_us")?;
        }
        let mut nics = [NicCounts::default(); Port::ALL.len()];
        for (counts, port) in nics.iter_mut().zip(Port::ALL) {
            let nic = &counters.0["nics"][port.name()];
            *counts =
                NicCounts::read(nic).with_context(|| format!("counters of {}", port.name()))?;
        }
        Ok(Moment {
            time_us,
            cpu_us,
            instructions: None,
            nics,
        })
    }

    /// What happened since `earlier`.
    pub fn since(&self, earlier: &Moment) -> Result<Span> {
        ensure!(
            self.time_us > earlier.time_us && self.cpu_us >= earlier.cpu_us,
            "the host's time went backwards"
        );
        let mut nics = self.nics;
        let mut all = NicCounts::default();
        for (now, before) in nics.iter_mut().zip(&earlier.nics) {
            *now = now.minus(before)?;
            all.add(now);
        }
        Ok(Span {
            seconds: (self.time_us - earlier.time_us) as f64 / 1e6,
            instructions: self
                .instructions
                .zip(earlier.instructions)
                .map(|(now, before)| now.saturating_sub(before) as f64),
            cpu_seconds: (self.cpu_us - earlier.cpu_us) as f64 / 1e6,
            all,
            nics,
        })
    }
}

impl Span {
    /// With what other programs took from the machine taken off.
    pub fn without(mut self, steal: Steal) -> Span {
        self.seconds *= steal.clock;
        self.cpu_seconds *= steal.processor;
        self
    }

    /// Of one NIC.
    pub fn nic(&self, port: Port) -> &NicCounts {
        &self.nics[port as usize]
    }
}

impl NicCounts {
    fn read(nic: &Value) -> Result<NicCounts> {
        let mut counts = NicCounts::default();
        let rings = nic["channels"].as_object().context("no ring statistics")?;
        for ring in rings.values() {
            counts.doorbells += number(&ring["doorbells"], "doorbells")?;
            counts.interrupts += number(&ring["interrupts"], "interrupts")?;
            counts.ring_bytes += number(&ring["bytes_in"], "bytes_in")?;
            counts.ring_bytes += number(&ring["bytes_out"], "bytes_out")?;
        }
        let frames = &nic["counters"]["counters"];
        counts.from_guest_packets = number(&frames["tx_packets"], "tx_packets")?;
        counts.from_guest_bytes = number(&frames["tx_bytes"], "tx_bytes")?;
        counts.to_guest_packets = number(&frames["rx_packets"], "rx_packets")?;
        counts.to_guest_bytes = number(&frames["rx_bytes"], "rx_bytes")?;
        Ok(counts)
    }

    fn fields(&mut self) -> [&mut u64; 7] {
        [
            &mut self.from_guest_packets,
            &mut self.from_guest_bytes,
            &mut self.to_guest_packets,
            &mut self.to_guest_bytes,
            &mut self.doorbells,
            &mut self.interrupts,
            &mut self.ring_bytes,
        ]
    }

    fn add(&mut self, other: &NicCounts) {
        let mut other = *other;
        for (sum, more) in self.fields().into_iter().zip(other.fields()) {
            *sum += *more;
        }
    }

    fn minus(mut self, earlier: &NicCounts) -> Result<NicCounts> {
        let mut earlier = *earlier;
        for (now, before) in self.fields().into_iter().zip(earlier.fields()) {
            *now = now
                .checked_sub(*before)
                .context("a counter of the host went backwards")?;
        }
        Ok(self)
    }
}

fn number(value: &Value, name: &str) -> Result<u64> {
    value
        .as_u64()
        .with_context(|| format!("the host gives no {name}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn counters(time: u64, cpu: [u64; 2], packets: u64) -> Counters {
        let nic = |scale: u64| {
            let ring = json!({"doorbells": scale, "interrupts": 2 * scale,
                "bytes_in": 10 * scale, "bytes_out": 20 * scale});
            json!({
                "channels": {"0": ring, "1": ring},
                "counters": {"counters": {"tx_packets": packets * scale, "tx_bytes": 0,
                    "rx_packets": 0, "rx_bytes": 7 * scale}},
            })
        };
        let nics: serde_json::Map<_, _> = Port::ALL
            .iter()
            .map(|p| (p.name().to_owned(), nic(packets * (*p as u64 + 1))))
            .collect();
        let vcpus = cpu.map(|us| json!({"cpu_time_us": us}));
        Counters(json!({"machine": {"uptime_us": time, "vcpus": vcpus}, "nics": nics}))
    }

    #[test]
    fn a_span_is_the_difference_of_two_moments() {
        let before = Moment::read(&counters(1_000_000, [5, 5], 1)).expect("reads");
        let after = Moment::read(&counters(3_000_000, [500_005, 500_005], 3)).expect("reads");
        let span = after.since(&before).expect("span");
        assert_eq!((span.seconds, span.cpu_seconds), (2.0, 1.0));
        // Two rings, and two more "packets" of scale on the first NIC.
        assert_eq!(span.nic(Port::Tcp).doorbells, 2 * (3 - 1));
        assert_eq!(span.nic(Port::Sink).interrupts, 2 * 2 * 3 * (3 - 1));
        assert_eq!(span.all.ring_bytes, 2 * 30 * (1 + 2 + 3) * (3 - 1));
        assert!(before.since(&after).is_err());
        let share = Steal {
            clock: 0.5,
            processor: 0.25,
        };
        let less = span.without(share);
        assert_eq!((less.seconds, less.cpu_seconds), (1.0, 0.25));
    }

    #[test]
    fn what_is_missing_is_named() {
        let error = Moment::read(&Counters(json!({"machine": {}}))).expect_err("nothing there");
        assert!(format!("{error:#}").contains("uptime_us"), "{error:#}");
    }
}
