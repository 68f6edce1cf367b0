// SPDX-License-Identifier: GPL-2.0

//! The agent: reads requests, carries each out in a thread of its own and answers. A request is
//! carried out once however often it is repeated: the runner repeats until it sees the answer, so
//! that neither side depends on a line that loses nothing. What is repeated while it is being carried
//! out is acknowledged; the first time it is not, because most answers come at once and every byte
//! costs time on a serial line.

use std::collections::{HashMap, VecDeque};
use std::io::{Read, Write};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use nix::unistd::Pid;

use crate::files;
use crate::frame::{Decoder, Frame, Kind, MAX_PAYLOAD};
use crate::process::{self, Job};
use crate::protocol::{Bytes, Request, Response};
use crate::terminal::Terminal;

/// Answers kept for requests that are repeated.
const ANSWERS_KEPT: usize = 64;
/// Most bytes of a file in one answer: what fits a frame as base64.
const READ_LIMIT: u32 = (MAX_PAYLOAD / 2) as u32;

/// The id of the frame by which an agent announces itself; no request has it.
pub const HELLO: u32 = 0;

/// Serves the stream until it ends. `reader` and `writer` are the two directions of one device. The
/// first frame sent is an unasked-for [`Response::Pong`] with id [`HELLO`], so that the runner need not
/// fill a line that nobody reads yet with questions.
pub fn serve(mut reader: impl Read, writer: impl Write + Send + 'static) -> std::io::Result<()> {
    let agent = Arc::new(Agent {
        instance: instance(),
        writer: Mutex::new(Box::new(writer)),
        jobs: Mutex::default(),
        terminal: Mutex::default(),
        seen: Mutex::default(),
    });
    agent.hello();
    let mut decoder = Decoder::default();
    let mut buffer = [0; 4096];
    loop {
        let n = reader.read(&mut buffer)?;
        if n == 0 {
            return Ok(());
        }
        decoder.feed(&buffer[..n]);
        while let Some(frame) = decoder.next_frame() {
            if frame.kind == Kind::Request {
                agent.take(frame);
            }
        }
    }
}

fn instance() -> u64 {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    u64::from(std::process::id()) << 32 | u64::from(now.subsec_nanos())
}

struct Agent {
    instance: u64,
    writer: Mutex<Box<dyn Write + Send>>,
    jobs: Mutex<Jobs>,
    terminal: Mutex<Option<Terminal>>,
    seen: Mutex<Seen>,
}

#[derive(Default)]
struct Jobs {
    next: u32,
    running: HashMap<u32, (Pid, Arc<Mutex<Job>>)>,
}

/// Which requests have been read: being carried out (`None`) or answered.
#[derive(Default)]
struct Seen {
    answers: HashMap<u32, Option<Vec<u8>>>,
    order: VecDeque<u32>,
}

impl Agent {
    fn hello(&self) {
        let pong = Response::Pong {
            instance: self.instance,
        };
        // Plain data: it always serialises.
        self.send(
            Kind::Response,
            HELLO,
            serde_json::to_vec(&pong).unwrap_or_default(),
        );
    }

    fn take(self: &Arc<Self>, frame: Frame) {
        let id = frame.id;
        let known = lock(&self.seen).answers.get(&id).cloned();
        match known {
            Some(Some(answer)) => self.send(Kind::Response, id, answer),
            Some(None) => self.send(Kind::Acknowledge, id, Vec::new()),
            None => {
                lock(&self.seen).begin(id);
                let agent = Arc::clone(self);
                std::thread::spawn(move || agent.answer(id, &frame.payload));
            }
        }
    }

    fn answer(&self, id: u32, payload: &[u8]) {
        let response = serde_json::from_slice(payload)
            .context("not a request")
            .and_then(|request| self.carry_out(request))
            .unwrap_or_else(|e| Response::Failed {
                error: format!("{e:#}"),
            });
        let answer = serde_json::to_vec(&response).unwrap_or_else(|e| {
            format!(r#"{{"is":"failed","error":"cannot encode the answer: {e}"}}"#).into_bytes()
        });
        lock(&self.seen).end(id, answer.clone());
        self.send(Kind::Response, id, answer);
    }

    fn send(&self, kind: Kind, id: u32, payload: Vec<u8>) {
        let bytes = Frame { kind, id, payload }.encode();
        let mut writer = lock(&self.writer);
        let sent = bytes
            .map_err(anyhow::Error::from)
            .and_then(|b| Ok(writer.write_all(&b).and_then(|()| writer.flush())?));
        if let Err(e) = sent {
            eprintln!("agent: cannot answer request {id}: {e:#}");
        }
    }

    fn carry_out(&self, request: Request) -> Result<Response> {
        match request {
            Request::Ping => Ok(Response::Pong {
                instance: self.instance,
            }),
            Request::Run {
                command,
                timeout_ms,
            } => Job::start(&command)?
                .run_to_end(Duration::from_millis(timeout_ms))
                .map(Response::Finished),
            Request::Spawn { command } => {
                let job = Job::start(&command)?;
                Ok(Response::Spawned {
                    job: lock(&self.jobs).add(job),
                })
            }
            Request::Poll { job, wait_ms } => self.poll(job, Duration::from_millis(wait_ms)),
            Request::Kill { job, signal } => {
                let (group, _) = lock(&self.jobs).get(job)?;
                process::signal_group(group, signal).map(|()| Response::Done)
            }
            Request::Terminal {
                rows,
                columns,
                input,
                wait_ms,
            } => self.terminal(rows, columns, &input.0, Duration::from_millis(wait_ms)),
            Request::Read {
                path,
                offset,
                length,
            } => files::read(&path, offset, length.min(READ_LIMIT))
                .map(|data| Response::Data { data: Bytes(data) }),
            Request::Write {
                path,
                offset,
                mode,
                data,
            } => files::write(&path, offset, mode, &data.0).map(|()| Response::Done),
        }
    }

    fn terminal(&self, rows: u16, columns: u16, input: &[u8], wait: Duration) -> Result<Response> {
        let mut place = lock(&self.terminal);
        let terminal = match place.take() {
            Some(terminal) => place.insert(terminal),
            None => place.insert(Terminal::shell(rows, columns)?),
        };
        let shown = terminal.exchange(input, wait, READ_LIMIT as usize / 2)?;
        let ended = shown.is_none();
        if ended {
            *place = None;
        }
        Ok(Response::Shown {
            output: Bytes(shown.unwrap_or_default()),
            ended,
        })
    }

    /// The state of a background program.
    fn poll(&self, number: u32, wait: Duration) -> Result<Response> {
        let (_, job) = lock(&self.jobs).get(number)?;
        let mut job = lock(&job);
        Ok(match job.wait(wait)? {
            Some(outcome) => {
                lock(&self.jobs).running.remove(&number);
                Response::Finished(outcome)
            }
            None => Response::Running {
                stdout: job.stdout_so_far(),
            },
        })
    }
}

impl Jobs {
    fn add(&mut self, job: Job) -> u32 {
        self.next = self.next.wrapping_add(1);
        let entry = (job.group(), Arc::new(Mutex::new(job)));
        self.running.insert(self.next, entry);
        self.next
    }

    fn get(&self, number: u32) -> Result<(Pid, Arc<Mutex<Job>>)> {
        self.running
            .get(&number)
            .cloned()
            .with_context(|| format!("no background program {number}"))
    }
}

impl Seen {
    fn begin(&mut self, id: u32) {
        self.answers.insert(id, None);
        self.order.push_back(id);
        while self.order.len() > ANSWERS_KEPT {
            // The oldest answered one; those still being carried out stay.
            let Some(at) = self
                .order
                .iter()
                .position(|id| matches!(self.answers.get(id), Some(Some(_))))
            else {
                return;
            };
            if let Some(old) = self.order.remove(at) {
                self.answers.remove(&old);
            }
        }
    }

    fn end(&mut self, id: u32, answer: Vec<u8>) {
        self.answers.insert(id, Some(answer));
    }
}

/// The data behind these locks is valid after every single statement: poisoning means nothing here.
fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::{Command, Outcome};
    use std::os::unix::net::UnixStream;

    struct Line {
        stream: UnixStream,
        decoder: Decoder,
    }

    impl Line {
        fn new() -> Line {
            let (ours, theirs) = UnixStream::pair().expect("socket pair");
            ours.set_read_timeout(Some(Duration::from_secs(20)))
                .expect("timeout");
            let writer = theirs.try_clone().expect("clone");
            std::thread::spawn(move || serve(theirs, writer));
            Line {
                stream: ours,
                decoder: Decoder::default(),
            }
        }

        fn send(&mut self, id: u32, request: &Request) {
            let payload = serde_json::to_vec(request).expect("serialises");
            let kind = Kind::Request;
            let frame = Frame { kind, id, payload };
            self.stream
                .write_all(&frame.encode().expect("encodes"))
                .expect("writes");
        }

        fn next(&mut self) -> Frame {
            let mut buffer = [0; 1000];
            loop {
                if let Some(frame) = self.decoder.next_frame() {
                    return frame;
                }
                let n = self.stream.read(&mut buffer).expect("reads");
                assert_ne!(n, 0, "the agent hung up");
                self.decoder.feed(&buffer[..n]);
            }
        }

        fn response(&mut self, id: u32) -> Response {
            loop {
                let frame = self.next();
                if frame.kind == Kind::Response && frame.id == id {
                    return serde_json::from_slice(&frame.payload).expect("parses");
                }
            }
        }
    }

    fn shell(script: &str) -> Command {
        Command {
            argv: vec!["sh".into(), "-c".into(), script.into()],
            ..Command::default()
        }
    }

    fn run(script: &str) -> Request {
        Request::Run {
            command: shell(script),
            timeout_ms: 10_000,
        }
    }

    #[test]
    fn the_agent_announces_itself() {
        let mut line = Line::new();
        assert!(matches!(line.response(HELLO), Response::Pong { .. }));
    }

    #[test]
    fn a_repeated_request_is_carried_out_once() {
        let path = std::env::temp_dir().join(format!("guest-agent-once-{}", std::process::id()));
        let script = format!("sleep 0.5; echo x >> {0}; cat {0}", path.display());
        let mut line = Line::new();
        line.send(7, &run(&script));
        line.send(7, &run(&script));
        assert!(matches!(line.response(HELLO), Response::Pong { .. }));
        assert_eq!(line.next().kind, Kind::Acknowledge);
        let first = line.response(7);
        line.send(7, &run(&script));
        assert_eq!(line.response(7), first);
        assert!(matches!(first, Response::Finished(Outcome { ref stdout, .. }) if stdout == "x\n"));
        std::fs::remove_file(path).expect("removes");
    }

    #[test]
    fn a_long_request_does_not_hold_up_a_short_one_and_noise_is_ignored() {
        let mut line = Line::new();
        line.send(1, &run("sleep 1; echo slow"));
        line.stream.write_all(b"\xa7hvnoise\n").expect("writes");
        line.send(2, &Request::Ping);
        let mut order = Vec::new();
        while order.len() < 2 {
            let frame = line.next();
            if frame.kind == Kind::Response && frame.id != HELLO {
                order.push(frame.id);
            }
        }
        assert_eq!(order, [2, 1]);
    }

    #[test]
    fn background_programs_are_polled_and_signalled() {
        let mut line = Line::new();
        line.send(
            1,
            &Request::Spawn {
                command: shell("echo begun; sleep 60"),
            },
        );
        let Response::Spawned { job } = line.response(1) else {
            panic!("not spawned")
        };
        line.send(2, &Request::Poll { job, wait_ms: 700 });
        let running = line.response(2);
        assert_eq!(
            running,
            Response::Running {
                stdout: "begun\n".into()
            }
        );
        line.send(
            3,
            &Request::Poll {
                job,
                wait_ms: 30_000,
            },
        );
        line.send(4, &Request::Kill { job, signal: 15 });
        assert_eq!(line.response(4), Response::Done);
        let Response::Finished(outcome) = line.response(3) else {
            panic!("not finished")
        };
        assert_eq!(outcome.signal, Some(15));
        line.send(5, &Request::Poll { job, wait_ms: 0 });
        assert!(matches!(line.response(5), Response::Failed { .. }));
    }

    #[test]
    fn nonsense_gets_an_answer() {
        let mut line = Line::new();
        let frame = Frame {
            kind: Kind::Request,
            id: 3,
            payload: b"{\"op\":\"fly\"}".to_vec(),
        };
        line.stream
            .write_all(&frame.encode().expect("encodes"))
            .expect("writes");
        assert!(matches!(line.response(3), Response::Failed { error } if error.contains("fly")),);
    }
}
