// SPDX-License-Identifier: GPL-2.0

//! A packet generator: UDP frames of one length in a number of flows, at a rate or as fast as the ring
//! to the guest takes them. What the guest transmits is counted as by a [`sink`](super::sink).
//!
//! The flows differ in source address and source port (198.18.0.1 port 1024 upwards), so that they
//! spread over channels whether or not ports are hashed; all go to 198.19.0.1 port 9. Both
//! addresses are in the range for benchmarks (RFC 2544). Checksums are right.

use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use serde_json::{json, Value};
use vmm_sys_util::timerfd::TimerFd;

use super::checksum;
use super::frame::{Checksum, Frame, L4};
use super::sink::{SinkHandle, TAKES_ALL};
use super::{Backend, Takes, TxDrop};

/// Shortest frame on an Ethernet, in bytes without FCS.
const SHORTEST: u16 = 60;
const LONGEST: u16 = 9014;
const MOST_FLOWS: u16 = 1024;
/// With a rate, frames are handed over this often.
const TICK: Duration = Duration::from_millis(1);
/// A generator that was held up makes up for at most this much time.
const CATCH_UP: Duration = Duration::from_millis(20);
const ETHERNET: usize = 14;
const IPV4: usize = 20;
const SOURCE_MAC: [u8; 6] = [0x02, 0, 0, 0, 0, 0x01];
const FIRST_SOURCE: u32 = 0xc612_0001;
const FIRST_PORT: u16 = 1024;
const DESTINATION: u32 = 0xc613_0001;
const DISCARD_PORT: u16 = 9;

/// What to generate, as the control socket's `generate` says it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Load {
    /// Length of each frame in bytes, Ethernet header included, FCS not: 60 to 9014.
    pub frame: u16,
    /// Flows, 1 to 1024; they take turns.
    #[serde(default = "one")]
    pub flows: u16,
    /// Frames per second; 0: as fast as the guest takes them.
    #[serde(default)]
    pub rate: u32,
}

fn one() -> u16 {
    1
}

impl Load {
    /// Refuses what cannot be generated, in a line that names it.
    fn check(&self) -> Result<(), String> {
        if !(SHORTEST..=LONGEST).contains(&self.frame) {
            return Err(format!(
                "frame: {} is not a length from {SHORTEST} to {LONGEST}",
                self.frame
            ));
        }
        if !(1..=MOST_FLOWS).contains(&self.flows) {
            return Err(format!(
                "flows: {} is not a number from 1 to {MOST_FLOWS}",
                self.flows
            ));
        }
        Ok(())
    }

    /// One frame of each flow, towards `to`.
    fn frames(&self, to: [u8; 6]) -> Vec<Frame> {
        (0..self.flows)
            .map(|flow| udp_frame(to, flow, self.frame.into()))
            .collect()
    }
}

/// A UDP frame of `flow`, `len` bytes long.
fn udp_frame(to: [u8; 6], flow: u16, len: usize) -> Frame {
    let ip_len = (len - ETHERNET) as u16;
    let mut bytes = Vec::with_capacity(len);
    bytes.extend_from_slice(&to);
    bytes.extend_from_slice(&SOURCE_MAC);
    bytes.extend_from_slice(&[0x08, 0x00]);
    bytes.extend_from_slice(&[0x45, 0]);
    bytes.extend_from_slice(&ip_len.to_be_bytes());
    // Identification 0, not to be fragmented, 64 hops, UDP, checksum to be filled in.
    bytes.extend_from_slice(&[0, 0, 0x40, 0, 64, L4::Udp.protocol(), 0, 0]);
    bytes.extend_from_slice(&(FIRST_SOURCE + u32::from(flow)).to_be_bytes());
    bytes.extend_from_slice(&DESTINATION.to_be_bytes());
    let udp_len = ip_len - IPV4 as u16;
    bytes.extend_from_slice(&(FIRST_PORT + flow).to_be_bytes());
    bytes.extend_from_slice(&DISCARD_PORT.to_be_bytes());
    bytes.extend_from_slice(&udp_len.to_be_bytes());
    bytes.resize(len, 0);
    checksum::fill_ipv4_header(&mut bytes);
    checksum::fill_l4(&mut bytes, L4::Udp, ETHERNET + IPV4);
    Frame {
        checksum: Checksum::Verified,
        ..Frame::new(bytes)
    }
}

struct Running {
    load: Load,
    frames: Vec<Frame>,
    next: usize,
    began: Instant,
}

impl Running {
    /// How many frames are due at `now`, at most `budget`.
    fn due(&mut self, now: Instant, budget: usize) -> usize {
        if self.load.rate == 0 {
            return budget;
        }
        let rate = f64::from(self.load.rate);
        let oldest = now.checked_sub(CATCH_UP).unwrap_or(self.began);
        self.began = self.began.max(oldest);
        let elapsed = now.saturating_duration_since(self.began).as_secs_f64();
        let due = ((elapsed * rate) as usize).min(budget);
        self.began += Duration::from_secs_f64(due as f64 / rate);
        due
    }
}

struct Inner {
    to: [u8; 6],
    timer: TimerFd,
    running: Option<Running>,
    generated: u64,
}

/// Starts and stops a generator. Clones are handles to the same one.
#[derive(Clone)]
pub struct GeneratorHandle {
    inner: Arc<Mutex<Inner>>,
    sink: SinkHandle,
}

impl GeneratorHandle {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts of what the guest transmitted.
    pub fn sink(&self) -> SinkHandle {
        self.sink.clone()
    }

    /// Generates `load` instead of what was generated so far; nothing if `None`.
    ///
    /// # Errors
    ///
    /// One line that names what is wrong with `load`, or the operating system's refusal of a timer.
    pub fn generate(&self, load: Option<Load>) -> Result<(), String> {
        let timer_error = |e: vmm_sys_util::errno::Error| format!("timer of the generator: {e}");
        let mut inner = self.lock();
        let Some(load) = load else {
            inner.running = None;
            return inner.timer.clear().map_err(timer_error);
        };
        load.check()?;
        // Without a rate the timer expires once and is never read: the generator is always ready.
        let interval = (load.rate > 0).then_some(TICK);
        inner.timer.reset(TICK, interval).map_err(timer_error)?;
        inner.running = Some(Running {
            load,
            frames: load.frames(inner.to),
            next: 0,
            began: Instant::now(),
        });
        Ok(())
    }
}

/// The back end of a NIC that is fed by a generator.
pub struct Generator {
    handle: GeneratorHandle,
    timer: RawFd,
}

impl Generator {
    /// A generator at rest, whose frames will go to the address `to`.
    ///
    /// # Errors
    ///
    /// If no timer can be made.
    pub fn new(to: [u8; 6]) -> io::Result<Self> {
        let timer = TimerFd::new()?;
        let fd = timer.as_raw_fd();
        let inner = Inner {
            to,
            timer,
            running: None,
            generated: 0,
        };
        Ok(Generator {
            handle: GeneratorHandle {
                inner: Arc::new(Mutex::new(inner)),
                sink: SinkHandle::default(),
            },
            timer: fd,
        })
    }

    /// To start and stop it.
    pub fn handle(&self) -> GeneratorHandle {
        self.handle.clone()
    }
}

impl Backend for Generator {
    fn kind(&self) -> &'static str {
        "gen"
    }

    fn takes(&self) -> Takes {
        TAKES_ALL
    }

    fn readiness(&self) -> Option<RawFd> {
        // The handle keeps the timer, and its descriptor, as long as this lives.
        Some(self.timer)
    }

    fn transmit(&mut self, frame: Frame) -> Result<(), TxDrop> {
        self.handle.sink.count(frame.bytes.len());
        Ok(())
    }

    fn receive(&mut self, budget: usize, out: &mut Vec<Frame>) -> io::Result<()> {
        let mut inner = self.handle.lock();
        let inner = &mut *inner;
        let Some(running) = &mut inner.running else {
            return Ok(());
        };
        if running.load.rate > 0 {
            // It has expired, or this would not be called; the count does not matter.
            inner.timer.wait()?;
        }
        let due = running.due(Instant::now(), budget);
        for _ in 0..due {
            out.push(running.frames[running.next].clone());
            running.next = (running.next + 1) % running.frames.len();
        }
        inner.generated += due as u64;
        Ok(())
    }

    fn counters(&self) -> Value {
        let mut counters = self.handle.sink.counters();
        counters["generated_packets"] = json!(self.handle.lock().generated);
        counters
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAC: [u8; 6] = [0x00, 0x15, 0x5d, 0, 0, 2];

    fn load(frame: u16, flows: u16, rate: u32) -> Load {
        Load { frame, flows, rate }
    }

    #[test]
    fn frames_are_udp_with_right_checksums_and_the_length_asked_for() {
        for len in [60, 1514] {
            let frames = load(len, 3, 0).frames(MAC);
            assert_eq!(frames.len(), 3);
            for frame in &frames {
                assert_eq!(frame.bytes.len(), usize::from(len));
                assert_eq!(frame.destination(), Some(MAC));
                let verdict = checksum::verify(&frame.bytes);
                assert_eq!(verdict.l4, Some((L4::Udp, true)));
                assert_eq!(verdict.ip, Some(true));
            }
            assert_ne!(frames[0].bytes[26..30], frames[1].bytes[26..30], "address");
            assert_ne!(frames[0].bytes[34..36], frames[1].bytes[34..36], "port");
        }
    }

    #[test]
    fn without_a_rate_as_many_as_there_is_room_for_and_flows_take_turns() {
        let mut generator = Generator::new(MAC).expect("timer");
        let mut out = Vec::new();
        generator.receive(10, &mut out).expect("at rest");
        assert!(out.is_empty());
        generator
            .handle()
            .generate(Some(load(60, 3, 0)))
            .expect("starts");
        generator.receive(4, &mut out).expect("receives");
        assert_eq!(out.len(), 4);
        assert_eq!(out[0], out[3]);
        assert_ne!(out[0], out[1]);
        assert_eq!(generator.counters()["generated_packets"], 4);
        generator.handle().generate(None).expect("stops");
        generator.receive(4, &mut out).expect("at rest again");
        assert_eq!(out.len(), 4);
    }

    #[test]
    fn a_rate_is_kept_and_lost_time_is_made_up_for_only_so_far() {
        let began = Instant::now();
        let at = |ms: u64| began + Duration::from_millis(ms);
        let mut running = Running {
            load: load(60, 1, 2000),
            frames: load(60, 1, 2000).frames(MAC),
            next: 0,
            began,
        };
        assert_eq!(running.due(at(0), 256), 0);
        assert_eq!(running.due(at(10), 256), 20);
        assert_eq!(running.due(at(11), 256), 2);
        assert_eq!(running.due(at(20), 3), 3, "no more than there is room for");
        assert_eq!(running.due(at(20), 256), 15, "the rest later");
        assert_eq!(running.due(at(5000), 256), 40, "twenty milliseconds' worth");
    }

    #[test]
    fn a_load_that_cannot_be_is_refused_by_its_value() {
        let handle = Generator::new(MAC).expect("timer").handle();
        for (wrong, named) in [
            (load(59, 1, 0), "59"),
            (load(9015, 1, 0), "9015"),
            (load(60, 0, 0), "flows: 0"),
            (load(60, 1025, 0), "1025"),
        ] {
            let error = handle.generate(Some(wrong)).expect_err("refused");
            assert!(error.contains(named), "{error}");
        }
    }

    #[test]
    fn the_descriptor_is_ready_while_something_is_generated() {
        let generator = Generator::new(MAC).expect("timer");
        let handle = generator.handle();
        for rate in [0, 1000] {
            handle.generate(Some(load(60, 1, rate))).expect("starts");
            let mut expired = handle.lock();
            assert!(expired.timer.is_armed().expect("asks") || rate == 0);
            assert!(expired.timer.wait().expect("waits") >= 1);
        }
    }
}
