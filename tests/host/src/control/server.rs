// SPDX-License-Identifier: GPL-2.0

//! The control stream: reads requests line by line and answers them.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use serde_json::Value;

use super::{execute, ControlTarget, Outcome, Request, Response};
use crate::stream::{self, Connector, Outbox};

/// A longer request is not one of ours.
const LINE_LIMIT: usize = 1 << 16;

/// Starts the thread that serves `connector` until the process ends. The returned outbox holds
/// answers on their way: close it before the process exits.
pub fn start(connector: Connector, target: Arc<dyn ControlTarget>) -> io::Result<Arc<Outbox>> {
    let outbox = Arc::new(Outbox::default());
    let answers = outbox.clone();
    let body = move || {
        let pending = Mutex::new(Vec::new());
        let input = |bytes: &[u8]| {
            let mut pending = pending.lock().unwrap_or_else(PoisonError::into_inner);
            for line in complete_lines(&mut pending, bytes) {
                answers.push(answer(&*target, &line).as_bytes());
            }
        };
        stream::serve(connector, &answers, &input);
    };
    thread::Builder::new().name("control".into()).spawn(body)?;
    Ok(outbox)
}

/// Adds `bytes` to `pending` and takes the lines that are complete.
fn complete_lines(pending: &mut Vec<u8>, bytes: &[u8]) -> Vec<Vec<u8>> {
    pending.extend_from_slice(bytes);
    let mut lines = Vec::new();
    while let Some(end) = pending.iter().position(|byte| *byte == b'\n') {
        let mut line: Vec<u8> = pending.drain(..=end).collect();
        line.pop();
        if !line.iter().all(u8::is_ascii_whitespace) {
            lines.push(line);
        }
    }
    if pending.len() > LINE_LIMIT {
        pending.clear();
    }
    lines
}

/// The answer to one line, with its line end.
fn answer(target: &dyn ControlTarget, line: &[u8]) -> String {
    let response = match serde_json::from_slice::<Request>(line) {
        Ok(request) => {
            tracing::debug!("control: {:?}", request.command);
            Response {
                id: request.id,
                outcome: execute(target, request.command),
            }
        }
        Err(error) => Response {
            id: id_of(line),
            outcome: Outcome::Error(format!("not a request: {error}")),
        },
    };
    match serde_json::to_string(&response) {
        Ok(text) => text + "\n",
        Err(error) => format!("{{\"id\":{},\"error\":\"{error}\"}}\n", response.id),
    }
}

/// The id of a request that could not be understood otherwise.
fn id_of(line: &[u8]) -> u64 {
    let parsed: Option<Value> = serde_json::from_slice(line).ok();
    parsed.and_then(|value| value["id"].as_u64()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::generator::Load;
    use crate::config::NicSpec;
    use crate::fault::FaultSpec;
    use crate::netvsp::{OffloadSupport, RingIndex};
    use crate::stream::Endpoint;
    use crate::vmbus::ring::RawPacket;
    use serde_json::json;
    use std::io::{BufRead, BufReader, Write};
    use std::os::unix::net::UnixStream;

    #[derive(Default)]
    struct Recorder(Mutex<Vec<String>>);

    impl Recorder {
        fn note(&self, text: String) {
            self.0.lock().unwrap().push(text);
        }
    }

    impl ControlTarget for Recorder {
        fn counters(&self) -> Value {
            json!({"packets": 7})
        }
        fn inject(&self, fault: FaultSpec) -> Result<(), String> {
            self.note(format!("fault {}", fault.point));
            Ok(())
        }
        fn clear_faults(&self) {
            self.note("clear".into());
        }
        fn fault_log(&self, reset: bool) -> Vec<String> {
            vec![format!("reset {reset}")]
        }
        fn clear_violations(&self) {}
        fn nic_add(&self, spec: NicSpec) -> Result<String, String> {
            Ok(format!("nic-{}", spec.mac))
        }
        fn nic_remove(&self, name: &str) -> Result<(), String> {
            Err(format!("no NIC is called '{name}'"))
        }
        fn link(&self, name: &str, up: bool, speed: Option<u32>) -> Result<(), String> {
            self.note(format!("link {name} {up} {speed:?}"));
            Ok(())
        }
        fn generate(&self, name: &str, load: Option<Load>) -> Result<(), String> {
            let frame = load.map_or(0, |load| load.frame);
            self.note(format!("generate {name} {frame}"));
            Ok(())
        }
        fn restart_gap(&self, name: &str) -> Result<(), String> {
            self.note(format!("gap {name}"));
            Ok(())
        }
        fn start_profile(&self, period_us: u32) -> Result<(), String> {
            self.note(format!("profile {period_us}"));
            Ok(())
        }
        fn finish_profile(&self) -> Value {
            json!({"ff": 3})
        }
        fn set_offloads(&self, name: &str, offloads: OffloadSupport) -> Result<(), String> {
            self.note(format!("offloads {name} {}", offloads.rsc));
            Ok(())
        }
        fn inject_frame(&self, name: &str, frame: Vec<u8>) -> Result<(), String> {
            self.note(format!("frame {name} {frame:?}"));
            Ok(())
        }
        fn inject_messages(&self, name: &str, messages: Vec<Vec<u8>>) -> Result<(), String> {
            self.note(format!("messages {name} {messages:?}"));
            Ok(())
        }
        fn inject_packet(&self, name: &str, _: u16, packet: RawPacket) -> Result<(), String> {
            self.note(format!("packet {name} {}", packet.kind));
            Ok(())
        }
        fn set_index(&self, name: &str, _: u16, _: RingIndex, value: u32) -> Result<(), String> {
            self.note(format!("index {name} {value}"));
            Ok(())
        }
        fn rescind(&self, _: &str, _: u16) -> Result<(), String> {
            Ok(())
        }
        fn power_button(&self) {}
        fn quit(&self) {
            self.note("quit".into());
        }
    }

    #[test]
    fn a_session_over_a_socket() {
        let path = std::env::temp_dir().join(format!("hvhost-control-{}", std::process::id()));
        let connector = Connector::open(&Endpoint::Listen(path.clone())).unwrap();
        let target = Arc::new(Recorder::default());
        start(connector, target.clone()).unwrap();
        let mut peer = UnixStream::connect(&path).unwrap();
        let mut lines = BufReader::new(peer.try_clone().unwrap()).lines();
        let mut ask = |request: &str| -> Value {
            writeln!(peer, "{request}").unwrap();
            serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap()
        };
        let got = ask(r#"{"id":1,"cmd":"counters"}"#);
        assert_eq!(got, json!({"id": 1, "ok": {"packets": 7}}));
        let got = ask(r#"{"id":2,"cmd":"nic-remove","name":"x"}"#);
        assert_eq!(got["error"], "no NIC is called 'x'");
        let got = ask(r#"{"id":3,"cmd":"nic-add","nic":"queues=2"}"#);
        assert!(got["error"].as_str().unwrap().contains("no mac"));
        let got = ask(r#"{"id":4,"cmd":"link","name":"a","up":true,"speed_mbps":100}"#);
        assert_eq!(got, json!({"id": 4, "ok": null}));
        ask(r#"{"cmd":"generate","name":"g","load":{"frame":64}}"#);
        ask(r#"{"cmd":"gap-restart","name":"g"}"#);
        ask(r#"{"cmd":"profile","period_us":500}"#);
        assert_eq!(ask(r#"{"cmd":"profile-finish"}"#)["ok"]["ff"], 3);
        let got = ask(r#"{"id":5,"cmd":"jump"}"#);
        assert_eq!(got["id"], 5);
        assert!(got["error"].as_str().unwrap().contains("jump"));
        assert_eq!(ask("nonsense")["id"], 0);
        assert_eq!(ask(r#"{"cmd":"quit"}"#)["ok"], Value::Null);
        let seen = target.0.lock().unwrap().clone();
        assert_eq!(
            seen,
            [
                "link a true Some(100)",
                "generate g 64",
                "gap g",
                "profile 500",
                "quit"
            ]
        );
    }

    #[test]
    fn lines_may_come_in_pieces() {
        let mut pending = Vec::new();
        assert!(complete_lines(&mut pending, b"{\"a\"").is_empty());
        assert_eq!(complete_lines(&mut pending, b":1}\n\n{"), [b"{\"a\":1}"]);
        assert_eq!(pending, b"{");
        complete_lines(&mut pending, &vec![b'x'; LINE_LIMIT + 1]);
        assert!(pending.is_empty());
    }
}
