// SPDX-License-Identifier: GPL-2.0

//! The control socket's requests: whatever stands in a line, it is carried out or refused in words; what was understood
//! is understood again when it is written down; and a fault that was accepted can strike.

use hvhost::backend::generator::Load;
use hvhost::config::NicSpec;
use hvhost::control::{execute, Command, ControlTarget, Outcome, Request};
use hvhost::fault::{FaultAction, FaultPoints, FaultSpec};
use hvhost::netvsp::{OffloadSupport, RingIndex};
use hvhost::vmbus::ring::RawPacket;
use serde_json::Value;

/// Most bytes that an answer may be spoilt to.
const MOST_SPOILT: usize = 1 << 20;

/// `data` is what came over the socket: lines.
pub fn run(data: &[u8]) {
    let host = Host(FaultPoints::new());
    for line in data.split(|byte| *byte == b'\n') {
        let Ok(request) = serde_json::from_slice::<Request>(line) else {
            continue;
        };
        let written = serde_json::to_string(&request).expect("a request can be written");
        let again: Request = serde_json::from_str(&written).expect("what was written can be read");
        assert_eq!(again, request);
        let fault = match &request.command {
            Command::Fault { fault } => Some(fault.clone()),
            _ => None,
        };
        match execute(&host, request.command) {
            Outcome::Error(text) => assert!(!text.is_empty()),
            Outcome::Ok(_) => fault.iter().for_each(|fault| host.strike(fault)),
        }
    }
}

/// A host with faults, and nothing else.
struct Host(FaultPoints);

impl Host {
    /// Reaches the point of a fault that was accepted.
    fn strike(&self, fault: &FaultSpec) {
        let action = self.0.check(&fault.point);
        if let Some(FaultAction::Corrupt(how)) = action {
            let mut answer = vec![2; 40];
            how.spoil(&mut answer);
            assert!(answer.len() <= MOST_SPOILT);
        }
        assert!(self.0.is_armed());
        self.0.counters();
    }
}

fn done(said: &[&str]) -> Result<(), String> {
    match said.contains(&"") {
        true => Err("no NIC without a name".to_owned()),
        false => Ok(()),
    }
}

impl ControlTarget for Host {
    fn counters(&self) -> Value {
        self.0.counters()
    }
    fn inject(&self, fault: FaultSpec) -> Result<(), String> {
        self.0.add(fault).map_err(|error| error.to_string())
    }
    fn clear_faults(&self) {
        self.0.clear();
    }
    fn fault_log(&self, reset: bool) -> Vec<String> {
        let log = self.0.log();
        if reset {
            self.0.reset_log();
        }
        log
    }
    fn clear_violations(&self) {}
    fn nic_add(&self, spec: NicSpec) -> Result<String, String> {
        Ok(format!("{spec:?}"))
    }
    fn nic_remove(&self, name: &str) -> Result<(), String> {
        done(&[name])
    }
    fn link(&self, name: &str, _up: bool, _speed_mbps: Option<u32>) -> Result<(), String> {
        done(&[name])
    }
    fn generate(&self, name: &str, _load: Option<Load>) -> Result<(), String> {
        done(&[name])
    }
    fn restart_gap(&self, name: &str) -> Result<(), String> {
        done(&[name])
    }
    fn start_profile(&self, _period_us: u32) -> Result<(), String> {
        Ok(())
    }
    fn finish_profile(&self) -> Value {
        Value::Null
    }
    fn set_offloads(&self, name: &str, _offloads: OffloadSupport) -> Result<(), String> {
        done(&[name])
    }
    fn inject_frame(&self, name: &str, _frame: Vec<u8>) -> Result<(), String> {
        done(&[name])
    }
    fn inject_packet(&self, name: &str, _channel: u16, _packet: RawPacket) -> Result<(), String> {
        done(&[name])
    }
    fn set_index(
        &self,
        name: &str,
        _channel: u16,
        _which: RingIndex,
        _value: u32,
    ) -> Result<(), String> {
        done(&[name])
    }
    fn inject_messages(&self, name: &str, _messages: Vec<Vec<u8>>) -> Result<(), String> {
        done(&[name])
    }
    fn rescind(&self, name: &str, _channel: u16) -> Result<(), String> {
        done(&[name])
    }
    fn power_button(&self) {}
    fn quit(&self) {}
}
