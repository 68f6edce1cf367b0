// SPDX-License-Identifier: GPL-2.0

//! The test host's control socket: counters, faults, plugs and links.
//!
//! One JSON object a line in each direction; every request is answered by one line.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{bail, ensure, Context, Result};
use serde_json::{json, Value};

use crate::ethtool::RingSizes;
use crate::fault::Infrastructure;
use crate::guest::End;
use crate::packets::hex;

/// Time for an answer of the host.
const LIMIT: Duration = Duration::from_secs(30);

/// The line to the test host.
pub struct Host {
    line: Mutex<Line>,
}

struct Line {
    stream: UnixStream,
    received: Vec<u8>,
    next_id: u64,
}

/// The host's counters at one moment, as JSON, with the questions scenarios ask of them.
#[derive(Clone, Debug)]
pub struct Counters(pub Value);

impl Host {
    /// Over `stream`.
    pub fn new(stream: UnixStream) -> Result<Host> {
        stream.set_read_timeout(Some(Duration::from_millis(200)))?;
        stream.set_write_timeout(Some(LIMIT))?;
        Ok(Host {
            line: Mutex::new(Line {
                stream,
                received: Vec::new(),
                // Another runner may have left answers on the line.
                next_id: u64::from(std::process::id()) << 20,
            }),
        })
    }

    /// Sends one request and returns what it is answered with.
    fn call(&self, mut request: Value) -> Result<Value> {
        let mut line = self.line.lock().unwrap_or_else(PoisonError::into_inner);
        line.next_id += 1;
        request["id"] = line.next_id.into();
        let mut answer = line
            .exchange(&request)
            .with_context(|| format!("host request {request}"))?;
        if let Some(error) = answer["error"].as_str() {
            bail!("the host refuses {request}: {error}");
        }
        Ok(answer["ok"].take())
    }

    /// Everything the host counts.
    pub fn counters(&self) -> Result<Counters> {
        self.call(json!({"cmd": "counters"})).map(Counters)
    }

    /// Makes the `nth` next request at a fault point, and `count - 1` more, fail as `action` says.
    pub fn add_fault(&self, point: &str, nth: u32, count: u32, action: Action) -> Result<()> {
        let fault = json!({"point": point, "nth": nth, "count": count, "action": action.json()});
        self.call(json!({"cmd": "fault", "fault": fault})).map(drop)
    }

    /// Removes all faults.
    pub fn clear_faults(&self) -> Result<()> {
        self.call(json!({"cmd": "fault-clear"})).map(drop)
    }

    /// Fault points that were reached since the last call, in order. Their counts start anew.
    pub fn take_log(&self) -> Result<Vec<String>> {
        let log = self.call(json!({"cmd": "fault-log", "reset": true}))?;
        serde_json::from_value(log).context("the host's fault log")
    }

    /// Forgets the violations so far.
    pub fn clear_violations(&self) -> Result<()> {
        self.call(json!({"cmd": "violations-clear"})).map(drop)
    }

    /// Takes the link of a NIC up or down.
    pub fn set_link(&self, nic: &str, up: bool) -> Result<()> {
        self.call(json!({"cmd": "link", "name": nic, "up": up}))
            .map(drop)
    }

    /// Takes a sub-channel of a NIC away.
    pub fn rescind(&self, nic: &str, channel: u32) -> Result<()> {
        self.call(json!({"cmd": "rescind", "name": nic, "channel": channel}))
            .map(drop)
    }

    /// Has the generator of a NIC send `flows` flows of frames `frame` bytes long, `rate` a second in all or
    /// as fast as the guest takes them if that is 0.
    pub fn generate(&self, nic: &str, frame: u16, flows: u16, rate: u32) -> Result<()> {
        let load = json!({"frame": frame, "flows": flows, "rate": rate});
        self.call(json!({"cmd": "generate", "name": nic, "load": load}))
            .map(drop)
    }

    /// Stops the generator of a NIC.
    pub fn stop_generating(&self, nic: &str) -> Result<()> {
        self.call(json!({"cmd": "generate", "name": nic, "load": null}))
            .map(drop)
    }

    /// Measures anew the longest time in which a NIC got nothing from the guest.
    pub fn restart_gap(&self, nic: &str) -> Result<()> {
        self.call(json!({"cmd": "gap-restart", "name": nic}))
            .map(drop)
    }

    /// Begins to note where the guest is, after every so many microseconds of a processor's time.
    pub fn start_profile(&self, period_us: u32) -> Result<()> {
        self.call(json!({"cmd": "profile", "period_us": period_us}))
            .map(drop)
    }

    /// Ends that: how often the guest was found at each address (in hexadecimal).
    pub fn finish_profile(&self) -> Result<BTreeMap<String, u64>> {
        let samples = self.call(json!({"cmd": "profile-finish"}))?;
        serde_json::from_value(samples).context("the host's profile")
    }

    /// Changes what the NIC at one end offers to a driver that attaches, as after `offloads=` on the host's
    /// command line.
    pub fn set_offloads(&self, end: End, offloads: &str) -> Result<()> {
        self.call(json!({"cmd": "offloads", "name": end.nic(), "offloads": offloads}))
            .map(drop)
    }

    /// Delivers a frame to one end as if it had come over the wire.
    pub fn inject_frame(&self, end: End, frame: &[u8]) -> Result<()> {
        self.call(json!({"cmd": "inject-frame", "name": end.nic(), "frame": hex(frame)}))
            .map(drop)
    }

    /// Writes RNDIS messages to one end, unchecked, in one ring packet.
    pub fn inject_messages(&self, end: End, messages: &[Vec<u8>]) -> Result<()> {
        let runs = messages.chunk_by(|one, next| one == next);
        let messages: Vec<String> = runs
            .map(|run| format!("{}*{}", hex(&run[0]), run.len()))
            .collect();
        self.call(json!({"cmd": "inject-messages", "name": end.nic(), "messages": messages}))
            .map(drop)
    }

    /// Writes a ring packet to a channel of one end, unchecked.
    pub fn inject_packet(&self, end: End, channel: u16, packet: &RawPacket) -> Result<()> {
        let packet = json!({
            "kind": packet.kind,
            "flags": packet.flags,
            "transaction": packet.id,
            "header": hex(&packet.header),
            "payload": hex(&packet.payload),
            "offset8": packet.offset8,
            "len8": packet.len8,
        });
        let request = json!({"cmd": "inject-packet", "name": end.nic(), "channel": channel, "packet": packet});
        self.call(request).map(drop)
    }

    /// Writes an index (`write` or `read`) of a channel's rings at one end, as far as it is the host's.
    pub fn set_index(&self, end: End, channel: u16, which: &str, value: u32) -> Result<()> {
        let request = json!({"cmd": "set-index", "name": end.nic(), "channel": channel, "index": which, "value": value});
        self.call(request).map(drop)
    }

    /// Adds a NIC, described as on the host's command line.
    pub fn add_nic(&self, specification: &str) -> Result<()> {
        self.call(json!({"cmd": "nic-add", "nic": specification}))
            .map(drop)
    }

    /// Pulls a NIC.
    pub fn remove_nic(&self, nic: &str) -> Result<()> {
        self.call(json!({"cmd": "nic-remove", "name": nic}))
            .map(drop)
    }
}

/// What the host does to a request instead of serving it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Answers with a failure status.
    Refuse,
    /// Does not answer.
    Silent,
    /// Takes the device away.
    Rescind,
    /// Grants only this many sub-channels.
    Grant(u32),
    /// Serves the request, and spoils the answer.
    Corrupt(Corruption),
}

/// How the host spoils an answer; see `corruption` in hvhost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Corruption {
    /// Only so many bytes of it.
    Truncate(u32),
    /// So many bytes of 0xff behind it.
    Extend(u32),
    /// Twice.
    Duplicate,
    /// After so many milliseconds.
    Late(u32),
    /// After one that nobody asked for.
    Unsolicited,
    /// With an id nobody used.
    WrongId,
    /// As the answer to another request.
    WrongType,
    /// With another word at an offset.
    Set(u32, u32),
    /// With bytes and words chosen by a seed.
    Mutate(u64),
}

impl Corruption {
    fn json(self) -> Value {
        match self {
            Corruption::Truncate(len) => json!({"truncate": len}),
            Corruption::Extend(len) => json!({"extend": len}),
            Corruption::Duplicate => json!("duplicate"),
            Corruption::Late(milliseconds) => json!({"late": milliseconds}),
            Corruption::Unsolicited => json!("unsolicited"),
            Corruption::WrongId => json!("wrong-id"),
            Corruption::WrongType => json!("wrong-type"),
            Corruption::Set(offset, value) => json!({"set": {"offset": offset, "value": value}}),
            Corruption::Mutate(seed) => json!({"mutate": seed}),
        }
    }
}

/// A ring packet, right or wrong.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RawPacket {
    /// 6 in-band, 7 transfer pages, 11 completion.
    pub kind: u16,
    /// 1 asks for a completion.
    pub flags: u16,
    /// Transaction id.
    pub id: u64,
    /// Type-specific header.
    pub header: Vec<u8>,
    /// Payload.
    pub payload: Vec<u8>,
    /// Wrong length of descriptor and header, in units of 8 bytes.
    pub offset8: Option<u16>,
    /// Wrong length of the packet, in units of 8 bytes.
    pub len8: Option<u16>,
}

impl Action {
    fn json(self) -> Value {
        match self {
            Action::Refuse => json!("refuse"),
            Action::Silent => json!("silent"),
            Action::Rescind => json!("rescind"),
            Action::Grant(count) => json!({"grant": count}),
            Action::Corrupt(corruption) => json!({"corrupt": corruption.json()}),
        }
    }
}

/// Packets of one channel, as the host counts them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChannelPackets {
    /// Frames from the guest.
    pub to_host: u64,
    /// Frames to the guest.
    pub to_guest: u64,
}

/// What the host knows of RSS.
#[derive(Clone, Debug, PartialEq, Eq, serde::Deserialize)]
pub struct HostRss {
    /// Channel of each bucket.
    pub table: Vec<u32>,
    /// Key in hexadecimal digits.
    pub key: String,
    /// Hash function and types, as in the guest's message.
    pub hash_info: String,
}

impl Counters {
    /// What the guest did against the protocol, one sentence each.
    pub fn violations(&self) -> Vec<String> {
        list(&self.0["violations"])
            .map(|v| {
                format!(
                    "{} ({} times; first: {})",
                    v["name"].as_str().unwrap_or("?"),
                    v["count"],
                    v["first"].as_str().unwrap_or("?")
                )
            })
            .collect()
    }

    /// How often a fault point was reached since the log was last taken.
    pub fn point(&self, name: &str) -> u64 {
        self.bus("faults")["points"][name].as_u64().unwrap_or(0)
    }

    /// How often a fault fired at a point since the log was last taken.
    pub fn fired(&self, name: &str) -> u64 {
        self.bus("faults")["fired"][name].as_u64().unwrap_or(0)
    }

    /// How often a fault fired at any point since the log was last taken.
    pub fn fired_in_all(&self) -> u64 {
        let fired = self.bus("faults")["fired"].as_object();
        let counts = fired.into_iter().flat_map(|fired| fired.values());
        counts.filter_map(Value::as_u64).sum()
    }

    /// How often the device at one end was attached.
    pub fn attaches(&self, end: End) -> Result<u64> {
        self.nic(end)?["counters"]["counters"]["attaches"]
            .as_u64()
            .context("the host counts no attaches")
    }

    /// A counter of the NIC at one end.
    pub fn count(&self, end: End, name: &str) -> Result<u64> {
        self.nic(end)?["counters"]["counters"][name]
            .as_u64()
            .with_context(|| format!("the host counts no {name}"))
    }

    /// Frames of the NIC at one end that were lost, for any reason: `tx_dropped` or `rx_dropped`.
    pub fn losses(&self, end: End, name: &str) -> Result<u64> {
        let reasons = self.nic(end)?["counters"]["counters"][name].as_object();
        let reasons = reasons.with_context(|| format!("the host has no {name}"))?;
        Ok(reasons.values().filter_map(Value::as_u64).sum())
    }

    /// Ring packets to one end that its driver has completed with a failure status.
    pub fn rx_completions_failed(&self, end: End) -> Result<u64> {
        let channels = self.nic(end)?["counters"]["channels"].as_object();
        let all = channels.context("the host counts no channels")?.values();
        all.map(|channel| {
            channel["rx_completions_failed"]
                .as_u64()
                .context("the host counts no failed completions")
        })
        .sum()
    }

    /// Channels open, of all devices.
    pub fn all_open_channels(&self) -> u64 {
        self.bus("open_channels").as_u64().unwrap_or(u64::MAX)
    }

    /// GPADLs established and not torn down.
    pub fn live_gpadls(&self) -> u64 {
        self.bus("live_gpadls").as_u64().unwrap_or(u64::MAX)
    }

    /// Handles of the GPADLs of the NIC at one end, rings' and buffers'; none is used twice.
    pub fn gpadls(&self, end: End) -> Result<BTreeSet<u64>> {
        let device = &self.nic(end)?["id"];
        let channels = list(self.bus("channels")).filter(|c| c["device"] == *device);
        let handles = channels.flat_map(|c| list(&c["gpadls"]));
        Ok(handles.filter_map(Value::as_u64).collect())
    }

    /// Channels open of the NIC at one end.
    pub fn open_channels(&self, end: End) -> Result<u64> {
        let device = &self.nic(end)?["id"];
        Ok(list(self.bus("channels"))
            .filter(|c| c["device"] == *device && c["state"] == "open")
            .count() as u64)
    }

    /// Devices that are still on the bus, those being removed included.
    pub fn devices(&self) -> usize {
        list(self.bus("devices")).count()
    }

    /// Packets of one channel of the NIC at one end.
    pub fn channel(&self, end: End, channel: u32) -> Result<ChannelPackets> {
        let channels = &self.nic(end)?["counters"]["channels"];
        let counters = &channels[channel.to_string()];
        let number = |name: &str| {
            counters[name]
                .as_u64()
                .with_context(|| format!("the host counts no {name} of channel {channel}"))
        };
        Ok(ChannelPackets {
            to_host: number("tx_packets")?,
            to_guest: number("rx_packets")?,
        })
    }

    /// Sections of the buffers of the NIC at one end.
    pub fn sections(&self, end: End) -> Result<RingSizes> {
        let counters = &self.nic(end)?["counters"];
        let sections = |buffer: &str| {
            counters[buffer]["sections"]
                .as_u64()
                .and_then(|n| u32::try_from(n).ok())
                .with_context(|| format!("the host has no {buffer}"))
        };
        Ok(RingSizes {
            rx: sections("receive_buffer")?,
            tx: sections("send_buffer")?,
        })
    }

    /// A counter of the NIC at one end.
    pub fn number(&self, end: End, name: &str) -> Result<u64> {
        self.nic(end)?["counters"]["counters"][name]
            .as_u64()
            .with_context(|| format!("the host counts no {name}"))
    }

    /// Offloads in force for the NIC at one end, such as `rx-tcp4`.
    pub fn offloads(&self, end: End) -> Result<Vec<String>> {
        let names = self.nic(end)?["counters"]["offloads"].clone();
        serde_json::from_value(names).context("the host's offloads")
    }

    /// Table and key by which the host spreads frames for the NIC at one end; `None` if it does not.
    pub fn rss(&self, end: End) -> Result<Option<HostRss>> {
        let rss = self.nic(end)?["counters"]["rss"].clone();
        serde_json::from_value(rss).context("the host's RSS settings")
    }

    /// The VMBus version in use, as hvhost writes it.
    pub fn vmbus_version(&self) -> Option<String> {
        self.bus("version").as_str().map(str::to_owned)
    }

    /// The NVSP version in use at one end, as hvhost writes it.
    pub fn nvsp_version(&self, end: End) -> Option<String> {
        let nic = self.nic(end).ok()?;
        nic["counters"]["nvsp_version"].as_str().map(str::to_owned)
    }

    fn bus(&self, name: &str) -> &Value {
        &self.0["vmbus"][name]
    }

    fn nic(&self, end: End) -> Result<&Value> {
        let nic = &self.0["nics"][end.nic()];
        ensure!(!nic.is_null(), "the host has no NIC {}", end.nic());
        Ok(nic)
    }
}

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

impl Line {
    fn exchange(&mut self, request: &Value) -> Result<Value> {
        self.received.clear();
        writeln!(self.stream, "{request}").map_err(Infrastructure::wrap)?;
        let began = Instant::now();
        let mut buffer = [0; 16384];
        loop {
            if let Some(end) = self.received.iter().position(|&b| b == b'\n') {
                let line: Vec<u8> = self.received.drain(..=end).collect();
                // Anything else was meant for an earlier request, or is a torn line.
                match serde_json::from_slice::<Value>(&line) {
                    Ok(answer) if answer["id"] == request["id"] => return Ok(answer),
                    _ => continue,
                }
            }
            ensure!(began.elapsed() < LIMIT, "no answer within {LIMIT:?}");
            match self.stream.read(&mut buffer) {
                Ok(0) => return Err(Infrastructure::wrap("the host closed its control socket")),
                Ok(n) => self.received.extend_from_slice(&buffer[..n]),
                Err(e)
                    if matches!(
                        e.kind(),
                        std::io::ErrorKind::WouldBlock
                            | std::io::ErrorKind::TimedOut
                            | std::io::ErrorKind::Interrupted
                    ) => {}
                Err(e) => return Err(Infrastructure::wrap(e)),
            }
        }
    }
}
