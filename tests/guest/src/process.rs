// SPDX-License-Identifier: GPL-2.0

//! Running programs: with a deadline, in a network namespace, with bounded output, and without ever
//! waiting for a program that the kernel does not let go.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, ExitStatus, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::poll::{poll, PollFd, PollFlags, PollTimeout};
use nix::sched::CloneFlags;
use nix::sys::signal::{killpg, Signal};
use nix::unistd::Pid;

use crate::protocol::{Command, Outcome};

const OUTPUT_LIMIT: usize = 256 << 10;
/// How long a killed program may take to die before it counts as stuck in the kernel.
const DEATH: Duration = Duration::from_secs(3);
/// What a pipe holds at most, unless somebody enlarges it.
const PIPE_CAPACITY: usize = 64 << 10;

/// A started program.
pub struct Job {
    group: Pid,
    started: Instant,
    exit: Receiver<std::io::Result<ExitStatus>>,
    stdout: Output,
    stderr: Output,
    timed_out: bool,
}

/// What a program has written to one of its outputs.
#[derive(Clone)]
struct Output(Arc<Mutex<Kept>>);

struct Kept {
    pipe: File,
    bytes: Vec<u8>,
    limit: usize,
    truncated: bool,
    /// Bytes read, kept or not.
    total: usize,
}

impl Job {
    /// Starts `command` in a process group of its own.
    pub fn start(command: &Command) -> Result<Job> {
        let mut child = spawn(command)?;
        let limit = command.output_limit.unwrap_or(OUTPUT_LIMIT);
        let stdout = Output::collect(child.stdout.take().context("no standard output")?, limit)?;
        let stderr = Output::collect(child.stderr.take().context("no standard error")?, limit)?;
        if let (Some(mut pipe), Some(text)) = (child.stdin.take(), command.stdin.clone()) {
            // A program that does not read its input is its own affair.
            std::thread::spawn(move || pipe.write_all(text.as_bytes()));
        }
        let group = Pid::from_raw(i32::try_from(child.id()).context("process id")?);
        let (sender, exit) = mpsc::channel();
        std::thread::spawn(move || sender.send(child.wait()));
        Ok(Job {
            group,
            started: Instant::now(),
            exit,
            stdout,
            stderr,
            timed_out: false,
        })
    }

    /// Waits for the end of the program, at most `limit`; `None` if it still runs.
    pub fn wait(&mut self, limit: Duration) -> Result<Option<Outcome>> {
        match self.exit.recv_timeout(limit) {
            Ok(status) => Ok(Some(self.outcome(Some(status.context("wait")?)))),
            Err(RecvTimeoutError::Timeout) => Ok(None),
            Err(RecvTimeoutError::Disconnected) => anyhow::bail!("its end was already reported"),
        }
    }

    /// Waits for the end of the program and kills it when `limit` has passed.
    pub fn run_to_end(mut self, limit: Duration) -> Result<Outcome> {
        if let Some(outcome) = self.wait(limit)? {
            return Ok(outcome);
        }
        self.timed_out = true;
        signal_group(self.group, Signal::SIGKILL as i32)?;
        match self.wait(DEATH)? {
            Some(outcome) => Ok(outcome),
            None => Ok(Outcome {
                stuck: true,
                ..self.outcome(None)
            }),
        }
    }

    /// The process group it runs in.
    pub fn group(&self) -> Pid {
        self.group
    }

    /// Standard output so far.
    pub fn stdout_so_far(&self) -> String {
        self.stdout.text()
    }

    fn outcome(&self, status: Option<ExitStatus>) -> Outcome {
        let elapsed = self.started.elapsed();
        self.stdout.drain();
        self.stderr.drain();
        Outcome {
            code: status.and_then(|s| s.code()),
            signal: status.and_then(|s| s.signal()),
            timed_out: self.timed_out,
            stuck: false,
            truncated: self.stdout.truncated() || self.stderr.truncated(),
            stdout: self.stdout.text(),
            stderr: self.stderr.text(),
            elapsed_ms: u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX),
        }
    }
}

/// Sends a signal to a process group.
pub fn signal_group(group: Pid, signal: i32) -> Result<()> {
    let signal = Signal::try_from(signal).with_context(|| format!("signal {signal}"))?;
    killpg(group, signal).with_context(|| format!("{signal} to process group {group}"))
}

fn spawn(command: &Command) -> Result<Child> {
    let (program, arguments) = command.argv.split_first().context("an empty command")?;
    let mut builder = std::process::Command::new(program);
    builder
        .args(arguments)
        .envs(command.env.iter().cloned())
        .stdin(if command.stdin.is_some() {
            Stdio::piped()
        } else {
            Stdio::null()
        })
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0);
    let spawned = match &command.netns {
        None => builder.spawn(),
        // A network namespace is a thread's: enter it in a thread that ends right after.
        Some(name) => std::thread::scope(|scope| {
            scope
                .spawn(|| {
                    enter_netns(name)?;
                    anyhow::Ok(builder.spawn())
                })
                .join()
                .map_err(|_| anyhow::anyhow!("the thread in namespace {name} panicked"))?
        })?,
    };
    spawned.with_context(|| format!("cannot run '{program}'"))
}

fn enter_netns(name: &str) -> Result<()> {
    let path = format!("/run/netns/{name}");
    let file = std::fs::File::open(&path)
        .with_context(|| format!("no network namespace '{name}' ({path})"))?;
    nix::sched::setns(file, CloneFlags::CLONE_NEWNET)
        .with_context(|| format!("cannot enter network namespace '{name}'"))
}

impl Output {
    /// Reads the pipe as it fills, in the background.
    fn collect(pipe: impl Into<OwnedFd>, limit: usize) -> Result<Output> {
        let pipe = File::from(pipe.into());
        let waited_for = pipe.try_clone().context("descriptor of a pipe")?;
        let output = Output(Arc::new(Mutex::new(Kept {
            pipe,
            bytes: Vec::new(),
            limit,
            truncated: false,
            total: 0,
        })));
        let background = output.clone();
        std::thread::spawn(move || {
            while events(&waited_for, PollTimeout::NONE) != PollFlags::empty() {
                if !lock(&background.0).read_some() {
                    break;
                }
            }
        });
        Ok(output)
    }

    /// Takes what the ended program has left in the pipe, whose end a daemon may keep open.
    fn drain(&self) {
        let mut kept = lock(&self.0);
        let before = kept.total;
        while kept.total - before < PIPE_CAPACITY && kept.read_some() {}
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&lock(&self.0).bytes).into_owned()
    }

    fn truncated(&self) -> bool {
        lock(&self.0).truncated
    }
}

impl Kept {
    /// Reads without waiting; whether there was anything.
    fn read_some(&mut self) -> bool {
        let mut buffer = [0; 16384];
        if !events(&self.pipe, PollTimeout::ZERO).contains(PollFlags::POLLIN) {
            return false;
        }
        let Ok(read @ 1..) = self.pipe.read(&mut buffer) else {
            return false;
        };
        let room = self.limit.saturating_sub(self.bytes.len()).min(read);
        self.bytes.extend_from_slice(&buffer[..room]);
        self.truncated |= room < read;
        self.total += read;
        true
    }
}

/// What a pipe has to tell within `timeout`: data, its end, or nothing.
fn events(pipe: &File, timeout: PollTimeout) -> PollFlags {
    let mut asked = [PollFd::new(pipe.as_fd(), PollFlags::POLLIN)];
    loop {
        match poll(&mut asked, timeout) {
            Err(Errno::EINTR) => {}
            Err(_) => return PollFlags::empty(),
            Ok(_) => return asked[0].revents().unwrap_or(PollFlags::empty()),
        }
    }
}

/// The data behind these locks is valid after every single statement: poisoning means nothing here.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Command {
        Command {
            argv: vec!["sh".into(), "-c".into(), script.into()],
            ..Command::default()
        }
    }

    fn run(command: &Command, limit: Duration) -> Outcome {
        Job::start(command)
            .and_then(|job| job.run_to_end(limit))
            .expect("runs")
    }

    const LONG: Duration = Duration::from_secs(20);

    #[test]
    fn exit_code_and_both_outputs_are_told_apart() {
        let outcome = run(&shell("echo out; echo err >&2; exit 3"), LONG);
        assert_eq!(outcome.code, Some(3));
        assert_eq!(
            (outcome.stdout.as_str(), outcome.stderr.as_str()),
            ("out\n", "err\n")
        );
        assert!(!outcome.success());
    }

    #[test]
    fn standard_input_and_environment_arrive() {
        let outcome = run(
            &Command {
                stdin: Some("text".into()),
                env: vec![("NAME".into(), "value".into())],
                ..shell("cat; printf $NAME")
            },
            LONG,
        );
        assert_eq!(outcome.stdout, "textvalue");
    }

    #[test]
    fn a_program_past_its_time_is_killed_with_its_children() {
        let began = Instant::now();
        let outcome = run(
            &shell("echo begun; sleep 60 | sleep 60"),
            Duration::from_millis(300),
        );
        assert!(began.elapsed() < Duration::from_secs(10));
        assert!(outcome.timed_out && !outcome.stuck);
        assert_eq!(
            (outcome.signal, outcome.stdout.as_str()),
            (Some(9), "begun\n")
        );
    }

    #[test]
    fn a_daemon_left_behind_does_not_delay_the_answer() {
        let began = Instant::now();
        let outcome = run(&shell("sleep 5 & echo done"), LONG);
        assert!(began.elapsed() < Duration::from_secs(4));
        assert_eq!((outcome.code, outcome.stdout.as_str()), (Some(0), "done\n"));
    }

    #[test]
    fn output_beyond_the_limit_is_dropped_and_said() {
        let outcome = run(
            &Command {
                output_limit: Some(10),
                ..shell("seq 1 100")
            },
            LONG,
        );
        assert!(outcome.truncated);
        assert_eq!(outcome.stdout.len(), 10);
    }

    #[test]
    fn a_missing_program_and_namespace_are_named() {
        let missing = Command {
            argv: vec!["/no/such/program".into()],
            ..Command::default()
        };
        let error = format!("{:#}", Job::start(&missing).err().expect("fails"));
        assert!(error.contains("/no/such/program"), "{error}");
        let nowhere = Command {
            netns: Some("no-such-netns".into()),
            ..shell("true")
        };
        let error = format!("{:#}", Job::start(&nowhere).err().expect("fails"));
        assert!(error.contains("no-such-netns"), "{error}");
    }
}
