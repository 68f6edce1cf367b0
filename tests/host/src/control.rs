// SPDX-License-Identifier: GPL-2.0

//! The control protocol: how a scenario asks for counters, injects faults, plugs and unplugs NICs.
//!
//! One JSON object a line in each direction, over a Unix socket or a character device. A request is
//! `{"id": 7, "cmd": "nic-remove", "name": "nic1"}`; the answer carries the same id and either
//! `"ok"` with the result or `"error"` with one line of text. `id` may be left out. Requests are
//! answered in the order they come.
//!
//! | `cmd` | arguments | `ok` |
//! |---|---|---|
//! | `ping` | | null |
//! | `counters` | | everything that is counted |
//! | `fault` | `fault`: [`FaultSpec`] | null |
//! | `fault-clear` | | null |
//! | `fault-log` | `reset`: bool, default false | points reached, in order |
//! | `violations-clear` | | null |
//! | `nic-add` | `nic`: text as after `--nic` | `{"name": ...}` |
//! | `nic-remove` | `name` | null |
//! | `link` | `name`, `up`: bool, `speed_mbps`: optional | null |
//! | `generate` | `name`, `load`: [`Load`] or null to stop | null; a NIC with back end `gen` |
//! | `gap-restart` | `name` | null; back end `gen` or `sink` measures its longest gap anew |
//! | `profile` | `period_us`: CPU time between two samples, from 100 | null; the profile begins anew |
//! | `profile-finish` | | `{ADDRESS: samples}`, in hexadecimal |
//! | `offloads` | `name`, `offloads`: as after `offloads=` of `--nic` | null; the guest is told when it next attaches |
//! | `inject-frame` | `name`, `frame`: hex | null; delivered as if it came from the back end |
//! | `inject-messages` | `name`, `messages`: list of hex or `HEX*N` | null; RNDIS messages, unchecked, in one ring packet on channel 0 |
//! | `inject-packet` | `name`, `channel`, `packet`: [`PacketText`] | null; one ring packet, unchecked |
//! | `set-index` | `name`, `channel`, `index`: `write` or `read`, `value` | null; the index of the ring the host writes or reads |
//! | `rescind` | `name`, `channel`: sub-channel index from 1 | null |
//! | `poweroff` | | null; presses the ACPI power button |
//! | `quit` | | null; ends the host program |

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::backend::generator::Load;
use crate::config::NicSpec;
use crate::fault::FaultSpec;
use crate::netvsp::{OffloadSupport, RingIndex};
use crate::vmbus::ring::RawPacket;

pub mod server;

/// A ring packet as text.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PacketText {
    /// Number of the packet type: 6 in-band, 7 transfer pages, 11 completion.
    pub kind: u16,
    /// Descriptor flags; 1 asks for a completion.
    #[serde(default)]
    pub flags: u16,
    /// Transaction id.
    #[serde(default)]
    pub transaction: u64,
    /// Type-specific header in hexadecimal.
    #[serde(default)]
    pub header: String,
    /// Payload in hexadecimal.
    #[serde(default)]
    pub payload: String,
    /// Wrong length of descriptor and header, in units of 8 bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub offset8: Option<u16>,
    /// Wrong length of the packet, in units of 8 bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub len8: Option<u16>,
}

impl PacketText {
    fn raw(&self) -> Result<RawPacket, String> {
        Ok(RawPacket {
            kind: self.kind,
            flags: self.flags,
            id: self.transaction,
            header: hex(&self.header)?,
            payload: hex(&self.payload)?,
            offset8: self.offset8,
            len8: self.len8,
        })
    }
}

/// One request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// Chosen by the peer, repeated in the answer.
    #[serde(default)]
    pub id: u64,
    /// What to do.
    #[serde(flatten)]
    pub command: Command,
}

/// What can be asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "cmd", rename_all = "kebab-case")]
pub enum Command {
    /// Nothing; shows that the host answers.
    Ping,
    /// Everything that is counted.
    Counters,
    /// Installs a fault.
    Fault {
        /// Where, when and how.
        fault: FaultSpec,
    },
    /// Removes all faults.
    FaultClear,
    /// The fault points reached since the last reset, in order.
    FaultLog {
        /// Forget them afterwards.
        #[serde(default)]
        reset: bool,
    },
    /// Forgets the guest's violations of the protocol.
    ViolationsClear,
    /// Adds a NIC.
    NicAdd {
        /// As after `--nic` on the command line.
        nic: String,
    },
    /// Removes a NIC: its channels are rescinded.
    NicRemove {
        /// Name of the NIC.
        name: String,
    },
    /// Changes the carrier of a NIC.
    Link {
        /// Name of the NIC.
        name: String,
        /// Carrier or not.
        up: bool,
        /// New speed in Mbit/s.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        speed_mbps: Option<u32>,
    },
    /// Starts, changes or stops the packet generator of a NIC.
    Generate {
        /// Name of the NIC.
        name: String,
        /// What to generate; nothing if null.
        load: Option<Load>,
    },
    /// Measures the longest time without a frame from the guest anew.
    GapRestart {
        /// Name of the NIC.
        name: String,
    },
    /// Begins to note where the guest is.
    Profile {
        /// Microseconds of a virtual processor's CPU time between two samples.
        period_us: u32,
    },
    /// Ends that and tells.
    ProfileFinish,
    /// Changes what a NIC offers to a guest that attaches.
    Offloads {
        /// Name of the NIC.
        name: String,
        /// As after `offloads=` on the command line.
        offloads: String,
    },
    /// Delivers a frame to the guest as if it came from the back end.
    InjectFrame {
        /// Name of the NIC.
        name: String,
        /// Ethernet bytes without FCS, in hexadecimal.
        frame: String,
    },
    /// Writes RNDIS messages, however wrong they are, to the guest: one ring packet on the primary channel.
    InjectMessages {
        /// Name of the NIC.
        name: String,
        /// The messages in hexadecimal, one for each range of the packet; `HEX*N` stands for N of them.
        messages: Vec<String>,
    },
    /// Writes a ring packet to the guest, unchecked.
    InjectPacket {
        /// Name of the NIC.
        name: String,
        /// Channel index.
        channel: u16,
        /// The packet.
        packet: PacketText,
    },
    /// Writes an index of a channel's rings.
    SetIndex {
        /// Name of the NIC.
        name: String,
        /// Channel index.
        channel: u16,
        /// Which.
        index: RingIndex,
        /// Its value.
        value: u32,
    },
    /// Takes a sub-channel away.
    Rescind {
        /// Name of the NIC.
        name: String,
        /// Index of the sub-channel, from 1.
        channel: u16,
    },
    /// Presses the ACPI power button.
    Poweroff,
    /// Ends the host program; the guest just stops.
    Quit,
}

/// The answer to a request.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Response {
    /// Of the request; 0 if it could not be read.
    pub id: u64,
    /// How it went.
    #[serde(flatten)]
    pub outcome: Outcome,
}

/// How a request went: a single key `ok` or `error`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// The result.
    Ok(Value),
    /// One line that says what was wrong.
    Error(String),
}

/// What carries the requests out. Called from the control thread; may block for a while.
pub trait ControlTarget: Send + Sync {
    /// Everything that is counted, as JSON.
    fn counters(&self) -> Value;
    /// Installs a fault.
    fn inject(&self, fault: FaultSpec) -> Result<(), String>;
    /// Removes all faults.
    fn clear_faults(&self);
    /// The fault points reached.
    fn fault_log(&self, reset: bool) -> Vec<String>;
    /// Forgets violations.
    fn clear_violations(&self);
    /// Adds a NIC and returns its name.
    fn nic_add(&self, spec: NicSpec) -> Result<String, String>;
    /// Removes a NIC.
    fn nic_remove(&self, name: &str) -> Result<(), String>;
    /// Changes a NIC's carrier and, if given, its speed.
    fn link(&self, name: &str, up: bool, speed_mbps: Option<u32>) -> Result<(), String>;
    /// Starts, changes or (`None`) stops a NIC's packet generator.
    fn generate(&self, name: &str, load: Option<Load>) -> Result<(), String>;
    /// Measures the longest time without a frame from the guest anew.
    fn restart_gap(&self, name: &str) -> Result<(), String>;
    /// Begins to note where the guest is.
    fn start_profile(&self, period_us: u32) -> Result<(), String>;
    /// Ends that: how often it was found at each address.
    fn finish_profile(&self) -> Value;
    /// Changes what a NIC offers.
    fn set_offloads(&self, name: &str, offloads: OffloadSupport) -> Result<(), String>;
    /// Delivers a frame.
    fn inject_frame(&self, name: &str, frame: Vec<u8>) -> Result<(), String>;
    /// Writes a ring packet to the guest, unchecked.
    fn inject_packet(&self, name: &str, channel: u16, packet: RawPacket) -> Result<(), String>;
    /// Writes an index of a channel's rings.
    fn set_index(
        &self,
        name: &str,
        channel: u16,
        which: RingIndex,
        value: u32,
    ) -> Result<(), String>;
    /// Writes RNDIS messages to the guest, unchecked.
    fn inject_messages(&self, name: &str, messages: Vec<Vec<u8>>) -> Result<(), String>;
    /// Rescinds a sub-channel.
    fn rescind(&self, name: &str, channel: u16) -> Result<(), String>;
    /// Presses the power button.
    fn power_button(&self);
    /// Ends the host program.
    fn quit(&self);
}

/// Carries out one command.
pub fn execute(target: &dyn ControlTarget, command: Command) -> Outcome {
    let null = |done: Result<(), String>| done.map(|()| Value::Null);
    let result = match command {
        Command::Ping => Ok(Value::Null),
        Command::Counters => Ok(target.counters()),
        Command::Fault { fault } => null(target.inject(fault)),
        Command::FaultClear => {
            target.clear_faults();
            Ok(Value::Null)
        }
        Command::FaultLog { reset } => Ok(target.fault_log(reset).into()),
        Command::ViolationsClear => {
            target.clear_violations();
            Ok(Value::Null)
        }
        Command::NicAdd { nic } => match nic.parse() {
            Ok(spec) => target
                .nic_add(spec)
                .map(|name| serde_json::json!({ "name": name })),
            Err(error) => Err(error.to_string()),
        },
        Command::NicRemove { name } => null(target.nic_remove(&name)),
        Command::Link {
            name,
            up,
            speed_mbps,
        } => null(target.link(&name, up, speed_mbps)),
        Command::Generate { name, load } => null(target.generate(&name, load)),
        Command::GapRestart { name } => null(target.restart_gap(&name)),
        Command::Profile { period_us } => null(target.start_profile(period_us)),
        Command::ProfileFinish => Ok(target.finish_profile()),
        Command::Offloads { name, offloads } => {
            null(offloads.parse().and_then(|o| target.set_offloads(&name, o)))
        }
        Command::InjectFrame { name, frame } => {
            null(hex(&frame).and_then(|frame| target.inject_frame(&name, frame)))
        }
        Command::InjectMessages { name, messages } => {
            let messages: Result<Vec<_>, _> = messages.iter().map(|text| repeated(text)).collect();
            null(messages.and_then(|messages| target.inject_messages(&name, messages.concat())))
        }
        Command::InjectPacket {
            name,
            channel,
            packet,
        } => null(
            packet
                .raw()
                .and_then(|packet| target.inject_packet(&name, channel, packet)),
        ),
        Command::SetIndex {
            name,
            channel,
            index,
            value,
        } => null(target.set_index(&name, channel, index, value)),
        Command::Rescind { name, channel } => null(target.rescind(&name, channel)),
        Command::Poweroff => {
            target.power_button();
            Ok(Value::Null)
        }
        Command::Quit => {
            target.quit();
            Ok(Value::Null)
        }
    };
    match result {
        Ok(value) => Outcome::Ok(value),
        Err(text) => Outcome::Error(text),
    }
}

/// One message, or N of them if the text ends in `*N`.
fn repeated(text: &str) -> Result<Vec<Vec<u8>>, String> {
    const MOST: usize = 1024;
    let (digits, count) = text.split_once('*').unwrap_or((text, "1"));
    let count = count.parse::<usize>().ok().filter(|count| *count <= MOST);
    let count =
        count.ok_or_else(|| format!("'{text}' does not end in * and a number up to {MOST}"))?;
    Ok(vec![hex(digits)?; count])
}

/// Bytes from hexadecimal digits.
fn hex(text: &str) -> Result<Vec<u8>, String> {
    let digit = |c: &u8| char::from(*c).to_digit(16).map(|d| d as u8);
    let pair = |pair: &[u8]| match pair {
        [high, low] => Some(digit(high)? << 4 | digit(low)?),
        _ => None,
    };
    let bytes: Option<Vec<u8>> = text.as_bytes().chunks(2).map(pair).collect();
    bytes.ok_or_else(|| format!("'{text}' is not an even number of hexadecimal digits"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn parse(value: Value) -> Request {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn requests_are_read_as_documented() {
        let request = parse(json!({"id": 3, "cmd": "link", "name": "a", "up": false}));
        let command = Command::Link {
            name: "a".into(),
            up: false,
            speed_mbps: None,
        };
        assert_eq!(request, Request { id: 3, command });
        let fault = json!({"point": "vmbus.open", "nth": 2, "action": "silent"});
        let request = parse(json!({"cmd": "fault", "fault": fault}));
        assert!(matches!(request.command, Command::Fault { fault } if fault.nth == 2));
        let load = json!({"frame": 60, "rate": 500});
        let request = parse(json!({"cmd": "generate", "name": "a", "load": load}));
        let load = Load {
            frame: 60,
            flows: 1,
            rate: 500,
        };
        let generate = |load| Command::Generate {
            name: "a".into(),
            load,
        };
        assert_eq!(request.command, generate(Some(load)));
        let request = parse(json!({"cmd": "generate", "name": "a", "load": null}));
        assert_eq!(request.command, generate(None));
        let request = parse(json!({"cmd": "fault-log"}));
        assert_eq!(request.command, Command::FaultLog { reset: false });
        assert!(serde_json::from_value::<Request>(json!({"cmd": "dance"})).is_err());
        let packet = json!({"kind": 6, "payload": "0102", "len8": 2});
        let request = json!({"cmd": "inject-packet", "name": "a", "channel": 0, "packet": packet});
        let Command::InjectPacket { packet, .. } = parse(request).command else {
            panic!("another command");
        };
        let raw = packet.raw().unwrap();
        assert_eq!((raw.payload, raw.len8), (vec![1, 2], Some(2)));
        let set =
            json!({"cmd": "set-index", "name": "a", "channel": 1, "index": "read", "value": 9});
        let Command::SetIndex { index, .. } = parse(set).command else {
            panic!("another command");
        };
        assert_eq!(index, RingIndex::Read);
    }

    #[test]
    fn bytes_are_read_from_hexadecimal() {
        assert_eq!(hex("00fFa5"), Ok(vec![0, 255, 0xa5]));
        assert_eq!(hex(""), Ok(Vec::new()));
        for bad in ["0", "0g", "+1", "é"] {
            assert!(hex(bad).is_err(), "{bad}");
        }
        assert_eq!(repeated("0a*3"), Ok(vec![vec![10]; 3]));
        assert_eq!(repeated("0a"), Ok(vec![vec![10]]));
        assert!(repeated("0a*").is_err() && repeated("0a*1025").is_err());
    }

    #[test]
    fn answers_have_one_key_beside_the_id() {
        let text = |outcome| serde_json::to_string(&Response { id: 1, outcome }).unwrap();
        assert_eq!(text(Outcome::Ok(Value::Null)), r#"{"id":1,"ok":null}"#);
        assert_eq!(text(Outcome::Error("x".into())), r#"{"id":1,"error":"x"}"#);
    }
}
