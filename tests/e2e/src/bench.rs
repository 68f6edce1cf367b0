// SPDX-License-Identifier: GPL-2.0

//! Booting Hyper-V guests: below them this machine's KVM, or L1.

use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{bail, Context, Result};
use serde_json::Value;

use crate::agent::{Agent, Job};
use crate::artifacts::{required, Acceleration, Artifacts};
use crate::benchmark::{Port, Schedule};
use crate::fault::Infrastructure;
use crate::guest::{End, Guest};
use crate::host::Host;
use crate::instructions::Instructions;
use crate::l1::L1;
use crate::scenario::{Driver, Kernel, Machine, Wiring};

/// Time for a guest to boot (15 seconds on an idle machine under TCG, 45 for the debug kernel).
const BOOT: Duration = Duration::from_secs(400);
/// A guest that takes this long runs on a machine that does nothing else.
const BOOT_WHEN_IDLE: Duration = Duration::from_secs(20);
/// Kernel parameters of a guest: the test host's own for emulated machines (timer interrupts, self tests and
/// mitigations are dear there), that a defect ends it, and that a CPU may be kept waiting for long when
/// the machine is shared.
const GUEST_PARAMETERS: &str = "console=ttyS0 quiet loglevel=5 panic=-1 oops=panic reboot=acpi \
     mitigations=off init_on_alloc=0 skew_tick=1 cryptomgr.notests=1 nowatchdog audit=0 \
     damon_stat.enabled=0 rcupdate.rcu_cpu_stall_timeout=300";
/// Memory of a guest, in MiB: four NICs' buffers and a KASAN shadow fit.
const MEMORY_MIB: u32 = 1024;
/// How many lines of a log are shown when something failed.
const TAIL: usize = 60;

/// A place where guests are booted, one after the other.
pub struct Bench {
    outer: Outer,
    folder: PathBuf,
}

enum Outer {
    /// Lines to a guest in L1 stay connected over all its guests.
    L1 {
        l1: L1,
        agent: UnixStream,
        control: UnixStream,
    },
    Direct {
        artifacts: Artifacts,
    },
}

/// The process that is the guest's machine.
enum Process {
    InL1(Job),
    Here(Mutex<Child>),
}

/// A program next to the test host.
pub struct Below(Process);

/// A booted guest. Dropping it ends it.
pub struct Session<'a> {
    bench: &'a Bench,
    process: Process,
    /// What scenarios work with.
    pub guest: Guest,
}

/// Where things are, as the test host sees them.
struct Places {
    hvhost: String,
    kernel: String,
    initrd: String,
    console: String,
    agent: String,
    control: String,
}

impl Bench {
    /// Prepares a bench whose sockets and logs go to `folder`.
    pub fn new(artifacts: &Artifacts, acceleration: Acceleration, folder: &Path) -> Result<Bench> {
        Bench::counting(artifacts, acceleration, folder, None)
    }

    /// The same, where QEMU's `plugin` counts the guest's instructions, if it is given and the guest is emulated.
    pub fn counting(
        artifacts: &Artifacts,
        acceleration: Acceleration,
        folder: &Path,
        plugin: Option<&Path>,
    ) -> Result<Bench> {
        std::fs::create_dir_all(folder)
            .with_context(|| format!("cannot make folder '{}'", folder.display()))?;
        let outer = match acceleration {
            Acceleration::Kvm => Outer::Direct {
                artifacts: artifacts.clone(),
            },
            Acceleration::Tcg => {
                let l1 = L1::boot(artifacts, folder, plugin)?;
                l1.favour_long_runs()?;
                Outer::L1 {
                    agent: l1.port("agent")?,
                    control: l1.port("control")?,
                    l1,
                }
            }
        };
        Ok(Bench {
            outer,
            folder: folder.into(),
        })
    }

    /// Boots a guest, up to its agent's first answer; no driver is loaded.
    pub fn boot(&self, machine: Machine, kernel: Kernel, driver: Driver) -> Result<Session<'_>> {
        let began = Instant::now();
        // Lines through L1 exist before the guest does, lines to a host of ours after it.
        let early = matches!(self.outer, Outer::L1 { .. });
        let line = || -> Result<(Agent, Host)> {
            let (agent, control) = self.lines()?;
            let agent = Agent::new("guest", agent).context("agent line")?;
            Ok((agent, Host::new(control)?))
        };
        let (process, (agent, host)) = if early {
            let lines = line()?;
            lines.0.forget_earlier()?;
            (self.start(machine, kernel)?, lines)
        } else {
            (self.start(machine, kernel)?, line()?)
        };
        let session = Session {
            bench: self,
            process,
            guest: Guest::new(agent, host, machine, driver),
        };
        session
            .guest
            .agent
            .wait_ready(BOOT, || session.alive())
            .with_context(|| format!("the guest ({machine}) does not boot"))?;
        let factor = began.elapsed().as_secs_f64() / BOOT_WHEN_IDLE.as_secs_f64();
        session.guest.agent.be_patient(factor.ceil() as u32);
        session.guest.install_scripts()?;
        session.guest.no_kernel_report().context("while booting")?;
        Ok(session)
    }

    /// An infrastructure fault if what is below the guest is gone.
    pub fn alive(&self) -> Result<()> {
        match &self.outer {
            Outer::L1 { l1, .. } => l1.alive(),
            Outer::Direct { .. } => Ok(()),
        }
    }

    fn places(&self, kernel: Kernel) -> Result<Places> {
        Ok(match &self.outer {
            Outer::L1 { .. } => {
                let port = |name: &str| format!("/dev/virtio-ports/org.hvhost.{name}");
                Places {
                    hvhost: "/hvhost".into(),
                    kernel: match kernel {
                        Kernel::Stock => "/vmlinux".into(),
                        Kernel::Debug => "/vmlinux-debug".into(),
                    },
                    initrd: match kernel {
                        Kernel::Stock => "/guest.cpio.gz".into(),
                        Kernel::Debug => "/guest-debug.cpio.gz".into(),
                    },
                    console: port("console"),
                    agent: port("agent"),
                    control: port("control"),
                }
            }
            Outer::Direct { artifacts } => {
                let text = |path: &Path| path.display().to_string();
                Places {
                    hvhost: text(required(&artifacts.hvhost, "hvhost")?),
                    kernel: text(required(&artifacts.guest_kernel, "guest-kernel")?),
                    initrd: text(required(&artifacts.guest_initrd, "guest-initrd")?),
                    console: text(&self.console()),
                    agent: text(&self.folder.join("agent.sock")),
                    control: text(&self.folder.join("control.sock")),
                }
            }
        })
    }

    fn start(&self, machine: Machine, kernel: Kernel) -> Result<Process> {
        let places = self.places(kernel)?;
        let arguments = host_arguments(&places, machine);
        match &self.outer {
            Outer::L1 { l1, .. } => {
                let mut argv = vec!["sh".into(), "-c".into(), REDIRECT.into(), places.hvhost];
                argv.extend(arguments);
                let command = guest_agent::protocol::Command {
                    argv,
                    env: vec![("RUST_LOG".into(), host_log_level())],
                    ..Default::default()
                };
                Ok(Process::InL1(
                    l1.agent.spawn(command).map_err(Infrastructure::wrap)?,
                ))
            }
            Outer::Direct { .. } => {
                let log = std::fs::File::create(self.folder.join("hvhost.log"))?;
                let mut command = Command::new("setpriv");
                command
                    .args(["--pdeathsig", "KILL", &places.hvhost])
                    .args(arguments)
                    .env("RUST_LOG", host_log_level())
                    .stdin(Stdio::null())
                    .stdout(log.try_clone()?)
                    .stderr(log);
                let child = command
                    .spawn()
                    .with_context(|| format!("cannot run '{}'", places.hvhost))?;
                Ok(Process::Here(Mutex::new(child)))
            }
        }
    }

    /// Connections to the guest's agent and to the host's control socket.
    fn lines(&self) -> Result<(UnixStream, UnixStream)> {
        match &self.outer {
            Outer::L1 { agent, control, .. } => Ok((agent.try_clone()?, control.try_clone()?)),
            Outer::Direct { .. } => Ok((
                connect(&self.folder.join("agent.sock"))?,
                connect(&self.folder.join("control.sock"))?,
            )),
        }
    }

    /// Runs a shell script on the machine that the test host runs on.
    pub fn run_below(&self, script: &str, limit: Duration) -> Result<String> {
        match &self.outer {
            Outer::L1 { l1, .. } => {
                let command = guest_agent::protocol::Command {
                    argv: vec!["sh".into(), "-c".into(), script.into()],
                    ..Default::default()
                };
                let outcome = l1.agent.run(command, limit)?;
                Ok(outcome.stdout + &outcome.stderr)
            }
            Outer::Direct { .. } => {
                let output = Command::new("sh").args(["-c", script]).output()?;
                Ok(String::from_utf8_lossy(&output.stdout).into_owned()
                    + &String::from_utf8_lossy(&output.stderr))
            }
        }
    }

    /// Whether the guest is emulated, and so is what is below it.
    pub fn is_emulated(&self) -> bool {
        matches!(self.outer, Outer::L1 { .. })
    }

    /// Who counts the guest's instructions, if somebody does.
    pub fn instructions(&self) -> Option<&Instructions> {
        match &self.outer {
            Outer::L1 { l1, .. } => l1.instructions.as_ref(),
            Outer::Direct { .. } => None,
        }
    }

    /// How long the emulator of the machine below ran and waited; `None` if there is none.
    pub fn emulator_schedule(&self) -> Result<Option<Schedule>> {
        match &self.outer {
            Outer::L1 { l1, .. } => l1.schedule().map(Some),
            Outer::Direct { .. } => Ok(None),
        }
    }

    /// Starts a program of the agent (its arguments) on the machine that the test host runs on.
    pub fn start_below(&self, arguments: &[&str]) -> Result<Below> {
        match &self.outer {
            Outer::L1 { l1, .. } => {
                let argv = ["/agent"].iter().chain(arguments);
                let command = guest_agent::protocol::Command {
                    argv: argv.map(|&a| a.to_owned()).collect(),
                    ..Default::default()
                };
                let job = l1.agent.spawn(command).map_err(Infrastructure::wrap)?;
                Ok(Below(Process::InL1(job)))
            }
            Outer::Direct { artifacts } => {
                let agent = required(&artifacts.hvhost, "hvhost")?.with_file_name("guest-agent");
                let child = Command::new("setpriv")
                    .args(["--pdeathsig", "KILL"])
                    .arg(&agent)
                    .args(arguments)
                    .stdin(Stdio::null())
                    .stdout(Stdio::null())
                    .spawn()
                    .with_context(|| format!("cannot run '{}'", agent.display()))?;
                Ok(Below(Process::Here(Mutex::new(child))))
            }
        }
    }

    /// Ends a program that was started by [`Bench::start_below`].
    pub fn end_below(&self, below: &Below) -> Result<()> {
        match (&below.0, &self.outer) {
            (Process::InL1(job), Outer::L1 { l1, .. }) => {
                l1.agent.kill(*job, 9)?;
                l1.agent.poll(*job, Duration::from_secs(10)).map(drop)?;
            }
            (Process::Here(child), _) => {
                let mut child = lock(child);
                child.kill()?;
                child.wait()?;
            }
            (Process::InL1(_), Outer::Direct { .. }) => {}
        }
        Ok(())
    }

    /// The log of the guest's console.
    pub fn console(&self) -> PathBuf {
        self.folder.join("console.log")
    }

    fn host_log(&self) -> String {
        let bytes = match &self.outer {
            Outer::L1 { l1, .. } => l1
                .agent
                .read(HOST_LOG, 0, 4 << 20)
                .unwrap_or_else(|e| e.to_string().into_bytes()),
            Outer::Direct { .. } => {
                std::fs::read(self.folder.join("hvhost.log")).unwrap_or_default()
            }
        };
        String::from_utf8_lossy(&bytes).into_owned()
    }
}

/// Where the host's log is in L1.
const HOST_LOG: &str = "/tmp/hvhost.log";
/// Runs its arguments with the output in the log.
const REDIRECT: &str = "exec \"$0\" \"$@\" >/tmp/hvhost.log 2>&1";

fn host_log_level() -> String {
    std::env::var("RUST_LOG").unwrap_or_else(|_| "info".into())
}

/// The test host's command line.
fn host_arguments(places: &Places, machine: Machine) -> Vec<String> {
    let mut arguments: Vec<String> = vec![
        "--kernel".into(),
        places.kernel.clone(),
        "--initrd".into(),
        places.initrd.clone(),
        "--cmdline".into(),
        GUEST_PARAMETERS.into(),
        "--cpus".into(),
        machine.processors.to_string(),
        "--memory".into(),
        MEMORY_MIB.to_string(),
        "--console".into(),
        places.console.clone(),
        "--agent".into(),
        places.agent.clone(),
        "--control".into(),
        places.control.clone(),
    ];
    let nics: Vec<String> = match machine.wiring {
        Wiring::Pair => [End::Near, End::Peer]
            .map(|end| nic_specification(end, machine))
            .into(),
        Wiring::Benchmark => Port::ALL.map(|port| port.specification(machine)).into(),
    };
    for nic in nics {
        arguments.extend(["--nic".into(), nic]);
    }
    if let Some(version) = machine.vmbus {
        arguments.extend(["--vmbus-version".into(), version.into()]);
    }
    if let Some(version) = machine.nvsp {
        arguments.extend(["--nvsp-version".into(), version.into()]);
    }
    arguments
}

/// The NIC of one end of the wire, in the host's notation.
pub fn nic_specification(end: End, machine: Machine) -> String {
    format!(
        "name={},mac={},queues={},backend=switch:wire",
        end.nic(),
        end.mac(),
        machine.queues
    )
}

impl Session<'_> {
    /// An error with what the host said last if the guest's machine is gone.
    pub fn alive(&self) -> Result<()> {
        self.bench.alive()?;
        let ended = match (&self.process, &self.bench.outer) {
            (Process::InL1(job), Outer::L1 { l1, .. }) => l1
                .agent
                .poll(*job, Duration::ZERO)
                .map_err(Infrastructure::wrap)?
                .map(|outcome| match outcome.code {
                    Some(code) => format!("exit code {code}"),
                    None => format!("signal {:?}", outcome.signal),
                }),
            (Process::Here(child), _) => lock(child)
                .try_wait()
                .context("state of the test host")?
                .map(|status| status.to_string()),
            (Process::InL1(_), Outer::Direct { .. }) => None,
        };
        match ended {
            None => Ok(()),
            Some(how) => bail!(
                "the test host ended ({how}): {}",
                tail(&self.bench.host_log(), 5)
            ),
        }
    }

    /// What a person needs to find out why a scenario failed.
    pub fn diagnosis(&self) -> String {
        let console = std::fs::read(self.bench.console()).unwrap_or_default();
        let counters = match self.guest.host.counters() {
            Ok(counters) => {
                serde_json::to_string_pretty(&without_zeros(counters.0)).unwrap_or_default()
            }
            Err(e) => format!("{e:#}"),
        };
        format!(
            "---- counters in the guest, without zeros\n{}\n---- end of the guest console\n{}\n---- end of the \
             host's log\n{}\n---- host counters\n{counters}\n",
            self.guest.network_counters(),
            tail(&String::from_utf8_lossy(&console), TAIL),
            tail(&self.bench.host_log(), TAIL),
        )
    }
}

impl Drop for Session<'_> {
    fn drop(&mut self) {
        match (&self.process, &self.bench.outer) {
            (Process::InL1(job), Outer::L1 { l1, .. }) => {
                // If it has ended already, or L1 is gone, there is nothing left to end.
                if l1.alive().is_ok() && l1.agent.kill(*job, 9).is_ok() {
                    let _ = l1.agent.poll(*job, Duration::from_secs(10));
                }
            }
            (Process::Here(child), _) => {
                let mut child = lock(child);
                let _ = child.kill();
                let _ = child.wait();
            }
            (Process::InL1(_), Outer::Direct { .. }) => {}
        }
    }
}

fn connect(path: &Path) -> Result<UnixStream> {
    let began = Instant::now();
    loop {
        match UnixStream::connect(path) {
            Ok(stream) => return Ok(stream),
            Err(_) if began.elapsed() < Duration::from_secs(10) => {
                std::thread::sleep(Duration::from_millis(20));
            }
            Err(e) => {
                bail!("the test host does not serve {}: {e}", path.display());
            }
        }
    }
}

/// Counters that are zero say nothing.
fn without_zeros(value: Value) -> Value {
    let says_nothing = |v: &Value| match v {
        Value::Null => true,
        Value::Number(n) => n.as_f64() == Some(0.0),
        Value::Array(list) => list.is_empty(),
        Value::Object(map) => map.is_empty(),
        Value::Bool(_) | Value::String(_) => false,
    };
    match value {
        Value::Object(map) => map
            .into_iter()
            .map(|(name, v)| (name, without_zeros(v)))
            .filter(|(_, v)| !says_nothing(v))
            .collect(),
        Value::Array(list) => list.into_iter().map(without_zeros).collect(),
        other => other,
    }
}

fn tail(text: &str, lines: usize) -> String {
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_passed_only_when_limited() {
        let places = Places {
            hvhost: "h".into(),
            kernel: "k".into(),
            initrd: "i".into(),
            console: "c".into(),
            agent: "a".into(),
            control: "s".into(),
        };
        let plain = host_arguments(&places, Machine::COMMON);
        assert!(!plain.iter().any(|a| a.contains("version")));
        let limited = host_arguments(
            &places,
            Machine {
                vmbus: Some("5.0"),
                ..Machine::COMMON
            },
        );
        assert!(limited.ends_with(&["--vmbus-version".into(), "5.0".into()]));
    }

    #[test]
    fn zeros_are_left_out() {
        let value = serde_json::json!({"a": 0, "b": {"c": 0, "d": 1}, "e": [], "f": {"g": null}});
        assert_eq!(without_zeros(value), serde_json::json!({"b": {"d": 1}}));
    }

    #[test]
    fn tail_keeps_the_last_lines() {
        assert_eq!(tail("a\nb\nc", 2), "b\nc");
        assert_eq!(tail("a", 5), "a");
    }
}
