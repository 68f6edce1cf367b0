// SPDX-License-Identifier: GPL-2.0

//! The machine below the Hyper-V guest where this machine's KVM cannot be used: emulated by QEMU,
//! with one processor that has SVM, and an agent through which the test host is started in it.

use std::fs::File;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use anyhow::{bail, Context, Result};

use crate::agent::Agent;
use crate::artifacts::{required, Artifacts};
use crate::benchmark::Schedule;
use crate::fault::Infrastructure;
use crate::instructions::Instructions;

/// Kernel parameters of L1: what costs timer interrupts or memory bandwidth is off, and the TSC is
/// trusted, without which KVM gives its guests no reference TSC page.
const L1_PARAMETERS: &str = "console=ttyS0 panic=-1 quiet mitigations=off init_on_alloc=0 \
     damon_stat.enabled=0 tsc=reliable";

/// Time for the emulated machine to boot (it takes six seconds on an idle machine).
const BOOT: Duration = Duration::from_secs(240);

/// A running L1. Dropping it ends it.
pub struct L1 {
    qemu: Mutex<Child>,
    folder: PathBuf,
    /// The agent in L1.
    pub agent: Agent,
    /// Counts the guest's instructions, if that was asked for.
    pub instructions: Option<Instructions>,
}

/// The virtio-serial ports, by the last part of their names in L1.
const SOCKETS: [&str; 3] = ["l1", "agent", "control"];

impl L1 {
    /// Boots L1; sockets and logs go to `folder`. With `plugin`, QEMU counts the guest's instructions.
    pub fn boot(artifacts: &Artifacts, folder: &Path, plugin: Option<&Path>) -> Result<L1> {
        let child = start(artifacts, folder, plugin)?;
        let mut qemu = Guard(Some(child));
        let stream = connect(&folder.join("l1.sock"), &mut qemu, folder)?;
        let agent = Agent::new("L1 machine", stream).context("agent line")?;
        agent
            .wait_ready(BOOT, || -> Result<()> { qemu.alive(folder) })
            .map_err(Infrastructure::wrap)?;
        let instructions = plugin
            .map(|_| Instructions::connect(&folder.join(COUNT_SOCKET)))
            .transpose()?;
        let child = qemu.0.take().context("QEMU")?;
        Ok(L1 {
            qemu: Mutex::new(child),
            folder: folder.into(),
            agent,
            instructions,
        })
    }

    /// Has the scheduler of L1 leave a virtual processor on its only one for longer: a switch between
    /// two of them costs half a millisecond there, the kernel's idea of a slice is 0.7.
    pub fn favour_long_runs(&self) -> Result<()> {
        const SLICE_NS: &[u8] = b"6000000";
        self.agent
            .write("/sys/kernel/debug/sched/base_slice_ns", SLICE_NS)
            .context("setting the scheduler's slice in L1")
    }

    /// The machine side of port `org.hvhost.NAME`.
    pub fn port(&self, name: &str) -> Result<UnixStream> {
        let path = self.folder.join(format!("{name}.sock"));
        UnixStream::connect(&path).with_context(|| format!("cannot connect to {}", path.display()))
    }

    /// How long the thread that emulates the processor ran and waited.
    pub fn schedule(&self) -> Result<Schedule> {
        let qemu = self
            .qemu
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        let tasks = format!("/proc/{}/task", qemu.id());
        for task in std::fs::read_dir(&tasks).with_context(|| tasks.clone())? {
            let task = task?.path();
            let name = std::fs::read_to_string(task.join("comm")).unwrap_or_default();
            if name.starts_with("CPU 0/") {
                return Schedule::parse(&std::fs::read_to_string(task.join("schedstat"))?);
            }
        }
        bail!("QEMU has no thread that is called 'CPU 0/...'")
    }

    /// An infrastructure fault if the emulator is gone.
    pub fn alive(&self) -> Result<()> {
        let mut qemu = self
            .qemu
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        check(&mut qemu, &self.folder)
    }
}

impl Drop for L1 {
    fn drop(&mut self) {
        let qemu = self
            .qemu
            .get_mut()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        end(qemu);
    }
}

/// Ends QEMU if L1 does not come up.
struct Guard(Option<Child>);

impl Guard {
    fn alive(&mut self, folder: &Path) -> Result<()> {
        match &mut self.0 {
            Some(child) => check(child, folder),
            None => Ok(()),
        }
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        if let Some(child) = &mut self.0 {
            end(child);
        }
    }
}

fn end(child: &mut Child) {
    // It may have ended by itself: then there is nothing to kill, and only to wait for.
    let _ = child.kill();
    let _ = child.wait();
}

fn check(child: &mut Child, folder: &Path) -> Result<()> {
    match child.try_wait().context("state of QEMU")? {
        None => Ok(()),
        Some(status) => {
            let said = std::fs::read_to_string(folder.join("qemu.log")).unwrap_or_default();
            Err(Infrastructure::wrap(format!(
                "QEMU ended ({status}) {}",
                said.trim()
            )))
        }
    }
}

/// Where the plugin that counts instructions is asked.
const COUNT_SOCKET: &str = "instructions.sock";

fn start(artifacts: &Artifacts, folder: &Path, plugin: Option<&Path>) -> Result<Child> {
    let kernel = required(&artifacts.l1_kernel, "l1-kernel")?;
    let initrd = required(&artifacts.l1_initrd, "l1-initrd")?;
    let log = File::create(folder.join("qemu.log")).context("qemu.log")?;
    let mut command = Command::new("setpriv");
    // An emulator must not outlive a runner that was killed.
    command.args(["--pdeathsig", "KILL", &artifacts.qemu]);
    command
        .args(["-nodefaults", "-display", "none", "-no-reboot"])
        .args(["-accel", "tcg", "-cpu", "max,+svm,+npt,-la57"])
        // More than one processor makes nested virtualisation under TCG unreliable.
        .args(["-smp", "1", "-m", "3000"])
        .arg("-kernel")
        .arg(kernel)
        .arg("-initrd")
        .arg(initrd)
        .args(["-append", L1_PARAMETERS])
        .arg("-serial")
        .arg(format!("file:{}", folder.join("l1-console.log").display()))
        .args(["-device", "virtio-serial-pci,max_ports=8"]);
    if let Some(plugin) = plugin {
        let socket = folder.join(COUNT_SOCKET);
        command.arg("-plugin");
        command.arg(format!("{},socket={}", plugin.display(), socket.display()));
    }
    for name in SOCKETS {
        let path = folder.join(format!("{name}.sock"));
        let path = path.display();
        add_port(
            &mut command,
            name,
            &format!("socket,path={path},server=on,wait=off"),
        );
    }
    let console = folder.join("console.log");
    add_port(
        &mut command,
        "console",
        &format!("file,path={}", console.display()),
    );
    command
        .stdin(Stdio::null())
        .stdout(log.try_clone().context("qemu.log")?)
        .stderr(log)
        .spawn()
        .with_context(|| format!("cannot run setpriv and '{}'", artifacts.qemu))
}

fn add_port(command: &mut Command, name: &str, chardev: &str) {
    let (backend, options) = chardev.split_once(',').unwrap_or((chardev, ""));
    command
        .arg("-chardev")
        .arg(format!("{backend},id={name},{options}"))
        .arg("-device")
        .arg(format!(
            "virtserialport,chardev={name},name=org.hvhost.{name}"
        ));
}

fn connect(path: &Path, qemu: &mut Guard, folder: &Path) -> Result<UnixStream> {
    let began = Instant::now();
    loop {
        match UnixStream::connect(path) {
            Ok(stream) => return Ok(stream),
            Err(_) if began.elapsed() < Duration::from_secs(20) => {
                qemu.alive(folder)?;
                std::thread::sleep(Duration::from_millis(50));
            }
            Err(e) => bail!("QEMU does not serve {}: {e}", path.display()),
        }
    }
}
