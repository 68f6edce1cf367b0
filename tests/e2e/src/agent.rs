// SPDX-License-Identifier: GPL-2.0

//! The runner's side of the agent protocol: requests over a byte stream that may lose or garble
//! bytes. A request is repeated until its answer is there; the agent carries it out once.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use guest_agent::frame::{Decoder, Frame, Kind};
use guest_agent::protocol::{Bytes, Command, Outcome, Request, Response};
use guest_agent::server::HELLO;

/// Why a request has no answer.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// Nothing, or nothing usable, came back in time.
    #[error("the agent in the {machine} did not answer '{request}' within {limit:?}{noise}")]
    Silent {
        /// Which machine.
        machine: &'static str,
        /// The request, shortened.
        request: String,
        /// How long we waited.
        limit: Duration,
        /// What else was seen on the line.
        noise: String,
    },
    /// The line is closed.
    #[error("the line to the agent in the {machine} is closed: {source}")]
    Closed {
        /// Which machine.
        machine: &'static str,
        /// What the read or write said.
        source: std::io::Error,
    },
    /// The agent could not carry it out.
    #[error("{0}")]
    Refused(String),
    /// The answer is of another kind than the request.
    #[error("the agent answered '{request}' with {answer}")]
    Unexpected {
        /// The request, shortened.
        request: String,
        /// The answer, shortened.
        answer: String,
    },
}

/// How long one look at the line takes.
const LOOK: Duration = Duration::from_millis(100);
/// A request without any sign of life is repeated after this (plus its own time on a slow line).
const REPEAT: Duration = Duration::from_secs(3);
/// An acknowledged request is repeated after this, in case the answer was lost.
const REPEAT_ACKNOWLEDGED: Duration = Duration::from_secs(15);
/// Longest that limits are stretched.
const SLOWEST: u32 = 8;
/// Bytes that a slow line is trusted to carry in a second.
const SLOW_LINE: u32 = 2000;
/// An agent that has not announced itself is asked this often.
const QUESTION_AFTER: Duration = Duration::from_secs(10);
/// A frame that stays incomplete this long has lost bytes.
const STALE: Duration = Duration::from_secs(5);

/// The line to the agent in one machine.
pub struct Agent {
    machine: &'static str,
    /// How much longer than on an idle machine things take here.
    slowness: AtomicU32,
    line: Mutex<Line>,
}

struct Line {
    stream: UnixStream,
    decoder: Decoder,
    next_id: u32,
}

/// A program started in the background; see [`Agent::spawn`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Job(u32);

impl Agent {
    /// Over `stream`; `machine` names the other side in errors.
    pub fn new(machine: &'static str, stream: UnixStream) -> std::io::Result<Agent> {
        stream.set_read_timeout(Some(LOOK))?;
        stream.set_write_timeout(Some(Duration::from_secs(30)))?;
        // Two runners after one another must not use the same ids towards one agent.
        let now = std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .unwrap_or_default();
        let next_id = (now.subsec_nanos() ^ std::process::id().rotate_left(16)).max(HELLO + 1);
        Ok(Agent {
            machine,
            slowness: AtomicU32::new(1),
            line: Mutex::new(Line {
                stream,
                decoder: Decoder::default(),
                next_id,
            }),
        })
    }

    /// Makes all limits of this agent `factor` times as long, at most [`SLOWEST`] times: a machine that
    /// shares its processors gets patience, not failures.
    pub fn be_patient(&self, factor: u32) {
        self.slowness
            .store(factor.clamp(1, SLOWEST), Ordering::Relaxed);
    }

    /// A limit for an idle machine, as it applies here.
    pub fn patient(&self, limit: Duration) -> Duration {
        limit * self.slowness.load(Ordering::Relaxed)
    }

    /// Waits until the agent announces itself or answers, at most `limit`; `alive` is asked in
    /// between and its error ends the wait.
    pub fn wait_ready<E: From<AgentError>>(
        &self,
        limit: Duration,
        mut alive: impl FnMut() -> Result<(), E>,
    ) -> Result<(), E> {
        let began = Instant::now();
        while began.elapsed() < limit {
            alive()?;
            match self.line().await_response(HELLO, QUESTION_AFTER) {
                Ok(_) => return Ok(()),
                Err(Lost::Silent) => {}
                Err(Lost::Closed(source)) => return Err(self.closed(source).into()),
            }
            // Its announcement may be lost. A question is repeated seldom: while the machine boots,
            // questions pile up in front of it.
            match self.call_within(&Request::Ping, Duration::from_millis(500)) {
                Ok(_) => return Ok(()),
                Err(AgentError::Silent { .. }) => {}
                Err(e) => return Err(e.into()),
            }
        }
        let noise = self.line().describe_noise();
        Err(self.silent(&Request::Ping, limit, noise).into())
    }

    /// Throws away what an earlier agent on this line may have left.
    pub fn forget_earlier(&self) -> Result<(), AgentError> {
        let mut line = self.line();
        while line.read_some().map_err(|e| match e {
            Lost::Closed(source) => self.closed(source),
            Lost::Silent => self.closed(std::io::ErrorKind::TimedOut.into()),
        })? {}
        line.decoder = Decoder::default();
        Ok(())
    }

    /// Runs a program to its end, at most `limit` long.
    pub fn run(&self, command: Command, limit: Duration) -> Result<Outcome, AgentError> {
        let request = Request::Run {
            command,
            timeout_ms: millis(self.patient(limit)),
        };
        match self.call(&request, limit + Duration::from_secs(20))? {
            Response::Finished(outcome) => Ok(outcome),
            other => Err(unexpected(&request, &other)),
        }
    }

    /// Starts a program in the background.
    pub fn spawn(&self, command: Command) -> Result<Job, AgentError> {
        let request = Request::Spawn { command };
        match self.call(&request, Duration::from_secs(30))? {
            Response::Spawned { job } => Ok(Job(job)),
            other => Err(unexpected(&request, &other)),
        }
    }

    /// The outcome of a background program, if it ends within `wait`. An outcome is told once.
    pub fn poll(&self, job: Job, wait: Duration) -> Result<Option<Outcome>, AgentError> {
        let request = Request::Poll {
            job: job.0,
            wait_ms: millis(self.patient(wait)),
        };
        match self.call(&request, wait + Duration::from_secs(20))? {
            Response::Finished(outcome) => Ok(Some(outcome)),
            Response::Running { .. } => Ok(None),
            other => Err(unexpected(&request, &other)),
        }
    }

    /// Sends a signal to a background program and all it started.
    pub fn kill(&self, job: Job, signal: i32) -> Result<(), AgentError> {
        let request = Request::Kill { job: job.0, signal };
        match self.call(&request, Duration::from_secs(30))? {
            Response::Done => Ok(()),
            other => Err(unexpected(&request, &other)),
        }
    }

    /// Types on the machine's terminal, of the given rows and columns; returns what it shows, after `wait` at the
    /// latest, and whether its shell has ended.
    pub fn terminal(
        &self,
        size: (u16, u16),
        input: Vec<u8>,
        wait: Duration,
    ) -> Result<(Vec<u8>, bool), AgentError> {
        let request = Request::Terminal {
            rows: size.0,
            columns: size.1,
            input: Bytes(input),
            wait_ms: millis(wait),
        };
        match self.call(&request, wait + Duration::from_secs(60))? {
            Response::Shown { output, ended } => Ok((output.0, ended)),
            other => Err(unexpected(&request, &other)),
        }
    }

    /// Up to `length` bytes of a file.
    pub fn read(&self, path: &str, offset: u64, length: u32) -> Result<Vec<u8>, AgentError> {
        let request = Request::Read {
            path: path.into(),
            offset,
            length,
        };
        match self.call(&request, Duration::from_secs(60))? {
            Response::Data { data } => Ok(data.0),
            other => Err(unexpected(&request, &other)),
        }
    }

    /// Makes a small file.
    pub fn write(&self, path: &str, contents: &[u8]) -> Result<(), AgentError> {
        let request = Request::Write {
            path: path.into(),
            offset: 0,
            mode: 0o644,
            data: Bytes(contents.to_vec()),
        };
        match self.call(&request, Duration::from_secs(60))? {
            Response::Done => Ok(()),
            other => Err(unexpected(&request, &other)),
        }
    }

    fn line(&self) -> MutexGuard<'_, Line> {
        self.line.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn call(&self, request: &Request, limit: Duration) -> Result<Response, AgentError> {
        self.call_within(request, self.patient(limit))
    }

    fn call_within(&self, request: &Request, limit: Duration) -> Result<Response, AgentError> {
        let payload =
            serde_json::to_vec(request).map_err(|e| AgentError::Refused(e.to_string()))?;
        let mut line = self.line();
        let id = line.next_id;
        line.next_id = id.wrapping_add(1).max(HELLO + 1);
        let frame = Frame {
            kind: Kind::Request,
            id,
            payload,
        };
        let bytes = frame
            .encode()
            .map_err(|e| AgentError::Refused(e.to_string()))?;
        let answer = line.exchange(id, &bytes, limit).map_err(|e| match e {
            Lost::Silent => self.silent(request, limit, line.describe_noise()),
            Lost::Closed(source) => self.closed(source),
        })?;
        match serde_json::from_slice(&answer) {
            Ok(Response::Failed { error }) => Err(AgentError::Refused(error)),
            Ok(response) => Ok(response),
            Err(_) => Err(AgentError::Unexpected {
                request: describe(request),
                answer: String::from_utf8_lossy(&answer).into_owned(),
            }),
        }
    }

    fn closed(&self, source: std::io::Error) -> AgentError {
        AgentError::Closed {
            machine: self.machine,
            source,
        }
    }

    fn silent(&self, request: &Request, limit: Duration, noise: String) -> AgentError {
        AgentError::Silent {
            machine: self.machine,
            request: describe(request),
            limit,
            noise,
        }
    }
}

enum Lost {
    Silent,
    Closed(std::io::Error),
}

impl Line {
    /// Sends a request until its response is there.
    fn exchange(&mut self, id: u32, bytes: &[u8], limit: Duration) -> Result<Vec<u8>, Lost> {
        let began = Instant::now();
        let on_the_line =
            Duration::from_secs(1) * u32::try_from(bytes.len()).unwrap_or(u32::MAX) / SLOW_LINE;
        while began.elapsed() < limit {
            self.stream.write_all(bytes).map_err(Lost::Closed)?;
            let mut repeat_at = Instant::now() + REPEAT + on_the_line;
            loop {
                let left = limit.saturating_sub(began.elapsed());
                let wait = repeat_at
                    .saturating_duration_since(Instant::now())
                    .min(left);
                match self.await_frame(id, wait) {
                    Ok(frame) if frame.kind == Kind::Response => return Ok(frame.payload),
                    Ok(_) => repeat_at = Instant::now() + REPEAT_ACKNOWLEDGED,
                    Err(Lost::Silent) => break,
                    Err(closed) => return Err(closed),
                }
            }
        }
        Err(Lost::Silent)
    }

    fn await_response(&mut self, id: u32, limit: Duration) -> Result<Vec<u8>, Lost> {
        let began = Instant::now();
        loop {
            let frame = self.await_frame(id, limit.saturating_sub(began.elapsed()))?;
            if frame.kind == Kind::Response {
                return Ok(frame.payload);
            }
        }
    }

    /// The next frame with this id, at most `limit` from now.
    fn await_frame(&mut self, id: u32, limit: Duration) -> Result<Frame, Lost> {
        let began = Instant::now();
        let mut last_byte = began;
        loop {
            while let Some(frame) = self.decoder.next_frame() {
                if frame.id == id {
                    return Ok(frame);
                }
            }
            if began.elapsed() >= limit {
                return Err(Lost::Silent);
            }
            if self.read_some()? {
                last_byte = Instant::now();
            } else if last_byte.elapsed() > STALE {
                self.decoder.resync();
                last_byte = Instant::now();
            }
        }
    }

    fn read_some(&mut self) -> Result<bool, Lost> {
        let mut buffer = [0; 16384];
        match self.stream.read(&mut buffer) {
            Ok(0) => Err(Lost::Closed(std::io::ErrorKind::UnexpectedEof.into())),
            Ok(n) => {
                self.decoder.feed(&buffer[..n]);
                Ok(true)
            }
            Err(e) if is_timeout(&e) => Ok(false),
            Err(e) => Err(Lost::Closed(e)),
        }
    }

    fn describe_noise(&self) -> String {
        let noise = self.decoder.noise();
        if noise.is_empty() {
            return String::new();
        }
        let tail = &noise[noise.len().saturating_sub(200)..];
        format!("; seen on its line: {:?}", String::from_utf8_lossy(tail))
    }
}

fn is_timeout(error: &std::io::Error) -> bool {
    matches!(
        error.kind(),
        std::io::ErrorKind::WouldBlock
            | std::io::ErrorKind::TimedOut
            | std::io::ErrorKind::Interrupted
    )
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn unexpected(request: &Request, answer: &Response) -> AgentError {
    AgentError::Unexpected {
        request: describe(request),
        answer: format!("{answer:?}"),
    }
}

fn describe(request: &Request) -> String {
    match request {
        Request::Ping => "ping".into(),
        Request::Run { command, .. } | Request::Spawn { command } => command.argv.join(" "),
        Request::Poll { job, .. } => format!("state of program {job}"),
        Request::Kill { job, signal } => format!("signal {signal} to program {job}"),
        Request::Read { path, .. } => format!("read {path}"),
        Request::Write { path, .. } => format!("write {path}"),
        Request::Terminal { .. } => "the terminal".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::thread;

    const LIMIT: Duration = Duration::from_secs(20);

    fn shell(script: &str) -> Command {
        Command {
            argv: vec!["sh".into(), "-c".into(), script.into()],
            ..Command::default()
        }
    }

    /// An agent behind a line on which `garble` may change what each read brings to the agent.
    fn agent_behind(mut garble: impl FnMut(&mut Vec<u8>) + Send + 'static) -> Agent {
        let (ours, far) = UnixStream::pair().expect("pair");
        let (near, theirs) = UnixStream::pair().expect("pair");
        let writer = theirs.try_clone().expect("clone");
        thread::spawn(move || guest_agent::server::serve(theirs, writer));
        let (mut from, mut to) = (
            far.try_clone().expect("clone"),
            near.try_clone().expect("clone"),
        );
        thread::spawn(move || {
            let mut buffer = [0; 512];
            while let Ok(n @ 1..) = from.read(&mut buffer) {
                let mut bytes = buffer[..n].to_vec();
                garble(&mut bytes);
                if to.write_all(&bytes).is_err() {
                    return;
                }
            }
        });
        let (mut from, mut to) = (near, far);
        thread::spawn(move || std::io::copy(&mut from, &mut to));
        Agent::new("test machine", ours).expect("agent")
    }

    #[test]
    fn programs_files_and_background_programs() {
        let agent = agent_behind(|_| {});
        agent
            .wait_ready(LIMIT, || Ok::<(), AgentError>(()))
            .expect("ready");
        let outcome = agent.run(shell("echo hello"), LIMIT).expect("runs");
        assert_eq!(outcome.stdout, "hello\n");
        let path = std::env::temp_dir().join(format!("e2e-agent-{}", std::process::id()));
        let path = path.to_str().expect("utf-8");
        let contents: Vec<u8> = (0..5000u32).map(|i| (i * 7) as u8).collect();
        agent.write(path, &contents).expect("writes");
        assert_eq!(agent.read(path, 0, 10_000).expect("reads"), contents);
        std::fs::remove_file(path).expect("removes");
        let job = agent.spawn(shell("sleep 60")).expect("spawns");
        assert_eq!(agent.poll(job, Duration::ZERO).expect("polls"), None);
        agent.kill(job, 15).expect("kills");
        let outcome = agent.poll(job, LIMIT).expect("polls").expect("ended");
        assert_eq!(outcome.signal, Some(15));
    }

    #[test]
    fn a_request_garbled_on_the_line_is_repeated() {
        let mut damaged = 0;
        let agent = agent_behind(move |bytes| {
            if damaged < 1 {
                damaged += 1;
                bytes[20] ^= 1;
                bytes.splice(0..0, *b"noise ");
            }
        });
        let outcome = agent.run(shell("echo again"), LIMIT).expect("runs");
        assert_eq!(outcome.stdout, "again\n");
    }

    #[test]
    fn silence_and_refusal_say_what_was_asked() {
        let agent = agent_behind(|bytes| bytes.clear());
        let error = agent
            .call(&Request::Ping, Duration::from_millis(300))
            .expect_err("silent");
        assert!(error.to_string().contains("'ping'"), "{error}");
        let agent = agent_behind(|_| {});
        let missing = Command {
            argv: vec!["/no/such".into()],
            ..Command::default()
        };
        let error = agent.run(missing, LIMIT).expect_err("refused");
        assert!(error.to_string().contains("/no/such"), "{error}");
    }
}
